//! A loop that has nothing to do does nothing: no call, no turn, no busy wait where the system
//! refuses it something.

mod common;

use std::io::Write;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{DEADLINE, Probe, Server, client, drive, frame, listening, round_trip, settle};
use unstick::{Config, Framing};

fn short(framed: &str) -> Vec<u8> {
    frame("u32", framed.as_bytes())
}

#[test]
fn a_turn_without_events_is_one_poll_and_no_other_call() {
    let (mut reactor, addr) = listening(Probe::echo(), Config::default(), Framing::length_u32());
    let mut client = client(addr);
    client
        .write_all(&short("ping"))
        .expect("the kernel takes it");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
    settle(&mut reactor);
    let before = reactor.stats();
    let started = Instant::now();
    reactor
        .turn(Some(Duration::from_millis(100)))
        .expect("the poll works");
    assert!(started.elapsed() >= Duration::from_millis(100));
    let mut expected = before;
    expected.turns += 1;
    assert_eq!(reactor.stats(), expected);
}

/// Two looks at the count of turns, each of which takes one; none happens in between.
#[test]
fn an_idle_loop_takes_no_turn() {
    let server = Server::start(Probe::echo(), Config::default(), Framing::length_u32());
    let mut client = server.connect();
    assert_eq!(round_trip(&mut client, b"ping"), b"ping");
    let turns = || {
        let (tell, told) = mpsc::channel();
        server
            .remote
            .post(move |_, cx| tell.send(cx.stats().turns).expect("the test waits"))
            .expect("the loop runs");
        told.recv_timeout(DEADLINE).expect("the loop goes on")
    };
    turns();
    let first = turns();
    let (_tell, nothing) = mpsc::channel::<()>();
    let quiet = nothing.recv_timeout(Duration::from_millis(500));
    assert_eq!(quiet, Err(mpsc::RecvTimeoutError::Timeout));
    assert_eq!(turns(), first + 1);
    drop(client);
    server.stop();
}

/// A stopped and continued process has its poll interrupted. The rest of the time is waited all the
/// same, and it counts from the call of `turn`, however long ago the last turn was.
#[test]
#[cfg(unix)]
fn a_signal_does_not_end_a_turn_early() {
    use std::process::Command;
    use unstick::Reactor;

    const NAME: &str = "a_signal_does_not_end_a_turn_early";
    const TIMEOUT: Duration = Duration::from_millis(700);
    if common::is_child() {
        let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
        for turn in 1..=2 {
            let started = Instant::now();
            reactor.turn(Some(TIMEOUT)).expect("the poll works");
            assert!(started.elapsed() >= TIMEOUT, "only {:?}", started.elapsed());
            assert_eq!((reactor.stats().turns, reactor.stats().events), (turn, 0));
            // Time that passes outside of the reactor.
            common::let_pass(TIMEOUT);
        }
        return;
    }
    let mut child = common::rerun(NAME)
        .spawn()
        .expect("the test binary runs again");
    let signals = format!("kill -STOP {0}; kill -CONT {0}", child.id());
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        if Instant::now() > deadline {
            child.kill().expect("it runs");
            panic!("each signal begins the wait anew");
        }
        if let Some(status) = child.try_wait().expect("it is a child") {
            break status;
        }
        let sent = Command::new("sh").args(["-c", &signals]).status();
        assert!(sent.expect("sh runs").success());
    };
    assert!(status.success(), "{status}");
}

/// What is told from outside: by strace, proc(5), and the descriptors that a process may have.
#[cfg(target_os = "linux")]
mod process {
    use std::io::{BufRead, BufReader, ErrorKind, Read};
    use std::net::SocketAddr;
    use std::process::{Child, ChildStdout, Command, Stdio};

    use super::*;
    use common::{Event, read_u32_frame};
    use unstick::{Context, Stats};

    /// A server in a process of its own: this test binary again, which runs [`serve_as_child`]. It
    /// ends when it is dropped, or when this process does, as its input ends.
    struct ChildServer {
        child: Child,
        stdout: BufReader<ChildStdout>,
        addr: SocketAddr,
    }

    impl ChildServer {
        /// `wrapper` is a program, with its arguments, that runs what it is given behind them.
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
            let mut child = command.spawn().expect("the test binary runs again");
            let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
            let addr = read_word_after(&mut stdout, "listening on ")
                .parse()
                .expect("an address");
            Self {
                child,
                stdout,
                addr,
            }
        }

        fn say(&mut self, line: &str) {
            let stdin = self.child.stdin.as_mut().expect("it is piped");
            writeln!(stdin, "{line}").expect("it listens");
        }

        fn turns(&mut self) -> u64 {
            self.ask("turns")
        }

        fn accepted(&mut self) -> u64 {
            self.ask("accepted")
        }

        fn ask(&mut self, count: &str) -> u64 {
            self.say(count);
            let answer = read_word_after(&mut self.stdout, &format!("{count}: "));
            answer.parse().expect("a number")
        }

        /// Ends it, and gives what it wrote to its standard error.
        fn stop(mut self) -> String {
            drop(self.child.stdin.take());
            let mut errors = String::new();
            let mut stderr = self.child.stderr.take().expect("it is piped");
            stderr.read_to_string(&mut errors).expect("it is text");
            let status = self.child.wait().expect("it is waited for once");
            assert!(status.success(), "{status}: {errors}");
            errors
        }
    }

    fn read_word_after(lines: &mut impl BufRead, prefix: &str) -> String {
        let mut line = String::new();
        while lines.read_line(&mut line).expect("it is text") > 0 {
            if let Some((_, rest)) = line.split_once(prefix) {
                return rest.trim().to_owned();
            }
            line.clear();
        }
        panic!("no line with {prefix:?}");
    }

    /// Descriptors that the child process uses for nothing until it is told to free them.
    const SPARE_DESCRIPTORS: usize = 30;

    /// The other end of [`ChildServer`]: an echo that tells of each close.
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
            .map(|_| std::fs::File::open("/dev/null").expect("descriptors are left"))
            .collect();
        println!("listening on {addr}");
        let remote = reactor.remote();
        let listener = std::thread::spawn(move || {
            let mut spare = Some(spare);
            let tell = |name: &'static str, count: fn(Stats) -> u64| {
                let task = move |_: &mut Probe, cx: &mut Context<'_, Probe>| {
                    println!("{name}: {}", count(cx.stats()));
                };
                remote.post(task).expect("the loop runs");
            };
            for line in std::io::stdin().lines() {
                match line.expect("it is text").as_str() {
                    "turns" => tell("turns", |stats| stats.turns),
                    "accepted" => tell("accepted", |stats| stats.accepted),
                    _ => drop(spare.take()),
                }
            }
            remote.shutdown(Duration::ZERO).expect("the loop runs");
        });
        reactor.run().expect("the poll works");
        listener.join().expect("it only waits");
    }

    #[test]
    fn an_idle_reactor_makes_no_system_call() {
        const NAME: &str = "process::an_idle_reactor_makes_no_system_call";
        if common::is_child() {
            return serve_as_child();
        }
        let works = Command::new("strace")
            .args(["-o", "/dev/null", "true"])
            .output();
        if !works.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: strace cannot be run here");
            return;
        }
        let mut trace = std::env::temp_dir();
        trace.push(format!("unstick-idle-{}.strace", std::process::id()));
        let path = trace.to_str().expect("a path of letters");
        let mut server = ChildServer::start(NAME, &["strace", "-f", "-o", path]);
        let mut client = client(server.addr);
        assert_eq!(round_trip(&mut client, b"ping"), b"ping");
        drop(client);
        read_word_after(&mut server.stdout, "closed ");
        // The time itself is what is measured here: a quiet loop is given time to move.
        let calls = || {
            common::let_pass(Duration::from_secs(1));
            std::fs::read_to_string(&trace)
                .expect("strace writes it")
                .lines()
                .count()
        };
        let before = calls();
        let (_idle, after) = (calls(), calls());
        server.stop();
        std::fs::remove_file(&trace).expect("strace wrote it");
        assert!(before > 20, "strace saw it work");
        assert!(after - before <= 2, "{} calls while idle", after - before);
    }

    /// 200 clients, and descriptors for some sixty, half of which are in use elsewhere. The rest of
    /// the clients wait without a busy loop and without a flood of lines. They are served when
    /// descriptors are free again, whether the reactor closed them or somebody else, although
    /// nobody new comes.
    #[test]
    fn clients_beyond_the_descriptors_are_served_when_some_are_free_again() {
        const NAME: &str =
            "process::clients_beyond_the_descriptors_are_served_when_some_are_free_again";
        if common::is_child() {
            return serve_as_child();
        }
        let limit = "ulimit -n 64 && exec \"$0\" \"$@\"";
        let mut server = ChildServer::start(NAME, &["sh", "-c", limit]);
        let mut clients: Vec<_> = (0..200).map(|_| client(server.addr)).collect();
        for (index, client) in clients.iter_mut().enumerate() {
            client
                .write_all(&short(&index.to_string()))
                .expect("the kernel takes it");
        }
        let mut middle = clients.remove(SPARE_DESCRIPTORS + 10);
        assert_eq!(read_u32_frame(&mut clients[0]), b"0", "the first is served");

        let turns_before = server.turns();
        let busy_before = cpu_time(server.child.id());
        middle
            .set_read_timeout(Some(Duration::from_secs(2)))
            .expect("the option can be set");
        let error = middle
            .read(&mut [0])
            .expect_err("no descriptor is left for it");
        assert!(
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "{error}"
        );
        let busy = cpu_time(server.child.id()) - busy_before;
        assert!(
            busy <= Duration::from_millis(40),
            "busy for {busy:?} of 2 s"
        );
        let turns = server.turns() - turns_before;
        assert!(turns <= 30, "{turns} turns in 2 s");

        server.say("free them");
        middle
            .set_read_timeout(Some(DEADLINE))
            .expect("the option can be set");
        assert_eq!(read_u32_frame(&mut middle), b"40");
        let served = usize::try_from(server.accepted()).expect("at most 200");
        // From now on one leaves and one is served at a time.
        let waiting = clients.split_off(served - 1);
        drop(clients.remove(0));
        for (index, mut client) in (served..).zip(waiting) {
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
        assert!(
            (1..=10).contains(&count),
            "{count} lines in some 3 s: {lines}"
        );
    }

    /// The processor time that a process has used, from proc(5).
    fn cpu_time(pid: u32) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let (_, fields) = stat.rsplit_once(')').expect("its name is in brackets");
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks
            .map(|ticks| ticks.parse::<u64>().expect("a number"))
            .sum();
        // USER_HZ is 100 on every Linux.
        Duration::from_millis(10 * ticks)
    }
}
