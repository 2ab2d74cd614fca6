//! An echo server for datagrams with idiomatic tokio: one task awaits each receive and each send.

use std::io;

use tokio::net::UdpSocket;

use super::{announce, on_frame};
use crate::system::set_receive_buffer;

pub(super) fn serve() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        set_receive_buffer(&socket)?;
        announce(socket.local_addr()?.port())?;
        let mut input = vec![0; 65_536];
        loop {
            let (len, from) = socket.recv_from(&mut input).await?;
            socket.send_to(on_frame(&input[..len]), from).await?;
        }
    })
}
