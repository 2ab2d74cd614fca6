//! The plainest hand-written epoll loop over rustls, as a careful engineer writes it.
//!
//! ```text
//! socket -> input (one for all) -> rustls -> plaintext -> frames -> output (one for all)
//!        <- one write per readiness event <- rustls <-----------------------'
//! ```
//!
//! The loop is level-triggered, stops at a short read, and writes once per readiness event. Each
//! connection has a buffered rustls connection, and a buffer for a partial frame. The loop has no
//! limits and no timers, and it sends only replies. It shows a lower bound of the CPU time and is
//! not a library.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

use super::announce;
use super::epoll::echo_after;
use crate::system::{Epoll, NO_EVENT, READABLE, WRITABLE};
use crate::tls;

const INPUT_LEN: usize = 256 * 1024;
const EVENTS_LEN: usize = 1024;
const LISTENER: usize = usize::MAX;

pub(super) fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let config = tls::server_config()?;
    announce(listener.local_addr()?.port())?;
    let epoll = Epoll::new()?;
    epoll.add(&listener, LISTENER, READABLE)?;

    let mut server = Server {
        epoll,
        listener,
        config,
        connections: Vec::new(),
        vacant: Vec::new(),
        input: vec![0; INPUT_LEN],
        output: Vec::new(),
    };
    let mut events = vec![NO_EVENT; EVENTS_LEN];
    loop {
        let count = server.epoll.wait(&mut events, -1)?;
        for event in &events[..count] {
            match event.u64 as usize {
                LISTENER => server.accept()?,
                key => server.serve(key, event.events),
            }
        }
    }
}

struct Server {
    epoll: Epoll,
    listener: TcpListener,
    config: Arc<ServerConfig>,
    /// Connections by index, which is also the key in epoll.
    connections: Vec<Option<Box<Connection>>>,
    /// Indices of the empty entries of `connections`.
    vacant: Vec<usize>,
    input: Vec<u8>,
    /// Echoes of the current readiness event; empty between events.
    output: Vec<u8>,
}

impl Server {
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let key = self.vacant.pop().unwrap_or(self.connections.len());
            self.epoll.add(&stream, key, READABLE)?;
            if key == self.connections.len() {
                self.connections.push(None);
            }
            let connection = Connection::new(stream, self.config.clone())?;
            self.connections[key] = Some(Box::new(connection));
        }
    }

    fn serve(&mut self, key: usize, readiness: u32) {
        // The event may belong to a connection that was closed by an earlier event of this wait.
        let Some(connection) = &mut self.connections[key] else {
            return;
        };
        let outcome = connection.serve(readiness, &mut self.input, &mut self.output);
        let outcome = outcome.and_then(|open| {
            let has_output = connection.session.wants_write();
            if has_output != connection.awaits_writable {
                connection.awaits_writable = has_output;
                let interest = if has_output {
                    READABLE | WRITABLE
                } else {
                    READABLE
                };
                self.epoll.modify(&connection.stream, key, interest)?;
            }
            Ok(open)
        });
        self.output.clear();
        if !matches!(outcome, Ok(true)) {
            self.connections[key] = None;
            self.vacant.push(key);
        }
    }
}

struct Connection {
    stream: TcpStream,
    session: ServerConnection,
    /// The bytes of a partial frame; empty if there is none.
    partial: Vec<u8>,
    awaits_writable: bool,
}

impl Connection {
    fn new(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let mut session = ServerConnection::new(config).map_err(io::Error::other)?;
        // Output has no limit if the peer does not read.
        session.set_buffer_limit(None);
        Ok(Self {
            stream,
            session,
            partial: Vec::new(),
            awaits_writable: false,
        })
    }

    /// Reads, echoes and writes. Returns false if the peer has ended the stream.
    fn serve(
        &mut self,
        readiness: u32,
        input: &mut [u8],
        output: &mut Vec<u8>,
    ) -> io::Result<bool> {
        // Every event except writability leads to a read: the read also reports an error or the end
        // of the stream.
        let open = readiness & !WRITABLE == 0 || self.read(input, output)?;
        if !output.is_empty() {
            self.session.writer().write_all(output)?;
        }
        if self.session.wants_write() {
            match self.session.write_tls(&mut self.stream) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        Ok(open)
    }

    fn read(&mut self, input: &mut [u8], output: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let len = match self.stream.read(input) {
                Ok(0) => return Ok(false),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            let mut records = &input[..len];
            while !records.is_empty() {
                self.session.read_tls(&mut records)?;
                let state = self.session.process_new_packets();
                let state = state.map_err(io::Error::other)?;
                self.take_plaintext(state.plaintext_bytes_to_read(), output)?;
                if state.peer_has_closed() {
                    // Each side must send this alert before it closes (RFC 8446, 6.1). `serve`
                    // writes it.
                    self.session.send_close_notify();
                    return Ok(false);
                }
            }
            if len < input.len() {
                return Ok(true);
            }
        }
    }

    /// Echoes the whole frames of the next `plain_len` bytes of plaintext.
    fn take_plaintext(&mut self, mut plain_len: usize, output: &mut Vec<u8>) -> io::Result<()> {
        while plain_len > 0 {
            let mut reader = self.session.reader();
            let plain = reader.fill_buf()?;
            let len = plain.len();
            echo_after(&mut self.partial, plain, output);
            reader.consume(len);
            plain_len -= len;
        }
        Ok(())
    }
}
