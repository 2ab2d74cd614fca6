//! The rules by which a listener or a UDP socket accepts headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;
use std::{fmt, io};

use super::{ProxyError, ProxyHeader, SIGNATURE_V2};
use crate::addr::Addr;
use crate::error::invalid_input;
use crate::setters::setters;

/// Default time for the header. A balancer sends the header with its first packet. 10 seconds allow
/// for the loss of this packet (the specification asks for at least 3 seconds).
const DEADLINE: Duration = Duration::from_secs(10);
/// Default limit of a header of version 2, in bytes. A header with Unix addresses has 232 bytes
/// without TLVs, and the common TLVs take a few hundred.
const HEADER_LEN_MAX: usize = 4096;

/// Rules by which a listener or a UDP socket accepts headers of the PROXY protocol.
///
/// Only a trusted peer may send a header, because the header replaces the address of the client. An
/// IP address is trusted if it is in a network of [`trust`](Self::trust). The peer of a Unix socket
/// is always trusted, because the permissions of the file protect it.
///
/// | peer | [`required`](Self::required) | [`optional`](Self::optional) |
/// |---|---|---|
/// | trusted, sends a header | accepted | accepted |
/// | trusted, sends no header | [`ProxyError::Missing`] | accepted as a direct client |
/// | not trusted | [`Refusal::UntrustedProxy`] | accepted as a direct client |
///
/// The bytes of a direct client belong to the framing, even if they look like a header. A second
/// header also belongs to the framing: it comes from the client, and not from the balancer.
///
/// [`ProxyError::Missing`]: crate::ProxyError::Missing
/// [`Refusal::UntrustedProxy`]: crate::Refusal::UntrustedProxy
///
/// # Examples
///
/// ```
/// use unstick::ProxyProtocol;
///
/// let policy = ProxyProtocol::required()
///     .trust("10.20.0.0/16".parse()?)
///     .trust("fd00::7".parse()?);
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug, Clone)]
pub struct ProxyProtocol {
    is_required: bool,
    trusted: Vec<IpNetwork>,
    deadline: Duration,
    header_len_max: usize,
}

impl ProxyProtocol {
    fn new(is_required: bool) -> Self {
        Self {
            is_required,
            trusted: Vec::new(),
            deadline: DEADLINE,
            header_len_max: HEADER_LEN_MAX,
        }
    }

    /// Creates rules by which every connection must begin with a header. No IP address is trusted
    /// yet.
    #[must_use]
    pub fn required() -> Self {
        Self::new(true)
    }

    /// Creates rules by which a connection may begin with a header. No IP address is trusted yet.
    ///
    /// A trusted peer is a direct client if its first bytes differ from the signature of a header.
    /// The stream of a direct client must not begin with `PROXY ` or with the signature of version
    /// 2. The connection opens as soon as its first bytes differ from both signatures. So a direct
    /// client that sends nothing, or only the start of a signature, waits for the
    /// [`deadline`](Self::deadline) before it opens.
    #[must_use]
    pub fn optional() -> Self {
        Self::new(false)
    }

    /// Trusts the addresses of a network, in addition to the networks of earlier calls.
    #[must_use]
    pub fn trust(mut self, network: IpNetwork) -> Self {
        self.trusted.push(network);
        self
    }

    setters! {
        /// Sets the time from the accept in which the header must be complete. Default: 10 seconds.
        /// With zero, the header must arrive within about a millisecond. No effect on UDP sockets.
        deadline(time: Duration) => deadline = time;

        /// Sets the maximum length of a header of version 2, in bytes. Default: 4,096. A header
        /// without TLVs has 28 bytes for IPv4, 52 for IPv6, and 232 for Unix sockets. The limit of
        /// version 1 is always 107 bytes.
        header_len_max(bytes: usize) => header_len_max = bytes;
    }

    /// Decodes the header of a datagram into `header`. Returns the length of the header, or zero if
    /// the sender is a direct client.
    pub(crate) fn split_datagram(
        &self,
        from: &SocketAddr,
        datagram: &[u8],
        header: &mut ProxyHeader,
    ) -> Result<usize, ProxyError> {
        let is_trusted = self.trusts(&Addr::Inet(*from));
        match is_trusted && datagram.starts_with(SIGNATURE_V2) {
            true => {
                header
                    .decode_into(datagram, self.header_len_max)?
                    .ok_or(ProxyError::Malformed(
                        "the datagram is shorter than its header",
                    ))
            }
            false if !self.is_required => Ok(0),
            false if is_trusted => Err(ProxyError::Missing),
            false => Err(ProxyError::Untrusted),
        }
    }

    pub(crate) fn is_required(&self) -> bool {
        self.is_required
    }

    pub(crate) fn time(&self) -> Duration {
        self.deadline
    }

    pub(crate) fn len_max(&self) -> usize {
        self.header_len_max
    }

    /// Returns true if a peer may send a header.
    pub(crate) fn trusts(&self, peer: &Addr) -> bool {
        match peer.inet() {
            Some(peer) => self.trusted.iter().any(|it| it.contains(peer.ip())),
            None => true,
        }
    }
}

/// A block of IP addresses, such as `10.0.0.0/8` or `fd00::/8`. An address without a prefix length
/// is the block of that address alone. `0.0.0.0/0` and `::/0` contain all IPv4 and all IPv6
/// addresses.
///
/// # Examples
///
/// ```
/// use unstick::IpNetwork;
///
/// let network: IpNetwork = "10.20.0.0/16".parse()?;
/// assert!(network.contains([10, 20, 3, 4].into()));
/// assert!(!network.contains([10, 21, 0, 0].into()));
/// assert!("10.20.0.1/16".parse::<IpNetwork>().is_err(), "10.20.0.1 is inside of the network");
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpNetwork {
    /// The first address.
    first: IpAddr,
    /// Number of leading bits that all addresses of the network share.
    prefix_len: u8,
}

impl IpNetwork {
    /// Returns true if `ip` is in the network. An IPv4-mapped IPv6 address counts as IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.first, ip.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(ip)) => {
                u32::from(first) == u32::from(ip) & mask_v4(self.prefix_len)
            }
            (IpAddr::V6(first), IpAddr::V6(ip)) => {
                u128::from(first) == u128::from(ip) & mask_v6(self.prefix_len)
            }
            _ => false,
        }
    }
}

/// Returns `prefix_len` ones and then zeros. `prefix_len` is at most 32.
fn mask_v4(prefix_len: u8) -> u32 {
    !u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0)
}

/// Returns `prefix_len` ones and then zeros. `prefix_len` is at most 128.
fn mask_v6(prefix_len: u8) -> u128 {
    !u128::MAX.checked_shr(prefix_len.into()).unwrap_or(0)
}

/// The network of one address. An IPv4-mapped IPv6 address becomes an IPv4 address.
impl From<IpAddr> for IpNetwork {
    fn from(ip: IpAddr) -> Self {
        let first = ip.to_canonical();
        let prefix_len = if first.is_ipv4() { 32 } else { 128 };
        Self { first, prefix_len }
    }
}

/// Parses `address` or `address/prefix_len`. Fails with `InvalidInput` if the text has another
/// form, or if bits after the prefix are set.
impl FromStr for IpNetwork {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let invalid = || {
            invalid_input(format!(
                "`{text}` is not a network: expected an IP address, or ADDRESS/PREFIX_LEN with \
                 no bit set after the prefix"
            ))
        };
        let Some((first, prefix_len)) = text.split_once('/') else {
            return text
                .parse::<IpAddr>()
                .map(Self::from)
                .map_err(|_| invalid());
        };
        let is_plain = prefix_len.bytes().all(|byte| byte.is_ascii_digit());
        let prefix_len: u8 = prefix_len.parse().map_err(|_| invalid())?;
        let first: IpAddr = first.parse().map_err(|_| invalid())?;
        let is_valid = match first {
            IpAddr::V4(first) => {
                prefix_len <= 32 && first & Ipv4Addr::from(mask_v4(prefix_len)) == first
            }
            IpAddr::V6(first) => {
                prefix_len <= 128 && first & Ipv6Addr::from(mask_v6(prefix_len)) == first
            }
        };
        if !is_plain || !is_valid {
            return Err(invalid());
        }
        match first.to_canonical() {
            // The first 96 bits of an IPv4-mapped address are fixed (RFC 4291, 2.5.5.2).
            IpAddr::V4(v4) if first.is_ipv6() && prefix_len >= 96 => Ok(Self {
                first: v4.into(),
                prefix_len: prefix_len - 96,
            }),
            _ => Ok(Self { first, prefix_len }),
        }
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_len)
    }
}
