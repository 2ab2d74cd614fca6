//! Output: `send` encodes a payload, the end of the dispatch writes the batch once, and the
//! remaining bytes are queued.
//!
//! ```text
//!   send to the active connection -> encode into its batch -> one write at the end of the dispatch
//!                                                                      | not taken
//!   send to any other connection  -> encode into its write queue  <----+
//!                                          |
//!                                          +-> flushed at the end of the turn, and when writable
//! ```

use std::io::{self, IoSlice};

use super::active::{Active, BATCH_LEN_BASE};
use super::memory_budget::MemoryBudget;
use super::recording::record_filter;
use super::telemetry::Telemetry;
use super::transport::{
    begin_end, continue_read, discard_filter_output, drain, flush_filter, has_filter_output,
    stamp_filter, unwritten_len,
};
use super::{Connection, Engine, Entry};
use crate::codec::{Framing, Out};
use crate::config::Config;
use crate::conn::{Action, SLICES_MAX, Watermark, WriteQueue};
use crate::cutmap::EventKind;
use crate::error::{FrameError, SendError, Sent};
use crate::event::CloseReason;
use crate::id::{ConnId, Token};
use crate::log_target::{IO_TARGET, LOG_TARGET, log_conn};
use crate::memory::Buf;
use crate::os::Os;
use crate::stats::Stats;
use crate::timer::Stamp;

/// A payload that can be encoded as a frame.
pub(crate) trait EncodePayload {
    /// Returns the length of the payload in bytes; 0 if it is not known.
    fn len(&self) -> usize;
    /// Appends the frame to `buf`; appends no byte on an error.
    fn encode(self, framing: &Framing, buf: &mut Buf) -> Result<(), FrameError>;
    /// Returns the payload if `send_short` may frame it. Returns `None` if only `encode` can
    /// produce the output.
    fn bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl EncodePayload for &[u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn encode(self, framing: &Framing, buf: &mut Buf) -> Result<(), FrameError> {
        framing.encode(self, buf)
    }

    fn bytes(&self) -> Option<&[u8]> {
        Some(self)
    }
}

/// Bytes that are sent without framing.
pub(crate) struct Unframed<'a>(pub(crate) &'a [u8]);

impl EncodePayload for Unframed<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn encode(self, _: &Framing, buf: &mut Buf) -> Result<(), FrameError> {
        buf.put(self.0);
        Ok(())
    }
}

/// A payload that a closure writes directly into the output.
pub(crate) struct InPlace<F> {
    /// Length of the payload in bytes; 0 if it is not known.
    pub(crate) len: usize,
    pub(crate) write: F,
}

impl<F: FnOnce(&mut Out<'_>) -> Result<(), FrameError>> EncodePayload for InPlace<F> {
    fn len(&self) -> usize {
        self.len
    }

    fn encode(self, framing: &Framing, buf: &mut Buf) -> Result<(), FrameError> {
        framing.encode_with(buf, self.write)
    }
}

/// Sending.
impl Engine {
    /// Encodes `payload` as a frame and queues it.
    #[inline]
    pub(crate) fn send<P: EncodePayload>(
        &mut self,
        token: Token,
        payload: P,
    ) -> Result<Sent, SendError> {
        #[cfg(not(unstick_general_path))]
        if self.send_short(token, &payload) {
            return Ok(Sent::Queued);
        }
        self.send_checked(token, payload)
    }

    #[inline(never)]
    fn send_checked<P: EncodePayload>(
        &mut self,
        token: Token,
        payload: P,
    ) -> Result<Sent, SendError> {
        let is_active = self.active.is(token);
        let conn = self.entries.conn(token)?;
        let is_batched = is_active && conn.batches_output();
        if conn.state.stops_sending() {
            Err(SendError::Closing)
        } else if conn.state.is_recorded() {
            self.send_recorded(token, payload, is_batched)
        } else if is_batched {
            self.send_batched(payload)
        } else {
            self.send_queued(token, payload)
        }
    }

    /// Appends a frame to the batch of the active connection.
    pub(super) fn send_batched<P: EncodePayload>(&mut self, payload: P) -> Result<Sent, SendError> {
        if self.memory.is_used_up() {
            return self.batch_without_memory();
        }
        let active = &mut self.active;
        let before = active.batch.len();
        payload.encode(&active.framing, &mut active.batch)?;
        if active.batch.len() > self.config.write_high_bytes {
            return self.batch_above_high(before);
        }
        active.frames_out += 1;
        Ok(Sent::Queued)
    }

    /// Handles a batch that exceeds the high watermark or the hard limit. Its last frame, which was
    /// just appended, begins at offset `before`.
    fn batch_above_high(&mut self, before: usize) -> Result<Sent, SendError> {
        let token = self.active.token.ok_or(SendError::Gone)?;
        let conn = self.entries.conn_mut(token)?;
        let batch = &mut self.active.batch;
        let queued = batch.len();
        if queued > self.config.write_queue_bytes_max {
            batch.truncate(before);
            return Err(queue_full(conn, before));
        }
        let stats = &mut self.telemetry.stats;
        Ok(accepted(conn, queued, &self.config, stats))
    }

    /// Refuses a frame for the batch because the memory budget is used up. If the kernel does not
    /// take the whole batch, the rest needs memory of the write queue.
    #[cold]
    fn batch_without_memory(&mut self) -> Result<Sent, SendError> {
        let token = self.active.token.ok_or(SendError::Gone)?;
        self.await_memory(token);
        Err(SendError::Full)
    }

    /// Appends a frame to the write queue of a connection.
    pub(super) fn send_queued<P: EncodePayload>(
        &mut self,
        token: Token,
        payload: P,
    ) -> Result<Sent, SendError> {
        let conn = self.entries.conn_mut(token)?;
        if self.memory.is_used_up() {
            self.await_memory(token);
            return Err(SendError::Full);
        }
        let limit = conn.limits(&self.config).write_queue_bytes_max;
        let spares = &mut self.memory.spare_queues;
        let queue = spares.queue_of(&mut conn.write_queue, self.timers.stamp);
        // The entry is queued for the flush before the encoding. If the codec panics, a new write
        // queue is left without content, and the flush removes it.
        if conn.state.mark_to_flush() {
            self.queues.to_flush.push_back(token);
        }
        let framing = &conn.framing;
        let encoded = queue.encode(payload.len(), limit, &mut self.memory.pool, |buf| {
            payload.encode(framing, buf)
        });
        let queued = queue.len();
        if queued == 0 {
            spares.put(conn.write_queue.take());
        }
        if !encoded? {
            return Err(queue_full(conn, queued));
        }
        let stats = &mut self.telemetry.stats;
        Ok(accepted(conn, queued, &self.config, stats))
    }

    /// Moves the batch of a connection to its write queue. Called before later output goes to the
    /// write queue, so that the order is kept.
    pub(super) fn queue_batch(&mut self, token: Token) {
        if self.active.batched_bytes(token) > 0 {
            self.queue_rest_of_batch(token);
            self.flush_later(token);
        }
    }
}

/// Flushing.
impl Engine {
    /// Queues an entry for the flush at the end of the turn.
    pub(crate) fn flush_later(&mut self, token: Token) {
        if let Ok(state) = self.entries.state_mut(token)
            && state.mark_to_flush()
        {
            self.queues.to_flush.push_back(token);
        }
    }

    /// Returns the entry that has waited longest for its flush, and removes it from the queue.
    pub(crate) fn next_to_flush(&mut self) -> Option<(Token, &mut Entry)> {
        let token = self.queues.to_flush.pop_front()?;
        let entry = self.entries.get_mut(token).ok()?;
        entry.state_mut().unmark_to_flush();
        Some((token, entry))
    }

    /// Writes the batch with one write, and queues the bytes that the kernel does not take.
    pub(crate) fn write_batch(&mut self, token: Token) -> Watermark {
        let batch = &mut self.active.batch;
        if batch.is_empty() {
            return Watermark::Unchanged;
        }
        let Ok(conn) = self.entries.watched_conn_mut(token) else {
            batch.clear();
            return Watermark::Unchanged;
        };
        if conn.state.is_dead() || conn.state.is_write_failed() {
            conn.extras().unsent_bytes += batch.len() as u64;
            batch.clear();
            return Watermark::Unchanged;
        }
        let (stats, pool) = (&mut self.telemetry.stats, &mut self.memory.pool);
        let result = drain_batch(&mut self.active, |slices| drain(conn, stats, pool, slices));
        self.batch_written(token, result)
    }

    /// Handles the result of writing the batch.
    pub(super) fn batch_written(&mut self, token: Token, result: io::Result<usize>) -> Watermark {
        let Ok(conn) = self.entries.watched_conn_mut(token) else {
            return Watermark::Unchanged;
        };
        let batch = &mut self.active.batch;
        let stamp = self.timers.stamp;
        record_write(&mut self.telemetry, &self.os, token, conn, stamp, &result);
        match result {
            Ok(len) if len == batch.len() => {
                batch.clear();
                let watermark = watermark_after_write(conn, &self.config);
                if continue_read(conn) {
                    self.queue(token);
                }
                return watermark;
            }
            Ok(len) => batch.consume(len),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                conn.state.write_would_block();
            }
            Err(error) => {
                conn.extras().unsent_bytes += batch.len() as u64;
                batch.clear();
                return self.fail_write(token, error);
            }
        }
        self.queue_rest_of_batch(token);
        self.flush(token)
    }

    /// Moves the bytes of the batch that are not written yet to the write queue.
    fn queue_rest_of_batch(&mut self, token: Token) {
        if let Ok(conn) = self.entries.conn_mut(token) {
            let spares = &mut self.memory.spare_queues;
            let queue = spares.queue_of(&mut conn.write_queue, self.timers.stamp);
            queue.push(self.active.batch.bytes(), &mut self.memory.pool);
        }
        self.active.batch.clear();
    }

    /// Writes the queued output of a connection, until the queue is empty or the kernel takes no
    /// more.
    pub(crate) fn flush(&mut self, token: Token) -> Watermark {
        let conn = match self.entries.conn_mut(token) {
            Ok(conn) if conn.state.may_write() => conn,
            _ => return Watermark::Unchanged,
        };
        let stamp = self.timers.stamp;
        let flushed = flush_filter(conn, &mut self.memory.pool, stamp);
        record_filter(&mut self.telemetry, &self.os, token, conn);
        if let Err(error) = flushed {
            return self.fail_write(token, error);
        }
        while conn.state.is_writable()
            && let Some(mut queue) = conn.write_queue.take()
        {
            if queue.is_empty() {
                self.memory.spare_queues.put(Some(queue));
                break;
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = queue.slices(&mut slices);
            let (stats, pool) = (&mut self.telemetry.stats, &mut self.memory.pool);
            let result = drain(conn, stats, pool, &slices[..count]);
            record_write(&mut self.telemetry, &self.os, token, conn, stamp, &result);
            if let Ok(len) = result {
                queue.progress = stamp;
                queue.consume(len, &mut self.memory.pool);
            }
            conn.write_queue = Some(queue);
            match result {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    conn.state.write_would_block();
                }
                Err(error) => return self.fail_write(token, error),
            }
        }
        let queued = conn.queued_bytes();
        let watermark = match queued <= conn.limits(&self.config).write_low_bytes {
            true => watermark_after_write(conn, &self.config),
            false => Watermark::Unchanged,
        };
        let read_continues = continue_read(conn);
        if queued == 0 && conn.state.ends_output() {
            self.step_close(token);
        }
        if read_continues {
            self.queue(token);
        }
        watermark
    }

    /// Continues the close of a connection after the kernel took all of its output: sends the FIN,
    /// or ends the connection.
    pub(crate) fn step_close(&mut self, token: Token) {
        let conn = match self.entries.conn_mut(token) {
            Ok(conn) if conn.write_queue.is_none() && !has_filter_output(conn) => conn,
            _ => return,
        };
        if conn.state.output_taken() == Action::SendFin {
            let pool = &mut self.memory.pool;
            let begun = begin_end(conn, pool);
            record_filter(&mut self.telemetry, &self.os, token, conn);
            if let Err(error) = begun {
                // The queue is empty, so it was reported as drained before.
                let _ = self.fail_write(token, error);
                return;
            }
            if has_filter_output(conn) {
                return;
            }
            conn.state.fin_sent();
            // The call fails only if the peer has reset the connection. The next read reports the
            // reset.
            let _ = super::transport::end(conn, pool);
        }
        if conn.state.output_taken() == Action::Reap {
            self.end(token, CloseReason::Local);
        }
    }

    /// Discards the queued output of a connection, and counts it as unsent.
    pub(super) fn lose_queue(&mut self, token: Token) {
        let batched = self.active.batched_bytes(token);
        if batched > 0 {
            self.active.batch.clear();
        }
        if let Ok(conn) = self.entries.conn_mut(token) {
            let queued = discard_queue(conn, &mut self.memory);
            conn.extras().unsent_bytes += queued + batched as u64;
        }
    }

    /// Handles a failed write: queued output is lost and counted. Input that the kernel still holds
    /// is delivered before the connection closes.
    pub(super) fn fail_write(&mut self, token: Token, error: io::Error) -> Watermark {
        let Ok(conn) = self.entries.conn_mut(token) else {
            return Watermark::Unchanged;
        };
        let (id, peer) = (ConnId(token), &conn.peer);
        log_conn!(
            debug,
            LOG_TARGET,
            id,
            peer,
            "writing to {peer} failed: {error}"
        );
        let lost = discard_output(conn, &mut self.telemetry.stats, &mut self.memory);
        conn.extras().unsent_bytes += lost;
        conn.extras().set_reason(CloseReason::Io(error));
        let (action, watermark) = conn.state.write_failed();
        match action {
            Action::Reap => self.queues.to_reap.push_back(token),
            _ => self.queue(token),
        }
        watermark
    }
}

/// Records that the write queue is at or below the low watermark. Records nothing if the filter
/// holds output, and all queued bytes, including this output, are above the low watermark.
fn watermark_after_write(conn: &mut Connection, config: &Config) -> Watermark {
    if has_filter_output(conn)
        && conn.queued_bytes() + unwritten_len(conn) > conn.limits(config).write_low_bytes
    {
        return Watermark::Unchanged;
    }
    conn.state.at_low()
}

/// Discards all output of a connection, including that of its filter. Returns the number of
/// discarded bytes, counted as plaintext.
pub(super) fn discard_output(
    conn: &mut Connection,
    stats: &mut Stats,
    memory: &mut MemoryBudget,
) -> u64 {
    let filtered = discard_filter_output(conn, stats, &mut memory.pool);
    filtered + discard_queue(conn, memory)
}

/// Discards the write queue of a connection. Returns the number of bytes that were in it.
fn discard_queue(conn: &mut Connection, memory: &mut MemoryBudget) -> u64 {
    let mut queue = conn.write_queue.take();
    let pool = &mut memory.pool;
    let lost = queue.as_mut().map_or(0, |queue| queue.clear(pool) as u64);
    memory.spare_queues.put(queue);
    lost
}

/// Empty write queues for reuse by other connections.
#[derive(Debug, Default)]
pub(super) struct SpareQueues {
    #[expect(
        clippy::vec_box,
        reason = "a connection stores the box, which takes eight bytes while it is idle"
    )]
    boxes: Vec<Box<WriteQueue>>,
    /// Smallest number of spare queues since the last trim. This many spare queues were not needed
    /// since then.
    unused: usize,
}

impl SpareQueues {
    /// Returns the write queue of a connection. If it has none, takes a spare queue or creates one.
    pub(super) fn queue_of<'a>(
        &mut self,
        queue: &'a mut Option<Box<WriteQueue>>,
        now: Stamp,
    ) -> &'a mut WriteQueue {
        queue.get_or_insert_with(|| {
            let mut spare = self.boxes.pop().unwrap_or_default();
            self.unused = self.unused.min(self.boxes.len());
            spare.progress = now;
            spare
        })
    }

    pub(super) fn put(&mut self, queue: Option<Box<WriteQueue>>) {
        self.boxes.extend(queue);
    }

    /// Frees the queues that were not used since the last trim. These are the first queues of
    /// `boxes`, because `queue_of` takes the last one.
    pub(super) fn trim(&mut self) {
        self.boxes.drain(..self.unused);
        self.unused = self.boxes.len();
    }
}

/// Returns the error for a payload that would exceed the limit of the queue. `queued` is the number
/// of bytes in the queue. Unless the queue is empty, it then counts as above the high watermark. So
/// `on_drained` is called when the handler may send again.
pub(super) fn queue_full(conn: &mut Connection, queued: usize) -> SendError {
    if queued + unwritten_len(conn) > 0 {
        conn.state.above_high();
    }
    SendError::Full
}

/// Counts an accepted payload. Returns `AboveHigh` if `queued`, the number of queued bytes, exceeds
/// the high watermark.
pub(super) fn accepted(
    conn: &mut Connection,
    queued: usize,
    config: &Config,
    stats: &mut Stats,
) -> Sent {
    stats.frames_out += 1;
    conn.counts.frames_out += 1;
    if queued > conn.limits(config).write_high_bytes {
        conn.state.above_high();
        Sent::AboveHigh
    } else {
        Sent::Queued
    }
}

/// Writes the batch with one call of `drain`.
#[inline]
pub(super) fn drain_batch(
    active: &mut Active,
    drain: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<usize> {
    let len = active.batch.len();
    if len > BATCH_LEN_BASE {
        active.batch_peak = active.batch_peak.max(len);
    }
    drain(&[IoSlice::new(active.batch.bytes())])
}

/// Stores the time of a write, logs it and records it. The statistics already count the write.
pub(super) fn record_write(
    telemetry: &mut Telemetry,
    os: &Os,
    token: Token,
    conn: &mut Connection,
    now: Stamp,
    result: &io::Result<usize>,
) {
    stamp_filter(conn, now);
    record_filter(telemetry, os, token, conn);
    if let Ok(len) = *result {
        conn.stamp_write(now);
        let peer = &conn.peer;
        log_conn!(
            trace,
            IO_TARGET,
            ConnId(token),
            peer,
            "wrote {len} bytes to {peer}"
        );
        if conn.state.is_recorded() && !conn.state.is_filtered() {
            let offset = conn.counts.written_bytes.saturating_sub(len as u64);
            let recorder = telemetry.recorder.pass(os.now());
            recorder.record(token, EventKind::Write, offset, len as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trim_frees_only_unused_spare_queues() {
        let mut spares = SpareQueues::default();
        let mut held = [const { None }; 8];
        for queue in &mut held {
            spares.queue_of(queue, Stamp::default());
        }
        held.into_iter().for_each(|queue| spares.put(queue));
        for _ in 0..3 {
            spares.trim();
            assert!(spares.boxes.len() >= 2, "the queues in use are kept");
            let mut held = [None, None];
            for queue in &mut held {
                spares.queue_of(queue, Stamp::default());
            }
            held.into_iter().for_each(|queue| spares.put(queue));
        }
        assert_eq!(spares.boxes.len(), 2);
        spares.trim();
        spares.trim();
        assert!(spares.boxes.is_empty());
    }
}
