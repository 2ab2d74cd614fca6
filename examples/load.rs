//! A load generator for echo servers, with a histogram of the latency.
//!
//! ```text
//! cargo run --release --example echo
//! cargo run --release --example load -- 127.0.0.1:7000 --connections 100 --depth 4
//! ```

#[path = "support/cli.rs"]
mod cli;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use unstick::{CloseReason, Closed, ConnId, Context, Framing, Handler, Origin, Reactor, TimerId};

const HELP: &str = "\
A load generator for echo servers.

Usage: load ADDR [OPTION]...

  --framing NAME     framing of the server, as in the example echo (default u32)
  --connections N    number of connections (default 50, at most 10000)
  --depth N          messages that each connection sends before it waits for an
                     echo (default 1, at most 1000)
  --size BYTES       length of a message: 16 to 65536 (default 64)
  --seconds N        time to measure (default 5)
  -h, --help         print this help

Prints the messages per second, and percentiles and a histogram of the time from send
to echo. The exit code is 1 if a connection fails, an echo differs, or no echo arrives.";

/// Number of buckets in a group. The first group has a bucket for each microsecond below 16 us.
/// Each later group is for one power of two, and only its upper eight buckets are used. The width
/// of such a bucket is at most an eighth of the latency.
const PARTS: usize = 16;

/// Counts of latencies in microseconds, in buckets whose width grows with the latency.
struct Histogram {
    counts: [u64; 40 * PARTS],
}

impl Histogram {
    fn index(micros: u64) -> usize {
        let parts = PARTS as u64;
        let exponent = u64::from(micros.max(1).ilog2()).saturating_sub(3);
        let part = (micros >> exponent) % parts;
        usize::try_from(exponent * parts + part).unwrap_or(usize::MAX)
    }

    fn add(&mut self, micros: u64) {
        let last = self.counts.len() - 1;
        self.counts[Self::index(micros).min(last)] += 1;
    }

    /// Returns the end of a bucket. All latencies in the bucket are shorter.
    fn end(index: usize) -> u64 {
        (index as u64 % PARTS as u64 + 1) << (index / PARTS)
    }

    fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the end of the bucket of a percentile: at least `per_mille` thousandths of the
    /// latencies are shorter.
    fn percentile(&self, per_mille: u64) -> u64 {
        let rank = (self.total() * per_mille).div_ceil(1000);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        Self::end(found.expect("the rank is at most the total"))
    }

    /// Writes a bar for each power of two that has latencies. The first bar is below 16 us.
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let sums = self.counts.chunks(PARTS).map(|chunk| chunk.iter().sum());
        let sums: Vec<u64> = sums.collect();
        let most = sums.iter().copied().max().unwrap_or(0).max(1);
        for (power, sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0) {
            let bar = "#".repeat(usize::try_from(sum * 50 / most).unwrap_or(50));
            writeln!(
                out,
                "< {:>8} us {sum:>10} {bar}",
                Self::end(PARTS * power + PARTS - 1)
            )?;
        }
        Ok(())
    }
}

struct Load {
    depth: usize,
    /// A message. The first 16 bytes are the time of its send, in nanoseconds since `begun`.
    message: Vec<u8>,
    begun: Instant,
    seconds: u64,
    elapsed: u64,
    /// Draws to standard error, and only if that is a terminal.
    bar: ProgressBar,
    latencies: Histogram,
    failure: Option<String>,
}

impl Load {
    fn send(&mut self, cx: &mut Context<'_, Self>, conn: ConnId) {
        let now = self.begun.elapsed().as_nanos();
        self.message[..16].copy_from_slice(&now.to_be_bytes());
        if let Err(error) = cx.send(conn, &self.message) {
            self.fail(cx, format!("cannot send: {error}"));
        }
    }

    fn fail(&mut self, cx: &mut Context<'_, Self>, failure: String) {
        self.failure.get_or_insert(failure);
        cx.stop();
    }
}

impl Handler for Load {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        for _ in 0..self.depth {
            self.send(cx, conn);
        }
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        let sent = frame.first_chunk().copied().map(u128::from_be_bytes);
        let now = self.begun.elapsed().as_nanos();
        let same_rest = frame.get(16..) == self.message.get(16..);
        match sent
            .and_then(|sent| now.checked_sub(sent))
            .filter(|_| same_rest)
        {
            Some(nanos) => {
                self.latencies
                    .add(u64::try_from(nanos / 1000).unwrap_or(u64::MAX));
                self.send(cx, conn);
            }
            None => self.fail(cx, "an echo differs from its message".to_owned()),
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        let failure = match closed.reason {
            CloseReason::Peer => "the server ended a connection".to_owned(),
            reason => reason.to_string(),
        };
        self.fail(cx, failure);
    }

    /// Draws the progress once a second, and stops the loop when the time is over.
    fn on_timer(&mut self, cx: &mut Context<'_, Self>, _: TimerId, _: u64) {
        self.elapsed += 1;
        self.bar.set_position(self.elapsed);
        self.bar
            .set_message(format!("{} messages", self.latencies.total()));
        if self.elapsed >= self.seconds {
            cx.stop();
        }
    }
}

fn main() -> ExitCode {
    use lexopt::prelude::*;

    cli::run("load", HELP, |mut args| {
        let (mut addr, mut framing) = (None, Framing::length_u32());
        let (mut connections, mut depth, mut size, mut seconds) = (50, 1, 64, 5);
        while let Some(arg) = args.next()? {
            match arg {
                Value(value) if addr.is_none() => addr = Some(cli::text(value)?),
                Long("framing") => framing = args.value()?.parse()?,
                Long("connections") => connections = args.value()?.parse()?,
                Long("depth") => depth = args.value()?.parse()?,
                Long("size") => size = args.value()?.parse()?,
                Long("seconds") => seconds = args.value()?.parse()?,
                arg => return Err(cli::unexpected(arg)),
            }
        }
        let usage = |message: &str| cli::Failure::Usage(message.to_owned());
        let addr = addr.ok_or_else(|| usage("the address of a server is needed"))?;
        let are_valid = (1..=10_000).contains(&connections)
            && (1..=1000).contains(&depth)
            && (16..=65_536).contains(&size)
            && seconds >= 1;
        if !are_valid {
            return Err(usage("the number of an option is out of its range"));
        }
        let style = ProgressStyle::with_template("[{bar:40}] {msg}");
        let style = style.map_err(|error| cli::Failure::Runtime(error.to_string()))?;
        let mut reactor = Reactor::new(Load {
            depth,
            message: vec![b'x'; size],
            begun: Instant::now(),
            seconds,
            elapsed: 0,
            bar: ProgressBar::new(seconds).with_style(style.progress_chars("=> ")),
            latencies: Histogram {
                counts: [0; 40 * PARTS],
            },
            failure: None,
        })?;
        for _ in 0..connections {
            reactor.connect(addr.as_str(), framing.clone(), ());
        }
        reactor.with(|_, cx| cx.set_interval(Duration::from_secs(1), 0));
        reactor.run()?;
        let load = reactor.into_handler();
        load.bar.finish_and_clear();
        if let Some(failure) = load.failure {
            return Err(cli::Failure::Runtime(format!("{addr}: {failure}")));
        }
        let (total, latencies) = (load.latencies.total(), &load.latencies);
        if total == 0 {
            let message = format!("{addr}: no echo arrived within {seconds} s");
            return Err(cli::Failure::Runtime(message));
        }
        let mut out = io::stdout();
        writeln!(out, "{} messages per second", total / seconds)?;
        for (name, per_mille) in [("p50", 500), ("p90", 900), ("p99", 990), ("p99.9", 999)] {
            writeln!(out, "{name:>5} {:>10} us", latencies.percentile(per_mille))?;
        }
        Ok(latencies.write(&mut out)?)
    })
}
