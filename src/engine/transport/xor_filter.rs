//! A filter that inverts every byte of the plaintext. It tests the filter interface of connections,
//! which the TLS filter uses too.
//!
//! The filter has the same difficulties as TLS:
//!
//! * Reads may split a record at any byte.
//! * The filter keeps plaintext that does not fit into the buffer of the caller.
//! * The filter keeps ciphertext that the socket does not take.
//! * Some reads need a write first, because each side acknowledges every third data record; see
//!   [`AckOrder`].
//!
//! ```text
//!   | kind: 1 byte | length: 1 byte | payload, every byte XOR 0xFF |
//! ```

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use super::filter::Filtered;
use super::wire::WireLog;
use crate::conn::Pool;
use crate::event::CloseReason;
use crate::os::Stream;
use crate::timer::Stamp;

pub(crate) const DATA: u8 = 1;
pub(crate) const ACKNOWLEDGEMENT: u8 = 2;
const HEADER_LEN: usize = 2;
/// Maximum plaintext of a record, in bytes.
pub(crate) const RECORD_LEN_MAX: usize = 50;
/// Maximum plaintext that one `drain` accepts, in bytes.
const DRAIN_LEN_MAX: usize = 400;
/// Maximum length of a read from the socket. It is small, so that reads split records.
const READ_LEN: usize = 37;
/// Number of received data records after which the receiver sends an acknowledgement.
pub(crate) const ACKNOWLEDGED_RECORDS: u32 = 3;

/// Order of two steps: writing an acknowledgement, and using the plaintext of the acknowledged
/// record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckOrder {
    /// The plaintext may be used only after the acknowledgement is written.
    First,
    /// The acknowledgement is queued, and reading continues. At least one side of a connection must
    /// use this order. If both sides waited for a write while all buffers are full, neither side
    /// would read.
    Queued,
}

#[derive(Debug)]
pub(crate) struct XorFilter {
    ack_order: AckOrder,
    pub(super) wire: WireLog,
    /// Received ciphertext that is not decrypted yet.
    incoming: VecDeque<u8>,
    /// Decrypted bytes that the caller has not taken.
    plaintext: VecDeque<u8>,
    /// Ciphertext that the socket has not taken.
    outgoing: VecDeque<u8>,
    /// Number of data records received.
    records: u32,
    /// True if the last received record needs an acknowledgement.
    is_ack_due: bool,
    /// True if an acknowledgement must be written before `plaintext` may be used.
    must_flush: bool,
    /// True if a read waits until the output is written.
    awaits_write: bool,
    /// True if the FIN was sent or a write failed: all further output is discarded.
    is_output_over: bool,
    /// The error of a write during a read, until a flush returns it.
    write_error: Option<io::Error>,
    /// True if output was queued in an empty queue, or was written, since the last call of `stamp`.
    has_progress: bool,
    /// Time of the last progress of the output.
    progress: Stamp,
}

impl XorFilter {
    pub(crate) fn new(ack_order: AckOrder) -> Self {
        Self {
            ack_order,
            wire: WireLog::default(),
            incoming: VecDeque::new(),
            plaintext: VecDeque::new(),
            outgoing: VecDeque::new(),
            records: 0,
            is_ack_due: false,
            must_flush: false,
            awaits_write: false,
            is_output_over: false,
            write_error: None,
            has_progress: false,
            progress: Stamp::default(),
        }
    }

    /// Reads plaintext.
    pub(super) fn fill(
        &mut self,
        stream: &mut Stream,
        spare: &mut [u8],
        _: &Pool,
    ) -> io::Result<Filtered> {
        loop {
            if self.must_flush {
                self.flush_between_reads(stream);
                if self.has_output() {
                    self.awaits_write = true;
                    return Ok(Filtered::OnWrite);
                }
                self.must_flush = false;
            }
            if !self.plaintext.is_empty() {
                let len = spare.len().min(self.plaintext.len());
                let bytes = self.plaintext.drain(..len);
                bytes.zip(spare).for_each(|(byte, spare)| *spare = byte);
                let emptied = false;
                return Ok(Filtered::Bytes { len, emptied });
            }
            if self.decrypt_record()? {
                self.acknowledge(stream);
                continue;
            }
            let mut ciphertext = [0; READ_LEN];
            match stream.read(&mut ciphertext) {
                Ok(0) if self.incoming.is_empty() => return Ok(Filtered::End),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    self.wire.log_read(&ciphertext[..len]);
                    self.incoming.extend(&ciphertext[..len]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Filtered::OnRead);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Decrypts the first received record. Returns false if the record is not complete.
    fn decrypt_record(&mut self) -> io::Result<bool> {
        let (Some(&kind), Some(&len)) = (self.incoming.front(), self.incoming.get(1)) else {
            return Ok(false);
        };
        let len = usize::from(len);
        if self.incoming.len() < HEADER_LEN + len {
            return Ok(false);
        }
        self.incoming.drain(..HEADER_LEN);
        let payload = self.incoming.drain(..len).map(|byte| !byte);
        match kind {
            DATA => self.plaintext.extend(payload),
            ACKNOWLEDGEMENT => drop(payload),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        self.records += u32::from(kind == DATA);
        self.is_ack_due = kind == DATA && self.records.is_multiple_of(ACKNOWLEDGED_RECORDS);
        Ok(true)
    }

    /// Writes or queues an acknowledgement if the last record needs one.
    fn acknowledge(&mut self, stream: &mut Stream) {
        if !std::mem::take(&mut self.is_ack_due) {
            return;
        }
        self.put(&[ACKNOWLEDGEMENT, 0]);
        match self.ack_order {
            AckOrder::First => self.must_flush = true,
            AckOrder::Queued => self.flush_between_reads(stream),
        }
    }

    /// Writes output during a read. If the write fails, all output is discarded and the read
    /// continues.
    fn flush_between_reads(&mut self, stream: &mut Stream) {
        if let Err(error) = self.write_out(stream)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            self.write_error = Some(error);
            self.discard_output();
        }
    }

    /// Returns true if a write failed during a read. The next flush returns the error.
    pub(super) fn has_write_error(&self) -> bool {
        self.write_error.is_some()
    }

    /// Accepts plaintext, and writes as much ciphertext as the socket takes.
    pub(super) fn drain(
        &mut self,
        stream: &mut Stream,
        slices: &[IoSlice<'_>],
        _: &Pool,
    ) -> io::Result<usize> {
        self.write_out(stream)?;
        let mut accepted = 0;
        'accept: for slice in slices {
            for record in slice.chunks(RECORD_LEN_MAX) {
                if accepted + record.len() > DRAIN_LEN_MAX {
                    break 'accept;
                }
                self.encrypt(record);
                accepted += record.len();
            }
        }
        match self.write_out(stream) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(accepted),
        }
    }

    fn encrypt(&mut self, record: &[u8]) {
        let len = u8::try_from(record.len()).expect("a record has at most 50 bytes");
        self.put(&[DATA, len]);
        self.outgoing.extend(record.iter().map(|byte| !byte));
    }

    fn put(&mut self, ciphertext: &[u8]) {
        self.has_progress |= self.outgoing.is_empty();
        self.outgoing.extend(ciphertext);
    }

    /// Writes all queued ciphertext. Fails with `WouldBlock` if the socket does not take all of it.
    pub(super) fn flush(&mut self, stream: &mut Stream, _: &Pool) -> io::Result<()> {
        self.write_out(stream)
    }

    fn write_out(&mut self, stream: &mut Stream) -> io::Result<()> {
        if let Some(error) = self.write_error.take() {
            return Err(error);
        }
        if self.is_output_over {
            self.outgoing.clear();
        }
        while !self.outgoing.is_empty() {
            let (front, _) = self.outgoing.as_slices();
            match stream.write(front) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => {
                    self.outgoing.drain(..len);
                    self.wire.log_write(len);
                    self.has_progress = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns true if a read waits until the output is written.
    pub(crate) fn awaits_write(&self) -> bool {
        self.awaits_write
    }

    /// Ends the wait of a read for a write, if all output is written. Returns true if a read
    /// waited.
    pub(super) fn continue_read(&mut self) -> bool {
        !self.has_output() && std::mem::take(&mut self.awaits_write)
    }

    pub(super) fn has_output(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Returns 0: the plaintext of the output is not counted.
    pub(super) fn unwritten_len(&self) -> usize {
        0
    }

    /// Returns false: all output is written at once.
    pub(super) fn is_held_back(&self) -> bool {
        false
    }

    /// Discards all queued and all further output. Returns 0: the lost plaintext is not counted.
    pub(super) fn end_output(&mut self, _: &Pool) -> u64 {
        self.discard_output();
        0
    }

    fn discard_output(&mut self) {
        self.is_output_over = true;
        self.outgoing.clear();
    }

    /// Does nothing, because the end of the stream needs no record.
    pub(super) fn begin_end(&self, _: &Stream, _: &Pool) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn release(&self, _: &Pool) {}

    pub(super) fn start_log(&mut self, encrypted: u64, taken: u64) {
        self.wire.start(encrypted, taken, &[]);
    }

    pub(super) fn held_bytes(&self) -> usize {
        0
    }

    pub(super) fn take_failure(&self) -> Option<CloseReason> {
        None
    }

    /// Returns true if the filter holds input that the caller has not read.
    pub(super) fn has_input(&self) -> bool {
        !(self.plaintext.is_empty() && self.incoming.is_empty())
    }

    /// Returns true if the output made progress since the last call, and then stores `now` as the
    /// time of the last progress.
    pub(super) fn stamp(&mut self, now: Stamp) -> bool {
        let has_progress = std::mem::take(&mut self.has_progress);
        if has_progress {
            self.progress = now;
        }
        has_progress
    }

    /// Returns the time of the last progress, if the filter holds output.
    pub(super) fn blocked_since(&self) -> Option<Stamp> {
        self.has_output().then_some(self.progress)
    }

    /// Sets the time of the last progress to `now`.
    pub(super) fn restart_progress(&mut self, now: Stamp) {
        self.progress = now;
    }
}
