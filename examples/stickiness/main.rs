//! TCP glues messages together and cuts them; UDP keeps them; framing cures TCP. Seen on a real
//! kernel, by this crate's reactor at both ends.
//!
//! ```text
//! cargo run --release --example stickiness                                # in the terminal
//! cargo run --release --example stickiness -- --serve 127.0.0.1:8080      # as a page
//! cargo run --release --example stickiness -- --help
//! ```

mod experiments;
mod http;
mod knobs;
mod lab;
mod outcome;
mod page;
mod server;
mod terminal;

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use experiments::{ALL, Experiment};
use knobs::{FRAMINGS, Knobs, NUMBERS, SWITCHES};
use outcome::Outcome;

const HELP: &str = "\
Shows how TCP glues messages together and cuts them, how UDP keeps or loses them,
and how framing cures TCP: real experiments on loopback.

Usage: stickiness [EXPERIMENT]... [OPTION]...

  EXPERIMENT             one of those that --list tells; all of them without one,
                         or one of your own where only knobs are given
  --list                 tells the experiments
  --json                 one JSON object a line for each experiment
  --html FILE            writes the experiments as a page that needs nothing else
  --serve ADDR           serves that page, with all knobs, and runs what it asks for
  --public               lets --serve take an address that others can reach
  --help                 this text

Knobs, which change what an experiment sets:
";

/// What the command line asks for.
#[derive(Default)]
struct Options {
    experiments: Vec<&'static Experiment>,
    /// In the order given.
    knobs: Vec<(String, String)>,
    json: bool,
    html: Option<PathBuf>,
    /// The transport of a run of one's own.
    transport: Option<String>,
}

/// What to do beside running experiments.
enum Wish {
    Run(Options),
    Serve(SocketAddr, bool),
    Help,
    List,
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match serve_wish() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stickiness: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn serve_wish() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    match parse_options()? {
        Wish::Help => Ok(writeln!(out, "{HELP}{}", knobs_help())?),
        Wish::List => {
            for experiment in ALL {
                writeln!(out, "{:<22}{}", experiment.name, experiment.title)?;
            }
            Ok(())
        }
        Wish::Serve(addr, is_public) => server::serve(addr, is_public),
        Wish::Run(options) if options.html.is_some() => {
            let mut outcomes = Vec::new();
            run_all(&options, |outcome| {
                outcomes.push(outcome.clone());
                Ok(())
            })?;
            let path = options.html.unwrap_or_default();
            std::fs::write(&path, page::build(&outcomes, &page::nonce()))?;
            Ok(writeln!(out, "written to {}", path.display())?)
        }
        Wish::Run(options) => run_all(&options, |outcome| {
            if options.json {
                writeln!(out, "{}", outcome.to_json())
            } else {
                let style = terminal::Style::of_environment();
                writeln!(out, "{}", terminal::draw(outcome, style))
            }
        }),
    }
}

/// Runs what was asked for, one after the other.
fn run_all(
    options: &Options,
    mut tell: impl FnMut(&Outcome) -> io::Result<()>,
) -> Result<(), Box<dyn Error>> {
    let change = |mut knobs: Knobs| -> Result<Knobs, String> {
        for (name, value) in &options.knobs {
            knobs.set(name, value)?;
        }
        knobs.check().map(|()| knobs)
    };
    let both: &[&str] = &["tcp", "udp"];
    let own = options.transport.as_deref();
    let transports = own.as_ref().map_or(both, std::slice::from_ref);
    let can = |transport: &str, knobs: &Knobs| transport == "tcp" || lab::fits_udp(knobs);
    if options.experiments.is_empty() && !options.knobs.is_empty() {
        let knobs = change(Knobs::default())?;
        for transport in transports {
            if can(transport, &knobs) {
                tell(&experiments::run(transport, &knobs, &mut |_| {})?)?;
            } else {
                eprintln!("no datagram has room for {} bytes", knobs.size);
            }
        }
        return Ok(());
    }
    let all = ALL.iter().filter(|_| options.experiments.is_empty());
    for experiment in options.experiments.iter().copied().chain(all) {
        let knobs = change(experiment.knobs())?;
        if options.html.is_none() && own.is_none() {
            tell(&experiment.run(&knobs)?)?;
            continue;
        }
        // The page has both below each other.
        for transport in transports {
            if can(transport, &knobs) {
                tell(&experiment.run_over(transport, &knobs)?)?;
            }
        }
    }
    Ok(())
}

fn knobs_help() -> String {
    let mut help = String::new();
    for (name, min, max, _, what) in NUMBERS {
        let option = format!("--{name} N");
        help += &format!("  {option:<22} {what} ({min} to {max})\n");
    }
    for (name, _, what) in SWITCHES {
        let option = format!("--{name} on|off");
        help += &format!("  {option:<22} {what}\n");
    }
    help += &format!("  --framing NAME         {}\n", FRAMINGS.join(", "));
    help += "  --transport tcp|udp    of a run of your own; both without it\n\n";
    help += "Colours are left out where NO_COLOR is set or the output is no terminal.";
    help
}

fn parse_options() -> Result<Wish, Box<dyn Error>> {
    use lexopt::prelude::*;

    let mut options = Options::default();
    let (mut addr, mut is_public) = (None, false);
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("help") | Short('h') => return Ok(Wish::Help),
            Long("list") => return Ok(Wish::List),
            Long("json") => options.json = true,
            Long("html") => options.html = Some(parser.value()?.into()),
            Long("serve") => addr = Some(parser.value()?.parse()?),
            Long("public") => is_public = true,
            Long("transport") => {
                let transport = parser.value()?.string()?;
                if transport != "tcp" && transport != "udp" {
                    return Err("the transport is tcp or udp".into());
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
                let unknown = || format!("no experiment is called {name}; --list tells them");
                options.experiments.push(experiment.ok_or_else(unknown)?);
            }
            _ => return Err(arg.unexpected().into()),
        }
    }
    match addr {
        Some(addr) => Ok(Wish::Serve(addr, is_public)),
        None => Ok(Wish::Run(options)),
    }
}

fn is_knob(name: &str) -> bool {
    let knobs = Knobs::default().pairs();
    knobs.iter().any(|(knob, _)| *knob == name)
}
