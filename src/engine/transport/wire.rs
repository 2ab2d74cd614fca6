//! The log of a filter while its connection is recorded: its reads and writes, and their records.
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

/// Log of a filter. It needs memory only once its connection has been recorded.
#[derive(Debug, Default)]
pub(super) struct WireLog(Option<Box<WireState>>);

/// Positions of a filter in its streams, and the events since the engine took them last.
///
/// The offsets on the wire begin with the offset of the plaintext at the first start of the log. If
/// the log starts together with TLS, they are exact.
#[derive(Debug)]
struct WireState {
    /// True while the connection is recorded. Otherwise only the positions are kept.
    is_on: bool,
    events: Vec<WireEvent>,
    /// Offset on the wire of the next byte that the socket takes.
    written: u64,
    /// Offset on the wire of the next byte that the socket returns.
    read: u64,
    /// Number of plaintext bytes that were encrypted, counted from the start of the connection.
    encrypted: u64,
    /// Number of plaintext bytes that were decrypted, counted from the start of the connection.
    decrypted: u64,
    /// Offset on the wire of the first byte that the session has not processed.
    processed: u64,
    scanner: RecordScanner,
}

impl WireLog {
    pub(super) fn is_on(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.is_on)
    }

    pub(super) fn stop(&mut self) {
        if let Some(state) = &mut self.0 {
            state.is_on = false;
        }
    }

    /// Starts the log. `encrypted` and `decrypted` are the numbers of plaintext bytes so far.
    /// `unprocessed` are the bytes that were read and not processed; the first of them begins a
    /// record.
    pub(super) fn start(&mut self, encrypted: u64, decrypted: u64, unprocessed: &[u8]) {
        let state = self.0.get_or_insert_with(|| {
            let mut scanner = RecordScanner {
                begin: decrypted,
                ..RecordScanner::default()
            };
            scanner.scan(unprocessed);
            Box::new(WireState {
                is_on: true,
                events: Vec::new(),
                written: encrypted,
                read: decrypted + unprocessed.len() as u64,
                encrypted,
                decrypted,
                processed: decrypted,
                scanner,
            })
        });
        state.is_on = true;
    }

    /// Returns the events, and removes them from the log.
    pub(super) fn take_events(&mut self) -> Vec<WireEvent> {
        let state = self.0.as_mut();
        state
            .map(|state| std::mem::take(&mut state.events))
            .unwrap_or_default()
    }

    /// Logs the bytes of a read.
    pub(super) fn log_read(&mut self, bytes: &[u8]) {
        if let Some(state) = self.0.as_deref_mut() {
            let (offset, len) = (state.read, bytes.len() as u64);
            state.push((EventKind::Read, offset, len));
            state.read += len;
            state.scanner.scan(bytes);
        }
    }

    /// Logs a write.
    pub(super) fn log_write(&mut self, len: usize) {
        if let Some(state) = self.0.as_deref_mut()
            && len > 0
        {
            let (offset, len) = (state.written, len as u64);
            state.push((EventKind::Write, offset, len));
            state.written += len;
        }
    }

    /// Logs received records: the session has processed `len` more bytes, and the last record had
    /// `plain_len` bytes of application data.
    pub(super) fn log_received(&mut self, len: usize, plain_len: usize) {
        let Some(state) = self.0.as_deref_mut() else {
            return;
        };
        state.processed += len as u64;
        while let Some((wire_offset, wire_len)) = state.scanner.pop_until(state.processed) {
            let is_last = !state.scanner.has_record_until(state.processed);
            let plain_len = if is_last { plain_len as u64 } else { 0 };
            let kind = EventKind::TlsRecordReceived {
                wire_offset,
                wire_len,
            };
            state.push((kind, state.decrypted, plain_len));
            state.decrypted += plain_len;
        }
    }

    /// Logs records that are queued for a write, with `plain_len` bytes of application data. The
    /// queue has `before` bytes in front of them.
    pub(super) fn log_sent(&mut self, before: usize, records: &[u8], plain_len: usize) {
        let Some(state) = self.0.as_deref_mut() else {
            return;
        };
        let mut scanner = RecordScanner {
            begin: state.written + before as u64,
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
            state.push((kind, state.encrypted, plain_len as u64));
            state.encrypted += plain_len as u64;
        }
    }
}

impl WireState {
    fn push(&mut self, event: WireEvent) {
        if self.is_on {
            self.events.push(event);
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

    /// Returns the first complete record if it ends at or before `offset`, and removes it.
    fn pop_until(&mut self, offset: u64) -> Option<(u64, u32)> {
        match self.has_record_until(offset) {
            true => self.records.pop_front(),
            false => None,
        }
    }

    fn has_record_until(&self, offset: u64) -> bool {
        let first = self.records.front();
        first.is_some_and(|(begin, len)| begin + u64::from(*len) <= offset)
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

    fn records_of(log: &mut WireLog) -> Vec<(u64, u32, u64, u64)> {
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
        log.take_events().into_iter().filter_map(event).collect()
    }

    /// The log starts with a part of the first record. The stream is cut at every byte.
    #[test]
    fn records_are_found_for_every_cut_of_the_stream() {
        let stream = [record(40), record(0), record(30)].concat();
        for unprocessed in [0, 1, 5, 6] {
            for cut in unprocessed..stream.len() {
                let mut log = WireLog::default();
                log.start(0, 500, &stream[..unprocessed]);
                log.log_read(&stream[unprocessed..cut]);
                log.log_read(&stream[cut..]);
                log.log_received(45, 20);
                log.log_received(40, 10);
                let expected = [(500, 45, 500, 20), (545, 5, 520, 0), (550, 35, 520, 10)];
                assert_eq!(records_of(&mut log), expected, "cut at {cut}");
            }
        }
    }

    /// The expansion is 22 bytes. A fragment has at most 27 bytes of application data.
    #[test]
    fn plaintext_is_assigned_to_its_records() {
        let sent = |bodies: &[u8], plain_len| {
            let mut log = WireLog::default();
            log.start(100, 0, &[]);
            let records = bodies.iter().flat_map(|len| record(*len));
            log.log_sent(10, &records.collect::<Vec<_>>(), plain_len);
            let records = records_of(&mut log);
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

    /// The positions are kept while the log is off, so that a later start continues with them.
    #[test]
    fn log_without_a_recording_keeps_positions_and_no_events() {
        let mut log = WireLog::default();
        log.log_read(&record(9));
        log.log_write(14);
        assert!(log.0.is_none(), "no memory is used");
        log.start(0, 0, &[]);
        log.stop();
        log.log_sent(0, &record(9), 5);
        log.log_write(14);
        log.log_read(&record(9));
        log.log_received(14, 5);
        assert!(log.take_events().is_empty());
        log.start(0, 0, &[]);
        log.log_sent(0, &record(9), 5);
        log.log_read(&record(9));
        log.log_received(14, 5);
        assert_eq!(records_of(&mut log), [(14, 14, 5, 5), (14, 14, 5, 5)]);
    }
}
