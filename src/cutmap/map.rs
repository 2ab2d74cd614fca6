//! [`CutMap`]: the two ends of one direction of a connection, put together.

use std::ops::Range;
use std::time::Duration;

use super::{Event, EventKind, Recording};
use crate::id::{ConnId, SocketId};

/// Bytes of a stream that were sent, written, read or decoded together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Span {
    /// Where in the stream it begins.
    pub offset: u64,
    /// How many bytes it has, at least one.
    pub len: u64,
    /// When it happened; see [`Event::at`].
    pub at: Duration,
}

/// A frame, as it lies in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameSpan {
    /// All of it.
    pub span: Span,
    /// Bytes before its payload.
    pub header_len: u32,
    /// Bytes behind its payload, such as a delimiter.
    pub trailer_len: u32,
}

/// One direction of a connection: what was sent at one end, and what arrived at the other.
///
/// All four lists are ordered by offset, and conserve bytes: each begins where the one before it
/// ended. They end at the same offset, but for what is still under way: see
/// [`first_unsent`](CutMap::first_unsent) and its neighbours. Two things make holes, both told: a
/// ring that [overwrote](Recording::overwritten) old events lets the lists begin late, and bytes
/// that a codec skipped are in no frame.
///
/// The numbers that the methods take and give are indices into the four lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CutMap {
    sends: Vec<Span>,
    writes: Vec<Span>,
    reads: Vec<Span>,
    frames: Vec<FrameSpan>,
}

/// What a [`CutMap`] says in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Summary {
    /// How often `send` was called.
    pub sends: usize,
    /// How often the kernel took something.
    pub writes: usize,
    /// How often the kernel gave something.
    pub reads: usize,
    /// How many frames were decoded.
    pub frames: usize,
    /// Sends that arrived in one read with another, or a part of one.
    pub glued_sends: usize,
    /// Sends that arrived in several reads.
    pub cut_sends: usize,
    /// Frames that arrived in several reads.
    pub split_frames: usize,
    /// Frames whose header, or whose delimiter, arrived in several reads.
    pub split_headers: usize,
    /// The most frames that ended in one read.
    pub frames_per_read_max: usize,
    /// The sum, over all frames, of the reads that each arrived in.
    reads_of_frames: usize,
}

impl Summary {
    /// How many frames a read held on average; zero where nothing was read.
    #[must_use]
    pub fn frames_per_read(&self) -> f64 {
        ratio(self.frames, self.reads)
    }

    /// How many reads a frame arrived in on average; zero where there was none.
    #[must_use]
    pub fn reads_per_frame(&self) -> f64 {
        ratio(self.reads_of_frames, self.frames)
    }
}

impl Span {
    /// The offsets of its bytes.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.len)
    }
}

impl CutMap {
    /// Puts both ends together: what `sender`'s connection sent, and what `receiver`'s got of it.
    ///
    /// Both may be of one recording. Where they are of two, times count from the earlier beginning.
    #[must_use]
    pub fn join(sender: (&Recording, ConnId), receiver: (&Recording, ConnId)) -> Self {
        let began = sender.0.began.min(receiver.0.began);
        let mut map = Self::default();
        for (recording, conn) in [sender, receiver] {
            let shift = recording.began.saturating_duration_since(began);
            let is_sender = conn == sender.1 && std::ptr::eq(recording, sender.0);
            let is_receiver = conn == receiver.1 && std::ptr::eq(recording, receiver.0);
            map.take(recording, conn, shift, (is_sender, is_receiver));
            if is_sender && is_receiver {
                break;
            }
        }
        map
    }

    /// What a connection sent: sends and writes, with what the peer got left empty.
    #[must_use]
    pub fn outgoing(recording: &Recording, conn: ConnId) -> Self {
        let mut map = Self::default();
        map.take(recording, conn, Duration::ZERO, (true, false));
        map
    }

    /// What a connection got: reads and frames, with what the peer did left empty. Enough to see
    /// how many frames a read holds, and which headers are split, where only one end is at hand.
    #[must_use]
    pub fn incoming(recording: &Recording, conn: ConnId) -> Self {
        let mut map = Self::default();
        map.take(recording, conn, Duration::ZERO, (false, true));
        map
    }

    /// What `send` accepted.
    #[must_use]
    pub fn sends(&self) -> &[Span] {
        &self.sends
    }

    /// What the kernel took.
    #[must_use]
    pub fn writes(&self) -> &[Span] {
        &self.writes
    }

    /// What the kernel gave.
    #[must_use]
    pub fn reads(&self) -> &[Span] {
        &self.reads
    }

    /// What was decoded.
    #[must_use]
    pub fn frames(&self) -> &[FrameSpan] {
        &self.frames
    }

    /// The writes that took bytes of a send; several where it was cut by the sender's kernel.
    #[must_use]
    pub fn writes_of_send(&self, send: usize) -> Range<usize> {
        touching(&self.writes, of(&self.sends, send))
    }

    /// The sends that a write took bytes of; several where the reactor gathered them.
    #[must_use]
    pub fn sends_of_write(&self, write: usize) -> Range<usize> {
        touching(&self.sends, of(&self.writes, write))
    }

    /// The reads that a send arrived in; several where it was cut.
    #[must_use]
    pub fn reads_of_send(&self, send: usize) -> Range<usize> {
        touching(&self.reads, of(&self.sends, send))
    }

    /// The sends that a read held bytes of; several where they were glued.
    #[must_use]
    pub fn sends_of_read(&self, read: usize) -> Range<usize> {
        touching(&self.sends, of(&self.reads, read))
    }

    /// The reads that a frame arrived in; several where it was split.
    #[must_use]
    pub fn reads_of_frame(&self, frame: usize) -> Range<usize> {
        let frame = self.frames.get(frame);
        touching(&self.reads, frame.map_or(0..0, |frame| frame.span.range()))
    }

    /// The frames that a read held bytes of.
    #[must_use]
    pub fn frames_of_read(&self, read: usize) -> Range<usize> {
        let range = of(&self.reads, read);
        let begin = self
            .frames
            .partition_point(|frame| frame.span.range().end <= range.start);
        let end = self
            .frames
            .partition_point(|frame| frame.span.offset < range.end);
        begin..end.max(begin)
    }

    /// The sends that arrived in one read with another, or with a part of one.
    pub fn glued_sends(&self) -> impl Iterator<Item = usize> {
        (0..self.sends.len()).filter(|send| {
            let mut reads = self.reads_of_send(*send);
            reads.any(|read| self.sends_of_read(read).len() > 1)
        })
    }

    /// The sends that arrived in several reads.
    pub fn cut_sends(&self) -> impl Iterator<Item = usize> {
        (0..self.sends.len()).filter(|send| self.reads_of_send(*send).len() > 1)
    }

    /// The frames that arrived in several reads.
    pub fn split_frames(&self) -> impl Iterator<Item = usize> {
        (0..self.frames.len()).filter(|frame| self.reads_of_frame(*frame).len() > 1)
    }

    /// The frames whose header, or whose delimiter, arrived in several reads: where a program that
    /// reads a header by one call is wrong.
    pub fn split_headers(&self) -> impl Iterator<Item = usize> {
        (0..self.frames.len()).filter(|frame| {
            let frame = &self.frames[*frame];
            let Range { start, end } = frame.span.range();
            let header = start..start + u64::from(frame.header_len);
            let trailer = end - u64::from(frame.trailer_len)..end;
            [header, trailer]
                .into_iter()
                .any(|part| touching(&self.reads, part).len() > 1)
        })
    }

    /// The first byte that `send` accepted and the kernel has not taken, if there is one.
    #[must_use]
    pub fn first_unsent(&self) -> Option<u64> {
        first_beyond(&self.sends, &self.writes)
    }

    /// The first byte that the sender's kernel took and no read has given, if there is one.
    #[must_use]
    pub fn first_unread(&self) -> Option<u64> {
        first_beyond(&self.writes, &self.reads)
    }

    /// The first byte that was read and is in no frame, nor before one, if there is one: the head
    /// of an unfinished frame, or what is held back from a paused connection.
    #[must_use]
    pub fn first_undelivered(&self) -> Option<u64> {
        let last = self.frames.last().map(|frame| frame.span);
        first_beyond(&self.reads, last.as_slice())
    }

    /// All of it in numbers.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let ends_in = |read: &Span| {
            let up_to = |offset| {
                self.frames
                    .partition_point(|frame| frame.span.range().end <= offset)
            };
            up_to(read.range().end) - up_to(read.offset)
        };
        Summary {
            sends: self.sends.len(),
            writes: self.writes.len(),
            reads: self.reads.len(),
            frames: self.frames.len(),
            glued_sends: self.glued_sends().count(),
            cut_sends: self.cut_sends().count(),
            split_frames: self.split_frames().count(),
            split_headers: self.split_headers().count(),
            frames_per_read_max: self.reads.iter().map(ends_in).max().unwrap_or(0),
            reads_of_frames: (0..self.frames.len())
                .map(|frame| self.reads_of_frame(frame).len())
                .sum(),
        }
    }

    /// Sorts a connection's events in, those of the one or the other direction or both.
    fn take(
        &mut self,
        recording: &Recording,
        conn: ConnId,
        shift: Duration,
        (is_sender, is_receiver): (bool, bool),
    ) {
        for event in &recording.events {
            if event.socket != SocketId::Conn(conn) {
                continue;
            }
            let span = span(event, shift);
            match event.kind {
                EventKind::Send if is_sender => self.sends.push(span),
                EventKind::Write if is_sender => self.writes.push(span),
                EventKind::Read if is_receiver => self.reads.push(span),
                EventKind::Frame {
                    header_len,
                    trailer_len,
                } if is_receiver => self.frames.push(FrameSpan {
                    span,
                    header_len,
                    trailer_len,
                }),
                _ => {}
            }
        }
    }
}

fn span(event: &Event, shift: Duration) -> Span {
    Span {
        offset: event.offset,
        len: event.len,
        at: event.at + shift,
    }
}

/// The bytes of one of `spans`; none where there is no such one.
fn of(spans: &[Span], index: usize) -> Range<u64> {
    spans.get(index).map_or(0..0, Span::range)
}

/// Which of `spans`, in their order, have a byte in `range`.
fn touching(spans: &[Span], range: Range<u64>) -> Range<usize> {
    if range.is_empty() {
        return 0..0;
    }
    let begin = spans.partition_point(|span| span.range().end <= range.start);
    let end = spans.partition_point(|span| span.offset < range.end);
    begin..end.max(begin)
}

/// The first byte of `spans` that lies behind all of `reached`.
fn first_beyond(spans: &[Span], reached: &[Span]) -> Option<u64> {
    let end = spans.last()?.range().end;
    let begin = spans.first()?.offset;
    let reached = reached.last().map_or(begin, |span| span.range().end);
    (reached < end).then_some(reached)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a bounded ring are far below 2^52"
)]
fn ratio(count: usize, of: usize) -> f64 {
    if of == 0 {
        0.0
    } else {
        count as f64 / of as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(lens: &[u64]) -> Vec<Span> {
        let mut offset = 0;
        let place = |len: &u64| {
            let at = Duration::ZERO;
            let span = Span {
                offset,
                len: *len,
                at,
            };
            offset += len;
            span
        };
        lens.iter().map(place).collect()
    }

    /// Frames with a header of two bytes, and an end of one.
    fn map(sends: &[u64], writes: &[u64], reads: &[u64]) -> CutMap {
        let frame = |span| FrameSpan {
            span,
            header_len: 2,
            trailer_len: 1,
        };
        CutMap {
            sends: spans(sends),
            writes: spans(writes),
            reads: spans(reads),
            frames: spans(sends).into_iter().map(frame).collect(),
        }
    }

    #[test]
    fn it_tells_glued_from_cut_from_both() {
        let map = map(&[10, 10, 10, 10], &[25, 15], &[10, 15, 15]);
        assert_eq!(map.glued_sends().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(map.cut_sends().collect::<Vec<_>>(), [2]);
        assert_eq!(map.reads_of_send(2), 1..3);
        assert_eq!(map.sends_of_read(1), 1..3);
        assert_eq!(map.writes_of_send(2), 0..2);
        assert_eq!(map.sends_of_write(0), 0..3);
        assert_eq!(map.frames_of_read(2), 2..4);
        let summary = map.summary();
        assert_eq!(summary.frames_per_read_max, 2);
        assert!((summary.frames_per_read() - 4.0 / 3.0).abs() < 1e-9);
        assert!((summary.reads_per_frame() - 5.0 / 4.0).abs() < 1e-9);
    }

    /// Every place of one cut in a frame of ten bytes: in the header (of two) and the end (of
    /// one), only a cut inside of it splits it.
    #[test]
    fn a_header_is_split_only_by_a_cut_inside_of_it() {
        for cut in 1..10 {
            let map = map(&[10], &[10], &[cut, 10 - cut]);
            let is_split = map.split_headers().next().is_some();
            assert_eq!(is_split, cut == 1, "cut at {cut}");
            assert_eq!(map.split_frames().count(), 1);
        }
        let at_the_edge = map(&[10, 10], &[20], &[10, 10]);
        assert_eq!(at_the_edge.split_frames().count(), 0);
    }

    #[test]
    fn what_is_under_way_is_told_by_its_first_byte() {
        let mut map = map(&[10, 10], &[15], &[12]);
        map.frames.truncate(1);
        assert_eq!(map.first_unsent(), Some(15));
        assert_eq!(map.first_unread(), Some(12));
        assert_eq!(map.first_undelivered(), Some(10));
        map.writes.clear();
        assert_eq!(map.first_unsent(), Some(0));
        assert_eq!(CutMap::default().first_unsent(), None);
    }

    #[test]
    fn an_index_that_names_nothing_is_answered_with_nothing() {
        let map = map(&[10], &[10], &[10]);
        assert!(map.reads_of_send(1).is_empty());
        assert!(map.frames_of_read(1).is_empty());
        assert!(map.reads_of_frame(1).is_empty());
        assert_eq!(CutMap::default().summary(), Summary::default());
    }
}
