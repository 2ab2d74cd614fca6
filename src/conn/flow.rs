//! Credit: the number of frames that a connection may still be delivered.

/// The frames that the handler granted and that are not delivered yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Credit {
    frames: u64,
    /// The first grant was made while a frame was being delivered; that frame costs nothing.
    is_fresh: bool,
}

impl Credit {
    /// Credit of no frames. `during_frame` is true if a frame is being delivered.
    pub(crate) fn new(during_frame: bool) -> Self {
        Self {
            frames: 0,
            is_fresh: during_frame,
        }
    }

    /// Adds a grant; grants saturate at `u64::MAX`, which ends the rule.
    pub(crate) fn grant(&mut self, frames: u64) {
        self.frames = self.frames.saturating_add(frames);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames == 0
    }

    pub(crate) fn is_unlimited(&self) -> bool {
        self.frames == u64::MAX
    }

    /// Pays for a delivered frame.
    pub(crate) fn spend(&mut self) {
        if !std::mem::take(&mut self.is_fresh) {
            self.frames = self.frames.saturating_sub(1);
        }
    }

    /// Ends the exception for the frame during which the first grant was made. A skipped frame costs
    /// nothing.
    pub(crate) fn spend_nothing(&mut self) {
        self.is_fresh = false;
    }
}
