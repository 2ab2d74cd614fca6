//! Round trips through a whole reactor. The server runs in its own thread, and a blocking client in
//! the main thread.
//!
//! The figures include the client and the thread switch, so use them only to compare two versions
//! of this crate. `benches/peers` compares the crate with other libraries.

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
        let mut reactor = Reactor::new(Echo).expect("the reactor is created");
        let listener = reactor
            .listen("127.0.0.1:0", Framing::length_u32())
            .expect("a free port is available");
        let socket = reactor
            .bind_udp("127.0.0.1:0")
            .expect("a free port is available");
        let tcp = reactor
            .local_inet_addr(listener)
            .expect("the socket is bound");
        let udp = reactor
            .local_inet_addr(socket)
            .expect("the socket is bound");
        let remote = reactor.remote();
        let thread = thread::spawn(move || reactor.run().expect("polling succeeds"));
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

/// Measures round trips. Each one begins with one write of `depth` frames of `len` bytes, and ends
/// when all echoes are read.
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
        client.set_nodelay(true).expect("TCP_NODELAY can be set");
        let frame = [
            &u32::try_from(len)
                .expect("the length fits into 32 bits")
                .to_be_bytes()[..],
            &vec![7; len],
        ]
        .concat();
        let batch = frame.repeat(depth);
        let mut echoed = vec![0; batch.len()];
        group.throughput(Throughput::Elements(depth as u64));
        group.bench_function(BenchmarkId::new(format!("{len}_bytes"), depth), |b| {
            b.iter(|| {
                client.write_all(&batch).expect("the write succeeds");
                client
                    .read_exact(&mut echoed)
                    .expect("the server echoes the batch");
            });
        });
        assert!(echoed == batch, "the echo differs from the sent bytes");
    }
    group.finish();
    server.stop();
}

fn udp(c: &mut Criterion) {
    let server = Server::start();
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    client
        .connect(server.udp)
        .expect("the socket can be connected");
    let mut group = c.benchmark_group("udp_round_trip");
    for len in [64, 1200] {
        let datagram = vec![7; len];
        let mut echoed = vec![0; len + 1];
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(format!("{len}_bytes")), |b| {
            b.iter(|| {
                client.send(&datagram).expect("the datagram is sent");
                assert_eq!(client.recv(&mut echoed).expect("the echo is received"), len);
            });
        });
    }
    group.finish();
    server.stop();
}

criterion_group!(benches, tcp, udp);
criterion_main!(benches);
