//! A codec of the user's that breaks its contract is found out, wherever it is used: its stream
//! ends there, with a reason that says so, and nobody else is the worse for it.

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

type Answer = fn(&[u8]) -> Step;

/// A `g` is a frame of one byte. To what begins with an `h` it answers what it should not; to what
/// begins with an `e`, at the end of the stream.
struct Hostile(Answer);

impl Codec for Hostile {
    /// How often it was asked about what it answers wrongly.
    type State = u32;

    fn decode(&self, looks: &mut u32, bytes: &[u8]) -> Result<Step, FrameError> {
        match bytes[0] {
            b'g' => {
                let (frame, consumed) = (0..1, 1);
                Ok(Step::Frame { frame, consumed })
            }
            b'h' if bytes.len() >= 3 => self.finish(looks, bytes),
            _ => Ok(Step::Need(bytes.len().max(2) + 1)),
        }
    }

    fn finish(&self, looks: &mut u32, rest: &[u8]) -> Result<Step, FrameError> {
        *looks += 1;
        assert_eq!(*looks, 1, "it was found out, and is asked no more");
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

/// Each way to break the contract.
const BROKEN: [(&str, Answer); 16] = [
    ("a frame of nothing", |_| frame(0, 0, 0)),
    ("more taken than shown", |bytes| {
        frame(0, 1, bytes.len() + 1)
    }),
    ("all taken that there is", |_| frame(0, 1, usize::MAX)),
    ("a frame beyond what it takes", |_| frame(0, 2, 1)),
    ("a frame behind what it takes", |_| frame(1, 2, 1)),
    ("a frame beyond what was shown", |bytes| {
        frame(0, bytes.len() + 1, bytes.len())
    }),
    ("a frame backwards", |_| frame(1, 0, 1)),
    ("a frame from beyond", |_| frame(usize::MAX, 1, 1)),
    ("a need of nothing", |_| Step::Need(0)),
    ("a need of less", |bytes| Step::Need(bytes.len() - 1)),
    ("a need of what it has", |bytes| Step::Need(bytes.len())),
    ("a skip of nothing", |_| Step::Skip { bytes: 0 }),
    ("a skipped frame of nothing", |_| skip_frame(0)),
    ("a part of nothing", |_| Step::SkipPart { bytes: 0 }),
    ("a part that is all", |bytes| Step::SkipPart {
        bytes: bytes.len(),
    }),
    ("a part beyond all", |_| Step::SkipPart {
        bytes: usize::MAX,
    }),
];

/// What comes behind two frames, while the stream goes on and at its end.
const BEHIND: [&[u8]; 2] = [b"hxxgg", b"egg"];

fn is_contract(error: &FrameError) -> bool {
    matches!(error, FrameError::Contract(_))
}

#[test]
fn a_deframer_tells_it_for_good_and_takes_no_more() {
    for (what, answer) in BROKEN {
        for behind in BEHIND {
            for cut in 1..=2 + behind.len() {
                let stream = [b"gg", behind].concat();
                let mut deframer = Deframer::new(Framing::custom(Hostile(answer)));
                let mut frames = 0;
                let mut error = None;
                for piece in [&stream[..cut], &stream[cut..]] {
                    deframer.extend(piece);
                    loop {
                        match deframer.next_frame() {
                            Ok(Some(_)) => frames += 1,
                            Ok(None) => break,
                            Err(told) => {
                                error = Some(told);
                                break;
                            }
                        }
                    }
                }
                let error = match error {
                    Some(error) => error,
                    None => deframer.last_frame().expect_err(what),
                };
                assert!(is_contract(&error.error), "{what}: {error}");
                assert_eq!((frames, error.offset), (2, 2), "{what}");
                assert_eq!(deframer.offset(), 2, "{what}");
                let rest = deframer.rest().to_vec();
                assert!(behind.starts_with(&rest) && !rest.is_empty(), "{what}");

                deframer.extend(b"ggg");
                let again = [
                    deframer.next_frame().expect_err("final"),
                    deframer.last_frame().expect_err("final"),
                    deframer.decode().expect_err("final"),
                    deframer.decode_last().expect_err("final"),
                ];
                assert!(again.iter().all(|again| again.offset == 2), "{what}");
                assert_eq!(deframer.rest(), rest, "{what}");
            }
        }
    }
}

#[test]
fn reading_from_a_stream_tells_it_as_invalid_data() {
    for (what, answer) in BROKEN {
        for behind in BEHIND {
            let stream = [b"gg", behind].concat();
            let mut reader = &stream[..];
            let mut deframer = Deframer::new(Framing::custom(Hostile(answer)));
            for _ in 0..2 {
                let frame = deframer.read_frame(&mut reader).expect("a frame");
                assert_eq!(frame, Some(&b"g"[..]));
            }
            let error = deframer.read_frame(&mut reader).expect_err(what);
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{what}");
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
            let DecodeError { error, offset, .. } = inner.expect("it tells where");
            assert!(is_contract(error) && *offset == 2, "{what}: {error}");
        }
    }
}

/// However the stream is cut: in each way that there is.
#[test]
fn the_read_side_of_a_connection_stops_there_whatever_the_handler_does() {
    for (what, answer) in BROKEN {
        for behind in BEHIND {
            for flow in [ControlFlow::Continue(()), ControlFlow::Break(())] {
                let stream = [b"gg", behind].concat();
                for cuts in 0..1_usize << (stream.len() - 1) {
                    let mut side = ReadSide::new(Framing::custom(Hostile(answer)));
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
                        // Bit `i` cuts behind byte `i`.
                        let at = stream.len() - rest.len();
                        let len = rest.len().min(1 + (cuts >> at).trailing_zeros() as usize);
                        let taken = side.read(&rest[..len], &mut take);
                        result = taken.map(|taken| rest = &rest[taken..]);
                    }
                    let error = match result {
                        Ok(()) => side.end(&mut take).expect_err(what),
                        Err(error) => error,
                    };
                    assert!(is_contract(&error), "{what}: {error}");
                    assert_eq!(side.read(b"ggg", &mut take).ok(), Some(0), "{what}");
                    assert_eq!((frames, side.offset()), (2, 2), "{what}, {cuts:#b}");
                }
            }
        }
    }
}

#[test]
fn a_connection_is_closed_for_it_and_no_other() {
    for (what, answer) in BROKEN {
        for behind in BEHIND {
            let framing = Framing::custom(Hostile(answer));
            let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
            let mut other = client(addr);
            drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
            let stream = [b"gg", behind].concat();
            client(addr).write_all(&stream).expect("it is taken");
            drive(&mut reactor, |reactor| reactor.stats().closed == 1);
            let handler = reactor.handler();
            let closes = handler.closes();
            let [(conn, closed)] = closes[..] else {
                panic!("{what}: {closes:?}");
            };
            let CloseReason::Frame { error, offset } = &closed.reason else {
                panic!("{what}: {closed:?}");
            };
            assert!(is_contract(error) && *offset == 2, "{what}: {closed:?}");
            assert_eq!(closed.undecoded_bytes, behind.len() as u64, "{what}");
            let of_it = |event: &Event| matches!(event, Event::Frame(of, _) if *of == conn);
            assert_eq!(handler.count(of_it), 2, "{what}");

            other.write_all(b"g").expect("it is open");
            drive(&mut reactor, |reactor| reactor.stats().frames_in == 3);
        }
    }
}

/// Decodes each datagram by itself.
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
fn a_datagram_is_refused_for_it_and_the_next_is_not() {
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    for (what, answer) in BROKEN {
        let handler = Datagrams {
            framing: Framing::custom(Hostile(answer)),
            decoded: Vec::new(),
        };
        let mut reactor = Reactor::new(handler).expect("a reactor");
        let socket = reactor.bind_udp("127.0.0.1:0").expect("a free port");
        let addr = reactor.local_inet_addr(socket).expect("it is bound");
        for datagram in [&b"hxx"[..], b"e", b"g"] {
            peer.send_to(datagram, addr).expect("loopback");
        }
        drive(&mut reactor, |reactor| reactor.handler().decoded.len() == 3);
        let [while_it_goes_on, at_its_end, good] = &reactor.handler().decoded[..] else {
            panic!("three were sent");
        };
        for refused in [while_it_goes_on, at_its_end] {
            let Err(DatagramFault::Frame(error)) = refused else {
                panic!("{what}: {refused:?}");
            };
            assert!(is_contract(error), "{what}: {error}");
        }
        assert_eq!(good.as_deref().ok(), Some(&b"g"[..]), "{what}");
    }
}

/// More than there is may be skipped: what never comes is not held, and not waited for.
#[test]
fn a_skip_beyond_all_that_comes_is_no_fault_and_holds_nothing() {
    let answers: [(Answer, u64); 2] = [
        (|_| Step::Skip { bytes: u64::MAX }, 0),
        (|_| skip_frame(u64::MAX), 1),
    ];
    for (answer, told) in answers {
        let mut deframer = Deframer::new(Framing::custom(Hostile(answer)));
        deframer.extend(b"ghxx");
        let frame = deframer.decode().expect("no error");
        assert_eq!(frame, Some(Decoded::Frame(b"g")));
        let skipped = deframer.decode().expect("no error");
        assert_eq!(skipped.is_some(), told == 1, "{skipped:?}");
        for _ in 0..1000 {
            deframer.extend(&[b'g'; 1000]);
            assert_eq!(deframer.decode().expect("no error"), None);
        }
        assert_eq!(deframer.decode_last().expect("no error"), None);
        assert_eq!(deframer.frames_skipped(), told);
        assert_eq!((deframer.rest(), deframer.offset()), (&b""[..], 1_000_004));
        let error = deframer.read_frame(&mut &b""[..]).expect_err("cut short");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);

        let mut side = ReadSide::new(Framing::custom(Hostile(answer)));
        let mut frames = 0;
        for piece in [b"gh", b"xx", b"gg", b"gg"] {
            let taken = side.read(piece, |_| {
                frames += 1;
                ControlFlow::Continue(())
            });
            assert_eq!(taken.expect("no error"), 2);
        }
        assert_eq!((frames, side.held_bytes()), (1, 0));
    }
}
