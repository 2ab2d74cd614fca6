//! Log lines of a connection. There is only one test, because a process has only one logger.

mod common;

use std::mem;
use std::sync::Mutex;
#[cfg(feature = "log-kv")]
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Probe, deposit, drive, idle, listening, open, read_u32_frame};
use log::{LevelFilter, Log, Metadata, Record};
use unstick::{Config, Framing};

struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut lines = self.0.lock().expect("the lock is not poisoned");
        let target = record.target();
        assert!(["unstick", "unstick::io"].contains(&target), "{target}");
        assert_eq!(target == "unstick::io", record.level() == log::Level::Trace);
        let line = record.args().to_string();
        #[cfg(feature = "log-kv")]
        assert_keys(record, &line);
        lines.push(line);
    }

    fn flush(&self) {}
}

/// Checks that the keys `conn` and `peer` of a log line agree with its text.
#[cfg(feature = "log-kv")]
fn assert_keys(record: &Record<'_>, line: &str) {
    let key = |name: &str| {
        record
            .key_values()
            .get(name.into())
            .map(|it| it.to_string())
    };
    let (conn, peer) = (key("conn"), key("peer"));
    let is_of_peer = ["read ", "wrote ", "accepted from", " ended: "]
        .iter()
        .any(|part| line.contains(part));
    if is_of_peer {
        let peer = peer.expect("the line has the key `peer`");
        assert!(line.contains(&peer), "{line}: the key is {peer}");
        let conn = conn.expect("the line has the key `conn`");
        let names_conn = !line.starts_with("read ") && !line.starts_with("wrote ");
        assert!(
            !names_conn || line.contains(&conn),
            "{line}: the key is {conn}"
        );
        KEYED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Number of lines with keys.
#[cfg(feature = "log-kv")]
static KEYED: AtomicUsize = AtomicUsize::new(0);

#[test]
fn reads_and_writes_are_logged_at_trace_level_only() {
    log::set_logger(&LINES).expect("no other logger is set");
    let (mut reactor, addr) = listening(Probe::echo(), Config::default(), Framing::length_u32());
    let (mut peer, conn) = open(&mut reactor, addr);
    let name = peer.local_addr().expect("the socket is connected");
    let mut echo = |level| {
        log::set_max_level(level);
        deposit(&mut reactor, &mut peer, conn, b"\0\0\0\x03abc");
        idle(&mut reactor);
        assert_eq!(read_u32_frame(&mut peer), b"abc");
        let lines = mem::take(&mut *LINES.0.lock().expect("the lock is not poisoned"));
        let is_of_peer = |line: &String| line.contains(&name.to_string());
        lines.into_iter().filter(is_of_peer).collect::<Vec<_>>()
    };
    assert!(echo(LevelFilter::Debug).is_empty());
    let traced = echo(LevelFilter::Trace);
    assert_eq!(
        traced,
        [
            format!("read 7 bytes from {name}"),
            format!("wrote 7 bytes to {name}")
        ]
    );
    assert!(echo(LevelFilter::Debug).is_empty());
    log::set_max_level(LevelFilter::Debug);
    let (other, _) = open(&mut reactor, addr);
    let other_name = other.local_addr().expect("the socket is connected");
    drop((peer, other));
    drive(&mut reactor, |reactor| reactor.stats().closed == 2);
    let lines = mem::take(&mut *LINES.0.lock().expect("the lock is not poisoned"));
    for name in [name, other_name] {
        let ended = format!(" with {name} ended: ");
        let count = lines.iter().filter(|line| line.contains(&ended)).count();
        assert_eq!(count, 1, "{lines:?}");
    }
    #[cfg(feature = "log-kv")]
    assert_eq!(KEYED.load(Ordering::Relaxed), 5);
}
