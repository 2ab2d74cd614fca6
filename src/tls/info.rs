//! The public view of a TLS session, and its errors.

use std::error::Error;
use std::fmt;

use super::TlsSession;

/// Protocol version of a TLS session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        })
    }
}

/// TLS session of a connection, as negotiated in the handshake.
///
/// [`Context::tls`](crate::Context::tls) returns it.
#[derive(Clone, Copy)]
pub struct TlsInfo<'a> {
    session: &'a TlsSession,
    server_name: Option<&'a str>,
}

impl<'a> TlsInfo<'a> {
    pub(crate) fn new(session: &'a TlsSession, server_name: Option<&'a str>) -> Self {
        Self {
            session,
            server_name,
        }
    }

    /// Returns the protocol version.
    #[must_use]
    pub fn version(&self) -> TlsVersion {
        self.session.version()
    }

    /// Returns the name of the cipher suite in the registry of TLS, such as
    /// `TLS13_AES_256_GCM_SHA384`.
    #[must_use]
    pub fn cipher_suite(&self) -> &'static str {
        self.session.cipher_suite()
    }

    /// Returns the application protocol that both sides agreed on (ALPN, RFC 7301), such as `h2`;
    /// `None` if they agreed on none.
    #[must_use]
    pub fn alpn(&self) -> Option<&'a [u8]> {
        self.session.alpn()
    }

    /// Returns the server name that the client asked for (SNI, RFC 6066); `None` if it asked for
    /// none. Always `None` on the client's side.
    #[must_use]
    pub fn server_name(&self) -> Option<&'a str> {
        self.server_name
    }

    /// Returns the certificates of the peer in DER form, its own certificate first. Empty if the
    /// peer sent none: a server requests a client's certificate only if its configuration says so.
    pub fn peer_certificates(&self) -> impl Iterator<Item = &'a [u8]> {
        self.session.peer_certificates()
    }

    /// Returns true if the handshake resumed an earlier session.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.session.is_resumed()
    }
}

impl fmt::Debug for TlsInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsInfo")
            .field("version", &self.version())
            .field("cipher_suite", &self.cipher_suite())
            .field(
                "alpn",
                &self.alpn().map(|alpn| alpn.escape_ascii().to_string()),
            )
            .field("server_name", &self.server_name())
            .field("peer_certificates", &self.peer_certificates().count())
            .field("is_resumed", &self.is_resumed())
            .finish()
    }
}

/// Violation of TLS, or a failed check of a certificate.
///
/// Its text contains the text of rustls's error, which [`Error::source`] returns.
/// [The guide](crate::guide::tls#errors) explains the common errors. An error of [plaintext before
/// TLS](Self::is_plaintext_before_tls) has no source.
#[derive(Debug, Clone)]
pub struct TlsError(Cause);

#[derive(Debug, Clone)]
enum Cause {
    Rustls(rustls::Error),
    PlaintextBeforeTls,
}

impl TlsError {
    /// The error of plaintext that arrived after the request for TLS, in the same read.
    pub(crate) const PLAINTEXT_BEFORE_TLS: Self = Self(Cause::PlaintextBeforeTls);

    /// Returns true if the connection was closed because plaintext arrived after the request for
    /// TLS, in the same read; see [`Context::start_tls_server`].
    ///
    /// [`Context::start_tls_server`]: crate::Context::start_tls_server
    #[must_use]
    pub fn is_plaintext_before_tls(&self) -> bool {
        matches!(self.0, Cause::PlaintextBeforeTls)
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self(Cause::Rustls(error))
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Rustls(error) => write!(f, "TLS: {error}"),
            Cause::PlaintextBeforeTls => {
                f.write_str("plaintext arrived behind the request for TLS")
            }
        }
    }
}

impl Error for TlsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Cause::Rustls(error) => Some(error),
            Cause::PlaintextBeforeTls => None,
        }
    }
}
