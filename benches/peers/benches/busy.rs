//! Ping-pong with servers that never sleep: `Config::busy_poll`, compared with a hand-written busy
//! epoll loop.
//!
//! ```text
//! cargo bench --manifest-path benches/peers/Cargo.toml --bench busy
//! ```
//!
//! One connection sends one frame of 64 bytes at a time. The client does not sleep either, so the
//! figures of the busy servers contain no wake-up by the kernel. Two servers that sleep (`epoll`,
//! `unstick`) show the cost of the wake-ups. The benchmark needs two free processors. Each server
//! runs in its own process. In each round, the servers are measured one after the other. Each
//! figure is the median over all rounds.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 15;
const ROUND_TRIPS: usize = 20_000;
const SERVERS: [&str; 4] = ["epoll-busy", "unstick-busy", "epoll", "unstick"];

fn main() -> io::Result<()> {
    let is_test = std::env::args().any(|arg| arg == "--test");
    let (rounds, round_trips) = if is_test {
        (1, 100)
    } else {
        (ROUNDS, ROUND_TRIPS)
    };
    let mut figures = SERVERS.map(|_| Vec::new());
    for _ in 0..rounds {
        for (server, figures) in SERVERS.iter().zip(&mut figures) {
            figures.push(Server::start(server)?.ping_pong(round_trips)?);
        }
    }
    println!(
        "round-trip times in nanoseconds (in parentheses: ratio to {}):",
        SERVERS[0]
    );
    let median = |figures: &[[u64; 2]], which: usize| {
        let mut figures: Vec<_> = figures.iter().map(|figure| figure[which]).collect();
        figures.sort_unstable();
        figures[figures.len() / 2]
    };
    let reference = [0, 1].map(|which| median(&figures[0], which));
    for (server, figures) in SERVERS.iter().zip(&figures) {
        let [p50, p99] = [0, 1].map(|which| median(figures, which));
        println!(
            "{server:<14} p50 {p50:>7} ({:.3})   p99 {p99:>7} ({:.3})",
            p50 as f64 / reference[0] as f64,
            p99 as f64 / reference[1] as f64
        );
    }
    Ok(())
}

/// A server in its own process. Dropping this value kills the process.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(name: &str) -> io::Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_peers"))
            .args(["serve", name])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or(ErrorKind::BrokenPipe)?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let port = line.trim().strip_prefix("port ");
        let port = port.and_then(|port| port.parse().ok());
        let unexpected = || format!("the server printed {line:?} instead of `port N`");
        let port = port.ok_or_else(|| io::Error::other(unexpected()))?;
        Ok(Self { child, port })
    }

    /// Measures round trips. Returns the median and the 99th percentile, in nanoseconds.
    fn ping_pong(&self, round_trips: usize) -> io::Result<[u64; 2]> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut frame = [7; 68];
        frame[..4].copy_from_slice(&64_u32.to_be_bytes());
        let mut times = Vec::with_capacity(round_trips);
        for _ in 0..round_trips {
            let started = Instant::now();
            stream.write_all(&frame)?;
            let mut echo = [0; 68];
            let mut len = 0;
            while len < echo.len() {
                match stream.read(&mut echo[len..]) {
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(read) => len += read,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            assert_eq!(echo, frame);
            times.push(started.elapsed().as_nanos() as u64);
        }
        times.sort_unstable();
        Ok([times[times.len() / 2], times[times.len() * 99 / 100]])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
