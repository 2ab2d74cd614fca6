//! Memory of an idle TLS connection beside the state that rustls keeps for it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConnection, ServerConfig, StreamOwned};
use unstick::{Config, Framing};

use super::common::tls::{client_config, server_config, server_name};
use super::common::{Probe, drive};
use super::tls_listening;

const CONNECTIONS: usize = 200;
const LINE: &[u8] = b"hello\n";
/// Maximum memory of an idle TLS connection beside rustls's state, in bytes.
const BYTES_MAX: usize = 200;
/// Memory of an idle plain connection in bytes: its entry and its place in the queues.
const PLAIN_BYTES: usize = 143;

/// Returns a configuration whose sessions keep nothing for a later resumption.
fn config_without_resumption() -> Arc<ServerConfig> {
    let mut config = (*server_config()).clone();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// Returns a client that never resumes a session. By default, the client would use tickets that
/// other tests have received.
fn client() -> ClientConnection {
    let mut config = (*client_config()).clone();
    config.resumption = Resumption::disabled();
    let client = ClientConnection::new(Arc::new(config), server_name());
    client.expect("the configuration is valid")
}

/// Handles `input`, and appends records to `output`. Echoes plaintext.
fn step(conn: &mut UnbufferedServerConnection, input: &mut [u8], output: &mut Vec<u8>) {
    let (mut at, mut echo, mut is_echoed) = (0, Vec::new(), false);
    let mut space = vec![0; 1 << 14];
    loop {
        let UnbufferedStatus { discard, state } = conn.process_tls_records(&mut input[at..]);
        at += discard;
        match state.expect("the records are valid") {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    echo.extend_from_slice(record.expect("the record is valid").payload);
                }
            }
            ConnectionState::EncodeTlsData(mut data) => {
                let len = data.encode(&mut space).expect("the space suffices");
                output.extend_from_slice(&space[..len]);
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(mut writer) if !echo.is_empty() && !is_echoed => {
                let len = writer
                    .encrypt(&echo, &mut space)
                    .expect("the space suffices");
                output.extend_from_slice(&space[..len]);
                is_echoed = true;
            }
            _ => return,
        }
    }
}

/// Returns the memory of a rustls session after an echo, in bytes, without any connection.
fn bytes_of_rustls(config: &Arc<ServerConfig>) -> usize {
    let mut kept = None;
    let counted = allocation_counter::measure(|| {
        let conn = UnbufferedServerConnection::new(config.clone());
        let mut server = Box::new(conn.expect("the configuration is valid"));
        let mut client = client();
        client
            .writer()
            .write_all(LINE)
            .expect("memory can be written");
        let mut plaintext = Vec::new();
        while plaintext != LINE {
            let (mut wire, mut output) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut wire).expect("memory can be written");
            }
            step(&mut server, &mut wire, &mut output);
            let mut rest = &output[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).expect("memory can be read");
                client.process_new_packets().expect("the records are valid");
                let _ = client.reader().read_to_end(&mut plaintext);
            }
        }
        kept = Some(server);
    });
    usize::try_from(counted.bytes_current).expect("the session is kept")
}

/// Connects and echoes a line on each connection. Keeps the connections until the receiver is gone.
fn open(addr: std::net::SocketAddr, kept: &mpsc::SyncSender<()>) {
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let socket = TcpStream::connect(addr).expect("the server accepts");
            let mut client = StreamOwned::new(client(), socket);
            client.write_all(LINE).expect("the server reads");
            let mut echo = [0; LINE.len()];
            client.read_exact(&mut echo).expect("the server echoes");
            client
        })
        .collect();
    while kept.send(()).is_ok() {}
    drop(clients);
}

#[test]
fn idle_connection_keeps_at_most_200_bytes_beside_rustls() {
    let config = config_without_resumption();
    let of_rustls = bytes_of_rustls(&config);
    // The second session has no one-time allocations.
    let of_rustls = of_rustls.min(bytes_of_rustls(&config));

    let (mut reactor, addr, _) =
        tls_listening(Probe::echo(), Config::default(), Framing::line(), config);
    // The first connections also grow the memory that all connections share, so only the second
    // count is used.
    let mut counted = 0;
    for _ in 0..2 {
        let (kept, opened) = mpsc::sync_channel(0);
        let clients = std::thread::spawn(move || open(addr, &kept));
        reactor.with(|probe, _| probe.events.clear());
        let measured = allocation_counter::measure(|| {
            while opened.try_recv().is_err() {
                let turned = reactor.turn(Some(Duration::from_millis(1)));
                turned.expect("polling succeeds");
            }
            // The probe has recorded the frames. Free the recorded frames, because they are not
            // memory of the connections.
            reactor.with(|probe, _| probe.events.clear());
        });
        counted = usize::try_from(measured.bytes_current).unwrap_or(0);
        drop(opened);
        clients.join().expect("the clients do not panic");
        drive(&mut reactor, |reactor| {
            let stats = reactor.stats();
            stats.closed == stats.accepted
        });
    }
    let beside = (counted / CONNECTIONS).saturating_sub(of_rustls) + PLAIN_BYTES;
    println!("{beside} bytes beside {of_rustls} bytes of rustls");
    assert!(
        beside <= BYTES_MAX,
        "{beside} bytes beside {of_rustls} of rustls"
    );
}
