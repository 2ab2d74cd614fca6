//! Protocols whose frames end with a delimiter. SLIP and COBS encode a payload so that the encoded
//! bytes do not contain the delimiter.

use unstick::Framing;

use crate::check::{check, check_error, check_frames, refusal};

fn mllp() -> Framing {
    Framing::delimiter(b"\x1C\r")
}

/// Returns the message of a frame, or `None` if the frame does not begin with `0B`.
fn mllp_message(frame: &[u8]) -> Option<&[u8]> {
    frame.strip_prefix(b"\x0B")
}

fn slip() -> Framing {
    Framing::delimiter(b"\xC0").frame_len_max(2 * 1006)
}

fn slip_encoded(packet: &[u8]) -> Vec<u8> {
    let escape = |&byte: &u8| match byte {
        0xC0 => vec![0xDB, 0xDC],
        0xDB => vec![0xDB, 0xDD],
        other => vec![other],
    };
    packet.iter().flat_map(escape).collect()
}

fn slip_decoded(frame: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = frame.iter();
    let mut packet = Vec::new();
    while let Some(&byte) = bytes.next() {
        packet.push(match (byte, bytes.as_slice().first()) {
            (0xDB, Some(0xDC)) => 0xC0,
            (0xDB, Some(0xDD)) => 0xDB,
            (0xDB, _) => return None,
            (other, _) => other,
        });
        if byte == 0xDB {
            bytes.next();
        }
    }
    Some(packet)
}

fn cobs() -> Framing {
    Framing::delimiter(b"\0")
}

fn cobs_encoded(packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    for mut run in packet.split(|&byte| byte == 0) {
        while let Some((full, rest)) = run.split_at_checked(254) {
            frame.push(0xFF);
            frame.extend_from_slice(full);
            run = rest;
        }
        frame.push(u8::try_from(run.len() + 1).expect("a run has at most 253 bytes"));
        frame.extend_from_slice(run);
    }
    frame
}

fn cobs_decoded(mut frame: &[u8]) -> Option<Vec<u8>> {
    let mut packet = Vec::new();
    while let [code, rest @ ..] = frame {
        let (run, after) = rest.split_at_checked(usize::from(code.checked_sub(1)?))?;
        packet.extend_from_slice(run);
        if *code < 0xFF && !after.is_empty() {
            packet.push(0);
        }
        frame = after;
    }
    Some(packet)
}

#[test]
fn mllp_messages_come_back_from_every_cut() {
    let messages: [&[u8]; 3] = [
        b"\x0BMSH|^~\\&|A|B|C|D|20240102||ADT^A01|1|P|2.3\rEVN|A01\r",
        b"\x0BMSH|^~\\&|C|D|A|B|20240102||ACK|1|P|2.3\rMSA|AA|1\r",
        b"\x0B",
    ];
    let wire = messages.map(|message| [message, b"\x1C\r"].concat());
    check(
        &mllp(),
        &[0, 1, 2].map(|index| (messages[index], &wire[index][..])),
    );
    assert_eq!(mllp_message(messages[1]), Some(&messages[1][1..]));
    // A frame without its first byte is delivered; the program ignores it.
    check_frames(&mllp(), b"noise\x1C\r\x0Bok\x1C\r", &[b"noise", b"\x0Bok"]);
    assert_eq!(mllp_message(b"noise"), None);
    // A `1C` alone does not end a message. A message that contains `1C 0D` cannot be sent.
    check_frames(&mllp(), b"\x0Ba\x1Cb\x1C\x1C\r", &[b"\x0Ba\x1Cb\x1C"]);
    assert_eq!(
        refusal(&mllp(), b"\x0Ba\x1C\rb"),
        "payload cannot be encoded as a frame: a delimiter starts inside the payload"
    );
}

#[test]
fn slip_packets_come_back_from_every_cut() {
    let packets: [&[u8]; 4] = [b"\x45\0\0\x14", b"\xC0", b"a\xDBb\xC0\xDB\xDC", b""];
    let frames = packets.map(slip_encoded);
    assert_eq!(frames[2], b"a\xDB\xDDb\xDB\xDC\xDB\xDD\xDC");
    let wire = [0, 1, 2, 3].map(|index| [&frames[index][..], b"\xC0"].concat());
    check(
        &slip(),
        &[0, 1, 2, 3].map(|index| (&frames[index][..], &wire[index][..])),
    );
    for (packet, frame) in packets.iter().zip(&frames) {
        assert_eq!(slip_decoded(frame).as_deref(), Some(*packet));
    }
    // A sender may begin each packet with `C0` (RFC 1055). This byte ends a frame of the noise that
    // an idle line caused.
    check_frames(&slip(), b"noise\xC0\xC0ok\xC0", &[b"noise", b"", b"ok"]);
    for invalid in [&b"a\xDB"[..], b"\xDBa", b"\xDB\xDB\xDC"] {
        assert_eq!(slip_decoded(invalid), None);
    }
    check_error(
        &slip(),
        &[0; 2100],
        &[],
        "frame of 2100 bytes exceeds the limit of 2012",
    );
}

#[test]
fn cobs_packets_come_back_from_every_cut() {
    let long: Vec<u8> = (1..=u8::MAX).chain(0..=u8::MAX).collect();
    let packets: [&[u8]; 6] = [b"", b"\0", b"\0\0", b"\x11\x22\0\x33", &long[..254], &long];
    let frames = packets.map(cobs_encoded);
    assert_eq!(frames[0], b"\x01");
    assert_eq!(frames[1], b"\x01\x01");
    assert_eq!(frames[3], b"\x03\x11\x22\x02\x33");
    let wire = [0, 1, 2, 3, 4, 5].map(|index| [&frames[index][..], b"\0"].concat());
    check(
        &cobs(),
        &[0, 1, 2, 3, 4, 5].map(|index| (&frames[index][..], &wire[index][..])),
    );
    for (packet, frame) in packets.iter().zip(&frames) {
        assert_eq!(cobs_decoded(frame).as_deref(), Some(*packet));
    }
    // After a final run of 254 non-zero bytes, some encoders append `\x01` and others do not. The
    // decoder must accept both forms.
    assert_eq!(cobs_decoded(&frames[4][..255]).as_deref(), Some(packets[4]));
    // A reader that starts within a packet may get a frame that does not decode.
    check_frames(
        &cobs(),
        b"\x22\x02\x33\0\x02x\0",
        &[b"\x22\x02\x33", b"\x02x"],
    );
    assert_eq!(cobs_decoded(b"\x22\x02\x33"), None);
    assert_eq!(
        refusal(&cobs(), b"a\0b"),
        "payload cannot be encoded as a frame: the payload contains the delimiter"
    );
}
