//! The kernel's segment counts of a TCP connection, read through a netlink socket.
//!
//! `getsockopt(TCP_INFO)` returns the counts too, but std and socket2 have no safe call for it. For
//! a netlink socket, plain writes and reads are enough (sock_diag(7)).

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Socket, Type};

use super::retry;
use crate::cutmap::Segments;

/// Address family `AF_NETLINK`.
const NETLINK: i32 = 16;
/// Protocol `NETLINK_SOCK_DIAG` (linux/netlink.h).
const SOCK_DIAG: i32 = 4;
/// Type of the request: `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// Flag of the request: `NLM_F_REQUEST` (linux/netlink.h).
const REQUEST: u16 = 1;
/// Type of an error message: `NLMSG_ERROR` (linux/netlink.h).
const ERROR: u16 = 2;
/// `INET_DIAG_INFO`: type of the attribute with a `struct tcp_info` (linux/inet_diag.h).
const INFO: u16 = 2;
/// Protocol number `IPPROTO_TCP`.
const TCP: u8 = 6;
/// Length of `struct nlmsghdr`, the header of each message.
const HEADER_LEN: usize = 16;
/// Length of `struct inet_diag_msg`, between the header and the attributes.
const MESSAGE_LEN: usize = 72;
/// Read timeout of the netlink socket. The kernel queues its reply during the send, so the timeout
/// never elapses.
const DEADLINE: Duration = Duration::from_secs(1);

/// Returns the segment counts of the connection between two addresses.
///
/// # Errors
///
/// `NotFound` if the kernel has no such connection, and the system's errors.
pub(crate) fn of_connection(local: SocketAddr, peer: SocketAddr) -> io::Result<Segments> {
    let mut socket = Socket::new(NETLINK.into(), Type::RAW, Some(SOCK_DIAG.into()))?;
    socket.set_read_timeout(Some(DEADLINE))?;
    let request = request(local, peer);
    retry(|| socket.send(&request))?;
    let mut reply = [0; 4096];
    let len = retry(|| socket.read(&mut reply))?;
    parse(reply.get(..len).unwrap_or_default())
}

/// Returns a request: a `struct nlmsghdr` and a `struct inet_diag_req_v2` for one connection.
fn request(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    // `AF_INET` is 2 and `AF_INET6` is 10. The scope is the interface of a link-local address.
    let (family, scope) = match local {
        SocketAddr::V4(_) => (2, 0),
        SocketAddr::V6(addr) => (10, addr.scope_id()),
    };
    let every_state = u32::MAX;
    let mut body = vec![family, TCP, 1 << (INFO - 1), 0];
    body.extend(every_state.to_ne_bytes());
    body.extend(local.port().to_be_bytes());
    body.extend(peer.port().to_be_bytes());
    for addr in [local, peer] {
        match addr.ip() {
            IpAddr::V4(ip) => body.extend([ip.octets(), [0; 4], [0; 4], [0; 4]].concat()),
            IpAddr::V6(ip) => body.extend(ip.octets()),
        }
    }
    body.extend(scope.to_ne_bytes());
    // The cookie `INET_DIAG_NOCOOKIE` matches any socket.
    body.extend([0xFF; 8]);

    let len = u32::try_from(HEADER_LEN + body.len())
        .expect("the length of a request must fit in 32 bits");
    let mut request = Vec::from(len.to_ne_bytes());
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    // Sequence number and port of the sender. Both may be zero, because the socket is used for only
    // one request (netlink(7)).
    request.extend([0; 8]);
    request.extend(body);
    request
}

/// Parses a reply: the segment counts, or an error message.
fn parse(reply: &[u8]) -> io::Result<Segments> {
    if u16_at(reply, 4) == Some(ERROR)
        && let Some(errno) = u32_at(reply, HEADER_LEN)
    {
        let errno = errno.cast_signed().saturating_neg();
        return Err(io::Error::from_raw_os_error(errno));
    }
    segments(reply).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Reads the segment counts of the `struct tcp_info` (linux/tcp.h) in a reply. The offsets are
/// stable, because new fields are only added at the end of the structure.
fn segments(reply: &[u8]) -> Option<Segments> {
    let mut attributes = reply.get(HEADER_LEN + MESSAGE_LEN..)?;
    loop {
        let len = usize::from(u16_at(attributes, 0)?);
        let info = attributes.get(4..len)?;
        if u16_at(attributes, 2)? == INFO {
            return Some(Segments {
                len_max: u32_at(info, 16)?,
                retransmitted: u32_at(info, 100)?,
                received: u32_at(info, 152)?,
                sent: u32_at(info, 156)?,
            });
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn segment_counts_are_those_of_one_connection() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(addr) else {
                continue; // this machine has no IPv6
            };
            let addr = listener.local_addr().expect("the listener is bound");
            let mut client = TcpStream::connect(addr).expect("the listener accepts connections");
            let (mut server, peer) = listener.accept().expect("the client has connected");
            client.set_nodelay(true).expect("the option can be set");
            for _ in 0..3 {
                client.write_all(b"one").expect("the socket is writable");
                server.read_exact(&mut [0; 3]).expect("the bytes arrive");
            }
            let local = client.local_addr().expect("the client is connected");
            let counted = of_connection(local, addr).expect("the connection is open");
            assert!(counted.sent >= 3, "counts of the client: {counted:?}");
            assert_eq!(counted.received, 0, "counts of the client: {counted:?}");
            assert!(counted.len_max > 0, "counts of the client: {counted:?}");
            let other = of_connection(addr, peer).expect("the connection is open");
            assert!(other.received >= 3, "counts of the server: {other:?}");
            drop((client, server));
            let unused = SocketAddr::new(local.ip(), 1);
            of_connection(unused, unused).expect_err("no connection has these addresses");
        }
    }

    #[test]
    fn a_reply_that_is_truncated_or_malformed_is_an_error() {
        let mut reply = vec![0; HEADER_LEN + MESSAGE_LEN];
        for len in 0..reply.len() {
            parse(&reply[..len]).expect_err("the reply is truncated");
        }
        reply.extend([0; 64]);
        parse(&reply).expect_err("an attribute has the length zero");
        reply[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        reply[16..20].copy_from_slice(&(-2_i32).to_ne_bytes());
        let error = parse(&reply).expect_err("the reply is an error message");
        assert_eq!(error.raw_os_error(), Some(2));
    }
}
