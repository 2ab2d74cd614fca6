//! The HTTP server of the web page: one reactor. Each run has a thread, which posts its results to
//! the reactor. The reactor sends these results to the browser as server-sent events.
//!
//! A run has its own reactors, so that it does not measure the traffic of this page. Unknown users
//! may request runs. So the number of runs at a time is limited, and so are the bytes and the time
//! of each run (see [`knobs`](crate::knobs)).

use std::fmt::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use unstick::{Closed, Config, ConnId, Context, Framing, Handler, Reactor, Remote};

use crate::http::{self, Http, Parsed, Request, Status};
use crate::knobs::Knobs;
use crate::outcome::quoted;
use crate::{experiments, lab, page};

/// Maximum number of runs at a time; further requests get the status 503.
const RUNS_MAX: usize = 4;
const CONNECTIONS_MAX: usize = 256;
/// Maximum time without traffic on a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum time to receive a request, and maximum time without progress of a response.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Maximum time that the server waits, after Ctrl-C or SIGTERM, for clients to read queued output.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);

/// Headers of every response. They forbid caching, content sniffing and referrers.
const HEADERS: &str = "Cache-Control: no-store\r\n\
                       X-Content-Type-Options: nosniff\r\n\
                       Referrer-Policy: no-referrer\r\n";

struct Site {
    remote: Option<Remote<Self>>,
    running: usize,
}

/// The state of a connection.
#[derive(Default)]
enum ConnState {
    #[default]
    AwaitingRequest,
    /// The connection sends an event stream, or its last response. Further requests are ignored.
    Finished,
}

impl Handler for Site {
    type Session = ConnState;

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        state: &mut ConnState,
        head: &[u8],
    ) {
        if matches!(state, ConnState::Finished) {
            return;
        }
        let close = match http::parse(head) {
            Parsed::Request { request, .. } => self.handle_request(cx, conn, &request),
            Parsed::Bad(status) => {
                let text = "This request is invalid, too large, or has a body.\n";
                respond_text(cx, conn, status, text, false);
                true
            }
            Parsed::Partial => true,
        };
        if close {
            *state = ConnState::Finished;
        }
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: ConnState, closed: Closed) {
        log::debug!("{conn} closed: {}", closed.reason);
    }
}

impl Site {
    /// Sends the response to a request. Returns true if the connection accepts no further request.
    fn handle_request(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        request: &Request<'_>,
    ) -> bool {
        let is_head = request.method == "HEAD";
        if !is_head && request.method != "GET" {
            let text = "Only GET and HEAD are allowed.\n";
            respond_text(cx, conn, Status::MethodNotAllowed, text, false);
            return true;
        }
        match request.path {
            "/" => respond_page(cx, conn, is_head),
            "/run" if !is_head => match self.start_run(conn, request.query) {
                Ok(()) => {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                         {HEADERS}Connection: close\r\n\r\n"
                    );
                    let _ = cx.send(conn, head.as_bytes());
                    return true;
                }
                Err((status, text)) => respond_text(cx, conn, status, &text, false),
            },
            _ => respond_text(
                cx,
                conn,
                Status::NotFound,
                "This page does not exist.\n",
                is_head,
            ),
        }
        if request.close {
            cx.close(conn);
        }
        request.close
    }

    /// Starts a run that sends its events to `conn`.
    fn start_run(&mut self, conn: ConnId, query: &str) -> Result<(), (Status, String)> {
        let knobs = Knobs::from_query(query);
        let knobs = knobs.map_err(|error| (Status::BadRequest, error + "\n"))?;
        let busy = |text: &str| (Status::Unavailable, format!("{text}, try again\n"));
        if self.running >= RUNS_MAX {
            return Err(busy("too many runs are active"));
        }
        let remote = self
            .remote
            .clone()
            .ok_or_else(|| busy("the server is not ready"))?;
        let event_stream = EventStream { remote, conn };
        let thread = thread::Builder::new().name("run".to_owned());
        let started = thread.spawn(move || run(&event_stream, &knobs));
        started.map_err(|error| busy(&error.to_string()))?;
        self.running += 1;
        Ok(())
    }
}

/// Event stream of a run to one browser. `drop` ends the stream, also if the run panics.
struct EventStream {
    remote: Remote<Site>,
    conn: ConnId,
}

impl EventStream {
    fn send_event(&self, event: &str, json: &str) {
        let (conn, event) = (self.conn, format!("event: {event}\ndata: {json}\n\n"));
        // Fails only if the server has ended.
        let _ = self.remote.post_timeout(Duration::MAX, move |_, cx| {
            let _ = cx.send(conn, event.as_bytes());
        });
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let conn = self.conn;
        let _ = self.remote.post_timeout(Duration::MAX, move |site, cx| {
            site.running -= 1;
            let _ = cx.send(conn, b"event: done\ndata: null\n\n");
            cx.close(conn);
        });
    }
}

/// Runs the settings over TCP and over UDP, and sends the results as events.
fn run(event_stream: &EventStream, knobs: &Knobs) {
    for transport in ["tcp", "udp"] {
        if transport == "udp" && !lab::fits_udp(knobs) {
            let text = format!(
                "skipped UDP: {} bytes do not fit into one datagram",
                knobs.size
            );
            event_stream.send_event("note", &quoted(&text));
            continue;
        }
        let outcome = experiments::run(transport, knobs, &mut |progress| {
            let lab::Progress { sent, came } = progress;
            let json = format!(r#"{{"transport":"{transport}","sent":{sent},"came":{came}}}"#);
            event_stream.send_event("progress", &json);
        });
        match outcome {
            Ok(outcome) => event_stream.send_event("outcome", &outcome.to_json()),
            Err(error) => event_stream.send_event("failed", &quoted(&error.to_string())),
        }
    }
}

fn respond_page(cx: &mut Context<'_, Site>, conn: ConnId, is_head: bool) {
    let nonce = page::nonce();
    let page = page::build(&[], &nonce);
    let policy = format!(
        "Content-Security-Policy: default-src 'none'; script-src 'nonce-{nonce}'; \
         style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'\r\nContent-Type: text/html; charset=utf-8\r\n"
    );
    respond(cx, conn, Status::Ok, &policy, &page, is_head);
}

/// Sends a plain text response.
fn respond_text(
    cx: &mut Context<'_, Site>,
    conn: ConnId,
    status: Status,
    text: &str,
    is_head: bool,
) {
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
        log::debug!("{conn}: cannot send the response: {error}");
        cx.close(conn);
    }
}

/// Serves the page until Ctrl-C or SIGTERM.
pub(crate) fn serve(addr: SocketAddr, is_public: bool) -> Result<(), Box<dyn std::error::Error>> {
    if !is_public && !addr.ip().is_loopback() {
        let text = "other machines can reach this address; add --public to allow that";
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps the queue of posts full for a number of turns.
    fn fill(remote: Remote<Site>, turns: usize) {
        let again = remote.clone();
        let filled = remote.post(move |_, _| {
            if turns > 0 {
                fill(again, turns - 1);
            }
        });
        // This post fails if the post that ends the run has taken the last free place.
        drop(filled);
    }

    // A full queue of posts lost the post that ends a run, so the run counted as active forever.
    #[test]
    fn run_ends_even_if_the_queue_of_posts_is_full() {
        let site = Site {
            remote: None,
            running: 1,
        };
        let config = Config::new().posts_max(1);
        let mut reactor = Reactor::with_config(site, config).expect("the reactor is created");
        let conn = reactor.connect("127.0.0.1:1", Framing::custom(Http), ConnState::default());
        let remote = reactor.remote();
        fill(remote.clone(), 100_000);
        let (begins, begun) = std::sync::mpsc::channel();
        let run = thread::spawn(move || {
            let event_stream = EventStream { remote, conn };
            begins.send(()).expect("the test waits");
            drop(event_stream);
        });
        begun.recv().expect("the run begins");
        while !run.is_finished() {
            let polled = reactor.turn(Some(Duration::from_millis(1)));
            polled.expect("polling succeeds");
        }
        let polled = reactor.turn(Some(Duration::ZERO));
        polled.expect("polling succeeds");
        assert_eq!(reactor.handler().running, 0);
    }
}
