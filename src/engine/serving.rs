//! The connection whose frames are being delivered.
//!
//! While it is served, its read side stands with the dispatch and its framing here: callbacks may
//! reach the entry, and a frame costs no look-up, neither to be sent nor after it was delivered.

use std::mem;

use super::output::Drained;
use super::{Connection, Engine};
use crate::codec::{Framing, Kind};
use crate::conn::{Flags, Inbound};
use crate::error::Gone;
use crate::stats::{ConnStats, Stats};
use crate::token::Token;

/// What each frame of a dispatch needs of its connection.
#[derive(Debug)]
pub(crate) struct Served {
    pub(super) token: Option<Token>,
    /// The connection's framing. Its entry has another in its place meanwhile, which nobody uses.
    pub(super) framing: Framing,
    frames_max: usize,
    /// How many frames may still be delivered.
    pub(crate) frames_left: usize,
    /// Payloads that were gathered, and are not counted elsewhere yet.
    pub(super) frames_out: u64,
}

impl Served {
    pub(super) fn nobody() -> Self {
        Self {
            token: None,
            framing: Framing::raw(),
            frames_max: 0,
            frames_left: 0,
            frames_out: 0,
        }
    }

    /// Takes the framing and the read side out of the entry.
    #[inline]
    fn begin(&mut self, token: Token, conn: &mut Connection, frames_max: usize) -> Inbound {
        conn.flags.remove(Flags::QUEUED);
        self.token = Some(token);
        self.frames_max = frames_max;
        self.frames_left = frames_max;
        mem::swap(&mut self.framing, &mut conn.framing);
        mem::take(&mut conn.inbound)
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
        let frames_in = self.frames_max - self.frames_left;
        (frames_in as u64, self.frames_out)
    }
}

impl Engine {
    /// The next entry of the round.
    #[inline]
    pub(crate) fn next_ready(&mut self) -> Option<Token> {
        self.ready.pop()
    }

    /// Takes a connection's read side and framing out of its entry, and says how it stands; `None`
    /// where there is more to it: no connection, one that is not open yet, or one with a queue.
    #[inline]
    pub(crate) fn begin_plain(&mut self, token: Token) -> Option<(Inbound, Flags)> {
        let Self {
            entries,
            served,
            config,
            ..
        } = self;
        let conn = entries.unwatched_mut(token).ok()?;
        if conn.outbound.is_some() || conn.flags.intersects(Flags::CONNECTING) {
            return None;
        }
        let inbound = served.begin(token, conn, config.frame_budget);
        let (flags, watched) = (conn.flags, conn.watched_as(token));
        entries.watch(watched);
        Some((inbound, flags))
    }

    /// The same for any connection.
    pub(crate) fn begin_serving(&mut self, token: Token) -> Option<(Inbound, Flags)> {
        let conn = self.entries.unwatched_mut(token).ok()?;
        let inbound = self.served.begin(token, conn, self.config.frame_budget);
        Some((inbound, self.look_at_served()))
    }

    /// Whether the connection that is served is as it was when it was last looked at.
    #[inline]
    pub(crate) fn is_served_unchanged(&self) -> bool {
        self.entries.is_watching()
    }

    /// Looks at the connection that is served.
    pub(crate) fn look_at_served(&mut self) -> Flags {
        let Some(token) = self.served.token else {
            return Flags::DEAD;
        };
        let Ok(conn) = self.entries.unwatched_mut(token) else {
            return Flags::DEAD;
        };
        let (flags, watched) = (conn.flags, conn.watched_as(token));
        self.entries.watch(watched);
        flags
    }

    /// Exchanges a connection's framing.
    pub(crate) fn reframe(&mut self, token: Token, framing: Framing) -> Result<(), Gone> {
        let is_served = self.served.is(token);
        let conn = self.entries.conn_mut(token)?;
        if is_served {
            conn.flags.insert(Flags::REFRAMED);
            self.served.framing = framing;
        } else {
            conn.framing = framing;
            conn.inbound.reframe();
            self.queue(token);
        }
        Ok(())
    }

    /// Bytes that are accepted for a connection and not yet taken by the kernel.
    pub(crate) fn queued_bytes(&self, token: Token) -> Result<usize, Gone> {
        let queued = self.conn(token)?.queued_bytes();
        let is_served = self.served.is(token);
        Ok(queued + if is_served { self.out.len() } else { 0 })
    }

    /// Bytes that were read from a connection and are not delivered yet.
    pub(crate) fn undecoded_bytes(&self, token: Token) -> Result<usize, Gone> {
        Ok(self.conn(token)?.inbound.len())
    }

    pub(crate) fn conn_stats(&self, token: Token) -> Result<ConnStats, Gone> {
        let mut stats = self.conn(token)?.stats(self.callback_times.of(token));
        if self.served.is(token) {
            let (frames_in, frames_out) = self.served.uncounted();
            stats.frames_in += frames_in;
            stats.frames_out += frames_out;
        }
        Ok(stats)
    }

    /// What was counted, and how things stand at present.
    pub(crate) fn stats(&self) -> Stats {
        let (frames_in, frames_out) = self.served.uncounted();
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

    /// Puts back what was taken out, and writes what was gathered. Answers too whether there is
    /// more to do.
    #[inline]
    pub(crate) fn end_serving(&mut self, token: Token, inbound: Inbound) -> (Drained, bool) {
        let Self {
            entries,
            served,
            stats,
            ..
        } = self;
        served.token = None;
        entries.watch(None);
        let Ok(conn) = entries.unwatched_mut(token) else {
            return (Drained(false), false);
        };
        mem::swap(&mut served.framing, &mut conn.framing);
        // What stood in its place owns nothing, and is not worth a look at its drop.
        mem::forget(mem::replace(&mut conn.inbound, inbound));
        let (frames_in, frames_out) = served.uncounted();
        served.frames_left = served.frames_max;
        served.frames_out = 0;
        stats.frames_in += frames_in;
        stats.frames_out += frames_out;
        conn.stats.frames_in += frames_in;
        conn.stats.frames_out += frames_out;
        let has_epilogue = conn.flags.intersects(Flags::HAS_EPILOGUE);
        let drained = self.write_out(token);
        if has_epilogue {
            self.step_closing(token);
        }
        (drained, has_epilogue)
    }
}
