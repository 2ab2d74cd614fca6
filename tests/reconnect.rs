//! `Reconnect`: a client that connects again when its server ends and restarts.

mod common;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use common::drive;
use unstick::{
    Addr, Backoff, CloseReason, Closed, ConnId, ConnectOptions, Context, Framing, Handler, Origin,
    Reactor, Reconnect, TimerId,
};

const BASE: Duration = Duration::from_millis(2);
const MAX: Duration = Duration::from_millis(16);

struct Client {
    server: Reconnect<Addr>,
    opened: u32,
    frames: u32,
    /// Retry delays since the last `on_open`.
    delays: Vec<Duration>,
    refusals: u32,
    closed: Option<Closed>,
    /// True if the next retry timer shuts the reactor down.
    ends_at_timer: bool,
    /// Connection that the last retry timer started.
    tried: Option<ConnId>,
}

impl Handler for Client {
    type Session = ();

    fn on_open(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: Origin) {
        self.opened += 1;
        self.delays.clear();
    }

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {
        self.frames += 1;
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: (), closed: Closed) {
        self.refusals += u32::from(matches!(closed.reason, CloseReason::ConnectFailed(_)));
        self.delays.extend(self.server.on_close(cx, conn, &closed));
        self.closed = Some(closed);
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, _: u64) {
        if self.ends_at_timer {
            cx.shutdown(Duration::ZERO);
        }
        self.tried = self.server.on_timer(cx, timer, ());
    }
}

fn client(addr: impl Into<Addr>) -> Reactor<Client> {
    client_of(server(addr.into()))
}

fn server(addr: Addr) -> Reconnect<Addr> {
    let backoff = Backoff::new(BASE, MAX).jitter(0.0);
    Reconnect::new(addr, Framing::line(), backoff)
}

fn client_of(server: Reconnect<Addr>) -> Reactor<Client> {
    let client = Client {
        server,
        opened: 0,
        frames: 0,
        delays: Vec::new(),
        refusals: 0,
        closed: None,
        ends_at_timer: false,
        tried: None,
    };
    let mut reactor = Reactor::new(client).expect("the reactor is created");
    reactor.with(|client, cx| client.server.open(cx, ()));
    reactor
}

#[test]
fn reconnect_finds_a_returning_server_every_time() {
    // This socket stays bound during the whole test, so that no other program takes the port while
    // the server has no listener.
    let (reserved, addr) = common::refusing();
    reserved
        .set_reuse_address(true)
        .expect("SO_REUSEADDR can be set");
    // Only Linux lets a listener bind the address of this socket. On other systems, the socket is
    // dropped.
    let _reserved = cfg!(target_os = "linux").then_some(reserved);
    let mut listener = TcpListener::bind(addr).expect("the port has no listener");
    let mut reactor = client(addr);
    for round in 1..=3 {
        drive(&mut reactor, |reactor| reactor.handler().opened == round);
        let (mut stream, _) = listener.accept().expect("the client connects");
        stream.write_all(b"hello\n").expect("the write succeeds");
        drive(&mut reactor, |reactor| reactor.handler().frames == round);
        // A connection that has lived for the longest delay resets the delay to the shortest one.
        common::let_pass(MAX);

        // Without a listener every attempt fails, and the delays grow.
        drop(listener);
        drop(stream);
        let refusals = reactor.handler().refusals;
        drive(&mut reactor, |reactor| {
            reactor.handler().refusals >= refusals + 5
        });
        let delays = reactor.handler().delays.clone();
        let expected = [2, 4, 8, 16, 16].map(Duration::from_millis);
        assert_eq!(
            delays[..5],
            expected,
            "each outage starts with the shortest delay"
        );
        listener = TcpListener::bind(addr).expect("the port is free again");
    }
}

#[test]
fn reconnect_delays_grow_until_a_connection_has_lived() {
    for (lifetime_min, expected) in [
        (common::DEADLINE, [2, 4, 8, 16, 16]),
        (Duration::ZERO, [2; 5]),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
        let addr = listener.local_addr().expect("the socket is bound");
        let mut reactor = client_of(server(addr.into()).lifetime_min(lifetime_min));
        let delays = [1, 2, 3, 4, 5].map(|opened| {
            drive(&mut reactor, |it| it.handler().opened == opened);
            drop(listener.accept().expect("the client connects"));
            drive(&mut reactor, |it| !it.handler().delays.is_empty());
            reactor.handler().delays[0]
        });
        assert_eq!(delays, expected.map(Duration::from_millis));
    }
}

#[test]
fn reconnect_ends_at_an_address_that_no_server_can_have() {
    let mut addrs = vec![
        Addr::from(SocketAddr::from(([127, 0, 0, 1], 0))),
        SocketAddr::from(([255; 4], 7)).into(),
        SocketAddr::from(([0xFF02, 0, 0, 0, 0, 0, 0, 1], 7)).into(),
    ];
    #[cfg(unix)]
    addrs.push(unstick::UnixAddr::default().into());
    for addr in addrs {
        let mut reactor = client(addr);
        drive(&mut reactor, |reactor| reactor.handler().refusals == 1);
        assert!(reactor.handler().delays.is_empty());
        assert_eq!(reactor.next_turn_in(), None, "no retry timer is set");
        // A later `open` tries once more.
        reactor.with(|client, cx| client.server.open(cx, ()));
        drive(&mut reactor, |reactor| reactor.handler().refusals == 2);
        assert_eq!(reactor.next_turn_in(), None);
    }
}

#[test]
fn reconnect_stops_after_close_and_during_shutdown() {
    let (_socket, addr) = common::refusing();
    let mut reactor = client(addr);
    drive(&mut reactor, |reactor| reactor.handler().refusals == 2);
    reactor.with(|client, cx| client.server.close(cx));
    assert_eq!(reactor.next_turn_in(), None, "no retry timer is left");
    let turns = reactor.stats().turns;
    reactor.turn(Some(4 * MAX)).expect("polling succeeds");
    assert_eq!(reactor.stats().turns, turns + 1);
    assert_eq!(reactor.handler().refusals, 2);
    let delays = reactor.handler().delays.len();

    reactor.with(|client, cx| {
        assert!(!cx.is_shutting_down());
        let conn = client.server.open(cx, ());
        assert_eq!(
            client.server.open(cx, ()),
            conn,
            "open returns the connection that exists"
        );
        cx.shutdown(Duration::from_secs(60));
        assert!(cx.is_shutting_down());
    });
    drive(&mut reactor, Reactor::is_shut_down);
    assert_eq!(
        reactor.stats().closed,
        3,
        "on_close runs once for each connection"
    );
    assert_eq!(
        reactor.handler().delays.len(),
        delays,
        "no retry is scheduled"
    );
    assert_eq!(reactor.handler().server.conn(), None);
}

/// The handler keeps the socket of a detached connection, so a second connection is not wanted.
#[test]
fn reconnect_does_not_replace_a_detached_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let mut reactor = client(listener.local_addr().expect("the listener is bound"));
    drive(&mut reactor, |reactor| reactor.handler().opened == 1);
    reactor.with(|client, cx| {
        let conn = client.server.conn().expect("the connection is open");
        cx.detach(conn).expect("the connection is open");
    });
    drive(&mut reactor, |reactor| reactor.handler().closed.is_some());
    let client = reactor.handler();
    let closed = client.closed.as_ref().expect("the connection has ended");
    assert!(matches!(closed.reason, CloseReason::Detached(_)));
    assert_eq!((client.server.conn(), &client.delays[..]), (None, &[][..]));
}

#[test]
fn reconnect_starts_no_connect_during_shutdown() {
    let (_socket, addr) = common::refusing();
    let mut reactor = client(addr);
    drive(&mut reactor, |reactor| reactor.handler().refusals == 2);
    assert!(
        reactor.handler().tried.is_some(),
        "the first retry timer started a connect"
    );
    reactor.with(|client, _| client.ends_at_timer = true);
    drive(&mut reactor, Reactor::is_shut_down);
    assert_eq!(reactor.handler().tried, None);
    assert_eq!(reactor.handler().server.conn(), None);
    assert_eq!(reactor.stats().closed, 2, "no third connect was started");
}

#[test]
fn reconnect_ignores_foreign_ids_and_timers() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let mut reactor = client(listener.local_addr().expect("the socket is bound"));
    drive(&mut reactor, |reactor| reactor.handler().opened == 1);
    let backoff = Backoff::new(BASE, MAX).jitter(0.0);
    let (_socket, refusing) = common::refusing();
    let mut refused = client(refusing);
    drive(&mut refused, |reactor| reactor.handler().refusals == 1);
    let closed = refused.handler_mut().closed.take();
    let closed = &closed.expect("the connect was refused");
    let mut second = Reconnect::new(Addr::from(refusing), Framing::line(), backoff);
    let timers = reactor.with(|client, cx| {
        let foreign = client.server.conn().expect("the connection is open");
        let timer = cx.set_timer(common::DEADLINE, 0);
        for delay in [BASE, 2 * BASE, 4 * BASE] {
            assert_eq!(second.on_close(cx, foreign, closed), None);
            let conn = second.open(cx, ());
            assert_eq!(second.conn(), Some(conn));
            assert_eq!(second.on_close(cx, foreign, closed), None);
            assert_eq!(second.on_timer(cx, timer, ()), None);
            assert_eq!(second.on_close(cx, conn, closed), Some(delay));
            assert_eq!(
                second.on_timer(cx, timer, ()),
                None,
                "this client did not set the timer"
            );
            assert_eq!(second.conn(), None);
        }
        cx.stats().timers
    });
    reactor.with(|_, cx| second.close(cx));
    assert_eq!(reactor.stats().timers, timers - 1, "no retry timer is left");
    // `open` during a delay connects at once and cancels the delay.
    reactor.with(|_, cx| {
        let conn = second.open(cx, ());
        second
            .on_close(cx, conn, closed)
            .expect("the connection is this client's");
        let waiting = cx.stats().timers;
        second.open(cx, ());
        let connecting = cx.stats().timers;
        assert_eq!(
            connecting, waiting,
            "the connect deadline replaces the retry timer"
        );
    });
}

#[test]
#[cfg(unix)]
fn reconnect_finds_a_unix_server_that_starts_late() {
    let path = std::env::temp_dir().join(format!("unstick-reconnect-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let addr = unstick::UnixAddr::from_pathname(&path)
        .expect("the path is short enough for a socket address");
    let mut reactor = client(addr);
    drive(&mut reactor, |reactor| reactor.handler().refusals == 2);
    let _listener = std::os::unix::net::UnixListener::bind(&path).expect("the path is free");
    drive(&mut reactor, |reactor| reactor.handler().opened == 1);
    std::fs::remove_file(path).expect("the listener created the file");
}

#[test]
fn reconnect_uses_its_timer_key_and_options() {
    struct Clients {
        servers: Vec<Reconnect<Addr>>,
        keys: Vec<u64>,
        failed: Vec<io::ErrorKind>,
    }

    impl Handler for Clients {
        type Session = usize;

        fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut usize, _: &[u8]) {}

        fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, at: usize, end: Closed) {
            if let CloseReason::ConnectFailed(error) = &end.reason {
                self.failed.push(error.kind());
            }
            assert!(self.servers[at].on_close(cx, conn, &end).is_some());
        }

        fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, key: u64) {
            self.keys.push(key);
            let at = usize::try_from(key).expect("the key is an index");
            assert!(self.servers[at].on_timer(cx, timer, at).is_some());
        }
    }

    let (_socket, addr) = common::refusing();
    // No interface has this address, so the local bind fails before the connect.
    let nowhere = SocketAddr::from(([192, 0, 2, 1], 0));
    let server = |key| {
        Reconnect::new(addr.into(), Framing::line(), Backoff::new(BASE, MAX))
            .options(ConnectOptions::new().local_addr(nowhere))
            .timer_key(key)
    };
    let mut reactor = Reactor::new(Clients {
        servers: (0..3).map(server).collect(),
        keys: Vec::new(),
        failed: Vec::new(),
    })
    .expect("the reactor is created");
    reactor.with(|clients, cx| {
        for (at, server) in clients.servers.iter_mut().enumerate() {
            server.open(cx, at);
        }
    });
    drive(&mut reactor, |reactor| {
        (0..3).all(|key| reactor.handler().keys.contains(&key))
    });
    let failed = &reactor.handler().failed;
    let is_own = |kind: &io::ErrorKind| *kind == io::ErrorKind::AddrNotAvailable;
    assert!(failed.len() >= 3 && failed.iter().all(is_own), "{failed:?}");
}
