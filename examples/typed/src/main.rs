//! Typed messages with serde: each line is one message as JSON.
//!
//! ```text
//! cargo run --release --manifest-path examples/typed/Cargo.toml
//! printf '%s\n' '{"type":"report","sensor":"roof","celsius":21.5}' | nc -N 127.0.0.1 7007
//! ```
//!
//! The framing separates the messages, and serde gives them their type. So the same code works with
//! every framing and with every format of serde. For `Framing::length_u32` and a binary format,
//! change only the calls that choose the framing and the format.

#[path = "../../support/cli.rs"]
mod cli;

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use unstick::{
    Closed, Config, ConnId, Context, FrameError, Framing, Handler, Reactor, SendError, Sent,
};

const HELP: &str = "\
A server for the temperatures of sensors, with typed messages as lines of JSON.

Usage: typed [ADDR]

  ADDR        address to listen on: HOST:PORT or unix:PATH (default 127.0.0.1:7007)
  -h, --help  print this help

Requests:
  {\"type\":\"report\",\"sensor\":\"roof\",\"celsius\":21.5}
  {\"type\":\"query\",\"sensor\":\"roof\"}
Replies: `stored`, `reading`, `unknown`, and `invalid` with a reason.";

/// Maximum length of a message, in bytes.
const MESSAGE_LEN_MAX: usize = 4096;
/// Maximum number of sensors, so that clients cannot use up the memory.
const SENSORS_MAX: usize = 100_000;

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Report { sensor: String, celsius: f64 },
    Query { sensor: String },
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Reply {
    Stored { reports: u64 },
    Reading { celsius: f64, reports: u64 },
    Unknown,
    Invalid { reason: String },
}

/// Sends a message. serde writes it directly to the output of the connection.
fn send<H: Handler>(
    cx: &mut Context<'_, H>,
    conn: ConnId,
    message: &impl Serialize,
) -> Result<Sent, SendError> {
    cx.send_with(conn, |out| {
        serde_json::to_writer(out, message).map_err(FrameError::other)
    })
}

/// The last temperature of a sensor, and the number of its reports.
#[derive(Default)]
struct Sensor {
    celsius: f64,
    reports: u64,
}

#[derive(Default)]
struct Server {
    sensors: HashMap<String, Sensor>,
}

impl Server {
    fn handle(&mut self, request: Request) -> Reply {
        match request {
            Request::Report { sensor, celsius } => {
                let is_full = self.sensors.len() >= SENSORS_MAX;
                if is_full && !self.sensors.contains_key(&sensor) {
                    let reason = format!("there are {SENSORS_MAX} sensors already");
                    return Reply::Invalid { reason };
                }
                let sensor = self.sensors.entry(sensor).or_default();
                sensor.celsius = celsius;
                sensor.reports += 1;
                Reply::Stored {
                    reports: sensor.reports,
                }
            }
            Request::Query { sensor } => match self.sensors.get(&sensor) {
                Some(sensor) => Reply::Reading {
                    celsius: sensor.celsius,
                    reports: sensor.reports,
                },
                None => Reply::Unknown,
            },
        }
    }
}

impl Handler for Server {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        let reply = match serde_json::from_slice(frame) {
            Ok(request) => self.handle(request),
            Err(error) => Reply::Invalid {
                reason: error.to_string(),
            },
        };
        if let Err(error) = send(cx, conn, &reply) {
            log::debug!("{conn}: cannot reply: {error}");
            cx.close(conn);
        }
    }

    fn on_frame_error(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        _: &mut (),
        error: &FrameError,
    ) {
        let reason = error.to_string();
        let _ = send(cx, conn, &Reply::Invalid { reason }); // the connection then closes
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: (), closed: Closed) {
        log::info!("{conn} closed: {}", closed.reason);
    }
}

fn main() -> ExitCode {
    cli::run("typed", HELP, |args| {
        let [addr] = cli::operands(args)?;
        let config = Config::new()
            .frame_deadline(Duration::from_secs(30))
            .write_stall_timeout(Duration::from_secs(30));
        let mut reactor = Reactor::with_config(Server::default(), config)?;
        reactor.shutdown_on_signals(Duration::from_secs(1))?;
        let framing = Framing::line().frame_len_max(MESSAGE_LEN_MAX);
        let addr = addr.as_deref().unwrap_or("127.0.0.1:7007");
        cli::listen(&mut reactor, addr, framing)?;
        Ok(reactor.run()?)
    })
}
