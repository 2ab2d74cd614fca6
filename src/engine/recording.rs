//! The recording of sockets, from which cut maps are made.
//!
//! A bit in the state of a socket marks the socket as recorded. The hot path tests this bit
//! together with others, and calls this module only if it is set.

use super::telemetry::Telemetry;
use super::transport::take_wire_events;
use super::write::EncodePayload;
use super::{Connection, Engine};
use crate::codec::FrameBounds;
use crate::cutmap::{EventKind, Recording};
use crate::error::{Gone, SendError, Sent};
use crate::id::{SocketId, Token, UdpId};
use crate::os::Os;

impl Engine {
    /// Starts or stops the recording of a socket.
    pub(crate) fn record(&mut self, id: SocketId, on: bool) -> Result<(), Gone> {
        self.entries.state_mut(id.token())?.set_recorded(on);
        if on {
            self.telemetry.recorder.begin(self.os.now());
        }
        Ok(())
    }

    /// Starts or stops the recording of all sockets, including future ones.
    pub(crate) fn record_all(&mut self, on: bool) {
        self.entries.record_all(on);
        if on {
            self.telemetry.recorder.begin(self.os.now());
        }
    }

    /// Returns the events recorded so far, and removes them from the recorder.
    pub(crate) fn take_recording(&mut self) -> Recording {
        self.telemetry.recorder.take(self.os.now())
    }

    /// Sends on a recorded connection, and records the bytes that were accepted.
    pub(super) fn send_recorded<P: EncodePayload>(
        &mut self,
        token: Token,
        payload: P,
        is_batched: bool,
    ) -> Result<Sent, SendError> {
        let before = self.accepted_bytes(token);
        let sent = match is_batched {
            true => self.send_batched(payload)?,
            false => self.send_queued(token, payload)?,
        };
        self.record_send(token, before);
        Ok(sent)
    }

    /// Records the bytes that the last `send` accepted. `before` is the total of accepted bytes
    /// before that `send`.
    pub(super) fn record_send(&mut self, token: Token, before: u64) {
        let len = self.accepted_bytes(token).saturating_sub(before);
        if len > 0 && self.is_recorded(token) {
            let recorder = self.telemetry.recorder.pass(self.timers.now);
            recorder.record(token, EventKind::Send, before, len);
        }
    }

    /// Records a read of `len` bytes that the statistics already count. The reads of a filter are
    /// recorded by [`record_filter`].
    pub(crate) fn record_read(&mut self, token: Token, len: usize) {
        if let Ok(conn) = self.entries.conn(token)
            && conn.state.is_recorded()
            && !conn.state.is_filtered()
        {
            let len = len as u64;
            let offset = conn.counts.read_bytes.saturating_sub(len);
            let recorder = self.telemetry.recorder.pass(self.os.now());
            recorder.record(token, EventKind::Read, offset, len);
        }
    }

    /// Records a frame that is about to be delivered.
    pub(crate) fn record_frame(&mut self, token: Token, bounds: FrameBounds) {
        if !self.is_recorded(token) {
            return;
        }
        let kind = EventKind::Frame {
            header_len: u32::try_from(bounds.header_len).unwrap_or(u32::MAX),
            trailer_len: u32::try_from(bounds.trailer_len).unwrap_or(u32::MAX),
        };
        let recorder = self.telemetry.recorder.pass(self.timers.now);
        recorder.record(token, kind, bounds.offset, bounds.len as u64);
    }

    fn is_recorded(&self, token: Token) -> bool {
        let conn = self.entries.conn(token);
        conn.is_ok_and(|conn| conn.state.is_recorded())
    }

    /// Records a datagram that was received.
    pub(crate) fn record_received(&mut self, id: UdpId, len: usize, truncated: bool) {
        let kind = match truncated {
            true => EventKind::DatagramTruncated,
            false => EventKind::DatagramReceived,
        };
        let recorder = self.telemetry.recorder.pass(self.os.now());
        recorder.record_datagram(id, kind, len);
    }

    /// Returns the number of output bytes that `send` has accepted so far.
    pub(super) fn accepted_bytes(&self, token: Token) -> u64 {
        let Ok(conn) = self.entries.conn(token) else {
            return 0;
        };
        let unwritten = conn.queued_bytes() + self.active.batched_bytes(token);
        conn.counts.written_bytes + unwritten as u64
    }
}

/// Records the reads, writes and TLS records of a filter since the last call.
pub(super) fn record_filter(
    telemetry: &mut Telemetry,
    os: &Os,
    token: Token,
    conn: &mut Connection,
) {
    if conn.state.is_recorded() && conn.state.is_filtered() {
        for (kind, offset, len) in take_wire_events(conn) {
            let recorder = telemetry.recorder.pass(os.now());
            recorder.record(token, kind, offset, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;
    use crate::os::UdpOptions;
    use crate::os::sim::World;

    #[test]
    fn recorder_keeps_only_the_events_of_closed_sockets() {
        let config = Config {
            datagram_queue_bytes_max: 0,
            ..Config::default()
        };
        let mut engine =
            Engine::new(config, World::current().os()).expect("the simulated poll opens");
        engine.record_all(true);
        for _ in 0..3 {
            let socket = engine.bind_udp("127.0.0.1:0", &UdpOptions::new());
            let socket = socket.expect("port 0 is free");
            let sent = engine.send_datagram(socket, None, None, b"refused");
            sent.expect_err("the limit of the queue is zero");
            assert_eq!(engine.telemetry.recorder.socket_count(), 1);
            engine.end_socket(socket.0);
            let (dead, _) = engine.next_to_reap().expect("the socket has ended");
            engine.free(dead);
            assert_eq!(engine.telemetry.recorder.socket_count(), 0);
        }
        assert_eq!(engine.take_recording().events().len(), 3);
    }

    // Regression test: if a datagram was dropped without a system call, its record had the time of
    // the previous event.
    #[test]
    fn dropped_datagram_has_the_start_of_its_turn() {
        let config = Config {
            datagram_queue_bytes_max: 0,
            ..Config::default()
        };
        let mut engine =
            Engine::new(config, World::current().os()).expect("the simulated poll opens");
        engine.record_all(true);
        let socket = engine.bind_udp("127.0.0.1:0", &UdpOptions::new());
        let socket = socket.expect("port 0 is free");
        let later = Duration::from_millis(5);
        engine.timers.set_now(engine.timers.now + later);
        let sent = engine.send_datagram(socket, None, None, b"refused");
        sent.expect_err("the limit of the queue is zero");
        assert_eq!(engine.take_recording().events()[0].at, later);
    }
}
