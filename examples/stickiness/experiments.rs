//! The experiments: what is set for each, and why it ends as it does.

use std::io;

use crate::knobs::Knobs;
use crate::lab::{self, Progress};
use crate::outcome::Outcome;

/// A named set of knobs.
pub(crate) struct Experiment {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) transport: &'static str,
    /// What differs from the defaults.
    pub(crate) set: &'static [(&'static str, &'static str)],
    /// One line that explains it.
    pub(crate) why: &'static str,
}

/// In the order in which they explain each other.
pub(crate) const ALL: &[Experiment] = &[
    Experiment {
        name: "gathered",
        title: "Ten sends in a row",
        transport: "tcp",
        set: &[("gather", "on")],
        why: "A buffered writer, or a reactor, writes many sends by one call. A flush pushes them \
              out; it marks nothing.",
    },
    Experiment {
        name: "nagle",
        title: "Small sends, Nagle's algorithm on",
        transport: "tcp",
        set: &[("nagle", "on"), ("gap", "2")],
        why: "The first segment goes at once. While its acknowledgement is out, the kernel keeps \
              small data back, and sends it together.",
    },
    Experiment {
        name: "nodelay",
        title: "The same with TCP_NODELAY",
        transport: "tcp",
        set: &[("gap", "2")],
        why: "Each write goes at once, and this receiver was quick enough to read it alone. It \
              was luck: the next experiment is the same, but for the receiver.",
    },
    Experiment {
        name: "late-reader",
        title: "TCP_NODELAY, and a receiver that reads late",
        transport: "tcp",
        set: &[("gap", "2"), ("delay", "60")],
        why: "Ten segments came, but a receive queue holds bytes and not segments: a read takes \
              what is there.",
    },
    Experiment {
        name: "pauses",
        title: "Pauses between the sends",
        transport: "tcp",
        set: &[("gap", "20")],
        why: "The receiver had the time to read each one alone. It looks like a cure, and costs a \
              pause a message.",
    },
    Experiment {
        name: "pauses-late",
        title: "The same pauses, and a busy receiver",
        transport: "tcp",
        set: &[("gap", "20"), ("delay", "250")],
        why: "A pause at the sender is no pause at the receiver: one slow query, one page fault, \
              and the messages stick as before.",
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
        why: "No read gives more than it asked for, 262144 bytes here, and the kernel takes no \
              more than it has room for: one send, several reads.",
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
        why: "What does not fit into the receiver's queue stays at the sender until there is room: \
              messages come in pieces that nobody chose.",
    },
    Experiment {
        name: "small-reads",
        title: "A program that reads 35 bytes at a time",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "u32")],
        why: "Reads end where the program's buffer ends: in the middle of a message, and in the \
              middle of a header.",
    },
    Experiment {
        name: "bigger-buffers",
        title: "Bigger buffers, and a late receiver",
        transport: "tcp",
        set: &[
            ("send-buffer", "1048576"),
            ("receive-buffer", "1048576"),
            ("read", "1048576"),
            ("delay", "20"),
        ],
        why: "A bigger buffer holds more messages at a time: it cuts less, and glues more.",
    },
    Experiment {
        name: "udp",
        title: "The same messages over UDP, received late",
        transport: "udp",
        set: &[("gap", "2"), ("delay", "60")],
        why: "A datagram is one message, in the queue too: one sendto is one recvfrom.",
    },
    Experiment {
        name: "udp-truncated",
        title: "UDP, into slots of 40 bytes",
        transport: "udp",
        set: &[("slot", "40"), ("delay", "20")],
        why: "The rest of a datagram that does not fit is gone; only a flag tells. The next one \
              begins at its own beginning.",
    },
    Experiment {
        name: "udp-lost",
        title: "UDP, into a full queue",
        transport: "udp",
        set: &[
            ("count", "40"),
            ("size", "1000"),
            ("receive-buffer", "8192"),
            ("delay", "20"),
        ],
        why: "Nobody holds the sender back. What the receiver's queue has no room for is dropped, \
              and nobody is told.",
    },
    Experiment {
        name: "unframed",
        title: "Cut bytes, no framing",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "raw")],
        why: "What a read gave is what the program gets: the messages are in there, and nothing \
              says where.",
    },
    Experiment {
        name: "framed-fixed",
        title: "The same, frames of a fixed size",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "fixed")],
        why: "Every so many bytes a frame ends. Nothing is added, and nothing else can be sent.",
    },
    Experiment {
        name: "framed-line",
        title: "The same, lines",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "line")],
        why: "A line end behind each: readable, and no payload may have one inside.",
    },
    Experiment {
        name: "framed-delimiter",
        title: "The same, a delimiter of seven bytes",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "delimiter")],
        why: "The search goes on over a cut in the middle of the delimiter.",
    },
    Experiment {
        name: "framed-u16",
        title: "The same, a length of two bytes in front",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "u16")],
        why: "The length says how much to wait for, whatever the bytes are; a header cut in two \
              is waited for as well.",
    },
    Experiment {
        name: "framed-u32",
        title: "The same, a length of four bytes in front",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "u32")],
        why: "More room for the length, and a limit of the receiver's own against lengths that \
              nobody means.",
    },
    Experiment {
        name: "framed-varint",
        title: "The same, a length of as many bytes as it needs",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "varint")],
        why: "Seven bits a byte: small messages have small headers.",
    },
    Experiment {
        name: "framed-netstring",
        title: "The same, netstrings",
        transport: "tcp",
        set: &[("read", "35"), ("delay", "20"), ("framing", "netstring")],
        why: "A length in digits, and a comma behind that proves it.",
    },
];

impl Experiment {
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|experiment| experiment.name == name)
    }

    /// Whether it came out as the text says: a few depend on who is quicker.
    fn is_as_told(&self, outcome: &Outcome) -> bool {
        match self.name {
            "nodelay" | "pauses" => outcome.glued == 0,
            "nagle" | "late-reader" | "gathered" => outcome.glued > 0,
            "udp-lost" => outcome.lost > 0,
            _ => true,
        }
    }

    /// What it is about.
    pub(crate) fn group(&self) -> &'static str {
        match self.name {
            "large-message" | "small-receive-buffer" | "small-reads" | "bigger-buffers" => "cut",
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
                .expect("the experiments are within the bounds");
        }
        knobs
    }

    /// Runs it, with knobs that may differ from its own.
    pub(crate) fn run(&self, knobs: &Knobs) -> io::Result<Outcome> {
        self.run_over(self.transport, knobs)
    }

    /// The same over another transport than its own, for the comparison.
    pub(crate) fn run_over(&self, transport: &str, knobs: &Knobs) -> io::Result<Outcome> {
        let mut outcome = run(transport, knobs, &mut |_| {})?;
        self.name.clone_into(&mut outcome.experiment);
        Ok(outcome)
    }
}

/// Runs knobs, which may be those of an experiment, and says why it ends as it does.
pub(crate) fn run(
    transport: &str,
    knobs: &Knobs,
    tell: &mut dyn FnMut(Progress),
) -> io::Result<Outcome> {
    let mut outcome = match transport {
        "udp" => lab::run_udp(knobs, tell)?,
        _ => lab::run_tcp(knobs, tell)?,
    };
    explain(&outcome).clone_into(&mut outcome.why);
    let is_it = |it: &&Experiment| it.transport == transport && it.knobs() == *knobs;
    if let Some(experiment) = ALL.iter().find(is_it) {
        experiment.name.clone_into(&mut outcome.experiment);
        if experiment.is_as_told(&outcome) {
            experiment.why.clone_into(&mut outcome.why);
        }
    }
    Ok(outcome)
}

/// Why it came to this, as far as the map tells.
fn explain(outcome: &Outcome) -> &'static str {
    let by_writer = outcome.writes.len() < outcome.sends.len();
    let by_segments = outcome
        .segments
        .is_some_and(|segments| (segments as usize) < outcome.writes.len());
    if outcome.transport == "udp" {
        return match (outcome.truncated, outcome.lost) {
            (0, 0) => "A datagram is one message: one sendto is one recvfrom.",
            (0, _) => "What the receiver's queue has no room for is dropped in silence.",
            _ => "The rest of a datagram that does not fit its slot is gone.",
        };
    }
    match (outcome.glued > 0, outcome.cut > 0) {
        (false, false) => {
            "The receiver read each send before the next one came. Nothing but luck \
                           keeps it so."
        }
        (true, false) if by_writer => "Several sends were written by one call.",
        (true, false) if by_segments => "The sender's kernel put several writes into one segment.",
        (true, false) => "A read takes all that is in the queue, whoever sent it.",
        (false, true) => {
            "A read ended before the message did: its buffer was full, or the queue \
                          empty."
        }
        (true, true) => {
            "Reads end where a buffer ends or a queue is empty, not where a message \
                         does."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_experiment_has_a_name_of_its_own_and_is_within_the_bounds() {
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
