//! The service manager: sockets that it passes or keeps, and reports to it (sd_notify(3)).
//!
//! Without a service manager, the environment variables are not set, and all reports do nothing. A
//! report that fails is logged, because the server works without it.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;

/// The sockets of the `.socket` unit, or those that an earlier process stored.
#[derive(Default)]
pub(crate) struct Inherited {
    pub(crate) listener: Option<TcpListener>,
    pub(crate) udp: Option<UdpSocket>,
}

/// Takes the inherited sockets. A socket of another kind is an error.
pub(crate) fn inherited() -> io::Result<Inherited> {
    let mut inherited = Inherited::default();
    let mut all = ListenFd::from_env();
    for index in 0..all.len() {
        match all.take_udp_socket(index) {
            Ok(udp) => inherited.udp = udp,
            Err(_) => inherited.listener = all.take_tcp_listener(index)?,
        }
    }
    Ok(inherited)
}

/// Stores a duplicate of a socket in the service manager, until the service is stopped. If the
/// process crashes, the next one inherits the socket.
pub(crate) fn store(name: &str, socket: BorrowedFd<'_>) {
    let state = [NotifyState::FdStore, NotifyState::FdName(name)];
    log_failure(sd_notify::notify_with_fds(&state, &[socket]));
}

/// Reports that the process serves.
pub(crate) fn report_ready() {
    log_failure(sd_notify::notify(&[NotifyState::Ready]));
}

/// Reports that the process is about to end.
pub(crate) fn report_stopping() {
    log_failure(sd_notify::notify(&[NotifyState::Stopping]));
}

/// Returns the time between two reports to the watchdog, or `None` if the watchdog is off. The
/// service manager kills a process that is silent for twice this time.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|time| time / 2)
}

/// Reports that the event loop runs.
pub(crate) fn feed_watchdog() {
    log_failure(sd_notify::notify(&[NotifyState::Watchdog]));
}

fn log_failure(result: io::Result<()>) {
    if let Err(error) = result {
        log::warn!("the service manager did not get a report: {error}");
    }
}
