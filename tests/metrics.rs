//! The metrics that a reactor publishes to a recorder of the crate `metrics`.

#![cfg(feature = "metrics")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Event, Probe, client, drive, settle};
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};
use unstick::{Config, Framing, Reactor};

/// Values by name and labels. A histogram is stored as the number of its values.
#[derive(Debug, Default)]
struct Values {
    values: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    described: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Times(Arc<AtomicU64>);

impl HistogramFn for Times {
    fn record(&self, seconds: f64) {
        assert!((0.0..60.0).contains(&seconds), "a time of {seconds} s");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Values {
    fn value(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key
            .labels()
            .map(|it| format!("{}={}", it.key(), it.value()))
            .collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        let mut values = self.values.lock().expect("no test panics with the lock");
        values.entry(name).or_default().clone()
    }

    /// Returns a value, or 0 if it is not registered. `labels` follow the label of the reactor.
    fn get(&self, name: &str, labels: &str) -> u64 {
        let name = format!("unstick_{name}{{reactor=main{labels}}}");
        let values = self.values.lock().expect("no test panics with the lock");
        values
            .get(&name)
            .map_or(0, |value| value.load(Ordering::Relaxed))
    }

    fn describe(&self, key: &KeyName) {
        let mut described = self.described.lock().expect("no test panics with the lock");
        described.push(key.as_str().to_owned());
    }
}

impl Recorder for Values {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        assert!(key.as_str().ends_with("_total"), "{key:?}");
        self.describe(&key);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&key);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        assert!(key.as_str().ends_with("_seconds"), "{key:?}");
        self.describe(&key);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.value(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.value(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Times(self.value(key))))
    }
}

fn publishing(config: Config) -> (Reactor<Probe>, std::net::SocketAddr) {
    let (mut reactor, addr) =
        common::listening(Probe::echo(), config, Framing::line().frame_len_max(9));
    reactor.with(|_, cx| cx.publish_metrics(Duration::ZERO, "main"));
    (reactor, addr)
}

/// Runs until the metrics of this moment are published.
fn publish(reactor: &mut Reactor<Probe>, values: &Values) {
    settle(reactor);
    let turns = reactor.stats().turns;
    drive(reactor, |_| values.get("turns_total", "") > turns);
}

#[test]
fn metrics_equal_the_traffic_of_the_clients() {
    let values = Values::default();
    with_local_recorder(&values, || {
        let mut config = Config::default();
        config.connections_max = 3;
        config.slow_callback_min = Some(Duration::from_secs(1));
        let (mut reactor, addr) = publishing(config);
        let mut clients: Vec<_> = (0..3).map(|_| client(addr)).collect();
        for client in &mut clients {
            client
                .write_all(&b"frame\n".repeat(10))
                .expect("the server reads");
        }
        drive(&mut reactor, |it| it.stats().frames_out == 30);
        for client in &mut clients {
            client.read_exact(&mut [0; 60]).expect("the server echoes");
        }
        let mut refused = client(addr);
        settle(&mut reactor);
        assert_eq!(refused.read(&mut [0]).expect("the server sends a FIN"), 0);
        publish(&mut reactor, &values);
        assert_eq!(values.get("received_frames_total", ""), 30);
        assert_eq!(values.get("sent_frames_total", ""), 30);
        assert_eq!(values.get("received_bytes_total", ""), 180);
        assert_eq!(values.get("sent_bytes_total", ""), 180);
        assert_eq!(values.get("accepted_connections_total", ""), 3);
        assert_eq!(
            values.get("refused_connections_total", ",limit=connections"),
            1
        );
        let connections = f64::from_bits(values.get("connections", ""));
        assert!((connections - 3.0).abs() < 0.1, "{connections} connections");

        clients[0]
            .write_all(b"0123456789\n")
            .expect("the server reads");
        drop(clients);
        drive(&mut reactor, |it| it.stats().connections == 0);
        publish(&mut reactor, &values);
        assert_eq!(values.get("frame_errors_total", ",error=too_long"), 1);
        assert_eq!(values.get("closed_connections_total", ",reason=frame"), 1);
        assert_eq!(values.get("closed_connections_total", ",reason=peer"), 2);
        assert!(
            values.get("callback_duration_seconds", "") >= 36,
            "3 opens, 30 frames, 3 closes"
        );
        let turns = values.get("turn_duration_seconds", "");
        assert!(
            (1..=reactor.stats().turns).contains(&turns),
            "{turns} measured turns"
        );
    });
}

/// A counter for a limit, an error or a reason is registered when it counts for the first time. So
/// the test refuses a client, and another client sends a line that is too long.
#[test]
fn every_metric_has_a_description() {
    let values = Values::default();
    with_local_recorder(&values, || {
        let mut config = Config::default();
        config.connections_max = 1;
        let (mut reactor, addr) = publishing(config);
        let mut accepted = client(addr);
        let _refused = client(addr);
        drive(&mut reactor, |it| it.stats().refused == 1);
        let sent = accepted.write_all(b"0123456789\n");
        sent.expect("the server reads");
        let is_error = |it: &Event| matches!(it, Event::FrameError(..));
        drive(&mut reactor, |it| it.handler().count(is_error) == 1);
        drop(accepted);
        drive(&mut reactor, |it| it.stats().closed == 1);
    });
    let valued = values.values.lock().expect("no test panics with the lock");
    let valued: BTreeSet<_> = valued
        .keys()
        .map(|key| key.split('{').next().unwrap_or_default())
        .collect();
    let described = values.described.lock();
    let described = described.expect("no test panics with the lock");
    let described: BTreeSet<_> = described.iter().map(String::as_str).collect();
    assert_eq!(valued, described);
    assert!(valued.len() > 40, "{valued:?}");
}
