//! Whether a connection is read: the handler's pause, and its credit; and what becomes of a peer
//! that goes while it is not.
//!
//! None of it makes a system call. A socket that is not read stays registered; what its events tell
//! is kept as readiness, for the time when it is read again.

use super::{Drained, Engine};
use crate::conn::State;
use crate::error::Gone;
use crate::event::CloseReason;
use crate::event::Hangup;
use crate::id::{SocketId, Token};

/// How many frames a connection may still be delivered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Credit {
    frames: u64,
    /// It was first granted while a frame was being delivered, which is not counted.
    is_fresh: bool,
}

impl Engine {
    pub(crate) fn pause(&mut self, id: SocketId) -> Result<(), Gone> {
        let flags = self.entries.flags_mut(id.token()).ok_or(Gone)?;
        flags.insert(State::PAUSED);
        Ok(())
    }

    pub(crate) fn resume(&mut self, id: SocketId) -> Result<(), Gone> {
        let flags = self.entries.flags_mut(id.token()).ok_or(Gone)?;
        if flags.set(State::PAUSED, false) {
            self.read_on(id.token());
        }
        Ok(())
    }

    pub(crate) fn grant(&mut self, token: Token, frames: u64) -> Result<(), Gone> {
        let is_fresh = self.active.is(token);
        let conn = self.conn_mut(token)?;
        let none = Credit {
            frames: 0,
            is_fresh,
        };
        let credit = conn.extras().credit.get_or_insert(none);
        credit.frames = credit.frames.saturating_add(frames);
        let (has_some, is_endless) = (credit.frames > 0, credit.frames == u64::MAX);
        if is_endless {
            conn.extras().credit = None;
        }
        conn.flags.set(State::BY_CREDIT, !is_endless);
        if conn.flags.set(State::NO_CREDIT, !has_some) && has_some {
            self.read_on(token);
        }
        Ok(())
    }

    /// A frame was delivered.
    pub(crate) fn spend_credit(&mut self, token: Token) {
        let Ok(conn) = self.conn_mut(token) else {
            return;
        };
        let Some(credit) = conn
            .extras
            .as_mut()
            .and_then(|extras| extras.credit.as_mut())
        else {
            return;
        };
        if !std::mem::take(&mut credit.is_fresh) {
            credit.frames = credit.frames.saturating_sub(1);
        }
        if credit.frames == 0 {
            conn.flags.insert(State::NO_CREDIT);
        }
    }

    /// A frame was skipped, which costs nothing. What was granted meanwhile counts from the next.
    pub(crate) fn spend_nothing(&mut self, token: Token) {
        if let Ok(conn) = self.conn_mut(token)
            && let Some(credit) = conn
                .extras
                .as_mut()
                .and_then(|extras| extras.credit.as_mut())
        {
            credit.is_fresh = false;
        }
    }

    /// Where nobody reads a connection that has hung up: finds out whether it was reset. Then no
    /// output can go any more, as where a write failed.
    pub(crate) fn note_reset(&mut self, token: Token) -> Drained {
        let Ok(conn) = self.conn_mut(token) else {
            return Drained(false);
        };
        if !conn.flags.is_hung_up_unread() || conn.flags.intersects(State::WRITE_FAILED) {
            return Drained(false);
        }
        match conn.stream.take_error() {
            Ok(None) => Drained(false),
            Ok(Some(error)) | Err(error) => self.fail_write(token, error),
        }
    }

    /// What is to be told of a connection that has hung up while nobody reads it. One that has
    /// nothing left to deliver, and can be sent nothing more, ends here.
    pub(crate) fn hangup(&mut self, token: Token) -> Option<Hangup> {
        let conn = self.conn_mut(token).ok()?;
        if !conn.flags.is_hung_up_unread() {
            return None;
        }
        conn.flags.remove(State::HUNG_UP);
        let is_reset = conn.flags.intersects(State::WRITE_FAILED);
        let has_ended = conn.flags.intersects(State::FIN_SENT);
        if is_reset || has_ended {
            let has_frames = conn.assembler.has_undelivered() || conn.stream.has_unread();
            if !has_frames {
                self.kill(token, CloseReason::Peer);
                return None;
            }
        }
        if is_reset {
            return Some(Hangup::Reset);
        }
        let is_news = !conn
            .flags
            .intersects(State::PEER_ENDED | State::HANGUP_TOLD);
        conn.flags.insert(State::HANGUP_TOLD);
        is_news.then_some(Hangup::Ended)
    }

    /// Serves a connection again that something had stopped.
    pub(super) fn read_on(&mut self, token: Token) {
        self.restart_frame_deadline(token);
        self.queue(token);
    }
}
