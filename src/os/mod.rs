//! All calls of the operating system: the poll, and the sockets it watches.
//!
//! Nothing here knows of frames or handlers. `Interrupted` is retried here and seen by nobody
//! else; `WouldBlock` is handed on, as flow control.

mod adopt;
mod listener;
mod options;
mod poll;
#[cfg(test)]
mod script;
mod socket_ref;
mod stream;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod tcp_info;
mod udp;
#[cfg_attr(
    not(all(feature = "udp-batch", any(target_os = "linux", target_os = "android"))),
    path = "udp_no_batch.rs"
)]
mod udp_batch;
#[cfg(unix)]
mod unix_datagram;

pub(crate) use adopt::OwnedSocket;
pub(crate) use listener::{AcceptFailure, Listener};
pub use options::{ConnectOptions, ListenOptions, UdpOptions};
pub(crate) use poll::{Event, Poller, Waker};
#[cfg(test)]
pub(crate) use script::{Reading, Script, Writing};
pub use socket_ref::{Keepalive, SocketRef};
pub(crate) use stream::Stream;
pub(crate) use udp::Udp;
#[cfg(unix)]
pub(crate) use unix_datagram::UnixDatagramSocket;

use std::io;

use socket2::{SockAddr, Socket};

use crate::addr::Addr;
#[cfg(unix)]
use crate::addr::UnixAddr;

/// Whether a read that gave fewer bytes than asked for has emptied the socket, so that the next
/// byte makes a new edge. True for epoll and kqueue (epoll(7), "Questions and answers", 9);
/// elsewhere only `WouldBlock` says so.
pub(crate) const SHORT_READ_EMPTIES: bool = cfg!(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
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

/// The address that a socket is bound to.
fn local_addr(socket: &Socket) -> io::Result<Addr> {
    to_addr(&socket.local_addr()?)
}

fn to_addr(addr: &SockAddr) -> io::Result<Addr> {
    #[cfg(unix)]
    if addr.is_unix() {
        let (path, name) = (addr.as_pathname(), addr.as_abstract_namespace());
        return Ok(Addr::Unix(UnixAddr::from_parts(path, name)));
    }
    match addr.as_socket() {
        Some(inet) => Ok(Addr::Inet(inet)),
        None => Err(unsupported("neither of the internet nor a Unix socket")),
    }
}

fn to_sock_addr(addr: &Addr) -> io::Result<SockAddr> {
    match addr {
        Addr::Inet(addr) => Ok((*addr).into()),
        #[cfg(unix)]
        Addr::Unix(addr) => match (addr.as_pathname(), addr.as_abstract_name()) {
            (Some(path), _) => SockAddr::unix(path),
            // socket2 takes a path that begins with a zero byte for a name.
            (_, Some(name)) => {
                use std::os::unix::ffi::OsStrExt;
                let name = [b"\0", name].concat();
                SockAddr::unix(std::ffi::OsStr::from_bytes(&name))
            }
            _ => Err(unsupported("an unnamed address names no socket")),
        },
    }
}

#[cfg(unix)]
fn is_unix(socket: &Socket) -> io::Result<bool> {
    Ok(socket.local_addr()?.is_unix())
}

fn unsupported(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, what)
}
