//! Unix datagram sockets: boundaries of datagrams, addresses, errors and full receivers.
#![cfg(unix)]

mod common;

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::{drive, settle};
use unstick::{
    Addr, Config, ConnId, Context, Framing, Handler, Reactor, UnixAddr, UnixDatagram,
    UnixDatagramId,
};

/// A received datagram: its sender, its data, and true if it was truncated.
type Received = (UnixAddr, Vec<u8>, bool);

/// A handler that records datagrams, and echoes each datagram whose sender has a name.
#[derive(Default)]
struct Echo {
    received: Vec<Received>,
    /// Errors that `on_unix_datagram_error` reported.
    errors: Vec<ErrorKind>,
    /// Number of calls of `on_unix_writable`.
    writable: usize,
    /// True if the handler closes the socket at the first datagram or error.
    closes_at_once: bool,
    /// True if no datagram is echoed.
    is_silent: bool,
}

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}

    fn on_unix_datagram(
        &mut self,
        cx: &mut Context<'_, Self>,
        socket: UnixDatagramId,
        datagram: UnixDatagram<'_>,
    ) {
        let UnixDatagram {
            from,
            data,
            truncated,
            ..
        } = datagram;
        self.received.push((from.clone(), data.to_vec(), truncated));
        if !from.is_unnamed() && !self.is_silent {
            cx.send_unix_datagram(socket, Some(from), data)
                .expect("the receive queue of the sender has space");
        }
        if self.closes_at_once {
            cx.close_unix_datagram(socket);
        }
    }

    fn on_unix_datagram_error(
        &mut self,
        cx: &mut Context<'_, Self>,
        socket: UnixDatagramId,
        error: std::io::Error,
    ) {
        self.errors.push(error.kind());
        if self.closes_at_once {
            cx.close_unix_datagram(socket);
        }
    }

    fn on_unix_writable(&mut self, _: &mut Context<'_, Self>, _: UnixDatagramId) {
        self.writable += 1;
    }
}

/// A path that no other test uses. The file is removed when the value is dropped.
struct Bound(PathBuf);

impl Bound {
    fn new(name: &str) -> Self {
        let name = format!("unstick-dgram-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    fn addr(&self) -> UnixAddr {
        UnixAddr::from_pathname(&self.0).expect("the path is short enough for a socket address")
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn listening(name: &str, config: Config) -> (Reactor<Echo>, UnixDatagramId, Bound) {
    let bound = Bound::new(name);
    let mut reactor =
        Reactor::with_config(Echo::default(), config).expect("the reactor is created");
    let socket = reactor
        .with(|_, cx| cx.bind_unix_datagram(Some(&bound.addr())))
        .expect("the path is free");
    (reactor, socket, bound)
}

#[test]
fn unix_datagrams_keep_boundaries_and_sender_names() {
    let (mut reactor, socket, bound) = listening("echo", Config::default());
    assert_eq!(
        reactor.local_addr(socket).expect("the socket is bound"),
        Addr::Unix(bound.addr())
    );
    let named = Bound::new("named");
    let client = StdDatagram::bind(&named.0).expect("the path is free");
    client
        .set_read_timeout(Some(common::DEADLINE))
        .expect("the timeout can be set");
    let sent: [&[u8]; 4] = [b"one", b"", b"three", &[7; 9000]];
    for data in sent {
        client
            .send_to(data, &bound.0)
            .expect("the datagram is sent");
    }
    let unnamed = StdDatagram::unbound().expect("the socket can be created");
    unnamed
        .send_to(b"nobody", &bound.0)
        .expect("the datagram is sent");
    drive(&mut reactor, |reactor| {
        reactor.handler().received.len() == 5
    });
    let mut buf = [0; 10_000];
    for (data, received) in sent.iter().zip(&reactor.handler().received) {
        assert_eq!(*received, (named.addr(), data.to_vec(), false));
        let len = client.recv(&mut buf).expect("the echo arrives");
        assert_eq!(&buf[..len], *data);
    }
    let (from, data, _) = &reactor.handler().received[4];
    assert!(from.is_unnamed() && data == b"nobody", "{from}");
    let stats = reactor.stats();
    assert_eq!((stats.datagrams_in, stats.datagrams_out), (5, 4));
    let len: usize = sent.iter().map(|data| data.len()).sum();
    assert_eq!(stats.datagram_bytes_out, len as u64);
    assert_eq!(stats.datagram_bytes_in, stats.datagram_bytes_out + 6);
}

#[test]
fn python_client_gets_unix_datagrams_echoed() {
    const SCRIPT: &str = "
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[2])
s.connect(sys.argv[1])
for data in b'hello', b'', b'world' * 100:
    s.send(data)
    assert s.recv(65536) == data
";
    let (mut reactor, _, bound) = listening("python", Config::default());
    let own = Bound::new("python-client");
    let child = Command::new("python3")
        .args(["-c", SCRIPT])
        .args([&bound.0, &own.0])
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: python3 is not available");
        return;
    };
    drive(&mut reactor, |reactor| {
        reactor.handler().received.len() == 3
    });
    assert!(
        child
            .wait()
            .expect("the process is a child of this one")
            .success()
    );
}

#[test]
fn unix_datagram_over_the_limit_is_truncated() {
    let mut config = Config::default();
    config.datagram_len_max = 100;
    let (mut reactor, _, bound) = listening("long", config);
    let client = StdDatagram::unbound().expect("the socket can be created");
    for len in [100, 101] {
        client
            .send_to(&vec![7; len], &bound.0)
            .expect("the datagram is sent");
    }
    drive(&mut reactor, |reactor| {
        reactor.handler().received.len() == 2
    });
    let received = &reactor.handler().received;
    assert_eq!((received[0].1.len(), received[0].2), (100, false));
    assert_eq!((received[1].1.len(), received[1].2), (100, true));
    assert_eq!(reactor.stats().datagrams_truncated, 1);
}

#[test]
fn full_unix_receiver_causes_on_unix_writable() {
    let (_server, _, bound) = listening("full", Config::default());
    let receiver = Bound::new("receiver");
    let deaf = StdDatagram::bind(&receiver.0).expect("the path is free");
    let mut reactor = Reactor::new(Echo::default()).expect("the reactor is created");
    let socket = reactor.with(|_, cx| {
        let socket = cx
            .bind_unix_datagram(None)
            .expect("the socket can be created");
        let error = cx.send_unix_datagram(socket, None, b"to whom");
        error.expect_err("the socket has no peer");
        cx.connect_unix_datagram(socket, &receiver.addr())
            .expect("the receiver is bound");
        socket
    });
    settle(&mut reactor);
    let mut sent = 0;
    let error = reactor.with(|_, cx| {
        loop {
            match cx.send_unix_datagram(socket, None, b"more") {
                Ok(()) => sent += 1,
                Err(error) => return error,
            }
            assert!(sent < 100_000, "the receive queue of the peer never fills");
        }
    });
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(
        reactor.stats().datagrams_dropped,
        2,
        "one send had no peer, and one would block"
    );
    settle(&mut reactor);
    assert_eq!(
        reactor.handler().writable,
        0,
        "the receiver still has no space"
    );
    for _ in 0..sent {
        deaf.recv(&mut [0; 8]).expect("a datagram was sent");
    }
    drive(&mut reactor, |reactor| reactor.handler().writable == 1);
    reactor.with(|_, cx| {
        cx.send_unix_datagram(socket, None, b"again")
            .expect("the datagram queue has space");
    });
    settle(&mut reactor);
    assert_eq!(
        reactor.handler().writable,
        1,
        "on_unix_writable runs once for each send that would block"
    );
    drop(bound);
}

/// Waits until datagrams to a closed socket are refused.
///
/// A process that another test starts inherits a copy of the socket until it executes its program.
/// Until then the kernel accepts datagrams for the socket.
fn wait_until_closed(reactor: &mut Reactor<Echo>, bound: &Bound) {
    let client = StdDatagram::unbound().expect("the socket can be created");
    client
        .set_nonblocking(true)
        .expect("non-blocking mode can be set");
    drive(reactor, |_| {
        let sent = client.send_to(b"late", &bound.0);
        sent.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

#[test]
fn send_to_an_unbound_unix_address_fails_at_once() {
    let (mut reactor, socket, _bound) = listening("nobody", Config::default());
    let gone = Bound::new("gone");
    let send = |reactor: &mut Reactor<Echo>| {
        reactor.with(|_, cx| {
            cx.send_unix_datagram(socket, Some(&gone.addr()), b"hello")
                .expect_err("no socket is bound to the path")
                .kind()
        })
    };
    assert_eq!(send(&mut reactor), ErrorKind::NotFound);
    drop(StdDatagram::bind(&gone.0).expect("the path is free"));
    wait_until_closed(&mut reactor, &gone);
    assert_eq!(send(&mut reactor), ErrorKind::ConnectionRefused);
}

#[test]
#[cfg(target_os = "linux")]
fn unix_datagrams_use_abstract_names_and_pairs() {
    let name = format!("unstick-dgram-{}", std::process::id());
    let name = UnixAddr::from_abstract_name(name).expect("the name is short enough");
    let mut reactor = Reactor::new(Echo::default()).expect("the reactor is created");
    let (one, other) = StdDatagram::pair().expect("a socket pair can be created");
    reactor.with(|_, cx| {
        cx.bind_unix_datagram(Some(&name))
            .expect("the name is free");
        let unnamed = cx
            .bind_unix_datagram(None)
            .expect("the socket can be created");
        cx.send_unix_datagram(unnamed, Some(&name), b"by name")
            .expect("the receiver is bound");
        let adopted = cx
            .adopt_unix_datagram(one)
            .expect("the descriptor is a Unix datagram socket");
        cx.send_unix_datagram(adopted, None, b"by pair")
            .expect("the socket has a peer");
        let stream = std::os::unix::net::UnixStream::pair()
            .expect("a socket pair can be created")
            .0;
        let error = cx
            .adopt_unix_datagram(stream)
            .expect_err("the descriptor is a stream socket");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
        let error = cx
            .adopt_unix_datagram(udp)
            .expect_err("the descriptor is a UDP socket");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
    let mut buf = [0; 16];
    let len = other.recv(&mut buf).expect("the datagram arrived");
    assert_eq!(&buf[..len], b"by pair");
    other.send(b"back").expect("the datagram is sent");
    drive(&mut reactor, |reactor| {
        reactor.handler().received.len() == 2
    });
    let received: Vec<_> = reactor
        .handler()
        .received
        .iter()
        .map(|c| &c.1[..])
        .collect();
    assert!(received.contains(&&b"by name"[..]) && received.contains(&&b"back"[..]));
}

/// The reactor may keep the address of the last sender only if the next sender has an equal
/// address.
#[test]
#[cfg(target_os = "linux")]
fn each_unix_datagram_reports_its_own_sender() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let (mut reactor, _, bound) = listening("senders", Config::default());
    reactor.handler_mut().is_silent = true;
    let paths = ["sender-1", "sender-2"].map(Bound::new);
    let names = [1, 2].map(|n| format!("unstick-sender-{}-{n}", std::process::id()));
    let mut senders = vec![(
        StdDatagram::unbound().expect("the socket can be created"),
        UnixAddr::default(),
    )];
    for path in &paths {
        let socket = StdDatagram::bind(&path.0).expect("the path is free");
        senders.push((socket, path.addr()));
    }
    for name in &names {
        let addr = SocketAddr::from_abstract_name(name).expect("the name is short enough");
        let socket = StdDatagram::bind_addr(&addr).expect("the name is free");
        senders.push((
            socket,
            UnixAddr::from_abstract_name(name).expect("the name is short enough"),
        ));
    }
    let order = [0, 3, 3, 4, 0, 1, 1, 2, 4, 3, 1, 0, 0];
    for at in order {
        senders[at]
            .0
            .send_to(b"x", &bound.0)
            .expect("the datagram is sent");
        drive(&mut reactor, |reactor| {
            !reactor.handler().received.is_empty()
        });
        let (from, ..) = reactor.handler_mut().received.remove(0);
        assert_eq!(from, senders[at].1);
    }
}

#[test]
fn closed_unix_datagram_socket_delivers_nothing() {
    let (mut reactor, socket, bound) = listening("closed", Config::default());
    reactor.handler_mut().closes_at_once = true;
    let client = StdDatagram::unbound().expect("the socket can be created");
    for _ in 0..3 {
        client
            .send_to(b"hello", &bound.0)
            .expect("the datagram is sent");
    }
    drive(&mut reactor, |reactor| reactor.local_addr(socket).is_err());
    settle(&mut reactor);
    assert_eq!(reactor.handler().received.len(), 1);
    let error = reactor.with(|_, cx| cx.send_unix_datagram(socket, None, b"late"));
    let error = error.expect_err("the socket is closed");
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    wait_until_closed(&mut reactor, &bound);
    assert_eq!(reactor.handler().received.len(), 1);
}

/// A flood is spread over turns, so that other entries are dispatched in between.
#[test]
fn flood_of_unix_datagrams_is_spread_over_turns() {
    let mut config = Config::default();
    config.datagram_budget = 2;
    let (mut reactor, _, bound) = listening("flood", config);
    let listener = reactor
        .listen("127.0.0.1:0", Framing::raw())
        .expect("a free port is available");
    let client = StdDatagram::unbound().expect("the socket can be created");
    for _ in 0..6 {
        client
            .send_to(b"x", &bound.0)
            .expect("the datagram is sent");
    }
    reactor
        .turn(Some(Duration::ZERO))
        .expect("polling succeeds");
    assert_eq!(reactor.handler().received.len(), 2);
    let _client = common::client(
        reactor
            .local_inet_addr(listener)
            .expect("the socket is bound"),
    );
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    assert!(
        reactor.handler().received.len() <= 4,
        "the connection was accepted within one more turn"
    );
    drive(&mut reactor, |reactor| {
        reactor.handler().received.len() == 6
    });
}

/// On Linux, a peer causes an error if it connects to another address while it has unread
/// datagrams. The reactor gets the error before the datagrams of this peer, and no further edge
/// reports these datagrams.
#[test]
#[cfg(target_os = "linux")]
fn datagrams_queued_behind_an_error_are_delivered() {
    for closes in [false, true] {
        receive_error_then_datagram(closes);
    }
}

/// If the callback of the error closes the socket, the datagram is dropped.
#[cfg(target_os = "linux")]
fn receive_error_then_datagram(closes: bool) {
    let (mut reactor, socket, bound) = listening("left", Config::default());
    reactor.handler_mut().is_silent = true;
    reactor.handler_mut().closes_at_once = closes;
    let [own, elsewhere] = ["leaving", "elsewhere"].map(Bound::new);
    let peer = StdDatagram::bind(&own.0).expect("the path is free");
    let _other = StdDatagram::bind(&elsewhere.0).expect("the path is free");
    peer.connect(&bound.0).expect("the other socket is bound");
    reactor.with(|_, cx| {
        cx.connect_unix_datagram(socket, &own.addr())
            .expect("the socket is bound");
        cx.send_unix_datagram(socket, None, b"lost unread")
            .expect("the datagram queue has space");
    });
    peer.send(b"last words").expect("the datagram is sent");
    peer.connect(&elsewhere.0)
        .expect("the other socket is bound");
    drive(&mut reactor, |reactor| reactor.stats().datagram_errors == 1);
    settle(&mut reactor);
    let received: Vec<_> = reactor
        .handler()
        .received
        .iter()
        .map(|c| &c.1[..])
        .collect();
    assert_eq!(received, [b"last words"][usize::from(closes)..]);
    assert_eq!(reactor.handler().errors, [ErrorKind::ConnectionReset]);
}
