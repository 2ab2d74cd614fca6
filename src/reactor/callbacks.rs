//! Calls of the handler. No other file calls `Handler::on_*`.
//!
//! A callback about a connection borrows its session, may be timed, and may panic. For the active
//! connection, [`ActiveCallbacks`] handles the session and the timing, and its caller handles the
//! panic. For every other connection, [`Callbacks::with_session`] handles all three, except for
//! `on_close`, which takes the session: see [`Callbacks::closed`].

use std::io;
use std::time::Instant;

use crate::addr::Addr;
use crate::codec::Skipped;
use crate::context::{Context, Sessions};
use crate::datagram::Datagram;
#[cfg(unix)]
use crate::datagram::UnixDatagram;
use crate::engine::Engine;
use crate::error::{FrameError, SendError};
use crate::event::{Closed, Hangup, Origin, Refusal};
use crate::guard::ScopeGuard;
use crate::handler::Handler;
#[cfg(unix)]
use crate::id::UnixDatagramId;
use crate::id::{ConnId, ListenerId, SocketId, Token, UdpId};
use crate::remote::Closures;
use crate::shutdown::ShutdownPhase;
#[cfg(feature = "signals")]
use crate::signal::Signal;
use crate::timer::TimerId;

/// The handler, and the parts of the reactor that its [`Context`] borrows.
pub(super) struct Callbacks<'a, H: Handler> {
    pub(super) handler: &'a mut H,
    pub(super) cx: Context<'a, H>,
}

impl<'a, H: Handler> Callbacks<'a, H> {
    pub(super) fn new(
        handler: &'a mut H,
        engine: &'a mut Engine,
        sessions: &'a mut Sessions<H::Session>,
    ) -> Self {
        let cx = Context { engine, sessions };
        Self { handler, cx }
    }
}

/// The start time of a callback; `None` if callbacks are not timed, so that the clock is not read.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Started(Option<Instant>);

impl Started {
    /// Returns the current time, if callbacks are timed.
    pub(super) fn now(engine: &Engine) -> Self {
        Self(engine.config.slow_callback_min.map(|_| engine.os.now()))
    }

    /// Reports the duration of a callback that has returned.
    pub(super) fn report(self, engine: &mut Engine, name: &'static str, socket: Option<SocketId>) {
        if let Some(started) = self.0 {
            let took = engine.os.now().saturating_duration_since(started);
            engine.callback_returned(name, socket, took);
        }
    }
}

/// The callbacks of the active connection. The session is moved out of the sessions once per
/// dispatch.
pub(super) struct ActiveCallbacks<'a, H: Handler> {
    handler: &'a mut H,
    pub(super) cx: Context<'a, H>,
    pub(super) token: Token,
    session: H::Session,
    /// The start of the decoding, or the end of the last callback.
    pub(super) started: Started,
}

impl<'a, H: Handler> ActiveCallbacks<'a, H> {
    /// Moves the session of the connection out of the sessions, for all callbacks of the dispatch.
    pub(super) fn begin(callbacks: Callbacks<'a, H>, token: Token) -> Self {
        let Callbacks { handler, cx } = callbacks;
        let session = cx.sessions.take(token.key());
        Self {
            handler,
            cx,
            token,
            session,
            started: Started::default(),
        }
    }

    /// Puts the session back at the end of the dispatch.
    pub(super) fn end(self) {
        self.cx.sessions.put(self.token.key(), self.session);
    }

    /// Reports the time since the last callback, or since the decoding began.
    pub(super) fn report(&mut self, name: &'static str) {
        let socket = Some(ConnId(self.token).into());
        self.started.report(self.cx.engine, name, socket);
    }

    pub(super) fn frame(&mut self, frame: &[u8]) {
        let conn = ConnId(self.token);
        self.handler
            .on_frame(&mut self.cx, conn, &mut self.session, frame);
    }

    pub(super) fn skipped(&mut self, skipped: Skipped) {
        let conn = ConnId(self.token);
        self.handler
            .on_skipped(&mut self.cx, conn, &mut self.session, skipped);
    }

    pub(super) fn drained(&mut self) {
        let (conn, started) = (ConnId(self.token), Started::now(self.cx.engine));
        self.handler
            .on_drained(&mut self.cx, conn, &mut self.session);
        started.report(self.cx.engine, "on_drained", Some(conn.into()));
    }

    pub(super) fn frame_error(&mut self, error: &FrameError) {
        let (conn, started) = (ConnId(self.token), Started::now(self.cx.engine));
        self.handler
            .on_frame_error(&mut self.cx, conn, &mut self.session, error);
        started.report(self.cx.engine, "on_frame_error", Some(conn.into()));
    }

    pub(super) fn peeked(&mut self, bytes: &[u8]) {
        let (conn, started) = (ConnId(self.token), Started::now(self.cx.engine));
        self.handler
            .on_peek(&mut self.cx, conn, &mut self.session, bytes);
        started.report(self.cx.engine, "on_peek", Some(conn.into()));
    }

    pub(super) fn half_closed(&mut self) {
        let (conn, started) = (ConnId(self.token), Started::now(self.cx.engine));
        self.handler
            .on_half_close(&mut self.cx, conn, &mut self.session);
        started.report(self.cx.engine, "on_half_close", Some(conn.into()));
    }
}

/// Callbacks about a connection that is not active.
impl<H: Handler> Callbacks<'_, H> {
    /// Calls a callback with the session of a connection. If the callback panics, the connection
    /// ends with `HandlerPanicked`.
    fn with_session(
        self,
        token: Token,
        name: &'static str,
        callback: impl FnOnce(&mut H, &mut Context<'_, H>, ConnId, &mut H::Session),
    ) {
        let mut session = self.cx.sessions.take(token.key());
        let mut cx = ScopeGuard::new(self.cx, |cx| cx.engine.handler_panicked(token));
        let (conn, started) = (ConnId(token), Started::now(cx.engine));
        callback(self.handler, &mut cx, conn, &mut session);
        started.report(cx.engine, name, Some(conn.into()));
        cx.sessions.put(token.key(), session);
        cx.disarm();
    }

    pub(super) fn opened(self, token: Token, origin: Origin) {
        self.with_session(token, "on_open", |handler, cx, conn, session| {
            handler.on_open(cx, conn, session, origin);
        });
    }

    pub(super) fn drained(self, token: Token) {
        self.with_session(token, "on_drained", H::on_drained);
    }

    pub(super) fn hung_up(self, token: Token, hangup: Hangup) {
        self.with_session(token, "on_hangup", |handler, cx, conn, session| {
            handler.on_hangup(cx, conn, session, hangup);
        });
    }

    /// Calls `on_close`, which takes the session. The key is freed even if the callback panics.
    pub(super) fn closed(self, token: Token, closed: Closed) {
        let session = self.cx.sessions.take(token.key());
        let mut cx = ScopeGuard::new(self.cx, |cx| cx.engine.free(token));
        let (conn, started) = (ConnId(token), Started::now(cx.engine));
        self.handler.on_close(&mut cx, conn, session, closed);
        started.report(cx.engine, "on_close", Some(conn.into()));
        cx.disarm();
    }
}

/// Callbacks without a session.
impl<H: Handler> Callbacks<'_, H> {
    fn call(
        mut self,
        name: &'static str,
        socket: Option<SocketId>,
        callback: impl FnOnce(&mut H, &mut Context<'_, H>),
    ) {
        let started = Started::now(self.cx.engine);
        callback(self.handler, &mut self.cx);
        started.report(self.cx.engine, name, socket);
    }

    pub(super) fn refused(self, listener: ListenerId, peer: &Addr, refusal: Refusal) {
        self.call("on_refused", Some(listener.into()), |handler, cx| {
            handler.on_refused(cx, listener, peer, refusal);
        });
    }

    pub(super) fn datagram(self, id: UdpId, datagram: Datagram<'_>) {
        self.call("on_datagram", Some(id.into()), |handler, cx| {
            handler.on_datagram(cx, id, datagram);
        });
    }

    pub(super) fn datagram_error(self, id: UdpId, error: io::Error) {
        self.call("on_datagram_error", Some(id.into()), |handler, cx| {
            handler.on_datagram_error(cx, id, error);
        });
    }

    #[cfg(unix)]
    pub(super) fn unix_datagram_error(self, id: UnixDatagramId, error: io::Error) {
        self.call("on_unix_datagram_error", Some(id.into()), |handler, cx| {
            handler.on_unix_datagram_error(cx, id, error);
        });
    }

    #[cfg(unix)]
    pub(super) fn unix_datagram(self, id: UnixDatagramId, datagram: UnixDatagram<'_>) {
        self.call("on_unix_datagram", Some(id.into()), |handler, cx| {
            handler.on_unix_datagram(cx, id, datagram);
        });
    }

    #[cfg(unix)]
    pub(super) fn unix_writable(self, id: UnixDatagramId) {
        self.call("on_unix_writable", Some(id.into()), |handler, cx| {
            handler.on_unix_writable(cx, id);
        });
    }

    pub(super) fn timer(self, timer: TimerId, key: u64) {
        self.call("on_timer", None, |handler, cx| {
            handler.on_timer(cx, timer, key);
        });
    }

    /// Calls `on_shutdown`. If the phase is the last one, then closes everything, also after a
    /// panic of the callback.
    pub(super) fn shutdown(self, phase: ShutdownPhase) {
        // The guard is never disarmed, so it runs after a panic and after a return.
        let mut cx = ScopeGuard::new(self.cx, |cx| cx.engine.phase_reported(phase));
        let started = Started::now(cx.engine);
        self.handler.on_shutdown(&mut cx, phase);
        started.report(cx.engine, "on_shutdown", None);
    }

    #[cfg(feature = "signals")]
    pub(super) fn signal(self, signal: Signal) {
        self.call("on_signal", None, |handler, cx| {
            handler.on_signal(cx, signal);
        });
    }

    pub(super) fn send_refused(self, conn: ConnId, payload: Vec<u8>, error: SendError) {
        self.call("on_send_refused", None, |handler, cx| {
            handler.on_send_refused(cx, conn, payload, error);
        });
    }

    /// Runs the next posted closure. Returns false if no closure is left.
    pub(super) fn posted(mut self, closures: &mut dyn Closures<H>) -> bool {
        let started = Started::now(self.cx.engine);
        let has_run = closures.run_next(self.handler, &mut self.cx);
        if has_run {
            started.report(self.cx.engine, "a posted closure", None);
        }
        has_run
    }
}
