//! System calls of UDP batches that the kernel or a sandbox rejects: the first call, some calls, or
//! all calls.
//!
//! Each test runs this test binary again as a child process, and strace makes system calls of the
//! child fail. Without strace, the tests print a message and pass.

#![cfg(all(target_os = "linux", feature = "udp-batch"))]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::strace::{self, Traced};
use common::udp::peer;
use common::{Event, Probe, drive};
use nix::sys::socket::{setsockopt, sockopt};
use unstick::{Reactor, UnixAddr};

const PEERS: usize = 32;
const ROUNDS: usize = 12;

/// Runs a test of this binary under strace, which injects `fault` and traces the system calls
/// `traced`. Returns `None` if there is no strace.
fn rerun_with(test: &str, traced: &str, fault: &str) -> Option<Traced> {
    let (trace, inject) = (format!("trace={traced}"), format!("inject={fault}"));
    strace::rerun(test, &["-e", &trace, "-e", &inject])
}

/// Echoes datagrams of 32 peers, in several rounds. All echoes must arrive although system calls
/// fail. Then checks that the reactor is idle.
fn echo_as_child(addr: &str) {
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("warn"));
    let mut reactor = Reactor::new(Probe::echo()).expect("the reactor is created");
    let socket = reactor.bind_udp(addr).expect("a free port is available");
    let port = reactor
        .local_inet_addr(socket)
        .expect("the socket is bound")
        .port();
    let to = SocketAddr::from(([127, 0, 0, 3], port));
    let to = if addr.starts_with("127") {
        ([127, 0, 0, 1], port).into()
    } else {
        to
    };
    let peers: Vec<_> = (0..PEERS).map(|_| peer()).collect();
    for round in 1..=ROUNDS {
        for peer in &peers {
            peer.send_to(b"alone", to)
                .expect("the loopback interface accepts the datagram");
        }
        // Three datagrams that the kernel handles as one message, unless batches are turned off.
        setsockopt(&peers[0], sockopt::UdpGsoSegment, &2)
            .expect("the kernel has UDP_SEGMENT (Linux 4.18)");
        peers[0]
            .send_to(b"aabbc", to)
            .expect("the loopback interface accepts the datagram");
        setsockopt(&peers[0], sockopt::UdpGsoSegment, &0)
            .expect("the kernel has UDP_SEGMENT (Linux 4.18)");
        let wanted = (round * (PEERS + 3)) as u64;
        drive(&mut reactor, |reactor| {
            assert_eq!(reactor.handler().count(is_error), 0);
            reactor.stats().datagrams_out >= wanted
        });
        for (index, peer) in peers.iter().enumerate() {
            let alone: &[&[u8]] = &[b"alone", b"aa", b"bb", b"c"];
            for data in if index == 0 { alone } else { &alone[..1] } {
                let mut buf = [0; 16];
                let (len, from) = peer.recv_from(&mut buf).expect("an echo arrives");
                assert_eq!((&buf[..len], from), (*data, to));
            }
        }
    }
    assert!(reactor.stats().turns < 1000, "{:?}", reactor.stats());
    assert_is_idle(&mut reactor);
}

fn is_error(event: &Event) -> bool {
    matches!(event, Event::DatagramError(..))
}

fn assert_is_idle(reactor: &mut Reactor<Probe>) {
    let (started, wait) = (Instant::now(), Duration::from_millis(100));
    reactor.turn(Some(wait)).expect("polling succeeds");
    assert!(
        started.elapsed() >= wait,
        "the turn had work: {:?}",
        reactor.stats()
    );
}

/// Runs the echo with faults of `call`: in the first call, in every third call, and in all calls,
/// with three errors each. `is_marked` is true if the echoes need control data.
///
/// After a refused batch of echoes with control data, the reactor tries `call` again with the first
/// datagram alone. Only a refusal of this second call counts.
fn assert_echoes_without(test: &str, call: &str, is_marked: bool) {
    for errno in ["ENOSYS", "EPERM", "EINVAL"] {
        for when in [":when=1", ":when=2+3", ""] {
            let fault = format!("{call}:error={errno}{when}");
            println!("{fault}");
            let Some(Traced { log, calls }) = rerun_with(test, call, &fault) else {
                return;
            };
            let warnings = log.matches("the system refuses").count();
            let refused = calls.matches("(INJECTED)").count();
            assert!(refused >= 1, "{errno}{when}: {calls}");
            if is_marked && errno == "ENOSYS" && !when.is_empty() {
                // If the refused call was a batch, the second call succeeds and no refusal counts.
                // If it was a single datagram, its refusal counts and causes one warning.
                assert!(warnings <= 1, "{errno}{when}: {log}");
                continue;
            }
            let is_permanent = when.is_empty() || errno == "ENOSYS";
            assert_eq!(warnings, usize::from(is_permanent), "{errno}{when}: {log}");
            let counted_max = if errno == "ENOSYS" { 1 } else { 8 };
            let refused_max = counted_max * if is_marked { 2 } else { 1 };
            assert!(
                !is_permanent || refused <= refused_max,
                "{errno}{when}: {calls}"
            );
        }
    }
}

#[test]
fn refused_recvmmsg_falls_back_to_recvmsg() {
    const NAME: &str = "refused_recvmmsg_falls_back_to_recvmsg";
    if common::is_child() {
        return echo_as_child("127.0.0.1:0");
    }
    assert_echoes_without(NAME, "recvmmsg", false);
}

#[test]
fn refused_sendmmsg_falls_back_to_sendto() {
    const NAME: &str = "refused_sendmmsg_falls_back_to_sendto";
    if common::is_child() {
        return echo_as_child("127.0.0.1:0");
    }
    assert_echoes_without(NAME, "sendmmsg", false);
}

/// Replies of a socket at a wildcard address need control data, so `sendto` cannot send them.
#[test]
fn refused_sendmmsg_falls_back_to_sendmsg() {
    const NAME: &str = "refused_sendmmsg_falls_back_to_sendmsg";
    if common::is_child() {
        return echo_as_child("0.0.0.0:0");
    }
    assert_echoes_without(NAME, "sendmmsg", true);
}

/// If `setsockopt` fails, the socket works without GRO, GSO and control data.
#[test]
fn refused_setsockopt_turns_batches_off() {
    const NAME: &str = "refused_setsockopt_turns_batches_off";
    if common::is_child() {
        let mut reactor = Reactor::new(Probe::echo()).expect("the reactor is created");
        for addr in ["127.0.0.1:0", "0.0.0.0:0"] {
            let socket = reactor.bind_udp(addr).expect("a free port is available");
            let port = reactor
                .local_inet_addr(socket)
                .expect("the socket is bound")
                .port();
            // A timeout cannot be set here, because the socket option is refused.
            let peer = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
            peer.set_nonblocking(true)
                .expect("non-blocking mode can be set");
            for count in 1..=3 {
                peer.send_to(b"data", ("127.0.0.1", port))
                    .expect("the loopback interface accepts the datagram");
                let before = reactor.stats().datagrams_out;
                drive(&mut reactor, |it| it.stats().datagrams_out > before);
                assert_eq!(
                    peer.recv(&mut [0; 9]).expect("an echo arrives"),
                    4,
                    "{count}"
                );
            }
        }
        return;
    }
    for errno in ["ENOPROTOOPT", "EPERM", "ENOSYS"] {
        for calls in ["setsockopt", "setsockopt,getsockopt"] {
            let fault = format!("{calls}:error={errno}");
            if rerun_with(NAME, calls, &fault).is_none() {
                return;
            }
        }
    }
}

/// If every receive fails, a datagram to each of two sockets causes at most 40 errors in total.
/// Then the sockets wait. A UDP socket reports the errors to the handler; a Unix socket only counts
/// the errors.
#[test]
fn socket_that_cannot_receive_makes_no_busy_loop() {
    const NAME: &str = "socket_that_cannot_receive_makes_no_busy_loop";
    if common::is_child() {
        let name = format!("unstick-refused-{}", std::process::id());
        let name = UnixAddr::from_abstract_name(name).expect("the name is short enough");
        let mut reactor = Reactor::new(Probe::echo()).expect("the reactor is created");
        let socket = reactor.bind_udp("127.0.0.1:0");
        let socket = socket.expect("a free port is available");
        let to = reactor
            .local_inet_addr(socket)
            .expect("the socket is bound");
        let sender = reactor.with(|_, cx| {
            let server = cx.bind_unix_datagram(Some(&name));
            server.expect("the name is free");
            cx.bind_unix_datagram(None).expect("a socket can be opened")
        });
        for count in 1..=5 {
            peer()
                .send_to(b"data", to)
                .expect("the loopback interface accepts the datagram");
            let before = reactor.stats().datagram_errors;
            reactor
                .with(|_, cx| cx.send_unix_datagram(sender, Some(&name), b"data"))
                .expect("the queue has space");
            drive(&mut reactor, |it| it.stats().datagram_errors > before + 16);
            for _ in 0..3 {
                reactor
                    .turn(Some(Duration::ZERO))
                    .expect("polling succeeds");
            }
            assert_is_idle(&mut reactor);
            let errors = reactor.stats().datagram_errors;
            assert!(errors <= 40 * count, "{errors} errors");
        }
        assert_eq!(reactor.stats().datagrams_in, 0);
        return;
    }
    for errno in ["ENOSYS", "EPERM"] {
        let calls = "recvmmsg,recvmsg,recvfrom";
        let fault = format!("{calls}:error={errno}");
        if rerun_with(NAME, calls, &fault).is_none() {
            return;
        }
    }
}
