//! Sockets that somebody else made: std's, a parent's, systemd's. And what becomes of descriptors
//! that live on elsewhere.

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::{Event, Probe, client, drive, round_trip, settle};
use unstick::{CloseReason, Closed, ConnId, Context, Framing, Handler, Origin, Reactor};

fn reactor(probe: Probe) -> Reactor<Probe> {
    Reactor::new(probe).expect("a reactor")
}

/// Two ends of a TCP connection, both of std and both blocking.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let near = client(listener.local_addr().expect("it is bound"));
    let (far, _) = listener.accept().expect("it is connected");
    (near, far)
}

fn serve_one(reactor: &mut Reactor<Probe>, mut stream: TcpStream) {
    let talking = std::thread::spawn(move || round_trip(&mut stream, b"hello"));
    drive(reactor, |reactor| reactor.stats().closed == 1);
    assert_eq!(talking.join().expect("it is answered"), b"hello");
}

#[test]
fn a_listener_of_std_accepts_also_those_that_came_before_it_was_adopted() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let early = client(addr);
    let mut reactor = reactor(Probe::echo());
    let id = reactor
        .with(|_, cx| cx.adopt_listener(listener, Framing::length_u32()))
        .expect("it listens");
    assert_eq!(reactor.local_inet_addr(id).expect("it is open"), addr);
    serve_one(&mut reactor, early);
    // It would hang in accept if the socket still blocked.
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    reactor.with(|_, cx| cx.close_listener(id));
    reactor.turn(Some(Duration::ZERO)).expect("the poll works");
    TcpStream::connect(addr).expect_err("it is closed with its listener");
}

#[test]
fn a_stream_of_std_opens_once_and_has_the_bytes_that_came_before() {
    let (mut far, near) = pair();
    far.write_all(b"one\ntwo\nthr").expect("there is room");
    let peer = far.local_addr().expect("it is connected");
    let mut reactor = reactor(Probe::echo());
    let conn = reactor.with(|_, cx| {
        let conn = cx.adopt_stream(near, Framing::line(), ());
        assert_eq!(cx.peer_inet_addr(conn).expect("it is known"), peer);
        cx.send(conn, b"early").map(drop).expect("it waits");
        conn
    });
    assert!(reactor.handler().events.is_empty(), "not before its turn");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
    let opened = &reactor.handler().events[0];
    assert!(
        matches!(opened, Event::Open(id, Origin::Adopted) if *id == conn),
        "{opened:?}"
    );
    assert_eq!(reactor.handler().frames(), [b"one", b"two"]);
    let mut lines = BufReader::new(far.try_clone().expect("a descriptor")).lines();
    for wanted in ["early", "one", "two"] {
        assert_eq!(lines.next().expect("a line").expect("text"), wanted);
    }
    far.write_all(b"ee\n").expect("there is room");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 3);
    assert_eq!(reactor.handler().frames()[2], b"three");
    // All is read, so that its end is none by a reset.
    assert_eq!(lines.next().expect("a line").expect("text"), "three");
    drop((far, lines));
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    assert!(matches!(
        reactor.handler().closes()[0].1.reason,
        CloseReason::Peer
    ));
}

#[test]
#[cfg(unix)]
fn a_pair_of_unix_sockets_joins_two_reactors() {
    let (one, other) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let mut server = reactor(Probe::echo());
    server.with(|_, cx| cx.adopt_stream(one, Framing::varint(), ()));
    let mut reactor = reactor(Probe::silent());
    let conn = reactor.with(|_, cx| cx.adopt_stream(other, Framing::varint(), ()));
    reactor.with(|_, cx| cx.send(conn, b"hello").map(drop).expect("it waits"));
    drive(&mut reactor, |reactor| {
        server.turn(Some(Duration::ZERO)).expect("the poll works");
        reactor.stats().frames_in == 1
    });
    assert_eq!(reactor.handler().frames(), [b"hello"]);
}

#[test]
#[cfg(unix)]
fn a_unix_listener_of_std_accepts() {
    use std::os::unix::net::{UnixListener, UnixStream};
    let name = format!("unstick-adopt-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&path).expect("nobody has the path");
    let mut reactor = reactor(Probe::silent());
    reactor
        .with(|_, cx| cx.adopt_listener(listener, Framing::line()))
        .expect("it listens");
    let mut client = UnixStream::connect(&path).expect("it listens");
    std::fs::remove_file(&path).expect("it is there");
    client.write_all(b"hello\n").expect("there is room");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
}

#[test]
fn a_udp_socket_of_std_receives_what_came_before_and_sends() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let addr = socket.local_addr().expect("it is bound");
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    peer.set_read_timeout(Some(common::DEADLINE))
        .expect("a timeout can be set");
    peer.send_to(b"early", addr).expect("loopback takes it");
    let mut reactor = reactor(Probe::echo());
    let id = reactor
        .with(|_, cx| cx.adopt_udp(socket))
        .expect("it is of UDP");
    assert_eq!(reactor.local_inet_addr(id).expect("it is open"), addr);
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 1);
    let mut buf = [0; 16];
    let len = peer.recv(&mut buf).expect("it is answered");
    assert_eq!(&buf[..len], b"early");
    // It would hang in recv if the socket still blocked.
    settle(&mut reactor);
}

/// A handler whose sessions say that they came back.
#[derive(Default)]
struct Keeper(Vec<(ConnId, String, Closed)>);

impl Handler for Keeper {
    type Session = String;

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut String, _: &[u8]) {}

    fn on_close(&mut self, _: &mut Context<'_, Self>, conn: ConnId, mine: String, why: Closed) {
        self.0.push((conn, mine, why));
    }
}

#[test]
fn a_stream_that_is_none_is_a_failed_connect_which_gives_the_session_back() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let mut reactor = Reactor::new(Keeper::default()).expect("a reactor");
    reactor.with(|_, cx| {
        cx.adopt_stream(listener, Framing::raw(), "a listener".to_owned());
        cx.adopt_stream(udp, Framing::raw(), "of UDP".to_owned());
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 2);
    let seen = reactor.handler().0.iter().map(|(_, mine, closed)| {
        let CloseReason::ConnectFailed(error) = &closed.reason else {
            panic!("{closed:?}");
        };
        (mine.as_str(), error.kind())
    });
    let seen: Vec<_> = seen.collect();
    assert_eq!(
        seen,
        [
            ("a listener", ErrorKind::NotConnected),
            ("of UDP", ErrorKind::InvalidInput)
        ]
    );
}

#[test]
fn a_socket_of_the_wrong_kind_is_refused_and_closed() {
    let mut reactor = reactor(Probe::silent());
    let refused = |result: std::io::Result<()>| {
        let error = result.expect_err("it is of the wrong kind");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    };
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let addr = udp.local_addr().expect("it is bound");
    reactor.with(|_, cx| refused(cx.adopt_listener(udp, Framing::raw()).map(drop)));
    UdpSocket::bind(addr).expect("nobody has it any more");
    let (_far, near) = pair();
    reactor.with(|_, cx| refused(cx.adopt_listener(near, Framing::raw()).map(drop)));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    reactor.with(|_, cx| refused(cx.adopt_udp(listener).map(drop)));
    #[cfg(unix)]
    {
        let (datagram, _other) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
        reactor.with(|_, cx| refused(cx.adopt_udp(datagram).map(drop)));
        let (stdin, _other) = std::io::pipe().expect("a pipe");
        let stdin = std::os::fd::OwnedFd::from(stdin);
        let error = reactor.with(|_, cx| cx.adopt_listener(stdin, Framing::raw()));
        error.expect_err("it is no socket at all");
    }
    #[cfg(target_os = "linux")]
    {
        use socket2::{Domain, Socket, Type};
        // AF_NETLINK, which has datagrams too, and an address of no kind that is known here.
        let netlink = Socket::new(Domain::from(16), Type::DGRAM, None).expect("a socket");
        reactor.with(|_, cx| refused(cx.adopt_udp(netlink).map(drop)));
    }
}

/// The child of the next two tests: adopts what `take` gives, serves one connection, and ends.
#[cfg(unix)]
fn serve_as_child(take: impl FnOnce() -> std::os::fd::OwnedFd) {
    let mut reactor = reactor(Probe::echo());
    reactor
        .with(|_, cx| cx.adopt_listener(take(), Framing::length_u32()))
        .expect("the parent's socket listens");
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
}

/// A parent hands its listener down as the standard input, as inetd does.
#[test]
#[cfg(unix)]
fn a_child_serves_the_listener_that_its_parent_handed_down() {
    use std::os::fd::{AsFd, OwnedFd};
    use std::process::Stdio;
    if common::is_child() {
        return serve_as_child(|| {
            let stdin = std::io::stdin();
            stdin.as_fd().try_clone_to_owned().expect("it is open")
        });
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let mut child = common::rerun("a_child_serves_the_listener_that_its_parent_handed_down")
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .spawn()
        .expect("the test binary runs again");
    let mut stream = client(addr);
    assert_eq!(round_trip(&mut stream, b"hello"), b"hello");
    drop(stream);
    assert!(child.wait().expect("it is a child").success());
}

/// As systemd does it: the sockets begin at descriptor 3, and `LISTEN_FDS` says how many there are
/// (sd_listen_fds(3)).
#[test]
#[cfg(unix)]
fn a_service_serves_the_listener_that_systemd_handed_down() {
    use std::process::{Command, Stdio};
    const SCRIPT: &str = "
import os, socket, sys
s = socket.create_server(('127.0.0.1', 0))
print(s.getsockname()[1], flush=True)
if s.fileno() == 3:
    os.set_inheritable(3, True)
else:
    os.dup2(s.fileno(), 3)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])
";
    if common::is_child() {
        return serve_as_child(|| {
            let mut handed_down = listenfd::ListenFd::from_env();
            let listener = handed_down.take_tcp_listener(0).expect("it is of TCP");
            listener.expect("there is one").into()
        });
    }
    let test = common::rerun("a_service_serves_the_listener_that_systemd_handed_down");
    let child = Command::new("python3")
        .args(["-c", SCRIPT])
        .arg(test.get_program())
        .args(test.get_args())
        .envs(
            test.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("no python3 here: skipped");
        return;
    };
    let mut stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
    let mut port = String::new();
    stdout.read_line(&mut port).expect("it prints its port");
    let port: u16 = port.trim().parse().expect("a number");
    let mut stream = client(([127, 0, 0, 1], port).into());
    assert_eq!(round_trip(&mut stream, b"hello"), b"hello");
    drop(stream);
    assert!(child.wait().expect("it is a child").success());
}

/// The poll watches an open socket, not a descriptor; as long as a duplicate lives, it
/// would go on to tell of it (epoll(7), "Questions and answers", 6).
#[test]
fn a_duplicate_of_a_closed_connections_socket_brings_no_event() {
    let mut reactor = reactor(Probe::silent());
    let (mut far, near) = pair();
    let duplicate = near.try_clone().expect("a descriptor");
    let conn = reactor.with(|_, cx| cx.adopt_stream(near, Framing::line(), ()));
    far.write_all(b"before\n").expect("there is room");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
    reactor.with(|_, cx| cx.abort(conn));
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    settle(&mut reactor);
    let events = reactor.stats().events;
    far.write_all(b"after\n").expect("the duplicate is open");
    let mut seen = [0; 6];
    let peeked = duplicate.set_nonblocking(false);
    peeked.expect("it can be set");
    let len = duplicate.peek(&mut seen).expect("it has come");
    assert!(len > 0, "an event would be there by now");
    settle(&mut reactor);
    assert_eq!(reactor.stats().events, events);
    assert_eq!(reactor.handler().frames(), [b"before"]);
}

#[test]
fn a_duplicate_of_a_closed_datagram_socket_brings_no_event() {
    let mut reactor = reactor(Probe::silent());
    let near = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let addr = near.local_addr().expect("it is bound");
    let far = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let duplicate = near.try_clone().expect("a descriptor");
    let id = reactor
        .with(|_, cx| cx.adopt_udp(near))
        .expect("it is of UDP");
    far.send_to(b"before", addr).expect("loopback takes it");
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 1);
    reactor.with(|_, cx| cx.close_udp(id));
    drive(&mut reactor, |reactor| reactor.local_inet_addr(id).is_err());
    settle(&mut reactor);
    let events = reactor.stats().events;
    far.send_to(b"after", addr).expect("the duplicate is open");
    let blocking = duplicate.set_nonblocking(false);
    blocking.expect("it can be set");
    let mut seen = [0; 6];
    duplicate.peek(&mut seen).expect("it has come");
    settle(&mut reactor);
    assert_eq!(reactor.stats().events, events);
    assert_eq!(reactor.stats().datagrams_in, 1);
}

/// None of the reactor's descriptors is inherited by a child of the program.
#[test]
#[cfg(target_os = "linux")]
fn no_descriptor_of_a_reactor_is_inherited() {
    use socket2::{Domain, Socket, Type};
    use unstick::Config;
    if !common::is_child() {
        // In a process of its own, as other tests open descriptors too.
        let output = common::rerun("no_descriptor_of_a_reactor_is_inherited")
            .output()
            .expect("the test binary runs again");
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let (mut reactor, addr) =
        common::listening(Probe::silent(), Config::default(), Framing::line());
    let conn = reactor.connect(addr, Framing::line(), ());
    reactor.bind_udp("127.0.0.1:0").expect("a free port");
    let (far, near) = pair();
    let inherited = Socket::from(near);
    inherited.set_cloexec(false).expect("it can be set");
    reactor.with(|_, cx| {
        cx.adopt_stream(inherited, Framing::line(), ());
        let plain = Socket::new_raw(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        plain.bind(&any.into()).expect("a free port");
        plain.listen(1).expect("it is bound");
        cx.adopt_listener(plain, Framing::line())
            .expect("it listens");
        let name = unstick::UnixAddr::from_abstract_name(format!("cloexec-{}", std::process::id()));
        let name = name.expect("short");
        cx.listen(&name, Framing::line())
            .expect("a name of its own");
        cx.connect(&name, Framing::line(), ());
    });
    // Two accepted, two connected, one adopted.
    drive(&mut reactor, |reactor| {
        reactor.stats().accepted == 2 && reactor.stats().connected == 3
    });
    let mut checked = 0;
    for entry in std::fs::read_dir("/proc/self/fd").expect("there is procfs") {
        let entry = entry.expect("it can be listed");
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let target = target.to_string_lossy().into_owned();
        let fd: u32 = entry
            .file_name()
            .to_string_lossy()
            .parse()
            .expect("a number");
        if fd < 3 || !(target.starts_with("socket:") || target.starts_with("anon_inode:")) {
            continue;
        }
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("it is open");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = u32::from_str_radix(flags.expect("proc(5) says so").trim(), 8);
        // O_CLOEXEC (open(2)).
        assert_ne!(flags.expect("octal") & 0o2_000_000, 0, "{fd}: {target}");
        checked += 1;
    }
    // A poll and its waker, three listeners, a UDP socket, five connections, and `far`.
    assert_eq!(checked, 2 + 3 + 1 + 5 + 1);
    reactor.with(|_, cx| cx.abort(conn));
    drop(far);
}
