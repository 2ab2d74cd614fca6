//! Reading a connection's socket.

use std::io;

use super::{Connection, Engine, TRACED};
use crate::conn::State;
use crate::id::Token;
use crate::stats::Stats;

/// What one read came to.
#[derive(Debug)]
pub(crate) enum Fill {
    /// That many bytes, at least one.
    Bytes(usize),
    /// The peer has ended its side.
    Ended,
    /// Nothing is there; an event tells when there is.
    WouldBlock,
    Failed(io::Error),
}

impl Engine {
    /// One read into `buf`.
    #[inline]
    pub(crate) fn fill(&mut self, token: Token, buf: &mut [u8]) -> Fill {
        let Self {
            entries,
            stats,
            stamp,
            ..
        } = self;
        let conn = match entries.unwatched_mut(token) {
            Ok(conn) => conn,
            Err(gone) => return Fill::Failed(gone.into()),
        };
        let fill = fill(conn, stats, buf);
        if let Fill::Bytes(len) = fill {
            conn.active = *stamp;
            log::trace!(target: TRACED, "read {len} bytes from {}", conn.peer);
        }
        fill
    }
}

/// Readiness is cleared by `WouldBlock`; and by a short read, unless an event told of an end, which
/// makes no edge of its own when it arrived together with the data, or of urgent data, which cuts a
/// read short of what lies behind it (tcp(7)).
#[inline]
pub(super) fn fill(conn: &mut Connection, stats: &mut Stats, buf: &mut [u8]) -> Fill {
    stats.reads += 1;
    conn.count_read();
    match conn.stream.read(buf) {
        Ok(0) => {
            conn.flags.insert(State::PEER_ENDED);
            conn.flags.remove(State::READABLE | State::END_HINT);
            Fill::Ended
        }
        Ok(len) => {
            conn.stats.read_bytes += len as u64;
            stats.read_bytes += len as u64;
            if len < buf.len()
                && conn.stream.short_read_empties()
                && !conn.flags.intersects(State::END_HINT)
            {
                conn.flags.remove(State::READABLE);
            }
            Fill::Bytes(len)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            conn.flags.remove(State::READABLE | State::END_HINT);
            Fill::WouldBlock
        }
        Err(error) => Fill::Failed(error),
    }
}
