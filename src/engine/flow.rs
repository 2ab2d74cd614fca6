//! Flow control of the read side: the handler's pause and credit, and hang-ups of peers that are not
//! read.
//!
//! None of it makes a system call. A socket that is not read stays registered; its events are kept
//! as readiness for the time when it is read again.

use super::Engine;
use crate::conn::{Credit, Watermark};
use crate::error::Gone;
use crate::event::{CloseReason, Hangup};
use crate::id::{SocketId, Token};

impl Engine {
    pub(crate) fn pause(&mut self, id: SocketId) -> Result<(), Gone> {
        self.entries.state_mut(id.token())?.pause();
        Ok(())
    }

    pub(crate) fn resume(&mut self, id: SocketId) -> Result<(), Gone> {
        if self.entries.state_mut(id.token())?.resume() {
            self.resume_reading(id.token());
        }
        Ok(())
    }

    pub(crate) fn grant(&mut self, token: Token, frames: u64) -> Result<(), Gone> {
        let during_frame = self.active.is(token);
        let conn = self.conn_mut(token)?;
        let none = Credit::new(during_frame);
        let credit = conn.extras().credit.get_or_insert(none);
        credit.grant(frames);
        let (has_credit, is_unlimited) = (!credit.is_empty(), credit.is_unlimited());
        if is_unlimited {
            conn.extras().credit = None;
        }
        if conn.state.credit_granted(!is_unlimited, has_credit) {
            self.resume_reading(token);
        }
        Ok(())
    }

    /// Pays for a delivered frame, if frames are granted by number.
    pub(crate) fn spend_credit(&mut self, token: Token) {
        if let Ok(conn) = self.conn_mut(token)
            && let Some(credit) = conn.credit()
        {
            credit.spend();
            if credit.is_empty() {
                conn.state.credit_used_up();
            }
        }
    }

    /// Records that a frame was skipped, which costs no credit.
    pub(crate) fn spend_nothing(&mut self, token: Token) {
        if let Ok(conn) = self.conn_mut(token)
            && let Some(credit) = conn.credit()
        {
            credit.spend_nothing();
        }
    }

    /// Checks if a peer that hung up while the connection is not read has reset it. Then no output
    /// can reach it, as after a failed write.
    pub(crate) fn check_reset(&mut self, token: Token) -> Watermark {
        let Ok(conn) = self.conn_mut(token) else {
            return Watermark::Unchanged;
        };
        if !conn.state.is_hung_up_unread() || conn.state.is_write_failed() {
            return Watermark::Unchanged;
        }
        match conn.stream.take_error() {
            Ok(None) => Watermark::Unchanged,
            Ok(Some(error)) | Err(error) => self.fail_write(token, error),
        }
    }

    /// Returns the hang-up to report of a connection that is not read. A connection that has nothing
    /// left to deliver, and can send nothing, ends here.
    pub(crate) fn take_hangup(&mut self, token: Token) -> Option<Hangup> {
        let conn = self.conn_mut(token).ok()?;
        if !conn.state.is_hung_up_unread() {
            return None;
        }
        if conn.state.is_output_over()
            && !conn.assembler.has_undelivered()
            && !conn.stream.has_unread()
        {
            self.end(token, CloseReason::Peer);
            return None;
        }
        conn.state.report_hangup()
    }

    /// Queues a connection that can be read again.
    pub(super) fn resume_reading(&mut self, token: Token) {
        self.restart_frame_deadline(token);
        self.queue(token);
    }
}
