//! The same framings without a socket of this crate's: for files, pipes, serial lines, blocking
//! sockets and other runtimes.
//!
//! [`Deframer`] turns bytes into frames and [`Framer`](crate::Framer) frames into bytes, both
//! without I/O; [`FramedStream`](crate::FramedStream) puts them on anything that reads and writes.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

use crate::codec::{AnyState, Framing, Skipped, Step};
use crate::error::{DecodeError, FrameError};
use crate::memory::Buf;

/// Room for a read where nothing is known about the frame to come.
const READ_LEN: usize = 8 * 1024;
/// How much larger than the bytes that came the buffer may be made for one frame.
const GROWTH: usize = 4;
/// The part of the buffer that is to be filled once in a while, and how many times its capacity may
/// come without that before it is exchanged for such a part.
const SHRINK: usize = 4;
/// What comes alone counts there as at least this part of the capacity: some hundred short frames
/// do as well as many long ones, and bursts with fewer between them find their buffer again.
const ALONE: usize = 64;

/// What a [`Deframer`] found in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decoded<'a> {
    /// A frame, without header or delimiter.
    Frame(&'a [u8]),
    /// A frame was too long, and was skipped: see [`Framing::skip_too_long`]. What of it is still
    /// to come will be dropped.
    Skipped(Skipped),
}

/// Finds the frames in bytes that come in pieces.
///
/// The bytes are put into [`spare_capacity_mut`](Deframer::spare_capacity_mut), or [`extend`](Deframer::extend) copies them
/// there; [`next_frame`](Deframer::next_frame) hands the frames out as slices of them. The buffer
/// grows with the bytes that came, never with the length that a header claims, and becomes smaller
/// again by and by where a burst made it much larger than what comes afterwards needs. Where
/// nothing comes afterwards it stays, as the next burst might come at once: see
/// [`shrink_to_fit`](Deframer::shrink_to_fit).
///
/// # Examples
///
/// ```
/// use unstick::{Deframer, Framing};
///
/// let mut deframer = Deframer::new(Framing::line());
/// let mut lines = Vec::new();
/// for piece in ["hel", "lo\nwo", "rld\nagain"] {
///     deframer.extend(piece.as_bytes());
///     while let Some(line) = deframer.next_frame()? {
///         lines.push(String::from_utf8_lossy(line).into_owned());
///     }
/// }
/// assert_eq!(lines, ["hello", "world"]);
/// assert_eq!(deframer.rest(), b"again");
/// # Ok::<(), unstick::DecodeError>(())
/// ```
pub struct Deframer {
    framing: Framing,
    state: AnyState,
    buf: Buf,
    /// Bytes still to come that belong to a skipped frame. While there are any, `buf` is empty.
    skip: u64,
    /// Bytes given so far: those in the buffer are the last of them.
    received: u64,
    /// How many of those, and what counts as such, came since the buffer was filled to a good part.
    since_filled: u64,
    frames_skipped: u64,
    /// What ended the stream.
    error: Option<FrameError>,
}

/// What a look at the buffer came to.
enum Found {
    /// The place of a frame that is consumed.
    Frame(Range<usize>),
    Skipped(Skipped),
    /// No frame yet.
    Nothing,
    Failed,
}

impl Deframer {
    /// A deframer at the beginning of a stream.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            state: AnyState::default(),
            buf: Buf::default(),
            skip: 0,
            received: 0,
            since_filled: 0,
            frames_skipped: 0,
            error: None,
        }
    }

    /// The next whole frame of the bytes given so far; `None` where more are needed. Frames that
    /// are [skipped](Framing::skip_too_long) are passed over, and
    /// [counted](Deframer::frames_skipped).
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes, and where. It is final: whatever is asked afterwards, the same
    /// error is answered, and bytes that are given are dropped. [`rest`](Deframer::rest) begins
    /// with the offending frame.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, DecodeError> {
        match self.next_place(false)? {
            Some(place) => Ok(Some(self.buf.at(place))),
            None => Ok(None),
        }
    }

    /// As [`next_frame`](Deframer::next_frame), for a stream that has ended: where no whole frame
    /// is left, some framings have a last one without an end. Called until it answers `None`, it
    /// leaves what is no frame in [`rest`](Deframer::rest).
    ///
    /// # Errors
    ///
    /// As for [`next_frame`](Deframer::next_frame).
    pub fn last_frame(&mut self) -> Result<Option<&[u8]>, DecodeError> {
        // A codec is told of the end only when it has taken all whole frames.
        let place = match self.next_place(false)? {
            None => self.next_place(true)?,
            place => place,
        };
        Ok(place.map(|place| self.buf.at(place)))
    }

    /// As [`next_frame`](Deframer::next_frame), but skipped frames are told of one by one, in their
    /// order among the others.
    ///
    /// # Errors
    ///
    /// As for [`next_frame`](Deframer::next_frame).
    pub fn decode(&mut self) -> Result<Option<Decoded<'_>>, DecodeError> {
        let found = self.look(false);
        self.decoded(found)
    }

    /// As [`last_frame`](Deframer::last_frame), but skipped frames are told of as by
    /// [`decode`](Deframer::decode).
    ///
    /// # Errors
    ///
    /// As for [`next_frame`](Deframer::next_frame).
    pub fn decode_last(&mut self) -> Result<Option<Decoded<'_>>, DecodeError> {
        let found = match self.look(false) {
            Found::Nothing => self.look(true),
            found => found,
        };
        self.decoded(found)
    }

    /// Appends bytes of the stream; after an error they are dropped.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.let_go();
            self.buf.put(bytes);
            self.came(bytes.len());
        }
    }

    /// Room to read into, never empty; [`advance`](Deframer::advance) tells how much of it was used.
    pub fn spare_capacity_mut(&mut self) -> &mut [u8] {
        self.let_go();
        let missing = self.buf.need.saturating_sub(self.buf.len());
        let wanted = missing.min((GROWTH - 1) * self.buf.len()).max(READ_LEN);
        self.buf.reserve(wanted);
        &mut self.buf.spare_mut()[..wanted]
    }

    /// Tells that the first `len` bytes of [`spare_capacity_mut`](Deframer::spare_capacity_mut) were filled.
    ///
    /// # Panics
    ///
    /// If that is more than there is room for.
    pub fn advance(&mut self, len: usize) {
        assert!(
            len <= self.buf.spare_len(),
            "no more can be filled than there was room for"
        );
        if self.error.is_none() {
            self.buf.advance(len);
            self.came(len);
        }
    }

    /// Exchanges the framing: the bytes not handed out yet belong to the new one, but for those of
    /// a frame that is being skipped by its length. An error stays.
    pub fn reframe(&mut self, framing: Framing) {
        self.framing = framing;
        self.state = AnyState::default();
        self.buf.need = 0;
    }

    /// Gives back the memory that the bytes not handed out do not need, all of it where there are
    /// none: for a stream that may be silent for long. The next bytes allocate anew.
    pub fn shrink_to_fit(&mut self) {
        self.buf.shrink_to_fit();
        self.since_filled = 0;
    }

    /// The bytes that are not handed out yet.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        self.buf.bytes()
    }

    /// How many bytes of the stream lie before [`rest`](Deframer::rest).
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.received - self.buf.len() as u64
    }

    /// How many frames were skipped, as they were too long.
    #[must_use]
    pub fn frames_skipped(&self) -> u64 {
        self.frames_skipped
    }

    /// Reads until a frame is there; `None` at the end of the stream. Skipped frames are passed
    /// over.
    ///
    /// # Errors
    ///
    /// * What `reader` answered; `Interrupted` is retried. Nothing is lost by it: after a
    ///   `WouldBlock` or a `TimedOut` in the middle of a frame, the next call reads on.
    /// * `UnexpectedEof` where the stream ends within a frame.
    /// * `InvalidData` with a [`DecodeError`] where the bytes are no frame.
    pub fn read_frame(&mut self, reader: &mut impl Read) -> io::Result<Option<&[u8]>> {
        let frame = loop {
            if let Some(frame) = self.next_place(false)? {
                break Some(frame);
            }
            let len = match reader.read(self.spare_capacity_mut()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            if len == 0 {
                break self.next_place(true)?;
            }
            self.advance(len);
        };
        if frame.is_none() && (!self.buf.is_empty() || self.skip > 0) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(frame.map(|place| self.buf.at(place)))
    }

    fn decoded(&self, found: Found) -> Result<Option<Decoded<'_>>, DecodeError> {
        match found {
            Found::Frame(place) => Ok(Some(Decoded::Frame(self.buf.at(place)))),
            Found::Skipped(skipped) => Ok(Some(Decoded::Skipped(skipped))),
            Found::Nothing => Ok(None),
            Found::Failed => Err(self.failure()),
        }
    }

    /// Where the next frame lies.
    #[inline]
    fn next_place(&mut self, has_ended: bool) -> Result<Option<Range<usize>>, DecodeError> {
        loop {
            match self.look(has_ended) {
                Found::Frame(place) => return Ok(Some(place)),
                Found::Skipped(_) => {}
                Found::Nothing => return Ok(None),
                Found::Failed => return Err(self.failure()),
            }
        }
    }

    fn look(&mut self, has_ended: bool) -> Found {
        loop {
            if self.error.is_some() {
                return Found::Failed;
            }
            let need = if has_ended { 1 } else { self.buf.need.max(1) };
            if self.buf.len() < need {
                return Found::Nothing;
            }
            self.buf.need = 0;
            let (kind, buf) = (self.framing.kind(), &mut self.buf);
            let step = if has_ended {
                self.state.checked_step(kind, buf.bytes(), true)
            } else {
                let shown = buf.len();
                // A frame is cut out where its codec is inlined; what else there is, in one place.
                let found = self.state.decode(kind, buf.bytes(), |step| match step {
                    Ok(Step::Frame { frame, consumed })
                        if frame.start <= frame.end
                            && frame.end <= consumed
                            && (1..=shown).contains(&consumed) =>
                    {
                        Ok((frame, consumed))
                    }
                    step => Err(step),
                });
                match found {
                    Ok((frame, consumed)) => {
                        let place = buf.place_of(frame);
                        buf.consume(consumed);
                        return Found::Frame(place);
                    }
                    Err(step) => step.and_then(|step| step.check(shown)),
                }
            };
            if let Some(found) = self.heed(step) {
                return found;
            }
        }
    }

    /// What a codec answered; `None` where it is to be asked again.
    #[inline(never)]
    fn heed(&mut self, step: Result<Step, FrameError>) -> Option<Found> {
        match step {
            Ok(Step::Frame { frame, consumed }) => {
                let place = self.buf.place_of(frame);
                self.buf.consume(consumed);
                return Some(Found::Frame(place));
            }
            Ok(Step::Need(need)) => {
                self.buf.need = need;
                return Some(Found::Nothing);
            }
            Ok(Step::Skip { bytes }) => self.skip(bytes),
            Ok(Step::SkipPart { bytes }) => self.skip(bytes as u64),
            Ok(Step::SkipFrame { bytes, len, limit }) => {
                self.skip(bytes);
                self.frames_skipped += 1;
                return Some(Found::Skipped(Skipped { len, limit }));
            }
            Err(error) => self.error = Some(error),
        }
        None
    }

    #[cold]
    fn failure(&self) -> DecodeError {
        let error = self.error.clone();
        DecodeError {
            error: error.expect("it is asked for where there is one"),
            offset: self.offset(),
        }
    }

    /// That many bytes were put into the buffer.
    #[inline]
    fn came(&mut self, len: usize) {
        self.received += len as u64;
        let (held, capacity) = (self.buf.len(), self.buf.capacity());
        if held >= capacity / SHRINK {
            self.since_filled = 0;
        } else if held > len {
            self.since_filled += len as u64;
        } else if len > 0 {
            self.since_filled += len.max(capacity / ALONE) as u64;
        }
        self.skip_front();
    }

    /// Gives memory back that a burst has left behind: where several times as much came since the
    /// buffer was filled to a good part.
    #[inline]
    fn let_go(&mut self) {
        let (len, capacity) = (self.buf.len(), self.buf.capacity());
        let is_due = self.since_filled >= (SHRINK * capacity) as u64;
        if is_due && capacity > 2 * READ_LEN && len < capacity / SHRINK {
            self.buf.exchange(capacity / SHRINK);
            self.since_filled = 0;
        }
    }

    fn skip(&mut self, bytes: u64) {
        self.skip = bytes;
        self.skip_front();
    }

    fn skip_front(&mut self) {
        let len = self.buf.len();
        let skipped = usize::try_from(self.skip).map_or(len, |skip| skip.min(len));
        self.buf.consume(skipped);
        self.skip -= skipped as u64;
    }
}

impl fmt::Debug for Deframer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deframer")
            .field("framing", &self.framing)
            .field("rest_len", &self.rest().len())
            .field("offset", &self.offset())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Codec, Out};
    use crate::framed::Framer;

    /// Gives its bytes in pieces of one length.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let len = self.1.min(buf.len()).min(self.0.len());
            let (piece, rest) = self.0.split_at(len);
            buf[..len].copy_from_slice(piece);
            self.0 = rest;
            Ok(len)
        }
    }

    #[test]
    fn frames_of_every_framing_come_back_whatever_the_pieces_are() {
        let framings = [
            Framing::line(),
            Framing::length_u8(),
            Framing::length_u24_le(),
            Framing::varint(),
            Framing::netstring(),
            Framing::fixed(40),
            Framing::delimiter(b"--"),
        ];
        for framing in framings {
            let mut framer = Framer::new(framing.clone());
            let mut stream = Vec::new();
            for index in 0..50_u8 {
                framer
                    .write_frame(&mut stream, &[index | 0x40; 40])
                    .expect("it fits");
            }
            for piece in [1, 2, 3, 39, 41, 1000, usize::MAX] {
                let mut reader = Pieces(&stream, piece);
                let mut deframer = Deframer::new(framing.clone());
                for index in 0..50_u8 {
                    let frame = deframer.read_frame(&mut reader).expect("a frame");
                    assert_eq!(frame, Some(&[index | 0x40; 40][..]), "{framing}, {piece}");
                }
                assert_eq!(deframer.read_frame(&mut reader).expect("the end"), None);
                assert_eq!(deframer.offset(), stream.len() as u64);
            }
        }
    }

    #[test]
    fn a_stream_that_ends_within_a_frame_is_an_unexpected_end() {
        let mut deframer = Deframer::new(Framing::length_u16());
        let error = deframer
            .read_frame(&mut &b"\x00\x05hell"[..])
            .expect_err("cut short");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(deframer.rest(), b"\x00\x05hell");
    }

    #[test]
    fn an_error_is_final_and_tells_where_it_is() {
        let mut deframer = Deframer::new(Framing::length_u8().frame_len_max(3));
        deframer.extend(b"\x01a\x04bcde\x01f");
        assert_eq!(deframer.next_frame().expect("a frame"), Some(&b"a"[..]));
        for _ in 0..3 {
            let DecodeError { error, offset } = deframer.next_frame().expect_err("over the limit");
            assert!(matches!(error, FrameError::TooLong { len: 4, limit: 3 }));
            assert_eq!((offset, deframer.offset()), (2, 2));
            deframer.extend(b"\x01g");
        }
    }

    #[test]
    fn a_header_reserves_nothing() {
        let mut deframer = Deframer::new(Framing::length_u32().frame_len_max(1 << 30));
        deframer.extend(&(1_u32 << 30).to_be_bytes());
        assert_eq!(deframer.next_frame().expect("not yet"), None);
        assert!(deframer.spare_capacity_mut().len() <= READ_LEN);
        assert!(deframer.buf.capacity() <= 2 * READ_LEN);
    }

    #[test]
    fn what_a_burst_made_of_the_buffer_is_given_back_by_and_by() {
        let mut framer = Framer::new(Framing::length_u32());
        let long = framer.frame(&[1; 1 << 20]).expect("it fits").to_vec();
        let short = framer.frame(&[2; 5000]).expect("it fits").to_vec();
        for reads in [false, true] {
            let mut deframer = Deframer::new(Framing::length_u32());
            let mut give = |bytes: &[u8]| {
                for piece in bytes.chunks(4000) {
                    if reads {
                        deframer.spare_capacity_mut()[..piece.len()].copy_from_slice(piece);
                        deframer.advance(piece.len());
                    } else {
                        deframer.extend(piece);
                    }
                    while let Some(frame) = deframer.next_frame().expect("frames") {
                        assert!([1 << 20, 5000].contains(&frame.len()));
                    }
                }
                deframer.buf.capacity()
            };
            let large = give(&long);
            assert!(large >= 1 << 20);
            for _ in 0..10 {
                assert_eq!(give(&long), large, "it is of use");
                (0..100).for_each(|_| assert_eq!(give(&short), large, "and may be again"));
            }
            let small = (0..20_000).map(|_| give(&short)).last();
            assert!(small <= Some(2 * READ_LEN), "{small:?} bytes");
        }
    }

    #[test]
    fn what_a_burst_made_of_the_buffer_is_given_back_after_some_hundred_short_frames() {
        let mut framer = Framer::new(Framing::length_u32());
        let mut deframer = Deframer::new(Framing::length_u32());
        deframer.extend(framer.frame(&[1; 1 << 20]).expect("it fits"));
        assert!(deframer.next_frame().expect("a frame").is_some());
        let mut steps = Vec::new();
        for index in 0..2000 {
            let before = deframer.buf.capacity();
            deframer.extend(b""); // Nothing is no piece that came alone.
            deframer.extend(b"\0\0\0\x02ok");
            assert_eq!(deframer.next_frame().expect("a frame"), Some(&b"ok"[..]));
            if deframer.buf.capacity() != before {
                steps.push((index, deframer.buf.capacity()));
            }
        }
        let pieces = SHRINK * ALONE;
        let expected = [1 << 19, 1 << 17, 1 << 15, 1 << 13];
        let expected: Vec<_> = (1..).map(|step| step * pieces).zip(expected).collect();
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_stream_that_falls_silent_can_be_left_with_what_its_bytes_need() {
        let mut framer = Framer::new(Framing::length_u32());
        let long = framer.frame(&[1; 1 << 20]).expect("it fits").to_vec();
        for rest in [&b""[..], b"\0", b"\0\0\0\x05hel"] {
            let mut deframer = Deframer::new(Framing::length_u32());
            for _ in 0..2 {
                deframer.extend(&long);
                deframer.extend(rest);
                assert!(deframer.next_frame().expect("a frame").is_some());
                assert_eq!(deframer.next_frame().expect("no more"), None);
                assert!(deframer.buf.capacity() >= 1 << 20);
                deframer.shrink_to_fit();
                assert_eq!(deframer.buf.capacity(), rest.len());
                assert_eq!(deframer.rest(), rest);
                deframer.extend(&b"\0\0\0\x05hello"[rest.len()..]);
                let frame = deframer.next_frame().expect("a frame");
                assert_eq!(frame, Some(&b"hello"[..]));
            }
            assert_eq!(deframer.offset(), 2 * (long.len() as u64 + 9));
        }
    }

    #[test]
    fn a_new_framing_looks_at_once_at_all_that_is_left() {
        let mut deframer = Deframer::new(Framing::line());
        deframer.extend(b"a;b;");
        assert_eq!(deframer.next_frame().expect("no line"), None);
        deframer.reframe(Framing::delimiter(b";"));
        assert_eq!(deframer.next_frame().expect("a frame"), Some(&b"a"[..]));
    }

    #[test]
    fn the_framing_can_change_between_two_frames_of_one_read() {
        let mut deframer = Deframer::new(Framing::line());
        deframer.extend(b"binary please\n\x00\x02ok");
        assert_eq!(
            deframer.next_frame().expect("a line"),
            Some(&b"binary please"[..])
        );
        deframer.reframe(Framing::length_u16());
        assert_eq!(deframer.next_frame().expect("a frame"), Some(&b"ok"[..]));
    }

    /// Asks for ten bytes, and takes it amiss to be shown less or to be told of the end too early.
    struct Ten;

    impl Codec for Ten {
        type State = bool;

        fn decode(&self, has_asked: &mut bool, bytes: &[u8]) -> Result<Step, FrameError> {
            assert!(
                !*has_asked || bytes.len() >= 10,
                "it is asked when they are there"
            );
            *has_asked = bytes.len() < 10;
            if *has_asked {
                return Ok(Step::Need(10));
            }
            Ok(Step::Frame {
                frame: 0..10,
                consumed: 10,
            })
        }

        fn finish(&self, _: &mut bool, rest: &[u8]) -> Result<Step, FrameError> {
            assert!(rest.len() < 10, "whole frames are taken before the end");
            Ok(Step::Frame {
                frame: 0..rest.len(),
                consumed: rest.len(),
            })
        }

        fn encode(&self, _: &[u8], _: &mut Out<'_>) -> Result<(), FrameError> {
            Ok(())
        }
    }

    #[test]
    fn a_codec_is_asked_again_when_what_it_needs_is_there() {
        let mut deframer = Deframer::new(Framing::custom(Ten));
        for byte in b"abcdefghi" {
            deframer.extend(&[*byte]);
            assert_eq!(deframer.next_frame().expect("no error"), None);
        }
        deframer.extend(b"j0");
        let frame = deframer.next_frame().expect("no error");
        assert_eq!(frame, Some(&b"abcdefghij"[..]));
        assert_eq!(deframer.next_frame().expect("no error"), None);
    }

    #[test]
    fn last_frame_gives_all_whole_frames_first() {
        let mut deframer = Deframer::new(Framing::custom(Ten));
        deframer.extend(b"0123456789abcdefghijklm");
        let mut lens = Vec::new();
        while let Some(frame) = deframer.last_frame().expect("no error") {
            lens.push(frame.len());
        }
        assert_eq!(lens, [10, 10, 3]);

        let mut deframer = Deframer::new(Framing::length_u8());
        deframer.extend(b"\x01a\x01b\x05cut");
        assert_eq!(deframer.last_frame().expect("no error"), Some(&b"a"[..]));
        assert_eq!(deframer.last_frame().expect("no error"), Some(&b"b"[..]));
        assert_eq!(deframer.last_frame().expect("no error"), None);
        assert_eq!(deframer.rest(), b"\x05cut");
    }

    /// `.` and a length is skipped, with so many bytes behind it; any other byte is a frame.
    struct Gaps;

    impl Codec for Gaps {
        type State = ();

        fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
            Ok(match *bytes {
                [b'.'] => Step::Need(2),
                [b'.', len, ..] => Step::Skip {
                    bytes: 2 + u64::from(len),
                },
                _ => Step::Frame {
                    frame: 0..1,
                    consumed: 1,
                },
            })
        }

        fn encode(&self, _: &[u8], _: &mut Out<'_>) -> Result<(), FrameError> {
            Ok(())
        }
    }

    #[test]
    fn skipped_bytes_are_dropped_however_they_come() {
        let stream = b"a.\x05xxxxxb.\0.\x03xxxc.\x09xxx";
        for piece_len in 1..=stream.len() {
            let mut deframer = Deframer::new(Framing::custom(Gaps));
            let mut frames = Vec::new();
            for (index, piece) in stream.chunks(piece_len).enumerate() {
                if index % 3 == 0 {
                    deframer.spare_capacity_mut()[..piece.len()].copy_from_slice(piece);
                    deframer.advance(piece.len());
                } else {
                    deframer.extend(piece);
                }
                while let Some(frame) = deframer.next_frame().expect("no error") {
                    frames.extend_from_slice(frame);
                }
            }
            assert_eq!(frames, b"abc", "in pieces of {piece_len}");
            assert_eq!(deframer.rest(), b"");
            assert_eq!(deframer.offset(), stream.len() as u64);
            let mut reader = Pieces(stream, piece_len);
            let mut deframer = Deframer::new(Framing::custom(Gaps));
            for frame in [b"a", b"b", b"c"] {
                let read = deframer.read_frame(&mut reader).expect("a frame");
                assert_eq!(read, Some(&frame[..]));
            }
            let error = deframer.read_frame(&mut reader).expect_err("cut short");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn a_stream_that_ends_in_a_frame_that_is_skipped_is_an_unexpected_end() {
        for (framing, stream) in [
            (Framing::line(), &b"ok\nfar too lo"[..]),
            (Framing::length_u8(), b"\x02ok\xFFfar too lo"),
            (Framing::length_u8(), b"\x02ok\xFF"),
        ] {
            for piece in 1..=stream.len() {
                let framing = framing.clone().frame_len_max(4).skip_too_long();
                let mut deframer = Deframer::new(framing);
                let mut reader = Pieces(stream, piece);
                let frame = deframer.read_frame(&mut reader).expect("a frame");
                assert_eq!(frame, Some(&b"ok"[..]));
                let error = deframer.read_frame(&mut reader).expect_err("cut short");
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            }
        }
    }

    #[test]
    fn what_is_skipped_at_the_end_of_the_stream_is_told_too() {
        let framing = Framing::delimiters(&[b";", b";;;"]);
        let mut deframer = Deframer::new(framing.frame_len_max(3).skip_too_long());
        deframer.extend(b"ok;long;");
        let frame = deframer.decode().expect("no error");
        assert_eq!(frame, Some(Decoded::Frame(b"ok")));
        assert_eq!(deframer.decode().expect("no error"), None, "or `;;;`");
        let skipped = Skipped { len: 4, limit: 3 };
        let last = deframer.decode_last().expect("no error");
        assert_eq!(last, Some(Decoded::Skipped(skipped)));
        assert_eq!(deframer.decode_last().expect("no error"), None);
        assert_eq!(deframer.rest(), b"");
    }

    #[test]
    fn skipped_frames_are_told_in_their_order_and_held_by_no_buffer() {
        let framing = Framing::line().frame_len_max(3).skip_too_long();
        let mut deframer = Deframer::new(framing);
        let mut told = Vec::new();
        for piece in [&b"a\nlon"[..], &[b'g'; 1 << 20], b"\nb\nlong\r\n"] {
            deframer.extend(piece);
            while let Some(decoded) = deframer.decode().expect("no error") {
                told.push(match decoded {
                    Decoded::Frame(frame) => frame.len() as u64,
                    Decoded::Skipped(skipped) => skipped.len,
                });
            }
            assert!(deframer.rest().len() <= 3);
        }
        assert_eq!(told, [1, (1 << 20) + 3, 1, 4]);
        assert_eq!(deframer.frames_skipped(), 2);
        let error = Deframer::new(Framing::varint().skip_too_long());
        let mut deframer = error;
        deframer.extend(&[0x80; 20]);
        deframer.next_frame().expect_err("malformed is final");
        for _ in 0..1000 {
            deframer.extend(&[1; 1000]);
            deframer.spare_capacity_mut()[0] = 1;
            deframer.advance(1);
            deframer.next_frame().expect_err("still");
            deframer.last_frame().expect_err("still");
        }
        assert_eq!(deframer.rest(), [0x80; 20]);
        assert!(deframer.buf.capacity() <= 2 * READ_LEN);
    }
}
