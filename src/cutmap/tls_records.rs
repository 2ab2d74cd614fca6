//! The TLS records of a cut map: a layer between the plaintext and the bytes on the wire.

use std::ops::Range;

use super::map::{first_beyond, of, touching, touching_by};
use super::{CutMap, Event, EventKind, Span};

/// Position of a TLS record in the plaintext and on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsRecordSpan {
    /// The plaintext of the record, in the stream of the sends and frames. Its length is zero for a
    /// record without application data, such as a record of the handshake or an alert.
    pub span: Span,
    /// The whole record, in the stream of the writes and reads.
    pub wire: Span,
}

impl TlsRecordSpan {
    fn has_data(&self) -> bool {
        self.span.len > 0
    }
}

impl Event {
    /// Returns the bytes of a TLS record on the wire; `None` for other events.
    pub(super) fn wire(&self) -> Option<Span> {
        match self.kind {
            EventKind::TlsRecordSent {
                wire_offset,
                wire_len,
            }
            | EventKind::TlsRecordReceived {
                wire_offset,
                wire_len,
            } => Some(Span {
                offset: wire_offset,
                len: u64::from(wire_len),
                at: self.at,
            }),
            _ => None,
        }
    }
}

/// Returns the record of an event whose plaintext is `span`.
pub(super) fn record(event: &Event, span: Span) -> Option<TlsRecordSpan> {
    let wire = Span {
        at: span.at,
        ..event.wire()?
    };
    Some(TlsRecordSpan { span, wire })
}

/// Returns the number of records with application data.
pub(super) fn count_with_data(records: &[TlsRecordSpan]) -> usize {
    records.iter().filter(|record| record.has_data()).count()
}

/// Makes the offsets on the wire of both ends equal. If the recording of one end started later, the
/// offsets of the two ends differ. Compares the ends at the first record that both of them have,
/// and increases all offsets of the end with the lower offset.
pub(super) fn align(sender: &mut CutMap, receiver: &mut CutMap) {
    let received = receiver.tls_records_received.iter();
    let received: Vec<_> = received.filter(|record| record.has_data()).collect();
    let both = sender.tls_records_sent.iter().find_map(|sent| {
        let key = |record: &&TlsRecordSpan| record.span.offset;
        let index = received.binary_search_by_key(&sent.span.offset, key).ok();
        Some((sent.wire.offset, received[index?].wire.offset)).filter(|_| sent.has_data())
    });
    let Some((sent, received)) = both else {
        return;
    };
    let CutMap {
        tls_records_received,
        reads,
        ..
    } = receiver;
    shift(tls_records_received, reads, sent.saturating_sub(received));
    let CutMap {
        tls_records_sent,
        writes,
        ..
    } = sender;
    shift(tls_records_sent, writes, received.saturating_sub(sent));
}

/// Increases the offsets on the wire.
fn shift(records: &mut [TlsRecordSpan], spans: &mut [Span], distance: u64) {
    let wires = records.iter_mut().map(|record| &mut record.wire);
    wires
        .chain(spans)
        .for_each(|span| span.offset = span.offset.saturating_add(distance));
}

/// Records of TLS. Without TLS, all lists and results of these methods are empty.
impl CutMap {
    /// Returns the TLS records that the sender encrypted, including those of the handshake if they
    /// were recorded.
    #[must_use]
    pub fn tls_records_sent(&self) -> &[TlsRecordSpan] {
        &self.tls_records_sent
    }

    /// Returns the TLS records that the receiver decrypted, including those of the handshake if
    /// they were recorded.
    #[must_use]
    pub fn tls_records_received(&self) -> &[TlsRecordSpan] {
        &self.tls_records_received
    }

    /// Returns the sent records that contain bytes of a send; several if a record ended within the
    /// send.
    #[must_use]
    pub fn tls_records_of_send(&self, send: usize) -> Range<usize> {
        by_plaintext(&self.tls_records_sent, of(&self.sends, send))
    }

    /// Returns the sends whose bytes a sent record contains; several if the record glued them.
    #[must_use]
    pub fn sends_of_tls_record(&self, record: usize) -> Range<usize> {
        let record = self.tls_records_sent.get(record);
        touching(&self.sends, record.map_or(0..0, |it| it.span.range()))
    }

    /// Returns the writes that contain bytes of a sent record; several if the sender's kernel cut
    /// the record.
    #[must_use]
    pub fn writes_of_tls_record(&self, record: usize) -> Range<usize> {
        let record = self.tls_records_sent.get(record);
        touching(&self.writes, record.map_or(0..0, |it| it.wire.range()))
    }

    /// Returns the reads that contain bytes of a received record; several if the record was cut.
    #[must_use]
    pub fn reads_of_tls_record(&self, record: usize) -> Range<usize> {
        let record = self.tls_records_received.get(record);
        touching(&self.reads, record.map_or(0..0, |it| it.wire.range()))
    }

    /// Returns the received records whose bytes a read contains; several if the records were glued.
    #[must_use]
    pub fn tls_records_of_read(&self, read: usize) -> Range<usize> {
        by_wire(&self.tls_records_received, of(&self.reads, read))
    }

    /// Returns the received records that contain bytes of a frame.
    #[must_use]
    pub fn tls_records_of_frame(&self, frame: usize) -> Range<usize> {
        let frame = self.frames.get(frame);
        let range = frame.map_or(0..0, |frame| frame.span.range());
        by_plaintext(&self.tls_records_received, range)
    }

    /// Returns the frames whose bytes a received record contains.
    #[must_use]
    pub fn frames_of_tls_record(&self, record: usize) -> Range<usize> {
        let record = self.tls_records_received.get(record);
        let range = record.map_or(0..0, |it| it.span.range());
        touching_by(&self.frames, range, |frame| frame.span)
    }

    /// Returns the sends that share a TLS record with another send or a part of another send.
    pub fn sends_glued_in_records(&self) -> impl Iterator<Item = usize> {
        (0..self.sends.len()).filter(|send| {
            let mut records = self.tls_records_of_send(*send);
            records.any(|record| self.sends_of_tls_record(record).len() > 1)
        })
    }

    /// Returns the sends whose bytes are in several TLS records.
    pub fn sends_cut_by_records(&self) -> impl Iterator<Item = usize> {
        (0..self.sends.len()).filter(|send| {
            let records = self.tls_records_of_send(*send);
            is_several(&self.tls_records_sent[records])
        })
    }

    /// Returns the received records with application data that share a read with another such
    /// record or a part of one.
    pub fn glued_tls_records(&self) -> impl Iterator<Item = usize> {
        self.received_with_data().filter(|record| {
            let mut reads = self.reads_of_tls_record(*record);
            reads.any(|read| is_several(&self.tls_records_received[self.tls_records_of_read(read)]))
        })
    }

    /// Returns the received records with application data that arrived in several reads.
    pub fn cut_tls_records(&self) -> impl Iterator<Item = usize> {
        self.received_with_data()
            .filter(|record| self.reads_of_tls_record(*record).len() > 1)
    }

    /// Returns the offset on the wire of the first byte that was read after the last decrypted
    /// record, if there is one. That byte begins an incomplete record.
    #[must_use]
    pub fn first_undecrypted(&self) -> Option<u64> {
        let begin = self.tls_records_sent.first().map(|first| Span {
            len: 0,
            ..first.wire
        });
        let last = self.tls_records_received.last().map(|last| last.wire);
        let reached = last.or(begin)?;
        first_beyond(&self.reads, &[reached])
    }

    fn received_with_data(&self) -> impl Iterator<Item = usize> {
        let records = self.tls_records_received.iter().enumerate();
        records.filter_map(|(index, record)| record.has_data().then_some(index))
    }
}

/// Conversions between the two streams of a connection with TLS: the plaintext, and the bytes on
/// the wire.
///
/// Before the start of TLS, the two streams are equal.
impl CutMap {
    /// Returns true if the map contains TLS records.
    pub(super) fn has_tls(&self) -> bool {
        !(self.tls_records_sent.is_empty() && self.tls_records_received.is_empty())
    }

    /// Returns the records of the sender. If the map has none of them, returns the records of the
    /// receiver.
    fn as_sent(&self) -> &[TlsRecordSpan] {
        match self.tls_records_sent.is_empty() {
            true => &self.tls_records_received,
            false => &self.tls_records_sent,
        }
    }

    /// Returns the records of the receiver. If the map has none of them, returns the records of the
    /// sender.
    fn as_received(&self) -> &[TlsRecordSpan] {
        match self.tls_records_received.is_empty() {
            true => &self.tls_records_sent,
            false => &self.tls_records_received,
        }
    }

    /// Returns the bytes on the wire that carry the plaintext `range` of the sender.
    pub(super) fn wire_of_sent(&self, range: Range<u64>) -> Range<u64> {
        wire_of(self.as_sent(), range)
    }

    /// Returns the plaintext of the sender in the bytes `range` on the wire.
    pub(super) fn sent_on_wire(&self, range: Range<u64>) -> Range<u64> {
        plaintext_of(self.as_sent(), range)
    }

    /// Returns the bytes on the wire that carry the plaintext `range` of the receiver.
    pub(super) fn wire_of_received(&self, range: Range<u64>) -> Range<u64> {
        wire_of(self.as_received(), range)
    }

    /// Returns the plaintext of the receiver in the bytes `range` on the wire.
    pub(super) fn received_on_wire(&self, range: Range<u64>) -> Range<u64> {
        plaintext_of(self.as_received(), range)
    }

    /// Returns the plaintext offset of the first byte whose record the kernel has not taken whole,
    /// if there is one.
    pub(super) fn first_unsent_of_tls(&self) -> Option<u64> {
        let written = self.writes.last().map_or(0, |write| write.range().end);
        let is_unsent = |it: &&TlsRecordSpan| it.has_data() && it.wire.range().end > written;
        let record = self.tls_records_sent.iter().find(is_unsent);
        let reached = self.tls_records_sent.last().map(|last| last.span);
        record
            .map(|record| record.span.offset)
            .or_else(|| first_beyond(&self.sends, reached.as_slice()))
    }

    /// Returns the plaintext offset of the first decrypted byte after `last`, the last frame.
    /// Returns `None` if no byte after `last` was decrypted.
    pub(super) fn first_undelivered_of_tls(&self, last: Option<Span>) -> Option<u64> {
        let begin = self.tls_records_received.first()?.span.offset;
        let end = self.tls_records_received.last()?.span.range().end;
        let reached = last.map_or(begin, |last| last.range().end);
        (reached < end).then_some(reached)
    }
}

fn by_plaintext(records: &[TlsRecordSpan], range: Range<u64>) -> Range<usize> {
    touching_by(records, range, |record| record.span)
}

fn by_wire(records: &[TlsRecordSpan], range: Range<u64>) -> Range<usize> {
    touching_by(records, range, |record| record.wire)
}

/// Returns true if several of the records have application data.
fn is_several(records: &[TlsRecordSpan]) -> bool {
    let mut records = records.iter().filter(|record| record.has_data());
    records.nth(1).is_some()
}

/// Returns the number of bytes before the start of TLS; 0 if it is unknown. `first` is the oldest
/// record that the recording still has. A record is longer on the wire than its plaintext, so the
/// two offsets of `first` are equal only if no record came before it.
fn plain_end(first: &TlsRecordSpan) -> u64 {
    match first.span.offset == first.wire.offset {
        true => first.span.offset,
        false => 0,
    }
}

/// Returns the bytes on the wire that carry a range of plaintext: all bytes of each record that
/// contains a byte of the range.
fn wire_of(records: &[TlsRecordSpan], range: Range<u64>) -> Range<u64> {
    let Some(first) = records.first() else {
        return range;
    };
    let plain_end = plain_end(first);
    if range.end <= plain_end {
        return range;
    }
    let Some((start, end)) = ends(&records[by_plaintext(records, range.clone())]) else {
        return 0..0;
    };
    match range.start < plain_end {
        true => range.start..end.wire.range().end,
        false => start.wire.offset..end.wire.range().end,
    }
}

/// Returns the plaintext in a range of bytes on the wire: the whole plaintext of each record that
/// has a byte in the range.
fn plaintext_of(records: &[TlsRecordSpan], range: Range<u64>) -> Range<u64> {
    let Some(first) = records.first() else {
        return range;
    };
    let plain_end = plain_end(first);
    if range.end <= plain_end {
        return range;
    }
    let Some((start, end)) = ends(&records[by_wire(records, range.clone())]) else {
        return 0..0;
    };
    match range.start < plain_end {
        true => range.start..end.span.range().end,
        false => start.span.offset..end.span.range().end,
    }
}

/// Returns the first and the last record.
fn ends(records: &[TlsRecordSpan]) -> Option<(&TlsRecordSpan, &TlsRecordSpan)> {
    records.first().zip(records.last())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cutmap::FrameSpan;

    fn span(offset: u64, len: u64) -> Span {
        let at = Duration::ZERO;
        Span { offset, len, at }
    }

    fn spans(begin: u64, lens: &[u64]) -> Vec<Span> {
        let mut offset = begin;
        let next = |len: &u64| {
            offset += len;
            span(offset - len, *len)
        };
        lens.iter().map(next).collect()
    }

    /// Returns records whose plaintexts have the lengths `lens`. The records begin after `begin`
    /// bytes without TLS. Each record has 20 more bytes on the wire than its plaintext.
    fn records(begin: u64, lens: &[u64]) -> Vec<TlsRecordSpan> {
        let wire: Vec<_> = lens.iter().map(|len| len + 20).collect();
        let pairs = spans(begin, lens).into_iter().zip(spans(begin, &wire));
        pairs
            .map(|(span, wire)| TlsRecordSpan { span, wire })
            .collect()
    }

    /// Returns a map without plaintext in transit. The frames are the sends, and have a header of
    /// two bytes.
    fn map(sends: &[u64], records_of: &[u64], writes: &[u64], reads: &[u64]) -> CutMap {
        let frame = |span| FrameSpan {
            span,
            header_len: 2,
            trailer_len: 0,
        };
        CutMap {
            sends: spans(0, sends),
            tls_records_sent: records(0, records_of),
            writes: spans(0, writes),
            reads: spans(0, reads),
            tls_records_received: records(0, records_of),
            frames: spans(0, sends).into_iter().map(frame).collect(),
        }
    }

    /// A record of the handshake comes first. Send 2 is in two records, and record 2 in two reads.
    #[test]
    fn records_glue_and_cut_sends_and_are_glued_and_cut_by_reads() {
        let map = map(&[10, 10, 20], &[0, 25, 15], &[100], &[30, 50, 20]);
        assert_eq!(map.sends_glued_in_records().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(map.sends_cut_by_records().collect::<Vec<_>>(), [2]);
        assert_eq!(map.tls_records_of_send(2), 1..3);
        assert_eq!(map.sends_of_tls_record(1), 0..3);
        assert_eq!(map.sends_of_tls_record(0), 0..0);
        // Wire: record 0 is 0..20, record 1 is 20..65, record 2 is 65..100.
        assert_eq!(map.tls_records_of_read(0), 0..2);
        assert_eq!(map.tls_records_of_read(1), 1..3);
        assert_eq!(map.reads_of_tls_record(1), 0..2);
        assert_eq!(map.reads_of_send(0), 0..2);
        assert_eq!(map.reads_of_send(2), 0..3);
        assert_eq!(map.sends_of_read(2), 2..3);
        assert_eq!(map.writes_of_tls_record(2), 0..1);
        assert_eq!(map.writes_of_send(1), 0..1);
        assert_eq!(map.sends_of_write(0), 0..3);
        assert_eq!(map.cut_tls_records().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(map.glued_tls_records().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(map.frames_of_tls_record(2), 2..3);
        assert_eq!(map.tls_records_of_frame(0), 1..2);
        assert_eq!(map.frames_of_read(2), 2..3);
        let sum = map.summary();
        assert_eq!((sum.tls_records_sent, sum.tls_records_received), (2, 2));
        assert_eq!(sum.frames_per_read_max, 2);
        assert_eq!(sum.split_headers, 0, "each header is in one record");
    }

    /// Cuts a record of one frame at every byte of the wire. The header of the frame stays whole,
    /// because a record is decrypted as a whole.
    #[test]
    fn header_is_split_only_by_records() {
        for cut in 1..30 {
            let map = map(&[10], &[10], &[30], &[cut, 30 - cut]);
            assert_eq!(map.split_headers().count(), 0, "cut at {cut}");
            assert_eq!(map.split_frames().count(), 1);
            assert_eq!(map.cut_tls_records().count(), 1);
        }
        for cut in 1..10 {
            let map = map(&[10], &[cut, 10 - cut], &[50], &[50]);
            assert_eq!(map.split_headers().count(), usize::from(cut == 1));
            assert_eq!(map.split_frames().count(), 0);
        }
    }

    /// Plain bytes come first: one send of 10 bytes, in one write and one read.
    #[test]
    fn bytes_before_the_start_of_tls_are_on_the_wire_unchanged() {
        let mut map = map(&[10, 6], &[], &[10, 20, 26], &[10, 20, 26]);
        map.tls_records_sent = records(10, &[0, 6]);
        map.tls_records_received = records(10, &[0, 6]);
        assert_eq!(map.reads_of_send(0), 0..1);
        assert_eq!(map.sends_of_read(0), 0..1);
        assert_eq!(map.reads_of_frame(1), 2..3);
        assert_eq!(map.frames_of_read(1), 0..0);
        assert_eq!(map.frames_of_read(2), 1..2);
        // A send across the start of TLS has bytes without TLS and bytes in a record.
        map.sends = spans(0, &[16]);
        assert_eq!(map.reads_of_send(0), 0..3);
    }

    /// A recording keeps only its newest events. So it can contain a write without the first record
    /// of this write.
    #[test]
    fn bytes_of_a_missing_record_are_not_plaintext() {
        let mut map = map(&[10, 10, 10], &[10, 20], &[30, 40], &[30, 40]);
        map.tls_records_sent.remove(0);
        map.tls_records_received.remove(0);
        assert_eq!(map.sends_of_write(0), 0..0);
        assert_eq!(map.sends_of_write(1), 1..3);
        assert_eq!(map.frames_of_read(0), 0..0);
        assert_eq!(map.writes_of_send(0), 0..0);
        assert_eq!(map.writes_of_send(1), 1..2);
    }

    #[test]
    fn bytes_of_tls_in_transit_are_reported() {
        let mut map = map(&[10, 10, 10], &[10, 10, 10], &[60], &[45]);
        map.tls_records_received.truncate(1);
        map.frames.clear();
        assert_eq!(map.first_unsent(), Some(20), "the third record is unsent");
        assert_eq!(map.first_unread(), Some(45));
        assert_eq!(map.first_undecrypted(), Some(30));
        assert_eq!(map.first_undelivered(), Some(0));
        map.writes = spans(0, &[90]);
        assert_eq!(map.first_unsent(), None);
        map.sends = spans(0, &[10, 10, 10, 10]);
        assert_eq!(map.first_unsent(), Some(30), "it is not encrypted");
        assert!(map.reads_of_send(3).is_empty());
        map.tls_records_received.clear();
        assert_eq!(map.first_undecrypted(), Some(0));
        assert_eq!(CutMap::default().first_undecrypted(), None);
        assert!(map.reads_of_tls_record(9).is_empty());
        assert!(map.sends_of_tls_record(9).is_empty());
    }
}
