//! Finds the other instances in the local network by UDP multicast.
//!
//! ```text
//! cargo run --release --example discover -- --name kitchen     (in two terminals)
//! ```
//!
//! Each instance sends its name to a group once a second. An instance that was not heard for three
//! seconds counts as lost. A datagram may be lost, so one missing announcement means nothing.

#[path = "support/cli.rs"]
mod cli;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use unstick::{Context, Datagram, Handler, Reactor, TimerId, UdpId, UdpOptions};

const HELP: &str = "\
Finds the other instances in the local network by UDP multicast.

Usage: discover --name NAME [--interface ADDR] [--port PORT] [--seconds N]

  --name NAME       name to announce: 1 to 63 letters, digits or hyphens. Instances with
                    the same name do not find each other.
  --interface ADDR  IPv4 address of the network interface (default: the system
                    chooses)
  --port PORT       port of the group 239.255.77.77 (default 7077)
  --seconds N       time to run (default: until Ctrl-C)
  -h, --help        print this help";

/// A group of the IPv4 Local Scope (RFC 2365, 6.1).
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 77);
/// First bytes of an announcement, so that datagrams of other programs are ignored.
const MAGIC: &[u8] = b"unstick-discover ";
const PERIOD: Duration = Duration::from_secs(1);
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Maximum number of instances that are remembered. A sender can forge any number of addresses.
const PEERS_MAX: usize = 1000;

const ANNOUNCE: u64 = 0;
const END: u64 = 1;

struct Discovery {
    name: String,
    /// The socket and the address of the group; `None` until the socket is open.
    group: Option<(UdpId, SocketAddr)>,
    /// The time at which each instance was heard last. Several instances may share an address.
    peers: BTreeMap<(SocketAddr, String), Instant>,
}

impl Discovery {
    /// Prints a line. Ends the program if the output is closed.
    fn print(cx: &mut Context<'_, Self>, line: &str) {
        if writeln!(io::stdout(), "{line}").is_err() {
            cx.stop();
        }
    }
}

fn is_name(name: &[u8]) -> bool {
    let is_valid = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    (1..64).contains(&name.len()) && name.iter().all(is_valid)
}

impl Handler for Discovery {
    type Session = ();

    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, _: UdpId, datagram: Datagram<'_>) {
        let Some(name) = datagram
            .data
            .strip_prefix(MAGIC)
            .filter(|name| is_name(name))
        else {
            return;
        };
        let name = String::from_utf8_lossy(name).into_owned();
        if name == self.name {
            return; // from this instance, or from one with the same name
        }
        let now = cx.now();
        let peer = (datagram.from, name);
        let is_known = self.peers.contains_key(&peer);
        if is_known || self.peers.len() < PEERS_MAX {
            if !is_known {
                Self::print(cx, &format!("found {} at {}", peer.1, peer.0));
            }
            self.peers.insert(peer, now);
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, _: TimerId, key: u64) {
        if key == END {
            return cx.stop();
        }
        let announcement = [MAGIC, self.name.as_bytes()].concat();
        if let Some((socket, group)) = self.group
            && let Err(error) = cx.send_to(socket, group, announcement)
        {
            log::warn!("cannot announce: {error}");
        }
        let now = cx.now();
        self.peers.retain(|(addr, name), heard| {
            let is_here = now.saturating_duration_since(*heard) <= SILENCE_MAX;
            if !is_here {
                Self::print(cx, &format!("lost {name} at {addr}"));
            }
            is_here
        });
    }

    fn on_datagram_error(&mut self, _: &mut Context<'_, Self>, _: UdpId, error: io::Error) {
        log::warn!("cannot announce: {error}");
    }
}

fn main() -> ExitCode {
    use lexopt::prelude::*;

    cli::run("discover", HELP, |mut args| {
        let (mut name, mut interface) = (String::new(), Ipv4Addr::UNSPECIFIED);
        let (mut port, mut seconds) = (7077, None);
        while let Some(arg) = args.next()? {
            match arg {
                Long("name") => name = cli::text(args.value()?)?,
                Long("interface") => interface = cli::value(&mut args, "--interface")?,
                Long("port") => port = cli::value(&mut args, "--port")?,
                Long("seconds") => seconds = Some(cli::value(&mut args, "--seconds")?),
                arg => return Err(cli::unexpected(arg)),
            }
        }
        if !is_name(name.as_bytes()) {
            let message = "--name needs 1 to 63 letters, digits or hyphens";
            return Err(cli::Failure::Usage(message.to_owned()));
        }
        // `reuse_addr` lets several instances on one host share the port. Each instance receives
        // every announcement.
        let options = UdpOptions::new()
            .reuse_addr(true)
            .join_multicast_v4(GROUP, interface);
        let mut reactor = Reactor::new(Discovery {
            name,
            group: None,
            peers: BTreeMap::new(),
        })?;
        reactor.shutdown_on_signals(Duration::ZERO)?;
        let addr = SocketAddr::from(([0; 4], port));
        let opened = reactor.with(|_, cx| cx.bind_udp_with(addr, &options));
        let place = match interface.is_unspecified() {
            true => format!("{GROUP}:{port}"),
            false => format!("{GROUP}:{port} on the interface {interface}"),
        };
        let failed = |error: io::Error| cli::at("join the group", &place, &error);
        let socket = opened.map_err(failed)?;
        reactor
            .with(|discovery, cx| {
                discovery.group = Some((socket, SocketAddr::from((GROUP, port))));
                if !interface.is_unspecified() {
                    cx.socket(socket)?.set_multicast_if_v4(interface)?;
                }
                cx.set_timer(Duration::ZERO, ANNOUNCE);
                cx.set_interval(PERIOD, ANNOUNCE);
                if let Some(seconds) = seconds {
                    cx.set_timer(Duration::from_secs(seconds), END);
                }
                io::Result::Ok(())
            })
            .map_err(failed)?;
        Ok(reactor.run()?)
    })
}
