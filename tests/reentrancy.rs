//! Whatever a callback asks for, for whichever connection, it is sound.

mod common;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use common::{client, drive, frame, listening, settle};
use unstick::{
    Closed, Config, ConnId, Context, Framing, Handler, ListenerId, Origin, Reactor, SendError,
    TimerId,
};

fn short(framed: &str) -> Vec<u8> {
    frame("u32", framed.as_bytes())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    CloseSelf,
    AbortSelf,
    CloseOther,
    AbortOther,
    HalfCloseSelf,
    HalfCloseOther,
    SendSelf,
    SendOther,
    Broadcast,
    Connect,
    ConnectRefused,
    ConnectAndAbort,
    SetTimer,
    CancelTimers,
    PauseSelf,
    ResumeSelf,
    PauseOther,
    ResumeOther,
    ReframeSelf,
    ReframeOther,
    Listen,
    CloseListener,
    Stop,
    Shutdown,
}

const OPS: [Op; 24] = [
    Op::CloseSelf,
    Op::AbortSelf,
    Op::CloseOther,
    Op::AbortOther,
    Op::HalfCloseSelf,
    Op::HalfCloseOther,
    Op::SendSelf,
    Op::SendOther,
    Op::Broadcast,
    Op::Connect,
    Op::ConnectRefused,
    Op::ConnectAndAbort,
    Op::SetTimer,
    Op::CancelTimers,
    Op::PauseSelf,
    Op::ResumeSelf,
    Op::PauseOther,
    Op::ResumeOther,
    Op::ReframeSelf,
    Op::ReframeOther,
    Op::Listen,
    Op::CloseListener,
    Op::Stop,
    Op::Shutdown,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Callback {
    Open,
    Frame,
    Drained,
    HalfClose,
    Close,
    Timer,
    Posted,
}

const CALLBACKS: [Callback; 7] = [
    Callback::Open,
    Callback::Frame,
    Callback::Drained,
    Callback::HalfClose,
    Callback::Close,
    Callback::Timer,
    Callback::Posted,
];

/// Does two operations from every callback of one kind, and keeps watch over the order of what it
/// is told. That nothing calls back before a callback returns is a fact of types: the handler is
/// borrowed by it.
struct Matrix {
    at: Callback,
    ops: [Op; 2],
    /// Each operation may open connections whose callbacks do it again.
    ops_left: usize,
    addr: SocketAddr,
    refusing: SocketAddr,
    listeners: Vec<ListenerId>,
    timers: Vec<TimerId>,
    /// All ids so far, in their order.
    conns: Vec<ConnId>,
    open: HashSet<ConnId>,
    closes: HashMap<ConnId, u32>,
    /// Closed or aborted by this handler: no frame of theirs may come.
    ended: HashSet<ConnId>,
    /// Nor of these.
    paused: HashSet<ConnId>,
    /// Callbacks of the wanted kind.
    hits: usize,
}

impl Matrix {
    fn new(at: Callback, ops: [Op; 2], refusing: SocketAddr) -> Self {
        Self {
            at,
            ops,
            ops_left: 6,
            addr: refusing,
            refusing,
            listeners: Vec::new(),
            timers: Vec::new(),
            conns: Vec::new(),
            open: HashSet::new(),
            closes: HashMap::new(),
            ended: HashSet::new(),
            paused: HashSet::new(),
            hits: 0,
        }
    }

    fn entered(&mut self, cx: &mut Context<'_, Self>, at: Callback, conn: Option<ConnId>) {
        if let Some(conn) = conn {
            assert!(
                !self.closes.contains_key(&conn),
                "{at:?} of {conn} after its end"
            );
        }
        if at != self.at {
            return;
        }
        self.hits += 1;
        let conn = conn.or_else(|| self.conns.first().copied());
        for op in self.ops {
            if self.ops_left > 0 {
                self.ops_left -= 1;
                self.apply(cx, op, conn);
            }
        }
    }

    fn apply(&mut self, cx: &mut Context<'_, Self>, op: Op, conn: Option<ConnId>) {
        let other = self
            .conns
            .iter()
            .rev()
            .find(|&&other| Some(other) != conn)
            .copied();
        match op {
            Op::CloseSelf => self.end(conn, |conn| cx.close(conn)),
            Op::AbortSelf => self.end(conn, |conn| cx.abort(conn)),
            Op::CloseOther => self.end(other, |conn| cx.close(conn)),
            Op::AbortOther => self.end(other, |conn| cx.abort(conn)),
            Op::HalfCloseSelf => half_close(cx, conn),
            Op::HalfCloseOther => half_close(cx, other),
            Op::SendSelf => send_all(cx, conn),
            Op::SendOther => send_all(cx, other),
            Op::Broadcast => {
                cx.broadcast(self.conns.iter().copied(), &[2; 300]);
            }
            Op::Connect => self.connect(cx, self.addr),
            Op::ConnectRefused => self.connect(cx, self.refusing),
            Op::ConnectAndAbort => {
                self.connect(cx, self.addr);
                let newest = self.conns.last().copied();
                self.end(newest, |conn| cx.abort(conn));
            }
            Op::SetTimer => self.timers.push(cx.set_timer(Duration::ZERO, 1)),
            Op::CancelTimers => {
                for timer in self.timers.drain(..) {
                    cx.cancel_timer(timer);
                }
            }
            Op::PauseSelf => self.pause(cx, conn),
            Op::PauseOther => self.pause(cx, other),
            Op::ResumeSelf => self.resume(cx, conn),
            Op::ResumeOther => self.resume(cx, other),
            Op::ReframeSelf => reframe(cx, conn),
            Op::ReframeOther => reframe(cx, other),
            Op::Listen => {
                let listener = cx.listen("127.0.0.1:0", Framing::raw());
                self.listeners.extend(listener.ok());
            }
            Op::CloseListener => {
                for listener in self.listeners.drain(..) {
                    cx.close_listener(listener);
                }
            }
            Op::Stop => cx.stop(),
            Op::Shutdown => {
                cx.shutdown(Duration::from_millis(5));
                self.ended.extend(&self.conns);
            }
        }
    }

    fn connect(&mut self, cx: &mut Context<'_, Self>, addr: SocketAddr) {
        let conn = cx.connect(addr, Framing::length_u32(), ());
        assert!(!self.conns.contains(&conn), "{conn} is handed out twice");
        self.conns.push(conn);
    }

    fn end(&mut self, conn: Option<ConnId>, end: impl FnOnce(ConnId)) {
        if let Some(conn) = conn {
            end(conn);
            self.ended.insert(conn);
        }
    }

    fn pause(&mut self, cx: &mut Context<'_, Self>, conn: Option<ConnId>) {
        if let Some(conn) = conn
            && cx.pause(conn).is_ok()
        {
            self.paused.insert(conn);
        }
    }

    fn resume(&mut self, cx: &mut Context<'_, Self>, conn: Option<ConnId>) {
        if let Some(conn) = conn
            && cx.resume(conn).is_ok()
        {
            self.paused.remove(&conn);
        }
    }

    fn is_silenced(&self, conn: ConnId) -> bool {
        self.ended.contains(&conn) || self.paused.contains(&conn)
    }
}

fn send_all(cx: &mut Context<'_, Matrix>, conn: Option<ConnId>) {
    if let Some(conn) = conn {
        let _ = cx.send(conn, &[1; 300]);
        let _ = cx.send(conn, b"");
    }
}

fn half_close(cx: &mut Context<'_, Matrix>, conn: Option<ConnId>) {
    if let Some(conn) = conn
        && cx.half_close(conn).is_ok()
    {
        assert!(matches!(cx.send(conn, b""), Err(SendError::Closing)));
    }
}

fn reframe(cx: &mut Context<'_, Matrix>, conn: Option<ConnId>) {
    if let Some(conn) = conn {
        let _ = cx.reframe(conn, Framing::raw());
    }
}

impl Handler for Matrix {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), origin: Origin) {
        if matches!(origin, Origin::Accepted(_)) {
            self.conns.push(conn);
        }
        assert!(self.open.insert(conn), "{conn} opens twice");
        self.timers.push(cx.set_timer(Duration::ZERO, 0));
        self.entered(cx, Callback::Open, Some(conn));
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        assert!(self.open.contains(&conn), "a frame before on_open");
        assert!(
            !self.is_silenced(conn),
            "a frame of a closed or paused connection"
        );
        // More than the high mark: on_drained follows. No answer is answered.
        if frame.len() == 5 {
            let _ = cx.send(conn, &[3; 300]);
        }
        self.entered(cx, Callback::Frame, Some(conn));
    }

    fn on_drained(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut ()) {
        assert!(self.open.contains(&conn), "on_drained before on_open");
        self.entered(cx, Callback::Drained, Some(conn));
    }

    fn on_half_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut ()) {
        assert!(
            !self.is_silenced(conn),
            "an end of a closed or paused connection"
        );
        self.entered(cx, Callback::HalfClose, Some(conn));
        cx.close(conn);
        self.ended.insert(conn);
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: (), _: Closed) {
        *self.closes.entry(conn).or_default() += 1;
        cx.peer_addr(conn)
            .expect("the address is there until this returns");
        if self.at == Callback::Close {
            self.closes.remove(&conn);
            self.entered(cx, Callback::Close, Some(conn));
            *self.closes.entry(conn).or_default() += 1;
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, _: TimerId, _: u64) {
        self.entered(cx, Callback::Timer, None);
    }
}

/// Runs two connections through all callbacks. Their events come in one batch, so that whatever the
/// one does to the other happens while the other's turn is still to come.
fn run_matrix(at: Callback, ops: [Op; 2], refusing: SocketAddr) -> usize {
    let mut config = Config::default();
    config.write_high = 200;
    config.write_low = 100;
    config.close_deadline = Duration::from_millis(5);
    let matrix = Matrix::new(at, ops, refusing);
    let (mut reactor, addr) = listening(matrix, config, Framing::length_u32());
    reactor.handler_mut().addr = addr;
    let listener = reactor.listen("127.0.0.1:0", Framing::length_u32());
    reactor.handler_mut().listeners.extend(listener.ok());
    let mut clients = [client(addr), client(addr)];
    settle(&mut reactor);
    for client in &mut clients {
        // A peer may be gone by now, if that is what the operation does.
        let _ = client.write_all(&short("hello").repeat(3));
    }
    settle(&mut reactor);
    for client in &mut clients {
        let _ = client.write_all(&short("fifth"));
        let _ = client.shutdown(Shutdown::Write);
    }
    let post = reactor
        .remote()
        .post(|matrix: &mut Matrix, cx: &mut Context<'_, Matrix>| {
            matrix.entered(cx, Callback::Posted, None);
        });
    post.expect("the reactor is there");
    settle(&mut reactor);
    reactor
        .turn(Some(Duration::from_millis(2)))
        .expect("the poll works");
    reactor.with(|_, cx| cx.shutdown(Duration::from_millis(5)));
    drive(&mut reactor, Reactor::is_shut_down);

    let stats = reactor.stats();
    let matrix = reactor.into_handler();
    assert_eq!(stats.closed, matrix.conns.len() as u64);
    for conn in &matrix.conns {
        assert_eq!(matrix.closes.get(conn), Some(&1), "on_close of {conn}");
    }
    matrix.hits
}

#[test]
fn every_operation_is_sound_from_every_callback() {
    let (_held, addr) = common::refusing();
    for at in CALLBACKS {
        let mut hits = 0;
        for first in OPS {
            for second in OPS {
                println!("{first:?}, then {second:?}, from {at:?}");
                hits += run_matrix(at, [first, second], addr);
            }
        }
        assert!(
            hits >= OPS.len() * OPS.len(),
            "{at:?} was called {hits} times"
        );
    }
}
