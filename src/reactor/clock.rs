//! How long callbacks take, where that is measured.

use std::time::Instant;

use crate::engine::Engine;
use crate::id::SocketId;

/// Since when a callback runs; nothing where nobody asked for it, and then no clock is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Since(Option<Instant>);

impl Since {
    /// For a time in which none runs.
    pub(super) fn never() -> Self {
        Self(None)
    }

    #[inline]
    pub(super) fn now(engine: &Engine) -> Self {
        Self(engine.config.slow_callback_min.map(|_| engine.os.now()))
    }

    /// The callback has returned.
    #[inline]
    pub(super) fn end(self, engine: &mut Engine, name: &'static str, of: Option<SocketId>) {
        if let Some(since) = self.0 {
            let took = engine.os.now().saturating_duration_since(since);
            engine.note_callback(name, of, took);
        }
    }
}
