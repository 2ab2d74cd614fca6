//! The filters of connections: the choice of the filter, and the effect of its results on the state
//! of the connection.

use std::io::{self, IoSlice};
#[cfg(feature = "tls")]
use std::sync::Arc;

#[cfg(feature = "tls")]
use super::tls_filter::{Handshake, TlsFilter};
use super::wire::WireEvent;
#[cfg(test)]
use super::xor_filter::XorFilter;
use super::{Connection, Filled, count_filled};
use crate::conn::Pool;
use crate::event::CloseReason;
use crate::os::Stream;
use crate::stats::Stats;
use crate::timer::Stamp;

/// The filters that a transport can have. Apart from the handshake of TLS, both types have the same
/// methods.
#[derive(Debug)]
pub(crate) enum Filter {
    /// A filter that encrypts records with XOR, for tests of the filter interface.
    #[cfg(test)]
    Xor(XorFilter),
    #[cfg(feature = "tls")]
    Tls(TlsFilter),
}

/// The result of one read through a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filtered {
    /// Plaintext. `emptied` is true if the read of the socket was short and the filter is empty.
    Bytes { len: usize, emptied: bool },
    /// The read returned bytes, but they contain no plaintext.
    Consumed { len: usize, emptied: bool },
    /// The peer ended its stream.
    End,
    /// The read waits for input.
    OnRead,
    /// The read waits until the output of the filter is written.
    #[cfg(test)]
    OnWrite,
}

/// Evaluates `$result` with `$name` bound to the filter of any type.
macro_rules! of_any_filter {
    ($filter:expr, $name:ident => $result:expr) => {
        match $filter {
            #[cfg(test)]
            Filter::Xor($name) => $result,
            #[cfg(feature = "tls")]
            Filter::Tls($name) => $result,
        }
    };
}

/// Returns the filter and the socket. Starts or ends the log of the filter, if the recording of the
/// connection has started or ended.
fn filter_and_stream(conn: &mut Connection) -> Option<(&mut Filter, &mut Stream)> {
    let is_recorded = conn.state.is_recorded();
    let (written, read) = (conn.counts.written_bytes, conn.counts.read_bytes);
    let (filter, socket) = conn.filter_and_socket()?;
    of_any_filter!(filter, it => match (is_recorded, it.wire.is_on()) {
        (true, false) => it.start_log(written, read),
        (false, true) => it.wire.stop(),
        _ => {}
    });
    Some((filter, socket))
}

#[cfg(test)]
pub(crate) fn xor_filter_of(conn: &Connection) -> Option<&XorFilter> {
    match conn.filter()? {
        Filter::Xor(filter) => Some(filter),
        #[cfg(feature = "tls")]
        Filter::Tls(_) => None,
    }
}

#[cfg(feature = "tls")]
pub(in crate::engine) fn tls_filter_of(conn: &Connection) -> Option<&TlsFilter> {
    match conn.filter()? {
        Filter::Tls(filter) => Some(filter),
        #[cfg(test)]
        Filter::Xor(_) => None,
    }
}

/// Stores the server name that the client of a TLS session asked for.
#[cfg(feature = "tls")]
pub(in crate::engine) fn set_server_name(conn: &mut Connection, name: Arc<String>) {
    if let Some((Filter::Tls(filter), _)) = filter_and_stream(conn) {
        filter.server_name = Some(name);
    }
}

/// Continues the TLS handshake until it is done, fails or waits for input.
#[cfg(feature = "tls")]
pub(in crate::engine) fn handshake(
    conn: &mut Connection,
    pool: &mut Pool,
) -> io::Result<Handshake> {
    loop {
        let may_read = conn.state.is_readable();
        let Some((Filter::Tls(filter), stream)) = filter_and_stream(conn) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let handshake = filter.handshake(stream, may_read, pool);
        let has_input = filter.has_input();
        after_write(conn);
        match handshake {
            Ok(Handshake::Received { emptied, .. }) => after_read(conn, emptied),
            Ok(Handshake::WouldBlock) => {
                if may_read {
                    conn.state.read_would_block();
                }
                return handshake;
            }
            Ok(Handshake::Done) => {
                // No event reports the input that the filter holds.
                if has_input {
                    conn.state.mark_readable();
                }
                return handshake;
            }
            Err(_) => return handshake,
        }
    }
}

/// Reads through the filter; returns `None` if there is none.
///
/// A short read clears the readiness only if the filter holds no input. A read that must wait for
/// input always clears it.
#[inline]
pub(super) fn fill(
    conn: &mut Connection,
    stats: &mut Stats,
    pool: &mut Pool,
    spare: &mut [u8],
) -> Option<Filled> {
    if !conn.state.is_filtered() {
        return None;
    }
    Some(fill_filtered(conn, stats, pool, spare))
}

fn fill_filtered(
    conn: &mut Connection,
    stats: &mut Stats,
    pool: &mut Pool,
    spare: &mut [u8],
) -> Filled {
    stats.reads += 1;
    conn.count_read();
    let Some((filter, stream)) = filter_and_stream(conn) else {
        return Filled::Failed(io::ErrorKind::NotConnected.into());
    };
    let filled = of_any_filter!(filter, it => it.fill(stream, spare, pool));
    after_write(conn);
    match filled {
        Ok(Filtered::Bytes { len, emptied }) => {
            count_filled(conn, stats, len);
            after_read(conn, emptied);
            Filled::Bytes(len)
        }
        Ok(Filtered::Consumed { len, emptied }) => {
            after_read(conn, emptied);
            Filled::Consumed(len)
        }
        Ok(Filtered::End) => {
            conn.state.read_ended();
            Filled::End
        }
        Ok(Filtered::OnRead) => {
            conn.state.read_would_block();
            Filled::WouldBlock
        }
        #[cfg(test)]
        Ok(Filtered::OnWrite) => {
            conn.state.read_waits_for_write();
            Filled::WouldBlock
        }
        Err(error) => Filled::Failed(error),
    }
}

/// Clears the readiness if the read proves that nothing is left to read.
pub(super) fn after_read(conn: &mut Connection, emptied: bool) {
    if emptied && conn.socket.short_read_empties() {
        conn.state.short_read();
    }
}

/// Marks the connection as not writable if the filter holds output after a write.
pub(super) fn after_write(conn: &mut Connection) {
    if has_filter_output(conn) {
        conn.state.write_would_block();
    }
}

/// Writes through the filter; returns `None` if there is none.
#[inline]
pub(super) fn drain(
    conn: &mut Connection,
    stats: &mut Stats,
    pool: &mut Pool,
    slices: &[IoSlice<'_>],
) -> Option<io::Result<usize>> {
    if !conn.state.is_filtered() {
        return None;
    }
    stats.writes += 1;
    let (filter, stream) = filter_and_stream(conn)?;
    let drained = of_any_filter!(filter, it => it.drain(stream, slices, pool));
    after_write(conn);
    Some(drained)
}

/// Writes the output of the filter. Fails with `WouldBlock` if the socket does not take all of it.
pub(super) fn flush(conn: &mut Connection, pool: &mut Pool) -> io::Result<()> {
    let Some((filter, stream)) = filter_and_stream(conn) else {
        return Ok(());
    };
    let flushed = of_any_filter!(filter, it => it.flush(stream, pool));
    after_write(conn);
    flushed
}

pub(super) fn begin_end(conn: &mut Connection, pool: &mut Pool) -> io::Result<()> {
    let Some((filter, stream)) = filter_and_stream(conn) else {
        return Ok(());
    };
    let begun = of_any_filter!(filter, it => it.begin_end(stream, pool));
    after_write(conn);
    begun
}

pub(super) fn end_output(conn: &mut Connection, pool: &mut Pool) -> u64 {
    match filter_and_stream(conn) {
        Some((filter, _)) => of_any_filter!(filter, it => it.end_output(pool)),
        None => 0,
    }
}

pub(super) fn release(conn: &mut Connection, pool: &mut Pool) {
    if let Some((filter, _)) = filter_and_stream(conn) {
        of_any_filter!(filter, it => it.release(pool));
    }
}

pub(super) fn blocked_since(conn: &Connection) -> Option<Stamp> {
    of_any_filter!(conn.filter()?, it => it.blocked_since())
}

pub(super) fn restart_progress(conn: &mut Connection, now: Stamp) {
    if let Some((filter, _)) = filter_and_stream(conn) {
        of_any_filter!(filter, it => it.restart_progress(now));
    }
}

pub(super) fn has_input(conn: &Connection) -> bool {
    conn.filter()
        .is_some_and(|filter| of_any_filter!(filter, it => it.has_input()))
}

/// Returns the minimum spare capacity that the buffer of a partial frame needs for a direct read
/// into this buffer. With TLS, a whole record must fit. Without a filter, the minimum is zero.
pub(in crate::engine) fn direct_len_min(conn: &Connection) -> usize {
    match conn.filter() {
        #[cfg(feature = "tls")]
        Some(Filter::Tls(_)) => super::tls_filter::IN_PLACE_LEN_MIN,
        _ => 0,
    }
}

/// Returns true if the connection has a filter.
pub(in crate::engine) fn has_filter(conn: &Connection) -> bool {
    conn.filter().is_some()
}

/// Returns true if the filter holds output that the socket has not taken.
pub(in crate::engine) fn has_filter_output(conn: &Connection) -> bool {
    conn.filter()
        .is_some_and(|filter| of_any_filter!(filter, it => it.has_output()))
}

/// Returns the length of the plaintext that the filter accepted and that the socket has not taken.
pub(in crate::engine) fn unwritten_len(conn: &Connection) -> usize {
    conn.filter()
        .map_or(0, |filter| of_any_filter!(filter, it => it.unwritten_len()))
}

/// Returns true if the filter holds output until the end of the turn, to join it with more output.
pub(in crate::engine) fn is_held_back(conn: &Connection) -> bool {
    conn.filter()
        .is_some_and(|filter| of_any_filter!(filter, it => it.is_held_back()))
}

/// Returns true if a write of the filter failed during a read. The next flush reports the error.
pub(in crate::engine) fn has_write_error(conn: &Connection) -> bool {
    conn.filter()
        .is_some_and(|filter| of_any_filter!(filter, it => it.has_write_error()))
}

/// Returns the capacity of the filter's buffers, in bytes.
pub(in crate::engine) fn held_bytes(conn: &Connection) -> usize {
    conn.filter()
        .map_or(0, |filter| of_any_filter!(filter, it => it.held_bytes()))
}

/// Ends the wait of a read for a write, if the filter has written all output. Returns true if the
/// caller must queue the entry, because no event will report that the connection is readable.
pub(in crate::engine) fn continue_read(conn: &mut Connection) -> bool {
    if let Some((filter, _)) = filter_and_stream(conn)
        && of_any_filter!(filter, it => it.continue_read())
    {
        conn.state.mark_readable();
        return true;
    }
    false
}

/// Records `now` as the time of a write, if the output of the filter made progress since the last
/// call.
pub(in crate::engine) fn stamp_filter(conn: &mut Connection, now: Stamp) {
    if let Some((filter, _)) = filter_and_stream(conn)
        && of_any_filter!(filter, it => it.stamp(now))
    {
        conn.stamp_write(now);
    }
}

/// Returns the events in the log of the filter, and removes them.
pub(in crate::engine) fn take_wire_events(conn: &mut Connection) -> Vec<WireEvent> {
    match filter_and_stream(conn) {
        Some((filter, _)) => of_any_filter!(filter, it => it.wire.take_events()),
        None => Vec::new(),
    }
}

/// Returns the reason for which the filter ends the connection, after a failed read. `None` if the
/// socket failed.
pub(in crate::engine) fn take_failure(conn: &mut Connection) -> Option<CloseReason> {
    let (filter, _) = filter_and_stream(conn)?;
    of_any_filter!(filter, it => it.take_failure())
}
