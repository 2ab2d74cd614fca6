//! A connection's session, as callbacks about something else reach it.

mod common;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::{drive, frame, read_u32_frame};
use unstick::{Closed, ConnId, Context, Framing, Handler, Origin, Reactor, TimerId};

/// Answers each frame by a timer of its connection, with all that it was sent.
#[derive(Default)]
struct Later {
    conns: Vec<ConnId>,
    ended: Vec<Vec<u8>>,
}

impl Later {
    fn answer(cx: &mut Context<'_, Self>, conn: ConnId, seen: &[u8]) {
        assert!(cx.session(conn).is_none(), "it is lent");
        assert!(cx.with_session(conn, |_, _| ()).is_none(), "and but once");
        let _ = cx.send(conn, seen).expect("it is open");
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
        assert!(cx.with_session(conn, |_, _| ()).is_none(), "it is here");
        cx.set_timer(Duration::ZERO, conn.to_bits());
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, _: TimerId, key: u64) {
        let conn = ConnId::from_bits(key).expect("the key is an id");
        let answered = cx.with_session(conn, |cx, seen| {
            seen.push(b'!');
            Self::answer(cx, conn, seen);
            if seen.starts_with(b"bye") {
                cx.abort(conn);
            }
        });
        answered.expect("it is open");
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, seen: Vec<u8>, _: Closed) {
        assert!(cx.with_session(conn, |_, _| ()).is_none(), "it is here");
        self.ended.push(seen);
    }
}

fn two_clients() -> (Reactor<Later>, [std::net::TcpStream; 2], [ConnId; 2]) {
    let mut reactor = Reactor::new(Later::default()).expect("a reactor");
    let listener = reactor
        .listen("127.0.0.1:0", Framing::length_u32())
        .expect("a free port");
    let addr = reactor.local_inet_addr(listener).expect("it listens");
    let mut clients = Vec::new();
    for count in 1..=2 {
        clients.push(common::client(addr));
        drive(&mut reactor, |reactor| {
            reactor.handler().conns.len() == count
        });
    }
    let clients = clients.try_into().expect("two");
    let conns = reactor.handler().conns.clone().try_into().expect("two");
    (reactor, clients, conns)
}

#[test]
fn a_timer_is_lent_the_session_of_the_connection_that_is_its_key() {
    let (mut reactor, [mut one, mut other], conns) = two_clients();
    let say = |client: &mut std::net::TcpStream, text: &[u8]| {
        client.write_all(&frame("u32", text)).expect("it is read");
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
    assert_eq!(reactor.handler().ended, [b"a!b!"], "what it was left with");
    let ran = reactor.with(|_, cx| cx.with_session(conns[0], |_, _| panic!("it is gone")));
    assert!(ran.is_none());
}

#[test]
fn a_connection_that_ends_while_its_session_is_lent_gives_it_back_changed() {
    let (mut reactor, [mut one, _other], _) = two_clients();
    one.write_all(&frame("u32", b"bye")).expect("it is read");
    drive(&mut reactor, |reactor| !reactor.handler().ended.is_empty());
    assert_eq!(reactor.handler().ended, [b"bye!"]);
}

#[test]
fn a_panic_leaves_a_session_that_was_lent_as_it_was_then() {
    let (mut reactor, _clients, [conn, _]) = two_clients();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        reactor.with(|_, cx| {
            cx.with_session(conn, |_, seen: &mut Vec<u8>| -> () {
                seen.extend_from_slice(b"half");
                panic!("the handler's own fault");
            })
        })
    }));
    panic.expect_err("it panics");
    let seen = reactor.with(|_, cx| cx.session(conn).cloned());
    assert_eq!(seen.as_deref(), Some(&b"half"[..]));
}
