//! The test kit: the crate's own framings pass it, and codecs with a fault each do not.

#[path = "common/naive.rs"]
mod naive;

use naive::{Field, Format, Limit};
use unstick::testkit::{Cuts, Failure};
use unstick::{Codec, FrameError, Framing, Out, Step};

const LIMIT: usize = 2000;
/// Some of the frames are longer, and skipped.
const SHORT: usize = 4;

/// A framing, and streams of it: good ones, cut ones and bad ones.
fn check(format: &Format, streams: &[&[u8]]) {
    let limits = [(LIMIT, false), (SHORT, true)];
    for (stream, (len, skips)) in streams
        .iter()
        .flat_map(|one| limits.map(|limit| (one, limit)))
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
            // Its size is its limit, and a codec of one's own has its own.
            Format::Fixed(_) | Format::Tagged => cuts.check(),
            _ => cuts.frame_len_max(len).check(),
        }
    }
    let limit = Limit {
        len: LIMIT,
        skips: false,
    };
    let framing = format.framing(limit);
    // Short frames and long ones, of payloads that all can carry.
    let short: Vec<_> = (0..14).map(|len| payload(format, len % 7)).collect();
    let long: Vec<_> = [3, 300, 0, 500, 40]
        .map(|len| payload(format, len))
        .to_vec();
    for payloads in [short, long] {
        let payloads: Vec<_> = payloads.iter().map(Vec::as_slice).collect();
        Cuts::of(&framing).payloads(&payloads).check();
    }
}

/// About that many bytes, as the framing wants them.
fn payload(format: &Format, len: usize) -> Vec<u8> {
    let mut payload = vec![b'x'; len];
    match format {
        Format::Fixed(len) => payload.resize(*len, b'y'),
        Format::HeaderBody(header_len) => {
            payload.truncate(200);
            let mut header = vec![1; *header_len];
            header[header_len - 1] = u8::try_from(payload.len()).expect("at most 200");
            if *header_len == 1 {
                // The header is its own count: two of two.
                return vec![2, b'x', b'x', b'x', b'x'];
            }
            payload.splice(0..0, header);
        }
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
fn lines_and_delimiters_pass() {
    check(
        &Format::Line,
        &[b"a\r\n\n\r\n\r\r\nc\rd\n\r", b"abc\ndefghi\nj"],
    );
    let sets: [[&[&[u8]]; 2]; 5] = [
        [&[b"--"], &[b"--a-----b-", b"abc--de-"]],
        [&[b";", b";;;", b"\r\n"], &[b"a;;;;;\r;\r\nb", b"a;;\r"]],
        [&[b"abab"], &[b"abababa-abab"]],
        [&[b"ab", b"abcdefgh"], &[b"1ab2abcdefgh", b"abcdefg"]],
        [&[b"1", b"2", b"3", b"4."], &[b"a1b4.c42d3"]],
    ];
    for [set, streams] in sets {
        let set = set.iter().map(|one| one.to_vec()).collect();
        check(&Format::Delimiters(set), streams);
    }
}

#[test]
fn lengths_pass() {
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
fn length_fields_and_headers_pass() {
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
        // Its length counts neither itself nor what follows it.
        let typed = field(0, 2, 1, 1);
        check(
            &Format::Field(typed),
            &[b"\0\x02Tab\0\0U\0\x01Vc", b"\0\x05Tabcde\0\x01Uf\0"],
        );
    }
    // They take the first byte of the body too, or leave the last one of the header.
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
fn varints_netstrings_and_fixed_sizes_pass() {
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
fn a_codec_that_skips_passes() {
    check(
        &Format::Tagged,
        &[
            b"f\0..f\x01as\0\0f\x02bcf",
            b"s\0\x03f\x01.f\x02ab.s\0\x02f.",
            b"f\0x?f\0f\0",
        ],
    );
}

/// Frames that end with `\r\n`, and a fault.
#[derive(Debug, Clone, Copy)]
struct Faulty(Fault);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// A delimiter that is cut in two is not seen.
    MissesACutDelimiter,
    /// It goes on where it stopped in the frame before.
    KeepsItsPlace,
    /// A kilobyte is asked for, whatever the frame's length.
    NeedsTooMuch,
    NeedsTooLittle,
    /// The limit is not looked at while the frame is not whole: an endless frame is held for ever.
    Grows,
    /// Nor when it is.
    HasNoLimit,
    PanicsOnEscape,
    /// What a read brought is taken for a whole frame where no delimiter is in it.
    TrustsReads,
    TakesNothing,
    SkipsNothing,
    /// The delimiter at the very front is taken for half a frame.
    RunsOver,
    /// `encode` lets a delimiter through.
    EncodesAnything,
}

impl Codec for Faulty {
    type State = usize;

    fn decode(&self, searched: &mut usize, bytes: &[u8]) -> Result<Step, FrameError> {
        let Self(fault) = *self;
        let from = *searched;
        assert!(
            fault != Fault::PanicsOnEscape || !bytes.contains(&0x1B),
            "a fault"
        );
        let unseen = bytes.get(from..).unwrap_or_default();
        let found = unseen.windows(2).position(|pair| pair == b"\r\n");
        let limit = usize::from(fault != Fault::HasNoLimit) * 100;
        if let Some(at) = found {
            let end = from + at;
            *searched = if fault == Fault::KeepsItsPlace { 1 } else { 0 };
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
            return Err(FrameError::Unencodable("a carriage return inside"));
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
    // Longer than the limit: an error, at the same place under every cut.
    Cuts::of(&framing).stream(&long).try_check()
}

#[test]
fn a_codec_without_a_fault_passes() {
    try_faulty(Fault::None).expect("it has no fault");
}

/// Each with the smallest cut that shows it.
#[test]
fn a_fault_is_found_and_told_by_its_smallest_cut() {
    let faults: [(Fault, &str, &[&[u8]]); 9] = [
        (
            Fault::MissesACutDelimiter,
            "frame 0 is b\"ab\\r\\n\", instead of b\"ab\"",
            &[b"ab\r", b"\n\r\ncde\r\nf"],
        ),
        (
            Fault::KeepsItsPlace,
            "instead of b\"\"",
            &[b"ab\r\n\r\ncde\r\nf"],
        ),
        (
            Fault::NeedsTooMuch,
            "needs 1001 bytes, where 4 are enough",
            &[b"a", b"b\r\n\r\ncde\r\nf"],
        ),
        (
            Fault::NeedsTooLittle,
            "answers Need(1) to 1 bytes",
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
            "answers Skip { bytes: 0 }",
            &[b"ab\r\n\r\ncde\r\nf"],
        ),
        (
            Fault::RunsOver,
            "consumed: 3 } to 2 bytes",
            &[b"ab\r\n\r\ncde\r\nf"],
        ),
        (Fault::Grows, "with a limit of 100", &[b"", &[0; 64]]),
    ];
    for (fault, what, pieces) in faults {
        let failure = try_faulty(fault).expect_err("it has a fault");
        println!("{fault:?}: {failure}\n");
        assert!(failure.what().contains(what), "{fault:?}: {failure}");
        assert_eq!(failure.pieces(), pieces, "{fault:?}: {failure}");
    }
    let failure = try_faulty(Fault::HasNoLimit).expect_err("it has a fault");
    assert!(failure.what().contains("limit of 100"), "{failure}");
}

#[test]
fn a_panic_is_a_failure_that_names_its_bytes() {
    let framing = Framing::custom(Faulty(Fault::PanicsOnEscape));
    let failure = Cuts::of(&framing)
        .try_check()
        .expect_err("garbage finds it");
    assert_eq!(failure.what(), "it panics");
    assert!(failure.pieces().concat().contains(&0x1B), "{failure}");
}

#[test]
fn a_search_that_begins_anew_with_every_piece_is_found_by_a_long_frame() {
    let payload = [b'x'; 90];
    let check = |framing: &Framing, stream: &[u8]| Cuts::of(framing).stream(stream).try_check();
    let long = [&payload[..], &payload, b"\r\n"].concat();
    check(&Framing::delimiter(b"\r\n"), &long).expect("it has no fault");
    let framing = Framing::custom(Searching);
    let failure = check(&framing, &long).expect_err("it has a fault");
    assert!(failure.what().contains("searches bytes again"), "{failure}");
}

/// Each look begins at the front: quadratic.
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
fn a_payload_that_does_not_come_back_is_a_failure() {
    let framing = Framing::custom(Faulty(Fault::EncodesAnything));
    let cuts = Cuts::of(&framing).payloads(&[b"a\r\nb"]);
    let failure = cuts.try_check().expect_err("it comes out as two");
    assert!(
        failure.what().contains("instead of b\"a\\r\\nb\""),
        "{failure}"
    );
    let framing = Framing::custom(Faulty(Fault::None));
    let cuts = Cuts::of(&framing).payloads(&[b"a\r\nb"]);
    let failure = cuts.try_check().expect_err("it is refused");
    assert!(failure.what().contains("is refused"), "{failure}");
}

#[test]
fn what_is_expected_wrongly_is_a_failure_without_a_cut() {
    let cuts = Cuts::of(&Framing::line()).stream(b"a\nb\n");
    for wrong in [&[&b"a"[..]][..], &[b"a", b"c"], &[b"a", b"b", b""], &[]] {
        let failure = cuts.clone().expect(wrong).try_check().expect_err("wrong");
        assert_eq!(failure.pieces().len(), 1, "{failure}");
    }
    let failure = cuts.expect_error().try_check().expect_err("wrong");
    assert_eq!(failure.what(), "no error comes, where one is expected");
}

#[test]
fn a_failure_is_told_with_a_line_that_repeats_it() {
    let failure = try_faulty(Fault::MissesACutDelimiter).expect_err("it has a fault");
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
    assert_eq!(again.expect_err("as before").what(), failure.what());
}
