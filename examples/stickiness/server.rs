//! The server of the page: one reactor, which hands runs to threads and has their outcomes posted
//! back, as server-sent events.
//!
//! A run has reactors of its own, so that what it measures is not the traffic of this page. It does
//! work for strangers: its bytes and its time are [bounded](crate::knobs), and so is how many run.

use std::fmt::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use unstick::{Closed, Config, ConnId, Context, Framing, Handler, Reactor, Remote};

use crate::http::{self, Http, Parsed, Request, Status};
use crate::knobs::Knobs;
use crate::outcome::quoted;
use crate::{experiments, lab, page};

/// More runs at a time are refused with 503.
const RUNS_MAX: usize = 4;
const CONNECTIONS_MAX: usize = 256;
/// How long a connection may be silent, a request may take to come, and an answer to go.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long clients may take to read what is queued for them when the server ends.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);

/// All that an answer has in front of its length. Nothing but ours is run or asked for.
const HEADERS: &str = "Cache-Control: no-store\r\n\
                       X-Content-Type-Options: nosniff\r\n\
                       Referrer-Policy: no-referrer\r\n";

struct Site {
    remote: Option<Remote<Self>>,
    running: usize,
}

/// What a connection is at.
#[derive(Default)]
enum Visit {
    #[default]
    Asking,
    /// Its answer is a stream of events, or ends it: what it says beside is not listened to.
    Answered,
}

impl Handler for Site {
    type Session = Visit;

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        visit: &mut Visit,
        head: &[u8],
    ) {
        if matches!(visit, Visit::Answered) {
            return;
        }
        let close = match http::parse(head) {
            Parsed::Request { request, .. } => self.answer(cx, conn, &request),
            Parsed::Bad(status) => {
                let text = "This is no request that can be served here.\n";
                answer(cx, conn, status, text, false);
                true
            }
            Parsed::Partial => true,
        };
        if close {
            *visit = Visit::Answered;
        }
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: Visit, closed: Closed) {
        log::debug!("{conn} ended: {}", closed.reason);
    }
}

impl Site {
    /// Answers a request; tells whether it was the last of its connection.
    fn answer(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, request: &Request<'_>) -> bool {
        let is_head = request.method == "HEAD";
        if !is_head && request.method != "GET" {
            let text = "Only GET and HEAD are served.\n";
            answer(cx, conn, Status::MethodNotAllowed, text, false);
            return true;
        }
        match request.path {
            "/" => answer_page(cx, conn, is_head),
            "/run" if !is_head => match self.begin(conn, request.query) {
                Ok(()) => {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                         {HEADERS}Connection: close\r\n\r\n"
                    );
                    let _ = cx.send(conn, head.as_bytes());
                    return true;
                }
                Err((status, text)) => answer(cx, conn, status, &text, false),
            },
            _ => answer(
                cx,
                conn,
                Status::NotFound,
                "There is no such page.\n",
                is_head,
            ),
        }
        if request.close {
            cx.close(conn);
        }
        request.close
    }

    /// Begins a run, whose events go to `conn`.
    fn begin(&mut self, conn: ConnId, query: &str) -> Result<(), (Status, String)> {
        let knobs = Knobs::from_query(query);
        let knobs = knobs.map_err(|error| (Status::BadRequest, error + "\n"))?;
        let busy = |text: &str| (Status::Unavailable, format!("{text}, try again\n"));
        if self.running >= RUNS_MAX {
            return Err(busy("others are running"));
        }
        let remote = self.remote.clone().ok_or_else(|| busy("it is not ready"))?;
        let audience = Audience { remote, conn };
        let thread = thread::Builder::new().name("run".to_owned());
        let started = thread.spawn(move || run(&audience, &knobs));
        started.map_err(|error| busy(&error.to_string()))?;
        self.running += 1;
        Ok(())
    }
}

/// Whoever waits for the events of a run. Dropped, also by a panic, it ends the stream.
struct Audience {
    remote: Remote<Site>,
    conn: ConnId,
}

impl Audience {
    fn tell(&self, event: &str, json: &str) {
        let (conn, event) = (self.conn, format!("event: {event}\ndata: {json}\n\n"));
        // Where the server is gone, or the visitor, nobody misses it.
        let _ = self.remote.post(move |_, cx| {
            let _ = cx.send(conn, event.as_bytes());
        });
    }
}

impl Drop for Audience {
    fn drop(&mut self) {
        let conn = self.conn;
        let _ = self.remote.post(move |site, cx| {
            site.running -= 1;
            let _ = cx.send(conn, b"event: done\ndata: null\n\n");
            cx.close(conn);
        });
    }
}

/// Runs the same knobs over TCP and over UDP.
fn run(audience: &Audience, knobs: &Knobs) {
    for transport in ["tcp", "udp"] {
        if transport == "udp" && !lab::fits_udp(knobs) {
            let text = format!("no datagram has room for {} bytes", knobs.size);
            audience.tell("note", &quoted(&text));
            continue;
        }
        let outcome = experiments::run(transport, knobs, &mut |progress| {
            let lab::Progress { sent, came } = progress;
            let json = format!(r#"{{"transport":"{transport}","sent":{sent},"came":{came}}}"#);
            audience.tell("progress", &json);
        });
        match outcome {
            Ok(outcome) => audience.tell("outcome", &outcome.to_json()),
            Err(error) => audience.tell("failed", &quoted(&error.to_string())),
        }
    }
}

fn answer_page(cx: &mut Context<'_, Site>, conn: ConnId, is_head: bool) {
    let nonce = page::nonce();
    let page = page::build(&[], &nonce);
    let policy = format!(
        "Content-Security-Policy: default-src 'none'; script-src 'nonce-{nonce}'; \
         style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'\r\nContent-Type: text/html; charset=utf-8\r\n"
    );
    respond(cx, conn, Status::Ok, &policy, &page, is_head);
}

/// Answers with plain text.
fn answer(cx: &mut Context<'_, Site>, conn: ConnId, status: Status, text: &str, is_head: bool) {
    let mut headers = "Content-Type: text/plain; charset=utf-8\r\n".to_owned();
    if status == Status::MethodNotAllowed {
        headers += "Allow: GET, HEAD\r\n";
    }
    if status == Status::Unavailable {
        headers += "Retry-After: 2\r\n";
    }
    let ends = matches!(
        status,
        Status::MethodNotAllowed | Status::ContentTooLarge | Status::HeadersTooLarge
    ) || status == Status::BadRequest && text.starts_with("This");
    if ends {
        headers += "Connection: close\r\n";
    }
    respond(cx, conn, status, &headers, text, is_head);
    if ends {
        cx.close(conn);
    }
}

fn respond(
    cx: &mut Context<'_, Site>,
    conn: ConnId,
    status: Status,
    headers: &str,
    body: &str,
    is_head: bool,
) {
    let mut message = String::new();
    let _ = write!(
        message,
        "HTTP/1.1 {} {}\r\n{HEADERS}{headers}Content-Length: {}\r\n\r\n",
        status as u16,
        status.reason(),
        body.len(),
    );
    if !is_head {
        message += body;
    }
    if let Err(error) = cx.send(conn, message.as_bytes()) {
        log::debug!("{conn}: cannot answer: {error}");
        cx.close(conn);
    }
}

/// Serves until Ctrl-C.
pub(crate) fn serve(addr: SocketAddr, is_public: bool) -> Result<(), Box<dyn std::error::Error>> {
    if !is_public && !addr.ip().is_loopback() {
        let text = "others could reach this address; --public says that they may";
        return Err(text.into());
    }
    let mut config = Config::default();
    config.connections_max = CONNECTIONS_MAX;
    config.idle_timeout = Some(IDLE_TIMEOUT);
    config.frame_deadline = Some(REQUEST_DEADLINE);
    config.write_stall_timeout = Some(REQUEST_DEADLINE);
    let site = Site {
        remote: None,
        running: 0,
    };
    let mut reactor = Reactor::with_config(site, config)?;
    reactor.handler_mut().remote = Some(reactor.remote());
    reactor.shutdown_on_signals(SHUTDOWN_DEADLINE)?;
    let listener = reactor.listen(addr, Framing::custom(Http))?;
    println!("listening http://{}/", reactor.local_inet_addr(listener)?);
    reactor.run()?;
    Ok(())
}
