//! What is logged of a connection. One test, as the logger is the whole process's.

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
        let mut lines = self.0.lock().expect("nobody panics with it");
        lines.push(record.args().to_string());
    }

    fn flush(&self) {}
}

#[test]
fn reads_and_writes_are_traced_and_only_where_traces_are_wanted() {
    log::set_logger(&LINES).expect("it is the first");
    let (mut reactor, addr) = listening(Probe::echo(), Config::default(), Framing::length_u32());
    let (mut peer, conn) = open(&mut reactor, addr);
    let name = peer.local_addr().expect("it is open");
    let mut echo = |level| {
        log::set_max_level(level);
        deposit(&mut reactor, &mut peer, conn, b"\0\0\0\x03abc");
        idle(&mut reactor);
        assert_eq!(read_u32_frame(&mut peer), b"abc");
        let lines = mem::take(&mut *LINES.0.lock().expect("nobody panics with it"));
        let of_it = |line: &String| line.contains(&name.to_string());
        lines.into_iter().filter(of_it).collect::<Vec<_>>()
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
