//! The targets of log lines, which programs use to filter them, and the lines about a connection.

/// Target of all log lines except those of single reads and writes.
pub(crate) const LOG_TARGET: &str = "unstick";
/// Target of the log lines of single reads and writes.
pub(crate) const IO_TARGET: &str = "unstick::io";

/// Logs a line about one connection. With the feature `log-kv`, the line also has the keys `conn`
/// and `peer`.
macro_rules! log_conn {
    ($level:ident, $target:expr, $conn:expr, $peer:expr, $($message:tt)+) => {{
        #[cfg(feature = "log-kv")]
        log::$level!(target: $target, conn:% = $conn, peer:% = $peer; $($message)+);
        #[cfg(not(feature = "log-kv"))]
        {
            let _ = (&$conn, &$peer); // only the keys need them
            log::$level!(target: $target, $($message)+);
        }
    }};
}

pub(crate) use log_conn;
