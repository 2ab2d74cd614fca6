//! [`CutMap`]: one direction of a connection, joined from the recordings of its two ends.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::tls_records::{align, count_with_data, record};
use super::{Event, EventKind, Recording, TlsRecordSpan};
use crate::id::{ConnId, SocketId};

/// Bytes of a stream that were sent, written, read or decoded in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Span {
    /// Offset of the first byte in the stream.
    pub offset: u64,
    /// Number of bytes; at least one.
    pub len: u64,
    /// Time of the step; see [`Event::at`].
    pub at: Duration,
}

/// Position of a frame in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameSpan {
    /// All bytes of the frame, including header and trailer.
    pub span: Span,
    /// Number of bytes before the payload.
    pub header_len: u32,
    /// Number of bytes after the payload, such as those of a delimiter.
    pub trailer_len: u32,
}

/// One direction of a connection: sends and writes at one end, reads and frames at the other.
///
/// Each of the four lists is ordered by offset and normally has no gaps: an entry begins at the end
/// of the previous entry. The lists end at the same offset, except for bytes in transit: see
/// [`first_unsent`](CutMap::first_unsent), [`first_unread`](CutMap::first_unread) and
/// [`first_undelivered`](CutMap::first_undelivered).
///
/// These things cause gaps:
///
/// * If a recording [overwrote](Recording::overwritten) old events, its lists begin late.
/// * While a connection is not recorded, its lists get no entries.
/// * Bytes that a codec skipped belong to no frame.
///
/// With TLS, the map also has the [records sent](CutMap::tls_records_sent) and the [records
/// received](CutMap::tls_records_received). The offsets of writes and reads are then offsets on the
/// wire, and those of sends and frames are offsets of the plaintext. A write or read contains a
/// byte of a send or frame if it contains any byte of the TLS record of that byte.
///
/// Methods take and return indices into the lists. For an index out of range, the result is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CutMap {
    pub(super) sends: Vec<Span>,
    pub(super) tls_records_sent: Vec<TlsRecordSpan>,
    pub(super) writes: Vec<Span>,
    pub(super) reads: Vec<Span>,
    pub(super) tls_records_received: Vec<TlsRecordSpan>,
    pub(super) frames: Vec<FrameSpan>,
}

/// Statistics of a [`CutMap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Number of payloads that `send` accepted.
    pub sends: usize,
    /// Number of writes of which the kernel took at least one byte.
    pub writes: usize,
    /// Number of reads that returned at least one byte.
    pub reads: usize,
    /// Number of decoded frames.
    pub frames: usize,
    /// Number of sends that share a read with another send or a part of another send.
    pub glued_sends: usize,
    /// Number of sends that arrived in several reads.
    pub cut_sends: usize,
    /// Number of frames that arrived in several reads.
    pub split_frames: usize,
    /// Number of frames whose header or trailer arrived in several reads; with TLS, in several
    /// records.
    pub split_headers: usize,
    /// Maximum number of frames that ended in one read.
    pub frames_per_read_max: usize,
    /// Number of sent TLS records that contain application data.
    pub tls_records_sent: usize,
    /// Number of received TLS records that contain application data.
    pub tls_records_received: usize,
    /// Number of sends that share a TLS record with another send or a part of another send.
    pub sends_glued_in_records: usize,
    /// Number of sends whose bytes are in several TLS records.
    pub sends_cut_by_records: usize,
    /// Number of TLS records with application data that share a read with another such record or a
    /// part of one.
    pub glued_tls_records: usize,
    /// Number of TLS records with application data that arrived in several reads.
    pub cut_tls_records: usize,
    /// Sum, over all frames, of the number of reads in which the frame arrived.
    reads_of_frames: usize,
}

impl Summary {
    /// Returns the average number of frames per read; zero if there was no read.
    #[must_use]
    pub fn frames_per_read(&self) -> f64 {
        ratio(self.frames, self.reads)
    }

    /// Returns the average number of reads per frame; zero if there was no frame.
    #[must_use]
    pub fn reads_per_frame(&self) -> f64 {
        ratio(self.reads_of_frames, self.frames)
    }
}

impl Span {
    /// Returns the stream offsets of the bytes.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.len)
    }
}

impl CutMap {
    /// Joins both ends: the sends and writes of the `sender` connection, and the reads and frames
    /// of the `receiver` connection.
    ///
    /// Both ends may come from one recording. With two recordings, times count from the earlier
    /// start.
    #[must_use]
    pub fn join(sender: (&Recording, ConnId), receiver: (&Recording, ConnId)) -> Self {
        let began = sender.0.began.min(receiver.0.began);
        let mut map = Self::of_conn(sender, began);
        let mut received = Self::of_conn(receiver, began);
        align(&mut map, &mut received);
        (map.reads, map.frames) = (received.reads, received.frames);
        map.tls_records_received = received.tls_records_received;
        map
    }

    /// Returns a map of the sends, TLS records and writes of a connection. Its other lists are
    /// empty.
    #[must_use]
    pub fn outgoing(recording: &Recording, conn: ConnId) -> Self {
        let mut map = Self::of_conn((recording, conn), recording.began);
        (map.reads, map.tls_records_received, map.frames) = Default::default();
        map
    }

    /// Returns a map of the reads, TLS records and frames of a connection. Its other lists are
    /// empty.
    ///
    /// The recording of one end is enough to find the number of frames per read and the split
    /// headers.
    #[must_use]
    pub fn incoming(recording: &Recording, conn: ConnId) -> Self {
        let mut map = Self::of_conn((recording, conn), recording.began);
        (map.sends, map.tls_records_sent, map.writes) = Default::default();
        map
    }

    /// Returns the sends: payloads that `send` accepted, with their framing.
    #[must_use]
    pub fn sends(&self) -> &[Span] {
        &self.sends
    }

    /// Returns the writes: bytes that the sender's kernel took in one call.
    #[must_use]
    pub fn writes(&self) -> &[Span] {
        &self.writes
    }

    /// Returns the reads: bytes that the receiver's kernel returned in one call.
    #[must_use]
    pub fn reads(&self) -> &[Span] {
        &self.reads
    }

    /// Returns the decoded frames.
    #[must_use]
    pub fn frames(&self) -> &[FrameSpan] {
        &self.frames
    }

    /// Returns the writes that contain bytes of a send; several if the sender's kernel cut the
    /// send.
    #[must_use]
    pub fn writes_of_send(&self, send: usize) -> Range<usize> {
        touching(&self.writes, self.wire_of_sent(of(&self.sends, send)))
    }

    /// Returns the sends whose bytes a write contains; several if the reactor batched the sends.
    #[must_use]
    pub fn sends_of_write(&self, write: usize) -> Range<usize> {
        touching(&self.sends, self.sent_on_wire(of(&self.writes, write)))
    }

    /// Returns the reads that contain bytes of a send; several if the send was cut.
    #[must_use]
    pub fn reads_of_send(&self, send: usize) -> Range<usize> {
        touching(&self.reads, self.wire_of_sent(of(&self.sends, send)))
    }

    /// Returns the sends whose bytes a read contains; several if the sends were glued.
    #[must_use]
    pub fn sends_of_read(&self, read: usize) -> Range<usize> {
        touching(&self.sends, self.sent_on_wire(of(&self.reads, read)))
    }

    /// Returns the reads that contain bytes of a frame; several if the frame was split.
    #[must_use]
    pub fn reads_of_frame(&self, frame: usize) -> Range<usize> {
        let frame = self.frames.get(frame);
        let range = frame.map_or(0..0, |frame| frame.span.range());
        touching(&self.reads, self.wire_of_received(range))
    }

    /// Returns the frames whose bytes a read contains.
    #[must_use]
    pub fn frames_of_read(&self, read: usize) -> Range<usize> {
        let range = self.received_on_wire(of(&self.reads, read));
        touching_by(&self.frames, range, |frame| frame.span)
    }

    /// Returns the sends that share a read with another send or a part of another send.
    pub fn glued_sends(&self) -> impl Iterator<Item = usize> {
        (0..self.sends.len()).filter(|send| {
            let mut reads = self.reads_of_send(*send);
            reads.any(|read| self.sends_of_read(read).len() > 1)
        })
    }

    /// Returns the sends that arrived in several reads.
    pub fn cut_sends(&self) -> impl Iterator<Item = usize> {
        (0..self.sends.len()).filter(|send| self.reads_of_send(*send).len() > 1)
    }

    /// Returns the frames that arrived in several reads.
    pub fn split_frames(&self) -> impl Iterator<Item = usize> {
        (0..self.frames.len()).filter(|frame| self.reads_of_frame(*frame).len() > 1)
    }

    /// Returns the frames whose header or trailer arrived in several reads; with TLS, in several
    /// records, because a library for TLS returns whole records.
    ///
    /// A program that expects a whole header from one read fails on these frames.
    pub fn split_headers(&self) -> impl Iterator<Item = usize> {
        (0..self.frames.len()).filter(|frame| {
            let frame = &self.frames[*frame];
            let Range { start, end } = frame.span.range();
            let header = start..start + u64::from(frame.header_len);
            let trailer = end - u64::from(frame.trailer_len)..end;
            [header, trailer]
                .into_iter()
                .any(|part| match self.has_tls() {
                    true => touching_by(&self.tls_records_received, part, |it| it.span).len() > 1,
                    false => touching(&self.reads, part).len() > 1,
                })
        })
    }

    /// Returns the offset of the first byte that `send` accepted and the kernel has not taken, if
    /// there is one.
    #[must_use]
    pub fn first_unsent(&self) -> Option<u64> {
        match self.has_tls() {
            true => self.first_unsent_of_tls(),
            false => first_beyond(&self.sends, &self.writes),
        }
    }

    /// Returns the offset of the first byte that the sender's kernel took and no read has returned,
    /// if there is one. With TLS, it is an offset on the wire.
    #[must_use]
    pub fn first_unread(&self) -> Option<u64> {
        first_beyond(&self.writes, &self.reads)
    }

    /// Returns the offset of the first byte after the last frame, if this byte was read. With TLS,
    /// the byte must also be decrypted.
    ///
    /// That byte begins a partial frame, bytes that a paused connection has not delivered, or bytes
    /// that a codec skipped.
    #[must_use]
    pub fn first_undelivered(&self) -> Option<u64> {
        let last = self.frames.last().map(|frame| frame.span);
        match self.has_tls() {
            true => self.first_undelivered_of_tls(last),
            false => first_beyond(&self.reads, last.as_slice()),
        }
    }

    /// Returns the statistics of the map.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let ends_in = |read: &Span| {
            let ends = |frame: &FrameSpan| self.wire_of_received(frame.span.range()).end;
            let up_to = |offset| self.frames.partition_point(|frame| ends(frame) <= offset);
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
            tls_records_sent: count_with_data(&self.tls_records_sent),
            tls_records_received: count_with_data(&self.tls_records_received),
            sends_glued_in_records: self.sends_glued_in_records().count(),
            sends_cut_by_records: self.sends_cut_by_records().count(),
            glued_tls_records: self.glued_tls_records().count(),
            cut_tls_records: self.cut_tls_records().count(),
            reads_of_frames: (0..self.frames.len())
                .map(|frame| self.reads_of_frame(frame).len())
                .sum(),
        }
    }

    /// Returns the events of a connection in both directions. Times count from `began`.
    fn of_conn((recording, conn): (&Recording, ConnId), began: Instant) -> Self {
        let shift = recording.began.saturating_duration_since(began);
        let mut map = Self::default();
        let is_own = |event: &&Event| event.socket == SocketId::Conn(conn);
        for event in recording.events.iter().filter(is_own) {
            let span = Span {
                offset: event.offset,
                len: event.len,
                at: event.at + shift,
            };
            match event.kind {
                EventKind::Send => map.sends.push(span),
                EventKind::Write => map.writes.push(span),
                EventKind::Read => map.reads.push(span),
                EventKind::TlsRecordSent { .. } => map.tls_records_sent.extend(record(event, span)),
                EventKind::TlsRecordReceived { .. } => {
                    map.tls_records_received.extend(record(event, span));
                }
                EventKind::Frame {
                    header_len,
                    trailer_len,
                } => map.frames.push(FrameSpan {
                    span,
                    header_len,
                    trailer_len,
                }),
                _ => {}
            }
        }
        map
    }
}

/// Returns the stream offsets of `spans[index]`; empty if the index is out of range.
pub(super) fn of(spans: &[Span], index: usize) -> Range<u64> {
    spans.get(index).map_or(0..0, Span::range)
}

/// Returns the indices of the `spans` that contain a byte of `range`.
pub(super) fn touching(spans: &[Span], range: Range<u64>) -> Range<usize> {
    touching_by(spans, range, |span| *span)
}

/// Returns the indices of the `items` whose span contains a byte of `range`.
pub(super) fn touching_by<T>(items: &[T], range: Range<u64>, span: fn(&T) -> Span) -> Range<usize> {
    if range.is_empty() {
        return 0..0;
    }
    let begin = items.partition_point(|item| span(item).range().end <= range.start);
    let end = items.partition_point(|item| span(item).offset < range.end);
    begin..end.max(begin)
}

/// Returns the offset of the first byte of `spans` after the end of `reached`.
pub(super) fn first_beyond(spans: &[Span], reached: &[Span]) -> Option<u64> {
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
        let next_span = |len: &u64| {
            let at = Duration::ZERO;
            let span = Span {
                offset,
                len: *len,
                at,
            };
            offset += len;
            span
        };
        lens.iter().map(next_span).collect()
    }

    /// Returns a map in which every frame has a 2-byte header and a 1-byte trailer.
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
            ..CutMap::default()
        }
    }

    #[test]
    fn glued_and_cut_sends_are_found() {
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

    /// Cuts a 10-byte frame at every position. Only a cut inside the 2-byte header splits a header.
    #[test]
    fn header_is_split_only_by_a_cut_inside_it() {
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
    fn bytes_in_transit_are_reported_by_their_first_offset() {
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
    fn index_out_of_range_has_an_empty_result() {
        let map = map(&[10], &[10], &[10]);
        assert!(map.reads_of_send(1).is_empty());
        assert!(map.frames_of_read(1).is_empty());
        assert!(map.reads_of_frame(1).is_empty());
        assert_eq!(CutMap::default().summary(), Summary::default());
    }
}
