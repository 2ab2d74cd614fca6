//! Batches of datagrams on Linux: many datagrams per system call, and several per message.
//!
//! ```text
//!            recvmmsg: up to 32 messages             sendmmsg: up to 32 messages
//!   UDP_GRO: a message is one datagram,        UDP_SEGMENT: a message is one datagram,
//!            or up to 64 of one sender                      or a run of up to 64
//! ```
//!
//! The handler receives single datagrams, as they were sent. A message of several datagrams comes
//! with the length of its segments, of which only the last may be shorter. Errors are also those of
//! single sends: if the kernel rejects a message of several datagrams, they are sent again one by
//! one, and each has its own result.
//!
//! quinn-udp provides `recvmmsg` and decodes its control data. nix provides `sendmmsg` and
//! `UDP_GRO`. The `recvmmsg` of nix does not reset the length of the control buffer: after a plain
//! datagram, the next message of several datagrams would look like one.

use std::array;
use std::cell::RefCell;
use std::io::ErrorKind::{ConnectionRefused, WouldBlock};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;

use mio::net::UdpSocket;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, setsockopt, sockopt,
};
use quinn_udp::{RecvMeta, UdpSocketState};
use socket2::{Domain, Socket, Type};

use super::retry;
use super::udp::{Received, send_one};
use crate::datagram::gso_run::GsoRun;
use crate::datagram::{DatagramQueue, Message, RecvBatch};

/// Maximum number of messages per call; quinn-udp receives no more at once.
const BATCH_LEN: usize = quinn_udp::BATCH_SIZE;

/// State of one socket that sends and receives in batches.
#[derive(Debug)]
pub(super) struct Batcher {
    /// Receiver of quinn-udp, made from another socket: see [`Batcher::new`].
    receiver: UdpSocketState,
    /// True if the last receive returned one message. The next receive then prepares few slots.
    is_quiet: bool,
    /// Recent number of datagrams per message. At least one.
    coalesced: usize,
    /// Maximum segment length of a GSO run; zero if each datagram is sent as its own message.
    segment_len_max: usize,
    /// Number of datagrams to send one by one, since the kernel rejected them as one message.
    one_by_one: usize,
    /// New value of `segment_len_max` if the first of these datagrams is accepted. The kernel then
    /// rejected the GSO run and not the datagram.
    doubt: Option<usize>,
}

thread_local! {
    /// Message headers for `sendmmsg` of single datagrams, created once per thread. They contain
    /// pointers to themselves, so they cannot be part of a reactor, which may move to another
    /// thread.
    static PLAIN: Headers = RefCell::new(MultiHeaders::preallocate(BATCH_LEN, None));
    /// Message headers for `sendmmsg` of GSO runs, with a control message for the segment length.
    static SEGMENTED: Headers =
        RefCell::new(MultiHeaders::preallocate(BATCH_LEN, Some(cmsg_space!(u16))));
}

type Headers = RefCell<MultiHeaders<SockaddrStorage>>;

impl Batcher {
    /// Prepares `udp` for batches. Returns `None` if the kernel is too old.
    pub(super) fn new(udp: &UdpSocket) -> io::Result<Option<Self>> {
        // Making the state sets options that QUIC needs: no fragments, timestamps. Receiving needs
        // none of them, and the state does not depend on the socket.
        let other = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        let receiver = UdpSocketState::new((&other).into())?;
        if setsockopt(udp, sockopt::UdpGroSegment, &true).is_err() {
            return Ok(None); // Linux before 5.0
        }
        let has_gso = receiver.max_gso_segments() > 1;
        Ok(Some(Self {
            receiver,
            is_quiet: true,
            coalesced: 1,
            segment_len_max: if has_gso { u16::MAX.into() } else { 0 },
            one_by_one: 0,
            doubt: None,
        }))
    }

    /// Receives once, as [`Udp::receive`](super::Udp::receive) does.
    pub(super) fn receive(
        &mut self,
        udp: &UdpSocket,
        recv_batch: &mut RecvBatch,
        datagrams_max: usize,
    ) -> io::Result<Received> {
        let slots = (datagrams_max / self.coalesced).max(1);
        match slots {
            1 => self.receive_into::<1>(udp, recv_batch),
            _ if self.is_quiet => self.receive_into::<2>(udp, recv_batch),
            2..8 => self.receive_into::<2>(udp, recv_batch),
            8..BATCH_LEN => self.receive_into::<8>(udp, recv_batch),
            _ => self.receive_into::<BATCH_LEN>(udp, recv_batch),
        }
    }

    fn receive_into<const N: usize>(
        &mut self,
        udp: &UdpSocket,
        recv_batch: &mut RecvBatch,
    ) -> io::Result<Received> {
        let mut slots = recv_batch.slots::<N>().map(IoSliceMut::new);
        let mut received = [RecvMeta::default(); N];
        let count = self.receiver.recv(udp.into(), &mut slots, &mut received)?;
        self.is_quiet = count == 1;
        self.coalesced = (self.coalesced / 2).max(1);
        for meta in &received[..count] {
            let message = Message {
                from: meta.addr,
                len: meta.len,
                segment_len: meta.stride,
            };
            self.coalesced = self.coalesced.max(message.count());
            recv_batch.push(message);
        }
        // If fewer messages arrived, the call ended because no datagram was left, or with an error.
        // The kernel keeps the error for the next call (recvmmsg(2)) and reports an event for it.
        Ok(Received { emptied: count < N })
    }

    /// Sends the oldest datagrams of `queue`, as [`Udp::send`](super::Udp::send) does.
    pub(super) fn send(
        &mut self,
        udp: &UdpSocket,
        is_connected: bool,
        queue: &DatagramQueue,
    ) -> io::Result<usize> {
        if self.one_by_one == 0
            && queue.count() > 1
            && let Some(result) = self.send_runs(udp, is_connected, queue)
        {
            return result;
        }
        let result = send_one(udp, queue);
        match &result {
            Err(error) if error.kind() == WouldBlock => return result,
            Err(_) => self.doubt = None,
            Ok(_) => self.segment_len_max = self.doubt.take().unwrap_or(self.segment_len_max),
        }
        self.one_by_one = self.one_by_one.saturating_sub(1);
        result
    }

    /// Sends the oldest datagrams of `queue` with one system call. Returns the number of datagrams
    /// that the kernel accepted, or `None` if the oldest one must be sent alone.
    ///
    /// A call on a connected socket has only one message. With more, a refusal that arrives during
    /// the call would be lost if the kernel had already accepted a message (sendmmsg(2)).
    fn send_runs(
        &mut self,
        udp: &UdpSocket,
        is_connected: bool,
        queue: &DatagramQueue,
    ) -> Option<io::Result<usize>> {
        let mut runs = queue.runs(self.segment_len_max);
        let first = runs.next()?;
        let mut batch = [first; BATCH_LEN];
        let mut len = 1;
        if !is_connected {
            while len < BATCH_LEN
                && let Some(run) = runs.next()
                && (run.is_one() && first.is_one()
                    || run.segment_len == first.segment_len && !run.is_one() && !first.is_one())
            {
                batch[len] = run;
                len += 1;
            }
        }
        let batch = &batch[..len];
        if len == 1 && first.is_one() {
            return None;
        }
        match retry(|| send_batch(udp, batch)) {
            Ok(taken) => Some(Ok(batch[..taken].iter().map(|run| run.count).sum())),
            Err(error)
                if first.is_one() || matches!(error.kind(), WouldBlock | ConnectionRefused) =>
            {
                Some(Err(error))
            }
            Err(error) => {
                log::debug!(
                    "sending {} datagrams in one message failed, so they are sent singly: {error}",
                    first.count
                );
                self.one_by_one = first.count;
                self.doubt = match error.raw_os_error().map(Errno::from_raw) {
                    // EIO: the route does not support GSO. Any other error: the segments are too
                    // long for the route.
                    Some(Errno::EIO) => Some(0),
                    Some(Errno::EINVAL | Errno::EMSGSIZE) => Some(first.segment_len - 1),
                    _ => None,
                };
                None
            }
        }
    }
}

/// Sends runs that all have one datagram, or that all have segments of one length.
fn send_batch(udp: &UdpSocket, batch: &[GsoRun<'_>]) -> io::Result<usize> {
    let first = batch[0];
    let slices: [_; BATCH_LEN] =
        array::from_fn(|index| [IoSlice::new(batch.get(index).map_or(&[], |run| run.data))]);
    let addrs: [_; BATCH_LEN] =
        array::from_fn(|index| batch.get(index)?.to.map(SockaddrStorage::from));
    let segment_len = u16::try_from(first.segment_len).unwrap_or(u16::MAX);
    let segmented = [ControlMessage::UdpGsoSegments(&segment_len)];
    let (headers, control) = if first.is_one() {
        (&PLAIN, &[][..])
    } else {
        (&SEGMENTED, &segmented[..])
    };
    headers.with_borrow_mut(|headers| {
        let sent = sendmmsg(
            udp.as_raw_fd(),
            headers,
            slices[..batch.len()].iter(),
            &addrs[..batch.len()],
            control,
            MsgFlags::MSG_NOSIGNAL,
        )?;
        Ok(sent.count())
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::{Os, Udp, UdpOptions};
    use super::*;

    fn bound() -> Udp {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let os = Os::real().expect("the poll can be opened");
        let udp = os.bind_udp(any, &UdpOptions::new(), true);
        udp.expect("a port is free")
    }

    fn peers(count: usize) -> Vec<(std::net::UdpSocket, SocketAddr)> {
        let peer = |_| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port is free");
            let addr = socket.local_addr().expect("the socket is bound");
            (socket, addr)
        };
        (0..count).map(peer).collect()
    }

    /// Sends all queued datagrams. Returns the number of datagrams that each call accepted.
    fn send_all(udp: &mut Udp, queue: &mut DatagramQueue) -> Vec<usize> {
        let calls = std::iter::from_fn(|| {
            let sent =
                (!queue.is_empty()).then(|| udp.send(queue).expect("the socket is writable"))?;
            queue.pop(sent);
            Some(sent)
        });
        calls.collect()
    }

    #[test]
    fn one_call_sends_single_datagrams_or_runs_to_many_peers() {
        let (mut udp, mut queue) = (bound(), DatagramQueue::default());
        let peers = peers(BATCH_LEN + 8);
        for (_, to) in &peers {
            assert!(queue.push(Some(*to), b"alone", usize::MAX));
        }
        assert_eq!(send_all(&mut udp, &mut queue), [BATCH_LEN, 8]);

        // All GSO runs of a call share one segment length.
        for (at, count, len) in [
            (0, 1, 100),
            (1, 1, 50),
            (2, 3, 100),
            (3, 4, 100),
            (4, 2, 50),
        ] {
            for _ in 0..count {
                assert!(queue.push(Some(peers[at].1), &[7; 100][..len], usize::MAX));
            }
        }
        assert_eq!(send_all(&mut udp, &mut queue), [2, 3 + 4, 2]);
        for (at, count, len) in [(2, 3, 100), (3, 4, 100), (4, 2, 50)] {
            let mut buf = [0; 200];
            assert_eq!(
                peers[at].0.recv(&mut buf).expect("the datagram arrives"),
                b"alone".len()
            );
            for _ in 0..count {
                assert_eq!(
                    peers[at].0.recv(&mut buf).expect("the datagram arrives"),
                    len
                );
            }
        }
    }

    #[test]
    fn refused_datagram_is_reported_by_the_next_call_for_a_run() {
        let (mut udp, mut queue) = (bound(), DatagramQueue::default());
        let (gone, addr) = peers(1).remove(0);
        drop(gone);
        udp.connect(addr)
            .expect("connecting a UDP socket needs no peer");
        assert!(queue.push(None, b"to a closed port", usize::MAX));
        assert_eq!(send_all(&mut udp, &mut queue), [1]);
        for _ in 0..3 {
            assert!(queue.push(None, b"as one", usize::MAX));
        }
        let error = udp.send(&queue).expect_err("no socket has the port");
        assert_eq!(error.kind(), ConnectionRefused);
        assert_eq!(send_all(&mut udp, &mut queue), [3], "no datagram was lost");
    }
}
