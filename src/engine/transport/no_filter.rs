//! The functions of `filter.rs` for a build in which no connection has a filter.

use std::io::{self, IoSlice};

use super::{Connection, Filled};
use crate::conn::Pool;
use crate::cutmap::EventKind;
use crate::event::CloseReason;
use crate::stats::Stats;
use crate::timer::Stamp;

#[inline]
pub(super) fn fill(
    _: &mut Connection,
    _: &mut Stats,
    _: &mut Pool,
    _: &mut [u8],
) -> Option<Filled> {
    None
}

#[inline]
pub(super) fn drain(
    _: &mut Connection,
    _: &mut Stats,
    _: &mut Pool,
    _: &[IoSlice<'_>],
) -> Option<io::Result<usize>> {
    None
}

pub(super) fn flush(_: &mut Connection, _: &mut Pool) -> io::Result<()> {
    Ok(())
}

pub(super) fn begin_end(_: &mut Connection, _: &mut Pool) -> io::Result<()> {
    Ok(())
}

pub(super) fn end_output(_: &mut Connection, _: &mut Pool) -> u64 {
    0
}

pub(super) fn release(_: &mut Connection, _: &mut Pool) {}

pub(super) fn blocked_since(_: &Connection) -> Option<Stamp> {
    None
}

pub(super) fn restart_progress(_: &mut Connection, _: Stamp) {}

pub(super) fn has_input(_: &Connection) -> bool {
    false
}

/// Returns the minimum spare capacity that the buffer of a partial frame needs for a direct read
/// into this buffer.
pub(in crate::engine) fn direct_len_min(_: &Connection) -> usize {
    0
}

/// Returns true if the connection has a filter.
pub(in crate::engine) fn has_filter(_: &Connection) -> bool {
    false
}

/// Returns true if the filter holds output that the socket has not taken.
pub(in crate::engine) fn has_filter_output(_: &Connection) -> bool {
    false
}

/// Returns the length of the plaintext that the filter accepted and that the socket has not taken.
pub(in crate::engine) fn unwritten_len(_: &Connection) -> usize {
    0
}

/// Returns true if the filter holds output until the end of the turn.
pub(super) fn is_held_back(_: &Connection) -> bool {
    false
}

/// Returns true if a write of the filter failed during a read.
pub(in crate::engine) fn has_write_error(_: &Connection) -> bool {
    false
}

/// Returns the capacity of the filter's buffers, in bytes.
pub(in crate::engine) fn held_bytes(_: &Connection) -> usize {
    0
}

/// Ends the wait of a read for a write.
pub(in crate::engine) fn continue_read(_: &mut Connection) -> bool {
    false
}

/// Records the time of a write of the filter.
pub(in crate::engine) fn stamp_filter(_: &mut Connection, _: Stamp) {}

/// Returns the events in the log of the filter.
pub(in crate::engine) fn take_wire_events(_: &mut Connection) -> [(EventKind, u64, u64); 0] {
    []
}

/// Returns the reason for which the filter ends the connection.
pub(in crate::engine) fn take_failure(_: &mut Connection) -> Option<CloseReason> {
    None
}
