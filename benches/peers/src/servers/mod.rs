//! The echo servers, one file each, and what they share: the user's function and the greeting.
//!
//! Each server binds a free port of 127.0.0.1, prints `port N`, and echoes until it is killed. It
//! decodes every frame and hands it to [`on_frame`], which is not inlined: so each pays for a call
//! into the user's code, and none can pass bytes on without having found the frames in them.

mod epoll;
mod message_io;
mod mio_plain;
#[cfg(any(libuv, asio))]
mod native;
mod tokio;
mod tokio_tuned;
mod udp_epoll;
mod udp_message_io;
mod udp_tokio;
mod unstick;

use std::hint::black_box;
use std::io::{self, Write};

use crate::cell::Cell;
use crate::framing::Framing;

/// One of the servers that are compared.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    /// None where it echoes datagrams, which need none.
    pub(crate) framing: Option<Framing>,
    /// One line that says what is special about it.
    pub(crate) summary: &'static str,
    /// Serves until the process is killed; it returns only with an error.
    pub(crate) serve: fn() -> io::Result<()>,
}

/// All servers; the first for frames and the first for datagrams are those that the others are
/// compared with.
pub(crate) const ALL: &[Server] = &[
    Server {
        name: "epoll",
        framing: Some(Framing::U32),
        summary: "the plainest hand-written level-triggered epoll loop",
        serve: epoll::serve,
    },
    Server {
        name: "unstick",
        framing: Some(Framing::U32),
        summary: "this library, with its defaults",
        serve: unstick::serve,
    },
    Server {
        name: "mio-plain",
        framing: Some(Framing::U32),
        summary: "a loop as mio's own tcp_server example teaches it",
        serve: mio_plain::serve,
    },
    Server {
        name: "tokio",
        framing: Some(Framing::U32),
        summary: "current-thread tokio, Framed, one awaited send per frame",
        serve: tokio::serve,
    },
    Server {
        name: "tokio-tuned",
        framing: Some(Framing::U32),
        summary: "the same, but it feeds all frames that are ready and flushes once",
        serve: tokio_tuned::serve,
    },
    Server {
        name: "message-io",
        framing: Some(Framing::Varint),
        summary: "message-io's FramedTcp, which brings its own framing",
        serve: message_io::serve,
    },
    #[cfg(libuv)]
    Server {
        name: "libuv",
        framing: Some(Framing::U32),
        summary: "libuv, tuned: one buffer for all reads, one uv_try_write per read",
        serve: native::libuv_tcp,
    },
    #[cfg(asio)]
    Server {
        name: "asio",
        framing: Some(Framing::U32),
        summary: "asio (C++), a buffer for each connection, one async_write per read",
        serve: native::asio_tcp,
    },
    Server {
        name: "udp-epoll",
        framing: None,
        summary: "the plainest hand-written epoll loop over a socket of datagrams, one by one",
        serve: udp_epoll::serve,
    },
    Server {
        name: "udp-unstick",
        framing: None,
        summary: "this library, with its defaults",
        serve: unstick::serve_udp,
    },
    Server {
        name: "udp-tokio",
        framing: None,
        summary: "current-thread tokio, recv_from and send_to in a loop",
        serve: udp_tokio::serve,
    },
    Server {
        name: "udp-message-io",
        framing: None,
        summary: "message-io's Udp transport",
        serve: udp_message_io::serve,
    },
    #[cfg(libuv)]
    Server {
        name: "udp-libuv",
        framing: None,
        summary: "libuv with UV_UDP_RECVMMSG, and uv_udp_try_send",
        serve: native::libuv_udp,
    },
    #[cfg(asio)]
    Server {
        name: "udp-asio",
        framing: None,
        summary: "asio (C++), async_receive_from and async_send_to in turns",
        serve: native::asio_udp,
    },
];

/// What was left out when this was built, as its library was not there.
pub(crate) const LEFT_OUT: &[&str] = &[
    #[cfg(not(libuv))]
    "libuv (Debian: libuv1-dev)",
    #[cfg(not(asio))]
    "asio (Debian: libasio-dev)",
];

/// Servers that never sleep. They are measured one at a time, by a benchmark of their own: beside
/// others on one core they would take what those need.
pub(crate) const BUSY: &[Server] = &[
    Server {
        name: "epoll-busy",
        framing: Some(Framing::U32),
        summary: "the epoll loop, with a timeout of zero",
        serve: epoll::serve_busily,
    },
    Server {
        name: "unstick-busy",
        framing: Some(Framing::U32),
        summary: "this library, polling busily for ever",
        serve: unstick::serve_busily,
    },
];

impl Server {
    /// Whether it speaks what a cell is of.
    pub(crate) fn serves(&self, cell: Cell) -> bool {
        cell.is_udp() == self.framing.is_none()
    }
}

/// The server of that name.
pub(crate) fn find(name: &str) -> Option<&'static Server> {
    let mut all = ALL.iter().chain(BUSY);
    all.find(|server| server.name == name)
}

/// The user's code: it is given a whole frame and answers what to send back.
///
/// The black box keeps the optimiser from knowing that the answer is the frame itself.
#[inline(never)]
fn on_frame(frame: &[u8]) -> &[u8] {
    black_box(frame)
}

/// Tells the parent process where the server listens.
pub(crate) fn announce(port: u16) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "port {port}")?;
    output.flush()
}
