//! The state machine of one connection, as bytes and flags: no sockets, no clock, no callbacks.
//!
//! [`Assembler`] turns bytes into frames, [`WriteQueue`] holds output that the kernel has not
//! taken, and [`State`] is the phase of the connection:
//!
//! ```text
//!   connecting --> open --> closing --> lingering --> dead --> reaped
//!                    |      (flush)     (FIN sent,     ^
//!                    |                   input is      |
//!                    |                   discarded)    |
//!                    +---- abort, reset, deadline -----+
//! ```
//!
//! Datagrams need none of this: see [`datagram`](crate::datagram).

mod assembler;
mod deframe;
mod partial;
mod record;
mod sink;
mod write_queue;

use crate::memory::BufferPool;

pub(crate) use assembler::Assembler;
pub(crate) use record::{FrameBounds, Round};
pub(crate) use sink::{Delivery, Failed, Flow, FrameSink};
pub(crate) use write_queue::{SLICES_MAX, WriteQueue};

/// The pool of the buffers of all connections, and of the boxes of their partial frames.
pub(crate) type Pool = BufferPool<partial::Partial>;

/// What is known of a connection, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct State(u32);

impl State {
    /// A read may give something. Set by events; cleared by `WouldBlock` or a short read.
    pub(crate) const READABLE: Self = Self(1);
    /// An event told of an end or an error, which gives no further edge, or of urgent data, at
    /// which a read stops short: a short read no longer means that the socket is drained.
    pub(crate) const END_HINT: Self = Self(1 << 1);
    /// A write may be taken. Set by events, and at first; cleared by `WouldBlock`. This bit and
    /// that of `READABLE` are where epoll has them, so that they cost nothing to take over.
    pub(crate) const WRITABLE: Self = Self(1 << 2);
    /// It stands in the ready queue.
    pub(crate) const QUEUED: Self = Self(1 << 3);
    /// It stands in the list of connections to flush at the end of the turn.
    pub(crate) const TO_FLUSH: Self = Self(1 << 4);
    /// The connect is under way; nothing else has happened yet.
    pub(crate) const CONNECTING: Self = Self(1 << 5);
    /// The peer ended its side: a read gave zero.
    pub(crate) const PEER_ENDED: Self = Self(1 << 6);
    /// The handler paused reading.
    pub(crate) const PAUSED: Self = Self(1 << 7);
    /// The write queue went above its high mark and has not come down to the low one since.
    pub(crate) const ABOVE_HIGH: Self = Self(1 << 8);
    /// It was closed; queued output is flushed, input is discarded.
    pub(crate) const CLOSING: Self = Self(1 << 9);
    /// The FIN is sent.
    pub(crate) const FIN_SENT: Self = Self(1 << 10);
    /// A write failed: no output any more, but input is delivered up to its end.
    pub(crate) const WRITE_FAILED: Self = Self(1 << 11);
    /// The framing was exchanged: the decoding under way must start anew with it.
    pub(crate) const REFRAMED: Self = Self(1 << 12);
    /// It waits to be reaped.
    pub(crate) const DEAD: Self = Self(1 << 13);
    /// The handler was told that the peer ended its side.
    pub(crate) const END_TOLD: Self = Self(1 << 14);

    /// This side was ended by the handler: queued output is flushed, then the FIN is sent; input is
    /// delivered as before.
    pub(crate) const ENDING: Self = Self(1 << 15);
    /// The handler grants its frames by number.
    pub(crate) const BY_CREDIT: Self = Self(1 << 16);
    /// All frames that the handler granted were delivered.
    pub(crate) const NO_CREDIT: Self = Self(1 << 17);
    /// An event told that the peer has ended or reset the connection, or a write failed. Reading
    /// finds that out for itself; this is for the time when nobody reads.
    pub(crate) const HUNG_UP: Self = Self(1 << 18);
    /// The handler was told that the peer ended its side while nobody read it.
    pub(crate) const HANGUP_TOLD: Self = Self(1 << 19);
    /// It is not read, as memory is short; it stands in the list of those that wait for some.
    pub(crate) const PAUSED_FOR_MEMORY: Self = Self(1 << 20);
    /// Output was refused as memory is short; it stands in the same list.
    pub(crate) const AWAITS_ROOM: Self = Self(1 << 21);
    /// What happens to it is recorded, for a cut map.
    pub(crate) const RECORDED: Self = Self(1 << 31);
    /// It counts among the connections of its address.
    pub(crate) const ADDR_COUNTED: Self = Self(1 << 22);
    /// It has limits of its own: what it is sent is queued, and held to them there.
    pub(crate) const OWN_LIMITS: Self = Self(1 << 23);
    /// The time that its callbacks take is measured.
    pub(crate) const TIMED: Self = Self(1 << 24);
    /// Its tail is far larger than what it holds, until the next trim.
    pub(crate) const OVERSIZED: Self = Self(1 << 25);
    pub(crate) const STOPPED_FOR_MEMORY: Self =
        Self(Self::PAUSED_FOR_MEMORY.0 | Self::AWAITS_ROOM.0);

    /// No further frame is delivered while one of these is set. The pauses are bits of their own,
    /// so that none undoes another.
    pub(crate) const STOPS_DECODING: Self = Self(
        Self::PAUSED.0
            | Self::ABOVE_HIGH.0
            | Self::CLOSING.0
            | Self::DEAD.0
            | Self::REFRAMED.0
            | Self::NO_CREDIT.0,
    );
    /// `send` is refused while one of these is set.
    pub(crate) const STOPS_SENDING: Self =
        Self(Self::CLOSING.0 | Self::ENDING.0 | Self::DEAD.0 | Self::WRITE_FAILED.0);
    /// Each frame is followed, and each `send` begun, by a look at the entry.
    pub(crate) const NOT_PLAIN: Self = Self(Self::LOOKS_AGAIN.0 | Self::RECORDED.0);
    /// Each frame is followed by a look at the entry.
    pub(crate) const LOOKS_AGAIN: Self = Self(
        Self::STOPS_SENDING.0
            | Self::STOPS_DECODING.0
            | Self::BY_CREDIT.0
            | Self::OWN_LIMITS.0
            | Self::TIMED.0,
    );
    /// A dispatch has more to do once its output is written while one of these is set.
    pub(crate) const AFTER_WRITE: Self = Self(Self::ABOVE_HIGH.0 | Self::RECORDED.0);

    /// A dispatch that has decoded all bytes of its first read has more to do than to write its
    /// output while one of these is set. Most that a frame's callback may set stop the decoding
    /// first; behind a frame that is skipped nothing is left to be stopped. `HUNG_UP` and
    /// `WRITE_FAILED` come with `END_HINT`, which leaves `READABLE` set; and behind the peer's end
    /// a read gives no bytes.
    pub(crate) const GOES_ON: Self = Self(
        Self::READABLE.0
            | Self::REFRAMED.0
            | Self::ENDS_OUTPUT.0
            | Self::AFTER_WRITE.0
            | Self::DEAD.0,
    );

    /// These flags and others.
    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These flags, or none.
    #[inline]
    pub(crate) fn given(self, is_so: bool) -> Self {
        Self(self.0 * u32::from(is_so))
    }

    #[inline]
    pub(crate) fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[inline]
    pub(crate) fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    #[inline]
    pub(crate) fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// Sets or clears, and tells whether that changed anything.
    pub(crate) fn set(&mut self, other: Self, on: bool) -> bool {
        let before = *self;
        if on {
            self.insert(other)
        } else {
            self.remove(other)
        }
        *self != before
    }

    /// There is more to do when a dispatch is over.
    pub(crate) const HAS_EPILOGUE: Self = Self(Self::ENDS_OUTPUT.0 | Self::HUNG_UP.0);

    /// This side ends, or has ended, by the handler's wish.
    pub(crate) const ENDS_OUTPUT: Self = Self(Self::CLOSING.0 | Self::ENDING.0);

    /// Whether frames may be delivered, and so whether there is a reason to read.
    #[inline]
    pub(crate) fn wants_frames(self) -> bool {
        !self.intersects(Self::STOPS_DECODING)
    }

    /// Whether events have told that the peer is gone, and no reading will find out how.
    pub(crate) fn is_hung_up_unread(self) -> bool {
        const OTHERWISE: State = State(State::CONNECTING.0 | State::CLOSING.0 | State::DEAD.0);
        self.intersects(Self::HUNG_UP) && !self.is_read() && !self.intersects(OTHERWISE)
    }

    /// Whether the socket is read when it is readable.
    pub(crate) fn is_read(self) -> bool {
        self.wants_frames() && !self.intersects(Self::PAUSED_FOR_MEMORY)
    }

    /// What a connection whose output was ended does next, given whether all of it was taken.
    pub(crate) fn next_closing_step(self, output_is_empty: bool) -> ClosingStep {
        if !self.intersects(Self::ENDS_OUTPUT) || self.intersects(Self::DEAD) || !output_is_empty {
            return ClosingStep::Wait;
        }
        if !self.intersects(Self::FIN_SENT) {
            return ClosingStep::SendFin;
        }
        // The peer's end counts when its frames are delivered, or nobody wants them.
        let is_heard = self.intersects(Self::CLOSING) && self.intersects(Self::PEER_ENDED);
        if is_heard || self.intersects(Self::END_TOLD) {
            ClosingStep::Finish
        } else {
            ClosingStep::Wait
        }
    }
}

impl std::ops::BitOr for State {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// See [`State::next_closing_step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClosingStep {
    /// Output is left to flush, or the peer has not ended yet; or nobody closed it.
    Wait,
    /// All output is taken: end this side.
    SendFin,
    /// Both sides have ended.
    Finish,
}

#[cfg(test)]
mod tests;
