//! Output: accepted by `send`, written once per dispatch, queued only where the kernel refused it.
//!
//! The connection whose frames are being delivered collects its output in the engine's `out`
//! buffer, which is written at the end of its dispatch. Every other connection has its output in a
//! queue of its own, which is flushed at the end of the turn.

use std::io::{self, IoSlice};

use super::recording::record_write;
use super::{Connection, Engine, Entry, OUT_LEN_BASE, TRACED};
use crate::codec::{Framing, Out};
use crate::config::Config;
use crate::conn::{ClosingStep, Pool, SLICES_MAX, State, WriteQueue};
use crate::cutmap::Recorder;
use crate::error::{FrameError, SendError, Sent};
use crate::event::CloseReason;
use crate::id::Token;
use crate::memory::Buf;
use crate::stats::Stats;
use crate::timer::Stamp;

/// Whether a flush took a queue that was above its high mark down to its low one. To be told to
/// the handler, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) struct Drained(pub(crate) bool);

/// What becomes a frame.
pub(crate) trait Encode {
    /// How much room to make for it, as far as that is known.
    fn len(&self) -> usize;
    /// Appends the frame, or nothing.
    fn encode(self, framing: &Framing, buf: &mut Buf) -> Result<(), FrameError>;
    /// The payload, where it is there already.
    #[inline]
    fn bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl Encode for &[u8] {
    #[inline]
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    #[inline]
    fn encode(self, framing: &Framing, buf: &mut Buf) -> Result<(), FrameError> {
        framing.encode(self, buf)
    }

    #[inline]
    fn bytes(&self) -> Option<&[u8]> {
        Some(self)
    }
}

/// A payload that is written where it is sent from.
pub(crate) struct Written<F> {
    pub(crate) len: usize,
    pub(crate) write: F,
}

impl<F> Encode for Written<F>
where
    F: FnOnce(&mut Out<'_>) -> Result<(), FrameError>,
{
    fn len(&self) -> usize {
        self.len
    }

    fn encode(self, framing: &Framing, buf: &mut Buf) -> Result<(), FrameError> {
        framing.encode_with(buf, self.write)
    }
}

impl Engine {
    /// Encodes `payload` as a frame and queues it.
    #[inline]
    pub(crate) fn send<P: Encode>(&mut self, token: Token, payload: P) -> Result<Sent, SendError> {
        let Self {
            entries,
            active,
            out,
            config,
            ..
        } = self;
        // Most of what is sent is this, and all else is out of line.
        if entries.is_unchanged(token)
            && let Some(payload) = payload.bytes()
            && active.has_gathered(payload, out, config.write_high_bytes)
        {
            return Ok(Sent::Queued);
        }
        self.look_and_send(token, payload)
    }

    /// [`send`](Engine::send) where there is more to it.
    #[inline(never)]
    fn look_and_send<P: Encode>(&mut self, token: Token, payload: P) -> Result<Sent, SendError> {
        if self.entries.is_unchanged(token) {
            return self.gather(payload);
        }
        let is_served = self.active.is(token);
        let conn = self.entries.conn(token)?;
        let gathers = is_served && conn.gathers();
        if conn.flags.intersects(State::STOPS_SENDING) {
            Err(SendError::Closing)
        } else if conn.flags.intersects(State::RECORDED) {
            self.send_observed(token, payload, gathers)
        } else if gathers {
            self.gather(payload)
        } else {
            self.send_queued(token, payload)
        }
    }

    /// Gathers a frame for the connection that is active.
    #[inline]
    pub(super) fn gather<P: Encode>(&mut self, payload: P) -> Result<Sent, SendError> {
        let Self {
            active,
            out,
            config,
            ..
        } = self;
        let before = out.len();
        payload.encode(&active.framing, out)?;
        if out.len() > config.write_high_bytes {
            return self.gathered_much(before);
        }
        active.frames_out += 1;
        Ok(Sent::Queued)
    }

    /// The output from `before` on took it above its high mark; or it is too much.
    #[cold]
    fn gathered_much(&mut self, before: usize) -> Result<Sent, SendError> {
        let Self {
            entries,
            active,
            out,
            config,
            pool,
            stats,
            ..
        } = self;
        let token = active.token.ok_or(SendError::Gone)?;
        let conn = entries.conn_mut(token)?;
        let queued = out.len();
        if queued > config.write_queue_bytes_max {
            out.truncate(before);
            return Err(full(conn, before));
        }
        if pool.lent_bytes() >= config.memory_bytes_max {
            out.truncate(before);
            self.refuse_for_memory(token);
            return Err(SendError::Full);
        }
        Ok(accepted(conn, queued, config, stats))
    }

    /// [`send`](Engine::send) for a connection that is not active, or has a queue.
    pub(super) fn send_queued<P: Encode>(
        &mut self,
        token: Token,
        payload: P,
    ) -> Result<Sent, SendError> {
        let is_memory_full = self.is_memory_full();
        let Self {
            entries,
            active,
            pool,
            spare_queues,
            to_flush,
            config,
            stats,
            stamp,
            ..
        } = self;
        let conn = entries.conn_mut(token)?;
        if is_memory_full {
            self.refuse_for_memory(token);
            return Err(SendError::Full);
        }
        let framing = match active.is(token) {
            true => &active.framing,
            false => &conn.framing,
        };
        let limit = conn.limits(config).write_queue_bytes_max;
        let write_queue = conn
            .write_queue
            .get_or_insert_with(|| spare_queues.take(*stamp));
        // First, so that the flush clears up where encoding panics.
        if !conn.flags.intersects(State::TO_FLUSH) {
            conn.flags.insert(State::TO_FLUSH);
            to_flush.push_back(token);
        }
        let encoded = write_queue.encode(payload.len(), limit, pool, |buf| {
            payload.encode(framing, buf)
        });
        let queued = write_queue.len();
        if queued == 0 {
            spare_queues.put(conn.write_queue.take());
        }
        if !encoded? {
            return Err(full(conn, queued));
        }
        Ok(accepted(conn, queued, config, stats))
    }

    /// Moves what was gathered for a connection into its queue, as what comes next is queued too.
    pub(super) fn queue_gathered(&mut self, token: Token) {
        let Self {
            entries,
            active,
            out,
            pool,
            spare_queues,
            stamp,
            ..
        } = self;
        if out.is_empty() || !active.is(token) {
            return;
        }
        if let Ok(conn) = entries.conn_mut(token) {
            let write_queue = conn
                .write_queue
                .get_or_insert_with(|| spare_queues.take(*stamp));
            write_queue.push(out.bytes(), pool);
            out.clear();
            self.flush_later(token);
        }
    }

    /// Puts a connection into the list that is flushed at the end of the turn.
    pub(crate) fn flush_later(&mut self, token: Token) {
        if let Some(flags) = self.entries.flags_mut(token)
            && !flags.intersects(State::TO_FLUSH)
        {
            flags.insert(State::TO_FLUSH);
            self.to_flush.push_back(token);
        }
    }

    /// How many entries wait to be flushed now.
    pub(crate) fn to_flush_count(&self) -> usize {
        self.to_flush.len()
    }

    /// The entry that waits longest to be flushed, if it is still there.
    pub(crate) fn next_to_flush(&mut self) -> Option<(Token, &mut Entry)> {
        let token = self.to_flush.pop_front()?;
        let entry = self.entries.get_mut(token).ok()?;
        entry.flags_mut().remove(State::TO_FLUSH);
        Some((token, entry))
    }

    /// Writes what was gathered; what the kernel refuses is queued.
    pub(crate) fn write_out(&mut self, token: Token) -> Drained {
        let Self {
            entries,
            out,
            out_peak,
            stats,
            stamp,
            recorder,
            ..
        } = self;
        if out.is_empty() {
            return Drained(false);
        }
        let Ok(conn) = entries.unwatched_mut(token) else {
            out.clear();
            return Drained(false);
        };
        if conn.flags.intersects(State::DEAD | State::WRITE_FAILED) {
            conn.extras().unsent_bytes += out.len() as u64;
            out.clear();
            return Drained(false);
        }
        let len = out.len();
        match write_all(conn, stats, out, out_peak) {
            Ok(()) => {
                wrote(recorder, token, conn, *stamp, &Ok(len));
                Drained(conn.flags.set(State::ABOVE_HIGH, false))
            }
            Err(short) => self.wrote_less(token, short),
        }
    }

    /// The kernel did not take all that was gathered.
    #[cold]
    pub(super) fn wrote_less(&mut self, token: Token, result: io::Result<usize>) -> Drained {
        let Self {
            entries,
            out,
            pool,
            spare_queues,
            stamp,
            recorder,
            ..
        } = self;
        let Ok(conn) = entries.conn_mut(token) else {
            return Drained(false);
        };
        wrote(recorder, token, conn, *stamp, &result);
        match result {
            Ok(len) => out.consume(len),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                conn.flags.remove(State::WRITABLE);
            }
            Err(error) => {
                conn.extras().unsent_bytes += out.len() as u64;
                out.clear();
                return self.fail_write(token, error);
            }
        }
        let write_queue = conn
            .write_queue
            .get_or_insert_with(|| spare_queues.take(*stamp));
        write_queue.push(out.bytes(), pool);
        out.clear();
        self.flush(token)
    }

    /// Writes a connection's queue, until it is empty or the kernel refuses more.
    pub(crate) fn flush(&mut self, token: Token) -> Drained {
        let Self {
            entries,
            pool,
            stats,
            stamp,
            recorder,
            ..
        } = self;
        let Ok(conn) = entries.conn_mut(token) else {
            return Drained(false);
        };
        if conn.flags.intersects(State::CONNECTING | State::DEAD) {
            return Drained(false);
        }
        while conn.flags.intersects(State::WRITABLE)
            && let Some(mut write_queue) = conn.write_queue.take()
        {
            if write_queue.is_empty() {
                self.spare_queues.put(Some(write_queue));
                return self.emptied(token);
            }
            let result = match write_queue.is_one_piece() {
                true => write(conn, stats, write_queue.front()),
                false => write_pieces(conn, stats, &write_queue),
            };
            wrote(recorder, token, conn, *stamp, &result);
            if let Ok(len) = result {
                write_queue.progress = *stamp;
                write_queue.consume(len, pool);
            }
            conn.write_queue = Some(write_queue);
            match result {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    conn.flags.remove(State::WRITABLE);
                }
                Err(error) => return self.fail_write(token, error),
            }
        }
        let queued = conn.queued_bytes();
        if queued == 0 {
            return self.emptied(token);
        }
        drained(conn, queued, &self.config)
    }

    /// All output was taken: a closing connection goes on to its end.
    #[inline]
    fn emptied(&mut self, token: Token) -> Drained {
        let Self {
            entries, config, ..
        } = self;
        let Ok(conn) = entries.conn_mut(token) else {
            return Drained(false);
        };
        let drained = drained(conn, 0, config);
        if conn.flags.intersects(State::ENDS_OUTPUT) {
            self.step_closing(token);
        }
        drained
    }

    /// Takes a connection whose output was ended as far as it goes: to its FIN, or to its end.
    pub(crate) fn step_closing(&mut self, token: Token) {
        let Ok(conn) = self.conn_mut(token) else {
            return;
        };
        if conn.flags.next_closing_step(conn.write_queue.is_none()) == ClosingStep::SendFin {
            conn.flags.insert(State::FIN_SENT);
            // It fails only where the peer has gone already; reading tells of that.
            let _ = conn.stream.shutdown_write();
        }
        if conn.flags.next_closing_step(conn.write_queue.is_none()) == ClosingStep::Finish {
            self.kill(token, CloseReason::Local);
        }
    }

    /// A write failed: the output is lost, and counted. The input that the kernel still holds is
    /// delivered before the connection is closed.
    #[cold]
    pub(super) fn fail_write(&mut self, token: Token, error: io::Error) -> Drained {
        let Self {
            entries,
            pool,
            spare_queues,
            ..
        } = self;
        let Ok(conn) = entries.conn_mut(token) else {
            return Drained(false);
        };
        log::debug!("writing to {} failed: {error}", conn.peer);
        conn.flags
            .insert(State::WRITE_FAILED | State::READABLE | State::END_HINT | State::HUNG_UP);
        let lost = give_up_output(conn, pool, spare_queues);
        conn.extras().unsent_bytes += lost;
        let closing = conn.flags.intersects(State::CLOSING | State::PEER_ENDED);
        let drained = Drained(conn.flags.set(State::ABOVE_HIGH, false));
        conn.extras().give_reason(CloseReason::Io(error));
        if closing {
            self.kill(token, CloseReason::Local);
        } else {
            self.queue(token);
        }
        drained
    }
}

/// Gives a connection's queue back and tells how many bytes were in it.
pub(super) fn give_up_output(
    conn: &mut Connection,
    pool: &mut Pool,
    spare_queues: &mut SpareQueues,
) -> u64 {
    let mut write_queue = conn.write_queue.take();
    let lost = write_queue
        .as_mut()
        .map_or(0, |write_queue| write_queue.clear(pool) as u64);
    spare_queues.put(write_queue);
    lost
}

/// Empty queues that no connection has at present, for the next one that needs one.
#[derive(Default)]
pub(super) struct SpareQueues {
    #[expect(
        clippy::vec_box,
        reason = "a connection holds the box: eight bytes while it idles"
    )]
    boxes: Vec<Box<WriteQueue>>,
    /// The fewest there were since the last trim: what nobody needed in that time.
    unused: usize,
}

impl SpareQueues {
    pub(super) fn take(&mut self, now: Stamp) -> Box<WriteQueue> {
        let mut write_queue = self.boxes.pop().unwrap_or_default();
        self.unused = self.unused.min(self.boxes.len());
        write_queue.progress = now;
        write_queue
    }

    fn put(&mut self, write_queue: Option<Box<WriteQueue>>) {
        self.boxes.extend(write_queue);
    }

    /// Frees what lay idle since the last call. The first ones did: the last is taken first.
    pub(super) fn trim(&mut self) {
        self.boxes.drain(..self.unused);
        self.unused = self.boxes.len();
    }
}

/// A payload was refused as it does not fit behind the `queued` bytes. That counts as above the
/// high mark, so that `on_drained` tells when there is room.
#[cold]
pub(super) fn full(conn: &mut Connection, queued: usize) -> SendError {
    if queued > 0 {
        conn.flags.insert(State::ABOVE_HIGH);
    }
    SendError::Full
}

/// Counts an accepted payload and tells where the queue stands with it.
pub(super) fn accepted(
    conn: &mut Connection,
    queued: usize,
    config: &Config,
    stats: &mut Stats,
) -> Sent {
    stats.frames_out += 1;
    conn.stats.frames_out += 1;
    if queued > conn.limits(config).write_high_bytes {
        conn.flags.insert(State::ABOVE_HIGH);
        Sent::AboveHigh
    } else {
        Sent::Queued
    }
}

/// Whether the queue has come down to its low mark.
#[inline]
fn drained(conn: &mut Connection, queued: usize, config: &Config) -> Drained {
    let is_above = conn.flags.intersects(State::ABOVE_HIGH);
    let has_drained = is_above && queued <= conn.limits(config).write_low_bytes;
    Drained(has_drained && conn.flags.set(State::ABOVE_HIGH, false))
}

/// One write of as many segments as it takes.
fn write_pieces(
    conn: &mut Connection,
    stats: &mut Stats,
    write_queue: &WriteQueue,
) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let count = write_queue.slices(&mut slices);
    let written = conn.stream.write_gathered(&slices[..count]);
    note_write(conn, stats, written)
}

/// One write.
#[inline]
fn write(conn: &mut Connection, stats: &mut Stats, bytes: &[u8]) -> io::Result<usize> {
    let written = conn.stream.write(bytes);
    note_write(conn, stats, written)
}

/// Writes what was gathered. An error is what a write came to that did not take all of it.
#[inline]
pub(super) fn write_all(
    conn: &mut Connection,
    stats: &mut Stats,
    out: &mut Buf,
    peak: &mut usize,
) -> Result<(), io::Result<usize>> {
    let wanted = out.len();
    if wanted > OUT_LEN_BASE {
        *peak = wanted.max(*peak);
    }
    match conn.stream.write(out.bytes()) {
        Ok(len) if len == wanted => {
            count_write(conn, stats, len);
            out.clear();
            Ok(())
        }
        short => Err(note_write(conn, stats, short)),
    }
}

/// What a write came to. That the kernel takes nothing of something is an error, not a reason to
/// try again.
fn note_write(
    conn: &mut Connection,
    stats: &mut Stats,
    written: io::Result<usize>,
) -> io::Result<usize> {
    let len = match written {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        written => written,
    };
    count_write(conn, stats, len.as_ref().map_or(0, |len| *len));
    len
}

#[inline]
fn count_write(conn: &mut Connection, stats: &mut Stats, len: usize) {
    stats.writes += 1;
    stats.written_bytes += len as u64;
    conn.stats.written_bytes += len as u64;
}

/// What follows a write that is counted, but for what a dispatch
/// [ends plainly](Engine::end_plain) with: that one needs none of it.
fn wrote(
    recorder: &mut Recorder,
    token: Token,
    conn: &mut Connection,
    now: Stamp,
    result: &io::Result<usize>,
) {
    if let Ok(len) = *result {
        conn.active = now;
        log::trace!(target: TRACED, "wrote {len} bytes to {}", conn.peer);
        record_write(recorder, token, conn, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimming_frees_what_lay_idle_and_nothing_that_is_used_over_and_over() {
        let mut spares = SpareQueues::default();
        let held: Vec<_> = (0..8).map(|_| spares.take(Stamp::default())).collect();
        held.into_iter().for_each(|one| spares.put(Some(one)));
        for _ in 0..3 {
            spares.trim();
            assert!(spares.boxes.len() >= 2, "as many as are used over and over");
            let one = spares.take(Stamp::default());
            let other = spares.take(Stamp::default());
            spares.put(Some(one));
            spares.put(Some(other));
        }
        assert_eq!(spares.boxes.len(), 2);
        spares.trim();
        spares.trim();
        assert!(spares.boxes.is_empty());
    }
}
