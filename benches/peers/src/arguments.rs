//! The command line: help text, modes and options.

use std::str::FromStr;

use lexopt::ValueExt as _;
use lexopt::prelude::{Long, Short, Value};

use crate::cell::{Cell, FIRST, FURTHER, QUICK, TLS, UDP};
use crate::servers::{self, Server};

pub(crate) const HELP: &str = "\
Compares echo servers by the server CPU time per echoed frame, as a ratio to a plain epoll loop.

Usage: peers [MODE] [OPTIONS]

Modes:
  measure        CPU time per frame of all servers, in one interleaved run (the default)
  idle           cost of idle connections: memory of each, and CPU time per frame of a few active
                 connections beside them
  syscalls       system calls per frame, by name (needs strace)
  instructions   user-space instructions per frame (needs valgrind)
  attack         misbehaving clients against servers with 64 MiB of memory
  serve NAME     run one server: print `port N`, then echo until killed
  hold NAME PORT N
                 open N connections to a running server, print `port PORT`, and keep them open
                 until killed

Options:
  --servers A,B,C      servers to compare (default all); the first is the reference of the ratios
  --cells first|all|tls|udp
                       a set of loads (cells): small frames (the default of measure), small and
                       larger frames, TLS, or datagrams
  --cell CxDxS         adds one load (may be repeated): C connections, each with D frames of S
                       bytes in flight;
                       udp-CxDxS: C sockets, each with D datagrams of S bytes in flight;
                       udp-gso-CxDxS: like udp-CxDxS, but each client sends its D datagrams
                       with one call (GSO);
                       tls-CxDxS: like CxDxS over TLS 1.3 with AES-128-GCM;
                       tls-new-CxDxS: like tls-CxDxS, but each batch has a new connection with
                       a full handshake
  --idle N             idle connections beside those of the load (default 19000 in mode idle, else
                       none); only for idle, syscalls and instructions
  --rounds N           rounds per load; each round loads every server twice (default 30)
  --slice-ms N         duration of one load of a server, in milliseconds (default 20 to 60,
                       depending on the load)
  --check              compare every echoed byte, not only the frame lengths
  --quick              short test of a few seconds: small loads, 2 rounds, every byte compared
  --frames N           frames for which calls or instructions are counted (default 100000 for
                       syscalls, 50000 for instructions)
  --markdown           print the tables as Markdown
  --core N             (serve) run only on this core
  --data-max BYTES     (serve) use at most this much memory (RLIMIT_DATA)
  -h, --help           print this help

Servers:";

/// The task of this process.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    Help,
    Measure,
    Attack,
    Idle,
    Syscalls,
    Instructions,
    Serve(&'static Server),
    Hold(&'static Server, u16, usize),
}

pub(crate) struct Arguments {
    pub(crate) mode: Mode,
    pub(crate) servers: Vec<&'static Server>,
    /// Loads from the command line; if there are none, the mode uses its default loads.
    pub(crate) cells: Vec<Cell>,
    pub(crate) idle: Option<usize>,
    pub(crate) rounds: usize,
    pub(crate) slice_ms: Option<u64>,
    pub(crate) check: bool,
    pub(crate) frames: Option<u64>,
    pub(crate) markdown: bool,
    pub(crate) core: Option<usize>,
    pub(crate) data_max: Option<u64>,
}

impl Arguments {
    /// Reads the command line of this process.
    pub(crate) fn parse() -> Result<Self, lexopt::Error> {
        Self::parse_from(lexopt::Parser::from_env())
    }

    fn parse_from(mut parser: lexopt::Parser) -> Result<Self, lexopt::Error> {
        let mut arguments = Self {
            mode: Mode::Measure,
            servers: servers::ALL.iter().collect(),
            cells: Vec::new(),
            idle: None,
            rounds: 30,
            slice_ms: None,
            check: false,
            frames: None,
            markdown: false,
            core: None,
            data_max: None,
        };
        while let Some(argument) = parser.next()? {
            match argument {
                Value(mode) => arguments.mode = parse_mode(&mode.string()?, &mut parser)?,
                Long("servers") => arguments.servers = parse_servers(&parser.value()?.string()?)?,
                Long("cells") => arguments
                    .cells
                    .extend(parse_cells(&parser.value()?.string()?)?),
                Long("cell") => {
                    let cell = Cell::from_str(&parser.value()?.string()?)?;
                    arguments.cells.push(cell);
                }
                Long("idle") => arguments.idle = Some(parse_positive(&mut parser)?),
                Long("rounds") => arguments.rounds = parse_positive(&mut parser)?,
                Long("slice-ms") => arguments.slice_ms = Some(parse_positive(&mut parser)?),
                Long("check") => arguments.check = true,
                Long("quick") => {
                    arguments.cells.extend(QUICK);
                    (arguments.rounds, arguments.slice_ms) = (2, Some(5));
                    (arguments.check, arguments.frames) = (true, Some(5_000));
                }
                Long("frames") => arguments.frames = Some(parse_positive(&mut parser)?),
                Long("markdown") => arguments.markdown = true,
                Long("data-max") => arguments.data_max = Some(parser.value()?.parse()?),
                Long("core") => arguments.core = Some(parser.value()?.parse()?),
                Short('h') | Long("help") => arguments.mode = Mode::Help,
                other => return Err(other.unexpected()),
            }
        }
        Ok(arguments)
    }
}

fn parse_mode(name: &str, parser: &mut lexopt::Parser) -> Result<Mode, lexopt::Error> {
    match name {
        "measure" => Ok(Mode::Measure),
        "attack" => Ok(Mode::Attack),
        "idle" => Ok(Mode::Idle),
        "syscalls" => Ok(Mode::Syscalls),
        "instructions" => Ok(Mode::Instructions),
        "serve" => Ok(Mode::Serve(find_server(&parser.value()?.string()?)?)),
        "hold" => Ok(Mode::Hold(
            find_server(&parser.value()?.string()?)?,
            parser.value()?.parse()?,
            parse_positive(parser)?,
        )),
        other => Err(format!("unknown mode {other:?}; --help lists the modes").into()),
    }
}

fn parse_servers(names: &str) -> Result<Vec<&'static Server>, lexopt::Error> {
    names.split(',').map(find_server).collect()
}

fn find_server(name: &str) -> Result<&'static Server, lexopt::Error> {
    servers::find(name)
        .ok_or_else(|| format!("unknown server {name:?}; --help lists the servers").into())
}

fn parse_cells(set: &str) -> Result<Vec<Cell>, lexopt::Error> {
    match set {
        "first" => Ok(FIRST.to_vec()),
        "all" => Ok([FIRST, FURTHER].concat()),
        "tls" => Ok(TLS.to_vec()),
        "udp" => Ok(UDP.to_vec()),
        other => Err(format!("unknown set of cells {other:?}; use first, all, tls or udp").into()),
    }
}

fn parse_positive<T: FromStr<Err = std::num::ParseIntError> + Default + PartialEq>(
    parser: &mut lexopt::Parser,
) -> Result<T, lexopt::Error> {
    let number = parser.value()?.parse()?;
    if number == T::default() {
        Err("the number must not be 0".into())
    } else {
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, lexopt::Error> {
        Arguments::parse_from(lexopt::Parser::from_args(words))
    }

    #[test]
    fn valid_arguments_are_parsed() -> Result<(), lexopt::Error> {
        let arguments = parse(&["--servers", "tokio,epoll", "--cell", "2x3x64", "--rounds=7"])?;
        assert!(matches!(arguments.mode, Mode::Measure));
        let names: Vec<_> = arguments.servers.iter().map(|server| server.name).collect();
        assert_eq!(names, ["tokio", "epoll"]);
        assert_eq!(arguments.cells, ["2x3x64".parse()?]);
        assert_eq!(arguments.rounds, 7);
        let arguments = parse(&["serve", "epoll", "--core", "1"])?;
        assert!(matches!(arguments.mode, Mode::Serve(server) if server.name == "epoll"));
        let arguments = parse(&["hold", "epoll", "7000", "3"])?;
        assert!(matches!(arguments.mode, Mode::Hold(_, 7000, 3)));
        Ok(())
    }

    #[test]
    fn invalid_arguments_are_rejected() {
        let invalid: [&[&str]; 7] = [
            &["walk"],
            &["serve"],
            &["serve", "none"],
            &["hold", "epoll", "7000"],
            &["--servers", "epoll,"],
            &["--rounds", "0"],
            &["--cell", "1x1"],
        ];
        for words in invalid {
            assert!(parse(words).is_err(), "{words:?} was accepted");
        }
    }
}
