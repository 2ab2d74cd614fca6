//! The load of TLS connections: like [`load`](crate::load), with a rustls client per connection.
//!
//! ```text
//! batch -> rustls -> one write -> server -> reads -> rustls until all bytes are back -> again
//! ```
//!
//! In a cell of handshakes, each batch has a new connection. The connection is closed when the
//! batch is echoed, so the round-trip time of a batch contains a connect and a full handshake.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::cell::{Cell, Transport};
use crate::framing::Framing;
use crate::load::{Batch, Done, EVENTS_LEN, INPUT_LEN, STALL_LIMIT, Until, Waiting};
use crate::system::{Epoll, Event, NO_EVENT, READABLE, WRITABLE};
use crate::tls;

/// The TLS connections to one server, and the batch that they send.
pub(crate) struct TlsLoad {
    epoll: Epoll,
    port: u16,
    config: Arc<ClientConfig>,
    connections: Vec<Connection>,
    batch: Batch,
    cell: Cell,
    input: Vec<u8>,
    events: Vec<Event>,
    waiting: Waiting,
    /// Number of connections whose batch is not echoed completely:
    /// `outstanding <= connections.len()`.
    outstanding: usize,
}

impl TlsLoad {
    /// Opens all connections, and waits for the echo of one frame on each of them.
    pub(crate) fn open(port: u16, cell: Cell, waiting: Waiting) -> io::Result<Self> {
        let config = tls::client_config()?;
        let batch = Batch::new(Framing::U32, cell);
        let epoll = Epoll::new()?;
        let mut connections = Vec::with_capacity(cell.connections);
        let mut echo = vec![0; batch.frame_len];
        for key in 0..cell.connections {
            let mut connection = Connection::open(port, &config)?;
            let Connection {
                stream, session, ..
            } = &mut connection;
            stream.set_read_timeout(Some(STALL_LIMIT))?;
            let mut blocking = rustls::Stream::new(session, stream);
            blocking.write_all(&batch.bytes[..batch.frame_len])?;
            blocking.read_exact(&mut echo)?;
            batch.verify(0, &echo, true)?;
            connection.register(&epoll, key)?;
            connections.push(connection);
        }
        Ok(Self {
            epoll,
            port,
            config,
            connections,
            batch,
            cell,
            input: vec![0; INPUT_LEN],
            events: vec![NO_EVENT; EVENTS_LEN],
            waiting,
            outstanding: 0,
        })
    }

    /// Keeps one batch per connection in flight until `until` is reached, then waits for the
    /// outstanding batches. See [`Load::run`](crate::load::Load::run).
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
                    self.outstanding -= 1;
                    let round_trip = now - self.connections[key].begun;
                    round_trips.push(u32::try_from(round_trip.as_nanos()).unwrap_or(u32::MAX));
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

    fn begin(&mut self, key: usize, now: Instant) -> io::Result<()> {
        if self.cell.transport == Transport::TlsHandshakes {
            self.connections[key].end();
            self.connections[key] = Connection::open(self.port, &self.config)?;
            self.connections[key].register(&self.epoll, key)?;
        }
        let connection = &mut self.connections[key];
        connection.received = 0;
        connection.begun = now;
        self.outstanding += 1;
        connection.session.writer().write_all(&self.batch.bytes)?;
        connection.write(&self.epoll, key)
    }

    /// Handles one event with at most one write and one read. Returns true if the batch is echoed
    /// completely.
    fn progress(&mut self, key: usize, readiness: u32, check: bool) -> io::Result<bool> {
        let connection = &mut self.connections[key];
        if readiness & !WRITABLE != 0 {
            let len = match connection.stream.read(&mut self.input) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            let mut records = &self.input[..len];
            while !records.is_empty() {
                connection.session.read_tls(&mut records)?;
                let state = connection.session.process_new_packets();
                let mut plain_len = state.map_err(io::Error::other)?.plaintext_bytes_to_read();
                while plain_len > 0 {
                    let mut reader = connection.session.reader();
                    let plain = reader.fill_buf()?;
                    let len = plain.len();
                    self.batch.verify(connection.received, plain, check)?;
                    reader.consume(len);
                    connection.received += len;
                    plain_len -= len;
                }
            }
        }
        connection.write(&self.epoll, key)?;
        Ok(connection.received == self.batch.bytes.len())
    }
}

struct Connection {
    stream: TcpStream,
    session: ClientConnection,
    /// Number of bytes of the batch that were echoed: `received <= batch.len()`.
    received: usize,
    begun: Instant,
    awaits_writable: bool,
}

impl Connection {
    /// Connects; does not start the handshake.
    fn open(port: u16, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let session = ClientConnection::new(config.clone(), name);
        let mut session = session.map_err(io::Error::other)?;
        // The batch is always accepted completely.
        session.set_buffer_limit(None);
        Ok(Self {
            stream,
            session,
            received: 0,
            begun: Instant::now(),
            awaits_writable: false,
        })
    }

    fn register(&self, epoll: &Epoll, key: usize) -> io::Result<()> {
        self.stream.set_nonblocking(true)?;
        epoll.add(&self.stream, key, READABLE)
    }

    /// Sends the `close_notify`. The caller then closes the connection.
    fn end(&mut self) {
        self.session.send_close_notify();
        // The batch is echoed, so a failure changes no result.
        let _ = self.session.write_tls(&mut self.stream);
    }

    /// Writes records until none is left or the socket buffer is full. Registers for writability if
    /// records are left.
    fn write(&mut self, epoll: &Epoll, key: usize) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let unsent = self.session.wants_write();
        if unsent != self.awaits_writable {
            self.awaits_writable = unsent;
            let interest = if unsent {
                READABLE | WRITABLE
            } else {
                READABLE
            };
            epoll.modify(&self.stream, key, interest)?;
        }
        Ok(())
    }
}
