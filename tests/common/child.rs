//! Examples, each as a process of its own.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part of this"
)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

/// A running echo server. It is killed when it is dropped.
pub struct Echo {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// The addresses that it says it listens on, in the order of `--tcp`, `--udp`.
    pub addrs: Vec<SocketAddr>,
}

impl Echo {
    /// Starts it, and waits until it listens. Its log goes to `log`, where one is named.
    ///
    /// # Errors
    ///
    /// It ended before it listened: an address was taken, for example.
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
        let stdout = child.stdout.take().expect("it was asked for");
        let mut echo = Self {
            child,
            stdout: BufReader::new(stdout),
            addrs: Vec::new(),
        };
        let wanted = args.iter().filter(|arg| ["--tcp", "--udp"].contains(arg));
        for _ in wanted {
            let mut line = String::new();
            echo.stdout.read_line(&mut line)?;
            let addr = line.split_whitespace().nth(2);
            let addr = addr.and_then(|addr| addr.parse().ok());
            echo.addrs
                .push(addr.ok_or_else(|| io::Error::other(format!("it said {line:?}")))?);
        }
        Ok(echo)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many descriptors it has open (`/proc`, so on Linux only).
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("it runs")
            .count()
    }

    /// Asks it to end, and gives what it prints about itself.
    pub fn end(mut self) -> String {
        let killed = Command::new("kill")
            .args(["-TERM", &self.pid().to_string()])
            .status()
            .expect("there is a kill command");
        assert!(killed.success(), "it still runs");
        let mut totals = String::new();
        self.stdout
            .read_to_string(&mut totals)
            .expect("it prints text");
        let status = self.child.wait().expect("it is a child of this process");
        assert!(status.success(), "it ended with {status}");
        totals
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It has ended already, or it is ended here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn echo() -> &'static Path {
    static ECHO: OnceLock<PathBuf> = OnceLock::new();
    ECHO.get_or_init(|| example("echo"))
}

/// An example, built by the profile of this test. `cargo test` builds it too, but neither
/// `cargo test --test NAME` nor `cargo test --all-targets` does.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let in_target = |nth| test.ancestors().nth(nth).expect("target/PROFILE/deps/NAME");
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
        assert!(built.is_ok_and(|status| status.success()), "it compiles");
    }
    in_target(2).join("examples").join(name)
}
