//! The active connection, which is the connection being dispatched.
//!
//! A dispatch moves the read side out of the entry and shares the framing with [`Active`]. So
//! callbacks can use the entry while the bytes of the connection are borrowed, and a frame needs no
//! look-up. At its end, the dispatch moves the read side back, adds its counts to the statistics
//! and writes the batch.

use std::mem;

use super::transport::unwritten_len;
use super::{Connection, Engine};
use crate::codec::{Framing, Kind};
use crate::conn::{Assembler, State, Watermark};
use crate::error::Gone;
use crate::event::CloseReason;
use crate::id::Token;
use crate::memory::Buf;
use crate::stats::Stats;

/// Capacity below which a trim does not shrink the batch buffer, in bytes.
pub(super) const BATCH_LEN_BASE: usize = 64 * 1024;

/// The active connection, its framing and its output.
#[derive(Debug)]
pub(crate) struct Active {
    /// The active connection; `None` between two dispatches.
    pub(super) token: Option<Token>,
    /// The framing of the active connection. It is kept after the dispatch, because the next
    /// connection usually has the same framing.
    pub(super) framing: Framing,
    /// Result of [`Framing::u32_len_end`]: payloads shorter than this number are framed by a
    /// big-endian `u32` length. Zero for other framings.
    pub(crate) u32_len_end: usize,
    /// Frame budget of this dispatch, minus the skipped frames and the peeks.
    frames_max: usize,
    /// Number of frames that may still be delivered in this dispatch.
    pub(crate) frames_left: usize,
    /// Number of payloads that this dispatch added to the batch; the statistics do not count them
    /// yet.
    pub(super) frames_out: u64,
    /// Output of this dispatch, written at its end, or earlier if it exceeds the high watermark.
    pub(crate) batch: Buf,
    /// Largest written batch since the last trim, in bytes; zero if none was larger than
    /// `BATCH_LEN_BASE`.
    pub(super) batch_peak: usize,
    /// Buffer for the header and the trailer of an owned payload. Not from the pool, because after
    /// a panic of the codec the pool would always count it as lent.
    pub(super) envelope: Buf,
}

impl Active {
    /// Returns the value between two dispatches: no connection is active.
    pub(super) fn none() -> Self {
        Self {
            token: None,
            framing: Framing::raw(),
            u32_len_end: 0,
            frames_max: 0,
            frames_left: 0,
            frames_out: 0,
            batch: Buf::default(),
            batch_peak: 0,
            envelope: Buf::default(),
        }
    }

    /// Starts a dispatch: makes the connection active, and returns its read side, which is moved
    /// out of the entry.
    #[inline]
    pub(super) fn begin(
        &mut self,
        token: Token,
        conn: &mut Connection,
        frames_max: usize,
    ) -> Assembler {
        conn.state.unmark_queued();
        self.token = Some(token);
        self.frames_max = frames_max;
        self.frames_left = frames_max;
        if !self.framing.is_same(&conn.framing) {
            self.set_framing(conn.framing.clone());
        }
        mem::take(&mut conn.assembler)
    }

    /// Returns the framing of the active connection.
    pub(crate) fn framing(&self) -> &Framing {
        &self.framing
    }

    fn set_framing(&mut self, framing: Framing) {
        self.u32_len_end = framing.u32_len_end();
        self.framing = framing;
    }

    /// Ends a dispatch: puts the read side back into the entry, and adds the counts to the
    /// statistics.
    pub(super) fn end(&mut self, conn: &mut Connection, assembler: Assembler, stats: &mut Stats) {
        debug_assert_eq!(
            conn.assembler.capacity(),
            0,
            "the read side must be taken out during a dispatch"
        );
        // The replaced read side owns no memory, so its drop is skipped to save time.
        mem::forget(mem::replace(&mut conn.assembler, assembler));
        let frames_in = self.frames_in();
        let frames_out = mem::take(&mut self.frames_out);
        stats.frames_in += frames_in;
        stats.frames_out += frames_out;
        conn.counts.frames_in += frames_in;
        conn.counts.frames_out += frames_out;
        self.token = None;
    }

    /// Returns true if `token` is the active connection.
    pub(super) fn is(&self, token: Token) -> bool {
        self.token == Some(token)
    }

    /// Returns the kind of the framing of the active connection.
    pub(crate) fn kind(&self) -> &Kind {
        self.framing.kind()
    }

    /// Returns the number of bytes in the batch of this connection; 0 if it is not active.
    pub(super) fn batched_bytes(&self, token: Token) -> usize {
        match self.is(token) {
            true => self.batch.len(),
            false => 0,
        }
    }

    /// Deducts a skipped frame or a peek from the frame budget, without counting a delivered frame.
    pub(crate) fn charge_skipped(&mut self) {
        self.frames_left -= 1;
        self.frames_max -= 1;
    }

    /// Returns the numbers of delivered frames and of batched payloads that the statistics do not
    /// count yet.
    pub(super) fn uncounted(&self) -> (u64, u64) {
        match self.token {
            Some(_) => (self.frames_in(), self.frames_out),
            None => (0, 0),
        }
    }

    /// Returns the number of frames that this dispatch has delivered.
    fn frames_in(&self) -> u64 {
        (self.frames_max - self.frames_left) as u64
    }

    /// Frees memory of the batch buffer that was not used since the last trim.
    pub(super) fn trim_batch(&mut self) {
        let peak = mem::take(&mut self.batch_peak);
        if self.batch.is_empty() && self.batch.capacity() > BATCH_LEN_BASE.max(2 * peak) {
            self.batch = Buf::with_capacity(BATCH_LEN_BASE.max(peak));
        }
    }
}

impl Engine {
    /// Makes a connection the active connection, and returns its read side.
    pub(crate) fn begin_dispatch(&mut self, token: Token) -> Option<Assembler> {
        let conn = self.entries.watched_conn_mut(token).ok()?;
        Some(self.active.begin(token, conn, self.config.frame_budget))
    }

    /// Ends a dispatch on the general path: puts the read side back, writes the batch, and
    /// continues a close. The returned flag is true if the caller must check for a hang-up.
    pub(crate) fn end_dispatch(&mut self, token: Token, assembler: Assembler) -> (Watermark, bool) {
        self.entries.watch(None);
        let conn = self.entries.watched_conn_mut(token);
        let conn = conn.expect("the key of the active connection is not freed: see `free`");
        self.active.end(conn, assembler, &mut self.telemetry.stats);
        let has_epilogue = conn.state.has_epilogue();
        let watermark = self.write_batch(token);
        if has_epilogue {
            self.step_close(token);
        }
        (watermark, has_epilogue)
    }

    /// Looks up the state of the active connection. Returns `State::dead()` if no connection is
    /// active. Watches the connection again if it is plain.
    pub(crate) fn active_state(&mut self) -> State {
        let active = self.active.token;
        let Some(Ok(conn)) = active.map(|token| self.entries.watched_conn_mut(token)) else {
            return State::dead();
        };
        let state = conn.state;
        #[cfg(not(unstick_general_path))]
        {
            let watched = super::fast_path::watched_token(conn, active);
            // While the memory budget is used up, `send` must fail. Only the general path checks
            // the budget, so no connection is watched then.
            let watched = watched.filter(|_| !self.memory.is_used_up());
            self.entries.watch(watched);
        }
        state
    }

    /// Records that the decoding of the active connection continues with its new framing.
    pub(crate) fn decode_with_new_framing(&mut self, token: Token) {
        if let Ok(conn) = self.conn_mut(token) {
            conn.state.reframe_handled();
        }
    }

    /// Replaces the framing of a connection.
    pub(crate) fn reframe(&mut self, token: Token, framing: Framing) -> Result<(), Gone> {
        let conn = self.entries.conn_mut(token)?;
        let former = mem::replace(&mut conn.framing, framing);
        if self.active.is(token) {
            conn.state.reframed();
            self.active.set_framing(conn.framing.clone());
        } else {
            conn.assembler.reframe(&former);
            self.queue(token);
        }
        Ok(())
    }

    /// Stops the decoding of a connection until `on_peek` was called. The call comes when `len_min`
    /// bytes are held, or when the stream has ended.
    pub(crate) fn peek(&mut self, token: Token, len_min: usize) -> Result<(), Gone> {
        let conn = self.entries.conn_mut(token)?;
        conn.state.peek();
        conn.extras().peek_len = Some(len_min);
        if !self.active.is(token) {
            self.queue(token);
        }
        Ok(())
    }

    /// Returns true if `on_peek` must be called now: the `undecoded_len` bytes that the connection
    /// holds are enough for the handler, or the stream has ended.
    pub(crate) fn is_peek_due(&self, token: Token, undecoded_len: usize) -> bool {
        let Ok(conn) = self.entries.conn(token) else {
            return false;
        };
        let len_min = conn.extras_ref().and_then(|extras| extras.peek_len);
        conn.state.is_peeking() && (len_min <= Some(undecoded_len) || conn.state.peer_ended())
    }

    /// Ends the wait for `on_peek`, which the caller calls next. The peek is deducted from the
    /// frame budget like a frame.
    pub(crate) fn begin_peek(&mut self, token: Token) {
        self.active.charge_skipped();
        if let Ok(conn) = self.entries.conn_mut(token) {
            conn.state.peek_handled();
            conn.extras().peek_len = None;
        }
    }

    /// Returns the number of bytes that `send` accepted and that neither the kernel nor a filter
    /// has taken.
    pub(crate) fn queued_bytes(&self, token: Token) -> Result<usize, Gone> {
        let conn = self.conn(token)?;
        let batched = self.active.batched_bytes(token);
        Ok(conn.queued_bytes() + unwritten_len(conn) + batched)
    }

    /// Ends a connection whose callback panicked. Its session and the output of this dispatch are
    /// lost. The reason `HandlerPanicked` replaces any other reason, because it reports that the
    /// session is lost.
    pub(crate) fn handler_panicked(&mut self, token: Token) {
        let is_active = self.active.is(token);
        let discarded = self.active.batched_bytes(token);
        if let Ok(conn) = self.entries.conn_mut(token) {
            let extras = conn.extras();
            extras.unsent_bytes += discarded as u64;
            extras.reason = Some(CloseReason::HandlerPanicked);
            // `abort` changes nothing if the handler has already detached the connection. The reset
            // is therefore requested here.
            extras.reset = true;
        }
        self.abort(token, CloseReason::HandlerPanicked);
        if is_active {
            self.active.batch.clear();
            let _ = self.end_dispatch(token, Assembler::default());
        }
    }
}
