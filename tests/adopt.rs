//! Adopting sockets that std, a parent process or systemd created. Also the flags of descriptors,
//! and the events of duplicated descriptors.

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::{Event, Probe, client, drive, round_trip, settle};
use unstick::{CloseReason, Closed, ConnId, Context, Framing, Handler, Origin, Reactor};

fn reactor(probe: Probe) -> Reactor<Probe> {
    Reactor::new(probe).expect("the reactor is created")
}

/// Returns both ends of a TCP connection, as blocking std streams.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let near = client(listener.local_addr().expect("the socket is bound"));
    let (far, _) = listener.accept().expect("the client has connected");
    (near, far)
}

fn echo_one_and_close(reactor: &mut Reactor<Probe>, mut stream: TcpStream) {
    let client = std::thread::spawn(move || round_trip(&mut stream, b"hello"));
    drive(reactor, |reactor| reactor.stats().closed == 1);
    assert_eq!(client.join().expect("the echo is received"), b"hello");
}

#[test]
fn adopted_listener_accepts_connections_made_before_adoption() {
    // On Linux, every address in 127.0.0.0/8 is local. No other test uses 127.0.0.49, so no other
    // test can open the port again after this test has closed it.
    let host = match cfg!(target_os = "linux") {
        true => "127.0.0.49:0",
        false => "127.0.0.1:0",
    };
    let listener = TcpListener::bind(host).expect("a free port is available");
    let addr = listener.local_addr().expect("the socket is bound");
    let early = client(addr);
    let mut reactor = reactor(Probe::echo());
    let id = reactor
        .with(|_, cx| cx.adopt_listener(listener, Framing::length_u32()))
        .expect("the socket is a listener");
    assert_eq!(
        reactor.local_inet_addr(id).expect("the socket is open"),
        addr
    );
    echo_one_and_close(&mut reactor, early);
    // If the socket were still blocking, this turn would hang in accept.
    reactor
        .turn(Some(Duration::ZERO))
        .expect("polling succeeds");
    reactor.with(|_, cx| cx.close_listener(id));
    reactor
        .turn(Some(Duration::ZERO))
        .expect("polling succeeds");
    TcpStream::connect(addr).expect_err("the listening socket is closed");
}

#[test]
fn adopted_stream_opens_once_and_reads_bytes_sent_before() {
    let (mut far, near) = pair();
    far.write_all(b"one\ntwo\nthr")
        .expect("the kernel accepts the bytes");
    let peer = far.local_addr().expect("the stream is connected");
    let mut reactor = reactor(Probe::echo());
    let conn = reactor.with(|_, cx| {
        let conn = cx.adopt_stream(near, Framing::line(), ());
        assert_eq!(
            cx.peer_inet_addr(conn)
                .expect("the peer's address is known"),
            peer
        );
        cx.send(conn, b"early")
            .map(drop)
            .expect("the bytes are queued");
        conn
    });
    assert!(
        reactor.handler().events.is_empty(),
        "no callback runs before the first turn"
    );
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
    let opened = &reactor.handler().events[0];
    assert!(
        matches!(opened, Event::Open(id, Origin::Adopted) if *id == conn),
        "{opened:?}"
    );
    assert_eq!(reactor.handler().frames(), [b"one", b"two"]);
    let mut lines = BufReader::new(far.try_clone().expect("a descriptor is free")).lines();
    for wanted in ["early", "one", "two"] {
        assert_eq!(
            lines
                .next()
                .expect("the echo arrives")
                .expect("the echo is UTF-8"),
            wanted
        );
    }
    far.write_all(b"ee\n")
        .expect("the kernel accepts the bytes");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 3);
    assert_eq!(reactor.handler().frames()[2], b"three");
    // The client has read everything, so dropping it sends a FIN and not a reset.
    assert_eq!(
        lines
            .next()
            .expect("the echo arrives")
            .expect("the echo is UTF-8"),
        "three"
    );
    drop((far, lines));
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    assert!(matches!(
        reactor.handler().closes()[0].1.reason,
        CloseReason::Peer
    ));
}

#[test]
#[cfg(unix)]
fn adopted_unix_stream_pair_connects_two_reactors() {
    let (one, other) = std::os::unix::net::UnixStream::pair().expect("the socket pair is created");
    let mut server = reactor(Probe::echo());
    server.with(|_, cx| cx.adopt_stream(one, Framing::varint(), ()));
    let mut reactor = reactor(Probe::silent());
    let conn = reactor.with(|_, cx| cx.adopt_stream(other, Framing::varint(), ()));
    reactor.with(|_, cx| {
        cx.send(conn, b"hello")
            .map(drop)
            .expect("the queue has space")
    });
    drive(&mut reactor, |reactor| {
        server.turn(Some(Duration::ZERO)).expect("polling succeeds");
        reactor.stats().frames_in == 1
    });
    assert_eq!(reactor.handler().frames(), [b"hello"]);
}

#[test]
#[cfg(unix)]
fn adopted_unix_listener_accepts() {
    use std::os::unix::net::{UnixListener, UnixStream};
    let name = format!("unstick-adopt-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&path).expect("the path is free");
    let mut reactor = reactor(Probe::silent());
    reactor
        .with(|_, cx| cx.adopt_listener(listener, Framing::line()))
        .expect("the socket is a listener");
    let mut client = UnixStream::connect(&path).expect("the listener is open");
    std::fs::remove_file(&path).expect("the path exists");
    client
        .write_all(b"hello\n")
        .expect("the kernel accepts the bytes");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
}

#[test]
fn adopted_udp_socket_sends_and_receives_earlier_datagrams() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    let addr = socket.local_addr().expect("the socket is bound");
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    peer.set_read_timeout(Some(common::DEADLINE))
        .expect("a timeout can be set");
    peer.send_to(b"early", addr)
        .expect("the kernel accepts the datagram");
    let mut reactor = reactor(Probe::echo());
    let id = reactor
        .with(|_, cx| cx.adopt_udp(socket))
        .expect("the adopted socket is a UDP socket");
    assert_eq!(
        reactor.local_inet_addr(id).expect("the socket is open"),
        addr
    );
    drive(&mut reactor, |reactor| reactor.stats().datagrams_out == 1);
    let mut buf = [0; 16];
    let len = peer.recv(&mut buf).expect("the echo is received");
    assert_eq!(&buf[..len], b"early");
    // If the socket were still blocking, these turns would hang in recv.
    settle(&mut reactor);
}

/// A handler that records the arguments of every `on_close`.
#[derive(Default)]
struct CloseLog(Vec<(ConnId, String, Closed)>);

impl Handler for CloseLog {
    type Session = String;

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut String, _: &[u8]) {}

    fn on_close(&mut self, _: &mut Context<'_, Self>, conn: ConnId, name: String, closed: Closed) {
        self.0.push((conn, name, closed));
    }
}

#[test]
fn adopt_stream_of_another_kind_closes_as_connect_failed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    let mut reactor = Reactor::new(CloseLog::default()).expect("the reactor is created");
    reactor.with(|_, cx| {
        cx.adopt_stream(listener, Framing::raw(), "a listener".to_owned());
        cx.adopt_stream(udp, Framing::raw(), "a UDP socket".to_owned());
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 2);
    let seen = reactor.handler().0.iter().map(|(_, name, closed)| {
        let CloseReason::ConnectFailed(error) = &closed.reason else {
            panic!("{closed:?}");
        };
        (name.as_str(), error.kind())
    });
    let seen: Vec<_> = seen.collect();
    assert_eq!(
        seen,
        [
            ("a listener", ErrorKind::NotConnected),
            ("a UDP socket", ErrorKind::InvalidInput)
        ]
    );
}

#[test]
fn adopting_a_socket_of_the_wrong_kind_fails_and_closes_it() {
    let mut reactor = reactor(Probe::silent());
    let refused = |result: std::io::Result<()>| {
        let error = result.expect_err("the socket has the wrong kind");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    };
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    let addr = udp.local_addr().expect("the socket is bound");
    reactor.with(|_, cx| refused(cx.adopt_listener(udp, Framing::raw()).map(drop)));
    UdpSocket::bind(addr).expect("the failed adoption closed the socket");
    let (_far, near) = pair();
    reactor.with(|_, cx| refused(cx.adopt_listener(near, Framing::raw()).map(drop)));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    reactor.with(|_, cx| refused(cx.adopt_udp(listener).map(drop)));
    #[cfg(unix)]
    {
        let (datagram, _other) =
            std::os::unix::net::UnixDatagram::pair().expect("the socket pair is created");
        reactor.with(|_, cx| refused(cx.adopt_udp(datagram).map(drop)));
        let (stdin, _other) = std::io::pipe().expect("the pipe is created");
        let stdin = std::os::fd::OwnedFd::from(stdin);
        let error = reactor.with(|_, cx| cx.adopt_listener(stdin, Framing::raw()));
        error.expect_err("a pipe is not a socket");
    }
    #[cfg(target_os = "linux")]
    {
        use socket2::{Domain, Socket, Type};
        // A socket of AF_NETLINK (16) carries datagrams, but has no IP address. So it is not a UDP
        // socket.
        let netlink =
            Socket::new(Domain::from(16), Type::DGRAM, None).expect("the socket is created");
        reactor.with(|_, cx| refused(cx.adopt_udp(netlink).map(drop)));
    }
}

/// Body of a child process: adopts the listener that `take_listener` returns, echoes the frames of
/// one connection, and returns when the connection is closed.
#[cfg(unix)]
fn run_child(take_listener: impl FnOnce() -> std::os::fd::OwnedFd) {
    let mut reactor = reactor(Probe::echo());
    reactor
        .with(|_, cx| cx.adopt_listener(take_listener(), Framing::length_u32()))
        .expect("the parent's socket listens");
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
}

/// The parent passes its listener as standard input, as inetd does.
#[test]
#[cfg(unix)]
fn listener_inherited_as_stdin_is_adopted_by_a_child() {
    use std::os::fd::{AsFd, OwnedFd};
    use std::process::Stdio;
    if common::is_child() {
        return run_child(|| {
            let stdin = std::io::stdin();
            stdin.as_fd().try_clone_to_owned().expect("stdin is open")
        });
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let addr = listener.local_addr().expect("the socket is bound");
    let mut child = common::rerun("listener_inherited_as_stdin_is_adopted_by_a_child")
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .spawn()
        .expect("the test binary runs again");
    let mut stream = client(addr);
    assert_eq!(round_trip(&mut stream, b"hello"), b"hello");
    drop(stream);
    assert!(child.wait().expect("the child can be waited for").success());
}

/// A Python script passes a listener as systemd does: the sockets begin at descriptor 3, and
/// `LISTEN_FDS` is the number of sockets (sd_listen_fds(3)).
#[test]
#[cfg(unix)]
fn listener_passed_by_systemd_is_adopted() {
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
        return run_child(|| {
            let mut handed_down = listenfd::ListenFd::from_env();
            let listener = handed_down
                .take_tcp_listener(0)
                .expect("descriptor 3 is a TCP listener");
            listener.expect("LISTEN_FDS is 1").into()
        });
    }
    let test = common::rerun("listener_passed_by_systemd_is_adopted");
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
        eprintln!("skipped: python3 cannot be started");
        return;
    };
    let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut port = String::new();
    stdout
        .read_line(&mut port)
        .expect("the child prints its port");
    let port: u16 = port.trim().parse().expect("the port is a number");
    let mut stream = client(([127, 0, 0, 1], port).into());
    assert_eq!(round_trip(&mut stream, b"hello"), b"hello");
    drop(stream);
    assert!(child.wait().expect("the child can be waited for").success());
}

/// epoll watches an open file description, not a descriptor. If the reactor only closed its
/// descriptor, epoll would report events as long as a duplicate is open (epoll(7), "Questions and
/// answers", 6). Therefore the reactor also removes the socket from epoll.
#[test]
fn duplicate_descriptor_of_closed_connection_gives_no_event() {
    let mut reactor = reactor(Probe::silent());
    let (mut far, near) = pair();
    let duplicate = near.try_clone().expect("a descriptor is free");
    let conn = reactor.with(|_, cx| cx.adopt_stream(near, Framing::line(), ()));
    far.write_all(b"before\n")
        .expect("the kernel accepts the bytes");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
    reactor.with(|_, cx| cx.abort(conn));
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    settle(&mut reactor);
    let events = reactor.stats().events;
    far.write_all(b"after\n")
        .expect("the duplicate keeps the socket open");
    let mut seen = [0; 6];
    let blocking = duplicate.set_nonblocking(false);
    blocking.expect("the flag can be set");
    let len = duplicate.peek(&mut seen).expect("the bytes have arrived");
    assert!(len > 0, "no bytes arrived that could cause an event");
    settle(&mut reactor);
    assert_eq!(reactor.stats().events, events);
    assert_eq!(reactor.handler().frames(), [b"before"]);
}

#[test]
fn duplicate_descriptor_of_closed_udp_socket_gives_no_event() {
    let mut reactor = reactor(Probe::silent());
    let near = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    let addr = near.local_addr().expect("the socket is bound");
    let far = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    let duplicate = near.try_clone().expect("a descriptor is free");
    let id = reactor
        .with(|_, cx| cx.adopt_udp(near))
        .expect("the adopted socket is a UDP socket");
    far.send_to(b"before", addr)
        .expect("the kernel accepts the datagram");
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 1);
    reactor.with(|_, cx| cx.close_udp(id));
    drive(&mut reactor, |reactor| reactor.local_inet_addr(id).is_err());
    settle(&mut reactor);
    let events = reactor.stats().events;
    far.send_to(b"after", addr)
        .expect("the duplicate keeps the socket open");
    let blocking = duplicate.set_nonblocking(false);
    blocking.expect("the flag can be set");
    let mut seen = [0; 6];
    duplicate.peek(&mut seen).expect("the bytes have arrived");
    settle(&mut reactor);
    assert_eq!(reactor.stats().events, events);
    assert_eq!(reactor.stats().datagrams_in, 1);
}

/// Child processes inherit no descriptor with this flag.
#[test]
#[cfg(target_os = "linux")]
fn descriptors_of_a_reactor_are_close_on_exec() {
    use socket2::{Domain, Socket, Type};
    use unstick::Config;
    if !common::is_child() {
        // The test runs again in its own process, because other tests open descriptors too.
        let output = common::rerun("descriptors_of_a_reactor_are_close_on_exec")
            .output()
            .expect("the test binary runs again");
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let (mut reactor, addr) =
        common::listening(Probe::silent(), Config::default(), Framing::line());
    let conn = reactor.connect(addr, Framing::line(), ());
    reactor
        .bind_udp("127.0.0.1:0")
        .expect("a free port is available");
    let (far, near) = pair();
    let inherited = Socket::from(near);
    inherited.set_cloexec(false).expect("the flag can be set");
    reactor.with(|_, cx| {
        cx.adopt_stream(inherited, Framing::line(), ());
        let plain =
            Socket::new_raw(Domain::IPV4, Type::STREAM, None).expect("the socket is created");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        plain.bind(&any.into()).expect("a free port is available");
        plain.listen(1).expect("the socket is bound");
        cx.adopt_listener(plain, Framing::line())
            .expect("the socket is a listener");
        let name = unstick::UnixAddr::from_abstract_name(format!("cloexec-{}", std::process::id()));
        let name = name.expect("the name is short");
        cx.listen(&name, Framing::line())
            .expect("the name is unused");
        cx.connect(&name, Framing::line(), ());
    });
    // `connected` counts two outgoing connections and one adopted stream.
    drive(&mut reactor, |reactor| {
        reactor.stats().accepted == 2 && reactor.stats().connected == 3
    });
    let mut checked = 0;
    for entry in std::fs::read_dir("/proc/self/fd").expect("procfs is mounted") {
        let entry = entry.expect("the folder can be listed");
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let target = target.to_string_lossy().into_owned();
        let fd: u32 = entry
            .file_name()
            .to_string_lossy()
            .parse()
            .expect("the names in this folder are numbers");
        if fd < 3 || !(target.starts_with("socket:") || target.starts_with("anon_inode:")) {
            continue;
        }
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))
            .expect("the descriptor is open");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = u32::from_str_radix(flags.expect("proc(5) documents a flags line").trim(), 8);
        // The constant is O_CLOEXEC (open(2)).
        assert_ne!(
            flags.expect("the flags are an octal number (proc(5))") & 0o2_000_000,
            0,
            "descriptor {fd} ({target}) lacks the flag close-on-exec"
        );
        checked += 1;
    }
    // The checked descriptors are the poll and its waker, three listeners, one UDP socket, five
    // connections, and `far`.
    assert_eq!(checked, 2 + 3 + 1 + 5 + 1);
    reactor.with(|_, cx| cx.abort(conn));
    drop(far);
}
