//! Peers that are too slow: idle ones, those that begin a frame and do not end it, those that do
//! not read.
//!
//! A connection has one timer for all three, and what it does only leaves a stamp: nothing is set
//! or cancelled for a read, a frame or a write. When the timer fires it looks at the stamps, and is
//! set again for the earliest moment at which one of them could be too old.

use std::time::Duration;

use super::{Connection, Engine, Task};
use crate::config::Config;
use crate::conn::Flags;
use crate::error::CloseReason;
use crate::timer::Stamp;
use crate::token::Token;

/// Configured timeouts, each as long as it was asked for, up to the longest that stamps can tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    idle: Option<u32>,
    frame: Option<u32>,
    write_stall: Option<u32>,
    /// The shortest of them: how often a connection is looked at.
    shortest: Option<u32>,
}

impl Timeouts {
    pub(super) fn new(config: &Config) -> Self {
        let idle = config.idle_timeout.and_then(Stamp::span);
        let frame = config.frame_deadline.and_then(Stamp::span);
        let write_stall = config.write_stall_timeout.and_then(Stamp::span);
        let shortest = [idle, frame, write_stall].into_iter().flatten().min();
        Self {
            idle,
            frame,
            write_stall,
            shortest,
        }
    }

    pub(super) fn are_set(&self) -> bool {
        self.shortest.is_some()
    }

    /// What is over at `now`, or in how many milliseconds to look again.
    fn look(&self, conn: &Connection, now: Stamp) -> Result<u32, CloseReason> {
        let mut next = self.shortest.unwrap_or(u32::MAX);
        let mut is_over = |timeout: Option<u32>, since: Option<Stamp>| {
            let (Some(timeout), Some(since)) = (timeout, since) else {
                return false;
            };
            let left = timeout.saturating_sub(now.since(since));
            next = next.min(left.max(1));
            left == 0
        };
        // A frame that is not read on is not the peer's fault.
        let is_read = conn.flags.is_read();
        let unfinished = conn.inbound.unfinished_since().filter(|_| is_read);
        if is_over(self.frame, unfinished) {
            return Err(CloseReason::FrameDeadline);
        }
        let blocked = conn.outbound.as_ref().map(|outbound| outbound.progress);
        if is_over(self.write_stall, blocked) {
            return Err(CloseReason::WriteStalled);
        }
        if is_over(self.idle, Some(conn.active)) {
            return Err(CloseReason::IdleTimeout);
        }
        Ok(next)
    }
}

impl Engine {
    /// Begins to watch a connection that has opened.
    pub(super) fn watch(&mut self, token: Token) {
        if let Some(shortest) = self.timeouts.shortest {
            self.look_again(token, shortest);
            let now = self.stamp;
            if let Ok(conn) = self.conn_mut(token) {
                conn.active = now;
            }
        }
    }

    /// Looks at a connection's stamps, and closes it or looks again later.
    pub(crate) fn check_timeouts(&mut self, token: Token) {
        let (timeouts, now) = (self.timeouts, self.stamp);
        let Ok(conn) = self.conn_mut(token) else {
            return;
        };
        conn.check = None;
        if conn.flags.intersects(Flags::CLOSING | Flags::DEAD) {
            return;
        }
        match timeouts.look(conn, now) {
            Ok(millis) => self.look_again(token, millis),
            // It does not take what is queued: there is nothing to flush gently.
            Err(reason @ CloseReason::WriteStalled) => self.abort(token, reason),
            Err(reason) => self.close(token, reason),
        }
    }

    /// The handler or a drained queue lets a connection be read again: the time in which nobody
    /// read it is not counted against its frame.
    pub(crate) fn restart_frame_deadline(&mut self, token: Token) {
        let now = self.stamp;
        if let Ok(conn) = self.entries.conn_mut(token) {
            conn.inbound.restart_frame(now);
        }
    }

    fn look_again(&mut self, token: Token, millis: u32) {
        let check = self.set_task(Duration::from_millis(u64::from(millis)), Task::Check(token));
        if let Ok(conn) = self.conn_mut(token) {
            conn.check = Some(check);
        }
    }
}
