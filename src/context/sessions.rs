//! Sessions: the state that the application keeps for each connection.

use super::Context;
use crate::handler::Handler;
use crate::id::ConnId;

/// A session stands here except while a callback has it.
pub(crate) struct Sessions<S> {
    slots: Vec<Option<S>>,
}

impl<S> Sessions<S> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new() }
    }

    #[inline]
    pub(crate) fn put(&mut self, key: u32, session: S) {
        match self.slots.get_mut(key as usize) {
            Some(slot) => *slot = Some(session),
            None => self.put_beyond(key, session),
        }
    }

    /// Takes a session out for a callback; the default for a key that has none yet.
    #[inline]
    pub(crate) fn take(&mut self, key: u32) -> S
    where
        S: Default,
    {
        self.slots
            .get_mut(key as usize)
            .and_then(Option::take)
            .unwrap_or_default()
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

impl<H: Handler> Context<'_, H> {
    /// Another connection's session; `None` for a stale id, and for the connection whose callback
    /// this is: that has its session as an argument. Where more is to be done than to look at it,
    /// [`with_session`](Context::with_session) leaves the context free.
    pub fn session(&mut self, conn: ConnId) -> Option<&mut H::Session> {
        self.engine.conn(conn.0).ok()?;
        self.sessions.at(conn.0.key())
    }

    /// Runs `f` with another connection's session, as the callbacks about that connection are run:
    /// for timers, posted closures and other connections' frames. `None` where
    /// [`session`](Context::session) is `None`; nothing is run then. While it runs the session is
    /// lent, and [`session`](Context::session) answers `None` for it.
    ///
    /// # Examples
    ///
    /// A timer of each connection: the key of the timer is the connection's id.
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
    ///     fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut u64, _: &[u8]) {}
    /// }
    /// ```
    pub fn with_session<R>(
        &mut self,
        conn: ConnId,
        f: impl FnOnce(&mut Self, &mut H::Session) -> R,
    ) -> Option<R> {
        self.session(conn)?;
        let key = conn.0.key();
        let session = Some(self.sessions.take(key));
        let mut lent = Lent {
            cx: self,
            key,
            session,
        };
        let Lent { cx, session, .. } = &mut lent;
        session.as_mut().map(|session| f(cx, session))
    }
}

/// A session that is lent out. It goes back when this is dropped: also where the borrower panics.
struct Lent<'l, 'a, H: Handler> {
    cx: &'l mut Context<'a, H>,
    key: u32,
    session: Option<H::Session>,
}

impl<H: Handler> Drop for Lent<'_, '_, H> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.cx.sessions.put(self.key, session);
        }
    }
}
