//! A single-threaded event loop (a *reactor*) for framed TCP and for UDP, on [mio].
//!
//! # Why
//!
//! TCP is a stream of bytes. Ten calls of `send` may arrive as one `recv`, because the sender's
//! kernel gathered them or the receiver came late; one `send` may arrive as ten, because it did not
//! fit. Nothing in the stream says where a message ended: messages *stick together*, and are *cut*.
//!
//! ```text
//!         sent   | hello | world | how are you |
//!    TCP:
//!     received   | hellowor | ldhow are yo | u |      bytes, boundaries gone
//!
//!         sent   | hello | world | how are you |
//!    UDP:
//!     received   | hello | world | how are you |      whole, or not at all
//! ```
//!
//! The cure is *framing*: a length in front, or a delimiter behind, and a program that puts the
//! pieces together again. Around that cure are the hard parts of every event loop: edge triggers,
//! partial writes, back-pressure, stale tokens, accept storms, closing without losing data. This
//! crate is those parts, done once.
//!
//! # A server
//!
//! A program is a [`Handler`]: its state, and what it does when something happens. The reactor
//! owns it and calls it with whole frames.
//!
//! ```
//! use unstick::{ConnId, Context, Datagram, Framing, Handler, Reactor, UdpId};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Session = (); // what each connection has of its own
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
//! reactor.listen("127.0.0.1:0", Framing::length_u32())?; // port 0: a free one
//! reactor.bind_udp("127.0.0.1:0")?;
//! # reactor.remote().shutdown(std::time::Duration::ZERO)?;
//! reactor.run()?; // or turn(timeout), from a loop of your own
//! # Ok(())
//! # }
//! ```
//!
//! # A client
//!
//! The same handler and the same ids. What is sent before the connection is open waits for it; a
//! connect that fails is told by `on_close`, with the error of the system.
//!
//! ```
//! use unstick::{CloseReason, Closed, ConnId, Context, Framing, Handler, Reactor};
//!
//! struct Client;
//!
//! impl Handler for Client {
//!     type Session = &'static str; // given to connect, and given back by on_close
//!
//!     fn on_frame(
//!         &mut self,
//!         cx: &mut Context<'_, Self>,
//!         conn: ConnId,
//!         _: &mut &'static str,
//!         frame: &[u8],
//!     ) {
//!         println!("answered: {}", frame.escape_ascii());
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
//! A connection that is to be made again whenever it ends is a [`Reconnect`], with a [`Backoff`]
//! between its tries.
//!
//! # Framing
//!
//! | [`Framing`] | a frame is | refused at `send` |
//! |---|---|---|
//! | [`raw`](Framing::raw) | what one read gave: no framing | nothing |
//! | [`line`](Framing::line) | what stands before `\n`, or `\r\n` | a `\n` inside, a `\r` at the end |
//! | [`length_u8`](Framing::length_u8), [`u16`](Framing::length_u16), [`u24`](Framing::length_u24), [`u32`](Framing::length_u32), [`u64`](Framing::length_u64), each but the first also `_le` | as long as the number in front says | more than the number can say |
//! | [`varint`](Framing::varint) | as long as the LEB128 number in front says | nothing |
//! | [`length_field`](Framing::length_field) | as long as a [`LengthField`] in its header says | more than the field can say |
//! | [`header_body`](Framing::header_body) | a header, and as much as your function computes from it | what its header does not tell |
//! | [`fixed`](Framing::fixed) | always the same number of bytes | any other number |
//! | [`delimiter`](Framing::delimiter), [`delimiters`](Framing::delimiters) | what stands before a delimiter | a delimiter inside |
//! | [`netstring`](Framing::netstring) | `5:hello,` | nothing |
//! | [`custom`](Framing::custom) | what your [`Codec`] says | what your [`Codec`] says |
//!
//! All but `raw` refuse, in both directions, more than [`frame_len_max`](Framing::frame_len_max). A
//! length that a peer claims is checked by its header alone, and no memory is reserved for it: a
//! connection's buffer grows with the bytes that came. A frame that is too long ends its stream
//! with [`CloseReason::Frame`], which tells where it began; or it is
//! [skipped](Framing::skip_too_long), exactly, and [`on_skipped`](Handler::on_skipped) tells of it.
//!
//! A datagram is a message already. Where a protocol frames its messages over UDP too,
//! [`Datagram::frame`] gives the one frame that a datagram must be.
//!
//! The framings serve without a reactor too: [`Deframer`] and [`Framer`] for bytes from anywhere,
//! [`FramedStream`] for a blocking stream.
//!
//! A codec of one's own is best tested by [`testkit`]: it gives it every cut of a stream, and tells
//! the smallest that it does not survive.
//!
//! # Sending, and a peer that does not read
//!
//! [`Context::send`] accepts a frame whole or not at all, and says what to do next: go on
//! ([`Sent::Queued`]), stop until `on_drained` ([`Sent::AboveHigh`]), or why it was refused
//! ([`SendError`]). A connection above its high mark is read no more until it has drained, so an
//! echo to a peer that does not read is bounded without a line of code. What is accepted is taken
//! by the kernel, or counted in [`Closed::unsent_bytes`].
//!
//! What a handler cannot work off it need not let in: [`Context::pause`] and
//! [`resume`](Context::resume) stop and go on, [`Context::grant`] lets frames in by number. A peer
//! that goes meanwhile is told of by [`on_hangup`](Handler::on_hangup).
//!
//! All that one connection is sent while its own frames are delivered is written by one call when
//! they are done; what other connections are sent is written once at the end of the turn. A payload
//! is copied once on its way; a long one that is given by value, by
//! [`send_owned`](Context::send_owned), not at all, and a long broadcast once for all.
//!
//! # Datagrams
//!
//! UDP keeps its boundaries, so there is nothing to decode: what one peer sent with one call is one
//! [`Datagram`], or is lost. It may be empty, and says whether it was longer than was allowed for.
//! [`Context::send_to`] queues; the queue goes out at the end of the turn, and what the kernel then
//! says of a datagram is told by [`Handler::on_datagram_error`] and ends nothing.
//!
//! On Linux many datagrams are received and sent with one system call, and those of one length that
//! go to one peer at once pass through the kernel as one (`recvmmsg`, `sendmmsg`, GRO, GSO): so
//! answer in the callback, and the answers to a batch are a batch. No boundary, order or error is
//! changed by it; [`Config::datagram_batches`] turns it off, and without the crate's feature
//! `udp-batch` it is not there.
//!
//! # Closing
//!
//! [`Context::close`] flushes, sends the FIN, and then discards input until the peer ends too, or
//! until a deadline: closing a socket that has unread input would make the kernel send a reset, and
//! a reset destroys what the peer has not read yet. [`Context::abort`] is the reset. A peer that
//! ends its side is told of by `on_half_close` and still gets what is sent to it;
//! [`Context::half_close`] ends this side the same way.
//!
//! `on_close` comes exactly once for every connection, also for one that never opened, with the
//! reason and with the bytes that were lost.
//!
//! # Timers
//!
//! [`Context::set_timer`] has [`on_timer`](Handler::on_timer) called once, and
//! [`set_interval`](Context::set_interval) again and again. Each carries a number of the program's
//! own. Where it is about a connection, that number is the connection's id
//! ([`ConnId::to_bits`]), and [`Context::with_session`] does then what the connection's own
//! callbacks do.
//!
//! # Seeing it
//!
//! What became of each `send` on its way can be recorded, and looked at: which were glued, which
//! were cut, which headers were split. See [`cutmap`], and the chapter [on
//! stickiness](guide::stickiness), which shows it on a real kernel and ends the common cures that
//! are none.
//!
//! # Limits
//!
//! Everything is bounded, by [`Config`]: frames, queues, connections, timers and closures, and the
//! work that one connection may cause before the others have their turn. A connection that idles
//! owns no buffer at all; one that does not holds at most one read, one frame and its write queue.
//!
//! A connection may have marks and timeouts of its own: [`Context::set_limits`].
//!
//! All connections together are held to [`memory_bytes_max`](Config::memory_bytes_max), where one is set: at
//! that limit nothing more is read and nothing accepted to be sent, until there is room again.
//!
//! A server that strangers reach should also set the three timeouts, which are off by default:
//! [`idle_timeout`](Config::idle_timeout), [`frame_deadline`](Config::frame_deadline) against peers
//! that trickle, and [`write_stall_timeout`](Config::write_stall_timeout) against those that do not
//! read.
//!
//! # Options of sockets
//!
//! [`listen`](Reactor::listen), [`connect`](Reactor::connect) and [`bind_udp`](Reactor::bind_udp)
//! are the easy forms; [`listen_with`](Context::listen_with),
//! [`connect_with`](Context::connect_with) and [`bind_udp_with`](Context::bind_udp_with) take what
//! must stand before: a shared port ([`ListenOptions::reuse_port`]), a timeout or a local address
//! ([`ConnectOptions`]), multicast groups ([`UdpOptions`]). [`Context::socket`] reads and sets the
//! options of a live one.
//!
//! # Unix sockets, and sockets of others
//!
//! [`listen`](Reactor::listen) and [`connect`](Reactor::connect) take the address of a Unix socket
//! as they take one of TCP ([`UnixAddr`], or an [`Addr`] that a configuration names); all else is
//! the same. [`Context::adopt_listener`], [`adopt_stream`](Context::adopt_stream) and
//! [`adopt_udp`](Context::adopt_udp) take in what std opened or a parent handed down: the example
//! `activated` is started by systemd with its sockets. Unix datagram sockets
//! ([`Context::bind_unix_datagram`]) stand beside those of UDP.
//!
//! Who comes from Python or C finds [each function of the socket module](guide::sockets) there with
//! what does the same here.
//!
//! # Other threads, other loops
//!
//! [`Reactor::remote`] gives a [`Remote`] that posts closures to the loop's thread, and sends to
//! its connections, from any other. Both are bounded, and give back what they refuse. A program
//! with a loop of its own calls [`Reactor::turn`] from it, and may [watch the poll's
//! descriptor](guide::embedding).
//!
//! With the feature `signals`, `Reactor::shutdown_on_signals` ends a program gently when it is
//! asked to end. Whoever pays a processor for latency sets [`Config::busy_poll`].
//!
//! # What it costs
//!
//! Sockets are registered once, for both directions and edge-triggered. In the steady state that
//! leaves, as `strace -c` counts it:
//!
//! | 64 connections, frames of 64 bytes | reads | writes | polls | `epoll_ctl` |
//! |---|---|---|---|---|
//! | one frame at a time, per frame | 1 | 1 | 0.02 | 0 |
//! | 32 frames at a time, per 32 frames | 1 | 1 | 0.02 | 0 |
//!
//! and no allocation. The README has the figures beside other libraries; the chapter [on
//! tuning](guide::tuning) tells how to measure them, and what moves them.
//!
//! # Panics
//!
//! The crate panics on a bug of its own, never on what a peer or the system does. A panic in a
//! [`Handler`] is the program's, and leaves the reactor [whole](Handler#panics).
//!
//! # Platforms
//!
//! Linux first: it is where everything was measured. Nothing else that mio serves is shut out;
//! where a short read does not say that a socket is drained, it is read until it would block, and
//! where there are no batches each datagram has a system call of its own.
//!
//! [mio]: https://docs.rs/mio

#![warn(
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    clippy::print_stderr,
    clippy::print_stdout
)]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

// By its name, as a file is shared with the tests outside of it.
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
mod memory;
mod os;
mod payload;
mod reactor;
mod reconnect;
mod remote;
#[cfg(feature = "signals")]
mod signals;
mod stats;
pub mod testkit;
mod timer;

#[cfg(unix)]
pub use addr::UnixAddr;
pub use addr::{Addr, ToAddrs};
pub use codec::{Codec, Framing, LengthField, Out, ParseFramingError, Skipped, Step};
pub use config::{Config, Limits};
pub use context::Context;
#[cfg(unix)]
pub use datagram::UnixDatagram;
pub use datagram::{Datagram, DatagramError, DatagramFault};
pub use error::{DecodeError, FrameError, Gone, NotSent, PostError, SendError, Sent};
pub use event::{CloseReason, Closed, Refusal};
pub use event::{Hangup, Origin};
pub use framed::{Decoded, Deframer, FramedStream, Framer};
pub use handler::Handler;
#[cfg(unix)]
pub use id::UnixDatagramId;
pub use id::{ConnId, ListenerId, SocketId, UdpId};
pub use os::{ConnectOptions, Keepalive, ListenOptions, SocketRef, UdpOptions};
pub use payload::Payload;
pub use reactor::Reactor;
pub use reconnect::{Backoff, Reconnect};
pub use remote::Remote;
pub use stats::{ConnStats, Stats};
pub use timer::TimerId;
