//! The messages between sender and receiver: a header of five bytes, and a body.

use unstick::{ConnId, Context, FrameError, Framing, Handler, SendError, Sent};

/// Length of a header: the kind of the message and the length of its body, in four bytes.
const HEADER_LEN: usize = 5;
/// Maximum length of a body.
pub(crate) const BODY_LEN_MAX: usize = 64 * 1024;
/// Maximum length of the name of a file, in bytes. The name of a partial file adds 71 bytes, and
/// most file systems have names of at most 255 bytes.
const NAME_LEN_MAX: usize = 180;
/// Length of a SHA-256 digest.
const DIGEST_LEN: usize = 32;

const OFFER: u8 = b'O';
const RESUME: u8 = b'R';
const DATA: u8 = b'D';
const STORED: u8 = b'S';
const REFUSED: u8 = b'E';

/// A file that the sender offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) name: String,
    pub(crate) len: u64,
    /// SHA-256 of the whole file.
    pub(crate) digest: [u8; DIGEST_LEN],
}

/// A received message.
pub(crate) enum Message<'a> {
    Offer(Offer),
    /// The receiver has this number of bytes of the file. The sender continues there.
    Resume(u64),
    /// The next bytes of the file.
    Data(&'a [u8]),
    /// The file is complete, and its digest is correct.
    Stored,
    /// The receiver does not take the file. The text is the reason.
    Refused(String),
}

/// Returns the framing of both directions.
pub(crate) fn framing() -> Framing {
    let body_len = |header: &[u8]| match *header {
        [_, a, b, c, d] => Ok(u64::from(u32::from_be_bytes([a, b, c, d]))),
        _ => Err(FrameError::Malformed("the header is not five bytes long")),
    };
    Framing::header_body(Framing::fixed(HEADER_LEN), body_len)
        .frame_len_max(HEADER_LEN + BODY_LEN_MAX)
}

/// Returns the message of a frame.
pub(crate) fn parse(frame: &[u8]) -> Result<Message<'_>, &'static str> {
    let (header, body) = frame.split_at(HEADER_LEN.min(frame.len()));
    match header.first() {
        Some(&OFFER) => parse_offer(body).map(Message::Offer),
        Some(&RESUME) => match body.try_into() {
            Ok(offset) => Ok(Message::Resume(u64::from_be_bytes(offset))),
            Err(_) => Err("an offset has eight bytes"),
        },
        Some(&DATA) => Ok(Message::Data(body)),
        Some(&STORED) => Ok(Message::Stored),
        Some(&REFUSED) => Ok(Message::Refused(String::from_utf8_lossy(body).into_owned())),
        _ => Err("unknown kind of message"),
    }
}

fn parse_offer(body: &[u8]) -> Result<Offer, &'static str> {
    let too_short = "the offer is too short";
    let (len, rest) = body.split_first_chunk().ok_or(too_short)?;
    let (digest, name) = rest.split_first_chunk().ok_or(too_short)?;
    Ok(Offer {
        name: valid_name(name)?.to_owned(),
        len: u64::from_be_bytes(*len),
        digest: *digest,
    })
}

/// Checks the name of a file, which must not lead out of the folder of the receiver.
pub(crate) fn valid_name(name: &[u8]) -> Result<&str, &'static str> {
    let name = str::from_utf8(name).map_err(|_| "the file name is not UTF-8")?;
    let is_valid = |it: char| !it.is_control() && !r#"/\:*?"<>|"#.contains(it);
    match name.len() {
        1..=NAME_LEN_MAX if !name.starts_with('.') && name.chars().all(is_valid) => Ok(name),
        1..=NAME_LEN_MAX => Err("the file name begins with a dot or has a character of a path"),
        _ => Err("a file name has 1 to 180 bytes"),
    }
}

fn send<H: Handler>(
    cx: &mut Context<'_, H>,
    conn: ConnId,
    kind: u8,
    body: &[&[u8]],
) -> Result<Sent, SendError> {
    let len: usize = body.iter().map(|part| part.len()).sum();
    // A body that is too long for the field is too long for the framing too.
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    let kind = [kind];
    cx.send_parts(conn, &[&[&kind[..], &len], body].concat())
}

pub(crate) fn send_offer<H: Handler>(
    cx: &mut Context<'_, H>,
    conn: ConnId,
    offer: &Offer,
) -> Result<Sent, SendError> {
    let body = [
        &offer.len.to_be_bytes()[..],
        &offer.digest,
        offer.name.as_bytes(),
    ];
    send(cx, conn, OFFER, &body)
}

pub(crate) fn send_data<H: Handler>(
    cx: &mut Context<'_, H>,
    conn: ConnId,
    data: &[u8],
) -> Result<Sent, SendError> {
    send(cx, conn, DATA, &[data])
}

pub(crate) fn send_resume<H: Handler>(
    cx: &mut Context<'_, H>,
    conn: ConnId,
    offset: u64,
) -> Result<Sent, SendError> {
    send(cx, conn, RESUME, &[&offset.to_be_bytes()])
}

pub(crate) fn send_stored<H: Handler>(
    cx: &mut Context<'_, H>,
    conn: ConnId,
) -> Result<Sent, SendError> {
    send(cx, conn, STORED, &[])
}

pub(crate) fn send_refused<H: Handler>(
    cx: &mut Context<'_, H>,
    conn: ConnId,
    reason: &str,
) -> Result<Sent, SendError> {
    send(cx, conn, REFUSED, &[reason.as_bytes()])
}
