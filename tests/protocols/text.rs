//! Text protocols with a head and a body, and protocols of lines.

use unstick::testkit::Cuts;
use unstick::{Deframer, FrameError, Framing};

use crate::check::{
    check, check_changes, check_error, check_frames, check_whole, refusal, skipped_len,
};
use crate::header::hex;

/// Parses digits only: `str::parse` also accepts a `+`.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    let has_digits_only = digits.iter().all(u8::is_ascii_digit);
    let number = str::from_utf8(digits).ok()?.parse().ok();
    number.filter(|_| has_digits_only)
}

/// Returns true if the name of a header field is valid: RFC 9110, section 5.6.2.
pub(crate) fn is_token(name: &str) -> bool {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_valid)
}

/// Returns the header fields of a head: the bytes after its first line.
pub(crate) fn after_first_line(head: &[u8]) -> &[u8] {
    let end = head.iter().position(|&byte| byte == b'\n');
    end.map_or(&[], |end| &head[end + 1..])
}

/// Returns the length in the field with any of these names, or `None` if there is no such field.
pub(crate) fn content_length(fields: &[u8], names: &[&str]) -> Result<Option<u64>, FrameError> {
    let mut len = None;
    for line in String::from_utf8_lossy(fields).split("\r\n") {
        let (name, value) = line.split_once(':').unwrap_or_default();
        let name = name.trim_end_matches([' ', '\t']);
        let is_folded = line.is_empty() || line.starts_with([' ', '\t']);
        if line.contains(['\r', '\n']) || !is_folded && !is_token(name) {
            return Err(FrameError::Malformed("an invalid header line"));
        }
        if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            continue;
        }
        match decimal(value.trim_matches([' ', '\t']).as_bytes()) {
            Some(value) if len.is_none_or(|len| len == value) => len = Some(value),
            _ => return Err(FrameError::Malformed("an invalid Content-Length")),
        }
    }
    Ok(len)
}

/// Maximum length of the head of a request, in bytes.
const HTTP_HEAD_LEN_MAX: usize = 8 * 1024;

pub(crate) fn http_request() -> Framing {
    let head = Framing::delimiter(b"\r\n\r\n").frame_len_max(HTTP_HEAD_LEN_MAX);
    Framing::header_body(head, |head| {
        let head = String::from_utf8_lossy(head);
        for (index, line) in head.split("\r\n").enumerate() {
            let name = line.split(':').next().unwrap_or_default();
            let is_field = name.len() < line.len() && is_token(name);
            if line.contains(['\r', '\n']) || index > 0 && !is_field {
                return Err(FrameError::Malformed("an invalid header line"));
            }
            if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(FrameError::Malformed("a body in chunks is not accepted"));
            }
        }
        let fields = after_first_line(head.as_bytes());
        Ok(content_length(fields, &["Content-Length"])?.unwrap_or(0))
    })
    .skip_between(b"\r\n")
    .with_output(Framing::raw())
}

/// Returns the answer to an invalid request.
pub(crate) fn http_error(error: &FrameError) -> Vec<u8> {
    let status = match *error {
        FrameError::TooLong { limit, .. } if limit == HTTP_HEAD_LEN_MAX as u64 => {
            "431 Request Header Fields Too Large"
        }
        FrameError::TooLong { .. } => "413 Content Too Large",
        _ => "400 Bad Request",
    };
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").into()
}

fn http_chunk() -> Framing {
    let size_line = Framing::delimiter(b"\r\n").frame_len_max(256);
    Framing::header_body(size_line, |line| {
        let line = String::from_utf8_lossy(line);
        let digits = line.split(';').next().unwrap_or_default();
        let size = hex(digits.trim_end_matches([' ', '\t']).as_bytes());
        match size.filter(|_| !line.contains(['\r', '\n'])) {
            Some(0) => Ok(0), // the trailer section follows
            Some(len) => Ok(len.saturating_add(2)),
            None => Err(FrameError::Malformed("not the size of a chunk")),
        }
    })
}

pub(crate) fn sip() -> Framing {
    let head = Framing::delimiter(b"\r\n\r\n").frame_len_max(16 * 1024);
    Framing::header_body(head, |head| {
        if head.trim_ascii().is_empty() {
            return Ok(0); // keep-alive: answer it with `\r\n`
        }
        let fields = after_first_line(head.trim_ascii_start());
        let len = content_length(fields, &["Content-Length", "l"])?;
        len.ok_or(FrameError::Malformed("no Content-Length"))
    })
}

/// Framing of a client: it skips the answers to its keep-alives.
fn sip_client() -> Framing {
    sip().skip_between(b"\r\n")
}

fn language_server() -> Framing {
    let head = Framing::delimiter(b"\r\n\r\n").frame_len_max(1024);
    Framing::header_body(head, |head| {
        let len = content_length(head, &["Content-Length"])?;
        len.ok_or(FrameError::Malformed("no Content-Length"))
    })
}

fn memcached_server() -> Framing {
    Framing::header_body(Framing::line().frame_len_max(2048), |line| {
        let words = line.split(|&byte| byte == b' ');
        let mut words = words.filter(|word| !word.is_empty());
        let len = match words.next() {
            Some(b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas") => words.nth(3),
            Some(b"ms") => words.nth(1),
            _ => return Ok(0),
        };
        let len = len.and_then(decimal).and_then(|len| len.checked_add(2));
        len.ok_or(FrameError::Malformed("no valid length of the data"))
    })
    .skip_too_long()
    .with_output(Framing::raw())
}

fn redis() -> Framing {
    let line = Framing::line_crlf().frame_len_max(64 * 1024);
    Framing::header_body(line, |line| match line {
        b"$-1" => Ok(0), // null
        [b'$' | b'=' | b'!', digits @ ..] => {
            let len = decimal(digits).and_then(|len| len.checked_add(2));
            len.ok_or(FrameError::Malformed("not the length of a string"))
        }
        _ => Ok(0),
    })
}

pub(crate) fn smtp() -> Framing {
    Framing::line_crlf().frame_len_max(999)
}

/// Returns the answer to an invalid line.
pub(crate) fn smtp_error(error: &FrameError) -> Vec<u8> {
    match error {
        FrameError::TooLong { .. } => b"500 Line too long".to_vec(),
        _ => b"500 Syntax error: a line ends with CRLF".to_vec(),
    }
}

/// Returns a line of a message, or `None` for the line that ends the message.
fn smtp_data(line: &[u8]) -> Option<&[u8]> {
    match line {
        b"." => None,
        [b'.', text @ ..] => Some(text),
        text => Some(text),
    }
}

fn ndjson() -> Framing {
    Framing::line().unterminated_last_frame()
}

fn nmea() -> Framing {
    let output = Framing::line_crlf().frame_len_max(80);
    let input = Framing::line().frame_len_max(80).skip_too_long();
    input.with_output(output)
}

/// Returns the fields of a sentence, or `None` if its checksum is wrong or missing.
fn nmea_fields(sentence: &[u8]) -> Option<&[u8]> {
    let (fields, sum) = sentence.split_at_checked(sentence.len().checked_sub(3)?)?;
    let [b'$' | b'!', fields @ ..] = fields else {
        return None;
    };
    let expected = fields.iter().fold(0, |sum, byte| sum ^ byte);
    (sum == format!("*{expected:02X}").as_bytes()).then_some(fields)
}

#[test]
fn http_requests_come_back_from_every_cut() {
    check_whole(
        &http_request(),
        &[
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST /x HTTP/1.1\r\nHost: a\r\ncontent-length:5\r\n\r\nhello",
            b"DELETE /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        ],
    );
}

/// RFC 9112, section 2.2: a server ignores empty lines before a request.
#[test]
fn http_request_may_follow_empty_lines() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let stream = [b"\r\n\r\n", &request[..], b"\r\n", request].concat();
    check_frames(&http_request(), &stream, &[request, request]);
}

#[test]
fn http_request_with_an_invalid_header_is_malformed() {
    let len = "malformed frame: an invalid Content-Length";
    let line = "malformed frame: an invalid header line";
    let chunks = "malformed frame: a body in chunks is not accepted";
    for (fields, error) in [
        ("Content-Length: 5\r\nContent-Length: 6", len),
        ("Content-Length: +5", len),
        ("Content-Length: 5, 5", len),
        ("Content-Length: 18446744073709551616", len),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", chunks),
        ("Content-Length: \x0B5", len),
        ("Content-Length: 5\u{A0}", len),
        ("Content-Length : 5", line),
        ("Content-Length\x0B: 5", line),
        ("Content-Length\u{A0}: 5", line),
        ("Transfer-Encoding\x0B: chunked", line),
        (": 5", line),
        ("A: b\nContent-Length: 5", line),
        ("A: b\r\n c", line),
        ("A: b\rc: d", line),
        ("A", line),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\nhello");
        check_error(&http_request(), request.as_bytes(), &[], error);
    }
    let long = [&b"GET /"[..], &[b'x'; 10_000]].concat();
    let mut deframer = Deframer::new(http_request());
    deframer.extend(&long);
    let error = deframer.next_frame().expect_err("the head is too long");
    let FrameError::TooLong { limit: 8192, .. } = error.error else {
        panic!("{error}");
    };
}

#[test]
fn http_chunks_come_back_from_every_cut() {
    check_whole(
        &http_chunk(),
        &[
            b"5\r\nhello\r\n",
            b"0a;name=value\r\n0123456789\r\n",
            b"1 \r\n!\r\n",
            b"1\t;a=\"b\"\r\n!\r\n",
            b"0\r\n",
        ],
    );
    let error = "malformed frame: not the size of a chunk";
    for size in [
        &b"\r\n"[..],
        b"0x5\r\n",
        b"+5\r\n",
        b"-1\r\n",
        b"10000000000000000\r\n",
        b"5\n\r\n",
        b"5\r\r\n",
        b"5\x0C\r\n",
        b"5;\nhello\r\n",
        b"5;a\rb\r\n",
    ] {
        check_error(&http_chunk(), size, &[], error);
    }
    check_error(
        &http_chunk(),
        b"FFFFFFFFFFFFFFFF\r\n",
        &[],
        "frame of 18446744073709551615 bytes exceeds the limit of 1048576",
    );
}

/// The stream is a head, chunks, a trailer section and the next request. The head and the next
/// request have one framing, and the chunks and the trailer section have one each.
#[test]
fn http_framings_take_turns_on_one_connection() {
    let head = || Framing::delimiter(b"\r\n\r\n");
    let stream = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
        5\r\nhello\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    check_changes(
        &head(),
        stream,
        &[
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked",
            b"5\r\nhello\r\n",
            b"0\r\n",
            b"A: b",
            b"",
            b"GET / HTTP/1.1",
        ],
        |frame| match frame {
            head if head.ends_with(b"chunked") => Some(http_chunk()),
            b"0\r\n" => Some(Framing::delimiter(b"\r\n")),
            b"" => Some(head()),
            _ => None,
        },
    );
}

#[test]
fn sip_messages_come_back_from_every_cut() {
    check_whole(
        &sip(),
        &[
            b"OPTIONS sip:b@c SIP/2.0\r\nVia: SIP/2.0/TCP a\r\nContent-Length: 0\r\n\r\n",
            b"MESSAGE sip:b@c SIP/2.0\r\nl : 5\r\n\r\nhello",
            b"\r\n\r\n",
            b"SIP/2.0 200 OK\r\nCONTENT-LENGTH: 0\r\n\r\n",
        ],
    );
    check_error(
        &sip(),
        b"\r\n\r\nOPTIONS sip:b@c SIP/2.0\r\nVia: a\r\n\r\n",
        &[b"\r\n\r\n"],
        "malformed frame: no Content-Length",
    );
    check_error(
        &sip(),
        b"OPTIONS sip:b@c SIP/2.0\r\nContent-Length: 5\r\nl: 6\r\n\r\nhello!",
        &[],
        "malformed frame: an invalid Content-Length",
    );
    for field in ["l\x0B: 5", "l\u{A0}: 5", "A: b\rl: 5", "A: b\nl: 5", "l"] {
        let message = format!("MESSAGE sip:b@c SIP/2.0\r\n{field}\r\nl: 0\r\n\r\nhello");
        let error = "malformed frame: an invalid header line";
        check_error(&sip(), message.as_bytes(), &[], error);
    }
    let folded = b"OPTIONS sip:b@c SIP/2.0\r\nSubject: a\r\n b\r\nl\t:\t0 \r\n\r\n";
    check_frames(&sip(), folded, &[folded]);
    // The first `\r\n` is the answer to a keep-alive. The framing `sip_client` skips it, but `sip`
    // delivers it as a part of the next message.
    let stream = b"\r\nSIP/2.0 200 OK\r\nl: 0\r\n\r\n";
    check_frames(&sip_client(), stream, &[&stream[2..]]);
    check_frames(&sip(), stream, &[stream]);
}

#[test]
fn language_server_messages_come_back_from_every_cut() {
    check_whole(
        &language_server(),
        &[
            b"Content-Length: 40\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"init\"}",
            b"Content-Length: 17\r\nContent-Type: application/vscode-jsonrpc; charset=utf-8\r\n\r\n\
                {\"jsonrpc\":\"2.0\"}",
            b"Content-Length: 2\r\n\r\n{}",
            "Content-Length: 4\r\n\r\n\"é\"".as_bytes(),
        ],
    );
    check_error(
        &language_server(),
        b"Content-Type: x\r\n\r\n{}",
        &[],
        "malformed frame: no Content-Length",
    );
    check_error(
        &language_server(),
        b"Content-Length\x0B: 5\r\nContent-Length: 2\r\n\r\n{}",
        &[],
        "malformed frame: an invalid header line",
    );
    check_error(
        &language_server(),
        b"Content-Length: 4294967296\r\n\r\n",
        &[],
        "frame of 4294967326 bytes exceeds the limit of 1048576",
    );
}

#[test]
fn memcached_commands_come_back_from_every_cut() {
    check_whole(
        &memcached_server(),
        &[
            b"set key 0 60 5\r\nhello\r\n",
            b"get key\r\n",
            b"cas key 0 0 4 17 noreply\r\n\r\n\r\n\r\n",
            b"delete key noreply\r\n",
            b" set  key 0 0 5\r\nhello\r\n",
            b"ms key 5 T60\r\nhello\r\n",
            b"mg key v\r\n",
            b"ms  key 0\r\n\r\n",
        ],
    );
    let error = "malformed frame: no valid length of the data";
    for line in [
        &b"set key 0 0 -1\r\n"[..],
        b"set key 0\r\n",
        b"set  key 0 0\r\n",
        b"ms key\r\n",
        b"ms key S5\r\n",
    ] {
        check_error(&memcached_server(), line, &[], error);
    }
    let answer = b"VALUE key 0 5\r\nhello\r\nEND\r\n";
    let mut framer = unstick::Framer::new(memcached_server());
    assert_eq!(framer.frame(answer).expect("output is raw"), answer);
    let value = vec![b'.'; 2_000_000];
    let stream = [b"set key 0 0 2000000\r\n", &value[..], b"\r\nget key\r\n"].concat();
    assert_eq!(skipped_len(&memcached_server(), &stream), 2_000_023);
    let mut deframer = Deframer::new(memcached_server());
    deframer.extend(&stream);
    assert_eq!(
        deframer.next_frame().expect("valid"),
        Some(&b"get key\r\n"[..])
    );
}

#[test]
fn redis_elements_come_back_from_every_cut() {
    // A command of three elements, a null, an error, a RESP3 string with its format, and a number.
    check_whole(
        &redis(),
        &[
            b"*2\r\n",
            b"$4\r\nECHO\r\n",
            b"$4\r\na\r\nb\r\n",
            b"$-1\r\n",
            b"-ERR unknown\r\n",
            b"=6\r\ntxt:hi\r\n",
            b":1000\r\n",
        ],
    );
    // The framing does not check the end of a string; the program closes the connection.
    check_frames(&redis(), b"$2\r\nabcd+OK\r\n", &[b"$2\r\nabcd", b"+OK\r\n"]);
    let error = "malformed frame: not the length of a string";
    for length in [
        &b"$-2\r\n"[..],
        b"$+5\r\n",
        b"$\r\n",
        b"$18446744073709551615\r\n",
    ] {
        check_error(&redis(), length, &[], error);
    }
    let bare = "malformed frame: a line feed without a carriage return before it";
    check_error(&redis(), b"+OK\r\n+O\nK\r\n", &[b"+OK\r\n"], bare);
    check_error(
        &redis(),
        b"+OK\r\n$2000000\r\n",
        &[b"+OK\r\n"],
        "frame of 2000012 bytes exceeds the limit of 1048576",
    );
}

#[test]
fn smtp_lines_come_back_from_every_cut() {
    check(
        &smtp(),
        &[
            (b"EHLO client.example", b"EHLO client.example\r\n"),
            (b"250-8BITMIME", b"250-8BITMIME\r\n"),
            (b"..dot", b"..dot\r\n"),
            (b"", b"\r\n"),
            (b".", b".\r\n"),
        ],
    );
    // A line has at most 1,000 bytes with its CRLF. The doubled dot at its start counts as one byte
    // (RFC 5321, section 4.5.3.1.6).
    let longest = [&b".."[..], &[b'x'; 997]].concat();
    check_frames(&smtp(), &[&longest[..], b"\r\n"].concat(), &[&longest]);
    let long = [&[b'x'; 1000][..], b"\r\n"].concat();
    check_error(
        &smtp(),
        &long,
        &[],
        "frame of 1000 bytes exceeds the limit of 999",
    );
    assert_eq!(smtp_data(b"..dot"), Some(&b".dot"[..]));
    assert_eq!(smtp_data(b"text"), Some(&b"text"[..]));
    assert_eq!(smtp_data(b"."), None);
}

/// Each of these sequences ends a message for some servers, while some relays pass it on as text.
#[test]
fn smtp_smuggling_is_malformed() {
    for end in ["\n.\n", "\n.\r\n", "\r.\r", "\r.\r\n", "\r\n.\n", "\r\n.\r"] {
        let stream = format!("text{end}MAIL FROM:<a@b>\r\n");
        let mut deframer = Deframer::new(smtp());
        deframer.extend(stream.as_bytes());
        let mut seen = Vec::new();
        let error = loop {
            match deframer.next_frame() {
                Ok(frame) => seen.extend(frame.map(<[u8]>::to_vec)),
                Err(error) => break error.error,
            }
        };
        assert!(
            matches!(error, FrameError::Malformed(_)),
            "{end:?}: {error}"
        );
        assert!(!seen.contains(&b".".to_vec()), "{end:?} ends the message");
        Cuts::of(&smtp())
            .stream(stream.as_bytes())
            .expect_error()
            .check();
    }
    for line in [&b"a\nb"[..], b"a\rb", b"\r", b"\n"] {
        assert!(refusal(&smtp(), line).starts_with("payload cannot be encoded as a frame"));
    }
}

#[test]
fn json_lines_come_back_from_every_cut() {
    check(
        &ndjson(),
        &[
            (b"{\"a\":1}", b"{\"a\":1}\n"),
            (b"", b"\n"),
            (b"{\"a\":\"x\\ny\"}", b"{\"a\":\"x\\ny\"}\n"),
            (b"[1,2]", b"[1,2]\n"),
        ],
    );
    check_frames(&ndjson(), b"{}\r\n[]\nfalse", &[b"{}", b"[]", b"false"]);
    let long = [&b"{}\n\""[..], &[b'x'; 1 << 20]].concat();
    let mut deframer = Deframer::new(ndjson());
    deframer.extend(&long);
    assert_eq!(deframer.next_frame().expect("valid"), Some(&b"{}"[..]));
    let error = deframer.next_frame().expect_err("the line is too long");
    assert_eq!(
        error.error.to_string(),
        "frame of 1048577 bytes exceeds the limit of 1048576"
    );
    let short = ndjson().frame_len_max(8);
    let error = "frame of 9 bytes exceeds the limit of 8";
    check_error(&short, b"{}\n[1,2,3,4]\n{}\n", &[b"{}"], error);
    assert_eq!(
        refusal(&ndjson(), b"{\n}"),
        "payload cannot be encoded as a frame: the payload contains a line end"
    );
}

#[test]
fn nmea_sentences_come_back_from_every_cut() {
    let sentences: [&[u8]; 3] = [
        b"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47",
        b"$GPGLL,4916.45,N,12311.12,W,225444,A*31",
        b"$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A",
    ];
    let wire = sentences.map(|sentence| [sentence, b"\r\n"].concat());
    check(
        &nmea(),
        &[0, 1, 2].map(|index| (sentences[index], &wire[index][..])),
    );
    assert_eq!(
        nmea_fields(sentences[1]),
        Some(&sentences[1][1..sentences[1].len() - 3])
    );
    // A position of a ship, from an AIS receiver.
    let ship = b"!AIVDM,1,1,,B,177KQJ5000G?tO`K>RA1wUbN0TKH,0*5C";
    assert_eq!(nmea_fields(ship), Some(&ship[1..ship.len() - 3]));
    for wrong in [&b"$GPGLL*00"[..], b"GPGLL*50", b"$*", b"", b"4.45,N,A*31"] {
        assert_eq!(nmea_fields(wrong), None);
    }
    // A reader that starts in the middle of a sentence, and a line of noise that is too long.
    let stream = [
        b"A*31\r\n",
        &[b'U'; 100][..],
        b"\r\n",
        sentences[1],
        b"\r\n",
    ]
    .concat();
    check_frames(&nmea(), &stream, &[b"A*31", sentences[1]]);
    assert_eq!(skipped_len(&nmea(), &stream), 100);
}
