//! Serving one ready entry: the part of the loop that is generic over the handler.

use std::mem;

use super::Reactor;
use super::clock::Since;
use crate::codec::{Kind, Skipped};
use crate::conn::{Assembler, Delivery, Failed, Flow, FrameSink, Pool, Round, State};
use crate::context::Context;
use crate::context::Sessions;
use crate::engine::{Accepted, Drained, Engine, Entry, Fill, FirstRead};
use crate::event::CloseReason;
use crate::event::Origin;
use crate::handler::Handler;
#[cfg(unix)]
use crate::id::UnixDatagramId;
use crate::id::{ConnId, ListenerId, Token, UdpId};
use crate::memory::ReadBuffer;
use crate::timer::Stamp;

impl<H: Handler> Reactor<H> {
    /// The rarer half of an event: a connect came to its end, or a queue can be flushed on. Answers
    /// whether the connection is open: while it is not, there is nothing to read.
    #[cold]
    pub(super) fn serve_output(&mut self, token: Token) -> bool {
        if self
            .engine
            .conn(token)
            .is_ok_and(|conn| conn.flags.intersects(State::CONNECTING))
        {
            let Some(origin) = self.engine.finish_connect(token) else {
                return false;
            };
            self.call(token, "on_open", |handler, cx, conn, session| {
                handler.on_open(cx, conn, session, origin);
            });
        }
        let drained = self.engine.flush(token);
        self.tell_drained(token, drained);
        true
    }

    /// Serves what is no plain connection that has given bytes.
    #[inline(never)]
    pub(super) fn serve_other(&mut self, token: Token) {
        match self.engine.look_at_ready(token) {
            Some(Entry::Conn(conn)) => {
                let has_output = conn.write_queue.is_some();
                if !(has_output || conn.flags.intersects(State::CONNECTING))
                    || self.serve_output(token)
                {
                    self.serve_input(token);
                }
            }
            Some(Entry::Listener(_)) => {
                self.or_queue(token, |reactor| {
                    reactor.serve_listener(ListenerId(token));
                });
            }
            Some(Entry::Udp(_)) => self.or_queue(token, |reactor| reactor.serve_udp(UdpId(token))),
            #[cfg(unix)]
            Some(Entry::UnixDatagram(_)) => {
                self.or_queue(token, |reactor| {
                    reactor.serve_unix_datagram(UnixDatagramId(token));
                });
            }
            None => {}
        }
    }

    /// Phase 4, for one entry. Mostly it is a plain connection, a first read gives all that is
    /// there, and no callback changes anything about it.
    #[inline]
    pub(super) fn serve(&mut self, token: Token) {
        let Self {
            engine,
            handler,
            sessions,
            read_buffer,
            ..
        } = self;
        let Some(first) = engine.begin_plain(token, read_buffer.bytes_mut()) else {
            return self.serve_other(token);
        };
        let FirstRead {
            mut assembler,
            bytes,
        } = first;
        let mut dispatch = Dispatch::begin(engine, handler, sessions, token, bytes.len());
        let serving = Serving {
            dispatch: &mut dispatch,
            assembler: &mut assembler,
        };
        let outcome = serving.assembler.ingest(bytes, serving.dispatch);
        read_buffer.note(serving.dispatch.read_len);
        let engine = &mut *serving.dispatch.cx.engine;
        if matches!(outcome, Delivery::NeedMore) && engine.end_plain(token, serving.assembler) {
            // What it had is in the entry again.
            mem::forget(serving);
            mem::forget(assembler);
            return dispatch.end();
        }
        let input = Input {
            assembler: serving.assembler,
            read_buffer,
        };
        let cut_short = input.go_on(outcome, serving.dispatch);
        mem::forget(serving);
        dispatch.end();
        self.end_dispatch(token, assembler, cut_short);
    }

    /// Delivers what is left over from before, and reads on.
    fn serve_input(&mut self, token: Token) {
        let Self {
            engine,
            handler,
            sessions,
            read_buffer,
            ..
        } = self;
        let Some((mut assembler, flags)) = engine.begin_serving(token) else {
            return;
        };
        let mut dispatch = Dispatch::begin(engine, handler, sessions, token, 0);
        let serving = Serving {
            dispatch: &mut dispatch,
            assembler: &mut assembler,
        };
        let input = Input {
            assembler: serving.assembler,
            read_buffer,
        };
        let cut_short = input.serve(flags, serving.dispatch);
        mem::forget(serving);
        dispatch.end();
        self.end_dispatch(token, assembler, cut_short);
    }

    /// Ends a dispatch, which a budget may have cut short: writes what was sent meanwhile.
    fn end_dispatch(&mut self, token: Token, assembler: Assembler, cut_short: bool) {
        if cut_short {
            self.engine.queue(token);
        }
        let (drained, has_epilogue) = self.engine.end_serving(token, assembler);
        self.tell_drained(token, drained);
        if has_epilogue {
            self.serve_hangup(token);
        }
    }

    /// Where nobody reads a connection, only its events tell that the peer is gone.
    #[cold]
    fn serve_hangup(&mut self, token: Token) {
        let drained = self.engine.note_reset(token);
        self.tell_drained(token, drained);
        if let Some(hangup) = self.engine.hangup(token) {
            self.call(token, "on_hangup", |handler, cx, conn, session| {
                handler.on_hangup(cx, conn, session, hangup);
            });
        }
    }

    pub(super) fn serve_listener(&mut self, id: ListenerId) {
        for _ in 0..self.engine.config.accept_budget {
            match self.engine.accept(id) {
                Accepted::Conn(conn) => {
                    self.sessions.put(conn.0.key(), H::Session::default());
                    self.call(conn.0, "on_open", |handler, cx, conn, session| {
                        handler.on_open(cx, conn, session, Origin::Accepted(id));
                    });
                }
                Accepted::Refused(peer, refusal) => {
                    let Self {
                        engine,
                        handler,
                        sessions,
                        ..
                    } = self;
                    let since = Since::now(engine);
                    handler.on_refused(&mut Context { engine, sessions }, id, &peer, refusal);
                    since.end(engine, "on_refused", Some(id.into()));
                }
                Accepted::Again => {}
                Accepted::Nothing => return,
            }
        }
        self.engine.queue(id.0);
    }
}

/// A connection whose read side is out of its entry. Forgotten when it is active; where a callback
/// panics, it is dropped by unwinding, and leaves the engine as the end of the dispatch would.
struct Serving<'a, 'b, H: Handler> {
    dispatch: &'a mut Dispatch<'b, H>,
    assembler: &'a mut Assembler,
}

impl<H: Handler> Drop for Serving<'_, '_, H> {
    fn drop(&mut self) {
        let engine = &mut *self.dispatch.cx.engine;
        self.assembler.clear(&mut engine.pool);
        engine.handler_panicked(self.dispatch.token);
    }
}

/// What a dispatch of one connection works with.
struct Dispatch<'a, H: Handler> {
    handler: &'a mut H,
    cx: Context<'a, H>,
    token: Token,
    session: H::Session,
    /// How many bytes were read.
    read_len: usize,
    /// Since when frames are decoded, or the last one was delivered.
    since: Since,
}

impl<'a, H: Handler> Dispatch<'a, H> {
    #[inline]
    fn begin(
        engine: &'a mut Engine,
        handler: &'a mut H,
        sessions: &'a mut Sessions<H::Session>,
        token: Token,
        read_len: usize,
    ) -> Self {
        let session = sessions.take(token.key());
        Self {
            handler,
            cx: Context { engine, sessions },
            token,
            session,
            read_len,
            since: Since::never(),
        }
    }

    /// Puts the session back.
    #[inline]
    fn end(self) {
        self.cx.sessions.put(self.token.key(), self.session);
    }

    /// Whether the budget of this turn is spent.
    #[inline]
    fn is_spent(&self) -> bool {
        self.cx.engine.active.frames_left == 0 || self.bytes_left() == 0
    }

    /// How many bytes may still be read in this turn.
    fn bytes_left(&self) -> usize {
        self.cx.engine.config.read_budget_bytes - self.read_len
    }

    /// How the connection stands after a callback that may have changed it, or behind a frame that
    /// is counted. Where decoding is stopped for a long output, which is not written yet, that is
    /// written now, and decoding may go on.
    #[cold]
    #[inline(never)]
    fn look_again(&mut self, name: &'static str, spend: fn(&mut Engine, Token)) -> Flow {
        let of = Some(ConnId(self.token).into());
        let engine = &mut *self.cx.engine;
        self.since.end(engine, name, of);
        if engine.look_at_served().intersects(State::ABOVE_HIGH)
            && engine.write_out(self.token) == Drained(true)
        {
            let conn = ConnId(self.token);
            let since = Since::now(engine);
            self.handler
                .on_drained(&mut self.cx, conn, &mut self.session);
            since.end(self.cx.engine, "on_drained", of);
        }
        self.since = Since::now(self.cx.engine);
        spend(self.cx.engine, self.token);
        let flags = self.cx.engine.look_at_served();
        if flags.wants_frames() && !self.is_spent() {
            Flow::Continue
        } else {
            Flow::Stop
        }
    }
}

impl<H: Handler> FrameSink for Dispatch<'_, H> {
    #[inline]
    fn kind(&self) -> &Kind {
        self.cx.engine.active.kind()
    }

    #[inline]
    fn u32_len_end(&self) -> usize {
        self.cx.engine.active.u32_len_end
    }

    #[inline]
    fn frame(&mut self, frame: &[u8]) -> Flow {
        self.handler
            .on_frame(&mut self.cx, ConnId(self.token), &mut self.session, frame);
        let engine = &mut *self.cx.engine;
        engine.active.frames_left -= 1;
        if engine.active.frames_left > 0 && engine.is_served_unchanged() {
            Flow::Continue
        } else {
            self.look_again("on_frame", Engine::spend_credit)
        }
    }

    #[cold]
    fn skipped(&mut self, skipped: Skipped) -> Flow {
        self.cx.engine.active.skip_one();
        self.cx.engine.note_skipped(self.token, skipped);
        self.handler
            .on_skipped(&mut self.cx, ConnId(self.token), &mut self.session, skipped);
        self.look_again("on_skipped", Engine::spend_nothing)
    }

    #[cold]
    fn split(&mut self, head: &[u8]) {
        let Engine { stats, active, .. } = &mut *self.cx.engine;
        stats.frames_split += 1;
        stats.headers_split += u64::from(active.kind().is_header_cut(head));
    }

    #[cold]
    fn buffer_is_oversized(&mut self) {
        self.cx.engine.mark_oversized(self.token);
    }

    fn now(&self) -> Stamp {
        self.cx.engine.stamp
    }

    fn pool(&mut self) -> &mut Pool {
        &mut self.cx.engine.pool
    }
}

/// The read side of the connection that is active: out of its entry, so that callbacks may reach
/// the entry while its bytes are borrowed.
struct Input<'a> {
    assembler: &'a mut Assembler,
    read_buffer: &'a mut ReadBuffer,
}

impl Input<'_> {
    /// Goes on after a first round of decoding that has ended so; answers as
    /// [`serve`](Input::serve) does.
    #[inline(never)]
    fn go_on<H: Handler>(mut self, outcome: Delivery, dispatch: &mut Dispatch<'_, H>) -> bool {
        let flags = self.halted(outcome, dispatch);
        self.serve(flags, dispatch)
    }

    /// Delivers what is there, as long as the connection wants input and the budget lasts. Answers
    /// whether the budget cut it short.
    fn serve<H: Handler>(mut self, mut flags: State, dispatch: &mut Dispatch<'_, H>) -> bool {
        loop {
            if flags.intersects(State::REFRAMED) {
                self.reframe(dispatch);
                flags = dispatch.cx.engine.look_at_served();
                continue;
            }
            if flags.intersects(State::CLOSING) {
                return self.discard(dispatch);
            }
            let has_undelivered = self.assembler.has_undelivered();
            if !(has_undelivered || flags.intersects(State::READABLE | State::PEER_ENDED))
                || !flags.wants_frames()
            {
                return false;
            }
            if dispatch.is_spent() {
                return true;
            }
            let outcome = if has_undelivered {
                dispatch.since = Since::now(dispatch.cx.engine);
                match flags.intersects(State::RECORDED) {
                    true => observe(self.assembler, Round::Rest, dispatch),
                    false => self.assembler.resume(dispatch),
                }
            } else if flags.intersects(State::READABLE) {
                self.read(flags, dispatch)
            } else if flags.intersects(State::END_TOLD) {
                return false;
            } else {
                self.end(flags, dispatch)
            };
            flags = self.halted(outcome, dispatch);
        }
    }

    /// A round of decoding has ended so. Answers how the connection stands.
    fn halted<H: Handler>(&mut self, outcome: Delivery, dispatch: &mut Dispatch<'_, H>) -> State {
        let engine = &mut *dispatch.cx.engine;
        if let Delivery::Failed(failed) = outcome {
            let Failed { error, undecoded } = *failed;
            engine.close_for_frame(dispatch.token, error, undecoded);
            self.give_up(dispatch, undecoded.saturating_sub(self.assembler.len()));
        }
        dispatch.cx.engine.look_at_served()
    }

    /// One read, and what its bytes decode to.
    fn read<H: Handler>(&mut self, flags: State, dispatch: &mut Dispatch<'_, H>) -> Delivery {
        let bytes_left = dispatch.bytes_left();
        let engine = &mut *dispatch.cx.engine;
        if engine.is_memory_full() {
            engine.pause_for_memory(dispatch.token);
            return Delivery::NeedMore;
        }
        let len_max = engine.config.read_len_max.min(bytes_left);
        let direct = self.assembler.direct(len_max, &mut engine.pool);
        let is_direct = direct.is_some();
        let buf = match direct {
            Some(buf) => buf,
            None => {
                let len_max = len_max.min(self.read_buffer.len());
                &mut self.read_buffer.bytes_mut()[..len_max]
            }
        };
        match engine.fill(dispatch.token, buf) {
            Fill::Bytes(len) => {
                dispatch.read_len += len;
                if is_direct && flags.intersects(State::RECORDED) {
                    engine.record_read(dispatch.token, len);
                    self.assembler.direct_advance(len);
                    return Delivery::NeedMore;
                }
                dispatch.since = Since::now(engine);
                if is_direct {
                    return self.assembler.ingest_direct(len, dispatch);
                }
                let bytes = &self.read_buffer.bytes_mut()[..len];
                let outcome = if flags.intersects(State::RECORDED) {
                    dispatch.cx.engine.record_read(dispatch.token, len);
                    observe(self.assembler, Round::Bytes(bytes), dispatch)
                } else {
                    self.assembler.ingest(bytes, dispatch)
                };
                self.read_buffer.note(len);
                return outcome;
            }
            Fill::Ended => {}
            Fill::WouldBlock => {
                // What the kernel held is delivered. A peer that is silent might never end.
                let conn = engine.conn(dispatch.token);
                if conn.is_ok_and(|conn| conn.flags.intersects(State::WRITE_FAILED)) {
                    engine.kill(dispatch.token, CloseReason::Local);
                }
            }
            Fill::Failed(error) => engine.kill(dispatch.token, CloseReason::Io(error)),
        }
        Delivery::NeedMore
    }

    /// The stream has ended: the codec sees what is left, then the handler is told.
    #[cold]
    fn end<H: Handler>(&mut self, flags: State, dispatch: &mut Dispatch<'_, H>) -> Delivery {
        if self.assembler.len() > 0 {
            dispatch.since = Since::now(dispatch.cx.engine);
            let outcome = match flags.intersects(State::RECORDED) {
                true => observe(self.assembler, Round::End, dispatch),
                false => self.assembler.finish(dispatch),
            };
            match outcome {
                Delivery::NeedMore => self.give_up(dispatch, 0),
                outcome => return outcome,
            }
        }
        let engine = &mut *dispatch.cx.engine;
        let Ok(conn) = engine.conn_mut(dispatch.token) else {
            return Delivery::Stopped;
        };
        if !conn.flags.wants_frames() {
            // A frame that never came whole was skipped, and the handler has stopped there.
            return Delivery::Stopped;
        }
        conn.flags.insert(State::END_TOLD);
        if conn.flags.intersects(State::WRITE_FAILED) {
            engine.kill(dispatch.token, CloseReason::Peer);
        } else {
            let conn = ConnId(dispatch.token);
            let since = Since::now(engine);
            dispatch
                .handler
                .on_half_close(&mut dispatch.cx, conn, &mut dispatch.session);
            since.end(dispatch.cx.engine, "on_half_close", Some(conn.into()));
        }
        Delivery::NeedMore
    }

    /// The connection was closed: what is read and what is still to be read is dropped, so that
    /// nothing unread makes the kernel send a reset.
    #[cold]
    fn discard<H: Handler>(&mut self, dispatch: &mut Dispatch<'_, H>) -> bool {
        self.give_up(dispatch, 0);
        loop {
            let flags = dispatch.cx.engine.look_at_served();
            if !flags.intersects(State::READABLE) || flags.intersects(State::DEAD) {
                return false;
            }
            let bytes_left = dispatch.bytes_left();
            if bytes_left == 0 {
                return true;
            }
            let engine = &mut *dispatch.cx.engine;
            let len_max = self.read_buffer.len().min(bytes_left);
            let room = &mut self.read_buffer.bytes_mut()[..len_max];
            match engine.fill(dispatch.token, room) {
                Fill::Bytes(len) => {
                    engine.record_read(dispatch.token, len);
                    dispatch.read_len += len;
                }
                Fill::Ended | Fill::WouldBlock => {}
                Fill::Failed(error) => engine.kill(dispatch.token, CloseReason::Io(error)),
            }
        }
    }

    /// Drops undelivered bytes and counts them, with `more` that are held no longer.
    fn give_up<H: Handler>(&mut self, dispatch: &mut Dispatch<'_, H>, more: usize) {
        let engine = &mut *dispatch.cx.engine;
        let undecoded = self.assembler.clear(&mut engine.pool) + more;
        if undecoded > 0
            && let Ok(conn) = engine.conn_mut(dispatch.token)
        {
            conn.extras().undecoded_bytes += undecoded as u64;
        }
    }

    /// The handler exchanged the framing: the bytes that are left belong to the new one.
    #[cold]
    fn reframe<H: Handler>(&mut self, dispatch: &mut Dispatch<'_, H>) {
        if let Ok(conn) = dispatch.cx.engine.conn_mut(dispatch.token) {
            conn.flags.remove(State::REFRAMED);
        }
        self.assembler.reframe();
    }
}

/// Decodes for a connection that is observed: each frame is recorded before it is delivered.
#[cold]
#[inline(never)]
fn observe<H: Handler>(
    assembler: &mut Assembler,
    round: Round<'_>,
    dispatch: &mut Dispatch<'_, H>,
) -> Delivery {
    let conn = dispatch.cx.engine.conn(dispatch.token);
    let read_bytes = conn.map_or(0, |conn| conn.stats.read_bytes);
    assembler.record(round, read_bytes, dispatch, |dispatch, place| {
        dispatch.cx.engine.record_frame(dispatch.token, place);
    })
}
