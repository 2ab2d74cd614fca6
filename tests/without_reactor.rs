//! Framings without a reactor (`Framer`, `Deframer`, `FramedStream`): files, pipes, child
//! processes, serial lines, and blocking and non-blocking sockets.

mod common;

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::thread;

use common::{FRAMINGS, Probe, Server, frame};
use unstick::{Config, Deframer, FramedStream, Framer, Framing};

/// Frame lengths: empty, short, and longer than a pipe or one read.
const LENS: [usize; 6] = [0, 1, 3, 100, 70_000, 2];

fn framing(name: &str) -> Framing {
    name.parse().expect("the name is a known framing")
}

/// Returns payloads that the framing accepts, and their encoding.
fn sent(name: &str) -> (Vec<Vec<u8>>, Vec<u8>) {
    let len_max = match name {
        "u8" => 255,
        "u16" | "u16-le" => 65_535,
        _ => usize::MAX,
    };
    let payloads: Vec<_> = LENS.map(|len| vec![b'x'; len.min(len_max)]).to_vec();
    let bytes = payloads.iter().map(|payload| frame(name, payload));
    let bytes = bytes.collect::<Vec<_>>().concat();
    (payloads, bytes)
}

/// Reads all frames up to the end of the stream.
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
        assert!(
            frames == payloads,
            "{name}: the {} frames differ from the payloads",
            frames.len()
        );
    }
}

#[test]
fn frames_in_a_file_are_read_back_as_written() {
    let path = std::env::temp_dir().join(format!("unstick-frames-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    for name in FRAMINGS {
        let (payloads, bytes) = sent(name);
        let file = options
            .open(&path)
            .expect("the temporary file can be opened");
        let mut stream = FramedStream::new(file, framing(name));
        for payload in &payloads {
            stream.send(payload).expect("the file can be written");
        }
        assert_eq!(
            stream.receive().expect("no frame follows the last one"),
            None
        );
        let mut file = stream.stream();
        file.rewind().expect("the file can be read");
        let mut written = Vec::new();
        file.read_to_end(&mut written)
            .expect("the file can be read");
        assert!(written == bytes, "{name}");
        file.rewind().expect("the file can be read");
        let mut frames = Vec::new();
        while let Some(frame) = stream
            .receive()
            .expect("the stream holds only whole frames")
        {
            frames.push(frame.to_vec());
        }
        assert_same(name, &frames, &payloads);
    }

    // The writer of this file stopped within a frame.
    let mut file = options
        .open(&path)
        .expect("the temporary file can be opened");
    file.write_all(b"\x02ok\x05cut")
        .expect("the file can be written");
    file.seek(SeekFrom::Start(0)).expect("the file can be read");
    let mut deframer = Deframer::new(Framing::length_u8());
    let frame = deframer
        .read_frame(&mut file)
        .expect("the stream holds a whole frame");
    assert_eq!(frame, Some(&b"ok"[..]));
    let error = deframer
        .read_frame(&mut file)
        .expect_err("the last frame is incomplete");
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!((deframer.rest(), deframer.offset()), (&b"\x05cut"[..], 3));
    // The writer of this file adds the end of the frame.
    file.write_all(b"ok").expect("the file can be written");
    file.seek(SeekFrom::End(-2)).expect("the file can be read");
    let frame = deframer
        .read_frame(&mut file)
        .expect("the stream holds a whole frame");
    assert_eq!(frame, Some(&b"cutok"[..]));
    std::fs::remove_file(path).expect("the file exists");
}

#[test]
fn frames_through_a_pipe_arrive_unchanged() {
    for name in FRAMINGS {
        let (payloads, _) = sent(name);
        let (mut reader, mut writer) = io::pipe().expect("a pipe can be created");
        let to_send = payloads.clone();
        let thread = thread::spawn(move || {
            let mut framer = Framer::new(framing(name));
            for payload in to_send {
                framer
                    .write_frame(&mut writer, &payload)
                    .expect("the peer reads the frame");
            }
        });
        let frames = receive_all(name, &mut reader);
        thread.join().expect("the writer does not panic");
        assert_same(name, &frames, &payloads);
    }
}

#[test]
fn write_to_a_pipe_without_a_reader_fails() {
    let (reader, mut writer) = io::pipe().expect("a pipe can be created");
    drop(reader);
    let mut framer = Framer::new(Framing::line());
    let refused = framer.write_frame(&mut writer, b"two\nlines");
    let refused = refused.expect_err("the payload contains a line ending");
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    let error = framer.write_frame(&mut writer, b"line");
    assert_eq!(
        error.expect_err("the pipe has no reader").kind(),
        ErrorKind::BrokenPipe,
        "Rust programs ignore SIGPIPE"
    );
}

#[cfg(unix)]
#[test]
fn frames_go_both_ways_over_a_childs_pipes() {
    use std::process::{Command, Stdio};

    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cat exists on every Unix");
    let mut stdin = child.stdin.take().expect("the stream is piped");
    let mut stdout = child.stdout.take().expect("the stream is piped");
    let mut framer = Framer::new(Framing::length_u32());
    let mut deframer = Deframer::new(Framing::length_u32());
    for len in LENS {
        // A pipe has space for a whole payload, so the two processes do not block each other.
        let payload = vec![b'x'; len.min(50_000)];
        framer
            .write_frame(&mut stdin, &payload)
            .expect("the child process reads");
        let frame = deframer
            .read_frame(&mut stdout)
            .expect("the child process replies");
        assert!(frame == Some(&payload[..]));
    }
    drop(stdin);
    let end = deframer
        .read_frame(&mut stdout)
        .expect("the stream holds only whole frames");
    assert_eq!(end, None);
    assert!(
        child
            .wait()
            .expect("the process is a child of this one")
            .success()
    );
}

/// A pseudo-terminal replaces the serial line: its device is read and written like a serial port.
/// The test sets it to raw mode (termios(3)), which binary protocols need. In other modes, a
/// terminal interprets some bytes as control characters, and echoes its input.
#[cfg(target_os = "linux")]
#[test]
fn frames_go_both_ways_over_a_serial_line() {
    use std::fs::File;

    use nix::pty::openpty;
    use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    for name in FRAMINGS.into_iter().filter(|name| *name != "raw") {
        let line = openpty(None, None).expect("a pseudo-terminal is available");
        let mut settings = tcgetattr(&line.slave).expect("the descriptor is a terminal");
        cfmakeraw(&mut settings);
        tcsetattr(&line.slave, SetArg::TCSANOW, &settings).expect("the descriptor is a terminal");

        let (mut payloads, _) = sent(name);
        if !name.starts_with("line") {
            payloads.push(every_byte[..255].to_vec());
            payloads.push(every_byte[1..].to_vec());
        }
        let expected = payloads.clone();
        // Replies to each frame with an equal frame.
        let device = thread::spawn(move || {
            let mut stream = FramedStream::new(File::from(line.slave), framing(name));
            for expected in expected {
                let frame = stream.receive().expect("the stream holds a whole frame");
                assert!(frame == Some(&expected[..]), "{name}");
                stream.send(&expected).expect("the peer reads the frame");
            }
            stream // Keep the line open until the other side has read everything.
        });
        let mut stream = FramedStream::new(File::from(line.master), framing(name));
        for payload in payloads {
            stream.send(&payload).expect("the peer reads the frame");
            let frame = stream.receive().expect("the stream holds a whole frame");
            assert!(frame == Some(&payload[..]), "{name}");
        }
        device.join().expect("the device thread does not panic");
    }
}

#[test]
fn blocking_client_gets_its_frames_echoed() {
    for name in FRAMINGS {
        let server = Server::start(Probe::echo(), Config::default(), framing(name));
        let mut client = FramedStream::new(server.connect(), framing(name));
        let (payloads, _) = sent(name);
        for payload in payloads {
            client.send(&payload).expect("the peer reads the frame");
            let mut back = Vec::new();
            // With `raw`, an empty payload sends nothing, and a long payload comes back as several
            // frames.
            let mut is_whole = name == "raw" && payload.is_empty();
            while !is_whole {
                let frame = client.receive().expect("the server replies");
                back.extend_from_slice(frame.expect("the connection is open"));
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
        let (one, other) = UnixStream::pair().expect("a socket pair can be created");
        for stream in [&one, &other] {
            let deadline = Some(DEADLINE);
            stream
                .set_read_timeout(deadline)
                .expect("the timeout can be set");
            stream
                .set_write_timeout(deadline)
                .expect("the timeout can be set");
        }
        (one, other)
    }

    #[test]
    fn framed_stream_sends_and_receives_at_once() {
        for name in FRAMINGS {
            let (one, other) = pair();
            let talk = move |stream: UnixStream| {
                let (payloads, bytes) = sent(name);
                let mut receiving = stream.try_clone().expect("a descriptor is available");
                let sending = thread::spawn(move || {
                    let mut stream = FramedStream::new(stream, framing(name));
                    for payload in sent(name).0 {
                        stream.send(&payload).expect("the peer reads the frame");
                    }
                    let (stream, rest) = stream.into_inner();
                    stream
                        .shutdown(Shutdown::Write)
                        .expect("the connection is open");
                    assert_eq!(rest, b"");
                });
                let frames = super::receive_all(name, &mut receiving);
                sending.join().expect("the sender does not panic");
                assert!(name != "raw" || frames.concat().len() == bytes.len());
                assert_same(name, &frames, &payloads);
            };
            let other_side = thread::spawn(move || talk(other));
            talk(one);
            other_side.join().expect("the other side does not panic");
        }
    }

    #[test]
    fn reframe_after_a_line_keeps_the_next_frames() {
        let (one, mut other) = pair();
        other
            .write_all(b"HELLO 2\r\n\0\x03abc\0\x00\0\x02de")
            .expect("the write succeeds");
        let mut stream = FramedStream::new(one, Framing::line());
        let line = stream.receive().expect("the handshake line is valid");
        assert_eq!(line, Some(&b"HELLO 2"[..]));
        stream.send(b"OK").expect("the stream is open");
        stream.reframe(Framing::length_u16());
        for expected in [&b"abc"[..], b"", b"de"] {
            let frame = stream.receive().expect("the stream holds a whole frame");
            assert_eq!(frame, Some(expected));
        }
        stream.send(b"bye").expect("the stream is open");
        drop(stream);
        let mut answers = Vec::new();
        other
            .read_to_end(&mut answers)
            .expect("the stream ended after the replies");
        assert_eq!(answers, b"OK\n\0\x03bye");
    }

    #[test]
    fn read_timeout_within_a_frame_loses_no_byte() {
        let (one, mut other) = pair();
        let soon = Some(Duration::from_millis(1));
        one.set_read_timeout(soon).expect("the timeout can be set");
        let mut stream = FramedStream::new(one, Framing::length_u16());
        for byte in b"\0\x05hello" {
            let late = stream.receive().expect_err("the frame is not complete yet");
            let kinds = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
            assert!(kinds.contains(&late.kind()), "{late}");
            other.write_all(&[*byte]).expect("the write succeeds");
        }
        let frame = stream.receive().expect("the frame is complete");
        assert_eq!(frame, Some(&b"hello"[..]));
    }

    #[test]
    fn framed_stream_keeps_unsent_bytes_for_flush() {
        let (one, other) = pair();
        one.set_nonblocking(true)
            .expect("non-blocking mode can be set");
        let mut sender = FramedStream::new(one, Framing::length_u32());
        let mut receiver = FramedStream::new(other, Framing::length_u32());
        let payload = vec![b'x'; 1 << 20];
        let refused = sender
            .send(&payload)
            .expect_err("the payload exceeds the kernel's buffers");
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        let unsent = sender.unsent_bytes();
        assert!(
            (1..payload.len()).contains(&unsent),
            "{unsent} bytes are unsent"
        );

        let receiving = thread::spawn(move || {
            let mut lens = Vec::new();
            while let Some(frame) = receiver
                .receive()
                .expect("the stream holds only whole frames")
            {
                lens.push(frame.len());
            }
            lens
        });
        // `send` first writes the unsent bytes and then this frame.
        let sent = sender.send(b"behind");
        assert!(sent.is_ok() || sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        let blocking = sender.stream().set_nonblocking(false);
        blocking.expect("blocking mode can be set");
        sender.flush().expect("the peer reads the frame");
        assert_eq!(sender.unsent_bytes(), 0);
        drop(sender);
        assert_eq!(
            receiving.join().expect("the receiver does not panic"),
            [1 << 20, 6]
        );
    }

    /// The test acts as another runtime. It reads when the socket is readable, and passes the bytes
    /// to a deframer.
    #[test]
    fn deframer_is_filled_from_a_nonblocking_source() {
        for name in FRAMINGS {
            let (one, mut other) = pair();
            one.set_nonblocking(true)
                .expect("non-blocking mode can be set");
            let (payloads, bytes) = sent(name);
            let mut deframer = Deframer::new(framing(name));
            let mut frames = Vec::new();
            for part in bytes.chunks(1009) {
                other.write_all(part).expect("the write succeeds");
                loop {
                    let read = match (&one).read(deframer.spare_capacity_mut()) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        read => read.expect("the connection is open"),
                    };
                    deframer.advance(read);
                    while let Some(frame) = deframer
                        .next_frame()
                        .expect("the stream holds only whole frames")
                    {
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
