//! Helpers for tests: a reactor that runs in a thread or turn by turn, and blocking clients.
//!
//! No helper sleeps to wait for a condition. A wait checks its condition repeatedly, and fails at a
//! deadline that only a broken program reaches. Only [`Server::stop`] has no deadline.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses only some of these helpers"
)]

#[cfg(target_os = "linux")]
pub mod strace;
pub mod tls;
pub mod udp;

use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use unstick::{
    Addr, CloseReason, Closed, Config, ConnId, Context, Datagram, FrameError, Framing, Handler,
    Hangup, ListenerId, Origin, Reactor, Refusal, Remote, SendError, Signal, Skipped, Stats,
    TimerId, UdpId,
};
#[cfg(unix)]
use unstick::{UnixDatagram, UnixDatagramId};

/// Time limit of a wait. The limit is so long that only a lost wake-up or a lost byte exceeds it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Names of all framings without a parameter, except `varint-lax`.
pub const FRAMINGS: [&str; 14] = [
    "raw",
    "line",
    "line-crlf",
    "u8",
    "u16",
    "u24",
    "u32",
    "u64",
    "u16-le",
    "u24-le",
    "u32-le",
    "u64-le",
    "varint",
    "netstring",
];

/// A callback that the reactor called, with some of its arguments.
#[derive(Debug)]
pub enum Event {
    Open(ConnId, Origin),
    Frame(ConnId, Vec<u8>),
    Skipped(ConnId, Skipped),
    Peek(ConnId, Vec<u8>),
    FrameError(ConnId, FrameError),
    Drained(ConnId),
    HalfClose(ConnId),
    Hangup(ConnId, Hangup),
    Refused(ListenerId, Addr, Refusal),
    Close(ConnId, Closed),
    /// The flag is true if the datagram was truncated.
    Datagram(UdpId, SocketAddr, Vec<u8>, bool),
    DatagramError(UdpId, std::io::Error),
    Timer(TimerId, u64),
    Signal(Signal),
    SendRefused(ConnId, Vec<u8>),
    #[cfg(unix)]
    UnixDatagram(UnixDatagramId, Vec<u8>),
}

/// Closure that a [`Probe`] runs for each event, before it records the event.
pub type React = Box<dyn FnMut(&mut Context<'_, Probe>, &Event) + Send>;

/// A handler that passes each callback to a closure and then records it. Exceptions: `on_shutdown`
/// and `on_unix_writable` are ignored.
pub struct Probe {
    pub events: Vec<Event>,
    /// True if `on_half_close` keeps the connection open, false if it closes the connection
    /// (default).
    pub keep_half_closed: bool,
    react: React,
}

impl Probe {
    pub fn new(react: impl FnMut(&mut Context<'_, Self>, &Event) + Send + 'static) -> Self {
        Self {
            events: Vec::new(),
            keep_half_closed: false,
            react: Box::new(react),
        }
    }

    /// Returns a probe that records every callback and does nothing else.
    pub fn silent() -> Self {
        Self::new(|_, _| {})
    }

    /// Returns a probe that echoes every frame and every UDP datagram.
    pub fn echo() -> Self {
        Self::new(|cx, event| match event {
            Event::Frame(conn, frame) => {
                let _ = cx.send(*conn, frame);
            }
            Event::Datagram(socket, from, data, _) => {
                let _ = cx.send_to(*socket, *from, data);
            }
            _ => {}
        })
    }

    pub fn frames(&self) -> Vec<&[u8]> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Frame(_, frame) => Some(&frame[..]),
                _ => None,
            })
            .collect()
    }

    pub fn closes(&self) -> Vec<(ConnId, &Closed)> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Close(conn, closed) => Some((*conn, closed)),
                _ => None,
            })
            .collect()
    }

    /// Returns the only recorded close; fails unless `on_close` was called exactly once.
    pub fn only_close(&self) -> &Closed {
        let closes = self.closes();
        assert_eq!(
            closes.len(),
            1,
            "on_close was not called exactly once: {closes:?}"
        );
        closes[0].1
    }

    pub fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| wanted(event)).count()
    }

    fn record(&mut self, cx: &mut Context<'_, Self>, event: Event) {
        (self.react)(cx, &event);
        self.events.push(event);
    }
}

impl Handler for Probe {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), origin: Origin) {
        self.record(cx, Event::Open(conn, origin));
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        self.record(cx, Event::Frame(conn, frame.to_vec()));
    }

    fn on_skipped(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        _: &mut (),
        skipped: Skipped,
    ) {
        self.record(cx, Event::Skipped(conn, skipped));
    }

    fn on_peek(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), bytes: &[u8]) {
        self.record(cx, Event::Peek(conn, bytes.to_vec()));
    }

    fn on_frame_error(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        _: &mut (),
        error: &FrameError,
    ) {
        self.record(cx, Event::FrameError(conn, error.clone()));
    }

    fn on_refused(
        &mut self,
        cx: &mut Context<'_, Self>,
        listener: ListenerId,
        peer: &Addr,
        refusal: Refusal,
    ) {
        self.record(cx, Event::Refused(listener, peer.clone(), refusal));
    }

    fn on_drained(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut ()) {
        self.record(cx, Event::Drained(conn));
    }

    fn on_half_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut ()) {
        self.record(cx, Event::HalfClose(conn));
        if !self.keep_half_closed {
            cx.close(conn);
        }
    }

    fn on_hangup(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), hangup: Hangup) {
        self.record(cx, Event::Hangup(conn, hangup));
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: (), closed: Closed) {
        self.record(cx, Event::Close(conn, closed));
    }

    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, datagram: Datagram<'_>) {
        let Datagram {
            from,
            data,
            truncated,
            ..
        } = datagram;
        self.record(cx, Event::Datagram(socket, from, data.to_vec(), truncated));
    }

    fn on_datagram_error(
        &mut self,
        cx: &mut Context<'_, Self>,
        socket: UdpId,
        error: std::io::Error,
    ) {
        self.record(cx, Event::DatagramError(socket, error));
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, key: u64) {
        self.record(cx, Event::Timer(timer, key));
    }

    fn on_signal(&mut self, cx: &mut Context<'_, Self>, signal: Signal) {
        self.record(cx, Event::Signal(signal));
    }

    fn on_send_refused(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        payload: Vec<u8>,
        _: SendError,
    ) {
        self.record(cx, Event::SendRefused(conn, payload));
    }

    #[cfg(unix)]
    fn on_unix_datagram(
        &mut self,
        cx: &mut Context<'_, Self>,
        socket: UnixDatagramId,
        datagram: UnixDatagram<'_>,
    ) {
        self.record(cx, Event::UnixDatagram(socket, datagram.data.to_vec()));
    }
}

/// Runs turns until `done` returns true; fails after [`DEADLINE`].
pub fn drive<H: Handler>(reactor: &mut Reactor<H>, mut done: impl FnMut(&Reactor<H>) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done(reactor) {
        assert!(
            Instant::now() < deadline,
            "`done` was still false at the deadline: {:?}",
            reactor.stats()
        );
        // The timeout is short because `done` may depend on state outside the reactor. A change of
        // such state does not wake the reactor.
        reactor
            .turn(Some(Duration::from_millis(20)))
            .expect("polling succeeds");
    }
}

/// Runs turns until a turn finds no event, accepts nothing, neither reads nor writes a stream, and
/// leaves no work for the next turn, such as frames that a budget postponed. Timers that are not
/// due may be left. Fails after [`DEADLINE`].
pub fn settle<H: Handler>(reactor: &mut Reactor<H>) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let before = reactor.stats();
        assert!(Instant::now() < deadline, "the reactor is busy: {before:?}");
        reactor
            .turn(Some(Duration::ZERO))
            .expect("polling succeeds");
        let after = reactor.stats();
        let is_quiet = (before.events, before.accepted, before.reads, before.writes)
            == (after.events, after.accepted, after.reads, after.writes);
        if is_quiet && reactor.next_turn_in() != Some(Duration::ZERO) {
            return;
        }
    }
}

/// Sleeps for `time`. Only tests about time itself may call this function, because all other tests
/// wait for a condition.
pub fn let_pass(time: Duration) {
    thread::sleep(time);
}

/// Returns a reactor that listens on a free port of the loopback address.
pub fn listening<H: Handler>(
    handler: H,
    config: Config,
    framing: Framing,
) -> (Reactor<H>, SocketAddr) {
    let mut reactor = Reactor::with_config(handler, config).expect("the reactor is created");
    let listener = reactor
        .listen("127.0.0.1:0", framing)
        .expect("a free port is available");
    let addr = reactor
        .local_inet_addr(listener)
        .expect("a bound listener has an address");
    (reactor, addr)
}

/// Connects a client, and returns the client and its connection in the reactor.
pub fn open(reactor: &mut Reactor<Probe>, addr: SocketAddr) -> (TcpStream, ConnId) {
    let count = reactor.stats().accepted + 1;
    let client = client(addr);
    drive(reactor, |reactor| reactor.stats().accepted == count);
    let newest = reactor
        .handler()
        .events
        .iter()
        .rev()
        .find_map(|event| match event {
            Event::Open(conn, _) => Some(*conn),
            _ => None,
        });
    (client, newest.expect("on_open was called"))
}

/// Connects a client like [`open`], and makes the send buffer of its connection small. If the
/// client reads nothing, most of a megabyte of output then stays in the write queue.
pub fn open_narrow(reactor: &mut Reactor<Probe>, addr: SocketAddr) -> (TcpStream, ConnId) {
    let (client, conn) = open(reactor, addr);
    reactor
        .with(|_, cx| cx.socket_options(conn)?.set_send_buffer_size(65_536))
        .expect("the buffer size can be set");
    (client, conn)
}

/// Sends bytes to a connection without unread input, and waits until all of them have arrived in
/// the kernel's receive buffer. No turn runs during the wait, so the next turn finds exactly these
/// bytes.
pub fn deposit(reactor: &mut Reactor<Probe>, client: &mut TcpStream, conn: ConnId, bytes: &[u8]) {
    client.write_all(bytes).expect("the write succeeds");
    let deadline = Instant::now() + DEADLINE;
    let mut buf = vec![MaybeUninit::uninit(); bytes.len()];
    let mut arrived = 0;
    while arrived < bytes.len() {
        assert!(
            Instant::now() < deadline,
            "only {arrived} bytes arrived before the deadline"
        );
        let peeked = reactor.with(|_, cx| cx.socket_options(conn)?.peek(&mut buf));
        arrived = match peeked {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            peeked => peeked.expect("the connection is open"),
        };
    }
}

/// Runs 20 turns that do not wait for events.
pub fn idle(reactor: &mut Reactor<Probe>) {
    for _ in 0..20 {
        reactor
            .turn(Some(Duration::ZERO))
            .expect("polling succeeds");
    }
}

/// Reads `len` bytes from a client, at most 10,000 bytes at a time, and runs a turn after each
/// read.
pub fn read_slowly(reactor: &mut Reactor<Probe>, client: &mut TcpStream, len: usize) -> Vec<u8> {
    let deadline = Instant::now() + DEADLINE;
    let mut bytes = vec![0; len];
    let mut at = 0;
    client
        .set_nonblocking(true)
        .expect("non-blocking mode can be set");
    while at < len {
        assert!(
            Instant::now() < deadline,
            "only {at} of {len} bytes arrived before the deadline"
        );
        let end = len.min(at + 10_000);
        let timeout = match client.read(&mut bytes[at..end]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Duration::from_millis(1),
            read => {
                at += read.expect("the connection is open");
                Duration::ZERO
            }
        };
        reactor.turn(Some(timeout)).expect("polling succeeds");
    }
    client
        .set_nonblocking(false)
        .expect("non-blocking mode can be set");
    bytes
}

/// A reactor that runs in another thread.
pub struct Server<H: Handler + Send + 'static> {
    pub addr: SocketAddr,
    pub remote: Remote<H>,
    thread: JoinHandle<(H, Stats)>,
}

impl<H: Handler + Send + 'static> Server<H>
where
    H::Session: Send,
{
    pub fn start(handler: H, config: Config, framing: Framing) -> Self {
        let (mut reactor, addr) = listening(handler, config, framing);
        let remote = reactor.remote();
        let thread = thread::spawn(move || {
            reactor.run().expect("the loop runs without an error");
            let stats = reactor.stats();
            (reactor.into_handler(), stats)
        });
        Self {
            addr,
            remote,
            thread,
        }
    }

    pub fn connect(&self) -> TcpStream {
        client(self.addr)
    }

    /// Shuts the reactor down and returns its handler and statistics.
    pub fn stop(self) -> (H, Stats) {
        self.remote
            .shutdown(Duration::from_secs(5))
            .expect("the reactor exists");
        self.thread
            .join()
            .expect("the reactor thread does not panic")
    }
}

/// Returns a blocking client whose reads and writes fail after [`DEADLINE`].
pub fn client(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("the server accepts");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("the timeout can be set");
    stream
        .set_write_timeout(Some(DEADLINE))
        .expect("the timeout can be set");
    stream.set_nodelay(true).expect("TCP_NODELAY can be set");
    stream
}

/// Closes a client's connection with a reset instead of a FIN.
pub fn reset(stream: TcpStream) {
    let options = socket2::SockRef::from(&stream);
    options
        .set_linger(Some(Duration::ZERO))
        .expect("SO_LINGER can be set");
}

/// Ends a client's side of the connection with a FIN. The client can still read.
pub fn send_fin(stream: &TcpStream) {
    let ended = stream.shutdown(Shutdown::Write);
    ended.expect("the connection is open");
}

/// Returns a bound socket that does not listen, and its address. The kernel refuses connects to the
/// address, and no other program can take its port while the socket is open.
pub fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("the socket can be created");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a free port is available");
    let addr = socket.local_addr().expect("the socket is bound");
    (
        socket,
        addr.as_socket().expect("the address is an IP address"),
    )
}

/// Returns an address to which a connect stays in progress, and the sockets that block the address
/// while they are open. The listener at the address accepts nothing and its backlog is full, so the
/// kernel drops every further SYN. Linux gives up the connect after about two minutes.
pub fn silent() -> (Vec<Socket>, SocketAddr) {
    let (listener, addr) = refusing();
    listener.listen(0).expect("the socket is bound");
    let mut held = vec![listener];
    for _ in 0..4 {
        let socket =
            Socket::new(Domain::IPV4, Type::STREAM, None).expect("the socket can be created");
        socket
            .set_nonblocking(true)
            .expect("non-blocking mode can be set");
        let _ = socket.connect(&addr.into());
        held.push(socket);
    }
    (held, addr)
}

/// Environment variable that marks a process started by [`rerun`].
const CHILD: &str = "UNSTICK_TEST_CHILD";

/// Returns true if this process was started by [`rerun`].
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Returns a command that runs one test of this binary in a child process.
pub fn rerun(test: &str) -> Command {
    let binary = std::env::current_exe().expect("a test knows its executable");
    let mut command = Command::new(binary);
    command
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1");
    command
}

/// Encodes a payload without the crate's code, as an independent peer does. `framing` is a name of
/// [`FRAMINGS`], and the payload must fit its length field.
pub fn frame(framing: &str, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u64;
    let mut bytes = match framing {
        "raw" | "line" | "line-crlf" => Vec::new(),
        "u8" => vec![u8::try_from(len).expect("the payload is at most 255 bytes long")],
        "u16" => len.to_be_bytes()[6..].to_vec(),
        "u24" => len.to_be_bytes()[5..].to_vec(),
        "u32" => len.to_be_bytes()[4..].to_vec(),
        "u64" => len.to_be_bytes().to_vec(),
        "u16-le" => len.to_le_bytes()[..2].to_vec(),
        "u24-le" => len.to_le_bytes()[..3].to_vec(),
        "u32-le" => len.to_le_bytes()[..4].to_vec(),
        "u64-le" => len.to_le_bytes().to_vec(),
        "varint" => varint(len),
        "netstring" => format!("{len}:").into_bytes(),
        _ => panic!("the framing {framing} is unknown"),
    };
    bytes.extend_from_slice(payload);
    match framing {
        "line" => bytes.push(b'\n'),
        "line-crlf" => bytes.extend(b"\r\n"),
        "netstring" => bytes.push(b','),
        _ => {}
    }
    bytes
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = value.to_le_bytes()[0] & 0x7F;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Reads one frame with a length prefix of four bytes, and returns its payload.
pub fn read_u32_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; 4];
    stream
        .read_exact(&mut header)
        .expect("the frame's header arrives");
    let mut payload = vec![0; u32::from_be_bytes(header) as usize];
    stream
        .read_exact(&mut payload)
        .expect("the payload arrives");
    payload
}

/// Sends a frame with a length prefix of four bytes, and returns the payload of the reply frame.
pub fn round_trip(stream: &mut TcpStream, payload: &[u8]) -> Vec<u8> {
    stream
        .write_all(&frame("u32", payload))
        .expect("the server reads");
    read_u32_frame(stream)
}

/// Returns true if the close reason is a socket error of kind `kind`.
pub fn is_io(reason: &CloseReason, kind: ErrorKind) -> bool {
    matches!(reason, CloseReason::Io(error) if error.kind() == kind)
}

/// A small seeded random number generator, so that a failure can be repeated.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        self.0 >> 16
    }

    /// Returns a number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64)
            .expect("the number is below `bound`, which is a usize")
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}
