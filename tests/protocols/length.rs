//! Protocols with a length field. Their framings check only that the length is not too small or too
//! large.

use unstick::{Deframer, FrameError, Framing, LengthField};

use crate::check::{check, check_changes, check_error, check_frames, check_whole};

fn dns_over_tcp() -> Framing {
    Framing::length_u16()
}

fn kafka() -> Framing {
    Framing::length_u32().frame_len_max(100 << 20)
}

pub(crate) fn smpp() -> Framing {
    let header = LengthField::new(4).following(&[0; 12]).adjustment(-4);
    Framing::length_field(header.keep_header()).frame_len_max(70_000)
}

/// Returns the answer to an invalid length: `generic_nack` with the status ESME_RINVCMDLEN.
pub(crate) fn smpp_error(_: &FrameError) -> Vec<u8> {
    b"\0\0\0\x10\x80\0\0\0\0\0\0\x02\0\0\0\0".to_vec()
}

fn mysql() -> Framing {
    let header = LengthField::new(3)
        .little_endian()
        .following(&[0])
        .adjustment(1);
    Framing::length_field(header.keep_header())
}

pub(crate) fn amqp() -> Framing {
    let header = LengthField::new(4).leading(&[0; 3]).adjustment(1);
    Framing::length_field(header.keep_header()).frame_len_max(131_072)
}

/// Returns the payload of a frame, or `None` if the frame does not end with `CE`.
fn amqp_payload(frame: &[u8]) -> Option<&[u8]> {
    frame.get(7..)?.strip_suffix(b"\xCE")
}

pub(crate) fn postgresql_startup() -> Framing {
    let header = LengthField::new(4).adjustment(-4).keep_header();
    Framing::length_field(header).frame_len_max(10_000)
}

pub(crate) fn postgresql() -> Framing {
    let header = LengthField::new(4).leading(&[0]).adjustment(-4);
    Framing::length_field(header.keep_header())
}

fn ssh_identification() -> Framing {
    let output = Framing::line_crlf().frame_len_max(253);
    Framing::line().frame_len_max(253).with_output(output)
}

fn ssh_packets() -> Framing {
    Framing::length_u32().frame_len_max(35_000)
}

#[test]
fn dns_messages_come_back_from_every_cut() {
    // RFC 1035, section 4.1: a query, an answer that has a pointer, and a refusal.
    let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";
    let answer = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x07example\x03com\0\0\x01\0\x01\
        \xC0\x0C\0\x01\0\x01\0\0\x0E\x10\0\x04\xC0\0\x02\x01";
    let refused = b"\x12\x35\x81\x05\0\0\0\0\0\0\0\0";
    check(
        &dns_over_tcp(),
        &[
            (query, &[b"\0\x1D", &query[..]].concat()),
            (answer, &[b"\0\x2D", &answer[..]].concat()),
            (refused, &[b"\0\x0C", &refused[..]].concat()),
        ],
    );
    // A length of zero gives an empty frame. The program has to reject messages of less than 12
    // bytes.
    check_frames(&dns_over_tcp(), b"\0\0\0\x01x\0\0", &[b"", b"x", b""]);
    // The length may arrive in its own segment (RFC 7766, section 8). Without the whole message,
    // there is no frame.
    check_frames(&dns_over_tcp(), b"\xFF\xFFab", &[]);
}

#[test]
fn kafka_requests_come_back_from_every_cut() {
    // ApiVersions v0, Metadata v0 of one topic, and the answer to ApiVersions.
    let versions = b"\0\x12\0\0\0\0\0\x01\0\x03abc";
    let metadata = b"\0\x03\0\0\0\0\0\x02\0\x03abc\0\0\0\x01\0\x04logs";
    let answer = b"\0\0\0\x01\0\0\0\0\0\x01\0\x12\0\0\0\x03";
    check(
        &kafka(),
        &[
            (versions, b"\0\0\0\x0D\0\x12\0\0\0\0\0\x01\0\x03abc"),
            (
                metadata,
                b"\0\0\0\x17\0\x03\0\0\0\0\0\x02\0\x03abc\0\0\0\x01\0\x04logs",
            ),
            (
                answer,
                b"\0\0\0\x10\0\0\0\x01\0\0\0\0\0\x01\0\x12\0\0\0\x03",
            ),
        ],
    );
    check_error(
        &kafka(),
        b"\0\0\0\x01xGET / HTTP/1.1\r\n\r\n",
        &[b"x"],
        "frame of 1195725856 bytes exceeds the limit of 104857600",
    );
    // Kafka's length is signed. The framing reads -1 as 4294967295, which is too long.
    check_error(
        &kafka(),
        b"\xFF\xFF\xFF\xFF",
        &[],
        "frame of 4294967295 bytes exceeds the limit of 104857600",
    );
}

#[test]
fn smpp_pdus_come_back_from_every_cut() {
    // SMPP 3.4, sections 4.11.1, 4.11.2, 4.1.3 and 4.3.1.
    check_whole(
        &smpp(),
        &[
            b"\0\0\0\x10\0\0\0\x15\0\0\0\0\0\0\0\x01",
            b"\0\0\0\x10\x80\0\0\x15\0\0\0\0\0\0\0\x01",
            b"\0\0\0\x1D\0\0\0\x01\0\0\0\0\0\0\0\x02id\0pass\0\0\x34\0\0\0",
            b"\0\0\0\x10\x80\0\0\0\0\0\0\x03\0\0\0\0",
        ],
    );
    let too_small =
        "malformed frame: the length is too small for the header and the stripped bytes";
    check_error(
        &smpp(),
        b"\0\0\0\x0F\0\0\0\x15\0\0\0\0\0\0\0",
        &[],
        too_small,
    );
    check_error(
        &smpp(),
        b"\xFF\xFF\xFF\xFF",
        &[],
        "frame of 4294967295 bytes exceeds the limit of 70000",
    );
}

#[test]
fn mysql_packets_come_back_from_every_cut() {
    // COM_QUERY, COM_PING, an OK packet and an EOF packet.
    check_whole(
        &mysql(),
        &[
            b"\x09\0\0\0\x03SELECT 1",
            b"\x01\0\0\0\x0E",
            b"\x07\0\0\x01\0\0\0\x02\0\0\0",
            b"\x05\0\0\x05\xFE\0\0\x02\0",
        ],
    );
    check_error(
        &mysql(),
        b"\x01\0\0\0\x0E\xFF\xFF\xFF\0",
        &[b"\x01\0\0\0\x0E"],
        "frame of 16777219 bytes exceeds the limit of 1048576",
    );
    // The longest packet arrives only with a larger limit.
    let longest = [&b"\xFF\xFF\xFF\0"[..], &vec![7; 16_777_215]].concat();
    let mut deframer = Deframer::new(mysql().frame_len_max(16_777_219));
    deframer.extend(&longest);
    assert_eq!(deframer.next_frame().expect("valid"), Some(&longest[..]));
}

#[test]
fn amqp_frames_come_back_from_every_cut() {
    // AMQP 0-9-1, section 4.2.3: a heart-beat, channel.open, and a content body.
    let messages: [&[u8]; 3] = [
        b"\x08\0\0\0\0\0\0\xCE",
        b"\x01\0\x01\0\0\0\x05\0\x14\0\x0A\0\xCE",
        b"\x03\0\x01\0\0\0\x05hello\xCE",
    ];
    check_whole(&amqp(), &messages);
    let payloads = messages.map(|frame| amqp_payload(frame).expect("it ends with CE"));
    assert_eq!(payloads, [&b""[..], b"\0\x14\0\x0A\0", b"hello"]);
    // The framing delivers a frame without its last byte; the program closes the connection.
    check_frames(&amqp(), b"\x08\0\0\0\0\0\0\0", &[b"\x08\0\0\0\0\0\0\0"]);
    assert_eq!(amqp_payload(b"\x08\0\0\0\0\0\0\0"), None);
    // A server that does not support the client's version sends its own protocol header and closes.
    // The framing rejects this header.
    check_error(
        &amqp(),
        b"AMQP\0\0\x09\x01",
        &[],
        "frame of 1342177297 bytes exceeds the limit of 131072",
    );
}

#[test]
fn postgresql_messages_come_back_from_every_cut() {
    // Section "Message Formats": SSLRequest, GSSENCRequest, StartupMessage 3.0, CancelRequest.
    check_whole(
        &postgresql_startup(),
        &[
            b"\0\0\0\x08\x04\xD2\x16\x2F",
            b"\0\0\0\x08\x04\xD2\x16\x30",
            b"\0\0\0\x14\0\x03\0\0user\0alice\0\0",
            b"\0\0\0\x10\x04\xD2\x16\x2E\0\0\0\x01\0\0\0\x02",
        ],
    );
    // Query, Sync, ReadyForQuery, CommandComplete.
    check_whole(
        &postgresql(),
        &[
            b"Q\0\0\0\x0DSELECT 1\0",
            b"S\0\0\0\x04",
            b"Z\0\0\0\x05I",
            b"C\0\0\0\x0DSELECT 1\0",
        ],
    );
    let too_small =
        "malformed frame: the length is too small for the header and the stripped bytes";
    check_error(&postgresql_startup(), b"\0\0\0\x03", &[], too_small);
    check_error(
        &postgresql(),
        b"S\0\0\0\x04X\0\0\0\x03",
        &[b"S\0\0\0\x04"],
        too_small,
    );
    check_error(
        &postgresql_startup(),
        b"GET / HTTP/1.1\r\n",
        &[],
        "frame of 1195725856 bytes exceeds the limit of 10000",
    );
}

#[test]
fn ssh_lines_and_packets_come_back_from_every_cut() {
    check(
        &ssh_identification(),
        &[
            (b"Welcome", b"Welcome\r\n"),
            (b"SSH-2.0-OpenSSH_9.6", b"SSH-2.0-OpenSSH_9.6\r\n"),
            (b"SSH-2.0-billsSSH_3.6.3q3", b"SSH-2.0-billsSSH_3.6.3q3\r\n"),
        ],
    );
    // Old versions end their line with a line feed only.
    let line = b"SSH-1.99-old";
    check_frames(&ssh_identification(), b"SSH-1.99-old\n", &[line]);
    // RFC 4253, sections 7.3 and 11.2: NEWKEYS, IGNORE, and a packet with other padding.
    let packets: [(&[u8], &[u8]); 3] = [
        (b"\x0A\x15__________", b"\0\0\0\x0C\x0A\x15__________"),
        (
            b"\x06\x02\0\0\0\0______",
            b"\0\0\0\x0C\x06\x02\0\0\0\0______",
        ),
        (b"\x04\x15____pad...", b"\0\0\0\x0C\x04\x15____pad..."),
    ];
    check(&ssh_packets(), &packets);
    check_error(
        &ssh_identification(),
        &[b'x'; 300],
        &[],
        "frame of 300 bytes exceeds the limit of 253",
    );
    check_error(
        &ssh_packets(),
        b"SSH-2.0-again\r\n",
        &[],
        "frame of 1397966893 bytes exceeds the limit of 35000",
    );
}

/// A peer may send its first packet in the same segment as its line.
#[test]
fn ssh_framing_changes_after_the_identification() {
    let stream = b"Welcome\r\nSSH-2.0-server\r\n\
        \0\0\0\x0C\x06\x02\0\0\0\0______\0\0\0\x0C\x0A\x15__________ciphertext";
    check_changes(
        &ssh_identification(),
        stream,
        &[
            b"Welcome",
            b"SSH-2.0-server",
            b"\x06\x02\0\0\0\0______",
            b"\x0A\x15__________",
            b"ciphertext",
        ],
        |frame| match frame {
            [b'S', b'S', b'H', b'-', ..] => Some(ssh_packets()),
            [_, 21, ..] => Some(Framing::fixed(10)), // NEWKEYS
            _ => None,
        },
    );
}
