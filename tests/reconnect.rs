//! A client whose server goes away and comes back.

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
    /// The delays since it was open last.
    delays: Vec<Duration>,
    refusals: u32,
    /// Whether the reactor shuts down when the timer of a try has come.
    ends_at_timer: bool,
    /// What the last timer began.
    tried: Option<ConnId>,
}

impl Handler for Client {
    type Session = ();

    fn on_open(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        self.server.on_open(conn);
        self.opened += 1;
        self.delays.clear();
    }

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {
        self.frames += 1;
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: (), closed: Closed) {
        self.refusals += u32::from(matches!(closed.reason, CloseReason::ConnectFailed(_)));
        self.delays.extend(self.server.on_close(cx, conn));
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, _: u64) {
        if self.ends_at_timer {
            cx.shutdown(Duration::ZERO);
        }
        self.tried = self.server.on_timer(cx, timer, ());
    }
}

fn client(addr: impl Into<Addr>) -> Reactor<Client> {
    let backoff = Backoff::new(BASE, MAX).jitter(0.0);
    let client = Client {
        server: Reconnect::new(addr.into(), Framing::line(), backoff),
        opened: 0,
        frames: 0,
        delays: Vec::new(),
        refusals: 0,
        ends_at_timer: false,
        tried: None,
    };
    let mut reactor = Reactor::new(client).expect("a reactor");
    reactor.with(|client, cx| client.server.open(cx, ()));
    reactor
}

#[test]
fn a_server_that_goes_away_and_returns_is_found_again_and_again() {
    // Bound all the time, so that nobody else gets the port while nobody listens there.
    let (reserved, addr) = common::refusing();
    reserved
        .set_reuse_address(true)
        .expect("the option can be set");
    // Elsewhere no two sockets have one address, even where only one of them listens.
    let _reserved = cfg!(target_os = "linux").then_some(reserved);
    let mut listener = TcpListener::bind(addr).expect("nobody listens there");
    let mut reactor = client(addr);
    for round in 1..=3 {
        drive(&mut reactor, |reactor| reactor.handler().opened == round);
        let (mut stream, _) = listener.accept().expect("it has connected");
        stream.write_all(b"hello\n").expect("it is taken");
        drive(&mut reactor, |reactor| reactor.handler().frames == round);

        // Nobody listens while it is away: every try fails, after a longer and longer time.
        drop(listener);
        drop(stream);
        let refusals = reactor.handler().refusals;
        drive(&mut reactor, |reactor| {
            reactor.handler().refusals >= refusals + 5
        });
        let delays = reactor.handler().delays.clone();
        let expected = [2, 4, 8, 16, 16].map(Duration::from_millis);
        assert_eq!(delays[..5], expected, "from the shortest on in each round");
        listener = TcpListener::bind(addr).expect("the port is free again");
    }
}

#[test]
fn nothing_is_tried_again_while_the_reactor_shuts_down_or_after_a_close() {
    let (_socket, addr) = common::refusing();
    let mut reactor = client(addr);
    drive(&mut reactor, |reactor| reactor.handler().refusals == 2);
    reactor.with(|client, cx| client.server.close(cx));
    assert_eq!(reactor.next_turn_in(), None, "no timer is left");
    let turns = reactor.stats().turns;
    reactor.turn(Some(4 * MAX)).expect("the poll works");
    assert_eq!(reactor.stats().turns, turns + 1);
    assert_eq!(reactor.handler().refusals, 2);
    let delays = reactor.handler().delays.len();

    reactor.with(|client, cx| {
        assert!(!cx.is_shutting_down());
        let conn = client.server.open(cx, ());
        assert_eq!(client.server.open(cx, ()), conn, "it has one already");
        cx.shutdown(Duration::from_secs(60));
        assert!(cx.is_shutting_down());
    });
    drive(&mut reactor, Reactor::is_shut_down);
    assert_eq!(reactor.stats().closed, 3, "each is told of once");
    assert_eq!(reactor.handler().delays.len(), delays, "no delay is told");
    assert_eq!(reactor.handler().server.conn(), None);
}

#[test]
fn a_timer_that_comes_while_the_reactor_shuts_down_begins_no_try() {
    let (_socket, addr) = common::refusing();
    let mut reactor = client(addr);
    drive(&mut reactor, |reactor| reactor.handler().refusals == 2);
    assert!(reactor.handler().tried.is_some(), "the timer of the first");
    reactor.with(|client, _| client.ends_at_timer = true);
    drive(&mut reactor, Reactor::is_shut_down);
    assert_eq!(reactor.handler().tried, None);
    assert_eq!(reactor.handler().server.conn(), None);
    assert_eq!(reactor.stats().closed, 2, "there was no third");
}

#[test]
fn a_client_minds_its_own_connection_and_timer_and_no_other() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut reactor = client(listener.local_addr().expect("it is bound"));
    drive(&mut reactor, |reactor| reactor.handler().opened == 1);
    let backoff = Backoff::new(BASE, MAX).jitter(0.0);
    let (_socket, refusing) = common::refusing();
    let mut second = Reconnect::new(Addr::from(refusing), Framing::line(), backoff);
    let timers = reactor.with(|client, cx| {
        let foreign = client.server.conn().expect("it is open");
        let timer = cx.set_timer(common::DEADLINE, 0);
        for delay in [BASE, 2 * BASE, 4 * BASE] {
            assert_eq!(second.on_close(cx, foreign), None);
            let conn = second.open(cx, ());
            assert_eq!(second.conn(), Some(conn));
            second.on_open(foreign);
            assert_eq!(second.on_close(cx, foreign), None);
            assert_eq!(second.on_timer(cx, timer, ()), None);
            assert_eq!(second.on_close(cx, conn), Some(delay));
            assert_eq!(second.on_timer(cx, timer, ()), None, "another one's timer");
            assert_eq!(second.conn(), None);
        }
        cx.stats().timers
    });
    reactor.with(|_, cx| second.close(cx));
    assert_eq!(reactor.stats().timers, timers - 1, "it tries no more");
    // A client that is told to open while it waits, need not wait.
    reactor.with(|_, cx| {
        let conn = second.open(cx, ());
        second.on_close(cx, conn).expect("it is its own");
        let waiting = cx.stats().timers;
        second.open(cx, ());
        let connecting = cx.stats().timers;
        assert_eq!(connecting, waiting, "one for its deadline, and one less");
    });
}

#[test]
#[cfg(unix)]
fn a_server_on_a_unix_socket_is_found_when_it_comes() {
    let path = std::env::temp_dir().join(format!("unstick-reconnect-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let addr = unstick::UnixAddr::from_pathname(&path).expect("a short path");
    let mut reactor = client(addr);
    drive(&mut reactor, |reactor| reactor.handler().refusals == 2);
    let _listener = std::os::unix::net::UnixListener::bind(&path).expect("nobody has the path");
    drive(&mut reactor, |reactor| reactor.handler().opened == 1);
    std::fs::remove_file(path).expect("it was made");
}

#[test]
fn many_servers_are_told_apart_by_their_keys_and_each_try_has_the_options_it_was_given() {
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
            assert!(self.servers[at].on_close(cx, conn).is_some());
        }

        fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, key: u64) {
            self.keys.push(key);
            let at = usize::try_from(key).expect("a place");
            assert!(self.servers[at].on_timer(cx, timer, at).is_some());
        }
    }

    let (_socket, addr) = common::refusing();
    // No address of this host: a connect from it fails before the peer could refuse it.
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
    .expect("a reactor");
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
