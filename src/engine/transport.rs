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
//! A filter may need to write before it can read, may hold plaintext that no event will report, and
//! may hold output that the socket has not taken. The state of the connection records each of the
//! three, and the dispatch continues when the socket is ready.

use std::io::{self, IoSlice};

use super::Connection;
use crate::os::Os;
use crate::stats::Stats;

#[cfg(test)]
pub(crate) mod xor_filter;

/// The result of one read.
#[derive(Debug)]
pub(crate) enum Filled {
    /// Number of bytes, at least one.
    Bytes(usize),
    /// The peer ended its side.
    End,
    /// Nothing is available; an event reports the next bytes.
    WouldBlock,
    Failed(io::Error),
}

/// The filters that a transport can have.
#[derive(Debug)]
pub(crate) enum Filter {
    /// Encrypts with XOR, in records; for tests of the seam.
    #[cfg(test)]
    Xor(xor_filter::XorFilter),
}

/// Reads into `spare`, which is not empty.
///
/// Readiness is cleared by `WouldBlock`. It is cleared by a short read too, unless an event reported
/// an end, which makes no further event if it arrived together with the data, or urgent data, at
/// which a read stops short (tcp(7)).
#[inline]
pub(super) fn fill(conn: &mut Connection, stats: &mut Stats, spare: &mut [u8]) -> Filled {
    stats.reads += 1;
    conn.count_read();
    #[cfg(test)]
    if conn.state.is_filtered() {
        return fill_filtered(conn, stats, spare);
    }
    match conn.stream.read(spare) {
        Ok(0) => {
            conn.state.read_ended();
            Filled::End
        }
        Ok(len) => {
            count_filled(conn, stats, len);
            if len < spare.len() && conn.stream.short_read_empties() {
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

/// Writes `slices`, none of them empty; returns the number of bytes taken. A write that takes
/// nothing is an error, not a reason to try again.
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
        [bytes] => conn.stream.write(bytes),
        slices => conn.stream.write_gathered(slices),
    };
    count_drained(conn, stats, written)
}

/// Writes the output that the filter holds. `WouldBlock` if the socket takes no more.
pub(super) fn flush_filter(conn: &mut Connection) -> io::Result<()> {
    #[cfg(test)]
    if let Some((filter, stream)) = filter_and_stream(conn) {
        filter.flush(stream)?;
        conn.state.filter_flushed();
    }
    let _ = conn;
    Ok(())
}

/// Returns true if the filter holds output that the socket has not taken.
pub(super) fn has_filter_output(conn: &Connection) -> bool {
    #[cfg(test)]
    if let Some(Filter::Xor(filter)) = conn.extras.as_ref().and_then(|e| e.filter.as_deref()) {
        return filter.has_output();
    }
    let _ = conn;
    false
}

/// Ends the write half: sends the FIN.
pub(super) fn end(conn: &Connection) -> io::Result<()> {
    conn.stream.shutdown_write()
}

/// Closes the socket with a reset.
pub(super) fn reset(conn: &mut Connection, os: &Os) {
    conn.stream.reset(os);
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
fn filter_and_stream(
    conn: &mut Connection,
) -> Option<(&mut xor_filter::XorFilter, &mut crate::os::Stream)> {
    match conn.extras.as_mut()?.filter.as_deref_mut()? {
        Filter::Xor(filter) => Some((filter, &mut conn.stream)),
    }
}

/// Reads through the filter. A short read proves nothing here: only `WouldBlock` of the socket
/// clears the readiness, and only if the filter holds no plaintext.
#[cfg(test)]
fn fill_filtered(conn: &mut Connection, stats: &mut Stats, spare: &mut [u8]) -> Filled {
    use xor_filter::Blocked;
    let Some((filter, stream)) = filter_and_stream(conn) else {
        return Filled::Failed(io::ErrorKind::NotConnected.into());
    };
    match filter.fill(stream, spare) {
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
    filter.drain(stream, slices)
}
