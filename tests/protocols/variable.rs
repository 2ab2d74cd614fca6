//! Protocols whose header varies in length.

use unstick::{FrameError, FrameLen, Framing};

use crate::check::{check, check_changes, check_error, check_frames, check_whole, refusal};
use crate::text::decimal;

pub(crate) fn websocket() -> Framing {
    Framing::length_fn(|bytes| {
        let &[first, second, ref rest @ ..] = bytes else {
            return Ok(FrameLen::Need(2));
        };
        let (has_mask, short) = (second & 0x80 != 0, u64::from(second & 0x7F));
        if first & 0x08 != 0 && (first & 0x80 == 0 || short > 125) {
            return Err(FrameError::Malformed(
                "a control frame is long or fragmented",
            ));
        }
        let (width, len_min) = match short {
            126 => (2, 126),
            127 => (8, 1 << 16),
            _ => (0, 0),
        };
        let Some(field) = rest.get(..width) else {
            return Ok(FrameLen::Need(2 + width));
        };
        let long = field
            .iter()
            .fold(0, |len, byte| len << 8 | u64::from(*byte));
        let len = if width == 0 { short } else { long };
        if len < len_min {
            return Err(FrameError::Malformed(
                "the length is not in its shortest form",
            ));
        }
        if len > i64::MAX as u64 {
            return Err(FrameError::Malformed("the length has more than 63 bits"));
        }
        let header_len = if has_mask { 2 + width + 4 } else { 2 + width };
        Ok(FrameLen::Total(header_len as u64 + len))
    })
}

/// Returns the close frame of a server that reports an error of this framing.
pub(crate) fn websocket_error(error: &FrameError) -> Vec<u8> {
    match error {
        FrameError::TooLong { .. } => b"\x88\x02\x03\xF1".to_vec(), // 1009
        _ => b"\x88\x02\x03\xEA".to_vec(),                          // 1002
    }
}

fn mqtt() -> Framing {
    Framing::length_fn(|bytes| {
        let mut len = 0;
        for width in 1..=4 {
            let Some(&byte) = bytes.get(width) else {
                return Ok(FrameLen::Need(1 + width));
            };
            len |= u64::from(byte & 0x7F) << (7 * (width - 1));
            if byte & 0x80 == 0 {
                return Ok(FrameLen::Total(1 + width as u64 + len));
            }
        }
        Err(FrameError::Malformed("the length has more than four bytes"))
    })
}

fn ldap() -> Framing {
    Framing::length_fn(|bytes| match *bytes {
        [] | [0x30] => Ok(FrameLen::Need(2)),
        [0x30, len @ 0..=0x7F, ..] => Ok(FrameLen::Total(2 + u64::from(len))),
        [0x30, long @ 0x81..=0x84, ref rest @ ..] => {
            let width = usize::from(long & 0x0F);
            let Some(field) = rest.get(..width) else {
                return Ok(FrameLen::Need(2 + width));
            };
            let len = field
                .iter()
                .fold(0, |len, byte| len << 8 | u64::from(*byte));
            Ok(FrameLen::Total(2 + width as u64 + len))
        }
        _ => Err(FrameError::Malformed("not a SEQUENCE of a definite length")),
    })
}

fn minecraft_first_packet() -> Framing {
    Framing::length_fn(|bytes| {
        if bytes.first() == Some(&0xFE) {
            return Ok(FrameLen::Total(1)); // ping of a client before version 1.7
        }
        let mut len = 0;
        for index in 0..3 {
            let Some(&byte) = bytes.get(index) else {
                return Ok(FrameLen::Need(index + 1));
            };
            len |= u64::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(FrameLen::Total(1 + index as u64 + len));
            }
        }
        Err(FrameError::Malformed(
            "the length has more than three bytes",
        ))
    })
    .frame_len_max(16 * 1024)
}

fn minecraft() -> Framing {
    Framing::varint_lax().frame_len_max((1 << 21) - 1)
}

fn fix() -> Framing {
    Framing::length_fn(|bytes| {
        let head = bytes.get(..32).unwrap_or(bytes);
        let is_fix = head
            .iter()
            .zip(b"8=FIX")
            .all(|(found, expected)| found == expected);
        let mut fields = head.split_inclusive(|&byte| byte == 1);
        let (begin, length) = (fields.next(), fields.next());
        match length.and_then(|field| field.strip_suffix(b"\x01")) {
            Some(field) if is_fix => {
                let len = field.strip_prefix(b"9=").and_then(decimal);
                let len = len.filter(|len| *len < 1 << 32);
                let len = len.ok_or(FrameError::Malformed("no valid BodyLength"))?;
                let head_len = begin.map_or(0, <[u8]>::len) + field.len() + 1;
                Ok(FrameLen::Total(head_len as u64 + len + 7))
            }
            None if is_fix && head.len() < 32 => Ok(FrameLen::Need(bytes.len() + 1)),
            _ => Err(FrameError::Malformed("not the start of a FIX message")),
        }
    })
}

/// Returns true if the message ends with its checksum: the sum of the bytes before `10=`.
fn fix_is_intact(message: &[u8]) -> bool {
    let (summed, trailer) = message.split_at(message.len().saturating_sub(7));
    let sum = summed
        .iter()
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    trailer == format!("10={sum:03}\x01").as_bytes()
}

#[test]
fn websocket_frames_come_back_from_every_cut() {
    // The examples of RFC 6455, section 5.7, a close frame, and lengths of two and eight bytes.
    check_whole(
        &websocket(),
        &[
            b"\x81\x05Hello",
            b"\x81\x85\x37\xFA\x21\x3D\x7F\x9F\x4D\x51\x58",
            b"\x01\x03Hel",
            b"\x80\x02lo",
            b"\x89\x05Hello",
            b"\x8A\x85\x37\xFA\x21\x3D\x7F\x9F\x4D\x51\x58",
            b"\x88\x02\x03\xE8",
        ],
    );
    let medium = [&b"\x82\x7E\x01\0"[..], &[7; 256]].concat();
    let long = [&b"\x82\x7F\0\0\0\0\0\x01\0\0"[..], &[7; 65_536]].concat();
    check_whole(&websocket(), &[&medium, &long, b"\x81\0"]);
}

#[test]
fn websocket_frame_with_an_invalid_length_is_malformed() {
    let control = "malformed frame: a control frame is long or fragmented";
    check_error(&websocket(), b"\x81\0\x89\x7E\0\x7E", &[b"\x81\0"], control);
    check_error(&websocket(), b"\x09\0", &[], control);
    let longer = "malformed frame: the length is not in its shortest form";
    check_error(&websocket(), b"\x82\x7E\0\x7D", &[], longer);
    check_error(&websocket(), b"\x82\x7F\0\0\0\0\0\0\xFF\xFF", &[], longer);
    check_error(
        &websocket(),
        b"\x82\x7F\x80\0\0\0\0\0\0\0",
        &[],
        "malformed frame: the length has more than 63 bits",
    );
    check_error(
        &websocket(),
        b"\x82\x7F\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
        &[],
        "frame of 9223372036854775817 bytes exceeds the limit of 1048576",
    );
}

/// RFC 3430, section 2: the SNMP message itself is the frame.
#[test]
fn snmp_messages_over_tcp_come_back_from_every_cut() {
    // GetRequest and GetResponse for sysName.0 (RFC 1157, section 4.1), and a GetRequest whose
    // length has three bytes.
    let get = b"\x26\x02\x01\0\x04\x06public\xA0\x19\x02\x01\x01\x02\x01\0\x02\x01\0\
        \x30\x0E\x30\x0C\x06\x08\x2B\x06\x01\x02\x01\x01\x05\0\x05\0";
    let response = b"\x30\x2A\x02\x01\0\x04\x06public\xA2\x1D\x02\x01\x01\x02\x01\0\x02\x01\0\
        \x30\x12\x30\x10\x06\x08\x2B\x06\x01\x02\x01\x01\x05\0\x04\x04host";
    let short = [b"\x30", &get[..]].concat();
    let long = [b"\x30\x82\0", &get[..]].concat();
    check_whole(&ldap(), &[&short, response, &long]);
    let error = "malformed frame: not a SEQUENCE of a definite length";
    check_error(&ldap(), &[&short[..], get].concat(), &[&short], error);
}

#[test]
fn mqtt_packets_come_back_from_every_cut() {
    // MQTT 3.1.1, sections 3.1, 3.2, 3.3 and 3.12.
    check_whole(
        &mqtt(),
        &[
            b"\x10\x0D\0\x04MQTT\x04\x02\0\x3C\0\x01a",
            b"\x20\x02\0\0",
            b"\x30\x08\0\x03a/bhey",
            b"\xC0\0",
        ],
    );
    let publish = [&b"\x30\x80\x01\0\x01t"[..], &[b'.'; 125]].concat();
    check_whole(&mqtt(), &[&publish, b"\xD0\0", b"\xE0\0"]);
    check_error(
        &mqtt(),
        b"\xC0\0\x30\xFF\xFF\xFF\xFF\x7F",
        &[b"\xC0\0"],
        "malformed frame: the length has more than four bytes",
    );
    check_error(
        &mqtt(),
        b"\x30\xFF\xFF\xFF\x7F",
        &[],
        "frame of 268435460 bytes exceeds the limit of 1048576",
    );
}

#[test]
fn ldap_messages_come_back_from_every_cut() {
    // RFC 4511, sections 4.2 and 4.3. Active Directory writes each length in five bytes.
    check_whole(
        &ldap(),
        &[
            b"\x30\x0C\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0",
            b"\x30\x0C\x02\x01\x01\x61\x07\x0A\x01\0\x04\0\x04\0",
            b"\x30\x84\0\0\0\x10\x02\x01\x01\x61\x84\0\0\0\x07\x0A\x01\0\x04\0\x04\0",
            b"\x30\x81\x05\x02\x01\x02\x42\0",
            b"\x30\x05\x02\x01\x02\x42\0",
        ],
    );
    let error = "malformed frame: not a SEQUENCE of a definite length";
    check_error(&ldap(), b"\x30\x80\x02\x01\x01\0\0", &[], error);
    check_error(&ldap(), b"\x30\x85\0\0\0\0\x01x", &[], error);
    check_error(&ldap(), b"\x16\x03\x01\x02\0", &[], error);
    check_error(
        &ldap(),
        b"\x30\x84\xFF\xFF\xFF\xFF",
        &[],
        "frame of 4294967301 bytes exceeds the limit of 1048576",
    );
}

#[test]
fn minecraft_packets_come_back_from_every_cut() {
    check_whole(
        &minecraft_first_packet(),
        &[
            b"\x10\0\xF6\x05\x09localhost\x63\xDD\x01",
            b"\xFE",
            b"\x01\0",
        ],
    );
    let long = [&b"\x80\x01"[..], &[7; 128]].concat();
    check_frames(&minecraft_first_packet(), &long, &[&long]);
    // Some clients write a short length in three bytes.
    let padded = b"\x85\x80\0hello";
    check_frames(&minecraft_first_packet(), padded, &[padded]);
    check_frames(&minecraft(), b"\x85\x80\0hello\x01\0", &[b"hello", b"\0"]);
    // Status request, ping, and login start without a UUID.
    check(
        &minecraft(),
        &[
            (b"\0", b"\x01\0"),
            (b"\x01\0\0\0\0\0\0\0\x07", b"\x09\x01\0\0\0\0\0\0\0\x07"),
            (b"\0\x05Alice", b"\x07\0\x05Alice"),
        ],
    );
    check_error(
        &minecraft_first_packet(),
        b"\xFF\xFF\x7F",
        &[],
        "frame of 2097154 bytes exceeds the limit of 16384",
    );
    check_error(
        &minecraft_first_packet(),
        b"\x80\x80\x80\0",
        &[],
        "malformed frame: the length has more than three bytes",
    );
    check_error(
        &minecraft(),
        b"\x01\0\x80\x80\x80\x01",
        &[b"\0"],
        "frame of 2097152 bytes exceeds the limit of 2097151",
    );
}

/// Only the first packet can be the ping `FE 01` of an old client. A varint would read this ping as
/// a length of 254.
#[test]
fn minecraft_framing_changes_after_the_first_packet() {
    let handshake = b"\x08\0\xF6\x05\x01x\x63\xDD\x01";
    check_changes(
        &minecraft_first_packet(),
        &[&handshake[..], b"\x01\0"].concat(),
        &[handshake, b"\0"],
        |frame| (frame == handshake).then(minecraft),
    );
}

#[test]
fn fix_messages_come_back_from_every_cut() {
    let messages: [&[u8]; 4] = [
        b"8=FIX.4.2\x019=53\x0135=A\x0134=1\x0149=A\x0152=20240102-03:04:05\x0156=B\x01\
            98=0\x01108=30\x0110=168\x01",
        b"8=FIX.4.2\x019=41\x0135=0\x0134=2\x0149=B\x0152=20240102-03:04:05\x0156=A\x0110=124\x01",
        b"8=FIX.4.2\x019=41\x0135=5\x0134=3\x0149=A\x0152=20240102-03:04:06\x0156=B\x0110=131\x01",
        b"8=FIXT.1.1\x019=47\x0135=1\x0134=9\x0149=A\x0152=20240102-03:04:05\x0156=B\x01\
            112=x\x0110=036\x01",
    ];
    check_whole(&fix(), &messages);
    assert!(messages.into_iter().all(fix_is_intact));
    // A garbled message is delivered; the program ignores it.
    let garbled = [&messages[1][..20], b"x", &messages[1][21..]].concat();
    check_frames(
        &fix(),
        &[&garbled, messages[2]].concat(),
        &[&garbled, messages[2]],
    );
    assert!(!fix_is_intact(&garbled));
    assert!(!fix_is_intact(b"10="));
}

#[test]
fn fix_message_with_an_invalid_length_is_malformed() {
    let no_len = "malformed frame: no valid BodyLength";
    check_error(&fix(), b"8=FIX.4.2\x019=+5\x01", &[], no_len);
    check_error(&fix(), b"8=FIX.4.2\x0135=A\x01", &[], no_len);
    check_error(&fix(), b"8=FIX.4.2\x019=99999999999\x01", &[], no_len);
    let no_start = "malformed frame: not the start of a FIX message";
    check_error(&fix(), b"8=FIY", &[], no_start);
    check_error(
        &fix(),
        b"8=FIX.4.2\x019=00000000000000000000000",
        &[],
        no_start,
    );
    check_error(
        &fix(),
        b"8=FIX.4.2\x019=999999999\x01",
        &[],
        "frame of 1000000028 bytes exceeds the limit of 1048576",
    );
    assert_eq!(
        refusal(&fix(), b"8=FIX.4.2\x019=5\x0135=0\x0110=000\x01!"),
        "payload cannot be encoded as a frame: \
         the payload length differs from the length in its first bytes"
    );
}
