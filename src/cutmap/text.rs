//! Text output of recordings and maps: readable lines and JSON Lines.

use std::fmt;

use super::{CutMap, Event, EventKind, Recording, Span};
use crate::id::SocketId;

impl EventKind {
    /// Returns the name of the event in both text formats.
    fn word(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Write => "write",
            Self::Read => "read",
            Self::Frame { .. } => "frame",
            Self::DatagramSent => "datagram-sent",
            Self::DatagramReceived => "datagram-received",
            Self::DatagramTruncated => "datagram-truncated",
            Self::DatagramDropped => "datagram-dropped",
        }
    }
}

impl Recording {
    /// Returns the events as JSON Lines, one object per event. `t_us` is the time in microseconds.
    /// A frame also has `header` and `trailer`, in bytes.
    ///
    /// ```text
    /// {"socket":"connection 1v3","event":"read","offset":0,"len":9,"t_us":4}
    /// {"socket":"udp 2v4","event":"datagram-received","offset":0,"len":9,"t_us":4}
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
                SocketId::Conn(_) => writeln!(f, "bytes {offset}..{end}")?,
                _ => writeln!(f, "number {offset}, {len} bytes")?,
            }
        }
        Ok(())
    }
}

/// Writes the statistics and one line per read. Bytes in transit are reported at the end.
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
        writeln!(
            f,
            "{}, {}, {}, {}",
            count(sum.sends, "send"),
            count(sum.writes, "write"),
            count(sum.reads, "read"),
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
        for (index, read) in self.reads().iter().enumerate() {
            write!(f, "read {index}: bytes {:?}", read.range())?;
            for frame in self.frames_of_read(index) {
                write!(f, ", {} {frame}", part(self.frames()[frame].span, *read))?;
            }
            writeln!(f)?;
        }
        for (first, word) in [
            (self.first_unsent(), "unsent"),
            (self.first_unread(), "unread"),
            (self.first_undelivered(), "undelivered"),
        ] {
            if let Some(first) = first {
                writeln!(f, "{word} from byte {first} on")?;
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
    let frame = match event.kind {
        EventKind::Frame {
            header_len,
            trailer_len,
        } => format!(r#","header":{header_len},"trailer":{trailer_len}"#),
        _ => String::new(),
    };
    // Ids and event names contain no character that JSON must escape.
    let object = format!(r#""socket":"{socket}","event":"{word}","offset":{offset},"len":{len}"#);
    format!(r#"{{{object}{frame},"t_us":{at}}}"#) + "\n"
}

/// Returns a count with a noun, such as `1 read` or `2 reads`.
fn count(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Returns a word for the part of a frame that lies in a read.
fn part(frame: Span, read: Span) -> &'static str {
    let (frame, read) = (frame.range(), read.range());
    match (frame.start < read.start, frame.end > read.end) {
        (false, false) => "frame",
        (false, true) => "start of frame",
        (true, true) => "middle of frame",
        (true, false) => "end of frame",
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
        recorder.note(token, EventKind::Send, 0, 10);
        recorder.note(token, EventKind::Send, 10, 10);
        recorder.pass(began + Duration::from_micros(7));
        recorder.note(token, EventKind::Write, 0, 20);
        recorder.note(token, EventKind::Read, 0, 11);
        recorder.note(token, frame, 0, 10);
        recorder.note(token, EventKind::Read, 11, 9);
        recorder.note(token, frame, 10, 10);
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
