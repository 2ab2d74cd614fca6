//! Connections that move between two reactors, in two threads, while their peers send and receive.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::client;
use unstick::{CloseReason, Closed, ConnId, Context, Framing, Handler, Reactor, Remote};

const CONNECTIONS: u64 = 16;
/// Number of moves of all connections together.
const MOVES: u64 = if cfg!(debug_assertions) {
    4_000
} else {
    100_000
};
const FRAMES: u64 = MOVES / CONNECTIONS;

/// A handler that echoes each frame, and then moves its connection to the other reactor.
struct Hop {
    other: Option<Remote<Self>>,
    moves: Arc<AtomicU64>,
    ended: Arc<AtomicU64>,
}

/// The number of the next frame of a connection.
type Next = u64;

impl Handler for Hop {
    type Session = Next;

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        next: &mut Next,
        frame: &[u8],
    ) {
        assert!(
            frame == payload(*next),
            "frame {next} of {conn} is lost, doubled or damaged"
        );
        *next += 1;
        let _ = cx.send(conn, frame).expect("the queue has space");
        cx.detach(conn).expect("the connection is open");
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, next: Next, closed: Closed) {
        match closed.reason {
            CloseReason::Detached(detached) => {
                self.moves.fetch_add(1, Ordering::Relaxed);
                let other = self.other.as_ref().expect("both reactors know each other");
                let posted = other.post(move |_, cx| {
                    cx.adopt_detached(detached, Framing::length_u32(), next);
                });
                posted.expect("the queue has space");
            }
            CloseReason::Peer => {
                assert_eq!((closed.unsent_bytes, closed.undecoded_bytes), (0, 0));
                self.ended.fetch_add(1, Ordering::Relaxed);
            }
            reason => panic!("{reason}"),
        }
    }
}

/// Returns the payload of a frame. One in 125 frames is longer than a read, and the others are
/// short.
fn payload(nth: u64) -> Vec<u8> {
    let len = match nth % 125 {
        124 => 300_000,
        rest => rest * 7 % 300,
    };
    let bytes = nth.to_be_bytes().into_iter().cycle();
    bytes
        .take(usize::try_from(8 + len).expect("the length is short"))
        .collect()
}

fn frame(nth: u64) -> Vec<u8> {
    common::frame("u32", &payload(nth))
}

/// Sends all frames of one connection, in pieces that do not match the frames, and checks the echo.
fn exchange(addr: SocketAddr) {
    let mut reader = client(addr);
    let mut writer = reader.try_clone().expect("a descriptor is available");
    let sender = thread::spawn(move || {
        let mut pending = Vec::new();
        for nth in 0..FRAMES {
            pending.extend(frame(nth));
            let len = pending
                .len()
                .min(usize::try_from(nth * 31 % 1000).expect("it is short"));
            writer.write_all(&pending[..len]).expect("the server reads");
            pending.drain(..len);
        }
        writer.write_all(&pending).expect("the server reads");
        writer
            .shutdown(Shutdown::Write)
            .expect("the connection is open");
    });
    for nth in 0..FRAMES {
        let expected = frame(nth);
        let mut echo = vec![0; expected.len()];
        reader.read_exact(&mut echo).expect("the server echoes");
        assert!(echo == expected, "echo of frame {nth}");
    }
    assert_eq!(
        reader
            .read(&mut [0])
            .expect("the stream ends without a reset"),
        0
    );
    sender.join().expect("the sender does not panic");
}

fn check_no_leak(reactor: &Reactor<Hop>) {
    let stats = reactor.stats();
    assert_eq!((stats.connections, stats.held_bytes), (0, 0));
}

#[test]
fn moves_between_threads_keep_every_frame_in_order() {
    let (moves, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut reactors = [(); 2].map(|()| {
        let (moves, ended) = (moves.clone(), ended.clone());
        let hop = Hop {
            other: None,
            moves,
            ended,
        };
        Reactor::new(hop).expect("the reactor is created")
    });
    let remotes = [reactors[0].remote(), reactors[1].remote()];
    reactors[0].handler_mut().other = Some(remotes[1].clone());
    reactors[1].handler_mut().other = Some(remotes[0].clone());
    let listener = reactors[0].listen("127.0.0.1:0", Framing::length_u32());
    let listener = listener.expect("port 0 is free");
    let addr = reactors[0].local_inet_addr(listener).expect("it is bound");
    let loops = reactors.map(|mut reactor| {
        thread::spawn(move || {
            reactor.run().expect("polling succeeds");
            check_no_leak(&reactor);
        })
    });
    let clients = (0..CONNECTIONS).map(|_| thread::spawn(move || exchange(addr)));
    for client in clients.collect::<Vec<_>>() {
        client.join().expect("every frame is echoed in order");
    }
    for remote in remotes {
        remote.shutdown(Duration::ZERO).expect("the reactor runs");
    }
    for thread in loops {
        thread.join().expect("no frame is lost or doubled");
    }
    assert_eq!(moves.load(Ordering::Relaxed), FRAMES * CONNECTIONS);
    assert_eq!(ended.load(Ordering::Relaxed), CONNECTIONS);
}
