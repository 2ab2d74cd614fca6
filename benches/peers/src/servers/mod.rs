//! The echo servers, and their common parts: the user's function and the start message.
//!
//! Each server binds a free port of 127.0.0.1, prints `port N`, and echoes until it is killed. Each
//! server passes every frame or datagram to [`on_frame`], which is not inlined. A server in C or
//! C++ passes them to an equal function of `native`. So the time of a server contains a call of
//! user code, and no server can echo bytes without finding the frames.

mod epoll;
mod message_io;
mod mio_plain;
#[cfg(any(libuv, asio))]
mod native;
mod tls_epoll;
mod tls_tokio;
mod tokio;
mod tokio_tuned;
mod udp_epoll;
mod udp_message_io;
mod udp_tokio;
mod unstick;

use std::hint::black_box;
use std::io::{self, Write};

use crate::cell::{Cell, Transport};
use crate::framing::Framing;

/// Protocol of a server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Frames on TCP connections.
    Tcp(Framing),
    /// Frames with [`Framing::U32`] on TLS connections.
    Tls,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// Returns the framing of a server for plain TCP.
    pub(crate) fn tcp_framing(self) -> Option<Framing> {
        match self {
            Self::Tcp(framing) => Some(framing),
            Self::Tls | Self::Udp => None,
        }
    }
}

/// A server of the comparison.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    /// One line for the help text.
    pub(crate) summary: &'static str,
    /// Function that runs the server until the process is killed. It returns only with an error.
    pub(crate) serve: fn() -> io::Result<()>,
}

/// All servers. By default, ratios refer to the first server of a protocol.
pub(crate) const ALL: &[Server] = &[
    Server {
        name: "epoll",
        protocol: Protocol::Tcp(Framing::U32),
        summary: "the plainest hand-written level-triggered epoll loop",
        serve: epoll::serve,
    },
    Server {
        name: "unstick",
        protocol: Protocol::Tcp(Framing::U32),
        summary: "this library with its default configuration",
        serve: unstick::serve,
    },
    Server {
        name: "unstick-public",
        protocol: Protocol::Tcp(Framing::U32),
        summary: "this library with the configuration of a public server",
        serve: unstick::serve_in_public,
    },
    Server {
        name: "mio-plain",
        protocol: Protocol::Tcp(Framing::U32),
        summary: "a loop written after mio's tcp_server example",
        serve: mio_plain::serve,
    },
    Server {
        name: "tokio",
        protocol: Protocol::Tcp(Framing::U32),
        summary: "current-thread tokio, Framed, one awaited send per frame",
        serve: tokio::serve,
    },
    Server {
        name: "tokio-tuned",
        protocol: Protocol::Tcp(Framing::U32),
        summary: "like tokio, but feeds all ready frames and flushes once",
        serve: tokio_tuned::serve,
    },
    Server {
        name: "message-io",
        protocol: Protocol::Tcp(Framing::Varint),
        summary: "message-io's FramedTcp, with its own varint framing",
        serve: message_io::serve,
    },
    #[cfg(libuv)]
    Server {
        name: "libuv",
        protocol: Protocol::Tcp(Framing::U32),
        summary: "libuv, tuned: one buffer for all reads, one uv_try_write per read",
        serve: native::libuv_tcp,
    },
    #[cfg(asio)]
    Server {
        name: "asio",
        protocol: Protocol::Tcp(Framing::U32),
        summary: "asio (C++), one buffer per connection, one async_write per read",
        serve: native::asio_tcp,
    },
    Server {
        name: "tls-epoll",
        protocol: Protocol::Tls,
        summary: "the plainest hand-written epoll loop over rustls, one write per readiness",
        serve: tls_epoll::serve,
    },
    Server {
        name: "tls-unstick",
        protocol: Protocol::Tls,
        summary: "this library with its default configuration and a TLS listener",
        serve: unstick::serve_tls,
    },
    Server {
        name: "tls-tokio",
        protocol: Protocol::Tls,
        summary: "current-thread tokio-rustls, Framed, one awaited send per frame",
        serve: tls_tokio::serve,
    },
    Server {
        name: "tls-tokio-tuned",
        protocol: Protocol::Tls,
        summary: "like tls-tokio, but feeds all ready frames and flushes once",
        serve: tls_tokio::serve_tuned,
    },
    Server {
        name: "udp-epoll",
        protocol: Protocol::Udp,
        summary: "the plainest hand-written epoll loop, one datagram per system call",
        serve: udp_epoll::serve,
    },
    Server {
        name: "udp-unstick",
        protocol: Protocol::Udp,
        summary: "this library with its default configuration",
        serve: unstick::serve_udp,
    },
    Server {
        name: "udp-tokio",
        protocol: Protocol::Udp,
        summary: "current-thread tokio, recv_from and send_to in a loop",
        serve: udp_tokio::serve,
    },
    Server {
        name: "udp-message-io",
        protocol: Protocol::Udp,
        summary: "message-io's Udp transport",
        serve: udp_message_io::serve,
    },
    #[cfg(libuv)]
    Server {
        name: "udp-libuv",
        protocol: Protocol::Udp,
        summary: "libuv with UV_UDP_RECVMMSG, and uv_udp_try_send",
        serve: native::libuv_udp,
    },
    #[cfg(asio)]
    Server {
        name: "udp-asio",
        protocol: Protocol::Udp,
        summary: "asio (C++), alternating async_receive_from and async_send_to",
        serve: native::asio_udp,
    },
];

/// Peers that were not built because their library is missing.
pub(crate) const LEFT_OUT: &[&str] = &[
    #[cfg(not(libuv))]
    "libuv (Debian: libuv1-dev)",
    #[cfg(not(asio))]
    "asio (Debian: libasio-dev)",
];

/// Servers that never sleep. The benchmark `busy` measures one of them at a time: on a shared core,
/// each server would take the CPU time of the others.
pub(crate) const BUSY: &[Server] = &[
    Server {
        name: "epoll-busy",
        protocol: Protocol::Tcp(Framing::U32),
        summary: "the epoll loop with a timeout of zero, so it never sleeps",
        serve: epoll::serve_busily,
    },
    Server {
        name: "unstick-busy",
        protocol: Protocol::Tcp(Framing::U32),
        summary: "this library with unlimited busy_poll, so it never sleeps",
        serve: unstick::serve_busily,
    },
];

impl Server {
    /// Returns true if the server handles the transport of the cell.
    pub(crate) fn serves(&self, cell: Cell) -> bool {
        match cell.transport {
            Transport::Tcp => matches!(self.protocol, Protocol::Tcp(_)),
            Transport::Tls | Transport::TlsHandshakes => self.protocol == Protocol::Tls,
            Transport::Udp | Transport::UdpSegmented => self.protocol == Protocol::Udp,
        }
    }
}

/// Returns the server with this name.
pub(crate) fn find(name: &str) -> Option<&'static Server> {
    let mut all = ALL.iter().chain(BUSY);
    all.find(|server| server.name == name)
}

/// Returns the reply to a frame. This function represents the user's code.
///
/// The black box hides from the optimiser that the reply is the frame itself.
#[inline(never)]
fn on_frame(frame: &[u8]) -> &[u8] {
    black_box(frame)
}

/// Prints the server's port for the parent process.
pub(crate) fn announce(port: u16) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "port {port}")?;
    output.flush()
}
