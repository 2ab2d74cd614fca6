//! An echo server for datagrams with the plainest loop: epoll, one `recvfrom` and one `sendto` per
//! datagram.

use std::io::{self, ErrorKind};
use std::net::UdpSocket;

use super::{announce, on_frame};
use crate::system::{Epoll, NO_EVENT, READABLE, set_receive_buffer};

pub(super) fn serve() -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_nonblocking(true)?;
    set_receive_buffer(&socket)?;
    announce(socket.local_addr()?.port())?;
    let epoll = Epoll::new()?;
    epoll.add(&socket, 0, READABLE)?;
    let mut input = vec![0; 65_536];
    let mut events = [NO_EVENT; 1];
    loop {
        epoll.wait(&mut events, -1)?;
        loop {
            let (len, from) = match socket.recv_from(&mut input) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            socket.send_to(on_frame(&input[..len]), from)?;
        }
    }
}
