//! A single-threaded event loop (a *reactor*) for framed TCP and for UDP, built on [mio].
//!
//! # Message framing
//!
//! TCP carries a stream of bytes and no message boundaries. Ten calls of `send` may arrive as one
//! `recv`: the sender's kernel coalesced them, or the receiver read late. One `send` may arrive as
//! ten, because it did not fit into a buffer. Messages arrive *glued* together or *cut* into
//! pieces.
//!
//! ```text
//!         sent   | hello | world | how are you |
//!    TCP:
//!     received   | hellowor | ldhow are yo | u |      bytes, no boundaries
//!
//!         sent   | hello | world | how are you |
//!    UDP:
//!     received   | hello | world | how are you |      whole, or lost
//! ```
//!
//! The remedy is *framing*: a length before each message or a delimiter after it, and a receiver
//! that puts the pieces together again. An event loop has more problems of this kind: edge
//! triggers, partial writes, back-pressure, stale ids, accept storms, and closing without losing
//! data. This crate solves them.
//!
//! The [guide] has a tutorial, answers to common questions, and counterparts for those who
//! come from mio, tokio, Twisted, Netty or libuv.
//!
//! # A server
//!
//! A program implements [`Handler`]: the application state and its callbacks. The reactor owns the
//! handler and passes whole frames to it.
//!
//! ```
//! use unstick::{ConnId, Context, Datagram, Framing, Handler, Reactor, UdpId};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Session = (); // state of one connection
//!
//!     fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
//!         let _ = cx.send(conn, frame); // queued and flushed; never blocks
//!     }
//!
//!     fn on_datagram(&mut self, cx: &mut Context<'_, Self>, udp: UdpId, datagram: Datagram<'_>) {
//!         let _ = cx.send_to(udp, datagram.from, datagram.data);
//!     }
//! }
//!
//! # fn main() -> std::io::Result<()> {
//! let mut reactor = Reactor::new(Echo)?;
//! reactor.listen("127.0.0.1:0", Framing::length_u32())?; // port 0: any free port
//! reactor.bind_udp("127.0.0.1:0")?;
//! # reactor.remote().shutdown(std::time::Duration::ZERO)?;
//! reactor.run()?; // or turn(timeout), inside your own loop
//! # Ok(())
//! # }
//! ```
//!
//! # A client
//!
//! A client uses the same `Handler` trait and the same ids as a server. Payloads that are sent
//! before the connection is open are queued until it opens. A failed connect is reported to
//! `on_close` with the error of the operating system.
//!
//! ```
//! use unstick::{CloseReason, Closed, ConnId, Context, Framing, Handler, Reactor};
//!
//! struct Client;
//!
//! impl Handler for Client {
//!     type Session = &'static str; // passed to connect, returned by on_close
//!
//!     fn on_frame(
//!         &mut self,
//!         cx: &mut Context<'_, Self>,
//!         conn: ConnId,
//!         _: &mut &'static str,
//!         frame: &[u8],
//!     ) {
//!         println!("reply: {}", frame.escape_ascii());
//!         cx.close(conn);
//!     }
//!
//!     fn on_close(
//!         &mut self,
//!         cx: &mut Context<'_, Self>,
//!         _: ConnId,
//!         name: &'static str,
//!         closed: Closed,
//!     ) {
//!         if let CloseReason::ConnectFailed(error) = &closed.reason {
//!             println!("{name} cannot be reached: {error}");
//!         }
//!         cx.stop();
//!     }
//! }
//!
//! # fn main() -> std::io::Result<()> {
//! # let free = std::net::TcpListener::bind("127.0.0.1:0")?;
//! # let addr = free.local_addr()?;
//! # drop(free);
//! let mut reactor = Reactor::new(Client)?;
//! let conn = reactor.connect(addr, Framing::line(), "the greeter");
//! reactor.with(|_, cx| {
//!     let _ = cx.send(conn, b"hello");
//! });
//! reactor.run()
//! # }
//! ```
//!
//! [`Reconnect`] opens a connection again each time it ends. [`Backoff`] sets the delay between the
//! attempts.
//!
//! # Framing
//!
//! | [`Framing`] | content of a frame | payloads that `send` rejects |
//! |---|---|---|
//! | [`raw`](Framing::raw) | the bytes of one read, without framing | none |
//! | [`line`](Framing::line) | the bytes before `\n` or `\r\n` | a `\n` inside, a `\r` at the end |
//! | [`line_crlf`](Framing::line_crlf) | the bytes before `\r\n`; a bare `\r` or `\n` is an error | a `\r` or `\n` inside |
//! | [`length_u8`](Framing::length_u8), [`u16`](Framing::length_u16), [`u24`](Framing::length_u24), [`u32`](Framing::length_u32), [`u64`](Framing::length_u64); all but the first also as `_le` | the number of bytes given by a fixed-size integer before it | longer than the integer can express |
//! | [`varint`](Framing::varint) | the number of bytes given by a LEB128 integer before it | none |
//! | [`length_field`](Framing::length_field) | the number of bytes given by a [`LengthField`] in its header | longer than the field can express |
//! | [`length_fn`](Framing::length_fn) | the whole frame, whose length your function computes from its first bytes | a length that differs from the function's result |
//! | [`header_body`](Framing::header_body) | a header, and a body whose length your function computes from the header | a length that differs from the one in its header |
//! | [`fixed`](Framing::fixed) | a constant number of bytes | any other length |
//! | [`delimiter`](Framing::delimiter), [`delimiters`](Framing::delimiters) | the bytes before a delimiter | a delimiter inside |
//! | [`netstring`](Framing::netstring) | `hello` for `5:hello,` | none |
//! | [`custom`](Framing::custom) | defined by your [`Codec`] | defined by your [`Codec`] |
//!
//! The chapter [on protocols](guide::protocols) has the framing of many well-known protocols, from
//! AMQP to WebSocket.
//!
//! All framings except `raw`, `fixed` and `custom` reject frames longer than
//! [`frame_len_max`](Framing::frame_len_max), in both directions. The length that a peer announces
//! is checked when the header is complete. No memory is reserved for the announced length: a
//! connection's buffer grows with the bytes received.
//!
//! A frame that is too long ends the connection with [`CloseReason::Frame`], which reports the
//! frame's offset in the stream. [`Framing::skip_too_long`] discards such frames instead, and
//! [`on_skipped`](Handler::on_skipped) reports each one.
//!
//! A datagram is a message already. For protocols that also frame their messages over UDP,
//! [`Datagram::frame`] decodes the one frame that a datagram must contain, and
//! [`Datagram::frames`] decodes any number of frames.
//!
//! The framings also work without a reactor: [`Deframer`] and [`Framer`] for bytes from any source,
//! and [`FramedStream`] for a blocking stream.
//!
//! [`testkit`] tests a custom codec. It cuts a stream in many ways, feeds the pieces to the codec,
//! and reports a small cut that the codec decodes incorrectly. `testkit::sim` tests a handler: it
//! runs reactors in a simulated network with virtual time. It requires the feature `sim`.
//!
//! # Back-pressure
//!
//! [`Context::send`] accepts a frame completely or not at all. Its result says how to continue:
//!
//! * [`Sent::Queued`]: continue to send.
//! * [`Sent::AboveHigh`]: the frame is accepted; stop until `on_drained`.
//! * [`SendError`]: the frame is not accepted, and the error is the reason. For example,
//!   [`SendError::Full`]: the write queue would exceed [`Config::write_queue_bytes_max`].
//!
//! A connection above its high watermark is not read until its write queue has drained. So the
//! memory of an echo server stays bounded, without additional code, if a peer does not read.
//! Accepted bytes are either taken by the kernel or counted in [`Closed::unsent_bytes`]. A proxy
//! sets [`Config::read_above_high`], and pauses the connection that its output comes from.
//!
//! A handler can also limit its input. [`Context::pause`] stops reading and
//! [`resume`](Context::resume) continues. [`Context::grant`] allows a number of further frames.
//! [`on_hangup`](Handler::on_hangup) reports a peer that leaves while its connection is not read.
//!
//! Output that a connection gets while its own frames are delivered is written with one system call
//! after the delivery. Output for other connections is written once, at the end of the turn. A
//! payload is copied once. [`send_owned`](Context::send_owned) does not copy a long payload at all,
//! and [`broadcast`](Context::broadcast) copies a long payload once for all receivers.
//!
//! # Datagrams
//!
//! UDP keeps message boundaries, so there is nothing to decode. A message that a peer sent with one
//! call arrives as one [`Datagram`] or is lost. A datagram may be empty. If a datagram was longer
//! than the limit, its field `truncated` is true.
//!
//! [`Context::send_to`] queues a datagram. The queue is sent at the end of the turn, or earlier. On
//! Linux, a reply leaves from the address that the request was sent to, also if the socket is bound
//! to a wildcard address. [`UdpOptions`] asks for more details of a datagram: ECN mark, receive
//! time. These details and the choice of the address for a reply need the feature `udp-batch`,
//! which is on by default. [`Handler::on_datagram_error`] reports the errors of the kernel; they do
//! not close the socket.
//!
//! On Linux one system call receives or sends many datagrams (`recvmmsg`, `sendmmsg`). Consecutive
//! datagrams of one length to one peer pass through the kernel as one (GRO, GSO). Reply inside the
//! callback, so that the replies to a batch become a batch too. Batches change no boundary, order
//! or error. [`Config::datagram_batches`] turns them off, and a build without the feature
//! `udp-batch` does not contain them.
//!
//! # Closing a connection
//!
//! [`Context::close`] sends the queued output and the FIN. Then it discards input until the peer
//! closes too or a deadline passes. Without this step, closing a socket with unread input would
//! make the kernel send a reset. A reset destroys data that the peer has not read yet.
//! [`Context::abort`] sends a reset on purpose.
//!
//! `on_half_close` reports a peer that has ended its side; the peer still receives output. The
//! default of this callback closes the connection: see [`Handler::on_half_close`] if a reply may
//! come later. [`Context::half_close`] ends only this side of a connection; input still arrives.
//!
//! `on_close` is called exactly once for every connection, also for one that never opened, but not
//! for a [refused](Handler::on_refused) one. It receives the reason and the number of bytes lost.
//!
//! # Timers
//!
//! [`Context::set_timer`] calls [`on_timer`](Handler::on_timer) once;
//! [`set_interval`](Context::set_interval) calls it periodically. Each timer carries a number that
//! the program chooses. For a timer of one connection, use the connection's id as the number
//! ([`ConnId::to_bits`]). [`Context::with_session`] then runs code with the session of that
//! connection.
//!
//! # Recording glued and cut messages
//!
//! A recording shows how each `send` travelled: which messages were glued, which were cut, and
//! which headers were split. See [`cutmap`]. The chapter [on stickiness](guide::stickiness) shows
//! it on a real kernel and explains why common remedies do not work.
//!
//! # Limits
//!
//! [`Config`] bounds queues, connections, posted closures, and the work that one connection may
//! cause before other connections are handled. [`Framing::frame_len_max`] bounds frames. The
//! program itself bounds the number of its listeners, datagram sockets and timers. An idle
//! connection owns no buffer. A connection with traffic holds at most one read, one frame and its
//! write queue.
//!
//! [`Context::set_limits`] sets watermarks and timeouts for a single connection.
//!
//! [`memory_bytes_max`](Config::memory_bytes_max), if set, limits the memory of all connections
//! together. At the limit, nothing more is read or accepted for sending until memory is free again.
//!
//! Three timeouts end the connections of clients that misbehave:
//!
//! * [`read_idle_timeout`](Config::read_idle_timeout) closes connections that send nothing.
//! * [`frame_deadline`](Config::frame_deadline) closes connections that send a frame too slowly.
//! * [`write_stall_timeout`](Config::write_stall_timeout) aborts connections whose peer does not
//!   read.
//!
//! These timeouts and `memory_bytes_max` are off by default. [`Config::for_public_server`] sets all
//! four for a server that unknown clients can reach.
//!
//! # Socket options
//!
//! [`listen`](Reactor::listen), [`connect`](Reactor::connect) and [`bind_udp`](Reactor::bind_udp)
//! use the default options. [`listen_with`](Context::listen_with),
//! [`connect_with`](Context::connect_with) and [`bind_udp_with`](Context::bind_udp_with) take
//! options that must be set before the socket is in use: a shared port
//! ([`ListenOptions::reuse_port`]), a timeout or a local address ([`ConnectOptions`]), multicast
//! groups ([`UdpOptions`]). [`Context::socket`] reads and sets the options of an open socket.
//!
//! # Unix sockets and existing sockets
//!
//! [`listen`](Reactor::listen) and [`connect`](Reactor::connect) also accept the address of a Unix
//! socket: a [`UnixAddr`], or an [`Addr`] parsed from a configuration. Such connections behave like
//! TCP connections. [`Context::bind_unix_datagram`] opens a Unix datagram socket.
//!
//! [`Context::adopt_listener`], [`adopt_stream`](Context::adopt_stream) and
//! [`adopt_udp`](Context::adopt_udp) take over sockets that std opened or that a parent process
//! passed on. The example `activated` receives its sockets from systemd. [`Context::detach`] and
//! [`detach_udp`](Context::detach_udp) let a connection or a UDP socket leave its reactor, so that
//! another reactor or process can adopt it.
//!
//! The chapter [on sockets](guide::sockets) lists the functions of the socket module of Python and
//! of C with their counterparts in this crate.
//!
//! # Threads and other event loops
//!
//! [`Reactor::remote`] returns a [`Remote`]. Other threads use it to post closures to the loop's
//! thread and to send to its connections. Their queue is bounded, and a rejected closure or payload
//! is returned. [`Remote::call`] waits for the result of a closure.
//!
//! A program with its own event loop calls [`Reactor::turn`] and may [watch the poll's
//! descriptor](guide::embedding).
//!
//! `Reactor::shutdown_on_signals` shuts down gracefully on SIGINT, SIGTERM and SIGHUP.
//! `Context::catch_signal` reports a signal to `Handler::on_signal`. Both require the feature
//! `signals`. On Unix, neither starts a thread.
//!
//! [`Config::busy_poll`] trades processor time for lower latency.
//!
//! # Logging
//!
//! The crate logs through the facade [`log`](https://docs.rs/log), with two targets. With
//! `env_logger`, for example, `RUST_LOG=unstick=debug` turns on the first one alone.
//!
//! | target | level | lines |
//! |---|---|---|
//! | `unstick` | `warn` | refused connections, invalid frames, slow callbacks, limits; each kind at most once a second |
//! | `unstick` | `debug` | connections that open and end |
//! | `unstick::io` | `trace` | each read and write of a connection, with its length |
//!
//! With the feature `log-kv`, each line of a connection also has the keys `conn` and `peer`, for
//! loggers with structured output. A line that is not logged costs the same with this feature.
//!
//! # Cost
//!
//! A connection is registered once, for both directions and edge-triggered. In the steady state
//! `strace -c` counts these system calls:
//!
//! | 64 connections, frames of 64 bytes | reads | writes | polls | `epoll_ctl` |
//! |---|---|---|---|---|
//! | one frame at a time, per frame | 1 | 1 | 0.02 | 0 |
//! | 32 frames at a time, per 32 frames | 1 | 1 | 0.02 | 0 |
//!
//! The steady state allocates no memory. The README compares these figures with other libraries.
//! The chapter [on tuning](guide::tuning) explains how to measure them and which settings change
//! them.
//!
//! # Panics
//!
//! The crate panics on its own bugs and on invalid arguments, as the documentation of a function
//! states. It never panics on the behaviour of a peer or of the system. A panic in a [`Handler`]
//! belongs to the program; the reactor [stays usable](Handler#panics).
//!
//! # Platforms
//!
//! Linux is the tested platform, and all measurements were made on it. The README lists the systems
//! for which the crate compiles. On a system on which a short read does not prove that a socket is
//! empty, the crate reads until the socket would block. On a system without batches, each datagram
//! takes one system call.
//!
//! [mio]: https://docs.rs/mio

#![warn(
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    clippy::print_stderr,
    clippy::print_stdout
)]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]
#![cfg_attr(
    unstick_general_path,
    allow(
        dead_code,
        unused_imports,
        reason = "only the shortcuts use some functions"
    )
)]

// The unit tests also compile `tests/common/naive.rs`, which calls this crate `unstick`.
#[cfg(test)]
extern crate self as unstick;

mod addr;
mod codec;
mod config;
mod conn;
mod context;
pub mod cutmap;
mod datagram;
mod engine;
mod error;
mod event;
mod framed;
mod guard;
pub mod guide;
mod handler;
mod id;
mod log_target;
mod memory;
mod os;
mod payload;
mod proxy_header;
mod reactor;
mod reconnect;
mod remote;
mod setters;
mod shutdown;
#[cfg(feature = "signals")]
mod signal;
mod stats;
pub mod testkit;
mod timer;
#[cfg(feature = "tls")]
mod tls;

pub use addr::{Addr, ToAddrs};
pub use codec::{Codec, FrameLen, Framing, LengthField, Out, ParseFramingError, Skipped, Step};
pub use config::{Config, Limits};
pub use context::Context;
pub use datagram::{Datagram, DatagramError, DatagramFault, DatagramFrames, Ecn, Route};
pub use error::{CallError, DecodeError, FrameError, Gone, NotSent, PostError, SendError, Sent};
pub use event::{CloseReason, Closed, Detached, Hangup, Origin, Refusal};
pub use framed::{Decoded, Deframer, FramedStream, Framer};
#[cfg(feature = "tokio-util")]
pub use framed::{Items, TokioCodec};
pub use handler::Handler;
pub use id::{ConnId, ListenerId, SocketId, UdpId};
pub use os::{ConnectOptions, Keepalive, ListenOptions, SocketRef, UdpOptions};
pub use payload::Payload;
pub use proxy_header::{IpNetwork, ProxyError, ProxyHeader, ProxyProtocol};
pub use reactor::Reactor;
pub use reconnect::{Backoff, Reconnect};
pub use remote::Remote;
/// The version of rustls whose configurations this crate takes. A release that needs another
/// version of rustls is a breaking release.
#[cfg(feature = "tls")]
pub use rustls;
pub use shutdown::{ShutdownPhase, ShutdownPlan};
#[cfg(feature = "signals")]
pub use signal::Signal;
pub use stats::{ConnStats, Stats};
pub use timer::TimerId;
#[cfg(feature = "tls")]
pub use tls::{TlsError, TlsInfo, TlsVersion};
#[cfg(unix)]
pub use {addr::UnixAddr, datagram::UnixDatagram, id::UnixDatagramId};
