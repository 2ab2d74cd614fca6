//! The preparation of a connection: bytes that are no frames, exchanged before `on_open`, or later
//! if TLS starts in mid-stream.
//!
//! ```text
//!   accept ----------------+
//!                          v
//!   connect -> connected -> stage -> stage -> open: on_open
//!                             |
//!                             +-> violation, end of the stream or deadline: on_close only
//! ```
//!
//! A preparation is a list of [`Stage`]s. Each stage has a deadline. The phase of the connection is
//! `Preparing`: no frame is delivered, and queued output waits. Bytes after those of the last stage
//! belong to the first frames.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use super::log_limit::warn_limited;
use super::proxied::ReceiveHeader;
use super::transport::{Filled, fill_plain};
use super::{Connection, Engine, Task};
use crate::addr::Addr;
use crate::config::Config;
use crate::conn::{State, UnfinishedSkip};
use crate::event::{CloseReason, Origin, Refusal};
use crate::id::{ConnId, ListenerId, Token};
use crate::log_target::{LOG_TARGET, log_conn};
use crate::memory::ReadBuffer;
use crate::proxy_header::{ProxyError, ProxyHeader};
#[cfg(feature = "tls")]
use crate::tls::{TlsClient, TlsServer};

/// Maximum length of one read of a stage, in bytes. It is short, because a read can also return
/// bytes that belong to the first frames. These bytes are copied once more.
const READ_LEN: usize = 4096;

/// The preparation of one connection.
#[derive(Debug)]
pub(crate) struct Preparation {
    /// The origin to report when the connection opens; `None` if it was open before.
    pub(super) origin: Option<Origin>,
    /// The stages that are not done. The first one is in progress.
    stages: VecDeque<Stage>,
    /// Bytes that were read and that no stage has used yet.
    input: Vec<u8>,
    /// True once the connection is established and the first stage has begun.
    has_begun: bool,
}

/// One stage of a preparation.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// Receives a header of the PROXY protocol.
    ReceiveHeader(ReceiveHeader),
    /// Sends bytes, such as a header of the PROXY protocol.
    Send { bytes: Vec<u8>, timeout: Duration },
    /// Writes queued output without TLS. The value is the number of bytes that are left.
    #[cfg(feature = "tls")]
    FlushPlain(usize),
    /// Accepts a TLS session. If TLS is optional, the first byte of the client decides.
    #[cfg(feature = "tls")]
    TlsServer {
        server: TlsServer,
        is_optional: bool,
    },
    /// Opens a TLS session.
    #[cfg(feature = "tls")]
    TlsClient(Box<TlsClient>),
    /// Expects a fixed sequence of bytes. For tests of the preparation.
    #[cfg(test)]
    Prefix(&'static [u8]),
}

/// The result of a stage for the bytes that have arrived.
#[derive(Debug)]
pub(super) enum Progress {
    /// The stage needs more bytes.
    NeedMore,
    /// The stage is done. It used this number of bytes.
    Done(usize),
    /// The stage that receives a header is done. It used this number of bytes. `None` stands for a
    /// direct client.
    Identified(usize, Option<Box<ProxyHeader>>),
}

/// The state of a connection after a stage.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// The connection waits for an event, or it has ended.
    Waits,
    /// The connection is open: call `on_open`.
    Opened(Origin),
    /// A limit refused the client of the connection, which has ended: call `on_refused`, and not
    /// `on_close`.
    Refused(ListenerId, Addr, Refusal),
    /// The connection is open again, after a preparation in mid-stream.
    Continued,
}

impl Preparation {
    /// Creates a preparation. `origin` is `None` if the connection is already open. Returns `None`
    /// if there is no stage.
    pub(super) fn new(
        origin: Option<Origin>,
        stages: impl IntoIterator<Item = Stage>,
    ) -> Option<Box<Self>> {
        let stages: VecDeque<_> = stages.into_iter().collect();
        (!stages.is_empty()).then(|| {
            Box::new(Self {
                origin,
                stages,
                input: Vec::new(),
                has_begun: false,
            })
        })
    }

    /// Runs the stages with the bytes that have arrived. Returns `Done` if no stage is left, and
    /// `Identified` if the caller must first handle the header.
    fn run(&mut self) -> Result<Progress, CloseReason> {
        while let Some(stage) = self.stages.front() {
            match stage.run(&self.input)? {
                Progress::NeedMore => return Ok(Progress::NeedMore),
                Progress::Done(used) => self.stage_done(used),
                Progress::Identified(used, header) => {
                    self.stage_done(used);
                    return Ok(Progress::Identified(0, header));
                }
            }
        }
        Ok(Progress::Done(0))
    }

    /// Returns true if the address of the client is known before the preparation.
    pub(super) fn knows_client(&self) -> bool {
        !matches!(self.stages.front(), Some(Stage::ReceiveHeader(_)))
    }

    /// Removes the stage in progress, and the bytes that it used.
    pub(super) fn stage_done(&mut self, used: usize) {
        self.input.drain(..used);
        self.stages.pop_front();
    }

    /// Returns the stage in progress, and the bytes that have arrived for it.
    pub(super) fn stage_and_input(&mut self) -> (Option<&mut Stage>, &[u8]) {
        (self.stages.front_mut(), &self.input)
    }
}

impl Stage {
    /// Handles `input`, all bytes that have arrived and that no earlier stage has used. A stage
    /// that needs more bytes is called again with a longer input. Each stage must bound the length
    /// of its input, and fail beyond this bound.
    fn run(&self, input: &[u8]) -> Result<Progress, CloseReason> {
        match self {
            Self::ReceiveHeader(stage) => stage.run(input),
            // `send_for_stage` sends the bytes.
            Self::Send { .. } => Ok(Progress::NeedMore),
            // `continue_tls` handles the input of these stages.
            #[cfg(feature = "tls")]
            Self::FlushPlain(_) | Self::TlsServer { .. } | Self::TlsClient(_) => {
                Ok(Progress::NeedMore)
            }
            #[cfg(test)]
            Self::Prefix(prefix) => match input.get(..prefix.len()) {
                Some(bytes) if bytes == *prefix => Ok(Progress::Done(prefix.len())),
                None if prefix.starts_with(input) => Ok(Progress::NeedMore),
                _ => Err(CloseReason::Io(io::ErrorKind::InvalidData.into())),
            },
        }
    }

    /// Returns the time allowed for the stage.
    #[cfg_attr(
        not(feature = "tls"),
        expect(unused_variables, reason = "only TLS stages have a configured time")
    )]
    fn timeout(&self, config: &Config) -> Duration {
        match self {
            #[cfg(feature = "tls")]
            Self::FlushPlain(_) | Self::TlsServer { .. } | Self::TlsClient(_) => {
                config.tls_handshake_timeout
            }
            Self::ReceiveHeader(stage) => stage.policy.time(),
            Self::Send { timeout, .. } => *timeout,
            #[cfg(test)]
            Self::Prefix(_) => Duration::from_secs(10),
        }
    }

    /// Returns the reason of the close if the stage takes too long.
    fn timed_out(&self) -> CloseReason {
        match self {
            Self::ReceiveHeader(_) => CloseReason::ProxyHeader(ProxyError::TimedOut),
            Self::Send { .. } => CloseReason::ConnectFailed(io::ErrorKind::TimedOut.into()),
            #[cfg(feature = "tls")]
            Self::FlushPlain(_) | Self::TlsServer { .. } | Self::TlsClient(_) => {
                CloseReason::TlsHandshakeTimeout
            }
            #[cfg(test)]
            Self::Prefix(_) => CloseReason::Io(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Returns the reason of the close if the peer ends its side during the stage.
    fn ended(&self) -> CloseReason {
        match self {
            Self::ReceiveHeader(_) => CloseReason::ProxyHeader(ProxyError::Ended),
            Self::Send { .. } => CloseReason::Io(io::ErrorKind::UnexpectedEof.into()),
            #[cfg(feature = "tls")]
            Self::FlushPlain(_) | Self::TlsServer { .. } | Self::TlsClient(_) => {
                CloseReason::TlsTruncated
            }
            #[cfg(test)]
            Self::Prefix(_) => CloseReason::Io(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Connection {
    /// Returns true if the connection has opened. Then its preparation, if it has one, began in
    /// mid-stream.
    pub(super) fn has_opened(&self) -> bool {
        let extras = self.extras_ref();
        let preparation = extras.and_then(|extras| extras.preparation.as_ref());
        !self.state.is_connecting() && preparation.is_none_or(|it| it.origin.is_none())
    }

    /// Returns the stage in progress, if the connection is being prepared.
    pub(super) fn stage(&self) -> Option<&Stage> {
        self.extras_ref()?.preparation.as_ref()?.stages.front()
    }

    #[cfg(feature = "tls")]
    pub(super) fn stage_mut(&mut self) -> Option<&mut Stage> {
        let preparation = self.extras_mut()?.preparation.as_mut();
        preparation?.stages.front_mut()
    }

    /// Returns the bytes that were read and that no stage has used yet.
    #[cfg(feature = "tls")]
    pub(super) fn stage_input(&self) -> &[u8] {
        let extras = self.extras_ref();
        let preparation = extras.and_then(|extras| extras.preparation.as_ref());
        preparation.map_or(&[], |preparation| &preparation.input)
    }

    /// Takes the bytes that were read and that no stage has used yet.
    #[cfg(feature = "tls")]
    pub(super) fn take_stage_input(&mut self) -> Vec<u8> {
        let preparation = &mut self.extras().preparation;
        let input = preparation.as_mut().map(|it| std::mem::take(&mut it.input));
        input.unwrap_or_default()
    }
}

impl Engine {
    /// Starts the preparation of an established connection, and the deadline of its first stage.
    pub(super) fn begin_preparation(&mut self, token: Token) {
        if let Ok(conn) = self.entries.conn_mut(token)
            && let Some(preparation) = &mut conn.extras().preparation
        {
            preparation.has_begun = true;
            conn.state.prepare();
            self.admission.preparing += 1;
            self.telemetry.stats.preparations += 1;
            self.set_stage_deadline(token);
        }
    }

    pub(super) fn set_stage_deadline(&mut self, token: Token) {
        let Ok(conn) = self.entries.conn_mut(token) else {
            return;
        };
        let after = conn.stage().map(|stage| stage.timeout(&self.config));
        let extras = conn.extras();
        self.timers.cancel(extras.deadline.take());
        if let Some(after) = after {
            extras.deadline = Some(self.timers.set_conn_task(after, Task::Deadline, token));
        }
    }

    /// Continues the preparation of a connection after an event.
    pub(super) fn prepare(&mut self, token: Token, read_buffer: &mut ReadBuffer) -> Opening {
        loop {
            if !self.send_for_stage(token) {
                return Opening::Waits;
            }
            let Ok(conn) = self.entries.conn_mut(token) else {
                return Opening::Waits;
            };
            if !conn.state.is_preparing() {
                return Opening::Waits;
            }
            let preparation = conn.extras_mut().and_then(|it| it.preparation.as_mut());
            let Some(preparation) = preparation else {
                return Opening::Waits;
            };
            let stages = preparation.stages.len();
            match preparation.run() {
                // The sender of an invalid header is a proxy. The reset reports the error to the
                // proxy.
                Err(reason @ CloseReason::ProxyHeader(_)) => self.abort(token, reason),
                Err(reason) => self.reject(token, reason),
                Ok(Progress::Identified(_, header)) => {
                    if let Some(refused) = self.identified(token, header) {
                        return refused;
                    }
                    self.set_stage_deadline(token);
                }
                Ok(Progress::Done(_)) => return self.end_preparation(token),
                Ok(Progress::NeedMore) => {
                    if preparation.stages.len() < stages {
                        self.set_stage_deadline(token);
                    }
                    if self.continue_stage(token, read_buffer).is_break() {
                        return Opening::Waits;
                    }
                }
            }
        }
    }

    /// Continues the stage in progress. Returns `Break` if it waits for an event.
    fn continue_stage(&mut self, token: Token, read_buffer: &mut ReadBuffer) -> ControlFlow<()> {
        #[cfg(feature = "tls")]
        match self.entries.conn(token).ok().and_then(Connection::stage) {
            Some(Stage::FlushPlain(_)) => return self.flush_plain(token),
            Some(Stage::TlsServer { .. } | Stage::TlsClient(_)) => {
                return self.continue_tls(token, read_buffer);
            }
            _ => {}
        }
        self.read_for_stage(token, read_buffer)
    }

    /// Ends the stage in progress, and starts the deadline of the next one.
    #[cfg(feature = "tls")]
    pub(super) fn end_stage(&mut self, token: Token) -> ControlFlow<()> {
        if let Ok(conn) = self.entries.conn_mut(token)
            && let Some(preparation) = &mut conn.extras().preparation
        {
            preparation.stage_done(0);
            self.set_stage_deadline(token);
        }
        ControlFlow::Continue(())
    }

    /// Reads once for the stage in progress. Returns `Break` if the stage cannot continue now.
    pub(super) fn read_for_stage(
        &mut self,
        token: Token,
        read_buffer: &mut ReadBuffer,
    ) -> ControlFlow<()> {
        const BREAK: ControlFlow<()> = ControlFlow::Break(());
        if self.memory.is_used_up() {
            self.pause_for_memory(token);
            return BREAK;
        }
        let Ok(conn) = self.entries.conn_mut(token) else {
            return BREAK;
        };
        if !conn.state.is_readable() {
            return BREAK;
        }
        let len = read_buffer.len().min(READ_LEN);
        let spare = &mut read_buffer.bytes_mut()[..len];
        match fill_plain(conn, &mut self.telemetry.stats, spare) {
            Filled::Bytes(len) => {
                if let Some(preparation) = &mut conn.extras().preparation {
                    preparation.input.extend_from_slice(&spare[..len]);
                }
                return ControlFlow::Continue(());
            }
            Filled::WouldBlock | Filled::Consumed(_) => {}
            Filled::End if conn.continue_as_direct() => return ControlFlow::Continue(()),
            Filled::End => {
                let reason = conn.stage().map_or(CloseReason::Peer, Stage::ended);
                self.end(token, reason);
            }
            Filled::Failed(error) => self.end(token, CloseReason::Io(error)),
        }
        BREAK
    }

    /// Ends a preparation whose stages are all done. The bytes after the last stage are decoded
    /// when the connection is dispatched.
    fn end_preparation(&mut self, token: Token) -> Opening {
        let Ok(conn) = self.entries.conn_mut(token) else {
            return Opening::Waits;
        };
        let Some(preparation) = conn.extras().preparation.take() else {
            return Opening::Waits;
        };
        conn.state.prepared();
        self.timers.cancel(conn.extras().deadline.take());
        if !preparation.input.is_empty() {
            let content = (&preparation.input[..], UnfinishedSkip::None);
            let pool = &mut self.memory.pool;
            conn.assembler.put(content, self.timers.stamp, pool);
        }
        self.admission.preparing -= 1;
        let (id, peer) = (ConnId(token), &conn.peer);
        log_conn!(
            debug,
            LOG_TARGET,
            id,
            peer,
            "{id} completed its preparation"
        );
        let Some(origin) = preparation.origin else {
            conn.free_extras();
            return Opening::Continued;
        };
        self.opened(token);
        if !matches!(origin, Origin::Accepted { .. }) {
            self.telemetry.stats.connected += 1;
        }
        Opening::Opened(origin)
    }

    /// Closes a connection because of a violation by its peer. Queued output is lost: it must not
    /// be sent before the preparation is done, nor over a failed TLS session.
    pub(super) fn reject(&mut self, token: Token, reason: CloseReason) {
        if let Ok(conn) = self.entries.conn(token) {
            let (id, peer) = (ConnId(token), &conn.peer);
            warn_limited!(self, Preparation => "closing {id} from {peer}: {reason}");
        }
        self.count_failed_preparation(token);
        self.lose_queue(token);
        self.close_with(token, reason, State::reject);
    }

    /// Handles a deadline that passed during a stage.
    pub(super) fn preparation_timed_out(&mut self, token: Token) {
        if self
            .entries
            .conn_mut(token)
            .is_ok_and(Connection::continue_as_direct)
        {
            return self.queue(token);
        }
        let stage = self.conn(token).ok().and_then(Connection::stage);
        let reason = stage.map_or(CloseReason::CloseTimeout, Stage::timed_out);
        self.telemetry.stats.preparations_timed_out += 1;
        self.end(token, reason);
    }

    /// Counts a preparation that has failed, if the connection had one.
    pub(super) fn count_failed_preparation(&mut self, token: Token) {
        let Ok(conn) = self.entries.conn_mut(token) else {
            return;
        };
        let preparation = conn.extras_mut().and_then(|it| it.preparation.take());
        if preparation.is_some_and(|preparation| preparation.has_begun) {
            self.admission.preparing -= 1;
            self.telemetry.stats.preparations_failed += 1;
        }
    }
}
