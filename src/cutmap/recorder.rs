//! Recorder: a ring of limited length for the events of recorded sockets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Event, EventKind, Recording};
use crate::id::{SocketId, Token, UdpId};

/// Ring of the most recent events.
///
/// Invariant: `oldest < events.len()`, or both are zero. `oldest` is zero until the ring is full.
#[derive(Debug)]
pub(crate) struct Recorder {
    began: Instant,
    /// Latest time that was passed to the recorder.
    latest: Instant,
    /// Time from `began` to `latest`. The next event is recorded with this time.
    at: Duration,
    /// Maximum number of events.
    len_max: usize,
    events: Vec<Event>,
    /// Index of the oldest event. If the ring is full, the next event overwrites it.
    oldest: usize,
    overwritten: u64,
    /// Number of recorded datagrams of each open UDP socket: outgoing, incoming.
    datagrams: BTreeMap<UdpId, (u64, u64)>,
}

impl Recorder {
    /// Creates a recorder without events, which owns no memory.
    pub(crate) fn new(now: Instant, len_max: usize) -> Self {
        Self {
            began: now,
            latest: now,
            at: Duration::ZERO,
            len_max,
            events: Vec::new(),
            oldest: 0,
            overwritten: 0,
            datagrams: BTreeMap::new(),
        }
    }

    /// Restarts the time at zero, unless events are already recorded.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.pass(now);
        if self.events.is_empty() {
            self.began = self.latest;
            self.at = Duration::ZERO;
        }
    }

    /// Advances the recorded time to `now`, and returns the recorder. A `now` before the recorded
    /// time has no effect.
    pub(crate) fn pass(&mut self, now: Instant) -> &mut Self {
        if now > self.latest {
            self.latest = now;
            self.at = now.saturating_duration_since(self.began);
        }
        self
    }

    /// Records an event of a connection.
    pub(crate) fn record(&mut self, conn: Token, kind: EventKind, offset: u64, len: u64) {
        self.push(Event {
            socket: SocketId::Conn(crate::ConnId(conn)),
            at: self.at,
            kind,
            offset,
            len,
        });
    }

    /// Records an event of a datagram, with the next number of its direction.
    pub(crate) fn record_datagram(&mut self, socket: UdpId, kind: EventKind, len: usize) {
        let (sent, received) = self.datagrams.entry(socket).or_default();
        let number = match kind.is_outgoing_datagram() {
            true => sent,
            false => received,
        };
        let offset = *number;
        *number += 1;
        self.push(Event {
            socket: SocketId::Udp(socket),
            at: self.at,
            kind,
            offset,
            len: len as u64,
        });
    }

    /// Removes the datagram counts of a UDP socket that is closed.
    pub(crate) fn forget(&mut self, socket: UdpId) {
        self.datagrams.remove(&socket);
    }

    /// Returns the number of UDP sockets with datagram counts.
    #[cfg(test)]
    pub(crate) fn socket_count(&self) -> usize {
        self.datagrams.len()
    }

    /// Returns the events in order and starts a new recording. The datagram numbers continue.
    pub(crate) fn take(&mut self, now: Instant) -> Recording {
        let datagrams = std::mem::take(&mut self.datagrams);
        let empty = Self {
            datagrams,
            ..Self::new(now, self.len_max)
        };
        let mut full = std::mem::replace(self, empty);
        full.events.rotate_left(full.oldest);
        Recording {
            began: full.began,
            events: full.events,
            overwritten: full.overwritten,
        }
    }

    fn push(&mut self, event: Event) {
        if self.events.len() < self.len_max {
            self.events.push(event);
            return;
        }
        self.overwritten += 1;
        if let Some(oldest) = self.events.get_mut(self.oldest) {
            *oldest = event;
            self.oldest = (self.oldest + 1) % self.events.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Generations;

    fn token() -> Token {
        let generation = Generations::new().take();
        Token::new(0, generation)
    }

    #[test]
    fn full_ring_keeps_the_newest_events_and_counts_the_others() {
        for len_max in [0, 1, 2, 7, 100] {
            let mut recorder = Recorder::new(Instant::now(), len_max);
            for offset in 0..20 {
                recorder.record(token(), EventKind::Read, offset, 1);
            }
            let recording = recorder.take(Instant::now());
            let offsets: Vec<_> = recording
                .events()
                .iter()
                .map(|event| event.offset)
                .collect();
            let kept = len_max.min(20);
            assert_eq!(offsets, (20 - kept as u64..20).collect::<Vec<_>>());
            assert_eq!(recording.overwritten(), 20 - kept as u64);
        }
    }

    #[test]
    fn recorded_time_never_runs_backwards() {
        let mut recorder = Recorder::new(Instant::now(), 9);
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        for now in [later, now] {
            recorder.pass(now);
            recorder.record(token(), EventKind::Read, 0, 1);
        }
        let recording = recorder.take(Instant::now());
        assert_eq!(recording.events()[0].at, recording.events()[1].at);
    }

    #[test]
    fn datagrams_are_numbered_per_udp_socket_and_direction() {
        let mut generations = Generations::new();
        let mut id = |key| UdpId(Token::new(key, generations.take()));
        let (one, other) = (id(0), id(1));
        let mut recorder = Recorder::new(Instant::now(), 9);
        recorder.record_datagram(one, EventKind::DatagramSent, 5);
        recorder.record_datagram(other, EventKind::DatagramSent, 5);
        recorder.record_datagram(one, EventKind::DatagramDropped, 5);
        recorder.record_datagram(one, EventKind::DatagramReceived, 5);
        let recording = recorder.take(Instant::now());
        let (sent, received) = recording.datagrams(one);
        let numbers: Vec<_> = sent.iter().map(|event| event.offset).collect();
        assert_eq!((numbers, received.len()), (vec![0, 1], 1));
    }
}
