//! Fuzz entry of TLS: mutated records and random bytes against a reactor in a simulated network.
//!
//! ```text
//!   reactor <-- simulated network <-- wire: flip, cut, repeat, insert <-- rustls, buffered
//! ```
//!
//! The peer of the reactor is an unmodified rustls session. The input of the fuzzer changes the
//! bytes that the session sends, and chooses when they arrive. The keys of a session are random, so
//! a repeated input changes the same kind of bytes, but not the same values.
//!
//! The fuzz target and `tests/simulation` include this file as a module. The parent module must
//! import `Input`.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};
use unstick::testkit::sim::{Link, Node, Peer, Simulation};
use unstick::{
    CloseReason, Closed, ConnId, ConnectOptions, Context, Framing, Handler, ListenOptions,
};

use super::Input;

/// Longer than every deadline of the default configuration.
const LONG: Duration = Duration::from_secs(60);
/// Maximum number of bytes of one change, so that an input cannot use up the memory.
const CHANGE_LEN_MAX: usize = 40_000;

/// Maximum number of bytes that the peer has sent and that have not arrived.
const UNSENT_LEN_MAX: usize = 65_536;
/// Maximum number of exchanges in a row.
const EXCHANGES_MAX: u32 = 1000;

/// Tests a TLS connection of a reactor. Checks that:
///
/// * the reactor does not panic and does not spin, and closes the connection exactly once;
/// * it delivers only frames that the peer sent, in order;
/// * it delivers all of these frames if no byte was changed and the peer ended its side;
/// * it reports a clean end only if the peer sent a `close_notify`, and all frames before that
///   were delivered.
pub fn tls(data: &[u8]) {
    let mut input = Input(data);
    let mut run = Run::start(&mut input);
    for _ in 0..64 {
        if input.0.is_empty() {
            break;
        }
        run.step(&mut input);
    }
    run.end();
}

/// The server and the client configuration of a protocol version.
type Configs = (Arc<ServerConfig>, Arc<ClientConfig>);

/// Returns the configurations of TLS 1.2 and of TLS 1.3. All inputs share them.
fn configs() -> &'static [Configs; 2] {
    static CONFIGS: OnceLock<[Configs; 2]> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let certified = certified.expect("the system has random numbers");
        let chain = vec![certified.cert.der().clone()];
        let mut roots = RootCertStore::empty();
        let added = roots.add(chain[0].clone());
        added.expect("the certificate is valid");
        [&TLS12, &TLS13].map(|version| {
            let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
            let server = ServerConfig::builder_with_protocol_versions(&[version])
                .with_no_client_auth()
                .with_single_cert(chain.clone(), key)
                .expect("the key belongs to the certificate");
            let client = ClientConfig::builder_with_protocol_versions(&[version])
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            (Arc::new(server), Arc::new(client))
        })
    })
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("the name is valid")
}

/// An echo server that records its frames and the reasons of its closes.
#[derive(Default)]
struct Echo {
    opened: usize,
    frames: Vec<Vec<u8>>,
    closes: Vec<Closed>,
}

impl Handler for Echo {
    type Session = ();

    fn on_open(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: unstick::Origin) {
        self.opened += 1;
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        self.frames.push(frame.to_vec());
        let _ = cx.send(conn, frame);
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        self.closes.push(closed);
    }
}

struct Run {
    sim: Simulation,
    node: Node<Echo>,
    peer: Peer,
    session: Connection,
    /// True if the session has failed: it produces no further bytes.
    has_failed: bool,
    /// Bytes of the session that are not sent yet.
    wire: Vec<u8>,
    /// The frames that the session has encrypted.
    sent: Vec<Vec<u8>>,
    /// The plaintext that the session has received.
    echoed: Vec<u8>,
    /// True if no byte was changed on the way to the reactor.
    is_intact: bool,
    is_notified: bool,
    has_ended: bool,
    is_reset: bool,
}

impl Run {
    fn start(input: &mut Input<'_>) -> Self {
        let mut sim = Simulation::new(u64::from(input.byte()));
        let is_client = input.flag();
        let (server, client) = &configs()[usize::from(input.flag())];
        if input.flag() {
            let len_max = 1 + usize::from(input.byte());
            sim.set_links(Link::new().segment_len_max(len_max));
        }
        let node = sim.reactor(Echo::default());
        let (peer, session) = if is_client {
            let listener = sim.listen((Simulation::PEER_IP, 7000));
            let options = ConnectOptions::new().tls(client.clone(), name());
            let addr = listener.local_addr();
            sim[node].with(|_, cx| cx.connect_with(addr, Framing::line(), (), &options));
            let mut peer = None;
            let accepted = sim.run_until(LONG, |_| {
                peer = peer.or_else(|| listener.accept());
                peer.is_some()
            });
            assert!(accepted, "the reactor connects");
            let session = ServerConnection::new(server.clone()).map(Connection::Server);
            (peer.expect("the peer is accepted"), session)
        } else {
            let options = ListenOptions::new().tls(server.clone());
            let addr = node.addr(7000);
            let listener = sim[node].with(|_, cx| cx.listen_with(addr, Framing::line(), &options));
            listener.expect("the address is free");
            let session = ClientConnection::new(client.clone(), name()).map(Connection::Client);
            (sim.connect(addr), session)
        };
        Self {
            sim,
            node,
            peer,
            session: session.expect("the configuration is valid"),
            has_failed: false,
            wire: Vec::new(),
            sent: Vec::new(),
            echoed: Vec::new(),
            is_intact: true,
            is_notified: false,
            has_ended: false,
            is_reset: false,
        }
    }

    /// Executes one action of the input.
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() {
            0..60 => self.shake(),
            60..100 => self.encrypt(input),
            100..120 => {
                let len = input.piece_len();
                self.transmit(len);
            }
            120..130 => self.transmit(usize::MAX),
            130..170 => self.change(input),
            170..180 => self.notify(),
            180..190 => self.refresh_keys(),
            190..200 => self.half_close(),
            200..205 => {
                self.is_reset = true;
                self.peer.reset();
            }
            other => {
                let time = Duration::from_millis(1 << (other % 14));
                self.sim.run_for(time);
            }
        }
    }

    /// Exchanges bytes until neither side sends more. The wire is not changed.
    fn shake(&mut self) {
        for _ in 0..EXCHANGES_MAX {
            self.transmit(usize::MAX);
            self.sim.run_for(Duration::from_millis(5));
            if !self.receive() && (self.wire.is_empty() || self.has_ended) {
                return;
            }
        }
    }

    /// Encrypts lines.
    fn encrypt(&mut self, input: &mut Input<'_>) {
        if self.session.is_handshaking() || self.has_failed || self.is_notified {
            return;
        }
        let len = input.piece_len() - 1;
        let line = vec![b'a' + input.below(26); len];
        for _ in 0..=input.below(4) {
            let mut writer = self.session.writer();
            let written = writer.write(&[&line[..], b"\n"].concat());
            if written.expect("the session is open") <= len {
                // The session accepted only a part of the line, because its buffer is full.
                self.has_failed = true;
                return;
            }
            self.sent.push(line.clone());
        }
        self.take_records();
    }

    /// Moves the output of the session to the wire.
    fn take_records(&mut self) {
        while self.session.wants_write() {
            let written = self.session.write_tls(&mut self.wire);
            written.expect("a vector accepts all bytes");
        }
    }

    /// Sends at most `len` bytes of the wire.
    fn transmit(&mut self, len: usize) {
        self.take_records();
        let space = UNSENT_LEN_MAX.saturating_sub(self.peer.unsent_len());
        let len = len.min(self.wire.len()).min(space);
        if !self.has_ended {
            self.peer.send(&self.wire[..len]);
            self.wire.drain(..len);
        }
    }

    /// Passes the bytes of the reactor to the session. Returns true if there were any.
    fn receive(&mut self) -> bool {
        let bytes = self.peer.recv();
        let mut received = &bytes[..];
        while !received.is_empty() && !self.has_failed {
            let read = self.session.read_tls(&mut received);
            let processed = read.is_ok() && self.session.process_new_packets().is_ok();
            self.has_failed |= !processed;
            // An error reports that no more bytes are available, or that the stream has ended.
            let _ = self.session.reader().read_to_end(&mut self.echoed);
        }
        self.take_records();
        !bytes.is_empty()
    }

    /// Changes the bytes of the wire, or inserts bytes.
    fn change(&mut self, input: &mut Input<'_>) {
        self.take_records();
        let at = (usize::from(input.byte()) * 256 + usize::from(input.byte()))
            .checked_rem(self.wire.len())
            .unwrap_or_default();
        let len = input.piece_len().min(CHANGE_LEN_MAX);
        let before = self.wire.clone();
        match input.below(6) {
            0 if at < self.wire.len() => self.wire[at] ^= input.byte(),
            1 => drop(self.wire.drain(at..(at + len).min(before.len()))),
            2 => {
                let end = (at + len).min(before.len());
                self.wire.splice(at..at, before[at..end].iter().copied());
            }
            3 => {
                let bytes = input.bytes(len.min(64)).to_vec();
                self.wire.splice(at..at, bytes);
            }
            4 => {
                // A record with any header.
                let header = [20 + input.below(6), 3, input.below(5)];
                let claimed = u16::from_be_bytes([input.byte(), input.byte()]);
                let bytes = header.into_iter().chain(claimed.to_be_bytes());
                let record: Vec<u8> = bytes.chain(vec![input.byte(); len]).collect();
                self.wire.splice(at..at, record);
            }
            _ => self.wire.rotate_left(at),
        }
        // Bytes behind a `close_notify` must be ignored.
        self.is_intact &= self.wire == before || self.is_notified && self.wire.starts_with(&before);
    }

    fn notify(&mut self) {
        if !self.session.is_handshaking() && !self.has_failed {
            self.session.send_close_notify();
            self.is_notified = true;
            self.take_records();
        }
    }

    /// Sends a key update; fails in TLS 1.2 and during the handshake.
    fn refresh_keys(&mut self) {
        if !self.session.is_handshaking() && !self.has_failed && !self.is_notified {
            let _ = self.session.refresh_traffic_keys();
            self.take_records();
        }
    }

    fn half_close(&mut self) {
        self.has_ended = true;
        self.peer.half_close();
    }

    /// Ends the connection and checks the results.
    fn end(mut self) {
        self.shake();
        let is_complete = self.wire.is_empty() && !self.has_failed && !self.is_reset;
        self.half_close();
        for _ in 0..EXCHANGES_MAX {
            self.sim.run_for(LONG / EXCHANGES_MAX);
            self.receive();
        }
        self.peer.close();
        self.sim.run_for(LONG);

        let echo = self.sim[self.node].handler();
        assert_eq!(echo.closes.len(), 1, "the connection was not closed once");
        assert!(echo.opened <= 1, "the connection opened twice");
        assert_eq!(self.sim[self.node].stats().connections, 0);
        let reason = &echo.closes[0].reason;
        let delivered = echo.frames.len();
        assert!(
            delivered <= self.sent.len() && echo.frames[..] == self.sent[..delivered],
            "a frame was delivered that the peer did not send"
        );
        let mut lines: Vec<u8> = self.sent.join(&b'\n');
        lines.push(b'\n');
        assert!(lines.starts_with(&self.echoed), "the echo differs");
        let is_clean = matches!(reason, CloseReason::Peer);
        if is_clean {
            assert!(self.is_notified, "no end was sent");
            assert_eq!(
                delivered,
                self.sent.len(),
                "frames before the end were lost"
            );
        }
        if self.is_intact && is_complete && echo.opened == 1 {
            assert_eq!(delivered, self.sent.len(), "frames were lost: {reason}");
            assert_eq!(is_clean, self.is_notified, "the reason is {reason}");
            assert!(
                self.sent.is_empty() || self.echoed == lines,
                "echoes were lost: {reason}"
            );
        }
    }
}
