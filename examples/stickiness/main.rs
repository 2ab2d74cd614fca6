//! Shows on a real kernel how TCP glues and cuts messages, how UDP keeps or loses them, and how
//! framing restores them on TCP. Both ends use this crate's reactor.
//!
//! ```text
//! cargo run --release --example stickiness                                # in the terminal
//! cargo run --release --example stickiness -- --serve 127.0.0.1:8080      # as a page
//! cargo run --release --example stickiness -- --help
//! ```

mod experiments;
#[path = "../common/http.rs"]
mod http;
mod knobs;
mod lab;
mod outcome;
mod page;
mod server;
mod terminal;
mod tls;

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use experiments::{ALL, Experiment};
use knobs::{FRAMINGS, Knobs, NUMBERS, SWITCHES};
use outcome::Outcome;

const HELP: &str = "\
Shows on real sockets how TCP and TLS glue messages together and cut them, how UDP
keeps or loses them, and how framing restores them on TCP. All traffic stays on
loopback.

Usage: stickiness [EXPERIMENT]... [OPTION]...

  EXPERIMENT             name of an experiment to run; default: all experiments, or
                         one custom run if a setting is given
  --list                 print the names of the experiments
  --json                 print the results as JSON, one object per line
  --html FILE            write the results as one self-contained HTML page; runs each
                         experiment over TCP and over UDP
  --serve ADDR           serve the page on this address (HOST:PORT); the page can
                         change all settings and start runs
  --public               allow --serve on an address that other machines can reach
  -h, --help             print this help

Settings (they override the settings of an experiment):
";

/// The options of the command line.
#[derive(Default)]
struct Options {
    experiments: Vec<&'static Experiment>,
    /// Names and values of the settings, in the order given.
    knobs: Vec<(String, String)>,
    json: bool,
    html: Option<PathBuf>,
    /// Transport of all runs. If `None`, an experiment uses its own transport. A custom run and an
    /// HTML page then use both transports.
    transport: Option<String>,
}

/// The task of this process.
enum Command {
    Run(Options),
    Serve(SocketAddr, bool),
    Help,
    List,
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match run_command() {
        Ok(()) => ExitCode::SUCCESS,
        // The process that reads the output has closed the pipe, so no more output is needed.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stickiness: {error}");
            match error.is::<WrongUsage>() {
                true => ExitCode::from(2),
                false => ExitCode::FAILURE,
            }
        }
    }
}

/// An error of the command line.
#[derive(Debug)]
struct WrongUsage(String);

impl std::fmt::Display for WrongUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (--help lists the options)", self.0)
    }
}

impl Error for WrongUsage {}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn run_command() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    match parse_options().map_err(|error| WrongUsage(error.to_string()))? {
        Command::Help => Ok(writeln!(out, "{HELP}{}", knobs_help())?),
        Command::List => {
            for experiment in ALL {
                writeln!(out, "{:<22}{}", experiment.name, experiment.title)?;
            }
            Ok(())
        }
        Command::Serve(addr, is_public) => server::serve(addr, is_public),
        Command::Run(options) if options.html.is_some() => {
            let mut outcomes = Vec::new();
            run_all(&options, |outcome| {
                outcomes.push(outcome.clone());
                Ok(())
            })?;
            let path = options.html.unwrap_or_default();
            std::fs::write(&path, page::build(&outcomes, &page::nonce()))?;
            Ok(writeln!(out, "wrote the page to {}", path.display())?)
        }
        Command::Run(options) => run_all(&options, |outcome| {
            if options.json {
                writeln!(out, "{}", outcome.to_json())
            } else {
                let style = terminal::Style::of_environment();
                writeln!(out, "{}", terminal::draw(outcome, style))
            }
        }),
    }
}

/// Runs the requested experiments one after the other, and reports each result.
fn run_all(
    options: &Options,
    mut report: impl FnMut(&Outcome) -> io::Result<()>,
) -> Result<(), Box<dyn Error>> {
    let change = |mut knobs: Knobs| -> Result<Knobs, WrongUsage> {
        for (name, value) in &options.knobs {
            knobs.set(name, value).map_err(WrongUsage)?;
        }
        knobs.check().map_err(WrongUsage).map(|()| knobs)
    };
    let both: &[&str] = &["tcp", "udp"];
    let requested = options.transport.as_deref();
    let transports = requested.as_ref().map_or(both, std::slice::from_ref);
    let fits = |transport: &str, knobs: &Knobs| transport == "tcp" || lab::fits_udp(knobs);
    if options.experiments.is_empty() && !options.knobs.is_empty() {
        let knobs = change(Knobs::default())?;
        for transport in transports {
            if fits(transport, &knobs) {
                report(&experiments::run(transport, &knobs, &mut |_| {})?)?;
            } else {
                eprintln!(
                    "skipped UDP: {} bytes do not fit into one datagram",
                    knobs.size
                );
            }
        }
        return Ok(());
    }
    let all = ALL.iter().filter(|_| options.experiments.is_empty());
    for experiment in options.experiments.iter().copied().chain(all) {
        let knobs = change(experiment.knobs())?;
        if options.html.is_none() && requested.is_none() {
            report(&experiment.run(&knobs)?)?;
            continue;
        }
        // Without `--transport`, the page shows both transports.
        for transport in transports {
            if fits(transport, &knobs) {
                report(&experiment.run_over(transport, &knobs)?)?;
            }
        }
    }
    Ok(())
}

fn knobs_help() -> String {
    let mut help = String::new();
    let mut defaults = Knobs::default();
    for (name, min, max, field, description) in NUMBERS {
        let option = format!("--{name} N");
        let default = *field(&mut defaults);
        help += &format!("  {option:<22} {description} ({min} to {max}, default {default})\n");
    }
    for (name, field, description) in SWITCHES {
        let option = format!("--{name} on|off");
        let default = if *field(&mut defaults) { "on" } else { "off" };
        help += &format!("  {option:<22} {description} (default {default})\n");
    }
    help += &format!("  --framing NAME         on TCP: {}\n", FRAMINGS.join(", "));
    help += &format!("                         (default {})\n", defaults.framing);
    help += "  --transport tcp|udp    default: the experiment's own, or both for a custom run\n\n";
    help += "The output has no colours if NO_COLOR is set or the output is not a terminal.";
    help
}

fn parse_options() -> Result<Command, Box<dyn Error>> {
    use lexopt::prelude::*;

    let mut options = Options::default();
    let (mut addr, mut is_public) = (None, false);
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("help") | Short('h') => return Ok(Command::Help),
            Long("list") => return Ok(Command::List),
            Long("json") => options.json = true,
            Long("html") => options.html = Some(parser.value()?.into()),
            Long("serve") => addr = Some(parser.value()?.parse()?),
            Long("public") => is_public = true,
            Long("transport") => {
                let transport = parser.value()?.string()?;
                if transport != "tcp" && transport != "udp" {
                    return Err("the transport must be tcp or udp".into());
                }
                options.transport = Some(transport);
            }
            Long(name) if is_knob(name) => {
                let name = name.to_owned();
                options.knobs.push((name, parser.value()?.string()?));
            }
            Value(name) => {
                let name = name.string()?;
                let experiment = Experiment::find(&name);
                let unknown = || format!("unknown experiment {name}; --list prints the names");
                options.experiments.push(experiment.ok_or_else(unknown)?);
            }
            _ => return Err(arg.unexpected().into()),
        }
    }
    match addr {
        Some(addr) => Ok(Command::Serve(addr, is_public)),
        None => Ok(Command::Run(options)),
    }
}

fn is_knob(name: &str) -> bool {
    let knobs = Knobs::default().pairs();
    knobs.iter().any(|(knob, _)| *knob == name)
}
