//! What an idle connection costs in memory: a server with as many as the descriptor limit allows.
//!
//! ```text
//! cargo bench --bench idle
//! ```
//!
//! The server is a process of its own, so that its clients are not counted. What is told is the
//! growth of its anonymous resident memory by each connection: after they were opened, and after
//! each has echoed a frame. The kernel's own memory for sockets is not in it.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitCode, Stdio};

use unstick::{ConnId, Context, Framing, Handler, Reactor};

/// As many as fit into a limit of 20,000 descriptors, with some to spare.
const CONNECTIONS: usize = 19_000;
/// Descriptors that are left for all that is no connection.
const SPARE_DESCRIPTORS: usize = 200;
/// More than this for one of them fails the benchmark.
const BYTES_MAX: usize = 200;
/// With fewer, pages and what is made once weigh too much for that.
const JUDGED_MIN: usize = 4000;
/// Tells the process that it is the server.
const SERVER_VARIABLE: &str = "UNSTICK_IDLE_SERVER";

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        let _ = cx.send(conn, frame);
    }
}

fn main() -> ExitCode {
    let is_test = std::env::args().any(|arg| arg == "--test");
    let result = match std::env::var_os(SERVER_VARIABLE) {
        Some(_) => serve().map(|()| true),
        None => measure(if is_test { 100 } else { possible() }),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("idle: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How many connections the limits of the system allow; beyond them a client would wait for ever.
fn possible() -> usize {
    let number = |path: &str, find: fn(&str) -> Option<usize>| {
        let text = std::fs::read_to_string(path).ok();
        text.and_then(|text| find(&text)).unwrap_or(usize::MAX)
    };
    let descriptors = number("/proc/self/limits", |limits| {
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        line?.split_whitespace().next()?.parse().ok()
    });
    let ports = number("/proc/sys/net/ipv4/ip_local_port_range", |range| {
        let (first, last) = range.trim().split_once(char::is_whitespace)?;
        let (first, last): (usize, usize) = (first.parse().ok()?, last.trim().parse().ok()?);
        Some(last.saturating_sub(first))
    });
    let possible = descriptors.min(ports).saturating_sub(SPARE_DESCRIPTORS);
    if possible < CONNECTIONS {
        println!("the limits are {descriptors} descriptors and {ports} local ports");
    }
    possible.clamp(1, CONNECTIONS)
}

fn serve() -> Result<(), Box<dyn Error>> {
    let mut reactor = Reactor::new(Echo)?;
    let listener = reactor.listen("127.0.0.1:0", Framing::length_u32())?;
    println!("{}", reactor.local_inet_addr(listener)?);
    reactor.run()?;
    Ok(())
}

/// Answers whether a connection cost no more than it may.
fn measure(connections: usize) -> Result<bool, Box<dyn Error>> {
    let server = Server::start()?;
    if server.resident_bytes().is_err() {
        println!("skipped: there is no /proc here to read a process's memory from");
        return Ok(true);
    }
    // One connection before the first look: what is made once is not a connection's cost.
    let mut clients = vec![server.connect()?];
    let before = server.resident_bytes()?;
    for _ in 0..connections {
        let client = server.connect();
        clients.push(client.map_err(|error| {
            format!(
                "{} connections are open, the next one fails: {error}",
                clients.len()
            )
        })?);
    }
    let opened = server.resident_bytes()?;
    for client in &mut clients {
        round_trip(client)?;
    }
    let echoed = server.resident_bytes()?;

    let each = |after: usize| after.saturating_sub(before) / connections;
    println!("{connections} connections, bytes of user memory for each:");
    println!("  {:>4}  when it is open", each(opened));
    println!(
        "  {:>4}  when it has echoed a frame of 64 bytes, and idles",
        each(echoed)
    );
    Ok(connections < JUDGED_MIN || each(echoed) <= BYTES_MAX)
}

/// The server's process; ended when it is dropped.
struct Server {
    child: Child,
    addr: String,
}

impl Server {
    fn start() -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(SERVER_VARIABLE, "1")
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the server's output is piped")?;
        let mut addr = String::new();
        BufReader::new(stdout).read_line(&mut addr)?;
        Ok(Self {
            child,
            addr: addr.trim_end().to_owned(),
        })
    }

    /// Connects, and waits until the connection stands in the server: an empty frame is echoed.
    fn connect(&self) -> std::io::Result<TcpStream> {
        let mut client = TcpStream::connect(&self.addr)?;
        client.set_nodelay(true)?;
        client.write_all(&[0; 4])?;
        client.read_exact(&mut [0; 4])?;
        Ok(client)
    }

    fn resident_bytes(&self) -> Result<usize, Box<dyn Error>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(1024
            * kilobytes
                .ok_or("the kernel tells of anonymous memory")?
                .parse::<usize>()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn round_trip(client: &mut TcpStream) -> std::io::Result<()> {
    let mut frame = [7; 68];
    frame[..4].copy_from_slice(&64_u32.to_be_bytes());
    client.write_all(&frame)?;
    client.read_exact(&mut [0; 68])
}
