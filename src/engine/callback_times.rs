//! The callback time of each connection, if it is measured.
//!
//! The times are stored beside the slab, so that connections that are not measured pay nothing.

use std::time::Duration;

use crate::id::Token;

/// The callback time of each connection, indexed by slab key.
#[derive(Debug, Default)]
pub(super) struct CallbackTimes(Vec<Duration>);

impl CallbackTimes {
    /// Adds the duration of one callback.
    pub(super) fn add(&mut self, token: Token, took: Duration) {
        let key = token.key() as usize;
        if key >= self.0.len() {
            self.0.resize(key + 1, Duration::ZERO);
        }
        self.0[key] += took;
    }

    /// Returns the total time of a connection; zero if it is not measured.
    pub(super) fn of(&self, token: Token) -> Duration {
        let time = self.0.get(token.key() as usize);
        time.copied().unwrap_or_default()
    }

    /// Resets the time of a key that is freed.
    pub(super) fn forget(&mut self, token: Token) {
        if let Some(time) = self.0.get_mut(token.key() as usize) {
            *time = Duration::ZERO;
        }
    }
}
