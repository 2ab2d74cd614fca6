//! The plainest hand-written epoll loop, as a careful engineer writes it for this one protocol.
//!
//! ```text
//! socket -> input (one for all) -> frames in place -> output (one for all) -> socket
//!                               \-> partial frame                 \-> queue: unwritten output
//! ```
//!
//! The loop is level-triggered, stops at a short read, and writes the echoes of a readiness event
//! with one call. It has no limits and no timers, and it sends only replies. It shows a lower bound
//! of the CPU time and is not a library.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use super::{announce, on_frame};
use crate::framing::{first_frame_u32, prefix_u32};
use crate::system::{Epoll, NO_EVENT, READABLE, WRITABLE};

const INPUT_LEN: usize = 256 * 1024;
const EVENTS_LEN: usize = 1024;
const LISTENER: usize = usize::MAX;

pub(super) fn serve() -> io::Result<()> {
    serve_waiting(-1)
}

/// Serves without sleeping: polls with a timeout of zero.
pub(super) fn serve_busily() -> io::Result<()> {
    serve_waiting(0)
}

fn serve_waiting(timeout_ms: i32) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    announce(listener.local_addr()?.port())?;
    let epoll = Epoll::new()?;
    epoll.add(&listener, LISTENER, READABLE)?;

    let mut server = Server {
        epoll,
        listener,
        connections: Vec::new(),
        vacant: Vec::new(),
        input: vec![0; INPUT_LEN],
        output: Vec::new(),
    };
    let mut events = vec![NO_EVENT; EVENTS_LEN];
    loop {
        let count = server.epoll.wait(&mut events, timeout_ms)?;
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
    /// Connections by index, which is also the key in epoll.
    connections: Vec<Option<Connection>>,
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
            self.connections[key] = Some(Connection::new(stream));
        }
    }

    fn serve(&mut self, key: usize, readiness: u32) {
        // The connection is open: only its own event closes it, and a wait returns at most one
        // event for each socket.
        let Some(connection) = &mut self.connections[key] else {
            return;
        };
        let was_queued = connection.has_queue();
        let outcome = connection.serve(readiness, &mut self.input, &mut self.output);
        let outcome = outcome.and_then(|open| {
            if connection.has_queue() != was_queued {
                let interest = if was_queued {
                    READABLE
                } else {
                    READABLE | WRITABLE
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
    /// The bytes of a partial frame; empty if there is none.
    partial: Vec<u8>,
    /// Output that the kernel did not accept. Its length has no limit if the peer does not read.
    queue: Vec<u8>,
    /// Number of bytes of `queue` already written: `written <= queue.len()`.
    written: usize,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            partial: Vec::new(),
            queue: Vec::new(),
            written: 0,
        }
    }

    fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Reads, echoes and writes. Returns false if the peer has ended the stream.
    fn serve(
        &mut self,
        readiness: u32,
        input: &mut [u8],
        output: &mut Vec<u8>,
    ) -> io::Result<bool> {
        if readiness & WRITABLE != 0 {
            self.write_queue()?;
        }
        // Every event except writability leads to a read: the read also reports an error or the end
        // of the stream.
        let open = readiness & !WRITABLE == 0 || self.read(input, output)?;
        self.write(output)?;
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
            echo_after(&mut self.partial, &input[..len], output);
            if len < input.len() {
                return Ok(true);
            }
        }
    }

    fn write(&mut self, output: &[u8]) -> io::Result<()> {
        if output.is_empty() {
            return Ok(());
        }
        // Earlier queued output must be written first.
        let written = if self.has_queue() {
            0
        } else {
            write_some(&mut self.stream, output)?
        };
        self.queue.extend_from_slice(&output[written..]);
        Ok(())
    }

    fn write_queue(&mut self) -> io::Result<()> {
        self.written += write_some(&mut self.stream, &self.queue[self.written..])?;
        if self.written == self.queue.len() {
            self.queue.clear();
            self.written = 0;
        }
        Ok(())
    }
}

/// Appends the echoes of all whole frames to `output`. `bytes` follow the partial frame in
/// `partial`, which then stores the next partial frame.
pub(super) fn echo_after(partial: &mut Vec<u8>, bytes: &[u8], output: &mut Vec<u8>) {
    if partial.is_empty() {
        let consumed = echo(bytes, output);
        partial.extend_from_slice(&bytes[consumed..]);
    } else {
        partial.extend_from_slice(bytes);
        let consumed = echo(partial, output);
        partial.drain(..consumed);
    }
}

/// Appends the echoes of all whole frames of `bytes` to `output`. Returns the length of these
/// frames in `bytes`.
fn echo(bytes: &[u8], output: &mut Vec<u8>) -> usize {
    let mut consumed = 0;
    while let Some(frame) = first_frame_u32(&bytes[consumed..]) {
        let answer = on_frame(frame);
        output.extend_from_slice(&prefix_u32(answer.len()));
        output.extend_from_slice(answer);
        consumed += 4 + frame.len();
    }
    consumed
}

/// Writes once and returns the number of bytes written, which is zero if the socket's buffer is
/// full.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
