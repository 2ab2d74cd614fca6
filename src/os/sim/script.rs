//! Scripts: a test chooses the results of single reads and writes of a stream, and counts the
//! calls.

use std::collections::VecDeque;
use std::io;

use super::poll::Ready;
use super::socket::{Kind, SimSocket};
use super::world::World;

/// The result of one read.
#[derive(Debug)]
pub(crate) enum ReadResult {
    /// The read returns these bytes. Bytes that do not fit into its buffer are left for the next
    /// read.
    Bytes(Vec<u8>),
    /// The read reports the end of the stream, and so do all later reads.
    End,
    Fails(io::ErrorKind),
}

/// The result of one write.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WriteResult {
    /// The write accepts at most this many bytes.
    Takes(usize),
    Fails(io::ErrorKind),
}

/// Handle of the script of one stream. The read results of the script decide reads, and its write
/// results decide writes. When they are used up, the actions of the peer decide.
///
/// Without a peer (see [`World::script`](super::World::script)), reads after the last entry return
/// `WouldBlock`, and writes accept all bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Script(pub(super) SimSocket);

/// Entries of a script, and the calls that were made on its stream.
#[derive(Debug, Default)]
pub(super) struct Entries {
    read_results: VecDeque<ReadResult>,
    write_results: VecDeque<WriteResult>,
    pub(super) calls: Calls,
    /// Readiness that events have reported and that no later read or write has cleared.
    reported: Ready,
}

/// Calls that the engine made on the stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls {
    pub(crate) reads: usize,
    pub(crate) writes: usize,
    pub(crate) written: Vec<u8>,
    pub(crate) is_shut_down: bool,
    /// Number of calls that took the pending error.
    pub(crate) take_errors: usize,
}

impl Script {
    /// Creates a script in the [current](World::current) world.
    pub(crate) fn new() -> Self {
        World::current().script()
    }

    /// Returns the simulated stream of this script as a `Stream`, the type that the engine uses.
    pub(crate) fn stream(self) -> crate::os::Stream {
        crate::os::Stream::Sim(self.0)
    }

    pub(crate) fn then_read(self, read_results: impl IntoIterator<Item = ReadResult>) {
        self.with(|entries| entries.read_results.extend(read_results));
    }

    pub(crate) fn then_write(self, write_results: impl IntoIterator<Item = WriteResult>) {
        self.with(|entries| entries.write_results.extend(write_results));
    }

    /// Returns true if the script has no read result left.
    pub(crate) fn is_used_up(self) -> bool {
        self.with(|entries| entries.read_results.is_empty())
    }

    pub(crate) fn calls(self) -> Calls {
        self.with(|entries| entries.calls.clone())
    }

    /// Returns the readiness that events have reported and that is still valid. A `WouldBlock`
    /// clears the readiness of its direction. A short read clears the readable state, unless an
    /// event reported an end.
    pub(crate) fn reported(self) -> Ready {
        self.with(|entries| entries.reported)
    }

    /// Makes the next wait report `ready`. Returns false if the stream is not registered.
    pub(crate) fn event(self, ready: Ready) -> bool {
        self.0.inject(ready)
    }

    fn with<R>(self, change: impl FnOnce(&mut Entries) -> R) -> R {
        self.0
            .with(|state, index| match &mut state.sockets[index].kind {
                Kind::Stream(stream) => change(&mut stream.script),
                _ => panic!("the socket is not a stream, so it has no script"),
            })
    }
}

impl Entries {
    /// Records the readiness of a reported event. An end counts as readable and writable.
    pub(super) fn record_event(&mut self, ready: Ready) {
        let both = (Ready::READABLE | Ready::WRITABLE).only_if(ready.has(Ready::ENDED));
        self.reported = self.reported | ready | both;
    }

    /// Clears the reported readiness, because the next registration reports it again.
    pub(super) fn was_deregistered(&mut self) {
        self.reported = Ready::NONE;
    }

    /// Performs a read with the next result of the script. Returns `None` if the script has no read
    /// result left.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        Some(match self.read_results.pop_front()? {
            ReadResult::Bytes(mut bytes) => {
                let len = bytes.len().min(buf.len());
                buf[..len].copy_from_slice(&bytes[..len]);
                let rest = bytes.split_off(len);
                if !rest.is_empty() {
                    self.read_results.push_front(ReadResult::Bytes(rest));
                }
                Ok(len)
            }
            ReadResult::End => {
                self.read_results.push_front(ReadResult::End);
                Ok(0)
            }
            ReadResult::Fails(kind) => Err(kind.into()),
        })
    }

    /// Counts a read into a buffer of `len` bytes. Clears the readiness if the result shows that
    /// the socket is empty.
    pub(super) fn was_read(&mut self, len: usize, result: &io::Result<usize>) {
        self.calls.reads += 1;
        let shows_empty = match result {
            Ok(count) => (1..len).contains(count) && !self.reported.has(Ready::ENDED),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if shows_empty {
            self.reported = self.reported.without(Ready::READABLE | Ready::ENDED);
        }
    }

    /// Takes the next write result of the script, for a write of `len` bytes. Returns the number of
    /// accepted bytes or the error, and `Ok(None)` if the script has no write result left.
    pub(super) fn write(&mut self, len: usize) -> io::Result<Option<usize>> {
        match self.write_results.pop_front() {
            Some(WriteResult::Takes(taken)) => Ok(Some(taken.min(len))),
            Some(WriteResult::Fails(kind)) => Err(kind.into()),
            None => Ok(None),
        }
    }

    /// Counts a write and records the bytes that it accepted. `WouldBlock` clears the writable
    /// state.
    pub(super) fn was_written(&mut self, bytes: &[u8], result: &io::Result<usize>) {
        self.calls.writes += 1;
        match result {
            Ok(len) => self.calls.written.extend_from_slice(&bytes[..*len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.reported = self.reported.without(Ready::WRITABLE);
            }
            Err(_) => {}
        }
    }

    /// Returns true if the script decides the result of the next write.
    pub(super) fn has_write_results(&self) -> bool {
        !self.write_results.is_empty()
    }

    pub(super) fn has_unread(&self) -> bool {
        matches!(self.read_results.front(), Some(ReadResult::Bytes(_)))
    }
}
