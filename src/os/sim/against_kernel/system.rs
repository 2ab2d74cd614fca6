//! The executor: performs the steps of a script on one system, simulated or real, with the calls
//! that the reactor makes.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::step::{Family, Name, Step, To};
use crate::UnixAddr;
use crate::addr::Addr;
use crate::datagram::{DatagramQueue, RecvBatch};
use crate::id::PollToken;
use crate::os::sim::World;
use crate::os::{
    ConnectOptions, ListenOptions, Listener, Os, Stream, Udp, UdpOptions, UnixDatagramSocket,
};
use crate::testkit::Random;

/// The outcome of each step, as text.
pub(super) type Outcomes = Vec<String>;

/// Period of the bytes that a stream carries: byte `i` has the value `i % PERIOD`.
const PERIOD: usize = 251;

enum Socket {
    Listener(Listener),
    /// A stream, with the number of bytes that were written to it and read from it.
    Stream(Stream, usize, usize),
    Udp(Udp),
    UnixDatagram(UnixDatagramSocket),
}

/// One run of a script.
struct Run {
    os: Os,
    sockets: BTreeMap<Name, Socket>,
    /// Addresses of all listeners and datagram sockets, also of closed ones.
    addrs: BTreeMap<Name, Addr>,
    /// Time to wait before each poll of the real system, so that deferred work of the kernel ends.
    patience: Duration,
    /// The IPv4 address of all sockets. Each run on the real system chooses a random address, so
    /// that connections in `TIME_WAIT` do not use up the ports.
    ip: IpAddr,
    /// Beginning of the path of each Unix socket.
    path: String,
    buffer_len: Option<u32>,
    recv_batch: RecvBatch,
}

/// Runs a script on a simulated system.
pub(super) fn simulate(steps: &[Step]) -> Outcomes {
    let os = World::new(0).os();
    Run::new(os, Ipv4Addr::LOCALHOST, "/sim/".into()).outcomes(steps)
}

/// Runs a script on the kernel, over the loopback interface. The process id and the number of the
/// run in this process determine the addresses of the script.
pub(super) fn execute(steps: &[Step], patience: Duration) -> Outcomes {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let unique = RUNS.fetch_add(1, Ordering::Relaxed);
    let mut random = Random::new(u64::from(unique) << 32 | u64::from(std::process::id()));
    let [second, third, fourth] =
        [(); 3].map(|()| u8::try_from(random.below(254)).expect("the number is below 254") + 1);
    let os = Os::real().expect("a poll can be opened");
    let path = format!(
        "{}/unstick-{}-{unique}-",
        std::env::temp_dir().display(),
        std::process::id()
    );
    let mut run = Run::new(os, Ipv4Addr::new(127, second, third, fourth), path);
    run.patience = patience;
    run.outcomes(steps)
}

impl Run {
    fn new(os: Os, ip: Ipv4Addr, path: String) -> Self {
        Self {
            os,
            sockets: BTreeMap::new(),
            addrs: BTreeMap::new(),
            patience: Duration::ZERO,
            ip: ip.into(),
            path,
            buffer_len: None,
            recv_batch: RecvBatch::default(),
        }
    }

    fn outcomes(mut self, steps: &[Step]) -> Outcomes {
        steps.iter().map(|step| self.step(*step)).collect()
    }

    fn step(&mut self, step: Step) -> String {
        let result = match step {
            Step::Poll => {
                if matches!(self.os, Os::Real(_)) && !self.patience.is_zero() {
                    std::thread::sleep(self.patience);
                }
                return self.events(Duration::ZERO);
            }
            Step::Sleep(millis) => {
                let time = Duration::from_millis(millis.into());
                match &self.os {
                    Os::Real(_) => std::thread::sleep(time),
                    Os::Sim(poll) => poll.world().advance(time),
                }
                Ok("done".into())
            }
            Step::Buffers(len) => {
                self.buffer_len = Some(len);
                Ok("done".into())
            }
            Step::Listen(name, family, backlog) => self.listen(name, family, backlog),
            Step::Connect(name, to) => self.connect(name, to),
            Step::Accept(name, listener) => self.accept(name, listener),
            Step::Datagram(name, family) => self.bind(name, family),
            Step::Register(name) => self.register(name),
            Step::Close(name) => self.close(name),
            Step::ConnectDatagram(name, to) => self.connect_datagram(name, to),
            Step::Send(name, to, len) => self.send(name, to, len),
            Step::Receive(name) => self.receive(name),
            Step::AwaitWritable(name, on) => self.await_writable(name, on),
            Step::Rearm(name) | Step::Reset(name) => self.with_os(step, name),
            Step::Connected(name)
            | Step::TakeError(name)
            | Step::Write(name, _)
            | Step::WritePart(name)
            | Step::Fill(name)
            | Step::Read(name, _)
            | Step::Drain(name)
            | Step::HasUnread(name)
            | Step::Shut(name) => match self.sockets.get_mut(&name) {
                Some(Socket::Stream(stream, written, read)) => {
                    call_stream(step, stream, written, read)
                }
                _ => Ok("no stream".into()),
            },
        };
        result.unwrap_or_else(|error| text_of(&error))
    }

    /// Returns the events of one wait, sorted by socket. `r` is readable, `w` writable, `e` ended,
    /// `h` hung up.
    fn events(&mut self, timeout: Duration) -> String {
        if let Err(error) = self.os.wait(Some(timeout)) {
            return text_of(&error);
        }
        let mut events = Vec::new();
        self.os.for_each_event(|event| {
            let letter = |is_set, letter| if is_set { letter } else { "" };
            let name = Name(u8::try_from(event.token().0).expect("a token is a letter"));
            events.push(format!(
                "{name}:{}{}{}{}",
                letter(event.is_readable(), "r"),
                letter(event.is_writable(), "w"),
                letter(event.has_ended(), "e"),
                letter(event.has_hung_up(), "h"),
            ));
        });
        events.sort();
        events.join(" ")
    }

    fn new_addr(&self, name: Name, family: Family) -> Addr {
        match family {
            Family::Inet => SocketAddr::new(self.ip, 0).into(),
            Family::Unix => {
                let path = format!("{}{name}", self.path);
                UnixAddr::from_pathname(path)
                    .expect("the path is short")
                    .into()
            }
        }
    }

    fn addr_of(&self, to: To) -> Option<Addr> {
        match to {
            To::Name(name) => self.addrs.get(&name).cloned(),
            To::Nobody => Some(SocketAddr::new(self.ip, 1).into()),
            To::Peer => None,
        }
    }

    fn listen(&mut self, name: Name, family: Family, backlog: Option<u32>) -> io::Result<String> {
        let mut options = ListenOptions::new();
        if let Some(backlog) = backlog {
            options = options.backlog(backlog);
        }
        if let Some(len) = self.buffer_len {
            options = options
                .send_buffer_len(len as usize)
                .recv_buffer_len(len as usize);
        }
        let addr = self.new_addr(name, family);
        let listener = self.os.listen(&addr, &options, 128)?;
        self.addrs.insert(name, listener.local_addr()?);
        self.sockets.insert(name, Socket::Listener(listener));
        Ok("done".into())
    }

    fn connect(&mut self, name: Name, to: To) -> io::Result<String> {
        let Some(addr) = self.addr_of(to) else {
            return Ok("no address".into());
        };
        let mut options = ConnectOptions::new();
        if let Some(len) = self.buffer_len {
            options = options
                .send_buffer_len(len as usize)
                .recv_buffer_len(len as usize);
        }
        let stream = self.os.connect(&addr, &options)?;
        stream.set_nodelay(true)?;
        self.sockets.insert(name, Socket::Stream(stream, 0, 0));
        Ok("done".into())
    }

    fn accept(&mut self, name: Name, listener: Name) -> io::Result<String> {
        let Some(Socket::Listener(listener)) = self.sockets.get_mut(&listener) else {
            return Ok("no listener".into());
        };
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        self.sockets.insert(name, Socket::Stream(stream, 0, 0));
        Ok("done".into())
    }

    fn bind(&mut self, name: Name, family: Family) -> io::Result<String> {
        let addr = self.new_addr(name, family);
        let (socket, addr) = match &addr {
            Addr::Inet(inet) => {
                let udp = self.os.bind_udp(*inet, &UdpOptions::new(), false)?;
                let addr = udp.local_addr()?;
                (Socket::Udp(udp), addr)
            }
            Addr::Unix(unix) => {
                let socket = self.os.bind_unix_datagram(Some(unix))?;
                (Socket::UnixDatagram(socket), addr)
            }
        };
        self.addrs.insert(name, addr);
        self.sockets.insert(name, socket);
        Ok("done".into())
    }

    fn register(&mut self, name: Name) -> io::Result<String> {
        let (os, token) = (&self.os, PollToken(name.0.into()));
        match self.sockets.get_mut(&name) {
            Some(Socket::Listener(listener)) => listener.register(os, token)?,
            Some(Socket::Stream(stream, ..)) => stream.register(os, token)?,
            Some(Socket::Udp(udp)) => udp.register(os, token)?,
            Some(Socket::UnixDatagram(socket)) => socket.register(os, token)?,
            None => return Ok("no socket".into()),
        }
        Ok("done".into())
    }

    fn with_os(&mut self, step: Step, name: Name) -> io::Result<String> {
        let token = PollToken(name.0.into());
        let Some(Socket::Stream(stream, ..)) = self.sockets.get_mut(&name) else {
            return Ok("no stream".into());
        };
        if matches!(step, Step::Rearm(_)) {
            stream.reregister(&self.os, token)?;
        } else {
            stream.reset(&self.os);
            self.sockets.remove(&name);
        }
        Ok("done".into())
    }

    fn close(&mut self, name: Name) -> io::Result<String> {
        match self.sockets.remove(&name) {
            Some(Socket::Listener(mut listener)) => listener.deregister(&self.os),
            Some(Socket::Stream(mut stream, ..)) => stream.close(&self.os),
            Some(Socket::Udp(mut udp)) => udp.deregister(&self.os),
            Some(Socket::UnixDatagram(mut socket)) => socket.deregister(&self.os),
            None => return Ok("no socket".into()),
        }
        Ok("done".into())
    }

    fn connect_datagram(&mut self, name: Name, to: To) -> io::Result<String> {
        let addr = self.addr_of(to);
        match (self.sockets.get_mut(&name), addr) {
            (Some(Socket::Udp(udp)), Some(Addr::Inet(peer))) => udp.connect(peer)?,
            (Some(Socket::UnixDatagram(socket)), Some(Addr::Unix(peer))) => {
                socket.connect(&peer)?
            }
            _ => return Ok("no address".into()),
        }
        Ok("done".into())
    }

    fn send(&mut self, name: Name, to: To, len: usize) -> io::Result<String> {
        let addr = self.addr_of(to);
        if addr.is_none() && to != To::Peer {
            return Ok("no address".into());
        }
        let data = vec![7; len];
        match (self.sockets.get_mut(&name), addr) {
            (Some(Socket::Udp(udp)), addr) => {
                let mut queue = DatagramQueue::default();
                let is_queued = queue.push(addr.and_then(|it| it.inet()), None, &data, usize::MAX);
                assert!(is_queued, "a queue without a limit takes every datagram");
                udp.send(&queue).map(|count| format!("{count} sent"))
            }
            (Some(Socket::UnixDatagram(socket)), addr) => {
                let unix = addr.as_ref().and_then(Addr::unix);
                socket.send(unix, &data).map(|_| "1 sent".into())
            }
            _ => Ok("no socket".into()),
        }
    }

    fn receive(&mut self, name: Name) -> io::Result<String> {
        let (len, from) = match self.sockets.get_mut(&name) {
            Some(Socket::Udp(udp)) => {
                udp.receive(&mut self.recv_batch, 1)?;
                let message = self.recv_batch.message(0);
                (message.len, Addr::Inet(message.from))
            }
            Some(Socket::UnixDatagram(socket)) => {
                let (len, from) = socket.recv_from(&mut [0; 100])?;
                (len, UnixAddr::from_std(&from).into())
            }
            _ => return Ok("no socket".into()),
        };
        let sender = self.addrs.iter().find(|(_, addr)| **addr == from);
        let sender = sender.map_or_else(|| "nobody".into(), |(name, _)| name.to_string());
        Ok(format!("{len} from {sender}"))
    }

    fn await_writable(&mut self, name: Name, on: bool) -> io::Result<String> {
        let token = PollToken(name.0.into());
        let Some(Socket::Udp(udp)) = self.sockets.get_mut(&name) else {
            return Ok("no socket".into());
        };
        udp.await_writable(&self.os, token, on)?;
        Ok("done".into())
    }
}

/// Closes all streams with a reset, so that no connection of the run is left in the kernel. Also
/// removes the files of the Unix sockets.
impl Drop for Run {
    fn drop(&mut self) {
        for socket in self.sockets.values_mut() {
            if let Socket::Stream(stream, ..) = socket {
                stream.reset(&self.os);
            }
        }
        if matches!(self.os, Os::Real(_)) {
            for path in self
                .addrs
                .values()
                .filter_map(|addr| addr.unix()?.as_pathname())
            {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

fn call_stream(
    step: Step,
    stream: &mut Stream,
    written: &mut usize,
    read: &mut usize,
) -> io::Result<String> {
    match step {
        Step::Connected(_) => {
            let peer = stream.connected()?;
            Ok(if peer.is_some() {
                "connected"
            } else {
                "pending"
            }
            .into())
        }
        Step::TakeError(_) => {
            let error = stream.take_error()?;
            Ok(error.map_or_else(|| "none".into(), |error| text_of(&error)))
        }
        Step::Write(_, len) => {
            let len = write(stream, written, len)?;
            Ok(len.to_string())
        }
        Step::WritePart(_) => {
            let is_part = write(stream, written, 1_000_000)? < 1_000_000;
            Ok(if is_part { "part" } else { "all" }.into())
        }
        Step::Fill(_) => loop {
            write(stream, written, 60_000)?;
        },
        Step::Read(_, len) => {
            let len = read_once(stream, read, len)?;
            Ok(len.to_string())
        }
        Step::Drain(_) => {
            let before = *read;
            let end = loop {
                match read_once(stream, read, 60_000) {
                    Ok(0) => break "end".into(),
                    Ok(_) => {}
                    Err(error) => break text_of(&error),
                }
            };
            let some = if *read > before { "some" } else { "0" };
            Ok(format!("{some}, {end}"))
        }
        Step::HasUnread(_) => Ok(stream.has_unread().to_string()),
        _ => {
            stream.shutdown_write()?;
            Ok("done".into())
        }
    }
}

/// Writes at most the next `len` bytes to a stream, and returns the number of bytes that the stream
/// took.
fn write(stream: &mut Stream, written: &mut usize, len: usize) -> io::Result<usize> {
    let bytes: Vec<u8> = (*written..*written + len).map(value_at).collect();
    let len = stream.write(&bytes)?;
    *written += len;
    Ok(len)
}

/// Reads at most `len` bytes of a stream, and checks that they are the next bytes that were
/// written.
fn read_once(stream: &mut Stream, read: &mut usize, len: usize) -> io::Result<usize> {
    let mut buf = vec![0; len];
    let len = stream.read(&mut buf)?;
    for byte in &buf[..len] {
        assert_eq!(*byte, value_at(*read), "a byte of the stream is wrong");
        *read += 1;
    }
    Ok(len)
}

fn value_at(position: usize) -> u8 {
    u8::try_from(position % PERIOD).expect("a remainder below 251 fits into a byte")
}

/// Returns the text form of an error: its kind, because most simulated errors have no number.
fn text_of(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock => "would block".into(),
        kind => format!("{kind:?}"),
    }
}
