//! Checks of a framing: messages with the cuts of [`Cuts`], and the exact outcome of invalid bytes.

use std::ops::ControlFlow;

use unstick::testkit::{Cuts, ReadSide};
use unstick::{Decoded, Deframer, Framer, Framing};

/// Checks that each message is encoded as the bytes in its pair, and that all messages come back
/// from the cuts of [`Cuts`]. Needs at least three messages.
#[track_caller]
pub(crate) fn check(framing: &Framing, messages: &[(&[u8], &[u8])]) {
    let mut framer = Framer::new(framing.clone());
    let mut stream = Vec::new();
    let mut frames = Vec::new();
    assert!(messages.len() >= 3, "the check needs at least 3 messages");
    for &(message, wire) in messages {
        let encoded = framer.frame(message).expect("the message is valid");
        assert_eq!(
            encoded.escape_ascii().to_string(),
            wire.escape_ascii().to_string()
        );
        stream.extend_from_slice(wire);
        frames.push(message);
    }
    Cuts::of(framing).stream(&stream).expect(&frames).check();
}

/// Calls [`check`] with messages that a framing delivers with all of their bytes.
#[track_caller]
pub(crate) fn check_whole(framing: &Framing, messages: &[&[u8]]) {
    let pairs: Vec<_> = messages
        .iter()
        .map(|message| (*message, *message))
        .collect();
    check(framing, &pairs);
}

/// Checks the frames before an error, and the text of the error. Also checks that the cuts of
/// [`Cuts`] lead to the same frames and to an error.
#[track_caller]
pub(crate) fn check_error(framing: &Framing, stream: &[u8], frames: &[&[u8]], error: &str) {
    let mut deframer = Deframer::new(framing.clone());
    deframer.extend(stream);
    for frame in frames {
        let found = deframer.next_frame().expect("the frame is valid");
        assert_eq!(found, Some(*frame));
    }
    let found = deframer.next_frame().expect_err("the bytes are invalid");
    assert_eq!(found.error.to_string(), error);
    Cuts::of(framing)
        .stream(stream)
        .expect(frames)
        .expect_error()
        .check();
}

/// Checks that the cuts of [`Cuts`] lead to these frames and to no error.
#[track_caller]
pub(crate) fn check_frames(framing: &Framing, stream: &[u8], frames: &[&[u8]]) {
    Cuts::of(framing).stream(stream).expect(frames).check();
}

/// Checks the frames of a connection whose framing changes, with one cut at every offset and with a
/// cut after every byte. `framing_after` returns the framing for the bytes that follow a frame, or
/// `None` if the framing does not change.
#[track_caller]
pub(crate) fn check_changes(
    first: &Framing,
    stream: &[u8],
    expected: &[&[u8]],
    framing_after: impl Fn(&[u8]) -> Option<Framing>,
) {
    let mut cuts: Vec<Vec<&[u8]>> = (0..stream.len())
        .map(|cut| vec![&stream[..cut], &stream[cut..]])
        .collect();
    cuts.push(stream.chunks(1).collect());
    for pieces in cuts {
        let mut side = ReadSide::new(first.clone());
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for mut unread in pieces.iter().copied() {
            while !unread.is_empty() || side.has_undelivered() {
                let mut next = None;
                let mut take = |frame: &[u8]| {
                    frames.push(frame.to_vec());
                    next = framing_after(frame);
                    ControlFlow::Break(())
                };
                if side.has_undelivered() {
                    side.resume(&mut take).expect("the stream is valid");
                } else {
                    let read = side.read(unread, &mut take).expect("the stream is valid");
                    unread = &unread[read..];
                }
                if let Some(framing) = next {
                    side.reframe(framing);
                }
            }
        }
        let lens: Vec<_> = pieces.iter().map(|piece| piece.len()).collect();
        assert_eq!(frames, expected, "pieces of {lens:?} bytes");
    }
}

/// Checks that exactly one frame is skipped, and returns its length.
#[track_caller]
pub(crate) fn skipped_len(framing: &Framing, stream: &[u8]) -> u64 {
    let mut deframer = Deframer::new(framing.clone());
    deframer.extend(stream);
    let mut len = None;
    while let Some(decoded) = deframer.decode().expect("the stream is valid") {
        if let Decoded::Skipped(skipped) = decoded {
            assert_eq!(len.replace(skipped.len), None, "a second frame is skipped");
        }
    }
    len.expect("a frame is skipped")
}

/// Returns the error for a message that the framing does not encode.
#[track_caller]
pub(crate) fn refusal(framing: &Framing, message: &[u8]) -> String {
    let mut framer = Framer::new(framing.clone());
    framer
        .frame(message)
        .expect_err("the message is invalid")
        .to_string()
}
