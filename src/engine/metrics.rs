//! The metrics of a reactor, published to the facade of the crate `metrics` at intervals.
//!
//! The metrics add no work to a frame: they copy the counters of the statistics at each interval.
//! They add one reading of the clock to each turn, and one look-up to each end of a connection.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, SharedString, Unit};

use super::{Engine, Task};
use crate::stats::Stats;

/// The shortest interval. A shorter one would spend much of the time on publishing.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Name, unit, description and value of a counter.
type CounterRow = (&'static str, Unit, &'static str, fn(&Stats) -> u64);

const COUNTERS: &[CounterRow] = &[
    (
        "unstick_turns_total",
        Unit::Count,
        "Turns of the loop.",
        |it| it.turns,
    ),
    (
        "unstick_events_total",
        Unit::Count,
        "Events returned by the poll.",
        |it| it.events,
    ),
    (
        "unstick_accepted_connections_total",
        Unit::Count,
        "Accepted connections.",
        |it| it.accepted,
    ),
    (
        "unstick_opened_connections_total",
        Unit::Count,
        "Connections opened by a connect or adopted.",
        |it| it.connected,
    ),
    (
        "unstick_accept_errors_total",
        Unit::Count,
        "Failed accepts.",
        |it| it.accept_errors,
    ),
    (
        "unstick_preparations_total",
        Unit::Count,
        "Preparations that began, such as TLS handshakes.",
        |it| it.preparations,
    ),
    (
        "unstick_failed_preparations_total",
        Unit::Count,
        "Preparations during which the connection ended.",
        |it| it.preparations_failed,
    ),
    (
        "unstick_tls_handshakes_total",
        Unit::Count,
        "TLS handshakes that began.",
        |it| it.tls_handshakes,
    ),
    (
        "unstick_tls_established_total",
        Unit::Count,
        "TLS handshakes that succeeded.",
        |it| it.tls_established,
    ),
    (
        "unstick_tls_resumed_total",
        Unit::Count,
        "TLS handshakes that resumed an earlier session.",
        |it| it.tls_resumed,
    ),
    (
        "unstick_tls_failed_total",
        Unit::Count,
        "TLS sessions that ended with an error.",
        |it| it.tls_failed,
    ),
    (
        "unstick_tls_truncated_total",
        Unit::Count,
        "TLS sessions that ended without a close_notify.",
        |it| it.tls_truncated,
    ),
    (
        "unstick_received_frames_total",
        Unit::Count,
        "Delivered frames.",
        |it| it.frames_in,
    ),
    (
        "unstick_sent_frames_total",
        Unit::Count,
        "Accepted payloads.",
        |it| it.frames_out,
    ),
    (
        "unstick_split_frames_total",
        Unit::Count,
        "Frames that arrived in more than one read.",
        |it| it.frames_split,
    ),
    (
        "unstick_skipped_frames_total",
        Unit::Count,
        "Frames that were skipped because they were too long.",
        |it| it.frames_skipped,
    ),
    (
        "unstick_reads_total",
        Unit::Count,
        "Read calls on connections.",
        |it| it.reads,
    ),
    (
        "unstick_writes_total",
        Unit::Count,
        "Write calls on connections.",
        |it| it.writes,
    ),
    (
        "unstick_received_bytes_total",
        Unit::Bytes,
        "Bytes read from connections, including framing.",
        |it| it.read_bytes,
    ),
    (
        "unstick_sent_bytes_total",
        Unit::Bytes,
        "Bytes of connections taken by the kernel, including framing.",
        |it| it.written_bytes,
    ),
    (
        "unstick_unsent_bytes_total",
        Unit::Bytes,
        "Accepted bytes of ended connections that the kernel never took.",
        |it| it.unsent_bytes,
    ),
    (
        "unstick_undecoded_bytes_total",
        Unit::Bytes,
        "Read bytes of ended connections that were never delivered.",
        |it| it.undecoded_bytes,
    ),
    (
        "unstick_received_datagrams_total",
        Unit::Count,
        "Delivered datagrams.",
        |it| it.datagrams_in,
    ),
    (
        "unstick_sent_datagrams_total",
        Unit::Count,
        "Datagrams taken by the kernel.",
        |it| it.datagrams_out,
    ),
    (
        "unstick_received_datagram_bytes_total",
        Unit::Bytes,
        "Bytes of delivered datagrams.",
        |it| it.datagram_bytes_in,
    ),
    (
        "unstick_sent_datagram_bytes_total",
        Unit::Bytes,
        "Bytes of datagrams taken by the kernel.",
        |it| it.datagram_bytes_out,
    ),
    (
        "unstick_dropped_datagrams_total",
        Unit::Count,
        "Outgoing datagrams that were lost.",
        |it| it.datagrams_dropped,
    ),
    (
        "unstick_overflowed_datagrams_total",
        Unit::Count,
        "Datagrams that the kernel dropped because a receive buffer was full.",
        |it| it.datagrams_overflowed,
    ),
    (
        "unstick_refused_datagrams_total",
        Unit::Count,
        "Datagrams without a valid header of the PROXY protocol.",
        |it| it.datagrams_refused,
    ),
    (
        "unstick_datagram_errors_total",
        Unit::Count,
        "Errors of datagram sockets.",
        |it| it.datagram_errors,
    ),
    (
        "unstick_slow_callbacks_total",
        Unit::Count,
        "Callbacks that took at least slow_callback_min.",
        |it| it.slow_callbacks,
    ),
];

/// Name, unit, description and value of a gauge.
type GaugeRow = (&'static str, Unit, &'static str, fn(&Stats) -> usize);

const GAUGES: &[GaugeRow] = &[
    (
        "unstick_connections",
        Unit::Count,
        "Connections in any state.",
        |it| it.connections,
    ),
    (
        "unstick_preparing_connections",
        Unit::Count,
        "Connections that are being prepared.",
        |it| it.preparing,
    ),
    (
        "unstick_held_bytes",
        Unit::Bytes,
        "Memory of all buffers.",
        |it| it.held_bytes,
    ),
    (
        "unstick_ready_sockets",
        Unit::Count,
        "Sockets that wait for their dispatch.",
        |it| it.ready,
    ),
    ("unstick_timers", Unit::Count, "Set timers.", |it| it.timers),
];

const CLOSED: &str = "unstick_closed_connections_total";
const FRAME_ERRORS: &str = "unstick_frame_errors_total";
const REFUSED: &str = "unstick_refused_connections_total";
const TURN: &str = "unstick_turn_duration_seconds";
const CALLBACK: &str = "unstick_callback_duration_seconds";

/// The metrics of one reactor.
pub(super) struct Published {
    interval: Duration,
    counters: Vec<Counter>,
    gauges: Vec<Gauge>,
    closed: ByLabel,
    frame_errors: ByLabel,
    refused: ByLabel,
    turns: Times,
    callbacks: Times,
}

impl Published {
    fn new(interval: Duration, reactor: &SharedString) -> Self {
        for (name, unit, description, _) in COUNTERS {
            metrics::describe_counter!(*name, *unit, *description);
        }
        for (name, unit, description, _) in GAUGES {
            metrics::describe_gauge!(*name, *unit, *description);
        }
        metrics::describe_counter!(CLOSED, Unit::Count, "Ended connections, by reason.");
        metrics::describe_counter!(
            FRAME_ERRORS,
            Unit::Count,
            "Invalid frames, by kind of error."
        );
        metrics::describe_counter!(REFUSED, Unit::Count, "Refused connections, by limit.");
        metrics::describe_histogram!(TURN, Unit::Seconds, "Time of a turn after its wait.");
        let callback = "Time of a callback, if slow_callback_min is set.";
        metrics::describe_histogram!(CALLBACK, Unit::Seconds, callback);
        let counter = |name| metrics::counter!(name, "reactor" => reactor.clone());
        let gauge = |name| metrics::gauge!(name, "reactor" => reactor.clone());
        let times = |name| Times::new(metrics::histogram!(name, "reactor" => reactor.clone()));
        let by_label = |name, label| ByLabel::new(name, label, reactor.clone());
        Self {
            interval: interval.max(INTERVAL_MIN),
            counters: COUNTERS.iter().map(|(name, ..)| counter(*name)).collect(),
            gauges: GAUGES.iter().map(|(name, ..)| gauge(*name)).collect(),
            closed: by_label(CLOSED, "reason"),
            frame_errors: by_label(FRAME_ERRORS, "error"),
            refused: by_label(REFUSED, "limit"),
            turns: times(TURN),
            callbacks: times(CALLBACK),
        }
    }

    fn publish(&mut self, stats: &Stats) {
        for (counter, (.., value)) in self.counters.iter().zip(COUNTERS) {
            counter.absolute(value(stats));
        }
        for (gauge, (.., value)) in self.gauges.iter().zip(GAUGES) {
            gauge.set(value(stats) as f64);
        }
        self.turns.publish();
        self.callbacks.publish();
    }
}

impl std::fmt::Debug for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Published")
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

/// A counter for each value of a label. A value is added when it occurs for the first time.
struct ByLabel {
    name: &'static str,
    label: &'static str,
    reactor: SharedString,
    counters: Vec<(&'static str, Counter)>,
}

impl ByLabel {
    fn new(name: &'static str, label: &'static str, reactor: SharedString) -> Self {
        Self {
            name,
            label,
            reactor,
            counters: Vec::new(),
        }
    }

    fn count(&mut self, value: &'static str) {
        let index = self.counters.iter().position(|(known, _)| *known == value);
        let index = index.unwrap_or_else(|| {
            let labels = [
                ("reactor", self.reactor.clone()),
                (self.label, value.into()),
            ];
            self.counters
                .push((value, metrics::counter!(self.name, &labels)));
            self.counters.len() - 1
        });
        self.counters[index].1.increment(1);
    }
}

/// Number of buckets for each power of two. A published time differs from the measured one by at
/// most an eighth.
const BUCKETS_PER_OCTAVE: u32 = 4;
/// Number of buckets: they cover times below 2^45 nanoseconds, which are almost ten hours. Longer
/// times count in the last bucket.
const BUCKETS: usize = 45 * BUCKETS_PER_OCTAVE as usize;

/// Measured times that are not published yet, as counts of logarithmic buckets.
struct Times {
    counts: Box<[u32; BUCKETS]>,
    histogram: Histogram,
}

impl Times {
    fn new(histogram: Histogram) -> Self {
        Self {
            counts: Box::new([0; BUCKETS]),
            histogram,
        }
    }

    fn record(&mut self, time: Duration) {
        let count = &mut self.counts[bucket_of(time)];
        *count = count.saturating_add(1);
    }

    fn publish(&mut self) {
        for (bucket, count) in self.counts.iter_mut().enumerate() {
            if *count > 0 {
                let count = std::mem::take(count) as usize;
                self.histogram.record_many(seconds_of(bucket), count);
            }
        }
    }
}

/// Returns the bucket of a time: its highest bit, and the two bits after it.
fn bucket_of(time: Duration) -> usize {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
    let octave = nanos.ilog2();
    let next_bits = ((u128::from(nanos) << 2) >> octave) & 3;
    let bucket = octave * BUCKETS_PER_OCTAVE + u32::try_from(next_bits).unwrap_or_default();
    (bucket as usize).min(BUCKETS - 1)
}

/// Returns the middle of a bucket, in seconds.
fn seconds_of(bucket: usize) -> f64 {
    let per_octave = BUCKETS_PER_OCTAVE as usize;
    let octave = i32::try_from(bucket / per_octave).unwrap_or_default();
    let part = (bucket % per_octave) as f64 + 0.5;
    2_f64.powi(octave) * (1.0 + part / per_octave as f64) * 1e-9
}

impl Engine {
    /// Publishes the metrics now and at each interval.
    pub(crate) fn publish_metrics(&mut self, interval: Duration, reactor: SharedString) {
        let is_armed = self.telemetry.metrics.is_some();
        self.telemetry.metrics = Some(Box::new(Published::new(interval, &reactor)));
        match is_armed {
            true => self.publish_now(),
            false => self.metrics_due(),
        }
    }

    /// Handles the timer of an interval.
    pub(crate) fn metrics_due(&mut self) {
        self.publish_now();
        if let Some(metrics) = &self.telemetry.metrics {
            self.timers.set_task(metrics.interval, Task::Metrics);
        }
    }

    fn publish_now(&mut self) {
        let stats = self.stats();
        if let Some(metrics) = &mut self.telemetry.metrics {
            metrics.publish(&stats);
        }
    }

    /// Records the time of the turn that ends: from the end of its wait, which is `timers.now`,
    /// until now.
    #[inline]
    pub(crate) fn measure_turn(&mut self) {
        if let Some(metrics) = &mut self.telemetry.metrics {
            let took = self.os.now().saturating_duration_since(self.timers.now);
            metrics.turns.record(took);
        }
    }

    pub(super) fn measure_callback(&mut self, took: Duration) {
        if let Some(metrics) = &mut self.telemetry.metrics {
            metrics.callbacks.record(took);
        }
    }

    pub(super) fn count_closed(&mut self, reason: &'static str) {
        if let Some(metrics) = &mut self.telemetry.metrics {
            metrics.closed.count(reason);
        }
    }

    pub(super) fn count_frame_error(&mut self, error: &'static str) {
        if let Some(metrics) = &mut self.telemetry.metrics {
            metrics.frame_errors.count(error);
        }
    }

    pub(super) fn count_refused(&mut self, limit: &'static str) {
        if let Some(metrics) = &mut self.telemetry.metrics {
            metrics.refused.count(limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_time_differs_by_at_most_an_eighth() {
        let mut nanos = 1_u64;
        while nanos < 1 << 44 {
            let published = seconds_of(bucket_of(Duration::from_nanos(nanos))) * 1e9;
            let error = (published - nanos as f64).abs() / nanos as f64;
            assert!(error <= 0.126, "{nanos} ns are published as {published}");
            nanos += nanos / 7 + 1;
        }
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
        assert_eq!(bucket_of(Duration::ZERO), 0);
    }
}
