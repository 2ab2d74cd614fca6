//! Protocols that find the next frame again after noise.

use unstick::testkit::Cuts;
use unstick::{Codec, Deframer, FrameError, Framing, Out, Step};

use crate::check::{check_frames, check_whole, refusal};

/// Result of a check for a frame at the start of some bytes.
enum Found {
    Frame(usize),
    Need(usize),
    Nothing,
}

/// Codec that skips bytes until its function finds a frame.
struct Resync<F>(F);

impl<F: Fn(&[u8]) -> Found> Codec for Resync<F> {
    type State = ();

    fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
        for at in 0..bytes.len() {
            match (self.0)(&bytes[at..]) {
                Found::Nothing => {}
                _ if at > 0 => return Ok(Step::Skip { bytes: at as u64 }),
                Found::Frame(len) => {
                    return Ok(Step::Frame {
                        frame: 0..len,
                        consumed: len,
                    });
                }
                Found::Need(len) => return Ok(Step::Need(len)),
            }
        }
        Ok(Step::Skip {
            bytes: bytes.len() as u64,
        })
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        match (self.0)(payload) {
            Found::Frame(len) if len == payload.len() => out.put(payload),
            _ => return Err(FrameError::Unencodable("not a valid frame")),
        }
        Ok(())
    }
}

/// Returns the CRC-16 of some bytes, for a reversed polynomial.
fn crc16(bytes: &[u8], polynomial: u16) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| match crc & 1 {
            1 => crc >> 1 ^ polynomial,
            _ => crc >> 1,
        })
    })
}

fn ubx() -> Framing {
    Framing::custom(Resync(|bytes: &[u8]| {
        let len = match *bytes {
            [0xB5] => return Found::Need(2),
            [0xB5, 0x62, _, _, low, high, ..] => 8 + usize::from(u16::from_le_bytes([low, high])),
            [0xB5, 0x62, ..] => return Found::Need(6),
            _ => return Found::Nothing,
        };
        if len > 1024 {
            return Found::Nothing; // longer than every message that the program expects
        }
        let Some(frame) = bytes.get(..len) else {
            return Found::Need(len);
        };
        let sums = frame[2..len - 2].iter().fold([0_u8; 2], |[a, b], byte| {
            let a = a.wrapping_add(*byte);
            [a, b.wrapping_add(a)]
        });
        if frame.ends_with(&sums) {
            Found::Frame(len)
        } else {
            Found::Nothing
        }
    }))
}

fn gt06() -> Framing {
    Framing::custom(Resync(|bytes: &[u8]| {
        let len = match *bytes {
            [0x78 | 0x79] => return Found::Need(2),
            [0x78, 0x78] => return Found::Need(3),
            [0x79, 0x79] | [0x79, 0x79, _] => return Found::Need(4),
            [0x78, 0x78, len @ 5..=255, ..] => 5 + usize::from(len),
            [0x79, 0x79, 0, len @ 5..=255, ..] => 6 + usize::from(len),
            [0x79, 0x79, high @ 1..=3, low, ..] => 6 + usize::from(u16::from_be_bytes([high, low])),
            _ => return Found::Nothing,
        };
        let Some(frame) = bytes.get(..len) else {
            return Found::Need(len);
        };
        let crc = !crc16(&frame[2..len - 4], 0x8408);
        let [high, low] = crc.to_be_bytes();
        if frame.ends_with(&[high, low, 0x0D, 0x0A]) {
            Found::Frame(len)
        } else {
            Found::Nothing
        }
    }))
}

/// Framing for the answer to one request to `unit`. A regular answer has `answer_len` bytes.
pub(crate) fn modbus_rtu_answer(unit: u8, function: u8, answer_len: usize) -> Framing {
    Framing::custom(Resync(move |bytes: &[u8]| {
        let len = match *bytes {
            [first] if first == unit => return Found::Need(2),
            [first, second, ..] if first == unit && second == function => answer_len,
            [first, second, ..] if first == unit && second == function | 0x80 => 5,
            _ => return Found::Nothing,
        };
        match bytes.get(..len) {
            None => Found::Need(len),
            Some(frame) if crc16(frame, 0xA001) == 0 => Found::Frame(len),
            Some(_) => Found::Nothing,
        }
    }))
    .with_output(Framing::raw())
}

#[test]
fn ubx_messages_come_back_from_every_cut() {
    // UBX-ACK-ACK, a poll of UBX-NAV-PVT, a poll of UBX-MON-VER, UBX-ACK-NAK.
    check_whole(
        &ubx(),
        &[
            b"\xB5\x62\x05\x01\x02\0\x06\x01\x0F\x38",
            b"\xB5\x62\x01\x07\0\0\x08\x19",
            b"\xB5\x62\x0A\x04\0\0\x0E\x34",
            b"\xB5\x62\x05\0\x02\0\x06\x01\x0E\x33",
        ],
    );
    let not_valid = "payload cannot be encoded as a frame: not a valid frame";
    assert_eq!(refusal(&ubx(), b"\xB5\x62\x01\x07\0\0\x08\x18"), not_valid);
}

#[test]
fn ubx_resynchronises_after_a_length_that_lies() {
    let poll = b"\xB5\x62\x01\x07\0\0\x08\x19";
    let ack = b"\xB5\x62\x05\x01\x02\0\x06\x01\x0F\x38";
    // A header with a length of 65,535 is skipped at once, before further bytes arrive.
    check_frames(
        &ubx(),
        &[b"\xB5\x62\x01\x07\xFF\xFF", &poll[..]].concat(),
        &[poll],
    );
    // The checksum shows that the length of 8 is wrong. No valid message is lost.
    let lie = [b"\xB5\x62\x01\x07\x08\0", &poll[..], ack].concat();
    check_frames(&ubx(), &lie, &[poll, ack]);
    // The stream also contains text of another protocol, and first sync characters (B5) without the
    // second one.
    let mixed = [b"$GPGLL*50\r\n\xB5", &poll[..], b"\xB5\xB5", ack, b"\xB5"].concat();
    Cuts::of(&ubx())
        .stream(&mixed)
        .expect(&[poll, ack])
        .frame_len_max(1024)
        .check();
}

#[test]
fn gt06_packets_come_back_from_every_cut() {
    // A login, its answer, a heart-beat and its answer.
    check_whole(
        &gt06(),
        &[
            b"\x78\x78\x0D\x01\x01\x23\x45\x67\x89\x01\x23\x45\0\x01\x8C\xDD\r\n",
            b"\x78\x78\x05\x01\0\x01\xD9\xDC\r\n",
            b"\x78\x78\x0A\x13\x44\x01\x04\0\x01\0\x05\x08\x45\r\n",
            b"\x78\x78\x05\x13\0\x05\xAF\xD5\r\n",
        ],
    );
    // Later trackers also send packets with a length of two bytes.
    let long = b"\x79\x79\0\x08\x94\0\x04\xEE\0\x01\x70\xFE\r\n";
    let answer = b"\x78\x78\x05\x01\0\x01\xD9\xDC\r\n";
    check_whole(&gt06(), &[long, answer, long]);
    // A header whose length is too small or too large is skipped at once.
    for len in [b"\0\x04", b"\xFF\xFF"] {
        let stream = [b"\x79\x79", &len[..], long, b"\x79", answer].concat();
        check_frames(&gt06(), &stream, &[long, answer]);
    }
}

#[test]
fn gt06_resynchronises_after_a_wrong_length_byte() {
    let login = b"\x78\x78\x0D\x01\x01\x23\x45\x67\x89\x01\x23\x45\0\x01\x8C\xDD\r\n";
    let answer = b"\x78\x78\x05\x01\0\x01\xD9\xDC\r\n";
    for len in [0, 4, 5, 0x0C, 0x0E, 0x12] {
        let mut wrong = *login;
        wrong[2] = len;
        let stream = [&wrong[..], answer, login].concat();
        check_frames(&gt06(), &stream, &[answer, login]);
    }
    // The wrong length 0xFF spans later packets. The codec waits until that many bytes have
    // arrived, rejects the packet, and then delivers the later packets.
    let mut wrong = *login;
    wrong[2] = 0xFF;
    let followers = answer.repeat(25);
    let expected: Vec<&[u8]> = followers.chunks(answer.len()).collect();
    check_frames(&gt06(), &[&wrong[..], &followers].concat(), &expected);
    // The stream begins with three start bytes instead of two. The codec first takes the third one,
    // `78`, as the length.
    let mut deframer = Deframer::new(gt06());
    deframer.extend(&[b"\x78", &followers[..]].concat());
    for packet in expected {
        assert_eq!(
            deframer.next_frame().expect("nothing is malformed"),
            Some(packet)
        );
    }
}

#[test]
fn modbus_rtu_answers_come_back_from_every_cut() {
    let answer = b"\x11\x03\x06\xAE\x41\x56\x52\x43\x40\x49\xAD";
    let exception = b"\x11\x83\x02\xC1\x34";
    let second = b"\x11\x03\x06\x01\x02\x03\x04\x05\x06\x56\x73";
    check_whole(
        &modbus_rtu_answer(0x11, 3, 11),
        &[answer, exception, second],
    );
    check_whole(
        &modbus_rtu_answer(1, 6, 8),
        &[
            b"\x01\x06\0\x01\0\x03\x98\x0B",
            b"\x01\x86\x02\xC3\xA1",
            b"\x01\x06\0\x02\0\x0A\xA8\x0D",
        ],
    );
}

#[test]
fn modbus_rtu_skips_noise_between_two_answers() {
    let answer = b"\x11\x03\x06\xAE\x41\x56\x52\x43\x40\x49\xAD";
    let framing = modbus_rtu_answer(0x11, 3, 11);
    // Noise that looks like the start of an answer does not delay the real answer: the bytes of the
    // real answer complete the false frame.
    for noise in [
        &b"\0\xFF"[..],
        b"\x11",
        b"\x11\x03",
        b"\x11\x03\x06\x11\x03",
        &answer[..10],
    ] {
        let stream = [answer, noise, answer].concat();
        check_frames(&framing, &stream, &[answer, answer]);
    }
    let mut damaged = *answer;
    damaged[5] ^= 1;
    check_frames(&framing, &[damaged, *answer].concat(), &[answer]);
}
