//! Observing: what a cut map is made of is recorded here, off the path of those that nobody
//! observes.
//!
//! Whoever is observed has `State::RECORDED`. The hot path asks for it together with flags that it
//! asks for anyway, and comes here where it finds it.

use std::io;

use super::write::Encode;
use super::{Connection, Engine};
use crate::conn::{FrameBounds, State};
use crate::cutmap::{EventKind, Recorder, Recording, Segments};
use crate::error::{Gone, SendError, Sent};
use crate::id::{SocketId, Token, UdpId};

impl Engine {
    /// Records what happens to a socket from now on, or no more.
    pub(crate) fn record(&mut self, id: SocketId, on: bool) -> Result<(), Gone> {
        let entry = self.entries.get_mut(id.token())?;
        entry.flags_mut().set(State::RECORDED, on);
        if on {
            self.recorder.begin();
        }
        Ok(())
    }

    /// Observes every socket that is open, and every one that is opened from now on; or none.
    pub(crate) fn record_all(&mut self, on: bool) {
        self.entries.record_all(on);
        if on {
            self.recorder.begin();
        }
    }

    /// What was recorded so far.
    pub(crate) fn take_recording(&mut self) -> Recording {
        self.recorder.take()
    }

    /// What the kernel counts of a connection's segments.
    pub(crate) fn segments(&self, token: Token) -> io::Result<Segments> {
        let conn = self.entries.conn(token)?;
        conn.stream.segments(&conn.peer)
    }

    /// Sends on an observed connection: as on any other, and what was accepted is recorded.
    pub(super) fn send_observed<P: Encode>(
        &mut self,
        token: Token,
        payload: P,
        gathers: bool,
    ) -> Result<Sent, SendError> {
        let before = self.accepted_bytes(token);
        let sent = match gathers {
            true => self.gather(payload)?,
            false => self.send_queued(token, payload)?,
        };
        self.record_send(token, before);
        Ok(sent)
    }

    /// Records what was accepted since `before` bytes were, where the connection is observed.
    pub(super) fn record_send(&mut self, token: Token, before: u64) {
        let is_observed = |conn: &Connection| conn.flags.intersects(State::RECORDED);
        let len = self.accepted_bytes(token).saturating_sub(before);
        if len > 0 && self.entries.conn(token).is_ok_and(is_observed) {
            self.recorder.pass(self.now);
            self.recorder.note(token, EventKind::Send, before, len);
        }
    }

    /// Records a read of `len` bytes, which are counted already.
    pub(crate) fn record_read(&mut self, token: Token, len: usize) {
        let Ok(conn) = self.entries.conn(token) else {
            return;
        };
        if conn.flags.intersects(State::RECORDED) {
            let len = len as u64;
            let offset = conn.stats.read_bytes.saturating_sub(len);
            self.recorder.stamp();
            self.recorder.note(token, EventKind::Read, offset, len);
        }
    }

    /// Records a frame that is delivered next.
    pub(crate) fn record_frame(&mut self, token: Token, place: FrameBounds) {
        let conn = self.entries.conn(token);
        if !conn.is_ok_and(|conn| conn.flags.intersects(State::RECORDED)) {
            return;
        }
        let kind = EventKind::Frame {
            header_len: u32::try_from(place.header_len).unwrap_or(u32::MAX),
            trailer_len: u32::try_from(place.trailer_len).unwrap_or(u32::MAX),
        };
        self.recorder.pass(self.now);
        self.recorder
            .note(token, kind, place.offset, place.len as u64);
    }

    /// Whether datagrams are recorded.
    pub(crate) fn is_observed(&mut self, id: UdpId) -> bool {
        let entry = self.entries.udp_mut(id);
        entry.is_ok_and(|entry| entry.flags.intersects(State::RECORDED))
    }

    /// Records a datagram that came.
    #[cold]
    pub(crate) fn record_received(&mut self, id: UdpId, len: usize, truncated: bool) {
        let kind = if truncated {
            EventKind::DatagramTruncated
        } else {
            EventKind::DatagramReceived
        };
        self.recorder.stamp();
        self.recorder.note_datagram(id, kind, len);
    }

    /// How many bytes of a connection's stream `send` has accepted so far.
    pub(super) fn accepted_bytes(&self, token: Token) -> u64 {
        let Ok(conn) = self.entries.conn(token) else {
            return 0;
        };
        let gathered = match self.active.is(token) {
            true => self.out.len(),
            false => 0,
        };
        conn.stats.written_bytes + (conn.queued_bytes() + gathered) as u64
    }
}

/// Records a write of `len` bytes, which are counted already, where the connection is observed.
pub(super) fn record_write(recorder: &mut Recorder, token: Token, conn: &Connection, len: usize) {
    if conn.flags.intersects(State::RECORDED) {
        let len = len as u64;
        let offset = conn.stats.written_bytes.saturating_sub(len);
        recorder.stamp();
        recorder.note(token, EventKind::Write, offset, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::os::UdpOptions;
    use crate::os::sim::World;

    #[test]
    fn sockets_that_come_and_go_leave_nothing_in_the_recorder_but_events() {
        let config = Config {
            datagram_queue_bytes_max: 0,
            ..Config::default()
        };
        let mut engine = Engine::new(config, World::current().os()).expect("an engine");
        engine.record_all(true);
        for _ in 0..3 {
            let socket = engine.bind_udp("127.0.0.1:0", &UdpOptions::new());
            let socket = socket.expect("a free port");
            let sent = engine.send_datagram(socket, None, b"no room");
            sent.expect_err("its limit is zero");
            assert_eq!(engine.recorder.socket_count(), 1);
            engine.kill_socket(socket.0);
            let (dead, _) = engine.next_dead().expect("it was killed");
            engine.free(dead);
            assert_eq!(engine.recorder.socket_count(), 0);
        }
        assert_eq!(engine.take_recording().events().len(), 3);
    }
}
