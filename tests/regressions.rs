//! One test for each fixed bug that no other test over the public API detects.
//!
//! Each test is named after its bug, and its comment describes the bug.

mod common;

use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use allocation_counter::measure;
use common::{
    DEADLINE, Event, Probe, deposit, drive, let_pass, listening, open, open_narrow, read_slowly,
    settle, silent,
};
use unstick::{CloseReason, Config, Framing, Reactor, Skipped};

/// Returns the number of recorded events that match.
fn events(reactor: &Reactor<Probe>, wanted: impl Fn(&Event) -> bool) -> usize {
    reactor.handler().count(wanted)
}

/// Sends a stream and a FIN to a reactor, and returns the delivered frames.
fn frames_of_stream(config: Config, framing: Framing, stream: &[u8]) -> Vec<Vec<u8>> {
    let (mut reactor, addr) = listening(Probe::silent(), config, framing);
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, stream);
    common::send_fin(&client);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let frames = reactor.handler().frames();
    frames.into_iter().map(<[u8]>::to_vec).collect()
}

// After a trim of the buffer in the middle of a too long line, the decoder no longer skipped this
// line. So the end of the line was delivered as a frame.
#[test]
fn end_of_a_skipped_line_was_a_line_after_a_memory_trim() {
    let framing = Framing::line().frame_len_max(4096).skip_too_long();
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
    let (mut client, conn) = open(&mut reactor, addr);
    let long = [b"x\n", &[b'b'; 5000][..]].concat();
    for part in [&[b'a'; 3000][..], &long] {
        deposit(&mut reactor, &mut client, conn, part);
        settle(&mut reactor);
    }
    let before = reactor.stats().held_bytes;
    drive(&mut reactor, |it| it.stats().held_bytes < before);
    deposit(&mut reactor, &mut client, conn, b"evil\ngood\n");
    settle(&mut reactor);
    let frames = reactor.handler().frames();
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[0].len(), 3001);
    assert_eq!(frames[1], b"good");
    let is_skipped = |event: &Event| matches!(event, Event::Skipped(_, Skipped { len: 5004, .. }));
    assert_eq!(events(&reactor, is_skipped), 1);
}

// Timers with the same deadline fired in reverse order.
#[test]
fn timers_of_one_deadline_fired_in_reverse_order() {
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    for delay in [0, 7, 300] {
        reactor.with(|_, cx| {
            for key in 0..100 {
                cx.set_timer(Duration::from_millis(delay), key);
            }
        });
        drive(&mut reactor, |it| it.handler().events.len() == 100);
        let fired = std::mem::take(&mut reactor.handler_mut().events);
        let keys = fired.iter().map(|event| match event {
            Event::Timer(_, key) => *key,
            other => panic!("not a timer: {other:?}"),
        });
        assert!(keys.eq(0..100), "{delay} ms: {fired:?}");
    }
}

// For an empty path, the kernel chose an abstract name, and no client could find the listener.
#[cfg(unix)]
#[test]
fn empty_unix_path_listened_on_a_name_of_the_kernel() {
    use unstick::{Addr, UnixAddr};

    let path = UnixAddr::from_pathname("").expect_err("the path is empty");
    assert_eq!(path.kind(), io::ErrorKind::InvalidInput);
    let unnamed: Addr = "unix:".parse().expect("the text of an unnamed address");
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let listen = reactor.listen(&unnamed, Framing::raw());
    listen.expect_err("an unnamed address identifies no socket");
}

/// A host name whose look-up takes longer than `connect_deadline`.
struct SlowName {
    addr: SocketAddr,
    delay: Duration,
}

impl ToSocketAddrs for SlowName {
    type Iter = std::iter::Once<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        let_pass(self.delay);
        Ok(std::iter::once(self.addr))
    }
}

// The connect deadline started before the name look-up, so a slow look-up left no time to connect.
#[test]
fn connect_deadline_counted_the_name_look_up() {
    let mut config = Config::default();
    config.connect_deadline = Duration::from_millis(300);
    let (_held, addr) = silent();
    let delay = 2 * config.connect_deadline;
    let time_min = config.connect_deadline / 2;
    let mut reactor =
        Reactor::with_config(Probe::silent(), config).expect("the reactor is created");
    reactor.connect(SlowName { addr, delay }, Framing::raw(), ());
    let begin = Instant::now();
    drive(&mut reactor, |it| it.stats().closed == 1);
    let time = begin.elapsed();
    assert!(time >= time_min, "the connect got only {time:?}");
}

// If `on_skipped` of the last frame paused the connection, the end of the stream was never
// delivered.
#[test]
fn pause_at_a_skipped_last_frame_lost_the_half_close() {
    let header = Framing::delimiters(&[b";", b";;"]);
    let framing = Framing::header_body(header, |_| Ok(9));
    let framing = framing.frame_len_max(5).skip_too_long();
    let probe = Probe::new(|cx, event| {
        if let Event::Skipped(conn, _) = event {
            cx.pause(*conn).expect("the connection is open");
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), framing);
    let (mut client, conn) = open(&mut reactor, addr);
    // At the end of the stream, the header `9;` is complete. Its frame is too long and is skipped.
    client.write_all(b"9;").expect("the server reads");
    common::send_fin(&client);
    drive(&mut reactor, |it| {
        events(it, |event| matches!(event, Event::Skipped(..))) == 1
    });
    settle(&mut reactor);
    let half_closes =
        |it: &Reactor<Probe>| events(it, |event| matches!(event, Event::HalfClose(_)));
    assert_eq!(half_closes(&reactor), 0, "the connection is paused");
    reactor
        .with(|_, cx| cx.resume(conn))
        .expect("the connection is open");
    drive(&mut reactor, |it| it.stats().closed == 1);
    assert_eq!(half_closes(&reactor), 1);
}

// A UDP socket kept the memory of its longest send queue until the socket was closed.
#[test]
fn udp_send_queue_kept_the_memory_of_a_burst() {
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
    let to = receiver.local_addr().expect("the socket is bound");
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let socket = reactor
        .bind_udp("127.0.0.1:0")
        .expect("a free port is available");
    let burst = measure(|| {
        reactor.with(|_, cx| {
            for _ in 0..900 {
                cx.send_to(socket, to, &[0; 1024])
                    .expect("the queue has space");
            }
        });
        drive(&mut reactor, |it| it.stats().datagrams_out == 900);
    });
    let mut kept = burst.bytes_current;
    assert!(kept > 900 * 1024, "the queue keeps {kept} bytes at first");
    let deadline = Instant::now() + DEADLINE;
    while kept > 100 * 1024 {
        assert!(Instant::now() < deadline, "{kept} bytes are kept");
        let freed = measure(|| {
            let turn = reactor.turn(Some(Duration::from_millis(100)));
            turn.expect("polling succeeds");
        });
        kept += freed.bytes_current;
    }
}

// If the limits changed between two sends, the later output was written first.
#[test]
fn change_of_limits_in_a_callback_reordered_output() {
    const LEN: usize = 1_000_000;
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, _) = event {
            let _ = cx.send(*conn, &[1; LEN]).expect("the queue has space");
            let limits = cx.limits(*conn).expect("the connection is open");
            cx.set_limits(*conn, limits).expect("the limits are valid");
            let _ = cx.send(*conn, &[2; LEN]).expect("the queue has space");
        }
    });
    let mut config = Config::default();
    config.write_queue_bytes_max = 4 * LEN;
    let (mut reactor, addr) = listening(probe, config, Framing::raw());
    let (mut client, conn) = open_narrow(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"question");
    let answer = read_slowly(&mut reactor, &mut client, 2 * LEN);
    assert!(
        answer.is_sorted(),
        "the two outputs arrived in the wrong order"
    );
    assert_eq!(answer.partition_point(|&byte| byte == 1), LEN);
}

// Without a frame limit, the decoder collected the digits of an endless length forever.
#[test]
fn endless_netstring_length_was_read_for_ever() {
    let framing = Framing::netstring().frame_len_max(usize::MAX);
    let mut config = Config::default();
    // The client keeps its side open, so a close ends only at its deadline, which is therefore
    // short.
    config.close_deadline = Duration::from_millis(10);
    let (mut reactor, addr) = listening(Probe::silent(), config, framing);
    let (mut client, _) = open(&mut reactor, addr);
    client.write_all(&[b'9'; 30]).expect("the server reads");
    drive(&mut reactor, |it| it.stats().closed == 1);
    let reason = &reactor.handler().only_close().reason;
    assert!(matches!(reason, CloseReason::Frame { .. }), "{reason}");
}

// If a delimiter at the end of the stream could be the start of a longer delimiter, only the end of
// the stream completed the header. The frame of such a header was lost.
#[test]
fn frame_whose_header_ends_with_the_stream_was_lost() {
    let header = Framing::delimiters(&[b";", b";;"]);
    let framing = Framing::header_body(header, |header| Ok(header.len() as u64 - 1));
    let frames = frames_of_stream(Config::default(), framing, b"a;");
    assert_eq!(frames, [b"a;"]);
}

// If the frame budget was used up before the last frame, the search for the end of this frame
// started at too high an offset. So the frame was lost.
#[test]
fn last_frame_after_a_spent_frame_budget_was_lost() {
    let mut config = Config::default();
    config.frame_budget = 1;
    let framing = Framing::delimiters(&[b";", b";2;3"]);
    let frames = frames_of_stream(config, framing, b"first;2;");
    assert_eq!(frames, [&b"first"[..], b"2"]);
}

// Config values with which a reactor cannot work were accepted without an error.
#[test]
fn useless_config_values_were_accepted() {
    type SetUseless = fn(&mut Config);
    let useless: [(&str, SetUseless); 4] = [
        ("idle_timeout is 0", |it| {
            it.idle_timeout = Some(Duration::ZERO)
        }),
        ("memory_bytes_max (10)", |it| it.memory_bytes_max = 10),
        ("connections_max is 0", |it| it.connections_max = 0),
        ("backlog is 0", |it| it.backlog = 0),
    ];
    for (message, set_useless) in useless {
        let mut config = Config::default();
        set_useless(&mut config);
        let error = Reactor::with_config(Probe::silent(), config).expect_err(message);
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(message), "{error}");
    }
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let (_held, addr) = silent();
    let conn = reactor.connect(addr, Framing::raw(), ());
    let set = reactor.with(|_, cx| {
        let mut limits = cx.limits(conn)?;
        limits.frame_deadline = Some(Duration::ZERO);
        cx.set_limits(conn, limits)
    });
    let error = set.expect_err("the deadline is zero");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

// `shutdown_on_signals` failed if the parent process ignored one of the signals, as shells do for
// background jobs.
#[cfg(all(unix, feature = "signals"))]
#[test]
fn ignored_sigint_prevented_shutdown_on_signals() {
    use std::process::Command;

    let name = "ignored_sigint_prevented_shutdown_on_signals";
    if common::is_child() {
        let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
        reactor
            .shutdown_on_signals(DEADLINE)
            .expect("an ignored signal has no handler");
        return;
    }
    let rerun = common::rerun(name);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' INT; exec \"$0\" \"$@\""])
        .arg(rerun.get_program())
        .args(rerun.get_args());
    for (key, value) in rerun.get_envs() {
        shell.env(key, value.expect("the variable is set"));
    }
    let output = shell.output().expect("a shell is installed");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}");
    assert!(stdout.contains("1 passed"), "{stdout}");
}
