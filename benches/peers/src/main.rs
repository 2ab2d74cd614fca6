//! Echo servers side by side: what a frame costs each of them, in one interleaved run.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml` measures the server CPU time
//! per echoed frame of several servers, and prints it as a ratio to the plainest hand-written
//! epoll loop. `--help` lists the modes, the cells and the servers.
//!
//! How it measures is told in `measure`, what the load does in `load`, how counts are taken in
//! `counts`, and each server in its own file of `servers`. It runs on Linux: the scheduler's
//! account of a thread's CPU time is read from `/proc`.

mod arguments;
mod cell;
mod counts;
mod framing;
mod load;
mod measure;
mod process;
mod servers;
mod statistics;
mod system;
mod table;
mod udp_load;

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;

use arguments::{Arguments, HELP, Mode};
use cell::{Cell, FIRST, Transport};
use counts::Tool;
use load::{AnyLoad, Waiting};
use measure::{Cores, Plan, Row};
use table::Table;

/// What `idle` loads by default: few connections, one frame at a time.
const IDLE_CELL: &str = "10x1x64";
/// How many others idle beside them by default, where a process may have 20,000 descriptors.
const IDLE: usize = 19_000;
/// What `syscalls` counts by default: a call per frame, and calls shared by many frames.
const SYSCALLS_CELLS: [&str; 2] = ["64x1x64", "64x32x64"];
/// What `instructions` counts by default.
const INSTRUCTIONS_CELLS: [&str; 3] = ["1x1x64", "64x1x64", "64x16x64"];

fn main() -> ExitCode {
    let outcome = Arguments::parse()
        .map_err(Into::into)
        .and_then(|arguments| run(&arguments));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    match arguments.mode {
        Mode::Help => {
            println!("{HELP}");
            for server in servers::ALL {
                println!("  {:<14} {}", server.name, server.summary);
            }
            for peer in servers::LEFT_OUT {
                println!("  not built: {peer}");
            }
            Ok(())
        }
        Mode::Serve(server) => {
            system::end_with_parent()?;
            if let Some(core) = arguments.core {
                system::pin(core)?;
            }
            Ok((server.serve)()?)
        }
        Mode::Hold(server, port, connections) => {
            system::end_with_parent()?;
            let cell = Cell::idle(connections);
            let _load = AnyLoad::open(port, server, cell, Waiting::Sleep)?;
            servers::announce(port)?;
            loop {
                thread::park();
            }
        }
        Mode::Measure => measure_all(arguments, 0),
        Mode::Idle => measure_all(arguments, arguments.idle.unwrap_or(IDLE)),
        Mode::Syscalls => count_all(Tool::Strace, arguments, &SYSCALLS_CELLS, 100_000),
        Mode::Instructions => count_all(Tool::Callgrind, arguments, &INSTRUCTIONS_CELLS, 50_000),
    }
}

fn measure_all(arguments: &Arguments, idle: usize) -> Result<(), Box<dyn Error>> {
    let idle_cell = [IDLE_CELL.parse()?];
    let cells = match &arguments.cells[..] {
        [] if idle > 0 => &idle_cell,
        [] => FIRST,
        cells => cells,
    };
    check_descriptors(cells, arguments.servers.len(), idle)?;
    let plan = Plan {
        servers: arguments.servers.clone(),
        turns: arguments.turns,
        slice_ms: arguments.slice_ms,
        check: arguments.check,
        idle,
        cores: cores()?,
    };
    let mut output = io::stdout().lock();
    describe(&plan, &mut output)?;
    for &cell in cells {
        heading(&mut output, cell, idle, arguments.markdown)?;
        let rows = measure::measure(cell, &plan)?;
        let table = if idle > 0 {
            table_of_idle(&rows)
        } else {
            table_of(&rows)
        };
        table.write(&mut output, arguments.markdown)?;
        output.flush()?;
    }
    Ok(())
}

/// The load holds one descriptor per connection and server, a server one per connection; idle ones
/// are held by others.
fn check_descriptors(cells: &[Cell], servers: usize, idle: usize) -> Result<(), Box<dyn Error>> {
    let limit = system::raise_descriptor_limit()?;
    let most = cells
        .iter()
        .map(|cell| cell.connections)
        .max()
        .unwrap_or_default();
    // Beside connections that idle each server is there twice.
    let servers = if idle > 0 { 2 * servers } else { servers };
    // Some are taken by the standard streams, by epoll, and by each server's accounts.
    let needed = (most * servers + 16 * servers + 16).max(most + idle + 32) as u64;
    if needed > limit {
        return Err(format!("{needed} descriptors are needed, and {limit} allowed").into());
    }
    Ok(())
}

/// The first core for the servers and the second for the load, which moves there at once.
fn cores() -> io::Result<Option<Cores>> {
    let &[servers, load, ..] = &system::cores()[..] else {
        return Ok(None);
    };
    system::pin(load)?;
    Ok(Some(Cores { servers, load }))
}

fn describe(plan: &Plan, output: &mut impl Write) -> io::Result<()> {
    writeln!(output, "{}", machine())?;
    for peer in servers::LEFT_OUT {
        writeln!(output, "Left out, as it was not built: {peer}.")?;
    }
    match plan.cores {
        Some(Cores { servers, load }) => {
            writeln!(
                output,
                "Servers on core {servers}, the load on core {load}."
            )?;
        }
        None => writeln!(
            output,
            "One core only: nothing is pinned, servers and load share it."
        )?,
    }
    writeln!(
        output,
        "ns/frame: server CPU, 20th percentile of slices. ratio: to the first within a turn,\n\
         median and quartiles of {} turns. Round trips are of whole batches, in microseconds.",
        plan.turns
    )?;
    writeln!(output)
}

/// One line about where it runs.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let processors = read("/proc/cpuinfo");
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown", |(_, model)| model.trim());
    // Whoever else uses the cores makes every figure worse; the ratios suffer least.
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("unknown");
    format!(
        "Linux {}, processor {model}, load average {load} before",
        release.trim()
    )
}

fn heading(output: &mut impl Write, cell: Cell, idle: usize, markdown: bool) -> io::Result<()> {
    let Cell {
        transport,
        connections,
        depth,
        size,
    } = cell;
    let prefix = if markdown { "### " } else { "" };
    let plural = if connections == 1 { "" } else { "s" };
    let kind = if cell.is_udp() {
        "socket"
    } else {
        "connection"
    };
    let how = match transport {
        Transport::UdpSegmented => ", of clients that use GSO",
        Transport::Tcp | Transport::Udp => "",
    };
    let beside = match idle {
        0 => String::new(),
        _ => format!(", beside {idle} that idle"),
    };
    writeln!(
        output,
        "{prefix}{cell}: {connections} {kind}{plural}, {depth} deep, {size} B{how}{beside}"
    )?;
    if markdown { writeln!(output) } else { Ok(()) }
}

fn table_of(rows: &[Row]) -> Table {
    let mut table = Table::new([
        "server",
        "ns/frame",
        "ratio",
        "quartiles",
        "frames/s",
        "p50",
        "p99",
        "p99.9",
        "slices",
    ]);
    for row in rows {
        let ratio = row.ratio_to(&rows[0]);
        let [p50, p99, p999] = row
            .round_trips
            .map(|microseconds| format!("{microseconds:.0}"));
        table.push(vec![
            row.server.to_owned(),
            format!("{:.0}", row.nanoseconds_per_frame),
            format!("{:.2}", ratio.median),
            format!("{:.2}-{:.2}", ratio.first, ratio.third),
            format!("{:.0}", row.frames_per_second),
            p50,
            p99,
            p999,
            row.slices.to_string(),
        ]);
    }
    table
}

/// Rows come in pairs: without those that idle, and beside them.
fn table_of_idle(rows: &[Row]) -> Table {
    let mut table = Table::new([
        "server",
        "bytes each",
        "ns/frame alone",
        "ratio",
        "beside",
        "ratio",
        "growth",
        "quartiles",
    ]);
    for pair in rows.chunks_exact(2) {
        let [alone, beside] = pair else { continue };
        let growth = beside.ratio_to(alone);
        table.push(vec![
            alone.server.to_owned(),
            beside.idle_bytes.to_string(),
            format!("{:.0}", alone.nanoseconds_per_frame),
            format!("{:.2}", alone.ratio_to(&rows[0]).median),
            format!("{:.0}", beside.nanoseconds_per_frame),
            format!("{:.2}", beside.ratio_to(&rows[1]).median),
            format!("{:.2}", growth.median),
            format!("{:.2}-{:.2}", growth.first, growth.third),
        ]);
    }
    table
}

fn count_all(
    tool: Tool,
    arguments: &Arguments,
    default_cells: &[&str],
    default_frames: u64,
) -> Result<(), Box<dyn Error>> {
    if !tool.is_there() {
        return Err(format!("{} is not installed", tool.program()).into());
    }
    let default_cells: Vec<Cell> = default_cells
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    let cells = if arguments.cells.is_empty() {
        &default_cells
    } else {
        &arguments.cells
    };
    let frames = arguments.frames.unwrap_or(default_frames);
    let idle = arguments.idle.unwrap_or_default();
    check_descriptors(cells, 1, idle)?;
    let mut output = io::stdout().lock();
    for &cell in cells {
        heading(&mut output, cell, idle, arguments.markdown)?;
        let mut table = match tool {
            Tool::Strace => Table::new(["server", "calls/frame", "by name"]),
            Tool::Callgrind => Table::new(["server", "instructions/frame"]),
        };
        for server in arguments.servers.iter().filter(|one| one.serves(cell)) {
            let counts = counts::per_frame(tool, server, cell, idle, frames)?;
            table.push(row_of_counts(tool, server.name, &counts));
        }
        table.write(&mut output, arguments.markdown)?;
        output.flush()?;
    }
    Ok(())
}

fn row_of_counts(tool: Tool, server: &str, counts: &[(String, f64)]) -> Vec<String> {
    let sum: f64 = counts.iter().map(|(_, count)| count).sum();
    match tool {
        Tool::Callgrind => vec![server.to_owned(), format!("{sum:.0}")],
        Tool::Strace => {
            // A call that is rarer than one in ten thousand frames is none of the loop's.
            let names = counts.iter().filter(|(_, count)| *count >= 0.0001);
            let names: Vec<_> = names
                .map(|(name, count)| format!("{name} {count:.3}"))
                .collect();
            vec![server.to_owned(), format!("{sum:.3}"), names.join(", ")]
        }
    }
}
