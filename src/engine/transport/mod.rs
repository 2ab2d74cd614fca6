//! The transport of a connection: its socket and an optional filter.
//!
//! Every byte of a connection passes through [`fill`] and [`drain`]. A filter, such as TLS, sits
//! between them and the socket:
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
//! * While the filter holds output, `WRITABLE` is cleared. The next writable event flushes the
//!   output, and the connection sends no FIN before that.

use std::io::{self, IoSlice};

use super::Connection;
use crate::stats::Stats;
use crate::timer::Stamp;

#[cfg(test)]
pub(crate) mod xor_filter;

/// The result of one read.
#[derive(Debug)]
pub(crate) enum Filled {
    /// Number of bytes, at least one.
    Bytes(usize),
    /// The peer ended its stream.
    End,
    /// No bytes are available. An event will report when the next bytes arrive.
    WouldBlock,
    /// The read failed.
    Failed(io::Error),
}

/// The filters that a transport can have.
#[cfg(test)]
#[derive(Debug)]
pub(crate) enum Filter {
    /// A filter that encrypts records with XOR, for tests of the filter interface.
    Xor(xor_filter::XorFilter),
}

/// Reads once into `spare`, which must not be empty.
///
/// `WouldBlock` clears the readiness. A short read clears it too, with two exceptions:
///
/// * An event reported the end of the stream. If the FIN arrived together with the data, no further
///   event will report the FIN.
/// * An event reported urgent data. A read stops at urgent data, although more data follows
///   (tcp(7)).
#[inline]
pub(super) fn fill(conn: &mut Connection, stats: &mut Stats, spare: &mut [u8]) -> Filled {
    stats.reads += 1;
    conn.count_read();
    #[cfg(test)]
    if conn.state.is_filtered() {
        return fill_filtered(conn, stats, spare);
    }
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
    slices: &[IoSlice<'_>],
) -> io::Result<usize> {
    stats.writes += 1;
    #[cfg(test)]
    if conn.state.is_filtered() {
        let written = drain_filtered(conn, slices);
        return count_drained(conn, stats, written);
    }
    let written = match slices {
        [bytes] => conn.socket.write(bytes),
        slices => conn.socket.write_gathered(slices),
    };
    count_drained(conn, stats, written)
}

/// Writes the output of the filter until the socket would block.
pub(super) fn flush_filter(conn: &mut Connection, now: Stamp) -> io::Result<()> {
    #[cfg(test)]
    if (conn.state.is_writable() || has_write_error(conn))
        && let Some((filter, stream)) = filter_and_stream(conn)
    {
        let flushed = filter.flush(stream);
        filter_written(conn);
        stamp_filter(conn, now);
        return match flushed {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        };
    }
    let _ = (conn, now);
    Ok(())
}

/// Returns true if the connection has a filter.
pub(super) fn has_filter(conn: &Connection) -> bool {
    #[cfg(test)]
    if filter(conn).is_some() {
        return true;
    }
    let _ = conn;
    false
}

/// Returns true if the filter holds output that the socket has not taken.
pub(super) fn has_filter_output(conn: &Connection) -> bool {
    #[cfg(test)]
    if let Some(filter) = filter(conn) {
        return filter.has_output();
    }
    let _ = conn;
    false
}

/// Lets reading continue if a read of the filter waited for a write and the filter has now written
/// all output. Returns true if the caller must queue the entry, because no event will report that
/// the connection is readable.
pub(super) fn continue_read(conn: &mut Connection) -> bool {
    #[cfg(test)]
    if let Some((filter, _)) = filter_and_stream(conn)
        && filter.continue_read()
    {
        conn.state.write_waited_for();
        return true;
    }
    let _: &mut Connection = conn;
    false
}

/// Returns true if a write of the filter failed during a read. The next flush reports the error.
pub(super) fn has_write_error(conn: &Connection) -> bool {
    #[cfg(test)]
    if let Some(filter) = filter(conn) {
        return filter.has_write_error();
    }
    let _ = conn;
    false
}

/// Discards the queued and all later output of the filter.
pub(super) fn discard_filter_output(conn: &mut Connection) {
    #[cfg(test)]
    if let Some((filter, _)) = filter_and_stream(conn) {
        filter.end_output();
    }
    let _: &mut Connection = conn;
}

/// Records `now` as the time of a write, if the output of the filter made progress since the last
/// call.
pub(super) fn stamp_filter(conn: &mut Connection, now: Stamp) {
    #[cfg(test)]
    if let Some((filter, _)) = filter_and_stream(conn)
        && filter.stamp(now)
    {
        conn.stamp_write(now);
    }
    let _ = (conn, now);
}

/// Returns the time of the last progress of pending output, or `None` if no output is pending.
/// While the filter holds output, the progress of the filter counts, because the write queue waits
/// for the filter.
pub(super) fn blocked_since(conn: &Connection) -> Option<Stamp> {
    #[cfg(test)]
    if let Some(since) = filter(conn).and_then(xor_filter::XorFilter::blocked_since) {
        return Some(since);
    }
    conn.write_queue.as_ref().map(|queue| queue.progress)
}

/// Sets the time of the last progress of pending output to `now`.
pub(super) fn restart_blocked(conn: &mut Connection, now: Stamp) {
    #[cfg(test)]
    if let Some((filter, _)) = filter_and_stream(conn) {
        filter.restart_progress(now);
    }
    if let Some(queue) = &mut conn.write_queue {
        queue.progress = now;
    }
}

/// Returns true if unread input may be available. Does not read it.
pub(super) fn has_unread(conn: &Connection) -> bool {
    #[cfg(test)]
    if filter(conn).is_some_and(xor_filter::XorFilter::has_input) {
        return true;
    }
    conn.socket.has_unread()
}

/// Ends the write half: sends the FIN.
pub(super) fn end(conn: &mut Connection) -> io::Result<()> {
    discard_filter_output(conn);
    conn.socket.shutdown_write()
}

fn count_filled(conn: &mut Connection, stats: &mut Stats, len: usize) {
    conn.counts.read_bytes += len as u64;
    stats.read_bytes += len as u64;
}

#[inline]
fn count_drained(
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

#[cfg(test)]
pub(crate) fn filter(conn: &Connection) -> Option<&xor_filter::XorFilter> {
    let Filter::Xor(filter) = conn.extras.as_ref()?.filter.as_deref()?;
    Some(filter)
}

#[cfg(test)]
fn filter_and_stream(
    conn: &mut Connection,
) -> Option<(&mut xor_filter::XorFilter, &mut crate::os::Stream)> {
    match conn.extras.as_mut()?.filter.as_deref_mut()? {
        Filter::Xor(filter) => Some((filter, &mut conn.socket)),
    }
}

/// Marks the connection as not writable if the filter holds output after a write.
#[cfg(test)]
fn filter_written(conn: &mut Connection) {
    if has_filter_output(conn) {
        conn.state.write_would_block();
    }
}

/// Reads through the filter. A short read does not clear the readiness, because the filter may hold
/// plaintext. `WouldBlock` of the socket clears it.
#[cfg(test)]
fn fill_filtered(conn: &mut Connection, stats: &mut Stats, spare: &mut [u8]) -> Filled {
    use xor_filter::Blocked;
    let Some((filter, stream)) = filter_and_stream(conn) else {
        return Filled::Failed(io::ErrorKind::NotConnected.into());
    };
    let filled = filter.fill(stream, spare);
    filter_written(conn);
    match filled {
        Ok(Ok(0)) => {
            conn.state.read_ended();
            Filled::End
        }
        Ok(Ok(len)) => {
            count_filled(conn, stats, len);
            Filled::Bytes(len)
        }
        Ok(Err(Blocked::OnRead)) => {
            conn.state.read_would_block();
            Filled::WouldBlock
        }
        Ok(Err(Blocked::OnWrite)) => {
            conn.state.read_waits_for_write();
            Filled::WouldBlock
        }
        Err(error) => Filled::Failed(error),
    }
}

#[cfg(test)]
fn drain_filtered(conn: &mut Connection, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let (filter, stream) = filter_and_stream(conn).ok_or(io::ErrorKind::NotConnected)?;
    let drained = filter.drain(stream, slices);
    filter_written(conn);
    drained
}
