//! Tests of the phases of a shutdown, with virtual time. A timer takes at least one tick, 1 ms.

use super::*;
use crate::event::Origin;
use crate::os::sim::SimPeer;
use crate::shutdown::{ShutdownPhase, ShutdownPlan};

const MS: Duration = Duration::from_millis(1);

/// A handler that echoes, and records its callbacks with their virtual times. It does not record
/// the connects that `on_shutdown` begins.
struct Log {
    world: World,
    events: Vec<String>,
    /// Two flags for each phase: a connect could begin, and a listener could be opened.
    opens: Vec<(bool, bool)>,
}

impl Log {
    fn record(&mut self, event: &str) {
        self.events
            .push(format!("{} {event}", self.world.now().as_millis()));
    }
}

impl Handler for Log {
    type Session = ();

    fn on_open(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), origin: Origin) {
        if matches!(origin, Origin::Accepted { .. }) {
            self.record("open");
        }
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        self.record(&format!("frame {}", frame.escape_ascii()));
        let _ = cx.send(conn, frame);
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_, Self>, phase: ShutdownPhase) {
        assert!(cx.is_shutting_down());
        assert_eq!(cx.shutdown_phase(), Some(phase));
        self.record(&format!("{phase:?}"));
        let conn = cx.connect(SocketAddr::from(([127, 0, 0, 1], 9)), Framing::raw(), ());
        let is_opening = cx
            .engine
            .conn(conn.0)
            .is_ok_and(|it| it.state.is_connecting());
        cx.abort(conn);
        let listener = cx.listen(any(), Framing::raw());
        self.opens.push((is_opening, listener.is_ok()));
        if let Ok(listener) = listener {
            cx.close_listener(listener);
        }
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        match closed.reason {
            CloseReason::Aborted | CloseReason::ConnectFailed(_) => {}
            reason => self.record(&format!("close {reason:?}")),
        }
    }
}

struct Rig {
    world: World,
    reactor: Reactor<Log>,
    addr: Addr,
}

impl Rig {
    fn new(config: Config) -> Self {
        let world = World::new(0);
        let log = Log {
            world,
            events: Vec::new(),
            opens: Vec::new(),
        };
        let mut reactor =
            Reactor::with_os(log, config, world.os()).expect("the simulated poll opens");
        let listener = reactor.listen(any(), Framing::length_u8());
        let addr = reactor.local_addr(listener.expect("a port is free"));
        Self {
            world,
            reactor,
            addr: addr.expect("the listener is bound"),
        }
    }

    /// Connects a peer that is accepted before the shutdown begins.
    fn peer(&mut self) -> SimPeer {
        let peer = self.world.connect(self.addr.clone());
        for _ in 0..10 {
            self.reactor
                .turn(Some(Duration::ZERO))
                .expect("the poll succeeds");
        }
        peer
    }

    /// Runs until the shutdown is complete. Returns the recorded events.
    fn run(&mut self) -> Vec<String> {
        self.reactor.run().expect("the poll succeeds");
        std::mem::take(&mut self.reactor.handler.events)
    }
}

fn plan() -> ShutdownPlan {
    ShutdownPlan::new(30 * MS)
        .unready_time(10 * MS)
        .drain_time(20 * MS)
}

#[test]
fn phases_of_a_shutdown_begin_at_their_times() {
    let mut rig = Rig::new(Config::default());
    let (world, addr) = (rig.world, rig.addr.clone());
    let peer = rig.peer();
    world.after(5 * MS, move || _ = world.connect(addr));
    world.after(15 * MS, move || _ = peer.send(b"\x01a"));
    rig.reactor.with(|_, cx| cx.shutdown(plan()));
    let events = rig.run();
    let expected = [
        "0 open",
        "1 Unready",
        "5 open",
        "10 Drain",
        "15 frame a",
        "30 Close",
        "60 close Shutdown",
        "60 close Shutdown",
    ];
    assert_eq!(events, expected);
    let opens = &rig.reactor.handler.opens;
    assert_eq!(*opens, [(true, true), (true, false), (false, false)]);
}

#[test]
fn drain_ends_when_the_last_connection_ends() {
    let mut rig = Rig::new(Config::default());
    let peer = rig.peer();
    rig.world.after(15 * MS, move || peer.close());
    rig.reactor.with(|_, cx| cx.shutdown(plan()));
    let expected = [
        "0 open",
        "1 Unready",
        "10 Drain",
        "15 close Peer",
        "16 Close",
    ];
    assert_eq!(rig.run(), expected);
}

#[test]
fn second_shutdown_ends_the_phases_earlier_only() {
    let mut rig = Rig::new(Config::default());
    rig.peer();
    rig.reactor.with(|_, cx| {
        cx.shutdown(plan());
        cx.shutdown(ShutdownPlan::new(900 * MS).unready_time(400 * MS));
    });
    let remote = rig.reactor.remote();
    rig.world.after(12 * MS, move || {
        remote.shutdown(3 * MS).expect("the reactor is woken");
        remote.shutdown(plan()).expect("the reactor is woken");
    });
    let expected = [
        "0 open",
        "1 Unready",
        "10 Drain",
        "12 Close",
        "15 close Shutdown",
    ];
    assert_eq!(rig.run(), expected);
}

/// A shutdown that another thread requests must not wait for posts that were taken before it.
#[test]
fn remote_shutdown_begins_before_the_waiting_posts() {
    let mut rig = Rig::new(Config {
        post_budget: 1,
        ..Config::default()
    });
    let remote = rig.reactor.remote();
    for _ in 0..4 {
        let post = |log: &mut Log, cx: &mut Context<'_, Log>| {
            log.record(&format!("post {}", cx.is_shutting_down()));
        };
        remote.post(post).expect("the queue has space");
    }
    let turn = |rig: &mut Rig| rig.reactor.turn(Some(Duration::ZERO));
    turn(&mut rig).expect("the poll succeeds");
    remote.shutdown(plan()).expect("the reactor is woken");
    remote
        .post(|log, _| log.record("late post"))
        .expect("the queue has space");
    for _ in 0..5 {
        turn(&mut rig).expect("the poll succeeds");
    }
    let expected = [
        "0 post false",
        "0 Unready",
        "0 post true",
        "0 post true",
        "0 post true",
        "0 late post",
    ];
    assert_eq!(rig.reactor.handler.events, expected);
}

/// The accept budget leaves connections in the backlog. A close of the listener would reset them.
#[test]
fn drain_accepts_the_whole_backlog_first() {
    let mut rig = Rig::new(Config {
        accept_budget: 1,
        ..Config::default()
    });
    let peers: Vec<_> = (0..5)
        .map(|_| rig.world.connect(rig.addr.clone()))
        .collect();
    peers.iter().for_each(|peer| _ = peer.send(b"\x01a"));
    rig.reactor.with(|_, cx| {
        assert_eq!(cx.shutdown_phase(), None);
        cx.shutdown(ShutdownPlan::new(10 * MS).drain_time(20 * MS));
    });
    let replies = peers.clone();
    rig.world.after(15 * MS, move || {
        for peer in replies {
            assert_eq!(peer.recv(), b"\x01a");
            peer.close();
        }
    });
    let events = rig.run();
    let count = |event: &str| events.iter().filter(|it| it.ends_with(event)).count();
    assert_eq!(
        (count("open"), count("frame a"), count("close Peer")),
        (5, 5, 5)
    );
    assert_eq!(rig.world.now(), 16 * MS);
}

#[test]
fn shutdown_without_sockets_reports_its_only_phase() {
    let world = World::new(0);
    let log = Log {
        world,
        events: Vec::new(),
        opens: Vec::new(),
    };
    let mut reactor =
        Reactor::with_os(log, Config::default(), world.os()).expect("the simulated poll opens");
    reactor.with(|_, cx| cx.shutdown(MS));
    reactor.run().expect("the poll succeeds");
    assert_eq!(
        reactor.handler.events,
        ["1 Close"],
        "a timer takes at least one tick"
    );
}

/// A handler that says goodbye to all connections when the phase `Close` begins.
struct Goodbye {
    members: Vec<ConnId>,
    /// Runs in `on_shutdown`, after the messages are sent.
    then: fn(&mut Context<'_, Self>, &[ConnId]),
    closes: Vec<(CloseReason, u64)>,
}

impl Handler for Goodbye {
    type Session = ();

    fn on_open(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        self.members.push(conn);
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_, Self>, phase: ShutdownPhase) {
        assert_eq!(phase, ShutdownPhase::Close);
        assert_eq!(cx.broadcast(&self.members, b"goodbye"), self.members.len());
        (self.then)(cx, &self.members);
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        self.closes.push((closed.reason, closed.unsent_bytes));
    }
}

/// Returns a reactor with three connected peers.
fn goodbye(then: fn(&mut Context<'_, Goodbye>, &[ConnId])) -> (Reactor<Goodbye>, Vec<SimPeer>) {
    let world = World::new(0);
    let handler = Goodbye {
        members: Vec::new(),
        then,
        closes: Vec::new(),
    };
    let mut reactor =
        Reactor::with_os(handler, Config::default(), world.os()).expect("the simulated poll opens");
    let listener = reactor.listen(any(), Framing::length_u8());
    let addr = reactor.local_addr(listener.expect("a port is free"));
    let addr = addr.expect("the listener is bound");
    let peers: Vec<_> = (0..3).map(|_| world.connect(addr.clone())).collect();
    while reactor.handler.members.len() < 3 {
        turn(&mut reactor);
    }
    (reactor, peers)
}

#[test]
fn last_word_of_a_shutdown_leaves_before_the_fin() {
    let (mut reactor, peers) = goodbye(|_, _| {});
    reactor.with(|_, cx| cx.shutdown(10 * MS));
    for _ in 0..3 {
        reactor.turn(Some(MS)).expect("the poll succeeds");
    }
    for peer in peers {
        assert_eq!(peer.recv(), b"\x07goodbye");
        assert!(
            matches!(peer.read_end(), Ok(0)),
            "the FIN follows the message"
        );
        peer.close();
    }
    reactor.run().expect("the poll succeeds");
    let closes = &reactor.handler.closes;
    assert_eq!(closes.len(), 3);
    assert!(
        closes
            .iter()
            .all(|it| matches!(it, (CloseReason::Local, 0))),
        "{closes:?}"
    );
}

/// The callback closes, aborts and opens connections, and shuts down again.
#[test]
fn on_shutdown_may_close_abort_and_open_connections() {
    let (mut reactor, peers) = goodbye(|cx, members| {
        cx.close(members[0]);
        cx.abort(members[1]);
        assert!(cx.listen(any(), Framing::raw()).is_err());
        let _ = cx.connect(SocketAddr::from(([127, 0, 0, 1], 9)), Framing::raw(), ());
        cx.shutdown(5 * MS);
    });
    reactor.with(|_, cx| cx.shutdown(10 * MS));
    for _ in 0..3 {
        reactor.turn(Some(MS)).expect("the poll succeeds");
    }
    let received: Vec<_> = peers.iter().map(|peer| peer.recv()).collect();
    assert_eq!(received[0], b"\x07goodbye");
    assert_eq!(received[1], b"", "an abort discards the queued output");
    assert_eq!(received[2], b"\x07goodbye");
    peers.iter().for_each(|peer| peer.close());
    reactor.run().expect("the poll succeeds");
    let mut reasons: Vec<_> = reactor.handler.closes.iter().map(|it| &it.0).collect();
    reasons.sort_by_key(|it| format!("{it:?}"));
    assert!(
        matches!(
            reasons[..],
            [
                CloseReason::Aborted,
                CloseReason::ConnectFailed(_),
                CloseReason::Local,
                CloseReason::Local
            ]
        ),
        "{reasons:?}"
    );
}

#[test]
fn panic_in_on_shutdown_still_closes_connections() {
    let (mut reactor, peers) = goodbye(|_, _| panic!("on purpose"));
    reactor.with(|_, cx| cx.shutdown(10 * MS));
    let run = AssertUnwindSafe(|| reactor.run());
    assert!(catch_unwind(run).is_err());
    turn(&mut reactor);
    for peer in peers {
        assert_eq!(peer.recv(), b"\x07goodbye");
        peer.close();
    }
    reactor.run().expect("the poll succeeds");
    assert_eq!(reactor.handler.closes.len(), 3);
}

/// Both the report of the phase and its deadline are due in the next turn. The report must come
/// first, because the deadline aborts the connections.
#[test]
fn phase_without_time_is_reported_before_its_deadline() {
    let (mut reactor, _) = goodbye(|_, _| {});
    reactor.with(|_, cx| cx.shutdown(Duration::ZERO));
    World::current().advance(5 * MS);
    reactor.run().expect("the poll succeeds");
    assert_eq!(reactor.handler.closes.len(), 3);
}
