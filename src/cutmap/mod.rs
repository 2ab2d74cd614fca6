//! The cut map: what became of each `send` on its way, seen on a live connection.
//!
//! A reactor that is told to [observe](crate::Context::record) a socket records what happens to
//! it, with stream offsets and times: each `send`, each write that the kernel took, each read that
//! it gave, each frame that was decoded; and for UDP each datagram. The [`Recording`] of the two
//! ends of a connection, put together, is a [`CutMap`]. It answers what no protocol analyser can:
//! which sends were *glued* into one read, which were *cut* into several, in which reads each frame
//! arrived, how many frames a read held, and which headers were split.
//!
//! ```text
//!   offset   0         10        20        30        40
//!   sends    |-- 0 ---|--- 1 ---|--- 2 ---|--- 3 ---|     what the program meant
//!   writes   |------------ 0 -----------|------ 1 --|     what the kernel took
//!   reads    |-- 0 ---|------ 1 ------|------- 2 ---|     what the kernel gave
//!   frames   |-- 0 ---|--- 1 ---|--- 2 ---|--- 3 ---|     what the program got
//! ```
//!
//! Here read 1 holds send 1 and the beginning of send 2: the two are glued, and send 2 is cut. The
//! frames are the sends again, whatever the reads were.
//!
//! Observing is off until it is asked for, and costs nothing then: two instructions a read. While
//! it is on, the memory is bounded by
//! [`Config::recording_events_max`](crate::Config::recording_events_max), and the oldest events make
//! room for new ones.
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
//!     ends: Vec<ConnId>, // the connected one, and the accepted one
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
//! assert_eq!(map.writes().len(), 1, "the reactor gathers what one turn sends");
//! assert_eq!(map.summary().glued_sends, 3);
//! assert_eq!(map.frames().len(), 3, "framing takes them apart again");
//! println!("{map}");
//! # Ok(())
//! # }
//! ```

mod map;
mod recorder;
mod text;

use std::time::{Duration, Instant};

pub use map::{CutMap, FrameSpan, Span, Summary};
pub(crate) use recorder::Recorder;

use crate::id::{SocketId, UdpId};

/// Something that happened to an observed socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// To which socket.
    pub socket: SocketId,
    /// When, counted from where the recording [began](Recording::began).
    ///
    /// Writes, reads and datagrams are stamped when their call has returned. Frames and sends read
    /// no clock of their own: they have the time of the last such stamp, or of the turn's
    /// beginning, whichever is later.
    pub at: Duration,
    /// What it was.
    pub kind: EventKind,
    /// TCP: where in the stream of its direction it begins, headers counted, from zero where the
    /// connection began. UDP: the datagram's number among those of its socket and direction that
    /// were recorded, from zero on, and on from one recording to the next.
    pub offset: u64,
    /// How many bytes, headers counted.
    pub len: u64,
}

/// What an [`Event`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A payload that [`send`](crate::Context::send) accepted, as it was framed.
    Send,
    /// A write of which the kernel took this much.
    Write,
    /// A read that gave this much.
    Read,
    /// A frame was decoded, and is delivered next.
    Frame {
        /// Bytes before its payload.
        header_len: u32,
        /// Bytes behind its payload, such as a delimiter.
        trailer_len: u32,
    },
    /// A datagram that the kernel took.
    DatagramSent,
    /// A datagram that came whole.
    DatagramReceived,
    /// A datagram of which only the beginning fitted; `len` is what did.
    DatagramTruncated,
    /// A datagram that was not sent: refused by the queue's limit or by the system.
    DatagramDropped,
}

/// What the kernel counts of a connection's segments: `TCP_INFO`, on Linux.
///
/// It is a count and no map. Nothing says which bytes a segment had, a segment that was sent again
/// is counted again, and what a network card cuts or glues is not seen.
/// [`Context::segments`](crate::Context::segments) asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segments {
    /// Segments with data that were sent, those that were sent again included.
    pub sent: u32,
    /// Segments with data that came.
    pub received: u32,
    /// Segments that were sent again.
    pub retransmitted: u32,
    /// The most bytes of data that a segment to this peer may have (MSS).
    pub len_max: u32,
}

/// What happened to the observed sockets of a reactor, in order.
///
/// It is taken with [`Context::take_recording`](crate::Context::take_recording). Its
/// [`Display`](std::fmt::Display) is one readable line an event.
#[derive(Debug, Clone)]
pub struct Recording {
    pub(crate) began: Instant,
    pub(crate) events: Vec<Event>,
    pub(crate) overwritten: u64,
}

impl Recording {
    /// The events, the oldest first.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// How many older events made room for these, as there were more than
    /// [`Config::recording_events_max`](crate::Config::recording_events_max).
    #[must_use]
    pub fn overwritten(&self) -> u64 {
        self.overwritten
    }

    /// When the recording began: the first `observe` since the last one was taken.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// The datagrams of a UDP socket that were sent or dropped, and those that came.
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
        events.partition(|event| {
            matches!(
                event.kind,
                EventKind::DatagramSent | EventKind::DatagramDropped
            )
        })
    }
}
