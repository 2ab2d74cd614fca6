//! The load of datagrams: sockets that each keep one batch in flight.
//!
//! ```text
//! batch: [datagram][datagram].. -> one or many sends -> server -> receives until all are back
//! ```
//!
//! Each socket is connected, so it receives only from the server. With segmentation, a socket sends
//! a batch with one call (`UDP_SEGMENT`) and receives joined datagrams (`UDP_GRO`), as a client
//! with much data does. The load checks the length of each echoed datagram, and in check mode every
//! byte.
//!
//! A datagram is lost if a receive buffer is full. If no datagram arrives within a time limit, the
//! load sends all outstanding batches again. After 50 such time limits in a row, the load fails.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use crate::cell::Cell;
use crate::load::{Done, Until, Waiting};
use crate::system::{self, Epoll, Event, NO_EVENT, READABLE};

const INPUT_LEN: usize = 65_536;
const EVENTS_LEN: usize = 1024;
/// Time without any datagram after which the outstanding batches are sent again. A round trip on
/// one machine is far shorter.
const LOSS_LIMIT: Duration = Duration::from_millis(200);
/// Number of consecutive time limits without any datagram after which the server counts as stalled.
const LOSSES_MAX: u32 = 50;

/// The sockets that load one server.
pub(crate) struct UdpLoad {
    epoll: Epoll,
    sockets: Vec<Socket>,
    /// `depth` datagrams of `size` bytes.
    batch: Vec<u8>,
    cell: Cell,
    input: Vec<u8>,
    events: Vec<Event>,
    waiting: Waiting,
    outstanding: usize,
}

struct Socket {
    udp: UdpSocket,
    /// Number of bytes of the batch that were echoed.
    received: usize,
    /// Offset in the batch at which the next datagram is expected, unless a datagram is lost.
    next: usize,
    begun: Instant,
    is_outstanding: bool,
}

impl UdpLoad {
    /// Opens all sockets, and waits for the echo of one batch on each socket.
    pub(crate) fn open(port: u16, cell: Cell, waiting: Waiting) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut sockets = Vec::with_capacity(cell.connections);
        for key in 0..cell.connections {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            udp.connect((Ipv4Addr::LOCALHOST, port))?;
            udp.set_nonblocking(true)?;
            system::set_receive_buffer(&udp)?;
            if cell.is_segmented() {
                system::set_segments(&udp, cell.size)?;
            }
            epoll.add(&udp, key, READABLE)?;
            sockets.push(Socket {
                udp,
                received: 0,
                next: 0,
                begun: Instant::now(),
                is_outstanding: false,
            });
        }
        let mut load = Self {
            epoll,
            sockets,
            batch: cell.datagrams(),
            cell,
            input: vec![0; INPUT_LEN],
            events: vec![NO_EVENT; EVENTS_LEN],
            waiting,
            outstanding: 0,
        };
        let batches = Until::Batches(cell.connections as u64);
        load.run(batches, true, &mut Vec::new())?;
        Ok(load)
    }

    /// Keeps one batch per socket in flight until `until` is reached, then waits for the
    /// outstanding batches.
    ///
    /// [`Load::run`](crate::load::Load::run) describes the parameters and the result.
    pub(crate) fn run(
        &mut self,
        mut until: Until,
        check: bool,
        round_trips: &mut Vec<u32>,
    ) -> io::Result<Done> {
        let before = round_trips.len();
        let start = Instant::now();
        let mut now = start;
        for key in 0..self.sockets.len() {
            if until.allows(now) || key == 0 {
                self.begin(key, now)?;
                now = Instant::now();
            }
        }
        while self.outstanding > 0 {
            for index in 0..self.wait()? {
                let key = self.events[index].u64 as usize;
                if self.progress(key, check)? {
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
            frames: batches * self.cell.depth as u64,
            elapsed: now - start,
        })
    }

    fn wait(&mut self) -> io::Result<usize> {
        let limit_ms = match self.waiting {
            Waiting::Spin => 0,
            Waiting::Sleep => LOSS_LIMIT.as_millis() as i32,
        };
        for _ in 0..LOSSES_MAX {
            let begun = Instant::now();
            while begun.elapsed() < LOSS_LIMIT {
                let count = self.epoll.wait(&mut self.events, limit_ms)?;
                if count > 0 {
                    return Ok(count);
                }
            }
            for key in 0..self.sockets.len() {
                if self.sockets[key].is_outstanding {
                    self.outstanding -= 1;
                    self.begin(key, Instant::now())?;
                }
            }
        }
        Err(io::Error::new(
            ErrorKind::TimedOut,
            "the server sent nothing for 10 seconds",
        ))
    }

    fn begin(&mut self, key: usize, now: Instant) -> io::Result<()> {
        let socket = &mut self.sockets[key];
        socket.received = 0;
        socket.next = 0;
        socket.begun = now;
        socket.is_outstanding = true;
        self.outstanding += 1;
        let send_len = if self.cell.is_segmented() {
            self.batch.len()
        } else {
            self.cell.size
        };
        for datagrams in self.batch.chunks(send_len) {
            socket.udp.send(datagrams)?;
        }
        Ok(())
    }

    fn complete(&mut self, key: usize, now: Instant) -> u32 {
        self.outstanding -= 1;
        self.sockets[key].is_outstanding = false;
        let round_trip = now - self.sockets[key].begun;
        u32::try_from(round_trip.as_nanos()).unwrap_or(u32::MAX)
    }

    /// Receives datagrams. Returns true when the batch is echoed completely, and false if the
    /// socket would block earlier.
    fn progress(&mut self, key: usize, check: bool) -> io::Result<bool> {
        let socket = &mut self.sockets[key];
        while socket.is_outstanding && socket.received < self.batch.len() {
            let len = match socket.udp.recv(&mut self.input) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            let size = self.cell.size;
            let is_whole = len > 0 && len.is_multiple_of(size);
            let is_allowed_len = len == size || self.cell.is_segmented();
            // Earlier datagrams may be lost, so search from the expected offset. With a lost
            // datagram, the batch stays incomplete and is sent again after the time limit.
            let place = (socket.next..)
                .step_by(size)
                .take_while(|at| at + len <= self.batch.len())
                .find(|&at| !check || self.batch[at..at + len] == self.input[..len]);
            let Some(place) = place.filter(|_| is_whole && is_allowed_len) else {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    "an echoed datagram differs from every datagram that was sent",
                ));
            };
            socket.next = place + len;
            socket.received += len;
        }
        Ok(socket.is_outstanding)
    }
}
