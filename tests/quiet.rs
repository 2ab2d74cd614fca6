//! An idle loop makes no system call, takes no turn, and does not spin when descriptors run out.

mod common;

use std::io::Write;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{DEADLINE, Probe, Server, client, drive, frame, listening, round_trip, settle};
use unstick::{Config, Framing};

fn short(framed: &str) -> Vec<u8> {
    frame("u32", framed.as_bytes())
}

/// The statistics count events, accepts, reads, writes and turns. A call that they do not count
/// remains unnoticed here.
#[test]
fn idle_turn_is_one_poll_and_no_other_call() {
    let (mut reactor, addr) = listening(Probe::echo(), Config::default(), Framing::length_u32());
    let mut client = client(addr);
    client
        .write_all(&short("ping"))
        .expect("the write succeeds");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
    settle(&mut reactor);
    let before = reactor.stats();
    let started = Instant::now();
    reactor
        .turn(Some(Duration::from_millis(100)))
        .expect("polling succeeds");
    assert!(started.elapsed() >= Duration::from_millis(100));
    let mut expected = before;
    expected.turns += 1;
    assert_eq!(reactor.stats(), expected);
}

/// Each of the two queries for the number of turns takes one turn. The loop must take no other turn
/// between them.
#[test]
fn idle_loop_takes_no_turn() {
    let server = Server::start(Probe::echo(), Config::default(), Framing::length_u32());
    let mut client = server.connect();
    assert_eq!(round_trip(&mut client, b"ping"), b"ping");
    let turns = || {
        let (tx, rx) = mpsc::channel();
        server
            .remote
            .post(move |_, cx| {
                tx.send(cx.stats().turns)
                    .expect("the test waits for the result")
            })
            .expect("the loop runs");
        rx.recv_timeout(DEADLINE).expect("the loop runs the post")
    };
    turns();
    let first = turns();
    // Wait half a second: this channel never receives anything.
    let (_tx, rx) = mpsc::channel::<()>();
    let received = rx.recv_timeout(Duration::from_millis(500));
    assert_eq!(received, Err(mpsc::RecvTimeoutError::Timeout));
    assert_eq!(turns(), first + 1);
    drop(client);
    server.stop();
}

/// Stopping and continuing a process interrupts its poll. `turn` still waits the rest of its
/// timeout, which counts from the call of `turn` and not from an earlier turn.
#[test]
#[cfg(unix)]
fn interrupted_poll_does_not_end_a_turn() {
    use std::process::Command;
    use unstick::Reactor;

    const NAME: &str = "interrupted_poll_does_not_end_a_turn";
    const TIMEOUT: Duration = Duration::from_millis(700);
    if common::is_child() {
        let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
        for turn in 1..=2 {
            let started = Instant::now();
            reactor.turn(Some(TIMEOUT)).expect("polling succeeds");
            assert!(
                started.elapsed() >= TIMEOUT,
                "the turn ended after {:?}",
                started.elapsed()
            );
            assert_eq!((reactor.stats().turns, reactor.stats().events), (turn, 0));
            // This time passes outside the reactor, so it must not count for the next turn.
            common::let_pass(TIMEOUT);
        }
        return;
    }
    let mut child = common::rerun(NAME)
        .spawn()
        .expect("the test binary starts again");
    let signals = format!("kill -STOP {0}; kill -CONT {0}", child.id());
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        if Instant::now() > deadline {
            child.kill().expect("the child process runs");
            panic!("the child process never finished: each signal seems to restart the timeout");
        }
        if let Some(status) = child
            .try_wait()
            .expect("the process is a child of this one")
        {
            break status;
        }
        let sent = Command::new("sh").args(["-c", &signals]).status();
        assert!(sent.expect("sh can be started").success());
    };
    assert!(status.success(), "{status}");
}

/// Tests that observe a server from outside its process: with strace, with proc(5), and under a
/// limit of descriptors.
#[cfg(target_os = "linux")]
mod process {
    use std::io::{BufRead, BufReader, ErrorKind, Read};
    use std::net::{SocketAddr, TcpStream};
    use std::process::{Child, ChildStdout, Command, Stdio};

    use super::*;
    use common::{Event, read_u32_frame};
    use unstick::{Context, Stats};

    /// A server in another process: this test binary again, running [`serve_as_child`]. The server
    /// ends when its standard input is closed: when this value is dropped, or when this process
    /// ends.
    struct ChildServer {
        child: Child,
        stdout: BufReader<ChildStdout>,
        addr: SocketAddr,
    }

    impl ChildServer {
        /// Starts the server with `wrapper`, a program and its arguments. This program runs the
        /// command that follows its arguments.
        fn start(test: &str, wrapper: &[&str]) -> Self {
            let inner = common::rerun(test);
            let mut command = Command::new(wrapper[0]);
            command
                .args(&wrapper[1..])
                .arg(inner.get_program())
                .args(inner.get_args())
                .envs(
                    inner
                        .get_envs()
                        .filter_map(|(key, value)| Some((key, value?))),
                )
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut child = command.spawn().expect("the test binary starts again");
            let mut stdout = BufReader::new(child.stdout.take().expect("the stream is piped"));
            let addr = read_word_after(&mut stdout, "listening on ")
                .parse()
                .expect("the address is valid");
            Self {
                child,
                stdout,
                addr,
            }
        }

        fn write_line(&mut self, line: &str) {
            let stdin = self.child.stdin.as_mut().expect("the stream is piped");
            writeln!(stdin, "{line}").expect("the child process reads its standard input");
        }

        fn turns(&mut self) -> u64 {
            self.ask("turns")
        }

        fn accepted(&mut self) -> u64 {
            self.ask("accepted")
        }

        fn ask(&mut self, count: &str) -> u64 {
            self.write_line(count);
            let reply = read_word_after(&mut self.stdout, &format!("{count}: "));
            reply.parse().expect("the text is a number")
        }

        /// Ends the server and returns its standard error.
        fn stop(mut self) -> String {
            drop(self.child.stdin.take());
            let mut errors = String::new();
            let mut stderr = self.child.stderr.take().expect("the stream is piped");
            stderr
                .read_to_string(&mut errors)
                .expect("the output is UTF-8");
            let status = self
                .child
                .wait()
                .expect("the child process was not waited for yet");
            assert!(status.success(), "{status}: {errors}");
            errors
        }
    }

    fn read_word_after(lines: &mut impl BufRead, prefix: &str) -> String {
        let mut line = String::new();
        while lines.read_line(&mut line).expect("the output is UTF-8") > 0 {
            if let Some((_, rest)) = line.split_once(prefix) {
                return rest.trim().to_owned();
            }
            line.clear();
        }
        panic!("the output ended without a line with {prefix:?}");
    }

    /// Number of descriptors that the child process keeps open until it reads `free descriptors`.
    const SPARE_DESCRIPTORS: usize = 30;

    /// The server side of [`ChildServer`]: echoes frames, prints a line for each close, and runs
    /// the commands of its standard input.
    fn serve_as_child() {
        env_logger::init_from_env(env_logger::Env::default().default_filter_or("warn"));
        let probe = Probe::new(|cx, event| match event {
            Event::Frame(conn, frame) => {
                let _ = cx.send(*conn, frame);
            }
            Event::Close(..) => println!("closed one"),
            _ => {}
        });
        let (mut reactor, addr) = listening(probe, Config::default(), Framing::length_u32());
        let spare: Vec<_> = (0..SPARE_DESCRIPTORS)
            .map(|_| std::fs::File::open("/dev/null").expect("a descriptor is available"))
            .collect();
        reactor
            .shutdown_on_signals(DEADLINE)
            .expect("the signals can be caught");
        println!("listening on {addr}");
        let remote = reactor.remote();
        let listener = std::thread::spawn(move || {
            let mut spare = Some(spare);
            let print = |name: &'static str, count: fn(Stats) -> u64| {
                let task = move |_: &mut Probe, cx: &mut Context<'_, Probe>| {
                    println!("{name}: {}", count(cx.stats()));
                };
                remote.post(task).expect("the loop runs");
            };
            for line in std::io::stdin().lines() {
                match line.expect("the input is UTF-8").as_str() {
                    "turns" => print("turns", |stats| stats.turns),
                    "accepted" => print("accepted", |stats| stats.accepted),
                    _ => drop(spare.take()),
                }
            }
            remote.shutdown(Duration::ZERO).expect("the loop runs");
        });
        reactor.run().expect("the loop runs without an error");
        listener.join().expect("the thread does not panic");
    }

    #[test]
    fn idle_reactor_makes_no_system_call() {
        const NAME: &str = "process::idle_reactor_makes_no_system_call";
        if common::is_child() {
            return serve_as_child();
        }
        if !common::strace::is_usable() {
            return;
        }
        let mut trace = std::env::temp_dir();
        trace.push(format!("unstick-idle-{}.strace", std::process::id()));
        let path = trace.to_str().expect("the temporary path is UTF-8");
        let mut server = ChildServer::start(NAME, &["strace", "-f", "-o", path]);
        let mut client = client(server.addr);
        assert_eq!(round_trip(&mut client, b"ping"), b"ping");
        drop(client);
        read_word_after(&mut server.stdout, "closed ");
        let calls = || {
            let calls = std::fs::read_to_string(&trace).expect("strace writes the trace file");
            calls.lines().count()
        };
        // The loop is idle after the close is complete and the timer that frees memory has ended.
        let deadline = Instant::now() + DEADLINE;
        let mut before = calls();
        loop {
            common::let_pass(Duration::from_secs(1));
            let now = calls();
            if now == before {
                break;
            }
            before = now;
            assert!(
                Instant::now() < deadline,
                "the loop makes calls every second"
            );
        }
        // Wait two seconds, so that a loop that makes calls while idle makes at least one.
        common::let_pass(Duration::from_secs(2));
        let after = calls();
        server.stop();
        std::fs::remove_file(&trace).expect("strace created the trace file");
        assert!(before > 20, "strace recorded only {before} calls");
        assert_eq!(after - before, 0, "system calls while idle");
    }

    /// 200 clients connect to a process with at most 64 descriptors, more than 30 of which are in
    /// use. The clients without a descriptor wait in the backlog; meanwhile the loop neither spins
    /// nor floods the log. The waiting clients are accepted when descriptors are free again. For
    /// this, no new client needs to connect, even if code outside the reactor frees the
    /// descriptors.
    #[test]
    fn emfile_backlog_is_accepted_when_descriptors_free_up() {
        const NAME: &str = "process::emfile_backlog_is_accepted_when_descriptors_free_up";
        if common::is_child() {
            return serve_as_child();
        }
        let limit = "ulimit -n 64 && exec \"$0\" \"$@\"";
        let started = Instant::now();
        let mut server = ChildServer::start(NAME, &["sh", "-c", limit]);
        let mut clients: Vec<_> = (0..200).map(|_| client(server.addr)).collect();
        for (index, client) in clients.iter_mut().enumerate() {
            client
                .write_all(&short(&index.to_string()))
                .expect("the write succeeds");
        }
        let mut middle = clients.remove(SPARE_DESCRIPTORS + 10);
        assert_eq!(
            read_u32_frame(&mut clients[0]),
            b"0",
            "the first client gets its echo"
        );

        let turns_before = server.turns();
        let busy_before = cpu_time(server.child.id());
        assert_waits_2_seconds(&mut middle);
        let busy = cpu_time(server.child.id()) - busy_before;
        assert!(
            busy <= Duration::from_millis(40),
            "the server used {busy:?} of processor time in 2 s"
        );
        let turns = server.turns() - turns_before;
        assert!(turns <= 30, "the server took {turns} turns in 2 s");

        server.write_line("free descriptors");
        middle
            .set_read_timeout(Some(DEADLINE))
            .expect("the timeout can be set");
        assert_eq!(read_u32_frame(&mut middle), b"40");
        let accepted =
            usize::try_from(server.accepted()).expect("at most 200 clients are accepted");
        // Each client that is dropped frees a descriptor for the next waiting client.
        let waiting = clients.split_off(accepted - 1);
        drop(clients.remove(0));
        for (index, mut client) in (accepted..).zip(waiting) {
            assert_eq!(read_u32_frame(&mut client), index.to_string().as_bytes());
        }
        for (index, mut client) in (1..).zip(clients) {
            let index = if index < SPARE_DESCRIPTORS + 10 {
                index
            } else {
                index + 1
            };
            assert_eq!(read_u32_frame(&mut client), index.to_string().as_bytes());
        }
        drop(middle);
        let lines = server.stop();
        let count = lines.matches("cannot accept").count();
        let seconds = started.elapsed().as_secs();
        let count_max = usize::try_from(1 + seconds).expect("the test is short");
        assert!(
            (1..=count_max).contains(&count),
            "{count} log lines in {seconds} s: {lines}"
        );
    }

    /// Checks that a client receives nothing for 2 s.
    fn assert_waits_2_seconds(client: &mut TcpStream) {
        client
            .set_read_timeout(Some(Duration::from_secs(2)))
            .expect("the timeout can be set");
        // A read with a timeout is interrupted if the process is stopped meanwhile (signal(7)).
        let error = loop {
            let read = client.read(&mut [0]);
            let error = read.expect_err("a client without a descriptor receives nothing");
            if error.kind() != ErrorKind::Interrupted {
                break error;
            }
        };
        assert!(
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "{error}"
        );
    }

    /// Returns the processor time that a process has used (`/proc/PID/stat` in proc(5)).
    fn cpu_time(pid: u32) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
        let (_, fields) = stat
            .rsplit_once(')')
            .expect("the process name is in parentheses");
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks
            .map(|ticks| ticks.parse::<u64>().expect("the text is a number"))
            .sum();
        // Assumes that USER_HZ is 100, as it is on Linux.
        Duration::from_millis(10 * ticks)
    }
}
