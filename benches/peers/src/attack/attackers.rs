//! The attacks. Each function runs until `stop` is set.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::framing::Framing;
use crate::system::reset_on_close;

/// The attacked server.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) addr: SocketAddr,
    pub(super) framing: Framing,
}

/// One way to attack.
pub(super) struct Attack {
    pub(super) name: &'static str,
    pub(super) run: fn(Target, &AtomicBool),
}

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "length bombs",
        run: length_bombs,
    },
    Attack {
        name: "half frames",
        run: half_frames,
    },
    Attack {
        name: "empty frames",
        run: empty_frames,
    },
    Attack {
        name: "slow readers",
        run: slow_readers,
    },
    Attack {
        name: "slow senders",
        run: slow_senders,
    },
    Attack {
        name: "connection flood",
        run: connection_flood,
    },
    Attack {
        name: "reset storm",
        run: reset_storm,
    },
    Attack {
        name: "UDP flood",
        run: udp_flood,
    },
];

const HALF_FRAMES: usize = 2000;
const HALF_FRAME_LEN: usize = 32 * 1024;
const SLOW_READERS: usize = 300;
const SLOW_SENDERS: usize = 1000;
const IDLE_CONNECTIONS: usize = 3000;
/// Pause of an attacker after it has acted on all its connections.
const PAUSE: Duration = Duration::from_millis(1);

impl Target {
    pub(super) fn new(port: u16, framing: Framing) -> Self {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { addr, framing }
    }

    fn connect(self) -> Option<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.addr, Duration::from_millis(200)).ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    }
}

fn goes_on(stop: &AtomicBool) -> bool {
    !stop.load(Ordering::Relaxed)
}

/// Writes once, as many bytes as the socket takes. Returns false if the connection has ended.
#[expect(
    clippy::unused_io_amount,
    reason = "an attacker does not care how many bytes the socket takes"
)]
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    match stream.write(bytes) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Keeps up to `count` connections open, and calls `act` for each of them again and again. The flag
/// is true for a new connection. A connection for which `act` returns false is replaced.
fn with_connections(
    target: Target,
    stop: &AtomicBool,
    count: usize,
    mut act: impl FnMut(&mut TcpStream, bool) -> bool,
) {
    let mut streams: Vec<TcpStream> = Vec::new();
    while goes_on(stop) {
        if streams.len() < count
            && let Some(mut stream) = target.connect()
            && act(&mut stream, true)
        {
            streams.push(stream);
            continue;
        }
        for index in (0..streams.len()).rev() {
            if !goes_on(stop) {
                return;
            }
            if !act(&mut streams[index], false) {
                streams.swap_remove(index);
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Announces frames of 4 GiB, 1 GiB and 1 MiB, each on its own connection. The length of 1 MiB is
/// legal.
fn length_bombs(target: Target, stop: &AtomicBool) {
    for length in [u32::MAX as usize, 1 << 30, 1 << 20].into_iter().cycle() {
        if !goes_on(stop) {
            return;
        }
        if let Some(mut stream) = target.connect() {
            write_some(&mut stream, &target.framing.prefix(length));
        }
    }
}

/// Sends the first half of a legal frame over each of many connections, and keeps them open.
fn half_frames(target: Target, stop: &AtomicBool) {
    let mut half = target.framing.prefix(2 * HALF_FRAME_LEN);
    half.extend(vec![7; HALF_FRAME_LEN]);
    with_connections(target, stop, HALF_FRAMES, |stream, is_new| match is_new {
        true => write_some(stream, &half),
        false => is_open(stream),
    });
}

/// Returns false if the server has closed the connection. Reads and drops its bytes.
fn is_open(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 16 * 1024];
    match stream.read(&mut buffer) {
        Ok(len) => len > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Sends empty frames as fast as the server takes them, and reads their echoes.
fn empty_frames(target: Target, stop: &AtomicBool) {
    let frames = target.framing.prefix(0).repeat(16 * 1024);
    with_connections(target, stop, 4, |stream, _| {
        // The socket may take a part of a frame. The rest of the stream is then still valid,
        // because every byte of an empty frame is zero.
        write_some(stream, &frames) && is_open(stream)
    });
}

/// Requests echoes and never reads them.
fn slow_readers(target: Target, stop: &AtomicBool) {
    // All bytes are zero after the prefix. If the socket takes only a part of a frame, the next
    // write still starts a new frame. The server usually reads the surplus zeros as empty frames.
    let mut frame = target.framing.prefix(16 * 1024);
    frame.extend(vec![0; 16 * 1024]);
    with_connections(target, stop, SLOW_READERS, |stream, _| {
        write_some(stream, &frame)
    });
}

/// Sends one byte of a frame now and then, over many connections.
fn slow_senders(target: Target, stop: &AtomicBool) {
    let prefix = target.framing.prefix(1000);
    with_connections(target, stop, SLOW_SENDERS, |stream, is_new| match is_new {
        true => write_some(stream, &prefix),
        false => write_some(stream, &[7]) && is_open(stream),
    });
}

/// Opens many connections and keeps them, then opens and closes connections.
fn connection_flood(target: Target, stop: &AtomicBool) {
    let mut idle = Vec::new();
    while goes_on(stop) {
        let stream = target.connect();
        if idle.len() < IDLE_CONNECTIONS {
            idle.extend(stream);
        }
    }
}

/// Opens connections, sends a part of a frame, and resets them.
fn reset_storm(target: Target, stop: &AtomicBool) {
    let mut part = target.framing.prefix(100);
    part.extend([7; 50]);
    while goes_on(stop) {
        if let Some(mut stream) = target.connect() {
            write_some(&mut stream, &part);
            let _ = reset_on_close(&stream);
        }
    }
}

/// Sends datagrams to the port of the server. Only `unstick-public` has a UDP socket at this port.
fn udp_flood(target: Target, stop: &AtomicBool) {
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) else {
        return;
    };
    while goes_on(stop) {
        let _ = socket.send_to(&[7; 1000], target.addr);
    }
}
