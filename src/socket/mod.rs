//! All calls of the operating system: the poll, and the sockets it watches.
//!
//! Nothing here knows of frames or handlers. `Interrupted` is retried here and seen by nobody
//! else; `WouldBlock` is handed on, as flow control.

#[cfg_attr(
    not(all(feature = "udp-batch", any(target_os = "linux", target_os = "android"))),
    path = "no_batch.rs"
)]
mod batch;
mod driver;
mod listener;
mod live;
mod options;
#[cfg(test)]
mod script;
mod stream;
mod udp;

pub(crate) use driver::{Driver, Readiness, Waker};
pub(crate) use listener::{AcceptFailure, Listener};
pub use live::{Keepalive, SocketRef};
pub use options::{ConnectOptions, ListenOptions, UdpOptions};
#[cfg(test)]
pub(crate) use script::{Reading, Script, Writing};
pub(crate) use stream::Stream;
pub(crate) use udp::Udp;

use std::io;

/// Whether a read that gave fewer bytes than asked for has emptied the socket, so that the next
/// byte makes a new edge. True for epoll and kqueue (epoll(7), "Questions and answers", 9);
/// elsewhere only `WouldBlock` says so.
pub(crate) const SHORT_READ_DRAINS: bool = cfg!(any(
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "ios",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly",
));

/// Calls again while a signal cuts the call short.
#[inline]
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
