//! Owned payloads (`send_owned`): their order among borrowed payloads, their copies, and the return
//! of a refused payload.

mod common;

use std::io::{Read, Write};
use std::sync::Arc;

use common::{Event, Probe, drive, frame, idle, listening, open, open_narrow, read_slowly};
use unstick::{Config, ConnId, Context, Framing, LengthField, Payload, Reactor, SendError};

const LONG_LEN: usize = 100_000;

fn long(byte: u8) -> Vec<u8> {
    vec![byte; LONG_LEN]
}

fn send_owned(reactor: &mut Reactor<Probe>, conn: ConnId, payload: impl Into<Payload>) {
    let sent = reactor.with(|_, cx| cx.send_owned(conn, payload));
    sent.map(drop).expect("the payload is accepted");
}

/// Returns the expected bytes: `payloads`, each encoded alone by a framer.
fn sent_one_by_one(framing: &Framing, payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut framer = unstick::Framer::new(framing.clone());
    let mut bytes = Vec::new();
    for payload in payloads {
        bytes.extend_from_slice(framer.frame(payload).expect("the payload can be encoded"));
    }
    bytes
}

/// Sends five payloads in order; the second, third and fifth are owned.
fn send_five(cx: &mut Context<'_, Probe>, conn: ConnId, payloads: &[Vec<u8>; 5]) {
    let mut owned = payloads.clone().map(Payload::from);
    owned[4] = Arc::<[u8]>::from(&payloads[4][..]).into();
    let [a, b, c, d, e] = owned;
    let accepted = "the write queue has space";
    cx.send(conn, &a).map(drop).expect(accepted);
    cx.send_owned(conn, b).map(drop).expect(accepted);
    cx.send_owned(conn, c).map(drop).expect(accepted);
    cx.send(conn, &d).map(drop).expect(accepted);
    cx.send_owned(conn, e).map(drop).expect(accepted);
}

#[test]
fn owned_and_borrowed_payloads_keep_their_order() {
    let framings = [
        Framing::raw(),
        Framing::line(),
        Framing::length_u32(),
        Framing::length_u24_le(),
        Framing::varint(),
        Framing::netstring(),
        Framing::delimiter(b";;"),
        // This trailer is longer than the space reserved for the bytes around a payload.
        Framing::delimiter(&[b';'; 200]),
        Framing::length_field(LengthField::new(4)),
        Framing::line().skip_between(b"\n"),
    ];
    for framing in framings {
        let payloads = [
            b"a".to_vec(),
            long(b'b'),
            b"c".to_vec(),
            long(b'd'),
            long(b'e'),
        ];
        let expected = sent_one_by_one(&framing, &payloads);
        // Send outside a dispatch, and then within a dispatch, in which earlier output is batched.
        for is_in_dispatch in [false, true] {
            let sent = payloads.clone();
            let handler = Probe::new(move |cx, event| {
                if let Event::Frame(conn, _) = event {
                    send_five(cx, *conn, &sent);
                }
            });
            let (mut reactor, addr) = listening(handler, Config::default(), framing.clone());
            let (mut client, conn) = open_narrow(&mut reactor, addr);
            if is_in_dispatch {
                let request = sent_one_by_one(&framing, &[b"go".to_vec()]);
                client.write_all(&request).expect("the write succeeds");
                drive(&mut reactor, |reactor| {
                    !reactor.handler().frames().is_empty()
                });
            } else {
                reactor.with(|_, cx| send_five(cx, conn, &payloads));
            }
            let read = read_slowly(&mut reactor, &mut client, expected.len());
            assert!(
                read == expected,
                "{framing}, within a dispatch: {is_in_dispatch}"
            );
            let stats = reactor.stats();
            assert_eq!((stats.frames_out, stats.held_bytes), (5, 0), "{framing}");
        }
    }
}

/// The peer skips `\n` between frames, so it would skip the first byte of this payload.
#[test]
fn owned_payload_that_begins_with_a_skipped_byte_is_refused() {
    let framing = Framing::delimiter(b"\0").skip_between(b"\n");
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
    let (_client, conn) = open(&mut reactor, addr);
    let payload = [b"\n".to_vec(), long(b'x')].concat();
    let sent = reactor.with(|_, cx| cx.send_owned(conn, payload));
    let refused = sent.expect_err("the payload begins with a skipped byte");
    assert!(matches!(refused.error, SendError::Frame(_)));
}

#[test]
fn owned_payload_is_returned_if_it_is_refused() {
    let mut config = Config::default();
    config.write_queue_bytes_max = 3 * LONG_LEN;
    config.write_high_bytes = LONG_LEN;
    config.write_low_bytes = 0;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::line());
    let (_client, conn) = open_narrow(&mut reactor, addr);
    let two_lines = [long(b'x'), b"\n".to_vec(), long(b'x')].concat();
    let refused = reactor.with(|_, cx| cx.send_owned(conn, two_lines.clone()));
    let refused = refused.expect_err("the payload contains a line ending");
    assert!(matches!(refused.error, SendError::Frame(_)));
    assert!(*refused.payload == two_lines);

    let mut accepted = 0;
    let refused = loop {
        match reactor.with(|_, cx| cx.send_owned(conn, long(b'y'))) {
            Ok(_) => accepted += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused.error, SendError::Full));
    assert!(*refused.payload == long(b'y'));
    assert_eq!(
        accepted, 2,
        "three payloads with their line endings exceed the limit"
    );
    let queued = reactor.with(|_, cx| cx.queued_bytes(conn));
    assert_eq!(queued.expect("the connection is open"), 2 * (LONG_LEN + 1));

    reactor.with(|_, cx| cx.abort(conn));
    idle(&mut reactor);
    assert_eq!(reactor.stats().held_bytes, 0);
    assert_eq!(
        reactor.handler().closes()[0].1.unsent_bytes,
        2 * (LONG_LEN as u64 + 1)
    );
    let refused = reactor.with(|_, cx| cx.send_owned(conn, long(b'z')));
    let refused = refused.expect_err("the connection is closed");
    assert!(matches!(refused.error, SendError::Gone));
}

/// Returns the number of bytes that `run` allocates.
fn allocated(run: impl FnOnce()) -> u64 {
    allocation_counter::measure(run).bytes_total
}

#[test]
fn broadcast_copies_a_long_payload_once() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let (clients, conns): (Vec<_>, Vec<_>) = (0..5).map(|_| open(&mut reactor, addr)).unzip();
    let payload = long(b'p');
    let mut count = 0;
    let bytes = allocated(|| count = reactor.with(|_, cx| cx.broadcast(conns, &payload)));
    assert_eq!(count, 5);
    assert!(
        bytes < 2 * LONG_LEN as u64,
        "broadcast allocated {bytes} bytes"
    );
    let expected = frame("u32", &payload);
    for mut client in clients {
        let read = std::thread::spawn(move || {
            let mut read = vec![0; LONG_LEN + 4];
            client
                .read_exact(&mut read)
                .expect("the peer sends these bytes");
            read
        });
        drive(&mut reactor, |_| read.is_finished());
        assert!(read.join().expect("the client thread does not panic") == expected);
    }
}

#[test]
fn owned_payload_is_not_copied_by_common_framings() {
    for framing in ["raw", "line", "u32", "varint", "netstring"] {
        let framing: Framing = framing.parse().expect("the name is a known framing");
        let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing.clone());
        let (_client, conn) = open_narrow(&mut reactor, addr);
        let payload = long(b'x');
        let bytes = allocated(|| send_owned(&mut reactor, conn, payload));
        assert!(
            bytes < LONG_LEN as u64 / 10,
            "{framing} allocates {bytes} bytes"
        );
    }
}

#[test]
fn owned_payload_is_written_by_one_system_call() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::netstring());
    let (mut client, conn) = open(&mut reactor, addr);
    let writes = reactor.stats().writes;
    send_owned(&mut reactor, conn, vec![b'x'; 20_000]);
    idle(&mut reactor);
    assert_eq!(reactor.stats().writes, writes + 1);
    let mut read = vec![0; 20_007];
    client
        .read_exact(&mut read)
        .expect("the peer sends these bytes");
    assert!(read.starts_with(b"20000:x") && read.ends_with(b"x,"));
}
