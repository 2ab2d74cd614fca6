//! The test kit (`unstick::testkit`): the crate's framings pass it, and each faulty codec fails it.

#[path = "common/naive.rs"]
mod naive;

use naive::{Field, Format, Limit};
use unstick::testkit::{Cuts, Failure};
use unstick::{Codec, FrameError, Framing, Out, Step};

const LIMIT: usize = 2000;
/// Frame limit that some frames exceed. These frames are skipped.
const SHORT: usize = 4;

/// Checks a framing with valid, truncated and malformed streams.
fn check(format: &Format, streams: &[&[u8]]) {
    let limits = [(LIMIT, false), (SHORT, true)];
    for (stream, (len, skips)) in streams
        .iter()
        .flat_map(|stream| limits.map(|limit| (stream, limit)))
    {
        let limit = Limit { len, skips };
        let expected = format.decode(limit, stream);
        let frames: Vec<_> = expected.frames.iter().map(Vec::as_slice).collect();
        let framing = format.framing(limit);
        let cuts = Cuts::of(&framing).stream(stream).expect(&frames);
        let cuts = match expected.fault {
            Some(_) => cuts.expect_error(),
            None => cuts,
        };
        match format {
            // A fixed size is its own limit, and a custom codec has its own limit.
            Format::Fixed(_) | Format::Tagged => cuts.check(),
            _ => cuts.frame_len_max(len).check(),
        }
    }
    let limit = Limit {
        len: LIMIT,
        skips: false,
    };
    let framing = format.framing(limit);
    // Short and long frames, with payloads that the framing can carry.
    let short: Vec<_> = (0..14).map(|len| payload(format, len % 7)).collect();
    let long: Vec<_> = [3, 300, 0, 500, 40]
        .map(|len| payload(format, len))
        .to_vec();
    for payloads in [short, long] {
        let payloads: Vec<_> = payloads.iter().map(Vec::as_slice).collect();
        Cuts::of(&framing).payloads(&payloads).check();
    }
}

/// Returns a payload of about `len` bytes that the framing can carry.
fn payload(format: &Format, len: usize) -> Vec<u8> {
    let mut payload = vec![b'x'; len];
    match format {
        Format::Fixed(len) => payload.resize(*len, b'y'),
        Format::HeaderBody(header_len) => {
            payload.truncate(200);
            let mut header = vec![1; *header_len];
            header[header_len - 1] =
                u8::try_from(payload.len()).expect("the payload has at most 200 bytes");
            if *header_len == 1 {
                // The body length is the header's first byte times its last byte. This header has
                // only one byte, 2, so the body has 2 x 2 bytes.
                return vec![2, b'x', b'x', b'x', b'x'];
            }
            payload.splice(0..0, header);
        }
        Format::Between(inner, _) => return self::payload(inner, len),
        Format::Digits => return [format!("{len}:").as_bytes(), &payload].concat(),
        Format::Length { width: 1, .. } | Format::Tagged => payload.truncate(255),
        Format::Field(field) => {
            payload.truncate(200);
            let kept = field.header_len().saturating_sub(field.strip);
            payload.resize(payload.len().max(2) + kept, b'y');
            return format.delivered(&payload);
        }
        _ => {}
    }
    payload
}

#[test]
fn testkit_passes_lines_and_delimiters() {
    check(
        &Format::Line,
        &[b"a\r\n\n\r\n\r\r\nc\rd\n\r", b"abc\ndefghi\nj"],
    );
    let crlf: [&[u8]; 4] = [
        b"a\r\n\r\n\r\nbc\r\nd\r",
        b"abc\r\ndefghi\r\nj",
        b"a\r\n.\nb\r\n",
        b"a\r\n.\r.\r\n",
    ];
    check(&Format::LineCrlf, &crlf);
    for format in [Format::Line, Format::LineCrlf] {
        check(&Format::Unterminated(Box::new(format)), &crlf);
    }
    let sets: [[&[&[u8]]; 2]; 5] = [
        [&[b"--"], &[b"--a-----b-", b"abc--de-"]],
        [&[b";", b";;;", b"\r\n"], &[b"a;;;;;\r;\r\nb", b"a;;\r"]],
        [&[b"abab"], &[b"abababa-abab"]],
        [&[b"ab", b"abcdefgh"], &[b"1ab2abcdefgh", b"abcdefg"]],
        [&[b"1", b"2", b"3", b"4."], &[b"a1b4.c42d3"]],
    ];
    for [set, streams] in sets {
        let set = set.iter().map(|delimiter| delimiter.to_vec()).collect();
        let format = Format::Delimiters(set);
        check(&format, streams);
        let last = Format::Unterminated(Box::new(format));
        check(&last, streams);
        check(&Format::Between(Box::new(last), b"~c".to_vec()), streams);
    }
}

#[test]
fn testkit_passes_length_functions_and_heart_beats() {
    check(
        &Format::Digits,
        &[b"0:1:a12:abcdefghijkl2:a", b"0:3:abcx", b"0:99999999999:"],
    );
    let beats = |inner| Format::Between(Box::new(inner), b"\n~".to_vec());
    check(&beats(Format::Digits), &[b"~\n\n1:\n~0:~2:a"]);
    check(&beats(Format::HeaderBody(2)), &[b"\n~\x01\x02\n~~\x01\x07"]);
    check(&beats(Format::Netstring), &[b"\n1:\n,~~0:,\n\n"]);
    check(&beats(Format::LineCrlf), &[b"~~~abcdefg\r\n~\r\n~"]);
}

#[test]
fn testkit_passes_length_prefixes() {
    for width in [1, 2, 3, 4, 8] {
        for is_little in [false, true] {
            let zeros = [0; 10];
            let mut claim = vec![0xFF; usize::from(width)];
            if width == 1 {
                claim = vec![0xF0; 1];
            }
            claim.extend(b"claims");
            check(&Format::Length { width, is_little }, &[&zeros, &claim]);
        }
    }
}

#[test]
fn testkit_passes_length_fields_and_header_body() {
    for strips in [false, true] {
        let field = |leading, width, following, adjustment| {
            let mut field = Field {
                leading,
                width,
                following,
                is_little: leading == 1,
                adjustment,
                strip: 0,
            };
            field.strip = usize::from(strips) * field.header_len();
            field
        };
        let whole = field(1, 2, 0, -3);
        check(
            &Format::Field(whole),
            &[b"M\x03\0N\x05\0abM\x03\0M\x06\0c", b"M\x03\0M\x02\0M\x03\0"],
        );
        check(
            &Format::Field(field(0, 4, 0, 0)),
            &[b"\0\0\0\x02ab\0\0\0\0\0"],
        );
        check(&Format::Field(field(3, 1, 0, 2)), &[b"abc\x01defghi\0jk"]);
        // The length counts neither the field itself nor the byte that follows it.
        let typed = field(0, 2, 1, 1);
        check(
            &Format::Field(typed),
            &[b"\0\x02Tab\0\0U\0\x01Vc", b"\0\x05Tabcde\0\x01Uf\0"],
        );
    }
    // The header has three bytes. Stripping two bytes delivers the last byte of the header, and
    // stripping four bytes also removes the first byte of the body.
    for strip in [2, 4] {
        let field = Field {
            leading: 0,
            width: 2,
            following: 1,
            is_little: false,
            adjustment: 1,
            strip,
        };
        let streams = [&b"\0\x02Tab\0\x01U."[..], b"\0\x01Ta\0\0"];
        check(&Format::Field(field), &streams);
    }
    check(
        &Format::HeaderBody(1),
        &[b"\x01a\x02abcd\0\x03abc", b"\x01a\xFF"],
    );
    check(
        &Format::HeaderBody(2),
        &[b"\x01\x02ab\0\0\x01\0\x02\x01cd", b"\0\0?\0"],
    );
}

#[test]
fn testkit_passes_varints_netstrings_and_fixed() {
    for is_lax in [false, true] {
        check(
            &Format::Varint { is_lax },
            &[
                b"\0\x02ab\0\x01c\x05defgh\x02i",
                b"\x01a\x80\0\x01b",
                b"\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01\0",
            ],
        );
    }
    check(
        &Format::Netstring,
        &[
            b"0:,1:a,3:b:,,0:,",
            b"0:,01:a,0:,",
            b"0:,2001:0:,",
            b"0:,1:ab0:,",
        ],
    );
    check(&Format::Fixed(3), &[b"abcdefghijklmn"]);
}

#[test]
fn testkit_passes_a_codec_that_skips() {
    check(
        &Format::Tagged,
        &[
            b"f\0..f\x01as\0\0f\x02bcf",
            b"s\0\x03f\x01.f\x02ab.s\0\x02f.",
            b"f\0x?f\0f\0",
        ],
    );
}

/// A codec for frames that end with `\r\n`, with one fault.
#[derive(Debug, Clone, Copy)]
struct Faulty(Fault);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Misses a delimiter that is split between two reads.
    MissesACutDelimiter,
    /// Starts the search for the next frame at offset 1 instead of 0.
    KeepsItsOffset,
    /// Requests a kilobyte, whatever the frame's length.
    NeedsTooMuch,
    /// Requests no more bytes than it has.
    NeedsTooLittle,
    /// Checks the limit only for whole frames, so an endless frame is buffered for ever.
    Grows,
    /// Never checks the limit.
    HasNoLimit,
    PanicsOnEscape,
    /// Treats the bytes of one read as a whole frame if they contain no delimiter.
    TrustsReads,
    /// Consumes no byte for a frame of three bytes.
    TakesNothing,
    /// Skips zero bytes instead of delivering a frame of three bytes.
    SkipsNothing,
    /// Consumes three bytes for an empty frame, which is two bytes long.
    RunsOver,
    /// Accepts payloads that contain a delimiter.
    EncodesAnything,
}

impl Codec for Faulty {
    type State = usize;

    fn decode(&self, searched: &mut usize, bytes: &[u8]) -> Result<Step, FrameError> {
        let Self(fault) = *self;
        let from = *searched;
        assert!(
            fault != Fault::PanicsOnEscape || !bytes.contains(&0x1B),
            "a deliberate fault"
        );
        let unseen = bytes.get(from..).unwrap_or_default();
        let found = unseen.windows(2).position(|pair| pair == b"\r\n");
        let limit = usize::from(fault != Fault::HasNoLimit) * 100;
        if let Some(at) = found {
            let end = from + at;
            *searched = if fault == Fault::KeepsItsOffset { 1 } else { 0 };
            if limit > 0 && end > limit {
                return Err(FrameError::Malformed("too long"));
            }
            let consumed = match (fault, end) {
                (Fault::TakesNothing, 3) => 0,
                (Fault::RunsOver, 0) => 3,
                _ => end + 2,
            };
            return Ok(match (fault, end) {
                (Fault::SkipsNothing, 3) => Step::Skip { bytes: 0 },
                _ => Step::Frame {
                    frame: 0..end,
                    consumed,
                },
            });
        }
        if limit > 0 && bytes.len() > limit + 1 && fault != Fault::Grows {
            return Err(FrameError::Malformed("too long"));
        }
        *searched = match fault {
            Fault::MissesACutDelimiter => bytes.len(),
            _ => bytes.len().saturating_sub(1),
        };
        Ok(match fault {
            Fault::NeedsTooMuch => Step::Need(bytes.len().max(1000) + 1),
            Fault::NeedsTooLittle => Step::Need(bytes.len()),
            Fault::TrustsReads if bytes.len() > 2 => {
                *searched = 0;
                Step::Frame {
                    frame: 0..bytes.len(),
                    consumed: bytes.len(),
                }
            }
            _ => Step::Need(bytes.len() + 1),
        })
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        if self.0 != Fault::EncodesAnything && payload.contains(&b'\r') {
            return Err(FrameError::Unencodable(
                "the payload contains a carriage return",
            ));
        }
        out.put(payload);
        out.put(b"\r\n");
        Ok(())
    }
}

fn try_faulty(fault: Fault) -> Result<(), Failure> {
    let framing = Framing::custom(Faulty(fault));
    let long = [b'x'; 200];
    Cuts::of(&framing)
        .stream(b"ab\r\n\r\ncde\r\nf")
        .expect(&[b"ab", b"", b"cde"])
        .frame_len_max(100)
        .try_check()?;
    // A frame over the limit must fail at the same offset for every cut.
    Cuts::of(&framing).stream(&long).try_check()
}

#[test]
fn testkit_passes_a_codec_without_a_fault() {
    try_faulty(Fault::None).expect("the codec has no fault");
}

/// The test kit reports each fault with the smallest cut that reveals it.
#[test]
fn testkit_reports_faults_by_the_smallest_cut() {
    let faults: [(Fault, &str, &[&[u8]]); 9] = [
        (
            Fault::MissesACutDelimiter,
            "frame 0 is b\"ab\\r\\n\", instead of b\"ab\"",
            &[b"ab\r", b"\n\r\ncde\r\nf"],
        ),
        (
            Fault::KeepsItsOffset,
            "instead of b\"\"",
            &[b"ab\r\n\r\ncde\r\nf"],
        ),
        (
            Fault::NeedsTooMuch,
            "returns Need(1001), but 4 bytes are enough",
            &[b"a", b"b\r\n\r\ncde\r\nf"],
        ),
        (
            Fault::NeedsTooLittle,
            "returns Need(1) for 1 bytes",
            &[b"ab\r\n\r\ncde\r\nf"],
        ),
        (
            Fault::TrustsReads,
            "frame 0 is",
            &[b"ab\r", b"\n\r\ncde\r\nf"],
        ),
        (
            Fault::TakesNothing,
            "consumed: 0 }",
            &[b"ab\r\n\r\ncde\r\nf"],
        ),
        (
            Fault::SkipsNothing,
            "returns Skip { bytes: 0 }",
            &[b"ab\r\n\r\ncde\r\nf"],
        ),
        (
            Fault::RunsOver,
            "consumed: 3 } for 2 bytes",
            &[b"ab\r\n\r\ncde\r\nf"],
        ),
        (Fault::Grows, "with a limit of 100", &[b"", &[0; 64]]),
    ];
    for (fault, what, pieces) in faults {
        let failure = try_faulty(fault).expect_err("the codec has a fault");
        println!("{fault:?}: {failure}\n");
        assert!(failure.what().contains(what), "{fault:?}: {failure}");
        assert_eq!(failure.pieces(), pieces, "{fault:?}: {failure}");
    }
    let failure = try_faulty(Fault::HasNoLimit).expect_err("the codec has a fault");
    assert!(failure.what().contains("limit of 100"), "{failure}");
}

#[test]
fn testkit_reports_a_panic_with_its_bytes() {
    let framing = Framing::custom(Faulty(Fault::PanicsOnEscape));
    let failure = Cuts::of(&framing)
        .try_check()
        .expect_err("random bytes trigger the panic");
    assert_eq!(failure.what(), "the codec panics");
    assert!(failure.pieces().concat().contains(&0x1B), "{failure}");
}

#[test]
fn testkit_reports_a_quadratic_search() {
    let payload = [b'x'; 90];
    let check = |framing: &Framing, stream: &[u8]| Cuts::of(framing).stream(stream).try_check();
    let long = [&payload[..], &payload, b"\r\n"].concat();
    check(&Framing::delimiter(b"\r\n"), &long).expect("the codec has no fault");
    let framing = Framing::custom(Searching);
    let failure = check(&framing, &long).expect_err("the codec has a fault");
    assert!(
        failure.what().contains("searches the same bytes"),
        "{failure}"
    );
}

/// A codec that searches from the start in every call, which takes quadratic time.
struct Searching;

impl Codec for Searching {
    type State = ();

    fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
        let found = bytes.windows(2).position(|pair| pair == b"\r\n");
        Ok(
            found.map_or(Step::Need(bytes.len() + 1), |end| Step::Frame {
                frame: 0..end,
                consumed: end + 2,
            }),
        )
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(payload);
        out.put(b"\r\n");
        Ok(())
    }
}

#[test]
fn testkit_reports_a_payload_that_changes() {
    let framing = Framing::custom(Faulty(Fault::EncodesAnything));
    let cuts = Cuts::of(&framing).payloads(&[b"a\r\nb"]);
    let failure = cuts
        .try_check()
        .expect_err("the payload comes back as two frames");
    assert!(
        failure.what().contains("instead of b\"a\\r\\nb\""),
        "{failure}"
    );
    let framing = Framing::custom(Faulty(Fault::None));
    let cuts = Cuts::of(&framing).payloads(&[b"a\r\nb"]);
    let failure = cuts.try_check().expect_err("the codec rejects the payload");
    assert!(failure.what().contains("rejects the payload"), "{failure}");
    let call = r#".payloads(&[b"a\r\nb"])"#;
    assert!(failure.to_string().contains(call), "{failure}");
}

#[test]
fn testkit_reports_a_wrong_expectation() {
    let cuts = Cuts::of(&Framing::line()).stream(b"a\nb\n");
    for wrong in [&[&b"a"[..]][..], &[b"a", b"c"], &[b"a", b"b", b""], &[]] {
        let failure = cuts
            .clone()
            .expect(wrong)
            .try_check()
            .expect_err("the expectation is wrong");
        assert_eq!(failure.pieces().len(), 1, "{failure}");
    }
    let failure = cuts
        .expect_error()
        .try_check()
        .expect_err("the expectation is wrong");
    assert_eq!(
        failure.what(),
        "an error is expected, but the codec reports none"
    );
    assert!(failure.to_string().contains(".expect_error()"), "{failure}");
}

#[test]
fn testkit_failure_prints_how_to_repeat_it() {
    let failure = try_faulty(Fault::MissesACutDelimiter).expect_err("the codec has a fault");
    let text = failure.to_string();
    let line = ".pieces(&[b\"ab\\r\", b\"\\n\\r\\ncde\\r\\nf\"])";
    assert!(text.contains(line), "{text}");
    assert!(
        text.contains(".expect(&[b\"ab\", b\"\", b\"cde\"])"),
        "{text}"
    );
    let framing = Framing::custom(Faulty(Fault::MissesACutDelimiter));
    let again = Cuts::of(&framing)
        .pieces(&[b"ab\r", b"\n\r\ncde\r\nf"])
        .expect(&[b"ab", b"", b"cde"])
        .try_check();
    assert_eq!(
        again.expect_err("the repeated check fails too").what(),
        failure.what()
    );
}

/// A codec that waits for 64 bytes after an `x`, finds that they are no frame, and skips the `x`.
/// Every other byte is a frame.
struct Resync;

impl Codec for Resync {
    type State = ();

    fn decode(&self, _: &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
        Ok(match bytes {
            [b'x', ..] if bytes.len() < 64 => Step::Need(64),
            [b'x', ..] => Step::Skip { bytes: 1 },
            _ => Step::Frame {
                frame: 0..1,
                consumed: 1,
            },
        })
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(payload);
        Ok(())
    }
}

/// A codec that skips a false frame copies more bytes than other codecs: it holds the bytes of the
/// false frame until the frame is rejected. The test kit must not report this.
#[test]
fn codec_that_resynchronizes_passes_with_every_cut() {
    let stream = [&[b'x'; 200][..], b"ok", &[b'x'; 100]].concat();
    Cuts::of(&Framing::custom(Resync))
        .stream(&stream)
        .expect(&[b"o", b"k"])
        .check();
}
