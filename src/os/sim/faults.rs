//! Faults of system calls: a test makes the next calls of one kind fail, or random calls.

use std::io::{self, ErrorKind};
use std::time::Duration;

use super::poll::Ready;
use super::world::{Action, State, World};
use crate::setters::setters;

/// Longest time from a fault that blocks a call or shortens a read until its event.
const UNBLOCK_AFTER_MAX: Duration = Duration::from_millis(2);

/// A kind of system call of a reactor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// The accept of a connection.
    Accept,
    /// The start of a connect.
    Connect,
    /// A read of a connection.
    Read,
    /// A write to a connection.
    Write,
    /// The receipt of a datagram.
    Receive,
    /// The sending of a datagram.
    Send,
}

impl Call {
    const COUNT: usize = 6;

    /// Returns 0 for calls that wait for input, and 1 for calls that wait for output.
    fn direction(self) -> usize {
        usize::from(matches!(self, Self::Write | Self::Send))
    }

    /// Returns the errors with which this kind of call can fail.
    fn errors(self) -> &'static [ErrorKind] {
        match self {
            // The memory is used up, or the connection ended before it was accepted.
            Self::Accept => &[ErrorKind::OutOfMemory, ErrorKind::ConnectionAborted],
            Self::Connect => &[
                ErrorKind::OutOfMemory,
                ErrorKind::AddrInUse,
                ErrorKind::NetworkUnreachable,
            ],
            Self::Read | Self::Write => &[
                ErrorKind::ConnectionReset,
                ErrorKind::TimedOut,
                ErrorKind::HostUnreachable,
            ],
            Self::Receive => &[ErrorKind::ConnectionRefused, ErrorKind::HostUnreachable],
            Self::Send => &[
                ErrorKind::OutOfMemory,
                ErrorKind::PermissionDenied,
                ErrorKind::NetworkUnreachable,
            ],
        }
    }
}

/// Probabilities of random faults in the system calls of one reactor.
///
/// A real system has the same faults. After a call that would block, an event reports when the call
/// can succeed. A read or write that fails ends the connection, at both ends.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    short_percent: u8,
    would_block_percent: u8,
    interrupted_percent: u8,
    error_percent: u8,
}

impl Faults {
    /// Creates probabilities of zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates probabilities that are useful for tests: many calls are short, would block or are
    /// interrupted, and 1 % of the calls fail.
    #[must_use]
    pub fn frequent() -> Self {
        Self::new()
            .short_percent(20)
            .would_block_percent(10)
            .interrupted_percent(5)
            .error_percent(1)
    }

    setters! {
        /// Sets the percentage of reads and writes that use only a random part of their buffer.
        /// Default: 0.
        short_percent(percent: u8) => short_percent = percent;

        /// Sets the percentage of calls that return `WouldBlock`, although they could succeed.
        /// Connects are excepted. Default: 0.
        would_block_percent(percent: u8) => would_block_percent = percent;

        /// Sets the percentage of calls that a signal interrupts. The reactor repeats these calls.
        /// Connects are excepted, because they do not wait. Default: 0.
        interrupted_percent(percent: u8) => interrupted_percent = percent;

        /// Sets the percentage of calls that fail with an error of the system or the network.
        /// Default: 0.
        error_percent(percent: u8) => error_percent = percent;
    }
}

/// An error that a test has set for the next calls of one kind.
#[derive(Debug, Clone, Copy)]
struct Planned {
    error: PlannedError,
    count: usize,
}

/// An error of a planned fault. Unlike [`io::Error`], it can be copied.
#[derive(Debug, Clone, Copy)]
enum PlannedError {
    Errno(i32),
    Kind(ErrorKind),
}

/// Faults of the system calls of one host.
#[derive(Debug, Default)]
pub(super) struct HostFaults {
    random: Faults,
    /// Planned errors, by the kind of call.
    planned: [Option<Planned>; Call::COUNT],
}

impl World {
    /// Sets the random faults of a host.
    pub(crate) fn set_faults(self, host: usize, faults: Faults) {
        self.with(|state| state.hosts[host].faults.random = faults);
    }

    /// Ends all faults of system calls and of the network.
    pub(crate) fn end_faults(self) {
        let cuts = self.with(|state| {
            state
                .hosts
                .iter_mut()
                .for_each(|host| host.faults = HostFaults::default());
            state.links.reset()
        });
        for (from, to) in cuts {
            self.set_cut(from, to, false);
        }
    }

    /// Makes the next `count` calls of one kind fail on a host. Zero ends these failures.
    pub(crate) fn fail_calls(self, host: usize, call: Call, error: &io::Error, count: usize) {
        let error = match error.raw_os_error() {
            Some(errno) => PlannedError::Errno(errno),
            None => PlannedError::Kind(error.kind()),
        };
        self.with(|state| {
            let planned = (count > 0).then_some(Planned { error, count });
            state.hosts[host].faults.planned[call as usize] = planned;
        });
    }
}

impl State {
    /// Chooses the fault of a call of a host. `socket` is the socket of the call, if it exists.
    /// After the result `WouldBlock`, an event reports the socket as ready again.
    pub(super) fn fault(
        &mut self,
        host: usize,
        socket: Option<usize>,
        call: Call,
    ) -> io::Result<()> {
        if let Some(error) = self.planned_error(host, call) {
            return Err(self.failed(socket, call, error));
        }
        if socket.is_some_and(|socket| self.is_blocked(socket, call)) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let faults = &self.hosts[host].faults.random;
        let (error, interrupted) = (faults.error_percent, faults.interrupted_percent);
        let would_block = faults.would_block_percent;
        // A connect does not wait, so no signal interrupts it.
        if call != Call::Connect && self.random.is_percent(interrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        if call != Call::Connect && self.random.is_percent(would_block) {
            return Err(self.failed(socket, call, ErrorKind::WouldBlock.into()));
        }
        if self.random.is_percent(error) {
            let kind = self.random.of(call.errors());
            return Err(self.failed(socket, call, kind.into()));
        }
        Ok(())
    }

    /// Returns true if a call would block because of an earlier fault.
    pub(super) fn is_blocked(&self, socket: usize, call: Call) -> bool {
        self.now < self.sockets[socket].blocked_until[call.direction()]
    }

    fn planned_error(&mut self, host: usize, call: Call) -> Option<io::Error> {
        let slot = &mut self.hosts[host].faults.planned[call as usize];
        let planned = slot.as_mut()?;
        let error = planned.error;
        planned.count = planned.count.saturating_sub(1);
        if planned.count == 0 {
            *slot = None;
        }
        Some(match error {
            PlannedError::Errno(errno) => io::Error::from_raw_os_error(errno),
            PlannedError::Kind(kind) => kind.into(),
        })
    }

    /// Performs the effects of a failed call: the event after a call that would block, and the end
    /// of a connection after an error.
    fn failed(&mut self, socket: Option<usize>, call: Call, error: io::Error) -> io::Error {
        let is_final = matches!(call, Call::Read | Call::Write);
        match (socket, error.kind()) {
            (Some(socket), ErrorKind::WouldBlock) => {
                let direction = call.direction();
                let ready = [Ready::READABLE, Ready::WRITABLE][direction];
                let until = self.now + self.random.time(UNBLOCK_AFTER_MAX);
                self.sockets[socket].blocked_until[direction] = until;
                self.schedule(until, Action::Edge(socket, ready));
            }
            (_, ErrorKind::Interrupted) => {}
            (Some(socket), _) if is_final => self.break_stream(socket),
            _ => {}
        }
        error
    }

    /// Returns the number of bytes, at most `len`, that a read or write may transfer. If a read is
    /// shortened, an event reports the remaining bytes later.
    pub(super) fn shortened(&mut self, socket: usize, call: Call, len: usize) -> usize {
        let host = self.sockets[socket].host;
        let percent = self.hosts[host].faults.random.short_percent;
        if len < 2 || !self.random.is_percent(percent) {
            return len;
        }
        if call == Call::Read {
            let after = self.random.time(UNBLOCK_AFTER_MAX);
            self.schedule(self.now + after, Action::Edge(socket, Ready::READABLE));
        }
        1 + self.random.below(len - 1)
    }
}
