//! Memory of an idle connection, in a server with 19,000 connections, or with as many connections
//! as the limits of the system allow.
//!
//! ```text
//! cargo bench --bench idle
//! ```
//!
//! The server is a separate process, so the memory of the clients is not counted. The benchmark
//! prints the growth of the server's anonymous resident memory per connection: after each
//! connection has echoed an empty frame, and after each has echoed a frame of 64 bytes. Kernel
//! memory of the sockets is not included.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitCode, Stdio};

use unstick::{ConnId, Context, Framing, Handler, Reactor};

/// Maximum number of connections; chosen for a limit of 20,000 descriptors per process.
const CONNECTIONS: usize = 19_000;
/// Descriptors reserved for everything that is not a connection.
const SPARE_DESCRIPTORS: usize = 200;
/// Maximum memory per connection in bytes. Above it, the benchmark fails.
const BYTES_MAX: usize = 200;
/// Minimum number of connections for which `BYTES_MAX` is checked. With fewer connections, partly
/// used memory pages and one-time allocations dominate the result.
const JUDGED_MIN: usize = 4000;
/// Environment variable that makes this process the server.
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
        None => measure(if is_test { 100 } else { connections_allowed() }),
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

/// Returns the number of connections that the system's limits allow, at most `CONNECTIONS`. A
/// client beyond these limits would wait for ever.
fn connections_allowed() -> usize {
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
    let allowed = descriptors.min(ports).saturating_sub(SPARE_DESCRIPTORS);
    if allowed < CONNECTIONS {
        println!("the system allows {descriptors} descriptors and {ports} local ports");
    }
    allowed.clamp(1, CONNECTIONS)
}

fn serve() -> Result<(), Box<dyn Error>> {
    let mut reactor = Reactor::new(Echo)?;
    let listener = reactor.listen("127.0.0.1:0", Framing::length_u32())?;
    println!("{}", reactor.local_inet_addr(listener)?);
    reactor.run()?;
    Ok(())
}

/// Prints the memory per connection. Returns false if it exceeds `BYTES_MAX` with at least
/// `JUDGED_MIN` connections.
fn measure(connections: usize) -> Result<bool, Box<dyn Error>> {
    let server = Server::start()?;
    if server.resident_bytes().is_err() {
        println!("skipped: the memory of the server cannot be read from /proc");
        return Ok(true);
    }
    // Open one connection before the memory is measured, so that one-time allocations are not
    // counted.
    let mut clients = vec![server.connect()?];
    let before = server.resident_bytes()?;
    for _ in 0..connections {
        let client = server.connect();
        clients.push(client.map_err(|error| {
            format!(
                "cannot open a connection after the first {}: {error}",
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
    println!("{connections} connections, bytes of user memory per connection:");
    println!("  {:>4}  after it is opened", each(opened));
    println!(
        "  {:>4}  after it has echoed one frame of 64 bytes",
        each(echoed)
    );
    Ok(connections < JUDGED_MIN || each(echoed) <= BYTES_MAX)
}

/// The server process; killed on drop.
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
        let stdout = child
            .stdout
            .take()
            .ok_or("the server's standard output is not piped")?;
        let mut addr = String::new();
        BufReader::new(stdout).read_line(&mut addr)?;
        Ok(Self {
            child,
            addr: addr.trim_end().to_owned(),
        })
    }

    /// Connects and waits for the echo of an empty frame. So the server has accepted the connection
    /// when this function returns.
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
                .ok_or("/proc/PID/status has no RssAnon line")?
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
