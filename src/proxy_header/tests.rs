//! Tests of headers: round trips, every cut, and headers that violate the specification.

use std::net::{IpAddr, SocketAddr};

use super::*;

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n";

fn inet(text: &str) -> Addr {
    text.parse().expect("the text is an address")
}

/// Returns a header of version 2. `len` is the length that it claims.
fn binary(command: u8, family: u8, len: usize, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(len).expect("the length has 16 bits");
    let [high, low] = len.to_be_bytes();
    [SIGNATURE_V2, &[command, family, high, low], rest].concat()
}

/// Returns a header for TCP over IPv4 with these TLVs.
fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    let rest = [&[192, 0, 2, 7, 198, 51, 100, 1, 156, 64, 1, 187], tlvs].concat();
    binary(0x21, 0x11, rest.len(), &rest)
}

fn decoded(bytes: &[u8]) -> ProxyHeader {
    let decoded = ProxyHeader::decode(bytes).expect("the header is valid");
    let (header, len) = decoded.expect("the header is complete");
    assert_eq!(len, bytes.len());
    header
}

/// Checks that each proper prefix is incomplete, and that bytes after the header are not consumed.
fn check_cuts(bytes: &[u8]) {
    for cut in 0..bytes.len() {
        let partial = ProxyHeader::decode(&bytes[..cut]);
        assert_eq!(partial, Ok(None), "the first {cut} bytes of {bytes:?}");
    }
    let whole = ProxyHeader::decode(bytes);
    let more = ProxyHeader::decode(&[bytes, b"PROXY more"].concat());
    assert_eq!(whole, more);
    assert_eq!(more.map(|it| it.map(|it| it.1)), Ok(Some(bytes.len())));
}

fn malformed(bytes: &[u8]) -> bool {
    matches!(ProxyHeader::decode(bytes), Err(ProxyError::Malformed(_)))
}

#[test]
fn proxy_header_round_trips_and_is_partial_at_every_cut() {
    let v4 = [inet("192.0.2.7:40000"), inet("198.51.100.1:443")];
    let v6 = [inet("[2001:db8::7]:0"), inet("[::1]:65535")];
    let mut pairs = vec![v4.clone(), v6.clone(), [v4[0].clone(), v6[1].clone()]];
    #[cfg(unix)]
    {
        pairs.push([inet("unix:/run/client.sock"), inet("unix:")]);
        pairs.push([inet(&format!("unix:/{}", "p".repeat(102))), inet("unix:")]);
    }
    #[cfg(target_os = "linux")]
    pairs.push([inet("unix:@client"), inet("unix:@server")]);
    for [source, destination] in pairs {
        let header = ProxyHeader::new(source, destination).expect("the kinds agree");
        let with_tlvs = header.clone().tlv(ProxyHeader::ALPN, b"h2").expect("space");
        let with_tlvs = with_tlvs.tlv(0xE0, b"").expect("space");
        for header in [header.clone(), header.clone().datagram(), with_tlvs] {
            let bytes = header.encode();
            assert_eq!(decoded(&bytes), header);
            check_cuts(&bytes);
        }
        let line = header.version_1();
        let bytes = line.encode();
        let back = decoded(&bytes);
        check_cuts(&bytes);
        let is_inet = line.source().is_some_and(|it| it.inet().is_some());
        let expected = is_inet.then(|| line.source()).flatten();
        assert_eq!(back.source(), expected, "{bytes:?}");
    }
    let local = ProxyHeader::local();
    assert!(decoded(&local.encode()).is_local());
    check_cuts(&local.encode());
    check_cuts(LINE);
}

#[test]
fn proxy_line_of_107_bytes_is_valid_and_of_108_too_long() {
    let ip = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let line = format!("PROXY UNKNOWN {ip} {ip} 65535 65535\r\n");
    assert_eq!(line.len(), 107);
    check_cuts(line.as_bytes());
    assert_eq!(decoded(line.as_bytes()).source(), None);

    let longer = line.replace("UNKNOWN ", "UNKNOWN  ");
    assert_eq!(longer.len(), 108);
    for len in [107, 108] {
        let too_long = ProxyError::TooLong { len, limit: 107 };
        assert_eq!(
            ProxyHeader::decode(&longer.as_bytes()[..len]),
            Err(too_long)
        );
    }
    assert_eq!(ProxyHeader::decode(&longer.as_bytes()[..106]), Ok(None));
}

#[test]
fn proxy_lines_that_differ_from_the_format_are_malformed() {
    let line = std::str::from_utf8(LINE).expect("the line is text");
    for (part, other) in [
        ("TCP4", "TCP5"),
        ("TCP4", "tcp4"),
        ("TCP4 ", "TCP4"),
        ("TCP4", "TCP6"),
        ("TCP4", "UNKNOWNS"),
        ("192.0.2.7", "192.0.2.256"),
        ("192.0.2.7", "192.0.2.07"),
        ("192.0.2.7", "192.0.2"),
        ("192.0.2.7", "2001:db8::7"),
        ("192.0.2.7", "localhost"),
        ("192.0.2.7 ", "192.0.2.7  "),
        ("40000", "040000"),
        ("40000", "00"),
        ("40000", "+80"),
        ("40000", "-1"),
        ("40000", "65536"),
        ("40000", ""),
        (" 443", " 443 "),
        (" 443", " 443 1"),
        (" 443", ""),
        ("\r\n", "\n"),
        ("\r\n", "\r\r\n"),
        ("443", "44\r3"),
        ("443", "44\n3"),
    ] {
        let spoiled = line.replacen(part, other, 1);
        assert_ne!(spoiled, line);
        assert!(malformed(spoiled.as_bytes()), "{spoiled:?}");
    }
    assert!(malformed(b"PROXY \r\n"));
    assert!(malformed(b"PROXY TCP4 \xFF 192.0.2.7 1 1\r\n"));
    let v6 = |text: &str| decoded(text.as_bytes()).source().map(ToString::to_string);
    assert_eq!(
        v6("PROXY TCP6 2001:DB8::7 ::1 1 2\r\n").as_deref(),
        Some("[2001:db8::7]:1")
    );
    assert_eq!(
        v6("PROXY TCP6 ::ffff:192.0.2.7 ::ffff:192.0.2.8 1 0\r\n").as_deref(),
        Some("192.0.2.7:1"),
        "a mapped address is in IPv4 form"
    );
}

#[test]
fn proxy_headers_with_lengths_that_lie_are_malformed() {
    let addrs = [0; 216];
    for (family, needed) in [(0x11, 12), (0x12, 12), (0x21, 36), (0x22, 36), (0x31, 216)] {
        for len in 0..needed {
            let bytes = binary(0x21, family, len, &addrs[..len]);
            assert!(malformed(&bytes), "family {family:#x} with {len} bytes");
        }
        assert!(
            decoded(&binary(0x21, family, needed, &addrs[..needed]))
                .source()
                .is_some()
        );
    }
    for tlvs in [
        &[1][..],
        &[1, 0],
        &[1, 0, 1],
        &[1, 0, 0, 2],
        &[1, 0xFF, 0xFF, 0],
    ] {
        assert!(malformed(&with_tlvs(tlvs)), "{tlvs:?}");
    }
    let claims_more = binary(0x21, 0x11, 65_535, &addrs);
    assert_eq!(ProxyHeader::decode(&claims_more), Ok(None));
    let mut header = ProxyHeader::local();
    let too_long = ProxyError::TooLong {
        len: 65_551,
        limit: 4096,
    };
    assert_eq!(header.decode_into(&claims_more[..16], 4096), Err(too_long));
    assert_eq!(header.decode_into(&with_tlvs(&[]), 28), Ok(Some(28)));
    assert!(header.decode_into(&with_tlvs(&[]), 27).is_err());
}

#[test]
fn proxy_header_with_unknown_version_or_command_is_malformed() {
    for command in 0..=u8::MAX {
        let bytes = binary(command, 0, 0, &[]);
        assert_eq!(
            malformed(&bytes),
            !matches!(command, 0x20 | 0x21),
            "{command:#x}"
        );
    }
    let families =
        (0..=u8::MAX).filter(|family| !malformed(&binary(0x21, *family, 216, &[0; 216])));
    let valid = [
        0, 1, 2, 0x10, 0x11, 0x12, 0x20, 0x21, 0x22, 0x30, 0x31, 0x32,
    ];
    assert_eq!(families.collect::<Vec<_>>(), valid);
}

/// The specification: "discard the protocol block including the family which is ignored".
#[test]
fn local_proxy_header_ignores_its_family_and_content() {
    for (family, rest) in [
        (0, &[][..]),
        (0x11, &[]),
        (0x21, &[1, 2, 3]),
        (0xFF, &[0xFF; 300]),
    ] {
        let header = decoded(&binary(0x20, family, rest.len(), rest));
        assert!(header.is_local());
        assert_eq!((header.source(), header.tlvs().count()), (None, 0));
    }
    let unspecified = decoded(&binary(0x21, 0, 3, &[1, 2, 3]));
    assert!(!unspecified.is_local());
    assert_eq!(unspecified.source(), None);
}

#[test]
fn other_first_bytes_are_no_proxy_header() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"P ",
        b"PROXX",
        b"PROXY\r\n",
        b"\r\n\r\r",
        b"\0",
    ] {
        assert_eq!(
            ProxyHeader::decode(bytes),
            Err(ProxyError::Missing),
            "{bytes:?}"
        );
    }
    assert_eq!(ProxyHeader::decode(b""), Ok(None));
}

/// The check value of the CRC is from RFC 3720, appendix B.4: 32 zeros.
#[test]
fn proxy_checksum_is_verified() {
    assert_eq!(!decode::crc32c(!0, &[0; 32]), 0x8A91_36AA);
    let mut bytes = with_tlvs(&[3, 0, 4, 0, 0, 0, 0, 0xE0, 0, 1, 7]);
    let sum = !decode::crc32c(!0, &bytes);
    bytes[31..35].copy_from_slice(&sum.to_be_bytes());
    let header = decoded(&bytes);
    assert_eq!(header.tlv_value(0xE0), Some(&[7][..]));
    // Byte 28 is the kind: with another kind, the TLV is no checksum.
    for index in (16..bytes.len()).filter(|index| *index != 28) {
        let mut spoiled = bytes.clone();
        spoiled[index] ^= 1;
        assert!(ProxyHeader::decode(&spoiled).is_err(), "byte {index}");
    }
    assert!(malformed(&with_tlvs(&[3, 0, 3, 0, 0, 0])));
    let sum_of_two = [3, 0, 4, 0, 0, 0, 0].repeat(2);
    assert!(malformed(&with_tlvs(&sum_of_two)));
}

#[test]
fn decoding_into_a_used_proxy_header_replaces_it() {
    let mut header = ProxyHeader::local();
    for bytes in [
        with_tlvs(&[1, 0, 0]),
        LINE.to_vec(),
        binary(0x20, 0, 0, &[]),
    ] {
        header
            .decode_into(&bytes, 4096)
            .expect("the header is valid");
        assert_eq!(header, decoded(&bytes));
    }
}

#[test]
fn proxy_header_rejects_mixed_addresses_and_long_tlvs() {
    let v4 = SocketAddr::from(([192, 0, 2, 7], 1));
    let header = ProxyHeader::new(v4, v4).expect("both are IP addresses");
    #[cfg(unix)]
    assert!(ProxyHeader::new(v4, inet("unix:/run/a")).is_err());
    let longest = vec![0; TLVS_LEN_MAX - 3];
    let full = header.clone().tlv(0xE0, &longest).expect("the TLV fits");
    assert_eq!(decoded(&full.encode()), full);
    assert!(full.tlv(0xE0, b"").is_err());
    assert!(
        header
            .clone()
            .tlv(0xE0, &vec![0; TLVS_LEN_MAX - 2])
            .is_err()
    );
    assert!(header.tlv(ProxyHeader::CHECKSUM, &[0; 4]).is_err());
}

#[test]
fn ip_network_contains_the_addresses_of_its_prefix() {
    let ip = |text: &str| text.parse::<IpAddr>().expect("the text is an address");
    for (network, inside, outside) in [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
        ("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"),
        ("::ffff:10.0.0.0/104", "10.1.1.1", "11.0.0.0"),
        ("0.0.0.0/0", "255.255.255.255", "::1"),
        ("::/0", "ffff::", "10.0.0.1"),
        ("fd00::/8", "fdff::1", "fe00::"),
        ("192.0.2.128/25", "192.0.2.255", "192.0.2.127"),
    ] {
        let network: IpNetwork = network.parse().expect("the text is a network");
        assert!(network.contains(ip(inside)), "{network}");
        assert!(!network.contains(ip(outside)), "{network}");
        assert_eq!(network.to_string().parse::<IpNetwork>().ok(), Some(network));
    }
    for text in [
        "",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "a/8",
    ] {
        assert!(text.parse::<IpNetwork>().is_err(), "{text}");
    }
}
