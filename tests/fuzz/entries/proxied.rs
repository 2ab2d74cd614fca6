//! Fuzz entry for headers of the PROXY protocol, together with the framing behind them.

use std::mem::discriminant;
use std::net::SocketAddr;

use unstick::{ProxyError, ProxyHeader};

use super::compare_cuts;
use super::input::Input;

/// Kind of the TLV that contains the checksum of its header. If the addresses of the header change,
/// the checksum changes, too.
const CHECKSUM: u8 = 3;

type Decoded = Result<Option<(ProxyHeader, usize)>, ProxyError>;

/// Decodes a header at the start of a stream. Finds the shortest prefix whose result is a header or
/// an error. Prefixes that are 1 and 16 bytes longer, and the whole stream, must give the same
/// result. A framing decodes the bytes after the header, and must find the same frames as the
/// reference decoder.
pub fn proxied(data: &[u8]) {
    let mut input = Input(data);
    let limit = input.limit();
    let format = input.format();
    let lens = input.piece_lens();
    let start = start(&mut input);
    let stream = [start, input.stream(&format)].concat();
    let whole = ProxyHeader::decode(&stream);
    let decisive = (0..=stream.len())
        .find(|len| !matches!(ProxyHeader::decode(&stream[..*len]), Ok(None)))
        .unwrap_or(stream.len());
    for len in [decisive, decisive + 1, decisive + 16, stream.len()] {
        let prefix = &stream[..len.min(stream.len())];
        assert!(is_same(&ProxyHeader::decode(prefix), &whole), "{len} bytes");
    }
    if let Ok(Some((header, len))) = whole {
        assert_eq!(decisive, len, "a header is complete at its last byte");
        check_encoding(&header);
        compare_cuts(&format, limit, &stream[len..], &lens);
    }
}

/// Returns the first bytes of the stream: none, the start of a header, or a whole header.
fn start(input: &mut Input<'_>) -> Vec<u8> {
    let addr = |number: u8| SocketAddr::from(([192, 0, 2, number], u16::from(number)));
    match input.below(6) {
        0 => Vec::new(),
        1 => b"PROXY TCP4 ".to_vec(),
        2 => b"PROXY UNKNOWN".to_vec(),
        3 => b"\r\n\r\n\0\r\nQUIT\n".to_vec(),
        4 => b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0".to_vec(),
        _ => {
            let header = ProxyHeader::new(addr(input.byte()), addr(7)).expect("two IP addresses");
            let kind = input.byte() | 0xE0;
            let value = input.bytes(usize::from(kind) % 7);
            header.tlv(kind, value).expect("the TLV is short").encode()
        }
    }
}

/// Returns true if two results are equal. Two errors of one kind count as equal, even if they
/// report different numbers of bytes.
fn is_same(one: &Decoded, other: &Decoded) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one == other,
        (Err(one), Err(other)) => discriminant(one) == discriminant(other),
        _ => false,
    }
}

/// Checks that an encoded header is decoded to the same header. Applies only to headers with
/// addresses and without a checksum.
fn check_encoding(header: &ProxyHeader) {
    if header.source().is_some() && header.tlv_value(CHECKSUM).is_none() {
        let bytes = header.encode();
        let decoded = ProxyHeader::decode(&bytes);
        assert_eq!(decoded, Ok(Some((header.clone(), bytes.len()))));
    }
}
