//! The proxy example between a fast sender and a slow reader: every byte arrives, and the proxy
//! holds next to nothing of them.

#![cfg(target_os = "linux")]

#[path = "common/child.rs"]
mod child;
mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{DEADLINE, client};

/// A gigabyte; but 100 MB where nothing is optimised.
const LEN: usize = if cfg!(debug_assertions) {
    100_000_000
} else {
    1_000_000_000
};
/// Not a multiple of any buffer's length.
const BLOCK_LEN: usize = 65_521;
/// How much more memory the proxy may have than before, in bytes.
const GROWTH_MAX: usize = 2_000_000;

struct Proxy {
    child: Child,
    addr: SocketAddr,
}

impl Proxy {
    fn start(upstream: SocketAddr) -> Self {
        let mut child = Command::new(child::example("proxy"))
            .args(["127.0.0.1:0", &upstream.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stdout = child.stdout.take().expect("it was asked for");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        read.expect("it says where it listens");
        let addr = line.split_whitespace().nth(2).expect("the address");
        let addr = addr.parse().expect("an address");
        Self { child, addr }
    }

    /// The memory that no file backs, in bytes, from proc_pid_status(5).
    fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
        1024 * kilobytes
            .expect("Linux tells")
            .parse::<usize>()
            .expect("a number")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The blocks that the stream is made of: each begins with its number.
fn block(number: usize, bytes: &mut [u8]) -> &[u8] {
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    bytes
}

fn pattern() -> Vec<u8> {
    common::Random(7).bytes(BLOCK_LEN)
}

fn send_all(mut stream: TcpStream, sent: &AtomicUsize) -> TcpStream {
    let mut bytes = pattern();
    for number in 0..LEN / BLOCK_LEN {
        stream
            .write_all(block(number, &mut bytes))
            .expect("the proxy takes it");
        sent.fetch_add(BLOCK_LEN, Ordering::Relaxed);
    }
    stream.shutdown(Shutdown::Write).expect("it is connected");
    stream
}

#[test]
fn a_slow_reader_behind_the_proxy_gets_every_byte_and_the_proxy_holds_few() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let proxy = Proxy::start(listener.local_addr().expect("it is bound"));
    let fast = client(proxy.addr);
    let (mut slow, _) = listener.accept().expect("the proxy connects");
    slow.set_read_timeout(Some(DEADLINE))
        .expect("it can be set");
    let options = socket2::SockRef::from(&slow);
    options
        .set_recv_buffer_size(32 * 1024)
        .expect("it can be set");
    let base = proxy.memory();

    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let sender = thread::spawn(move || send_all(fast, &counter));
    let (mut expected, mut bytes) = (pattern(), vec![0; BLOCK_LEN]);
    let (mut highest, mut lead) = (base, 0);
    for number in 0..LEN / BLOCK_LEN {
        // What the sender is ahead by lies in two kernels' buffers and in the proxy.
        let ahead = sent.load(Ordering::Relaxed);
        lead = lead.max(ahead.saturating_sub(number * BLOCK_LEN));
        highest = highest.max(proxy.memory());
        slow.read_exact(&mut bytes).expect("it comes");
        assert!(bytes == block(number, &mut expected), "block {number}");
    }
    assert_eq!(slow.read(&mut bytes).expect("the end comes"), 0);
    slow.write_all(b"all of it").expect("the proxy takes it");
    drop(slow);
    let mut answer = Vec::new();
    let mut fast = sender.join().expect("it has sent all");
    fast.read_to_end(&mut answer).expect("the answer comes");
    assert_eq!(answer, b"all of it");

    assert!(lead > 500_000, "the reader was not slow: {lead}");
    let growth = highest.saturating_sub(base);
    println!("{LEN} bytes; the sender was ahead by {lead}; the proxy grew by {growth}");
    assert!(growth < GROWTH_MAX, "the proxy grew by {growth} bytes");
}
