//! TLS sessions in memory, for the tests that run over every transport. The filter of a connection
//! uses one side of a session, and the test is its peer.
//!
//! The handshake is done in memory before the connection opens. So a test that knows nothing of TLS
//! sees only the plaintext of its connection. The peer uses rustls's buffered connection, which is
//! independent of the filter.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use rcgen::CertifiedKey;
use rustls::client::Resumption;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion, version,
};

use crate::conn::Pool;
use crate::engine::{Filter, TlsFilter};
use crate::memory::Buf;
use crate::os::Stream;
use crate::os::sim::Script;
use crate::os::{ConnectOptions, ListenOptions};
use crate::tls::{TlsServer, TlsSession};

thread_local! {
    /// The sessions of the test: each by the script of its connection.
    static PAIRS: RefCell<Vec<(Script, Pair)>> = const { RefCell::new(Vec::new()) };
}

/// Both sides of a session. The filter takes its side when the connection opens.
struct Pair {
    server: Option<TlsSession>,
    peer: Rc<RefCell<MemoryPeer>>,
}

/// The peer's side of a session.
#[derive(Debug)]
pub(in crate::reactor) struct MemoryPeer {
    session: ClientConnection,
    /// Plaintext that was received so far.
    received: Vec<u8>,
    /// Number of bytes of the wire that were received since the handshake.
    wire_len: usize,
}

type Configs = (Arc<ServerConfig>, Arc<ClientConfig>);

/// The protocol versions; most tests use the first one.
pub(in crate::reactor) const VERSIONS: [&SupportedProtocolVersion; 2] =
    [&version::TLS13, &version::TLS12];

/// Returns the configurations of both sides for a protocol version. The sides trust each other.
fn configs(version: &'static SupportedProtocolVersion) -> Configs {
    static CONFIGS: [OnceLock<Configs>; VERSIONS.len()] = [const { OnceLock::new() }; 2];
    let index = VERSIONS.iter().position(|it| it.version == version.version);
    CONFIGS[index.expect("the version is in the list")]
        .get_or_init(|| {
            let names = ["localhost".to_owned()];
            let CertifiedKey { cert, signing_key } =
                rcgen::generate_simple_self_signed(names).expect("the name is valid");
            let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
            let mut roots = RootCertStore::empty();
            roots
                .add(cert.der().clone())
                .expect("the certificate is valid");
            let server = ServerConfig::builder_with_protocol_versions(&[version])
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key)
                .expect("the key belongs to the certificate");
            let client = ClientConfig::builder_with_protocol_versions(&[version])
                .with_root_certificates(roots)
                .with_no_client_auth();
            (Arc::new(server), Arc::new(client))
        })
        .clone()
}

/// Returns the configuration of a server.
pub(in crate::reactor) fn server_config() -> Arc<ServerConfig> {
    configs(VERSIONS[0]).0
}

/// Returns the options of a TLS listener with a protocol version.
pub(in crate::reactor) fn listen_options(
    version: &'static SupportedProtocolVersion,
) -> ListenOptions {
    ListenOptions::new().tls(configs(version).0)
}

/// Returns a separate configuration of a client, with the given `resumption`. The other tests share
/// one configuration, so earlier tests determine if a session of such a test is resumed.
pub(in crate::reactor) fn client_config(
    version: &'static SupportedProtocolVersion,
    resumption: Resumption,
) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&configs(version).1);
    config.resumption = resumption;
    Arc::new(config)
}

/// Returns the options of a TLS connect with a protocol version, for full handshakes.
pub(in crate::reactor) fn connect_options(
    version: &'static SupportedProtocolVersion,
) -> ConnectOptions {
    let config = client_config(version, Resumption::disabled());
    ConnectOptions::new().tls(config, server_name())
}

fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("the name is valid")
}

/// Returns a session of a client whose handshake has not begun.
pub(in crate::reactor) fn client_session(config: Arc<ClientConfig>) -> ClientConnection {
    let session = ClientConnection::new(config, server_name());
    let mut session = session.expect("the configuration is valid");
    session.set_buffer_limit(None);
    session
}

/// Returns a session of a server whose handshake has not begun.
pub(in crate::reactor) fn server_session(
    version: &'static SupportedProtocolVersion,
) -> ServerConnection {
    let session = ServerConnection::new(configs(version).0);
    let mut session = session.expect("the configuration is valid");
    session.set_buffer_limit(None);
    session
}

impl Pair {
    /// Creates both sides and completes their handshake.
    fn new() -> Self {
        let server = TlsServer::new(&server_config()).expect("early data is off");
        let mut server = TlsSession::server(&server).expect("the configuration is valid");
        let mut peer = MemoryPeer {
            session: client_session(configs(VERSIONS[0]).1),
            received: Vec::new(),
            wire_len: 0,
        };
        let mut output = Buf::default();
        while server.is_handshaking() || peer.session.wants_write() || !output.is_empty() {
            let mut input = peer.take_output();
            let mut at = 0;
            while at < input.len() {
                let processed = server.process(&mut input[at..], &mut |_| {}, &mut output);
                at += processed.expect("the handshake is valid").consumed;
            }
            peer.receive(output.bytes());
            output.clear();
        }
        peer.wire_len = 0;
        Self {
            server: Some(server),
            peer: Rc::new(RefCell::new(peer)),
        }
    }
}

/// Calls `function` with the session of a connection, which is created at its first use.
fn with_pair<R>(script: Script, function: impl FnOnce(&mut Pair) -> R) -> R {
    PAIRS.with_borrow_mut(|pairs| {
        let index = pairs.iter().position(|(of, _)| *of == script);
        let index = index.unwrap_or_else(|| {
            pairs.push((script, Pair::new()));
            pairs.len() - 1
        });
        function(&mut pairs[index].1)
    })
}

/// Returns the peer of a connection.
pub(in crate::reactor) fn peer_of(script: Script) -> Rc<RefCell<MemoryPeer>> {
    with_pair(script, |pair| pair.peer.clone())
}

/// Creates the filter of a connection that opens.
pub(in crate::reactor) fn filter_of(stream: &Stream) -> Filter {
    let Stream::Sim(socket) = stream else {
        panic!("the socket is not simulated: {stream:?}");
    };
    let session = with_pair(socket.script(), |pair| pair.server.take());
    let session = session.expect("a connection opens once");
    Filter::Tls(TlsFilter::new(session, &[], &mut Pool::new(0)))
}

impl MemoryPeer {
    /// Returns the records that carry `plaintext`.
    pub(in crate::reactor) fn encrypt(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut writer = self.session.writer();
        writer.write_all(plaintext).expect("memory can be written");
        self.take_output()
    }

    /// Returns the record that ends the stream.
    pub(in crate::reactor) fn close_notify(&mut self) -> Vec<u8> {
        self.session.send_close_notify();
        self.take_output()
    }

    pub(in crate::reactor) fn take_output(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        while self.session.wants_write() {
            self.session
                .write_tls(&mut wire)
                .expect("memory can be written");
        }
        wire
    }

    /// Takes bytes of the wire. Returns the plaintext in them.
    pub(in crate::reactor) fn receive(&mut self, mut wire: &[u8]) -> Vec<u8> {
        self.wire_len += wire.len();
        let mut plaintext = Vec::new();
        while !wire.is_empty() {
            self.session
                .read_tls(&mut wire)
                .expect("memory can be read");
            self.session
                .process_new_packets()
                .expect("the records are valid");
            let mut buf = [0; 4096];
            while let Ok(len @ 1..) = self.session.reader().read(&mut buf) {
                plaintext.extend_from_slice(&buf[..len]);
            }
        }
        self.received.extend_from_slice(&plaintext);
        plaintext
    }

    /// Returns the plaintext of `wire`, all bytes since the handshake. Each call passes the bytes
    /// of earlier calls again.
    pub(in crate::reactor) fn decrypt_again(&mut self, wire: &[u8]) -> Vec<u8> {
        self.receive(&wire[self.wire_len..]);
        self.received.clone()
    }
}
