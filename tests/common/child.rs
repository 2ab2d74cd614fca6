//! Example programs, run as child processes.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses only some of these helpers"
)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

/// A running echo server, killed when this value is dropped.
pub struct Echo {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// Addresses that the server prints, in the order of the `--tcp` and `--udp` arguments.
    pub addrs: Vec<SocketAddr>,
}

impl Echo {
    /// Starts the server and waits until it listens. If `log` is a path, the server's log is
    /// written to that file.
    ///
    /// # Errors
    ///
    /// Fails if the server ends before it listens, for example because an address is in use.
    pub fn start(args: &[&str], env: &[(&str, &str)], log: Option<&Path>) -> io::Result<Self> {
        let stderr = match log {
            Some(log) => File::create(log)?.into(),
            None => Stdio::inherit(),
        };
        let mut child = Command::new(echo())
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut echo = Self {
            child,
            stdout: BufReader::new(stdout),
            addrs: Vec::new(),
        };
        let socket_args = args.iter().filter(|arg| ["--tcp", "--udp"].contains(arg));
        for _ in socket_args {
            let mut line = String::new();
            echo.stdout.read_line(&mut line)?;
            let addr = line.split_whitespace().nth(2);
            let addr = addr.and_then(|addr| addr.parse().ok());
            echo.addrs.push(addr.ok_or_else(|| {
                io::Error::other(format!("expected a line with an address, got {line:?}"))
            })?);
        }
        Ok(echo)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the number of open descriptors of the server (Linux only, from `/proc`).
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("the server runs")
            .count()
    }

    /// Ends the server with SIGTERM and returns its remaining output.
    pub fn end(mut self) -> String {
        let killed = Command::new("kill")
            .args(["-TERM", &self.pid().to_string()])
            .status()
            .expect("the kill command can be started");
        assert!(
            killed.success(),
            "the kill command could not send SIGTERM to the server"
        );
        let mut totals = String::new();
        self.stdout
            .read_to_string(&mut totals)
            .expect("the output is UTF-8");
        let status = self
            .child
            .wait()
            .expect("the process is a child of this one");
        assert!(status.success(), "the server ended with {status}");
        totals
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Both calls do nothing after `end`, because it has waited for the child already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running proxy, killed when this value is dropped.
pub struct Proxy {
    child: Child,
    pub addr: SocketAddr,
}

impl Proxy {
    pub fn start(upstream: SocketAddr) -> Self {
        let mut child = Command::new(example("proxy"))
            .args(["127.0.0.1:0", &upstream.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the proxy example starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        read.expect("the proxy prints its address");
        let addr = line
            .split_whitespace()
            .nth(2)
            .expect("the third word is the address");
        let addr = addr.parse().expect("the address is valid");
        Self { child, addr }
    }

    /// Anonymous resident memory in bytes (`RssAnon` in proc_pid_status(5)).
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the proxy runs");
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
        1024 * kilobytes
            .expect("Linux reports RssAnon")
            .parse::<usize>()
            .expect("the text is a number")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn echo() -> &'static Path {
    static ECHO: OnceLock<PathBuf> = OnceLock::new();
    ECHO.get_or_init(|| example("echo"))
}

/// Returns the path of an example's executable. If cargo runs this test, builds the example first,
/// with the profile of this test.
///
/// The build is necessary because `cargo test --test NAME` and `cargo test --all-targets` do not
/// produce this executable. `cargo test` does.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its executable");
    let in_target = |nth| {
        test.ancestors()
            .nth(nth)
            .expect("the test is in target/PROFILE/deps")
    };
    let profile = match in_target(2).file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    if let Some(cargo) = std::env::var_os("CARGO") {
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--example", name, "--profile", profile])
            .args([
                "--manifest-path",
                concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
            ])
            .arg("--target-dir")
            .arg(in_target(3))
            .status();
        assert!(
            built.is_ok_and(|status| status.success()),
            "the example {name} does not compile"
        );
    }
    in_target(2).join("examples").join(name)
}
