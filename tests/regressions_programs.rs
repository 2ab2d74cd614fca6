//! One test for each fixed bug of a whole process: signals, the wake-up of the loop, and the
//! example programs.
//!
//! Each test is named after its bug, and its comment describes the bug.

#[path = "common/child.rs"]
mod child;
mod common;

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use child::{Echo, Proxy};
use common::{DEADLINE, Probe, client, refusing, reset};
use unstick::Reactor;

// A second thread caught the signals. The process was then multi-threaded for glibc, which made
// every lock and every allocation slower: a frame took 492 instead of 398 instructions.
#[test]
#[cfg(target_os = "linux")]
fn signals_made_a_process_multi_threaded() {
    const NAME: &str = "signals_made_a_process_multi_threaded";
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("proc is mounted");
        tasks.count()
    };
    if common::is_child() {
        let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
        let before = threads();
        reactor
            .shutdown_on_signals(DEADLINE)
            .expect("the signals can be caught");
        assert_eq!(threads(), before);
        return;
    }
    let status = common::rerun(NAME)
        .status()
        .expect("the test binary starts again");
    assert!(status.success(), "{status}");
}

/// Returns the proxy example, and a client and a server that are connected through it.
fn proxied() -> (Proxy, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let proxy = Proxy::start(listener.local_addr().expect("the socket is bound"));
    let mut client = client(proxy.addr);
    client.write_all(b"hello").expect("the proxy reads");
    let (mut server, _) = listener.accept().expect("the proxy connects");
    server
        .read_exact(&mut [0; 5])
        .expect("the proxy passes the bytes on");
    (proxy, client, server)
}

/// Writes until a write waits for 200 ms, because the proxy no longer reads.
fn flood(stream: &mut TcpStream) {
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .expect("the timeout can be set");
    let bytes = [7; 65_536];
    while stream.write(&bytes).is_ok() {}
}

/// Waits for an error of the socket and returns it. Does not read, because unread bytes would come
/// before the error.
fn await_error(stream: &TcpStream) -> io::Error {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(error) = stream.take_error().expect("the socket is open") {
            return error;
        }
        assert!(
            Instant::now() < deadline,
            "the proxy did not reset the connection"
        );
        std::thread::yield_now();
    }
}

// The proxy turned a reset of one side into an orderly end for the other side. So the other side
// treated incomplete data as complete. If the proxy had paused a side, it noticed the reset of this
// side only after the other side had read everything.
#[test]
fn reset_was_an_orderly_end_behind_the_proxy() {
    for resets_client in [true, false] {
        for [floods_near, floods_far] in [[false; 2], [true, false], [false, true], [true; 2]] {
            let (_proxy, client, server) = proxied();
            let (mut near, mut far) = match resets_client {
                true => (client, server),
                false => (server, client),
            };
            if floods_near {
                flood(&mut near);
            }
            if floods_far {
                flood(&mut far);
            }
            let case = format!("client: {resets_client}, floods: {floods_near}, {floods_far}");
            println!("{case}");
            match floods_far {
                // The close of a socket with unread bytes sends a reset, too.
                true => drop(near),
                false => reset(near),
            }
            let error = await_error(&far);
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{case}");
        }
    }
}

// If one peer of the proxy (the client or the server) did not read, the proxy also stopped reading
// from this peer. So the bytes that this peer sent did not arrive. Here the client floods the
// server, and the server replies before it has read everything.
#[test]
fn flooded_side_of_the_proxy_could_not_send() {
    let (_proxy, mut client, mut server) = proxied();
    flood(&mut client);
    server.write_all(b"answer").expect("the proxy reads");
    let mut answer = [0; 6];
    client.read_exact(&mut answer).expect("the answer arrives");
    assert_eq!(&answer, b"answer");
}

// If the server refused the connection of the proxy, the client got an orderly end instead of a
// reset.
#[test]
fn refused_connect_was_an_orderly_end_behind_the_proxy() {
    let (_socket, addr) = refusing();
    let proxy = Proxy::start(addr);
    let client = client(proxy.addr);
    assert_eq!(await_error(&client).kind(), ErrorKind::ConnectionReset);
}

// Each successful connect reset the delay of `Reconnect`. So a server that accepted and closed at
// once got a new connection after each minimum delay.
#[test]
fn accept_and_close_reset_the_delay_of_reconnect() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let addr = listener.local_addr().expect("the socket is bound");
    let mut client = Command::new(child::example("client"))
        .arg(addr.to_string())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the client example starts");
    let mut lines = BufReader::new(client.stderr.take().expect("the stream is piped")).lines();
    let mut delays = Vec::new();
    while delays.len() < 4 {
        let (mut stream, _) = listener.accept().expect("the client connects");
        // A received frame does not reset the delay either, because many servers report an overload
        // with a frame.
        stream.write_all(b"busy\n").expect("the client reads");
        drop(stream);
        delays.push(loop {
            let line = lines.next().expect("the client runs");
            let line = line.expect("the text is UTF-8");
            if let Some((_, delay)) = line.split_once("connecting again in ") {
                let delay = delay.split(' ').next().expect("the delay is a word");
                break delay.parse::<u32>().expect("the delay is a number");
            }
        });
    }
    client.kill().expect("the client runs");
    client.wait().expect("the process is a child of this one");
    // The delays of the example are 200, 400, 800 and 1600 ms. Each of them is reduced at random by
    // up to a half.
    assert!(delays[3] >= 800, "{delays:?}");
}

// `Reconnect` did not stop its attempts to connect to an address that no server can have.
#[test]
fn invalid_address_was_tried_forever_by_reconnect() {
    for addr in [
        "127.0.0.1",
        "127.0.0.1:99999",
        "127.0.0.1:0",
        "224.0.0.1:7000",
    ] {
        let mut client = Command::new(child::example("client"))
            .arg(addr)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the client example starts");
        // The input of the client stays open, because its end would end the client too.
        let _input = client.stdin.take();
        let output = client
            .wait_with_output()
            .expect("the process is a child of this one");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{addr}: {errors}");
        let message = format!("cannot connect to {addr}: ");
        assert!(errors.contains(&message), "{addr}: {errors}");
    }
}

// The write that wakes the loop was not repeated if a signal interrupted it. The post of another
// thread then waited for the next event, which may never come.
#[test]
#[cfg(target_os = "linux")]
fn interrupted_wake_up_delayed_a_post() {
    const NAME: &str = "interrupted_wake_up_delayed_a_post";
    if common::is_child() {
        let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
        let remote = reactor.remote();
        for _ in 0..5 {
            // After a turn the loop counts as asleep, so the next post wakes it.
            reactor
                .turn(Some(Duration::ZERO))
                .expect("polling succeeds");
            remote.post(|_, _| {}).expect("the loop is woken");
        }
        return;
    }
    for error in ["EINTR", "EAGAIN"] {
        let inject = format!("inject=write:error={error}:when=1+2");
        // `-P` traces only the calls on event descriptors (eventfd(2)). The process has only one:
        // that of mio's waker.
        let waker = ["-P", "anon_inode:[eventfd]"];
        let options = [&waker[..], &["-e", "trace=write", "-e", &inject]].concat();
        let Some(traced) = common::strace::rerun(NAME, &options) else {
            return;
        };
        let calls = traced.calls;
        assert!(calls.contains("INJECTED"), "no wake-up was traced: {calls}");
    }
}

// If the reader of the output had already ended, the echo example panicked while it printed its
// last line.
#[test]
#[cfg(unix)]
fn closed_output_was_a_panic_of_the_echo_example() {
    let mut echo = Command::new(child::example("echo"))
        .args(["--tcp", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the echo example starts");
    let mut stdout = BufReader::new(echo.stdout.take().expect("the stream is piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("the output is UTF-8");
    drop(stdout);
    let pid = echo.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &*pid]).status();
    assert!(killed.expect("the kill command can be started").success());
    let mut errors = String::new();
    let mut stderr = echo.stderr.take().expect("the stream is piped");
    stderr
        .read_to_string(&mut errors)
        .expect("the output is UTF-8");
    let status = echo.wait().expect("the process is a child of this one");
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.starts_with("echo: "), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

/// A running example, killed when this value is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both calls do nothing if the example has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the client example with pipes for its input and output.
fn start_client(args: &[&str]) -> Running {
    let client = Command::new(child::example("client"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    Running(client.expect("the client example starts"))
}

/// Writes the whole input of a client, and then closes the input.
fn write_input(client: &mut Running, input: &[u8]) {
    let mut stdin = client.0.stdin.take().expect("the stream is piped");
    stdin.write_all(input).expect("the client reads its input");
}

/// Accepts the client of a listener and returns all bytes that it sends.
fn read_client(listener: &TcpListener) -> Vec<u8> {
    // On Linux, the timeout holds for `accept` too (socket(7), "SO_RCVTIMEO").
    socket2::SockRef::from(listener)
        .set_read_timeout(Some(DEADLINE))
        .expect("the timeout can be set");
    let (mut stream, _) = listener.accept().expect("the client connects");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("the timeout can be set");
    let mut received = Vec::new();
    stream
        .read_to_end(&mut received)
        .expect("the client ends the connection");
    received
}

// The client example ended at the end of its input, even if its lines still waited for the first
// connection. So the lines of a pipe were lost silently.
#[test]
fn piped_lines_of_the_client_were_lost_before_it_connected() {
    let (socket, addr) = refusing();
    let mut client = start_client(&[&addr.to_string()]);
    write_input(&mut client, b"one\r\ntwo\nthree");
    let mut errors = BufReader::new(client.0.stderr.take().expect("the stream is piped"));
    let mut line = String::new();
    errors.read_line(&mut line).expect("the text is UTF-8");
    assert!(line.contains("connecting again in"), "{line}");
    socket.listen(1).expect("the socket is bound");
    assert_eq!(read_client(&socket.into()), b"one\ntwo\nthree\n");
    let status = client.0.wait().expect("the process is a child of this one");
    assert!(status.success(), "{status}");
}

// After a line that was not UTF-8, the client example ignored its input.
#[test]
fn line_that_is_not_utf8_ended_the_input_of_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let addr = listener.local_addr().expect("the socket is bound");
    let mut client = start_client(&[&addr.to_string()]);
    write_input(&mut client, b"\xff\xfe\nvalid\n");
    assert_eq!(read_client(&listener), b"\xff\xfe\nvalid\n");
    let status = client.0.wait().expect("the process is a child of this one");
    assert!(status.success(), "{status}");
}

// The client example dropped lines, or sent them after later lines, while its write queue or its
// queue of posts was full.
#[test]
fn fast_input_of_the_client_lost_lines() {
    const LINE_LEN: usize = 60_000;
    /// More than the write queue (16 MiB) and a send buffer (4 MiB by default, tcp(7)) can hold.
    const BEFORE_READ: usize = 22_000_000;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    socket2::SockRef::from(&listener)
        .set_recv_buffer_size(131_072)
        .expect("the buffer size can be set");
    let addr = listener.local_addr().expect("the socket is bound");
    let mut client = start_client(&[&addr.to_string()]);
    let mut input = client.0.stdin.take().expect("the stream is piped");
    let (written, is_written) = std::sync::mpsc::channel();
    let line = |number: usize| format!("{number:>LINE_LEN$}\n");
    let writer = std::thread::spawn(move || {
        for number in 0..1000 {
            let line = line(number);
            input.write_all(line.as_bytes()).expect("the client reads");
            if number == BEFORE_READ / LINE_LEN {
                written.send(()).expect("the test waits");
            }
        }
    });
    is_written.recv_timeout(DEADLINE).expect("the client reads");
    let received = read_client(&listener);
    writer.join().expect("the writer does not panic");
    let received = String::from_utf8(received).expect("the lines are UTF-8");
    let numbers = received.lines().map(|line| line.trim().parse::<usize>());
    let numbers: Vec<_> = numbers
        .map(|number| number.expect("the line is a number"))
        .collect();
    assert!(numbers.iter().copied().eq(0..1000), "{numbers:?}");
    let status = client.0.wait().expect("the process is a child of this one");
    assert!(status.success(), "{status}");
}

// For the address `[::1]`, the client example used this text, with its brackets, as the name of the
// TLS server. Such a name is invalid.
#[test]
fn ipv6_address_was_no_name_of_a_tls_server() {
    if TcpListener::bind("[::1]:0").is_err() {
        return; // this host has no IPv6
    }
    let pid = std::process::id();
    let file = std::env::temp_dir().join(format!("unstick-{pid}-ipv6.pem"));
    let file = file.to_str().expect("the path is UTF-8");
    let args = ["--tcp", "[::1]:0", "--framing", "line", "--tls-self-signed"];
    let echo = Echo::start(&[&args[..], &[file]].concat(), &[], None);
    let echo = echo.expect("the server listens");
    let mut client = start_client(&[&echo.addrs[0].to_string(), "--tls", file]);
    let input = client.0.stdin.as_mut().expect("the stream is piped");
    input.write_all(b"hi\n").expect("the client reads");
    let mut output = BufReader::new(client.0.stdout.take().expect("the stream is piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("the text is UTF-8");
    assert_eq!(line, "hi\n");
    std::fs::remove_file(file).expect("the server has written the file");
}

/// Starts an example that listens. Returns the process, and the line that it prints.
fn start_server(name: &str, args: &[&str]) -> (Running, String) {
    let server = Command::new(child::example(name))
        .args(args)
        .stdout(Stdio::piped())
        .spawn();
    let mut server = Running(server.expect("the example starts"));
    let stdout = server.0.stdout.take().expect("the stream is piped");
    let mut line = String::new();
    let read = BufReader::new(stdout).read_line(&mut line);
    read.expect("the output is UTF-8");
    (server, line.trim_end().to_owned())
}

// At the limit of its memory, the resp example rejected a SET, but removed the old value.
#[test]
fn rejected_set_of_resp_removed_the_key() {
    let args = ["--listen", "127.0.0.1:0", "--memory-max", "100"];
    let (_server, line) = start_server("resp", &args);
    let addr = line.trim_start_matches("listening tcp ").parse();
    let mut stream = client(addr.expect("the address is valid"));
    let value = "x".repeat(100);
    let requests = format!("SET key {value}\r\nLPUSH list a\r\nSET key y{value}\r\nGET key\r\n");
    stream
        .write_all(requests.as_bytes())
        .expect("the server reads");
    let full = "-OOM command not allowed when used memory > 'maxmemory'\r\n";
    let expected = format!("+OK\r\n{full}{full}$100\r\n{value}\r\n");
    let mut replies = vec![0; expected.len()];
    stream.read_exact(&mut replies).expect("the replies arrive");
    assert_eq!(String::from_utf8_lossy(&replies), expected);
}

// An example that listened on a Unix socket printed `listening tcp unix:PATH`.
#[test]
#[cfg(unix)]
fn unix_listener_of_an_example_was_printed_as_tcp() {
    let pid = std::process::id();
    let path = std::env::temp_dir().join(format!("unstick-{pid}-listening.sock"));
    let addr = format!("unix:{}", path.display());
    let (_server, line) = start_server("chat", &[&addr]);
    assert_eq!(line, format!("listening {addr}"));
    std::fs::remove_file(path).expect("the server has created the socket");
}

// Without any echo, the load example printed percentiles of 1 us, and ended with success.
#[test]
fn load_without_an_echo_was_a_success() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let addr = listener.local_addr().expect("the socket is bound");
    let ended = Command::new(child::example("load"))
        .args([&addr.to_string(), "--seconds", "1"])
        .output()
        .expect("the load example starts");
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{errors}");
    assert!(errors.contains("no echo arrived"), "{errors}");
}
