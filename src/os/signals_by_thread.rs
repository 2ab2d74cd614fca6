//! Signals on a system without Unix signals: the thread of `ctrlc` wakes the loop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Os, poll};
use crate::id::PollToken;
use crate::log_target::LOG_TARGET;
use crate::signal::Signal;

/// Signals that request the end of a program.
pub(crate) const ENDING: &[Signal] = &[Signal::SIGINT];

/// A caught signal: a count of its deliveries. Each delivery wakes the loop.
#[derive(Debug)]
pub(crate) struct CaughtSignal {
    count: Arc<AtomicUsize>,
}

impl CaughtSignal {
    pub(crate) fn new(os: &Os, signal: Signal) -> io::Result<Self> {
        if signal != Signal::SIGINT {
            let error = format!("{signal} cannot be caught on this system");
            return Err(io::Error::new(io::ErrorKind::Unsupported, error));
        }
        let count = Arc::new(AtomicUsize::new(0));
        let (counter, waker) = (Arc::clone(&count), os.waker());
        let handler = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = waker.wake() {
                log::error!(target: LOG_TARGET, "cannot wake the loop after a signal: {error}");
            }
        };
        ctrlc::set_handler(handler).map_err(|error| match error {
            ctrlc::Error::System(error) => error,
            ctrlc::Error::MultipleHandlers => io::Error::new(io::ErrorKind::AlreadyExists, error),
            ctrlc::Error::NoSuchSignal(_) => io::Error::other(error),
        })?;
        Ok(Self { count })
    }

    pub(crate) fn signal(&self) -> Signal {
        Signal::SIGINT
    }

    /// Returns true if an event with this token may report the signal.
    pub(crate) fn is_of(&self, token: PollToken) -> bool {
        token == poll::WAKER
    }

    /// Returns the number of deliveries since the last call.
    pub(crate) fn take_count(&mut self) -> usize {
        self.count.swap(0, Ordering::Relaxed)
    }
}
