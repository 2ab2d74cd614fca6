//! The model: it tracks the operations of the handler and their results, and checks each callback
//! against them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::resume_unwind;

use super::HOUR;
use crate::codec::{Framing, Skipped};
use crate::context::Context;
use crate::error::{FrameError, SendError, Sent};
use crate::event::{CloseReason, Closed};
use crate::event::{Hangup, Origin};
use crate::handler::Handler;
use crate::id::ConnId;
use crate::memory::Buf;
use crate::os::sim::Script;
use crate::payload::Payload;
use crate::reactor::tests::transport::Transport;
use crate::testkit::Random;
use crate::timer::TimerId;

/// Maximum length of a payload, in both directions. A longer one from the peer is skipped.
pub(super) const PAYLOAD_LEN_MAX: usize = 20_000;

impl Random {
    pub(super) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(super) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

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
    /// Number of bytes of `stream` that the socket has.
    pub(super) fed: usize,
    /// What of it is encrypted, and not yet given to the socket.
    pub(super) wire: Vec<u8>,
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
    /// True if the credit began in a frame callback, whose frame costs nothing.
    pub(super) is_credit_fresh: bool,
    /// True if `on_drained` must come.
    pub(super) is_above: bool,
    /// True if `on_drained` may come.
    pub(super) may_drain: bool,
    /// True if the handler has closed or aborted the connection.
    pub(super) is_ended: bool,
    pub(super) is_half_closed: bool,
    /// True if a read or a write was scripted to fail.
    pub(super) has_failed: bool,
    pub(super) was_panic: bool,
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
    pub(super) timers: Vec<(TimerId, bool)>,
    /// Number of operations that may still run.
    pub(super) acts_left: usize,
    pub(super) panics: bool,
    pub(super) has_memory_limit: bool,
    /// True if some payloads are long.
    pub(super) has_long: bool,
    /// True at the end of the run: all connections must end soon.
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
            has_long,
            is_over: false,
            transport,
        }
    }

    pub(super) fn expected(&mut self, conn: ConnId) -> &mut Expected {
        &mut self.conns[self.index[&conn]]
    }

    /// Runs a few random operations, and sometimes panics.
    pub(super) fn act(&mut self, cx: &mut Cx<'_>, own: Option<ConnId>, at: At) {
        for _ in 0..self.random.below(4).min(self.acts_left) {
            self.acts_left -= 1;
            self.act_once(cx, own, at);
        }
        if self.panics && !self.is_over && self.random.one_in(60) {
            if let Some(own) = own {
                let expected = self.expected(own);
                expected.was_panic = true;
                expected.is_ended = true;
            }
            resume_unwind(Box::new(DeliberatePanic));
        }
    }

    fn act_once(&mut self, cx: &mut Cx<'_>, own: Option<ConnId>, at: At) {
        let any = self.random.below(self.conns.len().max(1));
        let target = match own {
            Some(own) if self.random.one_in(2) => Some(self.index[&own]),
            _ => (!self.conns.is_empty()).then_some(any),
        };
        let Some(target) = target else {
            return;
        };
        let is_own = own == Some(self.conns[target].conn);
        let conn = self.conns[target].conn;
        // During its own `on_close`, a connection still exists.
        let is_closed = self.conns[target].closes > 0 && !(is_own && at == At::Close);
        match self.random.below(80) {
            0..12 => self.send(cx, target, is_closed),
            12 => {
                cx.close(conn);
                self.conns[target].is_ended = true;
            }
            13 => {
                cx.abort(conn);
                self.conns[target].is_ended = true;
            }
            14 => {
                assert_eq!(cx.half_close(conn).is_err(), is_closed);
                self.conns[target].is_half_closed = true;
            }
            15..18 => {
                assert_eq!(cx.pause(conn).is_err(), is_closed);
                self.conns[target].is_paused = true;
            }
            18..21 => {
                assert_eq!(cx.resume(conn).is_err(), is_closed);
                self.conns[target].is_paused = false;
            }
            21..25 => self.grant(cx, target, is_own && at == At::Frame, is_closed),
            25..27 => {
                let framing = self.conns[target].framing.clone();
                assert_eq!(cx.reframe(conn, framing).is_err(), is_closed);
            }
            27 => self.set_limits(cx, conn, is_closed),
            28 => assert_eq!(cx.record(conn).is_err(), is_closed),
            29 => assert_eq!(cx.stop_recording(conn).is_err(), is_closed),
            30 => match self.random.below(3) {
                0 => cx.record_all(),
                1 => cx.stop_recording_all(),
                _ => drop(cx.take_recording()),
            },
            31 => self.timer(cx),
            32 => {
                let nowhere: &[SocketAddr] = &[];
                let tag = Some(self.conns.len());
                let conn = cx.connect(nowhere, Framing::line(), tag);
                self.add(conn, None, Framing::line());
            }
            33..35 => {
                let session = cx.session(conn);
                match session {
                    Some(session) => assert!(!is_closed && *session == Some(target)),
                    None => assert!(is_closed || is_own || self.conns[target].was_panic),
                }
            }
            35 => self.broadcast(cx),
            36 => {
                let stats = cx.conn_stats(conn);
                assert_eq!(stats.is_err(), is_closed);
                if let Ok(stats) = stats {
                    assert_eq!(stats.frames_out, self.conns[target].sent);
                }
            }
            37 => {
                let queued = cx.queued_bytes(conn);
                assert_eq!(queued.is_err(), is_closed);
                let expected = &self.conns[target];
                if let Ok(queued) = queued
                    && !expected.is_ended
                    && !expected.has_failed
                {
                    let stats = cx.conn_stats(conn).expect("the connection exists");
                    assert_eq!(
                        queued as u64 + stats.written_bytes,
                        expected.accepted.len() as u64
                    );
                }
            }
            38 => cx.stop(),
            39..52 => {}
            _ => self.send(cx, target, is_closed),
        }
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

    fn send(&mut self, cx: &mut Cx<'_>, target: usize, is_closed: bool) {
        let payload = self.payload();
        let conn = self.conns[target].conn;
        let sent = match self.random.below(4) {
            0 => cx.send_parts(
                conn,
                &[&payload[..payload.len() / 2], &payload[payload.len() / 2..]],
            ),
            1 => cx.send_with(conn, |out| {
                out.put(&payload);
                Ok(())
            }),
            2 => cx
                .send_owned(conn, Payload::from(payload.clone()))
                .map_err(|refused| {
                    assert_eq!(&refused.payload[..], payload);
                    refused.error
                }),
            _ => cx.send(conn, &payload),
        };
        self.sent(cx, target, &payload, sent, is_closed);
    }

    /// Updates the model with the result of a send.
    fn sent(
        &mut self,
        cx: &Cx<'_>,
        target: usize,
        payload: &[u8],
        sent: Result<Sent, SendError>,
        is_closed: bool,
    ) {
        let is_limited = self.has_memory_limit;
        let expected = &mut self.conns[target];
        match sent {
            Ok(sent) => {
                assert!(!expected.is_ended && !expected.is_half_closed && !is_closed);
                encode(&expected.framing, payload, &mut expected.accepted);
                expected.sent += 1;
                expected.is_above |= matches!(sent, Sent::AboveHigh);
            }
            Err(SendError::Full) => {
                expected.is_above |= !is_limited && cx.queued_bytes(expected.conn) != Ok(0);
                expected.may_drain |= is_limited;
            }
            Err(SendError::Closing) => {
                let may_be = expected.is_ended || expected.is_half_closed || expected.has_failed;
                let is_dead = expected.closes > 0 || expected.script.is_none();
                assert!(may_be || is_dead || is_limited, "the connection is open");
            }
            Err(SendError::Gone) => assert!(is_closed),
            Err(SendError::Frame(FrameError::TooLong { .. })) => {
                assert!(payload.len() > PAYLOAD_LEN_MAX);
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Sends to all connections, including closed ones.
    fn broadcast(&mut self, cx: &mut Cx<'_>) {
        if self.has_memory_limit {
            // The result does not show which connections were refused.
            return;
        }
        let payload = [b'b'; 20];
        let conns: Vec<_> = self.conns.iter().map(|expected| expected.conn).collect();
        let before: Vec<_> = conns.iter().map(|conn| sent_count(cx, *conn)).collect();
        let count = cx.broadcast(conns.iter().copied(), &payload);
        let mut accepted = 0;
        for (target, conn) in conns.into_iter().enumerate() {
            let expected = &mut self.conns[target];
            if sent_count(cx, conn) > before[target] {
                accepted += 1;
                encode(&expected.framing, &payload, &mut expected.accepted);
                expected.sent += 1;
            }
            // The result does not show if the connection is above its high watermark.
            expected.may_drain = true;
        }
        assert_eq!(accepted, count);
    }

    fn grant(&mut self, cx: &mut Cx<'_>, target: usize, is_fresh: bool, is_closed: bool) {
        let frames = match self.random.below(6) {
            0 => u64::MAX,
            1 => 0,
            _ => self.random.below(4) as u64,
        };
        let expected = &mut self.conns[target];
        assert_eq!(cx.grant(expected.conn, frames).is_err(), is_closed);
        if expected.credit.is_none() {
            expected.is_credit_fresh = is_fresh;
        }
        let credit = expected.credit.unwrap_or(0).saturating_add(frames);
        expected.credit = (credit < u64::MAX).then_some(credit);
    }

    fn set_limits(&mut self, cx: &mut Cx<'_>, conn: ConnId, is_closed: bool) {
        let Ok(mut limits) = cx.limits(conn) else {
            assert!(is_closed);
            return;
        };
        limits.write_high_bytes = self.random.of(&[50, 500, PAYLOAD_LEN_MAX]);
        limits.write_low_bytes = limits.write_high_bytes / 3;
        limits.write_queue_bytes_max = 2 * limits.write_high_bytes;
        limits.idle_timeout = Some(HOUR);
        cx.set_limits(conn, limits).expect("the limits are valid");
    }

    fn timer(&mut self, cx: &mut Cx<'_>) {
        if self.timers.is_empty() || self.random.one_in(2) {
            let timer = match self.random.one_in(2) {
                true => cx.set_timer(HOUR, 1),
                false => cx.set_interval(HOUR, 2),
            };
            self.timers.push((timer, true));
            return;
        }
        let index = self.random.below(self.timers.len());
        let (timer, is_set) = &mut self.timers[index];
        if self.random.one_in(2) {
            assert_eq!(cx.reset_timer(*timer, 2 * HOUR), *is_set);
        } else {
            assert_eq!(cx.cancel_timer(*timer), *is_set);
            *is_set = false;
        }
    }

    /// Checks the state before a callback about input.
    fn check_reading(&self, conn: ConnId, session: Option<usize>) {
        let number = self.index[&conn];
        assert_eq!(session, Some(number), "the session of another connection");
        let expected = &self.conns[number];
        assert!(
            expected.is_open && expected.closes == 0,
            "callback before open or after close"
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

fn sent_count(cx: &Cx<'_>, conn: ConnId) -> u64 {
    cx.conn_stats(conn).map_or(0, |stats| stats.frames_out)
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

    fn on_drained(&mut self, cx: &mut Cx<'_>, conn: ConnId, session: &mut Option<usize>) {
        let expected = self.expected(conn);
        assert!(
            expected.is_open && expected.closes == 0,
            "callback before open or after close"
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
            "the connection is read"
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
        assert_eq!(session.is_none(), expected.was_panic, "{session:?}");
        assert!(session.is_none_or(|session| session == number));
        expected.check_end(&closed, self.transport);
        self.act(cx, Some(conn), At::Close);
    }

    fn on_timer(&mut self, _: &mut Cx<'_>, _: TimerId, _: u64) {
        panic!("an hour has not passed");
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
            is_half_closed: false,
            has_failed: false,
            was_panic: false,
            has_half_close: false,
            closes: 0,
        }
    }

    fn check_end(&self, closed: &Closed, transport: Transport) {
        let stats = closed.stats;
        assert_eq!(
            stats.written_bytes + closed.unsent_bytes,
            self.accepted.len() as u64,
            "each byte is written or counted as unsent: {closed:?}"
        );
        assert_eq!(
            (stats.frames_in, stats.frames_out),
            (self.delivered, self.sent)
        );
        let Some(script) = self.script else {
            assert!(!self.is_open);
            assert!(matches!(closed.reason, CloseReason::ConnectFailed(_)));
            return;
        };
        let seen = script.seen();
        let written = transport.decrypt(&seen.written);
        assert!(written == self.accepted[..written.len()], "out of order");
        // A filter accepts bytes before the socket does. If a write fails, it has taken none.
        let all_written = stats.written_bytes == written.len() as u64;
        let may_differ = self.has_failed || stats.written_bytes > written.len() as u64;
        assert!(
            all_written || !transport.is_plain() && may_differ,
            "{closed:?}"
        );
        if self.was_panic {
            assert!(matches!(closed.reason, CloseReason::HandlerPanicked));
        }
        let is_clean = matches!(closed.reason, CloseReason::Local | CloseReason::Peer);
        if is_clean && !self.has_failed {
            assert_eq!(closed.unsent_bytes, 0, "it was closed gently");
            assert!(all_written, "it was closed gently");
            assert!(seen.is_shut_down, "its peer was not told");
        }
        // Input after a close is not counted, nor is the rest of a skipped frame.
        let handled_len = self
            .handled
            .checked_sub(1)
            .map_or(0, |last| self.payloads[last].1);
        let known = handled_len as u64 + closed.undecoded_bytes;
        let ends_in_skip =
            self.handled > 0 && self.payloads[self.handled - 1].0.len() > PAYLOAD_LEN_MAX;
        if !self.is_ended && !ends_in_skip {
            assert_eq!(stats.read_bytes, known, "{closed:?}");
        }
    }
}
