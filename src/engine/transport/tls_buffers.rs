//! The buffers of a TLS filter, and the pieces of plaintext that become one record each.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use super::filter::Filtered;
use super::tls_filter::TlsFilter;
use super::wire::WireLog;
use crate::conn::Pool;
use crate::event::CloseReason;
use crate::memory::Buf;
use crate::os::Stream;
use crate::timer::Stamp;
use crate::tls::RECORD_PLAIN_LEN_MAX;

/// Maximum number of records per write. Three full records fit into a buffer of 64 KiB. Four do
/// not, because a record is longer than its plaintext of 16 KiB.
pub(super) const RECORDS_PER_WRITE: usize = 3;
/// Offset of the records in the memory of a read.
pub(super) const GAP: usize = RECORD_PLAIN_LEN_MAX;
/// Length of a read into the filter's own buffer, in bytes. The filter uses this buffer during the
/// handshake, and if the caller's memory is too short to decrypt records in place. The messages
/// that one side of a handshake sends at once are usually shorter than this length.
pub(super) const READ_LEN: usize = 4096;
/// Maximum expansion of a record of output by its header, nonce and authentication tag, in bytes.
pub(super) const EXPANSION_MAX: usize = 64;

/// The result of one step of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// The session is established.
    Done,
    /// A read returned this number of bytes; `emptied` is as for [`Filtered::Bytes`].
    Received { len: usize, emptied: bool },
    /// The handshake waits for input.
    WouldBlock,
}

/// The parts that a filter needs only while bytes wait in it, or after a failure. Each buffer is
/// empty or comes from the pool.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Received bytes that are not decrypted: an incomplete record or handshake message.
    pub(super) incoming: Buf,
    /// Decrypted bytes that the caller has not taken.
    pub(super) plaintext: Buf,
    /// Records that the socket has not taken.
    pub(super) outgoing: Buf,
    /// The records with application data in `outgoing`: offset of the end of the record, and length
    /// of its plaintext.
    pub(super) sent: VecDeque<(usize, usize)>,
    /// Time of the last progress of the output. It is set before output waits for an event.
    pub(super) progress: Stamp,
    /// The reason for which the session has ended, until the caller takes it.
    pub(super) failure: Option<CloseReason>,
    /// The error of a write during a read, until a flush returns it.
    pub(super) write_error: Option<io::Error>,
}

/// State of the output.
impl TlsFilter {
    /// Returns true if the filter holds output that the socket has not taken. Output that is held
    /// back does not count, because it waits for no event.
    pub(super) fn has_output(&self) -> bool {
        let held = self.held.as_deref();
        !self.is_held_back && held.is_some_and(|held| !held.outgoing.is_empty())
    }

    /// Returns true if the filter holds output until the end of the turn, to join it with more.
    pub(super) fn is_held_back(&self) -> bool {
        self.is_held_back
    }

    /// Returns true if a write failed during a read. The next flush returns the error.
    pub(super) fn has_write_error(&self) -> bool {
        let held = self.held.as_deref();
        held.is_some_and(|held| held.write_error.is_some())
    }

    /// Returns the length of the plaintext of the records that the socket has not taken completely.
    pub(super) fn unwritten_len(&self) -> usize {
        let sent = self.held.iter().flat_map(|held| &held.sent);
        sent.map(|(_, plain_len)| plain_len).sum()
    }

    /// Returns true if the output made progress since the last call, and then stores `now` as the
    /// time of the last progress.
    pub(super) fn stamp(&mut self, now: Stamp) -> bool {
        let has_progress = std::mem::take(&mut self.has_progress);
        if has_progress {
            self.restart_progress(now);
        }
        has_progress
    }

    /// Returns the time of the last progress, if the filter holds output.
    pub(super) fn blocked_since(&self) -> Option<Stamp> {
        let held = self.held.as_deref().filter(|_| self.has_output());
        held.map(|held| held.progress)
    }

    /// Sets the time of the last progress to `now`.
    pub(super) fn restart_progress(&mut self, now: Stamp) {
        if let Some(held) = &mut self.held {
            held.progress = now;
        }
    }
}

/// Log of a recorded connection.
impl TlsFilter {
    /// Starts the log. `encrypted` is the number of plaintext bytes that the caller has passed to
    /// the filter so far. `taken` is the number of plaintext bytes that the caller has taken from
    /// the filter.
    ///
    /// While a handshake waits for more input, the log does not start: rustls joins the parts of a
    /// long message in place, which moves the headers of its records.
    pub(super) fn start_log(&mut self, encrypted: u64, taken: u64) {
        let held = self.held.as_deref();
        let unprocessed = held.map_or(&[][..], |held| held.incoming.bytes());
        let untaken = held.map_or(0, |held| held.plaintext.len());
        if unprocessed.is_empty() || !self.session.is_handshaking() {
            self.wire
                .start(encrypted, taken + untaken as u64, unprocessed);
        }
        if self.is_held_back()
            && let Some(held) = self.held.as_deref()
        {
            self.wire.log_sent(0, held.outgoing.bytes(), 0);
        }
    }

    /// Logs the records in `output` from offset `before` on, which have `plain_len` bytes of
    /// application data.
    pub(super) fn log_sent(&mut self, before: usize, output: &Buf, plain_len: usize) {
        if output.len() > before && !self.is_output_over {
            self.wire
                .log_sent(before, &output.bytes()[before..], plain_len);
        }
    }
}

/// Memory.
impl TlsFilter {
    /// Returns the capacity of the buffers, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let held = self.held.as_deref();
        held.map_or(0, |held| {
            held.incoming.capacity() + held.plaintext.capacity() + held.outgoing.capacity()
        })
    }

    /// Puts all buffers back into the pool. Their content is lost.
    pub(super) fn release(&mut self, pool: &mut Pool) {
        if let Some(held) = &mut self.held {
            held.incoming.clear();
            held.plaintext.clear();
            held.outgoing.clear();
            self.settle(pool);
        }
    }
}

impl Held {
    /// Removes the first `len` bytes of the output, which the socket took.
    pub(super) fn written(&mut self, len: usize) {
        self.outgoing.consume(len);
        while let Some((end, _)) = self.sent.front_mut() {
            *end = end.saturating_sub(len);
            if *end > 0 {
                break;
            }
            self.sent.pop_front();
        }
        for (end, _) in self.sent.iter_mut().skip(1) {
            *end = end.saturating_sub(len);
        }
    }
}

/// The records of one write.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) buf: Buf,
    /// Per record: offset of its end in `buf`, and length of its plaintext.
    ends: [(usize, usize); RECORDS_PER_WRITE],
    /// Number of records: `count <= RECORDS_PER_WRITE`.
    count: usize,
}

impl Records {
    pub(super) fn new(buf: Buf) -> Self {
        Self {
            buf,
            ends: [(0, 0); RECORDS_PER_WRITE],
            count: 0,
        }
    }

    /// Adds a record whose last byte is the last byte of `buf`.
    pub(super) fn push(&mut self, plain_len: usize) {
        self.ends[self.count] = (self.buf.len(), plain_len);
        self.count += 1;
    }

    /// Returns the length of the plaintext of all records.
    pub(super) fn plain_len(&self) -> usize {
        self.ends.iter().map(|(_, plain_len)| plain_len).sum()
    }

    /// Stores the records as the output of a filter that has no other output. The socket has taken
    /// the first `written` bytes of the records.
    pub(super) fn hold(self, held: &mut Held, written: usize) {
        held.outgoing = self.buf;
        held.sent.extend(&self.ends[..self.count]);
        held.written(written);
    }
}

/// The plaintext of several slices, cut into pieces for records of full length.
#[derive(Debug)]
pub(super) struct Pieces<'a> {
    slices: &'a [IoSlice<'a>],
    /// Number of bytes of the first slice that earlier pieces contain.
    offset: usize,
    /// Number of bytes that no piece contained yet.
    pub(super) left: usize,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(slices: &'a [IoSlice<'a>]) -> Self {
        let left = slices.iter().map(|slice| slice.len()).sum();
        let offset = 0;
        Self {
            slices,
            offset,
            left,
        }
    }

    /// Returns the next piece: a part of one slice if it is long enough, else the bytes of several
    /// slices, copied to `gathered`.
    pub(super) fn next<'b>(&mut self, gathered: &'b mut Buf, pool: &mut Pool) -> &'b [u8]
    where
        'a: 'b,
    {
        let len = self.left.min(RECORD_PLAIN_LEN_MAX);
        self.left -= len;
        if let Some(first) = self.slices.first()
            && let Some(piece) = first.get(self.offset..self.offset + len)
        {
            self.skip(len);
            return piece;
        }
        if gathered.capacity() == 0 {
            *gathered = pool.take(len);
        }
        gathered.clear();
        while gathered.len() < len
            && let Some(first) = self.slices.first()
        {
            let rest = &first[self.offset..];
            let part = &rest[..rest.len().min(len - gathered.len())];
            gathered.put(part);
            self.skip(part.len());
        }
        gathered.bytes()
    }

    fn skip(&mut self, len: usize) {
        self.offset += len;
        if self
            .slices
            .first()
            .is_some_and(|first| first.len() == self.offset)
        {
            self.slices = &self.slices[1..];
            self.offset = 0;
        }
    }
}

/// Appends bytes to a buffer. If the buffer has no memory, it takes some from the pool.
pub(super) fn append(buf: &mut Buf, bytes: &[u8], pool: &mut Pool) {
    reserve(buf, bytes.len(), pool);
    buf.put(bytes);
}

/// Ensures spare capacity in a buffer of the pool.
pub(super) fn reserve(buf: &mut Buf, len: usize, pool: &mut Pool) {
    if buf.capacity() == 0 {
        *buf = pool.take(len);
    }
    let capacity = buf.capacity();
    buf.reserve(len);
    pool.count(capacity, buf.capacity());
}

/// Reads once and discards the bytes. `spare` is the memory for the read.
pub(super) fn discard(
    stream: &mut Stream,
    spare: &mut [u8],
    wire: &mut WireLog,
) -> io::Result<Filtered> {
    match stream.read(spare) {
        Ok(0) => Ok(Filtered::End),
        Ok(len) => {
            wire.log_read(&spare[..len]);
            let emptied = len < spare.len();
            Ok(Filtered::Consumed { len, emptied })
        }
        Err(error) => would_block(error),
    }
}

/// Returns `OnRead` if a read failed with `WouldBlock`. Returns any other error unchanged.
pub(super) fn would_block(error: io::Error) -> io::Result<Filtered> {
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(Filtered::OnRead),
        _ => Err(error),
    }
}
