//! A self-signed certificate, and the TLS configurations of both ends of a run.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Name in the certificate.
const NAME: &str = "localhost";

type Configs = (Arc<ServerConfig>, Arc<ClientConfig>);

/// Returns the name that the client expects in the certificate of the server.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from(NAME).expect("the name is valid")
}

/// Returns the configurations of the server and of the client. The client trusts the certificate of
/// the server. This certificate is created once per process.
pub(crate) fn configs() -> io::Result<Configs> {
    static CONFIGS: OnceLock<Configs> = OnceLock::new();
    if let Some(configs) = CONFIGS.get() {
        return Ok(configs.clone());
    }
    let configs = create().map_err(io::Error::other)?;
    Ok(CONFIGS.get_or_init(|| configs).clone())
}

fn create() -> Result<Configs, Box<dyn std::error::Error + Send + Sync>> {
    let signed = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(signed.signing_key.serialize_der().into());
    let certificate = signed.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((Arc::new(server), Arc::new(client)))
}
