//! Lives of connections, timers and reactors: each begins once, ends once, and is told of in order.

mod common;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{
    DEADLINE, Event, Probe, Random, Server, client, drive, frame, listening, read_u32_frame, reset,
    round_trip, settle,
};
use unstick::{
    CloseReason, Closed, Config, ConnId, Context, Framing, Gone, Handler, ListenerId, Origin,
    PostError, Reactor, SendError, TimerId,
};

const MIB: usize = 1 << 20;

fn short(framed: &str) -> Vec<u8> {
    frame("u32", framed.as_bytes())
}

// Many connections.

/// So many clients that the limit on descriptors allows, both ends being in this process.
fn clients_max(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<usize>().ok());
    let count = wanted.min(
        soft.map_or(100, |soft| soft.saturating_sub(1000) / 2)
            .max(10),
    );
    if count < wanted {
        eprintln!("the limit on descriptors allows only {count} of {wanted} clients");
    }
    count
}

/// All of them have a frame pending before the first turn. When all are active at once, the list
/// of events has grown with them, and a few turns serve them all.
#[test]
fn five_thousand_active_connections_are_all_served() {
    let count = clients_max(5000);
    let (mut reactor, first) = listening(Probe::echo(), Config::default(), Framing::length_u32());
    let second = reactor
        .listen("127.0.0.1:0", Framing::length_u32())
        .expect("a free port");
    let second = reactor.local_addr(second).expect("it is bound");
    let mut clients: Vec<_> = (0..count)
        .map(|index| client(if index % 2 == 0 { first } else { second }))
        .collect();
    for round in 1..=2 {
        let turns_before = reactor.stats().turns;
        for (index, client) in clients.iter_mut().enumerate() {
            client
                .write_all(&short(&format!("{round}: {index}")))
                .expect("the kernel takes it");
        }
        let frames = round * count as u64;
        drive(&mut reactor, |reactor| reactor.stats().frames_in == frames);
        let turns = reactor.stats().turns - turns_before;
        assert!(round == 1 || turns <= 10, "{turns} turns for one burst");
        for (index, client) in clients.iter_mut().enumerate() {
            let echo = read_u32_frame(client);
            assert_eq!(echo, format!("{round}: {index}").as_bytes());
        }
    }
}

/// Answers with the session's first frame, and pesters those that are gone.
#[derive(Default)]
struct Keyed {
    gone: Vec<ConnId>,
    pestered: u64,
}

impl Handler for Keyed {
    type Session = Vec<u8>;

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        first: &mut Vec<u8>,
        frame: &[u8],
    ) {
        if first.is_empty() {
            first.extend_from_slice(frame);
        }
        assert_eq!(first, frame, "bytes of another connection");
        let _ = cx.send(conn, first);
    }

    fn on_open(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        first: &mut Vec<u8>,
        _: Origin,
    ) {
        assert!(first.is_empty(), "the session of another connection");
        for gone in self.gone.drain(..) {
            assert_ne!(gone, conn);
            assert!(matches!(cx.send(gone, b"stale"), Err(SendError::Gone)));
            assert_eq!(cx.pause(gone), Err(Gone));
            assert_eq!(cx.resume(gone), Err(Gone));
            assert_eq!(cx.reframe(gone, Framing::raw()), Err(Gone));
            assert_eq!(cx.peer_addr(gone), Err(Gone));
            assert_eq!(cx.queued_bytes(gone), Err(Gone));
            assert_eq!(cx.conn_stats(gone), Err(Gone));
            assert!(cx.session(gone).is_none());
            let error = cx.socket_options(gone).map(|_| ()).expect_err("gone");
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            let error = cx.local_addr(gone).expect_err("gone");
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            cx.close(gone);
            cx.abort(gone);
            self.pestered += 1;
        }
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: Vec<u8>, _: Closed) {
        self.gone.push(conn);
    }
}

/// Keys are used again and again; ids are not.
#[test]
fn twenty_thousand_lives_never_meet() {
    const LIVES: usize = 20_000;
    let seed = 8;
    println!("seed {seed}");
    let mut random = Random(seed);
    let server = Server::start(Keyed::default(), Config::default(), Framing::length_u32());
    let mut open: Vec<(String, TcpStream)> = Vec::new();
    for life in 0..LIVES {
        let mut client = server.connect();
        client
            .write_all(&short(&life.to_string()))
            .expect("the server reads");
        open.push((life.to_string(), client));
        if open.len() == 8 {
            let index = random.below(open.len());
            let (life, mut client) = open.swap_remove(index);
            assert_eq!(read_u32_frame(&mut client), life.as_bytes());
            assert_eq!(round_trip(&mut client, life.as_bytes()), life.as_bytes());
            // By a reset: no port is left in TIME-WAIT.
            reset(client);
        }
    }
    open.into_iter().for_each(|(_, client)| reset(client));
    let (keyed, stats) = server.stop();
    assert_eq!((stats.accepted, stats.closed), (LIVES as u64, LIVES as u64));
    assert!(keyed.pestered > LIVES as u64 / 2, "{}", keyed.pestered);
}

#[test]
fn one_connection_too_many_is_refused_and_counted() {
    let mut config = Config::default();
    config.connections_max = 3;
    let server = Server::start(Probe::echo(), config, Framing::length_u32());
    let mut served: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut served {
        assert_eq!(round_trip(client, b"one of three"), b"one of three");
    }
    let mut refused = server.connect();
    assert_eq!(
        refused.read(&mut [0]).expect("an end, not a reset"),
        0,
        "it is closed at once"
    );
    for client in &mut served {
        assert_eq!(round_trip(client, b"unaffected"), b"unaffected");
    }

    let leaving = served.pop().expect("there are three");
    leaving.shutdown(Shutdown::Write).expect("it is connected");
    let mut leaving = leaving;
    assert_eq!(leaving.read(&mut [0]).expect("its answer to the end"), 0);
    // The slot is free when its end is told, at the end of that turn.
    let mut next = server.connect();
    assert_eq!(round_trip(&mut next, b"in its place"), b"in its place");
    drop((served, next, refused));
    let (_, stats) = server.stop();
    assert_eq!((stats.accepted, stats.refused), (4, 1));
}

/// A duplicate keeps a socket open after the reactor has closed its own descriptor. No event of it
/// comes all the same.
#[test]
fn a_closed_socket_brings_no_event_although_a_duplicate_lives() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let mut client = client(addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    let Some(&Event::Open(conn, Origin::Accepted(listener))) = reactor.handler().events.first()
    else {
        panic!("it was accepted");
    };
    let udp = reactor.bind_udp("127.0.0.1:0").expect("a free port");
    let udp_addr = reactor.local_addr(udp).expect("it is bound");
    let duplicates = reactor.with(|_, cx| {
        let duplicates = [
            cx.socket_options(conn).expect("open").try_clone(),
            cx.socket_options(listener).expect("open").try_clone(),
            cx.socket_options(udp).expect("open").try_clone(),
        ];
        cx.abort(conn);
        cx.close_listener(listener);
        cx.close_udp(udp);
        duplicates.map(|duplicate| duplicate.expect("descriptors are left"))
    });
    drive_to_closed(&mut reactor, 1);
    settle(&mut reactor);

    let before = reactor.stats();
    client.write_all(b"anybody?").expect("the duplicate lives");
    let second = common::client(addr);
    UdpSocket::bind("127.0.0.1:0")
        .and_then(|udp| udp.send_to(b"anybody?", udp_addr))
        .expect("the kernel takes it");
    reactor
        .turn(Some(Duration::from_millis(100)))
        .expect("the poll works");
    assert_eq!(reactor.stats().events, before.events);
    drop((duplicates, second));
}

fn drive_to_closed<H: Handler>(reactor: &mut Reactor<H>, count: u64) {
    drive(reactor, |reactor| reactor.stats().closed == count);
}

#[test]
#[cfg(target_os = "linux")]
fn no_descriptor_is_inherited_by_a_child_process() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    reactor.bind_udp("127.0.0.1:0").expect("a free port");
    reactor.connect(addr, Framing::raw(), ());
    drive(&mut reactor, |reactor| {
        reactor.stats().accepted + reactor.stats().connected == 2
    });
    let output = Command::new("ls")
        .args(["-l", "/proc/self/fd"])
        .stdin(Stdio::null())
        .output()
        .expect("ls runs");
    let list = String::from_utf8_lossy(&output.stdout);
    assert!(list.contains("/proc/"), "it lists its own: {list}");
    assert!(
        !list.contains("socket:") && !list.contains("anon_inode"),
        "{list}"
    );
}

// Waiting.

#[test]
fn a_turn_without_events_is_one_poll_and_no_other_call() {
    let (mut reactor, addr) = listening(Probe::echo(), Config::default(), Framing::length_u32());
    let mut client = client(addr);
    client
        .write_all(&short("ping"))
        .expect("the kernel takes it");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
    settle(&mut reactor);
    let before = reactor.stats();
    let started = Instant::now();
    reactor
        .turn(Some(Duration::from_millis(100)))
        .expect("the poll works");
    assert!(started.elapsed() >= Duration::from_millis(100));
    let mut expected = before;
    expected.turns += 1;
    assert_eq!(reactor.stats(), expected);
}

/// Two looks at the count of turns, each of which takes one; none happens in between.
#[test]
fn an_idle_loop_takes_no_turn() {
    let server = Server::start(Probe::echo(), Config::default(), Framing::length_u32());
    let mut client = server.connect();
    assert_eq!(round_trip(&mut client, b"ping"), b"ping");
    let turns = || {
        let (tell, told) = mpsc::channel();
        server
            .remote
            .post(move |_, cx| tell.send(cx.stats().turns).expect("the test waits"))
            .expect("the loop runs");
        told.recv_timeout(DEADLINE).expect("the loop goes on")
    };
    turns();
    let first = turns();
    let (_tell, nothing) = mpsc::channel::<()>();
    let quiet = nothing.recv_timeout(Duration::from_millis(500));
    assert_eq!(quiet, Err(mpsc::RecvTimeoutError::Timeout));
    assert_eq!(turns(), first + 1);
    drop(client);
    server.stop();
}

/// A server in a process of its own: this test binary again, which runs [`serve_as_child`]. It ends
/// when it is dropped, or when this process does, as its input ends.
struct ChildServer {
    child: Child,
    stdout: BufReader<ChildStdout>,
    addr: SocketAddr,
}

impl ChildServer {
    /// `wrapper` is a program, with its arguments, that runs what it is given behind them.
    fn start(test: &str, wrapper: &[&str]) -> Self {
        let inner = common::rerun(test);
        let mut command = Command::new(wrapper[0]);
        command
            .args(&wrapper[1..])
            .arg(inner.get_program())
            .args(inner.get_args())
            .envs(
                inner
                    .get_envs()
                    .filter_map(|(key, value)| Some((key, value?))),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the test binary runs again");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let addr = read_word_after(&mut stdout, "listening on ")
            .parse()
            .expect("an address");
        Self {
            child,
            stdout,
            addr,
        }
    }

    fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{line}").expect("it listens");
    }

    /// Ends it, and gives what it wrote to its standard error.
    fn stop(mut self) -> String {
        drop(self.child.stdin.take());
        let mut errors = String::new();
        let mut stderr = self.child.stderr.take().expect("it is piped");
        stderr.read_to_string(&mut errors).expect("it is text");
        let status = self.child.wait().expect("it is waited for once");
        assert!(status.success(), "{status}: {errors}");
        errors
    }
}

fn read_word_after(lines: &mut impl BufRead, prefix: &str) -> String {
    let mut line = String::new();
    while lines.read_line(&mut line).expect("it is text") > 0 {
        if let Some((_, rest)) = line.split_once(prefix) {
            return rest.trim().to_owned();
        }
        line.clear();
    }
    panic!("no line with {prefix:?}");
}

/// Descriptors that the child process uses for nothing until it is told something.
const SPARE_DESCRIPTORS: usize = 30;

/// The other end of [`ChildServer`]: an echo that tells of each close.
fn serve_as_child() {
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("warn"));
    let probe = Probe::new(|cx, event| match event {
        Event::Frame(conn, frame) => {
            let _ = cx.send(*conn, frame);
        }
        Event::Close(..) => println!("closed one"),
        _ => {}
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::length_u32());
    let spare: Vec<_> = (0..SPARE_DESCRIPTORS)
        .map(|_| std::fs::File::open("/dev/null").expect("descriptors are left"))
        .collect();
    println!("listening on {addr}");
    let remote = reactor.remote();
    let listener = std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        stdin.read_line(&mut String::new()).expect("it is text");
        drop(spare);
        stdin.read_to_end(&mut Vec::new()).expect("it ends");
        remote.shutdown(Duration::ZERO).expect("the loop runs");
    });
    reactor.run().expect("the poll works");
    listener.join().expect("it only waits");
}

#[test]
#[cfg(target_os = "linux")]
fn an_idle_reactor_makes_no_system_call() {
    const NAME: &str = "an_idle_reactor_makes_no_system_call";
    if common::is_child() {
        return serve_as_child();
    }
    let works = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .output();
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: strace cannot be run here");
        return;
    }
    let mut trace = std::env::temp_dir();
    trace.push(format!("unstick-idle-{}.strace", std::process::id()));
    let path = trace.to_str().expect("a path of letters");
    let mut server = ChildServer::start(NAME, &["strace", "-f", "-o", path]);
    let mut client = client(server.addr);
    assert_eq!(round_trip(&mut client, b"ping"), b"ping");
    drop(client);
    read_word_after(&mut server.stdout, "closed ");
    // The time itself is what is measured here: a quiet loop is given time to move.
    let calls = || {
        std::thread::sleep(Duration::from_secs(1));
        std::fs::read_to_string(&trace)
            .expect("strace writes it")
            .lines()
            .count()
    };
    let before = calls();
    let (_idle, after) = (calls(), calls());
    server.stop();
    std::fs::remove_file(&trace).expect("strace wrote it");
    assert!(before > 20, "strace saw it work");
    assert!(after - before <= 2, "{} calls while idle", after - before);
}

/// A stopped and continued process has its poll interrupted. The rest of the time is waited all the
/// same, and it counts from the call of `turn`, however long ago the last turn was.
#[test]
#[cfg(unix)]
fn a_signal_does_not_end_a_turn_early() {
    const NAME: &str = "a_signal_does_not_end_a_turn_early";
    const TIMEOUT: Duration = Duration::from_millis(700);
    if common::is_child() {
        let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
        for turn in 1..=2 {
            let started = Instant::now();
            reactor.turn(Some(TIMEOUT)).expect("the poll works");
            assert!(started.elapsed() >= TIMEOUT, "only {:?}", started.elapsed());
            assert_eq!((reactor.stats().turns, reactor.stats().events), (turn, 0));
            // Time that passes outside of the reactor.
            std::thread::sleep(TIMEOUT);
        }
        return;
    }
    let mut child = common::rerun(NAME)
        .spawn()
        .expect("the test binary runs again");
    let signals = format!("kill -STOP {0}; kill -CONT {0}", child.id());
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is a child") {
            break status;
        }
        let sent = Command::new("sh").args(["-c", &signals]).status();
        assert!(sent.expect("sh runs").success());
    };
    assert!(status.success(), "{status}");
}

// Running out of descriptors.

/// 200 clients, and descriptors for some sixty, half of which are in use elsewhere. The rest of the
/// clients wait without a busy loop and without a flood of lines. They are served when descriptors
/// are free again, whether the reactor closed them or somebody else, although nobody new comes.
#[test]
#[cfg(target_os = "linux")]
fn clients_beyond_the_descriptors_are_served_when_some_are_free_again() {
    const NAME: &str = "clients_beyond_the_descriptors_are_served_when_some_are_free_again";
    if common::is_child() {
        return serve_as_child();
    }
    let limit = "ulimit -n 64 && exec \"$0\" \"$@\"";
    let mut server = ChildServer::start(NAME, &["sh", "-c", limit]);
    let mut clients: Vec<_> = (0..200).map(|_| client(server.addr)).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client
            .write_all(&short(&index.to_string()))
            .expect("the kernel takes it");
    }
    let mut middle = clients.remove(SPARE_DESCRIPTORS + 10);
    assert_eq!(read_u32_frame(&mut clients[0]), b"0", "the first is served");

    let busy_before = cpu_time(server.child.id());
    middle
        .set_read_timeout(Some(Duration::from_secs(2)))
        .expect("the option can be set");
    let error = middle
        .read(&mut [0])
        .expect_err("no descriptor is left for it");
    assert!(
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{error}"
    );
    let busy = cpu_time(server.child.id()) - busy_before;
    assert!(
        busy <= Duration::from_millis(200),
        "busy for {busy:?} of 2 s"
    );

    server.say("free them");
    middle
        .set_read_timeout(Some(DEADLINE))
        .expect("the option can be set");
    assert_eq!(read_u32_frame(&mut middle), b"40");
    drop(clients.remove(0));
    for (index, mut client) in (1..).zip(clients) {
        let index = if index < 40 { index } else { index + 1 };
        assert_eq!(read_u32_frame(&mut client), index.to_string().as_bytes());
    }
    drop(middle);
    let lines = server.stop();
    let count = lines.matches("cannot accept").count();
    assert!(
        (1..=10).contains(&count),
        "{count} lines in some 3 s: {lines}"
    );
}

/// The processor time that a process has used, from proc(5).
#[cfg(target_os = "linux")]
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("its name is in brackets");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum();
    // USER_HZ is 100 on every Linux.
    Duration::from_millis(10 * ticks)
}

// Operations from callbacks.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    CloseSelf,
    AbortSelf,
    CloseOther,
    AbortOther,
    SendSelf,
    SendOther,
    Broadcast,
    Connect,
    ConnectRefused,
    ConnectAndAbort,
    SetTimer,
    CancelTimers,
    PauseSelf,
    ResumeSelf,
    PauseOther,
    ResumeOther,
    ReframeSelf,
    ReframeOther,
    Listen,
    CloseListener,
    Stop,
    Shutdown,
}

const OPS: [Op; 22] = [
    Op::CloseSelf,
    Op::AbortSelf,
    Op::CloseOther,
    Op::AbortOther,
    Op::SendSelf,
    Op::SendOther,
    Op::Broadcast,
    Op::Connect,
    Op::ConnectRefused,
    Op::ConnectAndAbort,
    Op::SetTimer,
    Op::CancelTimers,
    Op::PauseSelf,
    Op::ResumeSelf,
    Op::PauseOther,
    Op::ResumeOther,
    Op::ReframeSelf,
    Op::ReframeOther,
    Op::Listen,
    Op::CloseListener,
    Op::Stop,
    Op::Shutdown,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Callback {
    Open,
    Frame,
    Drained,
    HalfClose,
    Close,
    Timer,
    Posted,
}

const CALLBACKS: [Callback; 7] = [
    Callback::Open,
    Callback::Frame,
    Callback::Drained,
    Callback::HalfClose,
    Callback::Close,
    Callback::Timer,
    Callback::Posted,
];

/// Does two operations from every callback of one kind, and keeps watch over the order of what it
/// is told. That nothing calls back before a callback returns is a fact of types: the handler is
/// borrowed by it.
struct Matrix {
    at: Callback,
    ops: [Op; 2],
    /// Each operation may open connections whose callbacks do it again.
    ops_left: usize,
    addr: SocketAddr,
    refusing: SocketAddr,
    listeners: Vec<ListenerId>,
    timers: Vec<TimerId>,
    /// All ids so far, in their order.
    conns: Vec<ConnId>,
    open: HashSet<ConnId>,
    closes: HashMap<ConnId, u32>,
    /// Closed or aborted by this handler: no frame of theirs may come.
    ended: HashSet<ConnId>,
    /// Nor of these.
    paused: HashSet<ConnId>,
    /// Callbacks of the wanted kind.
    hits: usize,
}

impl Matrix {
    fn new(at: Callback, ops: [Op; 2], refusing: SocketAddr) -> Self {
        Self {
            at,
            ops,
            ops_left: 6,
            addr: refusing,
            refusing,
            listeners: Vec::new(),
            timers: Vec::new(),
            conns: Vec::new(),
            open: HashSet::new(),
            closes: HashMap::new(),
            ended: HashSet::new(),
            paused: HashSet::new(),
            hits: 0,
        }
    }

    fn entered(&mut self, cx: &mut Context<'_, Self>, at: Callback, conn: Option<ConnId>) {
        if let Some(conn) = conn {
            assert!(
                !self.closes.contains_key(&conn),
                "{at:?} of {conn} after its end"
            );
        }
        if at != self.at {
            return;
        }
        self.hits += 1;
        let conn = conn.or_else(|| self.conns.first().copied());
        for op in self.ops {
            if self.ops_left > 0 {
                self.ops_left -= 1;
                self.apply(cx, op, conn);
            }
        }
    }

    fn apply(&mut self, cx: &mut Context<'_, Self>, op: Op, conn: Option<ConnId>) {
        let other = self
            .conns
            .iter()
            .rev()
            .find(|&&other| Some(other) != conn)
            .copied();
        match op {
            Op::CloseSelf => self.end(conn, |conn| cx.close(conn)),
            Op::AbortSelf => self.end(conn, |conn| cx.abort(conn)),
            Op::CloseOther => self.end(other, |conn| cx.close(conn)),
            Op::AbortOther => self.end(other, |conn| cx.abort(conn)),
            Op::SendSelf => send_all(cx, conn),
            Op::SendOther => send_all(cx, other),
            Op::Broadcast => {
                cx.broadcast(self.conns.iter().copied(), &[2; 300]);
            }
            Op::Connect => self.connect(cx, self.addr),
            Op::ConnectRefused => self.connect(cx, self.refusing),
            Op::ConnectAndAbort => {
                self.connect(cx, self.addr);
                let newest = self.conns.last().copied();
                self.end(newest, |conn| cx.abort(conn));
            }
            Op::SetTimer => self.timers.push(cx.set_timer(Duration::ZERO, 1)),
            Op::CancelTimers => {
                for timer in self.timers.drain(..) {
                    cx.cancel_timer(timer);
                }
            }
            Op::PauseSelf => self.pause(cx, conn),
            Op::PauseOther => self.pause(cx, other),
            Op::ResumeSelf => self.resume(cx, conn),
            Op::ResumeOther => self.resume(cx, other),
            Op::ReframeSelf => reframe(cx, conn),
            Op::ReframeOther => reframe(cx, other),
            Op::Listen => {
                let listener = cx.listen("127.0.0.1:0", Framing::raw());
                self.listeners.extend(listener.ok());
            }
            Op::CloseListener => {
                for listener in self.listeners.drain(..) {
                    cx.close_listener(listener);
                }
            }
            Op::Stop => cx.stop(),
            Op::Shutdown => {
                cx.shutdown(Duration::from_millis(5));
                self.ended.extend(&self.conns);
            }
        }
    }

    fn connect(&mut self, cx: &mut Context<'_, Self>, addr: SocketAddr) {
        let conn = cx.connect(addr, Framing::length_u32(), ());
        assert!(!self.conns.contains(&conn), "{conn} is handed out twice");
        self.conns.push(conn);
    }

    fn end(&mut self, conn: Option<ConnId>, end: impl FnOnce(ConnId)) {
        if let Some(conn) = conn {
            end(conn);
            self.ended.insert(conn);
        }
    }

    fn pause(&mut self, cx: &mut Context<'_, Self>, conn: Option<ConnId>) {
        if let Some(conn) = conn
            && cx.pause(conn).is_ok()
        {
            self.paused.insert(conn);
        }
    }

    fn resume(&mut self, cx: &mut Context<'_, Self>, conn: Option<ConnId>) {
        if let Some(conn) = conn
            && cx.resume(conn).is_ok()
        {
            self.paused.remove(&conn);
        }
    }

    fn is_silenced(&self, conn: ConnId) -> bool {
        self.ended.contains(&conn) || self.paused.contains(&conn)
    }
}

fn send_all(cx: &mut Context<'_, Matrix>, conn: Option<ConnId>) {
    if let Some(conn) = conn {
        let _ = cx.send(conn, &[1; 300]);
        let _ = cx.send(conn, b"");
    }
}

fn reframe(cx: &mut Context<'_, Matrix>, conn: Option<ConnId>) {
    if let Some(conn) = conn {
        let _ = cx.reframe(conn, Framing::raw());
    }
}

impl Handler for Matrix {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), origin: Origin) {
        if matches!(origin, Origin::Accepted(_)) {
            self.conns.push(conn);
        }
        assert!(self.open.insert(conn), "{conn} opens twice");
        self.timers.push(cx.set_timer(Duration::ZERO, 0));
        self.entered(cx, Callback::Open, Some(conn));
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        assert!(self.open.contains(&conn), "a frame before on_open");
        assert!(
            !self.is_silenced(conn),
            "a frame of a closed or paused connection"
        );
        // More than the high mark: on_drained follows. No answer is answered.
        if frame.len() == 5 {
            let _ = cx.send(conn, &[3; 300]);
        }
        self.entered(cx, Callback::Frame, Some(conn));
    }

    fn on_drained(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut ()) {
        assert!(self.open.contains(&conn), "on_drained before on_open");
        self.entered(cx, Callback::Drained, Some(conn));
    }

    fn on_half_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut ()) {
        assert!(
            !self.is_silenced(conn),
            "an end of a closed or paused connection"
        );
        self.entered(cx, Callback::HalfClose, Some(conn));
        cx.close(conn);
        self.ended.insert(conn);
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: (), _: Closed) {
        *self.closes.entry(conn).or_default() += 1;
        cx.peer_addr(conn)
            .expect("the address is there until this returns");
        if self.at == Callback::Close {
            self.closes.remove(&conn);
            self.entered(cx, Callback::Close, Some(conn));
            *self.closes.entry(conn).or_default() += 1;
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, _: TimerId, _: u64) {
        self.entered(cx, Callback::Timer, None);
    }
}

/// Runs two connections through all callbacks. Their events come in one batch, so that whatever the
/// one does to the other happens while the other's turn is still to come.
fn run_matrix(at: Callback, ops: [Op; 2], refusing: SocketAddr) -> usize {
    let mut config = Config::default();
    config.write_high = 200;
    config.write_low = 100;
    config.close_deadline = Duration::from_millis(5);
    let matrix = Matrix::new(at, ops, refusing);
    let (mut reactor, addr) = listening(matrix, config, Framing::length_u32());
    reactor.handler_mut().addr = addr;
    let listener = reactor.listen("127.0.0.1:0", Framing::length_u32());
    reactor.handler_mut().listeners.extend(listener.ok());
    let mut clients = [client(addr), client(addr)];
    settle(&mut reactor);
    for client in &mut clients {
        // A peer may be gone by now, if that is what the operation does.
        let _ = client.write_all(&short("hello").repeat(3));
    }
    settle(&mut reactor);
    for client in &mut clients {
        let _ = client.write_all(&short("fifth"));
        let _ = client.shutdown(Shutdown::Write);
    }
    let post = reactor
        .remote()
        .post(|matrix: &mut Matrix, cx: &mut Context<'_, Matrix>| {
            matrix.entered(cx, Callback::Posted, None);
        });
    post.expect("the reactor is there");
    settle(&mut reactor);
    reactor
        .turn(Some(Duration::from_millis(2)))
        .expect("the poll works");
    reactor.with(|_, cx| cx.shutdown(Duration::from_millis(5)));
    drive(&mut reactor, Reactor::is_shut_down);

    let stats = reactor.stats();
    let matrix = reactor.into_handler();
    assert_eq!(stats.closed, matrix.conns.len() as u64);
    for conn in &matrix.conns {
        assert_eq!(matrix.closes.get(conn), Some(&1), "on_close of {conn}");
    }
    matrix.hits
}

#[test]
fn every_operation_is_sound_from_every_callback() {
    let (_held, addr) = common::refusing();
    for at in CALLBACKS {
        let mut hits = 0;
        for first in OPS {
            for second in OPS {
                println!("{first:?}, then {second:?}, from {at:?}");
                hits += run_matrix(at, [first, second], addr);
            }
        }
        assert!(
            hits >= OPS.len() * OPS.len(),
            "{at:?} was called {hits} times"
        );
    }
}

// Ends.

/// All the ways to end at once: by the peer's end, by its reset, by a failed connect, by a gentle
/// shutdown, and by its deadline, open or still connecting.
#[test]
fn every_connection_is_told_of_its_end_once_and_last() {
    const EACH: usize = 10;
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let (_refusing_socket, refusing) = common::refusing();
    let (_silent_sockets, silent) = common::silent();
    let mut ends: Vec<_> = (0..EACH).map(|_| client(addr)).collect();
    let resets: Vec<_> = (0..EACH).map(|_| client(addr)).collect();
    let mut ends_at_shutdown: Vec<_> = (0..EACH).map(|_| client(addr)).collect();
    let stays: Vec<_> = (0..EACH).map(|_| client(addr)).collect();
    let nowhere: &[SocketAddr] = &[];
    let mut started = Vec::new();
    for _ in 0..EACH {
        started.push(reactor.connect(refusing, Framing::raw(), ()));
        started.push(reactor.connect(silent, Framing::raw(), ()));
        started.push(reactor.connect(nowhere, Framing::raw(), ()));
    }
    drive(&mut reactor, |reactor| {
        reactor.stats().accepted == 4 * EACH as u64
    });
    ends.clear();
    resets.into_iter().for_each(reset);
    drive_to_closed(&mut reactor, 4 * EACH as u64);
    reactor.with(|_, cx| cx.shutdown(Duration::from_millis(100)));
    ends_at_shutdown.clear();
    drive(&mut reactor, Reactor::is_shut_down);
    drop(stays);

    assert_eq!(reactor.stats().closed, 7 * EACH as u64);
    let probe = reactor.into_handler();
    let mut reasons: HashMap<ConnId, &CloseReason> = HashMap::new();
    for event in &probe.events {
        let conn = match event {
            Event::Open(conn, _) | Event::HalfClose(conn) | Event::Close(conn, _) => conn,
            event => panic!("{event:?}"),
        };
        assert!(!reasons.contains_key(conn), "{event:?} after the end");
        if let Event::Close(conn, closed) = event {
            reasons.insert(*conn, &closed.reason);
        }
    }
    assert_eq!(reasons.len(), 7 * EACH);
    assert!(started.iter().all(|conn| reasons.contains_key(conn)));
    let count = |wanted: fn(&CloseReason) -> bool| {
        let all = reasons.values();
        all.filter(|reason| wanted(reason)).count()
    };
    assert_eq!(count(|reason| matches!(reason, CloseReason::Peer)), EACH);
    assert_eq!(count(|reason| matches!(reason, CloseReason::Io(_))), EACH);
    let failed = count(|reason| matches!(reason, CloseReason::ConnectFailed(_)));
    assert_eq!(failed, 2 * EACH);
    // Those that ended at the shutdown, and those that were still connecting then.
    assert_eq!(
        count(|reason| matches!(reason, CloseReason::Local)),
        2 * EACH
    );
    assert_eq!(
        count(|reason| matches!(reason, CloseReason::Shutdown)),
        EACH
    );
}

/// Answers each frame with a megabyte, behind a send buffer that is much smaller.
fn megabyte_for_each() -> Probe {
    Probe::new(|cx, event| match event {
        Event::Open(conn, _) => cx
            .socket_options(*conn)
            .and_then(|options| options.set_send_buffer_size(4096))
            .expect("the option can be set"),
        Event::Frame(conn, _) => {
            let _ = cx.send(*conn, &[5; MIB]).expect("16 MiB may be queued");
        }
        _ => {}
    })
}

/// A reactor that has a megabyte pending for each of a hundred clients, which read nothing yet.
fn with_megabytes_pending() -> (Reactor<Probe>, Vec<TcpStream>) {
    let framing = Framing::length_u32();
    let (mut reactor, addr) = listening(megabyte_for_each(), Config::default(), framing);
    let mut clients: Vec<_> = (0..100).map(|_| client(addr)).collect();
    for client in &mut clients {
        client.write_all(&short("go")).expect("the kernel takes it");
    }
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 100);
    settle(&mut reactor);
    let written = reactor.stats().written_bytes;
    assert!(written < 50 * MIB as u64, "{written} bytes are not pending");
    (reactor, clients)
}

#[test]
fn a_shutdown_delivers_what_is_pending_to_those_that_read() {
    let (mut reactor, clients) = with_megabytes_pending();
    let addr = clients[0].peer_addr().expect("it is connected");
    let reader = std::thread::spawn(move || {
        for mut client in clients {
            let mut got = Vec::new();
            client.read_to_end(&mut got).expect("no reset");
            assert_eq!(got.len(), MIB + 4);
        }
    });
    reactor.with(|_, cx| cx.shutdown(DEADLINE));
    // It returns by itself, when all of them are gone.
    reactor.run().expect("the poll works");
    assert!(reactor.is_shut_down());
    reader.join().expect("all of it arrives");
    assert_eq!(reactor.stats().unsent_bytes, 0);
    for (conn, closed) in reactor.handler().closes() {
        assert!(
            matches!(closed.reason, CloseReason::Local),
            "{conn}: {closed:?}"
        );
    }
    assert_eq!(reactor.handler().closes().len(), 100);
    let error = TcpStream::connect(addr).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_shutdown_aborts_those_that_do_not_read_at_its_deadline_and_counts_the_loss() {
    let (mut reactor, mut clients) = with_megabytes_pending();
    let started = Instant::now();
    reactor.with(|_, cx| cx.shutdown(Duration::from_millis(100)));
    reactor.run().expect("the poll works");
    assert!(started.elapsed() >= Duration::from_millis(100));
    let probe = reactor.handler();
    assert_eq!(probe.closes().len(), 100);
    for (conn, closed) in probe.closes() {
        assert!(
            matches!(closed.reason, CloseReason::Shutdown),
            "{conn}: {closed:?}"
        );
        assert!(closed.unsent_bytes > 0, "{conn}: {closed:?}");
        let total = closed.unsent_bytes + closed.stats.written_bytes;
        assert_eq!(total, MIB as u64 + 4, "{conn}");
    }
    for client in &mut clients {
        let error = client.read_to_end(&mut Vec::new()).expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

/// Connects anew whenever a connection ends, at once and for ever.
struct Stubborn {
    addr: SocketAddr,
    failures: u64,
}

impl Handler for Stubborn {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}

    fn on_close(&mut self, cx: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        // Failed, or ended by the shutdown while it was connecting.
        let is_expected = matches!(
            closed.reason,
            CloseReason::ConnectFailed(_) | CloseReason::Local
        );
        assert!(is_expected, "{closed:?}");
        self.failures += 1;
        cx.connect(self.addr, Framing::raw(), ());
    }
}

#[test]
fn a_shutdown_ends_also_where_the_handler_connects_for_ever() {
    let (_held, addr) = common::refusing();
    let mut reactor = Reactor::new(Stubborn { addr, failures: 0 }).expect("a reactor");
    reactor.connect(addr, Framing::raw(), ());
    drive(&mut reactor, |reactor| reactor.handler().failures >= 3);
    reactor.with(|_, cx| cx.shutdown(Duration::from_millis(20)));
    drive(&mut reactor, Reactor::is_shut_down);
    reactor.run().expect("it returns at once");
}

#[test]
fn a_stopped_reactor_runs_again_with_all_it_had() {
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, frame) = event {
            let _ = cx.send(*conn, frame);
            cx.stop();
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::length_u32());
    let mut client = client(addr);
    for round in 1..=3 {
        client
            .write_all(&short("ping"))
            .expect("the kernel takes it");
        reactor.run().expect("the poll works");
        assert_eq!(reactor.stats().frames_in, round);
        // It was written before the run returned.
        assert_eq!(read_u32_frame(&mut client), b"ping");
    }
    assert!(!reactor.is_shut_down());
    assert_eq!(reactor.stats().closed, 0);
}

#[test]
fn a_dropped_reactor_refuses_posts_and_gives_them_back() {
    let reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let remote = reactor.remote();
    let (queued, told) = mpsc::channel::<u8>();
    remote
        .post(move |_, _| queued.send(1).expect("it is not run"))
        .expect("the reactor is there");
    drop(reactor);
    let error = told.recv_timeout(DEADLINE).expect_err("it was dropped");
    assert_eq!(error, mpsc::RecvTimeoutError::Disconnected);

    let (tell, told) = mpsc::channel();
    let post = remote.post(move |_, _| tell.send("back").expect("the test listens"));
    let Err(PostError::Closed(task)) = post else {
        panic!("not {post:?}");
    };
    remote.shutdown(Duration::ZERO).expect("it is no error");

    // The closure is whole: another reactor runs it.
    let mut another = Reactor::new(Probe::silent()).expect("a reactor");
    another.remote().post(task).expect("it is there");
    another.turn(Some(DEADLINE)).expect("the poll works");
    assert_eq!(told.recv_timeout(DEADLINE), Ok("back"));
}

// Timers.

/// Records when timers fire. Key 0 is an interval that is cancelled after a number of times; Of a
/// pair with key 1 the one that fires cancels the other.
#[derive(Default)]
struct Alarm {
    fired: Vec<(TimerId, u64, Instant)>,
    interval_left: usize,
    pair: Vec<TimerId>,
}

impl Handler for Alarm {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, key: u64) {
        self.fired.push((timer, key, Instant::now()));
        if key == 0 {
            self.interval_left -= 1;
            if self.interval_left == 0 {
                assert!(
                    cx.cancel_timer(timer),
                    "an interval lives until it is cancelled"
                );
            }
        }
        for other in self
            .pair
            .drain(..)
            .filter(|other| key == 1 && *other != timer)
        {
            assert!(cx.cancel_timer(other), "it is due, and has not fired");
            assert!(!cx.cancel_timer(other), "it is gone");
        }
    }
}

fn alarm() -> Reactor<Alarm> {
    Reactor::new(Alarm::default()).expect("a reactor")
}

#[test]
fn a_timer_fires_once_and_never_early() {
    let seed = 9;
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut reactor = alarm();
    let mut set = HashMap::new();
    for key in 100..200 {
        let after = Duration::from_micros(random.below(50_000) as u64);
        let (timer, from) = reactor.with(|_, cx| (cx.set_timer(after, key), cx.now()));
        set.insert(timer, (key, from + after));
    }
    drive(&mut reactor, |reactor| reactor.handler().fired.len() >= 100);
    reactor
        .turn(Some(Duration::from_millis(60)))
        .expect("the poll works");
    let fired = &reactor.handler().fired;
    assert_eq!(fired.len(), 100);
    for (timer, key, at) in fired {
        let (expected_key, due) = set.remove(timer).expect("it fires once");
        assert_eq!(*key, expected_key);
        assert!(*at >= due, "{:?} early", due - *at);
    }
    let gone = fired[0].0;
    assert!(!reactor.with(|_, cx| cx.cancel_timer(gone)));
}

#[test]
fn an_interval_fires_until_it_is_cancelled_and_never_early() {
    const PERIOD: Duration = Duration::from_millis(3);
    let mut reactor = alarm();
    reactor.handler_mut().interval_left = 20;
    let (timer, from) = reactor.with(|_, cx| (cx.set_interval(PERIOD, 0), cx.now()));
    drive(&mut reactor, |reactor| reactor.handler().interval_left == 0);
    let turns = reactor.stats().turns;
    reactor.turn(Some(10 * PERIOD)).expect("the poll works");
    assert_eq!(reactor.stats().turns, turns + 1);
    let fired = &reactor.handler().fired;
    assert_eq!(fired.len(), 20, "nothing comes after the cancel");
    for (index, (id, key, at)) in (1..).zip(fired) {
        assert_eq!((*id, *key), (timer, 0));
        assert!(*at >= from + PERIOD * index, "firing {index} was early");
    }
    assert!(!reactor.with(|_, cx| cx.cancel_timer(timer)));
}

#[test]
fn a_cancelled_timer_never_fires_not_even_in_the_turn_in_which_it_is_due() {
    let mut reactor = alarm();
    let after = Duration::from_millis(5);
    let cancelled = reactor.with(|_, cx| cx.set_timer(after, 2));
    assert!(reactor.with(|_, cx| cx.cancel_timer(cancelled)));
    assert!(!reactor.with(|_, cx| cx.cancel_timer(cancelled)));

    let last = reactor.with(|alarm, cx| {
        alarm.pair = vec![cx.set_timer(after, 1), cx.set_timer(after, 1)];
        cx.set_timer(4 * after, 3)
    });
    drive(&mut reactor, |reactor| {
        reactor.handler().fired.iter().any(|(id, ..)| *id == last)
    });
    let fired = reactor.handler().fired.iter();
    let keys: Vec<_> = fired.map(|(_, key, _)| *key).collect();
    assert_eq!(keys, [1, 3]);
}

/// The program was elsewhere when its timer came due. The next turn does not wait for it anew.
#[test]
fn an_overdue_timer_fires_in_the_next_turn_at_once() {
    let mut reactor = alarm();
    let after = Duration::from_secs(1);
    reactor.with(|_, cx| cx.set_timer(after, 2));
    std::thread::sleep(after);
    let started = Instant::now();
    while reactor.handler().fired.is_empty() {
        reactor.turn(None).expect("the poll works");
    }
    assert!(
        started.elapsed() < after / 2,
        "{:?} later",
        started.elapsed()
    );
}
