//! The targets of log lines, which programs use to filter them.

/// Target of all log lines except those of single reads and writes.
pub(crate) const LOG_TARGET: &str = "unstick";
/// Target of the log lines of single reads and writes.
pub(crate) const IO_TARGET: &str = "unstick::io";
