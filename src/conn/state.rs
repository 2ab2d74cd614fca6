//! The state of a connection: phases, write half, read half, holds and readiness, packed in 32
//! bits.
//!
//! Every transition is a method of this module. If the engine must act on a transition, the method
//! returns an [`Action`]. This module does no I/O. Listeners and datagram sockets use only a part
//! of the state: readiness, queue marks, the pause and the end.
//!
//! ```text
//!               connected()            close()              fin_sent()
//!   Connecting ------------> Open ------------> Closing ---------------> Lingering
//!        |                   ^  |   flush output,        ^   discard input,   |
//!        | connected() and   |  | then send the FIN      |   wait for the     |
//!        | prepare()         |  | prepare()              |   peer             |
//!        |        prepared() |  v                        |                    |
//!        +---------------> Preparing --------------------+                    |
//!        v                   v      reject()                                  v
//!      Dead <--- end(): failed connect, abort, error, deadline, both sides ended
//!        |
//!        v   end of the turn: `on_close`, then the slab key is free
//! ```
//!
//! In the phase `Preparing`, the connection exchanges bytes that are no frames, such as a TLS
//! handshake. It delivers and writes nothing else. An accepted connection begins in this phase if
//! its listener prepares connections.
//!
//! The write half and the read half change independently of each other:
//!
//! ```text
//!   write half:  Open --half_close()--> Flushing --fin_sent()--> FinSent
//!                any state --write_failed()--> Failed
//!   read half:   Open --read_ended()--> Ended    --end_delivered()--> EndDelivered
//! ```
//!
//! After a malformed frame, the engine records the reason, calls `on_frame_error`, and then calls
//! `close`. So the phase does not change before `on_frame_error` has returned, and a last reply is
//! accepted.
//!
//! The table contains the action of each event by phase; `-` changes nothing. The unit tests check
//! every cell.
//!
//! | event | Connecting | Preparing | Open | Open, FIN sent | Closing | Lingering | Dead |
//! |---|---|---|---|---|---|---|---|
//! | `close` | Reap | Reap | Flush, then Closing | Flush, then Lingering | - | - | - |
//! | `reject` | Reap | Flush, then Closing | Flush, then Closing | Flush, then Lingering | - | - | - |
//! | `half_close` | Flush | Flush | Flush | - | - | - | - |
//! | `output_taken` | - | - | - | - (Reap if the peer's end was delivered) | SendFin | - (Reap after the peer's end) | - |
//! | `write_failed` | Deliver | Reap | Deliver (Reap after the peer's end) | Deliver (Reap after the peer's end) | Reap | Reap | - |
//! | `deadline_passed` | NextAddress | FailPreparation | Reset | Reset | Reset | Reset | - |
//! | `end` | Reap | Reap | Reap | Reap | Reap | Reap | - |

use crate::event::Hangup;

/// An instruction to the engine, returned by a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Action {
    /// Do nothing.
    None,
    /// Write the queued output, and send the FIN once the kernel has taken all of it.
    Flush,
    /// Shut down the write half of the socket, then call [`State::fin_sent`].
    SendFin,
    /// Read and deliver the input that the kernel still holds, then close.
    Deliver,
    /// Connect to the next address of the list.
    NextAddress,
    /// Close, because the preparation took too long.
    FailPreparation,
    /// Close with a reset.
    Reset,
    /// Queue the entry for the reap at the end of the turn.
    Reap,
}

/// A notification that a change of the write queue causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Watermark {
    /// No notification.
    Unchanged,
    /// The queue was above the high watermark and went down to the low watermark: call
    /// `on_drained`.
    Drained,
}

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The connect is in progress.
    Connecting,
    /// Bytes that are no frames are exchanged, before `on_open` or in mid-stream.
    Preparing,
    /// The connection is established: frames are delivered, and `send` accepts output.
    Open,
    /// A close is in progress: queued output is flushed, and input is discarded.
    Closing,
    /// The FIN is sent: input is discarded until the peer ends its side too.
    Lingering,
    /// The connection has ended and waits in the reap queue. The end of the turn frees its id.
    Dead,
}

/// The work of a connection after its wait for memory; see [`State::resume_from_memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryResume {
    /// True if the connection can be read again.
    pub(crate) read: bool,
    /// `Drained` if a send failed because the memory budget was used up, and `on_drained` is due.
    pub(crate) watermark: Watermark,
}

/// The readiness that an event reports for a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Readiness(u32);

impl Readiness {
    /// The socket can be read.
    #[cfg(test)]
    pub(crate) const READABLE: Self = Self(READABLE);
    /// The socket can be written.
    #[cfg(test)]
    pub(crate) const WRITABLE: Self = Self(WRITABLE);
    /// The peer ended its side, so a read will return 0 after the remaining bytes.
    #[cfg(test)]
    pub(crate) const END: Self = Self(READABLE | WRITABLE | END_HINT);
    /// The peer ended or reset the connection.
    #[cfg(test)]
    pub(crate) const HANGUP: Self = Self(READABLE | WRITABLE | END_HINT | HUNG_UP);

    /// Returns the readiness of an event that reports no end of the stream, no error and no urgent
    /// data.
    pub(crate) fn new(readable: bool, writable: bool) -> Self {
        Self((READABLE * u32::from(readable)) | (WRITABLE * u32::from(writable)))
    }

    /// Returns the readiness of an event that reports the end of the stream, an error or urgent
    /// data. Both directions count as ready.
    pub(crate) fn ended(hung_up: bool) -> Self {
        Self(READABLE | WRITABLE | END_HINT | (HUNG_UP * u32::from(hung_up)))
    }
}

// Readiness. `READABLE` and `WRITABLE` have the values of `EPOLLIN` and `EPOLLOUT`, so that the
// compiler copies them from an event without a branch.

/// The socket can be read. Set by events; cleared by `WouldBlock`, by the end of the stream and
/// usually by a short read. A pause for memory clears the bit; the end of the pause sets it again.
const READABLE: u32 = 1;
/// An event reported the end of the stream, an error or urgent data. While this bit is set, a short
/// read does not clear `READABLE`. The reasons: no further event reports the end or the error, and
/// a read returns only the bytes before urgent data (tcp(7)).
const END_HINT: u32 = 1 << 1;
/// The socket can be written. Set initially and by events; cleared by `WouldBlock`.
const WRITABLE: u32 = 1 << 2;
/// An event reported that the peer ended or reset the connection, or a write failed.
const HUNG_UP: u32 = 1 << 3;

// Queue marks: each entry is in each queue at most once.

/// The entry is in the ready queue.
const QUEUED: u32 = 1 << 4;
/// The entry is in the queue of entries to flush at the end of the turn.
const TO_FLUSH: u32 = 1 << 5;
/// The partial frame was in an oversized buffer, and the entry is in the list of entries to trim.
const OVERSIZED: u32 = 1 << 6;

// Phase: at most one bit is set. No bit means `Open`; `CLOSING` with `FIN_SENT` means `Lingering`.
// The bit of `Preparing` is `PREPARING`, bit 28.
const CONNECTING: u32 = 1 << 7;
const CLOSING: u32 = 1 << 8;
const DEAD: u32 = 1 << 9;
const PHASE: u32 = OPENING | CLOSING | DEAD;

// Write half: at most one bit is set. No bit means `Open`.

/// `half_close` was called: queued output is flushed, then the FIN is sent.
const FLUSHING: u32 = 1 << 10;
const FIN_SENT: u32 = 1 << 11;
/// A write failed: no further output; input is delivered up to its end.
const WRITE_FAILED: u32 = 1 << 12;
const WRITE_HALF: u32 = FLUSHING | FIN_SENT | WRITE_FAILED;

// Read half: at most one bit is set. No bit means `Open`.

/// A read returned 0.
const ENDED: u32 = 1 << 13;
/// The handler was notified that the peer ended its side.
const END_DELIVERED: u32 = 1 << 14;

// Holds and waits for memory. A hold stops both reading and delivery; `PAUSED_FOR_MEMORY` stops
// only reading, and `AWAITS_MEMORY` stops nothing. Each of them has its own bit, so that releasing
// one hold does not release another.

/// The handler paused the socket.
const PAUSED: u32 = 1 << 15;
/// The write queue is above the high watermark, and therefore the connection is not read.
const HELD_ABOVE_HIGH: u32 = 1 << 16;
/// The handler limits delivery by credit, and the credit is used up.
const NO_CREDIT: u32 = 1 << 17;
/// The framing was replaced: decoding must start again with the new framing.
const REFRAMED: u32 = 1 << 18;
/// The connection is not read because the memory budget is used up.
const PAUSED_FOR_MEMORY: u32 = 1 << 19;
/// A send failed because the memory budget was used up, and the handler waits for `on_drained`.
const AWAITS_MEMORY: u32 = 1 << 20;

// Properties.

/// The handler limits delivery by credit.
const BY_CREDIT: u32 = 1 << 21;
/// The connection has its own limits. Its output goes to the write queue and not to the batch,
/// because only the write queue checks these limits.
const OWN_LIMITS: u32 = 1 << 22;
/// The time of the connection's callbacks is measured.
const TIMED: u32 = 1 << 23;
/// The sends, writes, reads and frames of the connection are recorded for a cut map.
const RECORDED: u32 = 1 << 24;
/// The connection is counted among the connections of its peer address.
const ADDR_COUNTED: u32 = 1 << 25;
/// `on_hangup` was called with [`Hangup::Ended`], or the end of the stream was read before the
/// hang-up.
const HANGUP_REPORTED: u32 = 1 << 26;
/// The bytes of the connection pass through a transport filter.
const FILTERED: u32 = 1 << 27;
/// The phase `Preparing`.
const PREPARING: u32 = 1 << 28;
/// The connection is read while its write queue is above the high watermark.
const READS_ABOVE_HIGH: u32 = 1 << 29;
/// The write queue went above the high watermark, and has not yet gone down to the low watermark.
/// The bit is also set if `on_drained` is due but the connection is not open yet.
const ABOVE_HIGH: u32 = 1 << 30;
/// The handler waits for `on_peek`: input is read, but not decoded.
const PEEKING: u32 = 1 << 31;

// Masks of bits that are tested together.

/// Bits of the phases in which a connection neither delivers nor writes frames yet.
const OPENING: u32 = CONNECTING | PREPARING;
/// Bits that stop both reading and the delivery of frames.
const STOPS_INPUT: u32 =
    PAUSED | HELD_ABOVE_HIGH | CLOSING | DEAD | REFRAMED | NO_CREDIT | PREPARING;
/// Bits that stop the delivery of frames.
const STOPS_FRAMES: u32 = STOPS_INPUT | PEEKING;
/// Bits with which `send` fails.
const STOPS_SENDING: u32 = CLOSING | DEAD | WRITE_HALF;
/// Bits of a close or half-close.
const ENDS_OUTPUT: u32 = CLOSING | FLUSHING | FIN_SENT;
/// Bits with which a dispatch has work left after all of its bytes are decoded.
const KEEPS_DISPATCH: u32 =
    READABLE | REFRAMED | PEEKING | ENDS_OUTPUT | ABOVE_HIGH | RECORDED | DEAD;
/// Bits that require a look-up of the entry after each frame.
const CHECKED_PER_FRAME: u32 =
    STOPS_SENDING | STOPS_FRAMES | ABOVE_HIGH | BY_CREDIT | OWN_LIMITS | TIMED;

/// The state of one entry.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct State(u32);

impl State {
    fn any(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    fn none(self, bits: u32) -> bool {
        self.0 & bits == 0
    }

    /// Sets `bits`; returns true if one of them was clear.
    fn set(&mut self, bits: u32) -> bool {
        let changed = self.0 & bits != bits;
        self.0 |= bits;
        changed
    }

    /// Clears `bits`; returns true if one of them was set.
    fn clear(&mut self, bits: u32) -> bool {
        let changed = self.any(bits);
        self.0 &= !bits;
        changed
    }

    fn assign(&mut self, bits: u32, on: bool) {
        self.clear(bits);
        self.0 |= bits * u32::from(on);
    }
}

/// Defines methods that only read the state: true if `any` or `none` of the bits is set.
macro_rules! queries {
    ($($(#[$doc:meta])* fn $name:ident = $test:ident($bits:expr);)*) => {
        impl State { $($(#[$doc])* pub(crate) fn $name(self) -> bool { self.$test($bits) })* }
    };
}

queries! {
    // Readiness.

    fn is_readable = any(READABLE);
    fn is_writable = any(WRITABLE);

    // The read half.

    /// Returns true if the peer ended its side.
    fn peer_ended = any(ENDED | END_DELIVERED);
    /// Returns true if the handler was notified that the peer ended its side.
    fn is_end_delivered = any(END_DELIVERED);
    /// Returns true if a dispatch can read or deliver bytes, or the end of the stream.
    fn has_input = any(READABLE | ENDED | END_DELIVERED);
    /// Returns true if the peer may send, and no event reported input that is not read yet.
    fn awaits_input = none(READABLE | PAUSED_FOR_MEMORY | ENDED | END_DELIVERED);
    /// Returns true if frames may be delivered.
    fn wants_frames = none(STOPS_FRAMES);
    /// Returns true if the socket may be read, provided that it is readable.
    fn may_read = none(STOPS_INPUT | PAUSED_FOR_MEMORY);
    /// Returns true if input may be read or delivered; a pause for memory is not taken into
    /// account.
    fn wants_input = none(STOPS_INPUT);
    /// Returns true if a listener can accept.
    fn may_accept = none(DEAD | PAUSED);
    /// Returns true if a datagram socket is open, so that it delivers and accepts datagrams.
    fn takes_datagrams = none(CLOSING | DEAD);

    /// Returns true if the entry waits for the flush at the end of the turn.
    fn is_to_flush = any(TO_FLUSH);

    // Holds.

    fn is_reframed = any(REFRAMED);
    fn is_peeking = any(PEEKING);
    fn is_above_high = any(ABOVE_HIGH);

    // Closing.

    fn is_connecting = any(CONNECTING);
    fn is_preparing = any(PREPARING);
    /// Returns true in the phases `Connecting` and `Preparing`.
    fn is_opening = any(OPENING);
    /// Returns true in the phases `Closing` and `Lingering`.
    fn is_closing = any(CLOSING);
    fn is_dead = any(DEAD);
    /// Returns true if `send` to this connection fails because a close or a half-close began, or a
    /// write failed.
    fn stops_sending = any(STOPS_SENDING);
    fn is_write_failed = any(WRITE_FAILED);
    /// Returns true if the state allows output in the batch.
    fn batches_output = none(STOPS_SENDING | OWN_LIMITS | PREPARING);
    /// Returns true if a close or a half-close has begun, so that the write half ends.
    fn ends_output = any(ENDS_OUTPUT);
    /// Returns true if queued output may be written: the connection is neither opening nor dead.
    fn may_write = none(OPENING | DEAD);
    /// Returns true if no further output can reach the peer.
    fn is_output_over = any(WRITE_FAILED | FIN_SENT);

    // Properties and shortcuts.

    fn is_recorded = any(RECORDED);
    /// Returns true if the bytes of the connection pass through a transport filter.
    fn is_filtered = any(FILTERED);
    fn is_addr_counted = any(ADDR_COUNTED);
    /// Returns true if the entry need not be looked up after each frame.
    fn needs_no_check_per_frame = none(CHECKED_PER_FRAME);
    /// Returns true if a dispatch whose bytes are all decoded has only its output left to write.
    ///
    /// A callback may change the state without stopping the decoding, for example by a half-close
    /// or by the start of a recording. `HUNG_UP` and `WRITE_FAILED` need no check: they are set
    /// together with `END_HINT`, which keeps `READABLE` set. The end of the stream needs no check
    /// either, because the read that reports it returns no bytes.
    fn is_dispatch_over = none(KEEPS_DISPATCH);
    /// Returns true if the end of a dispatch must continue a close or check for a hang-up.
    fn has_epilogue = any(ENDS_OUTPUT | HUNG_UP);
}

/// Defines methods that only `set` or `clear` bits. They return true if a bit changed.
macro_rules! changes {
    ($($(#[$doc:meta])* fn $name:ident = $change:ident($bits:expr);)*) => {
        impl State {
            $($(#[$doc])* pub(crate) fn $name(&mut self) -> bool { self.$change($bits) })*
        }
    };
}

changes! {
    // Connecting.

    /// Records that the connect succeeded.
    fn connected = clear(CONNECTING);
    /// Starts the preparation of an established connection.
    fn prepare = set(PREPARING);
    /// Records that the preparation succeeded, so that the connection is open.
    fn prepared = clear(PREPARING);
    /// Clears the readiness that earlier sockets of the connect reported.
    fn socket_replaced = clear(READABLE | END_HINT | HUNG_UP);

    // Readiness and queue marks.

    /// Marks the entry as queued. Returns true if the caller must push it to the ready queue.
    fn mark_queued = set(QUEUED);
    /// Records that the entry was taken out of the ready queue.
    fn unmark_queued = clear(QUEUED);
    /// Marks the entry for the flush. Returns true if the caller must push it to the flush queue.
    fn mark_to_flush = set(TO_FLUSH);
    /// Records that the entry was taken out of the flush queue.
    fn unmark_to_flush = clear(TO_FLUSH);
    /// Marks the buffer of the entry as oversized. Returns true if the caller must push the entry
    /// to the list of entries to trim.
    fn mark_oversized = set(OVERSIZED);
    /// Records that the entry was taken out of the list of entries to trim.
    fn unmark_oversized = clear(OVERSIZED);
    /// Clears the writable mark of a datagram socket; returns true if it was set.
    #[cfg(unix)]
    fn take_writable = clear(WRITABLE);
    /// Records that a read or a receive returned `WouldBlock`.
    fn read_would_block = clear(READABLE | END_HINT);
    /// Records that a write returned `WouldBlock`.
    fn write_would_block = clear(WRITABLE);

    // Holds and limits.

    /// Stops delivery until the handler resumes it.
    fn pause = set(PAUSED);
    /// Ends the pause; returns true if there was one.
    fn resume = clear(PAUSED);
    /// Stops delivery until the handler grants more frames.
    fn credit_used_up = set(NO_CREDIT);
    /// Records that a callback replaced the framing of the active connection.
    fn reframed = set(REFRAMED);
    /// Records that decoding starts with the new framing.
    fn reframe_handled = clear(REFRAMED);
    /// Stops delivery until enough bytes are read to call `on_peek`.
    fn peek = set(PEEKING);
    /// Ends the wait for `on_peek`. The caller calls `on_peek` next.
    fn peek_handled = clear(PEEKING);
    fn set_own_limits = set(OWN_LIMITS);
    /// Records that the connection is counted among the connections of an address.
    fn counted_by_addr = set(ADDR_COUNTED);
}

/// Construction.
impl State {
    /// Returns the state of a connection whose connect is in progress.
    pub(crate) fn connecting(timed: bool) -> Self {
        Self(CONNECTING | WRITABLE | (TIMED * u32::from(timed)))
    }

    /// Returns the state of an accepted connection.
    pub(crate) fn accepted(timed: bool, counted_by_addr: bool) -> Self {
        let counted = ADDR_COUNTED * u32::from(counted_by_addr);
        Self(WRITABLE | (TIMED * u32::from(timed)) | counted)
    }

    /// Returns the state of an entry that no longer exists.
    pub(crate) fn dead() -> Self {
        Self(DEAD)
    }

    /// Returns the state of a new datagram socket, which can send.
    pub(crate) fn datagram_socket() -> Self {
        Self(WRITABLE)
    }
}

/// Readiness and queue marks.
impl State {
    /// Adds the readiness of an event. Returns true if the caller must push the entry to the ready
    /// queue.
    pub(crate) fn add_readiness(&mut self, readiness: Readiness) -> bool {
        let is_new = self.0 & QUEUED == 0;
        self.0 |= readiness.0 | QUEUED;
        is_new
    }

    /// Records a read that returned fewer bytes than the buffer has. Only called on systems on
    /// which such a read proves that the socket is empty. After an event that reported an end, a
    /// short read proves nothing, so the socket remains readable.
    pub(crate) fn short_read(&mut self) {
        if self.none(END_HINT) {
            self.0 &= !READABLE;
        }
    }
}

/// The read half.
impl State {
    /// Records that a read returned 0: the peer ended its side.
    pub(crate) fn read_ended(&mut self) {
        self.clear(READABLE | END_HINT);
        if self.none(END_DELIVERED) {
            self.set(ENDED);
        }
    }

    /// Records that the handler is notified of the end of the stream.
    pub(crate) fn end_delivered(&mut self) {
        self.clear(ENDED);
        self.set(END_DELIVERED);
    }

    /// Returns true if the datagram socket is readable, and neither paused nor closed.
    pub(crate) fn may_receive(self) -> bool {
        self.any(READABLE) && self.none(CLOSING | DEAD | PAUSED)
    }
}

/// Holds.
impl State {
    /// Applies a grant of frames; returns true if the credit was used up before the grant and is
    /// not used up now.
    pub(crate) fn credit_granted(&mut self, is_limited: bool, has_credit: bool) -> bool {
        self.assign(BY_CREDIT, is_limited);
        let was_stopped = self.any(NO_CREDIT);
        self.assign(NO_CREDIT, !has_credit);
        was_stopped && has_credit
    }

    /// Allows reading while the write queue is above the high watermark if `on` is true, and
    /// forbids it otherwise.
    pub(crate) fn set_reads_above_high(&mut self, on: bool) {
        self.assign(READS_ABOVE_HIGH, on);
    }

    /// Records that the write queue is above the high watermark. Returns true if this was not
    /// recorded before.
    pub(crate) fn above_high(&mut self) -> bool {
        self.assign(HELD_ABOVE_HIGH, self.none(READS_ABOVE_HIGH));
        self.set(ABOVE_HIGH)
    }

    /// Records that the write queue is at or below the low watermark.
    pub(crate) fn at_low(&mut self) -> Watermark {
        self.clear(HELD_ABOVE_HIGH);
        match self.clear(ABOVE_HIGH) {
            true => Watermark::Drained,
            false => Watermark::Unchanged,
        }
    }

    /// Stops reading because the memory budget is used up. Returns true if the caller must push the
    /// entry to the queue of connections that wait for memory.
    pub(crate) fn pause_for_memory(&mut self) -> bool {
        self.clear(READABLE);
        let is_new = self.none(PAUSED_FOR_MEMORY | AWAITS_MEMORY);
        self.set(PAUSED_FOR_MEMORY);
        is_new
    }

    /// Records that a send failed because the memory budget is used up. Returns true if the caller
    /// must push the entry to the queue of connections that wait for memory.
    pub(crate) fn await_memory(&mut self) -> bool {
        let is_new = self.none(PAUSED_FOR_MEMORY | AWAITS_MEMORY);
        self.set(AWAITS_MEMORY);
        is_new
    }

    /// Ends the wait for memory. If a send failed before, the handler is notified with
    /// `on_drained`. The notification comes at once, or later if the write queue is above the high
    /// watermark or the connection is not open yet. The handler is not notified if the connection
    /// no longer accepts output.
    pub(crate) fn resume_from_memory(&mut self) -> MemoryResume {
        let read = self.clear(PAUSED_FOR_MEMORY);
        if read {
            self.set(READABLE);
        }
        let mut watermark = Watermark::Unchanged;
        if self.clear(AWAITS_MEMORY) && self.none(ABOVE_HIGH | STOPS_SENDING) {
            if self.any(OPENING) {
                self.above_high();
            } else {
                watermark = Watermark::Drained;
            }
        }
        MemoryResume { read, watermark }
    }
}

/// Closing.
impl State {
    /// Returns the phase.
    pub(crate) fn phase(self) -> Phase {
        match self.0 & PHASE {
            CONNECTING => Phase::Connecting,
            PREPARING => Phase::Preparing,
            CLOSING if self.any(FIN_SENT) => Phase::Lingering,
            CLOSING => Phase::Closing,
            DEAD => Phase::Dead,
            _ => Phase::Open,
        }
    }

    /// Closes the connection: its output is flushed first. A connection that is not open yet, or
    /// whose write failed, ends at once.
    pub(crate) fn close(&mut self) -> Action {
        if self.any(CLOSING | DEAD) {
            return Action::None;
        }
        if self.any(OPENING | WRITE_FAILED) {
            return self.end();
        }
        self.start_closing()
    }

    /// Closes the connection because the peer violated the protocol. In the phase `Preparing`,
    /// `reject` first flushes the output of the preparation, so that the peer is notified. In
    /// contrast, [`close`](Self::close) ends a connection in this phase at once.
    pub(crate) fn reject(&mut self) -> Action {
        if self.none(PREPARING | WRITE_FAILED) {
            return self.close();
        }
        if self.any(WRITE_FAILED) {
            return self.end();
        }
        self.clear(PREPARING);
        self.start_closing()
    }

    fn start_closing(&mut self) -> Action {
        self.set(CLOSING);
        // From now on input is discarded, which takes no memory. So the pause for memory ends, and
        // the socket counts as readable again.
        if self.clear(PAUSED_FOR_MEMORY) {
            self.set(READABLE);
        }
        Action::Flush
    }

    /// Starts to end the write half: the FIN follows the queued output.
    pub(crate) fn half_close(&mut self) -> Action {
        if self.any(STOPS_SENDING) {
            return Action::None;
        }
        self.set(FLUSHING);
        Action::Flush
    }

    /// Closes a datagram socket. The socket ends after its queue is sent. Returns false if the
    /// socket was dead before.
    pub(crate) fn close_datagrams(&mut self) -> bool {
        self.none(DEAD) && {
            self.set(CLOSING);
            true
        }
    }

    /// Returns the next action of a close or half-close after the kernel took all queued output.
    pub(crate) fn output_taken(self) -> Action {
        if self.none(ENDS_OUTPUT) || self.any(DEAD) {
            return Action::None;
        }
        if self.none(FIN_SENT) {
            return Action::SendFin;
        }
        // Both directions have ended if the peer's end was delivered to the handler. In a close,
        // the peer's end is not delivered, so it is enough that the end was read.
        match self.any(END_DELIVERED) || self.any(CLOSING) && self.any(ENDED) {
            true => Action::Reap,
            false => Action::None,
        }
    }

    /// Records that the FIN was sent.
    pub(crate) fn fin_sent(&mut self) {
        self.clear(WRITE_HALF);
        self.set(FIN_SENT);
    }

    /// Records a failed write: queued output is lost. The connection ends after the remaining input
    /// is delivered, or at once if the input has ended, is discarded, or belongs to a preparation.
    pub(crate) fn write_failed(&mut self) -> (Action, Watermark) {
        if self.any(DEAD) {
            return (Action::None, Watermark::Unchanged);
        }
        self.clear(WRITE_HALF);
        self.set(WRITE_FAILED | READABLE | END_HINT | HUNG_UP);
        let watermark = self.at_low();
        if self.any(CLOSING | PREPARING | ENDED | END_DELIVERED) {
            return (self.end(), watermark);
        }
        (Action::Deliver, watermark)
    }

    /// Returns the action after the deadline of a connect, preparation or close has passed.
    pub(crate) fn deadline_passed(self) -> Action {
        match self.phase() {
            Phase::Dead => Action::None,
            Phase::Connecting => Action::NextAddress,
            Phase::Preparing => Action::FailPreparation,
            Phase::Open | Phase::Closing | Phase::Lingering => Action::Reset,
        }
    }

    /// Ends the entry. Returns `Reap` only for the first call.
    pub(crate) fn end(&mut self) -> Action {
        if self.any(DEAD) {
            return Action::None;
        }
        self.clear(PHASE);
        self.set(DEAD);
        Action::Reap
    }
}

/// Hang-ups of the peer while the connection is not read.
impl State {
    /// Returns true if an event reported a hang-up and the connection is not read, so that no read
    /// can report it.
    pub(crate) fn is_hung_up_unread(self) -> bool {
        self.any(HUNG_UP) && !self.may_read() && self.none(PHASE)
    }

    /// Returns the hang-up to report to the handler: `Reset` after a failed write, otherwise
    /// `Ended`. Returns `None` if the end of the stream was read or reported before.
    pub(crate) fn report_hangup(&mut self) -> Option<Hangup> {
        self.clear(HUNG_UP);
        if self.any(WRITE_FAILED) {
            return Some(Hangup::Reset);
        }
        let is_known = self.any(ENDED | END_DELIVERED | HANGUP_REPORTED);
        self.set(HANGUP_REPORTED);
        (!is_known).then_some(Hangup::Ended)
    }
}

/// Properties and shortcuts.
impl State {
    pub(crate) fn set_recorded(&mut self, on: bool) {
        self.assign(RECORDED, on);
    }

    /// Returns true if the entry is in the ready queue or in the flush queue.
    #[cfg(test)]
    pub(crate) fn is_in_a_queue(self) -> bool {
        self.any(QUEUED | TO_FLUSH)
    }

    /// Returns true if the fast path can dispatch the connection: it is readable and needs no check
    /// after each frame. `is_filtered` is true for the fast path of connections with a filter.
    pub(crate) fn is_plain_to_read(self, is_filtered: bool) -> bool {
        const TESTED: u32 = READABLE | CHECKED_PER_FRAME | RECORDED | OPENING | FILTERED;
        let wanted = match is_filtered {
            true => READABLE | FILTERED,
            false => READABLE,
        };
        self.0 & TESTED == wanted
    }
}

/// The transport filter.
#[cfg(any(test, feature = "tls"))]
impl State {
    pub(crate) fn set_filtered(&mut self) {
        self.set(FILTERED);
    }

    /// Stops reading, because the filter must write first.
    #[cfg(test)]
    pub(crate) fn read_waits_for_write(&mut self) {
        self.clear(READABLE);
    }

    /// Records that the filter holds input, or that a read no longer has to wait for a write.
    pub(crate) fn mark_readable(&mut self) {
        self.set(READABLE);
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State({:?}, {:#x})", self.phase(), self.0)
    }
}
