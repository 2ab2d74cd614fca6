//! A small authoritative DNS server over UDP and TCP.
//!
//! ```text
//! cargo run --release --example dns -- --listen 127.0.0.1:7053
//! dig @127.0.0.1 -p 7053 www.example.test
//! dig @127.0.0.1 -p 7053 example.test TXT +tcp
//! ```
//!
//! Over UDP, each query and each answer is one datagram. Over TCP, each of these messages follows
//! its length in two bytes (RFC 1035, 4.2.2). The content of the messages is the same, so one
//! function answers both.

#[path = "support/cli.rs"]
mod cli;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::time::Duration;

use unstick::{Config, ConnId, Context, Datagram, Framing, Handler, Reactor, UdpId};

const HELP: &str = "\
A small authoritative DNS server over UDP and TCP.

Usage: dns [--listen ADDR] [--record RECORD]...

  --listen ADDR    address to listen on, for both transports (HOST:PORT,
                   default 127.0.0.1:7053)
  --record RECORD  'NAME A ADDRESS', 'NAME AAAA ADDRESS' or 'NAME TXT TEXT'
                   (default: a few records of example.test)
  -h, --help       print this help";

const DEFAULT_RECORDS: [&str; 4] = [
    "www.example.test A 192.0.2.1",
    "www.example.test A 192.0.2.2",
    "www.example.test AAAA 2001:db8::1",
    "example.test TXT hello",
];

/// Length of the header of a message, in bytes.
const HEADER_LEN: usize = 12;
/// Maximum length of an answer over UDP, in bytes (RFC 1035, 4.2.1). The server ignores the buffer
/// size of EDNS, so no client gets a longer answer. A sender with a forged address can thus cause
/// little traffic.
const UDP_ANSWER_LEN_MAX: usize = 512;
/// Maximum length of an answer over TCP, in bytes: its length field has two bytes.
const TCP_ANSWER_LEN_MAX: usize = 65_535;
/// Time for which a client may keep an answer, in seconds.
const TTL: u32 = 300;

const TYPE_A: u16 = 1;
const TYPE_TXT: u16 = 16;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

/// Flags of an answer: a response, by an authority.
const ANSWER: u16 = 0x8400;
/// Flag of a message that was cut. The client asks again over TCP.
const TRUNCATED: u16 = 0x0200;
const NO_ERROR: u16 = 0;
const FORMAT_ERROR: u16 = 1;
const NAME_ERROR: u16 = 3;
const NOT_IMPLEMENTED: u16 = 4;

/// The records of all names. A name is stored as in a message, in lower case.
#[derive(Default)]
struct Zone(HashMap<Vec<u8>, Vec<Record>>);

struct Record {
    kind: u16,
    /// The length of the data in two bytes, then the data.
    data: Vec<u8>,
}

impl Zone {
    /// Adds a record that a user has written. Returns `None` if it is invalid.
    fn add(&mut self, record: &str) -> Option<()> {
        let (name, rest) = record.trim().split_once(' ')?;
        let (kind, data) = rest.trim().split_once(' ')?;
        let mut wire = Vec::new();
        for label in name.trim_end_matches('.').split('.') {
            let len = u8::try_from(label.len())
                .ok()
                .filter(|len| (1..64).contains(len))?;
            wire.push(len);
            wire.extend(label.to_ascii_lowercase().as_bytes());
        }
        wire.push(0);
        let (kind, data) = match kind {
            "A" => (TYPE_A, data.parse::<Ipv4Addr>().ok()?.octets().to_vec()),
            "AAAA" => (TYPE_AAAA, data.parse::<Ipv6Addr>().ok()?.octets().to_vec()),
            "TXT" => {
                let len = u8::try_from(data.len()).ok()?;
                (TYPE_TXT, [&[len], data.as_bytes()].concat())
            }
            _ => return None,
        };
        let len = u16::try_from(data.len()).ok()?;
        let data = [&len.to_be_bytes()[..], &data].concat();
        self.0.entry(wire).or_default().push(Record { kind, data });
        Some(())
    }

    /// Writes the answer to a query into `out`. Writes nothing if the message needs no answer.
    fn answer(&self, query: &[u8], len_max: usize, out: &mut Vec<u8>) {
        out.clear();
        let Some(header) = query.first_chunk::<HEADER_LEN>() else {
            return; // too short for an answer
        };
        let flags = u16::from_be_bytes([header[2], header[3]]);
        if flags & 0x8000 != 0 {
            return; // Answers to answers would never end.
        }
        out.extend(&header[..2]);
        out.extend([0; HEADER_LEN - 2]);
        let opcode_and_recursion_desired = flags & 0x7900;
        let questions = u16::from_be_bytes([header[4], header[5]]);
        let (code, count) = match question(query).filter(|_| questions == 1) {
            Some(question) if flags & 0x7800 == 0 => {
                out.extend(question.bytes);
                self.add_answers(&question, out)
            }
            Some(_) => (NOT_IMPLEMENTED, 0),
            None => (FORMAT_ERROR, 0),
        };
        let has_question = u16::from(out.len() > HEADER_LEN);
        let mut flags = ANSWER | opcode_and_recursion_desired | code;
        let mut count = count;
        if out.len() > len_max {
            let question_len = question(query).map_or(0, |question| question.bytes.len());
            out.truncate(HEADER_LEN + question_len);
            flags |= TRUNCATED;
            count = 0;
        }
        out[2..4].copy_from_slice(&flags.to_be_bytes());
        out[4..6].copy_from_slice(&has_question.to_be_bytes());
        out[6..8].copy_from_slice(&count.to_be_bytes());
    }

    /// Appends the records that answer a question. Returns the code of the answer, and the number
    /// of records.
    fn add_answers(&self, question: &Question<'_>, out: &mut Vec<u8>) -> (u16, u16) {
        let Some(records) = self.0.get(&question.name) else {
            return (NAME_ERROR, 0);
        };
        let mut count = 0;
        let fitting = records.iter().filter(|it| it.kind == question.kind);
        for record in fitting.filter(|_| question.class == CLASS_IN) {
            out.extend([0xC0, 12]); // the name of the question, at offset 12
            out.extend(record.kind.to_be_bytes());
            out.extend(CLASS_IN.to_be_bytes());
            out.extend(TTL.to_be_bytes());
            out.extend(&record.data);
            count += 1;
        }
        (NO_ERROR, count)
    }
}

/// The question of a query.
struct Question<'a> {
    bytes: &'a [u8],
    /// The name in lower case.
    name: Vec<u8>,
    kind: u16,
    class: u16,
}

/// Returns the first question of a query; `None` if it is malformed.
fn question(query: &[u8]) -> Option<Question<'_>> {
    let rest = query.get(HEADER_LEN..)?;
    let mut end = 0;
    loop {
        match usize::from(*rest.get(end)?) {
            0 => break,
            len if len < 64 && end + len < 255 => end += 1 + len,
            _ => return None, // a compressed or too long name
        }
    }
    let name = rest.get(..=end)?.to_ascii_lowercase();
    let bytes = rest.get(..end + 5)?;
    let [.., k0, k1, c0, c1] = bytes else {
        return None;
    };
    Some(Question {
        bytes,
        name,
        kind: u16::from_be_bytes([*k0, *k1]),
        class: u16::from_be_bytes([*c0, *c1]),
    })
}

#[derive(Default)]
struct Server {
    zone: Zone,
    /// The answer that is being written, kept to use its memory again.
    answer: Vec<u8>,
}

impl Handler for Server {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), query: &[u8]) {
        self.zone
            .answer(query, TCP_ANSWER_LEN_MAX, &mut self.answer);
        match self.answer.is_empty() {
            true => cx.abort(conn),
            false => drop(cx.send(conn, &self.answer)),
        }
    }

    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, query: Datagram<'_>) {
        self.zone
            .answer(query.data, UDP_ANSWER_LEN_MAX, &mut self.answer);
        if !self.answer.is_empty()
            && let Err(error) = cx.send_to(socket, query.from, &self.answer)
        {
            log::debug!("cannot answer {}: {error}", query.from);
        }
    }
}

fn main() -> ExitCode {
    use lexopt::prelude::*;

    cli::run("dns", HELP, |mut args| {
        let (mut addr, mut records) = ("127.0.0.1:7053".to_owned(), Vec::new());
        while let Some(arg) = args.next()? {
            match arg {
                Long("listen") => addr = cli::text(args.value()?)?,
                Long("record") => records.push(cli::text(args.value()?)?),
                arg => return Err(cli::unexpected(arg)),
            }
        }
        if records.is_empty() {
            records = DEFAULT_RECORDS.map(str::to_owned).into();
        }
        let mut server = Server::default();
        for record in &records {
            let invalid = || cli::Failure::Usage(format!("invalid record '{record}'"));
            server.zone.add(record).ok_or_else(invalid)?;
        }
        // RFC 7766, 6.2.3: a client that is silent for a few seconds may be closed.
        let config = Config::new()
            .idle_timeout(Duration::from_secs(10))
            .write_stall_timeout(Duration::from_secs(10))
            .connections_per_addr_max(100);
        let mut reactor = Reactor::with_config(server, config)?;
        reactor.shutdown_on_signals(Duration::from_secs(1))?;
        let listener = cli::listen(&mut reactor, &addr, Framing::length_u16())?;
        let addr = reactor.local_addr(listener)?.to_string(); // with port 0: the chosen port
        cli::bind_udp(&mut reactor, &addr)?;
        Ok(reactor.run()?)
    })
}
