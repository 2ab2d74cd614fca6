//! Tests of the simulated poll, sockets, network and time. Most of them check a rule of epoll or of
//! sockets on Linux.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::{Ready, SimEvent, SimPeer, SimPoll, SimSocket, World};
use crate::addr::Addr;
use crate::id::PollToken;
use crate::os::{ConnectOptions, ListenOptions, Listener};

const MS: Duration = Duration::from_millis(1);
const BOTH: Ready = Ready::BOTH;

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Returns the pending events. Each element is the token and the readiness of one event.
fn events(poll: &mut SimPoll) -> Vec<(usize, Ready)> {
    poll.wait(Some(Duration::ZERO)).expect("the poll works");
    let mut events = Vec::new();
    poll.for_each_event(|event| {
        if let crate::os::Event::Sim(SimEvent { token, ready }, _) = event {
            events.push((token.0, ready));
        }
    });
    events
}

fn listener(world: World) -> (SimSocket, Addr) {
    let bound = world.bind_listener(&any().into(), &ListenOptions::new(), 9);
    let Ok(Listener::Sim(socket)) = bound else {
        panic!("the listener is not bound: {bound:?}");
    };
    (socket, socket.local_addr())
}

/// Creates a connection and registers its accepted end with token 7.
fn connected(world: World, poll: &SimPoll) -> (SimPeer, SimSocket) {
    let (listener, addr) = listener(world);
    let peer = world.connect(addr);
    let (socket, _) = listener.accept().expect("the peer has connected");
    poll.register(socket, PollToken(7))
        .expect("the socket is not registered yet");
    (peer, socket)
}

fn set_up() -> (World, SimPoll) {
    let world = World::new(0);
    (world, SimPoll::new(world, 0))
}

#[test]
fn unaccepted_connections_make_no_event_until_the_next_connect() {
    let (world, mut poll) = set_up();
    let (listener, addr) = listener(world);
    poll.register(listener, PollToken(1))
        .expect("the socket is not registered yet");
    for _ in 0..3 {
        world.connect(addr.clone());
    }
    assert_eq!(events(&mut poll), [(1, Ready::READABLE)]);
    listener.accept().expect("a connection is in the backlog");
    assert_eq!(events(&mut poll), []);
    world.connect(addr);
    assert_eq!(events(&mut poll), [(1, Ready::READABLE)]);
    for _ in 0..3 {
        listener.accept().expect("a connection is in the backlog");
    }
    let error = listener.accept().expect_err("the backlog is empty");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn emfile_at_accept_keeps_the_backlog_and_makes_no_event() {
    const EMFILE: i32 = 24;
    let (world, mut poll) = set_up();
    let (listener, addr) = listener(world);
    poll.register(listener, PollToken(1))
        .expect("the socket is not registered yet");
    world.fail_next_accept(addr.clone(), EMFILE);
    world.connect(addr);
    assert_eq!(events(&mut poll).len(), 1);
    let error = listener.accept().expect_err("the accept fails with EMFILE");
    assert_eq!(error.raw_os_error(), Some(EMFILE));
    assert_eq!(events(&mut poll), []);
    listener
        .accept()
        .expect("the connection is still in the backlog");
}

#[test]
fn unread_bytes_make_no_event_until_another_byte_arrives() {
    let (world, mut poll) = set_up();
    let (peer, socket) = connected(world, &poll);
    assert_eq!(
        events(&mut poll),
        [(7, Ready::WRITABLE)],
        "registration reports a writable socket"
    );
    assert_eq!(peer.send(&[1; 100]), 100);
    assert_eq!(
        events(&mut poll),
        [(7, BOTH)],
        "an event reports both directions"
    );
    assert_eq!(
        socket.read(&mut [0; 10]).expect("the bytes have arrived"),
        10
    );
    assert_eq!(events(&mut poll), []);
    peer.send(&[1]);
    assert_eq!(events(&mut poll), [(7, BOTH)]);
    assert_eq!(
        socket.read(&mut [0; 100]).expect("the bytes have arrived"),
        91
    );
    let error = socket
        .read(&mut [0; 1])
        .expect_err("the receive buffer is empty");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn registration_reports_a_socket_that_is_already_ready() {
    let (world, mut poll) = set_up();
    let (listener, addr) = listener(world);
    let peer = world.connect(addr);
    peer.send(b"early");
    let (socket, _) = listener.accept().expect("the peer has connected");
    assert_eq!(events(&mut poll), []);
    poll.register(socket, PollToken(7))
        .expect("the socket is not registered yet");
    assert_eq!(events(&mut poll), [(7, BOTH)]);
    let error = poll
        .register(socket, PollToken(8))
        .expect_err("the socket is already registered");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

/// A detached stream is adopted by the reactor of another poll.
#[test]
#[cfg(unix)]
fn former_poll_reports_no_event_of_an_adopted_stream() {
    let (world, mut first) = set_up();
    let mut second = SimPoll::new(world, 0);
    let (peer, socket) = connected(world, &first);
    peer.send(b"word");
    let detached = socket.detach().expect("the process has descriptors");
    let adopted = world.adopt(&detached).expect("the stream is simulated");
    second
        .register(adopted, PollToken(8))
        .expect("the socket is not registered any more");
    assert_eq!(events(&mut first), []);
    assert_eq!(events(&mut second), [(8, BOTH)]);
    assert_eq!(events(&mut second), []);
}

#[test]
fn bytes_and_fin_that_arrive_together_make_one_event() {
    let (world, mut poll) = set_up();
    let (peer, socket) = connected(world, &poll);
    events(&mut poll);
    peer.send(b"last");
    peer.shutdown();
    assert_eq!(events(&mut poll), [(7, Ready::ALL)]);
    assert_eq!(
        socket.read(&mut [0; 100]).expect("the bytes have arrived"),
        4
    );
    assert_eq!(events(&mut poll), []);
    assert_eq!(
        socket
            .read(&mut [0; 100])
            .expect("the end of the stream is reported"),
        0
    );
}

/// Fills a send buffer of 58,000 bytes, and frees its space in steps.
#[test]
fn full_send_buffer_makes_an_edge_once_a_third_is_free() {
    let (world, mut poll) = set_up();
    let buffers = ListenOptions::new().send_buffer_len(58_000);
    let bound = world.bind_listener(&any().into(), &buffers, 9);
    let Ok(Listener::Sim(listener)) = bound else {
        panic!("the listener is not bound: {bound:?}");
    };
    let small = ConnectOptions::new().recv_buffer_len(50_000);
    let peer = world.connect_with(listener.local_addr(), &small);
    let (socket, _) = listener.accept().expect("the peer has connected");
    poll.register(socket, PollToken(7))
        .expect("the socket is not registered yet");
    events(&mut poll);
    assert_eq!(
        socket
            .write(&[7; 50_000])
            .expect("the send buffer has space"),
        50_000
    );
    assert_eq!(
        socket
            .write(&[7; 60_000])
            .expect("the send buffer takes a part of the bytes"),
        58_000
    );
    let error = socket.write(&[7; 1]).expect_err("the send buffer is full");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(events(&mut poll), []);
    assert_eq!(peer.recv_up_to(10_000).len(), 10_000);
    assert_eq!(socket.unsent_len(), 48_000);
    assert_eq!(
        events(&mut poll),
        [],
        "10,000 free bytes are less than a third of the send buffer"
    );
    assert_eq!(peer.recv_up_to(16_000).len(), 16_000);
    assert_eq!(events(&mut poll), [(7, Ready::WRITABLE)]);
    assert_eq!(peer.recv_up_to(1000).len(), 1000);
    assert_eq!(events(&mut poll), [], "the edge is reported once");
}

#[test]
fn close_with_unread_input_resets_the_peer() {
    let (world, mut poll) = set_up();
    let (peer, socket) = connected(world, &poll);
    peer.send(b"unread");
    socket.close();
    assert_eq!(
        events(&mut poll),
        [],
        "the socket is not registered any more"
    );
    let error = peer.read_end().expect_err("the connection is reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(peer.read_end().expect("an error is reported once"), 0);
}

#[test]
fn bytes_to_a_closed_socket_cause_a_reset() {
    let (world, mut poll) = set_up();
    let (peer, socket) = connected(world, &poll);
    events(&mut poll);
    peer.close();
    assert_eq!(
        events(&mut poll),
        [(7, Ready::ALL)],
        "the FIN of the peer arrives"
    );
    assert_eq!(
        socket
            .read(&mut [0; 1])
            .expect("the end of the stream is reported"),
        0
    );
    assert_eq!(socket.write(b"late").expect("the send buffer has space"), 4);
    let error = socket
        .write(b"later")
        .expect_err("the connection was reset");
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

#[test]
fn received_bytes_stay_readable_after_a_reset() {
    let (world, poll) = set_up();
    let (peer, socket) = connected(world, &poll);
    peer.send(b"data");
    peer.reset();
    assert_eq!(socket.read(&mut [0; 9]).expect("the bytes have arrived"), 4);
    let error = socket
        .read(&mut [0; 9])
        .expect_err("the connection was reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn connect_to_a_full_backlog_is_repeated_after_seconds() {
    let world = World::new(0);
    let listener = world.listen_with(any(), &ListenOptions::new().backlog(1));
    let peers = [(); 4].map(|()| world.connect(listener.local_addr()));
    let connected = || peers.map(SimPeer::is_connected);
    assert_eq!(connected(), [true, true, false, false]);
    listener
        .accept()
        .expect("the first connection is in the backlog");
    world.advance(999 * MS);
    assert_eq!(connected(), [true, true, false, false]);
    world.advance(MS);
    assert_eq!(connected(), [true, true, true, false]);
    listener.close();
    assert_eq!(
        peers[1]
            .read_end()
            .expect_err("the connection is reset")
            .kind(),
        ErrorKind::ConnectionReset
    );
    world.advance(2000 * MS);
    assert_eq!(
        peers[3]
            .read_end()
            .expect_err("the listener is closed")
            .kind(),
        ErrorKind::ConnectionRefused
    );
}

#[test]
fn connect_that_is_never_answered_fails_after_127_seconds() {
    let world = World::new(0);
    let listener = world.listen_with(any(), &ListenOptions::new().backlog(0));
    let [_, waiting] = [(); 2].map(|()| world.connect(listener.local_addr()));
    world.advance(126_999 * MS);
    let error = waiting.read_end().expect_err("the connect is pending");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    world.advance(MS);
    let error = waiting.read_end().expect_err("the connect has failed");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[test]
fn datagrams_keep_boundaries_and_long_ones_are_truncated() {
    let (world, mut poll) = set_up();
    let [socket, peer] =
        [(); 2].map(|()| world.bind_datagram(any().into()).expect("a port is free"));
    poll.register_datagrams(socket, PollToken(3))
        .expect("the socket is not registered yet");
    assert_eq!(
        events(&mut poll),
        [],
        "the socket is registered for input only"
    );
    for data in [&[7; 10][..], b"", b"abc"] {
        let sent = peer.send_datagram(Some(socket.local_addr()), data);
        assert_eq!(sent.expect("the datagram is sent"), data.len());
    }
    assert_eq!(events(&mut poll), [(3, Ready::READABLE)]);
    for len in [4, 0, 3] {
        let received = socket
            .recv_datagram(&mut [0; 4])
            .expect("the datagram has arrived");
        assert_eq!(received, (len, peer.local_addr()));
    }
    socket
        .recv_datagram(&mut [0; 4])
        .expect_err("the queue is empty");
    socket
        .await_writable(true)
        .expect("the socket is registered");
    assert_eq!(events(&mut poll), [(3, Ready::WRITABLE)]);
}

#[test]
fn only_a_connected_udp_socket_reports_a_refused_datagram() {
    let (world, mut poll) = set_up();
    let socket = world.bind_datagram(any().into()).expect("a port is free");
    poll.register_datagrams(socket, PollToken(3))
        .expect("the socket is not registered yet");
    let unused = Addr::from(SocketAddr::from(([127, 0, 0, 1], 9)));
    for _ in 0..2 {
        socket
            .send_datagram(Some(unused.clone()), b"lost")
            .expect("the datagram is sent");
    }
    assert_eq!(events(&mut poll), []);
    socket
        .connect_datagrams(unused)
        .expect("UDP connects to any address");
    socket
        .send_datagram(None, b"lost")
        .expect("the datagram is sent");
    assert_eq!(events(&mut poll), [(3, Ready::ENDED)]);
    let error = socket
        .recv_datagram(&mut [0; 4])
        .expect_err("the datagram was refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn wait_advances_time_to_the_next_action_or_its_timeout() {
    let (world, mut poll) = set_up();
    let (peer, _) = connected(world, &poll);
    events(&mut poll);
    poll.wait(Some(5 * MS)).expect("the poll works");
    assert_eq!((world.now(), poll.has_events()), (5 * MS, false));
    world.after(3 * MS, move || assert_eq!(peer.send(b"later"), 5));
    poll.wait(Some(100 * MS)).expect("the poll works");
    assert_eq!((world.now(), poll.has_events()), (8 * MS, true));
    poll.waker().wake().expect("the poll works");
    poll.wait(None).expect("the poll works");
    assert_eq!((world.now(), poll.has_events()), (8 * MS, true));
    world.fail_next_wait(ErrorKind::Interrupted);
    peer.send(b"kept");
    let error = poll.wait(None).expect_err("the wait is interrupted");
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    poll.wait(None)
        .expect("the event is reported by the next wait");
    assert!(poll.has_events());
    let panic = catch_unwind(AssertUnwindSafe(|| poll.wait(None)));
    panic.expect_err("a wait that no event can end panics");
}

#[test]
fn latency_delays_connects_bytes_and_the_fin() {
    let world = World::new(0);
    world.set_latency(10 * MS);
    let listener = world.listen(any());
    let peer = world.connect(listener.local_addr());
    world.advance(9 * MS);
    assert!(listener.accept().is_none());
    world.advance(MS);
    let accepted = listener.accept().expect("the peer has connected");
    peer.send(b"bytes");
    peer.shutdown();
    world.advance(9 * MS);
    assert_eq!(accepted.recv(), b"");
    world.advance(MS);
    assert_eq!(accepted.recv(), b"bytes");
    assert_eq!(
        accepted
            .read_end()
            .expect("the end of the stream is reported"),
        0
    );
}

#[test]
fn segments_arrive_one_by_one_and_in_order() {
    let world = World::new(3);
    world.set_segment_len_max(10);
    let listener = world.listen(any());
    let peer = world.connect(listener.local_addr());
    let accepted = listener.accept().expect("the peer has connected");
    let bytes: Vec<u8> = (0..100).collect();
    peer.send(&bytes);
    peer.shutdown();
    let mut segments = Vec::new();
    while let Some(wait) = world.next_action_in() {
        world.advance(wait);
        segments.push(accepted.recv());
    }
    assert!(
        segments.len() > 10,
        "the bytes arrived in too few segments: {segments:?}"
    );
    assert_eq!(segments.concat(), bytes);
    assert_eq!(
        accepted
            .read_end()
            .expect("the end of the stream is reported"),
        0
    );
}

#[test]
#[cfg(unix)]
fn unix_datagrams_block_while_the_receiver_is_full() {
    let (world, mut poll) = set_up();
    world.set_buffer_lens(100, 100);
    let name = |path| crate::UnixAddr::from_pathname(path).expect("the path is short");
    let receiver = world
        .bind_datagram(name("/sim/a").into())
        .expect("the path is free");
    world
        .bind_datagram(name("/sim/a").into())
        .expect_err("the path is in use");
    let sender = world.bind_datagram(crate::UnixAddr::default().into());
    let sender = sender.expect("an unnamed socket needs no path");
    poll.register(sender, PollToken(3))
        .expect("the socket is not registered yet");
    events(&mut poll);
    sender
        .connect_datagrams(name("/sim/a").into())
        .expect("a socket is bound to the path");
    sender
        .send_datagram(None, &[7; 80])
        .expect("the queue of the receiver has space");
    let error = sender
        .send_datagram(None, &[7; 80])
        .expect_err("the queue of the receiver is full");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(events(&mut poll), []);
    receiver
        .recv_datagram(&mut [0; 100])
        .expect("the datagram has arrived");
    assert_eq!(events(&mut poll), [(3, Ready::WRITABLE)]);
    let error = sender.send_datagram(Some(name("/sim/b").into()), b"x");
    assert_eq!(
        error.expect_err("no socket is bound to the path").kind(),
        ErrorKind::ConnectionRefused
    );
}
