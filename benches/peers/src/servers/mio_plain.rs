//! An echo server with a plain mio loop, written after mio's `tcp_server` example.
//!
//! A `HashMap` maps tokens to connections. A connection reads until `WouldBlock` into its own
//! buffer, which grows when it is full. If the kernel does not accept all output, the connection
//! registers for writability, and writes the remaining bytes when the socket is writable.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};

use super::{announce, on_frame};
use crate::framing::{first_frame_u32, prefix_u32};

const SERVER: Token = Token(0);

pub(super) fn serve() -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(128);
    let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
    announce(listener.local_addr()?.port())?;
    poll.registry()
        .register(&mut listener, SERVER, Interest::READABLE)?;

    let mut connections = HashMap::new();
    let mut next_token = Token(SERVER.0 + 1);
    loop {
        if let Err(error) = poll.poll(&mut events, None) {
            if error.kind() == ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        for event in &events {
            if event.token() == SERVER {
                accept(
                    &listener,
                    poll.registry(),
                    &mut connections,
                    &mut next_token,
                )?;
            } else if let Some(connection) = connections.get_mut(&event.token()) {
                let done = connection.handle(poll.registry(), event).unwrap_or(true);
                if done && let Some(mut connection) = connections.remove(&event.token()) {
                    poll.registry().deregister(&mut connection.stream)?;
                }
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    registry: &Registry,
    connections: &mut HashMap<Token, Connection>,
    next_token: &mut Token,
) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        let token = *next_token;
        next_token.0 += 1;
        registry.register(&mut stream, token, Interest::READABLE)?;
        connections.insert(token, Connection::new(stream));
    }
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// Number of received bytes in `received`: `filled <= received.len()`.
    filled: usize,
    unsent: Vec<u8>,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            received: vec![0; 4096],
            filled: 0,
            unsent: Vec::new(),
        }
    }

    /// Handles an event. Returns true if the connection is finished.
    fn handle(&mut self, registry: &Registry, event: &Event) -> io::Result<bool> {
        if event.is_writable() && !self.unsent.is_empty() {
            self.write()?;
            if self.unsent.is_empty() {
                registry.reregister(&mut self.stream, event.token(), Interest::READABLE)?;
            }
        }
        let mut closed = false;
        if event.is_readable() {
            let was_waiting = !self.unsent.is_empty();
            closed = self.read()?;
            self.echo();
            if !was_waiting && !self.unsent.is_empty() {
                self.write()?;
                if !self.unsent.is_empty() {
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    registry.reregister(&mut self.stream, event.token(), interest)?;
                }
            }
        }
        Ok(closed)
    }

    /// Reads until the socket would block. Returns true at the end of the stream.
    fn read(&mut self) -> io::Result<bool> {
        loop {
            if self.filled == self.received.len() {
                self.received.resize(self.received.len() * 2, 0);
            }
            match self.stream.read(&mut self.received[self.filled..]) {
                Ok(0) => return Ok(true),
                Ok(len) => self.filled += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn echo(&mut self) {
        let mut consumed = 0;
        while let Some(frame) = first_frame_u32(&self.received[consumed..self.filled]) {
            let answer = on_frame(frame);
            self.unsent.extend_from_slice(&prefix_u32(answer.len()));
            self.unsent.extend_from_slice(answer);
            consumed += 4 + frame.len();
        }
        self.received.copy_within(consumed..self.filled, 0);
        self.filled -= consumed;
    }

    /// Writes until all output is written or the socket's buffer is full.
    fn write(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.unsent.len() {
            match self.stream.write(&self.unsent[written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => written += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unsent.drain(..written);
        Ok(())
    }
}
