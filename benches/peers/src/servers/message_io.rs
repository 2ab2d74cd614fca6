//! message-io's `FramedTcp`, as its own ping-pong example uses it.
//!
//! It writes a frame's prefix and payload separately and leaves Nagle's algorithm on, so each
//! batch would wait 40 ms for the acknowledgement of the first prefix, and the server would idle.
//! Here `TCP_NODELAY` is set behind its back, which shows what it costs when it is not waiting.

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
            // A connection that is gone tells so by an event of its own.
            let _ = handler.network().send(endpoint, on_frame(frame));
        }
    });
    Ok(())
}

/// Sets `TCP_NODELAY` on every TCP socket of this process.
///
/// The library does not give its listener out. It is the only TCP socket there is at this time,
/// and what it accepts inherits the option.
fn set_nodelay_on_all() -> io::Result<()> {
    let mut count = 0;
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let descriptor = name.to_str().and_then(|name| name.parse().ok());
        // Descriptors that are no TCP sockets refuse.
        count += u32::from(descriptor.is_some_and(|number| set_nodelay(number).is_ok()));
    }
    if count == 0 {
        Err(io::Error::other("the listener was not found"))
    } else {
        Ok(())
    }
}
