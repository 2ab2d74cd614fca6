//! Round trips through a whole reactor: a server in a thread of its own, a blocking client here.
//!
//! These figures contain the client and the thread switch, so they are for comparing two versions
//! of this crate. How it stands beside other libraries is measured by `benches/peers`.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use unstick::{ConnId, Context, Datagram, Framing, Handler, Reactor, Remote, UdpId};

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        let _ = cx.send(conn, black_box(frame));
    }

    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, datagram: Datagram<'_>) {
        let _ = cx.send_to(socket, datagram.from, black_box(datagram.data));
    }
}

struct Server {
    tcp: SocketAddr,
    udp: SocketAddr,
    remote: Remote<Echo>,
    thread: JoinHandle<()>,
}

impl Server {
    fn start() -> Self {
        let mut reactor = Reactor::new(Echo).expect("a reactor");
        let listener = reactor
            .listen("127.0.0.1:0", Framing::length_u32())
            .expect("a free port");
        let socket = reactor.bind_udp("127.0.0.1:0").expect("a free port");
        let tcp = reactor.local_inet_addr(listener).expect("it is bound");
        let udp = reactor.local_inet_addr(socket).expect("it is bound");
        let remote = reactor.remote();
        let thread = thread::spawn(move || reactor.run().expect("the poll works"));
        Self {
            tcp,
            udp,
            remote,
            thread,
        }
    }

    fn stop(self) {
        self.remote
            .shutdown(Duration::ZERO)
            .expect("the loop can be woken");
        self.thread.join().expect("the loop does not panic");
    }
}

/// `depth` frames of `len` bytes in one write, and all of them read back.
fn tcp(c: &mut Criterion) {
    let server = Server::start();
    let mut group = c.benchmark_group("tcp_round_trip");
    for (len, depth) in [
        (64, 1),
        (64, 32),
        (1024, 32),
        (16 * 1024, 4),
        (256 * 1024, 1),
    ] {
        let mut client = TcpStream::connect(server.tcp).expect("the server accepts");
        client.set_nodelay(true).expect("the option can be set");
        let frame = [
            &u32::try_from(len).expect("short").to_be_bytes()[..],
            &vec![7; len],
        ]
        .concat();
        let batch = frame.repeat(depth);
        let mut echoed = vec![0; batch.len()];
        group.throughput(Throughput::Elements(depth as u64));
        group.bench_function(BenchmarkId::new(format!("{len}_bytes"), depth), |b| {
            b.iter(|| {
                client.write_all(&batch).expect("the server reads");
                client.read_exact(&mut echoed).expect("the server answers");
            });
        });
        assert!(echoed == batch, "the echo is exact");
    }
    group.finish();
    server.stop();
}

fn udp(c: &mut Criterion) {
    let server = Server::start();
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    client.connect(server.udp).expect("an address");
    let mut group = c.benchmark_group("udp_round_trip");
    for len in [64, 1200] {
        let datagram = vec![7; len];
        let mut echoed = vec![0; len + 1];
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(format!("{len}_bytes")), |b| {
            b.iter(|| {
                client.send(&datagram).expect("it is sent");
                assert_eq!(client.recv(&mut echoed).expect("it comes back"), len);
            });
        });
    }
    group.finish();
    server.stop();
}

criterion_group!(benches, tcp, udp);
criterion_main!(benches);
