//! Unix stream sockets: callbacks, framings, limits and closing work as over TCP.
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
    Addr, CloseReason, Config, ConnId, ConnectOptions, Framing, Origin, Reactor, UnixAddr,
};

/// A directory for one test, removed when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("unstick-unix-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("the directory can be created");
        Self(path)
    }

    fn socket(&self, name: &str) -> UnixAddr {
        UnixAddr::from_pathname(self.0.join(name))
            .expect("the path is short enough for a socket address")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns a reactor that listens on a socket in a new directory.
fn listening(probe: Probe, config: Config, framing: Framing) -> (Reactor<Probe>, Directory) {
    let directory = Directory::new();
    let mut reactor = Reactor::with_config(probe, config).expect("the reactor is created");
    reactor
        .listen(directory.socket("s"), framing)
        .expect("the path is free");
    (reactor, directory)
}

fn client(directory: &Directory) -> UnixStream {
    let stream =
        UnixStream::connect(directory.0.join("s")).expect("the listener accepts the connection");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("the timeout can be set");
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

/// Returns the error kind with which the only connection failed to connect.
fn failure(addr: &Addr) -> ErrorKind {
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    reactor.connect(addr, Framing::raw(), ());
    drive(&mut reactor, |reactor| {
        !reactor.handler().closes().is_empty()
    });
    settle(&mut reactor);
    assert_eq!(reactor.handler().events.len(), 1);
    match &reactor.handler().closes()[0].1.reason {
        CloseReason::ConnectFailed(error) => error.kind(),
        reason => panic!("the reason of the close is not a failed connect: {reason}"),
    }
}

/// Waits until connects to a closed listener are refused.
///
/// A process that another test starts inherits a copy of the listener until it executes its
/// program. Until then the kernel still accepts connects, and the name is in use.
fn wait_until_closed(
    reactor: &mut Reactor<Probe>,
    connect: impl Fn() -> std::io::Result<UnixStream>,
) {
    drive(reactor, |_| {
        connect().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

/// Starts a Python client, which does not use this crate. Returns `None` if Python is missing.
fn python(script: &str, path: &Path) -> Option<Child> {
    let child = Command::new("python3")
        .args(["-c", script])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    if child.is_err() {
        eprintln!("skipped: python3 is not available");
    }
    child.ok()
}

#[test]
fn python_client_gets_unix_frames_echoed() {
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
    let output = child
        .wait_with_output()
        .expect("the process is a child of this one");
    assert_eq!(output.stdout, b"whole\n");
    assert_eq!(reactor.stats().frames_in, 200);
    let closes = reactor.handler().closes();
    assert!(matches!(closes[0].1.reason, CloseReason::Peer));
    assert_eq!(closes[0].1.undecoded_bytes, 0);
}

/// A read of a Unix socket stops after bytes that came with a descriptor. No event reports the
/// bytes that follow, so the reactor must read again (unix(7), SCM_RIGHTS).
#[test]
fn frames_after_scm_rights_need_no_further_traffic() {
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
    let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    stdout.read_line(&mut said).expect("the output is UTF-8");
    assert_eq!(said, "sent\n", "the client did not send everything");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 40);
    drop(child.stdin.take());
    assert!(
        child
            .wait()
            .expect("the process is a child of this one")
            .success()
    );
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
}

#[test]
fn unix_peer_addr_and_local_addr_match_the_kernel() {
    let directory = Directory::new();
    let path = directory.socket("s");
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let listener = reactor
        .listen(&path, Framing::line())
        .expect("the path is free");
    let own = directory.socket("c");
    let options = ConnectOptions::new().local_addr(own.clone());
    let conn = reactor.with(|_, cx| cx.connect_with(&path, Framing::line(), (), &options));
    drive(&mut reactor, |reactor| opened(reactor).len() == 2);
    let accepted = opened(&reactor)
        .into_iter()
        .find(|(_, origin)| *origin == Origin::Accepted { listener, key: 0 });
    let (accepted, _) = accepted.expect("one end was accepted");
    reactor.with(|_, cx| {
        assert_eq!(cx.peer_addr(conn).ok(), Some(Addr::Unix(path.clone())));
        assert_eq!(cx.peer_addr(accepted).ok(), Some(Addr::Unix(own.clone())));
        assert_eq!(
            cx.local_addr(conn).expect("the connection is open"),
            own.clone().into()
        );
        assert_eq!(
            cx.local_addr(listener).expect("the listener is open"),
            path.clone().into()
        );
        let error = cx
            .peer_inet_addr(conn)
            .expect_err("a Unix connection has no IP address");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let error = cx
            .local_inet_addr(listener)
            .expect_err("a Unix listener has no IP address");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        cx.close(conn);
    });
    // A client socket that was not bound has no name.
    let _client = client(&directory);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 2);
    let (unnamed, _) = opened(&reactor)[2];
    reactor.with(|_, cx| {
        let name = cx.peer_addr(unnamed).expect("the connection is open");
        assert!(name.unix().is_some_and(UnixAddr::is_unnamed), "{name}");
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 2);
    let error = reactor
        .with(|_, cx| cx.peer_addr(conn))
        .expect_err("the connection is closed");
    assert_eq!(error.kind(), ErrorKind::NotConnected);
}

#[test]
#[cfg(target_os = "linux")]
fn abstract_name_is_free_after_close() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr as StdAddr;
    use std::time::Duration;

    let name = format!("unstick-test-{}", std::process::id());
    let std_name = StdAddr::from_abstract_name(&name).expect("the name is short enough");
    let name = UnixAddr::from_abstract_name(name).expect("the name is short enough");
    let mut server = Reactor::new(Probe::echo()).expect("the reactor is created");
    let listener = server
        .listen(&name, Framing::netstring())
        .expect("the name is free");
    assert_eq!(
        server.local_addr(listener).expect("the socket is bound"),
        Addr::Unix(name.clone())
    );
    let error = server
        .listen(&name, Framing::raw())
        .expect_err("the name is in use");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let conn = reactor.connect(&name, Framing::netstring(), ());
    reactor.with(|_, cx| {
        cx.send(conn, b"early")
            .map(drop)
            .expect("output is queued until the connection opens")
    });
    drive(&mut reactor, |reactor| {
        server.turn(Some(Duration::ZERO)).expect("polling succeeds");
        reactor.stats().frames_in == 1
    });
    assert_eq!(reactor.handler().frames(), [b"early"]);
    server.with(|_, cx| cx.close_listener(listener));
    server.turn(Some(Duration::ZERO)).expect("polling succeeds");
    wait_until_closed(&mut server, || UnixStream::connect_addr(&std_name));
    assert_eq!(failure(&name.clone().into()), ErrorKind::ConnectionRefused);
    server
        .listen(&name, Framing::raw())
        .expect("the name is free");
}

#[test]
fn socket_file_stays_until_it_is_removed() {
    let (mut reactor, directory) = listening(Probe::silent(), Config::default(), Framing::raw());
    let path = directory.socket("s");
    drop(reactor);
    reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let error = reactor
        .listen(&path, Framing::raw())
        .expect_err("the path is in use");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let file = directory.0.join("s");
    wait_until_closed(&mut reactor, || UnixStream::connect(&file));
    assert_eq!(failure(&path.clone().into()), ErrorKind::ConnectionRefused);
    std::fs::remove_file(file).expect("the file exists");
    assert_eq!(failure(&path.clone().into()), ErrorKind::NotFound);
    reactor
        .listen(&path, Framing::raw())
        .expect("the path is free");
}

/// Linux fails a connect to a full backlog at once, and no event reports that the backlog has space
/// again (connect(2), EAGAIN).
#[test]
#[cfg(target_os = "linux")]
fn connect_to_a_full_unix_backlog_tries_the_next() {
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
    let mut deaf = Reactor::new(Probe::silent()).expect("the reactor is created");
    let options = ListenOptions::new().backlog(0);
    deaf.with(|_, cx| cx.listen_with(&full, Framing::raw(), &options))
        .expect("the path is free");
    let _held =
        UnixStream::connect(directory.0.join("full")).expect("the backlog holds one connection");
    assert_eq!(failure(&full.clone().into()), ErrorKind::WouldBlock);
    let _listener = UnixListener::bind(directory.0.join("open")).expect("the path is free");
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let both = Both(full.into(), directory.socket("open").into());
    reactor.connect(both, Framing::raw(), ());
    drive(&mut reactor, |reactor| reactor.stats().connected == 1);
}

#[test]
fn slow_unix_reader_gets_every_byte() {
    const LEN: usize = 4 << 20;
    let mut config = Config::default();
    (config.write_low_bytes, config.write_high_bytes) = (16 * 1024, 64 * 1024);
    let bound = config.write_high_bytes + config.read_len_max;
    let (mut reactor, directory) = listening(Probe::echo(), config, Framing::raw());
    let mut reader = client(&directory);
    let mut writer = reader.try_clone().expect("a descriptor is available");
    let sent = common::Random(7).bytes(LEN);
    let written = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&written).expect("the server reads");
        writer
            .shutdown(Shutdown::Write)
            .expect("the connection is open");
    });
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    let (conn, _) = opened(&reactor)[0];
    // The client does not read, so the write queue grows. It exceeds the high watermark by at most
    // one read.
    settle(&mut reactor);
    let queued = reactor.with(|_, cx| cx.queued_bytes(conn).expect("the connection is open"));
    assert!(queued <= bound, "the write queue held {queued} bytes");
    let reading = thread::spawn(move || {
        let mut got = Vec::new();
        reader
            .read_to_end(&mut got)
            .expect("the connection is not reset");
        got
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    writing.join().expect("the writer does not panic");
    assert!(
        reading.join().expect("the reader does not panic") == sent,
        "the echo differs from the sent bytes"
    );
}

/// Closing a Unix socket with unread input resets its peer. A peer that stops at errors would lose
/// bytes that it had not read yet (unix(7), ECONNRESET).
#[test]
fn reply_before_close_survives_unread_input() {
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
    let mut writer = reader.try_clone().expect("a descriptor is available");
    let writing = thread::spawn(move || {
        // Sends until a write fails, at most 1,000 frames.
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
    assert_eq!(
        reading.join().expect("the reader does not panic").ok(),
        Some(4 + LEN)
    );
    writing.join().expect("the writer does not panic");
}

#[test]
fn half_closed_unix_peer_gets_its_reply() {
    let mut probe = Probe::silent();
    probe.keep_half_closed = true;
    let (mut reactor, directory) = listening(probe, Config::default(), Framing::line());
    let mut ended = client(&directory);
    ended
        .shutdown(Shutdown::Write)
        .expect("the connection is open");
    let is_half_close = |event: &Event| matches!(event, Event::HalfClose(_));
    drive(&mut reactor, |reactor| {
        reactor.handler().count(is_half_close) == 1
    });
    let (conn, _) = opened(&reactor)[0];
    reactor.with(|_, cx| {
        cx.send(conn, b"still here")
            .map(drop)
            .expect("the connection is open");
        cx.close(conn);
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let mut got = Vec::new();
    ended
        .read_to_end(&mut got)
        .expect("the connection is not reset");
    assert_eq!(got, b"still here\n");
}

/// A reset does not exist on Unix sockets, so `abort` ends the stream like `close`.
#[test]
fn abort_of_a_unix_connection_sends_no_reset() {
    let (mut reactor, directory) = listening(Probe::silent(), Config::default(), Framing::line());
    let mut aborted = client(&directory);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    let (conn, _) = opened(&reactor)[0];
    reactor.with(|_, cx| cx.abort(conn));
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let read = aborted.read(&mut [0]);
    assert_eq!(read.expect("the stream ends without an error"), 0);
}

/// Runs in a child process in which SIGPIPE ends the process, as in a host program written in C.
#[test]
fn write_to_a_closed_unix_peer_raises_no_sigpipe() {
    if !common::is_child() {
        let output = common::rerun("write_to_a_closed_unix_peer_raises_no_sigpipe")
            .output()
            .expect("the test binary starts again");
        assert!(output.status.success(), "{output:?}");
        return;
    }
    sigpipe::reset();
    let (mut reactor, directory) = listening(Probe::silent(), Config::default(), Framing::line());
    let gone = client(&directory);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    drop(gone);
    let (conn, _) = opened(&reactor)[0];
    reactor.with(|_, cx| {
        cx.send(conn, b"in vain")
            .map(drop)
            .expect("the close of the peer is not known yet")
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let closes = reactor.handler().closes();
    assert!(closes[0].1.unsent_bytes == 8, "{:?}", closes[0].1);
}
