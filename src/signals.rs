//! Shutdown on signals: the `signals` feature.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::handler::Handler;
use crate::reactor::Reactor;

impl<H: Handler + 'static> Reactor<H> {
    /// Shuts the reactor down, like [`Context::shutdown`](crate::Context::shutdown), when the
    /// process receives SIGINT (Ctrl-C), SIGTERM or SIGHUP.
    ///
    /// On Windows, Ctrl-C, Ctrl-Break and closing the console have this effect. A second signal
    /// does not wait for `deadline`: the remaining connections are aborted at once.
    ///
    /// Call it in programs, not in libraries, because signals belong to the process. The signals
    /// stay caught until the process ends, even after the reactor is dropped. The crate `ctrlc`
    /// catches them in its own thread. Requires the feature `signals`.
    ///
    /// # Errors
    ///
    /// * `AlreadyExists`: the process catches these signals already, through this method or through
    ///   `ctrlc`. Install only one handler.
    /// * Any other error of the system while the handlers are installed.
    pub fn shutdown_on_signals(&self, deadline: Duration) -> io::Result<()> {
        let remote = self.remote();
        let is_second = AtomicBool::new(false);
        let handler = move || {
            let deadline = match is_second.swap(true, Ordering::Relaxed) {
                false => deadline,
                true => Duration::ZERO,
            };
            if let Err(error) = remote.shutdown(deadline) {
                log::error!("cannot wake the loop to shut down after a signal: {error}");
            }
        };
        // `try_set_handler` would fail for an ignored signal. A shell starts background jobs with
        // SIGINT ignored, and `nohup` ignores SIGHUP.
        ctrlc::set_handler(handler).map_err(|error| match error {
            ctrlc::Error::System(error) => error,
            ctrlc::Error::MultipleHandlers => io::Error::new(io::ErrorKind::AlreadyExists, error),
            ctrlc::Error::NoSuchSignal(_) => io::Error::other(error),
        })
    }
}
