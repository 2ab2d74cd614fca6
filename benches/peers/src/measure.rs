//! Measures one cell, which is one kind of load, with all servers.
//!
//! The speed of a machine can change by a third within a second, because of its clock frequency,
//! other programs or interrupts. If each server were measured completely before the next one, the
//! servers would see different speeds. So all servers run at the same time, and the load alternates
//! between them:
//!
//! * A slice is a short time (20 to 60 ms) during which one server is loaded.
//! * A round has two slices per server: all servers in order, then all servers in reverse order.
//!   So the middle of a round is the same instant for every server.
//!
//! Servers are compared within a round, and the result is the median over all rounds.

use std::io;
use std::time::Instant;

use crate::cell::Cell;
use crate::load::{AnyLoad, Until, Waiting};
use crate::process::{CpuClock, Process};
use crate::servers::Server;
use crate::statistics::{Quartiles, percentile, quartiles};

/// Processor cores of the servers and of the load.
#[derive(Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) servers: usize,
    pub(crate) load: usize,
}

/// Parameters of the measurement, equal for every cell.
pub(crate) struct Plan {
    pub(crate) servers: Vec<&'static Server>,
    pub(crate) rounds: usize,
    /// Duration of a slice in milliseconds; if `None`, [`Cell::slice`] returns it.
    pub(crate) slice_ms: Option<u64>,
    pub(crate) check: bool,
    /// Number of idle connections. If it is not 0, each server runs twice: without and with idle
    /// connections.
    pub(crate) idle: usize,
    /// `None` if only one core is available, which the servers and the load then share.
    pub(crate) cores: Option<Cores>,
}

/// Result of one server in one cell.
pub(crate) struct Row {
    pub(crate) server: &'static str,
    /// CPU time of the server per frame, in nanoseconds: the 20th percentile of its slices.
    pub(crate) nanoseconds_per_frame: f64,
    /// CPU time per frame of each round, in nanoseconds, over both slices of the round.
    rounds: Vec<f64>,
    pub(crate) frames_per_second: f64,
    /// Round-trip times of batches in microseconds: percentiles 50, 99 and 99.9.
    pub(crate) round_trips: [f64; 3],
    pub(crate) slices: usize,
    /// Server memory per idle connection, in bytes; 0 without idle connections.
    pub(crate) idle_bytes: u64,
}

impl Row {
    /// Returns the quartiles of the ratio of this row's CPU time per frame to the CPU time of
    /// `other`. Each ratio compares the two rows within one round.
    ///
    /// `other` is another server, or this server without idle connections.
    pub(crate) fn ratio_to(&self, other: &Self) -> Quartiles {
        let rounds = self.rounds.iter().zip(&other.rounds);
        quartiles(rounds.map(|(own, other)| own / other).collect())
    }
}

/// Measures all servers of the plan in one cell. With idle connections, each server has two rows.
pub(crate) fn measure(cell: Cell, plan: &Plan) -> io::Result<Vec<Row>> {
    let slice = plan
        .slice_ms
        .map_or_else(|| cell.slice(), std::time::Duration::from_millis);
    let mut subjects = Vec::new();
    for server in plan.servers.iter().filter(|server| server.serves(cell)) {
        let idle_counts = if plan.idle > 0 {
            &[0, plan.idle][..]
        } else {
            &[0]
        };
        for &idle in idle_counts {
            let subject = Subject::start(server, cell, plan, idle);
            subjects.push(subject.map_err(|error| named(server, &error))?);
        }
    }
    // Warm up, so that one-time costs of a server are not measured. This first run also checks
    // every echoed byte.
    for subject in &mut subjects {
        let until = Until::Deadline(Instant::now() + slice * 3);
        let outcome = subject.load.run(until, true, &mut Vec::new());
        outcome.map_err(|error| named(subject.server, &error))?;
    }
    for _ in 0..plan.rounds {
        let forth_and_back = (0..subjects.len()).chain((0..subjects.len()).rev());
        for index in forth_and_back {
            let subject = &mut subjects[index];
            let until = Until::Deadline(Instant::now() + slice);
            subject
                .load(until, plan.check)
                .map_err(|error| named(subject.server, &error))?;
        }
    }
    Ok(subjects.into_iter().map(Subject::into_row).collect())
}

/// Adds the name of the server to an error.
fn named(server: &Server, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", server.name))
}

struct Subject {
    server: &'static Server,
    clock: CpuClock,
    load: AnyLoad,
    slices: Vec<Slice>,
    round_trips: Vec<u32>,
    idle_bytes: u64,
    _idle: Option<Process>,
    /// Declared last, because fields are dropped in the order of their declaration. So the
    /// connections are closed before the server is killed.
    _process: Process,
}

struct Slice {
    cpu_nanoseconds: u64,
    frames: u64,
    elapsed_seconds: f64,
}

impl Subject {
    fn start(server: &'static Server, cell: Cell, plan: &Plan, idle: usize) -> io::Result<Self> {
        let process = Process::start(server, plan.cores.map(|cores| cores.servers))?;
        let waiting = if plan.cores.is_some() {
            Waiting::Spin
        } else {
            Waiting::Sleep
        };
        let load = AnyLoad::open(process.port(), server, cell, waiting)?;
        // Measure the memory after `open`: the server has made its one-time allocations, so they
        // are not counted for the idle connections.
        let before = process.resident_bytes()?;
        let idle_client = match idle {
            0 => None,
            _ => Some(Process::hold(server, process.port(), idle)?),
        };
        let grown = process.resident_bytes()?.saturating_sub(before);
        // The clock covers the threads that exist now. The server has accepted connections and
        // echoed, so it has started all its threads.
        let clock = process.clock()?;
        Ok(Self {
            server,
            clock,
            load,
            slices: Vec::new(),
            round_trips: Vec::new(),
            idle_bytes: grown.checked_div(idle as u64).unwrap_or_default(),
            _idle: idle_client,
            _process: process,
        })
    }

    fn load(&mut self, until: Until, check: bool) -> io::Result<()> {
        let before = self.clock.nanoseconds()?;
        let done = self.load.run(until, check, &mut self.round_trips)?;
        let after = self.clock.nanoseconds()?;
        self.slices.push(Slice {
            cpu_nanoseconds: after - before,
            frames: done.frames,
            elapsed_seconds: done.elapsed.as_secs_f64(),
        });
        Ok(())
    }

    /// Returns the nanoseconds per frame of each round. A round is two consecutive slices.
    fn rounds(&self) -> Vec<f64> {
        self.slices.chunks(2).map(nanoseconds_per_frame).collect()
    }

    fn into_row(mut self) -> Row {
        let mut slices: Vec<f64> = self
            .slices
            .iter()
            .map(std::slice::from_ref)
            .map(nanoseconds_per_frame)
            .collect();
        slices.sort_by(f64::total_cmp);
        let frames: u64 = self.slices.iter().map(|slice| slice.frames).sum();
        let seconds: f64 = self.slices.iter().map(|slice| slice.elapsed_seconds).sum();
        self.round_trips.sort_unstable();
        let microseconds = |share| f64::from(percentile(&self.round_trips, share)) / 1e3;
        Row {
            server: self.server.name,
            nanoseconds_per_frame: percentile(&slices, 0.2),
            rounds: self.rounds(),
            frames_per_second: frames as f64 / seconds,
            round_trips: [microseconds(0.5), microseconds(0.99), microseconds(0.999)],
            slices: slices.len(),
            idle_bytes: self.idle_bytes,
        }
    }
}

fn nanoseconds_per_frame(slices: &[Slice]) -> f64 {
    let cpu: u64 = slices.iter().map(|slice| slice.cpu_nanoseconds).sum();
    let frames: u64 = slices.iter().map(|slice| slice.frames).sum();
    cpu as f64 / frames as f64
}
