//! Ping latency of 1,000 connections while another peer floods the server.
//!
//! ```text
//! cargo bench --manifest-path benches/peers/Cargo.toml --bench flood
//! ```
//!
//! The server is an echo server on a reactor with its default configuration. Each ping is a frame
//! of 64 bytes, and a connection has at most one ping outstanding. Pings come in bursts, with
//! pauses between them:
//!
//! * 16 pings at a time, on the next 16 connections: a ping waits for few other pings, so its
//!   latency shows the effect of the flood.
//! * 1,000 pings at once: a ping also waits for many other pings.
//!
//! Both kinds of bursts are measured without a flood (`quiet`), and during four floods by one
//! peer:
//!
//! * `frames`: sends frames of 64 bytes on one connection as fast as the kernel accepts them, and
//!   reads their echoes.
//! * `datagrams`: sends datagrams of 64 bytes, and reads nothing.
//! * `connects`: opens connections and resets them.
//! * `handshakes`: opens 500 TLS connections per second, each with a full handshake.
//!
//! Each round measures the five cases one after the other, and each figure is the median of all
//! rounds. The goal is a 99th percentile of at most three times the percentile without a flood. The
//! output also shows the number of reactor turns that ended between a ping and its echo. If this
//! number is high, the ping waited for many turns. If a ping is late and the number is low, the
//! turns were long. The last column is the rate of the flood.
//!
//! The server, the load and the flood each have their own processor. With only two processors, the
//! flood runs on the processor of the load, at the lowest priority.

#[expect(
    dead_code,
    reason = "other programs of this package use the remaining functions"
)]
#[path = "../src/system.rs"]
mod system;
#[path = "../src/tls.rs"]
mod tls;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::SockRef;
use unstick::{ConnId, Context, Datagram, Framing, Handler, ListenOptions, Reactor, UdpId};

use system::Epoll;

const PINGERS: usize = 1_000;
const ROUNDS: usize = 5;
/// Kinds of bursts: the pings per burst, and the bursts per round.
const LOADS: [(usize, usize); 2] = [(16, 100), (PINGERS, 10)];
const PAUSE: Duration = Duration::from_millis(5);
const FLOODS: [&str; 5] = ["quiet", "frames", "datagrams", "connects", "handshakes"];
/// Time between the starts of two handshakes.
const HANDSHAKE_PERIOD: Duration = Duration::from_millis(2);
/// Number of frames, datagrams, connections or handshakes that the server must receive before the
/// measurement of a flood begins.
const FLOOD_MIN: u64 = 100;

fn main() -> io::Result<()> {
    let is_test = std::env::args().any(|arg| arg == "--test");
    let rounds = if is_test { 1 } else { ROUNDS };
    system::raise_descriptor_limit()?;
    let cores = system::cores();
    let core = |wanted: usize| cores.get(wanted).or_else(|| cores.last()).copied();

    let server = Server::start(core(0))?;
    if let Some(core) = core(1) {
        system::pin(core)?;
    }
    let mut pingers = Pingers::connect(&server)?;
    let mut figures = FLOODS.map(|_| LOADS.map(|_| Vec::new()));
    for _ in 0..rounds {
        for (name, figures) in FLOODS.iter().zip(&mut figures) {
            let flood = Flood::start(name, &server, core(2))?;
            // The times of this burst are discarded, because the server may still handle input of
            // the previous flood.
            pingers.burst(PINGERS)?;
            for ((burst, bursts), figures) in LOADS.iter().zip(figures) {
                let bursts = if is_test { 2 } else { *bursts };
                figures.push(pingers.round(*burst, bursts, name)?);
            }
            if let Some(flood) = flood {
                flood.stop()?;
            }
        }
    }
    server.stop()?;

    for (load, (burst, _)) in LOADS.iter().enumerate() {
        println!("{PINGERS} pingers, {burst} pings at a time; microseconds (ratio to quiet):");
        let medians = |flood: usize| Figures::medians(&figures[flood][load]);
        let quiet = medians(0);
        for (flood, name) in FLOODS.iter().enumerate() {
            let flooded = medians(flood);
            println!(
                "{name:<10} p50 {:>8.1} ({:5.2})   p99 {:>8.1} ({:5.2})   \
                 turns p50 {:>3} p99 {:>3}   flood {:>9}/s",
                flooded.p50 as f64 / 1e3,
                flooded.p50 as f64 / quiet.p50 as f64,
                flooded.p99 as f64 / 1e3,
                flooded.p99 as f64 / quiet.p99 as f64,
                flooded.turns_p50,
                flooded.turns_p99,
                flooded.flood_per_second
            );
        }
    }
    Ok(())
}

/// Results of a round; times are in nanoseconds.
#[derive(Clone, Copy)]
struct Figures {
    p50: u64,
    p99: u64,
    turns_p50: u64,
    turns_p99: u64,
    flood_per_second: u64,
}

impl Figures {
    fn medians(rounds: &[Self]) -> Self {
        let median = |which: fn(&Self) -> u64| {
            let mut all: Vec<_> = rounds.iter().map(which).collect();
            percentile(&mut all, 50)
        };
        Self {
            p50: median(|round| round.p50),
            p99: median(|round| round.p99),
            turns_p50: median(|round| round.turns_p50),
            turns_p99: median(|round| round.turns_p99),
            flood_per_second: median(|round| round.flood_per_second),
        }
    }
}

fn percentile(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    values[(values.len() - 1) * percent / 100]
}

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        // If the echo cannot be sent, the pinger detects the missing echo and reports an error.
        let _ = cx.send(conn, frame);
    }

    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, datagram: Datagram<'_>) {
        let _ = cx.send_to(socket, datagram.from, datagram.data);
    }
}

/// Counters that the server publishes after each turn.
#[derive(Default)]
struct Counts {
    turns: AtomicU64,
    frames: AtomicU64,
    datagrams: AtomicU64,
    connects: AtomicU64,
    handshakes: AtomicU64,
}

impl Counts {
    /// Returns the number of frames, datagrams, connections or handshakes that the server received,
    /// depending on the kind of flood. Returns 0 for `quiet`.
    fn of(&self, flood: &str) -> u64 {
        match flood {
            "frames" => self.frames.load(Relaxed),
            "datagrams" => self.datagrams.load(Relaxed),
            "connects" => self.connects.load(Relaxed),
            "handshakes" => self.handshakes.load(Relaxed),
            _ => 0,
        }
    }
}

struct Server {
    tcp: SocketAddr,
    udp: SocketAddr,
    tls: SocketAddr,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<()>>,
}

impl Server {
    fn start(core: Option<usize>) -> io::Result<Self> {
        let counts = Arc::new(Counts::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (addrs_tx, addrs_rx) = mpsc::channel();
        let thread = thread::spawn({
            let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
            move || {
                if let Some(core) = core {
                    system::pin(core)?;
                }
                let mut reactor = Reactor::new(Echo)?;
                let listener = reactor.listen("127.0.0.1:0", Framing::length_u32())?;
                let socket = reactor.bind_udp("127.0.0.1:0")?;
                let options = ListenOptions::new().tls(tls::server_config()?);
                let framing = Framing::length_u32();
                let tls_listener =
                    reactor.with(|_, cx| cx.listen_with("127.0.0.1:0", framing, &options))?;
                let addrs = [
                    reactor.local_inet_addr(listener)?,
                    reactor.local_inet_addr(socket)?,
                    reactor.local_inet_addr(tls_listener)?,
                ];
                addrs_tx.send(addrs).map_err(io::Error::other)?;
                while !stop.load(Relaxed) {
                    reactor.turn(Some(Duration::from_millis(100)))?;
                    let stats = reactor.stats();
                    counts.turns.store(stats.turns, Relaxed);
                    counts.frames.store(stats.frames_in, Relaxed);
                    counts.datagrams.store(stats.datagrams_in, Relaxed);
                    counts.connects.store(stats.accepted, Relaxed);
                    counts.handshakes.store(stats.tls_established, Relaxed);
                }
                Ok(())
            }
        });
        let Ok([tcp, udp, tls]) = addrs_rx.recv() else {
            join(thread)?;
            return Err(ErrorKind::BrokenPipe.into());
        };
        Ok(Self {
            tcp,
            udp,
            tls,
            counts,
            stop,
            thread,
        })
    }

    fn stop(self) -> io::Result<()> {
        self.stop.store(true, Relaxed);
        join(self.thread)
    }
}

/// Waits for the end of a thread and returns its result. A panic becomes an error.
fn join(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    let ended = thread.join();
    ended.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
}

struct Pingers {
    epoll: Epoll,
    streams: Vec<TcpStream>,
    /// One pair per connection: the time of its last ping, and the number of turns that the server
    /// had completed by then.
    sent: Vec<(Instant, u64)>,
    /// Index of the connection that sends the next ping.
    next: usize,
    frame: [u8; 68],
    counts: Arc<Counts>,
    /// Round-trip time of each ping in this round, in nanoseconds.
    times: Vec<u64>,
    /// Number of reactor turns that ended during each ping in this round.
    turns: Vec<u64>,
}

impl Pingers {
    fn connect(server: &Server) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut streams = Vec::with_capacity(PINGERS);
        for key in 0..PINGERS {
            let stream = TcpStream::connect(server.tcp)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll.add(&stream, key, system::READABLE)?;
            streams.push(stream);
        }
        Ok(Self {
            epoll,
            streams,
            sent: vec![(Instant::now(), 0); PINGERS],
            next: 0,
            frame: frame(),
            counts: Arc::clone(&server.counts),
            times: Vec::new(),
            turns: Vec::new(),
        })
    }

    fn round(&mut self, burst: usize, bursts: usize, flood: &str) -> io::Result<Figures> {
        self.times.clear();
        self.turns.clear();
        let (started, before) = (Instant::now(), self.counts.of(flood));
        for _ in 0..bursts {
            thread::sleep(PAUSE);
            self.burst(burst)?;
        }
        let mut came = self.counts.of(flood) - before;
        // The server counts the pings as frames, too.
        if flood == "frames" {
            came = came.saturating_sub(self.times.len() as u64);
        }
        Ok(Figures {
            p50: percentile(&mut self.times, 50),
            p99: percentile(&mut self.times, 99),
            turns_p50: percentile(&mut self.turns, 50),
            turns_p99: percentile(&mut self.turns, 99),
            flood_per_second: (came as f64 / started.elapsed().as_secs_f64()) as u64,
        })
    }

    /// Sends `pings` pings, each on the next connection, and waits for their echoes.
    fn burst(&mut self, pings: usize) -> io::Result<()> {
        let mut events = [system::NO_EVENT; 64];
        let (mut to_send, mut missing) = (pings, pings);
        while missing > 0 {
            // Send at most 16 pings before reading echoes, so that no echo waits long to be read.
            for _ in 0..to_send.min(16) {
                let turns = self.counts.turns.load(Relaxed);
                self.sent[self.next] = (Instant::now(), turns);
                self.streams[self.next].write_all(&self.frame)?;
                self.next = (self.next + 1) % PINGERS;
                to_send -= 1;
            }
            let timeout_ms = if to_send > 0 { 0 } else { 10_000 };
            let came = self.epoll.wait(&mut events, timeout_ms)?;
            if came == 0 && to_send == 0 {
                return Err(io::Error::other(format!(
                    "{missing} echoes did not arrive within 10 seconds"
                )));
            }
            for event in &events[..came] {
                let key = event.u64 as usize;
                let mut echo = [0; 68];
                self.streams[key].read_exact(&mut echo)?;
                assert_eq!(echo, self.frame);
                let (sent, turns) = self.sent[key];
                self.times.push(sent.elapsed().as_nanos() as u64);
                self.turns.push(self.counts.turns.load(Relaxed) - turns);
            }
            missing -= came;
        }
        Ok(())
    }
}

fn frame() -> [u8; 68] {
    let mut frame = [7; 68];
    frame[..4].copy_from_slice(&64_u32.to_be_bytes());
    frame
}

/// Threads that flood the server until they are stopped.
struct Flood {
    stop: Arc<AtomicBool>,
    stream: Option<TcpStream>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Flood {
    /// Starts the flood, and waits until the server receives it. Returns `None` for `quiet`.
    fn start(name: &str, server: &Server, core: Option<usize>) -> io::Result<Option<Self>> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = {
            let stop = Arc::clone(&stop);
            move || stop.load(Relaxed)
        };
        let (tcp, udp, tls_addr) = (server.tcp, server.udp, server.tls);
        let before = server.counts.of(name);
        let mut stream = None;
        let threads = match name {
            "frames" => {
                let mut writer = TcpStream::connect(tcp)?;
                let mut reader = writer.try_clone()?;
                stream = Some(writer.try_clone()?);
                let frames = frame().repeat(1_000);
                let write = in_background(core, move || {
                    while writer.write_all(&frames).is_ok() {}
                    Ok(())
                });
                let mut buffer = vec![0; 1 << 18];
                let read = in_background(core, move || {
                    while reader.read(&mut buffer).is_ok_and(|len| len > 0) {}
                    Ok(())
                });
                vec![write, read]
            }
            "datagrams" => {
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                vec![in_background(core, move || {
                    while !stopped() {
                        socket.send_to(&[7; 64], udp)?;
                    }
                    Ok(())
                })]
            }
            "connects" => vec![in_background(core, move || {
                while !stopped() {
                    let stream = TcpStream::connect(tcp)?;
                    // Close with a reset. Otherwise each port stays in TIME_WAIT after its
                    // connection, and soon no port is free.
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                }
                Ok(())
            })],
            "handshakes" => {
                let config = tls::client_config()?;
                vec![in_background(core, move || {
                    let mut next = Instant::now();
                    while !stopped() {
                        handshake(tls_addr, &config)?;
                        next += HANDSHAKE_PERIOD;
                        thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                    Ok(())
                })]
            }
            _ => return Ok(None),
        };
        while server.counts.of(name) < before + FLOOD_MIN {
            if threads.iter().any(JoinHandle::is_finished) {
                break;
            }
            thread::sleep(PAUSE);
        }
        Ok(Some(Self {
            stop,
            stream,
            threads,
        }))
    }

    fn stop(self) -> io::Result<()> {
        self.stop.store(true, Relaxed);
        if let Some(stream) = self.stream {
            stream.shutdown(Shutdown::Both)?;
        }
        self.threads.into_iter().try_for_each(join)
    }
}

/// Connects, completes a full handshake, and resets the connection.
fn handshake(server: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let session = ClientConnection::new(config.clone(), name);
    let mut session = session.map_err(io::Error::other)?;
    while session.is_handshaking() || session.wants_write() {
        session.complete_io(&mut stream)?;
    }
    // If the client resets the connection too early, the handshake of the server fails. The server
    // sends its tickets after the handshake, so wait for the tickets.
    session.read_tls(&mut stream)?;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

/// Starts a thread on a core, with the lowest priority.
fn in_background(
    core: Option<usize>,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> JoinHandle<io::Result<()>> {
    thread::spawn(move || {
        if let Some(core) = core {
            system::pin(core)?;
        }
        system::give_way()?;
        work()
    })
}
