//! System calls for control data (cmsg(3)): they turn details on, receive one message with its
//! details, and send with a source address or traffic class.
//!
//! nix encodes and decodes the control data. Only received batches are decoded by quinn-udp: see
//! [`udp_batch`](super::udp_batch).

use std::array;
use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use mio::net::UdpSocket;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, cmsg_space,
    recvmsg, sendmmsg, sendmsg, setsockopt, sockopt,
};
use socket2::SockRef;

use super::udp_batch::BATCH_LEN;
#[cfg(test)]
use super::udp_batch::faults::{self, Call};
use crate::datagram::gso_run::GsoRun;
use crate::datagram::{Details, Ecn, Message};
use crate::log_target::LOG_TARGET;

/// Details of received datagrams that the program selected with [`UdpOptions`](super::UdpOptions).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    /// True to receive the destination address of each datagram. `None` counts as true if the
    /// socket is bound to a wildcard address.
    pub(super) destination: Option<bool>,
    pub(super) ecn: bool,
    pub(super) receive_time: bool,
    pub(super) kernel_drops: bool,
}

impl Wanted {
    /// Turns the details on in the kernel. Returns the details that the kernel will report.
    pub(super) fn enable(mut self, udp: &UdpSocket) -> io::Result<Self> {
        let local = udp.local_addr()?;
        let is_v6 = local.is_ipv6();
        if self
            .destination
            .unwrap_or_else(|| local.ip().is_unspecified())
        {
            // The IPv6 option of a dual-stack socket also reports IPv4 addresses.
            let enabled = if is_v6 {
                setsockopt(udp, sockopt::Ipv6RecvPacketInfo, &true)
            } else {
                setsockopt(udp, sockopt::Ipv4PacketInfo, &true)
            };
            match (enabled, self.destination) {
                (Ok(()), _) => self.destination = Some(true),
                (Err(error), Some(_)) => return Err(error.into()),
                (Err(error), None) => {
                    log::warn!(target: LOG_TARGET,
                        "cannot learn the destination of datagrams on {local}, so the system \
                         chooses the source address of replies: {error}"
                    );
                }
            }
        }
        if self.ecn {
            let socket = SockRef::from(udp);
            let v4 = socket.set_recv_tos_v4(true);
            if is_v6 {
                socket.set_recv_tclass_v6(true)?;
            } else {
                v4?;
            }
        }
        if self.receive_time {
            setsockopt(udp, sockopt::ReceiveTimestampns, &true)?;
        }
        if self.kernel_drops {
            setsockopt(udp, sockopt::RxqOvfl, &1)?;
        }
        Ok(self)
    }

    /// Returns true if each message has [`Details`].
    pub(super) fn has_details(self) -> bool {
        self.destination == Some(true) || self.ecn || self.receive_time
    }

    /// Returns true if the requested details include the receive time or the kernel's drop count.
    /// quinn-udp cannot receive these two details: its control buffer is too small, or it does not
    /// decode them.
    pub(super) fn needs_recvmsg(self) -> bool {
        self.receive_time || self.kernel_drops
    }
}

/// Length of a control buffer for all control data of one message.
const CONTROL_LEN: usize = 256;

/// A control buffer, aligned like `cmsghdr`.
#[repr(align(8))]
struct Control([u8; CONTROL_LEN]);

/// A message received by one `recvmsg`.
#[derive(Debug)]
pub(super) struct ReceivedOne {
    pub(super) message: Message,
    pub(super) details: Details,
    /// Number of datagrams that the kernel dropped since the socket was opened, modulo 2^32; `None`
    /// if it is zero or is not counted.
    pub(super) drops: Option<u32>,
}

/// Receives one message with its control data.
pub(super) fn receive_one(udp: &UdpSocket, slot: &mut [u8]) -> io::Result<ReceivedOne> {
    #[cfg(test)]
    faults::take(Call::ReceiveOne)?;
    let mut control = Control([0; CONTROL_LEN]);
    let mut slices = [IoSliceMut::new(slot)];
    let received = recvmsg::<SockaddrStorage>(
        udp.as_raw_fd(),
        &mut slices,
        Some(&mut control.0),
        MsgFlags::empty(),
    )?;
    let from = received.address.as_ref().and_then(to_socket_addr);
    let from = from.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
    let mut one = ReceivedOne {
        message: Message::one(from, received.bytes),
        details: Details::default(),
        drops: None,
    };
    for control in received.cmsgs()? {
        one.add(control);
    }
    Ok(one)
}

impl ReceivedOne {
    fn add(&mut self, control: ControlMessageOwned) {
        let Self {
            message,
            details,
            drops,
        } = self;
        match control {
            ControlMessageOwned::UdpGroSegments(len) => {
                message.segment_len = usize::try_from(len).unwrap_or(message.len);
            }
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let to = IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes());
                details.set_destination(to, to_index(info.ipi_ifindex));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let to = IpAddr::from(info.ipi6_addr.s6_addr);
                details.set_destination(to, to_index(info.ipi6_ifindex));
            }
            ControlMessageOwned::Ipv4Tos(tos) => details.ecn = Some(Ecn::of_tos(tos)),
            ControlMessageOwned::Ipv6TClass(class) => {
                details.ecn = Some(Ecn::of_tos(class.to_le_bytes()[0]));
            }
            ControlMessageOwned::ScmTimestampns(time) => {
                details.received_at = Some(time.into());
            }
            ControlMessageOwned::RxqOvfl(count) => *drops = Some(count),
            _ => {}
        }
    }
}

/// Converts the index of an interface, whose type depends on the system.
fn to_index(number: impl TryInto<u32>) -> Option<u32> {
    number.try_into().ok()
}

fn to_socket_addr(addr: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = addr
        .as_sockaddr_in()
        .map(|v4| SocketAddrV4::from(*v4).into());
    v4.or_else(|| {
        addr.as_sockaddr_in6()
            .map(|v6| SocketAddrV6::from(*v6).into())
    })
}

/// Control data of a send, in the order in which it is encoded.
struct Outgoing {
    segment_len: Option<u16>,
    source: Option<Source>,
    tos: Option<Tos>,
}

#[derive(Clone, Copy)]
enum Source {
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

/// Traffic class byte, in the type that the address family of the destination requires.
#[derive(Clone, Copy)]
enum Tos {
    V4(u8),
    V6(i32),
}

/// Sizes of the control data of a send. Message headers are kept for each layout, because their
/// control buffers must be exactly as long as the control data.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Layout {
    is_segmented: bool,
    source_len: usize,
    tos_len: usize,
}

impl Outgoing {
    fn new(run: &GsoRun<'_>) -> Self {
        let marks = run.marks.copied().unwrap_or_default();
        Self {
            segment_len: (!run.is_one())
                .then(|| u16::try_from(run.segment_len).unwrap_or(u16::MAX)),
            source: marks.source.map(to_source),
            tos: marks.tos.map(|tos| match run.is_to_v4() {
                true => Tos::V4(tos),
                false => Tos::V6(tos.into()),
            }),
        }
    }

    fn layout(&self) -> Layout {
        Layout {
            is_segmented: self.segment_len.is_some(),
            source_len: match self.source {
                None => 0,
                Some(Source::V4(_)) => cmsg_space::<in_pktinfo>(),
                Some(Source::V6(_)) => cmsg_space::<in6_pktinfo>(),
            },
            tos_len: match self.tos {
                None => 0,
                Some(Tos::V4(_)) => cmsg_space::<u8>(),
                Some(Tos::V6(_)) => cmsg_space::<i32>(),
            },
        }
    }

    /// Calls `send` with the control messages.
    fn with_messages<T>(&self, send: impl FnOnce(&[ControlMessage<'_>]) -> T) -> T {
        let mut messages = [ControlMessage::UdpGsoSegments(&0); 3];
        let mut count = 0;
        let mut push = |message| {
            messages[count] = message;
            count += 1;
        };
        if let Some(len) = &self.segment_len {
            push(ControlMessage::UdpGsoSegments(len));
        }
        match &self.source {
            None => {}
            Some(Source::V4(info)) => push(ControlMessage::Ipv4PacketInfo(info)),
            Some(Source::V6(info)) => push(ControlMessage::Ipv6PacketInfo(info)),
        }
        match &self.tos {
            None => {}
            Some(Tos::V4(tos)) => push(ControlMessage::Ipv4Tos(tos)),
            Some(Tos::V6(class)) => push(ControlMessage::Ipv6TClass(class)),
        }
        send(&messages[..count])
    }
}

/// Returns the packet information that makes a datagram leave from `ip`. For an IPv4 destination,
/// an IPv6 socket accepts the packet information of IPv4 (`ip_cmsg_send` in Linux).
fn to_source(ip: IpAddr) -> Source {
    match ip {
        IpAddr::V4(v4) => Source::V4(in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr {
                s_addr: u32::from_ne_bytes(v4.octets()),
            },
            ipi_addr: in_addr { s_addr: 0 },
        }),
        IpAddr::V6(v6) => Source::V6(in6_pktinfo {
            ipi6_addr: in6_addr {
                s6_addr: v6.octets(),
            },
            ipi6_ifindex: 0,
        }),
    }
}

type Headers = MultiHeaders<SockaddrStorage>;

thread_local! {
    /// Message headers for `sendmmsg`, created once per thread and layout. They contain pointers to
    /// themselves, so they cannot be part of a reactor, which may move to another thread.
    static HEADERS: RefCell<Vec<(Layout, Headers)>> = const { RefCell::new(Vec::new()) };
}

fn headers(all: &mut Vec<(Layout, Headers)>, layout: Layout) -> &mut Headers {
    let index = all.iter().position(|(of, _)| *of == layout);
    let index = index.unwrap_or_else(|| {
        let segment_len = if layout.is_segmented {
            cmsg_space::<u16>()
        } else {
            0
        };
        let len = segment_len + layout.source_len + layout.tos_len;
        let control = (len > 0).then(|| vec![0; len]);
        all.push((layout, Headers::preallocate(BATCH_LEN, control)));
        all.len() - 1
    });
    &mut all[index].1
}

/// Sends the runs of `batch` with one `sendmmsg`. Returns the number of runs that the kernel
/// accepted.
///
/// `batch` must contain 1 to [`BATCH_LEN`] runs with the same control data. Either each run is a
/// single datagram, or all runs have the same segment length.
pub(super) fn send_many(udp: &UdpSocket, batch: &[GsoRun<'_>]) -> io::Result<usize> {
    #[cfg(test)]
    faults::take(Call::SendMany)?;
    let slices: [_; BATCH_LEN] =
        array::from_fn(|index| [IoSlice::new(batch.get(index).map_or(&[], |run| run.data))]);
    let addrs: [_; BATCH_LEN] =
        array::from_fn(|index| batch.get(index)?.to.map(SockaddrStorage::from));
    let outgoing = Outgoing::new(&batch[0]);
    HEADERS.with_borrow_mut(|all| {
        let headers = headers(all, outgoing.layout());
        outgoing.with_messages(|control| {
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
    })
}

/// Sends one datagram with `sendmsg`, which allocates memory.
pub(super) fn send_one(udp: &UdpSocket, one: &GsoRun<'_>) -> io::Result<()> {
    #[cfg(test)]
    faults::take(Call::SendOne)?;
    let to = one.to.map(SockaddrStorage::from);
    Outgoing::new(one).with_messages(|control| {
        let slices = [IoSlice::new(one.data)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg(udp.as_raw_fd(), &slices, control, flags, to.as_ref())?;
        Ok(())
    })
}
