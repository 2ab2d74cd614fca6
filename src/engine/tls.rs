//! TLS sessions of connections: their start, their handshake, and the configuration of listeners.
//!
//! The session itself is in [`tls`](crate::tls), and its records pass through the transport filter.

use std::io::{self, IoSlice};
use std::ops::ControlFlow;

use super::prepare::{Preparation, Stage};
use super::recording::record_filter;
use super::transport::tls_filter::{Handshake, TlsFilter};
use super::transport::{self, Filter, drain_plain};
use super::write::record_write;
use super::{Connection, Engine};
use crate::conn::{SLICES_MAX, WriteQueue};
use crate::cutmap::EventKind;
use crate::error::{SendError, invalid_input};
use crate::event::CloseReason;
use crate::id::{ListenerId, Token};
use crate::memory::ReadBuffer;
use crate::stats::Stats;
use crate::tls::{TlsClient, TlsError, TlsInfo, TlsServer, TlsSession};

/// First byte of every TLS session: a record of the type "handshake" (RFC 8446, 5.1).
const HANDSHAKE_BYTE: u8 = 0x16;

/// The result of starting a TLS stage.
enum Start {
    Session(TlsSession),
    /// The client uses no TLS.
    Plain,
    /// The first byte of the client must be read before the stage can start.
    AwaitsByte,
    /// Input must arrive before the stage can start. An event will report the input.
    AwaitsEvent,
}

impl Engine {
    /// Returns the TLS session of a connection, once it is established.
    pub(crate) fn tls(&self, token: Token) -> Option<TlsInfo<'_>> {
        transport::tls_filter_of(self.conn(token).ok()?)?.info()
    }

    /// Replaces the configuration of the sessions that a listener accepts from now on.
    pub(crate) fn set_listener_tls(&mut self, id: ListenerId, server: TlsServer) -> io::Result<()> {
        let entry = self.entries.listener_mut(id)?;
        let is_optional = entry
            .tls
            .as_ref()
            .is_some_and(|(_, is_optional)| *is_optional);
        entry.tls = Some((server, is_optional));
        Ok(())
    }

    /// Starts TLS on an open connection, as a server.
    pub(crate) fn start_tls_server(&mut self, token: Token, server: TlsServer) -> io::Result<()> {
        let is_optional = false;
        self.start_tls(
            token,
            Stage::TlsServer {
                server,
                is_optional,
            },
        )
    }

    /// Starts TLS on an open connection, as a client.
    pub(crate) fn start_tls_client(&mut self, token: Token, client: TlsClient) -> io::Result<()> {
        self.start_tls(token, Stage::TlsClient(Box::new(client)))
    }

    /// Starts TLS on an open connection. The output in the write queue is sent first, without TLS.
    fn start_tls(&mut self, token: Token, stage: Stage) -> io::Result<()> {
        let conn = self.entries.conn(token)?;
        if conn.state.is_opening() || conn.state.is_dead() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if conn.state.stops_sending() {
            return Err(SendError::Closing.into());
        }
        if transport::has_filter(conn) {
            return Err(invalid_input("the connection uses TLS already"));
        }
        self.queue_batch(token);
        let conn = self.entries.conn_mut(token)?;
        let queued = conn.queued_bytes();
        let stages = [Stage::FlushPlain(queued), stage];
        conn.extras().preparation = Preparation::new(None, stages);
        self.begin_preparation(token);
        self.queue(token);
        Ok(())
    }

    /// Continues the TLS stage in progress.
    pub(super) fn continue_tls(
        &mut self,
        token: Token,
        read_buffer: &mut ReadBuffer,
    ) -> ControlFlow<()> {
        if self.memory.is_used_up() {
            self.pause_for_memory(token);
            return ControlFlow::Break(());
        }
        if self.admission.handshakes_left == 0 {
            self.queue(token);
            return ControlFlow::Break(());
        }
        let Ok(conn) = self.entries.conn_mut(token) else {
            return ControlFlow::Break(());
        };
        if transport::has_filter(conn) {
            return self.handshake(token);
        }
        match start(conn) {
            Ok(Start::Session(session)) => self.install(token, session),
            Ok(Start::Plain) => return self.end_stage(token),
            Ok(Start::AwaitsByte) => return self.read_for_stage(token, read_buffer),
            Ok(Start::AwaitsEvent) => return ControlFlow::Break(()),
            Err(error) => {
                self.reject(token, CloseReason::Tls(error));
                return ControlFlow::Break(());
            }
        }
        self.handshake(token)
    }

    /// Writes the part of the write queue that was queued before TLS started.
    pub(super) fn flush_plain(&mut self, token: Token) -> ControlFlow<()> {
        let Ok(conn) = self.entries.conn_mut(token) else {
            return ControlFlow::Break(());
        };
        // Undecoded plaintext after the request for TLS may come from an attacker. After the
        // handshake it would look as if the peer had sent it with TLS. CVE-2021-23214 is this error
        // in the server of PostgreSQL, CVE-2021-23222 in its client.
        let held = conn.assembler.len();
        if held > 0 {
            self.reject(token, CloseReason::Tls(TlsError::PLAINTEXT_BEFORE_TLS));
            return ControlFlow::Break(());
        }
        let (telemetry, memory) = (&mut self.telemetry, &mut self.memory);
        let stamp = self.timers.stamp;
        while let Some(Stage::FlushPlain(left)) = conn.stage()
            && *left > 0
            && let left = *left
            && let Some(mut queue) = conn.write_queue.take()
        {
            let written = write_first(conn, &mut telemetry.stats, &queue, left);
            if let Ok(len) = written {
                queue.progress = stamp;
                queue.consume(len, &mut memory.pool);
                if let Some(Stage::FlushPlain(left)) = conn.stage_mut() {
                    *left -= len;
                }
            }
            match queue.is_empty() {
                true => memory.spare_queues.put(Some(queue)),
                false => conn.write_queue = Some(queue),
            }
            match written {
                Ok(_) => record_write(telemetry, &self.os, token, conn, stamp, &written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    conn.state.write_would_block();
                    return ControlFlow::Break(());
                }
                Err(error) => {
                    self.end(token, CloseReason::Io(error));
                    return ControlFlow::Break(());
                }
            }
        }
        self.end_stage(token)
    }

    /// Adds the filter of a session to a connection. The bytes that the stage has read belong to
    /// the session.
    fn install(&mut self, token: Token, session: TlsSession) {
        let Ok(conn) = self.entries.conn_mut(token) else {
            return;
        };
        let received = conn.take_stage_input();
        let stats = &mut self.telemetry.stats;
        conn.counts.read_bytes -= received.len() as u64;
        stats.read_bytes -= received.len() as u64;
        stats.tls_handshakes += 1;
        let filter = TlsFilter::new(session, &received, &mut self.memory.pool);
        conn.install_filter(Filter::Tls(filter));
        if conn.state.is_recorded() && !received.is_empty() {
            let (offset, len) = (conn.counts.read_bytes, received.len() as u64);
            let recorder = self.telemetry.recorder.pass(self.os.now());
            recorder.record(token, EventKind::Read, offset, len);
        }
    }

    /// Continues the handshake of a connection with the input that is available.
    fn handshake(&mut self, token: Token) -> ControlFlow<()> {
        self.admission.handshakes_left -= 1;
        let Ok(conn) = self.entries.conn_mut(token) else {
            return ControlFlow::Break(());
        };
        let handshake = transport::handshake(conn, &mut self.memory.pool);
        transport::stamp_filter(conn, self.timers.stamp);
        record_filter(&mut self.telemetry, &self.os, token, conn);
        let name = match conn.stage() {
            Some(Stage::TlsServer { server, .. }) => server.take_name(),
            _ => None,
        };
        if let Some(name) = name {
            transport::set_server_name(conn, name);
        }
        if transport::has_write_error(conn)
            && let Err(error) =
                transport::flush_filter(conn, &mut self.memory.pool, self.timers.stamp)
        {
            self.end(token, CloseReason::Io(error));
            return ControlFlow::Break(());
        }
        match handshake {
            Ok(Handshake::Done) => {
                let resumed = self.tls(token).is_some_and(|tls| tls.is_resumed());
                let stats = &mut self.telemetry.stats;
                stats.tls_established += 1;
                stats.tls_resumed += u64::from(resumed);
                // The last records of the handshake wait for the first output, which may follow in
                // this turn.
                self.flush_later(token);
                return self.end_stage(token);
            }
            Ok(_) => {}
            Err(error) => self.read_failed(token, error),
        }
        ControlFlow::Break(())
    }
}

/// Creates the session of a TLS stage. A server creates it only when input has arrived, so a silent
/// client takes no memory for a session. If TLS is optional, the first byte of the client decides.
fn start(conn: &Connection) -> Result<Start, TlsError> {
    match conn.stage() {
        Some(Stage::TlsClient(client)) => TlsSession::client(client).map(Start::Session),
        Some(Stage::TlsServer {
            server,
            is_optional,
        }) => match conn.stage_input().first() {
            Some(first) if *is_optional && *first != HANDSHAKE_BYTE => Ok(Start::Plain),
            None if *is_optional => Ok(Start::AwaitsByte),
            None if !conn.state.is_readable() => Ok(Start::AwaitsEvent),
            _ => TlsSession::server(server).map(Start::Session),
        },
        _ => Ok(Start::AwaitsEvent),
    }
}

/// Writes at most the first `left` bytes of a queue, without a filter.
fn write_first(
    conn: &mut Connection,
    stats: &mut Stats,
    queue: &WriteQueue,
    mut left: usize,
) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let mut count = queue.slices(&mut slices);
    let mut first = [IoSlice::new(&[]); SLICES_MAX];
    for (slice, first) in slices[..count].iter().zip(&mut first) {
        let len = slice.len().min(left);
        *first = IoSlice::new(&slice[..len]);
        left -= len;
    }
    count = first.iter().take_while(|slice| !slice.is_empty()).count();
    drain_plain(conn, stats, &first[..count])
}
