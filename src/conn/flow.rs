//! Credit: the number of frames that the reactor may still deliver from a connection.

/// The credit of one connection: frames that the handler granted and that are not delivered yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Credit {
    frames: u64,
    /// True if the first grant was made during the delivery of a frame. That frame is not deducted
    /// from the credit. At the end of its delivery, the flag becomes false.
    is_fresh: bool,
}

impl Credit {
    /// Returns a credit of zero frames. `during_frame` is true if a frame is being delivered.
    pub(crate) fn new(during_frame: bool) -> Self {
        Self {
            frames: 0,
            is_fresh: during_frame,
        }
    }

    /// Adds `frames` to the credit. The sum saturates at `u64::MAX`, which means no limit.
    pub(crate) fn grant(&mut self, frames: u64) {
        self.frames = self.frames.saturating_add(frames);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames == 0
    }

    pub(crate) fn is_unlimited(&self) -> bool {
        self.frames == u64::MAX
    }

    /// Deducts a delivered frame, unless the first grant was made during its delivery.
    pub(crate) fn spend(&mut self) {
        if !std::mem::take(&mut self.is_fresh) {
            self.frames = self.frames.saturating_sub(1);
        }
    }

    /// Leaves the credit unchanged after a skipped frame or a peek. Only ends the exception for the
    /// frame during which the first grant was made.
    pub(crate) fn keep(&mut self) {
        self.is_fresh = false;
    }
}
