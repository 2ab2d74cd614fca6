//! Unix datagram sockets: boundaries kept, nothing lost in silence.
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

/// What came: from whom, what, and whether it was cut.
type Came = (UnixAddr, Vec<u8>, bool);

/// Records, and answers whoever has a name.
#[derive(Default)]
struct Echo {
    came: Vec<Came>,
    writable: usize,
    closes_at_once: bool,
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
        self.came.push((from.clone(), data.to_vec(), truncated));
        if !from.is_unnamed() && !self.is_silent {
            cx.send_unix_datagram(socket, Some(from), data)
                .expect("there is room for an answer");
        }
        if self.closes_at_once {
            cx.close_unix_datagram(socket);
        }
    }

    fn on_unix_writable(&mut self, _: &mut Context<'_, Self>, _: UnixDatagramId) {
        self.writable += 1;
    }
}

/// A path that no other test has. Whoever binds it removes it.
struct Bound(PathBuf);

impl Bound {
    fn new(name: &str) -> Self {
        let name = format!("unstick-dgram-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    fn addr(&self) -> UnixAddr {
        UnixAddr::from_pathname(&self.0).expect("a short path")
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn listening(name: &str, config: Config) -> (Reactor<Echo>, UnixDatagramId, Bound) {
    let bound = Bound::new(name);
    let mut reactor = Reactor::with_config(Echo::default(), config).expect("a reactor");
    let socket = reactor
        .with(|_, cx| cx.bind_unix_datagram(Some(&bound.addr())))
        .expect("nobody has the path");
    (reactor, socket, bound)
}

#[test]
fn datagrams_keep_their_boundaries_and_are_answered_where_their_sender_has_a_name() {
    let (mut reactor, socket, bound) = listening("echo", Config::default());
    assert_eq!(
        reactor.local_addr(socket).expect("it is bound"),
        Addr::Unix(bound.addr())
    );
    let named = Bound::new("named");
    let client = StdDatagram::bind(&named.0).expect("nobody has the path");
    client
        .set_read_timeout(Some(common::DEADLINE))
        .expect("a timeout can be set");
    let sent: [&[u8]; 4] = [b"one", b"", b"three", &[7; 9000]];
    for data in sent {
        client.send_to(data, &bound.0).expect("there is room");
    }
    let unnamed = StdDatagram::unbound().expect("a socket");
    unnamed.send_to(b"nobody", &bound.0).expect("there is room");
    drive(&mut reactor, |reactor| reactor.handler().came.len() == 5);
    let mut buf = [0; 10_000];
    for (data, came) in sent.iter().zip(&reactor.handler().came) {
        assert_eq!(*came, (named.addr(), data.to_vec(), false));
        let len = client.recv(&mut buf).expect("it is answered");
        assert_eq!(&buf[..len], *data);
    }
    let (from, data, _) = &reactor.handler().came[4];
    assert!(from.is_unnamed() && data == b"nobody", "{from}");
    let stats = reactor.stats();
    assert_eq!((stats.datagrams_in, stats.datagrams_out), (5, 4));
    let len: usize = sent.iter().map(|data| data.len()).sum();
    assert_eq!(stats.datagram_bytes_out, len as u64);
    assert_eq!(stats.datagram_bytes_in, stats.datagram_bytes_out + 6);
}

#[test]
fn a_client_in_python_is_answered() {
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
        eprintln!("no python3 here: skipped");
        return;
    };
    drive(&mut reactor, |reactor| reactor.handler().came.len() == 3);
    assert!(child.wait().expect("it is a child").success());
}

#[test]
fn a_datagram_longer_than_the_limit_is_flagged_and_one_of_exactly_the_limit_is_not() {
    let mut config = Config::default();
    config.datagram_len_max = 100;
    let (mut reactor, _, bound) = listening("long", config);
    let client = StdDatagram::unbound().expect("a socket");
    for len in [100, 101] {
        client.send_to(&vec![7; len], &bound.0).expect("room");
    }
    drive(&mut reactor, |reactor| reactor.handler().came.len() == 2);
    let came = &reactor.handler().came;
    assert_eq!((came[0].1.len(), came[0].2), (100, false));
    assert_eq!((came[1].1.len(), came[1].2), (100, true));
    assert_eq!(reactor.stats().datagrams_truncated, 1);
}

#[test]
fn a_full_receiver_is_told_at_once_and_room_by_a_callback() {
    let (_server, _, bound) = listening("full", Config::default());
    let receiver = Bound::new("receiver");
    let deaf = StdDatagram::bind(&receiver.0).expect("nobody has the path");
    let mut reactor = Reactor::new(Echo::default()).expect("a reactor");
    let socket = reactor.with(|_, cx| {
        let socket = cx.bind_unix_datagram(None).expect("a socket");
        let error = cx.send_unix_datagram(socket, None, b"to whom");
        error.expect_err("it has no peer");
        cx.connect_unix_datagram(socket, &receiver.addr())
            .expect("it is bound");
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
            assert!(sent < 100_000, "it never fills");
        }
    });
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(reactor.stats().datagrams_dropped, 2, "one had no peer");
    settle(&mut reactor);
    assert_eq!(reactor.handler().writable, 0, "there is no room yet");
    for _ in 0..sent {
        deaf.recv(&mut [0; 8]).expect("it has come");
    }
    drive(&mut reactor, |reactor| reactor.handler().writable == 1);
    reactor.with(|_, cx| {
        cx.send_unix_datagram(socket, None, b"again")
            .expect("there is room");
    });
    settle(&mut reactor);
    assert_eq!(reactor.handler().writable, 1, "once for each time");
    drop(bound);
}

/// A process that another test starts has a copy of a closed socket until it runs its program: the
/// kernel takes datagrams for it as long.
fn wait_until_closed(reactor: &mut Reactor<Echo>, bound: &Bound) {
    let client = StdDatagram::unbound().expect("a socket");
    client.set_nonblocking(true).expect("a socket");
    drive(reactor, |_| {
        let sent = client.send_to(b"late", &bound.0);
        sent.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

#[test]
fn an_address_that_nobody_has_is_told_at_once() {
    let (mut reactor, socket, _bound) = listening("nobody", Config::default());
    let gone = Bound::new("gone");
    let send = |reactor: &mut Reactor<Echo>| {
        reactor.with(|_, cx| {
            cx.send_unix_datagram(socket, Some(&gone.addr()), b"hello")
                .expect_err("nobody is there")
                .kind()
        })
    };
    assert_eq!(send(&mut reactor), ErrorKind::NotFound);
    drop(StdDatagram::bind(&gone.0).expect("nobody has the path"));
    wait_until_closed(&mut reactor, &gone);
    assert_eq!(send(&mut reactor), ErrorKind::ConnectionRefused);
}

#[test]
#[cfg(target_os = "linux")]
fn abstract_names_and_pairs_of_std_serve_too() {
    let name = format!("unstick-dgram-{}", std::process::id());
    let name = UnixAddr::from_abstract_name(name).expect("short");
    let mut reactor = Reactor::new(Echo::default()).expect("a reactor");
    let (one, other) = StdDatagram::pair().expect("a pair");
    reactor.with(|_, cx| {
        cx.bind_unix_datagram(Some(&name)).expect("a free name");
        let unnamed = cx.bind_unix_datagram(None).expect("a socket");
        cx.send_unix_datagram(unnamed, Some(&name), b"by name")
            .expect("it is bound");
        let adopted = cx.adopt_unix_datagram(one).expect("it is one");
        cx.send_unix_datagram(adopted, None, b"by pair")
            .expect("it is connected");
        let stream = std::os::unix::net::UnixStream::pair().expect("a pair").0;
        let error = cx.adopt_unix_datagram(stream).expect_err("it is none");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let error = cx.adopt_unix_datagram(udp).expect_err("it is none");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
    let mut buf = [0; 16];
    let len = other.recv(&mut buf).expect("it has come");
    assert_eq!(&buf[..len], b"by pair");
    other.send(b"back").expect("there is room");
    drive(&mut reactor, |reactor| reactor.handler().came.len() == 2);
    let came: Vec<_> = reactor.handler().came.iter().map(|c| &c.1[..]).collect();
    assert!(came.contains(&&b"by name"[..]) && came.contains(&&b"back"[..]));
}

/// The name of the sender before is kept for the next one only where it is the same.
#[test]
#[cfg(target_os = "linux")]
fn each_datagram_tells_the_name_of_its_own_sender_of_whatever_kind() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let (mut reactor, _, bound) = listening("senders", Config::default());
    reactor.handler_mut().is_silent = true;
    let paths = ["sender-1", "sender-2"].map(Bound::new);
    let names = [1, 2].map(|n| format!("unstick-sender-{}-{n}", std::process::id()));
    let mut senders = vec![(
        StdDatagram::unbound().expect("a socket"),
        UnixAddr::default(),
    )];
    for path in &paths {
        let socket = StdDatagram::bind(&path.0).expect("nobody has the path");
        senders.push((socket, path.addr()));
    }
    for name in &names {
        let addr = SocketAddr::from_abstract_name(name).expect("short");
        let socket = StdDatagram::bind_addr(&addr).expect("nobody has the name");
        senders.push((socket, UnixAddr::from_abstract_name(name).expect("short")));
    }
    let order = [0, 3, 3, 4, 0, 1, 1, 2, 4, 3, 1, 0, 0];
    for at in order {
        senders[at]
            .0
            .send_to(b"x", &bound.0)
            .expect("there is room");
        drive(&mut reactor, |reactor| !reactor.handler().came.is_empty());
        let (from, ..) = reactor.handler_mut().came.remove(0);
        assert_eq!(from, senders[at].1);
    }
}

#[test]
fn a_closed_socket_is_stale_at_once_and_delivers_nothing_more() {
    let (mut reactor, socket, bound) = listening("closed", Config::default());
    reactor.handler_mut().closes_at_once = true;
    let client = StdDatagram::unbound().expect("a socket");
    for _ in 0..3 {
        client.send_to(b"hello", &bound.0).expect("there is room");
    }
    drive(&mut reactor, |reactor| reactor.local_addr(socket).is_err());
    settle(&mut reactor);
    assert_eq!(reactor.handler().came.len(), 1);
    let error = reactor.with(|_, cx| cx.send_unix_datagram(socket, None, b"late"));
    let error = error.expect_err("it is closed");
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    wait_until_closed(&mut reactor, &bound);
    assert_eq!(reactor.handler().came.len(), 1);
}

/// As for UDP: a flood is cut into turns, and what else there is has its turn between.
#[test]
fn a_flood_within_the_kernels_queue_is_delivered_over_several_turns() {
    let mut config = Config::default();
    config.datagram_budget = 2;
    let (mut reactor, _, bound) = listening("flood", config);
    let listener = reactor
        .listen("127.0.0.1:0", Framing::raw())
        .expect("a free port");
    let client = StdDatagram::unbound().expect("a socket");
    for _ in 0..6 {
        client.send_to(b"x", &bound.0).expect("there is room");
    }
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    assert_eq!(reactor.handler().came.len(), 2);
    let _client = common::client(reactor.local_inet_addr(listener).expect("it is bound"));
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    assert!(reactor.handler().came.len() <= 4, "one turn was enough");
    drive(&mut reactor, |reactor| reactor.handler().came.len() == 6);
}

/// Linux tells as an error that a peer connected elsewhere with datagrams unread; and it tells an
/// error before what is queued, for which there is no other edge.
#[test]
#[cfg(target_os = "linux")]
fn what_a_peer_sent_before_it_went_elsewhere_is_delivered_behind_the_error() {
    let (mut reactor, socket, bound) = listening("left", Config::default());
    reactor.handler_mut().is_silent = true;
    let [own, elsewhere] = ["leaving", "elsewhere"].map(Bound::new);
    let peer = StdDatagram::bind(&own.0).expect("nobody has the path");
    let _other = StdDatagram::bind(&elsewhere.0).expect("nobody has the path");
    peer.connect(&bound.0).expect("it is bound");
    reactor.with(|_, cx| {
        cx.connect_unix_datagram(socket, &own.addr())
            .expect("it is bound");
        cx.send_unix_datagram(socket, None, b"lost unread")
            .expect("there is room");
    });
    peer.send(b"last words").expect("there is room");
    peer.connect(&elsewhere.0).expect("it is bound");
    drive(&mut reactor, |reactor| reactor.stats().datagram_errors == 1);
    settle(&mut reactor);
    let came: Vec<_> = reactor.handler().came.iter().map(|c| &c.1[..]).collect();
    assert_eq!(came, [b"last words"]);
}
