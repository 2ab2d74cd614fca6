//! An echo server behind a balancer, with metrics and a health check on the same reactor.
//!
//! ```text
//! cargo run --release --manifest-path examples/production/Cargo.toml --bin watched -- \
//!     --echo 127.0.0.1:7000 --http 127.0.0.1:9000
//! curl 127.0.0.1:9000/metrics
//! curl 127.0.0.1:9000/healthz
//! ```
//!
//! `--proxy NETWORK` expects a header of the PROXY protocol from this network. `--unready`,
//! `--drain` and `--close` are the phases of the shutdown by SIGTERM, in milliseconds.

#[path = "../../../common/http.rs"]
mod http;

use std::error::Error;
use std::time::Duration;

use http::{Http, Parsed, Status};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use unstick::{
    Addr, Closed, Config, ConnId, Context, Framing, Handler, IpNetwork, ListenOptions, ListenerId,
    Origin, ProxyHeader, ProxyProtocol, Reactor, ShutdownPhase, ShutdownPlan,
};

/// Interval at which the reactor publishes its metrics. The values in a scrape are at most this
/// old.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(250);
/// Upper bounds of the buckets of the histograms, in seconds.
const BUCKETS: [f64; 9] = [1e-6, 1e-5, 1e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 1.0];

struct Server {
    prometheus: PrometheusHandle,
    http: Option<ListenerId>,
    prints_clients: bool,
}

/// The kind of a connection.
#[derive(Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Echo,
    Http,
}

impl Handler for Server {
    type Session = Kind;

    fn on_open(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        kind: &mut Kind,
        origin: Origin,
    ) {
        if let Origin::Accepted { listener, .. } = origin
            && Some(listener) == self.http
        {
            *kind = Kind::Http;
        } else if self.prints_clients {
            let client = cx
                .proxied(conn)
                .and_then(ProxyHeader::source)
                .map(Addr::to_string);
            println!("client {}", client.as_deref().unwrap_or("none"));
        }
    }

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        kind: &mut Kind,
        frame: &[u8],
    ) {
        match kind {
            Kind::Echo => _ = cx.send(conn, frame),
            Kind::Http => self.respond(cx, conn, frame),
        }
    }

    fn on_shutdown(&mut self, _: &mut Context<'_, Self>, phase: ShutdownPhase) {
        println!("shutdown {phase:?}");
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: Kind, closed: Closed) {
        log::debug!("{conn} closed: {}", closed.reason);
    }
}

impl Server {
    /// Sends the response to a request. Every response closes the connection.
    fn respond(&self, cx: &mut Context<'_, Self>, conn: ConnId, head: &[u8]) {
        let (status, body) = match http::parse(head) {
            Parsed::Request { request, .. } => match (request.method, request.path) {
                ("GET", "/metrics") => (Status::Ok, self.prometheus.render()),
                ("GET", "/healthz") if cx.is_shutting_down() => {
                    (Status::Unavailable, "ending\n".to_owned())
                }
                ("GET", "/healthz") => (Status::Ok, "ready\n".to_owned()),
                ("GET", _) => (Status::NotFound, "try /metrics or /healthz\n".to_owned()),
                _ => (Status::MethodNotAllowed, String::new()),
            },
            Parsed::Bad(status) => (status, String::new()),
            Parsed::Partial => (Status::BadRequest, String::new()),
        };
        let response = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            status as u16,
            status.reason(),
            body.len(),
        );
        let _ = cx.send(conn, response.as_bytes());
        cx.close(conn);
    }
}

struct Arguments {
    echo: Addr,
    http: Addr,
    proxy: Option<IpNetwork>,
    prints_clients: bool,
    /// The times of the phases unready, drain and close.
    phases: [Duration; 3],
}

impl Arguments {
    fn parse() -> Result<Self, Box<dyn Error>> {
        use lexopt::prelude::*;
        let mut arguments = Self {
            echo: "127.0.0.1:7000".parse()?,
            http: "127.0.0.1:9000".parse()?,
            proxy: None,
            prints_clients: false,
            phases: [Duration::ZERO, Duration::ZERO, Duration::from_secs(3)],
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("unready") => arguments.phases[0] = millis(&mut parser)?,
                Long("drain") => arguments.phases[1] = millis(&mut parser)?,
                Long("close") => arguments.phases[2] = millis(&mut parser)?,
                Long("echo") => arguments.echo = parser.value()?.parse()?,
                Long("http") => arguments.http = parser.value()?.parse()?,
                Long("proxy") => arguments.proxy = Some(parser.value()?.parse()?),
                Long("print-clients") => arguments.prints_clients = true,
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(arguments)
    }
}

fn millis(parser: &mut lexopt::Parser) -> Result<Duration, lexopt::Error> {
    use lexopt::ValueExt;
    Ok(Duration::from_millis(parser.value()?.parse()?))
}

fn main() -> Result<(), Box<dyn Error>> {
    env_logger::init();
    let arguments = Arguments::parse()?;
    let buckets = Matcher::Suffix("_seconds".to_owned());
    let prometheus = PrometheusBuilder::new()
        .set_buckets_for_metric(buckets, &BUCKETS)?
        .install_recorder()?;
    let server = Server {
        prometheus,
        http: None,
        prints_clients: arguments.prints_clients,
    };
    let mut config = Config::default();
    config.slow_callback_min = Some(Duration::from_millis(10));
    let mut reactor = Reactor::with_config(server, config)?;
    reactor.with(|server, cx| {
        let mut options = ListenOptions::new();
        if let Some(network) = arguments.proxy {
            options = options.proxy_protocol(ProxyProtocol::required().trust(network));
        }
        let echo = cx.listen_with(arguments.echo, Framing::length_u32(), &options)?;
        let http = cx.listen(arguments.http, Framing::custom(Http))?;
        server.http = Some(http);
        cx.publish_metrics(PUBLISH_INTERVAL, "main");
        println!("listening echo {}", cx.local_addr(echo)?);
        println!("listening http {}", cx.local_addr(http)?);
        std::io::Result::Ok(())
    })?;
    let [unready, drain, close] = arguments.phases;
    let plan = ShutdownPlan::new(close)
        .unready_time(unready)
        .drain_time(drain);
    reactor.shutdown_on_signals(plan)?;
    reactor.run()?;
    println!("served {} frames", reactor.stats().frames_in);
    Ok(())
}
