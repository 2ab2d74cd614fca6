//! An echo server that a new process replaces without the loss of a connection, a byte or a
//! datagram.
//!
//! ```text
//! handover --listen 127.0.0.1:7000 --control /run/echo.control    # the first process
//! handover --listen 127.0.0.1:7000 --control /run/echo.control    # replaces it, and so on
//! ```
//!
//! `--udp ADDRESS` opens a UDP socket too.
//!
//! ```text
//!   new process                          old process
//!   connect to the control socket  --->  accept
//!   adopt the listener             <---  the listening socket (SCM_RIGHTS)
//!   `R`                            --->  close its copy of the listener, detach the rest
//!   adopt the UDP socket           <---  the UDP socket
//!   adopt each connection          <---  each socket, with its undelivered and unsent bytes
//!   bind the control socket        <---  `E`, and exit
//! ```
//!
//! The listening socket stays open all the time, so no connect is refused. Connections that arrive
//! during the handover wait in its backlog. Datagrams wait in the receive buffer of the UDP socket.
//!
//! Under systemd, the first process takes the sockets of its `.socket` unit. Each process reports
//! that it is ready. It stores the listener and the UDP socket in the service manager
//! (`FileDescriptorStoreMax=2`), so that they survive a crash of the process. It also feeds the
//! watchdog of the service manager (`WatchdogSec=`).

mod message;
mod systemd;

use std::collections::HashSet;
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use unstick::{
    Addr, CloseReason, Closed, ConnId, Context, Datagram, Detached, Framing, Handler, ListenerId,
    Origin, Reactor, ShutdownPhase, ShutdownPlan, TimerId, UdpId,
};

use message::{Message, receive, send};

/// Time in which the other process must send or take its next bytes.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time in which the old process sends its last replies and datagrams.
const CLOSE_TIME: Duration = Duration::from_secs(5);

fn framing() -> Framing {
    Framing::length_u32()
}

/// The sockets that are not connections.
#[derive(Clone, Copy)]
struct Sockets {
    service: ListenerId,
    control: ListenerId,
    udp: Option<UdpId>,
}

#[derive(Default)]
struct Server {
    sockets: Option<Sockets>,
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
        let control = self.sockets.map(|it| it.control);
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

    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, udp: UdpId, datagram: Datagram<'_>) {
        let _ = cx.send_to(udp, datagram.from, datagram.data);
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

    fn on_timer(&mut self, _: &mut Context<'_, Self>, _: TimerId, _: u64) {
        systemd::feed_watchdog();
    }

    fn on_shutdown(&mut self, _: &mut Context<'_, Self>, _: ShutdownPhase) {
        systemd::report_stopping();
    }
}

impl Server {
    /// Sends the listener to a new process. When the new process has taken it, detaches the UDP
    /// socket and all connections. The calls on the control socket may block: this process ends
    /// soon anyway.
    fn begin_handover(
        &mut self,
        cx: &mut Context<'_, Self>,
        mut successor: UnixStream,
    ) -> io::Result<()> {
        let Some(sockets) = self.sockets else {
            return Err(ErrorKind::NotConnected.into());
        };
        successor.set_nonblocking(false)?;
        successor.set_read_timeout(Some(PEER_TIMEOUT))?;
        successor.set_write_timeout(Some(PEER_TIMEOUT))?;
        let listener = cx.socket_options(sockets.service)?;
        send(&mut successor, b'L', Some(listener.as_fd()), &[], &[])?;
        let mut reply = [0];
        successor.read_exact(&mut reply)?;
        if reply != *b"R" {
            return Err(ErrorKind::InvalidData.into());
        }
        cx.close_listener(sockets.service);
        cx.close_listener(sockets.control);
        if let Some(udp) = sockets.udp {
            let udp = cx.detach_udp(udp)?;
            send(&mut successor, b'U', Some(udp.as_fd()), &[], &[])?;
        }
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
        cx.shutdown(CLOSE_TIME);
    }
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

/// Receives the listener of the predecessor.
fn take_listener(
    cx: &mut Context<'_, Server>,
    predecessor: &mut UnixStream,
) -> io::Result<ListenerId> {
    match receive(predecessor)? {
        Message {
            kind: b'L',
            socket: Some(socket),
            ..
        } => cx.adopt_listener(socket, framing()),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// Takes the UDP socket and all connections of the predecessor. Returns the id of the UDP socket,
/// if there was one, and the number of connections.
fn take_rest(
    cx: &mut Context<'_, Server>,
    mut predecessor: UnixStream,
) -> io::Result<(Option<UdpId>, usize)> {
    predecessor.write_all(b"R")?;
    let (mut udp, mut count) = (None, 0);
    loop {
        let message = receive(&mut predecessor)?;
        match (message.kind, message.socket) {
            (b'U', Some(socket)) => udp = Some(cx.adopt_udp(socket)?),
            (b'C', Some(socket)) => {
                let mut detached = Detached::new(socket);
                detached.undelivered = message.undelivered;
                detached.unsent = message.unsent;
                cx.adopt_detached(detached, framing(), false);
                count += 1;
            }
            (b'E', None) => return Ok((udp, count)),
            _ => return Err(ErrorKind::InvalidData.into()),
        }
    }
}

/// Opens all sockets. Takes each socket from the predecessor or from systemd, or opens the socket
/// at its address. Returns the number of connections of the predecessor.
fn open_sockets(
    cx: &mut Context<'_, Server>,
    arguments: Arguments,
) -> io::Result<(Sockets, usize)> {
    let mut predecessor = predecessor(&arguments.control)?;
    let inherited = systemd::inherited()?;
    let service = match (&mut predecessor, inherited.listener) {
        (Some(predecessor), _) => take_listener(cx, predecessor)?,
        (None, Some(listener)) => cx.adopt_listener(listener, framing())?,
        (None, None) => cx.listen(arguments.listen, framing())?,
    };
    let (taken_udp, count) = match predecessor {
        Some(predecessor) => take_rest(cx, predecessor)?,
        None => (None, 0),
    };
    let udp = match (taken_udp, inherited.udp, arguments.udp) {
        (Some(udp), _, _) => Some(udp),
        (None, Some(udp), _) => Some(cx.adopt_udp(udp)?),
        (None, None, Some(addr)) => Some(cx.bind_udp(addr)?),
        (None, None, None) => None,
    };
    let control = open_control(cx, &arguments.control)?;
    let sockets = Sockets {
        service,
        control,
        udp,
    };
    Ok((sockets, count))
}

/// Binds the control socket. The rename replaces the socket of the predecessor in one step.
fn open_control(cx: &mut Context<'_, Server>, path: &Path) -> io::Result<ListenerId> {
    let temporary = path.with_extension(std::process::id().to_string());
    let listener = UnixListener::bind(&temporary)?;
    std::fs::rename(&temporary, path)?;
    cx.adopt_listener(listener, Framing::raw())
}

struct Arguments {
    listen: Addr,
    udp: Option<SocketAddr>,
    control: PathBuf,
}

impl Arguments {
    fn parse() -> Result<Self, Box<dyn Error>> {
        use lexopt::prelude::*;
        let mut arguments = Self {
            listen: "127.0.0.1:7000".parse()?,
            udp: None,
            control: PathBuf::from("echo.control"),
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("listen") => arguments.listen = parser.value()?.parse()?,
                Long("udp") => arguments.udp = Some(parser.value()?.parse()?),
                Long("control") => arguments.control = parser.value()?.into(),
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(arguments)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    env_logger::init();
    let arguments = Arguments::parse()?;
    let mut reactor = Reactor::new(Server::default())?;
    reactor.with(|server, cx| {
        let (sockets, count) = open_sockets(cx, arguments)?;
        server.sockets = Some(sockets);
        println!("listening {}", cx.local_addr(sockets.service)?);
        systemd::store("service", cx.socket_options(sockets.service)?.as_fd());
        if let Some(udp) = sockets.udp {
            println!("listening udp {}", cx.local_addr(udp)?);
            systemd::store("udp", cx.socket_options(udp)?.as_fd());
        }
        println!("ready with {count} connections");
        if let Some(interval) = systemd::watchdog_interval() {
            cx.set_interval(interval, 0);
        }
        io::Result::Ok(())
    })?;
    systemd::report_ready();
    let plan = ShutdownPlan::new(CLOSE_TIME).drain_time(Duration::from_secs(20));
    reactor.shutdown_on_signals(plan)?;
    reactor.run()?;
    let stats = reactor.stats();
    println!(
        "served {} frames, {} datagrams",
        stats.frames_in, stats.datagrams_in
    );
    Ok(())
}
