//! The read side of a connection, without the socket.

use std::fmt;
use std::ops::ControlFlow;

use crate::codec::{Framing, Kind, Skipped};
use crate::conn::{Assembler, Delivery, Flow, FrameSink, Pool};
use crate::error::FrameError;
use crate::memory::PageOffsetBox;
use crate::timer::Stamp;

/// The read side of a connection as a [`Reactor`](crate::Reactor) runs it, without the socket. A
/// test feeds bytes to it, and pauses or reframes between any two frames.
///
/// A callback that returns [`ControlFlow::Break`] stops the delivery after its frame, like a
/// handler that pauses its connection or replaces its framing. While undelivered bytes are left,
/// [`read`](ReadSide::read) accepts no bytes; call [`resume`](ReadSide::resume) to deliver them.
/// The callback does not receive [skipped](Framing::skip_too_long) frames. If a callback panics,
/// the `ReadSide` cannot be used any more.
///
/// # Examples
///
/// A handshake by line, then frames with a length prefix, all in one read:
///
/// ```
/// use std::ops::ControlFlow;
/// use unstick::Framing;
/// use unstick::testkit::ReadSide;
///
/// let mut side = ReadSide::new(Framing::line());
/// let mut frames = Vec::new();
/// side.read(b"HELLO\n\0\x03abc", |frame| {
///     frames.push(frame.to_vec());
///     ControlFlow::Break(())
/// })?;
/// side.reframe(Framing::length_u16());
/// side.resume(|frame| {
///     frames.push(frame.to_vec());
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(frames, [&b"HELLO"[..], b"abc"]);
/// # Ok::<(), unstick::FrameError>(())
/// ```
pub struct ReadSide {
    assembler: Assembler,
    context: SinkContext,
    /// Memory for reads that do not go directly into the buffer of a long frame.
    read_buffer: PageOffsetBox,
    /// Number of bytes read so far.
    read_bytes: u64,
    /// After an error: number of bytes that were read from the start of the offending frame on.
    undecoded: Option<usize>,
}

impl ReadSide {
    /// Creates the read side of a new connection.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self {
            assembler: Assembler::default(),
            context: SinkContext {
                framing,
                pool: Pool::new(0),
                frames_skipped: 0,
                filler_bytes: 0,
            },
            read_buffer: PageOffsetBox::new(0),
            read_bytes: 0,
            undecoded: None,
        }
    }

    /// Performs one read of `bytes`, and delivers the frames that they complete. Returns the number
    /// of bytes read. If a long frame is read directly into its buffer, the spare capacity of this
    /// buffer limits the number. The number is 0 while bytes are
    /// [undelivered](ReadSide::has_undelivered), and after an error.
    ///
    /// # Errors
    ///
    /// The error of the codec for the bytes at [`offset`](ReadSide::offset). It is final: later
    /// calls read nothing.
    #[inline]
    pub fn read<F>(&mut self, bytes: &[u8], on_frame: F) -> Result<usize, FrameError>
    where
        F: FnMut(&[u8]) -> ControlFlow<()>,
    {
        let is_to_ingest = self.assembler.is_to_ingest() && self.undecoded.is_none();
        let read = match self.read_buffer.bytes_mut().get_mut(..bytes.len()) {
            Some(read) if is_to_ingest && !read.is_empty() => read,
            _ => return self.read_slow(bytes, on_frame),
        };
        read.copy_from_slice(bytes);
        self.read_bytes += bytes.len() as u64;
        let sink = &mut ClosureSink(&mut self.context, on_frame);
        let outcome = self.assembler.ingest(read, sink);
        self.finish_delivery(outcome).map(|_| bytes.len())
    }

    /// Performs a read that is longer than all earlier ones, or that goes directly into the buffer
    /// of a long frame. Returns 0 if no read is possible.
    #[inline(never)]
    fn read_slow<F>(&mut self, bytes: &[u8], on_frame: F) -> Result<usize, FrameError>
    where
        F: FnMut(&[u8]) -> ControlFlow<()>,
    {
        if self.has_undelivered() || self.undecoded.is_some() || bytes.is_empty() {
            return Ok(0);
        }
        let Some(spare) = self.assembler.direct(bytes.len(), &mut self.context.pool) else {
            self.read_buffer = PageOffsetBox::new(bytes.len());
            return self.read(bytes, on_frame);
        };
        let len = spare.len();
        spare.copy_from_slice(&bytes[..len]);
        self.read_bytes += len as u64;
        let sink = &mut ClosureSink(&mut self.context, on_frame);
        let outcome = self.assembler.ingest_direct(len, sink);
        self.finish_delivery(outcome).map(|_| len)
    }

    /// Delivers undelivered bytes, if there are any.
    ///
    /// # Errors
    ///
    /// The errors of [`read`](ReadSide::read).
    pub fn resume<F>(&mut self, on_frame: F) -> Result<(), FrameError>
    where
        F: FnMut(&[u8]) -> ControlFlow<()>,
    {
        if !self.has_undelivered() || self.undecoded.is_some() {
            return Ok(());
        }
        let sink = &mut ClosureSink(&mut self.context, on_frame);
        let outcome = self.assembler.resume(sink);
        self.finish_delivery(outcome).map(drop)
    }

    /// Ends the stream: delivers undelivered bytes, and then the last frame that the codec finds.
    /// Returns `false` if the callback stopped the delivery; then call `end` again.
    ///
    /// # Errors
    ///
    /// The errors of [`read`](ReadSide::read).
    pub fn end<F>(&mut self, mut on_frame: F) -> Result<bool, FrameError>
    where
        F: FnMut(&[u8]) -> ControlFlow<()>,
    {
        while self.held_bytes() > 0 && self.undecoded.is_none() {
            let was_undelivered = self.has_undelivered();
            let sink = &mut ClosureSink(&mut self.context, &mut on_frame);
            let outcome = match was_undelivered {
                true => self.assembler.resume(sink),
                false => self.assembler.finish(sink),
            };
            if self.finish_delivery(outcome)? == Flow::Break(()) {
                return Ok(false);
            }
            if !was_undelivered {
                break;
            }
        }
        Ok(true)
    }

    /// Replaces the framing. Undelivered bytes are decoded with the new framing, except the bytes
    /// of a frame that is being skipped: the former framing skips that frame to its end.
    pub fn reframe(&mut self, framing: Framing) {
        let former = std::mem::replace(&mut self.context.framing, framing);
        self.assembler.reframe(&former);
    }

    /// Returns true if bytes are buffered that were not passed to the codec, because a callback
    /// stopped the delivery or the framing was replaced.
    #[must_use]
    pub fn has_undelivered(&self) -> bool {
        self.assembler.has_undelivered()
    }

    /// Returns the number of bytes that were read and not delivered.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.assembler.len()
    }

    /// Returns the capacity of the buffer of undelivered bytes. It is 0 if no byte is buffered and
    /// no frame is being skipped.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.assembler.capacity()
    }

    /// Moves the buffered bytes into a buffer of their size. A reactor does so if a buffer stays
    /// far larger than its content for a second.
    pub fn shrink_to_fit(&mut self) {
        self.assembler.shrink_to_fit(&mut self.context.pool);
    }

    /// Returns the number of bytes copied so far: bytes copied into a buffer, and bytes copied from
    /// one buffer to another.
    #[must_use]
    pub fn moved_bytes(&self) -> u64 {
        self.context.pool.moved_bytes
    }

    /// Returns the number of frames that were skipped because they are too long.
    #[must_use]
    pub fn frames_skipped(&self) -> u64 {
        self.context.frames_skipped
    }

    /// Returns the number of bytes between frames that belong to no frame: see
    /// [`Stats::filler_bytes`](crate::Stats).
    #[must_use]
    pub fn filler_bytes(&self) -> u64 {
        self.context.filler_bytes
    }

    /// Returns the stream offset of the first buffered byte. After an error, returns the stream
    /// offset of the offending frame.
    #[must_use]
    pub fn offset(&self) -> u64 {
        let held = self.undecoded.unwrap_or(self.assembler.len());
        self.read_bytes - held as u64
    }

    #[inline]
    fn finish_delivery(&mut self, outcome: Delivery) -> Result<Flow, FrameError> {
        match outcome {
            Delivery::NeedMore => Ok(Flow::Continue(())),
            Delivery::Stopped => Ok(Flow::Break(())),
            Delivery::Failed(failed) => {
                self.assembler.clear(&mut self.context.pool);
                self.undecoded = Some(failed.undecoded);
                Err(failed.error)
            }
        }
    }
}

impl fmt::Debug for ReadSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadSide")
            .field("framing", &self.context.framing)
            .field("offset", &self.offset())
            .field("held_bytes", &self.held_bytes())
            .finish_non_exhaustive()
    }
}

/// The parts of a [`ReadSide`] that its sink uses.
struct SinkContext {
    framing: Framing,
    pool: Pool,
    frames_skipped: u64,
    filler_bytes: u64,
}

/// Sink that passes the frames to a closure.
struct ClosureSink<'a, F>(&'a mut SinkContext, F);

impl<F> FrameSink for ClosureSink<'_, F>
where
    F: FnMut(&[u8]) -> ControlFlow<()>,
{
    fn kind(&self) -> &Kind {
        self.0.framing.kind()
    }

    fn frame(&mut self, frame: &[u8]) -> Flow {
        (self.1)(frame)
    }

    fn skipped(&mut self, _: Skipped) -> Flow {
        self.0.frames_skipped += 1;
        Flow::Continue(())
    }

    fn filler(&mut self, bytes: u64) {
        self.0.filler_bytes = self.0.filler_bytes.saturating_add(bytes);
    }

    fn buffer_is_oversized(&mut self) {}

    fn now(&self) -> Stamp {
        Stamp::default()
    }

    fn pool(&mut self) -> &mut Pool {
        &mut self.0.pool
    }
}
