//! An echo server with message-io's `Udp` transport.

use std::fs;
use std::io;
use std::os::fd::RawFd;

use message_io::network::{NetEvent, Transport};
use message_io::node::{self, NodeEvent};

use super::{announce, on_frame};
use crate::system::set_receive_buffer;

pub(super) fn serve() -> io::Result<()> {
    let (handler, listener) = node::split::<()>();
    let (_, addr) = handler.network().listen(Transport::Udp, "127.0.0.1:0")?;
    // The library does not expose its socket, so set the option on every descriptor. The call fails
    // on a descriptor that is not a socket, and that error is ignored.
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        if let Some(descriptor) = name.to_str().and_then(|name| name.parse::<RawFd>().ok()) {
            let _ = set_receive_buffer(&descriptor);
        }
    }
    announce(addr.port())?;
    listener.for_each(move |event| {
        if let NodeEvent::Network(NetEvent::Message(endpoint, datagram)) = event {
            // Ignore an error: the load detects that the datagram is missing.
            let _ = handler.network().send(endpoint, on_frame(datagram));
        }
    });
    Ok(())
}
