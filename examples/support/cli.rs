//! The command line of the examples: the help text, errors in one line, and the exit code.

#![allow(dead_code, reason = "each example uses only some of these functions")]

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;

use unstick::{Addr, Framing, Handler, ListenOptions, ListenerId, Reactor, UdpId};

/// A reason to end the program.
pub(crate) enum Failure {
    /// The user asked for the help text.
    Help,
    /// The command line is wrong. The exit code is 2.
    Usage(String),
    /// The program cannot go on. The exit code is 1.
    Runtime(String),
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Runtime(error.to_string())
    }
}

/// Installs the logger, runs the main function of an example, and prints its failure in one line.
pub(crate) fn run(
    name: &str,
    help: &str,
    main: impl FnOnce(lexopt::Parser) -> Result<(), Failure>,
) -> ExitCode {
    let env = env_logger::Env::default().default_filter_or("warn");
    env_logger::Builder::from_env(env).init();
    match main(lexopt::Parser::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Help) => match writeln!(io::stdout(), "{help}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(Failure::Usage(message)) => {
            eprintln!("{name}: {message} (--help lists the options)");
            ExitCode::from(2)
        }
        Err(Failure::Runtime(message)) => {
            eprintln!("{name}: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the failure for an argument that the example does not have, or for `--help`.
pub(crate) fn unexpected(arg: lexopt::Arg<'_>) -> Failure {
    match arg {
        lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => Failure::Help,
        arg => arg.unexpected().into(),
    }
}

/// Returns the failure of a call about an address. A malformed address is an error of usage. Some
/// errors of the crate, such as those of `listen`, name the action and the address already.
pub(crate) fn at(action: &str, addr: impl fmt::Display, error: &io::Error) -> Failure {
    let text = error.to_string();
    let message = match text.starts_with("cannot ") {
        true => text,
        false => format!("cannot {action} {addr}: {text}"),
    };
    match error.kind() {
        io::ErrorKind::InvalidInput => Failure::Usage(message),
        _ => Failure::Runtime(message),
    }
}

/// Listens for TCP or Unix connections. Prints the line `listening tcp HOST:PORT`, or
/// `listening unix:PATH`.
pub(crate) fn listen<H: Handler>(
    reactor: &mut Reactor<H>,
    addr: &str,
    framing: Framing,
) -> Result<ListenerId, Failure> {
    listen_with(reactor, addr, framing, &ListenOptions::new())
}

/// Listens like [`listen`], with options.
pub(crate) fn listen_with<H: Handler>(
    reactor: &mut Reactor<H>,
    addr: &str,
    framing: Framing,
    options: &ListenOptions,
) -> Result<ListenerId, Failure> {
    let opened = reactor.with(|_, cx| match addr.starts_with("unix:") {
        true => addr
            .parse::<Addr>()
            .and_then(|it| cx.listen_with(it, framing, options)),
        false => cx.listen_with(addr, framing, options),
    });
    let listener = opened.map_err(|error| at("listen on", addr, &error))?;
    let local = reactor.local_addr(listener)?;
    let protocol = if local.inet().is_some() { "tcp " } else { "" };
    writeln!(io::stdout(), "listening {protocol}{local}")?;
    Ok(listener)
}

/// Opens a UDP socket, and prints the line `listening udp ADDRESS`.
pub(crate) fn bind_udp<H: Handler>(reactor: &mut Reactor<H>, addr: &str) -> Result<UdpId, Failure> {
    let opened = reactor.bind_udp(addr);
    let socket = opened.map_err(|error| at("receive on udp", addr, &error))?;
    writeln!(
        io::stdout(),
        "listening udp {}",
        reactor.local_addr(socket)?
    )?;
    Ok(socket)
}

/// Returns the text of an argument. An argument that is not UTF-8 is an error of usage.
pub(crate) fn text(value: std::ffi::OsString) -> Result<String, Failure> {
    let invalid = |value: std::ffi::OsString| {
        Failure::Usage(format!("argument {value:?} is not valid UTF-8"))
    };
    value.into_string().map_err(invalid)
}

/// Parses the value of the option `name`. The error names the option and the value.
pub(crate) fn value<T>(args: &mut lexopt::Parser, name: &str) -> Result<T, Failure>
where
    T: FromStr<Err: fmt::Display>,
{
    let value = text(args.value()?)?;
    value
        .parse()
        .map_err(|error| Failure::Usage(format!("{name} cannot be \"{value}\": {error}")))
}

/// Returns the arguments of a program without options; `None` for each argument that is missing.
/// More than `N` arguments are an error of usage.
pub(crate) fn operands<const N: usize>(
    mut args: lexopt::Parser,
) -> Result<[Option<String>; N], Failure> {
    let mut operands = [const { None }; N];
    let mut free = operands.iter_mut();
    while let Some(arg) = args.next()? {
        match (arg, free.as_slice().is_empty()) {
            (lexopt::Arg::Value(value), false) => {
                let value = text(value)?;
                if let Some(operand) = free.next() {
                    *operand = Some(value);
                }
            }
            (arg, _) => return Err(unexpected(arg)),
        }
    }
    Ok(operands)
}
