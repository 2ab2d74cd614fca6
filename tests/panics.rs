//! A handler that panics: the panic leaves `turn`, and the reactor stays usable.

mod common;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::{Event, Probe, deposit, drive, frame, listening, open};
use unstick::{CloseReason, Codec, Config, FrameError, Framing, Origin, Out, Reactor, Step};

/// Returns a handler that echoes every frame, and panics in the first callback for which
/// `is_chosen` returns true.
fn fragile(is_chosen: fn(&Event) -> bool) -> Probe {
    let mut may_panic = true;
    Probe::new(move |cx, event| {
        if let Event::Frame(conn, frame) = event {
            let _ = cx.send(*conn, frame);
        }
        if may_panic && is_chosen(event) {
            may_panic = false;
            panic!("panic raised by the handler");
        }
    })
}

/// Runs turns until one of them panics.
fn turn_into_panic(reactor: &mut Reactor<Probe>) {
    let turns = AssertUnwindSafe(|| drive(reactor, |_| false));
    let panic = catch_unwind(turns).expect_err("the handler panics");
    assert_eq!(panic.downcast_ref(), Some(&"panic raised by the handler"));
}

/// A reactor with a fragile handler. A bystander connected before the handler could panic.
struct Rig {
    reactor: Reactor<Probe>,
    addr: SocketAddr,
    bystander: TcpStream,
}

impl Rig {
    fn new(is_chosen: fn(&Event) -> bool, config: Config, framing: Framing) -> Self {
        let (mut reactor, addr) = listening(Probe::echo(), config, framing);
        let (bystander, _) = open(&mut reactor, addr);
        *reactor.handler_mut() = fragile(is_chosen);
        Self {
            reactor,
            addr,
            bystander,
        }
    }

    /// Waits until the connection of the panicking callback is closed with `HandlerPanicked`. Then
    /// checks that the reactor works, and that no other connection was closed.
    fn assert_panic_closed_only_its_connection(mut self) {
        drive(&mut self.reactor, |reactor| {
            !reactor.handler().closes().is_empty()
        });
        self.assert_bystander_gets_its_echo();
        let closes = self.reactor.handler().closes();
        let reasons: Vec<_> = closes.iter().map(|(_, closed)| &closed.reason).collect();
        assert!(
            matches!(reasons[..], [CloseReason::HandlerPanicked]),
            "{reasons:?}"
        );
        drop(self.bystander);
        assert_still_works(self.reactor, self.addr);
    }

    fn assert_bystander_gets_its_echo(&mut self) {
        let before = self.reactor.stats().frames_out;
        let sent = self.bystander.write_all(&frame("u32", b"still"));
        sent.expect("the server reads");
        drive(&mut self.reactor, |it| it.stats().frames_out > before);
        common::settle(&mut self.reactor);
        assert_eq!(common::read_u32_frame(&mut self.bystander), b"still");
    }
}

fn assert_panic_closes_only_its_connection(is_chosen: fn(&Event) -> bool) {
    let (rig, _client) = panicked(is_chosen);
    rig.assert_panic_closed_only_its_connection();
}

/// Returns a reactor whose handler panicked while a client sent two frames and a FIN.
fn panicked(is_chosen: fn(&Event) -> bool) -> (Rig, TcpStream) {
    let mut rig = Rig::new(is_chosen, Config::default(), Framing::length_u32());
    let mut client = common::client(rig.addr);
    client
        .write_all(&[frame("u32", b"one"), frame("u32", b"two")].concat())
        .expect("the write succeeds");
    common::send_fin(&client);
    turn_into_panic(&mut rig.reactor);
    (rig, client)
}

/// Checks that a new connection gets its echo. Then shuts the reactor down, and checks that it has
/// no connection and no buffer left, and that no connection was closed twice.
fn assert_still_works(mut reactor: Reactor<Probe>, addr: SocketAddr) {
    let server = std::thread::spawn(move || {
        let mut client = common::client(addr);
        let echoed = common::round_trip(&mut client, b"three");
        assert_eq!(echoed, b"three");
        let mut rest = Vec::new();
        common::send_fin(&client);
        client
            .read_to_end(&mut rest)
            .expect("the server sends its FIN too");
        assert_eq!(rest, b"");
    });
    drive(&mut reactor, |_| server.is_finished());
    server.join().expect("the new connection gets its echo");
    // Use a deadline that the test does not reach. At its deadline, the shutdown would also close a
    // connection that was wrongly not reaped, and the test would not find this bug.
    reactor.with(|_, cx| cx.shutdown(2 * common::DEADLINE));
    drive(&mut reactor, Reactor::is_shut_down);
    let stats = reactor.stats();
    assert_eq!((stats.connections, stats.held_bytes), (0, 0));
    let closed: HashSet<_> = reactor
        .handler()
        .closes()
        .iter()
        .map(|close| close.0)
        .collect();
    assert_eq!(closed.len(), reactor.handler().closes().len());
}

#[test]
fn panic_in_on_open_closes_only_its_connection() {
    assert_panic_closes_only_its_connection(|event| matches!(event, Event::Open(..)));
}

#[test]
fn panic_in_on_frame_closes_only_its_connection() {
    assert_panic_closes_only_its_connection(|event| matches!(event, Event::Frame(..)));
}

#[test]
fn panic_in_on_half_close_closes_only_its_connection() {
    assert_panic_closes_only_its_connection(|event| matches!(event, Event::HalfClose(_)));
}

#[test]
fn panic_in_on_close_keeps_the_reactor_usable() {
    let (mut rig, _client) = panicked(|event| matches!(event, Event::Close(..)));
    rig.assert_bystander_gets_its_echo();
    drop(rig.bystander);
    assert_still_works(rig.reactor, rig.addr);
}

#[test]
fn panic_in_on_drained_closes_only_its_connection() {
    let mut config = Config::default();
    (config.write_high_bytes, config.write_low_bytes) = (4, 2);
    let chosen = |event: &Event| matches!(event, Event::Drained(_));
    let mut rig = Rig::new(chosen, config, Framing::length_u32());
    let mut client = common::client(rig.addr);
    client
        .write_all(&frame("u32", b"one"))
        .expect("the write succeeds");
    turn_into_panic(&mut rig.reactor);
    rig.assert_panic_closed_only_its_connection();
}

#[test]
fn panic_in_on_skipped_closes_only_its_connection() {
    let framing = Framing::length_u32().frame_len_max(10).skip_too_long();
    let chosen = |event: &Event| matches!(event, Event::Skipped(..));
    let mut rig = Rig::new(chosen, Config::default(), framing);
    let mut client = common::client(rig.addr);
    client
        .write_all(&frame("u32", &[7; 11]))
        .expect("the write succeeds");
    turn_into_panic(&mut rig.reactor);
    rig.assert_panic_closed_only_its_connection();
}

#[test]
fn panic_in_on_hangup_closes_only_its_connection() {
    let chosen = |event: &Event| matches!(event, Event::Hangup(..));
    let mut rig = Rig::new(chosen, Config::default(), Framing::length_u32());
    let reactor = &mut rig.reactor;
    let (mut client, conn) = open(reactor, rig.addr);
    reactor
        .with(|_, cx| cx.pause(conn))
        .expect("the connection is open");
    deposit(reactor, &mut client, conn, b"unread");
    common::reset(client);
    turn_into_panic(reactor);
    rig.assert_panic_closed_only_its_connection();
}

#[test]
fn panic_on_a_connected_or_adopted_stream_closes_it() {
    for origin in [Origin::Connected, Origin::Adopted] {
        let chosen: fn(&Event) -> bool = match origin {
            Origin::Connected => |event| matches!(event, Event::Open(_, Origin::Connected)),
            _ => |event| matches!(event, Event::Open(_, Origin::Adopted)),
        };
        let mut rig = Rig::new(chosen, Config::default(), Framing::length_u32());
        let reactor = &mut rig.reactor;
        let peer = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
        let peer_addr = peer.local_addr().expect("the socket is bound");
        if origin == Origin::Connected {
            reactor.connect(peer_addr, Framing::length_u32(), ());
        } else {
            let stream =
                TcpStream::connect(peer_addr).expect("the listener accepts the connection");
            reactor.with(|_, cx| cx.adopt_stream(stream, Framing::length_u32(), ()));
        }
        turn_into_panic(reactor);
        rig.assert_panic_closed_only_its_connection();
    }
}

/// The clients behind the first one in the backlog cause no further event. So the listener must
/// stay in the ready queue.
#[test]
fn panic_in_on_refused_or_on_open_keeps_accepting() {
    let is_refused: fn(&Event) -> bool = |event| matches!(event, Event::Refused(..));
    let is_open: fn(&Event) -> bool = |event| matches!(event, Event::Open(..));
    for (connections_max, chosen) in [(1, is_refused), (100, is_open)] {
        let mut config = Config::default();
        config.connections_max = connections_max;
        let (mut reactor, addr) = listening(fragile(chosen), config, Framing::length_u32());
        let clients = [0; 5].map(|_| common::client(addr));
        turn_into_panic(&mut reactor);
        drive(&mut reactor, |reactor| {
            let stats = reactor.stats();
            stats.accepted + stats.refused == clients.len() as u64
        });
    }
}

#[test]
fn panic_in_on_timer_or_a_post_loses_no_other() {
    let chosen = |event: &Event| matches!(event, Event::Timer(..));
    let (mut reactor, addr) = listening(fragile(chosen), Config::default(), Framing::length_u32());
    reactor.with(|_, cx| [1, 2].map(|key| cx.set_timer(Duration::ZERO, key)));
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| {
        reactor
            .handler()
            .count(|event| matches!(event, Event::Timer(_, 2)))
            == 1
    });

    let remote = reactor.remote();
    let posted = remote.post(|_: &mut Probe, _: &mut _| panic!("panic raised by the handler"));
    posted.expect("the post queue has space");
    let posted = remote.post(|probe: &mut Probe, _: &mut _| probe.keep_half_closed = true);
    posted.expect("the post queue has space");
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| reactor.handler().keep_half_closed);
    reactor.handler_mut().keep_half_closed = false;

    let chosen = |event: &Event| matches!(event, Event::SendRefused(_, data) if data == b"one");
    *reactor.handler_mut() = fragile(chosen);
    let (client, conn) = open(&mut reactor, addr);
    drop(client);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    remote
        .send(conn, *b"one")
        .expect("the remote queue has space");
    remote
        .send(conn, *b"two")
        .expect("the remote queue has space");
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| {
        reactor
            .handler()
            .count(|event| matches!(event, Event::SendRefused(..)))
            == 1
    });
    assert_still_works(reactor, addr);
}

/// After the panic, the send must not be tried again, because it would panic every time.
#[test]
fn panic_in_encode_loses_no_other_remote_send() {
    struct Fragile;

    impl Codec for Fragile {
        type State = ();

        fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
            Ok(Step::Frame {
                frame: 0..bytes.len(),
                consumed: bytes.len(),
            })
        }

        fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
            if payload == b"bad" {
                panic!("panic raised by the handler");
            }
            out.put(payload);
            Ok(())
        }
    }

    let framing = Framing::custom(Fragile);
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
    let (mut client, conn) = open(&mut reactor, addr);
    let remote = reactor.remote();
    remote
        .send(conn, *b"bad")
        .expect("the remote queue has space");
    remote
        .send(conn, *b"good")
        .expect("the remote queue has space");
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| reactor.stats().frames_out == 1);
    common::idle(&mut reactor);
    let mut bytes = [0; 4];
    client
        .read_exact(&mut bytes)
        .expect("the reactor sends these bytes");
    assert_eq!(&bytes, b"good");
}

/// A panic inside `send_with` discards the partly written payload.
#[test]
fn panic_in_send_with_leaves_the_output_whole() {
    let (mut reactor, addr) = listening(Probe::echo(), Config::default(), Framing::length_u32());
    let (mut client, conn) = open(&mut reactor, addr);
    for is_first in [true, false] {
        if !is_first {
            let sent = reactor.with(|_, cx| cx.send(conn, b"before"));
            let _ = sent.expect("the write queue has space");
        }
        let panic = catch_unwind(AssertUnwindSafe(|| {
            reactor.with(|_, cx| {
                let _ = cx.send_with(conn, |out| {
                    out.put(b"half a fra");
                    panic!("panic raised by the handler")
                });
            });
        }));
        panic.expect_err("the closure of send_with panics");
        common::idle(&mut reactor);
    }
    assert_eq!(common::read_u32_frame(&mut client), b"before");
    client
        .write_all(&frame("u32", b"after"))
        .expect("the write succeeds");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
    assert_eq!(common::read_u32_frame(&mut client), b"after");
    assert_eq!(reactor.stats().held_bytes, 0);
    drop(client);
    assert_still_works(reactor, addr);
}

#[test]
fn panic_in_framing_of_owned_payload_frees_memory() {
    let framing = Framing::header_body(Framing::line(), |_| panic!("panic raised by the handler"));
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
    let (_client, conn) = open(&mut reactor, addr);
    let payload = [b"a header\n", &[b'x'; 20_000][..]].concat();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        reactor.with(|_, cx| cx.send_owned(conn, payload).map(drop))
    }));
    panic.expect_err("the framing panics");
    assert_eq!(reactor.stats().held_bytes, 0);
    assert_eq!(reactor.with(|_, cx| cx.queued_bytes(conn)), Ok(0));
}

#[test]
fn panic_in_on_datagram_error_keeps_sending() {
    let chosen = |event: &Event| matches!(event, Event::DatagramError(..));
    let (mut reactor, addr) = listening(fragile(chosen), Config::default(), Framing::length_u32());
    let socket = reactor
        .bind_udp("127.0.0.1:0")
        .expect("a free port is available");
    reactor.with(|_, cx| {
        // The socket has no peer, so each datagram fails with its own error.
        for _ in 0..3 {
            cx.send_datagram(socket, b"to whom?")
                .expect("the datagram queue has space");
        }
    });
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| reactor.stats().datagram_errors == 3);
    assert_still_works(reactor, addr);
}

#[test]
#[cfg(unix)]
fn panic_in_on_unix_datagram_keeps_reading() {
    let chosen = |event: &Event| matches!(event, Event::UnixDatagram(..));
    let (mut reactor, addr) = listening(fragile(chosen), Config::default(), Framing::length_u32());
    let (ours, theirs) =
        std::os::unix::net::UnixDatagram::pair().expect("a socket pair can be created");
    let adopted = reactor.with(|_, cx| cx.adopt_unix_datagram(ours));
    adopted.expect("the descriptor is a socket");
    for data in [b"1", b"2", b"3"] {
        theirs.send(data).expect("the datagram is sent");
    }
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| {
        reactor
            .handler()
            .count(|event| matches!(event, Event::UnixDatagram(..)))
            == 2
    });
    assert_still_works(reactor, addr);
}

/// Output queued before the panic is never written; `on_close` reports it as unsent.
#[test]
fn panic_counts_its_output_as_unsent() {
    let (mut reactor, addr) = listening(
        fragile(|event| matches!(event, Event::Frame(_, frame) if frame == b"two")),
        Config::default(),
        Framing::length_u32(),
    );
    let mut client = common::client(addr);
    client
        .write_all(&[frame("u32", b"one"), frame("u32", b"two")].concat())
        .expect("the write succeeds");
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    let closes = reactor.handler().closes();
    assert!(matches!(closes[0].1.reason, CloseReason::HandlerPanicked));
    assert_eq!(
        closes[0].1.unsent_bytes, 14,
        "both echoes and their headers are unsent"
    );
    assert_eq!(closes.len(), 1);
}

/// `HandlerPanicked` reports that the session is lost, so it replaces an earlier reason.
#[test]
fn panic_after_abort_reports_handler_panicked() {
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, _) = event {
            cx.abort(*conn);
            panic!("panic raised by the handler");
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::length_u32());
    let mut client = common::client(addr);
    client
        .write_all(&frame("u32", b"one"))
        .expect("the write succeeds");
    turn_into_panic(&mut reactor);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let closes = reactor.handler().closes();
    assert!(matches!(closes[0].1.reason, CloseReason::HandlerPanicked));
}

/// Datagrams received in the same batch are lost, which UDP allows. Datagrams that are still in the
/// kernel's receive queue are delivered.
#[test]
fn panic_in_on_datagram_keeps_reading() {
    const COUNT: u8 = 20;
    for in_batches in [true, false] {
        let mut config = Config::default();
        config.datagram_batches = in_batches;
        let probe = fragile(|event| matches!(event, Event::Datagram(..)));
        let mut reactor = Reactor::with_config(probe, config).expect("the reactor is created");
        let socket = reactor
            .bind_udp("127.0.0.1:0")
            .expect("a free port is available");
        let addr = reactor
            .local_inet_addr(socket)
            .expect("the socket is bound");
        let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
        for index in 0..COUNT {
            client
                .send_to(&[index], addr)
                .expect("the datagram is sent");
        }
        turn_into_panic(&mut reactor);
        let is_last = |data: &[u8]| *data == [COUNT - 1];
        drive(&mut reactor, |reactor| {
            let events = &reactor.handler().events;
            events
                .iter()
                .any(|event| matches!(event, Event::Datagram(_, _, data, _) if is_last(data)))
        });
    }
}
