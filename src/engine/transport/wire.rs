//! The bytes of a filter on the wire: their counts, and their log while the connection is recorded.
//!
//! The filter logs its reads, writes and records, because it knows neither the recorder nor the
//! clock. The engine moves the log to the recorder after each read and each write.

use std::collections::VecDeque;

use crate::cutmap::EventKind;

/// Length of the header of a TLS record: its type, version and length (RFC 8446, 5.1).
const HEADER_LEN: usize = 5;
/// Minimum expansion of a record by its header and authentication tag, in bytes.
const EXPANSION_MIN: usize = HEADER_LEN + 8;

/// An event for the recorder: its type, offset and length.
pub(in crate::engine) type WireEvent = (EventKind, u64, u64);

/// Number of bytes on the wire, counted from the start of the connection. Bytes that were sent
/// before TLS started are counted too, so both ends have equal counts.
#[derive(Debug, Default)]
pub(super) struct WireCounts {
    /// Number of bytes that the socket took.
    written: u64,
    /// Number of bytes that the socket returned.
    read: u64,
    /// The log, while the connection is recorded.
    log: Option<Box<WireLog>>,
}

/// Log of a filter since the engine took it last.
#[derive(Debug)]
struct WireLog {
    events: Vec<WireEvent>,
    /// Number of plaintext bytes that were encrypted, counted from the start of the connection.
    encrypted: u64,
    /// Number of plaintext bytes that were decrypted, counted from the start of the connection.
    decrypted: u64,
    /// Offset on the wire of the first byte that the session has not processed.
    processed: u64,
    scanner: RecordScanner,
}

impl WireCounts {
    /// Creates the counts of a connection at the start of TLS.
    pub(super) fn starting_at(written: u64, read: u64) -> Self {
        let log = None;
        Self { written, read, log }
    }

    pub(super) fn is_logged(&self) -> bool {
        self.log.is_some()
    }

    pub(super) fn end_log(&mut self) {
        self.log = None;
    }

    /// Starts the log. `encrypted` and `decrypted` are the numbers of plaintext bytes so far.
    /// `unprocessed` are the bytes that were read and not processed; the first of them begins a
    /// record.
    pub(super) fn start_log(&mut self, encrypted: u64, decrypted: u64, unprocessed: &[u8]) {
        let processed = self.read.saturating_sub(unprocessed.len() as u64);
        let mut scanner = RecordScanner {
            begin: processed,
            ..RecordScanner::default()
        };
        scanner.scan(unprocessed);
        self.log = Some(Box::new(WireLog {
            events: Vec::new(),
            encrypted,
            decrypted,
            processed,
            scanner,
        }));
    }

    /// Returns the events, and removes them from the log.
    pub(super) fn take_events(&mut self) -> Vec<WireEvent> {
        let log = self.log.as_mut();
        log.map(|log| std::mem::take(&mut log.events))
            .unwrap_or_default()
    }

    /// Counts the bytes of a read.
    pub(super) fn count_read(&mut self, bytes: &[u8]) {
        let offset = self.read;
        self.read += bytes.len() as u64;
        if let Some(log) = &mut self.log {
            let event = (EventKind::Read, offset, bytes.len() as u64);
            log.events.push(event);
            log.scanner.scan(bytes);
        }
    }

    /// Counts the bytes of a write.
    pub(super) fn count_written(&mut self, len: usize) {
        let offset = self.written;
        self.written += len as u64;
        if let Some(log) = &mut self.log {
            log.events.push((EventKind::Write, offset, len as u64));
        }
    }

    /// Logs received records: the session has processed `len` more bytes, and the last record had
    /// `plain_len` bytes of application data.
    pub(super) fn log_received(&mut self, len: usize, plain_len: usize) {
        let Some(log) = self.log.as_deref_mut() else {
            return;
        };
        log.processed += len as u64;
        let records = &mut log.scanner.records;
        while let Some((begin, wire_len)) = records.front().copied()
            && begin + u64::from(wire_len) <= log.processed
        {
            records.pop_front();
            let is_last = records
                .front()
                .is_none_or(|(begin, wire_len)| begin + u64::from(*wire_len) > log.processed);
            let plain_len = if is_last { plain_len as u64 } else { 0 };
            let kind = EventKind::TlsRecordReceived {
                wire_offset: begin,
                wire_len,
            };
            log.events.push((kind, log.decrypted, plain_len));
            log.decrypted += plain_len;
        }
    }

    /// Logs records that are queued for a write, with `plain_len` bytes of application data. The
    /// queue has `before` bytes in front of them.
    pub(super) fn log_sent(&mut self, before: usize, records: &[u8], plain_len: usize) {
        let Some(log) = self.log.as_deref_mut() else {
            return;
        };
        let mut scanner = RecordScanner {
            begin: self.written + before as u64,
            ..RecordScanner::default()
        };
        scanner.scan(records);
        let count = scanner.records.len();
        let expansion = expansion(records.len(), count, plain_len);
        for (index, (wire_offset, wire_len)) in scanner.records.into_iter().enumerate() {
            let plain_len = match expansion {
                Some(expansion) => wire_len as usize - expansion,
                None if index + 1 == count => plain_len,
                None => 0,
            };
            let kind = EventKind::TlsRecordSent {
                wire_offset,
                wire_len,
            };
            log.events.push((kind, log.encrypted, plain_len as u64));
            log.encrypted += plain_len as u64;
        }
    }
}

/// Returns the expansion of each record, if application data of `plain_len` bytes was divided into
/// several records. Returns `None` if only the last record has application data.
///
/// rustls divides the data only if the configuration limits the size of fragments. Records before
/// the data, such as a key update, are never divided.
fn expansion(wire_len: usize, count: usize, plain_len: usize) -> Option<usize> {
    if plain_len == 0 || count < 2 {
        return None;
    }
    let all = wire_len.checked_sub(plain_len)?;
    let expansion = all / count;
    (all.is_multiple_of(count) && expansion >= EXPANSION_MIN).then_some(expansion)
}

/// Finds the records in a stream by their headers. Reads may cut the stream at any byte.
#[derive(Debug, Default)]
struct RecordScanner {
    /// Offset of the first record that is not complete.
    begin: u64,
    /// Header of the record at `begin`. Only its first `header_len` bytes have arrived.
    header: [u8; HEADER_LEN],
    header_len: usize,
    /// Number of bytes of the record at `begin` that are missing, if its header is complete.
    missing: usize,
    /// Offset and length of the complete records.
    records: VecDeque<(u64, u32)>,
}

impl RecordScanner {
    fn scan(&mut self, mut bytes: &[u8]) {
        loop {
            if self.header_len < HEADER_LEN {
                let len = bytes.len().min(HEADER_LEN - self.header_len);
                let (header, rest) = bytes.split_at(len);
                self.header[self.header_len..][..len].copy_from_slice(header);
                self.header_len += len;
                bytes = rest;
                if self.header_len < HEADER_LEN {
                    return;
                }
                self.missing = self.body_len();
            }
            let len = bytes.len().min(self.missing);
            bytes = &bytes[len..];
            self.missing -= len;
            if self.missing > 0 {
                return;
            }
            let len = u32::try_from(HEADER_LEN + self.body_len()).expect("a length has two bytes");
            self.records.push_back((self.begin, len));
            self.begin += u64::from(len);
            self.header_len = 0;
        }
    }

    fn body_len(&self) -> usize {
        let [_, _, _, high, low] = self.header;
        usize::from(u16::from_be_bytes([high, low]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body_len: u8) -> Vec<u8> {
        let header = [0x17, 3, 3, 0, body_len];
        [&header[..], &vec![7; usize::from(body_len)]].concat()
    }

    fn kinds(counts: &mut WireCounts) -> Vec<(u64, u32, u64, u64)> {
        let event = |(kind, offset, len)| match kind {
            EventKind::TlsRecordSent {
                wire_offset,
                wire_len,
            }
            | EventKind::TlsRecordReceived {
                wire_offset,
                wire_len,
            } => Some((wire_offset, wire_len, offset, len)),
            _ => None,
        };
        counts.take_events().into_iter().filter_map(event).collect()
    }

    /// The log starts with a part of the first record. The stream is cut at every byte.
    #[test]
    fn records_are_found_for_every_cut_of_the_stream() {
        let stream = [record(40), record(0), record(30)].concat();
        for unprocessed in [0, 1, 5, 6] {
            for cut in unprocessed..stream.len() {
                let mut counts = WireCounts::starting_at(0, 1000);
                counts.count_read(&stream[..unprocessed]);
                counts.start_log(0, 500, &stream[..unprocessed]);
                counts.count_read(&stream[unprocessed..cut]);
                counts.count_read(&stream[cut..]);
                counts.log_received(45, 20);
                counts.log_received(40, 10);
                let expected = [(1000, 45, 500, 20), (1045, 5, 520, 0), (1050, 35, 520, 10)];
                assert_eq!(kinds(&mut counts), expected, "cut at {cut}");
            }
        }
    }

    /// The expansion is 22 bytes. A fragment has at most 27 bytes of application data.
    #[test]
    fn plaintext_is_assigned_to_its_records() {
        let sent = |bodies: &[u8], plain_len| {
            let mut counts = WireCounts::starting_at(100, 0);
            counts.start_log(0, 0, &[]);
            let records = bodies.iter().flat_map(|len| record(*len));
            counts.log_sent(10, &records.collect::<Vec<_>>(), plain_len);
            let records = kinds(&mut counts);
            assert!(records[0].0 == 110, "{records:?}");
            let lens = records.iter().map(|(.., len)| *len);
            lens.collect::<Vec<_>>()
        };
        assert_eq!(sent(&[27], 10), [10]);
        assert_eq!(sent(&[22, 27], 10), [0, 10], "after a key update");
        assert_eq!(sent(&[50, 60], 0), [0, 0], "records of a handshake");
        for plain_len in 28..200_u8 {
            let mut fragments = vec![27; usize::from(plain_len / 27)];
            fragments.extend((plain_len % 27 > 0).then_some(plain_len % 27));
            let bodies: Vec<_> = fragments.iter().map(|len| len + 17).collect();
            let expected: Vec<_> = fragments.iter().map(|len| u64::from(*len)).collect();
            assert_eq!(sent(&bodies, usize::from(plain_len)), expected);
        }
    }

    #[test]
    fn counts_without_a_log_keep_no_events() {
        let mut counts = WireCounts::default();
        counts.count_read(&record(9));
        counts.count_written(14);
        counts.log_received(14, 9);
        counts.log_sent(0, &record(9), 9);
        assert!(counts.take_events().is_empty());
        assert_eq!((counts.read, counts.written), (14, 14));
    }
}
