//! Unix stream sockets: the same callbacks, framings, limits and endings as over TCP.
#![cfg(unix)]

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{DEADLINE, Event, Probe, drive, frame, settle};
use unstick::{
    Addr, CloseReason, Config, ConnId, ConnectOptions, Framing, Gone, Origin, Reactor, UnixAddr,
};

/// A directory of its own for each test, gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("unstick-unix-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("it can be made");
        Self(path)
    }

    fn socket(&self, name: &str) -> UnixAddr {
        UnixAddr::from_pathname(self.0.join(name)).expect("a short path")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A reactor that listens in a directory of its own.
fn listening(probe: Probe, config: Config, framing: Framing) -> (Reactor<Probe>, Directory) {
    let directory = Directory::new();
    let mut reactor = Reactor::with_config(probe, config).expect("a reactor");
    reactor
        .listen(directory.socket("s"), framing)
        .expect("nobody has the path");
    (reactor, directory)
}

fn client(directory: &Directory) -> UnixStream {
    let stream = UnixStream::connect(directory.0.join("s")).expect("it listens");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a timeout can be set");
    stream
}

fn opened(reactor: &Reactor<Probe>) -> Vec<(ConnId, Origin)> {
    let events = reactor.handler().events.iter();
    let opened = events.filter_map(|event| match event {
        Event::Open(conn, origin) => Some((*conn, *origin)),
        _ => None,
    });
    opened.collect()
}

/// Why the only connection never opened.
fn failure(addr: &Addr) -> ErrorKind {
    let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
    reactor.connect(addr, Framing::raw(), ());
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    settle(&mut reactor);
    assert_eq!(reactor.handler().events.len(), 1);
    match &reactor.handler().closes()[0].1.reason {
        CloseReason::ConnectFailed(error) => error.kind(),
        reason => panic!("{reason}"),
    }
}

/// A process that another test starts has a copy of a closed listener until it runs its program:
/// the kernel connects to it as long, and its name is taken.
fn wait_until_closed(
    reactor: &mut Reactor<Probe>,
    connect: impl Fn() -> std::io::Result<UnixStream>,
) {
    drive(reactor, |_| {
        connect().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

/// A client in Python, which knows nothing of this crate.
fn python(script: &str, path: &Path) -> Option<Child> {
    let child = Command::new("python3")
        .args(["-c", script])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    if child.is_err() {
        eprintln!("no python3 here: skipped");
    }
    child.ok()
}

#[test]
fn a_python_client_gets_its_frames_back() {
    const SCRIPT: &str = "
import socket, struct, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
sent = [bytes([i]) * (i * 37 % 5000) for i in range(200)]
stream = b''.join(struct.pack('>I', len(f)) + f for f in sent)
for i in range(0, len(stream), 777):
    s.sendall(stream[i:i + 777])
s.shutdown(socket.SHUT_WR)
got = b''
while part := s.recv(65536):
    got += part
assert got == stream
print('whole')
";
    let (mut reactor, directory) =
        listening(Probe::echo(), Config::default(), Framing::length_u32());
    let Some(child) = python(SCRIPT, &directory.0.join("s")) else {
        return;
    };
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let output = child.wait_with_output().expect("it is a child");
    assert_eq!(output.stdout, b"whole\n");
    assert_eq!(reactor.stats().frames_in, 200);
    let closes = reactor.handler().closes();
    assert!(matches!(closes[0].1.reason, CloseReason::Peer));
    assert_eq!(closes[0].1.undecoded_bytes, 0);
}

/// A read of a Unix socket stops short at bytes that came with a descriptor, and no event tells
/// that there is more behind them (unix(7), SCM_RIGHTS).
#[test]
fn frames_behind_a_passed_descriptor_need_no_further_traffic() {
    const SCRIPT: &str = "
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
for i in range(20):
    socket.send_fds(s, [b'with\\n'], [0])
    s.sendall(b'behind\\n')
print('sent', flush=True)
sys.stdin.read()
";
    let (mut reactor, directory) = listening(Probe::silent(), Config::default(), Framing::line());
    let Some(mut child) = python(SCRIPT, &directory.0.join("s")) else {
        return;
    };
    let mut said = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
    stdout.read_line(&mut said).expect("it prints text");
    assert_eq!(said, "sent\n", "nothing was read before");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 40);
    drop(child.stdin.take());
    assert!(child.wait().expect("it is a child").success());
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
}

#[test]
fn both_ends_have_the_names_that_the_kernel_gives_them() {
    let directory = Directory::new();
    let path = directory.socket("s");
    let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let listener = reactor
        .listen(&path, Framing::line())
        .expect("nobody has the path");
    let own = directory.socket("c");
    let options = ConnectOptions::new().local_addr(own.clone());
    let conn = reactor.with(|_, cx| cx.connect_with(&path, Framing::line(), (), &options));
    drive(&mut reactor, |reactor| opened(reactor).len() == 2);
    let accepted = opened(&reactor)
        .into_iter()
        .find(|(_, origin)| *origin == Origin::Accepted(listener));
    let (accepted, _) = accepted.expect("it was accepted");
    reactor.with(|_, cx| {
        assert_eq!(cx.peer_addr(conn), Ok(Addr::Unix(path.clone())));
        assert_eq!(cx.peer_addr(accepted), Ok(Addr::Unix(own.clone())));
        assert_eq!(cx.local_addr(conn).expect("open"), own.clone().into());
        assert_eq!(cx.local_addr(listener).expect("open"), path.clone().into());
        let error = cx.peer_inet_addr(conn).expect_err("it has none");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let error = cx.local_inet_addr(listener).expect_err("it has none");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        cx.close(conn);
    });
    // A client that was not bound has no name.
    let _client = client(&directory);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 2);
    let (unnamed, _) = opened(&reactor)[2];
    reactor.with(|_, cx| {
        let name = cx.peer_addr(unnamed).expect("it is open");
        assert!(name.unix().is_some_and(UnixAddr::is_unnamed), "{name}");
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 2);
    reactor.with(|_, cx| assert_eq!(cx.peer_addr(conn), Err(Gone)));
}

#[test]
#[cfg(target_os = "linux")]
fn an_abstract_name_is_no_file_and_goes_with_its_socket() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr as StdAddr;
    use std::time::Duration;

    let name = format!("unstick-test-{}", std::process::id());
    let std_name = StdAddr::from_abstract_name(&name).expect("short");
    let name = UnixAddr::from_abstract_name(name).expect("short");
    let mut server = Reactor::new(Probe::echo()).expect("a reactor");
    let listener = server
        .listen(&name, Framing::netstring())
        .expect("nobody has the name");
    assert_eq!(
        server.local_addr(listener).expect("it is bound"),
        Addr::Unix(name.clone())
    );
    let error = server.listen(&name, Framing::raw()).expect_err("taken");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let conn = reactor.connect(&name, Framing::netstring(), ());
    reactor.with(|_, cx| cx.send(conn, b"early").map(drop).expect("it waits"));
    drive(&mut reactor, |reactor| {
        server.turn(Some(Duration::ZERO)).expect("the poll works");
        reactor.stats().frames_in == 1
    });
    assert_eq!(reactor.handler().frames(), [b"early"]);
    server.with(|_, cx| cx.close_listener(listener));
    server.turn(Some(Duration::ZERO)).expect("the poll works");
    wait_until_closed(&mut server, || UnixStream::connect_addr(&std_name));
    assert_eq!(failure(&name.clone().into()), ErrorKind::ConnectionRefused);
    server.listen(&name, Framing::raw()).expect("it is free");
}

#[test]
fn the_file_of_a_socket_that_is_gone_stays_until_somebody_removes_it() {
    let (mut reactor, directory) = listening(Probe::silent(), Config::default(), Framing::raw());
    let path = directory.socket("s");
    drop(reactor);
    reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let error = reactor.listen(&path, Framing::raw()).expect_err("taken");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let file = directory.0.join("s");
    wait_until_closed(&mut reactor, || UnixStream::connect(&file));
    assert_eq!(failure(&path.clone().into()), ErrorKind::ConnectionRefused);
    std::fs::remove_file(file).expect("it is there");
    assert_eq!(failure(&path.clone().into()), ErrorKind::NotFound);
    reactor.listen(&path, Framing::raw()).expect("it is free");
}

/// The kernel tells it at once, and has no event for when there is room (connect(2), EAGAIN).
#[test]
#[cfg(target_os = "linux")]
fn a_connect_to_a_full_backlog_fails_and_the_next_address_is_tried() {
    use std::os::unix::net::UnixListener;
    use unstick::ListenOptions;

    struct Both(Addr, Addr);
    impl unstick::ToAddrs for Both {
        fn to_addrs(&self) -> std::io::Result<impl Iterator<Item = Addr>> {
            Ok([self.0.clone(), self.1.clone()].into_iter())
        }
    }
    let directory = Directory::new();
    let full = directory.socket("full");
    let mut deaf = Reactor::new(Probe::silent()).expect("a reactor");
    let options = ListenOptions::new().backlog(0);
    deaf.with(|_, cx| cx.listen_with(&full, Framing::raw(), &options))
        .expect("nobody has the path");
    let _held = UnixStream::connect(directory.0.join("full")).expect("there is room for one");
    assert_eq!(failure(&full.clone().into()), ErrorKind::WouldBlock);
    let _listener = UnixListener::bind(directory.0.join("open")).expect("nobody has it");
    let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let both = Both(full.into(), directory.socket("open").into());
    reactor.connect(both, Framing::raw(), ());
    drive(&mut reactor, |reactor| reactor.stats().connected == 1);
}

#[test]
fn a_slow_reader_gets_four_megabytes_byte_for_byte_and_the_queue_stays_bounded() {
    const LEN: usize = 4 << 20;
    let mut config = Config::default();
    (config.write_low_bytes, config.write_high_bytes) = (16 * 1024, 64 * 1024);
    let bound = config.write_high_bytes + config.read_len_max;
    let (mut reactor, directory) = listening(Probe::echo(), config, Framing::raw());
    let mut reader = client(&directory);
    let mut writer = reader.try_clone().expect("a descriptor is free");
    let sent = common::Random(7).bytes(LEN);
    let written = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&written).expect("the server reads");
        writer.shutdown(Shutdown::Write).expect("it is connected");
    });
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    let (conn, _) = opened(&reactor)[0];
    // Nobody reads: it comes to a outcome above the high mark, by at most one read.
    settle(&mut reactor);
    let queued = reactor.with(|_, cx| cx.queued_bytes(conn).expect("it is open"));
    assert!(queued <= bound, "{queued} bytes");
    let reading = thread::spawn(move || {
        let mut got = Vec::new();
        reader.read_to_end(&mut got).expect("it is not reset");
        got
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    writing.join().expect("it was all taken");
    assert!(reading.join().expect("it ends") == sent, "byte for byte");
}

/// As over TCP: a socket that is closed with unread input tells its peer of a reset, and what the
/// peer had not read yet would be lost to a program that stops at errors (unix(7), ECONNRESET).
#[test]
fn an_answer_followed_by_a_close_arrives_whole_although_the_peer_keeps_sending() {
    const LEN: usize = 1 << 20;
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, _) = event {
            let _ = cx.send(*conn, &vec![7; LEN]);
            cx.close(*conn);
        }
    });
    let framing = Framing::length_u32().frame_len_max(LEN);
    let (mut reactor, directory) = listening(probe, Config::default(), framing);
    let mut reader = client(&directory);
    let mut writer = reader.try_clone().expect("a descriptor is free");
    let writing = thread::spawn(move || {
        // It sends on until it is told of the end.
        for _ in 0..1000 {
            if writer.write_all(&frame("u32", b"more")).is_err() {
                break;
            }
        }
    });
    let reading = thread::spawn(move || {
        let mut got = Vec::new();
        reader.read_to_end(&mut got).map(|_| got.len())
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    assert_eq!(reading.join().expect("it ends").ok(), Some(4 + LEN));
    writing.join().expect("it ends");
}

#[test]
fn a_half_closed_peer_gets_its_answer_and_an_aborted_one_its_end() {
    let mut probe = Probe::silent();
    probe.keep_half_closed = true;
    let (mut reactor, directory) = listening(probe, Config::default(), Framing::line());
    let mut ended = client(&directory);
    ended.shutdown(Shutdown::Write).expect("it is connected");
    let is_half_close = |event: &Event| matches!(event, Event::HalfClose(_));
    drive(&mut reactor, |reactor| {
        reactor.handler().count(is_half_close) == 1
    });
    let (conn, _) = opened(&reactor)[0];
    reactor.with(|_, cx| {
        cx.send(conn, b"still here").map(drop).expect("it is open");
        cx.close(conn);
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let mut got = Vec::new();
    ended.read_to_end(&mut got).expect("it is not reset");
    assert_eq!(got, b"still here\n");

    let mut other = client(&directory);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 2);
    let (conn, _) = opened(&reactor)[1];
    reactor.with(|_, cx| cx.abort(conn));
    drive(&mut reactor, |reactor| reactor.stats().closed == 2);
    assert_eq!(other.read(&mut [0]).expect("no reset here"), 0);
}

/// As over TCP: in a process of its own, where a SIGPIPE kills.
#[test]
fn writing_to_a_peer_that_is_gone_raises_no_sigpipe() {
    if !common::is_child() {
        let output = common::rerun("writing_to_a_peer_that_is_gone_raises_no_sigpipe")
            .output()
            .expect("the test binary runs again");
        assert!(output.status.success(), "{output:?}");
        return;
    }
    sigpipe::reset();
    let (mut reactor, directory) = listening(Probe::silent(), Config::default(), Framing::line());
    let gone = client(&directory);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    drop(gone);
    let (conn, _) = opened(&reactor)[0];
    reactor.with(|_, cx| cx.send(conn, b"in vain").map(drop).expect("nobody knows"));
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let closes = reactor.handler().closes();
    assert!(closes[0].1.unsent_bytes == 8, "{:?}", closes[0].1);
}
