//! The life of a connection: phases, write half, read half, holds and readiness, packed in 32 bits.
//!
//! Every transition is a method here. A transition changes the state and returns the [`Action`] that
//! the engine executes; this module does no I/O. Listeners and datagram sockets use the small part
//! of it that they need: readiness, queue marks, the pause and the end.
//!
//! ```text
//!               connected()            close()              fin_sent()
//!   Connecting ------------> Open ------------> Closing ---------------> Lingering
//!        |                    |   flush output,          discard input,      |
//!        |                    |   then send the FIN      wait for the peer   |
//!        v                    v                                              v
//!      Dead <--- end(): failed connect, abort, error, deadline, both sides ended
//!        |
//!        v   end of the turn: `on_close`, then the slab key is free
//! ```
//!
//! Within `Open` and `Lingering` the two halves move on their own:
//!
//! ```text
//!   write half:  Open --half_close()--> Flushing --fin_sent()--> FinSent;  any --write_failed()--> Failed
//!   read half:   Open --read_ended()--> Ended    --end_delivered()--> EndDelivered
//! ```
//!
//! The action of each event by phase; `-` changes nothing. The test `table` walks all of it.
//!
//! | event | Connecting | Open | Open, FIN sent | Closing | Lingering | Dead |
//! |---|---|---|---|---|---|---|
//! | `close` | Reap | Flush, then Closing | Flush, then Lingering | - | - | - |
//! | `half_close` | Flush | Flush | - | - | - | - |
//! | `output_taken` | - | - | - (Reap after the peer's end) | SendFin | - (Reap after the peer's end) | - |
//! | `write_failed` | Deliver | Deliver (Reap after the peer's end) | Deliver | Reap | Reap | - |
//! | `deadline_passed` | NextAddress | Reset | Reset | Reset | Reset | - |
//! | `end` | Reap | Reap | Reap | Reap | Reap | - |

use crate::event::Hangup;

/// An instruction to the engine, returned by a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Action {
    None,
    /// Write the queued output; the FIN follows once all of it is taken.
    Flush,
    /// Shut down the write half of the socket, then call [`State::fin_sent`].
    SendFin,
    /// Read and deliver the input that the kernel still holds, then close.
    Deliver,
    /// Connect to the next address of the list.
    NextAddress,
    /// Close with a reset.
    Reset,
    /// Queue the entry for the reap at the end of the turn.
    Reap,
}

/// A change of the write queue that the handler is notified of, exactly once per crossing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Watermark {
    Unchanged,
    /// The queue was above the high watermark and went down to the low one: call `on_drained`.
    Drained,
}

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The connect is in progress; nothing else has happened yet.
    Connecting,
    /// Frames are delivered and accepted.
    Open,
    /// The handler closed it: queued output is flushed, input is discarded.
    Closing,
    /// The FIN is sent: input is discarded until the peer ends its side too.
    Lingering,
    /// It is in the reap queue; its id is freed at the end of the turn.
    Dead,
}

/// What a resumed connection needs after a pause for memory; see [`State::resume_from_memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryResume {
    /// It can be read again.
    pub(crate) read: bool,
    /// Its output was refused, and the handler waits for `on_drained`.
    pub(crate) watermark: Watermark,
}

/// Readiness of a socket as an event reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Readiness(u32);

impl Readiness {
    /// A read may return bytes.
    #[cfg(test)]
    pub(crate) const READABLE: Self = Self(READABLE);
    /// A write may be taken.
    #[cfg(test)]
    pub(crate) const WRITABLE: Self = Self(WRITABLE);
    /// The peer ended its side: readable, writable, and a short read does not empty the socket.
    #[cfg(test)]
    pub(crate) const END: Self = Self(READABLE | WRITABLE | END_HINT);
    /// The peer ended or reset the connection.
    #[cfg(test)]
    pub(crate) const HANGUP: Self = Self(READABLE | WRITABLE | END_HINT | HUNG_UP);

    /// Readiness without an end or an error.
    #[inline]
    pub(crate) fn new(readable: bool, writable: bool) -> Self {
        Self(READABLE * u32::from(readable) | WRITABLE * u32::from(writable))
    }

    /// Readiness after an end, an error or urgent data: both directions have something to report.
    #[inline]
    pub(crate) fn ended(hung_up: bool) -> Self {
        Self(READABLE | WRITABLE | END_HINT | HUNG_UP * u32::from(hung_up))
    }
}

// Readiness. `READABLE` and `WRITABLE` have the values of `EPOLLIN` and `EPOLLOUT`, so that the
// compiler copies them from an event without a branch.

/// A read may return bytes. Set by events; cleared by `WouldBlock` and by a short read.
const READABLE: u32 = 1;
/// An event reported an end or an error, for which no further event comes, or urgent data, at which
/// a read stops short. A short read does not prove that the socket is empty.
const END_HINT: u32 = 1 << 1;
/// A write may be taken. Set at first and by events; cleared by `WouldBlock`.
const WRITABLE: u32 = 1 << 2;
/// An event reported that the peer ended or reset the connection, or a write failed.
const HUNG_UP: u32 = 1 << 3;

// Queue marks: each entry is in each queue at most once.

/// The entry is in the ready queue.
const QUEUED: u32 = 1 << 4;
/// The entry is in the queue of those to flush at the end of the turn.
const TO_FLUSH: u32 = 1 << 5;
/// The partial frame is in an oversized buffer, and the entry is in the list of those to trim.
const OVERSIZED: u32 = 1 << 6;

// Phase: at most one bit; none is `Open`. `Lingering` is `CLOSING` and `FIN_SENT`.
const CONNECTING: u32 = 1 << 7;
const CLOSING: u32 = 1 << 8;
const DEAD: u32 = 1 << 9;
const PHASE: u32 = CONNECTING | CLOSING | DEAD;

// Write half: at most one bit; none is `Open`.

/// `half_close` was called: queued output is flushed, then the FIN is sent.
const FLUSHING: u32 = 1 << 10;
const FIN_SENT: u32 = 1 << 11;
/// A write failed: no further output; input is delivered up to its end.
const WRITE_FAILED: u32 = 1 << 12;
const WRITE_HALF: u32 = FLUSHING | FIN_SENT | WRITE_FAILED;

// Read half: at most one bit; none is `Open`.

/// A read returned 0.
const ENDED: u32 = 1 << 13;
/// The handler was notified that the peer ended its side.
const END_DELIVERED: u32 = 1 << 14;

// Holds: no further frame is delivered while one of them is set. Each has its own bit, so that no
// release undoes another hold.

/// The handler paused the socket.
const PAUSED: u32 = 1 << 15;
/// The write queue is above the high watermark, and has not gone down to the low one since.
const ABOVE_HIGH: u32 = 1 << 16;
/// The handler grants frames by number, and all of them were delivered.
const NO_CREDIT: u32 = 1 << 17;
/// The framing was replaced: decoding must start again with the new one.
const REFRAMED: u32 = 1 << 18;
/// The connection is not read because the memory budget is used up.
const PAUSED_FOR_MEMORY: u32 = 1 << 19;
/// Output was refused because the memory budget is used up; the handler waits for `on_drained`.
const AWAITS_MEMORY: u32 = 1 << 20;

// Properties.

/// The handler grants frames by number.
const BY_CREDIT: u32 = 1 << 21;
/// The connection has its own limits: its output is queued and checked against them there.
const OWN_LIMITS: u32 = 1 << 22;
/// The time of its callbacks is measured.
const TIMED: u32 = 1 << 23;
/// Its sends, writes, reads and frames are recorded for a cut map.
const RECORDED: u32 = 1 << 24;
/// It is counted among the connections of its address.
const ADDR_COUNTED: u32 = 1 << 25;
/// `on_hangup` was called with [`Hangup::Ended`].
const HANGUP_REPORTED: u32 = 1 << 26;
/// Its bytes pass through a transport filter.
const FILTERED: u32 = 1 << 27;
/// The filter must write before it can read on.
#[cfg(test)]
const READ_AFTER_WRITE: u32 = 1 << 28;

// Combinations that are tested at once.
const STOPS_FRAMES: u32 = PAUSED | ABOVE_HIGH | CLOSING | DEAD | REFRAMED | NO_CREDIT;
const STOPS_SENDING: u32 = CLOSING | DEAD | WRITE_HALF;
const ENDS_OUTPUT: u32 = CLOSING | FLUSHING | FIN_SENT;
/// The entry must be looked up after each frame.
const CHECKED_PER_FRAME: u32 =
    STOPS_SENDING | STOPS_FRAMES | BY_CREDIT | OWN_LIMITS | TIMED | FILTERED;

/// The state of one entry.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct State(u32);

impl State {
    fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    /// Sets `bits`; returns true if one of them was clear.
    fn set(&mut self, bits: u32) -> bool {
        let changed = self.0 & bits != bits;
        self.0 |= bits;
        changed
    }

    /// Clears `bits`; returns true if one of them was set.
    fn clear(&mut self, bits: u32) -> bool {
        let changed = self.has(bits);
        self.0 &= !bits;
        changed
    }

    fn assign(&mut self, bits: u32, on: bool) {
        self.clear(bits);
        self.0 |= bits * u32::from(on);
    }
}

/// Beginnings.
impl State {
    /// A connection whose connect is in progress.
    pub(crate) fn connecting(timed: bool) -> Self {
        Self(CONNECTING | WRITABLE | TIMED * u32::from(timed))
    }

    /// An accepted connection.
    pub(crate) fn accepted(timed: bool, counted_by_addr: bool) -> Self {
        let counted = ADDR_COUNTED * u32::from(counted_by_addr);
        Self(WRITABLE | TIMED * u32::from(timed) | counted)
    }

    /// An entry that no longer exists.
    pub(crate) fn dead() -> Self {
        Self(DEAD)
    }

    /// A datagram socket that can send.
    pub(crate) fn datagram_socket() -> Self {
        Self(WRITABLE)
    }

    /// The connect succeeded.
    pub(crate) fn connected(&mut self) {
        self.clear(CONNECTING);
    }

    /// The socket was replaced by one for the next address: the events so far were the old one's.
    pub(crate) fn socket_replaced(&mut self) {
        self.clear(READABLE | END_HINT | HUNG_UP);
    }
}

/// Readiness and queue marks.
impl State {
    /// Adds the readiness of an event; returns true if the entry is to be pushed to the ready queue.
    #[inline]
    pub(crate) fn add_readiness(&mut self, readiness: Readiness) -> bool {
        let is_new = self.0 & QUEUED == 0;
        self.0 |= readiness.0 | QUEUED;
        is_new
    }

    /// Marks the entry as queued; returns true if it is to be pushed to the ready queue.
    pub(crate) fn mark_queued(&mut self) -> bool {
        self.set(QUEUED)
    }

    pub(crate) fn unmark_queued(&mut self) {
        self.clear(QUEUED);
    }

    /// Returns true if the entry is to be pushed to the queue of those to flush.
    pub(crate) fn mark_to_flush(&mut self) -> bool {
        self.set(TO_FLUSH)
    }

    pub(crate) fn unmark_to_flush(&mut self) {
        self.clear(TO_FLUSH);
    }

    /// Returns true if the entry is to be pushed to the list of those to trim.
    pub(crate) fn mark_oversized(&mut self) -> bool {
        self.set(OVERSIZED)
    }

    pub(crate) fn unmark_oversized(&mut self) {
        self.clear(OVERSIZED);
    }

    pub(crate) fn is_readable(self) -> bool {
        self.has(READABLE)
    }

    pub(crate) fn is_writable(self) -> bool {
        self.has(WRITABLE)
    }

    /// Clears the writable mark of a datagram socket; returns true if it was set.
    pub(crate) fn take_writable(&mut self) -> bool {
        self.clear(WRITABLE)
    }

    /// A read or receive returned `WouldBlock`.
    pub(crate) fn read_would_block(&mut self) {
        self.clear(READABLE | END_HINT);
    }

    /// A read returned fewer bytes than asked for, on a system on which that proves that the socket
    /// is empty. It proves nothing after an event that reported an end.
    #[inline]
    pub(crate) fn short_read(&mut self) {
        if !self.has(END_HINT) {
            self.0 &= !READABLE;
        }
    }

    /// A write returned `WouldBlock`.
    pub(crate) fn write_would_block(&mut self) {
        self.clear(WRITABLE);
    }
}

/// The read half.
impl State {
    /// A read returned 0: the peer ended its side.
    pub(crate) fn read_ended(&mut self) {
        self.clear(READABLE | END_HINT);
        if !self.has(END_DELIVERED) {
            self.set(ENDED);
        }
    }

    pub(crate) fn peer_ended(self) -> bool {
        self.has(ENDED | END_DELIVERED)
    }

    /// The handler is notified now that the peer ended its side.
    pub(crate) fn end_delivered(&mut self) {
        self.clear(ENDED);
        self.set(END_DELIVERED);
    }

    pub(crate) fn is_end_delivered(self) -> bool {
        self.has(END_DELIVERED)
    }

    /// Returns true if a dispatch can read or deliver something: bytes or the end of the stream.
    pub(crate) fn has_input(self) -> bool {
        self.has(READABLE | ENDED | END_DELIVERED)
    }

    /// Returns true if frames may be delivered.
    pub(crate) fn wants_frames(self) -> bool {
        !self.has(STOPS_FRAMES)
    }

    /// Returns true if the socket is read when it is readable.
    pub(crate) fn may_read(self) -> bool {
        !self.has(STOPS_FRAMES | PAUSED_FOR_MEMORY)
    }

    /// Returns true if a datagram can be received.
    pub(crate) fn may_receive(self) -> bool {
        self.has(READABLE) && !self.has(CLOSING | DEAD | PAUSED)
    }

    /// Returns true if a listener can accept.
    pub(crate) fn may_accept(self) -> bool {
        !self.has(DEAD | PAUSED)
    }

    /// Returns true if a datagram socket is open: datagrams are delivered and accepted.
    pub(crate) fn takes_datagrams(self) -> bool {
        !self.has(CLOSING | DEAD)
    }
}

/// Holds.
impl State {
    pub(crate) fn pause(&mut self) {
        self.set(PAUSED);
    }

    /// Returns true if it was paused.
    pub(crate) fn resume(&mut self) -> bool {
        self.clear(PAUSED)
    }

    /// Applies a grant of frames; returns true if delivery resumes.
    pub(crate) fn credit_granted(&mut self, is_limited: bool, has_credit: bool) -> bool {
        self.assign(BY_CREDIT, is_limited);
        let was_stopped = self.has(NO_CREDIT);
        self.assign(NO_CREDIT, !has_credit);
        was_stopped && has_credit
    }

    pub(crate) fn credit_used_up(&mut self) {
        self.set(NO_CREDIT);
    }

    /// The framing is replaced while its bytes are being decoded.
    pub(crate) fn reframed(&mut self) {
        self.set(REFRAMED);
    }

    pub(crate) fn is_reframed(self) -> bool {
        self.has(REFRAMED)
    }

    /// Decoding starts with the new framing.
    pub(crate) fn reframe_handled(&mut self) {
        self.clear(REFRAMED);
    }

    /// The write queue is above the high watermark.
    pub(crate) fn above_high(&mut self) {
        self.set(ABOVE_HIGH);
    }

    pub(crate) fn is_above_high(self) -> bool {
        self.has(ABOVE_HIGH)
    }

    /// The write queue is at or below the low watermark.
    pub(crate) fn at_low(&mut self) -> Watermark {
        match self.clear(ABOVE_HIGH) {
            true => Watermark::Drained,
            false => Watermark::Unchanged,
        }
    }

    /// The memory budget is used up: reading stops. Returns true if the entry is to be pushed to the
    /// queue of those that wait for memory.
    pub(crate) fn pause_for_memory(&mut self) -> bool {
        self.clear(READABLE);
        let is_new = !self.has(PAUSED_FOR_MEMORY | AWAITS_MEMORY);
        self.set(PAUSED_FOR_MEMORY);
        is_new
    }

    /// The memory budget is used up: output was refused. Returns as
    /// [`pause_for_memory`](State::pause_for_memory) does.
    pub(crate) fn await_memory(&mut self) -> bool {
        let is_new = !self.has(PAUSED_FOR_MEMORY | AWAITS_MEMORY);
        self.set(AWAITS_MEMORY);
        is_new
    }

    /// Memory is available again. A connection above its high watermark is notified when its queue
    /// has drained; one that is still connecting, when it is open.
    pub(crate) fn resume_from_memory(&mut self) -> MemoryResume {
        let read = self.clear(PAUSED_FOR_MEMORY);
        if read {
            self.set(READABLE);
        }
        let mut watermark = Watermark::Unchanged;
        if self.clear(AWAITS_MEMORY) && !self.has(ABOVE_HIGH | STOPS_SENDING) {
            match self.has(CONNECTING) {
                true => self.above_high(),
                false => watermark = Watermark::Drained,
            }
        }
        MemoryResume { read, watermark }
    }
}

/// Closing.
impl State {
    pub(crate) fn phase(self) -> Phase {
        match self.0 & PHASE {
            CONNECTING => Phase::Connecting,
            CLOSING if self.has(FIN_SENT) => Phase::Lingering,
            CLOSING => Phase::Closing,
            DEAD => Phase::Dead,
            _ => Phase::Open,
        }
    }

    pub(crate) fn is_connecting(self) -> bool {
        self.has(CONNECTING)
    }

    /// Returns true in the phases `Closing` and `Lingering`.
    pub(crate) fn is_closing(self) -> bool {
        self.has(CLOSING)
    }

    pub(crate) fn is_dead(self) -> bool {
        self.has(DEAD)
    }

    /// Returns true if the connection takes no more output from `send`.
    pub(crate) fn stops_sending(self) -> bool {
        self.has(STOPS_SENDING)
    }

    pub(crate) fn is_write_failed(self) -> bool {
        self.has(WRITE_FAILED)
    }

    /// Returns true if the write half ends, or has ended, by the handler's wish.
    pub(crate) fn ends_output(self) -> bool {
        self.has(ENDS_OUTPUT)
    }

    /// Returns true if written bytes can reach the socket.
    pub(crate) fn may_write(self) -> bool {
        !self.has(CONNECTING | DEAD)
    }

    /// The handler, a timeout or a malformed frame closes the connection.
    pub(crate) fn close(&mut self) -> Action {
        if self.has(CLOSING | DEAD) {
            return Action::None;
        }
        if self.has(CONNECTING | WRITE_FAILED) {
            return self.end();
        }
        self.set(CLOSING);
        // Input is discarded from now on, which takes no memory: the events that came during the
        // pause count now.
        if self.clear(PAUSED_FOR_MEMORY) {
            self.set(READABLE);
        }
        Action::Flush
    }

    /// The handler ends the write half.
    pub(crate) fn half_close(&mut self) -> Action {
        if self.has(STOPS_SENDING) {
            return Action::None;
        }
        self.set(FLUSHING);
        Action::Flush
    }

    /// A datagram socket is closed once its queue is sent. Returns true if it was open.
    pub(crate) fn close_datagrams(&mut self) -> bool {
        !self.has(DEAD) && {
            self.set(CLOSING);
            true
        }
    }

    /// All queued output was taken by the kernel.
    pub(crate) fn output_taken(self) -> Action {
        if !self.has(ENDS_OUTPUT) || self.has(DEAD) {
            return Action::None;
        }
        if !self.has(FIN_SENT) {
            return Action::SendFin;
        }
        // The peer's end counts once its frames are delivered, or if they are discarded.
        match self.has(END_DELIVERED) || self.has(CLOSING) && self.has(ENDED) {
            true => Action::Reap,
            false => Action::None,
        }
    }

    /// The FIN was sent.
    pub(crate) fn fin_sent(&mut self) {
        self.clear(WRITE_HALF);
        self.set(FIN_SENT);
    }

    /// A write failed: queued output is lost. Unless the input ended or is discarded, the rest of it
    /// is delivered first.
    pub(crate) fn write_failed(&mut self) -> (Action, Watermark) {
        if self.has(DEAD) {
            return (Action::None, Watermark::Unchanged);
        }
        self.clear(WRITE_HALF);
        self.set(WRITE_FAILED | READABLE | END_HINT | HUNG_UP);
        let watermark = self.at_low();
        if self.has(CLOSING | ENDED | END_DELIVERED) {
            return (self.end(), watermark);
        }
        (Action::Deliver, watermark)
    }

    /// The deadline of the connect or of the close passed.
    pub(crate) fn deadline_passed(self) -> Action {
        match self.phase() {
            Phase::Dead => Action::None,
            Phase::Connecting => Action::NextAddress,
            Phase::Open | Phase::Closing | Phase::Lingering => Action::Reset,
        }
    }

    /// Ends the entry, once.
    pub(crate) fn end(&mut self) -> Action {
        if self.has(DEAD) {
            return Action::None;
        }
        self.clear(PHASE);
        self.set(DEAD);
        Action::Reap
    }
}

/// A peer that hangs up while the connection is not read.
impl State {
    /// Returns true if events reported that the peer is gone, and no read will find out how.
    pub(crate) fn is_hung_up_unread(self) -> bool {
        self.has(HUNG_UP) && !self.may_read() && !self.has(PHASE)
    }

    /// Returns true if no further output can reach the peer.
    pub(crate) fn is_output_over(self) -> bool {
        self.has(WRITE_FAILED | FIN_SENT)
    }

    /// Returns the hang-up to report to the handler, if it was not reported before.
    pub(crate) fn report_hangup(&mut self) -> Option<Hangup> {
        self.clear(HUNG_UP);
        if self.has(WRITE_FAILED) {
            return Some(Hangup::Reset);
        }
        let is_known = self.has(ENDED | END_DELIVERED | HANGUP_REPORTED);
        self.set(HANGUP_REPORTED);
        (!is_known).then_some(Hangup::Ended)
    }
}

/// Properties and shortcuts.
impl State {
    pub(crate) fn is_recorded(self) -> bool {
        self.has(RECORDED)
    }

    pub(crate) fn set_recorded(&mut self, on: bool) {
        self.assign(RECORDED, on);
    }

    /// True if the entry is in the ready queue or in the queue of those to flush.
    #[cfg(test)]
    pub(crate) fn is_in_a_queue(self) -> bool {
        self.has(QUEUED | TO_FLUSH)
    }

    pub(crate) fn is_addr_counted(self) -> bool {
        self.has(ADDR_COUNTED)
    }

    pub(crate) fn has_own_limits(self) -> bool {
        self.has(OWN_LIMITS)
    }

    pub(crate) fn set_own_limits(&mut self) {
        self.set(OWN_LIMITS);
    }

    /// Returns true if the entry need not be looked up after each frame.
    pub(crate) fn needs_no_check_per_frame(self) -> bool {
        !self.has(CHECKED_PER_FRAME)
    }

    /// Returns true if a read, and the decoding of its bytes, is all that there is to do.
    pub(crate) fn is_plain_to_read(self) -> bool {
        self.has(READABLE) && !self.has(CHECKED_PER_FRAME | RECORDED | CONNECTING)
    }

    /// Returns true if a dispatch whose bytes are all decoded has only its output left to write.
    ///
    /// Most changes that a callback can make stop the decoding first. After a skipped frame there is
    /// nothing left to stop. `HUNG_UP` and `WRITE_FAILED` come with `END_HINT`, which keeps
    /// `READABLE` set; after the peer's end a read returns no bytes.
    pub(crate) fn is_dispatch_over(self) -> bool {
        !self.has(READABLE | REFRAMED | ENDS_OUTPUT | ABOVE_HIGH | RECORDED | DEAD)
    }

    /// Returns true if the end of a dispatch must step the close or check for a hang-up.
    pub(crate) fn has_epilogue(self) -> bool {
        self.has(ENDS_OUTPUT | HUNG_UP)
    }
}

/// The transport filter.
#[cfg(test)]
impl State {
    pub(crate) fn is_filtered(self) -> bool {
        self.has(FILTERED)
    }

    pub(crate) fn set_filtered(&mut self) {
        self.set(FILTERED);
    }

    /// The filter must write before it can read on: reading stops until its output is flushed.
    pub(crate) fn read_waits_for_write(&mut self) {
        self.clear(READABLE);
        self.set(READ_AFTER_WRITE);
    }

    /// The filter's output is flushed: a read that waited for it can continue.
    pub(crate) fn filter_flushed(&mut self) {
        if self.clear(READ_AFTER_WRITE) {
            self.set(READABLE);
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State({:?}, {:#x})", self.phase(), self.0)
    }
}

#[cfg(test)]
mod tests;
