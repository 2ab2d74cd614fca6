//! `TokioCodec`: decoders and encoders of the crate tokio-util, and `bytes::Bytes` as a payload.

mod common;

use std::io::{Read, Write};

use bytes::{Buf, Bytes, BytesMut};
use common::{Event, Probe, client, drive, listening};
use tokio_util::codec::{Decoder, LengthDelimitedCodec, LinesCodec, LinesCodecError};
use unstick::testkit::check_decoder;
use unstick::{Config, Framing, Payload, TokioCodec};

fn lines(codec: &mut TokioCodec<LinesCodec>, bytes: &[u8]) -> Vec<String> {
    codec
        .decode(bytes)
        .map(|line| line.expect("UTF-8"))
        .collect()
}

#[test]
fn tokio_decoder_gets_the_pieces_and_the_end_of_a_stream() {
    let mut codec = TokioCodec::new(LinesCodec::new());
    assert!(lines(&mut codec, b"on").is_empty());
    assert_eq!(lines(&mut codec, b"e\ntwo\nthr"), ["one", "two"]);
    assert_eq!(codec.buffered_len(), 3);
    codec.shrink_to_fit();
    let last: Vec<_> = codec.finish().collect();
    assert!(matches!(&last[..], [Ok(line)] if line == "thr"), "{last:?}");
    assert_eq!(codec.finish().count(), 0);
}

#[test]
fn items_that_were_not_taken_come_with_the_next_bytes() {
    let mut codec = TokioCodec::new(LinesCodec::new());
    let first = codec.decode(b"a\nb\nc").next();
    assert!(matches!(first, Some(Ok(line)) if line == "a"));
    assert_eq!(lines(&mut codec, b"\n"), ["b", "c"]);
}

#[test]
fn error_of_a_tokio_decoder_ends_its_stream() {
    let new = || LinesCodec::new_with_max_length(3);
    let mut codec = TokioCodec::new(new());
    let items: Vec<_> = codec.decode(b"ab\nabcdef\ngh\n").collect();
    assert!(
        matches!(&items[..], [Ok(line), Err(_)] if line == "ab"),
        "{items:?}"
    );
    assert_eq!(codec.decode(b"ij\n").count(), 0);
    assert_eq!(codec.finish().count(), 0);
    assert_eq!(codec.buffered_len(), 0);
}

/// `LinesCodec::new` has no own limit.
#[test]
fn buffer_of_an_endless_item_is_bounded() {
    let mut codec = TokioCodec::new(LinesCodec::new()).buffer_len_max(1000);
    for _ in 0..10 {
        assert_eq!(codec.decode(&[b'x'; 100]).count(), 0);
    }
    let error = codec.decode(b"x").next();
    let Some(Err(LinesCodecError::Io(error))) = error else {
        panic!("{error:?}");
    };
    assert_eq!(
        error.to_string(),
        "frame of 1001 bytes exceeds the limit of 1000"
    );
    assert_eq!(codec.buffered_len(), 0);
}

#[test]
fn framed_payload_is_decoded_into_items() {
    let payload = TokioCodec::new(LengthDelimitedCodec::new())
        .encode(Bytes::from_static(b"inner"))
        .expect("the item is short")
        .to_vec();
    let (mut reactor, addr) = listening(Probe::echo(), Config::new(), Framing::length_u16());
    let mut client = client(addr);
    let frame = common::frame("u16", &payload);
    client.write_all(&frame).expect("loopback sends");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
    let mut codec = TokioCodec::new(LengthDelimitedCodec::new());
    let items = codec.decode(reactor.handler().frames()[0]);
    let items: Vec<BytesMut> = items.map(|it| it.expect("it is valid")).collect();
    assert_eq!(items, [&b"inner"[..]]);
}

/// A decoder with a bug: it loses a byte that arrives alone.
#[derive(Debug)]
struct LosesSingles;

impl Decoder for LosesSingles {
    type Item = BytesMut;
    type Error = std::io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<BytesMut>, std::io::Error> {
        if input.len() == 1 {
            input.advance(1);
        }
        Ok((input.len() >= 2).then(|| input.split_to(2)))
    }
}

#[test]
fn check_decoder_passes_a_good_decoder_and_finds_a_bug() {
    let items = check_decoder(LengthDelimitedCodec::new, b"\0\0\0\x02ab\0\0\0\0");
    assert_eq!(items.len(), 2);
    let check = || check_decoder(|| LosesSingles, b"abcd");
    let message = std::panic::catch_unwind(check).expect_err("the bug is found");
    let message = message.downcast::<String>().expect("a text");
    assert!(
        message.starts_with(r#"the pieces ["a", "bcd"] give"#),
        "{message}"
    );
}

/// The reactor holds the only other reference to the bytes, so they were not copied.
#[test]
fn long_bytes_are_sent_without_a_copy() {
    let bytes = Bytes::from(vec![7; 1 << 20]);
    let (mut reactor, addr) = listening(Probe::silent(), Config::new(), Framing::length_u32());
    let mut client = client(addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    reactor.with(|probe, cx| {
        let Some(Event::Open(conn, _)) = probe.events.first() else {
            panic!("no connection is open: {:?}", probe.events);
        };
        let _ = cx.send_owned(*conn, bytes.clone()).expect("it is open");
        assert!(!bytes.is_unique(), "the bytes were copied");
    });
    let reader = std::thread::spawn(move || {
        let mut received = vec![0; 4 + (1 << 20)];
        client.read_exact(&mut received).map(|()| received)
    });
    drive(&mut reactor, |_| reader.is_finished());
    let received = reader.join().expect("no panic").expect("all arrives");
    assert_eq!(received[4..], bytes);
    assert!(bytes.is_unique(), "the reactor still holds the bytes");
    let payload = Payload::from(BytesMut::from(&b"ab"[..]));
    assert_eq!(Vec::from(payload.clone()), b"ab");
    assert_eq!(payload.into_shared()[..], *b"ab");
}
