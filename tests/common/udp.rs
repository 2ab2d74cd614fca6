//! Blocking UDP sockets, as peers of the reactor under test.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};

use super::DEADLINE;

/// Returns a socket whose receives fail after a deadline.
pub fn peer_at(addr: impl ToSocketAddrs) -> UdpSocket {
    let socket = UdpSocket::bind(addr).expect("the address and port are free");
    socket
        .set_read_timeout(Some(DEADLINE))
        .expect("the timeout can be set");
    socket
}

/// Returns a socket at 127.0.0.1 whose receives fail after a deadline.
pub fn peer() -> UdpSocket {
    peer_at("127.0.0.1:0")
}

/// Returns true if the loopback interface has an IPv6 address; prints a message if not.
pub fn has_ipv6() -> bool {
    let bound = UdpSocket::bind("[::1]:0");
    if let Err(error) = &bound {
        println!("skipped: the IPv6 loopback address is not available ({error})");
    }
    bound.is_ok()
}

/// Returns the addresses whose family is available on the loopback interface.
pub fn available<'a>(addrs: &[&'a str]) -> Vec<&'a str> {
    let has_ipv6 = has_ipv6();
    let addrs = addrs.iter().copied();
    addrs
        .filter(|addr| has_ipv6 || !addr.starts_with('['))
        .collect()
}

/// Returns the local address of a socket.
pub fn addr_of(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("the socket is bound")
}

/// Receives one datagram.
pub fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buf = vec![0; 65_536];
    let (len, _) = socket.recv_from(&mut buf).expect("a datagram arrives");
    buf.truncate(len);
    buf
}
