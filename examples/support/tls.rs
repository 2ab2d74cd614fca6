//! TLS for the examples: certificates from files, and a self-signed certificate.

#![allow(dead_code, reason = "each example uses only some of these functions")]

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::cli::Failure;

/// Returns the failure of an action on a file.
fn at_file(action: &str, path: &str, error: impl fmt::Display) -> Failure {
    Failure::Runtime(format!("cannot {action} {path}: {error}"))
}

/// Reads the certificates of a PEM file.
fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| at_file("read certificates from", path, error))
}

fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder().with_no_client_auth();
    Ok(Arc::new(builder.with_single_cert(chain, key)?))
}

/// Returns the configuration of a server with the certificate and the key of two PEM files.
pub(crate) fn server_from_files(
    certificate: &str,
    key: &str,
) -> Result<Arc<ServerConfig>, Failure> {
    let chain = certificates(certificate)?;
    let der = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| at_file("read a private key from", key, error))?;
    server(chain, der).map_err(|error| at_file("use the certificate of", certificate, error))
}

/// Returns the configuration of a server with a new certificate for `localhost` and for the two
/// loopback addresses. Writes the certificate to a PEM file, so that clients can trust it.
pub(crate) fn server_self_signed(path: &str) -> Result<Arc<ServerConfig>, Failure> {
    let failed = |error: &dyn fmt::Display| at_file("create the certificate", path, error);
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let signed = rcgen::generate_simple_self_signed(names).map_err(|error| failed(&error))?;
    std::fs::write(path, signed.cert.pem()).map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::Pkcs8(signed.signing_key.serialize_der().into());
    server(vec![signed.cert.der().clone()], key).map_err(|error| failed(&error))
}

/// Returns the configuration of a client that trusts the certificates of a PEM file, and the name
/// that the server at `addr` must have.
pub(crate) fn client(
    path: &str,
    addr: &str,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| at_file("trust the certificate of", path, error))?;
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    let host = host.trim_matches(['[', ']']); // the brackets of an IPv6 address
    let name = ServerName::try_from(host.to_owned());
    let name = name
        .map_err(|error| Failure::Usage(format!("{host} is not a valid server name: {error}")))?;
    Ok((Arc::new(builder.with_no_client_auth()), name))
}
