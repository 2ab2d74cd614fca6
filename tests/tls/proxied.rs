//! A header of the PROXY protocol before the TLS handshake.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;

use super::common::tls::{
    client_config, complete_handshake, end, server_config, server_name, tls_client,
};
use super::common::{Probe, drive};
use super::opened;
use unstick::{
    Addr, Config, ConnId, ConnectOptions, Framing, ListenOptions, ProxyHeader, ProxyProtocol,
    Reactor,
};

/// The address of the client in the header.
fn client() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 4000))
}

fn header() -> ProxyHeader {
    let server = SocketAddr::from(([198, 51, 100, 1], 443));
    ProxyHeader::new(client(), server).expect("both are IP addresses")
}

/// Returns a TLS server that expects a header, and its address.
fn server() -> (Reactor<Probe>, SocketAddr) {
    let reactor = Reactor::with_config(Probe::echo(), Config::default());
    let mut reactor = reactor.expect("the reactor is created");
    let trusted = "127.0.0.1".parse().expect("an address");
    let options = ListenOptions::new()
        .proxy_protocol(ProxyProtocol::required().trust(trusted))
        .tls(server_config());
    let listener = reactor.with(|_, cx| cx.listen_with("127.0.0.1:0", Framing::line(), &options));
    let listener = listener.expect("port 0 is free");
    let addr = reactor.local_inet_addr(listener).expect("it is bound");
    (reactor, addr)
}

fn assert_proxied(reactor: &mut Reactor<Probe>, conn: ConnId) {
    let source = reactor.with(|_, cx| cx.proxied(conn).and_then(ProxyHeader::source).cloned());
    assert_eq!(source, Some(Addr::from(client())));
    assert!(reactor.with(|_, cx| cx.tls(conn).is_some()));
}

#[test]
fn tls_handshake_follows_a_proxy_header_at_every_cut() {
    let bytes = header().encode();
    for cut in 0..=bytes.len() {
        let (mut reactor, addr) = server();
        let bytes = bytes.clone();
        let peer = thread::spawn(move || {
            let mut client = tls_client(addr, client_config());
            client
                .sock
                .write_all(&bytes[..cut])
                .expect("the server reads");
            client
                .sock
                .write_all(&bytes[cut..])
                .expect("the server reads");
            complete_handshake(&mut client);
            client.write_all(b"hello\n").expect("the server reads");
            let mut echo = [0; 6];
            client.read_exact(&mut echo).expect("the server echoes");
            assert_eq!(&echo, b"hello\n");
            end(&mut client);
        });
        drive(&mut reactor, |it| it.stats().frames_in == 1);
        let conn = opened(&reactor)[0];
        assert_proxied(&mut reactor, conn);
        drive(&mut reactor, |it| it.stats().connections == 0);
        peer.join().expect("the client gets its echo");
    }
}

#[test]
fn client_sends_its_proxy_header_before_the_tls_handshake() {
    let (mut reactor, addr) = server();
    let options = ConnectOptions::new()
        .proxy_header(&header())
        .tls(client_config(), server_name());
    let near = reactor.with(|_, cx| {
        let conn = cx.connect_with(addr, Framing::raw(), (), &options);
        let _ = cx.send(conn, b"queued\n").expect("the queue has space");
        conn
    });
    drive(&mut reactor, |it| {
        it.handler().frames().contains(&&b"queued"[..])
    });
    let far = opened(&reactor).into_iter().find(|conn| *conn != near);
    assert_proxied(&mut reactor, far.expect("the server has opened its side"));
}
