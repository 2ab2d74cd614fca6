//! Phase 4 of a turn: the dispatch of one ready entry.
//!
//! ```text
//!   dispatch -> dispatch_input -> read -> Assembler -> Frames::frame -> on_frame
//!                                  ^ bytes                                | send
//!                                  |                                      v
//!                             transport::fill          batch -> transport::drain, once, at the end
//! ```

use super::callbacks::{ActiveCallbacks, Started};
use super::{Callbacks, Reactor};
use crate::codec::{FrameBounds, Kind, Skipped};
use crate::conn::{
    Assembler, DecodeInput, Delivery, Failed, Flow, FrameSink, Pool, State, Watermark,
};
use crate::engine::{Accepted, Engine, Entry, Filled, Opening};
use crate::event::CloseReason;
use crate::guard::ScopeGuard;
use crate::handler::Handler;
#[cfg(unix)]
use crate::id::UnixDatagramId;
use crate::id::{ListenerId, SocketId, Token, UdpId};
use crate::memory::ReadBuffer;
use crate::timer::Stamp;

impl<H: Handler> Reactor<H> {
    /// Dispatches one ready entry.
    pub(super) fn dispatch(&mut self, token: Token) {
        #[cfg(not(unstick_general_path))]
        if self.dispatch_plain::<false>(token) {
            return;
        }
        self.dispatch_any(token);
    }

    #[inline(never)]
    fn dispatch_any(&mut self, token: Token) {
        #[cfg(all(not(unstick_general_path), any(test, feature = "tls")))]
        if self.dispatch_plain::<true>(token) {
            return;
        }
        match self.engine.take_ready(token) {
            Some(Entry::Conn(conn)) => {
                let is_open = !conn.has_output_work() || self.dispatch_output(token);
                if is_open {
                    self.dispatch_input(token);
                }
            }
            Some(Entry::Listener(_)) => {
                self.queue_on_panic(ListenerId(token), Self::dispatch_listener);
            }
            Some(Entry::Udp(_)) => self.queue_on_panic(UdpId(token), Self::dispatch_udp),
            #[cfg(unix)]
            Some(Entry::UnixDatagram(_)) => {
                self.queue_on_panic(UnixDatagramId(token), Self::dispatch_unix_datagram);
            }
            None => {}
        }
    }

    /// Continues the connect or the preparation, and flushes the write queue. Returns false if the
    /// connection is not open yet or was refused, so that it must not be read.
    fn dispatch_output(&mut self, token: Token) -> bool {
        let conn = self.engine.conn(token);
        if conn.is_ok_and(|conn| conn.state.is_opening()) {
            match self.engine.continue_opening(token, &mut self.read_buffer) {
                Opening::Waits => return false,
                Opening::Opened(origin) => self.callbacks().opened(token, origin),
                Opening::Refused(listener, client, refusal) => {
                    drop(self.sessions.take(token.key()));
                    self.callbacks().refused(listener, &client, refusal);
                    return false;
                }
                Opening::Continued => {}
            }
        }
        let watermark = self.engine.flush(token);
        self.notify_watermark(token, watermark);
        true
    }

    /// Delivers undelivered bytes of earlier reads, then reads more.
    fn dispatch_input(&mut self, token: Token) {
        let Some(assembler) = self.engine.begin_dispatch(token) else {
            return;
        };
        let callbacks = Callbacks::new(&mut self.handler, &mut self.engine, &mut self.sessions);
        let mut frames = Frames::new(callbacks, token, 0);
        let (assembler, budget) = frames.run(assembler, &mut self.read_buffer, Delivery::NeedMore);
        frames.callbacks.end();
        self.end_dispatch(token, assembler, budget);
    }

    /// Ends a dispatch: writes the batch, continues a close, and reports a hang-up.
    fn end_dispatch(&mut self, token: Token, assembler: Assembler, budget: Budget) {
        if budget == Budget::Spent {
            self.engine.queue(token);
        }
        let (watermark, has_epilogue) = self.engine.end_dispatch(token, assembler);
        self.notify_watermark(token, watermark);
        if has_epilogue {
            self.dispatch_hangup(token);
        }
    }

    /// Reports a peer that hung up while the connection is not read. Without a read, only an event
    /// of the poll shows the hang-up.
    fn dispatch_hangup(&mut self, token: Token) {
        let watermark = self.engine.check_reset(token);
        self.notify_watermark(token, watermark);
        if let Some(hangup) = self.engine.take_hangup(token) {
            self.callbacks().hung_up(token, hangup);
        }
    }

    /// Accepts connections until none waits or the budget is spent.
    pub(super) fn dispatch_listener(&mut self, id: ListenerId) {
        for _ in 0..self.engine.config.accept_budget {
            match self.engine.accept(id) {
                Accepted::Conn(conn) => {
                    self.sessions.put(conn.0.key(), H::Session::default());
                    let origin = self.engine.origin_of(id);
                    self.callbacks().opened(conn.0, origin);
                }
                Accepted::Preparing(conn) => {
                    self.sessions.put(conn.0.key(), H::Session::default());
                }
                Accepted::Refused(peer, refusal) => self.callbacks().refused(id, &peer, refusal),
                Accepted::Failed => {}
                Accepted::Nothing => return self.engine.close_if_draining(id),
            }
        }
        self.engine.queue(id.0);
    }

    /// Calls `dispatch` for a listener or a datagram socket, which stays open after a panic of its
    /// callbacks. After a panic, the entry is queued again, because no event reports its remaining
    /// work.
    pub(super) fn queue_on_panic<I>(&mut self, id: I, dispatch: fn(&mut Self, I))
    where
        I: Copy + Into<SocketId>,
    {
        let mut guard = ScopeGuard::new(self, |reactor| reactor.engine.queue(id.into().token()));
        dispatch(&mut guard, id);
        guard.disarm();
    }

    /// Dispatches a plain connection on the fast path. The fast path is enough if one read returns
    /// all input and no callback changes the state of the connection. Otherwise the general path
    /// continues. Returns false if the general path must dispatch the entry from the start.
    /// `FILTERED` is true for connections with a filter.
    #[cfg(not(unstick_general_path))]
    #[inline]
    fn dispatch_plain<const FILTERED: bool>(&mut self, token: Token) -> bool {
        let Self {
            engine,
            handler,
            sessions,
            read_buffer,
            ..
        } = self;
        let Some((mut assembler, bytes)) =
            engine.begin_plain::<FILTERED>(token, read_buffer.bytes_mut())
        else {
            return false;
        };
        let callbacks = Callbacks::new(handler, engine, sessions);
        let mut frames = Frames::new(callbacks, token, bytes.len());
        let delivery = frames.guarded(&mut assembler, |frames, assembler| {
            let only_frame = match assembler.is_empty() {
                true => frames.engine().only_frame(bytes),
                false => None,
            };
            match only_frame {
                Some(payload) => frames.frame(payload).into(),
                None => assembler.ingest(bytes, frames),
            }
        });
        read_buffer.record(frames.read_len);
        if matches!(delivery, Delivery::NeedMore) {
            match frames.engine().end_plain::<FILTERED>(token, assembler) {
                Ok(()) => {
                    frames.callbacks.end();
                    return true;
                }
                Err(unfinished) => assembler = unfinished,
            }
        }
        let (assembler, budget) = frames.run(assembler, read_buffer, delivery);
        frames.callbacks.end();
        self.end_dispatch(token, assembler, budget);
        true
    }
}

/// The budget at the end of a dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Budget {
    /// The dispatch ended for another reason than its budget.
    Left,
    /// The budget ended the dispatch, so the entry must be queued again.
    Spent,
}

/// The receiver of the frames of the active connection.
struct Frames<'a, H: Handler> {
    callbacks: ActiveCallbacks<'a, H>,
    /// Number of bytes that this dispatch has read.
    read_len: usize,
}

impl<'a, H: Handler> Frames<'a, H> {
    #[inline]
    fn new(callbacks: Callbacks<'a, H>, token: Token, read_len: usize) -> Self {
        Self {
            callbacks: ActiveCallbacks::begin(callbacks, token),
            read_len,
        }
    }

    #[inline]
    fn engine(&mut self) -> &mut Engine {
        self.callbacks.cx.engine
    }

    /// Runs the general path of a dispatch. `delivery` is the result of the read on the fast path;
    /// `NeedMore` if there was none. Returns the read side, and the budget at the end.
    #[inline(never)]
    fn run(
        &mut self,
        mut assembler: Assembler,
        read_buffer: &mut ReadBuffer,
        delivery: Delivery,
    ) -> (Assembler, Budget) {
        let budget = self.guarded(&mut assembler, |frames, assembler| {
            let mut input = Input {
                assembler,
                read_buffer,
            };
            let state = input.handle(delivery, frames);
            input.run(state, frames)
        });
        (assembler, budget)
    }

    /// Runs code that calls the handler. If the handler panics, the connection ends with
    /// `HandlerPanicked`.
    #[inline]
    fn guarded<R>(
        &mut self,
        assembler: &mut Assembler,
        run: impl FnOnce(&mut Self, &mut Assembler) -> R,
    ) -> R {
        let mut guard = ScopeGuard::new((self, assembler), |(frames, assembler)| {
            let token = frames.callbacks.token;
            assembler.clear(&mut frames.engine().memory.pool);
            frames.engine().handler_panicked(token);
        });
        let (frames, assembler) = &mut *guard;
        let result = run(frames, assembler);
        guard.disarm();
        result
    }

    /// Starts the timing of the next callback. The measured time includes the decoding before the
    /// callback.
    fn start_timing(&mut self) {
        self.callbacks.started = Started::now(self.callbacks.cx.engine);
    }

    /// Returns true if the budget of frames or of bytes is spent.
    fn is_budget_spent(&self) -> bool {
        self.callbacks.cx.engine.active.frames_left == 0 || self.bytes_left() == 0
    }

    /// Returns the number of bytes that may still be read in this turn.
    fn bytes_left(&self) -> usize {
        let budget = self.callbacks.cx.engine.config.read_budget_bytes;
        budget.saturating_sub(self.read_len)
    }

    /// Decides after a callback if decoding continues. If the batch is above the high watermark,
    /// which would stop the decoding, it is written first.
    #[inline(never)]
    fn after_callback(&mut self, name: &'static str, spend: fn(&mut Engine, Token)) -> Flow {
        let token = self.callbacks.token;
        self.callbacks.report(name);
        let engine = self.engine();
        if engine.active_state().is_above_high() && engine.write_batch(token) == Watermark::Drained
        {
            self.callbacks.drained();
        }
        self.start_timing();
        spend(self.engine(), token);
        // The byte budget is not checked: it limits the reads, not the delivery of their bytes.
        let has_budget = self.engine().active.frames_left > 0;
        if has_budget && self.engine().active_state().wants_frames() {
            Flow::Continue(())
        } else {
            Flow::Break(())
        }
    }
}

impl<H: Handler> FrameSink for Frames<'_, H> {
    fn kind(&self) -> &Kind {
        self.callbacks.cx.engine.active.kind()
    }

    #[inline]
    fn frame(&mut self, frame: &[u8]) -> Flow {
        self.callbacks.frame(frame);
        let engine = self.engine();
        engine.active.frames_left -= 1;
        if engine.active.frames_left > 0 && engine.entries.is_watching() {
            Flow::Continue(())
        } else {
            self.after_callback("on_frame", Engine::spend_credit)
        }
    }

    fn recorded(&mut self, bounds: FrameBounds) {
        let token = self.callbacks.token;
        self.engine().record_frame(token, bounds);
    }

    fn skipped(&mut self, skipped: Skipped) -> Flow {
        let token = self.callbacks.token;
        self.engine().frame_skipped(token, skipped);
        self.callbacks.skipped(skipped);
        self.after_callback("on_skipped", Engine::keep_credit)
    }

    fn filler(&mut self, bytes: u64) {
        self.engine().count_filler(bytes);
    }

    fn split(&mut self, bytes: &[u8]) {
        self.engine().frame_split(bytes);
    }

    fn buffer_is_oversized(&mut self) {
        let token = self.callbacks.token;
        self.engine().mark_oversized(token);
    }

    fn now(&self) -> Stamp {
        self.callbacks.cx.engine.timers.stamp
    }

    fn pool(&mut self) -> &mut Pool {
        &mut self.callbacks.cx.engine.memory.pool
    }
}

/// The input of the active connection: its read side and the read buffer.
struct Input<'a> {
    assembler: &'a mut Assembler,
    read_buffer: &'a mut ReadBuffer,
}

impl Input<'_> {
    /// Reads and delivers while the connection accepts input and the budget lasts.
    fn run<H: Handler>(&mut self, mut state: State, frames: &mut Frames<'_, H>) -> Budget {
        let token = frames.callbacks.token;
        loop {
            if state.is_reframed() {
                frames.engine().decode_with_new_framing(token);
                // A callback replaced the framing of the active connection. The callbacks of a
                // dispatch run between two frames, so no skip needs the former framing. The
                // exception is `on_peek`, which `peek` handles.
                self.assembler.reframe_between_frames();
                state = frames.engine().active_state();
                continue;
            }
            if state.is_closing() {
                return self.discard(frames);
            }
            let is_peek_due = frames.engine().is_peek_due(token, self.assembler.len());
            let has_undelivered = !state.is_peeking() && self.assembler.has_undelivered();
            let has_work = is_peek_due || has_undelivered || state.has_input();
            if !has_work || !state.wants_input() {
                return Budget::Left;
            }
            if frames.is_budget_spent() {
                return Budget::Spent;
            }
            let delivery = if is_peek_due {
                self.peek(frames)
            } else if has_undelivered {
                frames.start_timing();
                deliver(self.assembler, DecodeInput::Undelivered, state, frames)
            } else if state.is_readable() {
                self.read(state, frames)
            } else if state.is_end_delivered() {
                return Budget::Left;
            } else {
                self.end(state, frames)
            };
            state = self.handle(delivery, frames);
        }
    }

    /// Handles the result of a delivery. Returns the state that the connection then has.
    fn handle<H: Handler>(&mut self, delivery: Delivery, frames: &mut Frames<'_, H>) -> State {
        let token = frames.callbacks.token;
        if let Delivery::Failed(failed) = delivery {
            let Failed { error, undecoded } = *failed;
            frames.engine().frame_failed(token, &error, undecoded);
            frames.callbacks.frame_error(&error);
            // `frame_failed` recorded the reason of the close, which `Local` does not replace.
            frames.engine().close(token, CloseReason::Local);
            self.discard_held(frames, undecoded.saturating_sub(self.assembler.len()));
        }
        frames.engine().active_state()
    }

    /// Passes the undecoded bytes to the handler.
    fn peek<H: Handler>(&mut self, frames: &mut Frames<'_, H>) -> Delivery {
        let token = frames.callbacks.token;
        let engine = frames.engine();
        engine.begin_peek(token);
        let former = engine.active.framing().clone();
        let bytes = self.assembler.held_bytes(&mut engine.memory.pool);
        frames.callbacks.peeked(bytes);
        let engine = frames.engine();
        engine.keep_credit(token);
        if engine.active_state().is_reframed() {
            // The peek may be in the middle of a frame that is being skipped.
            self.assembler.reframe(&former);
            engine.decode_with_new_framing(token);
        }
        Delivery::NeedMore
    }

    /// Reads once, and delivers the frames of the bytes. If a long frame is incomplete, its next
    /// bytes are read into its own buffer.
    fn read<H: Handler>(&mut self, state: State, frames: &mut Frames<'_, H>) -> Delivery {
        let token = frames.callbacks.token;
        let bytes_left = frames.bytes_left();
        let engine = frames.engine();
        if engine.memory.is_used_up() {
            engine.pause_for_memory(token);
            return Delivery::NeedMore;
        }
        // A filter needs space for a whole record, so the read may exceed the byte budget by one
        // record.
        let direct_len_min = match state.is_filtered() {
            true => engine.direct_len_min(token),
            false => 0,
        };
        let len_max = engine.config.read_len_max.min(bytes_left);
        let len_max = len_max.max(direct_len_min);
        let pool = &mut engine.memory.pool;
        let direct = self.assembler.direct(len_max, pool);
        let (spare, is_direct) = match direct.filter(|spare| spare.len() >= direct_len_min) {
            Some(spare) => (spare, true),
            None => {
                let len_max = len_max.min(self.read_buffer.len());
                (&mut self.read_buffer.bytes_mut()[..len_max], false)
            }
        };
        let len = match engine.read(token, spare) {
            Filled::Bytes(len) => len,
            Filled::End => return Delivery::NeedMore,
            Filled::Consumed(len) => {
                frames.read_len += len.min(bytes_left);
                return Delivery::NeedMore;
            }
            Filled::WouldBlock => {
                engine.end_after_failed_write(token);
                return Delivery::NeedMore;
            }
            Filled::Failed(error) => {
                engine.read_failed(token, error);
                return Delivery::NeedMore;
            }
        };
        frames.read_len += len;
        if state.is_recorded() {
            frames.engine().record_read(token, len);
        }
        frames.start_timing();
        if is_direct {
            if state.is_recorded() || state.is_peeking() {
                self.assembler.direct_advance(len);
                return Delivery::NeedMore;
            }
            return self.assembler.ingest_direct(len, frames);
        }
        let bytes = &self.read_buffer.bytes_mut()[..len];
        let delivery = if state.is_peeking() {
            self.assembler.hold(bytes, frames.now(), frames.pool());
            Delivery::NeedMore
        } else {
            deliver(self.assembler, DecodeInput::Bytes(bytes), state, frames)
        };
        self.read_buffer.record(len);
        delivery
    }

    /// Handles the end of the stream: the codec decodes the remaining bytes, then the handler is
    /// notified.
    fn end<H: Handler>(&mut self, state: State, frames: &mut Frames<'_, H>) -> Delivery {
        let token = frames.callbacks.token;
        let undelivered_len = self.assembler.len();
        if undelivered_len > 0 {
            frames.start_timing();
            match deliver(self.assembler, DecodeInput::EndOfStream, state, frames) {
                Delivery::NeedMore => self.discard_held(frames, 0),
                delivery => return delivery,
            }
        }
        frames.engine().end_delivered(token);
        if frames.engine().failed_to_write(token) {
            frames.engine().end(token, CloseReason::Peer);
        } else {
            frames.callbacks.half_closed();
        }
        Delivery::NeedMore
    }

    /// Discards the input of a closing connection, because unread input would make the kernel send
    /// a reset.
    fn discard<H: Handler>(&mut self, frames: &mut Frames<'_, H>) -> Budget {
        let token = frames.callbacks.token;
        self.discard_held(frames, 0);
        loop {
            let state = frames.engine().active_state();
            if !state.is_readable() || state.is_dead() {
                return Budget::Left;
            }
            let bytes_left = frames.bytes_left();
            if bytes_left == 0 {
                return Budget::Spent;
            }
            let len_max = self.read_buffer.len().min(bytes_left);
            let spare = &mut self.read_buffer.bytes_mut()[..len_max];
            match frames.engine().read(token, spare) {
                Filled::Bytes(len) => {
                    frames.engine().record_read(token, len);
                    frames.read_len += len;
                }
                Filled::Consumed(len) => frames.read_len += len.min(bytes_left),
                Filled::End | Filled::WouldBlock => {}
                Filled::Failed(error) => frames.engine().read_failed(token, error),
            }
        }
    }

    /// Discards the undelivered bytes, and counts them together with `more` bytes that were
    /// discarded before.
    fn discard_held<H: Handler>(&mut self, frames: &mut Frames<'_, H>, more: usize) {
        let token = frames.callbacks.token;
        let undecoded = self.assembler.clear(&mut frames.engine().memory.pool) + more;
        frames.engine().count_undecoded(token, undecoded);
    }
}

/// Decodes bytes and delivers their frames. If the connection is recorded, each frame is recorded
/// before its delivery.
fn deliver<H: Handler>(
    assembler: &mut Assembler,
    input: DecodeInput<'_>,
    state: State,
    frames: &mut Frames<'_, H>,
) -> Delivery {
    if state.is_recorded() {
        let token = frames.callbacks.token;
        let conn = frames.engine().conn(token);
        let read_bytes = conn.map_or(0, |conn| conn.counts.read_bytes);
        return assembler.record(input, read_bytes, frames);
    }
    match input {
        DecodeInput::Bytes(bytes) => assembler.ingest(bytes, frames),
        DecodeInput::Undelivered => assembler.resume(frames),
        DecodeInput::EndOfStream => assembler.finish(frames),
    }
}
