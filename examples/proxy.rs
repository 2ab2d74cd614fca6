//! A TCP proxy: forwards the bytes between a client and an upstream server, in both directions.
//!
//! ```text
//! cargo run --release --example echo
//! cargo run --release --example proxy -- 127.0.0.1:7003 127.0.0.1:7000
//! ```
//!
//! Memory stays bounded for any amount of data: while the write queue of one connection is above
//! its high watermark, the proxy does not read the other connection. The number of connections and
//! their total memory are limited, and peers that are silent or do not read are disconnected.
//!
//! An orderly end of one connection becomes an orderly end of the other one, after all bytes. Any
//! other end becomes a reset at once. So neither peer mistakes a part of the data for all data. The
//! one exception is a pair without any traffic: after 10 minutes, both connections end orderly.

#[path = "support/cli.rs"]
mod cli;

use std::process::ExitCode;
use std::time::Duration;

use unstick::{
    CloseReason, Closed, Config, ConnId, Context, Framing, Handler, Hangup, Origin, Reactor, Sent,
};

const HELP: &str = "\
A TCP proxy with back-pressure, and with limits for unknown clients.

Usage: proxy LISTEN UPSTREAM

  LISTEN      address to listen on: HOST:PORT or unix:PATH
  UPSTREAM    address of the server to connect to: HOST:PORT
  -h, --help  print this help

The proxy closes a pair of connections without traffic for 10 minutes, and resets a
pair with a peer that does not read for 30 s.";

/// Maximum memory of all connections together, in bytes.
const MEMORY_MAX: usize = 256 << 20;
/// Maximum time without traffic on a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

struct Proxy {
    upstream: String,
}

/// Session of a connection: the id of the other connection of its pair.
#[derive(Default)]
struct Side {
    other: Option<ConnId>,
}

impl Handler for Proxy {
    type Session = Side;

    fn on_open(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        side: &mut Side,
        origin: Origin,
    ) {
        if let Origin::Accepted { .. } = origin {
            // `send` can be called at once: it queues bytes until the upstream connection is open.
            let other = Side { other: Some(conn) };
            side.other = Some(cx.connect(self.upstream.as_str(), Framing::raw(), other));
        }
    }

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        side: &mut Side,
        frame: &[u8],
    ) {
        match side.other.map(|other| cx.send(other, frame)) {
            Some(Ok(Sent::Queued)) => {}
            Some(Ok(_)) => drop(cx.pause(conn)),
            // The bytes cannot be forwarded. The call of `on_close` for this connection then aborts
            // the other one.
            Some(Err(_)) | None => cx.abort(conn),
        }
    }

    fn on_drained(&mut self, cx: &mut Context<'_, Self>, _: ConnId, side: &mut Side) {
        if let Some(other) = side.other {
            let _ = cx.resume(other);
        }
    }

    fn on_half_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, side: &mut Side) {
        // The peer of `conn` ended its stream, so end the stream to the other peer as well. The
        // proxy still forwards bytes in the opposite direction.
        match side.other.map(|other| cx.half_close(other)) {
            Some(Ok(())) => {}
            Some(Err(_)) | None => cx.close(conn),
        }
    }

    fn on_hangup(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        _: &mut Side,
        hangup: Hangup,
    ) {
        // The connection is paused. Bytes before an orderly end are still passed on.
        if hangup == Hangup::Reset {
            cx.abort(conn);
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, side: Side, closed: Closed) {
        log::info!("{conn} closed: {}", closed.reason);
        let Some(other) = side.other else {
            return;
        };
        match closed.reason {
            // No pause is needed any more. `close` sends the queued output first.
            CloseReason::Local | CloseReason::Peer => {
                let _ = cx.resume(other);
                cx.close(other);
            }
            _ => cx.abort(other),
        }
    }
}

fn main() -> ExitCode {
    cli::run("proxy", HELP, |args| {
        let [Some(listen), Some(upstream)] = cli::operands(args)? else {
            return Err(cli::Failure::Usage("two addresses are needed".to_owned()));
        };
        // A peer may be silent while the other one sends, so there is no `read_idle_timeout`.
        //
        // A connection whose write queue is above its high watermark is still read: `on_frame`
        // pauses the other connection, which is the source of that output.
        let config = Config::for_public_server(MEMORY_MAX)
            .read_idle_timeout(None)
            .idle_timeout(IDLE_TIMEOUT)
            .read_above_high(true);
        let mut reactor = Reactor::with_config(Proxy { upstream }, config)?;
        reactor.shutdown_on_signals(Duration::from_secs(1))?;
        cli::listen(&mut reactor, &listen, Framing::raw())?;
        Ok(reactor.run()?)
    })
}
