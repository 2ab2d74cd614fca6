//! A connection's session, borrowed by callbacks that do not receive it (`Context::with_session`).

mod common;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::{drive, frame, read_u32_frame};
use unstick::{Closed, ConnId, Context, Framing, Handler, Origin, Reactor, TimerId};

/// A handler that replies to each frame from a timer. Before each reply, the handler appends a `!`
/// to the session, which contains all received bytes. The reply is the whole session.
#[derive(Default)]
struct Later {
    conns: Vec<ConnId>,
    ended: Vec<Vec<u8>>,
}

impl Later {
    fn reply(cx: &mut Context<'_, Self>, conn: ConnId, seen: &[u8]) {
        assert!(cx.session(conn).is_none(), "the session is borrowed");
        assert!(
            cx.with_session(conn, |_, _| ()).is_none(),
            "a borrowed session cannot be borrowed again"
        );
        let _ = cx.send(conn, seen).expect("the connection is open");
    }
}

impl Handler for Later {
    type Session = Vec<u8>;

    fn on_open(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: &mut Vec<u8>, _: Origin) {
        self.conns.push(conn);
    }

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        seen: &mut Vec<u8>,
        frame: &[u8],
    ) {
        seen.extend_from_slice(frame);
        assert!(
            cx.with_session(conn, |_, _| ()).is_none(),
            "the callback already has the session"
        );
        cx.set_timer(Duration::ZERO, conn.to_bits());
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, _: TimerId, key: u64) {
        let conn = ConnId::from_bits(key).expect("the key is a connection id");
        let replied = cx.with_session(conn, |cx, seen| {
            seen.push(b'!');
            Self::reply(cx, conn, seen);
            if seen.starts_with(b"bye") {
                cx.abort(conn);
            }
        });
        replied.expect("the session is available");
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, seen: Vec<u8>, _: Closed) {
        assert!(
            cx.with_session(conn, |_, _| ()).is_none(),
            "the callback already has the session"
        );
        self.ended.push(seen);
    }
}

fn two_clients() -> (Reactor<Later>, [std::net::TcpStream; 2], [ConnId; 2]) {
    let mut reactor = Reactor::new(Later::default()).expect("the reactor is created");
    let listener = reactor
        .listen("127.0.0.1:0", Framing::length_u32())
        .expect("a free port is available");
    let addr = reactor
        .local_inet_addr(listener)
        .expect("the listener is bound");
    let mut clients = Vec::new();
    for count in 1..=2 {
        clients.push(common::client(addr));
        drive(&mut reactor, |reactor| {
            reactor.handler().conns.len() == count
        });
    }
    let clients = clients.try_into().expect("there are two clients");
    let conns = reactor
        .handler()
        .conns
        .clone()
        .try_into()
        .expect("there are two clients");
    (reactor, clients, conns)
}

#[test]
fn with_session_in_on_timer_reaches_a_session() {
    let (mut reactor, [mut one, mut other], conns) = two_clients();
    let say = |client: &mut std::net::TcpStream, text: &[u8]| {
        client
            .write_all(&frame("u32", text))
            .expect("the write succeeds");
    };
    for (text, answers) in [(&b"a"[..], [&b"a!"[..], b"a!"]), (b"b", [b"a!b!", b"a!b!"])] {
        let seen = reactor.stats().frames_out + 2;
        say(&mut one, text);
        say(&mut other, text);
        drive(&mut reactor, |reactor| reactor.stats().frames_out == seen);
        assert_eq!(read_u32_frame(&mut one), answers[0]);
        assert_eq!(read_u32_frame(&mut other), answers[1]);
    }
    drop(one);
    drive(&mut reactor, |reactor| !reactor.handler().ended.is_empty());
    assert_eq!(
        reactor.handler().ended,
        [b"a!b!"],
        "on_close receives the session with all changes"
    );
    let ran = reactor.with(|_, cx| {
        cx.with_session(conns[0], |_, _| {
            panic!("the session of a closed connection was passed")
        })
    });
    assert!(ran.is_none());
}

#[test]
fn abort_in_with_session_keeps_the_changes() {
    let (mut reactor, [mut one, _other], _) = two_clients();
    one.write_all(&frame("u32", b"bye"))
        .expect("the write succeeds");
    drive(&mut reactor, |reactor| !reactor.handler().ended.is_empty());
    assert_eq!(reactor.handler().ended, [b"bye!"]);
}

#[test]
fn panic_in_with_session_keeps_the_session() {
    let (mut reactor, _clients, [conn, _]) = two_clients();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        reactor.with(|_, cx| {
            cx.with_session(conn, |_, seen: &mut Vec<u8>| -> () {
                seen.extend_from_slice(b"half");
                panic!("panic raised by the handler");
            })
        })
    }));
    panic.expect_err("the closure panics");
    let seen = reactor.with(|_, cx| cx.session(conn).cloned());
    assert_eq!(seen.as_deref(), Some(&b"half"[..]));
}
