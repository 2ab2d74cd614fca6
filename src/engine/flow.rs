//! Flow control of the read side: pause, credit, and hang-ups of connections that are not read.
//!
//! Pause and credit make no system call. A socket that is not read stays registered, and its events
//! are kept as readiness until it is read again.

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

    /// Grants a connection `frames` more frames; `u64::MAX` removes the limit.
    pub(crate) fn grant(&mut self, token: Token, frames: u64) -> Result<(), Gone> {
        let none = Credit::new(self.active.is(token));
        let conn = self.conn_mut(token)?;
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

    /// Deducts a delivered frame from the credit, if there is one.
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

    /// Leaves the credit unchanged after a skipped frame or a peek.
    pub(crate) fn keep_credit(&mut self, token: Token) {
        if let Ok(conn) = self.conn_mut(token)
            && let Some(credit) = conn.credit()
        {
            credit.keep();
        }
    }

    /// Checks if the peer reset a connection that is not read. A reset is handled like a failed
    /// write, because no output can reach the peer.
    pub(crate) fn check_reset(&mut self, token: Token) -> Watermark {
        if let Ok(conn) = self.conn_mut(token)
            && conn.state.is_hung_up_unread()
            && !conn.state.is_write_failed()
            && let Ok(Some(error)) | Err(error) = conn.socket.take_error()
        {
            return self.fail_write(token, error);
        }
        Watermark::Unchanged
    }

    /// Returns the hang-up to report for a connection that is not read. If the connection has
    /// nothing left to deliver and can send nothing, it ends instead and `None` is returned.
    pub(crate) fn take_hangup(&mut self, token: Token) -> Option<Hangup> {
        let conn = self.conn_mut(token).ok();
        let conn = conn.filter(|conn| conn.state.is_hung_up_unread())?;
        if conn.state.is_output_over()
            && !conn.assembler.has_undelivered()
            && !super::transport::has_unread(conn)
        {
            self.end(token, CloseReason::Peer);
            return None;
        }
        conn.state.report_hangup()
    }

    /// Queues a socket that can be read again, and restarts the deadline of its partial frame.
    pub(super) fn resume_reading(&mut self, token: Token) {
        self.restart_frame_deadline(token);
        self.queue(token);
    }
}
