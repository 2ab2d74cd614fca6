//! What a run came to: the four lists of its cut map, and what is to be said of them.

use std::fmt::Write;

use unstick::cutmap::{CutMap, Event, EventKind, Segments, Span};

use crate::knobs::Knobs;

/// Something that was sent, written, read or decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    /// TCP: where in the stream it begins. UDP: which datagram it is.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) t_us: u128,
    /// How many of its bytes are its header.
    pub(crate) header: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) experiment: String,
    /// `tcp` or `udp`.
    pub(crate) transport: &'static str,
    pub(crate) knobs: Knobs,
    pub(crate) sends: Vec<Block>,
    pub(crate) writes: Vec<Block>,
    pub(crate) reads: Vec<Block>,
    pub(crate) frames: Vec<Block>,
    /// What the kernel counted of the sender's segments, where it tells.
    pub(crate) segments: Option<u32>,
    /// Datagrams of which only the beginning came.
    pub(crate) truncated: usize,
    /// Messages that did not come.
    pub(crate) lost: usize,
    /// Sends that arrived in one read with another; those that arrived in several; frames whose
    /// header did.
    pub(crate) glued: usize,
    pub(crate) cut: usize,
    pub(crate) split_headers: usize,
    /// Messages that came out as they went in.
    pub(crate) whole: usize,
    /// What happened, in a line made of what was measured; and why.
    pub(crate) happened: String,
    pub(crate) why: String,
}

impl Outcome {
    pub(crate) fn of_tcp(
        knobs: &Knobs,
        map: &CutMap,
        segments: Option<Segments>,
        whole: usize,
    ) -> Self {
        let sum = map.summary();
        let frame = |frame: &unstick::cutmap::FrameSpan| Block {
            header: frame.header_len,
            ..block(&frame.span)
        };
        let mut outcome = Self {
            experiment: "custom".to_owned(),
            transport: "tcp",
            knobs: knobs.clone(),
            sends: map.sends().iter().map(block).collect(),
            writes: map.writes().iter().map(block).collect(),
            reads: map.reads().iter().map(block).collect(),
            frames: map.frames().iter().map(frame).collect(),
            // Those that a timer sent again are no cut of the program's.
            segments: segments.map(|counted| counted.sent.saturating_sub(counted.retransmitted)),
            truncated: 0,
            lost: knobs.count.saturating_sub(whole),
            glued: sum.glued_sends,
            cut: sum.cut_sends,
            split_headers: sum.split_headers,
            whole,
            happened: String::new(),
            why: String::new(),
        };
        if knobs.framing == "raw" {
            // Nothing says where a message ends, so none can be called lost.
            outcome.lost = 0;
        }
        outcome.happened = outcome.say_tcp();
        outcome
    }

    /// `sent` and `received` are the events of the two sockets, the received ones with the number
    /// of the datagram that each is.
    pub(crate) fn of_udp(knobs: &Knobs, sent: &[Event], received: &[(u64, Event)]) -> Self {
        let numbered = |(number, event): &(u64, Event)| Block {
            offset: *number,
            len: event.len,
            t_us: event.at.as_micros(),
            header: 0,
        };
        let went = |event: &&Event| event.kind == EventKind::DatagramSent;
        let sent: Vec<_> = sent
            .iter()
            .filter(went)
            .map(|event| numbered(&(event.offset, *event)))
            .collect();
        let reads: Vec<_> = received.iter().map(numbered).collect();
        let is_cut = |kind| kind == EventKind::DatagramTruncated;
        let truncated = received.iter().filter(|(_, event)| is_cut(event.kind));
        let truncated = truncated.count();
        let mut outcome = Self {
            experiment: "custom".to_owned(),
            transport: "udp",
            knobs: knobs.clone(),
            lost: sent.len().saturating_sub(reads.len()),
            sends: sent.clone(),
            writes: sent,
            frames: reads.clone(),
            whole: reads.len() - truncated,
            reads,
            segments: None,
            truncated,
            glued: 0,
            cut: 0,
            split_headers: 0,
            happened: String::new(),
            why: String::new(),
        };
        outcome.happened = outcome.say_udp();
        outcome
    }

    fn say_tcp(&self) -> String {
        let mut said = format!(
            "{} in {} came as {}",
            counted(self.sends.len(), "send"),
            counted(self.writes.len(), "write"),
            counted(self.reads.len(), "read"),
        );
        let odd = [
            (self.glued, "glued"),
            (self.cut, "cut"),
            (self.split_headers, "split in the header"),
        ];
        let odd: Vec<_> = odd
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        if odd.is_empty() {
            said += ", each send in a read of its own";
        } else {
            let _ = write!(said, ": {}", odd.join(", "));
        }
        let framing = &self.knobs.framing;
        let _ = if framing == "raw" {
            write!(
                said,
                "; unframed, the program got {} pieces",
                self.frames.len()
            )
        } else if self.lost > 0 {
            write!(said, "; {} had not arrived when time was up", self.lost)
        } else {
            write!(said, "; {framing} framing gave all {} messages", self.whole)
        };
        said + "."
    }

    fn say_udp(&self) -> String {
        let mut said = format!(
            "{} came as {}, {} of them whole",
            counted(self.sends.len(), "datagram"),
            counted(self.reads.len(), "datagram"),
            self.whole,
        );
        if self.truncated > 0 {
            let _ = write!(
                said,
                "; {} cut to {} bytes",
                self.truncated, self.knobs.slot
            );
        }
        if self.lost > 0 {
            let _ = write!(said, "; {} lost", self.lost);
        }
        said + ". None was glued."
    }

    /// One line of JSON.
    pub(crate) fn to_json(&self) -> String {
        let mut json = format!(
            r#"{{"experiment":{},"transport":"{}""#,
            quoted(&self.experiment),
            self.transport
        );
        let lists = [
            ("sends", &self.sends),
            ("writes", &self.writes),
            ("reads", &self.reads),
            ("frames", &self.frames),
        ];
        for (name, blocks) in lists {
            let blocks: Vec<_> = blocks.iter().map(block_json).collect();
            let _ = write!(json, r#","{name}":[{}]"#, blocks.join(","));
        }
        let segments = match self.segments {
            Some(segments) => segments.to_string(),
            None => "null".to_owned(),
        };
        let counts = [
            ("truncated", self.truncated),
            ("lost", self.lost),
            ("glued", self.glued),
            ("cut", self.cut),
            ("split_headers", self.split_headers),
            ("whole", self.whole),
        ];
        for (name, count) in counts {
            let _ = write!(json, r#","{name}":{count}"#);
        }
        let _ = write!(
            json,
            r#","segments":{segments},"happened":{},"why":{},"knobs":{}}}"#,
            quoted(&self.happened),
            quoted(&self.why),
            self.knobs.to_json(),
        );
        json
    }
}

fn block(span: &Span) -> Block {
    Block {
        offset: span.offset,
        len: span.len,
        t_us: span.at.as_micros(),
        header: 0,
    }
}

fn block_json(block: &Block) -> String {
    let Block {
        offset,
        len,
        t_us,
        header,
    } = block;
    let header = match header {
        0 => String::new(),
        len => format!(r#","header":{len}"#),
    };
    format!(r#"{{"offset":{offset},"len":{len},"t_us":{t_us}{header}}}"#)
}

/// `1 read`, `2 reads`
pub(crate) fn counted(count: usize, word: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {word}{plural}")
}

/// A JSON string, which may also stand in a script of an HTML page.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(char));
            }
            _ => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_a_script_or_a_string() {
        assert_eq!(
            quoted("</script>\"\\\n"),
            r#""\u003c/script\u003e\"\\\u000a""#
        );
    }
}
