//! Batches of datagrams on Linux: many datagrams per system call, and several per message. This
//! module decides when to batch; [`udp_control`](super::udp_control) makes the calls that send.
//!
//! ```text
//!            recvmmsg: up to 32 messages             sendmmsg: up to 32 messages
//!   UDP_GRO: a message is one datagram,        UDP_SEGMENT: a message is one datagram,
//!            or up to 64 of one sender                      or a run of up to 64
//! ```
//!
//! The handler receives single datagrams, as the peer sent them. The kernel reports a message of
//! several datagrams with the length of its segments. Only the last segment may be shorter. Errors
//! are reported per datagram. If the kernel rejects a message of several datagrams, the datagrams
//! are sent again one by one, and each has its own result.
//!
//! An old kernel or a sandbox may refuse a batched call (`ENOSYS`, or `EPERM` by seccomp(2)). Each
//! refused call is repeated as a call for one datagram. If the system allows this call, the batched
//! call counts as refused. After one refusal with `ENOSYS`, or several refusals in a row, the
//! sockets of the thread stop using the batched call.
//!
//! quinn-udp provides `recvmmsg` and decodes its control data. nix provides `sendmmsg` and
//! `UDP_GRO`. The `recvmmsg` of nix does not reset the length of the control buffer: after a
//! message of one datagram, the next message of several datagrams would look like a single
//! datagram.

use std::cell::Cell;
use std::io::ErrorKind::{ConnectionRefused, WouldBlock};
use std::io::{self, IoSliceMut};
use std::thread::LocalKey;

use mio::net::UdpSocket;
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use quinn_udp::{RecvMeta, UdpSocketState};
use socket2::{Domain, Socket, Type};

use super::retry;
use super::udp::{Received, send_front};
use super::udp_control::{ReceivedOne, receive_one, send_many, send_one};
use crate::datagram::gso_run::GsoRun;
use crate::datagram::{DatagramQueue, Details, Ecn, Marks, Message, RecvBatch};
use crate::log_target::LOG_TARGET;

pub(super) use super::udp_control::Wanted;

/// Maximum number of messages per call; quinn-udp receives no more at once.
pub(super) const BATCH_LEN: usize = quinn_udp::BATCH_SIZE;
/// Number of refused calls in a row after which a batched call is not used any more. A refused call
/// counts only if the system then allows the call for one datagram. A single `EPERM` proves
/// nothing, because a firewall may reject single datagrams, even at random. A single `ENOSYS` is
/// enough.
const REFUSALS_MAX: u8 = 8;

/// State of one socket that sends and receives in batches, or that receives details.
#[derive(Debug)]
pub(super) struct Batcher {
    /// Receiver of quinn-udp: see [`new_receiver`]. `None` if each call receives one message.
    receiver: Option<UdpSocketState>,
    sends_in_batches: bool,
    wanted: Wanted,
    /// Number of dropped datagrams that the kernel has reported so far, modulo 2^32.
    drops: u32,
    /// True if the last successful receive returned one message, or if no receive has succeeded
    /// yet. The next receive then uses at most two slots.
    is_quiet: bool,
    /// Estimate of the number of datagrams per message, from recent messages; at least one.
    coalesced: usize,
    /// Maximum segment length of a GSO run; zero if each datagram is sent as its own message.
    segment_len_max: usize,
    /// Number of datagrams to send one by one, because the kernel rejected the batch that began
    /// with them.
    one_by_one: usize,
    /// New value of `segment_len_max`, if the segments of the failed GSO run may have been too
    /// long, or if the route may not support GSO. The new value is adopted if the kernel accepts
    /// the first datagram of that run alone.
    doubt: Option<usize>,
    /// Error of a failed `sendmmsg`, if it may mean that the system refuses the call. The error
    /// counts as a refused call if the kernel accepts the first datagram of that call alone.
    refusal: Option<io::Error>,
}

thread_local! {
    /// Number of refused `recvmmsg` calls in a row. It is kept per thread, because a sandbox
    /// applies to all sockets of a thread.
    static RECEIVE_REFUSALS: Cell<u8> = const { Cell::new(0) };
    /// Number of refused `sendmmsg` calls in a row, for all sockets of this thread.
    static SEND_REFUSALS: Cell<u8> = const { Cell::new(0) };
}

type Refusals = LocalKey<Cell<u8>>;

fn is_refused_for_good(call: &'static Refusals) -> bool {
    call.get() == REFUSALS_MAX
}

/// Counts a refused call, after the system allowed the call for one datagram. `name` is the batched
/// call.
fn count_refusal(call: &'static Refusals, name: &str, error: &io::Error) {
    let count = match error.raw_os_error().map(Errno::from_raw) {
        _ if is_refused_for_good(call) => return,
        Some(Errno::ENOSYS) => REFUSALS_MAX,
        _ => call.get() + 1,
    };
    call.set(count);
    if count == REFUSALS_MAX {
        log::warn!(
            target: LOG_TARGET,
            "the system refuses {name}, datagrams are handled one by one: {error}"
        );
    }
}

/// Returns true if the error may mean that the system refuses the call itself, with any arguments.
fn may_be_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENOSYS | Errno::EPERM | Errno::EACCES | Errno::EINVAL)
    )
}

/// Returns true if the error may mean that no datagram can leave from the source address.
fn may_be_source(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EINVAL | Errno::ENETUNREACH | Errno::EADDRNOTAVAIL)
    )
}

/// Creates a receiver of quinn-udp.
///
/// The constructor of quinn-udp sets options on its socket that only QUIC needs: no fragments,
/// timestamps. So that `udp` does not get these options, the constructor is called with another
/// socket. The receiver can then be used with `udp`, because it keeps no reference to a socket. The
/// other socket has the address family of `udp`, because the system may not support another family.
fn new_receiver(udp: &UdpSocket) -> io::Result<UdpSocketState> {
    let other = Socket::new(Domain::for_address(udp.local_addr()?), Type::DGRAM, None)?;
    UdpSocketState::new((&other).into())
}

impl Batcher {
    /// Prepares `udp` for batches and for the details that it should report. Returns `None` if
    /// calls for one datagram without control data are enough.
    pub(super) fn new(
        udp: &UdpSocket,
        in_batches: bool,
        wanted: Wanted,
    ) -> io::Result<Option<Self>> {
        let wanted = wanted.enable(udp)?;
        // If the former owner of an adopted socket has turned `UDP_GRO` on, the receive buffer may
        // hold joined datagrams. While the option is on, the kernel reports how to split them.
        let had_gro = getsockopt(udp, sockopt::UdpGroSegment).unwrap_or(false);
        // The kernel counts a dropped message of several datagrams as one datagram. So the kernel
        // must not join datagrams if dropped datagrams are counted.
        let has_gro = had_gro || !wanted.kernel_drops;
        let mut receiver = None;
        if in_batches {
            match new_receiver(udp) {
                // Setting `UDP_GRO` fails on Linux before 5.0.
                Ok(made) if setsockopt(udp, sockopt::UdpGroSegment, &has_gro).is_ok() => {
                    receiver = Some(made);
                }
                Ok(_) => {}
                Err(error) => {
                    log::warn!(
                        target: LOG_TARGET,
                        "batches cannot be used, datagrams are handled one by one: {error}"
                    )
                }
            }
        }
        let Some(made) = &receiver else {
            let needs_control = wanted.has_details() || wanted.needs_recvmsg() || had_gro;
            return Ok(needs_control.then(|| Self::with(None, false, 0, wanted)));
        };
        let has_gso = made.max_gso_segments() > 1;
        let segment_len_max = if has_gso { u16::MAX.into() } else { 0 };
        if wanted.needs_recvmsg() || is_refused_for_good(&RECEIVE_REFUSALS) {
            receiver = None;
        }
        Ok(Some(Self::with(receiver, true, segment_len_max, wanted)))
    }

    fn with(
        receiver: Option<UdpSocketState>,
        sends_in_batches: bool,
        segment_len_max: usize,
        wanted: Wanted,
    ) -> Self {
        Self {
            receiver,
            sends_in_batches,
            wanted,
            drops: 0,
            is_quiet: true,
            coalesced: 1,
            segment_len_max,
            one_by_one: 0,
            doubt: None,
            refusal: None,
        }
    }

    /// Receives datagrams: see [`Udp::receive`](super::Udp::receive).
    pub(super) fn receive(
        &mut self,
        udp: &UdpSocket,
        recv_batch: &mut RecvBatch,
        datagrams_max: usize,
    ) -> io::Result<Received> {
        if self.receiver.is_none() {
            return self.receive_one(udp, recv_batch);
        }
        match self.receive_many(udp, recv_batch, datagrams_max) {
            Err(error) if may_be_refusal(&error) => {
                let received = self.receive_one(udp, recv_batch);
                if !matches!(&received, Err(other) if may_be_refusal(other)) {
                    count_refusal(&RECEIVE_REFUSALS, "recvmmsg", &error);
                }
                if is_refused_for_good(&RECEIVE_REFUSALS) {
                    self.receiver = None;
                }
                received
            }
            received => received,
        }
    }

    fn receive_many(
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
        #[cfg(test)]
        faults::take(faults::Call::ReceiveMany)?;
        let receiver = self
            .receiver
            .as_ref()
            .expect("receive_into() must be called with a receiver");
        let mut slots = recv_batch.slots::<N>().map(IoSliceMut::new);
        let mut received = [RecvMeta::default(); N];
        let count = receiver.recv(udp.into(), &mut slots, &mut received)?;
        RECEIVE_REFUSALS.set(0);
        self.is_quiet = count == 1;
        self.coalesced = (self.coalesced / 2).max(1);
        let has_details = self.wanted.has_details();
        for meta in &received[..count] {
            let message = Message {
                from: meta.addr,
                len: meta.len,
                segment_len: meta.stride,
            };
            self.coalesced = self.coalesced.max(message.count());
            recv_batch.push(message);
            if has_details {
                recv_batch.push_details(self.details(meta));
            }
        }
        // If fewer than `N` messages arrived, no datagram was left, or an error ended the call. The
        // kernel keeps the error for the next call (recvmmsg(2)) and reports an event for it.
        Ok(Received {
            emptied: count < N,
            dropped: 0,
        })
    }

    fn details(&self, meta: &RecvMeta) -> Details {
        let mut details = Details::default();
        if let Some(to) = meta.dst_ip {
            details.set_destination(to, meta.interface_index);
        }
        if self.wanted.ecn {
            details.ecn = Some(Ecn::of_tos(meta.ecn.map_or(0, |mark| mark as u8)));
        }
        details
    }

    /// Receives one message with all of its control data.
    fn receive_one(&mut self, udp: &UdpSocket, recv_batch: &mut RecvBatch) -> io::Result<Received> {
        let [slot] = recv_batch.slots();
        let ReceivedOne {
            message,
            details,
            drops,
        } = retry(|| receive_one(udp, slot))?;
        recv_batch.push(message);
        if self.wanted.has_details() {
            recv_batch.push_details(details);
        }
        let drops = drops.unwrap_or(self.drops);
        let dropped = drops.wrapping_sub(std::mem::replace(&mut self.drops, drops));
        Ok(Received {
            emptied: false,
            dropped,
        })
    }

    /// Sends the oldest datagrams of `queue`: see [`Udp::send`](super::Udp::send).
    pub(super) fn send(
        &mut self,
        udp: &UdpSocket,
        is_connected: bool,
        queue: &DatagramQueue,
    ) -> io::Result<usize> {
        if self.one_by_one == 0
            && queue.count() > 1
            && self.sends_in_batches
            && !is_refused_for_good(&SEND_REFUSALS)
            && let Some(result) = self.send_runs(udp, is_connected, queue)
        {
            return result;
        }
        // On Linux, an IPv6 socket accepts IPv4 destinations, so they are not mapped into IPv6.
        let result = send_front(udp, queue, false);
        match &result {
            Err(error) if error.kind() == WouldBlock => return result,
            Err(_) => (self.doubt, self.refusal) = (None, None),
            Ok(_) => {
                self.segment_len_max = self.doubt.take().unwrap_or(self.segment_len_max);
                if let Some(error) = self.refusal.take() {
                    count_refusal(&SEND_REFUSALS, "sendmmsg", &error);
                }
            }
        }
        self.one_by_one = self.one_by_one.saturating_sub(1);
        result
    }

    /// Sends the oldest datagrams of `queue` with one system call. Returns the number of datagrams
    /// that the kernel accepted, or `None` if the oldest one must be sent alone.
    ///
    /// On a connected socket, one call sends only one message. With several messages,
    /// `ConnectionRefused` could be lost: a call that has already accepted a message does not
    /// report an error (sendmmsg(2)).
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
                && run.is_like(&first)
            {
                batch[len] = run;
                len += 1;
            }
        }
        let batch = &batch[..len];
        if len == 1 && first.is_one() {
            return None;
        }
        match retry(|| send_many(udp, batch)) {
            Ok(taken) => {
                SEND_REFUSALS.set(0);
                Some(Ok(batch[..taken].iter().map(|run| run.count).sum()))
            }
            Err(error) if Self::must_send_alone(&first, &error) => {
                self.begin_one_by_one(&first, error);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Returns true if the first datagram must be sent again alone, because the error of the batch
    /// may not be an error of this datagram.
    fn must_send_alone(first: &GsoRun<'_>, error: &io::Error) -> bool {
        match error.kind() {
            WouldBlock | ConnectionRefused => false,
            _ if !first.is_one() => true,
            _ => may_be_refusal(error) || first.has_source() && may_be_source(error),
        }
    }

    /// Prepares to send the datagrams of the first run one by one, after the batch failed.
    fn begin_one_by_one(&mut self, first: &GsoRun<'_>, error: io::Error) {
        log::debug!(target: LOG_TARGET,
            "sending a batch failed, so its first {} datagrams are sent one by one: {error}",
            first.count
        );
        self.one_by_one = first.count;
        let errno = error.raw_os_error().map(Errno::from_raw);
        self.doubt = match errno {
            _ if first.is_one() => None,
            // `EIO`: the route does not support GSO. `EINVAL`, `EMSGSIZE`: the segments are too
            // long for the route.
            Some(Errno::EIO) => Some(0),
            Some(Errno::EINVAL | Errno::EMSGSIZE) => Some(first.segment_len - 1),
            _ => None,
        };
        // The cause of `EINVAL` may also be the segment length. For a marked datagram,
        // `send_alone` counts refusals itself.
        let is_ambiguous = !first.is_one() && errno == Some(Errno::EINVAL);
        let is_refusal = first.marks.is_none() && may_be_refusal(&error) && !is_ambiguous;
        self.refusal = is_refusal.then_some(error);
    }
}

/// Sends one datagram that has marks: a source address or a traffic class.
///
/// If the source address is not an address of this host, or is a broadcast address, the system
/// chooses the source.
pub(super) fn send_marked(udp: &UdpSocket, one: GsoRun<'_>, marks: Marks) -> io::Result<usize> {
    let sent = match send_alone(udp, &one) {
        Err(error) if one.has_source() && may_be_source(&error) => {
            let marks = Marks {
                source: None,
                ..marks
            };
            send_alone(udp, &GsoRun::one(one.to, Some(&marks), one.data))
        }
        sent => sent,
    };
    sent.map(|()| one.data.len())
}

/// Sends one datagram with `sendmmsg`, which reuses its message headers. If the system refuses
/// `sendmmsg`, sends it with `sendmsg`, which allocates memory for each call.
fn send_alone(udp: &UdpSocket, one: &GsoRun<'_>) -> io::Result<()> {
    if is_refused_for_good(&SEND_REFUSALS) {
        return retry(|| send_one(udp, one));
    }
    let refusal = match retry(|| send_many(udp, std::slice::from_ref(one))) {
        Ok(_) => {
            SEND_REFUSALS.set(0);
            return Ok(());
        }
        Err(error) if may_be_refusal(&error) => error,
        Err(error) => return Err(error),
    };
    retry(|| send_one(udp, one))?;
    count_refusal(&SEND_REFUSALS, "sendmmsg", &refusal);
    Ok(())
}

/// System calls that a test makes fail.
#[cfg(test)]
pub(super) mod faults {
    use std::cell::RefCell;
    use std::io;

    use nix::errno::Errno;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in crate::os) enum Call {
        ReceiveMany,
        ReceiveOne,
        SendMany,
        SendOne,
    }

    type Fault = Box<dyn FnMut(Call) -> Option<Errno>>;

    thread_local! {
        static FAULT: RefCell<Option<Fault>> = const { RefCell::new(None) };
    }

    /// Makes the calls fail for which `fault` returns an error.
    pub(in crate::os) fn inject(fault: impl FnMut(Call) -> Option<Errno> + 'static) {
        FAULT.set(Some(Box::new(fault)));
    }

    pub(in crate::os) fn take(call: Call) -> io::Result<()> {
        let error = FAULT.with_borrow_mut(|fault| fault.as_mut().and_then(|fault| fault(call)));
        error.map_or(Ok(()), |errno| Err(errno.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::rc::Rc;
    use std::time::Duration;

    use super::super::{Os, Udp, UdpOptions};
    use super::faults::Call;
    use super::*;

    fn bound() -> Udp {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let os = Os::real().expect("the poll can be opened");
        let udp = os.bind_udp(any, &UdpOptions::new(), true);
        udp.expect("a port is free")
    }

    /// Returns sockets whose receives fail after a minute, and their addresses.
    fn peers(count: usize) -> Vec<(std::net::UdpSocket, SocketAddr)> {
        let peer = |_| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port is free");
            let timeout = Some(Duration::from_secs(60));
            let timed = socket.set_read_timeout(timeout);
            timed.expect("the timeout can be set");
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
            assert!(queue.push(Some(*to), None, b"alone", usize::MAX));
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
                assert!(queue.push(Some(peers[at].1), None, &[7; 100][..len], usize::MAX));
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
        assert!(queue.push(None, None, b"to a closed port", usize::MAX));
        assert_eq!(send_all(&mut udp, &mut queue), [1]);
        for _ in 0..3 {
            assert!(queue.push(None, None, b"as one", usize::MAX));
        }
        let error = udp.send(&queue).expect_err("no socket has the port");
        assert_eq!(error.kind(), ConnectionRefused);
        assert_eq!(send_all(&mut udp, &mut queue), [3], "no datagram was lost");
    }

    /// Makes the first `count` calls of the kind `call` fail with `errno`. Returns a counter of all
    /// calls of that kind.
    fn fail_calls(call: Call, errno: Errno, count: usize) -> Rc<Cell<usize>> {
        let tried = Rc::new(Cell::new(0));
        let counter = Rc::clone(&tried);
        faults::inject(move |tried| {
            let index = counter.get();
            counter.set(index + usize::from(tried == call));
            (tried == call && index < count).then_some(errno)
        });
        tried
    }

    /// Sends batches of two datagrams. Returns the number of datagrams that each call accepted.
    fn send_pairs(udp: &mut Udp, to: SocketAddr, batches: usize) -> Vec<usize> {
        let mut results = Vec::new();
        for _ in 0..batches {
            let mut queue = DatagramQueue::default();
            for data in [&b"one"[..], b"three"] {
                assert!(queue.push(Some(to), None, data, usize::MAX));
            }
            results.extend(send_all(udp, &mut queue));
        }
        results
    }

    #[test]
    fn refused_sendmmsg_is_given_up_after_some_refusals() {
        for (errno, refusals) in [(Errno::ENOSYS, 1), (Errno::EPERM, 8), (Errno::EINVAL, 8)] {
            SEND_REFUSALS.set(0);
            let (mut udp, peer) = (bound(), peers(1).remove(0));
            // One refusal less than the limit changes nothing.
            for allowed in [refusals - 1, usize::MAX] {
                let tried = fail_calls(Call::SendMany, errno, allowed);
                send_pairs(&mut udp, peer.1, 20);
                let is_given_up = is_refused_for_good(&SEND_REFUSALS);
                assert_eq!(
                    is_given_up,
                    allowed == usize::MAX,
                    "`sendmmsg` must be given up after exactly {refusals} refusals with {errno}"
                );
                let expected = if is_given_up { refusals } else { 20 };
                assert_eq!(
                    tried.get(),
                    expected,
                    "wrong number of tried calls with {errno} and {allowed} refusals"
                );
            }
            for _ in 0..40 {
                for len in [3, 5] {
                    let mut buf = [0; 9];
                    assert_eq!(peer.0.recv(&mut buf).expect("the datagram arrives"), len);
                }
            }
        }
    }

    /// Marks with a source address. Even a call for one datagram then needs control data.
    const MARKS: Marks = Marks {
        source: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        tos: None,
    };

    /// A single marked datagram is sent by `sendmmsg`, or by `sendmsg` if `sendmmsg` is refused.
    #[test]
    fn refused_sendmmsg_of_one_marked_datagram_is_given_up() {
        for (errno, refusals) in [(Errno::ENOSYS, 1), (Errno::EPERM, 8), (Errno::EINVAL, 8)] {
            SEND_REFUSALS.set(0);
            let (mut udp, peer) = (bound(), peers(1).remove(0));
            // One refusal less than the limit changes nothing.
            for allowed in [refusals - 1, usize::MAX] {
                let tried = fail_calls(Call::SendMany, errno, allowed);
                for _ in 0..20 {
                    let mut queue = DatagramQueue::default();
                    assert!(queue.push(Some(peer.1), Some(&MARKS), b"data", usize::MAX));
                    assert_eq!(send_all(&mut udp, &mut queue), [1]);
                    assert_eq!(peer.0.recv(&mut [0; 9]).expect("the datagram arrives"), 4);
                }
                let is_given_up = is_refused_for_good(&SEND_REFUSALS);
                assert_eq!(is_given_up, allowed == usize::MAX, "{errno}");
                let expected = if is_given_up { refusals } else { 20 };
                assert_eq!(tried.get(), expected, "{errno} and {allowed} refusals");
            }
        }
    }

    /// After a refused batch, its first datagram is tried with `sendmmsg` again if it is marked.
    /// Only the result of that call counts.
    #[test]
    fn refused_batch_of_marked_datagrams_counts_one_refusal() {
        let (mut udp, peer) = (bound(), peers(1).remove(0));
        // In the first case, the system refuses only the batch. In the second case, it also refuses
        // the first datagram alone.
        for (refused_calls, counted) in [(1, 0), (2, 1)] {
            SEND_REFUSALS.set(0);
            let tried = fail_calls(Call::SendMany, Errno::EPERM, refused_calls);
            let mut queue = DatagramQueue::default();
            for data in [&b"one"[..], b"three"] {
                assert!(queue.push(Some(peer.1), Some(&MARKS), data, usize::MAX));
            }
            assert_eq!(udp.send(&queue).expect("the first datagram is sent"), 1);
            assert_eq!((tried.get(), SEND_REFUSALS.get()), (2, counted));
        }
    }

    /// A firewall rejects datagrams with `EPERM`, in batches and alone.
    #[test]
    fn eperm_of_a_firewall_is_an_error_of_one_datagram() {
        let (mut udp, peer) = (bound(), peers(1).remove(0));
        let port = SocketAddr::from(([127, 0, 0, 1], 0));
        for _ in 0..50 {
            let tried = fail_calls(Call::SendMany, Errno::EPERM, 1);
            let mut queue = DatagramQueue::default();
            // The kernel also rejects a single datagram to port 0.
            for (to, data) in [(port, "one"), (peer.1, "two")] {
                assert!(queue.push(Some(to), None, data.as_bytes(), usize::MAX));
            }
            udp.send(&queue).expect_err("the datagram is rejected");
            queue.pop(1);
            assert_eq!(
                send_all(&mut udp, &mut queue),
                [1],
                "the other datagram is sent alone"
            );
            assert_eq!(tried.get(), 1);
            assert_eq!(
                SEND_REFUSALS.get(),
                0,
                "the sent datagram must not count the error of the rejected one"
            );
        }
        assert!(!is_refused_for_good(&SEND_REFUSALS));
    }

    #[test]
    fn refused_recvmmsg_is_given_up_after_some_refusals() {
        for (errno, refusals) in [(Errno::ENOSYS, 1), (Errno::EPERM, 8), (Errno::EINVAL, 8)] {
            RECEIVE_REFUSALS.set(0);
            let (mut udp, peer) = (bound(), peers(1).remove(0));
            let to = udp.local_addr().expect("the socket is bound").inet();
            let mut recv_batch = RecvBatch::default();
            for allowed in [refusals - 1, usize::MAX] {
                let tried = fail_calls(Call::ReceiveMany, errno, allowed);
                for _ in 0..20 {
                    let sent = peer
                        .0
                        .send_to(b"data", to.expect("the socket has an IP address"));
                    sent.expect("the datagram is sent");
                    udp.receive(&mut recv_batch, 8)
                        .expect("the datagram has arrived");
                    let first = recv_batch.datagrams(0).next();
                    assert_eq!((recv_batch.count(), first), (1, Some(&b"data"[..])));
                }
                let is_given_up = is_refused_for_good(&RECEIVE_REFUSALS);
                assert_eq!(
                    is_given_up,
                    allowed == usize::MAX,
                    "`recvmmsg` must be given up after exactly {refusals} refusals with {errno}"
                );
                let expected = if is_given_up { refusals } else { 20 };
                assert_eq!(
                    tried.get(),
                    expected,
                    "wrong number of tried calls with {errno} and {allowed} refusals"
                );
            }
            let error = udp
                .receive(&mut recv_batch, 8)
                .expect_err("the socket has no further datagram");
            assert_eq!(error.kind(), WouldBlock);
        }
    }

    /// The source of a reply may be a broadcast address of the network. The reply is then sent
    /// without this source, so the system chooses the source.
    #[test]
    fn source_that_is_no_address_of_the_host_is_ignored() {
        let (mut udp, peer) = (bound(), peers(1).remove(0));
        let marks = Marks {
            source: Some([127, 255, 255, 255].into()),
            tos: None,
        };
        for count in [1, 2, 20] {
            let mut queue = DatagramQueue::default();
            for _ in 0..count {
                assert!(queue.push(Some(peer.1), Some(&marks), b"data", usize::MAX));
            }
            assert_eq!(send_all(&mut udp, &mut queue).iter().sum::<usize>(), count);
            for _ in 0..count {
                assert_eq!(peer.0.recv(&mut [0; 9]).expect("the datagram arrives"), 4);
            }
        }
        assert!(!is_refused_for_good(&SEND_REFUSALS));
    }

    /// The kernel refuses `sendmsg` too, so the error concerns only one datagram, and the batched
    /// call is not given up.
    #[test]
    fn refused_sendmsg_is_an_error_of_one_datagram() {
        let (mut udp, peer) = (bound(), peers(1).remove(0));
        faults::inject(|call| {
            matches!(call, Call::SendMany | Call::SendOne).then_some(Errno::EPERM)
        });
        let mut queue = DatagramQueue::default();
        assert!(queue.push(Some(peer.1), Some(&MARKS), b"data", usize::MAX));
        let error = udp.send(&queue).expect_err("both calls are refused");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(!is_refused_for_good(&SEND_REFUSALS));
    }
}
