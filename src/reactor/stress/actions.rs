//! Random operations of the model. Each function runs one operation, and updates the expected
//! state.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::resume_unwind;

use super::HOUR;
use super::model::{At, Cx, DeliberatePanic, Model, PAYLOAD_LEN_MAX, encode};
use crate::codec::Framing;
use crate::error::{FrameError, SendError, Sent};
use crate::id::ConnId;
use crate::payload::Payload;

/// The connection of an operation.
#[derive(Debug, Clone, Copy)]
struct Target {
    /// Index in `Model::conns`.
    index: usize,
    conn: ConnId,
    /// True if the operation runs in a callback of this connection.
    is_own: bool,
    is_closed: bool,
}

impl Model {
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

    /// Runs one random operation.
    fn act_once(&mut self, cx: &mut Cx<'_>, own: Option<ConnId>, at: At) {
        let Some(target) = self.target(own, at) else {
            return;
        };
        let Target {
            conn, is_closed, ..
        } = target;
        match self.random.below(80) {
            0..12 => self.send(cx, target),
            12 => self.close(cx, target),
            13 => self.abort(cx, target),
            14 => self.half_close(cx, target),
            15..18 => self.pause(cx, target),
            18..21 => self.resume(cx, target),
            21..25 => self.grant(cx, target, at),
            25..27 => self.reframe(cx, target),
            27 => self.set_limits(cx, target),
            28 => assert_eq!(cx.record(conn).is_err(), is_closed),
            29 => assert_eq!(cx.stop_recording(conn).is_err(), is_closed),
            30 => self.record_all(cx),
            31 => self.timer(cx),
            32 => self.connect(cx),
            33..35 => self.check_session(cx, target),
            35 => self.broadcast(cx),
            36 => self.check_stats(cx, target),
            37 => self.check_queued_bytes(cx, target),
            38 => cx.stop(),
            39..43 => self.peek(cx, target),
            43 => self.detach(cx, target),
            44..52 => {}
            _ => self.send(cx, target),
        }
    }

    /// Returns the connection of the callback with a probability of one half, otherwise a random
    /// connection. Returns `None` if no connection exists.
    fn target(&mut self, own: Option<ConnId>, at: At) -> Option<Target> {
        let any = self.random.below(self.conns.len().max(1));
        let index = match own {
            Some(own) if self.random.one_in(2) => self.index[&own],
            _ => any,
        };
        let expected = self.conns.get(index)?;
        let is_own = own == Some(expected.conn);
        Some(Target {
            index,
            conn: expected.conn,
            is_own,
            // A connection still exists during its `on_close`.
            is_closed: expected.closes > 0 && !(is_own && at == At::Close),
        })
    }

    fn close(&mut self, cx: &mut Cx<'_>, target: Target) {
        cx.close(target.conn);
        self.conns[target.index].is_ended = true;
    }

    fn abort(&mut self, cx: &mut Cx<'_>, target: Target) {
        cx.abort(target.conn);
        self.conns[target.index].is_ended = true;
    }

    /// Detaches a connection. The model adopts it again in `on_close`, or drops it.
    fn detach(&mut self, cx: &mut Cx<'_>, target: Target) {
        let expected = &mut self.conns[target.index];
        match cx.detach(target.conn) {
            Ok(()) => {
                let has_ended = expected.is_ended || expected.is_half_closed;
                assert!(expected.is_open && !has_ended && !target.is_closed);
                expected.is_ended = true;
                expected.is_detached = true;
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                assert!(
                    !self.transport.is_plain(),
                    "only a filter prevents the detach"
                );
            }
            Err(_) => {}
        }
    }

    fn half_close(&mut self, cx: &mut Cx<'_>, target: Target) {
        assert_eq!(cx.half_close(target.conn).is_err(), target.is_closed);
        self.conns[target.index].is_half_closed = true;
    }

    fn pause(&mut self, cx: &mut Cx<'_>, target: Target) {
        assert_eq!(cx.pause(target.conn).is_err(), target.is_closed);
        self.conns[target.index].is_paused = true;
    }

    fn resume(&mut self, cx: &mut Cx<'_>, target: Target) {
        assert_eq!(cx.resume(target.conn).is_err(), target.is_closed);
        self.conns[target.index].is_paused = false;
    }

    /// Replaces the framing by an equal framing.
    fn reframe(&self, cx: &mut Cx<'_>, target: Target) {
        let framing = self.conns[target.index].framing.clone();
        assert_eq!(cx.reframe(target.conn, framing).is_err(), target.is_closed);
    }

    fn peek(&mut self, cx: &mut Cx<'_>, target: Target) {
        let len_min = self.random.of(&[0, 1, 9, 100]);
        assert_eq!(cx.peek(target.conn, len_min).is_err(), target.is_closed);
    }

    /// Starts or ends the recording of all connections, or takes the recording.
    fn record_all(&mut self, cx: &mut Cx<'_>) {
        match self.random.below(3) {
            0 => cx.record_all(),
            1 => cx.stop_recording_all(),
            _ => drop(cx.take_recording()),
        }
    }

    /// Connects to an empty address list, which fails.
    fn connect(&mut self, cx: &mut Cx<'_>) {
        let no_addrs: &[SocketAddr] = &[];
        let session = Some(self.conns.len());
        let conn = cx.connect(no_addrs, Framing::line(), session);
        self.add(conn, None, Framing::line());
    }

    fn check_session(&self, cx: &mut Cx<'_>, target: Target) {
        let was_panic = self.conns[target.index].was_panic;
        match cx.session(target.conn) {
            Some(session) => assert!(!target.is_closed && *session == Some(target.index)),
            None => assert!(target.is_closed || target.is_own || was_panic),
        }
    }

    fn check_stats(&self, cx: &Cx<'_>, target: Target) {
        let stats = cx.conn_stats(target.conn);
        assert_eq!(stats.is_err(), target.is_closed);
        if let Ok(stats) = stats {
            let expected = &self.conns[target.index];
            assert_eq!(
                expected.earlier.frames_out + stats.frames_out,
                expected.sent
            );
        }
    }

    fn check_queued_bytes(&self, cx: &Cx<'_>, target: Target) {
        let queued = cx.queued_bytes(target.conn);
        assert_eq!(queued.is_err(), target.is_closed);
        let expected = &self.conns[target.index];
        if let Ok(queued) = queued
            && !expected.is_ended
            && !expected.has_failed
        {
            let stats = cx.conn_stats(target.conn);
            let written = stats.expect("the connection exists").written_bytes;
            let written = expected.earlier.written_bytes + written;
            assert_eq!(queued as u64 + written, expected.accepted.len() as u64);
        }
    }

    /// Sends a random payload with one of four methods.
    fn send(&mut self, cx: &mut Cx<'_>, target: Target) {
        let payload = self.payload();
        let conn = target.conn;
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
        self.sent(cx, target, &payload, sent);
    }

    /// Updates the model with the result of a send.
    fn sent(&mut self, cx: &Cx<'_>, target: Target, payload: &[u8], sent: Result<Sent, SendError>) {
        let is_limited = self.has_memory_limit;
        let is_closed = target.is_closed;
        let expected = &mut self.conns[target.index];
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
                assert!(
                    may_be || is_dead || is_limited,
                    "`send` returned `Closing` for an open connection"
                );
            }
            Err(SendError::Gone) => assert!(is_closed),
            Err(SendError::Frame(FrameError::TooLong { .. })) => {
                assert!(payload.len() > PAYLOAD_LEN_MAX);
            }
            Err(error) => panic!("unexpected send error: {error}"),
        }
    }

    /// Sends to all connections, including closed ones.
    fn broadcast(&mut self, cx: &mut Cx<'_>) {
        if self.has_memory_limit {
            // A connection that rejects the payload for lack of memory gets `on_drained` later. The
            // result does not show which connections reject it.
            return;
        }
        let payload = [b'b'; 20];
        let conns: Vec<_> = self.conns.iter().map(|expected| expected.conn).collect();
        let before: Vec<_> = conns.iter().map(|conn| sent_count(cx, *conn)).collect();
        let count = cx.broadcast(conns.iter().copied(), &payload);
        let mut accepted = 0;
        for (index, conn) in conns.into_iter().enumerate() {
            let expected = &mut self.conns[index];
            if sent_count(cx, conn) > before[index] {
                accepted += 1;
                encode(&expected.framing, &payload, &mut expected.accepted);
                expected.sent += 1;
            }
            // The result does not show if the connection is above its high watermark.
            expected.may_drain = true;
        }
        assert_eq!(accepted, count);
    }

    fn grant(&mut self, cx: &mut Cx<'_>, target: Target, at: At) {
        let frames = match self.random.below(6) {
            0 => u64::MAX,
            1 => 0,
            _ => self.random.below(4) as u64,
        };
        let expected = &mut self.conns[target.index];
        assert_eq!(cx.grant(target.conn, frames).is_err(), target.is_closed);
        if expected.credit.is_none() {
            expected.is_credit_fresh = target.is_own && at == At::Frame;
        }
        let credit = expected.credit.unwrap_or(0).saturating_add(frames);
        expected.credit = (credit < u64::MAX).then_some(credit);
    }

    fn set_limits(&mut self, cx: &mut Cx<'_>, target: Target) {
        let Ok(mut limits) = cx.limits(target.conn) else {
            assert!(target.is_closed);
            return;
        };
        limits.write_high_bytes = self.random.of(&[50, 500, PAYLOAD_LEN_MAX]);
        // The low watermark must not exceed `memory_bytes_max`, so it is never raised.
        limits.write_low_bytes = limits.write_low_bytes.min(limits.write_high_bytes / 3);
        limits.write_queue_bytes_max = 2 * limits.write_high_bytes;
        limits.idle_timeout = Some(HOUR);
        cx.set_limits(target.conn, limits)
            .expect("the limits are valid");
    }

    /// Sets, resets or cancels a timer.
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
}

fn sent_count(cx: &Cx<'_>, conn: ConnId) -> u64 {
    cx.conn_stats(conn).map_or(0, |stats| stats.frames_out)
}
