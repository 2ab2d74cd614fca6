//! TLS with clients and servers that are not built on rustls.
//!
//! `tests/tls_interop/run` installs the peers and runs these tests. They are ignored otherwise,
//! because they need programs that a fresh machine may lack. A peer that is missing is skipped with
//! a message.

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod servers;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::tls::Authority;
use rustls::ServerConfig;
use unstick::{
    Closed, ConnId, Context, Framing, Handler, ListenOptions, Origin, Reactor, TlsVersion,
};

/// Default time limit of a peer.
const PEER_LIMIT: Duration = Duration::from_secs(120);

/// A session that opened.
#[derive(Debug)]
struct Session {
    version: TlsVersion,
    is_resumed: bool,
    /// Number of certificates of the peer.
    certificates: usize,
}

/// A handler of a server or client that exchanges lines. It records its sessions. A server echoes
/// lines without a space, closes at the line `quit`, and replies to the empty line at the end of an
/// HTTP request.
#[derive(Debug, Default)]
struct Lines {
    sessions: Vec<Session>,
    lines: Vec<String>,
    reasons: Vec<String>,
    /// True if the handler is a client: it sends `hello` and closes after the first reply.
    is_client: bool,
}

impl Handler for Lines {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        let tls = cx.tls(conn).expect("every connection uses TLS");
        self.sessions.push(Session {
            version: tls.version(),
            is_resumed: tls.is_resumed(),
            certificates: tls.peer_certificates().count(),
        });
        if self.is_client {
            let _ = cx.send(conn, b"hello");
        }
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), line: &[u8]) {
        let line = String::from_utf8_lossy(line).trim_end().to_owned();
        if line.is_empty() {
            for line in ["HTTP/1.1 200 OK", "Content-Length: 6", "", "hello"] {
                let _ = cx.send(conn, line.as_bytes());
            }
            cx.close(conn);
        } else if self.is_client || line == "quit" {
            cx.close(conn);
        } else if !line.contains(' ') {
            let _ = cx.send(conn, line.as_bytes());
        }
        self.lines.push(line);
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        self.reasons.push(closed.reason.to_string());
    }
}

/// A reactor with a folder for the files of the peers.
struct Rig {
    reactor: Reactor<Lines>,
    folder: PathBuf,
    /// Time limit of a peer. Only a peer that hangs reaches it.
    peer_limit: Duration,
}

impl Rig {
    /// Creates a rig. `test` is a name that no other test uses.
    fn new(test: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
        fs::create_dir_all(&folder).expect("the folder is created");
        let reactor = Reactor::new(Lines::default()).expect("the reactor is created");
        let rig = Self {
            reactor,
            folder,
            peer_limit: PEER_LIMIT,
        };
        rig.write("authority.pem", &Authority::trusted().pem());
        rig
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("the file is written");
        path
    }

    /// Writes a certificate for `localhost` and its key, and returns the paths.
    fn write_identity(&self, authority: &Authority, expires: i32) -> [PathBuf; 2] {
        let [certificate, key] = authority.issue_pem("localhost", expires);
        [
            self.write("identity.pem", &certificate),
            self.write("identity.key", &key),
        ]
    }

    fn listen(&mut self, config: ServerConfig) -> SocketAddr {
        let options = ListenOptions::new().tls(Arc::new(config));
        let listener = self
            .reactor
            .with(|_, cx| cx.listen_with("127.0.0.1:0", Framing::line(), &options))
            .expect("a free port is available");
        let addr = self.reactor.local_inet_addr(listener);
        addr.expect("a bound listener has an address")
    }

    /// Runs turns until the peer ends and all connections are closed. Returns the output of the
    /// peer.
    fn run(&mut self, command: &mut Command, input: &str) -> String {
        let mut peer = start(command);
        // The input stays open until the peer ends.
        let mut stdin = peer.stdin.take().expect("the input is piped");
        let _ = stdin.write_all(input.as_bytes());
        let deadline = Instant::now() + self.peer_limit;
        while peer.try_wait().expect("the peer is a child").is_none() {
            self.turn();
            if Instant::now() >= deadline {
                let _ = peer.kill();
                panic!("{command:?} did not end: {}", text(peer.wait_with_output()));
            }
        }
        let deadline = Instant::now() + PEER_LIMIT;
        while self.reactor.stats().connections > 0 {
            self.turn();
            assert!(Instant::now() < deadline, "a connection was not closed");
        }
        text(peer.wait_with_output())
    }

    fn turn(&mut self) {
        let turned = self.reactor.turn(Some(Duration::from_millis(10)));
        turned.expect("polling succeeds");
    }

    /// Returns the records so far, and starts new ones.
    fn take(&mut self) -> Lines {
        let lines = self.reactor.handler_mut();
        let is_client = lines.is_client;
        std::mem::replace(
            lines,
            Lines {
                is_client,
                ..Lines::default()
            },
        )
    }
}

fn start(command: &mut Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let spawned = command.spawn();
    spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Returns the standard output and the standard error of a peer.
fn text(output: std::io::Result<Output>) -> String {
    let output = output.expect("the output is read");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Returns true if a program is installed; prints a message if not.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        println!("SKIPPED: {program} is not installed");
    }
    found
}

/// Returns the path of a file of this test.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/tls_interop")
        .join(name)
}
