//! Well-behaved clients: one round trip after the other, over several connections.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::attackers::Target;

const CONNECTIONS: usize = 10;
const PAYLOAD: [u8; 64] = [7; 64];
/// Time after which a round trip counts as failed.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two round trips.
const PAUSE: Duration = Duration::from_millis(1);

/// The clients and their latencies.
pub(super) struct Honest {
    target: Target,
    connections: Vec<Option<TcpStream>>,
    latencies: Vec<Duration>,
    failed: usize,
}

impl Honest {
    pub(super) fn new(target: Target) -> Self {
        Self {
            target,
            connections: (0..CONNECTIONS).map(|_| None).collect(),
            latencies: Vec::new(),
            failed: 0,
        }
    }

    /// Makes round trips until `end`, or until `goes_on` returns false. A connection that failed is
    /// opened again.
    pub(super) fn run_until(&mut self, end: Instant, mut goes_on: impl FnMut() -> bool) {
        for index in (0..CONNECTIONS).cycle() {
            if Instant::now() > end || !goes_on() {
                return;
            }
            let began = Instant::now();
            match self.round_trip(index) {
                Ok(()) => self.latencies.push(began.elapsed()),
                Err(_) => {
                    self.failed += 1;
                    self.connections[index] = None;
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Discards the results so far.
    pub(super) fn forget(&mut self) {
        self.latencies.clear();
        self.failed = 0;
    }

    fn round_trip(&mut self, index: usize) -> io::Result<()> {
        let target = self.target;
        let connection = &mut self.connections[index];
        let stream = match connection {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&target.addr, TIMEOUT)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                connection.insert(stream)
            }
        };
        let frame = [&target.framing.prefix(PAYLOAD.len())[..], &PAYLOAD].concat();
        stream.write_all(&frame)?;
        let mut echo = vec![0; frame.len()];
        stream.read_exact(&mut echo)?;
        if echo != frame {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }

    /// Returns five columns of the table: the number of round trips, the number of failed ones, and
    /// the median, the 99th percentile and the maximum of the latency in milliseconds.
    pub(super) fn latencies(&mut self) -> String {
        self.latencies.sort_unstable();
        let count = self.latencies.len();
        let at = |percent: usize| match count {
            0 => "-".into(),
            _ => {
                let index = (count * percent / 100).min(count - 1);
                format!("{:.2}", self.latencies[index].as_secs_f64() * 1000.0)
            }
        };
        format!(
            "{count} | {} | {} | {} | {}",
            self.failed,
            at(50),
            at(99),
            at(100)
        )
    }
}
