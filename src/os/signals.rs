//! A caught signal, which the poll reports. The signal handler of signal-hook writes to a socket
//! whose peer is in the poll, so no thread is needed.

use std::io::{self, Read};

use mio::net::UnixStream;
use signal_hook::consts::FORBIDDEN;
use signal_hook::{SigId, low_level};

use super::{Os, poll, retry};
use crate::error::invalid_input;
use crate::id::PollToken;
use crate::signal::Signal;

/// Signals that request the end of a program.
pub(crate) const ENDING: &[Signal] = &[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// A caught signal, with a pair of connected sockets. The signal handler writes a byte to the
/// sender for each delivery, and the poll reports that the receiver is readable.
#[derive(Debug)]
pub(crate) struct CaughtSignal {
    signal: Signal,
    receiver: UnixStream,
    action: SigId,
}

impl CaughtSignal {
    pub(crate) fn new(os: &Os, signal: Signal) -> io::Result<Self> {
        // signal-hook panics for these signals, because a program cannot catch them safely.
        if FORBIDDEN.contains(&signal.as_raw()) {
            return Err(invalid_input(format!("{signal} cannot be caught")));
        }
        let (receiver, sender) = UnixStream::pair()?;
        let action = low_level::pipe::register(signal.as_raw(), sender)?;
        let mut caught = Self {
            signal,
            receiver,
            action,
        };
        os.real_poller()?
            .register_datagrams(&mut caught.receiver, poll::signal_token(signal))?;
        Ok(caught)
    }

    pub(crate) fn signal(&self) -> Signal {
        self.signal
    }

    /// Returns true if an event with this token reports the signal.
    pub(crate) fn is_of(&self, token: PollToken) -> bool {
        token == poll::signal_token(self.signal)
    }

    /// Returns the number of deliveries since the last call.
    pub(crate) fn take_count(&mut self) -> usize {
        let mut count = 0;
        let mut bytes = [0; 64];
        loop {
            // An error can only be `WouldBlock`, because the sender stays open until the action is
            // unregistered.
            let len = retry(|| self.receiver.read(&mut bytes)).unwrap_or(0);
            count += len;
            if len < bytes.len() {
                return count;
            }
        }
    }
}

impl Drop for CaughtSignal {
    /// Unregisters the action of the signal, which also closes the sender.
    fn drop(&mut self) {
        low_level::unregister(self.action);
    }
}
