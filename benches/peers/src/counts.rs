//! Exact counts per frame: system calls under strace, user-space instructions under callgrind.
//!
//! Time measurements do not show differences below a few per cent, but counts do. Each server runs
//! twice under the tool, with few and with many frames. The difference of the counts is divided by
//! the difference of the frames, so the cost of start-up and connecting cancels out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::cell::Cell;
use crate::load::{AnyLoad, Until, Waiting};
use crate::process::Process;
use crate::servers::Server;

/// Counts of one run, by the name of the system call or `instructions`.
type Counts = BTreeMap<String, f64>;

/// The counting tool: strace counts system calls, and callgrind counts instructions.
#[derive(Clone, Copy)]
pub(crate) enum Tool {
    Strace,
    Callgrind,
}

impl Tool {
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Strace => "strace",
            Self::Callgrind => "valgrind",
        }
    }

    /// Returns true if the tool is installed.
    pub(crate) fn is_installed(self) -> bool {
        let mut command = Command::new(self.program());
        let command = command
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn command(self, report: &str) -> Vec<String> {
        let command: &[&str] = match self {
            Self::Strace => &["strace", "-I", "2", "-f", "-c", "-o", report],
            Self::Callgrind => &[
                "valgrind",
                "-q",
                "--tool=callgrind",
                &format!("--callgrind-out-file={report}"),
            ],
        };
        command.iter().map(|&word| word.to_owned()).collect()
    }

    fn parse(self, report: &str) -> Option<Counts> {
        match self {
            Self::Strace => parse_strace(report),
            Self::Callgrind => parse_callgrind(report),
        }
    }
}

/// Returns the counts per frame of one server in one cell, sorted from the highest.
///
/// `frames` is the number of frames by which the two runs differ. It is rounded up to a multiple of
/// one batch on every connection. `idle` is the number of additional connections, which stay idle
/// after one frame.
pub(crate) fn per_frame(
    tool: Tool,
    server: &Server,
    cell: Cell,
    idle: usize,
    frames: u64,
) -> io::Result<Vec<(String, f64)>> {
    let batches_of_all = frames.div_ceil((cell.connections * cell.depth) as u64);
    let batches = batches_of_all * cell.connections as u64;
    // The shorter run is long enough to grow every buffer, so this cost cancels out, too.
    let few = run(tool, server, cell, idle, batches.div_ceil(4))?;
    let many = run(tool, server, cell, idle, batches.div_ceil(4) + batches)?;
    let difference = (batches * cell.depth as u64) as f64;
    let mut counts: Vec<(String, f64)> = many
        .into_iter()
        .map(|(name, count)| {
            let before = few.get(&name).copied().unwrap_or_default();
            (name, (count - before) / difference)
        })
        .collect();
    counts.sort_by(|one, other| other.1.total_cmp(&one.1));
    Ok(counts)
}

fn run(tool: Tool, server: &Server, cell: Cell, idle: usize, batches: u64) -> io::Result<Counts> {
    let report = Report::new(tool);
    let path = report.0.to_string_lossy().into_owned();
    let command = tool.command(&path);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let process = Process::start_under(&words, server)?;
    let mut load = AnyLoad::open(process.port(), server, cell, Waiting::Sleep)?;
    let _idle = match idle {
        0 => None,
        _ => Some(Process::hold(server, process.port(), idle)?),
    };
    load.run(Until::Batches(batches), true, &mut Vec::new())?;
    process.terminate()?;
    let text = fs::read_to_string(&report.0)?;
    tool.parse(&text)
        .ok_or_else(|| io::Error::other(format!("the report of {} has no counts", tool.program())))
}

/// Report file of the tool. Dropping this value removes the file.
struct Report(PathBuf);

impl Report {
    fn new(tool: Tool) -> Self {
        let name = format!("peers-{}-{}.out", tool.program(), std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // If the tool wrote no report, the call fails, and there is nothing to remove.
        let _ = fs::remove_file(&self.0);
    }
}

/// Parses the lines of `strace -c`: share, seconds, time per call, calls, errors if any, and the
/// name.
fn parse_strace(report: &str) -> Option<Counts> {
    let mut counts = Counts::new();
    for line in report.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [share, _, _, calls, .., name] = words[..] else {
            continue;
        };
        if share.parse::<f64>().is_ok() && name != "total" {
            counts.insert(name.to_owned(), calls.parse().ok()?);
        }
    }
    (!counts.is_empty()).then_some(counts)
}

/// Parses the line `totals: N` of callgrind's report, or `summary: N` from versions without totals.
fn parse_callgrind(report: &str) -> Option<Counts> {
    let find = |key| report.lines().rev().find_map(|line| line.strip_prefix(key));
    let instructions = find("totals:").or_else(|| find("summary:"))?;
    let instructions = instructions.split_whitespace().next()?.parse().ok()?;
    Some(Counts::from([("instructions".to_owned(), instructions)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_parsed() {
        let report = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000120           3        40           sendto
 40.00    0.000080           2        41         1 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.000200           2        81         1 total
";
        let counts = parse_strace(report).expect("the report has counts");
        assert_eq!(
            counts,
            Counts::from([("sendto".into(), 40.0), ("recvfrom".into(), 41.0)])
        );
        assert_eq!(parse_strace(""), None);

        let counts = parse_callgrind("summary: 12\n\n1 2\ntotals: 34\n");
        assert_eq!(counts, Some(Counts::from([("instructions".into(), 34.0)])));
        assert_eq!(parse_callgrind("events: Ir\n"), None);
    }
}
