//! An echo server that a new process replaces without the loss of a connection or of a byte.
//!
//! ```text
//! handover --listen 127.0.0.1:7000 --control /run/echo.control    # the first process
//! handover --listen 127.0.0.1:7000 --control /run/echo.control    # replaces it, and so on
//! ```
//!
//! ```text
//!   new process                          old process
//!   connect to the control socket  --->  accept
//!   adopt the listener             <---  the listening socket (SCM_RIGHTS)
//!   `R`                            --->  close its copy of the listener, detach all connections
//!   adopt each connection          <---  each socket, with its undelivered and unsent bytes
//!   bind the control socket        <---  `E`, and exit
//! ```
//!
//! The listening socket stays open all the time, so no connect is refused. Connections that arrive
//! during the handover wait in its backlog.
//!
//! Under systemd, the first process takes the socket of its `.socket` unit. Each process reports
//! that it is ready, and stores the listener in the service manager (`FileDescriptorStoreMax=1`),
//! so that a restart after a crash finds it.

use std::collections::HashSet;
use std::error::Error;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use sd_notify::NotifyState;
use unstick::{
    Addr, CloseReason, Closed, ConnId, Context, Detached, Framing, Handler, ListenerId, Origin,
    Reactor, ShutdownPhase, ShutdownPlan,
};

/// Time in which the other process must send or take its next bytes.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of undelivered or unsent bytes of one connection.
const BYTES_MAX: usize = 64 << 20;

fn framing() -> Framing {
    Framing::length_u32()
}

/// The two sockets that listen.
#[derive(Clone, Copy)]
struct Listeners {
    service: ListenerId,
    control: ListenerId,
}

#[derive(Default)]
struct Server {
    listeners: Option<Listeners>,
    /// Connections of clients.
    open: HashSet<ConnId>,
    /// The new process, once it has taken the listener.
    successor: Option<UnixStream>,
}

/// The session of a connection: true if a new process connected to the control socket.
type IsControl = bool;

impl Handler for Server {
    type Session = IsControl;

    fn on_open(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        is_control: &mut IsControl,
        origin: Origin,
    ) {
        let control = self.listeners.map(|it| it.control);
        if let Origin::Accepted { listener, .. } = origin
            && Some(listener) == control
        {
            *is_control = true;
            let _ = cx.detach(conn);
        } else {
            self.open.insert(conn);
        }
    }

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        _: &mut IsControl,
        frame: &[u8],
    ) {
        let _ = cx.send(conn, frame);
    }

    fn on_close(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        is_control: IsControl,
        closed: Closed,
    ) {
        self.open.remove(&conn);
        if let CloseReason::Detached(detached) = closed.reason {
            let result = match is_control {
                true => self.begin_handover(cx, UnixStream::from(detached.socket)),
                false => self.hand_over(&detached),
            };
            if let Err(error) = result {
                eprintln!("the handover failed: {error}");
            }
        }
        if self.successor.is_some() && self.open.is_empty() {
            self.end_handover(cx);
        }
    }

    fn on_shutdown(&mut self, _: &mut Context<'_, Self>, _: ShutdownPhase) {
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
    }
}

impl Server {
    /// Sends the listener to a new process. When the new process has taken it, detaches all
    /// connections. The calls on the control socket may block: this process ends soon anyway.
    fn begin_handover(
        &mut self,
        cx: &mut Context<'_, Self>,
        mut successor: UnixStream,
    ) -> io::Result<()> {
        let Some(listeners) = self.listeners else {
            return Err(ErrorKind::NotConnected.into());
        };
        successor.set_nonblocking(false)?;
        successor.set_read_timeout(Some(PEER_TIMEOUT))?;
        successor.set_write_timeout(Some(PEER_TIMEOUT))?;
        let listener = cx.socket_options(listeners.service)?;
        send(&mut successor, b'L', Some(listener.as_fd()), &[], &[])?;
        let mut reply = [0];
        successor.read_exact(&mut reply)?;
        if reply != *b"R" {
            return Err(ErrorKind::InvalidData.into());
        }
        cx.close_listener(listeners.service);
        cx.close_listener(listeners.control);
        for conn in &self.open {
            // A connection that is closing cannot be detached. This process completes its close.
            let _ = cx.detach(*conn);
        }
        self.successor = Some(successor);
        Ok(())
    }

    /// Sends a connection to the new process.
    fn hand_over(&mut self, detached: &Detached) -> io::Result<()> {
        let successor = self.successor.as_mut().ok_or(ErrorKind::NotConnected)?;
        let socket = Some(detached.socket.as_fd());
        send(
            successor,
            b'C',
            socket,
            &detached.undelivered,
            &detached.unsent,
        )
    }

    fn end_handover(&mut self, cx: &mut Context<'_, Self>) {
        if let Some(mut successor) = self.successor.take()
            && let Err(error) = send(&mut successor, b'E', None, &[], &[])
        {
            eprintln!("the new process did not get the end of the handover: {error}");
        }
        cx.shutdown(Duration::ZERO);
    }
}

/// A message between the processes: a kind, two byte sequences, and at most one descriptor.
struct Message {
    kind: u8,
    socket: Option<OwnedFd>,
    undelivered: Vec<u8>,
    unsent: Vec<u8>,
}

fn send(
    to: &mut UnixStream,
    kind: u8,
    socket: Option<BorrowedFd<'_>>,
    undelivered: &[u8],
    unsent: &[u8],
) -> io::Result<()> {
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| ErrorKind::InvalidInput);
    let mut head = vec![kind];
    head.extend_from_slice(&len(undelivered)?.to_be_bytes());
    head.extend_from_slice(&len(unsent)?.to_be_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = socket.as_slice();
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(ErrorKind::OutOfMemory.into());
    }
    let sent = sendmsg(
        &*to,
        &[IoSlice::new(&head)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    to.write_all(&head[sent..])?;
    to.write_all(undelivered)?;
    to.write_all(unsent)
}

fn receive(from: &mut UnixStream) -> io::Result<Message> {
    let mut head = [0; 9];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        &*from,
        &mut [IoSliceMut::new(&mut head)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut socket = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut sockets) = message {
            socket = sockets.next();
        }
    }
    if received.bytes == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    from.read_exact(&mut head[received.bytes..])?;
    let [kind, a, b, c, d, e, f, g, h] = head;
    let mut bytes = |len: [u8; 4]| {
        let len = u32::from_be_bytes(len) as usize;
        if len > BYTES_MAX {
            return Err(io::Error::from(ErrorKind::InvalidData));
        }
        let mut bytes = vec![0; len];
        from.read_exact(&mut bytes).map(|()| bytes)
    };
    Ok(Message {
        kind,
        socket,
        undelivered: bytes([a, b, c, d])?,
        unsent: bytes([e, f, g, h])?,
    })
}

/// Connects to the process that serves now. Returns `None` if there is none.
fn predecessor(control: &Path) -> io::Result<Option<UnixStream>> {
    match UnixStream::connect(control) {
        Ok(stream) => {
            stream.set_read_timeout(Some(PEER_TIMEOUT))?;
            stream.set_write_timeout(Some(PEER_TIMEOUT))?;
            Ok(Some(stream))
        }
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Opens the listener: from the predecessor, from systemd, or at the address.
fn open_listener(
    cx: &mut Context<'_, Server>,
    predecessor: Option<&mut UnixStream>,
    addr: Addr,
) -> io::Result<ListenerId> {
    if let Some(predecessor) = predecessor {
        let Message {
            kind: b'L',
            socket: Some(socket),
            ..
        } = receive(predecessor)?
        else {
            return Err(ErrorKind::InvalidData.into());
        };
        return cx.adopt_listener(socket, framing());
    }
    match listenfd::ListenFd::from_env().take_tcp_listener(0)? {
        Some(listener) => cx.adopt_listener(listener, framing()),
        None => cx.listen(addr, framing()),
    }
}

/// Takes all connections of the predecessor. Returns their number.
fn take_connections(
    cx: &mut Context<'_, Server>,
    mut predecessor: UnixStream,
) -> io::Result<usize> {
    predecessor.write_all(b"R")?;
    for count in 0.. {
        let message = receive(&mut predecessor)?;
        match (message.kind, message.socket) {
            (b'C', Some(socket)) => {
                let mut detached = Detached::new(socket);
                detached.undelivered = message.undelivered;
                detached.unsent = message.unsent;
                cx.adopt_detached(detached, framing(), false);
            }
            (b'E', None) => return Ok(count),
            _ => return Err(ErrorKind::InvalidData.into()),
        }
    }
    Ok(usize::MAX)
}

/// Binds the control socket. The rename replaces the socket of the predecessor in one step.
fn open_control(cx: &mut Context<'_, Server>, path: &Path) -> io::Result<ListenerId> {
    let temporary = path.with_extension(std::process::id().to_string());
    let listener = UnixListener::bind(&temporary)?;
    std::fs::rename(&temporary, path)?;
    cx.adopt_listener(listener, Framing::raw())
}

fn arguments() -> Result<(Addr, PathBuf), Box<dyn Error>> {
    use lexopt::prelude::*;
    let (mut addr, mut control) = ("127.0.0.1:7000".parse()?, PathBuf::from("echo.control"));
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("listen") => addr = parser.value()?.parse()?,
            Long("control") => control = parser.value()?.into(),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok((addr, control))
}

fn main() -> Result<(), Box<dyn Error>> {
    env_logger::init();
    let (addr, path) = arguments()?;
    let mut predecessor = predecessor(&path)?;
    let mut reactor = Reactor::new(Server::default())?;
    reactor.with(|server, cx| {
        let service = open_listener(cx, predecessor.as_mut(), addr)?;
        let taken = predecessor.map_or(Ok(0), |predecessor| take_connections(cx, predecessor))?;
        let control = open_control(cx, &path)?;
        server.listeners = Some(Listeners { service, control });
        println!("listening {}", cx.local_addr(service)?);
        println!("ready with {taken} connections");
        let listener = cx.socket_options(service)?;
        let _ = sd_notify::notify_with_fds(
            &[NotifyState::FdStore, NotifyState::FdName("service")],
            &[listener.as_fd()],
        );
        io::Result::Ok(())
    })?;
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let plan = ShutdownPlan::new(Duration::from_secs(5)).drain_time(Duration::from_secs(20));
    reactor.shutdown_on_signals(plan)?;
    reactor.run()?;
    println!("served {} frames", reactor.stats().frames_in);
    Ok(())
}
