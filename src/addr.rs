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
/// The text form, for [parsing](str::parse) and for display, is `127.0.0.1:7000`, `[::1]:7000`, or
/// the text of a [`UnixAddr`]: `unix:/run/app.sock`, `unix:@app`. Parsing the text of an address
/// returns the same address, except for the flow information of an IPv6 address, which the text
/// does not contain.
///
/// IPv4 peers of an IPv6 socket are reported in the IPv4 form: `127.0.0.1` and never
/// `::ffff:127.0.0.1`. So one host has one address, regardless of the family of the listener.
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
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addr {
    /// Address of a TCP or UDP socket.
    Inet(SocketAddr),
    /// Address of a Unix socket.
    #[cfg(unix)]
    Unix(UnixAddr),
}

/// Writes the text of the address, as std's `SocketAddr` does.
impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
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
        if text.starts_with(SCHEME) {
            return text.parse().map(Self::Unix);
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
///
/// # Text
///
/// The text is `unix:` and the path, or on Linux `unix:@` and the abstract name. The text of an
/// unnamed address is `unix:` alone. These bytes of a path or name are escaped, for display and for
/// parsing:
///
/// * A backslash is written as `\\`.
/// * A control character, and a byte that is not UTF-8, is written as `\xNN` with two hexadecimal
///   digits.
/// * An `@` at the start of a path is written as `\x40`.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// use unstick::{Addr, UnixAddr};
///
/// let name = UnixAddr::from_abstract_name(b"a\0b")?;
/// assert_eq!(name.to_string(), r"unix:@a\x00b");
/// assert_eq!(r"unix:@a\x00b".parse::<UnixAddr>()?, name);
/// # }
/// # std::io::Result::Ok(())
/// ```
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

    /// Returns true if the address belongs to a socket that was not bound. Most client sockets are
    /// not bound.
    #[must_use]
    pub fn is_unnamed(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the path, or a zero byte followed by the abstract name. The result is empty if the
    /// address is unnamed.
    pub(crate) fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    pub(crate) fn from_std(addr: &StdUnixAddr) -> Self {
        Self::from_parts(addr.as_pathname(), std_abstract_name(addr))
    }

    /// Returns true if `addr`, an address of std, equals this address.
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

/// The start of the text of a Unix address.
#[cfg(unix)]
const SCHEME: &str = "unix:";

/// Writes the [text](UnixAddr#text) of the address.
#[cfg(unix)]
impl fmt::Display for UnixAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        let mut bytes = &*self.0;
        match bytes {
            [0, name @ ..] => {
                f.write_str("@")?;
                bytes = name;
            }
            [b'@', path @ ..] => {
                f.write_str(r"\x40")?;
                bytes = path;
            }
            _ => {}
        }
        for chunk in bytes.utf8_chunks() {
            for char in chunk.valid().chars() {
                match char {
                    '\\' => f.write_str(r"\\")?,
                    char if char.is_control() => {
                        escape(f, char.encode_utf8(&mut [0; 4]).as_bytes())?
                    }
                    char => char.fmt(f)?,
                }
            }
            escape(f, chunk.invalid())?;
        }
        Ok(())
    }
}

#[cfg(unix)]
fn escape(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, r"\x{byte:02x}"))
}

/// Returns the bytes of an escaped path or name; `None` if an escape is invalid.
#[cfg(unix)]
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('\\');
    let mut bytes = Vec::from(parts.next()?);
    while let Some(part) = parts.next() {
        let after = match part.strip_prefix('x') {
            Some(digits) => {
                let (digits, after) = digits.split_at_checked(2)?;
                // `from_str_radix` accepts a sign, which is not valid in an escape.
                let is_sign = digits.starts_with('+');
                bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| !is_sign)?);
                after
            }
            // An empty part lies between two backslashes, which stand for one backslash.
            None if part.is_empty() => {
                bytes.push(b'\\');
                parts.next()?
            }
            None => return None,
        };
        bytes.extend_from_slice(after.as_bytes());
    }
    Some(bytes)
}

/// Parses the [text](UnixAddr#text) of an address. Fails with `InvalidInput` if the text does not
/// begin with `unix:` or has an invalid escape, or if the path or name is invalid or too long.
#[cfg(unix)]
impl FromStr for UnixAddr {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let rest = text.strip_prefix(SCHEME);
        let rest = rest.ok_or_else(|| invalid_input("the address does not begin with `unix:`"))?;
        let unescape = |text| {
            unescape(text).ok_or_else(|| {
                invalid_input(r"a backslash in a Unix address must be the start of `\\` or `\xNN`")
            })
        };
        if rest.is_empty() {
            return Ok(Self::default());
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(name) = rest.strip_prefix('@') {
            return Self::from_abstract_name(unescape(name)?);
        }
        Self::from_pathname(OsStr::from_bytes(&unescape(rest)?))
    }
}

#[cfg(unix)]
impl fmt::Debug for UnixAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnixAddr({self})")
    }
}

/// Returns the address 0.0.0.0:0, which marks an unknown peer. No peer can have this address.
pub(crate) fn unknown() -> Addr {
    Addr::Inet(SocketAddr::from(([0, 0, 0, 0], 0)))
}

/// Returns an address in the form that the crate reports to programs. An IPv4-mapped IPv6 address,
/// `::ffff:a.b.c.d`, becomes the IPv4 address `a.b.c.d` (RFC 4291, 2.5.5.2).
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        ip if ip.is_ipv4() => SocketAddr::new(ip, addr.port()),
        _ => addr,
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
    #[cfg(target_os = "linux")]
    use crate::testkit::Random;

    #[test]
    fn addr_is_no_larger_than_socket_addr() {
        assert_eq!(size_of::<Addr>(), size_of::<SocketAddr>());
    }

    #[test]
    fn debug_text_of_an_addr_is_its_text() {
        let addr = Addr::Inet(SocketAddr::from(([192, 0, 2, 1], 5)));
        assert_eq!(format!("{:?}", Some(addr)), "Some(192.0.2.1:5)");
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
            "unix:\0",
            r"unix:\",
            r"unix:\n",
            r"unix:\x4",
            r"unix:\x+4",
            r"unix:\xä",
            r"unix:@\\\",
            &long,
            &long_name,
        ] {
            let error = text.parse::<Addr>().expect_err("the address is invalid");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{text}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn text_of_random_addrs_parses_to_the_same_addr() {
        let seed = 7;
        let mut random = Random(seed);
        let alphabet = [
            0, b'@', b'\\', b'x', b'0', b'/', b'\n', 0x7F, 0xC3, 0xA4, 0xFF,
        ];
        for _ in 0..20_000 {
            let len_max = [5, 107][random.below(2)];
            let len = random.below(len_max + 1);
            let bytes: Vec<u8> = (0..len)
                .map(|_| match random.below(2) {
                    0 => alphabet[random.below(alphabet.len())],
                    _ => u8::try_from(random.below(256)).expect("a byte"),
                })
                .collect();
            let name = UnixAddr::from_abstract_name(&bytes);
            let path = UnixAddr::from_pathname(OsStr::from_bytes(&bytes));
            for addr in [name, path].into_iter().flatten() {
                let text = addr.to_string();
                let is_plain = !text.contains(char::is_control);
                assert!(is_plain, "seed {seed}: {text:?}");
                let parsed: UnixAddr = text.parse().expect(&text);
                assert_eq!(parsed, addr, "seed {seed}: {text:?}");
            }
        }
    }

    #[test]
    fn only_mapped_addresses_have_another_canonical_form() {
        for (addr, expected) in [
            ("[::ffff:192.0.2.1]:7", "192.0.2.1:7"),
            ("192.0.2.1:7", "192.0.2.1:7"),
            ("[::192.0.2.1]:7", "[::192.0.2.1]:7"),
            ("[fe80::1%3]:7", "[fe80::1%3]:7"),
        ] {
            let addr = addr.parse().expect("a valid address");
            assert_eq!(Ok(canonical(addr)), expected.parse(), "{addr}");
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
