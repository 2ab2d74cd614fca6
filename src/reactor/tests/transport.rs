//! The transports of the connection tests, and the peers of their connections.
//!
//! A test with a [`Transport`] argument runs over plain connections, over connections with the XOR
//! filter, and over TLS; see [`on_all_transports`]. The peer of a filtered connection has a
//! separate decoder, so that the tests detect errors of the filter.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

#[cfg(feature = "tls")]
use super::tls_peer;
use super::*;
use crate::engine::Filter;
use crate::engine::xor_filter::XorFilter;
use crate::engine::xor_filter::{ACKNOWLEDGED_RECORDS, ACKNOWLEDGEMENT, DATA, RECORD_LEN_MAX};
use crate::os::sim::{Calls, SimPeer};

pub(in crate::reactor) use crate::engine::xor_filter::AckOrder;

/// The transport of the connections of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::reactor) enum Transport {
    Plain,
    Filtered,
    #[cfg(feature = "tls")]
    Tls,
}

/// Declares each of the functions as a test in `mod plain`, `mod filtered` and `mod tls`. The
/// functions after `not over TLS` are not in `mod tls`, because they expect lengths of reads,
/// writes and buffers that TLS records change.
macro_rules! on_all_transports {
    ($($(#[$attribute:meta])* $test:ident),+ $(,)? $(; not over TLS: $($other:ident),+ $(,)?)?) => {
        mod plain {
            use crate::reactor::tests::transport::Transport;
            $($(#[$attribute])* #[test] fn $test() { super::$test(Transport::Plain); })+
            $($(#[test] fn $other() { super::$other(Transport::Plain); })+)?
        }

        mod filtered {
            use crate::reactor::tests::transport::Transport;
            $($(#[$attribute])* #[test] fn $test() { super::$test(Transport::Filtered); })+
            $($(#[test] fn $other() { super::$other(Transport::Filtered); })+)?
        }

        #[cfg(feature = "tls")]
        mod tls {
            use crate::reactor::tests::transport::Transport;
            $($(#[$attribute])* #[test] fn $test() { super::$test(Transport::Tls); })+
        }
    };
}
pub(super) use on_all_transports;

impl Transport {
    pub(in crate::reactor) fn is_plain(self) -> bool {
        self == Self::Plain
    }

    pub(super) fn is_tls(self) -> bool {
        !matches!(self, Self::Plain | Self::Filtered)
    }

    /// Sets the transport of all connections that the reactor opens later.
    pub(in crate::reactor) fn install<H: Handler>(self, reactor: &mut Reactor<H>, order: AckOrder) {
        reactor.engine.admission.filters_connections = match (self, order) {
            (Self::Plain, _) => None,
            (Self::Filtered, AckOrder::First) => {
                Some(|_| Filter::Xor(XorFilter::new(AckOrder::First)))
            }
            (Self::Filtered, AckOrder::Queued) => {
                Some(|_| Filter::Xor(XorFilter::new(AckOrder::Queued)))
            }
            #[cfg(feature = "tls")]
            (Self::Tls, _) => Some(tls_peer::filter_of),
        };
    }

    pub(super) fn reactor(self) -> Reactor<Recorder> {
        self.reactor_with(Config::default())
    }

    /// Returns a reactor on the current simulated world.
    pub(super) fn reactor_with(self, config: Config) -> Reactor<Recorder> {
        let mut reactor = reactor_with(config);
        self.install(&mut reactor, AckOrder::First);
        reactor
    }

    pub(super) fn script(self) -> Wire {
        Wire {
            script: Script::new(),
            transport: self,
        }
    }

    /// Returns the bytes that carry `plaintext` on the wire of a connection.
    pub(in crate::reactor) fn encrypt(self, script: Script, plaintext: &[u8]) -> Vec<u8> {
        let _ = script;
        match self {
            Self::Plain => plaintext.to_vec(),
            Self::Filtered => plaintext
                .chunks(RECORD_LEN_MAX)
                .flat_map(|record| {
                    let len = u8::try_from(record.len()).expect("a record has at most 50 bytes");
                    let payload = record.iter().map(|byte| !byte);
                    [DATA, len].into_iter().chain(payload)
                })
                .collect(),
            #[cfg(feature = "tls")]
            Self::Tls => tls_peer::peer_of(script).borrow_mut().encrypt(plaintext),
        }
    }

    /// Returns the bytes that the transport itself sends before the FIN, such as `close_notify`.
    pub(in crate::reactor) fn end(self, script: Script) -> Vec<u8> {
        let _ = script;
        match self {
            Self::Plain | Self::Filtered => Vec::new(),
            #[cfg(feature = "tls")]
            Self::Tls => tls_peer::peer_of(script).borrow_mut().close_notify(),
        }
    }

    /// Returns the plaintext of all bytes that were written to the wire of a connection so far.
    pub(in crate::reactor) fn decrypt(self, script: Script, wire: &[u8]) -> Vec<u8> {
        let _ = script;
        match self {
            Self::Plain => wire.to_vec(),
            Self::Filtered => Decoder::default().decrypt(wire),
            #[cfg(feature = "tls")]
            Self::Tls => tls_peer::peer_of(script).borrow_mut().decrypt_again(wire),
        }
    }
}

/// Decoder of a filtered stream. It decrypts byte by byte, and counts the records.
#[derive(Debug, Default)]
struct Decoder {
    kind: Option<u8>,
    /// Remaining payload of the record, in bytes; `None` until its length is known.
    left: Option<u8>,
    records: u32,
    acknowledgements: usize,
}

impl Decoder {
    fn decrypt(&mut self, wire: &[u8]) -> Vec<u8> {
        let mut plaintext = Vec::new();
        for byte in wire {
            match (self.kind, self.left) {
                (None, _) => self.kind = Some(*byte),
                (Some(_), None) => self.left = Some(*byte),
                (Some(kind), Some(left)) => {
                    assert_eq!(kind, DATA, "only a data record has a payload");
                    plaintext.push(!byte);
                    self.left = Some(left - 1);
                }
            }
            if self.left == Some(0) {
                self.left = None;
                match self.kind.take() {
                    Some(DATA) => self.records += 1,
                    Some(ACKNOWLEDGEMENT) => self.acknowledgements += 1,
                    kind => panic!("unknown record kind: {kind:?}"),
                }
            }
        }
        plaintext
    }

    /// Returns the number of acknowledgements that the records need.
    fn acknowledgements_due(&self) -> u32 {
        self.records / ACKNOWLEDGED_RECORDS
    }
}

/// Script of a connection. Its methods take and return plaintext.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire {
    script: Script,
    transport: Transport,
}

impl Wire {
    pub(super) fn then_read(self, read_results: impl IntoIterator<Item = ReadResult>) {
        let Self { script, transport } = self;
        for result in read_results {
            let result = match result {
                ReadResult::Bytes(bytes) => ReadResult::Bytes(transport.encrypt(script, &bytes)),
                ReadResult::End => {
                    let end = transport.end(script);
                    script.then_read((!end.is_empty()).then_some(ReadResult::Bytes(end)));
                    ReadResult::End
                }
                other => other,
            };
            script.then_read([result]);
        }
    }

    pub(super) fn then_write(self, write_results: impl IntoIterator<Item = WriteResult>) {
        self.script.then_write(write_results);
    }

    /// Returns the calls on the stream, with its output in plaintext.
    pub(super) fn calls(self) -> Calls {
        let mut calls = self.script.calls();
        calls.written = self.transport.decrypt(self.script, &calls.written);
        calls
    }

    /// Returns the number of written acknowledgements.
    pub(super) fn acknowledgements(self) -> usize {
        let mut decoder = Decoder::default();
        decoder.decrypt(&self.script.calls().written);
        decoder.acknowledgements
    }
}

impl From<Wire> for Script {
    fn from(wire: Wire) -> Self {
        wire.script
    }
}

/// The peer of a connection, which the test uses without a reactor.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    sim: SimPeer,
    transport: Transport,
    input: Rc<RefCell<Input>>,
}

#[derive(Debug, Default)]
struct Input {
    decoder: Decoder,
    acknowledged: u32,
    /// The script of the reactor's socket, once the connection was used.
    script: Option<Script>,
}

impl Peer {
    pub(super) fn new(transport: Transport, sim: SimPeer) -> Self {
        Self {
            sim,
            transport,
            input: Rc::default(),
        }
    }

    /// Sends all bytes. Panics if the send buffer does not take them.
    pub(super) fn send(&self, bytes: &[u8]) {
        let wire = self.transport.encrypt(self.script(), bytes);
        assert_eq!(self.sim.send(&wire), wire.len(), "the send buffer is full");
    }

    /// Receives all available bytes.
    pub(super) fn recv(&self) -> Vec<u8> {
        self.recv_up_to(usize::MAX)
    }

    /// Receives at most `len` bytes of the wire, and acknowledges their records. Returns the
    /// plaintext.
    pub(super) fn recv_up_to(&self, len: usize) -> Vec<u8> {
        let wire = self.sim.recv_up_to(len);
        match self.transport {
            Transport::Plain => return wire,
            Transport::Filtered => {}
            #[cfg(feature = "tls")]
            Transport::Tls => {
                return tls_peer::peer_of(self.script()).borrow_mut().receive(&wire);
            }
        }
        let Input {
            decoder,
            acknowledged,
            ..
        } = &mut *self.input.borrow_mut();
        let plaintext = decoder.decrypt(&wire);
        while *acknowledged < decoder.acknowledgements_due() {
            // The acknowledgement is lost if this side has sent its FIN.
            self.sim.send(&[ACKNOWLEDGEMENT, 0]);
            *acknowledged += 1;
        }
        plaintext
    }

    /// Reads after all bytes were received. Returns `Ok(0)` at the end of the stream.
    pub(super) fn read_end(&self) -> io::Result<usize> {
        let received = self.recv();
        assert!(
            received.is_empty(),
            "the stream has not ended: {received:?}"
        );
        self.sim.read_end()
    }

    /// Returns the script of the reactor's socket, also after the reactor has closed the socket.
    fn script(&self) -> Script {
        let sim = self.sim;
        let script = &mut self.input.borrow_mut().script;
        *script.get_or_insert_with(|| sim.faults())
    }

    /// Sends the bytes that the transport itself needs before the FIN.
    fn send_end(&self) {
        if self.transport.is_tls() {
            self.sim.send(&self.transport.end(self.script()));
        }
    }

    pub(super) fn shutdown(&self) {
        self.send_end();
        self.sim.shutdown();
    }

    pub(super) fn reset(&self) {
        self.sim.reset();
    }

    pub(super) fn close(&self) {
        self.send_end();
        self.sim.close();
    }

    /// Returns the script of the reactor's socket.
    pub(super) fn faults(&self) -> Script {
        self.sim.faults()
    }
}
