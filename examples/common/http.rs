//! HTTP/1.1 as a framing, for several examples: each frame is one request head. The crate httparse
//! parses the heads.

use unstick::{Codec, FrameError, Out, Step};

/// Maximum length of a request head, in bytes; a longer head gets the status 431.
pub(crate) const HEAD_LEN_MAX: usize = 8 * 1024;
/// Maximum number of headers of a request; a head with more of them gets the status 431.
const HEADERS_MAX: usize = 64;

/// The codec of the server's connections.
///
/// Bytes that are not a valid request are delivered as a frame too. So `on_frame` sends every
/// response, including those to invalid requests.
pub(crate) struct Http;

impl Codec for Http {
    type State = ();

    fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
        let all = Step::Frame {
            frame: 0..bytes.len(),
            consumed: bytes.len(),
        };
        Ok(match parse(bytes) {
            Parsed::Request { head_len, .. } => Step::Frame {
                frame: 0..head_len,
                consumed: head_len,
            },
            Parsed::Bad(_) => all,
            // After each read, the codec parses the partial head from its start. The length limit
            // of a head bounds this work.
            Parsed::Partial => Step::Need(bytes.len() + 1),
        })
    }

    /// Writes the response unchanged.
    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(payload);
        Ok(())
    }
}

/// The parts of a request that the examples use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    #[allow(dead_code, reason = "not every example has parameters")]
    pub(crate) query: &'a str,
    /// True if the connection closes after the response.
    pub(crate) close: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    Request {
        request: Request<'a>,
        head_len: usize,
    },
    Partial,
    /// An invalid request and the status of its response; later bytes are ignored.
    Bad(Status),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "not every example sends every status")]
pub(crate) enum Status {
    Ok = 200,
    BadRequest = 400,
    NotFound = 404,
    MethodNotAllowed = 405,
    ContentTooLarge = 413,
    HeadersTooLarge = 431,
    Unavailable = 503,
}

impl Status {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::BadRequest => "Bad Request",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::ContentTooLarge => "Content Too Large",
            Self::HeadersTooLarge => "Request Header Fields Too Large",
            Self::Unavailable => "Service Unavailable",
        }
    }
}

pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let head_len = match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len > HEAD_LEN_MAX => {
            return Parsed::Bad(Status::HeadersTooLarge);
        }
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() > HEAD_LEN_MAX => {
            return Parsed::Bad(Status::HeadersTooLarge);
        }
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(httparse::Error::TooManyHeaders) => return Parsed::Bad(Status::HeadersTooLarge),
        Err(_) => return Parsed::Bad(Status::BadRequest),
    };
    let header = |name: &str| {
        let mut headers = head.headers.iter();
        let header = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    // No resource accepts a body, so a request with a body is rejected.
    let has_body = header("content-length").is_some_and(|len| len.trim() != "0");
    if has_body || header("transfer-encoding").is_some() {
        return Parsed::Bad(Status::ContentTooLarge);
    }
    let connection_header = header("connection")
        .unwrap_or_default()
        .to_ascii_lowercase();
    let close = head.version == Some(0) || connection_header.contains("close");
    let target = head.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let method = head.method.unwrap_or_default();
    let request = Request {
        method,
        path,
        query,
        close,
    };
    Parsed::Request { request, head_len }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_head_is_complete_only_at_its_end() {
        let head = b"GET /run?count=3 HTTP/1.1\r\nHost: here\r\n\r\n";
        for len in 0..head.len() {
            assert_eq!(parse(&head[..len]), Parsed::Partial, "first {len} bytes");
        }
        let Parsed::Request { request, head_len } = parse(head) else {
            panic!("a complete request head was not recognised");
        };
        assert_eq!(head_len, head.len());
        let Request {
            path, query, close, ..
        } = request;
        assert_eq!((path, query, close), ("/run", "count=3", false));
    }

    #[test]
    fn invalid_requests_map_to_a_status() {
        let bad = |bytes: &[u8]| match parse(bytes) {
            Parsed::Bad(status) => status,
            other => panic!("an invalid request was accepted: {other:?}"),
        };
        assert_eq!(bad(b"\x16\x03\x01"), Status::BadRequest);
        let body = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(bad(body), Status::ContentTooLarge);
        let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(bad(chunked), Status::ContentTooLarge);
        let mut long = b"GET / HTTP/1.1\r\nX: ".to_vec();
        long.resize(HEAD_LEN_MAX + 1, b'x');
        assert_eq!(bad(&long), Status::HeadersTooLarge);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(65));
        assert_eq!(bad(many.as_bytes()), Status::HeadersTooLarge);
    }
}
