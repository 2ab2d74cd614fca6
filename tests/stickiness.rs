//! TCP glues messages together and cuts them; UDP keeps them; framing cures TCP.

mod common;

use std::io::Write;
use std::net::UdpSocket;

use common::{Event, Probe, drive, frame, listening};
use unstick::{Config, Framing, Reactor};

/// Ten sends, and a receiver that reads late: the bytes of all ten lie in one queue, and nothing
/// in it says where one send ended.
#[test]
fn a_late_reader_gets_ten_tcp_messages_in_one_read() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let mut client = common::client(addr);
    for _ in 0..10 {
        client.write_all(b"message").expect("the kernel takes it");
    }
    drive(&mut reactor, |reactor| reactor.stats().read_bytes == 70);
    assert!(reactor.stats().frames_in < 10, "fewer reads than sends");
}

/// The same ten over UDP are ten.
#[test]
fn a_late_reader_gets_ten_udp_messages_as_ten() {
    let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let socket = reactor.bind_udp("127.0.0.1:0").expect("a free port");
    let addr = reactor.local_addr(socket).expect("it is bound");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    for _ in 0..10 {
        client
            .send_to(b"message", addr)
            .expect("the kernel takes it");
    }
    drive(&mut reactor, |reactor| reactor.stats().datagrams_in == 10);
    let whole =
        |event: &Event| matches!(event, Event::Datagram(_, _, data, false) if data == b"message");
    assert_eq!(reactor.handler().count(whole), 10);
}

/// One send that does not fit into what the receiver reads at once arrives as several reads.
#[test]
fn a_message_larger_than_a_read_is_cut() {
    let mut config = Config::default();
    config.read_len_max = 1000;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::raw());
    common::client(addr)
        .write_all(&[7; 10_000])
        .expect("the kernel takes it");
    drive(&mut reactor, |reactor| reactor.stats().read_bytes == 10_000);
    assert!(
        reactor.stats().frames_in >= 10,
        "no read gave more than a tenth"
    );
}

/// The cure: whatever the reads were, the frames are the messages.
#[test]
fn framing_recovers_the_messages_from_glued_and_cut_reads() {
    for read_len_max in [1, 3, 10, 256 * 1024] {
        let mut config = Config::default();
        config.read_len_max = read_len_max;
        let (mut reactor, addr) = listening(Probe::silent(), config, Framing::length_u16());
        let mut client = common::client(addr);
        for index in 0..10 {
            client
                .write_all(&frame("u16", &[index; 11]))
                .expect("the kernel takes it");
        }
        drive(&mut reactor, |reactor| reactor.stats().frames_in == 10);
        let expected: Vec<_> = (0..10).map(|index| vec![index; 11]).collect();
        assert_eq!(reactor.handler().frames(), expected);
    }
}
