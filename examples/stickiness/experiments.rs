//! The experiments: their settings, and the explanations of their results.

use std::io;

use crate::knobs::Knobs;
use crate::lab::{self, Progress};
use crate::outcome::Outcome;

/// A named set of settings.
pub(crate) struct Experiment {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) transport: &'static str,
    /// Settings that differ from the defaults.
    pub(crate) set: &'static [(&'static str, &'static str)],
    /// Explanation of the result.
    pub(crate) why: &'static str,
}

/// All experiments. The explanation of an experiment builds on those of earlier experiments.
pub(crate) const ALL: &[Experiment] = &[
    Experiment {
        name: "gathered",
        title: "Ten sends in one turn of the loop",
        transport: "tcp",
        set: &[("gather", "on")],
        why: "A buffered writer or a reactor writes many sends by one call. A flush sends the \
              bytes, but marks no message boundary.",
    },
    Experiment {
        name: "nagle",
        title: "Small sends with Nagle's algorithm",
        transport: "tcp",
        set: &[("nagle", "on"), ("gap", "2")],
        why: "The first segment is sent at once. Until it is acknowledged, the kernel collects \
              small writes and then sends them together.",
    },
    Experiment {
        name: "nodelay",
        title: "Small sends with TCP_NODELAY",
        transport: "tcp",
        set: &[("gap", "2")],
        why: "Each write is sent at once, and this receiver was fast enough to read each one \
              alone. That was luck: in the experiment late-reader the receiver is slower.",
    },
    Experiment {
        name: "late-reader",
        title: "TCP_NODELAY, and a late receiver",
        transport: "tcp",
        set: &[("gap", "2"), ("delay", "60")],
        why: "Ten segments arrived, but a receive queue holds bytes and not segments. A read \
              takes all bytes in the queue.",
    },
    Experiment {
        name: "pauses",
        title: "Pauses between the sends",
        transport: "tcp",
        set: &[("gap", "20")],
        why: "The receiver had time to read each message alone. Pauses look like a \
              solution, but they delay every message.",
    },
    Experiment {
        name: "pauses-late",
        title: "Pauses between the sends, and a busy receiver",
        transport: "tcp",
        set: &[("gap", "20"), ("delay", "250")],
        why: "A pause at the sender is not a pause at the receiver. After one slow query or one \
              page fault at the receiver, the messages are glued again.",
    },
    Experiment {
        name: "large-message",
        title: "Messages larger than a read",
        transport: "tcp",
        set: &[
            ("count", "3"),
            ("size", "400000"),
            ("framing", "u32"),
            ("delay", "20"),
        ],
        why: "A read returns at most the requested length, 262144 bytes here, and the kernel \
              buffers a limited amount. So one send takes several reads.",
    },
    Experiment {
        name: "small-receive-buffer",
        title: "A small receive buffer",
        transport: "tcp",
        set: &[
            ("count", "4"),
            ("size", "20000"),
            ("receive-buffer", "4096"),
        ],
        why: "Bytes that do not fit into the receiver's queue wait at the sender. So messages \
              arrive in pieces that neither program chose.",
    },
    Experiment {
        name: "small-reads",
        title: "A program that reads 35 bytes at a time",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "u32")],
        why: "A read ends at the end of the program's buffer: in the middle of a message or in \
              the middle of a header.",
    },
    Experiment {
        name: "bigger-buffers",
        title: "Larger buffers, and a late receiver",
        transport: "tcp",
        set: &[
            ("send-buffer", "1048576"),
            ("receive-buffer", "1048576"),
            ("read", "1048576"),
            ("delay", "20"),
        ],
        why: "A larger buffer holds more messages at a time, so it cuts fewer and glues more.",
    },
    Experiment {
        name: "tls-glued",
        title: "Ten sends in one turn of the loop, over TLS",
        transport: "tcp",
        set: &[
            ("tls", "on"),
            ("gather", "on"),
            ("size", "4000"),
            ("delay", "20"),
        ],
        why: "Each TLS record has the next 16384 bytes of the output, so it glues sends, and cuts \
              the last one. A read then glues the records.",
    },
    Experiment {
        name: "tls-cut",
        title: "Messages longer than a TLS record",
        transport: "tcp",
        set: &[
            ("tls", "on"),
            ("count", "4"),
            ("size", "20000"),
            ("framing", "u32"),
            ("read", "10000"),
            ("delay", "20"),
        ],
        why: "A TLS record has at most 16384 bytes of plaintext, so a longer send is cut into \
              records. The reads cut the records again, at other offsets.",
    },
    Experiment {
        name: "udp",
        title: "Ten messages over UDP, and a late receiver",
        transport: "udp",
        set: &[("gap", "2"), ("delay", "60")],
        why: "A datagram stays one message, also in the receive queue: one sendto is one recvfrom.",
    },
    Experiment {
        name: "udp-truncated",
        title: "UDP, received into 40 bytes",
        transport: "udp",
        set: &[("slot", "40"), ("delay", "20")],
        why: "The kernel drops the part of a datagram that does not fit, and only sets a flag. \
              The next receive starts with the next datagram.",
    },
    Experiment {
        name: "udp-lost",
        title: "UDP, and a full receive queue",
        transport: "udp",
        set: &[
            ("count", "40"),
            ("size", "1000"),
            ("receive-buffer", "8192"),
            ("delay", "20"),
        ],
        why: "Nothing slows the sender down. The kernel drops datagrams that do not fit into the \
              receiver's queue, and reports the loss to neither side.",
    },
    Experiment {
        name: "unframed",
        title: "Cut bytes, no framing",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "raw")],
        why: "The program receives the bytes of each read. They contain the messages, but \
              nothing marks the boundaries.",
    },
    Experiment {
        name: "framed-fixed",
        title: "Cut bytes, frames of a fixed size",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "fixed")],
        why: "Every frame has the same length. No bytes are added, but no message of another \
              length can be sent.",
    },
    Experiment {
        name: "framed-line",
        title: "Cut bytes, lines",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "line")],
        why: "A line end follows each message. The stream is readable, but no message may contain \
              a line end.",
    },
    Experiment {
        name: "framed-delimiter",
        title: "Cut bytes, a delimiter of seven bytes",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "delimiter")],
        why: "The decoder finds the delimiter even if a read ends in the middle of it.",
    },
    Experiment {
        name: "framed-u16",
        title: "Cut bytes, a length prefix of two bytes",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "u16")],
        why: "The length says how many bytes to wait for, and the message may contain any bytes. \
              The decoder also waits for a header that is cut in two.",
    },
    Experiment {
        name: "framed-u32",
        title: "Cut bytes, a length prefix of four bytes",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "u32")],
        why: "Four bytes allow longer messages. The receiver's own limit rejects absurd lengths.",
    },
    Experiment {
        name: "framed-varint",
        title: "Cut bytes, a length prefix of variable size",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "varint")],
        why: "Each byte of the length holds seven bits, so small messages have small headers.",
    },
    Experiment {
        name: "framed-netstring",
        title: "Cut bytes, netstrings",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "netstring")],
        why: "A length in digits comes first. A comma after the message confirms the length.",
    },
];

impl Experiment {
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|experiment| experiment.name == name)
    }

    /// Returns true if the result matches the explanation. Some results depend on timing, so the
    /// explanation can be wrong for them.
    fn confirms_explanation(&self, outcome: &Outcome) -> bool {
        match self.name {
            "nodelay" | "pauses" => outcome.glued == 0,
            "nagle" | "late-reader" | "gathered" => outcome.glued > 0,
            "tls-glued" => outcome.glued_in_records > 0,
            "udp-lost" => outcome.lost > 0,
            _ => true,
        }
    }

    /// Returns the group of the experiment: cut, tls, udp, framing or glued.
    pub(crate) fn group(&self) -> &'static str {
        match self.name {
            "large-message" | "small-receive-buffer" | "small-reads" | "bigger-buffers" => "cut",
            name if name.starts_with("tls") => "tls",
            name if name.starts_with("udp") => "udp",
            name if name.contains("framed") => "framing",
            _ => "glued",
        }
    }

    pub(crate) fn knobs(&self) -> Knobs {
        let mut knobs = Knobs::default();
        for (name, value) in self.set {
            knobs
                .set(name, value)
                .expect("the settings of an experiment are valid");
        }
        knobs
    }

    /// Runs the experiment over its own transport. `knobs` may differ from the experiment's own
    /// settings.
    pub(crate) fn run(&self, knobs: &Knobs) -> io::Result<Outcome> {
        self.run_over(self.transport, knobs)
    }

    /// Runs the experiment over the given transport.
    pub(crate) fn run_over(&self, transport: &str, knobs: &Knobs) -> io::Result<Outcome> {
        let mut outcome = run(transport, knobs, &mut |_| {})?;
        self.name.clone_into(&mut outcome.experiment);
        Ok(outcome)
    }
}

/// Runs the given settings and explains the result. If an experiment has an equal transport and
/// equal settings, the result gets the name of that experiment. It also gets the explanation of the
/// experiment, if the result matches that explanation.
pub(crate) fn run(
    transport: &str,
    knobs: &Knobs,
    report: &mut dyn FnMut(Progress),
) -> io::Result<Outcome> {
    let mut outcome = match transport {
        "udp" => lab::run_udp(knobs, report)?,
        _ => lab::run_tcp(knobs, report)?,
    };
    explain(&outcome).clone_into(&mut outcome.why);
    let is_equal = |other: &&Experiment| other.transport == transport && other.knobs() == *knobs;
    if let Some(experiment) = ALL.iter().find(is_equal) {
        experiment.name.clone_into(&mut outcome.experiment);
        if experiment.confirms_explanation(&outcome) {
            experiment.why.clone_into(&mut outcome.why);
        }
    }
    Ok(outcome)
}

/// Returns an explanation that is derived from the counts of the result.
fn explain(outcome: &Outcome) -> &'static str {
    let by_writer = outcome.writes.len() < outcome.sends.len();
    let by_segments = outcome
        .segments
        .is_some_and(|segments| (segments as usize) < outcome.writes.len());
    if outcome.transport == "udp" {
        return match (outcome.truncated, outcome.lost) {
            (0, 0) => "A datagram is one message: one sendto is one recvfrom.",
            (0, _) => "Datagrams that do not fit into the receiver's queue are dropped silently.",
            _ => "The part of a datagram that exceeds the receive slot is dropped.",
        };
    }
    if outcome.cut_by_records > 0 {
        return "A TLS record has at most 16384 bytes of plaintext, so a longer send is cut into \
                records.";
    }
    if outcome.glued_in_records > 0 {
        return "A TLS record has the next bytes of the output, from any number of sends.";
    }
    match (outcome.glued > 0, outcome.cut > 0) {
        (false, false) => {
            "The receiver read each send before the next one arrived. That was \
                           luck."
        }
        (true, false) if by_writer => "Several sends were written by one call.",
        (true, false) if by_segments => "The sender's kernel joined several writes in one segment.",
        (true, false) => "A read takes all bytes in the queue, from any number of sends.",
        (false, true) => {
            "A read ended before the message did: its buffer was full, or the \
                          queue was empty."
        }
        (true, true) => {
            "A read ends when its buffer is full or the queue is empty, not at the \
                         end of a message."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experiment_names_are_unique_and_settings_are_valid() {
        for (index, experiment) in ALL.iter().enumerate() {
            experiment.knobs().check().expect(experiment.name);
            assert!(
                ALL[..index]
                    .iter()
                    .all(|other| other.name != experiment.name)
            );
        }
    }
}
