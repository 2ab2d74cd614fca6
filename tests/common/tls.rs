//! Certificates, configurations and blocking clients for tests of TLS.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
    SupportedProtocolVersion, version,
};

/// The versions of TLS that rustls supports.
pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

/// A certificate authority, created once per test program.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no name is invalid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("the system has random numbers");
        let issuer = CertifiedIssuer::self_signed(params, key);
        Self(issuer.expect("the parameters are valid"))
    }

    /// Returns the authority that the configurations of this module trust.
    pub fn trusted() -> &'static Self {
        static TRUSTED: OnceLock<Authority> = OnceLock::new();
        TRUSTED.get_or_init(|| Self::new("trusted"))
    }

    /// Returns an authority that no configuration trusts.
    pub fn unknown() -> &'static Self {
        static UNKNOWN: OnceLock<Authority> = OnceLock::new();
        UNKNOWN.get_or_init(|| Self::new("unknown"))
    }

    /// Issues a certificate for a name.
    pub fn issue(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let params = CertificateParams::new([name.to_owned()]).expect("the name is valid");
        self.sign(params)
    }

    /// Issues a certificate that has expired.
    pub fn issue_expired(
        &self,
        name: &str,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("the name is valid");
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        self.sign(params)
    }

    /// Returns the certificate of the authority in the format PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for a name. The certificate is valid until 1 January of the year
    /// `expires`. Returns the certificate and its key in the format PEM.
    pub fn issue_pem(&self, name: &str, expires: i32) -> [String; 2] {
        let mut params = CertificateParams::new([name.to_owned()]).expect("the name is valid");
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(expires, 1, 1);
        let key = KeyPair::generate().expect("the system has random numbers");
        let certificate = params.signed_by(&key, &self.0);
        let certificate = certificate.expect("the parameters are valid");
        [certificate.pem(), key.serialize_pem()]
    }

    fn sign(
        &self,
        params: CertificateParams,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("the system has random numbers");
        let certificate = params
            .signed_by(&key, &self.0)
            .expect("the parameters are valid");
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        (vec![certificate.der().clone()], key)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.0.der().clone())
            .expect("the certificate is valid");
        Arc::new(roots)
    }
}

/// Returns the name of the server in all tests.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("the name is valid")
}

/// Returns the configuration of a server with a trusted certificate.
pub fn server_config() -> Arc<ServerConfig> {
    static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| Arc::new(server_config_with("localhost", &VERSIONS)));
    config.clone()
}

/// Returns the configuration of a server for a name and for protocol versions.
pub fn server_config_with(
    name: &str,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let (chain, key) = Authority::trusted().issue(name);
    ServerConfig::builder_with_protocol_versions(versions)
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key belongs to the certificate")
}

/// Returns the configuration of a server that requires a certificate of the client.
pub fn server_config_mutual() -> ServerConfig {
    let (chain, key) = Authority::trusted().issue("localhost");
    let verifier = WebPkiClientVerifier::builder(Authority::trusted().roots()).build();
    ServerConfig::builder()
        .with_client_cert_verifier(verifier.expect("the roots are not empty"))
        .with_single_cert(chain, key)
        .expect("the key belongs to the certificate")
}

/// Returns the configuration of a client that trusts [`Authority::trusted`].
pub fn client_config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| Arc::new(client_config_with(&VERSIONS)));
    config.clone()
}

/// Returns the configuration of a client for protocol versions. The client has no stored sessions,
/// so its first handshake resumes no session.
pub fn client_config_with(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    ClientConfig::builder_with_protocol_versions(versions)
        .with_root_certificates(Authority::trusted().roots())
        .with_no_client_auth()
}

/// Returns the configuration of a client with a certificate of an authority.
pub fn client_config_mutual(authority: &Authority) -> ClientConfig {
    let (chain, key) = authority.issue("a client");
    ClientConfig::builder()
        .with_root_certificates(Authority::trusted().roots())
        .with_client_auth_cert(chain, key)
        .expect("the key belongs to the certificate")
}

/// A blocking client of a TLS server.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// Connects a blocking client. The handshake happens at the first read or write.
pub fn tls_client(addr: SocketAddr, config: Arc<ClientConfig>) -> TlsStream {
    let session = ClientConnection::new(config, server_name()).expect("the configuration is valid");
    StreamOwned::new(session, super::client(addr))
}

/// Completes the handshake of a blocking client.
pub fn complete_handshake(client: &mut TlsStream) {
    while client.conn.is_handshaking() {
        client
            .conn
            .complete_io(&mut client.sock)
            .expect("the handshake succeeds");
    }
    client.flush().expect("the server reads");
}

/// Sends the `close_notify` and the FIN of a client.
pub fn end(client: &mut TlsStream) {
    client.conn.send_close_notify();
    client
        .conn
        .complete_io(&mut client.sock)
        .expect("the server reads");
    client
        .sock
        .shutdown(std::net::Shutdown::Write)
        .expect("the connection is open");
}
