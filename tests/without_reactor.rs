//! The framings on what the operating system and std give, without a reactor: files, pipes, child
//! processes, serial lines, blocking sockets with and without a timeout, and a source that does not
//! block.

mod common;

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::thread;

use common::{FRAMINGS, Probe, Server, frame};
use unstick::{Config, Deframer, FramedStream, Framer, Framing};

/// Frames that are empty, short, and longer than a pipe or a read holds.
const LENS: [usize; 6] = [0, 1, 3, 100, 70_000, 2];

fn framing(name: &str) -> Framing {
    name.parse().expect("the name of a framing")
}

/// Payloads that a framing takes, and the bytes that they come to.
fn sent(name: &str) -> (Vec<Vec<u8>>, Vec<u8>) {
    let most = match name {
        "u8" => 255,
        "u16" | "u16-le" => 65_535,
        _ => usize::MAX,
    };
    let payloads: Vec<_> = LENS.map(|len| vec![b'x'; len.min(most)]).to_vec();
    let bytes = payloads.iter().map(|payload| frame(name, payload));
    let bytes = bytes.collect::<Vec<_>>().concat();
    (payloads, bytes)
}

/// All frames of a reader, up to its end.
fn receive_all(name: &str, reader: &mut impl Read) -> Vec<Vec<u8>> {
    let mut deframer = Deframer::new(framing(name));
    let mut frames = Vec::new();
    while let Some(frame) = deframer.read_frame(reader).expect(name) {
        frames.push(frame.to_vec());
    }
    assert_eq!(deframer.rest(), b"", "{name}");
    frames
}

fn assert_same(name: &str, frames: &[Vec<u8>], payloads: &[Vec<u8>]) {
    if name == "raw" {
        assert!(frames.concat() == payloads.concat());
    } else {
        assert!(frames == payloads, "{name}: {} frames", frames.len());
    }
}

#[test]
fn frames_in_a_file_are_read_as_they_were_written() {
    let path = std::env::temp_dir().join(format!("unstick-frames-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    for name in FRAMINGS {
        let (payloads, bytes) = sent(name);
        let file = options.open(&path).expect("a file of our own");
        let mut stream = FramedStream::new(file, framing(name));
        for payload in &payloads {
            stream.send(payload).expect("the disk takes it");
        }
        assert_eq!(stream.receive().expect("nothing is behind it"), None);
        let mut file = stream.stream();
        file.rewind().expect("a file");
        let mut written = Vec::new();
        file.read_to_end(&mut written).expect("a file");
        assert!(written == bytes, "{name}");
        file.rewind().expect("a file");
        let mut frames = Vec::new();
        while let Some(frame) = stream.receive().expect("whole frames") {
            frames.push(frame.to_vec());
        }
        assert_same(name, &frames, &payloads);
    }

    // One that somebody stopped writing.
    let mut file = options.open(&path).expect("a file of our own");
    file.write_all(b"\x02ok\x05cut").expect("the disk takes it");
    file.seek(SeekFrom::Start(0)).expect("a file");
    let mut deframer = Deframer::new(Framing::length_u8());
    let frame = deframer.read_frame(&mut file).expect("a whole one");
    assert_eq!(frame, Some(&b"ok"[..]));
    let error = deframer.read_frame(&mut file).expect_err("cut short");
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!((deframer.rest(), deframer.offset()), (&b"\x05cut"[..], 3));
    // And goes on writing.
    file.write_all(b"ok").expect("the disk takes it");
    file.seek(SeekFrom::End(-2)).expect("a file");
    let frame = deframer.read_frame(&mut file).expect("a whole one");
    assert_eq!(frame, Some(&b"cutok"[..]));
    std::fs::remove_file(path).expect("it is there");
}

#[test]
fn frames_come_through_a_pipe_however_it_cuts_them() {
    for name in FRAMINGS {
        let (payloads, _) = sent(name);
        let (mut reader, mut writer) = io::pipe().expect("a pipe");
        let to_send = payloads.clone();
        let thread = thread::spawn(move || {
            let mut framer = Framer::new(framing(name));
            for payload in to_send {
                framer
                    .write_frame(&mut writer, &payload)
                    .expect("it is read");
            }
        });
        let frames = receive_all(name, &mut reader);
        thread.join().expect("all was written");
        assert_same(name, &frames, &payloads);
    }
}

#[test]
fn a_pipe_that_nobody_reads_any_more_is_a_broken_one() {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    drop(reader);
    let mut framer = Framer::new(Framing::line());
    let refused = framer.write_frame(&mut writer, b"two\nlines");
    let refused = refused.expect_err("no line");
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    let error = framer.write_frame(&mut writer, b"line");
    assert_eq!(
        error.expect_err("broken").kind(),
        ErrorKind::BrokenPipe,
        "std ignores SIGPIPE"
    );
}

#[cfg(unix)]
#[test]
fn a_child_process_is_spoken_to_by_its_two_pipes() {
    use std::process::{Command, Stdio};

    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it is on every Unix");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut framer = Framer::new(Framing::length_u32());
    let mut deframer = Deframer::new(Framing::length_u32());
    for len in LENS {
        // What the pipes hold, so that neither side waits for the other for ever.
        let payload = vec![b'x'; len.min(50_000)];
        framer.write_frame(&mut stdin, &payload).expect("it reads");
        let frame = deframer.read_frame(&mut stdout).expect("it answers");
        assert!(frame == Some(&payload[..]));
    }
    drop(stdin);
    let end = deframer.read_frame(&mut stdout).expect("a whole stream");
    assert_eq!(end, None);
    assert!(child.wait().expect("it was started").success());
}

/// A pseudo-terminal stands for the line: its device is read and written as a serial port's is. In
/// raw mode (termios(3)), as a binary protocol needs it: else some bytes are commands to the line,
/// and the others are echoed.
#[cfg(target_os = "linux")]
#[test]
fn frames_go_both_ways_over_a_serial_line() {
    use std::fs::File;

    use nix::pty::openpty;
    use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    for name in FRAMINGS.into_iter().filter(|name| *name != "raw") {
        let line = openpty(None, None).expect("a free pseudo-terminal");
        let mut settings = tcgetattr(&line.slave).expect("it is a terminal");
        cfmakeraw(&mut settings);
        tcsetattr(&line.slave, SetArg::TCSANOW, &settings).expect("it is a terminal");

        let (mut payloads, _) = sent(name);
        if name != "line" {
            payloads.push(every_byte[..255].to_vec());
            payloads.push(every_byte[1..].to_vec());
        }
        let expected = payloads.clone();
        // Answers each frame with one.
        let device = thread::spawn(move || {
            let mut stream = FramedStream::new(File::from(line.slave), framing(name));
            for expected in expected {
                let frame = stream.receive().expect("a whole frame");
                assert!(frame == Some(&expected[..]), "{name}");
                stream.send(&expected).expect("it is read");
            }
            stream // The line does not hang up before all is read.
        });
        let mut stream = FramedStream::new(File::from(line.master), framing(name));
        for payload in payloads {
            stream.send(&payload).expect("it is read");
            let frame = stream.receive().expect("a whole frame");
            assert!(frame == Some(&payload[..]), "{name}");
        }
        device.join().expect("all came");
    }
}

#[test]
fn a_blocking_client_of_a_reactor_gets_its_frames_back() {
    for name in FRAMINGS {
        let server = Server::start(Probe::echo(), Config::default(), framing(name));
        let mut client = FramedStream::new(server.connect(), framing(name));
        let (payloads, _) = sent(name);
        for payload in payloads {
            client.send(&payload).expect("it is read");
            let mut back = Vec::new();
            // Raw sends nothing of nothing, and gets much back by as much as each read gave.
            let mut is_whole = name == "raw" && payload.is_empty();
            while !is_whole {
                let frame = client.receive().expect("it answers");
                back.extend_from_slice(frame.expect("it is open"));
                is_whole = name != "raw" || back.len() == payload.len();
            }
            assert!(back == payload, "{name}");
        }
        drop(client);
        server.stop();
    }
}

#[cfg(unix)]
mod unix {
    use std::io::{ErrorKind, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use super::{LENS, Read, assert_same, framing, sent};
    use crate::common::{DEADLINE, FRAMINGS};
    use unstick::{Deframer, FramedStream, Framing};

    fn pair() -> (UnixStream, UnixStream) {
        let (one, other) = UnixStream::pair().expect("a pair");
        for stream in [&one, &other] {
            let deadline = Some(DEADLINE);
            stream.set_read_timeout(deadline).expect("it can be set");
            stream.set_write_timeout(deadline).expect("it can be set");
        }
        (one, other)
    }

    #[test]
    fn both_ends_of_a_socket_send_and_receive_at_a_time() {
        for name in FRAMINGS {
            let (one, other) = pair();
            let talk = move |stream: UnixStream| {
                let (payloads, bytes) = sent(name);
                let mut receiving = stream.try_clone().expect("a second handle");
                let sending = thread::spawn(move || {
                    let mut stream = FramedStream::new(stream, framing(name));
                    for payload in sent(name).0 {
                        stream.send(&payload).expect("it is read");
                    }
                    let (stream, rest) = stream.into_inner();
                    stream.shutdown(Shutdown::Write).expect("it is open");
                    assert_eq!(rest, b"");
                });
                let frames = super::receive_all(name, &mut receiving);
                sending.join().expect("all was sent");
                assert!(name != "raw" || frames.concat().len() == bytes.len());
                assert_same(name, &frames, &payloads);
            };
            let there = thread::spawn(move || talk(other));
            talk(one);
            there.join().expect("so did the other");
        }
    }

    #[test]
    fn a_handshake_by_line_leaves_the_frames_behind_it() {
        let (one, mut other) = pair();
        other
            .write_all(b"HELLO 2\r\n\0\x03abc\0\x00\0\x02de")
            .expect("the kernel takes it");
        let mut stream = FramedStream::new(one, Framing::line());
        let line = stream.receive().expect("a line");
        assert_eq!(line, Some(&b"HELLO 2"[..]));
        stream.send(b"OK").expect("it is open");
        stream.reframe(Framing::length_u16());
        for expected in [&b"abc"[..], b"", b"de"] {
            let frame = stream.receive().expect("a frame");
            assert_eq!(frame, Some(expected));
        }
        stream.send(b"bye").expect("it is open");
        drop(stream);
        let mut answers = Vec::new();
        other.read_to_end(&mut answers).expect("it was closed");
        assert_eq!(answers, b"OK\n\0\x03bye");
    }

    #[test]
    fn a_timeout_within_a_frame_loses_nothing_of_it() {
        let (one, mut other) = pair();
        let soon = Some(Duration::from_millis(1));
        one.set_read_timeout(soon).expect("it can be set");
        let mut stream = FramedStream::new(one, Framing::length_u16());
        for byte in b"\0\x05hello" {
            let late = stream.receive().expect_err("it is not whole");
            let kinds = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
            assert!(kinds.contains(&late.kind()), "{late}");
            other.write_all(&[*byte]).expect("the kernel takes it");
        }
        let frame = stream.receive().expect("it is whole");
        assert_eq!(frame, Some(&b"hello"[..]));
    }

    #[test]
    fn what_a_socket_that_does_not_block_refuses_is_kept_and_sent_on() {
        let (one, other) = pair();
        one.set_nonblocking(true).expect("it can be set");
        let mut sender = FramedStream::new(one, Framing::length_u32());
        let mut receiver = FramedStream::new(other, Framing::length_u32());
        let payload = vec![b'x'; 1 << 20];
        let refused = sender.send(&payload).expect_err("more than the kernel has");
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        let unsent = sender.unsent_bytes();
        assert!((1..payload.len()).contains(&unsent), "{unsent} bytes");

        let receiving = thread::spawn(move || {
            let mut lens = Vec::new();
            while let Some(frame) = receiver.receive().expect("whole frames") {
                lens.push(frame.len());
            }
            lens
        });
        // Behind the first: `send` writes on what is unsent before.
        let sent = sender.send(b"behind");
        assert!(sent.is_ok() || sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        let blocking = sender.stream().set_nonblocking(false);
        blocking.expect("it can be set");
        sender.flush().expect("it is read");
        assert_eq!(sender.unsent_bytes(), 0);
        drop(sender);
        assert_eq!(receiving.join().expect("all came"), [1 << 20, 6]);
    }

    /// As under another runtime: it reads when it is told to, and gives the bytes to a deframer.
    #[test]
    fn a_source_that_does_not_block_fills_the_deframer_as_its_bytes_come() {
        for name in FRAMINGS {
            let (one, mut other) = pair();
            one.set_nonblocking(true).expect("it can be set");
            let (payloads, bytes) = sent(name);
            let mut deframer = Deframer::new(framing(name));
            let mut frames = Vec::new();
            for piece in bytes.chunks(1009) {
                other.write_all(piece).expect("the kernel takes it");
                loop {
                    let read = match (&one).read(deframer.spare_capacity_mut()) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        read => read.expect("it is open"),
                    };
                    deframer.advance(read);
                    while let Some(frame) = deframer.next_frame().expect("whole frames") {
                        frames.push(frame.to_vec());
                    }
                }
            }
            assert_eq!(deframer.rest(), b"", "{name}");
            assert!(name == "raw" || frames.len() == LENS.len());
            assert_same(name, &frames, &payloads);
        }
    }
}
