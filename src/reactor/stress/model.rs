//! What a handler is to be told, by what it asked for and was answered.

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
use crate::testkit::Random;
use crate::timer::TimerId;

/// No payload is longer, in either direction; one that comes is skipped then.
pub(super) const PAYLOAD_LEN_MAX: usize = 20_000;

impl Random {
    pub(super) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(super) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// What a handler panics with by its own choice.
pub(super) struct Chosen;

/// What is known of one connection.
pub(super) struct Life {
    pub(super) conn: ConnId,
    /// What plays its socket; none where it cannot open.
    pub(super) script: Option<Script>,
    pub(super) framing: Framing,
    /// What its peer sends, and how much of that its socket has.
    pub(super) stream: Vec<u8>,
    pub(super) fed: usize,
    pub(super) is_fed_to_end: bool,
    /// The payloads in it, with where their frames end.
    pub(super) payloads: Vec<(Vec<u8>, usize)>,
    /// How many of them were delivered or skipped, and delivered.
    pub(super) told: usize,
    pub(super) delivered: u64,
    /// What was accepted to be sent, as its peer is to see it; and in how many payloads.
    pub(super) accepted: Vec<u8>,
    pub(super) sent: u64,
    pub(super) is_open: bool,
    pub(super) is_paused: bool,
    pub(super) credit: Option<u64>,
    /// The credit began in the callback of a frame, which is not counted.
    pub(super) is_credit_fresh: bool,
    /// `on_drained` is to come, or may.
    pub(super) is_above: bool,
    pub(super) may_drain: bool,
    /// The handler has closed or aborted it.
    pub(super) is_ended: bool,
    pub(super) is_half_closed: bool,
    /// It was made to fail.
    pub(super) has_failed: bool,
    pub(super) was_panic: bool,
    pub(super) has_half_close: bool,
    pub(super) closes: usize,
}

/// Where an operation is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Frame,
    Close,
    Other,
}

pub(super) struct Model {
    pub(super) random: Random,
    pub(super) lives: Vec<Life>,
    pub(super) index: HashMap<ConnId, usize>,
    pub(super) timers: Vec<(TimerId, bool)>,
    /// How many operations may still be asked for.
    pub(super) acts_left: usize,
    pub(super) panics: bool,
    pub(super) has_memory_limit: bool,
    /// Some payloads are long.
    pub(super) has_long: bool,
    /// It is the end: all are to end soon.
    pub(super) is_over: bool,
}

pub(super) type Cx<'a> = Context<'a, Model>;

impl Model {
    pub(super) fn new(random: Random, has_memory_limit: bool, has_long: bool) -> Self {
        let mut random = random;
        let panics = random.one_in(3);
        Self {
            random,
            lives: Vec::new(),
            index: HashMap::new(),
            timers: Vec::new(),
            acts_left: 5000,
            panics,
            has_memory_limit,
            has_long,
            is_over: false,
        }
    }

    pub(super) fn life(&mut self, conn: ConnId) -> &mut Life {
        &mut self.lives[self.index[&conn]]
    }

    /// Whatever a callback may do, a few times, and now and then a panic.
    pub(super) fn act(&mut self, cx: &mut Cx<'_>, own: Option<ConnId>, at: At) {
        for _ in 0..self.random.below(4).min(self.acts_left) {
            self.acts_left -= 1;
            self.act_once(cx, own, at);
        }
        if self.panics && !self.is_over && self.random.one_in(60) {
            if let Some(own) = own {
                let life = self.life(own);
                life.was_panic = true;
                life.is_ended = true;
            }
            resume_unwind(Box::new(Chosen));
        }
    }

    fn act_once(&mut self, cx: &mut Cx<'_>, own: Option<ConnId>, at: At) {
        let any = self.random.below(self.lives.len().max(1));
        let target = match own {
            Some(own) if self.random.one_in(2) => Some(self.index[&own]),
            _ => (!self.lives.is_empty()).then_some(any),
        };
        let Some(target) = target else {
            return;
        };
        let is_own = own == Some(self.lives[target].conn);
        let conn = self.lives[target].conn;
        // In its own on_close it is still there.
        let is_gone = self.lives[target].closes > 0 && !(is_own && at == At::Close);
        match self.random.below(80) {
            0..12 => self.send(cx, target, is_gone),
            12 => {
                cx.close(conn);
                self.lives[target].is_ended = true;
            }
            13 => {
                cx.abort(conn);
                self.lives[target].is_ended = true;
            }
            14 => {
                assert_eq!(cx.half_close(conn).is_err(), is_gone);
                self.lives[target].is_half_closed = true;
            }
            15..18 => {
                assert_eq!(cx.pause(conn).is_err(), is_gone);
                self.lives[target].is_paused = true;
            }
            18..21 => {
                assert_eq!(cx.resume(conn).is_err(), is_gone);
                self.lives[target].is_paused = false;
            }
            21..25 => self.grant(cx, target, is_own && at == At::Frame, is_gone),
            25..27 => {
                let framing = self.lives[target].framing.clone();
                assert_eq!(cx.reframe(conn, framing).is_err(), is_gone);
            }
            27 => self.set_limits(cx, conn, is_gone),
            28 => assert_eq!(cx.record(conn).is_err(), is_gone),
            29 => assert_eq!(cx.stop_recording(conn).is_err(), is_gone),
            30 => match self.random.below(3) {
                0 => cx.record_all(),
                1 => cx.stop_recording_all(),
                _ => drop(cx.take_recording()),
            },
            31 => self.timer(cx),
            32 => {
                let nowhere: &[SocketAddr] = &[];
                let tag = Some(self.lives.len());
                let conn = cx.connect(nowhere, Framing::line(), tag);
                self.born(conn, None, Framing::line());
            }
            33..35 => {
                let session = cx.session(conn);
                match session {
                    Some(session) => assert!(!is_gone && *session == Some(target)),
                    None => assert!(is_gone || is_own || self.lives[target].was_panic),
                }
            }
            35 => self.broadcast(cx),
            36 => {
                let stats = cx.conn_stats(conn);
                assert_eq!(stats.is_err(), is_gone);
                if let Ok(stats) = stats {
                    assert_eq!(stats.frames_out, self.lives[target].sent);
                }
            }
            37 => {
                let queued = cx.queued_bytes(conn);
                assert_eq!(queued.is_err(), is_gone);
                let life = &self.lives[target];
                if let Ok(queued) = queued
                    && !life.is_ended
                    && !life.has_failed
                {
                    let stats = cx.conn_stats(conn).expect("it is there");
                    assert_eq!(
                        queued as u64 + stats.written_bytes,
                        life.accepted.len() as u64
                    );
                }
            }
            38 => cx.stop(),
            39..52 => {}
            _ => self.send(cx, target, is_gone),
        }
    }

    pub(super) fn born(&mut self, conn: ConnId, script: Option<Script>, framing: Framing) {
        let number = self.lives.len();
        assert!(
            self.index.insert(conn, number).is_none(),
            "{conn} is handed out twice"
        );
        self.lives.push(Life::new(conn, script, framing));
    }

    pub(super) fn payload(&mut self) -> Vec<u8> {
        let len = match self.random.below(20) {
            0 if self.has_long && self.random.one_in(8) => PAYLOAD_LEN_MAX + 1,
            1 if self.has_long && self.random.one_in(4) => 16_384 + self.random.below(3000),
            2..6 => self.random.below(1000),
            _ => self.random.below(30),
        };
        let seed = self.random.below(1 << 20);
        let text = (0..len).map(|at| b'a' + u8::try_from((at * 7 + seed) % 26).expect("small"));
        text.collect()
    }

    fn send(&mut self, cx: &mut Cx<'_>, target: usize, is_gone: bool) {
        let payload = self.payload();
        let conn = self.lives[target].conn;
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
        self.sent(cx, target, &payload, sent, is_gone);
    }

    /// What a send was answered, and what follows from it.
    fn sent(
        &mut self,
        cx: &Cx<'_>,
        target: usize,
        payload: &[u8],
        sent: Result<Sent, SendError>,
        is_gone: bool,
    ) {
        let is_limited = self.has_memory_limit;
        let life = &mut self.lives[target];
        match sent {
            Ok(sent) => {
                assert!(!life.is_ended && !life.is_half_closed && !is_gone);
                encode(&life.framing, payload, &mut life.accepted);
                life.sent += 1;
                life.is_above |= matches!(sent, Sent::AboveHigh);
            }
            Err(SendError::Full) => {
                life.is_above |= !is_limited && cx.queued_bytes(life.conn) != Ok(0);
                life.may_drain |= is_limited;
            }
            Err(SendError::Closing) => {
                let may_be = life.is_ended || life.is_half_closed || life.has_failed;
                let is_dead = life.closes > 0 || life.script.is_none();
                assert!(may_be || is_dead || is_limited, "it is open");
            }
            Err(SendError::Gone) => assert!(is_gone),
            Err(SendError::Frame(FrameError::TooLong { .. })) => {
                assert!(payload.len() > PAYLOAD_LEN_MAX);
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// To all, those that are gone too.
    fn broadcast(&mut self, cx: &mut Cx<'_>) {
        if self.has_memory_limit {
            // Nobody could tell who was refused.
            return;
        }
        let payload = [b'b'; 20];
        let conns: Vec<_> = self.lives.iter().map(|life| life.conn).collect();
        let before: Vec<_> = conns.iter().map(|conn| sent_count(cx, *conn)).collect();
        let count = cx.broadcast(conns.iter().copied(), &payload);
        let mut told = 0;
        for (target, conn) in conns.into_iter().enumerate() {
            let life = &mut self.lives[target];
            if sent_count(cx, conn) > before[target] {
                told += 1;
                encode(&life.framing, &payload, &mut life.accepted);
                life.sent += 1;
            }
            // Whether it went above its mark is not told.
            life.may_drain = true;
        }
        assert_eq!(told, count);
    }

    fn grant(&mut self, cx: &mut Cx<'_>, target: usize, is_fresh: bool, is_gone: bool) {
        let frames = match self.random.below(6) {
            0 => u64::MAX,
            1 => 0,
            _ => self.random.below(4) as u64,
        };
        let life = &mut self.lives[target];
        assert_eq!(cx.grant(life.conn, frames).is_err(), is_gone);
        if life.credit.is_none() {
            life.is_credit_fresh = is_fresh;
        }
        let credit = life.credit.unwrap_or(0).saturating_add(frames);
        life.credit = (credit < u64::MAX).then_some(credit);
    }

    fn set_limits(&mut self, cx: &mut Cx<'_>, conn: ConnId, is_gone: bool) {
        let Ok(mut limits) = cx.limits(conn) else {
            assert!(is_gone);
            return;
        };
        limits.write_high_bytes = self.random.of(&[50, 500, PAYLOAD_LEN_MAX]);
        limits.write_low_bytes = limits.write_high_bytes / 3;
        limits.write_queue_bytes_max = 2 * limits.write_high_bytes;
        limits.idle_timeout = Some(HOUR);
        cx.set_limits(conn, limits).expect("they are sound");
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

    /// Before anything that reading brings is told.
    fn check_reading(&self, conn: ConnId, session: Option<usize>) {
        let number = self.index[&conn];
        assert_eq!(session, Some(number), "the session of another");
        let life = &self.lives[number];
        assert!(life.is_open && life.closes == 0, "out of its life");
        assert!(!life.is_ended, "it was closed");
        assert!(!life.is_paused, "it is paused");
        assert!(!life.is_above, "it is above its high mark");
        assert_ne!(life.credit, Some(0), "it has no credit");
        assert!(!life.has_half_close, "its peer has ended");
    }
}

fn sent_count(cx: &Cx<'_>, conn: ConnId) -> u64 {
    cx.conn_stats(conn).map_or(0, |stats| stats.frames_out)
}

pub(super) fn encode(framing: &Framing, payload: &[u8], out: &mut Vec<u8>) {
    let mut buf = Buf::default();
    framing.encode(payload, &mut buf).expect("it was accepted");
    out.extend_from_slice(buf.bytes());
}

impl Handler for Model {
    /// The number of its life.
    type Session = Option<usize>;

    fn on_open(&mut self, cx: &mut Cx<'_>, conn: ConnId, session: &mut Option<usize>, _: Origin) {
        *session = Some(self.index[&conn]);
        let life = self.life(conn);
        assert!(!life.is_open && life.closes == 0);
        life.is_open = true;
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
        let life = self.life(conn);
        assert!(life.payloads[life.told].0 == frame, "out of order");
        life.told += 1;
        self.act(cx, Some(conn), At::Frame);
        let life = self.life(conn);
        life.delivered += 1;
        let is_counted = !std::mem::take(&mut life.is_credit_fresh);
        if let Some(credit) = &mut life.credit
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
        let life = self.life(conn);
        assert_eq!(skipped.len, life.payloads[life.told].0.len() as u64);
        life.told += 1;
        self.act(cx, Some(conn), At::Other);
    }

    fn on_drained(&mut self, cx: &mut Cx<'_>, conn: ConnId, session: &mut Option<usize>) {
        let life = self.life(conn);
        assert!(life.is_open && life.closes == 0, "out of its life");
        assert!(life.is_above || life.may_drain, "nobody waits for it");
        life.is_above = false;
        assert_eq!(*session, Some(self.index[&conn]));
        self.act(cx, Some(conn), At::Other);
    }

    fn on_half_close(&mut self, cx: &mut Cx<'_>, conn: ConnId, session: &mut Option<usize>) {
        self.check_reading(conn, *session);
        let is_over = self.is_over;
        let life = self.life(conn);
        life.has_half_close = true;
        let fed = life.fed;
        let whole = life.payloads.iter().take_while(|(_, end)| *end <= fed);
        assert!(life.told >= whole.count(), "frames are missing");
        if is_over {
            cx.close(conn);
            life.is_ended = true;
        }
        self.act(cx, Some(conn), At::Other);
    }

    fn on_hangup(&mut self, cx: &mut Cx<'_>, conn: ConnId, session: &mut Option<usize>, _: Hangup) {
        let is_limited = self.has_memory_limit;
        let life = self.life(conn);
        let is_stopped = life.is_paused || life.is_above || life.credit == Some(0);
        assert!(is_stopped || life.may_drain || is_limited, "it is read");
        assert!(life.is_open && life.closes == 0 && !life.is_ended);
        assert_eq!(*session, Some(self.index[&conn]));
        self.act(cx, Some(conn), At::Other);
    }

    fn on_close(&mut self, cx: &mut Cx<'_>, conn: ConnId, session: Option<usize>, closed: Closed) {
        let number = self.index[&conn];
        let life = &mut self.lives[number];
        life.closes += 1;
        assert_eq!(life.closes, 1, "{conn} ends twice");
        assert_eq!(session.is_none(), life.was_panic, "{session:?}");
        assert!(session.is_none_or(|session| session == number));
        life.check_end(&closed);
        self.act(cx, Some(conn), At::Close);
    }

    fn on_timer(&mut self, _: &mut Cx<'_>, _: TimerId, _: u64) {
        panic!("an hour has not passed");
    }
}

impl Life {
    fn new(conn: ConnId, script: Option<Script>, framing: Framing) -> Self {
        Self {
            conn,
            script,
            framing,
            stream: Vec::new(),
            fed: 0,
            is_fed_to_end: false,
            payloads: Vec::new(),
            told: 0,
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

    fn check_end(&self, closed: &Closed) {
        let stats = closed.stats;
        assert_eq!(
            stats.written_bytes + closed.unsent_bytes,
            self.accepted.len() as u64,
            "each byte was taken or is counted: {closed:?}"
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
        assert!(
            seen.written == self.accepted[..seen.written.len()],
            "out of order"
        );
        assert_eq!(seen.written.len() as u64, stats.written_bytes);
        if self.was_panic {
            assert!(matches!(closed.reason, CloseReason::HandlerPanicked));
        }
        let is_gentle = matches!(closed.reason, CloseReason::Local | CloseReason::Peer);
        if is_gentle && !self.has_failed {
            assert_eq!(closed.unsent_bytes, 0, "it was closed gently");
            assert!(seen.is_shut_down, "its peer was not told");
        }
        // What comes after a close is not counted, nor what is left of a frame that is skipped.
        let told_len = self
            .told
            .checked_sub(1)
            .map_or(0, |last| self.payloads[last].1);
        let known = told_len as u64 + closed.undecoded_bytes;
        let ends_in_skip = self.told > 0 && self.payloads[self.told - 1].0.len() > PAYLOAD_LEN_MAX;
        if !self.is_ended && !ends_in_skip {
            assert_eq!(stats.read_bytes, known, "{closed:?}");
        }
    }
}
