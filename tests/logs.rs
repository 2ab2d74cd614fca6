//! Log lines of a connection. There is only one test, because a process has only one logger.

mod common;

use std::mem;
use std::sync::Mutex;

use common::{Probe, deposit, idle, listening, open, read_u32_frame};
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
        lines.push(record.args().to_string());
    }

    fn flush(&self) {}
}

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
}
