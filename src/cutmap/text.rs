//! Text output of recordings and maps: readable lines and JSON Lines.

use std::fmt;
use std::ops::Range;

use super::{CutMap, Event, EventKind, Recording, Span, TlsRecordSpan};
use crate::id::SocketId;

impl EventKind {
    /// Returns the name of the event in both text formats.
    fn word(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Write => "write",
            Self::Read => "read",
            Self::Frame { .. } => "frame",
            Self::TlsRecordSent { .. } => "tls-record-sent",
            Self::TlsRecordReceived { .. } => "tls-record-received",
            Self::DatagramSent => "datagram-sent",
            Self::DatagramReceived => "datagram-received",
            Self::DatagramTruncated => "datagram-truncated",
            Self::DatagramDropped => "datagram-dropped",
        }
    }
}

impl Recording {
    /// Returns the events as JSON Lines, one object per event. `t_us` is the time in microseconds.
    /// A frame also has `header` and `trailer`, in bytes. A TLS record also has `wire_offset` and
    /// `wire_len`.
    ///
    /// ```text
    /// {"socket":"connection 1v3","event":"read","offset":0,"len":9,"t_us":4}
    /// {"socket":"UDP socket 2v4","event":"datagram-received","offset":0,"len":9,"t_us":4}
    /// ```
    #[must_use]
    pub fn to_json_lines(&self) -> String {
        self.events.iter().map(json_line).collect()
    }
}

/// Writes one event per line: the time in microseconds, the socket, the type of the event and the
/// bytes.
impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.overwritten > 0 {
            writeln!(f, "({} older events were overwritten)", self.overwritten)?;
        }
        for event in &self.events {
            let (socket, offset, len) = (event.socket, event.offset, event.len);
            let end = offset.saturating_add(len);
            let (at, word) = (event.at.as_micros(), event.kind.word());
            write!(f, "{at:>10} us  {socket}  {word:<18} ")?;
            match socket {
                SocketId::Conn(_) => write!(f, "bytes {offset}..{end}")?,
                _ => write!(f, "number {offset}, {len} bytes")?,
            }
            match event.wire() {
                Some(wire) => writeln!(f, ", on the wire {:?}", wire.range())?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

/// Writes the statistics and one line per read. Bytes in transit are reported at the end. With TLS,
/// the line of a read lists its records, and each record has a line with its frames.
///
/// ```text
/// 4 sends, 2 writes, 3 reads, 4 frames
/// 3 of the sends were glued, 1 cut; 1.33 frames a read, 1.25 reads a frame; 0 split in the header
/// read 0: bytes 0..10, frame 0
/// read 1: bytes 10..25, frame 1, start of frame 2
/// read 2: bytes 25..40, end of frame 2, frame 3
/// ```
impl fmt::Display for CutMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = self.summary();
        let record_count = |number| match self.has_tls() {
            true => count(number, "TLS record") + ", ",
            false => String::new(),
        };
        writeln!(
            f,
            "{}, {}{}, {}, {}{}",
            count(sum.sends, "send"),
            record_count(sum.tls_records_sent),
            count(sum.writes, "write"),
            count(sum.reads, "read"),
            record_count(sum.tls_records_received),
            count(sum.frames, "frame")
        )?;
        writeln!(
            f,
            "{} of the sends were glued, {} cut; {:.2} frames a read, {:.2} reads a frame; \
             {} split in the header",
            sum.glued_sends,
            sum.cut_sends,
            sum.frames_per_read(),
            sum.reads_per_frame(),
            sum.split_headers
        )?;
        if self.has_tls() {
            writeln!(
                f,
                "{} of the sends were glued in a TLS record, {} cut into several; {} of the \
                 records were glued in a read, {} cut",
                sum.sends_glued_in_records,
                sum.sends_cut_by_records,
                sum.glued_tls_records,
                sum.cut_tls_records
            )?;
            self.write_tls_reads(f)?;
        } else {
            for (index, read) in self.reads().iter().enumerate() {
                write!(f, "read {index}: bytes {:?}", read.range())?;
                self.write_frames(f, self.frames_of_read(index), *read)?;
            }
        }
        let wire = if self.has_tls() { "wire " } else { "" };
        for (first, word, wire) in [
            (self.first_unsent(), "unsent", ""),
            (self.first_unread(), "unread", wire),
            (self.first_undecrypted(), "undecrypted", wire),
            (self.first_undelivered(), "undelivered", ""),
        ] {
            if let Some(first) = first {
                writeln!(f, "{word} from {wire}byte {first} on")?;
            }
        }
        Ok(())
    }
}

impl CutMap {
    /// Writes the parts of `frames` that lie in `span`, and ends the line.
    fn write_frames(
        &self,
        f: &mut fmt::Formatter<'_>,
        frames: Range<usize>,
        span: Span,
    ) -> fmt::Result {
        for frame in frames {
            let part = part(self.frames()[frame].span, span);
            write!(f, ", {part}frame {frame}")?;
        }
        writeln!(f)
    }

    /// Writes a line for each read, with its TLS records, and a line for each record that ends in
    /// the read, with its frames. The bytes of a read before the start of TLS are in no record.
    fn write_tls_reads(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, read) in self.reads().iter().enumerate() {
            let records = self.tls_records_of_read(index);
            write!(f, "read {index}: wire bytes {:?}", read.range())?;
            for record in records.clone() {
                let wire = self.tls_records_received()[record].wire;
                write!(f, ", {}record {record}", part(wire, *read))?;
            }
            match records.is_empty() {
                true => self.write_frames(f, self.frames_of_read(index), *read)?,
                false => writeln!(f)?,
            }
            for record in records {
                let TlsRecordSpan { span, wire } = self.tls_records_received()[record];
                if wire.range().end > read.range().end {
                    continue;
                }
                match span.len {
                    0 => writeln!(f, "  record {record}: no application data")?,
                    _ => {
                        write!(f, "  record {record}: bytes {:?}", span.range())?;
                        self.write_frames(f, self.frames_of_tls_record(record), span)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Writes the id of the socket, such as `connection 3v7`.
impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conn(id) => id.fmt(f),
            Self::Listener(id) => id.fmt(f),
            Self::Udp(id) => id.fmt(f),
            #[cfg(unix)]
            Self::UnixDatagram(id) => id.fmt(f),
        }
    }
}

fn json_line(event: &Event) -> String {
    let (socket, offset, len) = (event.socket, event.offset, event.len);
    let (word, at) = (event.kind.word(), event.at.as_micros());
    let more = match event.kind {
        EventKind::Frame {
            header_len,
            trailer_len,
        } => format!(r#","header":{header_len},"trailer":{trailer_len}"#),
        _ => match event.wire() {
            Some(Span { offset, len, .. }) => {
                format!(r#","wire_offset":{offset},"wire_len":{len}"#)
            }
            None => String::new(),
        },
    };
    // Ids and event names contain no character that JSON must escape.
    let object = format!(r#""socket":"{socket}","event":"{word}","offset":{offset},"len":{len}"#);
    format!(r#"{{{object}{more},"t_us":{at}}}"#) + "\n"
}

/// Returns a count with a noun, such as `1 read` or `2 reads`.
fn count(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Returns words for the part of `inner`, a frame or record, that lies in `outer`. Returns no words
/// if all of `inner` lies in `outer`.
fn part(inner: Span, outer: Span) -> &'static str {
    let (inner, outer) = (inner.range(), outer.range());
    match (inner.start < outer.start, inner.end > outer.end) {
        (false, false) => "",
        (false, true) => "start of ",
        (true, true) => "middle of ",
        (true, false) => "end of ",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cutmap::Recorder;
    use crate::id::{ConnId, Generations, Token};

    fn recording() -> (Recording, ConnId) {
        let generation = Generations::new().take();
        let token = Token::new(4, generation);
        let began = Instant::now();
        let mut recorder = Recorder::new(began, 16);
        let frame = EventKind::Frame {
            header_len: 2,
            trailer_len: 0,
        };
        recorder.record(token, EventKind::Send, 0, 10);
        recorder.record(token, EventKind::Send, 10, 10);
        recorder.pass(began + Duration::from_micros(7));
        recorder.record(token, EventKind::Write, 0, 20);
        recorder.record(token, EventKind::Read, 0, 11);
        recorder.record(token, frame, 0, 10);
        recorder.record(token, EventKind::Read, 11, 9);
        recorder.record(token, frame, 10, 10);
        (recorder.take(began), ConnId(token))
    }

    #[test]
    fn recording_is_one_json_line_per_event() {
        let lines = recording().0.to_json_lines();
        let lines: Vec<_> = lines.lines().collect();
        assert_eq!(
            lines[2],
            r#"{"socket":"connection 4v1","event":"write","offset":0,"len":20,"t_us":7}"#
        );
        assert_eq!(
            lines[4],
            concat!(
                r#"{"socket":"connection 4v1","event":"frame","offset":0,"len":10,"#,
                r#""header":2,"trailer":0,"t_us":7}"#
            )
        );
        assert_eq!(lines.len(), 7);
    }

    #[test]
    fn map_lists_the_frames_of_each_read() {
        let (recording, conn) = recording();
        let map = CutMap::join((&recording, conn), (&recording, conn));
        let expected = "\
2 sends, 1 write, 2 reads, 2 frames
2 of the sends were glued, 1 cut; 1.00 frames a read, 1.50 reads a frame; 1 split in the header
read 0: bytes 0..11, frame 0, start of frame 1
read 1: bytes 11..20, end of frame 1
";
        assert_eq!(map.to_string(), expected);
        assert!(recording.to_string().contains("bytes 11..20"));
    }
}
