//! Timeouts, hang-ups, panics and reconnects of TLS connections.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::common::tls::{
    Authority, TlsStream, client_config, end, server_config, server_name, tls_client,
};
use super::common::{self, Event, Probe, drive, frame, is_io, reset};
use super::{opened, tls_listening};
use rustls::ServerConfig;
use unstick::{
    Addr, Backoff, CloseReason, Closed, Config, ConnId, ConnectOptions, Context, Framing, Handler,
    Hangup, Origin, Reactor, Reconnect, TimerId,
};

const TIMEOUT: Duration = Duration::from_millis(40);

/// Returns a reactor with one TLS connection, and its blocking client after the handshake.
fn accepted(probe: Probe, config: Config) -> (Reactor<Probe>, ConnId, TlsStream) {
    let (mut reactor, addr, _) =
        tls_listening(probe, config, Framing::length_u32(), server_config());
    let (conn, client) = accept(&mut reactor, addr);
    (reactor, conn, client)
}

/// Connects a blocking client, and completes the handshake of both sides.
fn accept(reactor: &mut Reactor<Probe>, addr: std::net::SocketAddr) -> (ConnId, TlsStream) {
    let before = opened(reactor).len();
    let client = std::thread::spawn(move || {
        let mut client = tls_client(addr, client_config());
        common::tls::complete_handshake(&mut client);
        client
    });
    drive(reactor, |reactor| {
        opened(reactor).len() > before && client.is_finished()
    });
    let client = client.join().expect("the client does not panic");
    (opened(reactor)[before], client)
}

fn hangups(reactor: &Reactor<Probe>) -> Vec<Hangup> {
    let events = reactor.handler().events.iter();
    events
        .filter_map(|event| match event {
            Event::Hangup(_, hangup) => Some(*hangup),
            _ => None,
        })
        .collect()
}

/// Tests a connection without traffic, a frame that never ends, and a client that does not read.
#[test]
fn timeouts_end_tls_connections() {
    let quick = || {
        let mut config = Config::default();
        config.close_deadline = Duration::from_millis(1);
        config
    };
    let mut config = quick();
    config.idle_timeout = Some(TIMEOUT);
    let (mut reactor, _, client) = accepted(Probe::silent(), config);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let closed = reactor.handler().only_close();
    assert!(
        matches!(closed.reason, CloseReason::IdleTimeout),
        "{closed:?}"
    );
    drop(client);

    let mut config = quick();
    config.frame_deadline = Some(TIMEOUT);
    let (mut reactor, _, mut client) = accepted(Probe::silent(), config);
    let started = [&frame("u32", b"whole")[..], &[0, 15, 0, 0]].concat();
    client.write_all(&started).expect("the reactor reads");
    drive(&mut reactor, |reactor| {
        // The write fails if the connection is closed already.
        let _ = client.write(b"x");
        reactor.stats().closed == 1
    });
    assert_eq!(reactor.handler().frames(), [b"whole"]);
    let closed = reactor.handler().only_close();
    assert!(closed.undecoded_bytes >= 4, "{closed:?}");
    let reason = &closed.reason;
    assert!(matches!(reason, CloseReason::FrameDeadline), "{closed:?}");

    let mut config = quick();
    config.write_stall_timeout = Some(TIMEOUT);
    let (mut reactor, conn, client) = accepted(Probe::silent(), config);
    reactor.with(|_, cx| {
        for _ in 0..15 {
            let _ = cx
                .send(conn, &vec![7; 1 << 20])
                .expect("the queue has space");
        }
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let closed = reactor.handler().only_close();
    assert!(
        matches!(closed.reason, CloseReason::WriteStalled),
        "{closed:?}"
    );
    // `unsent_bytes` and `written_bytes` count bytes of plaintext.
    let sent = 15 * ((1 << 20) + 4);
    assert_eq!(closed.unsent_bytes + closed.stats.written_bytes, sent);
    assert!(closed.unsent_bytes > 0);
    assert_eq!(reactor.stats().held_bytes, 0);
    drop(client);
}

/// A paused connection is not read, so the `close_notify` is unknown when the FIN or reset comes.
/// The frames before the `close_notify` are delivered.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn hangup_of_an_unread_tls_connection_is_reported_at_once() {
    let paused = || {
        Probe::new(|cx, event| {
            if let Event::Open(conn, _) = event {
                cx.pause(*conn).expect("the connection is open");
            }
        })
    };
    for is_clean in [true, false] {
        let (mut reactor, conn, mut client) = accepted(paused(), Config::default());
        client
            .write_all(&frame("u32", b"last"))
            .expect("the kernel accepts the bytes");
        match is_clean {
            true => end(&mut client),
            false => client
                .sock
                .shutdown(std::net::Shutdown::Write)
                .expect("it is open"),
        }
        drive(&mut reactor, |reactor| !hangups(reactor).is_empty());
        assert_eq!(hangups(&reactor), [Hangup::Ended]);
        assert!(reactor.handler().frames().is_empty());
        reactor
            .with(|_, cx| cx.resume(conn))
            .expect("the connection is open");
        drive(&mut reactor, |reactor| reactor.stats().closed == 1);
        assert_eq!(reactor.handler().frames(), [b"last"]);
        let closed = reactor.handler().only_close();
        let is_truncated = matches!(closed.reason, CloseReason::TlsTruncated);
        assert_eq!(is_truncated, !is_clean, "{closed:?}");
        assert_eq!(hangups(&reactor).len(), 1, "on_hangup runs once");
    }

    let (mut reactor, _, client) = accepted(paused(), Config::default());
    reset(client.sock);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let closed = reactor.handler().only_close();
    let kind = std::io::ErrorKind::ConnectionReset;
    assert!(is_io(&closed.reason, kind), "{closed:?}");
}

/// When a callback panics, its connection has decrypted frames that are not delivered, and output
/// that is not written.
#[test]
fn panic_in_a_callback_closes_only_its_tls_connection() {
    let choices: [fn(&Event) -> bool; 4] = [
        |event| matches!(event, Event::Open(..)),
        |event| matches!(event, Event::Frame(..)),
        |event| matches!(event, Event::HalfClose(_)),
        |event| matches!(event, Event::Close(..)),
    ];
    for is_chosen in choices {
        let mut may_panic = false;
        let probe = Probe::new(move |cx, event| {
            if let Event::Frame(conn, frame) = event {
                let _ = cx.send(*conn, frame);
                // The frame of the first connection arms the panic.
                if frame == b"arm" {
                    may_panic = true;
                    return;
                }
            }
            if may_panic && is_chosen(event) {
                may_panic = false;
                panic!("panic raised by the handler");
            }
        });
        let (mut reactor, _, mut other) = accepted(probe, Config::default());
        let addr = other.sock.peer_addr().expect("the client is connected");
        other
            .write_all(&frame("u32", b"arm"))
            .expect("the reactor reads");
        drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
        let client = std::thread::spawn(move || {
            let mut client = tls_client(addr, client_config());
            // The writes fail if the connection has ended already.
            let frames = [frame("u32", b"one"), frame("u32", b"two")].concat();
            let _ = client.write_all(&frames);
            client.conn.send_close_notify();
            let _ = client.conn.complete_io(&mut client.sock);
            let _ = client.sock.shutdown(std::net::Shutdown::Write);
            client
        });
        let turns = AssertUnwindSafe(|| drive(&mut reactor, |_| false));
        let panic = catch_unwind(turns).expect_err("the handler panics");
        assert_eq!(panic.downcast_ref(), Some(&"panic raised by the handler"));
        drive(&mut reactor, |reactor| {
            reactor.stats().closed == 1 && client.is_finished()
        });
        drop(client.join());
        assert_eq!(reactor.stats().connections, 1);
        let before = reactor.stats().frames_in;
        other
            .write_all(&frame("u32", b"still"))
            .expect("the reactor reads");
        drive(&mut reactor, |reactor| reactor.stats().frames_in > before);
        assert_eq!(reactor.handler().frames().last(), Some(&&b"still"[..]));
        assert_eq!(reactor.stats().held_bytes, 0);
    }
}

struct Client {
    server: Reconnect<Addr>,
    opened: usize,
    frames: usize,
    reasons: Vec<CloseReason>,
}

impl Handler for Client {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        assert!(cx.tls(conn).is_some(), "on_open comes after the handshake");
        self.opened += 1;
        let sent = cx.send(conn, b"hello");
        assert!(sent.is_ok(), "{sent:?}");
    }

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {
        self.frames += 1;
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: (), closed: Closed) {
        self.server.on_close(cx, conn, &closed);
        self.reasons.push(closed.reason);
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, _: u64) {
        self.server.on_timer(cx, timer, ());
    }
}

/// The server aborts each connection, and then uses a certificate that the client does not trust.
/// After several failed attempts, the server uses the trusted certificate again. `on_open` comes
/// only after a successful handshake.
#[test]
fn reconnect_starts_a_new_tls_session_every_time() {
    let (mut server, addr, listener) = tls_listening(
        Probe::echo(),
        Config::default(),
        Framing::line(),
        server_config(),
    );
    let (chain, key) = Authority::unknown().issue("localhost");
    let untrusted = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key);
    let untrusted = Arc::new(untrusted.expect("the key belongs to the certificate"));
    let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(4));
    let options = ConnectOptions::new().tls(client_config(), server_name());
    let mut reactor = Reactor::new(Client {
        server: Reconnect::new(addr.into(), Framing::line(), backoff).options(options),
        opened: 0,
        frames: 0,
        reasons: Vec::new(),
    })
    .expect("the reactor is created");
    reactor.with(|client, cx| client.server.open(cx, ()));
    let set_tls = |server: &mut Reactor<Probe>, tls| {
        let set = server.with(|_, cx| cx.set_listener_tls(listener, tls));
        set.expect("the listener is open");
    };
    for round in 1..=3 {
        drive(&mut reactor, |reactor| {
            server.turn(Some(Duration::ZERO)).expect("polling succeeds");
            reactor.handler().frames == round
        });
        assert_eq!(reactor.handler().opened, round);
        set_tls(&mut server, untrusted.clone());
        let last = *opened(&server).last().expect("a connection is open");
        server.with(|_, cx| cx.abort(last));
        let failures = reactor.handler().reasons.len() + 4;
        drive(&mut reactor, |reactor| {
            server.turn(Some(Duration::ZERO)).expect("polling succeeds");
            reactor.handler().reasons.len() >= failures
        });
        assert_eq!(reactor.handler().opened, round);
        let last = reactor.handler().reasons.last();
        assert!(matches!(last, Some(CloseReason::Tls(_))), "{last:?}");
        set_tls(&mut server, server_config());
    }
}
