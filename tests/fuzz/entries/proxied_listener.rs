//! Fuzz entry of a listener behind a balancer. A stream of headers of the PROXY protocol and frames
//! reaches a reactor in a simulated network, in any pieces. The headers may be invalid.
//!
//! ```text
//!   reactor: PROXY header -> framing -> frames <-- simulated network <-- pieces of a stream
//! ```
//!
//! The fuzz target and `tests/simulation` include this file as a module. The parent module must
//! import `Input` and `naive`.

use std::mem::discriminant;
use std::time::Duration;

use unstick::testkit::sim::Simulation;
use unstick::{
    CloseReason, Closed, ConnId, Context, Handler, ListenOptions, Origin, ProxyError, ProxyHeader,
    ProxyProtocol,
};

use super::Input;
use super::naive::{Decoded, Fault};

/// Longer than every deadline of the default configuration.
const LONG: Duration = Duration::from_secs(60);
/// Maximum number of pieces that arrive alone. The rest of the stream arrives in one piece.
const PIECES_MAX: usize = 200;
const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Outcome of a connection.
#[derive(Debug)]
enum Outcome {
    /// The connection opens, with a header or as a direct client. The framing decodes the stream
    /// from this offset.
    Opens(Option<ProxyHeader>, usize),
    /// The connection ends before it opens. `None`: the header is incomplete, so the reason is the
    /// end of the stream or the deadline.
    Fails(Option<ProxyError>),
}

/// Tests that a listener opens a connection exactly if its header allows this, and reports this
/// header. The frames after the header must be those of the reference decoder.
pub fn proxied_listener(data: &[u8]) {
    let mut input = Input(data);
    let is_required = input.flag();
    let len_max = [4096, 107, 28, 16][usize::from(input.below(4))];
    let waits_for_deadline = input.flag();
    let limit = input.limit();
    let format = input.format();
    let lens = input.piece_lens();
    let stream = [start(&mut input), input.stream(&format)].concat();

    let policy = match is_required {
        true => ProxyProtocol::required(),
        false => ProxyProtocol::optional(),
    };
    let policy = policy.header_len_max(len_max);
    let expected = outcome(&stream, is_required, len_max);
    let policy = policy.trust(Simulation::PEER_IP.into());

    let mut sim = Simulation::new(0);
    let node = sim.reactor(Record::default());
    let addr = node.addr(7000);
    let options = ListenOptions::new().proxy_protocol(policy);
    let listening = sim[node].with(|_, cx| cx.listen_with(addr, format.framing(limit), &options));
    listening.expect("the port is free");
    let peer = sim.connect(addr);
    let mut rest = &stream[..];
    for len in lens.iter().cycle().take(PIECES_MAX) {
        let (piece, others) = rest.split_at((*len).min(rest.len()));
        rest = others;
        peer.send(piece);
        sim.run_for(Duration::from_millis(1));
        if rest.is_empty() {
            break;
        }
    }
    peer.send(rest);
    if waits_for_deadline {
        sim.run_for(LONG);
    }
    peer.half_close();
    sim.run_for(LONG);
    peer.close();
    sim.run_for(LONG);

    let record = sim[node].handler();
    assert_eq!(record.closes.len(), 1, "the connection was not closed once");
    let reason = &record.closes[0];
    match &expected {
        Outcome::Fails(error) => {
            assert_eq!(record.opened, 0, "opened without a header: {expected:?}");
            let CloseReason::ProxyHeader(reported) = reason else {
                panic!("{reason}, expected {expected:?}");
            };
            let is_expected = match error {
                Some(error) => discriminant(error) == discriminant(reported),
                None => matches!(reported, ProxyError::Ended | ProxyError::TimedOut),
            };
            assert!(is_expected, "{reported}, expected {expected:?}");
        }
        Outcome::Opens(header, offset) => {
            assert_eq!(record.opened, 1, "{reason}, expected {expected:?}");
            assert_eq!(record.proxied.as_ref(), header.as_ref());
            let decoded = format.decode(limit, &stream[*offset..]);
            check_frames(record, reason, &decoded);
        }
    }
    assert_eq!(sim[node].stats().connections, 0);
}

/// Checks a connection that was opened and then closed: its frames and the reason of its close must
/// be those of the reference decoder.
fn check_frames(record: &Record, reason: &CloseReason, decoded: &Decoded) {
    assert_eq!(record.frames, decoded.frames);
    let fault = match reason {
        CloseReason::Frame { error, .. } => Some(Fault::of(error)),
        CloseReason::Peer => None,
        other => panic!("the connection ended: {other}"),
    };
    assert_eq!(fault, decoded.fault);
}

/// Returns the outcome for a trusted peer, as the documentation of [`ProxyProtocol`] promises it.
fn outcome(stream: &[u8], is_required: bool, len_max: usize) -> Outcome {
    let is_signed = stream.starts_with(SIGNATURE_V1) || stream.starts_with(SIGNATURE_V2);
    // The length of a header of version 2 follows its signature, command and family.
    let claimed = match stream.get(SIGNATURE_V2.len() + 2..SIGNATURE_V2.len() + 4) {
        Some(len) => 16 + usize::from(u16::from_be_bytes([len[0], len[1]])),
        None => 0,
    };
    // The command is checked first, then the limit, and then the addresses.
    let is_too_long = stream.starts_with(SIGNATURE_V2)
        && matches!(stream.get(SIGNATURE_V2.len()), Some(0x20 | 0x21))
        && claimed > len_max;
    match ProxyHeader::decode(stream) {
        _ if is_too_long => Outcome::Fails(Some(ProxyError::TooLong {
            len: claimed,
            limit: len_max,
        })),
        Err(ProxyError::Missing) if !is_required => Outcome::Opens(None, 0),
        Ok(None) if !is_required && !is_signed => Outcome::Opens(None, 0),
        Ok(Some((header, len))) => Outcome::Opens(Some(header), len),
        Ok(None) => Outcome::Fails(None),
        Err(error) => Outcome::Fails(Some(error)),
    }
}

/// Returns the first bytes of the stream: none, the start of a header, or a whole header.
fn start(input: &mut Input<'_>) -> Vec<u8> {
    let addr = |number: u8| std::net::SocketAddr::from(([192, 0, 2, number], number.into()));
    let header = |input: &mut Input<'_>| {
        ProxyHeader::new(addr(input.byte()), addr(7)).expect("two IP addresses")
    };
    match input.below(10) {
        0 => Vec::new(),
        1 => b"PROXY TCP4 ".to_vec(),
        2 => b"PROXY UNKNOWN".to_vec(),
        3 => SIGNATURE_V2.to_vec(),
        4 => [SIGNATURE_V2, b"\x21\x11\0"].concat(),
        5 => ProxyHeader::local().encode(),
        6 => header(input).version_1().encode(),
        // Two headers: the second one belongs to the framing.
        7 => header(input).encode().repeat(2),
        8 => {
            let mut bytes = header(input).encode();
            let at = usize::from(input.byte()) % bytes.len();
            bytes[at] ^= input.byte();
            bytes
        }
        _ => {
            let kind = input.byte() | 0xE0;
            let value = input.bytes(usize::from(kind) % 7);
            let header = header(input).tlv(kind, value);
            header.expect("the TLV is short").encode()
        }
    }
}

/// A handler that records its callbacks.
#[derive(Default)]
struct Record {
    opened: usize,
    proxied: Option<ProxyHeader>,
    frames: Vec<Vec<u8>>,
    closes: Vec<CloseReason>,
}

impl Handler for Record {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        self.opened += 1;
        self.proxied = cx.proxied(conn).cloned();
    }

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), frame: &[u8]) {
        self.frames.push(frame.to_vec());
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        self.closes.push(closed.reason);
    }
}
