//! TLS sessions whose bytes arrive in pieces: every cut of the handshake and of the records, and
//! many clean and truncated ends. Also the count of output that a session loses.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, Connection, SupportedProtocolVersion};

use super::tls_peer::{
    VERSIONS, client_config, client_session, connect_options, listen_options, peer_of,
    server_session,
};
use super::*;
use crate::os::sim::SimPeer;

const REQUEST: &[u8] = b"\x05hello\x00\x02ab";

/// Runs turns until the reactor has no work.
fn settle(reactor: &mut Reactor<Recorder>) {
    for _ in 0..100 {
        turn(reactor);
        if reactor.next_turn_in() != Some(Duration::ZERO) {
            return;
        }
    }
    panic!("the reactor has work after 100 turns");
}

/// A rustls session over a simulated connection to a reactor.
pub(super) struct TlsPeer {
    pub(super) reactor: Reactor<Recorder>,
    pub(super) peer: SimPeer,
    pub(super) session: Connection,
    /// Number of bytes sent so far.
    sent: usize,
}

impl TlsPeer {
    /// Connects a client to a TLS listener of a reactor.
    pub(super) fn client(
        version: &'static SupportedProtocolVersion,
        config: Arc<ClientConfig>,
    ) -> Self {
        let world = World::new(0);
        let mut reactor =
            Reactor::with_os(Recorder::default(), Config::default(), world.os()).expect("it opens");
        let options = listen_options(version);
        let listened = reactor.with(|_, cx| cx.listen_with(any(), Framing::length_u8(), &options));
        let listener = listened.expect("a port is free");
        let addr = reactor.local_addr(listener).expect("the listener is bound");
        let peer = world.connect(addr);
        settle(&mut reactor);
        Self {
            reactor,
            peer,
            session: client_session(config).into(),
            sent: 0,
        }
    }

    /// Accepts the connection of a reactor. Returns the id of the connection in the reactor.
    pub(super) fn server(version: &'static SupportedProtocolVersion) -> (Self, ConnId) {
        let world = World::new(0);
        let mut reactor =
            Reactor::with_os(Recorder::default(), Config::default(), world.os()).expect("it opens");
        let listener = world.listen(any());
        let addr = listener.local_addr();
        let options = connect_options(version);
        let conn = reactor.with(|_, cx| cx.connect_with(addr, Framing::length_u8(), (), &options));
        settle(&mut reactor);
        let server = Self {
            reactor,
            peer: listener.accept().expect("the reactor has connected"),
            session: server_session(version).into(),
            sent: 0,
        };
        (server, conn)
    }

    /// Sends all records that the session has ready. Waits for the reactor at each offset in
    /// `cuts`, which are offsets of the stream from its start.
    pub(super) fn send(&mut self, cuts: &[usize]) {
        let mut wire = Vec::new();
        while self.session.wants_write() {
            self.session
                .write_tls(&mut wire)
                .expect("memory can be written");
        }
        let mut rest = &wire[..];
        for cut in cuts {
            if let Some(len) = cut.checked_sub(self.sent)
                && (1..rest.len()).contains(&len)
            {
                let (piece, left) = rest.split_at(len);
                self.push(piece);
                rest = left;
            }
        }
        self.push(rest);
    }

    fn push(&mut self, piece: &[u8]) {
        assert_eq!(self.peer.send(piece), piece.len(), "the buffer has space");
        self.sent += piece.len();
        settle(&mut self.reactor);
    }

    /// Receives all records. Returns their plaintext.
    pub(super) fn receive(&mut self) -> Vec<u8> {
        let wire = self.peer.recv();
        let (mut rest, mut plaintext) = (&wire[..], Vec::new());
        while !rest.is_empty() {
            self.session
                .read_tls(&mut rest)
                .expect("memory can be read");
            self.session.process_new_packets().expect("valid records");
            let _ = self.session.reader().read_to_end(&mut plaintext);
        }
        plaintext
    }

    /// Completes the handshake, with cuts at these offsets of the session's stream.
    pub(super) fn shake(&mut self, cuts: &[usize]) {
        while self.session.is_handshaking() {
            self.send(cuts);
            self.receive();
        }
    }

    /// Runs the session with cuts at these offsets of its stream. Returns the length of the stream.
    fn run(mut self, cuts: &[usize]) -> usize {
        self.shake(cuts);
        let mut writer = self.session.writer();
        writer.write_all(REQUEST).expect("memory can be written");
        self.session.send_close_notify();
        self.send(cuts);
        assert_eq!(self.receive(), REQUEST, "cuts at {cuts:?}");
        self.peer.close();
        settle(&mut self.reactor);
        let handler = &self.reactor.handler;
        assert_eq!(handler.frames, [&b"hello"[..], b"", b"ab"], "{cuts:?}");
        let closed = only_close(&self.reactor);
        assert!(matches!(closed.reason, CloseReason::Peer), "{closed:?}");
        assert_eq!((closed.unsent_bytes, closed.undecoded_bytes), (0, 0));
        assert_eq!(self.reactor.stats().held_bytes, 0);
        self.sent
    }
}

/// The bytes of a client: its part of a full or resumed handshake, its records and its
/// `close_notify`.
#[test]
fn session_is_the_same_for_every_cut_of_its_bytes() {
    for version in VERSIONS {
        let resumptions = [Resumption::disabled(), Resumption::in_memory_sessions(8)];
        let lens = resumptions.map(|resumption| {
            let config = client_config(version, resumption);
            let run = |cuts: &[usize]| TlsPeer::client(version, config.clone()).run(cuts);
            // All sessions after the first one are resumed, if resumption is enabled.
            run(&[]);
            let len = run(&[]);
            for cut in 1..len {
                assert_eq!(run(&[cut]), len);
            }
            // Each byte on its own.
            let all: Vec<usize> = (1..len).collect();
            run(&all);
            len
        });
        assert_ne!(lens[0], lens[1], "a resumed handshake has another length");
    }
}

/// The bytes of a server, with its certificate and its tickets. A signature of ECDSA has a variable
/// length, so the last offsets are in the stream only in some runs.
#[test]
fn session_is_the_same_for_every_cut_of_a_server() {
    for version in VERSIONS {
        let len = TlsPeer::server(version).0.run(&[]) + 4;
        for cut in 1..len {
            TlsPeer::server(version).0.run(&[cut]);
        }
        let all: Vec<usize> = (1..len).collect();
        TlsPeer::server(version).0.run(&all);
    }
}

/// An optimised build tries all pairs, about 100,000. Other builds try a sample of the pairs. The
/// handshakes are full.
#[test]
fn session_is_the_same_for_pairs_of_cuts() {
    const STEP: usize = if cfg!(debug_assertions) { 331 } else { 1 };
    for version in VERSIONS {
        let config = client_config(version, Resumption::disabled());
        let run = |cuts: &[usize]| TlsPeer::client(version, config.clone()).run(cuts);
        let len = run(&[]);
        let pairs = (1..len).flat_map(|first| (first + 1..len).map(move |second| [first, second]));
        for cuts in pairs.step_by(STEP) {
            assert_eq!(run(&cuts), len);
        }
    }
}

/// Only the records after the handshake are cut: all pairs of offsets.
#[test]
fn records_are_the_same_for_every_pair_of_cuts() {
    let wire_of = |script: Script| {
        let peer = peer_of(script);
        let mut peer = peer.borrow_mut();
        [
            peer.encrypt(b"\x01a\x02"),
            peer.encrypt(b"bc"),
            peer.close_notify(),
        ]
        .concat()
    };
    let len = wire_of(Script::new()).len();
    for first in 1..len {
        for second in first + 1..len {
            let mut reactor = Transport::Tls.reactor();
            let script = Script::new();
            let wire = wire_of(script);
            let conn = open(&mut reactor, script, Framing::length_u8());
            for piece in [&wire[..first], &wire[first..second], &wire[second..]] {
                script.then_read([ReadResult::Bytes(piece.to_vec())]);
                event(&mut reactor, conn, Ready::READABLE);
            }
            let frames = &reactor.handler.frames;
            assert_eq!(frames, &[&b"a"[..], b"bc"], "cuts at {first}, {second}");
            assert!(matches!(only_close(&reactor).reason, CloseReason::Peer));
        }
    }
}

/// Ends the stream of a session after its first `wire_len` bytes. Returns the close.
fn end_after(wire_len: usize, wire: &[u8], script: Script) -> Closed {
    let mut reactor = Transport::Tls.reactor();
    let conn = open(&mut reactor, script, Framing::length_u8());
    script.then_read([
        ReadResult::Bytes(wire[..wire_len].to_vec()),
        ReadResult::End,
    ]);
    event(&mut reactor, conn, Ready::READABLE | Ready::ENDED);
    settle(&mut reactor);
    let (_, closed) = reactor.handler.closes.pop().expect("the connection ended");
    closed
}

/// Sends the FIN at every third offset of 40 streams with payloads of 1 to 40 bytes. Only the
/// offset after the whole `close_notify` is a clean end.
#[test]
fn fin_before_the_end_of_close_notify_is_truncated() {
    let (mut clean, mut truncated) = (0, 0);
    for round in 0..40 {
        let payload = [&[round][..], &vec![7; usize::from(round)]].concat();
        let wire_of = |script: Script| {
            let peer = peer_of(script);
            let mut peer = peer.borrow_mut();
            [peer.encrypt(&payload), peer.close_notify()].concat()
        };
        let len = wire_of(Script::new()).len();
        for end in (1..=len).step_by(3).chain([len]) {
            let script = Script::new();
            let wire = wire_of(script);
            let closed = end_after(end, &wire, script);
            match closed.reason {
                CloseReason::Peer => clean += 1,
                CloseReason::TlsTruncated => truncated += 1,
                reason => panic!("{reason:?}"),
            }
            let is_clean = matches!(closed.reason, CloseReason::Peer);
            assert_eq!(is_clean, end == len, "{end} of {len} bytes");
        }
    }
    assert!(clean >= 40 && truncated >= 800, "{clean}, {truncated}");
}

/// The session accepts the plaintext, but the socket takes nothing. The loss is found by the end of
/// the connection, by a write, or by a read.
#[test]
fn output_lost_by_a_session_counts_as_unsent_only() {
    let would_block = WriteResult::Fails(ErrorKind::WouldBlock);
    let losses: [Option<Ready>; 3] = [None, Some(Ready::WRITABLE), Some(Ready::READABLE)];
    for ready in losses {
        let mut reactor = Transport::Tls.reactor();
        reactor.handler.is_silent = true;
        let script = Script::new();
        let conn = open(&mut reactor, script, Framing::raw());
        script.then_write([would_block]);
        reactor.with(|_, cx| {
            let _ = cx.send(conn, &[7; 1000]).expect("the queue has space");
        });
        turn(&mut reactor);
        assert_eq!(reactor.stats().written_bytes, 1000, "the session has it");
        match ready {
            None => reactor.with(|_, cx| cx.abort(conn)),
            Some(ready) => {
                script.then_write([WriteResult::Fails(ErrorKind::BrokenPipe)]);
                let input = peer_of(script).borrow_mut().encrypt(b"frame");
                script.then_read([ReadResult::Bytes(input), ReadResult::End]);
                event(&mut reactor, conn, ready);
            }
        }
        settle(&mut reactor);
        let closed = only_close(&reactor);
        let counted = (closed.stats.written_bytes, closed.unsent_bytes);
        assert_eq!(counted, (0, 1000), "{ready:?}");
        let stats = reactor.stats();
        let counted = (stats.written_bytes, stats.unsent_bytes);
        assert_eq!(counted, (0, 1000), "{ready:?}");
    }
}
