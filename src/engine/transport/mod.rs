//! The transport of a connection: its socket and an optional filter.
//!
//! Every byte of a connection passes through [`fill`] and [`drain`], or through [`fill_plain`] and
//! [`drain_plain`], their forms without a filter. Only a filter exchanges further bytes with the
//! socket, such as those of its handshake. A filter, such as TLS, sits between `fill` and `drain`
//! on one side and the socket on the other:
//!
//! ```text
//!              fill: plaintext <--+                +--> drain: plaintext
//!                                 |                |
//!                               filter (if there is one)
//!                                 |                |
//!                     Stream::read                 Stream::write
//! ```
//!
//! A filter may need to write before it can read. It may hold plaintext that no event will report,
//! and output that the socket has not taken. The state of the connection covers all three cases:
//!
//! * A read that waits for a write clears `READABLE`. The flush that ends the wait sets it again,
//!   and queues the entry.
//! * While the filter holds plaintext, `READABLE` is not cleared.
//! * While the filter waits for a writable socket, `WRITABLE` is cleared. The next writable event
//!   flushes the output, and the connection sends no FIN before that.

use std::io::{self, IoSlice};

use super::Connection;
use crate::conn::Pool;
use crate::event::CloseReason;
use crate::stats::Stats;
use crate::timer::Stamp;

/// The filters of connections. Outside tests and without the feature `tls`, no connection has one.
#[cfg_attr(not(any(test, feature = "tls")), path = "no_filter.rs")]
mod filter;
#[cfg(feature = "tls")]
mod tls_buffers;
#[cfg(feature = "tls")]
pub(super) mod tls_filter;
#[cfg(any(test, feature = "tls"))]
mod wire;
#[cfg(test)]
pub(crate) mod xor_filter;

#[cfg(any(test, feature = "tls"))]
pub(crate) use filter::Filter;
#[cfg(test)]
pub(crate) use filter::xor_filter_of;
pub(super) use filter::{
    continue_read, direct_len_min, has_filter, has_filter_output, has_write_error, held_bytes,
    stamp_filter, take_failure, take_wire_events, unwritten_len,
};
#[cfg(feature = "tls")]
pub(super) use filter::{handshake, set_server_name, tls_filter_of};

/// The result of one read.
#[derive(Debug)]
pub(crate) enum Filled {
    /// Number of bytes, at least one.
    Bytes(usize),
    /// Number of bytes that were read. The filter used them, and has no plaintext yet.
    #[cfg_attr(
        not(any(test, feature = "tls")),
        expect(dead_code, reason = "only filters use bytes without plaintext")
    )]
    Consumed(usize),
    /// The peer ended its stream.
    End,
    /// No bytes are available. An event will report when the next bytes arrive.
    WouldBlock,
    /// The read failed.
    Failed(io::Error),
}

/// Reads once into `spare`, which must not be empty. Passes the bytes through the filter, if the
/// connection has one.
#[inline]
pub(super) fn fill(
    conn: &mut Connection,
    stats: &mut Stats,
    pool: &mut Pool,
    spare: &mut [u8],
) -> Filled {
    match filter::fill(conn, stats, pool, spare) {
        Some(filled) => filled,
        None => fill_plain(conn, stats, spare),
    }
}

/// Reads once into `spare`, which must not be empty, without a filter.
///
/// `WouldBlock` clears the readiness. A short read clears it too, with three exceptions:
///
/// * An event reported the end of the stream. If the FIN arrived together with the data, no further
///   event will report the FIN.
/// * An event reported urgent data. A read stops at urgent data, although more data follows
///   (tcp(7)).
/// * A short read proves nothing for this kind of socket: see `Stream::short_read_empties`.
#[inline]
pub(super) fn fill_plain(conn: &mut Connection, stats: &mut Stats, spare: &mut [u8]) -> Filled {
    stats.reads += 1;
    conn.count_read();
    match conn.socket.read(spare) {
        Ok(0) => {
            conn.state.read_ended();
            Filled::End
        }
        Ok(len) => {
            count_filled(conn, stats, len);
            if len < spare.len() && conn.socket.short_read_empties() {
                conn.state.short_read();
            }
            Filled::Bytes(len)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            conn.state.read_would_block();
            Filled::WouldBlock
        }
        Err(error) => Filled::Failed(error),
    }
}

/// Writes `slices`, none of which may be empty. Returns the number of bytes that the socket or the
/// filter took. A write of zero bytes is an error.
#[inline]
pub(super) fn drain(
    conn: &mut Connection,
    stats: &mut Stats,
    pool: &mut Pool,
    slices: &[IoSlice<'_>],
) -> io::Result<usize> {
    match filter::drain(conn, stats, pool, slices) {
        Some(written) => count_written(conn, stats, written),
        None => drain_plain(conn, stats, slices),
    }
}

/// Writes `slices`, none of which may be empty, without a filter. A write of zero bytes is an
/// error.
#[inline(always)]
pub(super) fn drain_plain(
    conn: &mut Connection,
    stats: &mut Stats,
    slices: &[IoSlice<'_>],
) -> io::Result<usize> {
    stats.writes += 1;
    let written = match slices {
        [bytes] => conn.socket.write(bytes),
        slices => conn.socket.write_gathered(slices),
    };
    count_written(conn, stats, written)
}

/// Writes the output of the filter until the socket would block. Output that the filter holds back
/// waits for queued output, or for the flush at the end of the turn.
pub(super) fn flush_filter(conn: &mut Connection, pool: &mut Pool, now: Stamp) -> io::Result<()> {
    let has_more = conn.state.is_to_flush() || conn.queued_bytes() > 0;
    if has_more && filter::is_held_back(conn) {
        return Ok(());
    }
    if !conn.state.is_writable() && !has_write_error(conn) {
        return Ok(());
    }
    let flushed = filter::flush(conn, pool);
    stamp_filter(conn, now);
    match flushed {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

/// Returns the time of the last progress of pending output, or `None` if no output is pending.
/// While the filter holds output, the progress of the filter counts, because the write queue waits
/// for the filter.
pub(super) fn blocked_since(conn: &Connection) -> Option<Stamp> {
    let queue = conn.write_queue.as_ref().map(|queue| queue.progress);
    filter::blocked_since(conn).or(queue)
}

/// Sets the time of the last progress of pending output to `now`.
pub(super) fn restart_blocked(conn: &mut Connection, now: Stamp) {
    filter::restart_progress(conn, now);
    if let Some(queue) = &mut conn.write_queue {
        queue.progress = now;
    }
}

/// Returns true if unread input may be available. Does not read it.
pub(super) fn has_unread(conn: &Connection) -> bool {
    filter::has_input(conn) || conn.socket.has_unread()
}

/// Discards the queued output of the filter and all later output. Returns the number of plaintext
/// bytes that the filter accepted and lost; these bytes no longer count as written.
pub(super) fn discard_filter_output(
    conn: &mut Connection,
    stats: &mut Stats,
    pool: &mut Pool,
) -> u64 {
    let lost = filter::end_output(conn, pool);
    for written in [&mut conn.counts.written_bytes, &mut stats.written_bytes] {
        *written = written.saturating_sub(lost);
    }
    lost
}

/// Starts to end the write half: the filter appends its last record, such as a `close_notify`.
pub(super) fn begin_end(conn: &mut Connection, pool: &mut Pool) -> io::Result<()> {
    filter::begin_end(conn, pool)
}

/// Ends the write half: sends the FIN.
pub(super) fn end(conn: &mut Connection, pool: &mut Pool) -> io::Result<()> {
    filter::end_output(conn, pool);
    conn.socket.shutdown_write()
}

/// Puts the buffers of the filter back into the pool. Call it before the connection is removed.
pub(super) fn release(conn: &mut Connection, pool: &mut Pool) {
    filter::release(conn, pool);
}

/// Returns the reason of the close after a failed read: the reason of the filter, if it has one.
pub(super) fn reason_of(conn: &mut Connection, error: io::Error) -> CloseReason {
    take_failure(conn).unwrap_or(CloseReason::Io(error))
}

fn count_filled(conn: &mut Connection, stats: &mut Stats, len: usize) {
    conn.counts.read_bytes += len as u64;
    stats.read_bytes += len as u64;
}

#[inline]
fn count_written(
    conn: &mut Connection,
    stats: &mut Stats,
    written: io::Result<usize>,
) -> io::Result<usize> {
    match written {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(len) => {
            stats.written_bytes += len as u64;
            conn.counts.written_bytes += len as u64;
            Ok(len)
        }
        Err(error) => Err(error),
    }
}
