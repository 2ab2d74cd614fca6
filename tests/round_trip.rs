//! Payloads that [`Framer`](unstick::Framer) accepts come back from [`Deframer`](unstick::Deframer)
//! unchanged and as one frame each, whatever follows them. Payloads that would change are rejected.

mod common;
#[path = "common/streams.rs"]
mod streams;

use unstick::{DecodeError, FrameError, FrameLen, Framing, LengthField};

use common::{FRAMINGS, Random};
use streams::{counting, deframe, frame, payload, pieces, text};

const LIMIT: usize = 1000;

/// Returns framings of every kind except `raw` and `custom`. Each has a list of bytes that are
/// special in it.
fn framings() -> Vec<(Framing, &'static [u8])> {
    let mut framings: Vec<(Framing, &[u8])> = FRAMINGS
        .into_iter()
        .filter(|name| *name != "raw")
        .map(|name| {
            (
                name.parse().expect("the name is a known framing"),
                &b"\0\x01\x80\r\n0:,"[..],
            )
        })
        .collect();
    let fields = [
        LengthField::new(1).adjustment(-1),
        LengthField::new(2).leading(b"\xCA\xFE").adjustment(3),
        LengthField::new(3).little_endian().leading(b"?"),
        LengthField::new(8).adjustment(i64::MIN),
    ];
    framings.extend(fields.map(|field| (Framing::length_field(field), &b"\0\x01\xFF"[..])));
    let sets: [&[&[u8]]; 12] = [
        &[b"\0"],
        &[b";;"],
        &[b"abab"],
        &[b"aab"],
        &[b"\r\n\r\n"],
        &[b"\n", b"\r\n"],
        &[b"ab", b"abc"],
        &[b"abcd", b"c"],
        &[b";", b"a;b"],
        &[b"a", b"aab"],
        &[b"b", b"aba", b"abaab"],
        &[b"1", b"2", b"3", b"4"],
    ];
    framings.extend(sets.map(|set| (Framing::delimiters(set), &b"abc;\r\n\0d"[..])));
    framings.push((Framing::fixed(7), b"a\n"));
    let body_len = |header: &[u8]| Ok(u64::from(header[1]));
    let header_body = Framing::header_body(Framing::fixed(2), body_len);
    let frame_len = |bytes: &[u8]| match bytes {
        [first, ..] => Ok(FrameLen::Total(1 + u64::from(*first))),
        [] => Err(FrameError::Malformed("the function is not called for this")),
    };
    framings.extend([
        (
            Framing::delimiter(b";").skip_between(b"\r\n"),
            &b"a;\r\n"[..],
        ),
        (Framing::line().unterminated_last_frame(), b"\r\nab"),
        (header_body.clone().skip_between(b"\x03"), b"\0\x01\x02\x03"),
        (header_body, b"\0\x01\x02\x03"),
        (Framing::length_fn(frame_len), b"\0\x01\x02\x03"),
    ]);
    framings
        .into_iter()
        .map(|(framing, alphabet)| (framing.frame_len_max(LIMIT), alphabet))
        .collect()
}

/// Checks that each payload either comes back as exactly one equal frame or is rejected. Returns
/// the number of accepted payloads.
fn check(framing: &Framing, payloads: &[Vec<u8>], random: &mut Random, context: &str) -> usize {
    let mut stream = Vec::new();
    let mut accepted = Vec::new();
    for payload in payloads {
        if let Some(bytes) = frame(framing, payload) {
            stream.extend(bytes);
            accepted.push(payload.clone());
        }
    }
    // A complete frame is delivered without waiting for the bytes that follow it.
    let mut deframer = unstick::Deframer::new(framing.clone());
    for payload in &accepted {
        deframer.extend(&frame(framing, payload).expect("the payload was accepted before"));
        let back = deframer.next_frame().expect("the frame is valid");
        assert_eq!(back, Some(&payload[..]), "{framing:?}, {context}");
    }
    let seen = deframe(framing, &pieces(&stream, random));
    assert_eq!(seen.frames, accepted, "{framing:?}, {context}");
    let rest = seen.rest.as_deref();
    assert_eq!(rest, Some(&[][..]), "{framing:?}, {context}");
    accepted.len()
}

#[test]
fn accepted_payload_comes_back_as_one_frame() {
    for (framing, alphabet) in framings() {
        let mut accepted = 0;
        for seed in 0..300 {
            let mut random = Random(seed);
            let payloads: Vec<_> = (0..1 + random.below(6))
                .map(|_| match random.below(4) {
                    0 => text(alphabet, 1, 7, &mut random),
                    1 => counting(random.below(10), &mut random),
                    _ => payload(alphabet, &mut random),
                })
                .collect();
            let what = format!("seed {seed}");
            accepted += check(&framing, &payloads, &mut random, &what);
        }
        assert!(
            accepted > 30,
            "{framing:?} accepted only {accepted} payloads"
        );
    }
}

/// Encoding changes only the length field. If this field already contains the length, no byte
/// changes.
#[test]
fn kept_header_comes_back_with_its_length() {
    let field = LengthField::new(3).little_endian().leading(b"??");
    let framing = Framing::length_field(field.keep_header()).frame_len_max(LIMIT);
    for seed in 0..300 {
        let mut random = Random(seed);
        let payload = payload(b"\0\x01\x02\xFF", &mut random);
        let Some(sent) = frame(&framing, &payload) else {
            assert!(!(5..=LIMIT).contains(&payload.len()), "seed {seed}");
            continue;
        };
        assert_eq!(sent[..2], payload[..2], "seed {seed}");
        assert_eq!(sent[5..], payload[5..], "seed {seed}");
        let what = format!("seed {seed}");
        assert_eq!(
            check(&framing, &[sent.clone(), sent], &mut random, &what),
            2
        );
    }
}

/// Tests every pair of accepted payloads of up to four bytes over two letters. The longest
/// delimiter has five bytes. So a false delimiter across the boundary of a payload contains at most
/// four bytes of this payload.
#[test]
fn no_two_adjacent_payloads_form_a_delimiter() {
    let alphabets: [(&[&[u8]], &[u8; 2]); 9] = [
        (&[b"abab"], b"ab"),
        (&[b"aab"], b"ab"),
        (&[b"aa"], b"ab"),
        (&[b"ab", b"abb"], b"ab"),
        (&[b"b", b"aba"], b"ab"),
        (&[b"a", b"aab"], b"ab"),
        (&[b"b", b"aba", b"abaab"], b"ab"),
        (&[b"ba", b"ab", b"bb"], b"ab"),
        (&[b"\n", b"\r\n"], b"\r\n"),
    ];
    for (set, alphabet) in alphabets {
        let framing = Framing::delimiters(set);
        let payloads: Vec<Vec<u8>> = (0..=4_u32)
            .flat_map(|len| (0..1_usize << len).map(move |bits| (len, bits)))
            .map(|(len, bits)| (0..len).map(|at| alphabet[bits >> at & 1]).collect())
            .collect();
        let accepted: Vec<_> = payloads
            .iter()
            .filter(|payload| frame(&framing, payload).is_some())
            .collect();
        assert!(
            accepted.contains(&&Vec::new()),
            "the empty payload is always accepted"
        );
        for first in &accepted {
            for second in &accepted {
                let pair = [(*first).clone(), (*second).clone()];
                let what = format!("{first:?} and {second:?}");
                check(&framing, &pair, &mut Random(0), &what);
            }
        }
    }
}

#[test]
fn payload_that_would_change_is_refused() {
    let is_refused = |framing: &Framing, payload: &[u8]| frame(framing, payload).is_none();
    for (framing, _) in framings() {
        assert!(is_refused(&framing, &vec![b'z'; LIMIT + 1]), "{framing:?}");
    }
    for payload in [&b"\n"[..], b"a\nb", b"\r", b"a\r"] {
        assert!(is_refused(&Framing::line(), payload));
    }
    assert!(is_refused(&Framing::length_u8(), &[0; 256]));
    assert!(is_refused(&Framing::length_u16(), &[0; 65_536]));
    assert!(is_refused(&Framing::fixed(3), b"ab"));
    assert!(is_refused(&Framing::fixed(3), b""));
}

#[test]
fn frame_len_max_zero_allows_only_empty_frames() {
    let names = "u8 u16 u24 u32 u64 u16-le u24-le u32-le u64-le line varint netstring";
    let named = names
        .split(' ')
        .map(|name| name.parse().expect("the name is a known framing"));
    let delimited = [
        Framing::delimiter(b"--"),
        Framing::delimiters(&[b"\n", b"\r\n"]),
        Framing::length_field(LengthField::new(2)),
    ];
    for unlimited in named.chain(delimited) {
        let framing: Framing = Framing::frame_len_max(unlimited.clone(), 0);
        let what = framing.to_string();
        let accepted = check(
            &framing,
            &[vec![], b"a".to_vec(), vec![]],
            &mut Random(1),
            &what,
        );
        assert_eq!(accepted, 2, "{what}");
        let mut deframer = unstick::Deframer::new(framing);
        deframer.extend(&frame(&unlimited, b"a").expect("the payload is accepted without a limit"));
        assert!(
            matches!(
                deframer.next_frame(),
                Err(DecodeError {
                    error: FrameError::TooLong { limit: 0, .. },
                    ..
                })
            ),
            "{what}"
        );
    }
}

/// `raw` has no frame boundaries: all bytes come back in order, in frames of any length.
#[test]
fn raw_bytes_come_back_in_order() {
    for seed in 0..100 {
        let mut random = Random(seed);
        let framing = Framing::raw().frame_len_max(random.below(20));
        let sent = counting(random.below(3000), &mut random);
        let stream = frame(&framing, &sent).expect("raw accepts every payload");
        assert_eq!(stream, sent);
        let seen = deframe(&framing, &pieces(&stream, &mut random));
        assert_eq!(seen.frames.concat(), sent, "seed {seed}");
    }
}
