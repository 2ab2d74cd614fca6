//! [`Signal`]: a signal of the operating system. Exists only with the feature `signals`.

use std::fmt;

#[cfg(unix)]
use signal_hook::consts;

/// A signal of the operating system, as [`Context::catch_signal`](crate::Context::catch_signal) and
/// [`Handler::on_signal`](crate::Handler::on_signal) name it.
///
/// Windows has only `SIGINT`, which stands for Ctrl-C, Ctrl-Break and closing the console.
///
/// # Examples
///
/// ```
/// use unstick::Signal;
///
/// assert_eq!(Signal::SIGINT.to_string(), "SIGINT");
/// assert_eq!(Signal::from_raw(2), Signal::SIGINT);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(i32);

impl Signal {
    /// Interrupt from the keyboard: Ctrl-C.
    pub const SIGINT: Self = Self(2);

    /// Returns the signal of a number, as `kill -l` lists it. The number is not checked here, but
    /// when the signal is caught.
    #[must_use]
    pub const fn from_raw(number: i32) -> Self {
        Self(number)
    }

    /// Returns the number of the signal.
    #[must_use]
    pub const fn as_raw(self) -> i32 {
        self.0
    }
}

#[cfg(unix)]
impl Signal {
    /// Hang-up of the terminal. Many servers read their configuration again.
    pub const SIGHUP: Self = Self(consts::SIGHUP);
    /// Quit from the keyboard: Ctrl-\.
    pub const SIGQUIT: Self = Self(consts::SIGQUIT);
    /// Request to end: the default of `kill`.
    pub const SIGTERM: Self = Self(consts::SIGTERM);
    /// First signal without a fixed meaning.
    pub const SIGUSR1: Self = Self(consts::SIGUSR1);
    /// Second signal without a fixed meaning.
    pub const SIGUSR2: Self = Self(consts::SIGUSR2);
    /// End or stop of a child process.
    pub const SIGCHLD: Self = Self(consts::SIGCHLD);
    /// New size of the terminal.
    pub const SIGWINCH: Self = Self(consts::SIGWINCH);
}

/// Writes the name, or `signal 35` if the system has no name for the number.
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(unix)]
        let name = signal_hook::low_level::signal_name(self.0);
        #[cfg(not(unix))]
        let name = (*self == Self::SIGINT).then_some("SIGINT");
        match name {
            Some(name) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signal({self})")
    }
}
