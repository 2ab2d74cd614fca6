//! The read side of a connection, without the socket.

use std::fmt;
use std::ops::ControlFlow;

use crate::codec::{Framing, Kind, Skipped};
use crate::conn::{Assembler, Delivery, Flow, Sink};
use crate::error::FrameError;
use crate::memory::{PageOffsetBox, Pool};
use crate::timer::Stamp;

/// The read side of a connection as the [`Reactor`](crate::Reactor) runs it, without the socket:
/// what a test feeds bytes to, and pauses or reframes between any two frames.
///
/// A callback that answers [`ControlFlow::Break`] stops the delivery behind its frame, as a handler
/// does that pauses its connection or exchanges its framing. While bytes are left undelivered
/// nothing is read: [`resume`](ReadSide::resume) goes on with them. Frames that are
/// [skipped](Framing::skip_too_long) are passed over. Where a callback panics, a reactor drops what
/// the connection held; this is then of no further use.
///
/// # Examples
///
/// A handshake by line, then frames with a length in front, all in one read:
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
    framing: Framing,
    assembler: Assembler,
    pool: Pool,
    /// What a read fills, as long as it is not of a frame with a buffer of its own.
    read_buffer: PageOffsetBox,
    frames_skipped: u64,
    read_bytes: u64,
    /// Bytes of an erroneous stream, from the offending frame on.
    undecoded: Option<usize>,
}

impl ReadSide {
    /// A connection that nothing was read from yet.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            assembler: Assembler::default(),
            pool: Pool::new(0),
            read_buffer: PageOffsetBox::new(0),
            frames_skipped: 0,
            read_bytes: 0,
            undecoded: None,
        }
    }

    /// One read, which finds `bytes`, and the frames that they complete. Answers how many of them
    /// it took: fewer where the rest of a long frame is read straight into its buffer, as far as
    /// there is room; none while bytes are [undelivered](ReadSide::has_undelivered), or after an
    /// error.
    ///
    /// # Errors
    ///
    /// What the codec says of the bytes at [`offset`](ReadSide::offset). It is final.
    #[inline]
    pub fn read<F>(&mut self, bytes: &[u8], on_frame: F) -> Result<usize, FrameError>
    where
        F: FnMut(&[u8]) -> ControlFlow<()>,
    {
        let is_to_ingest = self.assembler.is_to_ingest() && self.undecoded.is_none();
        let read = match self.read_buffer.bytes_mut().get_mut(..bytes.len()) {
            Some(read) if is_to_ingest && !read.is_empty() => read,
            _ => return self.read_otherwise(bytes, on_frame),
        };
        read.copy_from_slice(bytes);
        self.read_bytes += bytes.len() as u64;
        let mut sink = Calls {
            framing: &self.framing,
            on_frame,
            pool: &mut self.pool,
            frames_skipped: &mut self.frames_skipped,
        };
        let outcome = self.assembler.ingest(read, &mut sink);
        self.heed(outcome).map(|_| bytes.len())
    }

    /// A read that is longer than any before, or straight into the buffer of a long frame, or none.
    #[inline(never)]
    fn read_otherwise<F>(&mut self, bytes: &[u8], on_frame: F) -> Result<usize, FrameError>
    where
        F: FnMut(&[u8]) -> ControlFlow<()>,
    {
        if self.has_undelivered() || self.undecoded.is_some() || bytes.is_empty() {
            return Ok(0);
        }
        let Some(room) = self.assembler.direct(bytes.len(), &mut self.pool) else {
            self.read_buffer = PageOffsetBox::new(bytes.len());
            return self.read(bytes, on_frame);
        };
        let len = room.len();
        room.copy_from_slice(&bytes[..len]);
        self.read_bytes += len as u64;
        let mut sink = Calls {
            framing: &self.framing,
            on_frame,
            pool: &mut self.pool,
            frames_skipped: &mut self.frames_skipped,
        };
        let outcome = self.assembler.ingest_direct(len, &mut sink);
        self.heed(outcome).map(|_| len)
    }

    /// Delivers what was left undelivered; nothing where nothing was.
    ///
    /// # Errors
    ///
    /// As for [`read`](ReadSide::read).
    pub fn resume<F>(&mut self, on_frame: F) -> Result<(), FrameError>
    where
        F: FnMut(&[u8]) -> ControlFlow<()>,
    {
        if !self.has_undelivered() || self.undecoded.is_some() {
            return Ok(());
        }
        let mut sink = Calls {
            framing: &self.framing,
            on_frame,
            pool: &mut self.pool,
            frames_skipped: &mut self.frames_skipped,
        };
        let outcome = self.assembler.resume(&mut sink);
        self.heed(outcome).map(drop)
    }

    /// The peer has ended its side: delivers what is left undelivered, and then what the codec
    /// makes of the rest. Answers `false` where the callback stopped it, and it is to be called
    /// again.
    ///
    /// # Errors
    ///
    /// As for [`read`](ReadSide::read).
    pub fn end<F>(&mut self, mut on_frame: F) -> Result<bool, FrameError>
    where
        F: FnMut(&[u8]) -> ControlFlow<()>,
    {
        while self.held_bytes() > 0 && self.undecoded.is_none() {
            let was_undelivered = self.has_undelivered();
            let assembler = &mut self.assembler;
            let mut sink = Calls {
                framing: &self.framing,
                on_frame: &mut on_frame,
                pool: &mut self.pool,
                frames_skipped: &mut self.frames_skipped,
            };
            let outcome = if was_undelivered {
                assembler.resume(&mut sink)
            } else {
                assembler.finish(&mut sink)
            };
            if self.heed(outcome)? == Flow::Stop {
                return Ok(false);
            }
            if !was_undelivered {
                break;
            }
        }
        Ok(true)
    }

    /// Exchanges the framing: the bytes not delivered yet belong to the new one.
    pub fn reframe(&mut self, framing: Framing) {
        self.framing = framing;
        self.assembler.reframe();
    }

    /// Whether bytes are held that the codec has not looked at, as the delivery was stopped before
    /// them or the framing was exchanged.
    #[must_use]
    pub fn has_undelivered(&self) -> bool {
        self.assembler.has_undelivered()
    }

    /// How many bytes were read and not delivered.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.assembler.len()
    }

    /// How large the buffer is that holds them; zero where none are held.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.assembler.capacity()
    }

    /// Puts the bytes that are held into a buffer of their size. A reactor does it where a buffer
    /// stays far larger than its bytes for a second.
    pub fn shrink_to_fit(&mut self) {
        self.assembler.shrink_to_fit(&mut self.pool);
    }

    /// How many bytes were copied so far, into a buffer or from a smaller one to a larger one.
    #[must_use]
    pub fn moved_bytes(&self) -> u64 {
        self.pool.moved_bytes
    }

    /// How many frames were skipped, as they were too long.
    #[must_use]
    pub fn frames_skipped(&self) -> u64 {
        self.frames_skipped
    }

    /// How many bytes of the stream lie before those that are held, or before the offending frame.
    #[must_use]
    pub fn offset(&self) -> u64 {
        let held = self.undecoded.unwrap_or(self.assembler.len());
        self.read_bytes - held as u64
    }

    #[inline]
    fn heed(&mut self, outcome: Delivery) -> Result<Flow, FrameError> {
        match outcome {
            Delivery::NeedMore => Ok(Flow::Continue),
            Delivery::Stopped => Ok(Flow::Stop),
            Delivery::Failed(failed) => {
                self.assembler.clear(&mut self.pool);
                self.undecoded = Some(failed.undecoded);
                Err(failed.error)
            }
        }
    }
}

impl fmt::Debug for ReadSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadSide")
            .field("framing", &self.framing)
            .field("offset", &self.offset())
            .field("held_bytes", &self.held_bytes())
            .finish_non_exhaustive()
    }
}

/// Hands the frames to a closure.
struct Calls<'a, F> {
    framing: &'a Framing,
    on_frame: F,
    pool: &'a mut Pool,
    frames_skipped: &'a mut u64,
}

impl<F> Sink for Calls<'_, F>
where
    F: FnMut(&[u8]) -> ControlFlow<()>,
{
    fn kind(&self) -> &Kind {
        self.framing.kind()
    }

    fn frame(&mut self, frame: &[u8]) -> Flow {
        match (self.on_frame)(frame) {
            ControlFlow::Continue(()) => Flow::Continue,
            ControlFlow::Break(()) => Flow::Stop,
        }
    }

    fn skipped(&mut self, _: Skipped) -> Flow {
        *self.frames_skipped += 1;
        Flow::Continue
    }

    fn buffer_is_oversized(&mut self) {}

    fn now(&self) -> Stamp {
        Stamp::default()
    }

    fn pool(&mut self) -> &mut Pool {
        self.pool
    }
}
