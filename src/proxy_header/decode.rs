//! Decoding of a header from the start of a byte sequence.
//!
//! ```text
//!   version 1:  PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n
//!
//!   version 2:  | signature 12 | version, command 1 | family, transport 1 | length 2 |
//!               | source, destination, ports | TLV: kind 1, length 2, value | TLV | ...
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use memchr::{memchr, memchr2};

use super::{
    FIXED_LEN, LINE_LEN_MAX, ProxyError, ProxyHeader, SIGNATURE_V1, SIGNATURE_V2, UNIX_LEN, Version,
};
use crate::addr::{Addr, canonical};

/// Decodes the header at the start of `bytes` into `header`, whose memory is reused. Returns the
/// length of the header. Returns `None` if all bytes belong to a header that is not complete.
///
/// `len_max` limits a header of version 2. Unless the header is complete, the content of `header`
/// is unspecified.
pub(super) fn decode(
    bytes: &[u8],
    len_max: usize,
    header: &mut ProxyHeader,
) -> Result<Option<usize>, ProxyError> {
    let is_start_of = |signature: &[u8]| {
        let len = bytes.len().min(signature.len());
        bytes[..len] == signature[..len]
    };
    if is_start_of(SIGNATURE_V2) {
        decode_binary(bytes, len_max, header)
    } else if is_start_of(SIGNATURE_V1) {
        decode_line(bytes, header)
    } else {
        Err(ProxyError::Missing)
    }
}

impl ProxyHeader {
    /// Returns true if the bytes begin with the complete signature of a header.
    pub(crate) fn is_signed(bytes: &[u8]) -> bool {
        bytes.starts_with(SIGNATURE_V1) || bytes.starts_with(SIGNATURE_V2)
    }

    /// Decodes a header into `self`, as [`decode`] describes.
    pub(crate) fn decode_into(
        &mut self,
        bytes: &[u8],
        len_max: usize,
    ) -> Result<Option<usize>, ProxyError> {
        decode(bytes, len_max, self)
    }
}

fn decode_line(bytes: &[u8], header: &mut ProxyHeader) -> Result<Option<usize>, ProxyError> {
    let start = &bytes[..bytes.len().min(LINE_LEN_MAX)];
    let Some(end) = memchr2(b'\r', b'\n', start) else {
        return partial_line(bytes.len());
    };
    match start[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] => return partial_line(bytes.len()),
        _ => return Err(ProxyError::Malformed("the line does not end with CR LF")),
    }
    header.version = Version::V1;
    header.is_local = false;
    header.is_datagram = false;
    header.tlvs.clear();
    let line = start.get(SIGNATURE_V1.len()..end).unwrap_or_default();
    header.addrs = addrs_of_line(line)?;
    Ok(Some(end + 2))
}

/// Returns the result for the first `len` bytes of a line whose end has not arrived.
fn partial_line(len: usize) -> Result<Option<usize>, ProxyError> {
    match len < LINE_LEN_MAX {
        true => Ok(None),
        false => Err(ProxyError::TooLong {
            len,
            limit: LINE_LEN_MAX,
        }),
    }
}

/// Returns the addresses of a line, which begins after `PROXY ` and ends before the CR.
fn addrs_of_line(line: &[u8]) -> Result<Option<(Addr, Addr)>, ProxyError> {
    const INVALID: ProxyError = ProxyError::Malformed("the addresses of the line are invalid");
    let (family, rest) = match memchr(b' ', line) {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &[][..]),
    };
    let parse: fn(&str) -> Option<IpAddr> = match family {
        // The rest of an `UNKNOWN` line is ignored, whatever it contains.
        b"UNKNOWN" => return Ok(None),
        b"TCP4" => |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        b"TCP6" => |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        _ => return Err(ProxyError::Malformed("the protocol of the line is unknown")),
    };
    let rest = std::str::from_utf8(rest).map_err(|_| INVALID)?;
    let mut words = rest.split(' ');
    let [source, destination, from, to] = [(); 4].map(|()| words.next());
    let addr = |ip: Option<&str>, port: Option<&str>| {
        let ip = ip.and_then(parse)?;
        Some(Addr::Inet(canonical(SocketAddr::new(
            ip,
            port.and_then(port_of)?,
        ))))
    };
    let addrs = addr(source, from).zip(addr(destination, to));
    addrs
        .filter(|_| words.next().is_none())
        .map_or(Err(INVALID), |addrs| Ok(Some(addrs)))
}

/// Returns the number of a port: decimal digits without a sign and without leading zeros.
fn port_of(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let has_zeros = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| is_plain && !has_zeros)
}

fn decode_binary(
    bytes: &[u8],
    len_max: usize,
    header: &mut ProxyHeader,
) -> Result<Option<usize>, ProxyError> {
    let Some(fixed) = bytes.get(SIGNATURE_V2.len()..FIXED_LEN) else {
        return Ok(None);
    };
    let (command, family) = (fixed[0], fixed[1]);
    header.version = Version::V2;
    header.is_local = match command {
        0x20 => true,
        0x21 => false,
        _ if command >> 4 != 2 => return Err(ProxyError::Malformed("the version is not 2")),
        _ => return Err(ProxyError::Malformed("the command is unknown")),
    };
    let len = FIXED_LEN + usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if len > len_max {
        let limit = len_max;
        return Err(ProxyError::TooLong { len, limit });
    }
    let Some(bytes) = bytes.get(..len) else {
        return Ok(None);
    };
    header.is_datagram = !header.is_local && family & 0xF == 2;
    header.tlvs.clear();
    header.addrs = None;
    // The family and the content of a local header are ignored.
    if !header.is_local {
        let addrs_len;
        (header.addrs, addrs_len) = addrs_of_binary(family, &bytes[FIXED_LEN..])?;
        if let Some(addrs_len) = addrs_len {
            let tlvs_at = FIXED_LEN + addrs_len;
            check_tlvs(bytes, tlvs_at)?;
            header.tlvs.extend_from_slice(&bytes[tlvs_at..]);
        }
    }
    Ok(Some(len))
}

type Addrs = (Option<(Addr, Addr)>, Option<usize>);

/// Returns the addresses at the start of `bytes`, and their length. The length is unknown if the
/// family or the transport is unspecified. The content of the header is then ignored.
fn addrs_of_binary(family: u8, bytes: &[u8]) -> Result<Addrs, ProxyError> {
    let len = match (family >> 4, family & 0xF) {
        (0..=3, 0) | (0, 1 | 2) => return Ok((None, None)),
        (1, 1 | 2) => 12,
        (2, 1 | 2) => 36,
        (3, 1 | 2) => 2 * UNIX_LEN,
        _ => {
            return Err(ProxyError::Malformed(
                "the family or the transport is unknown",
            ));
        }
    };
    let Some(bytes) = bytes.get(..len) else {
        return Err(ProxyError::Malformed(
            "the header is shorter than its addresses",
        ));
    };
    let addrs = match *bytes {
        [a, b, c, d, e, f, g, h, ref ports @ ..] if len == 12 => {
            let ips = [[a, b, c, d], [e, f, g, h]].map(IpAddr::from);
            Some(inet(ips, ports))
        }
        _ if len == 36 => {
            let ip = |at: usize| {
                let octets: [u8; 16] = bytes[at..at + 16].try_into().unwrap_or_default();
                IpAddr::from(octets)
            };
            Some(inet([ip(0), ip(16)], &bytes[32..]))
        }
        _ => unix(bytes)?,
    };
    Ok((addrs, Some(len)))
}

/// Returns two IP addresses with their ports. `ports` has four bytes.
fn inet([source, destination]: [IpAddr; 2], ports: &[u8]) -> (Addr, Addr) {
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    let addr = |ip, port| Addr::Inet(canonical(SocketAddr::new(ip, port)));
    (addr(source, port(0)), addr(destination, port(2)))
}

/// Returns two Unix addresses.
#[cfg(unix)]
fn unix(bytes: &[u8]) -> Result<Option<(Addr, Addr)>, ProxyError> {
    let (source, destination) = bytes.split_at(UNIX_LEN);
    Ok(unix_addr(source).zip(unix_addr(destination)))
}

/// Returns a Unix address; `None` if this system has no such address. A path ends at the first
/// zero. The header does not contain the length of an abstract name, so zeros at the end of the
/// name are removed.
#[cfg(unix)]
fn unix_addr(bytes: &[u8]) -> Option<Addr> {
    use crate::addr::UnixAddr;
    use std::os::unix::ffi::OsStrExt;

    let addr = match bytes {
        [0, name @ ..] => match name.iter().rposition(|byte| *byte != 0) {
            None => UnixAddr::default(),
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Some(last) => UnixAddr::from_abstract_name(&name[..=last]).ok()?,
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            Some(_) => return None,
        },
        _ => {
            let path = &bytes[..memchr(0, bytes).unwrap_or(bytes.len())];
            UnixAddr::from_pathname(std::ffi::OsStr::from_bytes(path)).ok()?
        }
    };
    Some(addr.into())
}

#[cfg(not(unix))]
fn unix(_: &[u8]) -> Result<Option<(Addr, Addr)>, ProxyError> {
    Ok(None)
}

/// The kind and the value of a TLV.
type Tlv<'a> = (u8, &'a [u8]);

/// Splits the first TLV off. Returns its kind and value, and the bytes after it; `None` if there
/// is no complete TLV.
pub(super) fn split_tlv(bytes: &[u8]) -> Option<(Tlv<'_>, &[u8])> {
    let (&[kind, high, low], rest) = bytes.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    Some(((kind, value), rest))
}

/// Checks the TLVs of a header, which begin at `tlvs_at`, and the checksum if there is one.
fn check_tlvs(header: &[u8], tlvs_at: usize) -> Result<(), ProxyError> {
    let mut rest = &header[tlvs_at..];
    let mut checksum_at = None;
    while !rest.is_empty() {
        let Some(((kind, value), after)) = split_tlv(rest) else {
            return Err(ProxyError::Malformed("a TLV is longer than the header"));
        };
        if kind == ProxyHeader::CHECKSUM {
            let at = header.len() - after.len() - value.len();
            if value.len() != 4 || checksum_at.replace(at).is_some() {
                return Err(ProxyError::Malformed(
                    "the checksum is not one TLV of 4 bytes",
                ));
            }
        }
        rest = after;
    }
    let Some(at) = checksum_at else {
        return Ok(());
    };
    let (before, sum) = header.split_at(at);
    let (sum, after) = sum.split_at(4);
    // The sum covers the whole header, with four zeros in place of the checksum.
    let computed = [before, &[0; 4], after].into_iter().fold(!0, crc32c);
    match (!computed).to_be_bytes() == *sum {
        true => Ok(()),
        false => Err(ProxyError::Checksum),
    }
}

/// Continues a CRC32c with more bytes (RFC 9260, appendix A). The first call must get a `crc` with
/// all bits set. The checksum is the inverted result of the last call.
pub(super) fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        TABLE[((crc ^ u32::from(*byte)) & 0xFF) as usize] ^ (crc >> 8)
    })
}

/// The CRC32c of each byte value. The polynomial is 0x1EDC6F41, with its bits reversed.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index: u32 = 0;
    while index < 256 {
        let mut crc = index;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 * (crc & 1));
            bit += 1;
        }
        table[index as usize] = crc;
        index += 1;
    }
    table
};
