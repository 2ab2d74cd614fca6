//! The proxy example between a fast sender and a slow reader: every byte arrives, and the memory of
//! the proxy grows by less than 3.5 MB.

#![cfg(target_os = "linux")]

#[path = "common/child.rs"]
mod child;
mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use child::Proxy;
use common::{DEADLINE, client};

/// Bytes to send, rounded down to whole blocks: 1 GB, or 100 MB in a debug build.
const LEN: usize = if cfg!(debug_assertions) {
    100_000_000
} else {
    1_000_000_000
};
/// Length of one block; not a multiple of any buffer's length.
const BLOCK_LEN: usize = 65_521;
/// Maximum growth of the proxy's memory, in bytes. By default the pool keeps 1 MiB. The write queue
/// holds up to its high watermark and one read, 520 KiB, in buffers of up to twice that size. The
/// read buffer has 260 KiB and the batch buffer 512 KiB. The sum is 2.9 MB, and 0.6 MB more are for
/// the allocator.
const GROWTH_MAX: usize = 3_500_000;

/// Writes the block's number into the first eight bytes. The other bytes are equal in all blocks.
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
            .expect("the proxy reads");
        sent.fetch_add(BLOCK_LEN, Ordering::Relaxed);
    }
    stream
        .shutdown(Shutdown::Write)
        .expect("the connection is open");
    stream
}

#[test]
fn proxy_delivers_to_a_slow_reader_in_bounded_memory() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let proxy = Proxy::start(listener.local_addr().expect("the socket is bound"));
    let fast = client(proxy.addr);
    let (mut slow, _) = listener.accept().expect("the proxy connects");
    slow.set_read_timeout(Some(DEADLINE))
        .expect("the timeout can be set");
    let options = socket2::SockRef::from(&slow);
    options
        .set_recv_buffer_size(32 * 1024)
        .expect("the buffer size can be set");
    let base = proxy.memory();

    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let sender = thread::spawn(move || send_all(fast, &counter));
    let (mut expected, mut bytes) = (pattern(), vec![0; BLOCK_LEN]);
    let (mut highest, mut lead) = (base, 0);
    for number in 0..LEN / BLOCK_LEN {
        // Measure the lead of the sender over the reader. These bytes are in kernel buffers and in
        // the proxy.
        let ahead = sent.load(Ordering::Relaxed);
        lead = lead.max(ahead.saturating_sub(number * BLOCK_LEN));
        highest = highest.max(proxy.memory());
        slow.read_exact(&mut bytes).expect("the next block arrives");
        assert!(bytes == block(number, &mut expected), "block {number}");
    }
    assert_eq!(
        slow.read(&mut bytes)
            .expect("the end of the stream arrives"),
        0
    );
    slow.write_all(b"all of it").expect("the proxy reads");
    drop(slow);
    let mut reply = Vec::new();
    let mut fast = sender.join().expect("the sender thread does not panic");
    fast.read_to_end(&mut reply)
        .expect("the reply and the end of the stream arrive");
    assert_eq!(reply, b"all of it");

    assert!(
        lead > 500_000,
        "the reader was at most {lead} bytes behind the sender, which is too fast for this test"
    );
    let growth = highest.saturating_sub(base);
    println!("{LEN} bytes; the sender was ahead by {lead}; the proxy grew by {growth}");
    assert!(growth < GROWTH_MAX, "the proxy grew by {growth} bytes");
}
