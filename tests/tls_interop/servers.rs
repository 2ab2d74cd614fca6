//! The server of OpenSSL, with a reactor as its client.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{SupportedProtocolVersion, version};
use unstick::{ConnectOptions, Framing};

use super::common::tls::{Authority, client_config_with};
use super::{PEER_LIMIT, Rig, is_installed, start};

/// The server of OpenSSL; killed on drop.
struct OpensslServer {
    child: Child,
    addr: String,
}

impl OpensslServer {
    /// Starts a server that reverses each line, with a certificate for `localhost`.
    fn start(rig: &Rig, authority: &Authority, expires: i32) -> Self {
        let [certificate, key] = rig.write_identity(authority, expires);
        let mut command = Command::new("openssl");
        command.args(["s_server", "-rev", "-accept", "127.0.0.1:0", "-cert"]);
        command.arg(certificate).arg("-key").arg(key);
        let mut child = start(&mut command);
        let stdout = child.stdout.take().expect("the output is piped");
        let mut lines = BufReader::new(stdout).lines();
        let addr = lines.find_map(|line| {
            let line = line.expect("the output is text");
            Some(line.strip_prefix("ACCEPT ")?.trim().to_owned())
        });
        let addr = addr.expect("the server prints its address");
        Self { child, addr }
    }
}

impl Drop for OpensslServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connects to a server and runs until the connection is closed.
fn connect(
    rig: &mut Rig,
    server: &OpensslServer,
    version: &'static SupportedProtocolVersion,
    name: &'static str,
) {
    let name = ServerName::try_from(name).expect("the name is valid");
    let options = ConnectOptions::new().tls(Arc::new(client_config_with(&[version])), name);
    rig.reactor.handler_mut().is_client = true;
    let addr = server.addr.clone();
    let framing = Framing::line();
    rig.reactor
        .with(|_, cx| cx.connect_with(addr, framing, (), &options));
    let deadline = Instant::now() + PEER_LIMIT;
    while rig.reactor.handler().reasons.is_empty() {
        rig.turn();
        assert!(Instant::now() < deadline, "the connection was not closed");
    }
}

#[test]
#[ignore = "needs foreign peers: tests/tls_interop/run installs them"]
fn client_exchanges_lines_with_the_server_of_openssl() {
    if !is_installed("openssl") {
        return;
    }
    let mut rig = Rig::new("openssl_server");
    let server = OpensslServer::start(&rig, Authority::trusted(), 2999);
    for version in [&version::TLS12, &version::TLS13] {
        connect(&mut rig, &server, version, "localhost");
        let record = rig.take();
        assert_eq!(record.lines, ["olleh"], "{record:?}");
    }
}

#[test]
#[ignore = "needs foreign peers: tests/tls_interop/run installs them"]
fn client_names_the_fault_of_a_foreign_certificate() {
    if !is_installed("openssl") {
        return;
    }
    let mut rig = Rig::new("openssl_server_faults");
    for (authority, expires, name, expected) in [
        (
            Authority::trusted(),
            2002,
            "localhost",
            "certificate expired",
        ),
        (Authority::unknown(), 2999, "localhost", "UnknownIssuer"),
        (
            Authority::trusted(),
            2999,
            "wrong.test",
            "not valid for name",
        ),
    ] {
        let server = OpensslServer::start(&rig, authority, expires);
        for version in [&version::TLS12, &version::TLS13] {
            connect(&mut rig, &server, version, name);
            let record = rig.take();
            assert!(record.reasons[0].contains(expected), "{record:?}");
            assert_eq!(record.sessions.len(), 0);
        }
    }
}
