//! Requests and responses over one connection: correlation ids, timeouts and pipelining.
//!
//! ```text
//! cargo run --release --example rpc -- --serve 127.0.0.1:7004
//! cargo run --release --example rpc -- 127.0.0.1:7004 'sleep 300' 'add 1 2' 'echo hello'
//! ```
//!
//! Each frame begins with its length in four bytes. A request is an id of eight bytes and a text; a
//! response is the id of its request, a status byte and a text. Responses come in any order: here,
//! the response to `sleep` comes last.

#[path = "support/cli.rs"]
mod cli;

use std::collections::HashMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use unstick::{
    CloseReason, Closed, Config, ConnId, Context, FrameError, Framing, Handler, Reactor, SendError,
    TimerId,
};

const HELP: &str = "\
Requests and responses over one connection.

Usage: rpc --serve ADDR
       rpc [--timeout MS] ADDR REQUEST...

  --serve ADDR  serve requests on this address (HOST:PORT)
  --timeout MS  time to wait for each response, in milliseconds (default 1000)
  -h, --help    print this help

Requests: 'echo TEXT', 'add A B', 'sleep MS'. All requests are sent at once. Each
response is printed when it arrives. The exit code is 1 if a request fails.";

const OK: u8 = 0;
const FAILED: u8 = 1;
/// Maximum time of a `sleep` request.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Maximum number of `sleep` requests that wait at the same time.
const SLEEPS_MAX: usize = 10_000;

/// Splits a message into the id and the other bytes. Returns `None` if the id is incomplete.
fn split_id(frame: &[u8]) -> Option<(u64, &[u8])> {
    let (id, rest) = frame.split_first_chunk()?;
    Some((u64::from_be_bytes(*id), rest))
}

/// The server. The responses to `sleep` requests wait for their timers.
#[derive(Default)]
struct Server {
    /// The connection and the id of each request that sleeps, by the key of its timer.
    sleeping: HashMap<u64, (ConnId, u64)>,
    last_key: u64,
}

impl Server {
    fn respond(cx: &mut Context<'_, Self>, conn: ConnId, id: u64, result: Result<&str, &str>) {
        let (status, text) = match result {
            Ok(text) => (OK, text),
            Err(text) => (FAILED, text),
        };
        let sent = cx.send_parts(conn, &[&id.to_be_bytes(), &[status], text.as_bytes()]);
        if let Err(error) = sent {
            log::debug!("{conn}: cannot respond: {error}");
        }
    }

    /// Runs a request. Returns `None` if the response comes later.
    fn run(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        id: u64,
        request: &str,
    ) -> Option<Result<String, &'static str>> {
        let (name, rest) = request.split_once(' ').unwrap_or((request, ""));
        Some(match name {
            "echo" => Ok(rest.to_owned()),
            "add" => {
                let numbers: Result<Vec<i64>, _> = rest.split(' ').map(str::parse).collect();
                match numbers.as_deref() {
                    Ok([a, b]) => a.checked_add(*b).map(|it| it.to_string()).ok_or("overflow"),
                    _ => Err("add needs two numbers"),
                }
            }
            "sleep" => match rest.parse().map(Duration::from_millis) {
                Ok(time) if time <= SLEEP_MAX && self.sleeping.len() < SLEEPS_MAX => {
                    self.last_key += 1;
                    self.sleeping.insert(self.last_key, (conn, id));
                    cx.set_timer(time, self.last_key);
                    return None;
                }
                Ok(_) => Err("too long, or too many requests sleep"),
                Err(_) => Err("sleep needs a number of milliseconds"),
            },
            _ => Err("unknown request"),
        })
    }
}

impl Handler for Server {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        let Some((id, request)) = split_id(frame) else {
            return cx.abort(conn); // no id to respond to
        };
        let result = match std::str::from_utf8(request) {
            Ok(request) => self.run(cx, conn, id, request),
            Err(_) => Some(Err("the request is not UTF-8")),
        };
        if let Some(result) = result {
            Self::respond(cx, conn, id, result.as_deref().map_err(|error| *error));
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, _: TimerId, key: u64) {
        if let Some((conn, id)) = self.sleeping.remove(&key) {
            Self::respond(cx, conn, id, Ok("slept"));
        }
    }
}

/// Result of one call.
enum Reply {
    Response(String),
    Failed(String),
    TimedOut,
    /// The connection ended first.
    Lost,
}

/// The calls of one connection. `C` is the value that a program needs when a call ends, for example
/// the id of the client that waits for the response.
struct Calls<C> {
    conn: ConnId,
    timeout: Duration,
    last_id: u64,
    pending: HashMap<u64, (TimerId, C)>,
}

impl<C> Calls<C> {
    fn new(conn: ConnId, timeout: Duration) -> Self {
        Self {
            conn,
            timeout,
            last_id: 0,
            pending: HashMap::new(),
        }
    }

    /// Sends a request. If the request is sent, exactly one call of `on_frame`, `on_timer` or
    /// `on_close` returns `context` and the result.
    fn call<H: Handler>(
        &mut self,
        cx: &mut Context<'_, H>,
        request: &str,
        context: C,
    ) -> Result<(), SendError> {
        self.last_id += 1;
        let id = self.last_id;
        let _ = cx.send_parts(self.conn, &[&id.to_be_bytes(), request.as_bytes()])?;
        let timer = cx.set_timer(self.timeout, id);
        self.pending.insert(id, (timer, context));
        Ok(())
    }

    /// Returns the context and the result of the call that a response ends; `None` if the call has
    /// timed out.
    fn on_frame<H: Handler>(
        &mut self,
        cx: &mut Context<'_, H>,
        frame: &[u8],
    ) -> Result<Option<(C, Reply)>, FrameError> {
        let Some((id, [status, text @ ..])) = split_id(frame) else {
            return Err(FrameError::Malformed("the response is too short"));
        };
        let text = String::from_utf8_lossy(text).into_owned();
        Ok(self.pending.remove(&id).map(|(timer, context)| {
            cx.cancel_timer(timer);
            let is_ok = *status == OK;
            let reply = if is_ok {
                Reply::Response
            } else {
                Reply::Failed
            };
            (context, reply(text))
        }))
    }

    /// Removes the call that has timed out, and returns its context and result. Returns `None` if
    /// `timer` is not the timer of a pending call. `key` is the id of the call.
    fn on_timer(&mut self, timer: TimerId, key: u64) -> Option<(C, Reply)> {
        self.pending.get(&key).filter(|(own, _)| *own == timer)?;
        let (_, context) = self.pending.remove(&key)?;
        Some((context, Reply::TimedOut))
    }

    fn on_close(&mut self) -> impl Iterator<Item = (C, Reply)> {
        let lost = std::mem::take(&mut self.pending).into_values();
        lost.map(|(_, context)| (context, Reply::Lost))
    }
}

struct Client {
    /// The calls. The context of a call is the text of its request.
    calls: Option<Calls<String>>,
    has_failed: bool,
    has_timed_out: bool,
    /// The error of a connect that failed.
    connect_error: Option<io::Error>,
}

impl Client {
    fn ended(&mut self, cx: &mut Context<'_, Self>, request: &str, reply: &Reply) {
        let text = match reply {
            Reply::Response(text) => text,
            Reply::Failed(text) => text,
            Reply::TimedOut => "no response in time",
            Reply::Lost => "the connection ended",
        };
        let is_ok = matches!(reply, Reply::Response(_));
        self.has_failed |= !is_ok;
        self.has_timed_out |= matches!(reply, Reply::TimedOut);
        let mark = if is_ok { "" } else { "error: " };
        self.has_failed |= writeln!(io::stdout(), "{request}: {mark}{text}").is_err();
        if let Some(calls) = &self.calls
            && calls.pending.is_empty()
        {
            match self.has_timed_out {
                // A close would wait for the server, which may never answer.
                true => cx.abort(calls.conn),
                false => cx.close(calls.conn),
            }
        }
    }
}

impl Handler for Client {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        let ended = self.calls.as_mut().map(|calls| calls.on_frame(cx, frame));
        match ended {
            Some(Ok(Some((request, reply)))) => self.ended(cx, &request, &reply),
            Some(Err(error)) => {
                eprintln!("rpc: {error}");
                self.has_failed = true;
                cx.abort(conn);
            }
            Some(Ok(None)) | None => {}
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, key: u64) {
        let calls = self.calls.as_mut();
        if let Some((request, reply)) = calls.and_then(|calls| calls.on_timer(timer, key)) {
            self.ended(cx, &request, &reply);
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        let lost: Vec<_> = self.calls.iter_mut().flat_map(Calls::on_close).collect();
        match closed.reason {
            CloseReason::ConnectFailed(error) => {
                self.connect_error = Some(error);
                return cx.stop();
            }
            CloseReason::Local | CloseReason::Aborted | CloseReason::CloseTimeout => {}
            reason => {
                eprintln!("rpc: {reason}");
                self.has_failed = true;
            }
        }
        for (request, reply) in lost {
            self.ended(cx, &request, &reply);
        }
        cx.stop();
    }
}

fn serve(addr: &str) -> Result<(), cli::Failure> {
    let config = Config::new()
        .frame_deadline(Duration::from_secs(10))
        .write_stall_timeout(Duration::from_secs(10));
    let mut reactor = Reactor::with_config(Server::default(), config)?;
    reactor.shutdown_on_signals(Duration::from_secs(1))?;
    cli::listen(&mut reactor, addr, Framing::length_u32())?;
    Ok(reactor.run()?)
}

fn call(addr: &str, timeout: Duration, requests: &[String]) -> Result<(), cli::Failure> {
    let mut reactor = Reactor::new(Client {
        calls: None,
        has_failed: false,
        has_timed_out: false,
        connect_error: None,
    })?;
    let conn = reactor.connect(addr, Framing::length_u32(), ());
    let sent = reactor.with(|client, cx| {
        let calls = client.calls.insert(Calls::new(conn, timeout));
        // The requests wait until the connection is open, and then leave in one write.
        requests
            .iter()
            .try_for_each(|it| calls.call(cx, it, it.clone()))
    });
    match sent {
        // `on_close` has the reason, for example an address that is not valid.
        Ok(()) | Err(SendError::Closing) => {}
        Err(error) => return Err(io::Error::from(error).into()),
    }
    reactor.run()?;
    let client = reactor.handler();
    if let Some(error) = &client.connect_error {
        return Err(cli::at("connect to", addr, error));
    }
    match client.has_failed {
        true => Err(cli::Failure::Runtime("a request failed".to_owned())),
        false => Ok(()),
    }
}

fn main() -> ExitCode {
    use lexopt::prelude::*;

    cli::run("rpc", HELP, |mut args| {
        let (mut server, mut timeout, mut operands) = (None, 1000, Vec::new());
        while let Some(arg) = args.next()? {
            match arg {
                Long("serve") => server = Some(cli::text(args.value()?)?),
                Long("timeout") => timeout = cli::value(&mut args, "--timeout")?,
                Value(value) => operands.push(cli::text(value)?),
                arg => return Err(cli::unexpected(arg)),
            }
        }
        match (server, operands.split_first()) {
            (Some(addr), None) => serve(&addr),
            (None, Some((addr, requests))) if !requests.is_empty() => {
                call(addr, Duration::from_millis(timeout), requests)
            }
            _ => Err(cli::Failure::Usage(
                "either --serve ADDR, or ADDR and requests".to_owned(),
            )),
        }
    })
}
