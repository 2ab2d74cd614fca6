//! Handlers of protocols, over sockets: answers to invalid bytes, answers without a frame, framings
//! that the first bytes choose, and records in datagrams.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::thread;

use unstick::{
    Config, ConnId, Context, Datagram, FrameError, Framing, Handler, Origin, Reactor, UdpId,
};

use crate::check::{check_changes, check_error, check_frames, check_whole};
use crate::common::{DEADLINE, drive, listening};
use crate::header::{avl_record_count, bgp, bgp_notification, teltonika, teltonika_login};
use crate::length::{amqp, postgresql, postgresql_startup, smpp, smpp_error};
use crate::resync::modbus_rtu_answer;
use crate::text::{decimal, http_error, http_request, sip, smtp, smtp_error};
use crate::variable::{websocket, websocket_error};

/// Handler that answers invalid bytes. The connection closes after the answer.
struct Answering(fn(&FrameError) -> Vec<u8>);

impl Handler for Answering {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, (): &mut (), _: &[u8]) {}

    fn on_frame_error(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        (): &mut (),
        error: &FrameError,
    ) {
        let _ = cx.send(conn, &(self.0)(error));
    }
}

const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xD2\x16\x2F";
const GSSENC_REQUEST: &[u8] = b"\0\0\0\x08\x04\xD2\x16\x30";
/// Code of a CancelRequest.
const CANCEL: [u8; 4] = *b"\x04\xD2\x16\x2E";

/// Server at the start of a session.
struct Postgres {
    has_tls: bool,
}

impl Handler for Postgres {
    /// True after the server sent `S`, the start of TLS, or received a StartupMessage.
    type Session = bool;

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        has_started: &mut bool,
        message: &[u8],
    ) {
        match message {
            _ if *has_started => {} // ciphertext, or a message with a type
            SSL_REQUEST if self.has_tls => {
                let _ = cx.peek(conn, 0);
            }
            SSL_REQUEST | GSSENC_REQUEST => {
                let _ = cx.send_unframed(conn, b"N");
            }
            _ if message[4..].starts_with(&CANCEL) => {
                // Cancel the query of the other session here. There is no answer.
                cx.close(conn);
            }
            _ => {
                *has_started = true;
                let _ = cx.reframe(conn, postgresql());
            }
        }
    }

    fn on_peek(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        has_started: &mut bool,
        bytes: &[u8],
    ) {
        if !bytes.is_empty() {
            return cx.close(conn); // these bytes are not encrypted
        }
        *has_started = true;
        let _ = cx.send_unframed(conn, b"S");
        let _ = cx.reframe(conn, Framing::raw());
    }
}

/// Server that accepts every tracker, and acknowledges the records of each packet.
struct Trackers;

impl Handler for Trackers {
    type Session = bool; // true after the login

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        is_known: &mut bool,
        frame: &[u8],
    ) {
        if *is_known {
            let _ = cx.send(conn, &[0, 0, 0, avl_record_count(frame)]);
        } else {
            *is_known = true;
            let _ = cx.send(conn, b"\x01");
            let _ = cx.reframe(conn, teltonika());
        }
    }
}

/// Maximum length of a log message, in bytes.
const SYSLOG_LEN_MAX: usize = 8192;

fn syslog_counted() -> Framing {
    let len = Framing::delimiter(b" ").frame_len_max(4);
    Framing::header_body(len, |digits| {
        let len = decimal(digits).filter(|_| !digits.starts_with(b"0"));
        len.ok_or(FrameError::Malformed("not the length of a message"))
    })
    .frame_len_max(SYSLOG_LEN_MAX)
    .skip_between(b"\n")
}

fn syslog_lines() -> Framing {
    let lines = Framing::line().frame_len_max(SYSLOG_LEN_MAX);
    lines.unterminated_last_frame()
}

/// Log server. The first byte of a connection chooses the framing.
struct Logs(Vec<String>);

impl Handler for Logs {
    type Session = bool; // true if a length is in front of each message

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut bool, _: Origin) {
        let _ = cx.peek(conn, 1);
    }

    fn on_peek(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        is_counted: &mut bool,
        bytes: &[u8],
    ) {
        let framing = match bytes.first() {
            Some(b'1'..=b'9') => syslog_counted(),
            Some(b'<') => syslog_lines(),
            _ => return cx.close(conn),
        };
        *is_counted = bytes[0] != b'<';
        let _ = cx.reframe(conn, framing);
    }

    fn on_frame(
        &mut self,
        _: &mut Context<'_, Self>,
        _: ConnId,
        is_counted: &mut bool,
        frame: &[u8],
    ) {
        let message = match frame.iter().position(|&byte| byte == b' ') {
            Some(at) if *is_counted => &frame[at + 1..],
            _ => frame,
        };
        self.0.push(message.escape_ascii().to_string());
    }
}

fn statsd() -> Framing {
    Framing::line().unterminated_last_frame()
}

/// Statistics server. Each line of a datagram is a metric.
struct Metrics {
    framing: Framing,
    lines: Vec<String>,
    fault_count: u64,
}

impl Handler for Metrics {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, (): &mut (), _: &[u8]) {}

    fn on_datagram(&mut self, _: &mut Context<'_, Self>, _: UdpId, datagram: Datagram<'_>) {
        for line in datagram.frames(&self.framing) {
            match line {
                Ok(line) => self.lines.push(line.escape_ascii().to_string()),
                Err(_) => self.fault_count += 1,
            }
        }
    }
}

#[test]
fn statsd_datagrams_hold_several_metrics() {
    let mut config = Config::default();
    config.datagram_len_max = 16;
    let metrics = Metrics {
        framing: statsd(),
        lines: Vec::new(),
        fault_count: 0,
    };
    let mut reactor = Reactor::with_config(metrics, config).expect("the reactor is created");
    let socket = reactor
        .bind_udp("127.0.0.1:0")
        .expect("a free port is available");
    let addr = reactor
        .local_inet_addr(socket)
        .expect("the socket is bound");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    // The last datagram is longer than the limit of 16 bytes. So its last metric arrives only as
    // `b:2222`, which is a fault.
    for datagram in ["a:1|c\nb:2|g", "a:3|c\n", "a:45678|c\nb:2222|c"] {
        let sent = client.send_to(datagram.as_bytes(), addr);
        sent.expect("the datagram is sent");
    }
    drive(&mut reactor, |it| it.stats().datagrams_in == 3);
    let metrics = reactor.into_handler();
    assert_eq!(metrics.lines, ["a:1|c", "b:2|g", "a:3|c", "a:45678|c"]);
    assert_eq!(metrics.fault_count, 1);
}

/// Sends a stream to a server; if `ends` is true, the client then sends its FIN. Returns all bytes
/// that the server sent before its own FIN, and the reactor.
fn exchange<H: Handler>(
    handler: H,
    framing: Framing,
    stream: &[u8],
    ends: bool,
) -> (Vec<u8>, Reactor<H>) {
    let (mut reactor, addr) = listening(handler, Config::default(), framing);
    let stream = stream.to_vec();
    let client = thread::spawn(move || {
        let mut client = TcpStream::connect(addr)?;
        client.set_read_timeout(Some(DEADLINE))?;
        client.write_all(&stream)?;
        if ends {
            client.shutdown(Shutdown::Write)?;
        }
        let mut received = Vec::new();
        client.read_to_end(&mut received).map(|_| received)
    });
    drive(&mut reactor, |it| {
        client.is_finished() && it.stats().closed == 1
    });
    let received = client.join().expect("the client does not panic");
    (received.expect("the stream ends without a reset"), reactor)
}

/// Sends invalid bytes and 100,000 further bytes. Checks that the server sends exactly the expected
/// answer, and then the end of the stream.
#[track_caller]
fn check_answer(
    framing: &Framing,
    answer: fn(&FrameError) -> Vec<u8>,
    invalid: &[u8],
    expected: &[u8],
) {
    let stream = [invalid, &[b'x'; 100_000]].concat();
    let (received, _) = exchange(Answering(answer), framing.clone(), &stream, false);
    assert_eq!(
        received.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
}

/// RFC 4271, section 6.1.
#[test]
fn bgp_header_error_is_answered_by_its_notification() {
    let marker = [0xFF; 16];
    let keepalive = [&marker[..], b"\0\x13\x04"].concat();
    let too_short = [&keepalive[..], &marker, b"\0\x12\x04"].concat();
    let notification = [&marker[..], b"\0\x17\x03\x01\x02\0\x12"].concat();
    check_answer(&bgp(), bgp_notification, &too_short, &notification);
    let no_marker = [&marker[..15], b"\0\0\x13\x04"].concat();
    let notification = [&marker[..], b"\0\x15\x03\x01\x01"].concat();
    check_answer(&bgp(), bgp_notification, &no_marker, &notification);
}

#[test]
fn http_server_answers_an_invalid_request_by_a_status() {
    let rest = "\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let long = format!("GET /{}", "x".repeat(10_000));
    let body = "POST / HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n";
    let lengths = "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n";
    for (request, status) in [
        (&long[..], "431 Request Header Fields Too Large"),
        (body, "413 Content Too Large"),
        (lengths, "400 Bad Request"),
    ] {
        let answer = format!("HTTP/1.1 {status}{rest}");
        check_answer(
            &http_request(),
            http_error,
            request.as_bytes(),
            answer.as_bytes(),
        );
    }
}

#[test]
fn smtp_server_answers_an_invalid_line() {
    let long = [b'x'; 1000];
    check_answer(&smtp(), smtp_error, &long, b"500 Line too long\r\n");
    let syntax = b"500 Syntax error: a line ends with CRLF\r\n";
    check_answer(&smtp(), smtp_error, b"EHLO a\r\nDATA\n", syntax);
}

/// SMPP 3.4, section 4.3: `generic_nack` with ESME_RINVCMDLEN.
#[test]
fn smpp_invalid_length_is_answered_by_generic_nack() {
    let nack = b"\0\0\0\x10\x80\0\0\0\0\0\0\x02\0\0\0\0";
    for len in [b"\0\0\0\x0F", b"\xFF\xFF\xFF\xFF"] {
        check_answer(&smpp(), smpp_error, len, nack);
    }
}

/// RFC 6455, section 7.4.1.
#[test]
fn websocket_server_answers_an_invalid_frame_by_a_close() {
    let too_long = b"\x82\xFF\0\0\0\0\x80\0\0\0";
    check_answer(&websocket(), websocket_error, too_long, b"\x88\x02\x03\xF1");
    let fragmented = b"\x09\x80";
    check_answer(
        &websocket(),
        websocket_error,
        fragmented,
        b"\x88\x02\x03\xEA",
    );
}

#[test]
fn postgresql_answer_to_ssl_request_is_one_byte() {
    let startup = b"\0\0\0\x14\0\x03\0\0user\0alice\0\0";
    let stream = [SSL_REQUEST, startup, b"Q\0\0\0\x0DSELECT 1\0"].concat();
    let server = Postgres { has_tls: false };
    let (answer, reactor) = exchange(server, postgresql_startup(), &stream, true);
    assert_eq!((&answer[..], reactor.stats().frames_in), (&b"N"[..], 3));
    let server = Postgres { has_tls: true };
    let (answer, _) = exchange(server, postgresql_startup(), SSL_REQUEST, true);
    assert_eq!(answer, b"S");
    // A client with GSSAPI asks for its encryption first, and then for TLS.
    let stream = [GSSENC_REQUEST, SSL_REQUEST].concat();
    let server = Postgres { has_tls: true };
    let (answer, reactor) = exchange(server, postgresql_startup(), &stream, true);
    assert_eq!((&answer[..], reactor.stats().frames_in), (&b"NS"[..], 2));
}

#[test]
fn postgresql_cancel_request_is_not_a_session() {
    let cancel = b"\0\0\0\x10\x04\xD2\x16\x2E\0\0\0\x01\0\0\0\x02";
    let server = Postgres { has_tls: false };
    let (answer, reactor) = exchange(server, postgresql_startup(), cancel, false);
    assert_eq!((&answer[..], reactor.stats().frames_in), (&b""[..], 1));
}

/// CVE-2021-23214.
#[test]
fn postgresql_plain_text_after_ssl_request_is_rejected() {
    let stream = [SSL_REQUEST, b"Q\0\0\0\x0DSELECT 1\0"].concat();
    let server = Postgres { has_tls: true };
    let (answer, reactor) = exchange(server, postgresql_startup(), &stream, false);
    assert_eq!((&answer[..], reactor.stats().frames_in), (&b""[..], 1));
}

const AMQP_HEADER: &[u8] = b"AMQP\0\0\x09\x01";

/// Handler for both sides of AMQP. As a server, it rejects every version. As a client, it sends its
/// header and a heart-beat.
struct Amqp;

impl Handler for Amqp {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, (): &mut (), origin: Origin) {
        if matches!(origin, Origin::Connected) {
            let _ = cx.send_unframed(conn, AMQP_HEADER);
            let _ = cx.send(conn, b"\x08\0\0\0\0\0\0\xCE");
        }
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, (): &mut (), _: &[u8]) {
        let _ = cx.send_unframed(conn, AMQP_HEADER);
        cx.close(conn);
    }
}

#[test]
fn amqp_header_is_sent_without_a_frame() {
    let stream = b"AMQP\x01\x01\0\x0A";
    let (answer, _) = exchange(Amqp, Framing::fixed(8), stream, false);
    assert_eq!(answer, AMQP_HEADER);
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let addr = server.local_addr().expect("the socket is bound");
    let mut reactor = Reactor::new(Amqp).expect("the reactor is created");
    reactor.connect(addr, amqp(), ());
    drive(&mut reactor, |it| it.stats().written_bytes == 16);
    let mut received = [0; 16];
    let (mut peer, _) = server.accept().expect("a connection waits");
    peer.read_exact(&mut received).expect("the bytes arrive");
    assert_eq!(received, *b"AMQP\0\0\x09\x01\x08\0\0\0\0\0\0\xCE");
}

/// A SIP server that replies to keep-alives only.
struct Pong;

impl Handler for Pong {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, (): &mut (), message: &[u8]) {
        if message == b"\r\n\r\n" {
            let _ = cx.send_unframed(conn, b"\r\n");
        }
    }
}

/// RFC 5626, section 3.5.1.
#[test]
fn sip_keep_alive_is_answered_by_a_line_end() {
    let message = b"MESSAGE sip:b@c SIP/2.0\r\nl: 5\r\n\r\nhello";
    let stream = [b"\r\n\r\n", &message[..], b"\r\n\r\n"].concat();
    let (answer, reactor) = exchange(Pong, sip(), &stream, true);
    assert_eq!(answer, b"\r\n\r\n");
    assert_eq!(reactor.stats().frames_in, 3);
}

/// Packets with one record, one record and two records, from the documentation of the trackers.
const AVL_PACKETS: [&[u8]; 3] = [
    b"\0\0\0\0\0\0\0\x36\x08\x01\
    \0\0\x01\x6B\x40\xD8\xEA\x30\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x05\x02\x15\x03\x01\x01\x01\
    \x42\x5E\x0F\x01\xF1\0\0\x60\x1A\x01\x4E\0\0\0\0\0\0\0\0\x01\0\0\xC7\xCF",
    b"\0\0\0\0\0\0\0\x28\x08\x01\
    \0\0\x01\x6B\x40\xD9\xAD\x80\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x03\x02\x15\x03\x01\x01\x01\
    \x42\x5E\x10\0\0\x01\0\0\xF2\x2A",
    b"\0\0\0\0\0\0\0\x43\x08\x02\
    \0\0\x01\x6B\x40\xD5\x7B\x48\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01\x01\x01\0\0\0\0\
    \0\0\x01\x6B\x40\xD5\xC1\x98\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01\x01\x01\x01\0\0\0\
    \x02\0\0\x25\x2C",
];

const TELTONIKA_LOGIN: &[u8] = b"\0\x0F356307042441013";

#[test]
fn teltonika_packets_are_acknowledged_without_a_frame() {
    let stream = [&[TELTONIKA_LOGIN], &AVL_PACKETS[..]].concat().concat();
    let (answer, reactor) = exchange(Trackers, teltonika_login(), &stream, true);
    assert_eq!(answer, b"\x01\0\0\0\x01\0\0\0\x01\0\0\0\x02");
    assert_eq!(reactor.stats().frames_in, 4);
}

/// The tracker sends a packet again if the number of accepted records is wrong.
#[test]
fn teltonika_damaged_packet_is_answered_by_zero() {
    for offset in [9, 20, 61, 65] {
        let mut damaged = AVL_PACKETS[0].to_vec();
        damaged[offset] ^= 0x40;
        let stream = [TELTONIKA_LOGIN, &damaged, AVL_PACKETS[2]].concat();
        let (answer, _) = exchange(Trackers, teltonika_login(), &stream, true);
        assert_eq!(answer, b"\x01\0\0\0\0\0\0\0\x02", "byte {offset}");
    }
}

#[test]
fn teltonika_packets_come_back_from_every_cut() {
    check_whole(&teltonika(), &AVL_PACKETS);
    // A tracker keeps the connection open with single bytes `FF`.
    let [first, second, third] = AVL_PACKETS;
    let stream = [b"\xFF", first, b"\xFF\xFF", second, third, b"\xFF"].concat();
    check_frames(&teltonika(), &stream, &AVL_PACKETS);
    let error = "malformed frame: not the start of an AVL packet";
    let stream = [first, b"\0\0\0\x01\0\0\0\x36"].concat();
    check_error(&teltonika(), &stream, &[first], error);
}

#[test]
fn teltonika_login_comes_back_from_every_cut() {
    check_frames(
        &teltonika_login(),
        TELTONIKA_LOGIN,
        &[&TELTONIKA_LOGIN[2..]],
    );
    check_changes(
        &teltonika_login(),
        &[&[TELTONIKA_LOGIN], &AVL_PACKETS[..]].concat().concat(),
        &[&[&TELTONIKA_LOGIN[2..]], &AVL_PACKETS[..]].concat(),
        |frame| (frame.len() == 15).then(teltonika),
    );
    let too_long = "frame of 16 bytes exceeds the limit of 15";
    check_error(&teltonika_login(), b"\0\x10356307042441013", &[], too_long);
    let http = "frame of 18245 bytes exceeds the limit of 15";
    check_error(&teltonika_login(), b"GET / HTTP/1.1\r\n", &[], http);
}

#[test]
fn modbus_rtu_request_is_sent_with_the_framing_of_its_answer() {
    let mut framer = unstick::Framer::new(modbus_rtu_answer(0x11, 3, 11));
    let request = b"\x11\x03\0\x6B\0\x03\x76\x87";
    assert_eq!(
        framer
            .frame(request)
            .expect("the framing accepts every payload"),
        request
    );
}

#[test]
fn syslog_first_byte_chooses_the_framing() {
    for (stream, messages) in [
        // RFC 6587, section 3.4.1; a sender that adds `\n`; a message that is cut short.
        (
            &b"9 <34>1 a\nb\n5 <1> c9 <2>d"[..],
            &["<34>1 a\\nb", "<1> c"][..],
        ),
        // RFC 6587, section 3.4.2, and a last message without `\n`.
        (b"<34>a b\n5 <1>c\n<2>d", &["<34>a b", "5 <1>c", "<2>d"]),
        (b"GET / HTTP/1.1\r\n", &[]),
        (b"", &[]),
    ] {
        let (_, reactor) = exchange(Logs(Vec::new()), Framing::raw(), stream, true);
        assert_eq!(reactor.handler().0, messages);
    }
}

#[test]
fn syslog_messages_come_back_from_every_cut() {
    // RFC 5424, section 6.5, shortened; RFC 3164, section 5.4.
    let new = b"54 <165>1 2003-10-11T22:14:15.003Z host app - ID47 - text";
    let old = b"35 <34>Oct 11 22:14:15 host su: failed";
    check_whole(&syslog_counted(), &[new, old, b"6 <1>a\nb"]);
    let stream = b"4 <1>a\n\n4 <2>b";
    check_frames(&syslog_counted(), stream, &[b"4 <1>a", b"4 <2>b"]);
    let stream = [&old[3..], b"\n<1>a\n<2>b"].concat();
    check_frames(&syslog_lines(), &stream, &[&old[3..], b"<1>a", b"<2>b"]);
}

#[test]
fn syslog_invalid_length_is_malformed() {
    let error = "malformed frame: not the length of a message";
    for stream in [&b"4 <1>a0 x"[..], b"4 <1>a+5 x", b"4 <1>a x", b"4 <1>a<1> "] {
        check_error(&syslog_counted(), stream, &[b"4 <1>a"], error);
    }
    let too_long = "frame of 9005 bytes exceeds the limit of 8192";
    check_error(&syslog_counted(), b"9000 <1>", &[], too_long);
}

#[test]
fn syslog_line_that_is_too_long_is_rejected() {
    let long = [&b"<1>a\n<2>"[..], &[b'x'; SYSLOG_LEN_MAX - 2]].concat();
    let error = "frame of 8193 bytes exceeds the limit of 8192";
    check_error(&syslog_lines(), &long, &[b"<1>a"], error);
    // In this framing, the `4` before `<2>` is text, so `4 <2>c` is one line.
    check_frames(
        &syslog_lines(),
        b"<1>a\0b\n4 <2>c",
        &[b"<1>a\0b", b"4 <2>c"],
    );
}
