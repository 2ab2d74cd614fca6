//! Sessions: the application's state of each connection.

use super::Context;
use crate::guard::ScopeGuard;
use crate::handler::Handler;
use crate::id::ConnId;

/// Sessions by slab key. A slot is `None` while a callback uses its session, and if the key has no
/// session.
pub(crate) struct Sessions<S> {
    slots: Vec<Option<S>>,
}

impl<S: Default> Sessions<S> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new() }
    }

    pub(crate) fn put(&mut self, key: u32, session: S) {
        match self.slots.get_mut(key as usize) {
            Some(slot) => *slot = Some(session),
            None => self.put_beyond(key, session),
        }
    }

    /// Moves a session out for a callback. Returns the default value if the slot is `None`, for
    /// example because a panic lost the session.
    pub(crate) fn take(&mut self, key: u32) -> S {
        let slot = self.slots.get_mut(key as usize);
        slot.and_then(Option::take).unwrap_or_default()
    }

    pub(crate) fn at(&mut self, key: u32) -> Option<&mut S> {
        self.slots.get_mut(key as usize)?.as_mut()
    }

    #[cold]
    fn put_beyond(&mut self, key: u32, session: S) {
        self.slots.resize_with(key as usize, || None);
        self.slots.push(Some(session));
    }
}

/// Sessions of connections.
impl<H: Handler> Context<'_, H> {
    /// Returns the session of another connection.
    ///
    /// Returns `None` if the connection is closed. Also returns `None` for the connection whose
    /// callback is running, because the callback has that session as an argument. While the session
    /// is borrowed, the context cannot be used; [`with_session`](Context::with_session) provides
    /// both.
    pub fn session(&mut self, conn: ConnId) -> Option<&mut H::Session> {
        self.engine.conn(conn.0).ok()?;
        self.sessions.at(conn.0.key())
    }

    /// Calls `f` with this context and the session of another connection, and returns the result of
    /// `f`.
    ///
    /// Use it in timers, in posted closures and in callbacks about other connections. Returns
    /// `None` without calling `f` if [`session`](Context::session) would return `None`. While `f`
    /// runs, [`session`](Context::session) returns `None` for this connection.
    ///
    /// # Examples
    ///
    /// One timer per connection. The key of the timer is the id of the connection:
    ///
    /// ```
    /// use std::time::Duration;
    /// use unstick::{ConnId, Context, Handler, Origin, TimerId};
    ///
    /// struct Heart;
    ///
    /// impl Heart {
    ///     fn beat(cx: &mut Context<'_, Self>, conn: ConnId, beats: &mut u64) {
    ///         *beats += 1;
    ///         let _ = cx.send(conn, beats.to_string().as_bytes());
    ///         cx.set_timer(Duration::from_secs(1), conn.to_bits());
    ///     }
    /// }
    ///
    /// impl Handler for Heart {
    ///     type Session = u64;
    ///
    ///     fn on_open(&mut self, cx: &mut Context<'_, Self>, id: ConnId, n: &mut u64, _: Origin) {
    ///         Self::beat(cx, id, n);
    ///     }
    ///
    ///     fn on_timer(&mut self, cx: &mut Context<'_, Self>, _: TimerId, key: u64) {
    ///         if let Some(conn) = ConnId::from_bits(key) {
    ///             cx.with_session(conn, |cx, beats| Self::beat(cx, conn, beats));
    ///         }
    ///     }
    ///
    /// }
    /// ```
    pub fn with_session<R>(
        &mut self,
        conn: ConnId,
        f: impl FnOnce(&mut Self, &mut H::Session) -> R,
    ) -> Option<R> {
        self.session(conn)?;
        let key = conn.0.key();
        // The guard puts the session back, also if `f` panics.
        let session = Some(self.sessions.take(key));
        let mut lent = ScopeGuard::new((self, session), |(cx, session)| {
            if let Some(session) = session.take() {
                cx.sessions.put(key, session);
            }
        });
        let (cx, session) = &mut *lent;
        session.as_mut().map(|session| f(cx, session))
    }
}
