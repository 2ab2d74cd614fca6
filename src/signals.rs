//! Signals that end a program: the `signals` feature.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::handler::Handler;
use crate::reactor::Reactor;

impl<H: Handler + 'static> Reactor<H> {
    /// Shuts the reactor down, as [`Context::shutdown`](crate::Context::shutdown) does, when the
    /// process is asked to end: by SIGINT (Ctrl-C), SIGTERM or SIGHUP, on Windows by Ctrl-C,
    /// Ctrl-Break or the closing of its console. The second one does not wait for `deadline`: what
    /// is left is aborted at once.
    ///
    /// It is for programs: signals belong to the process, so a library leaves them alone. They are
    /// caught from now on until the process ends, also when the reactor is gone; the crate `ctrlc`
    /// does that, in a thread of its own. Requires the feature `signals`.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` where the signals of the process are caught by somebody already, by this or
    /// by `ctrlc`; else what the system answered.
    pub fn shutdown_on_signals(&self, deadline: Duration) -> io::Result<()> {
        let remote = self.remote();
        let is_second = AtomicBool::new(false);
        let handler = move || {
            let deadline = match is_second.swap(true, Ordering::Relaxed) {
                false => deadline,
                true => Duration::ZERO,
            };
            if let Err(error) = remote.shutdown(deadline) {
                log::error!("the loop could not be woken for a signal: {error}");
            }
        };
        // Not `try_set_handler`: a signal that is ignored counts as caught there, and a shell
        // starts what runs in the background with SIGINT ignored, `nohup` with SIGHUP.
        ctrlc::set_handler(handler).map_err(|error| match error {
            ctrlc::Error::System(error) => error,
            ctrlc::Error::MultipleHandlers => io::Error::new(io::ErrorKind::AlreadyExists, error),
            ctrlc::Error::NoSuchSignal(_) => io::Error::other(error),
        })
    }
}
