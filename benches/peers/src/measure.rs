//! The measurement of one cell: all servers run at once and are loaded in turn, in short slices.
//!
//! A machine's speed may change by a third and back within a second: by its clock, its neighbours
//! or its interrupts. Runs one after the other would see different machines. So each server is
//! loaded for one short slice, then the next, and all of them again in the reverse order: that is
//! one turn, whose middle is the same instant for every server. Servers are compared within a
//! turn, and the median over turns is what is told.

use std::io;
use std::time::Instant;

use crate::cell::Cell;
use crate::load::{AnyLoad, Until, Waiting};
use crate::process::{CpuClock, Process};
use crate::servers::Server;
use crate::statistics::{Quartiles, percentile, quartiles};

/// The cores of the servers and of the load.
#[derive(Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) servers: usize,
    pub(crate) load: usize,
}

/// How to measure, the same for every cell.
pub(crate) struct Plan {
    pub(crate) servers: Vec<&'static Server>,
    pub(crate) turns: usize,
    /// In milliseconds; none leaves it to the cell.
    pub(crate) slice_ms: Option<u64>,
    pub(crate) check: bool,
    /// Where it is not 0, each server is there twice: alone, and with so many connections more
    /// that idle.
    pub(crate) idle: usize,
    /// None where there is one core only, which all then share.
    pub(crate) cores: Option<Cores>,
}

/// What was measured of one server in one cell.
pub(crate) struct Row {
    pub(crate) server: &'static str,
    /// CPU time of the server per frame, in nanoseconds: the 20th percentile of its slices.
    pub(crate) nanoseconds_per_frame: f64,
    /// The same in each turn, of both its slices together.
    turns: Vec<f64>,
    pub(crate) frames_per_second: f64,
    /// Round trips of whole batches in microseconds, at 50, 99 and 99.9 percent.
    pub(crate) round_trips: [f64; 3],
    pub(crate) slices: usize,
    /// What each idle connection took of the server's memory, in bytes; 0 where there are none.
    pub(crate) idle_bytes: u64,
}

impl Row {
    /// The CPU time per frame as a ratio to another server's, or to the same without idle
    /// connections, within each turn.
    pub(crate) fn ratio_to(&self, other: &Self) -> Quartiles {
        let turns = self.turns.iter().zip(&other.turns);
        quartiles(turns.map(|(own, other)| own / other).collect())
    }
}

/// Measures all servers of the plan in one cell. Where connections idle, each server has two rows.
pub(crate) fn measure(cell: Cell, plan: &Plan) -> io::Result<Vec<Row>> {
    let slice = plan
        .slice_ms
        .map_or_else(|| cell.slice(), std::time::Duration::from_millis);
    let mut subjects = Vec::new();
    for server in plan.servers.iter().filter(|server| server.serves(cell)) {
        let crowds = if plan.idle > 0 {
            &[0, plan.idle][..]
        } else {
            &[0]
        };
        for &idle in crowds {
            let subject = Subject::start(server, cell, plan, idle);
            subjects.push(subject.map_err(|error| named(server, &error))?);
        }
    }
    // What a server sets up at first use is not what a frame costs; every byte is checked here.
    for subject in &mut subjects {
        let until = Until::Deadline(Instant::now() + slice * 3);
        let outcome = subject.load.run(until, true, &mut Vec::new());
        outcome.map_err(|error| named(subject.server, &error))?;
    }
    for _ in 0..plan.turns {
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
    /// Named last, so that the connections are closed before the server is killed.
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
        // What is made once is made by now, and is not a connection's cost.
        let before = process.resident_bytes()?;
        let crowd = match idle {
            0 => None,
            _ => Some(Process::hold(server, process.port(), idle)?),
        };
        let grown = process.resident_bytes()?.saturating_sub(before);
        // All of a server's threads are there once it has accepted and echoed.
        let clock = process.clock()?;
        Ok(Self {
            server,
            clock,
            load,
            slices: Vec::new(),
            round_trips: Vec::new(),
            idle_bytes: grown.checked_div(idle as u64).unwrap_or_default(),
            _idle: crowd,
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

    /// Nanoseconds per frame in each turn, which is two slices.
    fn turns(&self) -> Vec<f64> {
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
            turns: self.turns(),
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
