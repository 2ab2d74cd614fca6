//! Datagrams: messages that keep their boundaries.
//!
//! A connection needs a state machine to find frames in its bytes. A datagram needs none, because
//! it arrives whole and is sent whole. So a send queue stores only the payload bytes, and the
//! length, address and marks of each datagram.

mod framed;
#[cfg_attr(
    not(all(feature = "udp-batch", any(target_os = "linux", target_os = "android"))),
    allow(dead_code, reason = "only batches use GSO runs")
)]
pub(crate) mod gso_run;
mod route;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::addr::canonical;
use crate::memory::Buf;
use crate::proxy_header::ProxyHeader;
use gso_run::GsoRun;

pub use framed::{DatagramError, DatagramFault, DatagramFrames};
pub(crate) use route::Marks;
pub use route::{Ecn, Route};

/// One received datagram.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Datagram<'a> {
    /// Source address; in IPv4 form if an IPv4 sender reaches an IPv6 socket. UDP lets a sender
    /// write any address here.
    pub from: SocketAddr,
    /// Payload; empty is valid.
    pub data: &'a [u8],
    /// True if the datagram exceeded [`Config::datagram_len_max`](crate::Config::datagram_len_max):
    /// `data` is its beginning; the remaining bytes are lost.
    pub truncated: bool,
    pub(crate) details: &'a Details,
    pub(crate) proxied: Option<&'a ProxyHeader>,
}

impl<'a> Datagram<'a> {
    /// Returns the destination address: the address of this host that the sender used, or a
    /// multicast or broadcast address. An IPv4 address on an IPv6 socket is in IPv4 form.
    ///
    /// Returns `None` unless the socket is bound to a wildcard address or
    /// [`UdpOptions::destination`](crate::UdpOptions::destination) is set. Always returns `None` if
    /// the system does not report the address: on other systems than Linux, without the feature
    /// `udp-batch`, or if a sandbox rejects the option.
    #[must_use]
    pub fn to(&self) -> Option<IpAddr> {
        self.details.to
    }

    /// Returns the index of the network interface that the datagram arrived on. Returns `None` if
    /// [`to`](Self::to) is `None`.
    #[must_use]
    pub fn interface(&self) -> Option<u32> {
        self.details.interface
    }

    /// Returns the header of the PROXY protocol that preceded the payload. [`from`](Self::from) is
    /// the address of the balancer, to which a reply is sent.
    ///
    /// Returns `None` if the sender is a direct client, or if
    /// [`UdpOptions::proxy_protocol`](crate::UdpOptions::proxy_protocol) is not set.
    #[must_use]
    pub fn proxied(&self) -> Option<&'a ProxyHeader> {
        self.proxied
    }

    /// Returns the ECN mark; `None` unless [`UdpOptions::ecn`](crate::UdpOptions::ecn) is set.
    #[must_use]
    pub fn ecn(&self) -> Option<Ecn> {
        self.details.ecn
    }

    /// Returns the time when the kernel received the datagram, since the Unix epoch; `None` unless
    /// [`UdpOptions::receive_time`](crate::UdpOptions::receive_time) is set. It is a time of the
    /// system clock, which may be set back. Linux only.
    #[must_use]
    pub fn received_at(&self) -> Option<Duration> {
        self.details.received_at
    }

    /// Returns the route back to the sender, from the address that the sender used. Store it for a
    /// reply after the callback. Inside of [`on_datagram`](crate::Handler::on_datagram),
    /// [`send_to`](crate::Context::send_to) with the address `from` uses this route automatically.
    ///
    /// The system chooses the local address if [`to`](Self::to) is `None`, is a multicast address,
    /// or is not an address of this host when the reply is sent.
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{Context, Datagram, Handler, Route, UdpId};
    /// # use std::time::Duration;
    /// # use unstick::{ConnId, TimerId};
    ///
    /// struct Late {
    ///     pending: Vec<(UdpId, Route)>,
    /// }
    ///
    /// impl Handler for Late {
    ///     type Session = ();
    ///
    ///     fn on_datagram(&mut self, cx: &mut Context<'_, Self>, udp: UdpId, got: Datagram<'_>) {
    ///         self.pending.push((udp, got.reply_route()));
    ///         cx.set_timer(Duration::from_millis(10), 0);
    ///     }
    ///
    ///     fn on_timer(&mut self, cx: &mut Context<'_, Self>, _: TimerId, _: u64) {
    ///         for (udp, route) in self.pending.drain(..) {
    ///             let _ = cx.send_to(udp, route, b"late");
    ///         }
    ///     }
    /// }
    /// # let mut reactor = unstick::Reactor::new(Late { pending: Vec::new() }).expect("a reactor");
    /// # let udp = reactor.bind_udp("0.0.0.0:0").expect("a free port");
    /// # let port = reactor.local_inet_addr(udp).expect("bound").port();
    /// # let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    /// # peer.connect(("127.0.0.1", port)).expect("loopback");
    /// # peer.send(b"request").expect("loopback");
    /// # while reactor.stats().datagrams_out == 0 { reactor.turn(None).expect("a turn"); }
    /// # assert_eq!(peer.recv(&mut [0; 9]).expect("an answer"), 4);
    /// ```
    #[must_use]
    pub fn reply_route(&self) -> Route {
        let is_of_one_host = |to: &IpAddr| !to.is_multicast() && *to != Ipv4Addr::BROADCAST;
        Route::new(self.from).with_source(self.to().filter(is_of_one_host))
    }
}

/// Details of a received message. The options of the socket select the details that are set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Details {
    pub(crate) to: Option<IpAddr>,
    pub(crate) interface: Option<u32>,
    pub(crate) ecn: Option<Ecn>,
    pub(crate) received_at: Option<Duration>,
}

impl Details {
    /// Empty details, for a socket whose options select none.
    pub(crate) const NONE: &'static Self = &Self {
        to: None,
        interface: None,
        ecn: None,
        received_at: None,
    };

    /// Sets the destination address and the index of the interface. An IPv4-mapped IPv6 address is
    /// stored in IPv4 form.
    #[cfg_attr(
        not(all(feature = "udp-batch", any(target_os = "linux", target_os = "android"))),
        allow(dead_code, reason = "details are received on Linux only")
    )]
    pub(crate) fn set_destination(&mut self, to: IpAddr, interface: Option<u32>) {
        self.to = Some(to.to_canonical());
        self.interface = interface;
    }
}

/// One datagram received by a Unix socket.
#[cfg(unix)]
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct UnixDatagram<'a> {
    /// Address to which the sender is bound. If the sender is not bound, the address is unnamed and
    /// no reply is possible.
    pub from: &'a crate::UnixAddr,
    /// Payload; empty is valid.
    pub data: &'a [u8],
    /// True if the datagram exceeded [`Config::datagram_len_max`](crate::Config::datagram_len_max):
    /// `data` is its beginning; the remaining bytes are lost.
    pub truncated: bool,
}

/// Length of a slot, in bytes. A slot is the memory for one received message. A message is one
/// datagram, or several datagrams of one sender that the kernel joined (`UDP_GRO`). No message is
/// longer than a slot.
const SLOT_LEN: usize = 65_536;
/// Distance from the start of a slot to the start of the next slot, in bytes. It is not a power of
/// two. Otherwise the first bytes of all slots would compete for the same few lines of the
/// processor cache.
const SLOT_STRIDE: usize = SLOT_LEN + 192;

/// Received messages, each in its own slot. All sockets of a reactor share this memory. It is
/// allocated with the first receive, and grows if a later receive needs more slots. A short message
/// touches only the first memory pages of its slot.
#[derive(Debug, Default)]
pub(crate) struct RecvBatch {
    /// Memory of all slots.
    buf: Box<[u8]>,
    /// Received messages, in the order of their slots.
    messages: Vec<Message>,
    /// Details of each message; empty if the options of the socket select none.
    details: Vec<Details>,
}

/// Content of one slot: one datagram, or several datagrams of one sender. Each datagram is
/// `segment_len` bytes long, except the last, which may be shorter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    pub(crate) from: SocketAddr,
    pub(crate) len: usize,
    pub(crate) segment_len: usize,
}

impl Message {
    /// Creates the message of one datagram.
    pub(crate) fn one(from: SocketAddr, len: usize) -> Self {
        Self {
            from,
            len,
            segment_len: len,
        }
    }

    /// Returns the number of datagrams; at least 1.
    pub(crate) fn count(&self) -> usize {
        self.len.div_ceil(self.segment_len.max(1)).max(1)
    }
}

impl RecvBatch {
    /// Returns `N` slots to receive into, and drops the messages of the previous receive.
    pub(crate) fn slots<const N: usize>(&mut self) -> [&mut [u8]; N] {
        if self.buf.len() < N * SLOT_STRIDE {
            self.buf = vec![0; N * SLOT_STRIDE].into_boxed_slice();
            self.messages.reserve(N);
        }
        self.messages.clear();
        self.details.clear();
        let mut slots = self.buf.chunks_exact_mut(SLOT_STRIDE);
        std::array::from_fn(|_| {
            let slot = slots.next().expect("the buffer must have at least N slots");
            &mut slot[..SLOT_LEN]
        })
    }

    /// Appends a message that was received into the next slot.
    pub(crate) fn push(&mut self, mut message: Message) {
        debug_assert!(message.len <= SLOT_LEN, "a message must fit into its slot");
        message.from = canonical(message.from);
        self.messages.push(message);
    }

    /// Appends the details of the message that was appended last.
    #[cfg_attr(
        not(all(feature = "udp-batch", any(target_os = "linux", target_os = "android"))),
        allow(dead_code, reason = "details are received on Linux only")
    )]
    pub(crate) fn push_details(&mut self, details: Details) {
        self.details.push(details);
        debug_assert_eq!(
            self.details.len(),
            self.messages.len(),
            "each message must have details"
        );
    }

    /// Returns the details of the message at `index`; `None` if the options of the socket select
    /// none.
    pub(crate) fn details(&self, index: usize) -> Option<&Details> {
        self.details.get(index)
    }

    /// Returns the number of received messages.
    pub(crate) fn count(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn message(&self, index: usize) -> Message {
        self.messages[index]
    }

    /// Returns the datagrams of the message at `index`; at least one.
    pub(crate) fn datagrams(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        let message = self.messages[index];
        let begin = index * SLOT_STRIDE;
        let data = &self.buf[begin..begin + message.len];
        (0..message.count()).map(move |part| {
            let begin = part * message.segment_len;
            &data[begin..data.len().min(begin + message.segment_len)]
        })
    }
}

/// Number of bytes that a queued datagram counts in addition to its payload. Without them, a limit
/// in bytes would allow any number of empty datagrams.
const OVERHEAD: usize = 64;

/// Datagrams that wait until the socket accepts them. Invariant: the lengths of `heads` add up to
/// the length of `payload`, and `marks` has an element for each head with `has_marks`.
#[derive(Debug, Default)]
pub(crate) struct DatagramQueue {
    heads: VecDeque<Head>,
    payload: Buf,
    marks: VecDeque<Marks>,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    /// Destination; `None` if the datagram goes to the connected peer.
    to: Option<SocketAddr>,
    len: u32,
    has_marks: bool,
}

impl DatagramQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Returns the number of queued datagrams.
    pub(crate) fn count(&self) -> usize {
        self.heads.len()
    }

    /// Returns the number of queued bytes, with [`OVERHEAD`] per datagram.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.payload.len() + OVERHEAD * self.heads.len()
    }

    /// Returns the capacity of the queue, in bytes.
    pub(crate) fn capacity(&self) -> usize {
        let heads = size_of::<Head>() * self.heads.capacity();
        self.payload.capacity() + heads + size_of::<Marks>() * self.marks.capacity()
    }

    /// Queues a datagram and returns true, or returns false if the queue would exceed `limit`
    /// bytes. `to` is `None` if the datagram goes to the connected peer.
    pub(crate) fn push(
        &mut self,
        to: Option<SocketAddr>,
        marks: Option<&Marks>,
        data: &[u8],
        limit: usize,
    ) -> bool {
        let queued = self.queued_bytes();
        let Ok(len) = u32::try_from(data.len()) else {
            return false;
        };
        if queued.saturating_add(data.len()).saturating_add(OVERHEAD) > limit {
            return false;
        }
        self.payload.put(data);
        if let Some(marks) = marks {
            self.marks.push_back(*marks);
        }
        self.heads.push_back(Head {
            to,
            len,
            has_marks: marks.is_some(),
        });
        true
    }

    /// Returns the oldest datagram, as a GSO run of one datagram.
    pub(crate) fn front(&self) -> Option<GsoRun<'_>> {
        let head = self.heads.front()?;
        let marks = if head.has_marks {
            self.marks.front()
        } else {
            None
        };
        Some(GsoRun::one(
            head.to,
            marks,
            &self.payload.bytes()[..head.len as usize],
        ))
    }

    /// Returns the payload length of each datagram, oldest first.
    pub(crate) fn lens(&self) -> impl Iterator<Item = usize> {
        self.heads.iter().map(|head| head.len as usize)
    }

    /// Drops the `count` oldest datagrams, and returns the number of payload bytes dropped.
    pub(crate) fn pop(&mut self, count: usize) -> usize {
        if !self.marks.is_empty() {
            let marks = self
                .heads
                .range(..count)
                .filter(|head| head.has_marks)
                .count();
            self.marks.drain(..marks);
        }
        let len = self
            .heads
            .drain(..count)
            .map(|head| head.len as usize)
            .sum();
        self.payload.consume(len);
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagram_boundaries_and_order_are_kept() {
        let mut queue = DatagramQueue::default();
        let to = "127.0.0.1:9".parse().ok();
        let sent: Vec<Vec<u8>> = (0..50).map(|len| vec![7; len % 5 * 100]).collect();
        for (index, data) in sent.iter().enumerate() {
            assert!(queue.push(to.filter(|_| index % 2 == 0), None, data, usize::MAX));
            if index % 3 == 0 {
                let front = queue.front().expect("the queue is not empty");
                assert_eq!(front.data, sent[index / 3]);
                queue.pop(1);
            }
        }
        for (index, data) in sent.iter().enumerate().skip(17) {
            let to = to.filter(|_| index % 2 == 0);
            assert_eq!(queue.front(), Some(GsoRun::one(to, None, data)));
            queue.pop(1);
        }
        assert!(queue.is_empty());
    }

    #[test]
    fn datagram_is_queued_if_it_fits_exactly() {
        let mut queue = DatagramQueue::default();
        assert!(!queue.push(None, None, &[7; 1000 - OVERHEAD + 1], 1000));
        assert!(queue.push(None, None, &[7; 500 - OVERHEAD], 1000));
        assert!(!queue.push(None, None, &[7; 500 - OVERHEAD + 1], 1000));
        assert!(queue.push(None, None, &[7; 500 - OVERHEAD], 1000));
        assert_eq!(queue.queued_bytes(), 1000);
    }

    #[test]
    fn queue_limit_applies_to_empty_datagrams_too() {
        let mut queue = DatagramQueue::default();
        let accepted = (0..1000)
            .filter(|_| queue.push(None, None, b"", 6400))
            .count();
        assert_eq!(accepted, 100);
        queue.pop(1);
        assert!(queue.push(None, None, b"", 6400));
        assert!(!queue.push(None, None, b"", 6400));
    }

    #[test]
    fn a_message_is_split_into_the_datagrams_of_its_sender() {
        let mut recv_batch = RecvBatch::default();
        let from = SocketAddr::from(([127, 0, 0, 1], 9));
        for (len, segment_len, parts) in [
            (0, 0, &[0][..]),
            (1, 1, &[1]),
            (10, 10, &[10]),
            (10, 4, &[4, 4, 2]),
            (8, 4, &[4, 4]),
            (SLOT_LEN, 65_000, &[65_000, 536]),
        ] {
            let [first, second] = recv_batch.slots();
            first[..len].fill(1);
            second[..len].fill(2);
            for _ in 0..2 {
                recv_batch.push(Message {
                    from,
                    len,
                    segment_len,
                });
            }
            assert_eq!(recv_batch.count(), 2);
            for (index, byte) in [(0, 1), (1, 2)] {
                assert_eq!(recv_batch.message(index).count(), parts.len());
                let datagrams: Vec<_> = recv_batch.datagrams(index).collect();
                assert!(datagrams.concat().iter().all(|received| *received == byte));
                let lens: Vec<_> = datagrams.iter().map(|data| data.len()).collect();
                assert_eq!(lens, parts);
            }
        }
    }
}
