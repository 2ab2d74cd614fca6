//! The TLS filter of a connection: its records, and the buffers that hold incomplete ones.
//!
//! ```text
//!   read:    socket -> caller's memory, behind a gap -> decrypted -> plaintext at its front
//!
//!            |<------- spare ------------------------------------->|
//!            | plaintext, growing  -->  | records, shrinking       |
//!            0                          gap                        end of the read
//!
//!   write:   caller's plaintext -> records in a buffer of the pool -> socket
//! ```
//!
//! The gap has the length of one record's plaintext. The plaintext of a record is shorter than the
//! record, so it always fits between the earlier plaintext and the records that are not decrypted.
//! The filter keeps only the bytes of an incomplete record, and output that the socket has not
//! taken. An idle connection has neither.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::filter::Filtered;
pub(crate) use super::tls_buffers::Handshake;
use super::tls_buffers::{
    EXPANSION_MAX, GAP, Held, Pieces, READ_LEN, RECORDS_PER_WRITE, Records, append, discard,
    reserve, would_block,
};
use super::wire::WireLog;
use crate::conn::Pool;
use crate::event::CloseReason;
use crate::memory::Buf;
use crate::os::Stream;
use crate::tls::{RECORD_PLAIN_LEN_MAX, RECORD_WIRE_LEN_MAX, TlsInfo, TlsSession};

/// Minimum spare capacity to decrypt records in place, in bytes: the gap and one whole record.
pub(crate) const IN_PLACE_LEN_MIN: usize = GAP + RECORD_WIRE_LEN_MAX;
/// Maximum plaintext per write, in bytes.
const WRITE_LEN_MAX: usize = RECORDS_PER_WRITE * RECORD_PLAIN_LEN_MAX;

/// The TLS session of a connection, with its buffers.
#[derive(Debug)]
pub(crate) struct TlsFilter {
    pub(super) session: TlsSession,
    pub(super) wire: WireLog,
    /// The server name that the client asked for.
    pub(super) server_name: Option<Arc<String>>,
    /// The buffers that are not empty, and failures.
    pub(super) held: Option<Box<Held>>,
    /// True if output was queued in an empty queue, or was written, since the last call of `stamp`.
    pub(super) has_progress: bool,
    /// True if `incoming` may contain a complete record.
    has_records: bool,
    /// True if the peer ended its side.
    is_peer_closed: bool,
    /// True after a violation of TLS: further input is read and discarded.
    has_failed: bool,
    /// True if the `close_notify` is queued or sent.
    is_notified: bool,
    /// True if the FIN was sent or a write failed: all further output is discarded.
    pub(super) is_output_over: bool,
    /// True if `outgoing` holds the last records of the handshake, and no write has tried to send
    /// them. These records share a write with the first output of the connection, if there is any
    /// output in this turn.
    pub(super) is_held_back: bool,
}

impl TlsFilter {
    /// Creates a filter. `received` are bytes that were read before.
    pub(crate) fn new(session: TlsSession, received: &[u8], pool: &mut Pool) -> Self {
        let mut filter = Self {
            session,
            wire: WireLog::default(),
            server_name: None,
            held: None,
            has_progress: false,
            has_records: true,
            is_peer_closed: false,
            has_failed: false,
            is_notified: false,
            is_output_over: false,
            is_held_back: false,
        };
        if !received.is_empty() {
            append(&mut filter.held().incoming, received, pool);
        }
        filter
    }

    /// Returns the view of an established session; `None` during the handshake.
    pub(crate) fn info(&self) -> Option<TlsInfo<'_>> {
        let name = self.server_name.as_ref().map(|name| name.as_str());
        (!self.session.is_handshaking()).then(|| TlsInfo::new(&self.session, name))
    }

    fn held(&mut self) -> &mut Held {
        self.held.get_or_insert_default()
    }

    /// Puts empty buffers back into the pool.
    pub(super) fn settle(&mut self, pool: &mut Pool) {
        let Some(held) = &mut self.held else {
            return;
        };
        let mut is_empty = true;
        for buf in [&mut held.incoming, &mut held.plaintext, &mut held.outgoing] {
            if !buf.is_empty() {
                is_empty = false;
            } else if buf.capacity() > 0 {
                pool.put(std::mem::take(buf));
            }
        }
        if is_empty && held.failure.is_none() && held.write_error.is_none() {
            self.held = None;
        }
    }

    fn fail(&mut self, reason: CloseReason) {
        self.has_records = false;
        self.held().failure = Some(reason);
    }

    /// Handles a FIN without a `close_notify` before it.
    fn truncated(&mut self) -> io::Error {
        self.is_peer_closed = true;
        self.fail(CloseReason::TlsTruncated);
        io::ErrorKind::UnexpectedEof.into()
    }

    /// Returns the reason for which the session has ended. Further reads then discard the input.
    pub(super) fn take_failure(&mut self) -> Option<CloseReason> {
        self.held.as_mut()?.failure.take()
    }

    fn has_failure(&self) -> bool {
        let held = self.held.as_deref();
        held.is_some_and(|held| held.failure.is_some())
    }
}

/// Input.
impl TlsFilter {
    /// Continues the handshake: handles received records, writes output and, if `may_read` is true,
    /// reads once.
    pub(super) fn handshake(
        &mut self,
        stream: &mut Stream,
        may_read: bool,
        pool: &mut Pool,
    ) -> io::Result<Handshake> {
        let is_blocked = self.has_output();
        self.process_held(pool);
        if !is_blocked && !self.has_failure() && !self.session.is_handshaking() {
            self.is_held_back = self.has_output();
            return Ok(Handshake::Done);
        }
        self.flush_between_reads(stream, pool);
        if self.has_failure() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if !self.session.is_handshaking() {
            return Ok(Handshake::Done);
        }
        let received = match may_read {
            true => self.read_held(stream, pool),
            false => Ok(Handshake::WouldBlock),
        };
        self.settle(pool);
        received
    }

    /// Returns true if a read may return bytes or an error without input from the socket.
    pub(crate) fn has_input(&self) -> bool {
        self.held.as_deref().is_some_and(|held| {
            !held.plaintext.is_empty() || !held.incoming.is_empty() || held.failure.is_some()
        })
    }

    /// Reads plaintext: at most one read of the socket.
    pub(super) fn fill(
        &mut self,
        stream: &mut Stream,
        spare: &mut [u8],
        pool: &mut Pool,
    ) -> io::Result<Filtered> {
        let held = self.held.as_deref();
        if held.is_some_and(|held| !held.plaintext.is_empty()) {
            return Ok(self.take_plaintext(spare, false, pool));
        }
        if self.has_failure() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if self.has_failed {
            return discard(stream, spare, &mut self.wire);
        }
        if self.is_peer_closed {
            return Ok(Filtered::End);
        }
        let incoming_len = held.map_or(0, |held| held.incoming.len());
        // The gap, the kept bytes, and at least one more byte must fit.
        let filled = match spare.len() >= IN_PLACE_LEN_MIN.max(GAP + incoming_len + 1) {
            true => self.fill_in_place(stream, spare, pool),
            false => self.fill_held(stream, spare, pool),
        };
        if !self.is_held_back {
            self.flush_between_reads(stream, pool);
        }
        self.settle(pool);
        filled
    }

    /// Reads records into `spare` and decrypts them there.
    fn fill_in_place(
        &mut self,
        stream: &mut Stream,
        spare: &mut [u8],
        pool: &mut Pool,
    ) -> io::Result<Filtered> {
        let mut end = GAP;
        if let Some(held) = &self.held {
            end += held.incoming.len();
            spare[GAP..end].copy_from_slice(held.incoming.bytes());
        }
        let (mut received, mut emptied) = (0, false);
        if !self.has_records {
            let wanted = spare.len() - end;
            match stream.read(&mut spare[end..]) {
                Ok(0) => return Err(self.truncated()),
                Ok(len) => {
                    (received, emptied) = (len, len < wanted);
                    self.wire.log_read(&spare[end..end + len]);
                    end += len;
                }
                Err(error) => return would_block(error),
            }
        }
        let held = self.held.as_mut();
        let mut outgoing =
            held.map_or_else(Buf::default, |held| std::mem::take(&mut held.outgoing));
        let outgoing_capacity = outgoing.capacity();
        let (mut at, mut plain_len) = (GAP, 0);
        loop {
            let (plain, input) = spare.split_at_mut(at);
            let input = &mut input[..end - at];
            let mut take = |bytes: &[u8]| {
                plain[plain_len..plain_len + bytes.len()].copy_from_slice(bytes);
                plain_len += bytes.len();
            };
            at += self.process(input, &mut take, &mut outgoing);
            if !self.has_records || at == end && !self.session.has_output() {
                self.has_records = false;
                break;
            }
        }
        pool.count(outgoing_capacity, outgoing.capacity());
        if let Some(held) = &mut self.held {
            held.incoming.clear();
        }
        self.keep(&spare[at..end], outgoing, pool);
        if plain_len > 0 {
            let emptied = emptied && !self.has_failure() && !self.is_peer_closed;
            let len = plain_len;
            return Ok(Filtered::Bytes { len, emptied });
        }
        self.without_plaintext(received, emptied)
    }

    /// Keeps the bytes of an incomplete record, and output. Needs no memory if both are empty.
    fn keep(&mut self, incoming: &[u8], outgoing: Buf, pool: &mut Pool) {
        if !incoming.is_empty() {
            append(&mut self.held().incoming, incoming, pool);
        }
        if outgoing.capacity() > 0 {
            self.held().outgoing = outgoing;
        }
    }

    /// Reads records into the filter's own buffer and decrypts them there, because `spare` is too
    /// short to decrypt in place.
    fn fill_held(
        &mut self,
        stream: &mut Stream,
        spare: &mut [u8],
        pool: &mut Pool,
    ) -> io::Result<Filtered> {
        let (mut received, mut was_emptied) = (0, false);
        if !self.has_records {
            match self.read_held(stream, pool)? {
                Handshake::Received { len, emptied } => (received, was_emptied) = (len, emptied),
                Handshake::WouldBlock | Handshake::Done => return Ok(Filtered::OnRead),
            }
        }
        self.process_held(pool);
        if self.held().plaintext.is_empty() {
            return self.without_plaintext(received, was_emptied);
        }
        Ok(self.take_plaintext(spare, was_emptied, pool))
    }

    /// Returns the result of a read whose `len` bytes contain no plaintext.
    fn without_plaintext(&self, len: usize, emptied: bool) -> io::Result<Filtered> {
        if self.has_failure() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if self.is_peer_closed {
            return Ok(Filtered::End);
        }
        Ok(Filtered::Consumed { len, emptied })
    }

    /// Moves plaintext from the buffer to `spare`. `emptied` is true if the read of the socket was
    /// short.
    fn take_plaintext(&mut self, spare: &mut [u8], emptied: bool, pool: &mut Pool) -> Filtered {
        let plaintext = &mut self.held().plaintext;
        let len = spare.len().min(plaintext.len());
        spare[..len].copy_from_slice(&plaintext.bytes()[..len]);
        plaintext.consume(len);
        let is_left = !plaintext.is_empty();
        let is_over = self.has_failure() || self.is_peer_closed;
        let emptied = emptied && !is_left && !self.has_records && !is_over;
        self.settle(pool);
        Filtered::Bytes { len, emptied }
    }

    /// Reads once, and appends the bytes to the records that are not decrypted.
    fn read_held(&mut self, stream: &mut Stream, pool: &mut Pool) -> io::Result<Handshake> {
        let incoming = &mut self.held.get_or_insert_default().incoming;
        reserve(incoming, READ_LEN, pool);
        match stream.read(&mut incoming.spare_mut()[..READ_LEN]) {
            Ok(0) => Err(self.truncated()),
            Ok(len) => {
                self.wire.log_read(&incoming.spare_mut()[..len]);
                incoming.advance(len);
                self.has_records = true;
                let emptied = len < READ_LEN;
                Ok(Handshake::Received { len, emptied })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Handshake::WouldBlock),
            Err(error) => Err(error),
        }
    }

    /// Decrypts the records in the filter's own buffer, until plaintext is found or no complete
    /// record is left.
    fn process_held(&mut self, pool: &mut Pool) {
        if !self.has_records {
            return;
        }
        let held = self.held();
        let mut incoming = std::mem::take(&mut held.incoming);
        let mut plaintext = std::mem::take(&mut held.plaintext);
        let mut outgoing = std::mem::take(&mut held.outgoing);
        if self.session.is_handshaking() {
            // A buffer that does not come from the pool would make the pool larger.
            reserve(&mut outgoing, READ_LEN, pool);
        }
        let outgoing_capacity = outgoing.capacity();
        let mut take = |bytes: &[u8]| append(&mut plaintext, bytes, pool);
        let len = self.process(incoming.bytes_mut(), &mut take, &mut outgoing);
        incoming.consume(len);
        pool.count(outgoing_capacity, outgoing.capacity());
        let held = self.held();
        (held.incoming, held.plaintext, held.outgoing) = (incoming, plaintext, outgoing);
    }

    /// Processes records. Stores a failure or the end of the peer's stream. Returns the number of
    /// consumed bytes of the input.
    fn process(
        &mut self,
        input: &mut [u8],
        plain: &mut dyn FnMut(&[u8]),
        outgoing: &mut Buf,
    ) -> usize {
        let output_len = outgoing.len();
        let input_len = input.len();
        let consumed = match self.session.process(input, plain, outgoing) {
            Ok(processed) => {
                self.is_peer_closed = processed.is_peer_closed;
                self.has_records = !processed.is_exhausted && !processed.is_peer_closed;
                self.wire
                    .log_received(processed.consumed, processed.plain_len);
                match processed.is_peer_closed {
                    // Data after a closure alert must be ignored (RFC 8446, 6.1).
                    true => input_len,
                    false => processed.consumed,
                }
            }
            Err(error) => {
                self.session.take_alert(outgoing);
                self.has_failed = true;
                self.fail(CloseReason::Tls(error));
                input_len
            }
        };
        self.log_sent(output_len, outgoing, 0);
        self.has_progress |= output_len == 0 && !outgoing.is_empty();
        consumed
    }
}

/// Output.
impl TlsFilter {
    /// Encrypts plaintext, and writes the records. Accepts no plaintext while the socket has not
    /// taken the records before it.
    pub(super) fn drain(
        &mut self,
        stream: &mut Stream,
        slices: &[IoSlice<'_>],
        pool: &mut Pool,
    ) -> io::Result<usize> {
        if !self.is_held_back || self.has_failed {
            self.flush(stream, pool)?;
        }
        if self.has_failed || self.is_output_over {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.process_all(pool);
        let mut pieces = Pieces::new(slices);
        let mut accepted = 0;
        while !self.has_output() && pieces.left > 0 {
            let records = self.encrypt(&mut pieces, pool)?;
            accepted += records.plain_len();
            match self.write_records(stream, records, pool) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if accepted > WRITE_LEN_MAX => {
                    self.held().write_error = Some(error);
                    break;
                }
                Err(error) => {
                    // No plaintext was accepted: the caller keeps it and counts it as unsent.
                    self.held().sent.clear();
                    return Err(error);
                }
                Ok(()) => {}
            }
        }
        self.settle(pool);
        Ok(accepted)
    }

    /// Encrypts pieces into the records of one write.
    fn encrypt(&mut self, pieces: &mut Pieces<'_>, pool: &mut Pool) -> io::Result<Records> {
        let plain_len = pieces.left.min(WRITE_LEN_MAX);
        let count = plain_len.div_ceil(RECORD_PLAIN_LEN_MAX);
        let mut first = Buf::default();
        if std::mem::take(&mut self.is_held_back) {
            first = std::mem::take(&mut self.held().outgoing);
        }
        reserve(&mut first, plain_len + count * EXPANSION_MAX, pool);
        let mut records = Records::new(first);
        let capacity = records.buf.capacity();
        let mut gathered = Buf::default();
        let mut result = Ok(());
        for _ in 0..count {
            let piece = pieces.next(&mut gathered, pool);
            let left = self.held.as_deref_mut();
            let left = left.map_or(&mut [][..], |held| held.incoming.bytes_mut());
            let before = records.buf.len();
            result = self.session.encrypt(piece, left, &mut records.buf);
            if result.is_ok() {
                self.log_sent(before, &records.buf, piece.len());
            } else {
                self.session.take_alert(&mut records.buf);
                break;
            }
            records.push(piece.len());
        }
        pool.count(capacity, records.buf.capacity());
        if gathered.capacity() > 0 {
            pool.put(gathered);
        }
        self.has_progress = true;
        match result {
            Ok(()) => Ok(records),
            Err(error) => {
                records.hold(self.held(), 0);
                Err(io::Error::other(error))
            }
        }
    }

    /// Writes records. Keeps them only if the socket does not take all of them at once.
    fn write_records(
        &mut self,
        stream: &mut Stream,
        records: Records,
        pool: &mut Pool,
    ) -> io::Result<()> {
        let written = stream.write(records.buf.bytes());
        self.wire.log_write(*written.as_ref().unwrap_or(&0));
        if written.as_ref().is_ok_and(|len| *len == records.buf.len()) {
            pool.put(records.buf);
            return Ok(());
        }
        records.hold(self.held(), *written.as_ref().unwrap_or(&0));
        match written? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            _ => self.flush(stream, pool),
        }
    }

    /// Decrypts all complete records in the filter's own buffer. Call it before output is
    /// encrypted, because the session encrypts only if no complete record is left.
    fn process_all(&mut self, pool: &mut Pool) {
        while self.has_records {
            self.process_held(pool);
        }
    }

    /// Writes output during a read. If the write fails, all output is discarded and the read
    /// continues.
    fn flush_between_reads(&mut self, stream: &mut Stream, pool: &mut Pool) {
        if !self.has_write_error()
            && let Err(error) = self.flush(stream, pool)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            self.is_output_over = true;
            let held = self.held();
            held.write_error = Some(error);
            // `sent` keeps the lengths of the lost plaintext, which `end_output` returns.
            held.outgoing.clear();
            self.settle(pool);
        }
    }

    /// Writes all queued records. Fails with `WouldBlock` if the socket does not take all of them.
    pub(super) fn flush(&mut self, stream: &mut Stream, pool: &mut Pool) -> io::Result<()> {
        self.is_held_back = false;
        let Some(held) = &mut self.held else {
            return Ok(());
        };
        if let Some(error) = held.write_error.take() {
            return Err(error);
        }
        if self.is_output_over {
            held.outgoing.clear();
        }
        while !held.outgoing.is_empty() {
            match stream.write(held.outgoing.bytes()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => {
                    held.written(len);
                    self.wire.log_write(len);
                    self.has_progress = true;
                }
                Err(error) => return Err(error),
            }
        }
        self.settle(pool);
        Ok(())
    }

    /// Queues the `close_notify` once, and writes it.
    pub(super) fn begin_end(&mut self, stream: &mut Stream, pool: &mut Pool) -> io::Result<()> {
        let is_over = self.has_failed || self.is_output_over || self.session.is_handshaking();
        if !is_over && !std::mem::replace(&mut self.is_notified, true) {
            self.process_all(pool);
            let mut held = self.held.take().unwrap_or_default();
            reserve(&mut held.outgoing, EXPANSION_MAX, pool);
            let capacity = held.outgoing.capacity();
            let left = held.incoming.bytes_mut();
            let before = held.outgoing.len();
            let queued = self.session.close_notify(left, &mut held.outgoing);
            self.log_sent(before, &held.outgoing, 0);
            pool.count(capacity, held.outgoing.capacity());
            self.held = Some(held);
            self.has_progress = true;
            queued.map_err(io::Error::other)?;
        }
        match self.flush(stream, pool) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            flushed => flushed,
        }
    }

    /// Discards all queued and all further output. Returns the length of the lost plaintext. This
    /// length includes the plaintext that a failed write during a read has lost.
    pub(super) fn end_output(&mut self, pool: &mut Pool) -> u64 {
        self.is_output_over = true;
        self.is_held_back = false;
        let Some(held) = &mut self.held else {
            return 0;
        };
        held.outgoing.clear();
        let lost = held.sent.drain(..).map(|(_, plain_len)| plain_len as u64);
        let lost = lost.sum();
        self.settle(pool);
        lost
    }

    /// Returns false: no read waits for a write.
    pub(super) fn continue_read(&self) -> bool {
        false
    }
}
