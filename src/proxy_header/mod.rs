//! The PROXY protocol: the header in which a load balancer announces the client of a connection.
//!
//! This module owns the bytes of a header, and the rules by which a header is accepted. It does no
//! I/O; `engine/proxied.rs` reads and sends headers.
//!
//! Facts about the format are from the
//! [specification](https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt) of HAProxy. The
//! parser is part of this crate, because the crate `ppp` 2.3 differs from the specification: it
//! accepts the port `+80`, rejects a `LOCAL` header whose family is not followed by addresses, and
//! does not check the checksum.

mod decode;
mod policy;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::{fmt, io};

use crate::addr::Addr;
use crate::error::invalid_input;
pub use policy::{IpNetwork, ProxyProtocol};

/// First bytes of a header of version 1.
const SIGNATURE_V1: &[u8] = b"PROXY ";
/// First bytes of a header of version 2.
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Maximum length of a header of version 1, including its line end.
const LINE_LEN_MAX: usize = 107;
/// Length of the fixed part of a header of version 2. Addresses and TLVs follow.
const FIXED_LEN: usize = 16;
/// Length of each of the two addresses of a Unix socket.
const UNIX_LEN: usize = 108;
/// Maximum length of the TLVs, in bytes. The length field of the header can then express the length
/// of the TLVs and of any addresses.
const TLVS_LEN_MAX: usize = u16::MAX as usize - 2 * UNIX_LEN;

/// A header of the PROXY protocol, as a load balancer sends it before the bytes of the client.
///
/// A listener with [`ListenOptions::proxy_protocol`] receives headers, and
/// [`Context::proxied`](crate::Context::proxied) returns them.
/// [`ConnectOptions::proxy_header`](crate::ConnectOptions::proxy_header) sends one. For datagrams,
/// see [`UdpOptions::proxy_protocol`](crate::UdpOptions::proxy_protocol).
///
/// [`ListenOptions::proxy_protocol`]: crate::ListenOptions::proxy_protocol
///
/// # Examples
///
/// ```
/// use std::net::SocketAddr;
/// use unstick::ProxyHeader;
///
/// let client = SocketAddr::from(([192, 0, 2, 7], 40_000));
/// let server = SocketAddr::from(([198, 51, 100, 1], 443));
/// let header = ProxyHeader::new(client, server)?.tlv(ProxyHeader::AUTHORITY, b"example.org")?;
///
/// let bytes = header.encode();
/// let (decoded, len) = ProxyHeader::decode(&bytes)?.expect("the header is complete");
/// assert_eq!((&decoded, len), (&header, bytes.len()));
/// assert_eq!(decoded.source(), Some(&client.into()));
///
/// assert_eq!(
///     ProxyHeader::new(client, server)?.version_1().encode(),
///     b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n",
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    version: Version,
    /// True if the proxy opened the connection for itself.
    is_local: bool,
    is_datagram: bool,
    /// Source and destination. Both are IP addresses or both are Unix addresses.
    addrs: Option<(Addr, Addr)>,
    /// Valid TLVs, encoded: `tlvs.len() <= TLVS_LEN_MAX` if the header is to be sent.
    tlvs: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Registered kinds of TLVs, for [`tlv`](ProxyHeader::tlv) and
/// [`tlv_value`](ProxyHeader::tlv_value).
impl ProxyHeader {
    /// Kind of the TLV with the application protocol (`PP2_TYPE_ALPN`), for example `h2`.
    pub const ALPN: u8 = 0x01;
    /// Kind of the TLV with the host name that the client asked for (`PP2_TYPE_AUTHORITY`), in
    /// UTF-8.
    pub const AUTHORITY: u8 = 0x02;
    /// Kind of the TLV with an id of the connection (`PP2_TYPE_UNIQUE_ID`), of at most 128 bytes.
    pub const UNIQUE_ID: u8 = 0x05;
    /// Kind of the TLV that describes the TLS connection of the client (`PP2_TYPE_SSL`).
    pub const SSL: u8 = 0x20;

    const CHECKSUM: u8 = 0x03;
}

impl ProxyHeader {
    /// Creates a header of version 2 for a stream from `source` to `destination`.
    ///
    /// If one address is IPv4 and the other IPv6, the header has two IPv6 addresses, one of them
    /// IPv4-mapped.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: one address is an IP address, and the other a Unix address.
    pub fn new(source: impl Into<Addr>, destination: impl Into<Addr>) -> io::Result<Self> {
        let (source, destination) = (source.into(), destination.into());
        if source.inet().is_some() != destination.inet().is_some() {
            return Err(invalid_input(format!(
                "a PROXY header cannot contain both an IP address and a Unix address: {source}, \
                 {destination}"
            )));
        }
        Ok(Self {
            addrs: Some((source, destination)),
            is_local: false,
            ..Self::local()
        })
    }

    /// Creates a header of version 2 for a connection that the proxy opens for itself, such as a
    /// health check. It has no addresses.
    #[must_use]
    pub fn local() -> Self {
        Self {
            version: Version::V2,
            is_local: true,
            is_datagram: false,
            addrs: None,
            tlvs: Vec::new(),
        }
    }

    /// Selects version 1, which is a line of text.
    ///
    /// Version 1 has no TLVs, and knows only TCP. TLVs are not sent, and a header for another
    /// protocol or without addresses is sent as `PROXY UNKNOWN`.
    #[must_use]
    pub fn version_1(mut self) -> Self {
        self.version = Version::V1;
        self
    }

    /// Marks the header as that of a datagram, for UDP and for Unix datagrams.
    #[must_use]
    pub fn datagram(mut self) -> Self {
        self.is_datagram = true;
        self
    }

    /// Appends a TLV: additional data of a kind. Kinds from `0xE0` to `0xEF` are for applications.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: all TLVs together would be longer than 65,319 bytes. Each TLV takes 3
    ///   bytes more than its value.
    /// * `InvalidInput`: the kind is 3, which is the checksum.
    pub fn tlv(mut self, kind: u8, value: &[u8]) -> io::Result<Self> {
        let len = u16::try_from(value.len()).ok();
        let is_short = self.tlvs.len() + 3 + value.len() <= TLVS_LEN_MAX;
        let Some(len) = len.filter(|_| is_short && kind != Self::CHECKSUM) else {
            return Err(invalid_input(format!(
                "a TLV of kind {kind} with {} bytes cannot be added to the PROXY header: kind 3 \
                 is the checksum, and all TLVs together have at most {TLVS_LEN_MAX} bytes",
                value.len()
            )));
        };
        self.tlvs.push(kind);
        self.tlvs.extend_from_slice(&len.to_be_bytes());
        self.tlvs.extend_from_slice(value);
        Ok(self)
    }

    /// Returns true if the proxy opened the connection for itself, for example as a health check
    /// (`LOCAL`). There is no client behind such a connection.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// Returns true if the header is for datagrams.
    #[must_use]
    pub fn is_datagram(&self) -> bool {
        self.is_datagram
    }

    /// Returns the address of the client; `None` if the header is local or the proxy does not know
    /// the address. Decoding converts an IPv4-mapped IPv6 address to IPv4 form.
    #[must_use]
    pub fn source(&self) -> Option<&Addr> {
        Some(&self.addrs.as_ref()?.0)
    }

    /// Returns the address that the client connected to; `None` if [`source`](Self::source) is
    /// `None`.
    #[must_use]
    pub fn destination(&self) -> Option<&Addr> {
        Some(&self.addrs.as_ref()?.1)
    }

    /// Returns the kind and the value of each TLV, in the order of the header. A checksum and
    /// padding are included.
    pub fn tlvs(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let mut rest = &self.tlvs[..];
        std::iter::from_fn(move || {
            let (tlv, after) = decode::split_tlv(rest)?;
            rest = after;
            Some(tlv)
        })
    }

    /// Returns the value of the first TLV of a kind.
    #[must_use]
    pub fn tlv_value(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs().find(|tlv| tlv.0 == kind).map(|tlv| tlv.1)
    }

    /// Decodes the header at the start of `bytes`. Returns the header and its length in bytes, or
    /// `None` if more bytes are needed.
    ///
    /// Version 1 needs at most 107 bytes, and version 2 at most 65,551 bytes. The work is linear in
    /// the length of the header. A listener with [`ListenOptions::proxy_protocol`] decodes headers
    /// itself; other programs call this function.
    ///
    /// [`ListenOptions::proxy_protocol`]: crate::ListenOptions::proxy_protocol
    ///
    /// # Errors
    ///
    /// * [`ProxyError::Missing`]: the bytes do not begin with a header. They are not consumed.
    /// * Any other [`ProxyError`] for an invalid header; close the connection.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, ProxyError> {
        let mut header = Self::local();
        let len = decode::decode(bytes, usize::MAX, &mut header)?;
        Ok(len.map(|len| (header, len)))
    }

    /// Returns the bytes of the header.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self.version {
            Version::V1 => self.to_line().into_bytes(),
            Version::V2 => self.to_binary(),
        }
    }

    fn to_line(&self) -> String {
        let inet = |addr: Option<&Addr>| addr.and_then(Addr::inet);
        let (source, destination) = (inet(self.source()), inet(self.destination()));
        match source.zip(destination) {
            Some((source, destination)) if !self.is_datagram => {
                let (family, ips) = match (source.ip(), destination.ip()) {
                    (IpAddr::V4(from), IpAddr::V4(to)) => ("TCP4", format!("{from} {to}")),
                    (from, to) => ("TCP6", format!("{} {}", mapped(from), mapped(to))),
                };
                let (from, to) = (source.port(), destination.port());
                format!("PROXY {family} {ips} {from} {to}\r\n")
            }
            _ => "PROXY UNKNOWN\r\n".to_owned(),
        }
    }

    fn to_binary(&self) -> Vec<u8> {
        let (family, addrs) = match &self.addrs {
            Some((Addr::Inet(source), Addr::Inet(destination))) => {
                inet_bytes(*source, *destination)
            }
            #[cfg(unix)]
            Some((Addr::Unix(source), Addr::Unix(destination))) => {
                (3, [source, destination].map(unix_bytes).concat())
            }
            _ => (0, Vec::new()),
        };
        let transport = if self.is_datagram { 2 } else { 1 };
        let family = if family == 0 {
            0
        } else {
            family << 4 | transport
        };
        let len = addrs.len() + self.tlvs.len();
        let len = u16::try_from(len).expect("the TLVs and addresses fit into 65,535 bytes");
        let command = 0x20 | u8::from(!self.is_local);
        let mut bytes = SIGNATURE_V2.to_vec();
        bytes.extend_from_slice(&[command, family]);
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(&addrs);
        bytes.extend_from_slice(&self.tlvs);
        bytes
    }
}

fn mapped(ip: IpAddr) -> std::net::Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// Returns the family and the bytes of two IP addresses.
fn inet_bytes(source: SocketAddr, destination: SocketAddr) -> (u8, Vec<u8>) {
    let (family, mut bytes) = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (1, [from, to].map(|ip| ip.octets()).concat()),
        (from, to) => (2, [from, to].map(|ip| mapped(ip).octets()).concat()),
    };
    for addr in [source, destination] {
        bytes.extend_from_slice(&addr.port().to_be_bytes());
    }
    (family, bytes)
}

/// Returns the bytes of a Unix address, as in `sun_path` (unix(7)), filled with zeros.
#[cfg(unix)]
fn unix_bytes(addr: &crate::addr::UnixAddr) -> [u8; UNIX_LEN] {
    let mut bytes = [0; UNIX_LEN];
    let name = addr.as_os_str().as_encoded_bytes();
    let len = name.len().min(UNIX_LEN);
    bytes[..len].copy_from_slice(&name[..len]);
    bytes
}

/// Reason why a connection or datagram has no valid header of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyError {
    /// The first bytes are no header. Probably a client connected directly, or the balancer is not
    /// configured to send the header.
    Missing,
    /// The peer is not trusted, and a header is [required](ProxyProtocol::required).
    Untrusted,
    /// The peer ended its stream before the header was complete. A simple health check does this:
    /// it connects and then closes.
    Ended,
    /// [`ProxyProtocol::deadline`] passed before the header was complete.
    TimedOut,
    /// The header is too long.
    TooLong {
        /// Length of the header in bytes. For version 1: number of bytes received so far.
        len: usize,
        /// The limit: 107 bytes for version 1, [`ProxyProtocol::header_len_max`] for version 2.
        limit: usize,
    },
    /// The header violates the specification.
    Malformed(&'static str),
    /// The checksum of the header is wrong.
    Checksum,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the first bytes are no PROXY header"),
            Self::Untrusted => f.write_str("the peer is not trusted to send a PROXY header"),
            Self::Ended => f.write_str("the stream ended before the PROXY header was complete"),
            Self::TimedOut => f.write_str("the PROXY header was not complete before its deadline"),
            Self::TooLong { len, limit } => {
                write!(
                    f,
                    "PROXY header of {len} bytes exceeds the limit of {limit}"
                )
            }
            Self::Malformed(what) => write!(f, "malformed PROXY header: {what}"),
            Self::Checksum => f.write_str("the checksum of the PROXY header is wrong"),
        }
    }
}

impl Error for ProxyError {}

/// Converts to an error of the kind `InvalidData`.
impl From<ProxyError> for io::Error {
    fn from(error: ProxyError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}
