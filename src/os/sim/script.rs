//! Scripts: the results of single reads and writes, chosen by the test, and counters of the calls.

use std::collections::VecDeque;
use std::io;

use super::poll::Ready;
use super::socket::{Kind, SimSocket};
use super::world::World;

/// The result of one read.
#[derive(Debug)]
pub(crate) enum Reading {
    /// Bytes to return. The next read returns the bytes that do not fit.
    Bytes(Vec<u8>),
    /// The end of the stream, also for all later reads.
    End,
    Fails(io::ErrorKind),
}

/// The result of one write.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Writing {
    /// The write accepts at most this many bytes.
    Takes(usize),
    Fails(io::ErrorKind),
}

/// A handle of the script of one stream. Its entries precede the actions of the peer.
///
/// After the last entry, a stream without a peer (see [`World::script`](super::World::script))
/// returns `WouldBlock` from reads and accepts all writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Script(pub(super) SimSocket);

/// The content of a script.
#[derive(Debug, Default)]
pub(super) struct Lines {
    readings: VecDeque<Reading>,
    writings: VecDeque<Writing>,
    pub(super) seen: Seen,
    /// Readiness that events have reported and that no later call has cleared.
    told: Ready,
}

/// The calls that were made on the stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) reads: usize,
    pub(crate) writes: usize,
    pub(crate) written: Vec<u8>,
    pub(crate) is_shut_down: bool,
    /// Number of times that the pending error was asked for.
    pub(crate) error_asks: usize,
}

impl Script {
    /// Creates a script in the [current](World::current) world.
    pub(crate) fn new() -> Self {
        World::current().script()
    }

    /// Returns the stream, for the engine.
    pub(crate) fn stream(self) -> crate::os::Stream {
        crate::os::Stream::Sim(self.0)
    }

    pub(crate) fn then_read(self, readings: impl IntoIterator<Item = Reading>) {
        self.with(|lines| lines.readings.extend(readings));
    }

    pub(crate) fn then_write(self, writings: impl IntoIterator<Item = Writing>) {
        self.with(|lines| lines.writings.extend(writings));
    }

    /// Returns true if all readings were read.
    pub(crate) fn is_played(self) -> bool {
        self.with(|lines| lines.readings.is_empty())
    }

    pub(crate) fn seen(self) -> Seen {
        self.with(|lines| lines.seen.clone())
    }

    /// Returns the readiness that events have reported and that is still valid. A `WouldBlock`
    /// clears it, and so does a short read, unless the event reported an end.
    pub(crate) fn told(self) -> Ready {
        self.with(|lines| lines.told)
    }

    /// Makes the next wait report `ready`. Returns false if the stream is closed.
    pub(crate) fn event(self, ready: Ready) -> bool {
        self.0.inject(ready)
    }

    fn with<R>(self, look: impl FnOnce(&mut Lines) -> R) -> R {
        self.0
            .with(|state, index| match &mut state.sockets[index].kind {
                Kind::Stream(stream) => look(&mut stream.script),
                _ => panic!("only streams have scripts"),
            })
    }
}

impl Lines {
    /// Records an event that was reported.
    pub(super) fn told(&mut self, ready: Ready) {
        let both = (Ready::READABLE | Ready::WRITABLE).given(ready.has(Ready::ENDED));
        self.told = self.told | ready | both;
    }

    /// Returns the next reading, or `None` if the script has none.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        Some(match self.readings.pop_front()? {
            Reading::Bytes(mut bytes) => {
                let len = bytes.len().min(buf.len());
                buf[..len].copy_from_slice(&bytes[..len]);
                let rest = bytes.split_off(len);
                if !rest.is_empty() {
                    self.readings.push_front(Reading::Bytes(rest));
                }
                Ok(len)
            }
            Reading::End => {
                self.readings.push_front(Reading::End);
                Ok(0)
            }
            Reading::Fails(kind) => Err(kind.into()),
        })
    }

    /// Records the result of a read into `len` bytes.
    pub(super) fn was_read(&mut self, len: usize, result: &io::Result<usize>) {
        self.seen.reads += 1;
        let disproves = match result {
            Ok(count) => (1..len).contains(count) && !self.told.has(Ready::ENDED),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if disproves {
            self.told = self.told.without(Ready::READABLE | Ready::ENDED);
        }
    }

    /// Returns how much of `len` bytes the next writing accepts, or its error.
    pub(super) fn write(&mut self, len: usize) -> io::Result<Option<usize>> {
        match self.writings.pop_front() {
            Some(Writing::Takes(taken)) => Ok(Some(taken.min(len))),
            Some(Writing::Fails(kind)) => Err(kind.into()),
            None => Ok(None),
        }
    }

    /// Records the result of a write.
    pub(super) fn was_written(&mut self, bytes: &[u8], result: &io::Result<usize>) {
        self.seen.writes += 1;
        match result {
            Ok(len) => self.seen.written.extend_from_slice(&bytes[..*len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.told = self.told.without(Ready::WRITABLE);
            }
            Err(_) => {}
        }
    }

    pub(super) fn has_unread(&self) -> bool {
        matches!(self.readings.front(), Some(Reading::Bytes(_)))
    }
}
