//! The configuration of one side of a TLS session, checked once.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};

use crate::error::invalid_input;

/// The server side of sessions. Clones share the configuration.
///
/// rustls's unbuffered connection does not report the server name that the client asked for. So
/// [`new`](Self::new) copies the configuration, with a certificate resolver that records the name.
#[derive(Debug, Clone)]
pub(crate) struct TlsServer {
    pub(super) config: Arc<ServerConfig>,
    names: Arc<ServerNames>,
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
        let names = Arc::new(ServerNames {
            resolver: config.cert_resolver.clone(),
            names: Mutex::default(),
        });
        let mut config = config.clone();
        config.cert_resolver = names.clone();
        let config = Arc::new(config);
        Ok(Self { config, names })
    }

    /// Returns the server name of the `ClientHello` that a session handled since the last call, if
    /// there was one. Call it after each step of a handshake.
    pub(crate) fn take_name(&self) -> Option<Arc<String>> {
        let mut names = self.names.lock();
        let is_new = std::mem::take(&mut names.is_new);
        names.last.clone().filter(|_| is_new)
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
/// The connection takes the name right after the step of its handshake that resolved the
/// certificate. So the name always belongs to this connection.
#[derive(Debug)]
struct ServerNames {
    resolver: Arc<dyn ResolvesServerCert>,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    /// The name in the last `ClientHello`. If the next connection asks for the same name, both
    /// connections share its memory.
    last: Option<Arc<String>>,
    /// True until the connection takes the name.
    is_new: bool,
}

impl ServerNames {
    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for ServerNames {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut names = self.lock();
        let name = hello.server_name();
        if names.last.as_ref().map(|last| last.as_str()) != name {
            names.last = name.map(|name| Arc::new(name.to_owned()));
        }
        names.is_new = true;
        drop(names);
        self.resolver.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.resolver.only_raw_public_keys()
    }
}
