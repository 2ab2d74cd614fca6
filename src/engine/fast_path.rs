//! All shortcuts of the engine. The general path is complete without this file. With `--cfg
//! unstick_general_path` this file is not compiled, and all tests pass.
//!
//! A connection is *plain* while none of its frames needs a check. A plain connection has no hold,
//! close, own limits, credit, recording, timed callbacks or queued output. A connection with a
//! filter can be plain too. For such connections, the shortcuts are compiled a second time with
//! `FILTERED`.
//!
//! The last column shows the instructions in user space that a shortcut saves per echoed frame of
//! 64 bytes, with 64 connections. The first number is for one frame at a time, the second for 16
//! frames at a time. For each row, only its shortcut was removed. This command counts the
//! instructions: `cargo run --release --manifest-path benches/peers/Cargo.toml -- instructions`.
//!
//! | shortcut | preconditions | saves |
//! |---|---|---|
//! | [`begin_plain`](Engine::begin_plain) | plain, readable, nothing undelivered, memory available, reads not logged | 639, 33 |
//! | [`only_frame`](Engine::only_frame) | the read is exactly one frame with a `u32` length, and no partial frame is held | 112, 0 |
//! | [`watched_token`] | plain, memory available, and no entry borrowed mutably since the last look-up | 235, 238 |
//! | [`send_short`](Engine::send_short) | to the watched connection, `u32` length, fits the batch and the high watermark | 99, 102 |
//! | [`end_plain`](Engine::end_plain) | all bytes decoded, nothing left to read, still plain | 332, 21 |
//!
//! With all shortcuts, a frame takes 398 and 109 instructions; on the general path, 1,241 and 364.

use super::transport::{
    Filled, drain, drain_plain, fill, fill_plain, has_filter_output, has_write_error, stamp_filter,
};
use super::write::{EncodePayload, drain_batch};
use super::{Connection, Engine};
use crate::codec::Length;
use crate::conn::{Assembler, Watermark};
use crate::id::Token;

/// Returns the argument of `Entries::watch` for the active connection `token`. It says which later
/// look-ups of the connection can be left out:
///
/// * `token`: the look-ups after a frame, and the look-up of each send.
/// * [`Token::NONE`]: only the look-ups after a frame. This is the value for a connection that is
///   recorded and otherwise plain. Each send looks the connection up, because only the general path
///   records sends.
/// * `None`: no look-up.
pub(super) fn watched_token(conn: &Connection, token: Option<Token>) -> Option<Token> {
    if conn.write_queue.is_some() || !conn.state.needs_no_check_per_frame() {
        return None;
    }
    match conn.state.is_recorded() {
        true => Some(Token::NONE),
        false => token,
    }
}

impl Engine {
    /// Starts the dispatch of a plain connection with its first read. Returns the read side, moved
    /// out of the entry, and the bytes that were read, at least one. Returns `None` if the general
    /// path must dispatch the entry. `FILTERED` is true for connections with a filter.
    #[inline]
    pub(crate) fn begin_plain<'a, const FILTERED: bool>(
        &mut self,
        token: Token,
        spare: &'a mut [u8],
    ) -> Option<(Assembler, &'a [u8])> {
        if self.memory.is_used_up() || self.telemetry.is_traced {
            return None;
        }
        let conn = self.entries.watched_conn_mut(token).ok()?;
        if !conn.state.is_plain_to_read(FILTERED)
            || conn.write_queue.is_some()
            || FILTERED && has_filter_output(conn)
            || !conn.assembler.is_to_ingest()
        {
            return None;
        }
        let stats = &mut self.telemetry.stats;
        let filled = match FILTERED {
            true => fill(conn, stats, &mut self.memory.pool, spare),
            false => fill_plain(conn, stats, spare),
        };
        if FILTERED {
            stamp_filter(conn, self.timers.stamp);
        }
        let has_write_error = FILTERED && has_write_error(conn);
        let len = match filled {
            Filled::Bytes(len) => len,
            Filled::Consumed(_) => {
                conn.last_activity = self.timers.stamp;
                0
            }
            Filled::End | Filled::WouldBlock => 0,
            Filled::Failed(error) => {
                self.read_failed(token, error);
                return None;
            }
        };
        if len == 0 {
            if has_write_error {
                self.flush_later(token);
            }
            return None;
        }
        conn.last_activity = self.timers.stamp;
        let assembler = self.active.begin(token, conn, self.config.frame_budget);
        if has_write_error {
            self.flush_later(token);
        }
        self.entries.watch(Some(token));
        Some((assembler, &spare[..len]))
    }

    /// Returns the payload if the framing is a big-endian `u32` length and the bytes of a read are
    /// exactly one frame.
    #[inline]
    pub(crate) fn only_frame<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let payload = Length::only_u32(bytes)?;
        (payload.len() < self.active.u32_len_end).then_some(payload)
    }

    /// Appends a short payload to the batch of the watched connection. Returns false and changes
    /// nothing if the general path must send the payload.
    #[inline(always)]
    pub(super) fn send_short<P: EncodePayload>(&mut self, token: Token, payload: &P) -> bool {
        let active = &mut self.active;
        let is_sent = self.entries.is_unchanged(token)
            && payload.bytes().is_some_and(|payload| {
                payload.len() < active.u32_len_end
                    && active.batch.try_put_with_header(
                        Length::u32_of(payload),
                        payload,
                        self.config.write_high_bytes,
                    )
            });
        active.frames_out += u64::from(is_sent);
        is_sent
    }

    /// Ends the dispatch of a plain connection whose bytes are all decoded. Returns the read side
    /// if the general path must end the dispatch.
    #[inline(always)]
    pub(crate) fn end_plain<const FILTERED: bool>(
        &mut self,
        token: Token,
        assembler: Assembler,
    ) -> Result<(), Assembler> {
        self.entries.watch(None);
        let Ok(conn) = self.entries.watched_conn_mut(token) else {
            return Err(assembler);
        };
        if !conn.state.is_dispatch_over() {
            return Err(assembler);
        }
        self.active.end(conn, assembler, &mut self.telemetry.stats);
        if !self.active.batch.is_empty() {
            let wanted = self.active.batch.len();
            let stats = &mut self.telemetry.stats;
            let pool = &mut self.memory.pool;
            let result = drain_batch(&mut self.active, |slices| match FILTERED {
                true => drain(conn, stats, pool, slices),
                false => drain_plain(conn, stats, slices),
            });
            match result {
                Ok(len) if len == wanted && !FILTERED => self.active.batch.clear(),
                result => {
                    let watermark = self.batch_written(token, result);
                    debug_assert_eq!(
                        watermark,
                        Watermark::Unchanged,
                        "a plain connection is never above the high watermark"
                    );
                }
            }
        }
        Ok(())
    }
}
