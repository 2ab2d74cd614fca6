//! Signals of the process.

use std::io;

use super::Context;
use crate::handler::Handler;
use crate::signal::Signal;

/// Signals.
impl<H: Handler> Context<'_, H> {
    /// Catches a signal: [`on_signal`](Handler::on_signal) reports it from now on.
    ///
    /// The signal loses its default effect until the process ends, even after the reactor is
    /// dropped. If [`Reactor::shutdown_on_signals`](crate::Reactor::shutdown_on_signals) caught the
    /// signal before, the signal no longer shuts the reactor down. If several reactors of a process
    /// catch a signal, each of them reports it. Succeeds and does nothing if this reactor reports
    /// the signal already.
    ///
    /// On Unix, a signal takes two descriptors, which are closed with the reactor. Call this method
    /// in programs, not in libraries, because signals belong to the process. Requires the feature
    /// `signals`.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: the system has no signal of this number, or the signal cannot be caught:
    ///   SIGKILL, SIGSTOP, SIGILL, SIGFPE or SIGSEGV.
    /// * `Unsupported`: on Windows, every signal but `SIGINT`.
    /// * `AlreadyExists`: on Windows, the process has another handler of the crate `ctrlc`.
    /// * Any other error of the system, for example if no descriptor is free.
    ///
    /// # Examples
    ///
    /// A server that reads its configuration again on SIGHUP. SIGINT and SIGTERM still end it:
    ///
    /// ```
    /// # #[cfg(unix)]
    /// # mod unix {
    /// use std::time::Duration;
    /// use unstick::{ConnId, Context, Framing, Handler, Reactor, Signal};
    ///
    /// struct Server {
    ///     motto: String,
    /// }
    ///
    /// impl Handler for Server {
    ///     type Session = ();
    ///
    ///     fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: &[u8]) {
    ///         let _ = cx.send(conn, self.motto.as_bytes());
    ///     }
    ///
    ///     fn on_signal(&mut self, cx: &mut Context<'_, Self>, signal: Signal) {
    ///         self.motto = std::fs::read_to_string("motto.txt").unwrap_or_default();
    /// #       assert_eq!(signal, Signal::SIGHUP);
    /// #       cx.stop();
    ///     }
    /// }
    ///
    /// # pub fn main() -> std::io::Result<()> {
    /// let mut reactor = Reactor::new(Server { motto: String::new() })?;
    /// reactor.shutdown_on_signals(Duration::from_secs(3))?;
    /// reactor.with(|_, cx| cx.catch_signal(Signal::SIGHUP))?;
    /// reactor.listen("127.0.0.1:0", Framing::line())?;
    /// # let id = std::process::id().to_string();
    /// # std::process::Command::new("kill").args(["-HUP", &id]).status()?;
    /// reactor.run()
    /// # }
    /// # }
    /// # fn main() -> std::io::Result<()> {
    /// #     #[cfg(unix)]
    /// #     return unix::main();
    /// #     #[cfg(not(unix))]
    /// #     return Ok(());
    /// # }
    /// ```
    pub fn catch_signal(&mut self, signal: Signal) -> io::Result<()> {
        self.engine.catch_signal(signal)
    }
}
