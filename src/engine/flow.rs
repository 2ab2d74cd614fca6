//! Whether a connection is read: the handler's pause, and its credit.
//!
//! None of it makes a system call. A socket that is not read stays registered; what its events tell
//! is kept as readiness, for the time when it is read again.

use super::Engine;
use crate::conn::Flags;
use crate::error::Gone;
use crate::token::Token;

/// How many frames a connection may still be delivered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Credit {
    frames: u64,
    /// It was first granted while a frame was being delivered, which is not counted.
    is_fresh: bool,
}

impl Engine {
    pub(crate) fn pause(&mut self, token: Token) -> Result<(), Gone> {
        self.conn_mut(token)?.flags.insert(Flags::PAUSED);
        Ok(())
    }

    pub(crate) fn resume(&mut self, token: Token) -> Result<(), Gone> {
        if self.conn_mut(token)?.flags.set(Flags::PAUSED, false) {
            self.read_on(token);
        }
        Ok(())
    }

    pub(crate) fn grant(&mut self, token: Token, frames: u64) -> Result<(), Gone> {
        let is_fresh = self.current == Some(token);
        let conn = self.conn_mut(token)?;
        let none = Credit {
            frames: 0,
            is_fresh,
        };
        let credit = conn.rare().credit.get_or_insert(none);
        credit.frames = credit.frames.saturating_add(frames);
        let (has_some, is_endless) = (credit.frames > 0, credit.frames == u64::MAX);
        if is_endless {
            conn.rare().credit = None;
        }
        conn.flags.set(Flags::BY_CREDIT, !is_endless);
        if conn.flags.set(Flags::NO_CREDIT, !has_some) && has_some {
            self.read_on(token);
        }
        Ok(())
    }

    /// A frame was delivered.
    pub(crate) fn spend_credit(&mut self, token: Token) {
        let Ok(conn) = self.conn_mut(token) else {
            return;
        };
        let Some(credit) = conn.rare.as_mut().and_then(|rare| rare.credit.as_mut()) else {
            return;
        };
        if !std::mem::take(&mut credit.is_fresh) {
            credit.frames = credit.frames.saturating_sub(1);
        }
        if credit.frames == 0 {
            conn.flags.insert(Flags::NO_CREDIT);
        }
    }

    /// Serves a connection again that something had stopped.
    fn read_on(&mut self, token: Token) {
        self.restart_frame_deadline(token);
        self.queue(token);
    }
}
