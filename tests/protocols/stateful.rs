//! Protocols with two kinds of frames. A custom codec searches for the end of one kind, and
//! computes the end of the other kind from a length.

use unstick::testkit::Cuts;
use unstick::{Codec, FrameError, Framing, Out, Step};

use crate::check::{check, check_error, check_frames, check_whole, refusal};
use crate::text::{after_first_line, content_length, decimal};

/// Maximum length of a message of the RTSP codec, in bytes.
const RTSP_LEN_MAX: usize = 128 * 1024;

/// Codec for RTSP. A stream contains messages that start with a head, and frames that start with
/// `$` and have a length of two bytes.
struct Rtsp;

impl Codec for Rtsp {
    type State = usize; // how far a head was searched for its end

    fn decode(&self, searched: &mut usize, bytes: &[u8]) -> Result<Step, FrameError> {
        let end = match *bytes {
            [b'$', _, high, low, ..] => 4 + usize::from(u16::from_be_bytes([high, low])),
            [b'$', ..] => 4,
            [b'\r' | b'\n', ..] => return Ok(Step::Skip { bytes: 1 }), // an empty line
            _ => {
                let unseen = &bytes[searched.saturating_sub(3)..];
                match unseen.windows(4).position(|window| window == b"\r\n\r\n") {
                    Some(at) => {
                        let head_len = bytes.len() - unseen.len() + at + 4;
                        *searched = head_len - 1; // the next call finds this end at once
                        let fields = after_first_line(&bytes[..head_len]);
                        let body_len = content_length(fields, &["Content-Length"])?;
                        let len = body_len.unwrap_or(0).saturating_add(head_len as u64);
                        usize::try_from(len).unwrap_or(usize::MAX)
                    }
                    None => {
                        *searched = bytes.len();
                        bytes.len() + 1
                    }
                }
            }
        };
        if end > RTSP_LEN_MAX {
            return Err(FrameError::TooLong {
                len: end as u64,
                limit: RTSP_LEN_MAX as u64,
            });
        }
        if bytes.len() < end {
            return Ok(Step::Need(end));
        }
        *searched = 0;
        Ok(Step::Frame {
            frame: 0..end,
            consumed: end,
        })
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        match self.decode(&mut 0, if payload.is_empty() { b"\n" } else { payload })? {
            Step::Frame { consumed, .. } if consumed == payload.len() => out.put(payload),
            _ => return Err(FrameError::Unencodable("not exactly one RTSP message")),
        }
        Ok(())
    }
}

/// Maximum length of a frame of the STOMP codec, in bytes.
const STOMP_LEN_MAX: usize = 256 * 1024;

/// Codec for STOMP. A frame ends with a NUL byte: the next one, or the one after the body if the
/// head has a `content-length`.
struct Stomp;

/// Position in one frame of STOMP.
#[derive(Default)]
struct StompState {
    searched: usize,
    /// Length of the head, with its empty line; 0 until it is found.
    head_len: usize,
    /// Offset of the NUL byte, if the head has a `content-length`.
    nul: Option<u64>,
}

/// Returns the length in the first `content-length` header, or `None` if there is no such header.
fn stomp_content_length(head: &[u8]) -> Result<Option<u64>, FrameError> {
    let mut lines = head.split(|&byte| byte == b'\n');
    let Some(digits) = lines.find_map(|line| line.strip_prefix(b"content-length:")) else {
        return Ok(None);
    };
    let len = decimal(digits.strip_suffix(b"\r").unwrap_or(digits));
    len.map(Some)
        .ok_or(FrameError::Malformed("an invalid content-length"))
}

impl Codec for Stomp {
    type State = StompState;

    fn decode(&self, state: &mut StompState, bytes: &[u8]) -> Result<Step, FrameError> {
        if matches!(bytes[0], b'\r' | b'\n') {
            return Ok(Step::Skip { bytes: 1 }); // a heart-beat
        }
        if state.head_len == 0 {
            let from = state.searched.saturating_sub(2);
            let head_end = |at: &usize| {
                bytes[*at..].starts_with(b"\n\n") || bytes[*at..].starts_with(b"\n\r\n")
            };
            if let Some(at) = (from..bytes.len()).find(head_end) {
                state.head_len = at + if bytes[at + 1] == b'\r' { 3 } else { 2 };
                state.searched = state.head_len;
                let len = stomp_content_length(&bytes[..at])?;
                state.nul = len.map(|len| len.saturating_add(state.head_len as u64));
            }
        }
        let nul = match state.nul {
            Some(nul) => usize::try_from(nul).unwrap_or(usize::MAX),
            None if state.head_len == 0 => bytes.len(),
            None => {
                let more = bytes[state.searched..].iter().position(|&byte| byte == 0);
                more.map_or(bytes.len(), |more| state.searched + more)
            }
        };
        if nul > STOMP_LEN_MAX {
            return Err(FrameError::TooLong {
                len: nul as u64,
                limit: STOMP_LEN_MAX as u64,
            });
        }
        match bytes.get(nul) {
            None => {
                state.searched = bytes.len();
                Ok(Step::Need(nul + 1))
            }
            Some(0) => {
                *state = StompState::default();
                Ok(Step::Frame {
                    frame: 0..nul,
                    consumed: nul + 1,
                })
            }
            Some(_) => Err(FrameError::Malformed("no NUL byte after the body")),
        }
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(payload);
        out.put(b"\0");
        match self.decode(&mut StompState::default(), out.bytes())? {
            Step::Frame { frame, .. } if frame.len() == payload.len() => Ok(()),
            _ => Err(FrameError::Unencodable("not exactly one STOMP frame")),
        }
    }
}

#[test]
fn rtsp_messages_come_back_from_every_cut() {
    // RFC 7826, sections 13.1 and 14: OPTIONS, binary data, a response with a body, and binary data
    // of length zero.
    check_whole(
        &Framing::custom(Rtsp),
        &[
            b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n",
            b"$\0\0\x04\x80\x60\r\n",
            b"RTSP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nv=0\r\n",
            b"$\x01\0\0",
        ],
    );
    let big = [&b"$\0\xFF\xFF"[..], &[b'$'; 65_535]].concat();
    check_whole(&Framing::custom(Rtsp), &[&big, &big, b"$\0\0\x01$"]);
    check_frames(
        &Framing::custom(Rtsp),
        b"\r\nOPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n\r\n$\0\0\0",
        &[b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n", b"$\0\0\0"],
    );
}

#[test]
fn rtsp_message_with_an_invalid_length_is_rejected() {
    let framing = Framing::custom(Rtsp);
    check_error(
        &framing,
        b"$\0\0\0GET / RTSP/1.0\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\n",
        &[b"$\0\0\0"],
        "malformed frame: an invalid Content-Length",
    );
    check_error(
        &framing,
        b"RTSP/1.0 200 OK\r\nContent-Length\x0B: 5\r\n\r\n",
        &[],
        "malformed frame: an invalid header line",
    );
    check_error(
        &framing,
        b"RTSP/1.0 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n",
        &[],
        "frame of 18446744073709551615 bytes exceeds the limit of 131072",
    );
    Cuts::of(&framing)
        .stream(b"$\0\0\x01x")
        .frame_len_max(RTSP_LEN_MAX)
        .check();
    let error = "payload cannot be encoded as a frame: not exactly one RTSP message";
    for payload in [&b""[..], b"$\0\0\x02x", b"OPTIONS * RTSP/1.0\r\n"] {
        assert_eq!(refusal(&framing, payload), error);
    }
}

#[test]
fn stomp_frames_come_back_from_every_cut() {
    // STOMP 1.2: CONNECT, SEND with a NUL byte in its body, MESSAGE with CRLF, and a receipt.
    let frames: [&[u8]; 4] = [
        b"CONNECT\naccept-version:1.2\nheart-beat:0,1000\n\n",
        b"SEND\ndestination:/q\ncontent-length:3\n\na\0b",
        b"MESSAGE\r\nsubscription:0\r\n\r\nhello\n\nyou",
        b"RECEIPT\nreceipt-id:1\n\n",
    ];
    let wire = frames.map(|frame| [frame, b"\0"].concat());
    let framing = Framing::custom(Stomp);
    check(
        &framing,
        &[0, 1, 2, 3].map(|index| (frames[index], &wire[index][..])),
    );
    // Heart-beats between frames, in both forms of a line end.
    let stream = [
        b"\n\r\n",
        &wire[0][..],
        b"\n\n",
        &wire[1],
        b"\r\n",
        &wire[3],
        b"\n",
    ]
    .concat();
    check_frames(&framing, &stream, &[frames[0], frames[1], frames[3]]);
    Cuts::of(&framing)
        .stream(b"\nA\n\nx\0\r\nB\r\n\r\n\0")
        .expect(&[b"A\n\nx", b"B\r\n\r\n"])
        .check();
}

/// STOMP 1.2, "Repeated Header Entries": the first one counts. Names are case-sensitive.
#[test]
fn stomp_length_is_the_first_header_of_this_exact_name() {
    let framing = Framing::custom(Stomp);
    let repeated = b"SEND\ncontent-length:3\ncontent-length:1\n\na\0b";
    let other_name = b"SEND\nContent-Length:9\n\nab";
    let stream = [&repeated[..], b"\0", other_name, b"\0"].concat();
    check_frames(&framing, &stream, &[repeated, other_name]);
}

#[test]
fn stomp_frame_with_a_wrong_length_is_malformed() {
    let framing = Framing::custom(Stomp);
    check_error(
        &framing,
        b"A\n\n\0SEND\ncontent-length:2\n\nabc\0",
        &[b"A\n\n"],
        "malformed frame: no NUL byte after the body",
    );
    check_error(
        &framing,
        b"SEND\ncontent-length:-1\n\n\0",
        &[],
        "malformed frame: an invalid content-length",
    );
    check_error(
        &framing,
        b"SEND\ncontent-length:999999999\n\n",
        &[],
        "frame of 1000000030 bytes exceeds the limit of 262144",
    );
    let long = [&b"SEND\n\n"[..], &[b'x'; 1000], b"\0"].concat();
    Cuts::of(&framing)
        .stream(&long)
        .frame_len_max(STOMP_LEN_MAX)
        .check();
    let error = "payload cannot be encoded as a frame: not exactly one STOMP frame";
    for payload in [&b"A\n\nx\0y"[..], b"A\n", b"\nA\n\n"] {
        assert_eq!(refusal(&framing, payload), error);
    }
}
