//! Deframers, connections and `Datagram::frame` detect a custom codec that breaks the `Codec`
//! contract. Decoding of the stream or datagram ends with `FrameError::Contract`. Other streams and
//! datagrams are not affected.

mod common;

use std::io::{ErrorKind, Write};
use std::net::UdpSocket;
use std::ops::ControlFlow;

use common::{Event, Probe, client, drive, listening};
use unstick::testkit::ReadSide;
use unstick::{
    CloseReason, Codec, Config, ConnId, Context, Datagram, DatagramFault, DecodeError, Decoded,
    Deframer, FrameError, Framing, Handler, Out, Reactor, Step, UdpId,
};

type MakeStep = fn(&[u8]) -> Step;

/// A codec that breaks its contract. A `g` is a valid frame of one byte. If the input begins with
/// `h` and has at least three bytes, the codec returns the wrong step at once. For other input, it
/// returns the wrong step at the end of the stream.
struct Hostile(MakeStep);

impl Codec for Hostile {
    /// Number of wrong steps returned so far.
    type State = u32;

    fn decode(&self, calls: &mut u32, bytes: &[u8]) -> Result<Step, FrameError> {
        match bytes[0] {
            b'g' => {
                let (frame, consumed) = (0..1, 1);
                Ok(Step::Frame { frame, consumed })
            }
            b'h' if bytes.len() >= 3 => self.finish(calls, bytes),
            _ => Ok(Step::Need(bytes.len().max(2) + 1)),
        }
    }

    fn finish(&self, calls: &mut u32, rest: &[u8]) -> Result<Step, FrameError> {
        *calls += 1;
        assert_eq!(
            *calls, 1,
            "the codec is not called again after a contract error"
        );
        Ok((self.0)(rest))
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(payload);
        Ok(())
    }
}

const fn frame(start: usize, end: usize, consumed: usize) -> Step {
    let frame = start..end;
    Step::Frame { frame, consumed }
}

const fn skip_frame(bytes: u64) -> Step {
    let (len, limit) = (9, 8);
    Step::SkipFrame { bytes, len, limit }
}

/// Ways to break the contract, each with a description.
const BROKEN: [(&str, MakeStep); 16] = [
    ("consumes 0 bytes", |_| frame(0, 0, 0)),
    ("consumes one byte too many", |bytes| {
        frame(0, 1, bytes.len() + 1)
    }),
    ("consumes usize::MAX bytes", |_| frame(0, 1, usize::MAX)),
    ("frame ends after the consumed bytes", |_| frame(0, 2, 1)),
    ("frame starts after the consumed bytes", |_| frame(1, 2, 1)),
    ("frame ends after the input", |bytes| {
        frame(0, bytes.len() + 1, bytes.len())
    }),
    ("frame ends before it starts", |_| frame(1, 0, 1)),
    ("frame starts at usize::MAX", |_| frame(usize::MAX, 1, 1)),
    ("needs 0 bytes", |_| Step::Need(0)),
    ("needs too few bytes", |bytes| Step::Need(bytes.len() - 1)),
    ("needs only the bytes that it has", |bytes| {
        Step::Need(bytes.len())
    }),
    ("skips 0 bytes", |_| Step::Skip { bytes: 0 }),
    ("skips a frame of 0 bytes", |_| skip_frame(0)),
    ("skips a part of 0 bytes", |_| Step::SkipPart { bytes: 0 }),
    ("skips all bytes as a part", |bytes| Step::SkipPart {
        bytes: bytes.len(),
    }),
    ("skips a part of usize::MAX bytes", |_| Step::SkipPart {
        bytes: usize::MAX,
    }),
];

/// Inputs that follow two valid frames. The codec breaks its contract within the stream for the
/// first input, and at the end of the stream for the second input.
const BAD_INPUTS: [&[u8]; 2] = [b"hxxgg", b"egg"];

fn is_contract(error: &FrameError) -> bool {
    matches!(error, FrameError::Contract(_))
}

#[test]
fn deframer_reports_contract_error_permanently() {
    for (fault, make_step) in BROKEN {
        for bad_input in BAD_INPUTS {
            for cut in 1..=2 + bad_input.len() {
                let stream = [b"gg", bad_input].concat();
                let mut deframer = Deframer::new(Framing::custom(Hostile(make_step)));
                let mut frames = 0;
                let mut error = None;
                for piece in [&stream[..cut], &stream[cut..]] {
                    deframer.extend(piece);
                    loop {
                        match deframer.next_frame() {
                            Ok(Some(_)) => frames += 1,
                            Ok(None) => break,
                            Err(failure) => {
                                error = Some(failure);
                                break;
                            }
                        }
                    }
                }
                let error = match error {
                    Some(error) => error,
                    None => deframer.last_frame().expect_err(fault),
                };
                assert!(is_contract(&error.error), "{fault}: {error}");
                assert_eq!((frames, error.offset), (2, 2), "{fault}");
                assert_eq!(deframer.offset(), 2, "{fault}");
                let rest = deframer.rest().to_vec();
                assert!(bad_input.starts_with(&rest) && !rest.is_empty(), "{fault}");

                deframer.extend(b"ggg");
                let again = [
                    deframer.next_frame().expect_err("the error is permanent"),
                    deframer.last_frame().expect_err("the error is permanent"),
                    deframer.decode().expect_err("the error is permanent"),
                    deframer.decode_last().expect_err("the error is permanent"),
                ];
                assert!(again.iter().all(|again| again.offset == 2), "{fault}");
                assert_eq!(deframer.rest(), rest, "{fault}");
            }
        }
    }
}

#[test]
fn read_frame_reports_contract_error_as_invalid_data() {
    for (fault, make_step) in BROKEN {
        for bad_input in BAD_INPUTS {
            let stream = [b"gg", bad_input].concat();
            let mut reader = &stream[..];
            let mut deframer = Deframer::new(Framing::custom(Hostile(make_step)));
            for _ in 0..2 {
                let frame = deframer
                    .read_frame(&mut reader)
                    .expect("the frame is valid");
                assert_eq!(frame, Some(&b"g"[..]));
            }
            let error = deframer.read_frame(&mut reader).expect_err(fault);
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{fault}");
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
            let DecodeError { error, offset, .. } =
                inner.expect("the inner error is a DecodeError");
            assert!(is_contract(error) && *offset == 2, "{fault}: {error}");
        }
    }
}

/// Cuts the stream into reads in every possible way.
#[test]
fn read_side_stops_at_contract_error_for_every_cut() {
    for (fault, make_step) in BROKEN {
        for bad_input in BAD_INPUTS {
            for flow in [ControlFlow::Continue(()), ControlFlow::Break(())] {
                let stream = [b"gg", bad_input].concat();
                for cuts in 0..1_usize << (stream.len() - 1) {
                    let mut side = ReadSide::new(Framing::custom(Hostile(make_step)));
                    let mut frames = 0;
                    let mut take = |_: &[u8]| {
                        frames += 1;
                        flow
                    };
                    let mut result = Ok(());
                    let mut rest = &stream[..];
                    while result.is_ok() && (side.has_undelivered() || !rest.is_empty()) {
                        if side.has_undelivered() {
                            result = side.resume(&mut take);
                            continue;
                        }
                        // A set bit `i` of `cuts` is a cut after byte `i`.
                        let at = stream.len() - rest.len();
                        let len = rest.len().min(1 + (cuts >> at).trailing_zeros() as usize);
                        let taken = side.read(&rest[..len], &mut take);
                        result = taken.map(|taken| rest = &rest[taken..]);
                    }
                    let error = match result {
                        Ok(()) => side.end(&mut take).expect_err(fault),
                        Err(error) => error,
                    };
                    assert!(is_contract(&error), "{fault}: {error}");
                    assert_eq!(side.read(b"ggg", &mut take).ok(), Some(0), "{fault}");
                    assert_eq!((frames, side.offset()), (2, 2), "{fault}, {cuts:#b}");
                }
            }
        }
    }
}

#[test]
fn contract_error_closes_only_its_own_connection() {
    for (fault, make_step) in BROKEN {
        for bad_input in BAD_INPUTS {
            let framing = Framing::custom(Hostile(make_step));
            let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
            let mut other = client(addr);
            drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
            let stream = [b"gg", bad_input].concat();
            client(addr)
                .write_all(&stream)
                .expect("the kernel accepts the bytes");
            drive(&mut reactor, |reactor| reactor.stats().closed == 1);
            let handler = reactor.handler();
            let closes = handler.closes();
            let [(conn, closed)] = closes[..] else {
                panic!("{fault}: {closes:?}");
            };
            let CloseReason::Frame { error, offset } = &closed.reason else {
                panic!("{fault}: {closed:?}");
            };
            assert!(is_contract(error) && *offset == 2, "{fault}: {closed:?}");
            assert_eq!(closed.undecoded_bytes, bad_input.len() as u64, "{fault}");
            let is_its_frame = |event: &Event| matches!(event, Event::Frame(of, _) if *of == conn);
            assert_eq!(handler.count(is_its_frame), 2, "{fault}");

            other.write_all(b"g").expect("the connection is open");
            drive(&mut reactor, |reactor| reactor.stats().frames_in == 3);
        }
    }
}

/// A handler that decodes each datagram as one frame.
struct Datagrams {
    framing: Framing,
    decoded: Vec<Result<Vec<u8>, DatagramFault>>,
}

impl Handler for Datagrams {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, (): &mut (), _: &[u8]) {}

    fn on_datagram(&mut self, _: &mut Context<'_, Self>, _: UdpId, datagram: Datagram<'_>) {
        let frame = datagram.frame(&self.framing);
        let decoded = frame.map(<[u8]>::to_vec).map_err(|error| error.fault);
        self.decoded.push(decoded);
    }
}

#[test]
fn contract_error_rejects_one_datagram_only() {
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    for (fault, make_step) in BROKEN {
        let handler = Datagrams {
            framing: Framing::custom(Hostile(make_step)),
            decoded: Vec::new(),
        };
        let mut reactor = Reactor::new(handler).expect("the reactor is created");
        let socket = reactor
            .bind_udp("127.0.0.1:0")
            .expect("a free port is available");
        let addr = reactor
            .local_inet_addr(socket)
            .expect("the socket is bound");
        for datagram in [&b"hxx"[..], b"e", b"g"] {
            peer.send_to(datagram, addr)
                .expect("the kernel accepts the datagram");
        }
        drive(&mut reactor, |reactor| reactor.handler().decoded.len() == 3);
        let [in_mid_stream, at_the_end, good] = &reactor.handler().decoded[..] else {
            panic!("the handler did not get three datagrams");
        };
        for rejected in [in_mid_stream, at_the_end] {
            let Err(DatagramFault::Frame(error)) = rejected else {
                panic!("{fault}: {rejected:?}");
            };
            assert!(is_contract(error), "{fault}: {error}");
        }
        assert_eq!(good.as_deref().ok(), Some(&b"g"[..]), "{fault}");
    }
}

/// A skip may be longer than the stream. The skipped bytes are not buffered. If the stream ends
/// within them, `decode_last` returns no frame, and `read_frame` returns `UnexpectedEof`.
#[test]
fn skip_beyond_the_stream_is_allowed_and_buffers_nothing() {
    let skips: [(MakeStep, u64); 2] = [
        (|_| Step::Skip { bytes: u64::MAX }, 0),
        (|_| skip_frame(u64::MAX), 1),
    ];
    for (make_step, frames_skipped) in skips {
        let mut deframer = Deframer::new(Framing::custom(Hostile(make_step)));
        deframer.extend(b"ghxx");
        let frame = deframer.decode().expect("the skip is valid");
        assert_eq!(frame, Some(Decoded::Frame(b"g")));
        let skipped = deframer.decode().expect("the skip is valid");
        assert_eq!(skipped.is_some(), frames_skipped == 1, "{skipped:?}");
        for _ in 0..1000 {
            deframer.extend(&[b'g'; 1000]);
            assert_eq!(deframer.decode().expect("the skip is valid"), None);
        }
        assert_eq!(deframer.decode_last().expect("the skip is valid"), None);
        assert_eq!(deframer.frames_skipped(), frames_skipped);
        assert_eq!((deframer.rest(), deframer.offset()), (&b""[..], 1_000_004));
        let error = deframer
            .read_frame(&mut &b""[..])
            .expect_err("the stream ends within the skipped bytes");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);

        let mut side = ReadSide::new(Framing::custom(Hostile(make_step)));
        let mut frames = 0;
        for piece in [b"gh", b"xx", b"gg", b"gg"] {
            let taken = side.read(piece, |_| {
                frames += 1;
                ControlFlow::Continue(())
            });
            assert_eq!(taken.expect("the skip is valid"), 2);
        }
        assert_eq!((frames, side.held_bytes()), (1, 0));
    }
}
