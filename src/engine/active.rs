//! The connection whose frames are being delivered.
//!
//! While it is active, its read side stands with the dispatch and its framing here: callbacks may
//! reach the entry, and a frame costs no look-up, neither to be sent nor after it was delivered.

use std::mem;

use super::read::{Fill, fill};
use super::write::{Drained, write_all};
use super::{Connection, Engine};
use crate::codec::{Framing, Kind, Length};
use crate::conn::{Assembler, State};
use crate::error::Gone;
use crate::event::CloseReason;
use crate::id::Token;
use crate::memory::Buf;
use crate::stats::{ConnStats, Stats};

/// What each frame of a dispatch needs of its connection.
#[derive(Debug)]
pub(crate) struct Active {
    pub(super) token: Option<Token>,
    /// The connection's framing. It stays when the dispatch is over: most likely the next one is of
    /// the same.
    pub(super) framing: Framing,
    /// See [`Framing::u32_len_end`].
    pub(crate) u32_len_end: usize,
    frames_max: usize,
    /// How many frames may still be delivered.
    pub(crate) frames_left: usize,
    /// Payloads that were gathered, and are not counted elsewhere yet.
    pub(super) frames_out: u64,
}

/// A connection that was read as soon as its turn came.
pub(crate) struct FirstRead<'a> {
    /// Its read side, out of its entry.
    pub(crate) assembler: Assembler,
    /// What was read, at least one byte.
    pub(crate) bytes: &'a [u8],
}

impl Active {
    pub(super) fn nobody() -> Self {
        Self {
            token: None,
            framing: Framing::raw(),
            u32_len_end: 0,
            frames_max: 0,
            frames_left: 0,
            frames_out: 0,
        }
    }

    /// Takes the read side out of the entry, and the framing over.
    #[inline]
    fn begin(&mut self, token: Token, conn: &mut Connection, frames_max: usize) -> Assembler {
        conn.flags.remove(State::QUEUED);
        self.token = Some(token);
        self.frames_max = frames_max;
        self.frames_left = frames_max;
        if !self.framing.is_same(&conn.framing) {
            self.reframe(conn.framing.clone());
        }
        mem::take(&mut conn.assembler)
    }

    #[inline(never)]
    fn reframe(&mut self, framing: Framing) {
        self.u32_len_end = framing.u32_len_end();
        self.framing = framing;
    }

    /// Gathers a payload where there is nothing to it: a length of four bytes goes in front, and
    /// `out` has room for both and holds no more than `len_max` bytes with them. Otherwise nothing
    /// is done. Answers which it was.
    #[inline(always)]
    pub(super) fn has_gathered(&mut self, payload: &[u8], out: &mut Buf, len_max: usize) -> bool {
        let has_gathered = payload.len() < self.u32_len_end
            && out.try_put_with_header(Length::u32_of(payload), payload, len_max);
        self.frames_out += u64::from(has_gathered);
        has_gathered
    }

    #[inline]
    pub(super) fn is(&self, token: Token) -> bool {
        self.token == Some(token)
    }

    #[inline]
    pub(crate) fn kind(&self) -> &Kind {
        self.framing.kind()
    }

    /// A frame was skipped: it uses up the budget, and is not delivered.
    pub(crate) fn skip_one(&mut self) {
        self.frames_left -= 1;
        self.frames_max -= 1;
    }

    /// Frames delivered and payloads gathered that the statistics do not have yet.
    pub(super) fn uncounted(&self) -> (u64, u64) {
        match self.token {
            Some(_) => (self.frames_in(), self.frames_out),
            None => (0, 0),
        }
    }

    /// Frames delivered by this dispatch.
    #[inline]
    fn frames_in(&self) -> u64 {
        (self.frames_max - self.frames_left) as u64
    }

    /// Puts the read side back into the entry, and adds to the statistics what they do not have.
    #[inline]
    fn end(&mut self, conn: &mut Connection, assembler: Assembler, stats: &mut Stats) {
        debug_assert_eq!(conn.assembler.capacity(), 0, "it is served elsewhere");
        // What stood in its place owns nothing, and is not worth a look at its drop.
        mem::forget(mem::replace(&mut conn.assembler, assembler));
        let frames_in = self.frames_in();
        let frames_out = mem::take(&mut self.frames_out);
        stats.frames_in += frames_in;
        stats.frames_out += frames_out;
        conn.stats.frames_in += frames_in;
        conn.stats.frames_out += frames_out;
        self.token = None;
    }
}

impl Engine {
    /// The next entry of the round.
    #[inline]
    pub(crate) fn next_ready(&mut self) -> Option<Token> {
        self.ready.pop()
    }

    /// Begins to serve an entry of the round that is as most are: a plain connection that can be
    /// read, with nothing undelivered from before. It is read while it is at hand. `None` where
    /// there is more to it, or it gave no bytes: what became of it stands in its entry then; and
    /// where reads and writes are traced.
    #[inline]
    pub(crate) fn begin_plain<'a>(
        &mut self,
        token: Token,
        room: &'a mut [u8],
    ) -> Option<FirstRead<'a>> {
        if self.is_memory_full() || self.is_traced {
            return None;
        }
        let Self {
            entries,
            active,
            config,
            stats,
            stamp,
            ..
        } = self;
        let conn = entries.unwatched_mut(token).ok()?;
        if !conn.is_plain_to_read() {
            return None;
        }
        let len = match fill(conn, stats, room) {
            Fill::Bytes(len) => len,
            Fill::Ended | Fill::WouldBlock => return None,
            Fill::Failed(error) => {
                self.kill(token, CloseReason::Io(error));
                return None;
            }
        };
        conn.active = *stamp;
        let assembler = active.begin(token, conn, config.frame_budget);
        entries.watch(Some(token));
        let bytes = &room[..len];
        Some(FirstRead { assembler, bytes })
    }

    /// Takes any connection's read side out of its entry, and says how it stands.
    pub(crate) fn begin_serving(&mut self, token: Token) -> Option<(Assembler, State)> {
        let conn = self.entries.unwatched_mut(token).ok()?;
        let assembler = self.active.begin(token, conn, self.config.frame_budget);
        Some((assembler, self.look_at_served()))
    }

    /// Whether the connection that is served is as it was when it was last looked at.
    #[inline]
    pub(crate) fn is_served_unchanged(&self) -> bool {
        self.entries.is_watching()
    }

    /// Looks at the connection that is active.
    pub(crate) fn look_at_served(&mut self) -> State {
        let Some(token) = self.active.token else {
            return State::DEAD;
        };
        let Ok(conn) = self.entries.unwatched_mut(token) else {
            return State::DEAD;
        };
        let (flags, watched) = (conn.flags, conn.watched_as(token));
        self.entries.watch(watched);
        flags
    }

    /// Exchanges a connection's framing.
    pub(crate) fn reframe(&mut self, token: Token, framing: Framing) -> Result<(), Gone> {
        let conn = self.entries.conn_mut(token)?;
        if self.active.is(token) {
            conn.flags.insert(State::REFRAMED);
            self.active.reframe(framing.clone());
            conn.framing = framing;
        } else {
            conn.framing = framing;
            conn.assembler.reframe();
            self.queue(token);
        }
        Ok(())
    }

    /// Bytes that are accepted for a connection and not yet taken by the kernel.
    pub(crate) fn queued_bytes(&self, token: Token) -> Result<usize, Gone> {
        let queued = self.conn(token)?.queued_bytes();
        let is_served = self.active.is(token);
        Ok(queued + if is_served { self.out.len() } else { 0 })
    }

    /// Bytes that were read from a connection and are not delivered yet.
    pub(crate) fn undecoded_bytes(&self, token: Token) -> Result<usize, Gone> {
        Ok(self.conn(token)?.assembler.len())
    }

    pub(crate) fn conn_stats(&self, token: Token) -> Result<ConnStats, Gone> {
        let mut stats = self.conn(token)?.stats(self.callback_times.of(token));
        if self.active.is(token) {
            let (frames_in, frames_out) = self.active.uncounted();
            stats.frames_in += frames_in;
            stats.frames_out += frames_out;
        }
        Ok(stats)
    }

    /// What was counted, and how things stand at present.
    pub(crate) fn stats(&self) -> Stats {
        let (frames_in, frames_out) = self.active.uncounted();
        Stats {
            frames_in: self.stats.frames_in + frames_in,
            frames_out: self.stats.frames_out + frames_out,
            connections: self.connections,
            held_bytes: self.pool.lent_bytes(),
            ready: self.ready.len(),
            timers: self.wheel.len(),
            ..self.stats
        }
    }

    /// Ends the dispatch of a plain connection whose bytes were all decoded, if nothing is left to
    /// be done but to write what was gathered. Answers whether that was so.
    // In the loop: it is most of what a frame costs beside its delivery.
    #[inline(always)]
    pub(crate) fn end_plain(&mut self, token: Token, assembler: &mut Assembler) -> bool {
        let Self {
            entries,
            active,
            out,
            out_peak,
            stats,
            ..
        } = self;
        entries.watch(None);
        let Ok(conn) = entries.unwatched_mut(token) else {
            return false;
        };
        if conn.flags.intersects(State::GOES_ON) {
            return false;
        }
        active.end(conn, mem::take(assembler), stats);
        if !out.is_empty()
            && let Err(short) = write_all(conn, stats, out, out_peak)
        {
            let drained = self.wrote_less(token, short);
            debug_assert_eq!(drained, Drained(false), "it was not above its high mark");
        }
        true
    }

    /// Ends any dispatch: puts the read side back, and writes what was gathered. Answers too
    /// whether there is more to do.
    pub(crate) fn end_serving(&mut self, token: Token, assembler: Assembler) -> (Drained, bool) {
        let Self {
            entries,
            active,
            stats,
            ..
        } = self;
        entries.watch(None);
        let conn = entries.unwatched_mut(token);
        let conn = conn.expect("no key is freed during its dispatch: see `free`");
        active.end(conn, assembler, stats);
        let has_epilogue = conn.flags.intersects(State::HAS_EPILOGUE);
        let drained = self.write_out(token);
        if has_epilogue {
            self.step_closing(token);
        }
        (drained, has_epilogue)
    }
}
