//! Headers of the PROXY protocol on connections: the stages that receive and send them, and the
//! limit of connections by client.
//!
//! ```text
//!   accept -> trusted peer:      header -> count the client -> further stages -> open
//!          -> any other peer:    refused, or open at once as a direct client
//!   connect -> connected -> send the header -> further stages -> open
//! ```
//!
//! The address of the client is not known before the header. So a connection of a trusted peer is
//! counted by address only after its header.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::sync::Arc;

use super::prepare::{Opening, Preparation, Progress, Stage};
use super::transport::drain_plain;
use super::{Connection, Engine};
use crate::addr::Addr;
use crate::event::{CloseReason, Origin, Refusal};
use crate::id::{ListenerId, Token};
use crate::proxy_header::{ProxyError, ProxyHeader, ProxyProtocol};

/// The stage that receives a header.
#[derive(Debug, Clone)]
pub(super) struct ReceiveHeader {
    pub(super) policy: Arc<ProxyProtocol>,
    /// True if the peer counts as a direct client, because the header is optional and has not
    /// arrived.
    is_direct: bool,
}

impl ReceiveHeader {
    /// Handles the bytes that have arrived since the accept.
    pub(super) fn run(&self, input: &[u8]) -> Result<Progress, CloseReason> {
        const DIRECT: Progress = Progress::Identified(0, None);
        if self.is_direct {
            return Ok(DIRECT);
        }
        let mut header = ProxyHeader::local();
        match header.decode_into(input, self.policy.len_max()) {
            Ok(Some(len)) => Ok(Progress::Identified(len, Some(Box::new(header)))),
            Ok(None) => Ok(Progress::NeedMore),
            Err(ProxyError::Missing) if !self.policy.is_required() => Ok(DIRECT),
            Err(error) => Err(CloseReason::ProxyHeader(error)),
        }
    }

    /// Stops waiting for the header, after the end of the stream or the deadline. Returns true if
    /// the peer is a direct client: the header is optional, and `input` does not begin with a whole
    /// signature.
    fn stop_waiting(&mut self, input: &[u8]) -> bool {
        self.is_direct = !self.policy.is_required() && !ProxyHeader::is_signed(input);
        self.is_direct
    }
}

impl Connection {
    /// Stops waiting for a header that is optional. Returns true if the preparation can continue
    /// without it.
    pub(super) fn continue_as_direct(&mut self) -> bool {
        let extras = self.extras_mut();
        let preparation = extras.and_then(|extras| extras.preparation.as_deref_mut());
        match preparation.map(Preparation::stage_and_input) {
            Some((Some(Stage::ReceiveHeader(stage)), input)) => stage.stop_waiting(input),
            _ => false,
        }
    }

    /// Returns the IP address under which the connection is counted: the address of the client, if
    /// a header announced it, else the address of the peer.
    pub(super) fn counted_ip(&self) -> Option<IpAddr> {
        let proxied = self.extras_ref().and_then(|it| it.proxied.as_ref());
        let client = proxied.and_then(|header| header.source());
        Some(client.unwrap_or(&self.peer).inet()?.ip())
    }
}

impl Engine {
    /// Returns the preparation of a connection that `listener` accepts; `None` if it needs none. If
    /// the header is required, refuses an untrusted peer.
    pub(super) fn preparation_of_accept(
        &mut self,
        listener: ListenerId,
        peer: &Addr,
    ) -> Result<Option<Box<Preparation>>, Refusal> {
        let mut stages = Vec::new();
        let entry = self.entries.listener_mut(listener).ok();
        if let Some(policy) = entry.as_ref().and_then(|entry| entry.proxy.as_ref()) {
            if policy.trusts(peer) {
                stages.push(Stage::ReceiveHeader(ReceiveHeader {
                    policy: policy.clone(),
                    is_direct: false,
                }));
            } else if policy.is_required() {
                return Err(Refusal::UntrustedProxy);
            }
        }
        #[cfg(test)]
        stages.extend(self.admission.prefix.map(Stage::Prefix));
        #[cfg(feature = "tls")]
        if let Ok(entry) = self.entries.listener_mut(listener)
            && let Some((server, is_optional)) = entry.tls.clone()
        {
            stages.push(Stage::TlsServer {
                server,
                is_optional,
            });
        }
        Ok(Preparation::new(Some(self.origin_of(listener)), stages))
    }

    /// Stores the header of a connection, and counts its client. Returns the refusal if the client
    /// has too many connections; the connection has then ended.
    pub(super) fn identified(
        &mut self,
        token: Token,
        header: Option<Box<ProxyHeader>>,
    ) -> Option<Opening> {
        let max = self.config.connections_per_addr_max;
        let conn = self.entries.conn_mut(token).ok()?;
        conn.extras().proxied = header;
        let ip = conn.counted_ip().filter(|_| max != usize::MAX)?;
        if self.admission.per_addr.enter(ip, max) {
            conn.state.counted_by_addr();
            return None;
        }
        let extras = conn.extras();
        extras.is_refused = true;
        let origin = extras.preparation.as_ref()?.origin;
        let proxied = extras.proxied.as_ref().and_then(|it| it.source().cloned());
        let client = proxied.unwrap_or_else(|| conn.peer.clone());
        self.end(token, CloseReason::Aborted);
        let refusal = Refusal::ConnectionsPerAddr;
        self.count_refusal(&client, refusal);
        match origin {
            Some(Origin::Accepted { listener, .. }) => {
                Some(Opening::Refused(listener, client, refusal))
            }
            _ => Some(Opening::Waits),
        }
    }

    /// Runs stages that send bytes, up to the first stage of another type. Returns false if the
    /// connection waits for an event or has ended.
    pub(super) fn send_for_stage(&mut self, token: Token) -> bool {
        loop {
            let Ok(conn) = self.entries.conn_mut(token) else {
                return false;
            };
            let Some(mut preparation) = conn.extras().preparation.take() else {
                return true;
            };
            let Some(Stage::Send { bytes, .. }) = preparation.stage_and_input().0 else {
                conn.extras().preparation = Some(preparation);
                return true;
            };
            let written = match conn.state.is_writable() {
                true => drain_plain(conn, &mut self.telemetry.stats, &[IoSlice::new(bytes)]),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
            let is_done = written.as_ref().is_ok_and(|len| *len == bytes.len());
            if let Ok(len) = written {
                bytes.drain(..len);
            }
            if is_done {
                preparation.stage_done(0);
            }
            conn.extras().preparation = Some(preparation);
            match written {
                Ok(_) if is_done => self.set_stage_deadline(token),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    conn.state.write_would_block();
                    return false;
                }
                Err(error) => {
                    self.end(token, CloseReason::Io(error));
                    return false;
                }
            }
        }
    }
}
