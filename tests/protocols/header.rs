//! Protocols with a header of fixed length that a function checks.

use unstick::{FrameError, Framing};

use crate::check::{check_error, check_frames, check_whole, refusal};

fn diameter() -> Framing {
    Framing::header_body(Framing::fixed(4), |header| {
        let len = u64::from(u32::from_be_bytes([0, header[1], header[2], header[3]]));
        match header[0] {
            1 if len >= 20 && len % 4 == 0 => Ok(len - 4),
            1 => Err(FrameError::Malformed("the message length is invalid")),
            _ => Err(FrameError::Malformed("the Diameter version is not 1")),
        }
    })
}

pub(crate) fn bgp() -> Framing {
    Framing::header_body(Framing::fixed(19), |header| {
        let len = [header[16], header[17]];
        let len_min = match header[18] {
            _ if header[..16] != [0xFF; 16] => return Err(bgp_error(1, &[])),
            1 => 29,
            2 | 5 => 23,
            3 => 21,
            4 => 19,
            unknown => return Err(bgp_error(3, &[unknown])),
        };
        let len_max = if header[18] == 4 { 19 } else { 4096 };
        match u16::from_be_bytes(len) {
            valid if (len_min..=len_max).contains(&valid) => Ok(u64::from(valid) - 19),
            _ => Err(bgp_error(2, &len)),
        }
    })
}

/// A message header error of BGP, with the NOTIFICATION that reports it to the peer.
#[derive(Debug)]
struct BgpError {
    notification: Vec<u8>,
}

fn bgp_error(subcode: u8, data: &[u8]) -> FrameError {
    let len = 21 + u8::try_from(data.len()).expect("the data has at most two bytes");
    let notification = [&[0xFF; 16], &[0, len, 3, 1, subcode][..], data].concat();
    FrameError::other(BgpError { notification })
}

impl std::error::Error for BgpError {}

impl std::fmt::Display for BgpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "message header error, subcode {}", self.notification[20])
    }
}

/// Returns the NOTIFICATION that an error of this framing contains.
pub(crate) fn bgp_notification(error: &FrameError) -> Vec<u8> {
    let FrameError::Other(error) = error else {
        return Vec::new();
    };
    let error = error.downcast_ref::<BgpError>();
    error.map_or(Vec::new(), |error| error.notification.clone())
}

fn modbus_tcp() -> Framing {
    Framing::header_body(Framing::fixed(6), |header| match *header {
        [_, _, 0, 0, 0, len @ 2..=254] => Ok(u64::from(len)),
        _ => Err(FrameError::Malformed("not a Modbus header")),
    })
}

fn iec_104() -> Framing {
    Framing::header_body(Framing::fixed(2), |header| match *header {
        [0x68, len @ 4..=253] => Ok(u64::from(len)),
        _ => Err(FrameError::Malformed("not the start of an APDU")),
    })
}

fn stun_and_turn() -> Framing {
    Framing::header_body(Framing::fixed(4), |header| {
        let len = u64::from(u16::from_be_bytes([header[2], header[3]]));
        match header[0] {
            0x00..=0x3F if len % 4 == 0 => Ok(16 + len),
            0x40..=0x4F => Ok(len.next_multiple_of(4)), // ChannelData
            _ => Err(FrameError::Malformed("neither STUN nor ChannelData")),
        }
    })
}

pub(crate) fn teltonika_login() -> Framing {
    let login = Framing::length_u16().frame_len_max(15);
    login.with_output(Framing::raw())
}

pub(crate) fn teltonika() -> Framing {
    let packets = Framing::header_body(Framing::fixed(8), |header| match *header {
        [0, 0, 0, 0, 0, 0, high, low] => Ok(u64::from(u16::from_be_bytes([high, low])) + 4),
        _ => Err(FrameError::Malformed("not the start of an AVL packet")),
    });
    packets.skip_between(b"\xFF").with_output(Framing::raw())
}

/// Returns the number of records of an AVL packet, or 0 if the packet is damaged.
pub(crate) fn avl_record_count(packet: &[u8]) -> u8 {
    let end = packet.len().saturating_sub(4);
    let data = packet.get(8..end).unwrap_or_default();
    let crc = data.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| match crc & 1 {
            1 => crc >> 1 ^ 0xA001,
            _ => crc >> 1,
        })
    });
    let is_intact = packet[end..] == u32::from(crc).to_be_bytes();
    match *data {
        [_codec, count, .., last] if is_intact && count == last => count,
        _ => 0,
    }
}

fn pkt_line() -> Framing {
    Framing::header_body(Framing::fixed(4), |digits| match hex(digits) {
        Some(0..=2) => Ok(0), // flush, delimiter, end of the response
        Some(len @ 4..=65_520) => Ok(len - 4),
        _ => Err(FrameError::Malformed("not the length of a pkt-line")),
    })
}

/// Parses digits only: `from_str_radix` also accepts a `+`.
pub(crate) fn hex(digits: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(digits).ok()?;
    let has_digits_only = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16)
        .ok()
        .filter(|_| has_digits_only)
}

#[test]
fn diameter_messages_come_back_from_every_cut() {
    // RFC 6733, sections 5.5.1, 5.5.2 and 5.4.1.
    check_whole(
        &diameter(),
        &[
            b"\x01\0\0\x14\x80\0\x01\x18\0\0\0\0\0\0\0\x01\0\0\0\x02",
            b"\x01\0\0\x20\0\0\x01\x18\0\0\0\0\0\0\0\x01\0\0\0\x02\0\0\x01\x0C\x40\0\0\x0C\0\0\x07\xD1",
            b"\x01\0\0\x20\x80\0\x01\x1A\0\0\0\0\0\0\0\x03\0\0\0\x04\0\0\x01\x11\x40\0\0\x0C\0\0\0\0",
        ],
    );
    let bad_len = "malformed frame: the message length is invalid";
    check_error(&diameter(), b"\x01\0\0\x15", &[], bad_len);
    check_error(&diameter(), b"\x01\0\0\x10", &[], bad_len);
    let bad_version = "malformed frame: the Diameter version is not 1";
    check_error(&diameter(), b"\x02\0\0\x14", &[], bad_version);
    let too_long = "frame of 16777212 bytes exceeds the limit of 1048576";
    check_error(&diameter(), b"\x01\xFF\xFF\xFC", &[], too_long);
}

/// Returns a BGP message: the 16 bytes of the marker, the rest of the header, and the body.
fn bgp_message(header: &[u8; 3], body: &[u8]) -> Vec<u8> {
    [&[0xFF; 16], &header[..], body].concat()
}

#[test]
fn bgp_messages_come_back_from_every_cut() {
    let open = bgp_message(b"\0\x1D\x01", b"\x04\xFD\xE8\0\xB4\xC0\0\x02\x01\0");
    let keepalive = bgp_message(b"\0\x13\x04", b"");
    let update = bgp_message(b"\0\x17\x02", b"\0\0\0\0");
    let cease = bgp_message(b"\0\x15\x03", b"\x06\x02");
    check_whole(&bgp(), &[&open, &keepalive, &update, &cease]);
}

/// RFC 4271, section 6.1: the NOTIFICATION of each error has a subcode. Some have data.
#[test]
fn bgp_header_error_carries_its_notification() {
    let cases: [(Vec<u8>, u8, &[u8]); 6] = [
        ([&[0xFF; 15][..], b"\0\0\x13\x04"].concat(), 1, b""),
        (bgp_message(b"\0\x12\x04", b""), 2, b"\0\x12"),
        (bgp_message(b"\0\x14\x04", b""), 2, b"\0\x14"),
        (bgp_message(b"\x10\x01\x02", b""), 2, b"\x10\x01"),
        (bgp_message(b"\0\x1C\x01", b""), 2, b"\0\x1C"),
        (bgp_message(b"\0\x13\x09", b""), 3, b"\x09"),
    ];
    for (stream, subcode, data) in cases {
        let text = format!("message header error, subcode {subcode}");
        check_error(&bgp(), &stream, &[], &text);
        let mut deframer = unstick::Deframer::new(bgp());
        deframer.extend(&stream);
        let error = deframer.next_frame().expect_err("the header is invalid");
        let FrameError::Other(error) = error.error else {
            panic!("{error:?}");
        };
        let error = error
            .downcast_ref::<BgpError>()
            .expect("the error is a BgpError");
        let frame = &error.notification;
        assert_eq!(frame[19..], [&[1, subcode], data].concat());
        // The NOTIFICATION is itself a valid message.
        check_frames(&bgp(), frame, &[frame]);
    }
}

#[test]
fn modbus_tcp_units_come_back_from_every_cut() {
    // A request for three registers, the answer, and an exception.
    check_whole(
        &modbus_tcp(),
        &[
            b"\0\x01\0\0\0\x06\x11\x03\0\x6B\0\x03",
            b"\0\x01\0\0\0\x09\x11\x03\x06\xAE\x41\x56\x52\x43\x40",
            b"\0\x02\0\0\0\x03\x11\x83\x02",
        ],
    );
    let error = "malformed frame: not a Modbus header";
    for header in [
        &b"\0\x01\0\0\0\x01"[..],
        b"\0\x01\0\0\0\xFF",
        b"\0\x01\0\x01\0\x06",
    ] {
        check_error(&modbus_tcp(), header, &[], error);
    }
}

#[test]
fn iec_104_apdus_come_back_from_every_cut() {
    // STARTDT act, TESTFR con, an acknowledgement, and a general interrogation.
    check_whole(
        &iec_104(),
        &[
            b"\x68\x04\x07\0\0\0",
            b"\x68\x04\x83\0\0\0",
            b"\x68\x04\x01\0\x02\0",
            b"\x68\x0E\0\0\0\0\x64\x01\x06\0\x01\0\0\0\0\x14",
        ],
    );
    let error = "malformed frame: not the start of an APDU";
    check_error(
        &iec_104(),
        b"\x68\x04\x07\0\0\0\x69\x04",
        &[b"\x68\x04\x07\0\0\0"],
        error,
    );
    check_error(&iec_104(), b"\x68\x03\0\0\0", &[], error);
    check_error(&iec_104(), b"\x68\xFE", &[], error);
}

#[test]
fn stun_and_channel_data_come_back_from_every_cut() {
    // RFC 8489, section 5, and RFC 8656, section 12.5: three bytes of data and one of padding.
    check_whole(
        &stun_and_turn(),
        &[
            b"\0\x01\0\0\x21\x12\xA4\x42abcdefghijkl",
            b"\x40\x01\0\x03abc\0",
            b"\x01\x01\0\x0C\x21\x12\xA4\x42abcdefghijkl\0\x20\0\x08\0\x01\xA1\x47\xE1\x12\xA6\x43",
            b"\x40\x01\0\0",
        ],
    );
    let error = "malformed frame: neither STUN nor ChannelData";
    check_error(&stun_and_turn(), b"\0\x01\0\x03", &[], error);
    check_error(&stun_and_turn(), b"\x80\x60\0\x01", &[], error);
}

#[test]
fn pkt_lines_come_back_from_every_cut() {
    // The examples of gitprotocol-common, and the three lines without data.
    check_whole(
        &pkt_line(),
        &[
            b"0006a\n",
            b"0005a",
            b"000bfoobar\n",
            b"0004",
            b"0000",
            b"0001",
            b"0002",
        ],
    );
    let error = "malformed frame: not the length of a pkt-line";
    for header in [b"0003", b"fff1", b"+00f", b"00 5", b"0x10", b"HTTP"] {
        check_error(&pkt_line(), header, &[], error);
    }
    assert_eq!(
        refusal(&pkt_line(), b"0006a"),
        "payload cannot be encoded as a frame: \
         the payload length differs from the length in its first bytes"
    );
}
