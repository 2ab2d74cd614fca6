//! The handler that runs the operations in the callbacks and checks their results.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram as StdUnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use unstick::{
    Addr, CloseReason, Closed, ConnId, Context, Datagram, Detached, FrameError, Framing, Handler,
    Hangup, ListenOptions, ListenerId, Origin, Payload, Refusal, SendError, Sent, ShutdownPhase,
    Signal, Skipped, SocketId, TimerId, UdpId, UnixAddr, UnixDatagram, UnixDatagramId,
};

use crate::common::{frame, tls};
use crate::ops::{Callback, Kind, Of, Op};

const HOUR: Duration = Duration::from_secs(3600);

/// Ids of two open sockets and of a closed socket, or of timers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Three<T> {
    pub(crate) open: [T; 2],
    pub(crate) gone: T,
}

impl<T: Copy + PartialEq> Three<T> {
    pub(crate) fn new([first, second, gone]: [T; 3]) -> Self {
        Self {
            open: [first, second],
            gone,
        }
    }

    fn pick(&self, of: Of, own: Option<T>) -> T {
        let own = own.unwrap_or(self.open[0]);
        match of {
            Of::Own => own,
            Of::Other => *self
                .open
                .iter()
                .find(|one| **one != own)
                .expect("one of two ids differs"),
            Of::Gone => self.gone,
        }
    }
}

/// Sockets and timers that the operations use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cast {
    pub(crate) conns: Three<ConnId>,
    pub(crate) listeners: Three<ListenerId>,
    pub(crate) udps: Three<UdpId>,
    pub(crate) unixes: Three<UnixDatagramId>,
    pub(crate) timers: Three<TimerId>,
}

/// Socket or timer for which a callback is called.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Own {
    conn: Option<ConnId>,
    listener: Option<ListenerId>,
    udp: Option<UdpId>,
    unix: Option<UnixDatagramId>,
    timer: Option<TimerId>,
}

/// The ids to which the operands of an operation refer.
#[derive(Clone, Copy)]
struct Targets {
    cast: Cast,
    own: Own,
}

impl Targets {
    fn conn(&self, of: Of) -> ConnId {
        self.cast.conns.pick(of, self.own.conn)
    }

    fn listener(&self, of: Of) -> ListenerId {
        self.cast.listeners.pick(of, self.own.listener)
    }

    fn udp(&self, of: Of) -> UdpId {
        self.cast.udps.pick(of, self.own.udp)
    }

    fn unix(&self, of: Of) -> UnixDatagramId {
        self.cast.unixes.pick(of, self.own.unix)
    }

    fn timer(&self, of: Of) -> TimerId {
        self.cast.timers.pick(of, self.own.timer)
    }

    fn socket(&self, kind: Kind, of: Of) -> SocketId {
        match kind {
            Kind::Conn => self.conn(of).into(),
            Kind::Listener => self.listener(of).into(),
            Kind::Udp => self.udp(of).into(),
            Kind::Unix => self.unix(of).into(),
        }
    }
}

/// Payload of the panic that a test causes in a callback. This panic prints no message.
pub(crate) struct DeliberatePanic;

/// Expected state of a connection.
#[derive(Debug, Default)]
pub(crate) struct Life {
    pub(crate) is_open: bool,
    pub(crate) closes: u32,
    /// True if the handler closed or aborted the connection: no more input may be delivered.
    pub(crate) is_ended: bool,
    pub(crate) is_paused: bool,
    pub(crate) is_raw: bool,
    /// True if TLS was started. The peer does not use TLS, so the handshake fails.
    is_tls: bool,
    /// Bytes that `send` accepted.
    pub(crate) accepted: Vec<u8>,
    /// Bytes that the peer has read; a prefix of `accepted`.
    received: Vec<u8>,
    pub(crate) frames: u8,
}

#[derive(Default)]
pub(crate) struct Matrix {
    pub(crate) cast: Option<Cast>,
    /// Callback in which the operations run.
    pub(crate) at: Option<Callback>,
    pub(crate) ops: Vec<Op>,
    /// Number of remaining calls of the callback in which the operations run.
    pub(crate) rounds: usize,
    /// True if the callback panics after the operations.
    pub(crate) panics: bool,
    /// Number of calls of the callback `at`.
    pub(crate) hits: usize,
    /// Connection that opened last.
    pub(crate) newest: Option<ConnId>,
    pub(crate) lives: HashMap<ConnId, Life>,
    pub(crate) sockets: Vec<SocketId>,
    pub(crate) timers: Vec<TimerId>,
    pub(crate) listening: Option<SocketAddr>,
    pub(crate) refusing: Option<SocketAddr>,
    pub(crate) udp_to: Option<SocketAddr>,
    pub(crate) unix_to: Option<UnixAddr>,
    pub(crate) is_shutting_down: bool,
    /// True if [`Op::CatchSignal`] ran. The reactor then keeps a pair of sockets until its end.
    pub(crate) has_caught_signal: bool,
}

type Cx<'a> = Context<'a, Matrix>;

impl Matrix {
    pub(crate) fn life(&mut self, conn: ConnId) -> &mut Life {
        self.lives.entry(conn).or_default()
    }

    pub(crate) fn entered(&mut self, cx: &mut Cx<'_>, at: Callback, own: Own) {
        if self.at != Some(at) {
            return;
        }
        self.hits += 1;
        if self.rounds > 0 {
            self.rounds -= 1;
            for op in self.ops.clone() {
                self.apply(cx, op, own);
            }
            if self.panics {
                if let Some(conn) = own.conn {
                    self.life(conn).is_ended = true;
                }
                resume_unwind(Box::new(DeliberatePanic));
            }
        }
    }

    pub(crate) fn apply(&mut self, cx: &mut Cx<'_>, op: Op, own: Own) {
        let cast = self.cast.expect("the sockets are set up");
        let targets = Targets { cast, own };
        match op {
            Op::Send(_)
            | Op::SendLong(_)
            | Op::SendParts(_)
            | Op::SendWith(_)
            | Op::SendUnframed(_)
            | Op::Broadcast(_)
            | Op::SendTo(_)
            | Op::SendDatagram(_)
            | Op::SendUnix(_) => self.apply_sending(cx, op, targets),
            Op::Grant(..)
            | Op::SetLimits(_)
            | Op::HalfClose(_)
            | Op::Reframe(_)
            | Op::StartTlsServer(_)
            | Op::StartTlsClient(_)
            | Op::Peek(..)
            | Op::Session(_)
            | Op::Abort(_)
            | Op::Detach(_) => self.apply_connection(cx, op, targets),
            Op::Pause(..)
            | Op::Resume(..)
            | Op::Close(..)
            | Op::Record(..)
            | Op::StopRecording(..)
            | Op::Inspect(..)
            | Op::SetListenerTls(_)
            | Op::ConnectUdp(_)
            | Op::DetachUdp(_)
            | Op::ConnectUnix(_) => self.apply_socket(cx, op, targets),
            Op::ResetTimer(_) | Op::CancelTimer(_) | Op::SetTimer | Op::SetInterval => {
                self.apply_timer(cx, op, targets)
            }
            Op::Connect
            | Op::ConnectRefused
            | Op::ConnectAndAbort
            | Op::Listen
            | Op::ListenAll
            | Op::BindUdp
            | Op::BindUnix
            | Op::AdoptStream
            | Op::AdoptDetached
            | Op::AdoptListener
            | Op::AdoptUdp
            | Op::AdoptUnix => self.apply_opening(cx, op),
            Op::RecordAll => cx.record_all(),
            Op::StopRecordingAll => cx.stop_recording_all(),
            Op::TakeRecording => drop(cx.take_recording()),
            Op::CatchSignal => {
                let caught = cx.catch_signal(Signal::SIGUSR2);
                caught.expect("the signal can be caught");
                self.has_caught_signal = true;
            }
            Op::Stop => cx.stop(),
            Op::Shutdown(deadline) => self.shut_down(cx, deadline),
        }
    }

    pub(crate) fn shut_down(&mut self, cx: &mut Cx<'_>, deadline: Duration) {
        cx.shutdown(deadline);
        assert!(cx.is_shutting_down());
        self.is_shutting_down = true;
    }

    /// Sends to a connection, to all connections or on a datagram socket.
    fn apply_sending(&mut self, cx: &mut Cx<'_>, op: Op, targets: Targets) {
        match op {
            Op::Send(of) => {
                let sent = cx.send(targets.conn(of), &[1; 300]);
                self.sent(targets.conn(of), of, &[1; 300], sent);
                let sent = cx.send(targets.conn(of), b"");
                self.sent(targets.conn(of), of, b"", sent);
            }
            Op::SendLong(of) => {
                let payload = vec![2; 20_000];
                let sent = cx.send_owned(targets.conn(of), Payload::from(payload.clone()));
                let sent = sent.map_err(|refused| {
                    assert_eq!(&refused.payload[..], payload);
                    refused.error
                });
                self.sent(targets.conn(of), of, &payload, sent);
            }
            Op::SendParts(of) => {
                let sent = cx.send_parts(targets.conn(of), &[&[3; 10], b"", &[3; 20]]);
                self.sent(targets.conn(of), of, &[3; 30], sent);
            }
            Op::SendWith(of) => {
                let sent = cx.send_with(targets.conn(of), |out| {
                    out.put(&[4; 40]);
                    Ok(())
                });
                self.sent(targets.conn(of), of, &[4; 40], sent);
            }
            Op::SendUnframed(of) => {
                let conn = targets.conn(of);
                let was_raw = std::mem::replace(&mut self.life(conn).is_raw, true);
                let sent = cx.send_unframed(conn, &[7; 50]);
                self.sent(conn, of, &[7; 50], sent);
                self.life(conn).is_raw = was_raw;
            }
            Op::Broadcast(len) => self.broadcast(cx, &vec![5; len]),
            Op::SendTo(of) => {
                let to = self.udp_to.expect("the peer address is set up");
                assert_fails_if_closed(of, cx.send_to(targets.udp(of), to, b"to"));
            }
            Op::SendDatagram(of) => {
                assert_fails_if_closed(of, cx.send_datagram(targets.udp(of), b"on"))
            }
            Op::SendUnix(of) => {
                let socket = targets.unix(of);
                assert_fails_if_closed(of, cx.send_unix_datagram(socket, None, b"on"));
            }
            other => panic!("{other:?} is not a send operation"),
        }
    }

    /// Changes, reads or aborts a connection.
    fn apply_connection(&mut self, cx: &mut Cx<'_>, op: Op, targets: Targets) {
        match op {
            Op::Grant(of, frames) => assert_fails_if_closed(of, cx.grant(targets.conn(of), frames)),
            Op::SetLimits(of) => {
                let limits = cx.limits(targets.conn(of));
                assert_fails_if_closed(of, limits);
                if let Ok(mut limits) = limits {
                    (limits.write_low_bytes, limits.write_high_bytes) = (10, 100);
                    limits.idle_timeout = Some(HOUR);
                    cx.set_limits(targets.conn(of), limits)
                        .expect("the limits are valid");
                }
            }
            Op::HalfClose(of) => {
                let ended = cx.half_close(targets.conn(of));
                assert_fails_if_closed(of, ended);
                if ended.is_ok() {
                    let sent = cx.send(targets.conn(of), b"");
                    assert!(matches!(sent, Err(SendError::Closing)), "{sent:?}");
                }
            }
            Op::Reframe(of) => {
                let reframed = cx.reframe(targets.conn(of), Framing::raw());
                assert_fails_if_closed(of, reframed);
                self.life(targets.conn(of)).is_raw = true;
            }
            Op::StartTlsServer(of) => {
                let started = cx.start_tls_server(targets.conn(of), tls::server_config());
                self.life(targets.conn(of)).is_tls |= started.is_ok();
                assert_fails_if_closed(of, started);
            }
            Op::StartTlsClient(of) => {
                let (config, name) = (tls::client_config(), tls::server_name());
                let started = cx.start_tls_client(targets.conn(of), config, name);
                self.life(targets.conn(of)).is_tls |= started.is_ok();
                assert_fails_if_closed(of, started);
            }
            Op::Peek(of, len_min) => assert_fails_if_closed(of, cx.peek(targets.conn(of), len_min)),
            Op::Session(of) => {
                let is_there = cx.session(targets.conn(of)).is_some();
                assert!(
                    !is_there || (of != Of::Gone && targets.own.conn != Some(targets.conn(of)))
                );
                let is_lent = cx.with_session(targets.conn(of), |_, _| ()).is_some();
                assert_eq!(is_lent, is_there);
            }
            Op::Abort(of) => {
                cx.abort(targets.conn(of));
                self.life(targets.conn(of)).is_ended = true;
            }
            Op::Detach(of) => {
                let detached = cx.detach(targets.conn(of));
                let is_detached = detached.is_ok();
                assert_fails_if_closed(of, detached);
                if is_detached {
                    self.life(targets.conn(of)).is_ended = true;
                    assert!(
                        cx.detach(targets.conn(of)).is_err(),
                        "it is detached already"
                    );
                }
            }
            other => panic!("{other:?} is not a connection operation"),
        }
    }

    /// Changes, records, reads or closes a socket of any kind.
    fn apply_socket(&mut self, cx: &mut Cx<'_>, op: Op, targets: Targets) {
        match op {
            Op::Pause(kind, of) => {
                assert_fails_if_closed(of, cx.pause(targets.socket(kind, of)));
                if kind == Kind::Conn {
                    self.life(targets.conn(of)).is_paused = true;
                }
            }
            Op::Resume(kind, of) => {
                assert_fails_if_closed(of, cx.resume(targets.socket(kind, of)));
                if kind == Kind::Conn {
                    self.life(targets.conn(of)).is_paused = false;
                }
            }
            Op::Close(kind, of) => self.close(cx, targets.socket(kind, of)),
            Op::Record(kind, of) => assert_fails_if_closed(of, cx.record(targets.socket(kind, of))),
            Op::StopRecording(kind, of) => {
                assert_fails_if_closed(of, cx.stop_recording(targets.socket(kind, of)))
            }
            Op::Inspect(kind, of) => {
                assert_fails_if_closed(of, cx.local_addr(targets.socket(kind, of)));
                assert_fails_if_closed(of, cx.socket_options(targets.socket(kind, of)).map(drop));
                if kind == Kind::Conn {
                    let conn = targets.conn(of);
                    assert_fails_if_closed(of, cx.peer_addr(conn));
                    assert_fails_if_closed(of, cx.queued_bytes(conn));
                    assert_fails_if_closed(of, cx.undecoded_bytes(conn));
                    assert_fails_if_closed(of, cx.conn_stats(conn));
                    assert_fails_if_closed(of, cx.segments(conn));
                    assert!(cx.tls(conn).is_none() && cx.proxied(conn).is_none());
                }
            }
            Op::SetListenerTls(of) => {
                let listener = targets.listener(of);
                assert_fails_if_closed(of, cx.set_listener_tls(listener, tls::server_config()));
            }
            Op::ConnectUdp(of) => {
                let to = self.udp_to.expect("the peer address is set up");
                assert_fails_if_closed(of, cx.connect_udp(targets.udp(of), to));
            }
            Op::DetachUdp(of) => assert_fails_if_closed(of, cx.detach_udp(targets.udp(of))),
            Op::ConnectUnix(of) => {
                let to = self.unix_to.as_ref().expect("the peer address is set up");
                assert_fails_if_closed(of, cx.connect_unix_datagram(targets.unix(of), to));
            }
            other => panic!("{other:?} is not a socket operation"),
        }
    }

    /// Sets, resets or cancels a timer.
    fn apply_timer(&mut self, cx: &mut Cx<'_>, op: Op, targets: Targets) {
        match op {
            Op::ResetTimer(of) => {
                let is_set = cx.reset_timer(targets.timer(of), Duration::ZERO);
                assert!(!is_set || of != Of::Gone);
            }
            Op::CancelTimer(of) => {
                let is_set = cx.cancel_timer(targets.timer(of));
                assert!(!is_set || of != Of::Gone);
                assert!(
                    !cx.cancel_timer(targets.timer(of)),
                    "a cancelled timer no longer exists"
                );
            }
            Op::SetTimer => self.timers.push(cx.set_timer(Duration::ZERO, 1)),
            Op::SetInterval => self.timers.push(cx.set_interval(Duration::ZERO, 2)),
            other => panic!("{other:?} is not a timer operation"),
        }
    }

    /// Opens or adopts a socket.
    fn apply_opening(&mut self, cx: &mut Cx<'_>, op: Op) {
        match op {
            Op::Connect => drop(self.connect(cx, self.listening)),
            Op::ConnectRefused => drop(self.connect(cx, self.refusing)),
            Op::ConnectAndAbort => {
                let conn = self.connect(cx, self.listening);
                cx.abort(conn);
                self.life(conn).is_ended = true;
            }
            Op::Listen => {
                let listener = cx.listen("127.0.0.1:0", Framing::raw());
                self.opened(listener.map(SocketId::from));
            }
            Op::ListenAll => {
                let options = ListenOptions::new();
                let listeners = cx.listen_all("127.0.0.1:0", Framing::raw(), &options);
                self.opened(listeners.map(|ids| SocketId::from(ids[0])));
            }
            Op::BindUdp => {
                let udp = cx.bind_udp("127.0.0.1:0");
                self.opened(udp.map(SocketId::from));
            }
            Op::BindUnix => {
                let unix = cx.bind_unix_datagram(None);
                self.opened(unix.map(SocketId::from));
            }
            Op::AdoptStream => {
                let to = self.listening.expect("the listener address is set up");
                // An earlier operation may have closed the listener.
                if let Ok(stream) = TcpStream::connect(to) {
                    let conn = cx.adopt_stream(stream, Framing::length_u32(), ());
                    self.life(conn);
                }
            }
            Op::AdoptDetached => {
                let to = self.listening.expect("the listener address is set up");
                if let Ok(stream) = TcpStream::connect(to) {
                    let mut detached = Detached::new(stream);
                    detached.undelivered = frame("u32", b"x");
                    detached.unsent = frame("u32", b"y");
                    let unsent = detached.unsent.clone();
                    let conn = cx.adopt_detached(detached, Framing::length_u32(), ());
                    self.life(conn).accepted = unsent;
                }
            }
            Op::AdoptListener => {
                let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is available");
                let adopted = cx.adopt_listener(listener, Framing::raw());
                self.opened(adopted.map(SocketId::from));
            }
            Op::AdoptUdp => {
                let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port is available");
                let adopted = cx.adopt_udp(udp);
                self.opened(adopted.map(SocketId::from));
            }
            Op::AdoptUnix => {
                let unix = StdUnixDatagram::unbound().expect("the socket can be created");
                let adopted = cx.adopt_unix_datagram(unix);
                self.opened(adopted.map(SocketId::from));
            }
            other => panic!("{other:?} does not open a socket"),
        }
    }

    fn connect(&mut self, cx: &mut Cx<'_>, to: Option<SocketAddr>) -> ConnId {
        let to = to.expect("the address is set up");
        let conn = cx.connect(to, Framing::length_u32(), ());
        let life = self.lives.insert(conn, Life::default());
        assert!(life.is_none(), "the id {conn} was returned before");
        conn
    }

    fn opened(&mut self, socket: std::io::Result<SocketId>) {
        assert_eq!(socket.is_err(), self.is_shutting_down);
        self.sockets.extend(socket.ok());
    }

    pub(crate) fn close(&mut self, cx: &mut Cx<'_>, socket: SocketId) {
        match socket {
            SocketId::Conn(conn) => {
                cx.close(conn);
                self.life(conn).is_ended = true;
            }
            SocketId::Listener(listener) => cx.close_listener(listener),
            SocketId::Udp(udp) => cx.close_udp(udp),
            SocketId::UnixDatagram(unix) => cx.close_unix_datagram(unix),
            other => panic!("unknown kind of socket: {other:?}"),
        }
    }

    fn broadcast(&mut self, cx: &mut Cx<'_>, payload: &[u8]) {
        let conns: Vec<_> = self.lives.keys().copied().collect();
        let sent = |cx: &Cx<'_>, conn| cx.conn_stats(conn).map_or(0, |stats| stats.frames_out);
        let before: Vec<_> = conns.iter().map(|conn| sent(cx, *conn)).collect();
        let count = cx.broadcast(conns.iter().copied(), payload);
        let mut accepted = 0;
        for (conn, before) in conns.into_iter().zip(before) {
            if sent(cx, conn) > before {
                accepted += 1;
                self.life(conn).accept(payload);
            }
        }
        assert_eq!(count, accepted);
    }

    fn sent(&mut self, conn: ConnId, of: Of, payload: &[u8], sent: Result<Sent, SendError>) {
        match sent {
            Ok(_) => {
                assert!(!self.life(conn).is_ended && of != Of::Gone);
                self.life(conn).accept(payload);
            }
            Err(SendError::Closing | SendError::Full) => assert_ne!(of, Of::Gone),
            Err(SendError::Gone) => {}
            Err(error) => panic!("unexpected send error: {error}"),
        }
    }

    /// Checks that input of a connection may be delivered now.
    fn assert_may_deliver(&mut self, conn: ConnId) {
        let life = self.life(conn);
        assert!(
            life.is_open && life.closes == 0,
            "input of a connection that is not open"
        );
        assert!(
            !life.is_ended && !life.is_paused,
            "input of a closed or paused connection"
        );
    }
}

impl Life {
    pub(crate) fn received(&mut self, bytes: &[u8]) {
        self.received.extend(bytes);
        assert!(
            self.is_tls || self.accepted.starts_with(&self.received),
            "the peer received bytes that were not accepted in this order"
        );
    }

    fn accept(&mut self, payload: &[u8]) {
        let framing = if self.is_raw { "raw" } else { "u32" };
        self.accepted.extend(frame(framing, payload));
    }
}

fn assert_fails_if_closed<T, E>(of: Of, result: Result<T, E>) {
    assert!(
        result.is_err() || of != Of::Gone,
        "an operation on a closed id must fail"
    );
}

fn of_conn(conn: ConnId) -> Own {
    Own {
        conn: Some(conn),
        ..Own::default()
    }
}

impl Handler for Matrix {
    type Session = ();

    fn on_open(&mut self, cx: &mut Cx<'_>, conn: ConnId, _: &mut (), origin: Origin) {
        let life = self.life(conn);
        assert!(!life.is_open && life.closes == 0, "{conn} opens twice");
        life.is_open = true;
        self.newest = Some(conn);
        let at = match origin {
            Origin::Accepted { .. } => Callback::OpenAccepted,
            Origin::Connected => Callback::OpenConnected,
            _ => Callback::OpenAdopted,
        };
        self.entered(cx, at, of_conn(conn));
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, conn: ConnId, _: &mut (), frame: &[u8]) {
        self.assert_may_deliver(conn);
        let life = self.life(conn);
        match *frame {
            [b'n', number] if !life.is_raw => {
                assert_eq!(number, life.frames, "frames arrive out of order");
                life.frames += 1;
            }
            // The reply exceeds the high watermark, so that on_drained follows.
            [b'd'] if !life.is_raw => {
                let sent = cx.send(conn, &[6; 300]);
                self.sent(conn, Of::Own, &[6; 300], sent);
            }
            [b'e'] => {
                let sent = cx.send(conn, frame);
                self.sent(conn, Of::Own, frame, sent);
            }
            _ => {}
        }
        self.entered(cx, Callback::Frame, of_conn(conn));
    }

    fn on_skipped(&mut self, cx: &mut Cx<'_>, conn: ConnId, _: &mut (), _: Skipped) {
        self.assert_may_deliver(conn);
        self.entered(cx, Callback::Skipped, of_conn(conn));
    }

    fn on_peek(&mut self, cx: &mut Cx<'_>, conn: ConnId, _: &mut (), _: &[u8]) {
        self.assert_may_deliver(conn);
        self.entered(cx, Callback::Peek, of_conn(conn));
    }

    fn on_frame_error(&mut self, cx: &mut Cx<'_>, conn: ConnId, _: &mut (), _: &FrameError) {
        self.assert_may_deliver(conn);
        self.entered(cx, Callback::FrameError, of_conn(conn));
        self.life(conn).is_ended = true;
    }

    fn on_drained(&mut self, cx: &mut Cx<'_>, conn: ConnId, _: &mut ()) {
        let life = self.life(conn);
        assert!(
            life.is_open && life.closes == 0,
            "on_drained of a connection that is not open"
        );
        self.entered(cx, Callback::DrainedInDispatch, of_conn(conn));
        self.entered(cx, Callback::DrainedInFlush, of_conn(conn));
    }

    fn on_half_close(&mut self, cx: &mut Cx<'_>, conn: ConnId, _: &mut ()) {
        self.assert_may_deliver(conn);
        self.entered(cx, Callback::HalfClose, of_conn(conn));
        cx.close(conn);
        self.life(conn).is_ended = true;
    }

    fn on_hangup(&mut self, cx: &mut Cx<'_>, conn: ConnId, _: &mut (), _: Hangup) {
        let life = self.life(conn);
        assert!(life.is_open && life.closes == 0 && !life.is_ended);
        self.entered(cx, Callback::Hangup, of_conn(conn));
    }

    fn on_close(&mut self, cx: &mut Cx<'_>, conn: ConnId, _: (), closed: Closed) {
        // In `on_close` the entry still exists. So the error may be that the address is unknown,
        // but not `NotConnected`.
        let peer = cx.peer_inet_addr(conn).map_err(|error| error.kind());
        assert_ne!(peer, Err(ErrorKind::NotConnected));
        let life = self.life(conn);
        life.closes += 1;
        // The socket is closed when this callback drops the detached connection.
        let detached = match &closed.reason {
            CloseReason::Detached(detached) => detached.unsent.len() as u64,
            _ => 0,
        };
        let counted = closed.stats.written_bytes + closed.unsent_bytes + detached;
        assert_eq!(counted, life.accepted.len() as u64, "{closed:?}");
        let at = match life.is_open {
            true => Callback::Close,
            false => Callback::ConnectFailed,
        };
        self.entered(cx, at, of_conn(conn));
    }

    fn on_refused(&mut self, cx: &mut Cx<'_>, listener: ListenerId, _: &Addr, _: Refusal) {
        let own = Own {
            listener: Some(listener),
            ..Own::default()
        };
        self.entered(cx, Callback::Refused, own);
    }

    fn on_datagram(&mut self, cx: &mut Cx<'_>, socket: UdpId, _: Datagram<'_>) {
        self.entered(cx, Callback::Datagram, of_udp(socket));
    }

    fn on_datagram_error(&mut self, cx: &mut Cx<'_>, socket: UdpId, _: std::io::Error) {
        self.entered(cx, Callback::DatagramError, of_udp(socket));
    }

    fn on_unix_datagram(&mut self, cx: &mut Cx<'_>, unix: UnixDatagramId, _: UnixDatagram<'_>) {
        self.entered(cx, Callback::UnixDatagram, of_unix(unix));
    }

    fn on_unix_datagram_error(&mut self, cx: &mut Cx<'_>, unix: UnixDatagramId, _: std::io::Error) {
        self.entered(cx, Callback::UnixDatagramError, of_unix(unix));
    }

    fn on_unix_writable(&mut self, cx: &mut Cx<'_>, unix: UnixDatagramId) {
        self.entered(cx, Callback::UnixWritable, of_unix(unix));
    }

    fn on_timer(&mut self, cx: &mut Cx<'_>, timer: TimerId, _: u64) {
        let own = Own {
            timer: Some(timer),
            ..Own::default()
        };
        self.entered(cx, Callback::Timer, own);
    }

    fn on_shutdown(&mut self, cx: &mut Cx<'_>, phase: ShutdownPhase) {
        let at = match phase {
            ShutdownPhase::Unready => Callback::ShutdownUnready,
            _ => Callback::ShutdownClose,
        };
        let entered = catch_unwind(AssertUnwindSafe(|| self.entered(cx, at, Own::default())));
        if phase == ShutdownPhase::Close {
            // All connections are closed after this callback, even if it panics.
            self.lives
                .values_mut()
                .for_each(|life| life.is_ended = true);
        }
        if let Err(panic) = entered {
            resume_unwind(panic);
        }
    }

    fn on_signal(&mut self, cx: &mut Cx<'_>, _: Signal) {
        self.entered(cx, Callback::Signal, Own::default());
    }

    fn on_send_refused(&mut self, cx: &mut Cx<'_>, _: ConnId, _: Vec<u8>, _: SendError) {
        self.entered(cx, Callback::SendRefused, Own::default());
    }
}

fn of_udp(udp: UdpId) -> Own {
    Own {
        udp: Some(udp),
        ..Own::default()
    }
}

fn of_unix(unix: UnixDatagramId) -> Own {
    Own {
        unix: Some(unix),
        ..Own::default()
    }
}
