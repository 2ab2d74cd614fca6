//! One read of a connection, and the counts of its input.

use std::io;

use super::log_limit::warn_limited;
use super::recording::record_filter;
use super::transport::{Filled, direct_len_min, fill, has_write_error, reason_of, stamp_filter};
use super::{Connection, Engine};
use crate::codec::Skipped;
use crate::error::{FrameError, Gone};
use crate::event::CloseReason;
use crate::id::{ConnId, Token};
use crate::log_target::{IO_TARGET, log_conn};

impl Engine {
    /// Reads once into `spare`, which must not be empty.
    pub(crate) fn read(&mut self, token: Token, spare: &mut [u8]) -> Filled {
        let Ok(conn) = self.entries.watched_conn_mut(token) else {
            return Filled::Failed(Gone.into());
        };
        let (stats, pool) = (&mut self.telemetry.stats, &mut self.memory.pool);
        let filled = fill(conn, stats, pool, spare);
        stamp_filter(conn, self.timers.stamp);
        record_filter(&mut self.telemetry, &self.os, token, conn);
        if let Filled::Bytes(len) | Filled::Consumed(len) = filled {
            conn.last_activity = self.timers.stamp;
            let peer = &conn.peer;
            log_conn!(
                trace,
                IO_TARGET,
                ConnId(token),
                peer,
                "read {len} bytes from {peer}"
            );
        }
        if has_write_error(conn) {
            self.flush_later(token);
        }
        filled
    }

    /// Ends a connection after a failed read, with the reason of the filter if the filter has
    /// failed.
    pub(crate) fn read_failed(&mut self, token: Token, error: io::Error) {
        let Ok(conn) = self.entries.conn_mut(token) else {
            return;
        };
        match reason_of(conn, error) {
            reason @ CloseReason::Io(_) => self.end(token, reason),
            // Queued output is still sent, because the peer has ended only its own side.
            #[cfg(feature = "tls")]
            reason @ CloseReason::TlsTruncated => self.close(token, reason),
            reason => self.reject(token, reason),
        }
    }

    /// Returns the minimum spare capacity that the buffer of a partial frame needs for a direct
    /// read into this buffer. With less spare capacity, the connection is read into the shared
    /// buffer.
    pub(crate) fn direct_len_min(&self, token: Token) -> usize {
        self.entries.conn(token).map_or(0, direct_len_min)
    }

    /// Ends the connection if its write half has failed. Called when the socket has no more input.
    /// The connection does not wait for the FIN of the peer, because the FIN might never arrive.
    pub(crate) fn end_after_failed_write(&mut self, token: Token) {
        if self.failed_to_write(token) {
            self.end(token, CloseReason::Local);
        }
    }

    /// Returns true if a write to this connection failed.
    pub(crate) fn failed_to_write(&self, token: Token) -> bool {
        self.conn(token)
            .is_ok_and(|conn| conn.state.is_write_failed())
    }

    /// Counts input that is discarded.
    pub(crate) fn count_undecoded(&mut self, token: Token, bytes: usize) {
        if bytes > 0
            && let Ok(conn) = self.conn_mut(token)
        {
            conn.extras().undecoded_bytes += bytes as u64;
        }
    }

    /// Marks the end of the stream as delivered.
    pub(crate) fn end_delivered(&mut self, token: Token) {
        if let Ok(conn) = self.conn_mut(token) {
            debug_assert!(
                conn.state.wants_frames(),
                "the end of the stream is not delivered while delivery is stopped"
            );
            conn.state.end_delivered();
        }
    }

    /// Records a malformed frame as the reason of the close that follows. `undecoded` is the number
    /// of read bytes from the start of the malformed frame on.
    pub(crate) fn frame_failed(&mut self, token: Token, error: &FrameError, undecoded: usize) {
        if let Ok(conn) = self.entries.conn_mut(token) {
            let offset = conn.counts.read_bytes.saturating_sub(undecoded as u64);
            let (id, peer) = (ConnId(token), conn.peer.clone());
            warn_limited!(
                self,
                Frame => "closing {id} from {peer}: {error}, at byte {offset} of the stream"
            );
            let error = error.clone();
            #[cfg(feature = "metrics")]
            let label = error.label();
            conn.extras()
                .set_reason(CloseReason::Frame { error, offset });
            #[cfg(feature = "metrics")]
            self.count_frame_error(label);
        }
    }

    /// Counts and logs a frame that was skipped because it was too long.
    pub(crate) fn frame_skipped(&mut self, token: Token, skipped: Skipped) {
        self.active.charge_skipped();
        self.telemetry.stats.frames_skipped += 1;
        warn_limited!(self, Skipped => "{}: {skipped}", ConnId(token));
    }

    /// Counts bytes that the codec skips between frames.
    pub(crate) fn count_filler(&mut self, bytes: u64) {
        let stats = &mut self.telemetry.stats;
        stats.filler_bytes = stats.filler_bytes.saturating_add(bytes);
    }

    /// Counts a frame whose bytes arrive in more than one read. `bytes` are the bytes of the frame
    /// that have arrived.
    pub(crate) fn frame_split(&mut self, bytes: &[u8]) {
        let stats = &mut self.telemetry.stats;
        stats.frames_split += 1;
        stats.headers_split += u64::from(self.active.kind().is_header_cut(bytes));
    }
}

impl Connection {
    /// Returns true if a dispatch must first continue the connect or the preparation, or write
    /// output.
    pub(crate) fn has_output_work(&self) -> bool {
        self.write_queue.is_some()
            || self.state.is_opening()
            || super::transport::has_filter_output(self)
    }
}
