//! Addresses of IP sockets and of Unix sockets.
//!
//! IP addresses are std's [`SocketAddr`]. [`Addr`] is either an IP address or a Unix address.

use std::net::{SocketAddr, ToSocketAddrs};
#[cfg(target_os = "android")]
use std::os::android::net::SocketAddrExt;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::str::FromStr;
#[cfg(unix)]
use std::{
    ffi::OsStr,
    os::unix::{ffi::OsStrExt, net::SocketAddr as StdUnixAddr},
    path::Path,
};

use crate::error::invalid_input;
use std::{fmt, io};

/// Address of any kind of socket.
///
/// The text form, for [parsing](str::parse) and for display, is `127.0.0.1:7000`, `[::1]:7000`,
/// `unix:/run/app.sock` or, for an abstract name on Linux, `unix:@app`.
///
/// # Examples
///
/// ```
/// use unstick::Addr;
///
/// let addr: Addr = "127.0.0.1:7000".parse()?;
/// assert_eq!(addr.inet().map(|addr| addr.port()), Some(7000));
/// # #[cfg(unix)]
/// assert_eq!("unix:/run/app.sock".parse::<Addr>()?.to_string(), "unix:/run/app.sock");
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addr {
    /// Address of a TCP or UDP socket.
    Inet(SocketAddr),
    /// Address of a Unix socket.
    #[cfg(unix)]
    Unix(UnixAddr),
}

impl Addr {
    /// Returns the address of a TCP or UDP socket; `None` for a Unix address.
    #[must_use]
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(addr) => Some(*addr),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }

    /// Returns the address of a Unix socket; `None` for an IP address.
    #[cfg(unix)]
    #[must_use]
    pub fn unix(&self) -> Option<&UnixAddr> {
        match self {
            Self::Inet(_) => None,
            Self::Unix(addr) => Some(addr),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(addr) => addr.fmt(f),
            #[cfg(unix)]
            Self::Unix(addr) => addr.fmt(f),
        }
    }
}

/// Parses an address. Host names are not resolved. Fails with `InvalidInput` if the text is not a
/// valid address.
impl FromStr for Addr {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        #[cfg(unix)]
        if let Some(rest) = text.strip_prefix("unix:") {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            if let Some(name) = rest.strip_prefix('@') {
                return UnixAddr::from_abstract_name(name).map(Self::Unix);
            }
            return UnixAddr::from_pathname(rest).map(Self::Unix);
        }
        text.parse().map(Self::Inet).map_err(invalid_input)
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        Self::Inet(addr)
    }
}

#[cfg(unix)]
impl From<UnixAddr> for Addr {
    fn from(addr: UnixAddr) -> Self {
        Self::Unix(addr)
    }
}

/// Address of a Unix socket: a path, an abstract name, or unnamed.
///
/// Binding to a path creates a file, and the file remains when the socket is closed. So a server
/// that starts again finds the file, and [`listen`](crate::Context::listen) fails with `AddrInUse`.
/// The reactor never removes the file, because only the program knows if another server still uses
/// it:
///
/// ```no_run
/// # fn f(reactor: &mut unstick::Reactor<impl unstick::Handler>) -> std::io::Result<()> {
/// use std::os::unix::net::UnixStream;
/// use unstick::{Framing, UnixAddr};
///
/// let path = "/run/app.sock";
/// if UnixStream::connect(path).is_err() {
///     let _ = std::fs::remove_file(path); // left over: no server listens on it
/// }
/// reactor.listen(UnixAddr::from_pathname(path)?, Framing::line())?;
/// # Ok(())
/// # }
/// ```
///
/// An abstract name (Linux, unix(7)) is not a file and disappears with its socket. Most clients are
/// unnamed, which is the default.
#[cfg(unix)]
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct UnixAddr(
    /// The address as in `sun_path` (unix(7)), without a zero byte at the end: nothing, a path, or
    /// a zero byte with an abstract name.
    Box<[u8]>,
);

#[cfg(unix)]
impl UnixAddr {
    /// Returns the address for a path.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: the path is empty, contains a zero byte, or is longer than the system
    ///   allows (103 to 107 bytes).
    pub fn from_pathname(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        if path.as_os_str().is_empty() {
            // For an empty path, Linux would choose an abstract name (unix(7), "Autobind feature").
            return Err(invalid_input("the path of a Unix socket must not be empty"));
        }
        StdUnixAddr::from_pathname(path).map(|addr| Self::from_std(&addr))
    }

    /// Returns the address for an abstract name. Linux and Android only.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: the name is longer than 107 bytes.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn from_abstract_name(name: impl AsRef<[u8]>) -> io::Result<Self> {
        StdUnixAddr::from_abstract_name(name).map(|addr| Self::from_std(&addr))
    }

    /// Returns the path, if the address has one.
    #[must_use]
    pub fn as_pathname(&self) -> Option<&Path> {
        let has_path = !matches!(*self.0, [] | [0, ..]);
        has_path.then(|| Path::new(self.as_os_str()))
    }

    /// Returns the abstract name, if the address has one.
    #[must_use]
    pub fn as_abstract_name(&self) -> Option<&[u8]> {
        self.0.strip_prefix(b"\0")
    }

    /// True if the address belongs to a socket that was not bound, as most clients are.
    #[must_use]
    pub fn is_unnamed(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the path, or a zero byte with the abstract name. It is empty if the address is
    /// unnamed.
    pub(crate) fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    pub(crate) fn from_std(addr: &StdUnixAddr) -> Self {
        Self::from_parts(addr.as_pathname(), std_abstract_name(addr))
    }

    /// True if `addr` is this address.
    pub(crate) fn is_std(&self, addr: &StdUnixAddr) -> bool {
        self.as_pathname() == addr.as_pathname()
            && self.as_abstract_name() == std_abstract_name(addr)
    }

    /// Builds an address from the parts that the system reports.
    pub(crate) fn from_parts(path: Option<&Path>, abstract_name: Option<&[u8]>) -> Self {
        match abstract_name {
            Some(name) => Self([b"\0", name].concat().into()),
            None => Self(
                path.map_or(&[][..], |path| path.as_os_str().as_bytes())
                    .into(),
            ),
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn std_abstract_name(addr: &StdUnixAddr) -> Option<&[u8]> {
    addr.as_abstract_name()
}

#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
fn std_abstract_name(_: &StdUnixAddr) -> Option<&[u8]> {
    None
}

/// Writes `unix:/run/app.sock`, `unix:@name` or `unix:`.
#[cfg(unix)]
impl fmt::Display for UnixAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_abstract_name() {
            Some(name) => write!(f, "unix:@{}", name.escape_ascii()),
            None => write!(f, "unix:{}", self.as_os_str().display()),
        }
    }
}

#[cfg(unix)]
impl fmt::Debug for UnixAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnixAddr({self})")
    }
}

/// Address argument of [`listen`](crate::Context::listen) and [`connect`](crate::Context::connect).
///
/// Implemented for every type with std's [`ToSocketAddrs`], such as `"localhost:7000"` and `(ip,
/// port)`, and for [`Addr`] and [`UnixAddr`].
pub trait ToAddrs {
    /// Returns the addresses, in the order in which to try them. Resolving a host name may block.
    ///
    /// # Errors
    ///
    /// * Any error of resolving the host name.
    fn to_addrs(&self) -> io::Result<impl Iterator<Item = Addr>>;
}

impl<T: ToSocketAddrs + ?Sized> ToAddrs for T {
    fn to_addrs(&self) -> io::Result<impl Iterator<Item = Addr>> {
        Ok(self.to_socket_addrs()?.map(Addr::Inet))
    }
}

/// Implements [`ToAddrs`] for types that hold one address.
macro_rules! one_addr {
    ($($type:ty),+) => {$(
        impl ToAddrs for $type {
            fn to_addrs(&self) -> io::Result<impl Iterator<Item = Addr>> {
                Ok(std::iter::once(Addr::from((*self).clone())))
            }
        }
    )+};
}

one_addr!(Addr, &Addr);
#[cfg(unix)]
one_addr!(UnixAddr, &UnixAddr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addr_is_no_larger_than_socket_addr() {
        assert_eq!(size_of::<Addr>(), size_of::<SocketAddr>());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn addr_text_round_trips_and_invalid_text_is_an_error() {
        for text in [
            "127.0.0.1:7000",
            "[::1]:7000",
            "unix:/run/app.sock",
            "unix:@app",
            "unix:app",
        ] {
            let addr: Addr = text.parse().expect("the address is valid");
            assert_eq!(addr.to_string(), text);
        }
        let addr: Addr = "unix:@app".parse().expect("the address is valid");
        let name = addr.unix().and_then(UnixAddr::as_abstract_name);
        assert_eq!(name, Some(&b"app"[..]), "`@` begins an abstract name");
        let long = format!("unix:{}", "x".repeat(108));
        let long_name = format!("unix:@{}", "x".repeat(108));
        for text in [
            "",
            "7000",
            "localhost:7000",
            "unix:",
            "unix:\0",
            &long,
            &long_name,
        ] {
            let error = text.parse::<Addr>().expect_err("the address is invalid");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{text}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn unix_path_and_unnamed_addresses_differ() {
        let path = UnixAddr::from_pathname("app").expect("the path is short");
        assert_eq!(path.as_pathname(), Some(Path::new("app")));
        assert!(path.as_abstract_name().is_none() && !path.is_unnamed());
        let (unnamed, _other) =
            std::os::unix::net::UnixStream::pair().expect("the socket pair can be opened");
        let unnamed = UnixAddr::from_std(&unnamed.local_addr().expect("the socket is open"));
        assert!(unnamed.is_unnamed() && unnamed.as_pathname().is_none());
        assert_ne!(path, unnamed);
    }
}
