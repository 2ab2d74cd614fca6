//! An echo server with message-io's `FramedTcp`, as in its ping-pong example.
//!
//! message-io writes the prefix and the payload of a frame separately, and leaves Nagle's algorithm
//! on. So each batch would wait 40 ms for the acknowledgement of its first prefix. To measure the
//! library without these waits, this file sets `TCP_NODELAY` on the library's listener.

use std::fs;
use std::io;

use message_io::network::{NetEvent, Transport};
use message_io::node::{self, NodeEvent};

use super::{announce, on_frame};
use crate::system::set_nodelay;

pub(super) fn serve() -> io::Result<()> {
    let (handler, listener) = node::split::<()>();
    let (_, addr) = handler
        .network()
        .listen(Transport::FramedTcp, "127.0.0.1:0")?;
    set_nodelay_on_all()?;
    announce(addr.port())?;
    listener.for_each(move |event| {
        if let NodeEvent::Network(NetEvent::Message(endpoint, frame)) = event {
            // Ignore an error: the library reports a closed connection with another event.
            let _ = handler.network().send(endpoint, on_frame(frame));
        }
    });
    Ok(())
}

/// Sets `TCP_NODELAY` on every TCP socket of this process.
///
/// The library does not expose its listener. The listener is the only TCP socket at this time, and
/// accepted sockets inherit the option.
fn set_nodelay_on_all() -> io::Result<()> {
    let mut count = 0;
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let descriptor = name.to_str().and_then(|name| name.parse().ok());
        // The option fails for descriptors that are not TCP sockets.
        count += u32::from(descriptor.is_some_and(|number| set_nodelay(number).is_ok()));
    }
    if count == 0 {
        Err(io::Error::other(
            "the TCP listener was not found among the open descriptors",
        ))
    } else {
        Ok(())
    }
}
