//! Conversions between this crate's addresses and socket2's.

use std::io;

use socket2::{SockAddr, Socket};

#[cfg(unix)]
use crate::addr::UnixAddr;
use crate::addr::{Addr, canonical};

/// Returns the address that a socket is bound to.
pub(super) fn local_addr(socket: &Socket) -> io::Result<Addr> {
    to_addr(&socket.local_addr()?)
}

pub(super) fn to_addr(addr: &SockAddr) -> io::Result<Addr> {
    #[cfg(unix)]
    if addr.is_unix() {
        let (path, name) = (addr.as_pathname(), addr.as_abstract_namespace());
        return Ok(Addr::Unix(UnixAddr::from_parts(path, name)));
    }
    match addr.as_socket() {
        Some(inet) => Ok(Addr::Inet(canonical(inet))),
        None => Err(unsupported("the address family is neither IP nor Unix")),
    }
}

pub(super) fn to_sock_addr(addr: &Addr) -> io::Result<SockAddr> {
    match addr {
        Addr::Inet(addr) => Ok((*addr).into()),
        #[cfg(unix)]
        Addr::Unix(addr) if addr.is_unnamed() => {
            Err(unsupported("an unnamed Unix address identifies no socket"))
        }
        // socket2 reads a path that begins with a zero byte as an abstract name.
        #[cfg(unix)]
        Addr::Unix(addr) => SockAddr::unix(addr.as_os_str()),
    }
}

fn unsupported(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, message)
}
