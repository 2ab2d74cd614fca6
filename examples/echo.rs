//! An echo server for framed TCP and for UDP.
//!
//! ```text
//! cargo run --release --example echo
//! cargo run --release --example echo -- --help
//! ```

#[path = "support/cli.rs"]
mod cli;
#[path = "support/tls.rs"]
mod tls;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use unstick::{
    Closed, Config, ConnId, Context, Datagram, Framing, Handler, ListenOptions, Reactor, SendError,
    Stats, UdpId,
};

const HELP: &str = "\
An echo server for framed TCP and for UDP.

Usage: echo [--tcp ADDR] [--udp ADDR] [--framing NAME] [--frame-len-max BYTES]
            [--memory-max BYTES] [--tls CERT KEY | --tls-self-signed FILE]

  --tcp ADDR             accept TCP connections on this address (HOST:PORT)
  --udp ADDR             receive UDP datagrams on this address (HOST:PORT)
                         Without --tcp and --udp, both use 127.0.0.1:7000.
  --framing NAME         how TCP messages are separated: raw, line, line-crlf, u8, u16,
                         u24, u32, u64, u16-le, u24-le, u32-le, u64-le, varint,
                         varint-lax, netstring, fixed-BYTES, such as fixed-64, or
                         delimiter-TEXT, such as delimiter-\\r\\n\\r\\n
                         (default u32: each message is preceded by its length, in
                         four bytes, most significant byte first)
  --frame-len-max BYTES  maximum length of a message (default 1048576)
  --memory-max BYTES     memory for the messages of all clients together (default
                         268435456, at least 65536); clients that use too much are
                         disconnected
  --tls CERT KEY         encrypt TCP with TLS: PEM files of the certificate and its key
  --tls-self-signed FILE encrypt TCP with a new certificate for localhost, 127.0.0.1
                         and ::1, which is written to FILE for the clients
  -h, --help             print this help

The server disconnects a client that sends nothing for 60 s, that needs more than 30 s
to send a message, or that does not read for 30 s.

Set RUST_LOG=debug to log every connection. Ctrl-C or SIGTERM ends the server:
it sends its queued output first, then prints a line of totals.";

/// Maximum time, after Ctrl-C or SIGTERM, in which the clients can read queued output and close.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(3);

/// Lowest port that is not reserved for system services. Some of these services, such as echo on
/// port 7, reply to any datagram.
const USER_PORT_MIN: u16 = 1024;

struct Echo {
    /// Port of the UDP socket; `None` if there is no UDP socket.
    udp_port: Option<u16>,
}

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        match cx.send(conn, frame) {
            // After `Ok`, nothing is left to do: the reactor stops reading a client whose write
            // queue is above its high watermark. A closed or closing connection needs no echo.
            Ok(_) | Err(SendError::Closing | SendError::Gone) => {}
            Err(error) => {
                log::warn!(
                    "{conn}: cannot echo a frame of {} bytes: {error}",
                    frame.len()
                );
                cx.close(conn);
            }
        }
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: (), closed: Closed) {
        log::info!("{conn} closed: {}", closed.reason);
    }

    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, datagram: Datagram<'_>) {
        if self.reply_may_loop(datagram.from) {
            log::debug!(
                "ignored a datagram from {}: replying to it could cause an endless loop",
                datagram.from
            );
        } else if let Err(error) = cx.send_to(socket, datagram.from, datagram.data) {
            log::debug!("cannot echo a datagram to {}: {error}", datagram.from);
        }
    }
}

impl Echo {
    /// Returns true if a reply to this sender could cause an endless loop.
    ///
    /// Two echo services that reply to each other never stop. One datagram with a forged sender
    /// address can start such a loop. Therefore this server ignores datagrams from a port below
    /// 1024 and from its own port number. Clients do not normally send from these ports.
    ///
    /// This check does not recognise an echo service on any other port. A protocol without this
    /// weakness marks each reply, and never replies to a reply.
    fn reply_may_loop(&self, from: SocketAddr) -> bool {
        from.port() < USER_PORT_MIN || self.udp_port == Some(from.port())
    }
}

struct Options {
    tcp: Option<String>,
    udp: Option<String>,
    framing: Framing,
    memory_max: usize,
    listen: ListenOptions,
}

fn main() -> ExitCode {
    cli::run("echo", HELP, |args| {
        let options = parse_options(args)?;
        let config = Config::for_public_server(options.memory_max);
        let mut reactor = Reactor::with_config(Echo { udp_port: None }, config)?;
        // Handle signals before printing `listening`: a script that waits for this line may send a
        // signal at once.
        reactor.shutdown_on_signals(SHUTDOWN_DEADLINE)?;
        if let Some(addr) = options.tcp {
            let framing = options.framing;
            cli::listen_with(&mut reactor, &addr, framing, &options.listen)?;
        }
        if let Some(addr) = options.udp {
            let socket = cli::bind_udp(&mut reactor, &addr)?;
            let port = reactor.local_inet_addr(socket)?.port();
            reactor.handler_mut().udp_port = Some(port);
        }
        reactor.run()?;
        Ok(print_totals(&reactor.stats())?)
    })
}

fn print_totals(stats: &Stats) -> io::Result<()> {
    writeln!(
        io::stdout(),
        "served {} connections, {} frames ({} bytes in, {} out), {} datagrams ({} bytes); \
         lost {} bytes unsent, {} undecoded, {} datagrams",
        stats.accepted,
        stats.frames_in,
        stats.read_bytes,
        stats.written_bytes,
        stats.datagrams_in,
        stats.datagram_bytes_in,
        stats.unsent_bytes,
        stats.undecoded_bytes,
        stats.datagrams_dropped,
    )
}

fn parse_options(mut args: lexopt::Parser) -> Result<Options, cli::Failure> {
    use lexopt::prelude::*;

    let (mut tcp, mut udp) = (None, None);
    let mut framing = Framing::length_u32();
    let mut frame_len_max = Framing::FRAME_LEN_MAX;
    let mut memory_max = 256 << 20;
    let mut listen = ListenOptions::new();
    while let Some(arg) = args.next()? {
        match arg {
            Long("tcp") => tcp = Some(cli::text(args.value()?)?),
            Long("udp") => udp = Some(cli::text(args.value()?)?),
            Long("framing") => framing = args.value()?.parse()?,
            Long("frame-len-max") => frame_len_max = args.value()?.parse()?,
            Long("memory-max") => memory_max = args.value()?.parse()?,
            Long("tls") => {
                let certificate = cli::text(args.value()?)?;
                let key = cli::text(args.value()?)?;
                listen = listen.tls(tls::server_from_files(&certificate, &key)?);
            }
            Long("tls-self-signed") => {
                let file = cli::text(args.value()?)?;
                listen = listen.tls(tls::server_self_signed(&file)?);
            }
            arg => return Err(cli::unexpected(arg)),
        }
    }
    let memory_min = Config::new().write_low_bytes;
    if memory_max < memory_min {
        let message = format!("--memory-max must be at least {memory_min}");
        return Err(cli::Failure::Usage(message));
    }
    if tcp.is_none() && udp.is_none() {
        let both = "127.0.0.1:7000".to_owned();
        (tcp, udp) = (Some(both.clone()), Some(both));
    }
    let framing = framing.frame_len_max(frame_len_max);
    Ok(Options {
        tcp,
        udp,
        framing,
        memory_max,
        listen,
    })
}
