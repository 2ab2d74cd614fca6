//! The checks of the configurations: each error names the first invalid field.

use std::io;
use std::time::Duration;

use super::{Config, Limits};
use crate::error::invalid_input;

/// Maximum of `read_len_max`: one fast peer can make the read buffer grow to that length.
pub(super) const READ_LEN_MAX: usize = 1 << 30;

impl Config {
    /// Checks all fields. The error names the first invalid field.
    pub(crate) fn check(&self) -> io::Result<()> {
        for (field, value) in [
            ("read_len_max", self.read_len_max),
            ("read_budget_bytes", self.read_budget_bytes),
            ("frame_budget", self.frame_budget),
            ("accept_budget", self.accept_budget),
            ("datagram_budget", self.datagram_budget),
            ("memory_bytes_max", self.memory_bytes_max),
            ("connections_max", self.connections_max),
            ("connections_per_addr_max", self.connections_per_addr_max),
            ("preparing_max", self.preparing_max),
            #[cfg(feature = "tls")]
            ("tls_handshake_budget", self.tls_handshake_budget),
            ("timer_budget", self.timer_budget),
            ("posts_max", self.posts_max),
            ("post_budget", self.post_budget),
            ("backlog", self.backlog as usize),
        ] {
            check_positive(field, value)?;
        }
        check_most("read_len_max", self.read_len_max, "1 GiB", READ_LEN_MAX)?;
        check_most(
            "datagram_len_max",
            self.datagram_len_max,
            "the maximum of UDP",
            65_535,
        )?;
        check_nonzero("connect_deadline", Some(self.connect_deadline))?;
        #[cfg(feature = "tls")]
        check_nonzero("tls_handshake_timeout", Some(self.tls_handshake_timeout))?;
        self.limits().check(self.memory_bytes_max)
    }
}

impl Limits {
    /// Checks all fields. The error names the first invalid field. `memory_bytes_max` is the field
    /// of the reactor's configuration.
    pub(crate) fn check(&self, memory_bytes_max: usize) -> io::Result<()> {
        let (low, high) = (self.write_low_bytes, self.write_high_bytes);
        let max = self.write_queue_bytes_max;
        check_most("write_low_bytes", low, "memory_bytes_max", memory_bytes_max)?;
        check_most("write_low_bytes", low, "write_high_bytes", high)?;
        check_most("write_high_bytes", high, "write_queue_bytes_max", max).map_err(|error| {
            invalid_input(format!(
                "{error}: a lower maximum needs lower write_low_bytes and write_high_bytes too"
            ))
        })?;
        check_positive("write_queue_bytes_max", max)?;
        check_nonzero("idle_timeout", self.idle_timeout)?;
        check_nonzero("read_idle_timeout", self.read_idle_timeout)?;
        check_nonzero("frame_deadline", self.frame_deadline)?;
        check_nonzero("write_stall_timeout", self.write_stall_timeout)
    }
}

fn check_positive(field: &str, value: usize) -> io::Result<()> {
    match value {
        0 => Err(invalid_input(format!(
            "{field} is 0, but must be at least 1"
        ))),
        _ => Ok(()),
    }
}

fn check_most(field: &str, value: usize, bound_name: &str, bound: usize) -> io::Result<()> {
    match value > bound {
        true => Err(invalid_input(format!(
            "{field} is {value}, but must be at most {bound_name} ({bound})"
        ))),
        false => Ok(()),
    }
}

/// Checks a timeout. Zero would end every connection at once.
fn check_nonzero(field: &str, timeout: Option<Duration>) -> io::Result<()> {
    match timeout {
        Some(Duration::ZERO) => Err(invalid_input(format!(
            "{field} is 0, but must be at least 1 ns"
        ))),
        _ => Ok(()),
    }
}
