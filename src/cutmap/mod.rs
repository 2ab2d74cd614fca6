//! Cut map: the path of each `send` of a live connection through writes, reads and frames.
//!
//! A reactor [records](crate::Context::record) the events of a socket with stream offsets and
//! times: each `send`, each write that the kernel took, each read, each decoded frame, and for UDP
//! each datagram. A [`CutMap`] joins the [`Recording`]s of the two ends of a connection. It shows
//! facts that no protocol analyser can see:
//!
//! * the sends that were *glued*: several arrived in one read
//! * the sends that were *cut*: one arrived in several reads
//! * the reads in which each frame arrived
//! * the number of frames per read
//! * the headers that were split
//!
//! ```text
//!   offset   0         10        20        30        40
//!   sends    |-- 0 ---|--- 1 ---|--- 2 ---|--- 3 ---|     payloads passed to `send`
//!   writes   |------------ 0 -----------|------ 1 --|     bytes that the kernel took
//!   reads    |-- 0 ---|------ 1 ------|------- 2 ---|     bytes that the kernel returned
//!   frames   |-- 0 ---|--- 1 ---|--- 2 ---|--- 3 ---|     frames delivered to the handler
//! ```
//!
//! Here read 1 contains send 1 and the beginning of send 2: the two are glued, and send 2 is cut.
//! The frames equal the sends, regardless of the reads.
//!
//! With TLS, the TLS records are one more layer between the sends and the writes, and between the
//! reads and the frames. A record glues short sends and cuts long ones, and the reads glue and cut
//! the records:
//!
//! ```text
//!   sends    |- 0 -|- 1 -|------- 2 -------|               payloads passed to `send`
//!   records  |------ 0 ------|------ 1 ------|              plaintext of the TLS records sent
//!   writes    |----- 0 -----------------------|             bytes on the wire
//!   reads     |- 0 -|-------- 1 ----|--- 2 ---|             bytes on the wire
//!   records  |------ 0 ------|------ 1 ------|              plaintext of the TLS records received
//!   frames   |- 0 -|- 1 -|------- 2 -------|               frames delivered to the handler
//! ```
//!
//! Recording is off by default, and then costs two instructions per read. While it is on,
//! [`Config::recording_events_max`](crate::Config::recording_events_max) bounds its memory, and new
//! events overwrite the oldest ones.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use unstick::cutmap::CutMap;
//! use unstick::{ConnId, Context, Framing, Handler, Origin, Reactor};
//!
//! #[derive(Default)]
//! struct Both {
//!     ends: Vec<ConnId>, // connected end and accepted end
//!     frames: usize,
//! }
//!
//! impl Handler for Both {
//!     type Session = ();
//!
//!     fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
//!         self.ends.push(conn);
//!         if self.ends.len() == 2 {
//!             for _ in 0..3 {
//!                 let _ = cx.send(self.ends[0], b"hello");
//!             }
//!         }
//!     }
//!
//!     fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {
//!         self.frames += 1;
//!     }
//! }
//!
//! # fn main() -> std::io::Result<()> {
//! let mut reactor = Reactor::new(Both::default())?;
//! let listener = reactor.listen("127.0.0.1:0", Framing::length_u16())?;
//! let addr = reactor.local_inet_addr(listener)?;
//! reactor.with(|_, cx| cx.record_all());
//! reactor.connect(addr, Framing::length_u16(), ());
//! while reactor.handler().frames < 3 {
//!     reactor.turn(Some(Duration::from_secs(1)))?;
//! }
//!
//! let recording = reactor.with(|_, cx| cx.take_recording());
//! let ends = &reactor.handler().ends;
//! let map = CutMap::join((&recording, ends[0]), (&recording, ends[1]));
//! assert_eq!(map.sends().len(), 3);
//! assert_eq!(map.writes().len(), 1, "the reactor batches the sends of one turn");
//! assert_eq!(map.summary().glued_sends, 3);
//! assert_eq!(map.frames().len(), 3, "framing separates them again");
//! println!("{map}");
//! # Ok(())
//! # }
//! ```

mod map;
mod recorder;
mod text;
mod tls_records;

use std::time::{Duration, Instant};

pub use map::{CutMap, FrameSpan, Span, Summary};
pub(crate) use recorder::Recorder;
pub use tls_records::TlsRecordSpan;

use crate::id::{SocketId, UdpId};

/// Event of a recorded socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Socket of the event.
    pub socket: SocketId,
    /// Time since the [start of the recording](Recording::began).
    ///
    /// Writes, reads and datagrams have the time at which their system call returned. The clock is
    /// not read for a frame, for a send, or for a datagram that was dropped before a system call.
    /// These events have the time of the latest system call, or the start of the turn if that is
    /// later. A call of [`Reactor::with`](crate::Reactor::with) counts as the start of a turn.
    pub at: Duration,
    /// Type of the event.
    pub kind: EventKind,
    /// TCP: offset of the first byte in the stream of its direction, including headers. It is zero
    /// at the start of the connection. With TLS, writes and reads have offsets on the wire, which
    /// include the handshake and the bytes of TLS. When the recording of a connection starts for
    /// the first time, its offset on the wire is set to its offset of the plaintext. So the offsets
    /// on the wire are exact only if this recording starts before the handshake. All other events
    /// have offsets of the plaintext.
    ///
    /// UDP: number of the datagram among the recorded datagrams of its socket and direction. The
    /// first has the number zero, and the next recording continues the numbers.
    pub offset: u64,
    /// Number of bytes, including headers. Zero for an empty datagram, and for a TLS record without
    /// application data.
    pub len: u64,
}

/// Type of an [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// Payload that [`send`](crate::Context::send) accepted, with its framing.
    Send,
    /// Write; `len` is the number of bytes that the kernel took.
    Write,
    /// Read; `len` is the number of bytes that the kernel returned.
    Read,
    /// Decoded frame, recorded just before its delivery.
    Frame {
        /// Number of bytes before the payload.
        header_len: u32,
        /// Number of bytes after the payload, such as those of a delimiter.
        trailer_len: u32,
    },
    /// Encrypted TLS record. `offset` and `len` are those of its plaintext. `len` is zero for a
    /// record without application data, such as a record of the handshake or an alert.
    TlsRecordSent {
        /// Offset of the record on the wire.
        wire_offset: u64,
        /// Number of bytes on the wire, including the header of the record.
        wire_len: u32,
    },
    /// Decrypted TLS record. The values have the same meaning as those of
    /// [`TlsRecordSent`](Self::TlsRecordSent).
    TlsRecordReceived {
        /// Offset of the record on the wire.
        wire_offset: u64,
        /// Number of bytes on the wire, including the header of the record.
        wire_len: u32,
    },
    /// Datagram that the kernel accepted.
    DatagramSent,
    /// Datagram that was received whole.
    DatagramReceived,
    /// Datagram that was longer than the receive buffer; `len` is the number of bytes received.
    DatagramTruncated,
    /// Datagram that was not sent, because of the queue limit, a memory budget that is used up, or
    /// a system error.
    DatagramDropped,
}

impl EventKind {
    fn is_outgoing_datagram(self) -> bool {
        matches!(self, Self::DatagramSent | Self::DatagramDropped)
    }
}

/// Segment counters of a connection, from the kernel's `TCP_INFO` (Linux).
///
/// The counters do not say which bytes a segment contained. A retransmitted segment is counted
/// again. Splitting and joining of segments by the network card is not visible.
///
/// [`Context::segments`](crate::Context::segments) returns the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segments {
    /// Number of data segments sent, including retransmissions.
    pub sent: u32,
    /// Number of data segments received.
    pub received: u32,
    /// Number of retransmitted segments.
    pub retransmitted: u32,
    /// Maximum number of data bytes in a segment to this peer (MSS).
    pub len_max: u32,
}

/// Events of the recorded sockets of a reactor, in order.
///
/// [`Context::take_recording`](crate::Context::take_recording) returns a recording. The
/// [`Display`](std::fmt::Display) output of a recording is one readable line per event.
#[derive(Debug, Clone)]
pub struct Recording {
    pub(crate) began: Instant,
    pub(crate) events: Vec<Event>,
    pub(crate) overwritten: u64,
}

impl Recording {
    /// Returns the events, oldest first.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Returns the number of older events that were overwritten, because there were more than
    /// [`Config::recording_events_max`](crate::Config::recording_events_max).
    #[must_use]
    pub fn overwritten(&self) -> u64 {
        self.overwritten
    }

    /// Returns the start of the recording, from which the times of its events count.
    ///
    /// A recording starts when the previous recording is taken. Each call of
    /// [`record`](crate::Context::record) or [`record_all`](crate::Context::record_all) before the
    /// first event sets the start again.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Returns the datagrams of a UDP socket: first those sent or dropped, then those received.
    ///
    /// ```
    /// # use unstick::cutmap::{EventKind, Recording};
    /// # fn truncated(recording: &Recording, socket: unstick::UdpId) -> usize {
    /// let (_, received) = recording.datagrams(socket);
    /// received.iter().filter(|event| event.kind == EventKind::DatagramTruncated).count()
    /// # }
    /// ```
    #[must_use]
    pub fn datagrams(&self, socket: UdpId) -> (Vec<Event>, Vec<Event>) {
        let of_socket = |event: &&Event| event.socket == SocketId::Udp(socket);
        let events = self.events.iter().filter(of_socket).copied();
        events.partition(|event| event.kind.is_outgoing_datagram())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documentation of `Config::recording_events_max` states the size.
    #[test]
    fn event_takes_at_most_64_bytes() {
        assert!(size_of::<Event>() <= 64, "{}", size_of::<Event>());
    }
}
