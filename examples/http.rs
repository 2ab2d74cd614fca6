//! A small HTTP/1.1 server with keep-alive and pipelining.
//!
//! ```text
//! cargo run --release --example http
//! curl 'http://127.0.0.1:7080/hello?name=Ada'
//! ```
//!
//! The framing delivers the head of each request as one frame. For a service in production, a
//! library for HTTP is the better choice: this server has no bodies in requests, no
//! percent-encoding, no compression and no HTTP/2.

#[path = "support/cli.rs"]
mod cli;
#[path = "common/http.rs"]
mod http;

use std::process::ExitCode;
use std::time::Duration;

use http::{Http, Parsed, Request, Status, parse};
use unstick::{Config, ConnId, Context, Framing, Handler, Reactor};

const HELP: &str = "\
A small HTTP/1.1 server.

Usage: http [ADDR]

  ADDR        address to listen on: HOST:PORT or unix:PATH (default 127.0.0.1:7080)
  -h, --help  print this help

Resources: / and /hello?name=NAME";

struct Server;

/// Returns the status and the body of the response to a request.
fn respond(request: &Request<'_>) -> (Status, String) {
    match (request.method, request.path) {
        ("GET" | "HEAD", "/") => (Status::Ok, "Hello. Try /hello?name=Ada\n".to_owned()),
        ("GET" | "HEAD", "/hello") => {
            let mut pairs = request.query.split('&');
            let name = pairs.find_map(|pair| pair.strip_prefix("name="));
            (Status::Ok, format!("Hello, {}.\n", name.unwrap_or("you")))
        }
        ("GET" | "HEAD", _) => (Status::NotFound, "There is no such resource.\n".to_owned()),
        _ => (
            Status::MethodNotAllowed,
            "Only GET and HEAD work.\n".to_owned(),
        ),
    }
}

impl Handler for Server {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), head: &[u8]) {
        let (status, body, has_body, closes) = match parse(head) {
            Parsed::Request { request, .. } => {
                let (status, body) = respond(&request);
                (status, body, request.method != "HEAD", request.close)
            }
            // After an invalid request, the start of the next request is unknown.
            Parsed::Bad(status) => (status, format!("{}\n", status.reason()), true, true),
            Parsed::Partial => return cx.close(conn), // the codec delivers no partial head
        };
        let head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Connection: {}\r\n\r\n",
            status as u16,
            status.reason(),
            body.len(),
            if closes { "close" } else { "keep-alive" },
        );
        let body = if has_body { body.as_bytes() } else { &[] };
        let sent = cx.send_parts(conn, &[head.as_bytes(), body]);
        if closes || sent.is_err() {
            cx.close(conn);
        }
    }
}

fn main() -> ExitCode {
    cli::run("http", HELP, |args| {
        let [addr] = cli::operands(args)?;
        let config = Config::new()
            .idle_timeout(Duration::from_secs(60))
            .frame_deadline(Duration::from_secs(10))
            .write_stall_timeout(Duration::from_secs(10))
            .close_deadline(Duration::from_secs(2));
        let mut reactor = Reactor::with_config(Server, config)?;
        reactor.shutdown_on_signals(Duration::from_secs(1))?;
        let addr = addr.as_deref().unwrap_or("127.0.0.1:7080");
        cli::listen(&mut reactor, addr, Framing::custom(Http))?;
        Ok(reactor.run()?)
    })
}
