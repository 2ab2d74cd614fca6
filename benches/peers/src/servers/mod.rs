//! The echo servers, one file each, and what they share: the user's function and the greeting.
//!
//! Each server binds a free port of 127.0.0.1, prints `port N`, and echoes until it is killed. It
//! decodes every frame and hands it to [`on_frame`], which is not inlined: so each pays for a call
//! into the user's code, and none can pass bytes on without having found the frames in them.

mod epoll;
mod message_io;
mod mio_plain;
mod tokio;
mod tokio_tuned;
mod unstick;

use std::hint::black_box;
use std::io::{self, Write};

use crate::framing::Framing;

/// One of the servers that are compared.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) framing: Framing,
    /// One line that says what is special about it.
    pub(crate) summary: &'static str,
    /// Serves until the process is killed; it returns only with an error.
    pub(crate) serve: fn() -> io::Result<()>,
}

/// All servers; the first is the one that the others are compared with.
pub(crate) const ALL: &[Server] = &[
    Server {
        name: "epoll",
        framing: Framing::U32,
        summary: "the plainest hand-written level-triggered epoll loop",
        serve: epoll::serve,
    },
    Server {
        name: "unstick",
        framing: Framing::U32,
        summary: "this library, with its defaults",
        serve: unstick::serve,
    },
    Server {
        name: "mio-plain",
        framing: Framing::U32,
        summary: "a loop as mio's own tcp_server example teaches it",
        serve: mio_plain::serve,
    },
    Server {
        name: "tokio",
        framing: Framing::U32,
        summary: "current-thread tokio, Framed, one awaited send per frame",
        serve: tokio::serve,
    },
    Server {
        name: "tokio-tuned",
        framing: Framing::U32,
        summary: "the same, but it feeds all frames that are ready and flushes once",
        serve: tokio_tuned::serve,
    },
    Server {
        name: "message-io",
        framing: Framing::Varint,
        summary: "message-io's FramedTcp, which brings its own framing",
        serve: message_io::serve,
    },
];

/// The server of that name.
pub(crate) fn find(name: &str) -> Option<&'static Server> {
    ALL.iter().find(|server| server.name == name)
}

/// The user's code: it is given a whole frame and answers what to send back.
///
/// The black box keeps the optimiser from knowing that the answer is the frame itself.
#[inline(never)]
fn on_frame(frame: &[u8]) -> &[u8] {
    black_box(frame)
}

/// Tells the parent process where the server listens.
fn announce(port: u16) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "port {port}")?;
    output.flush()
}
