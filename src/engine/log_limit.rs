//! The rate limit of log lines: at most one line per second and topic, so that a peer cannot flood
//! the log.

use std::fmt;
use std::time::{Duration, Instant};

/// Minimum time between two lines of one topic.
const PERIOD: Duration = Duration::from_secs(1);

/// Logs a warning of an engine about a topic, unless the rate limit suppresses the warning.
macro_rules! warn_limited {
    ($engine:expr, $topic:ident => $($message:tt)+) => {{
        let topic = $crate::engine::log_limit::LogTopic::$topic;
        let now = $engine.timers.now;
        if let Some(suppressed) = $engine.telemetry.log_limit.pass(topic, now) {
            log::warn!(
                target: $crate::log_target::LOG_TARGET,
                "{}{suppressed}", format_args!($($message)+)
            );
        }
    }};
}

pub(super) use warn_limited;

/// The subject of a log line. Each topic has its own limit.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LogTopic {
    Accept,
    Refused,
    Frame,
    Preparation,
    Skipped,
    Datagram,
    Memory,
    Shed,
    Slow,
}

/// The time of the last line of each topic, and the number of lines suppressed since then.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    topics: [(Option<Instant>, u64); 9],
}

impl LogLimit {
    /// Returns `None` if a line of this topic is suppressed at `now`. Otherwise returns the suffix
    /// of the line, which reports the number of lines suppressed before it.
    pub(crate) fn pass(&mut self, topic: LogTopic, now: Instant) -> Option<Suppressed> {
        let (last, suppressed) = &mut self.topics[topic as usize];
        if last.is_some_and(|last| now.saturating_duration_since(last) < PERIOD) {
            *suppressed += 1;
            return None;
        }
        *last = Some(now);
        Some(Suppressed(std::mem::take(suppressed)))
    }
}

/// Number of lines suppressed since the last line of the topic. Displayed as the suffix of the next
/// line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Suppressed(u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " ({count} similar lines suppressed)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_limit_passes_a_line_a_second_and_counts_the_rest() {
        let mut log_limit = LogLimit::default();
        let start = Instant::now();
        let mut lines = Vec::new();
        for error in 0..1_000_000 {
            let now = start + Duration::from_micros(3 * error);
            lines.extend(log_limit.pass(LogTopic::Frame, now));
        }
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].to_string(), "");
        assert!(lines[1].0 > 333_000);
        assert_eq!(
            log_limit.pass(LogTopic::Accept, start),
            Some(Suppressed(0)),
            "each topic has its own limit"
        );
    }
}
