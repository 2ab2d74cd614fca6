//! Output that is not framed like the input: `send_unframed`, and a framing with a separate output
//! framing.

mod common;

use std::io::Read;
use std::sync::Arc;

use common::{Event, FRAMINGS, Probe, deposit, drive, frame, listening, open, open_narrow};
use unstick::cutmap::EventKind;
use unstick::{
    Config, Deframer, FrameError, FramedStream, Framer, Framing, LengthField, SendError, Sent,
};

/// Length in bytes that exceeds the batch, the high watermark and the segments of a write queue.
const LONG: usize = 400_000;

/// Returns a probe that replies to each frame: it sends a frame, unframed bytes and another frame
/// to each connection.
fn mixes() -> Probe {
    let mut conns = Vec::new();
    Probe::new(move |cx, event| match event {
        Event::Open(conn, _) => conns.push(*conn),
        Event::Frame(_, payload) => {
            for conn in &conns {
                let _ = cx.send(*conn, payload).expect("the queue has space");
                let sent = cx.send_unframed(*conn, b"01\n;;");
                assert!(matches!(sent, Ok(Sent::Queued)), "{sent:?}");
                let _ = cx.send(*conn, payload).expect("the queue has space");
            }
        }
        _ => {}
    })
}

/// The three connections use three paths. The first is the active connection, so its output is
/// batched. The output of the second is queued. The third has its own limits.
#[test]
fn unframed_bytes_keep_their_order_among_frames() {
    for name in FRAMINGS {
        let framing: Framing = name.parse().expect("the short name is valid");
        let (mut reactor, addr) = listening(mixes(), Config::default(), framing);
        let mut conns = [(); 3].map(|()| open(&mut reactor, addr));
        let own = conns[2].1;
        let set = reactor.with(|_, cx| cx.set_limits(own, cx.limits(own)?));
        set.expect("the limits are valid");
        let (client, conn) = &mut conns[0];
        deposit(&mut reactor, client, *conn, &frame(name, b"request"));
        drive(&mut reactor, |it| it.stats().frames_out == 9);
        let answer = frame(name, b"request");
        let expected = [&answer[..], b"01\n;;", &answer].concat();
        for (client, _) in &mut conns {
            let mut received = vec![0; expected.len()];
            client
                .read_exact(&mut received)
                .expect("the output arrives");
            assert_eq!(
                received.escape_ascii().to_string(),
                expected.escape_ascii().to_string()
            );
        }
    }
}

#[test]
fn unframed_bytes_keep_the_limits_of_the_write_queue() {
    let mut config = Config::default();
    config.write_queue_bytes_max = 2 * LONG;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::length_u32());
    let (mut client, conn) = open_narrow(&mut reactor, addr);
    reactor.with(|_, cx| {
        let sent = cx.send_unframed(conn, b"");
        assert!(matches!(sent, Ok(Sent::Queued)));
        assert_eq!(cx.queued_bytes(conn), Ok(0));
        let sent = cx.send_unframed(conn, &[1; LONG]);
        assert!(matches!(sent, Ok(Sent::AboveHigh)));
        let _ = cx.send(conn, &[2; LONG - 4]).expect("the queue has space");
        let sent = cx.send_unframed(conn, &[3]);
        assert!(matches!(sent, Err(SendError::Full)), "{sent:?}");
        assert_eq!(cx.queued_bytes(conn), Ok(2 * LONG));
        cx.half_close(conn).expect("the connection is open");
        let sent = cx.send_unframed(conn, &[4]);
        assert!(matches!(sent, Err(SendError::Closing)), "{sent:?}");
    });
    let mut received = common::read_slowly(&mut reactor, &mut client, 2 * LONG);
    assert_eq!(received.split_off(LONG)[4..], [2; LONG - 4]);
    assert!(received.iter().all(|byte| *byte == 1));
    let is_drained = |event: &Event| matches!(event, Event::Drained(_));
    assert_eq!(reactor.handler().count(is_drained), 1);
    drop(client);
    drive(&mut reactor, |it| it.stats().closed == 1);
    let sent = reactor.with(|_, cx| cx.send_unframed(conn, b"stale"));
    assert!(matches!(sent, Err(SendError::Gone)), "{sent:?}");
}

#[test]
fn unframed_bytes_are_recorded_like_a_send() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let (mut client, conn) = open(&mut reactor, addr);
    let recording = reactor.with(|_, cx| {
        cx.record(conn).expect("the connection is open");
        let _ = cx.send(conn, b"four").expect("the queue has space");
        let _ = cx.send_unframed(conn, b"N").expect("the queue has space");
        cx.take_recording()
    });
    let sends = recording
        .events()
        .iter()
        .filter(|event| event.kind == EventKind::Send);
    let bounds: Vec<_> = sends.map(|event| (event.offset, event.len)).collect();
    assert_eq!(bounds, [(0, 8), (8, 1)]);
    drive(&mut reactor, |it| it.stats().written_bytes == 9);
    let mut received = [0; 9];
    client
        .read_exact(&mut received)
        .expect("the output arrives");
    assert_eq!(&received, b"\0\0\0\x04fourN");
}

/// Returns the output framings that are combined with another input framing.
fn outputs() -> Vec<Framing> {
    let mut outputs: Vec<Framing> = FRAMINGS
        .map(|name| name.parse().expect("the short name is valid"))
        .into();
    outputs.extend([
        Framing::delimiter(b"\r\n"),
        Framing::length_field(LengthField::new(2).leading(b"v1")),
        Framing::header_body(Framing::fixed(1), |header| Ok(u64::from(header[0]))),
    ]);
    outputs
}

/// `send`, `send_parts`, `send_with` and `send_owned` use the output framing. Decoding uses the
/// input framing.
#[test]
fn framing_with_output_encodes_like_its_output() {
    let payload = b"\x05hello".as_slice();
    for output in outputs() {
        let framing = Framing::delimiter(b"\r\n\r\n").with_output(output.clone());
        let mut plain = Framer::new(output.clone());
        let mut split = Framer::new(framing.clone());
        let expected = plain.frame(payload).expect("the payload fits").to_vec();
        assert_eq!(split.frame(payload).expect("the payload fits"), expected);
        let parts = split.frame_parts(&[&payload[..1], &payload[1..]]);
        assert_eq!(parts.expect("the payload fits"), expected);
        let mut deframer = Deframer::new(framing.clone().frame_len_max(7));
        deframer.extend(b"GET /\r\n\r\nfar too long");
        assert_eq!(
            deframer.next_frame().expect("the first frame is valid"),
            Some(&b"GET /"[..])
        );
        let error = deframer.next_frame().expect_err("the input has a limit");
        assert!(matches!(error.error, FrameError::TooLong { .. }));
        assert_eq!(framing.to_string(), "delimiter-\\r\\n\\r\\n");

        let probe = Probe::new(move |cx, event| {
            if let Event::Frame(conn, _) = event {
                let _ = cx.send(*conn, payload).expect("the queue has space");
                let _ = cx
                    .send_parts(*conn, &[payload])
                    .expect("the queue has space");
                let written = cx.send_with(*conn, |out| {
                    out.put(payload);
                    Ok(())
                });
                let _ = written.expect("the queue has space");
                let _ = cx
                    .send_owned(*conn, payload.to_vec())
                    .expect("the queue has space");
            }
        });
        let (mut reactor, addr) = listening(probe, Config::default(), framing);
        let (mut client, conn) = open(&mut reactor, addr);
        deposit(&mut reactor, &mut client, conn, b"GET /\r\n\r\n");
        drive(&mut reactor, |it| it.stats().frames_out == 4);
        let mut received = vec![0; 4 * expected.len()];
        client
            .read_exact(&mut received)
            .expect("the output arrives");
        assert_eq!(received, expected.repeat(4), "{output:?}");
        assert_eq!(reactor.handler().frames(), [b"GET /"]);
    }
}

/// The shortcuts for a `u32` length must not be used if only one direction has this framing.
#[test]
fn framing_with_output_may_share_one_direction_with_u32() {
    let raw = Framing::raw;
    for (input, output) in [
        ("raw", "u32"),
        ("u32", "raw"),
        ("u32", "u16"),
        ("u16", "u32"),
    ] {
        let [from, to] =
            [input, output].map(|name| name.parse::<Framing>().expect("the short name is valid"));
        let framing = from.with_output(raw().with_output(to));
        let (mut reactor, addr) = listening(Probe::echo(), Config::default(), framing);
        let (mut client, conn) = open(&mut reactor, addr);
        // The first reply makes the output buffer large enough for the shortcut.
        for (round, payload) in (1..).zip([&[b'a'; 1000][..], b"hello", b"hello"]) {
            deposit(&mut reactor, &mut client, conn, &frame(input, payload));
            drive(&mut reactor, |it| it.stats().frames_out == round);
            let expected = frame(output, payload);
            let mut received = vec![0; expected.len()];
            client
                .read_exact(&mut received)
                .expect("the output arrives");
            assert_eq!(received, expected, "{input} in, {output} out");
        }
    }
}

/// A long owned payload, which is queued without a copy, gets the output framing too.
#[test]
fn long_owned_payload_gets_the_output_framing() {
    let framing = Framing::line().with_output(Framing::length_u32());
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
    let (mut client, conn) = open(&mut reactor, addr);
    let payload: Arc<[u8]> = vec![b'\n'; LONG].into();
    let sent = reactor.with(|_, cx| cx.send_owned(conn, Arc::clone(&payload)));
    let _ = sent.expect("the queue has space");
    let received = common::read_slowly(&mut reactor, &mut client, LONG + 4);
    assert_eq!(received, frame("u32", &payload));
}

#[test]
fn framed_stream_with_output_answers_a_blocking_client() {
    let login = Framing::length_u16().with_output(Framing::raw());
    let (mut reactor, addr) = listening(Probe::echo(), Config::default(), Framing::raw());
    let mut tracker = FramedStream::new(common::client(addr), login);
    tracker.send(b"\0\x05hello").expect("the server reads");
    drive(&mut reactor, |it| it.stats().written_bytes == 7);
    let received = tracker.receive().expect("the echo arrives");
    assert_eq!(received, Some(&b"hello"[..]));
}
