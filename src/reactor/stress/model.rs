//! The model of the stress tests. It has the expected state of each connection, and compares each
//! callback with that state.

use std::collections::HashMap;

use crate::codec::{Framing, Skipped};
use crate::context::Context;
use crate::event::{CloseReason, Closed, Detached, Hangup, Origin};
use crate::handler::Handler;
use crate::id::ConnId;
use crate::memory::Buf;
use crate::os::sim::Script;
use crate::reactor::tests::transport::Transport;
use crate::stats::ConnStats;
use crate::testkit::Random;
use crate::timer::TimerId;

/// Maximum length of a payload, in both directions. A longer payload from the peer is skipped.
pub(super) const PAYLOAD_LEN_MAX: usize = 20_000;

/// The payload of a deliberate panic of the handler.
pub(super) struct DeliberatePanic;

/// The expected state of one connection.
pub(super) struct Expected {
    pub(super) conn: ConnId,
    /// The script of the connection's socket; `None` if the connect fails.
    pub(super) script: Option<Script>,
    pub(super) framing: Framing,
    /// All bytes that the peer sends.
    pub(super) stream: Vec<u8>,
    /// Number of bytes of `stream` that were added to the script or to `wire`.
    pub(super) fed: usize,
    /// Encrypted bytes of `stream` that will be added to the script later.
    pub(super) wire: Vec<u8>,
    /// True if the script contains the end of the stream.
    pub(super) is_fed_to_end: bool,
    /// The payloads in `stream`, each with the offset of the end of its frame.
    pub(super) payloads: Vec<(Vec<u8>, usize)>,
    /// Number of payloads that were delivered or skipped.
    pub(super) handled: usize,
    /// Number of payloads that were delivered.
    pub(super) delivered: u64,
    /// The frames of all accepted payloads, as the peer must receive them.
    pub(super) accepted: Vec<u8>,
    /// Number of accepted payloads.
    pub(super) sent: u64,
    pub(super) is_open: bool,
    pub(super) is_paused: bool,
    pub(super) credit: Option<u64>,
    /// True if the first credit was granted in `on_frame`. The frame of that callback uses no
    /// credit.
    pub(super) is_credit_fresh: bool,
    /// True if `on_drained` must be called by the time the queue is empty.
    pub(super) is_above: bool,
    /// True if `on_drained` may be called.
    pub(super) may_drain: bool,
    /// True if the handler has closed, aborted or detached the connection, or has panicked in one
    /// of its callbacks.
    pub(super) is_ended: bool,
    /// True if the handler has detached the connection.
    pub(super) is_detached: bool,
    /// Totals of the connections that were detached and adopted again as this connection.
    pub(super) earlier: ConnStats,
    pub(super) is_half_closed: bool,
    /// True if a read or a write was scripted to fail.
    pub(super) has_failed: bool,
    /// True if a callback of the connection panicked.
    pub(super) was_panic: bool,
    /// True if `on_half_close` was called.
    pub(super) has_half_close: bool,
    pub(super) closes: usize,
}

/// The callback that runs an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Frame,
    Close,
    Other,
}

pub(super) struct Model {
    pub(super) random: Random,
    pub(super) conns: Vec<Expected>,
    pub(super) index: HashMap<ConnId, usize>,
    /// Timers of the handler, with true for each timer that is set.
    pub(super) timers: Vec<(TimerId, bool)>,
    /// Number of operations that may still run.
    pub(super) acts_left: usize,
    /// True if callbacks may panic.
    pub(super) panics: bool,
    pub(super) has_memory_limit: bool,
    pub(super) write_low_bytes: usize,
    /// Number of adoptions of detached connections.
    pub(super) adoptions: u64,
    /// True if some payloads are long.
    pub(super) has_long: bool,
    /// True at the end of the run, while the remaining connections are closed.
    pub(super) is_over: bool,
    pub(super) transport: Transport,
}

pub(super) type Cx<'a> = Context<'a, Model>;

impl Model {
    pub(super) fn new(
        random: Random,
        has_memory_limit: bool,
        has_long: bool,
        transport: Transport,
    ) -> Self {
        let mut random = random;
        let panics = random.one_in(3);
        Self {
            random,
            conns: Vec::new(),
            index: HashMap::new(),
            timers: Vec::new(),
            acts_left: 5000,
            panics,
            has_memory_limit,
            write_low_bytes: 0,
            adoptions: 0,
            has_long,
            is_over: false,
            transport,
        }
    }

    pub(super) fn expected(&mut self, conn: ConnId) -> &mut Expected {
        &mut self.conns[self.index[&conn]]
    }

    pub(super) fn add(&mut self, conn: ConnId, script: Option<Script>, framing: Framing) {
        let number = self.conns.len();
        assert!(
            self.index.insert(conn, number).is_none(),
            "the id {conn} is used twice"
        );
        self.conns.push(Expected::new(conn, script, framing));
    }

    pub(super) fn payload(&mut self) -> Vec<u8> {
        let len = match self.random.below(20) {
            0 if self.has_long && self.random.one_in(8) => PAYLOAD_LEN_MAX + 1,
            1 if self.has_long && self.random.one_in(4) => 16_384 + self.random.below(3000),
            2..6 => self.random.below(1000),
            _ => self.random.below(30),
        };
        let seed = self.random.below(1 << 20);
        let text =
            (0..len).map(|at| b'a' + u8::try_from((at * 7 + seed) % 26).expect("the letter fits"));
        text.collect()
    }

    /// Adopts a connection that was detached. `stats` are its totals.
    fn adopt(&mut self, cx: &mut Cx<'_>, number: usize, detached: Detached, stats: ConnStats) {
        let unsent = detached.unsent.len();
        let framing = self.conns[number].framing.clone();
        let conn = cx.adopt_detached(detached, framing, Some(number));
        self.index.insert(conn, number);
        let expected = &mut self.conns[number];
        let earlier = &mut expected.earlier;
        earlier.written_bytes += stats.written_bytes;
        earlier.read_bytes += stats.read_bytes;
        earlier.frames_in += stats.frames_in;
        earlier.frames_out += stats.frames_out;
        expected.conn = conn;
        expected.closes = 0;
        (expected.is_open, expected.is_ended, expected.is_detached) = (false, false, false);
        (expected.is_paused, expected.credit) = (false, None);
        // A half-close between the detach and the close of the old id had no effect.
        (expected.is_half_closed, expected.has_half_close) = (false, false);
        expected.is_above = unsent > self.write_low_bytes;
        self.adoptions += 1;
    }

    /// Checks that a connection may get a callback about its input.
    fn check_reading(&self, conn: ConnId, session: Option<usize>) {
        let number = self.index[&conn];
        assert_eq!(
            session,
            Some(number),
            "the callback got the session of another connection"
        );
        let expected = &self.conns[number];
        assert!(
            expected.is_open && expected.closes == 0,
            "a callback came before the open or after the close"
        );
        assert!(!expected.is_ended, "the connection was closed");
        assert!(!expected.is_paused, "the connection is paused");
        assert!(
            !expected.is_above,
            "the connection is above its high watermark"
        );
        assert_ne!(expected.credit, Some(0), "the connection has no credit");
        assert!(!expected.has_half_close, "the peer has ended its side");
    }
}

pub(super) fn encode(framing: &Framing, payload: &[u8], out: &mut Vec<u8>) {
    let mut buf = Buf::default();
    framing
        .encode(payload, &mut buf)
        .expect("the payload was accepted");
    out.extend_from_slice(buf.bytes());
}

impl Handler for Model {
    /// Index of the expected state of the connection.
    type Session = Option<usize>;

    fn on_open(&mut self, cx: &mut Cx<'_>, conn: ConnId, session: &mut Option<usize>, _: Origin) {
        *session = Some(self.index[&conn]);
        let expected = self.expected(conn);
        assert!(!expected.is_open && expected.closes == 0);
        expected.is_open = true;
        self.act(cx, Some(conn), At::Other);
    }

    fn on_frame(
        &mut self,
        cx: &mut Cx<'_>,
        conn: ConnId,
        session: &mut Option<usize>,
        frame: &[u8],
    ) {
        self.check_reading(conn, *session);
        let expected = self.expected(conn);
        assert!(
            expected.payloads[expected.handled].0 == frame,
            "frame out of order"
        );
        expected.handled += 1;
        self.act(cx, Some(conn), At::Frame);
        let expected = self.expected(conn);
        expected.delivered += 1;
        let is_counted = !std::mem::take(&mut expected.is_credit_fresh);
        if let Some(credit) = &mut expected.credit
            && is_counted
        {
            *credit = credit.saturating_sub(1);
        }
    }

    fn on_skipped(
        &mut self,
        cx: &mut Cx<'_>,
        conn: ConnId,
        session: &mut Option<usize>,
        skipped: Skipped,
    ) {
        self.check_reading(conn, *session);
        let expected = self.expected(conn);
        assert_eq!(
            skipped.len,
            expected.payloads[expected.handled].0.len() as u64
        );
        expected.handled += 1;
        self.act(cx, Some(conn), At::Other);
    }

    fn on_peek(
        &mut self,
        cx: &mut Cx<'_>,
        conn: ConnId,
        session: &mut Option<usize>,
        bytes: &[u8],
    ) {
        if self.expected(conn).has_half_close {
            assert!(bytes.is_empty(), "bytes after the end of the stream");
        } else {
            self.check_reading(conn, *session);
        }
        let stats = cx.conn_stats(conn).expect("the connection is open");
        let read = self.expected(conn).earlier.read_bytes + stats.read_bytes;
        let read = usize::try_from(read).expect("the streams are short");
        assert!(self.expected(conn).stream[..read].ends_with(bytes));
        self.act(cx, Some(conn), At::Other);
    }

    fn on_drained(&mut self, cx: &mut Cx<'_>, conn: ConnId, session: &mut Option<usize>) {
        let expected = self.expected(conn);
        assert!(
            expected.is_open && expected.closes == 0,
            "a callback came before the open or after the close"
        );
        assert!(
            expected.is_above || expected.may_drain,
            "on_drained was not expected"
        );
        expected.is_above = false;
        assert_eq!(*session, Some(self.index[&conn]));
        self.act(cx, Some(conn), At::Other);
    }

    fn on_half_close(&mut self, cx: &mut Cx<'_>, conn: ConnId, session: &mut Option<usize>) {
        self.check_reading(conn, *session);
        let is_over = self.is_over;
        let expected = self.expected(conn);
        expected.has_half_close = true;
        let fed = expected.fed;
        let whole = expected.payloads.iter().take_while(|(_, end)| *end <= fed);
        assert!(expected.handled >= whole.count(), "frames are missing");
        if is_over {
            cx.close(conn);
            expected.is_ended = true;
        }
        self.act(cx, Some(conn), At::Other);
    }

    fn on_hangup(&mut self, cx: &mut Cx<'_>, conn: ConnId, session: &mut Option<usize>, _: Hangup) {
        let is_limited = self.has_memory_limit;
        let expected = self.expected(conn);
        let is_stopped = expected.is_paused || expected.is_above || expected.credit == Some(0);
        assert!(
            is_stopped || expected.may_drain || is_limited,
            "on_hangup was called although the connection is read"
        );
        assert!(expected.is_open && expected.closes == 0 && !expected.is_ended);
        assert_eq!(*session, Some(self.index[&conn]));
        self.act(cx, Some(conn), At::Other);
    }

    fn on_close(&mut self, cx: &mut Cx<'_>, conn: ConnId, session: Option<usize>, closed: Closed) {
        let number = self.index[&conn];
        let expected = &mut self.conns[number];
        expected.closes += 1;
        assert_eq!(expected.closes, 1, "{conn} closes twice");
        assert_eq!(
            session.is_none(),
            expected.was_panic,
            "the session is missing only after a panic: {session:?}"
        );
        assert!(session.is_none_or(|session| session == number));
        expected.check_end(&closed, self.transport);
        self.act(cx, Some(conn), At::Close);
        if let CloseReason::Detached(detached) = closed.reason
            && !self.is_over
            && self.random.one_in(2)
        {
            self.adopt(cx, number, detached, closed.stats);
        }
    }

    fn on_timer(&mut self, _: &mut Cx<'_>, _: TimerId, _: u64) {
        panic!("a timer of one hour fired, but no hour has passed");
    }
}

impl Expected {
    fn new(conn: ConnId, script: Option<Script>, framing: Framing) -> Self {
        Self {
            conn,
            script,
            framing,
            stream: Vec::new(),
            fed: 0,
            wire: Vec::new(),
            is_fed_to_end: false,
            payloads: Vec::new(),
            handled: 0,
            delivered: 0,
            accepted: Vec::new(),
            sent: 0,
            is_open: false,
            is_paused: false,
            credit: None,
            is_credit_fresh: false,
            is_above: false,
            may_drain: false,
            is_ended: false,
            is_detached: false,
            earlier: ConnStats::default(),
            is_half_closed: false,
            has_failed: false,
            was_panic: false,
            has_half_close: false,
            closes: 0,
        }
    }

    fn check_end(&self, closed: &Closed, transport: Transport) {
        let stats = closed.stats;
        let written_bytes = self.earlier.written_bytes + stats.written_bytes;
        let detached = match &closed.reason {
            CloseReason::Detached(detached) => detached.unsent.len() as u64,
            _ => 0,
        };
        assert_eq!(
            detached > 0 || matches!(closed.reason, CloseReason::Detached(_)),
            self.is_detached && !self.was_panic,
            "{closed:?}"
        );
        assert_eq!(
            written_bytes + closed.unsent_bytes + detached,
            self.accepted.len() as u64,
            "each byte is written or counted as unsent: {closed:?}"
        );
        assert_eq!(
            (
                self.earlier.frames_in + stats.frames_in,
                self.earlier.frames_out + stats.frames_out
            ),
            (self.delivered, self.sent)
        );
        let Some(script) = self.script else {
            assert!(!self.is_open);
            assert!(matches!(closed.reason, CloseReason::ConnectFailed(_)));
            return;
        };
        let calls = script.calls();
        let written = transport.decrypt(script, &calls.written);
        assert!(
            written == self.accepted[..written.len()],
            "the written bytes differ from the accepted output"
        );
        // A filter accepts bytes before the socket takes them. If a write fails, the filter reports
        // no byte of that call as accepted, although the socket may have taken some.
        let all_written = written_bytes == written.len() as u64;
        let may_differ = self.has_failed || written_bytes > written.len() as u64;
        assert!(
            all_written || !transport.is_plain() && may_differ,
            "the statistics count other bytes than the socket took: {closed:?}"
        );
        if self.was_panic {
            assert!(matches!(closed.reason, CloseReason::HandlerPanicked));
        }
        let is_clean = matches!(closed.reason, CloseReason::Local | CloseReason::Peer);
        if is_clean && !self.has_failed {
            assert_eq!(
                closed.unsent_bytes, 0,
                "a clean close leaves no unsent byte"
            );
            assert!(all_written, "a clean close writes all accepted bytes");
            assert!(calls.is_shut_down, "a clean close sends a FIN");
        }
        // Input after a close is not counted as undecoded, and neither is the rest of a skipped
        // frame.
        let handled_len = self
            .handled
            .checked_sub(1)
            .map_or(0, |last| self.payloads[last].1);
        let known = handled_len as u64 + closed.undecoded_bytes;
        let ends_in_skip =
            self.handled > 0 && self.payloads[self.handled - 1].0.len() > PAYLOAD_LEN_MAX;
        if !self.is_ended && !ends_in_skip && self.earlier == ConnStats::default() {
            assert_eq!(stats.read_bytes, known, "all input is counted: {closed:?}");
        }
    }
}
