//! Foreign clients of a TLS listener: both versions, resumption, certificates and errors.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use unstick::TlsVersion;

use super::common::tls::{Authority, VERSIONS, server_config_mutual, server_config_with};
use super::{Rig, is_installed, script};

/// The input of a client: two lines. The server closes after the second one.
const INPUT: &str = "hello\nquit\n";
/// A year in which certificates are still valid.
const FUTURE: i32 = 2999;

/// A call of a client.
struct Call<'a> {
    rig: &'a Rig,
    addr: SocketAddr,
    version: TlsVersion,
    /// The name that the certificate of the server must have.
    name: &'a str,
    /// The certificate of the client and its key.
    identity: Option<[PathBuf; 2]>,
}

impl Call<'_> {
    /// Returns the version as the scripts name it.
    fn version(&self) -> &'static str {
        match self.version {
            TlsVersion::Tls12 => "1.2",
            _ => "1.3",
        }
    }

    fn port(&self) -> String {
        self.addr.port().to_string()
    }

    fn openssl(&self) -> Command {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-verify_return_error"]);
        command.args(["-connect", &self.addr.to_string(), "-servername", self.name]);
        command.args(["-verify_hostname", self.name, "-CAfile"]);
        command.arg(self.rig.path("authority.pem"));
        command.arg(format!("-tls{}", self.version().replace('.', "_")));
        if let Some([certificate, key]) = &self.identity {
            command.arg("-cert").arg(certificate).arg("-key").arg(key);
        }
        command
    }

    fn gnutls(&self) -> Command {
        let mut command = Command::new("gnutls-cli");
        command
            .arg("--x509cafile")
            .arg(self.rig.path("authority.pem"));
        let versions = format!("NORMAL:-VERS-ALL:+VERS-TLS{}", self.version());
        command.args(["--priority", &versions, "--port", &self.port()]);
        command.args(["--sni-hostname", self.name, "--verify-hostname", self.name]);
        if let Some([certificate, key]) = &self.identity {
            command.arg("--x509certfile").arg(certificate);
            command.arg("--x509keyfile").arg(key);
        }
        command.arg("127.0.0.1");
        command
    }

    /// Returns the command of a script, which gets all settings as arguments.
    fn script(&self, program: &str, words: &[&str], file: &str) -> Command {
        let mut command = Command::new(program);
        command.arg(script(file)).args(words);
        command.args(["127.0.0.1", &self.port(), self.name]);
        command
            .arg(self.rig.path("authority.pem"))
            .arg(self.version());
        command.args(self.identity.iter().flatten());
        command
    }

    fn curl(&self) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--cacert"]);
        command.arg(self.rig.path("authority.pem"));
        command.arg("--resolve");
        command.arg(format!("{}:{}:127.0.0.1", self.name, self.port()));
        command.arg(format!("--tlsv{}", self.version()));
        command.args(["--tls-max", self.version()]);
        if let Some([certificate, key]) = &self.identity {
            command.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        command.arg(format!("https://{}:{}/", self.name, self.port()));
        command
    }
}

/// A foreign client.
struct Client {
    /// Name of the program.
    program: &'static str,
    command: fn(&Call<'_>) -> Command,
    /// Number of connections of one call. The second one resumes the session of the first one.
    connections: usize,
    /// Error texts of the client for an expired certificate, an unknown authority and a wrong name.
    errors: [&'static str; 3],
}

const OPENSSL_ERRORS: [&str; 3] = ["certificate has expired", "unable to get local", "mismatch"];

/// All clients that exchange lines.
const CLIENTS: [Client; 5] = [
    Client {
        program: "openssl",
        command: |call| call.openssl(),
        connections: 1,
        errors: OPENSSL_ERRORS,
    },
    Client {
        program: "gnutls-cli",
        command: |call| call.gnutls(),
        connections: 1,
        errors: ["expired", "issuer is unknown", "does not match"],
    },
    Client {
        program: "python3",
        command: |call| call.script("python3", &["sync"], "peer.py"),
        connections: 2,
        errors: OPENSSL_ERRORS,
    },
    Client {
        program: "python3",
        command: |call| call.script("python3", &["asyncio"], "peer.py"),
        connections: 1,
        errors: OPENSSL_ERRORS,
    },
    Client {
        program: "node",
        command: |call| call.script("node", &[], "peer.js"),
        connections: 2,
        errors: [
            "CERT_HAS_EXPIRED",
            "UNABLE_TO",
            "ERR_TLS_CERT_ALTNAME_INVALID",
        ],
    },
];

/// Calls `test` for each installed client and each version.
fn for_each_client(mut test: impl FnMut(&Client, TlsVersion)) {
    for client in CLIENTS {
        if is_installed(client.program) {
            for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
                println!("{} with {version}", client.program);
                test(&client, version);
            }
        }
    }
}

fn call<'a>(rig: &'a Rig, addr: SocketAddr, version: TlsVersion, name: &'a str) -> Call<'a> {
    Call {
        rig,
        addr,
        version,
        name,
        identity: None,
    }
}

/// Returns the configuration of a server. Its certificate has expired if `is_expired` is true.
fn server_config(authority: &Authority, is_expired: bool) -> ServerConfig {
    let (chain, key) = match is_expired {
        true => authority.issue_expired("localhost"),
        false => authority.issue("localhost"),
    };
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key belongs to the certificate")
}

#[test]
#[ignore = "needs foreign clients: tests/tls_interop/run installs them"]
fn foreign_clients_echo_lines_over_both_versions() {
    let mut rig = Rig::new("echo");
    let addr = rig.listen(server_config(Authority::trusted(), false));
    for_each_client(|client, version| {
        let mut command = (client.command)(&call(&rig, addr, version, "localhost"));
        let output = rig.run(&mut command, INPUT);
        let record = rig.take();
        assert!(output.contains("hello"), "{output}\n{record:?}");
        let lines = ["hello", "quit"].repeat(client.connections);
        assert_eq!(record.lines, lines, "{output}");
        for (index, session) in record.sessions.iter().enumerate() {
            assert_eq!(session.version, version);
            assert_eq!(session.is_resumed, index > 0, "{output}");
        }
        assert_eq!(record.reasons.len(), client.connections, "{record:?}");
        // A client that closes its socket at once ends without a close_notify, or with a reset.
        println!("  closed: {:?}", record.reasons);
    });
}

#[test]
#[ignore = "needs foreign clients: tests/tls_interop/run installs them"]
fn openssl_and_gnutls_resume_sessions() {
    let mut rig = Rig::new("resumption");
    let addr = rig.listen(server_config(Authority::trusted(), false));
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        if is_installed("openssl") {
            let ticket = rig.path("ticket");
            for (option, is_resumed) in [("-sess_out", false), ("-sess_in", true)] {
                let mut command = call(&rig, addr, version, "localhost").openssl();
                let output = rig.run(command.arg(option).arg(&ticket), INPUT);
                let record = rig.take();
                assert_eq!(record.sessions.len(), 1, "{output}");
                assert_eq!(record.sessions[0].is_resumed, is_resumed, "{output}");
            }
        }
        if is_installed("gnutls-cli") {
            let mut command = call(&rig, addr, version, "localhost").gnutls();
            let output = rig.run(command.arg("--resume"), INPUT);
            let resumed = rig
                .take()
                .sessions
                .iter()
                .map(|it| it.is_resumed)
                .collect::<Vec<_>>();
            assert_eq!(resumed, [false, true], "{output}");
        }
    }
}

#[test]
#[ignore = "needs foreign clients: tests/tls_interop/run installs them"]
fn foreign_clients_name_the_fault_of_a_certificate() {
    let mut rig = Rig::new("faults");
    let cases = [
        ("localhost", server_config(Authority::trusted(), true)),
        ("localhost", server_config(Authority::unknown(), false)),
        ("wrong.test", server_config(Authority::trusted(), false)),
    ];
    for (case, (name, config)) in cases.into_iter().enumerate() {
        let addr = rig.listen(config);
        for_each_client(|client, version| {
            let mut command = (client.command)(&call(&rig, addr, version, name));
            check_fault(&mut rig, &mut command, client.errors[case]);
        });
        if is_installed("curl") {
            let errors = ["expired", "unable to get local", "no alternative"];
            let mut command = call(&rig, addr, TlsVersion::Tls13, name).curl();
            check_fault(&mut rig, &mut command, errors[case]);
        }
    }
}

/// Checks that a client reports `error`, and that the server reports one failed connection.
fn check_fault(rig: &mut Rig, command: &mut Command, error: &str) {
    let output = rig.run(command, INPUT);
    let record = rig.take();
    assert!(output.contains(error), "{error:?} is missing: {output}");
    assert_eq!(record.lines, [""; 0], "{output}");
    let [reason] = &record.reasons[..] else {
        panic!("{record:?}: {output}");
    };
    // Some clients check the certificate after the handshake, and then close without an alert.
    let is_told = ["fatal alert", "close_notify", "closed by the peer", "reset"]
        .iter()
        .any(|text| reason.contains(text));
    assert!(is_told, "{reason}: {output}");
    println!("  {error:?}; server: {reason}");
}

#[test]
#[ignore = "needs foreign clients: tests/tls_interop/run installs them"]
fn foreign_clients_present_certificates() {
    let mut rig = Rig::new("certificates");
    let addr = rig.listen(server_config_mutual());
    let trusted = rig.write_identity(Authority::trusted(), FUTURE);
    for_each_client(|client, version| {
        let mut with_identity = call(&rig, addr, version, "localhost");
        with_identity.identity = Some(trusted.clone());
        let mut command = (client.command)(&with_identity);
        let output = rig.run(&mut command, INPUT);
        let record = rig.take();
        assert_eq!(record.sessions.len(), client.connections, "{output}");
        assert!(
            record
                .sessions
                .iter()
                .all(|session| session.certificates > 0)
        );
    });
    let unknown = rig.write_identity(Authority::unknown(), FUTURE);
    for_each_client(|client, version| {
        for (identity, expected) in [
            (None, "no certificates"),
            (Some(unknown.clone()), "UnknownIssuer"),
        ] {
            let mut call = call(&rig, addr, version, "localhost");
            call.identity = identity;
            let mut command = (client.command)(&call);
            let output = rig.run(&mut command, INPUT);
            let record = rig.take();
            assert!(record.reasons[0].contains(expected), "{record:?}: {output}");
            let told = ["alert", "Alert", "ALERT"];
            assert!(told.iter().any(|text| output.contains(text)), "{output}");
        }
    });
}

#[test]
#[ignore = "needs foreign clients: tests/tls_interop/run installs them"]
fn curl_reads_the_reply_of_an_http_line_server() {
    if !is_installed("curl") {
        return;
    }
    let mut rig = Rig::new("curl");
    let addr = rig.listen(server_config(Authority::trusted(), false));
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let mut command = call(&rig, addr, version, "localhost").curl();
        let output = rig.run(&mut command, "");
        let record = rig.take();
        assert_eq!(output, "hello\n", "{record:?}");
        assert_eq!(record.sessions[0].version, version);
        assert!(record.lines[0].starts_with("GET / HTTP/1.1"), "{record:?}");
    }
}

#[test]
#[ignore = "needs foreign clients: tests/tls_interop/run installs them"]
fn openssl_of_another_version_gets_an_alert() {
    if !is_installed("openssl") {
        return;
    }
    let mut rig = Rig::new("versions");
    let only: [(&[&SupportedProtocolVersion], _); 2] = [
        (&[&TLS13], TlsVersion::Tls12),
        (&[&TLS12], TlsVersion::Tls13),
    ];
    for (versions, version) in only {
        let addr = rig.listen(server_config_with("localhost", versions));
        let mut command = call(&rig, addr, version, "localhost").openssl();
        let output = rig.run(&mut command, INPUT);
        let record = rig.take();
        assert!(output.contains("alert protocol version"), "{output}");
        assert!(
            record.reasons[0].starts_with("TLS: peer is incompatible"),
            "{record:?}"
        );
    }
}

#[test]
#[ignore = "needs foreign clients: tests/tls_interop/run installs them"]
fn server_survives_testssl() {
    if !is_installed("testssl") {
        return;
    }
    let mut rig = Rig::new("testssl");
    rig.peer_limit *= 20;
    let addr = rig.listen(server_config_with("localhost", &VERSIONS));
    let mut testssl = Command::new("testssl");
    testssl.args(["--quiet", "--color", "0", "--warnings", "off"]);
    testssl.args([
        "--protocols",
        "--server-defaults",
        "--vulnerable",
        "--each-cipher",
    ]);
    let output = rig.run(testssl.arg(addr.to_string()), "");
    let record = rig.take();
    println!("{output}\n{} connections", record.reasons.len());
    assert!(output.contains("TLS 1.3"), "{output}");
    // The certificate authority of this test is unknown, and revokes nothing.
    let is_expected = |line: &str| {
        let of_authority = ["Chain of trust", "neither CRL nor OCSP URI provided"];
        of_authority.iter().any(|text| line.contains(text))
    };
    let is_fault = |line: &str| line.contains("NOT ok") || line.contains("VULNERABLE");
    let lines = output.lines();
    let faults: Vec<_> = lines
        .filter(|line| is_fault(line) && !is_expected(line))
        .collect();
    assert_eq!(faults, [""; 0]);
    // The server still accepts and echoes.
    if is_installed("openssl") {
        let mut command = call(&rig, addr, TlsVersion::Tls13, "localhost").openssl();
        rig.run(&mut command, INPUT);
        assert_eq!(rig.take().lines, ["hello", "quit"]);
    }
}
