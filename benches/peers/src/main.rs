//! Compares echo servers: the CPU time of each server per frame, in one interleaved run.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml` measures the server CPU time per
//! echoed frame. It prints this time as a ratio to the time of the plainest hand-written epoll
//! loop. `--help` lists the modes, the loads and the servers.
//!
//! The modules `measure`, `load` and `counts` explain the method, and each file in `servers`
//! explains its servers. The program runs only on Linux, because it reads the CPU time of threads
//! from `/proc`.

mod arguments;
mod attack;
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
mod tls;
mod tls_load;
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

/// Default load of the mode `idle`: few connections, one frame at a time.
const IDLE_CELL: &str = "10x1x64";
/// Default number of idle connections; chosen for a limit of 20,000 descriptors.
const IDLE: usize = 19_000;
/// Default loads of the mode `syscalls`: one frame per system call, and many frames per call.
const SYSCALLS_CELLS: [&str; 2] = ["64x1x64", "64x32x64"];
/// Default loads of the mode `instructions`.
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
            if let Some(bytes) = arguments.data_max {
                system::limit_data(bytes)?;
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
        Mode::Attack => attack::run(&arguments.servers, &mut io::stdout().lock()),
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
        rounds: arguments.rounds,
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

/// Raises the descriptor limit, and checks that it suffices.
///
/// The load needs one descriptor per connection to each server. A server needs one descriptor per
/// connection. Separate processes open the idle connections.
fn check_descriptors(cells: &[Cell], servers: usize, idle: usize) -> Result<(), Box<dyn Error>> {
    let limit = system::raise_descriptor_limit()?;
    let connections_max = cells
        .iter()
        .map(|cell| cell.connections)
        .max()
        .unwrap_or_default();
    // With idle connections, each server runs twice.
    let servers = if idle > 0 { 2 * servers } else { servers };
    // The constants include the standard streams, epoll, and the CPU statistics of each server.
    let of_load = connections_max * servers + 16 * servers + 16;
    let of_server = connections_max + idle + 32;
    let needed = of_load.max(of_server) as u64;
    if needed > limit {
        return Err(format!("{needed} descriptors are needed, but the limit is {limit}").into());
    }
    Ok(())
}

/// Chooses the first core for the servers and the second core for the load. Pins this process,
/// which is the load, to the second core.
///
/// Returns `None` if only one core is available.
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
        writeln!(output, "Not measured, because it was not built: {peer}.")?;
    }
    match plan.cores {
        Some(Cores { servers, load }) => {
            writeln!(
                output,
                "The servers run on core {servers}, the load on core {load}."
            )?;
        }
        None => writeln!(
            output,
            "Only one core is available: the servers and the load share it."
        )?,
    }
    writeln!(
        output,
        "ns/frame: server CPU time, 20th percentile of slices. ratio: CPU time in a round,\n\
         divided by that of the first server in the same round, median and quartiles of {}\n\
         rounds. p50, p99, p99.9: round-trip time of a batch in microseconds.",
        plan.rounds
    )?;
    writeln!(output)
}

/// Returns one line that describes the machine.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let processors = read("/proc/cpuinfo");
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown", |(_, model)| model.trim());
    // Other programs that use the cores worsen every figure, so the line contains the load average.
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("unknown");
    format!(
        "Linux {}, processor {model}, load average {load} at the start",
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
        Transport::UdpSegmented => ", clients send with GSO",
        Transport::TlsHandshakes => ", each batch with a new connection and a full handshake",
        Transport::Tcp | Transport::Tls | Transport::Udp => "",
    };
    let beside = match idle {
        0 => String::new(),
        _ => format!(", beside {idle} idle connections"),
    };
    writeln!(
        output,
        "{prefix}{cell}: {connections} {kind}{plural}, {depth} in flight, {size} B{how}{beside}"
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

/// Returns the table of the mode `idle`. `rows` has two rows per server: without and with idle
/// connections.
fn table_of_idle(rows: &[Row]) -> Table {
    let mut table = Table::new([
        "server",
        "bytes/connection",
        "ns/frame alone",
        "ratio",
        "beside idle",
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
    if !tool.is_installed() {
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
        for server in arguments
            .servers
            .iter()
            .filter(|server| server.serves(cell))
        {
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
            // Omit calls that occur less than once in 10,000 frames: such calls are not part of the
            // loop.
            let names = counts.iter().filter(|(_, count)| *count >= 0.0001);
            let names: Vec<_> = names
                .map(|(name, count)| format!("{name} {count:.3}"))
                .collect();
            vec![server.to_owned(), format!("{sum:.3}"), names.join(", ")]
        }
    }
}
