//! The load: a hand-written epoll client that always keeps one batch per connection in flight.
//!
//! ```text
//! batch: [frame][frame]..[frame] -> one write -> server -> reads until all bytes are back -> again
//! ```
//!
//! A batch is `depth` frames. The client checks the echo: the number of bytes, each prefix that one
//! read returned whole, and in check mode every byte. The same client loads every server.
//!
//! If the load has its own core, it never sleeps. The kernel charges the cost of waking a receiver
//! to the sender. Waking a halted core costs more than an echo, above all in a virtual machine. So
//! a sleeping load would add this cost to every server and hide the differences between the
//! servers.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::cell::Cell;
use crate::framing::Framing;
use crate::servers::{Protocol, Server};
use crate::system::{Epoll, Event, NO_EVENT, READABLE, WRITABLE};
use crate::tls_load::TlsLoad;
use crate::udp_load::UdpLoad;

pub(crate) const INPUT_LEN: usize = 256 * 1024;
pub(crate) const EVENTS_LEN: usize = 1024;
/// Maximum time without any echo. After this time the server counts as stalled.
pub(crate) const STALL_LIMIT: Duration = Duration::from_secs(30);

/// The connections to one server, and the batch that they send.
pub(crate) struct Load {
    epoll: Epoll,
    connections: Vec<Connection>,
    batch: Batch,
    depth: usize,
    input: Vec<u8>,
    events: Vec<Event>,
    waiting: Waiting,
    /// Number of connections whose batch is not echoed completely:
    /// `outstanding <= connections.len()`.
    outstanding: usize,
}

/// Method of waiting for the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Polls again and again without sleeping; needs its own core.
    Spin,
    /// Sleeps in the kernel, and leaves the core to other threads.
    Sleep,
}

impl Waiting {
    /// Waits for the server, and returns the number of events, at least one.
    pub(crate) fn wait(self, epoll: &Epoll, events: &mut [Event]) -> io::Result<usize> {
        let begun = Instant::now();
        let limit_ms = match self {
            Self::Spin => 0,
            Self::Sleep => STALL_LIMIT.as_millis() as i32,
        };
        loop {
            let count = epoll.wait(events, limit_ms)?;
            if count > 0 {
                return Ok(count);
            }
            if begun.elapsed() >= STALL_LIMIT {
                return Err(io::Error::new(
                    ErrorKind::TimedOut,
                    "the server sent nothing for 30 seconds",
                ));
            }
        }
    }
}

/// Condition after which a run starts no more batches. The run still waits for its outstanding
/// batches.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Deadline(Instant),
    /// Number of batches of all connections together.
    Batches(u64),
}

/// Result of one run of the load.
#[derive(Clone, Copy)]
pub(crate) struct Done {
    pub(crate) frames: u64,
    pub(crate) elapsed: Duration,
}

/// A load of frames, with or without TLS, or of datagrams.
pub(crate) enum AnyLoad {
    Tcp(Load),
    Tls(TlsLoad),
    Udp(UdpLoad),
}

impl AnyLoad {
    /// Opens the load; see [`Load::open`], [`TlsLoad::open`] and [`UdpLoad::open`].
    pub(crate) fn open(
        port: u16,
        server: &Server,
        cell: Cell,
        waiting: Waiting,
    ) -> io::Result<Self> {
        match server.protocol {
            Protocol::Tcp(framing) => Load::open(port, framing, cell, waiting).map(Self::Tcp),
            Protocol::Tls => TlsLoad::open(port, cell, waiting).map(Self::Tls),
            Protocol::Udp => UdpLoad::open(port, cell, waiting).map(Self::Udp),
        }
    }

    /// Runs the load; see [`Load::run`], [`TlsLoad::run`] and [`UdpLoad::run`].
    pub(crate) fn run(
        &mut self,
        until: Until,
        check: bool,
        round_trips: &mut Vec<u32>,
    ) -> io::Result<Done> {
        match self {
            Self::Tcp(load) => load.run(until, check, round_trips),
            Self::Tls(load) => load.run(until, check, round_trips),
            Self::Udp(load) => load.run(until, check, round_trips),
        }
    }
}

impl Load {
    /// Opens all connections. When this function returns, the server has accepted every connection.
    ///
    /// Each connection waits for the echo of one frame before the next connection is opened. So the
    /// listen backlog of the server never overflows.
    pub(crate) fn open(
        port: u16,
        framing: Framing,
        cell: Cell,
        waiting: Waiting,
    ) -> io::Result<Self> {
        let batch = Batch::new(framing, cell);
        let epoll = Epoll::new()?;
        let mut input = vec![0; INPUT_LEN.max(batch.frame_len)];
        let mut connections = Vec::with_capacity(cell.connections);
        for key in 0..cell.connections {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(STALL_LIMIT))?;
            stream.write_all(&batch.bytes[..batch.frame_len])?;
            stream.read_exact(&mut input[..batch.frame_len])?;
            batch.verify(0, &input[..batch.frame_len], true)?;
            stream.set_nonblocking(true)?;
            epoll.add(&stream, key, READABLE)?;
            connections.push(Connection::new(stream));
        }
        Ok(Self {
            epoll,
            connections,
            batch,
            depth: cell.depth,
            input,
            events: vec![NO_EVENT; EVENTS_LEN],
            waiting,
            outstanding: 0,
        })
    }

    /// Keeps one batch per connection in flight until `until` is reached, then waits for the
    /// outstanding batches.
    ///
    /// The round-trip time of each batch is added to `round_trips`, in nanoseconds. With `check`,
    /// every byte is compared with the sent bytes.
    ///
    /// # Errors
    /// * `InvalidData`: the echo differs from the sent bytes.
    /// * `UnexpectedEof`: the server ended a connection.
    /// * `TimedOut`: the server sent nothing for 30 seconds.
    /// * Any other error of a read or a write.
    pub(crate) fn run(
        &mut self,
        mut until: Until,
        check: bool,
        round_trips: &mut Vec<u32>,
    ) -> io::Result<Done> {
        let before = round_trips.len();
        let start = Instant::now();
        let mut now = start;
        for key in 0..self.connections.len() {
            // Always send the first batch, so that no run is empty.
            if until.allows(now) || key == 0 {
                self.begin(key, now)?;
                now = Instant::now();
            }
        }
        while self.outstanding > 0 {
            for index in 0..self.waiting.wait(&self.epoll, &mut self.events)? {
                let (key, readiness) = (self.events[index].u64 as usize, self.events[index].events);
                if self.progress(key, readiness, check)? {
                    now = Instant::now();
                    round_trips.push(self.complete(key, now));
                    if until.allows(now) {
                        self.begin(key, now)?;
                    }
                }
            }
        }
        let batches = (round_trips.len() - before) as u64;
        Ok(Done {
            frames: batches * self.depth as u64,
            elapsed: now - start,
        })
    }

    fn begin(&mut self, key: usize, now: Instant) -> io::Result<()> {
        let connection = &mut self.connections[key];
        connection.sent = 0;
        connection.received = 0;
        connection.begun = now;
        self.outstanding += 1;
        self.send(key)
    }

    /// Ends a batch, and returns its round-trip time in nanoseconds, at most `u32::MAX`.
    fn complete(&mut self, key: usize, now: Instant) -> u32 {
        self.outstanding -= 1;
        let round_trip = now - self.connections[key].begun;
        u32::try_from(round_trip.as_nanos()).unwrap_or(u32::MAX)
    }

    /// Handles one event with at most one write and one read. Returns true if the batch is echoed
    /// completely.
    fn progress(&mut self, key: usize, readiness: u32, check: bool) -> io::Result<bool> {
        if readiness & WRITABLE != 0 {
            self.send(key)?;
        }
        if readiness & !WRITABLE == 0 {
            return Ok(false);
        }
        let connection = &mut self.connections[key];
        let len = match connection.stream.read(&mut self.input) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        self.batch
            .verify(connection.received, &self.input[..len], check)?;
        connection.received += len;
        if connection.received > connection.sent {
            return Err(invalid("the server echoed more bytes than were sent"));
        }
        Ok(connection.received == self.batch.bytes.len())
    }

    /// Writes the unsent bytes of the batch once. If the socket buffer is full, registers for
    /// writability to continue later.
    fn send(&mut self, key: usize) -> io::Result<()> {
        let connection = &mut self.connections[key];
        match connection
            .stream
            .write(&self.batch.bytes[connection.sent..])
        {
            Ok(len) => connection.sent += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let unsent = connection.sent < self.batch.bytes.len();
        if unsent != connection.awaits_writable {
            connection.awaits_writable = unsent;
            let interest = if unsent {
                READABLE | WRITABLE
            } else {
                READABLE
            };
            self.epoll.modify(&connection.stream, key, interest)?;
        }
        Ok(())
    }
}

impl Until {
    /// Returns true if one more batch may start now, and counts that batch.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        match self {
            Self::Deadline(deadline) => now < *deadline,
            Self::Batches(0) => false,
            Self::Batches(left) => {
                *left -= 1;
                true
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    /// Number of bytes of the batch that the kernel accepted: `sent <= batch.len()`.
    sent: usize,
    /// Number of bytes of the batch that were echoed: `received <= sent`.
    received: usize,
    begun: Instant,
    awaits_writable: bool,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            sent: 0,
            received: 0,
            begun: Instant::now(),
            awaits_writable: false,
        }
    }
}

/// The frames that a connection sends. The echo is compared with these frames.
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    prefix: Vec<u8>,
    /// Length of one frame with its prefix, in bytes.
    pub(crate) frame_len: usize,
}

impl Batch {
    pub(crate) fn new(framing: Framing, cell: Cell) -> Self {
        let prefix = framing.prefix(cell.size);
        let frame_len = prefix.len() + cell.size;
        Self {
            bytes: cell.batch(framing),
            prefix,
            frame_len,
        }
    }

    /// Compares echoed bytes with the batch, starting at `offset` of the batch.
    ///
    /// Without `check`, only prefixes that lie completely within `echoed` are compared. This is
    /// cheap, so that the server and not the load limits the speed.
    pub(crate) fn verify(&self, offset: usize, echoed: &[u8], check: bool) -> io::Result<()> {
        let end = offset + echoed.len();
        if end > self.bytes.len() {
            return Err(invalid("the server echoed more bytes than were sent"));
        }
        if check {
            let same = self.bytes[offset..end] == *echoed;
            return if same {
                Ok(())
            } else {
                Err(invalid("the echoed bytes differ from the sent bytes"))
            };
        }
        let mut at = offset.next_multiple_of(self.frame_len);
        while at + self.prefix.len() <= end {
            if !echoed[at - offset..].starts_with(&self.prefix) {
                return Err(invalid("an echoed frame has a different length"));
            }
            at += self.frame_len;
        }
        Ok(())
    }
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        Batch::new(Framing::U32, "1x3x16".parse().expect("the cell is valid"))
    }

    #[test]
    fn every_cut_of_an_echo_is_accepted() {
        let batch = batch();
        for start in 0..batch.bytes.len() {
            for end in start..=batch.bytes.len() {
                for check in [false, true] {
                    let outcome = batch.verify(start, &batch.bytes[start..end], check);
                    assert!(outcome.is_ok(), "{start}..{end} was rejected");
                }
            }
        }
    }

    #[test]
    fn wrong_bytes_are_rejected() {
        let batch = batch();
        let mut echoed = batch.bytes.clone();
        // A frame has 20 bytes. So byte 30 is payload, and byte 23 belongs to a prefix.
        echoed[30] ^= 1;
        assert!(batch.verify(0, &echoed, true).is_err());
        assert!(batch.verify(0, &echoed, false).is_ok());
        echoed[23] ^= 1;
        assert!(batch.verify(0, &echoed, false).is_err());
        assert!(batch.verify(21, &batch.bytes[20..], false).is_err());
    }
}
