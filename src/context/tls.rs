//! TLS: the session of a connection, the start of TLS in mid-stream, and new certificates.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use super::Context;
use crate::handler::Handler;
use crate::id::{ConnId, ListenerId};
use crate::tls::{TlsClient, TlsInfo, TlsServer};

impl<H: Handler> Context<'_, H> {
    /// Returns the TLS session of a connection. `None` if the connection uses no TLS, is closed or
    /// is still in the handshake.
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{ConnId, Context, Handler};
    ///
    /// fn greeting<H: Handler>(cx: &Context<'_, H>, conn: ConnId) -> String {
    ///     match cx.tls(conn) {
    ///         Some(tls) => format!("hello over {}, {}", tls.version(), tls.cipher_suite()),
    ///         None => "hello".to_owned(),
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn tls(&self, conn: ConnId) -> Option<TlsInfo<'_>> {
        self.engine.tls(conn.0)
    }

    /// Starts TLS on an open plain connection, as the server. Some protocols ask for TLS in
    /// mid-stream, for example by SMTP's STARTTLS and PostgreSQL's SSLRequest.
    ///
    /// * Payloads that were sent before this call leave without TLS, such as the reply "go ahead".
    ///   Payloads that are sent later leave with TLS, after the handshake.
    /// * No frame is delivered until the handshake is done. All later frames have come with TLS.
    ///   The framing stays; [`reframe`](Context::reframe) changes it.
    /// * If further plaintext arrived in the same read as the request, the connection closes with
    ///   [`CloseReason::Tls`]. Otherwise these bytes would look as if they had come with TLS, and
    ///   an attacker can insert them (CVE-2021-23214).
    ///
    /// There is no callback after the handshake: [`Context::tls`] returns the session once it is
    /// established. If the handshake fails, [`on_close`](Handler::on_close) has the reason.
    ///
    /// # Errors
    ///
    /// * `NotConnected`: the connection is closed, not open yet, or already in a handshake.
    /// * `BrokenPipe`: the connection is closing, or its write half has ended.
    /// * `InvalidInput`: the connection uses TLS already, or `max_early_data_size` is not 0.
    ///
    /// [`CloseReason::Tls`]: crate::CloseReason::Tls
    pub fn start_tls_server(&mut self, conn: ConnId, config: Arc<ServerConfig>) -> io::Result<()> {
        self.engine
            .start_tls_server(conn.0, TlsServer::new(&config)?)
    }

    /// Starts TLS on an open plain connection, as the client. `name` is the name that the
    /// certificate of the server must have. Call this method when the server has agreed to start
    /// TLS. Everything else is as in [`start_tls_server`](Context::start_tls_server).
    ///
    /// # Errors
    ///
    /// * Same as [`start_tls_server`](Context::start_tls_server), with `enable_early_data` instead
    ///   of `max_early_data_size`.
    pub fn start_tls_client(
        &mut self,
        conn: ConnId,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<()> {
        let client = TlsClient::new(config, name)?;
        self.engine.start_tls_client(conn.0, client)
    }

    /// Replaces the TLS configuration of a listener, for example after its certificate was renewed.
    ///
    /// Connections that are accepted from now on use the new configuration. Open connections, and
    /// those in the handshake, keep their configuration. A plain listener becomes a TLS listener.
    ///
    /// # Errors
    ///
    /// * `NotConnected`: the listener is closed.
    /// * `InvalidInput`: `max_early_data_size` is not 0.
    pub fn set_listener_tls(
        &mut self,
        listener: ListenerId,
        config: Arc<ServerConfig>,
    ) -> io::Result<()> {
        self.engine
            .set_listener_tls(listener, TlsServer::new(&config)?)
    }
}
