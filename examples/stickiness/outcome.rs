//! The result of a run: its sends, writes, reads and frames, with counts, a summary in words and an
//! explanation.

use std::fmt::Write;

use unstick::cutmap::{CutMap, Event, EventKind, FrameSpan, Span, TlsRecordSpan};

use crate::knobs::Knobs;

/// A range of bytes that was sent, written, read or decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    /// Offset in the stream of a TCP run, or number of the datagram in a UDP run. With TLS, it is
    /// the offset of the plaintext in the block.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Offset and length on the wire of a TLS record, or of a write or read with TLS.
    pub(crate) wire: Option<(u64, u64)>,
    /// Time since the start of the recording, in microseconds.
    pub(crate) t_us: u128,
    /// Length of the header in bytes; 0 without a header.
    pub(crate) header: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) experiment: String,
    /// `tcp` or `udp`.
    pub(crate) transport: &'static str,
    pub(crate) knobs: Knobs,
    pub(crate) sends: Vec<Block>,
    /// TLS records sent; empty without TLS.
    pub(crate) records_sent: Vec<Block>,
    pub(crate) writes: Vec<Block>,
    pub(crate) reads: Vec<Block>,
    /// TLS records received; empty without TLS.
    pub(crate) records_received: Vec<Block>,
    pub(crate) frames: Vec<Block>,
    /// Number of segments sent, if the kernel reports it.
    pub(crate) segments: Option<u32>,
    /// Number of datagrams that were truncated.
    pub(crate) truncated: usize,
    /// Number of messages that did not arrive.
    pub(crate) lost: usize,
    /// Number of sends that arrived in one read with another send.
    pub(crate) glued: usize,
    /// Number of sends that arrived in several reads.
    pub(crate) cut: usize,
    /// Number of sends in one TLS record with another send.
    pub(crate) glued_in_records: usize,
    /// Number of sends in several TLS records.
    pub(crate) cut_by_records: usize,
    /// Number of frames whose header arrived in several reads.
    pub(crate) split_headers: usize,
    /// Number of messages that arrived unchanged.
    pub(crate) whole: usize,
    /// A sentence with the measured counts.
    pub(crate) happened: String,
    /// An explanation of the result.
    pub(crate) why: String,
}

impl Outcome {
    pub(crate) fn of_tcp(knobs: &Knobs, map: &CutMap, segments: Option<u32>, whole: usize) -> Self {
        let sum = map.summary();
        let frame = |frame: &FrameSpan| Block {
            header: frame.header_len,
            ..block(&frame.span)
        };
        let blocks = |spans: &[Span], records: &[TlsRecordSpan]| match records {
            [] => spans.iter().map(block).collect(),
            _ => spans.iter().map(|span| on_wire(span, records)).collect(),
        };
        let (sent, received) = (map.tls_records_sent(), map.tls_records_received());
        let mut outcome = Self {
            experiment: "custom".to_owned(),
            transport: "tcp",
            knobs: knobs.clone(),
            sends: map.sends().iter().map(block).collect(),
            records_sent: sent.iter().map(record).collect(),
            writes: blocks(map.writes(), sent),
            reads: blocks(map.reads(), received),
            records_received: received.iter().map(record).collect(),
            frames: map.frames().iter().map(frame).collect(),
            segments,
            truncated: 0,
            lost: knobs.count.saturating_sub(whole),
            glued: sum.glued_sends,
            cut: sum.cut_sends,
            glued_in_records: sum.sends_glued_in_records,
            cut_by_records: sum.sends_cut_by_records,
            split_headers: sum.split_headers,
            whole,
            happened: String::new(),
            why: String::new(),
        };
        if knobs.framing == "raw" {
            // Without framing no message boundary is known, so no message counts as lost.
            outcome.lost = 0;
        }
        outcome.happened = outcome.summarise_tcp();
        outcome
    }

    /// Builds the result of a UDP run from the events of both sockets.
    ///
    /// `received` has one pair per received datagram: its number, and its event.
    pub(crate) fn of_udp(knobs: &Knobs, sent: &[Event], received: &[(u64, Event)]) -> Self {
        let numbered = |(number, event): &(u64, Event)| Block {
            offset: *number,
            len: event.len,
            t_us: event.at.as_micros(),
            header: 0,
            wire: None,
        };
        let is_sent = |event: &&Event| event.kind == EventKind::DatagramSent;
        let sent: Vec<_> = sent
            .iter()
            .filter(is_sent)
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
            records_sent: Vec::new(),
            writes: sent,
            records_received: Vec::new(),
            frames: reads.clone(),
            whole: reads.len() - truncated,
            reads,
            segments: None,
            truncated,
            glued: 0,
            cut: 0,
            glued_in_records: 0,
            cut_by_records: 0,
            split_headers: 0,
            happened: String::new(),
            why: String::new(),
        };
        outcome.happened = outcome.summarise_udp();
        outcome
    }

    fn summarise_tcp(&self) -> String {
        let mut sentence = format!(
            "{} in {}{} arrived in {}",
            counted(self.sends.len(), "send"),
            match self.records_sent.len() {
                0 => String::new(),
                count => counted(count, "TLS record") + " and ",
            },
            counted(self.writes.len(), "write"),
            counted(self.reads.len(), "read"),
        );
        let defects = [
            (self.glued, "glued"),
            (self.cut, "cut"),
            (self.glued_in_records, "glued in a record"),
            (self.cut_by_records, "cut into several records"),
            (self.split_headers, "with a split header"),
        ];
        let defects: Vec<_> = defects
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        if defects.is_empty() {
            sentence += ", each send in its own read";
        } else {
            let _ = write!(sentence, ": {}", defects.join(", "));
        }
        let framing = &self.knobs.framing;
        let _ = if framing == "raw" {
            write!(
                sentence,
                "; without framing the program received {} of bytes",
                counted(self.frames.len(), "block")
            )
        } else if self.lost > 0 {
            write!(
                sentence,
                "; {} had not arrived at the time limit",
                counted(self.lost, "message")
            )
        } else {
            write!(
                sentence,
                "; {framing} framing delivered all {} messages",
                self.whole
            )
        };
        sentence + "."
    }

    fn summarise_udp(&self) -> String {
        let mut sentence = format!(
            "{} sent, {} received, {} of them whole",
            counted(self.sends.len(), "datagram"),
            counted(self.reads.len(), "datagram"),
            self.whole,
        );
        if self.truncated > 0 {
            let _ = write!(
                sentence,
                "; {} truncated to {} bytes",
                self.truncated, self.knobs.slot
            );
        }
        if self.lost > 0 {
            let _ = write!(sentence, "; {} lost", self.lost);
        }
        sentence + ". None was glued."
    }

    /// Returns the result as one line of JSON.
    pub(crate) fn to_json(&self) -> String {
        let mut json = format!(
            r#"{{"experiment":{},"transport":"{}""#,
            quoted(&self.experiment),
            self.transport
        );
        let lists = [
            ("sends", &self.sends),
            ("records_sent", &self.records_sent),
            ("writes", &self.writes),
            ("reads", &self.reads),
            ("records_received", &self.records_received),
            ("frames", &self.frames),
        ];
        for (name, blocks) in lists {
            if self.records_sent.is_empty() && name.starts_with("records") {
                continue;
            }
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
            ("glued_in_records", self.glued_in_records),
            ("cut_by_records", self.cut_by_records),
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
        wire: None,
    }
}

fn record(record: &TlsRecordSpan) -> Block {
    Block {
        wire: Some((record.wire.offset, record.wire.len)),
        ..block(&record.span)
    }
}

/// Returns the block of a write or read with TLS. The offset and the length of `span` count bytes
/// on the wire, and those of the block count plaintext.
fn on_wire(span: &Span, records: &[TlsRecordSpan]) -> Block {
    let offset = plaintext_at(records, span.offset);
    Block {
        offset,
        len: plaintext_at(records, span.range().end) - offset,
        wire: Some((span.offset, span.len)),
        ..block(span)
    }
}

/// Returns the plaintext offset of a byte on the wire. A byte of a header or of an authentication
/// tag has the offset of the next byte of plaintext.
fn plaintext_at(records: &[TlsRecordSpan], wire_offset: u64) -> u64 {
    /// Length of the header of a TLS record, in bytes.
    const HEADER_LEN: u64 = 5;

    let index = records.partition_point(|record| record.wire.range().end <= wire_offset);
    match records.get(index) {
        Some(TlsRecordSpan { span, wire, .. }) => {
            let len = wire_offset.saturating_sub(wire.offset + HEADER_LEN);
            span.offset + len.min(span.len)
        }
        None => records.last().map_or(0, |last| last.span.range().end),
    }
}

fn block_json(block: &Block) -> String {
    let Block {
        offset,
        len,
        wire,
        t_us,
        header,
    } = block;
    let wire = wire.map_or_else(String::new, |(offset, len)| {
        format!(r#","wire_offset":{offset},"wire_len":{len}"#)
    });
    let header = match header {
        0 => String::new(),
        len => format!(r#","header":{len}"#),
    };
    format!(r#"{{"offset":{offset},"len":{len},"t_us":{t_us}{header}{wire}}}"#)
}

/// Formats a count with its noun: `1 read`, `2 reads`.
pub(crate) fn counted(count: usize, word: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {word}{plural}")
}

/// Returns a JSON string that is also safe in a script of an HTML page.
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
    fn quoted_text_ends_neither_script_nor_string() {
        assert_eq!(
            quoted("</script>\"\\\n"),
            r#""\u003c/script\u003e\"\\\u000a""#
        );
    }
}
