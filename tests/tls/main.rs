//! TLS over real sockets, with rustls's blocking clients and with both sides in one reactor.

#[path = "../common/mod.rs"]
mod common;

mod cutmap;
mod ends;
mod handshake;
mod life;
mod memory;
mod proxied;
mod sessions;
mod start_tls;
mod traffic;

use std::net::SocketAddr;
use std::sync::Arc;

use common::{Event, Probe, drive};
use rustls::{ClientConfig, ServerConfig};
use unstick::{Config, ConnId, ConnectOptions, Framing, ListenOptions, ListenerId, Reactor};

/// Returns a reactor with a TLS listener.
fn tls_listening(
    probe: Probe,
    config: Config,
    framing: Framing,
    tls: Arc<ServerConfig>,
) -> (Reactor<Probe>, SocketAddr, ListenerId) {
    let mut reactor = Reactor::with_config(probe, config).expect("the reactor is created");
    let options = ListenOptions::new().tls(tls);
    let listener = reactor.with(|_, cx| cx.listen_with("127.0.0.1:0", framing, &options));
    let listener = listener.expect("a free port is available");
    let addr = reactor
        .local_inet_addr(listener)
        .expect("a bound listener has an address");
    (reactor, addr, listener)
}

/// Connects to a TLS server from the same reactor.
fn tls_connect(
    reactor: &mut Reactor<Probe>,
    addr: SocketAddr,
    framing: Framing,
    tls: Arc<ClientConfig>,
) -> ConnId {
    let options = ConnectOptions::new().tls(tls, common::tls::server_name());
    reactor.with(|_, cx| cx.connect_with(addr, framing, (), &options))
}

/// Returns the connections that opened, in order.
fn opened(reactor: &Reactor<Probe>) -> Vec<ConnId> {
    let events = reactor.handler().events.iter();
    events
        .filter_map(|event| match event {
            Event::Open(conn, _) => Some(*conn),
            _ => None,
        })
        .collect()
}

/// Returns a reactor with both ends of a TLS connection: the client and the server.
fn pair(probe: Probe, config: Config, framing: Framing) -> (Reactor<Probe>, ConnId, ConnId) {
    let tls = common::tls::server_config();
    let (mut reactor, addr, _) = tls_listening(probe, config, framing.clone(), tls);
    let client = tls_connect(&mut reactor, addr, framing, common::tls::client_config());
    drive(&mut reactor, |reactor| opened(reactor).len() == 2);
    let server = opened(&reactor).into_iter().find(|conn| *conn != client);
    (reactor, client, server.expect("the server has opened"))
}
