//! The examples `resp` and `proxy` beside Redis and HAProxy, loaded by `redis-benchmark`.
//!
//! ```text
//! cargo bench --manifest-path benches/peers/Cargo.toml --bench redis
//! ```
//!
//! Needs the Debian packages `redis-server`, `redis-tools` and `haproxy`; a missing program is
//! reported, and its part is skipped. In each round, both servers of a pair are loaded one after
//! the other, in alternating order. The CPU time of a server is the time that the scheduler counts
//! for its process, divided by the number of requests. The pair `proxy` forwards to Redis, and only
//! the CPU time of the proxy is counted. HAProxy runs with one thread.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Numbers of requests that a client sends before it waits for replies.
const DEPTHS: [u32; 3] = [1, 16, 64];
const CLIENTS: &str = "50";
const ROUNDS: usize = 7;
/// Number of requests in a round, for each depth.
const REQUESTS: [u32; 3] = [50_000, 200_000, 400_000];

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A server process, which ends when this value is dropped.
struct Server {
    name: &'static str,
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both calls fail only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a foreign server at a port, and waits until it listens.
    fn start(name: &'static str, port: u16, command: &mut Command) -> Outcome<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let server = Self { name, child, port };
        for _ in 0..1000 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(server);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(format!("{name} does not listen").into())
    }

    /// Starts an example of the library. The example prints its address.
    fn example(name: &'static str, folder: &Path, arguments: &[&str]) -> Outcome<Self> {
        let mut command = Command::new(folder.join(name));
        command.args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or("the output is not a pipe")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let port = line.trim().rsplit(':').next().unwrap_or_default().parse();
        let port = port.map_err(|_| format!("{name} printed {line:?}"))?;
        Ok(Self { name, child, port })
    }

    fn redis() -> Outcome<Self> {
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no"]);
        Self::start("redis-server", port, &mut command)
    }

    fn haproxy(upstream: u16) -> Outcome<Self> {
        let port = free_port()?;
        let path = std::env::temp_dir().join(format!("unstick-haproxy-{port}.cfg"));
        let text = format!(
            "global\n  nbthread 1\n  maxconn 2000\ndefaults\n  mode tcp\n  timeout connect 10s\n  \
             timeout client 60s\n  timeout server 60s\nlisten all\n  bind 127.0.0.1:{port}\n  \
             server redis 127.0.0.1:{upstream}\n"
        );
        fs::write(&path, text)?;
        let mut command = Command::new("haproxy");
        command
            .arg("-db")
            .arg("-f")
            .arg(&path)
            .stderr(Stdio::null());
        let started = Self::start("haproxy", port, &mut command);
        fs::remove_file(&path)?;
        started
    }

    /// Returns the CPU time of all threads so far, in nanoseconds: the first number of `schedstat`
    /// (`Documentation/scheduler/sched-stats.rst` in the kernel's sources).
    fn cpu_nanos(&self) -> Outcome<f64> {
        let mut sum = 0.0;
        for entry in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(entry?.path().join("schedstat"))?;
            let nanos = text.split(' ').next().unwrap_or_default();
            sum += nanos.parse::<f64>()?;
        }
        Ok(sum)
    }

    /// Sets the key that the load reads. Without `-r`, `redis-benchmark` uses a single key.
    fn fill(&self) -> Outcome<()> {
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &self.port.to_string(), "-t", "set", "-P", "64", "-q"]);
        command.args(["-n", "1000"]).stdout(Stdio::null());
        match command.stderr(Stdio::null()).status()?.success() {
            true => Ok(()),
            false => Err(format!("{} cannot be filled", self.name).into()),
        }
    }

    /// Loads the server. Returns the CPU time per request in microseconds, and the p99 of the
    /// latency in milliseconds.
    fn load(&self, depth: u32, requests: u32) -> Outcome<[f64; 2]> {
        let before = self.cpu_nanos()?;
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &self.port.to_string(), "-c", CLIENTS, "-t", "get"]);
        command.args(["-P", &depth.to_string(), "-n", &requests.to_string()]);
        command.arg("--csv").stderr(Stdio::null());
        let output = String::from_utf8(command.output()?.stdout)?;
        let cpu = (self.cpu_nanos()? - before) / f64::from(requests) / 1000.0;
        // The columns: test, requests per second, average, minimum, p50, p95, p99, maximum.
        let line = output.lines().find(|line| line.starts_with("\"GET\""));
        let p99 = line
            .and_then(|line| line.split(',').nth(6))
            .unwrap_or_default();
        let p99 = p99.trim_matches('"').parse();
        let p99 = p99.map_err(|_| format!("redis-benchmark printed {output:?}"))?;
        Ok([cpu, p99])
    }
}

fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn exists(program: &str) -> bool {
    let mut command = Command::new(program);
    command
        .arg("-v")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Loads two servers in alternating order, and prints a row for each depth.
fn compare(peer: &Server, own: &Server, is_test: bool) -> Outcome<()> {
    println!(
        "\n{} (CPU in us per request) beside {}:",
        own.name, peer.name
    );
    println!(
        "| depth | CPU {} | CPU {} | ratio | p99 {0} | p99 {1} |",
        peer.name, own.name
    );
    println!("|---:|---:|---:|---:|---:|---:|");
    for (depth, requests) in DEPTHS.into_iter().zip(REQUESTS) {
        let (rounds, requests) = if is_test {
            (1, 1000)
        } else {
            (ROUNDS, requests)
        };
        let (mut peers, mut owns) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            if round % 2 == 0 {
                peers.push(peer.load(depth, requests)?);
            }
            owns.push(own.load(depth, requests)?);
            if round % 2 == 1 {
                peers.push(peer.load(depth, requests)?);
            }
        }
        let of = |loads: &[[f64; 2]], at: usize| median(loads.iter().map(|it| it[at]).collect());
        let ratios = owns.iter().zip(&peers).map(|(own, peer)| own[0] / peer[0]);
        println!(
            "| {depth} | {:.2} | {:.2} | {:.2} | {:.2} ms | {:.2} ms |",
            of(&peers, 0),
            of(&owns, 0),
            median(ratios.collect()),
            of(&peers, 1),
            of(&owns, 1),
        );
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let is_test = std::env::args().any(|argument| argument == "--test");
    for program in ["redis-server", "redis-benchmark"] {
        if !exists(program) {
            eprintln!("SKIPPED: {program} is not installed");
            return Ok(());
        }
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = root.join("target");
    let mut build = Command::new("cargo");
    build.args([
        "build",
        "--release",
        "--quiet",
        "--example",
        "resp",
        "--example",
        "proxy",
    ]);
    build.arg("--target-dir").arg(&target).current_dir(&root);
    if !build.status()?.success() {
        return Err("the examples cannot be built".into());
    }
    let folder = target.join("release/examples");

    let redis = Server::redis()?;
    let resp = Server::example("resp", &folder, &["--listen", "127.0.0.1:0"])?;
    for server in [&redis, &resp] {
        server.fill()?;
    }
    compare(&redis, &resp, is_test)?;
    if !exists("haproxy") {
        eprintln!("SKIPPED: haproxy is not installed");
        return Ok(());
    }
    let haproxy = Server::haproxy(redis.port)?;
    let upstream = format!("127.0.0.1:{}", redis.port);
    let proxy = Server::example("proxy", &folder, &["127.0.0.1:0", &upstream])?;
    compare(&haproxy, &proxy, is_test)
}
