//! The configuration of one side of a TLS session, checked once.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};

use crate::error::invalid_input;

/// The server side of sessions. Clones share the configuration.
///
/// rustls's unbuffered connection does not report the server name that the client asked for. So the
/// configuration is copied once per listener, with a certificate resolver that records the name.
#[derive(Debug, Clone)]
pub(crate) struct TlsServer {
    pub(super) config: Arc<ServerConfig>,
    pub(super) name: Arc<LastServerName>,
}

/// The client side of a session.
#[derive(Debug, Clone)]
pub(crate) struct TlsClient {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

impl TlsServer {
    /// Fails with `InvalidInput` if the configuration accepts early data.
    pub(crate) fn new(config: &ServerConfig) -> io::Result<Self> {
        if config.max_early_data_size > 0 {
            return Err(invalid_input(
                "max_early_data_size of the TLS configuration must be 0, because early data can \
                 be replayed",
            ));
        }
        let name = Arc::new(LastServerName {
            resolver: config.cert_resolver.clone(),
            last: Mutex::default(),
        });
        let mut config = config.clone();
        config.cert_resolver = name.clone();
        let config = Arc::new(config);
        Ok(Self { config, name })
    }
}

impl TlsClient {
    /// Fails with `InvalidInput` if the configuration offers early data.
    pub(crate) fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        if config.enable_early_data {
            return Err(invalid_input(
                "enable_early_data of the TLS configuration must be false, because early data can \
                 be replayed",
            ));
        }
        Ok(Self { config, name })
    }
}

/// A certificate resolver that records the server name of the last `ClientHello`.
///
/// The connection takes the name right after the call of rustls that resolved the certificate. So
/// the name always belongs to this connection.
#[derive(Debug)]
pub(crate) struct LastServerName {
    resolver: Arc<dyn ResolvesServerCert>,
    last: Mutex<Option<Box<str>>>,
}

impl LastServerName {
    pub(super) fn take(&self) -> Option<Box<str>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.take()
    }
}

impl ResolvesServerCert for LastServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = hello.server_name().map(Box::from);
        drop(last);
        self.resolver.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.resolver.only_raw_public_keys()
    }
}
