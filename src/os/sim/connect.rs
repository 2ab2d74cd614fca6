//! Listeners and connects.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::faults::Call;
use super::host::{Class, FIRST_HOST};
use super::poll::Ready;
use super::socket::{Kind, SimSocket};
use super::stream::Stream;
use super::world::{Action, State, World};
use crate::addr::Addr;
use crate::os::{self, ConnectOptions, ListenOptions};

/// Number of times that a client repeats a SYN.
const SYN_REPETITIONS: u32 = 6;

/// Time after which a connect without an answer fails: the sum of the waits after each SYN.
const CONNECT_MAX: Duration = Duration::from_secs((2 << SYN_REPETITIONS) - 1);

/// A listening socket.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// Established connections that are not accepted yet. Invariant: `backlog.len() <=
    /// backlog_max + 1`.
    backlog: VecDeque<usize>,
    backlog_max: usize,
    buffer_lens: (usize, usize),
    /// Errors that the next accepts return.
    failing: VecDeque<io::Error>,
    /// The error of every accept, as a system error number.
    fails_always: Option<i32>,
}

impl Listener {
    pub(super) fn ready(&self) -> Ready {
        Ready::READABLE.only_if(!self.backlog.is_empty())
    }

    /// Returns true if the backlog is full. As on Linux, it holds one connection more than
    /// `backlog_max` (`sk_acceptq_is_full`).
    fn is_full(&self) -> bool {
        self.backlog.len() > self.backlog_max
    }
}

impl World {
    /// Binds a listener of the first host.
    pub(crate) fn bind_listener(
        self,
        addr: &Addr,
        options: &ListenOptions,
        backlog: u32,
    ) -> io::Result<os::Listener> {
        self.bind_listener_of(FIRST_HOST, addr, options, backlog)
    }

    pub(crate) fn bind_listener_of(
        self,
        host: usize,
        addr: &Addr,
        options: &ListenOptions,
        backlog: u32,
    ) -> io::Result<os::Listener> {
        self.with(|state| {
            let listener = Listener {
                backlog_max: options.backlog_or(backlog),
                buffer_lens: options.buffer_lens(state.buffer_lens),
                ..Listener::default()
            };
            let kind = Kind::Listener(listener);
            let index = state.bind(host, addr, Class::Listeners, kind)?;
            Ok(os::Listener::Sim(SimSocket { world: self, index }))
        })
    }

    pub(crate) fn begin_connect(
        self,
        host: usize,
        addr: &Addr,
        options: &ConnectOptions,
    ) -> io::Result<os::Stream> {
        let socket = self.connect_socket(host, addr, options)?;
        Ok(os::Stream::Sim(socket))
    }

    pub(super) fn connect_socket(
        self,
        host: usize,
        addr: &Addr,
        options: &ConnectOptions,
    ) -> io::Result<SimSocket> {
        self.with(|state| {
            state.fault(host, None, Call::Connect)?;
            if let Some(errno) = state.connects_fail {
                return Err(io::Error::from_raw_os_error(errno));
            }
            let local = state.local_for(host, addr, options.local())?;
            let lens = options.buffer_lens(state.buffer_lens);
            let stream = Stream::connecting(addr.clone(), lens);
            if addr.inet().is_none() {
                state.check_unix_connect(addr)?;
            }
            let index = state.bind(host, &local, Class::Streams, Kind::Stream(Box::new(stream)))?;
            let syn = Action::Syn(index as usize, 0);
            if state.silent.contains(addr) || state.way_of(&syn).is_none() {
                state.schedule(state.now + CONNECT_MAX, Action::SynTimeout(index as usize));
            } else {
                state.send(syn);
            }
            Ok(SimSocket { world: self, index })
        })
    }

    /// Makes the next accept at this address fail with a system error number. Later accepts
    /// succeed.
    pub(crate) fn fail_next_accept(self, addr: impl Into<Addr>, errno: i32) {
        let error = io::Error::from_raw_os_error(errno);
        self.with_listener(addr, |listener| listener.failing.push_back(error));
    }

    /// Makes every accept at this address fail with a system error number. `None` makes accepts
    /// succeed again.
    pub(crate) fn fail_accepts(self, addr: impl Into<Addr>, errno: Option<i32>) {
        self.with_listener(addr, |listener| listener.fails_always = errno);
    }

    fn with_listener(self, addr: impl Into<Addr>, change: impl FnOnce(&mut Listener)) {
        let addr = addr.into();
        self.with(|state| {
            let index = state.bound(FIRST_HOST, &addr, Class::Listeners);
            change(state.listener(index.expect("a listener is bound to the address")));
        });
    }
}

impl SimSocket {
    pub(crate) fn accept(self) -> io::Result<(Self, Addr)> {
        self.with(|state, index| {
            let host = state.sockets[index].host;
            state.fault(host, Some(index), Call::Accept)?;
            let listener = state.listener(index);
            if let Some(error) = listener.failing.pop_front() {
                return Err(error);
            }
            if let Some(errno) = listener.fails_always {
                return Err(io::Error::from_raw_os_error(errno));
            }
            let accepted = listener.backlog.pop_front();
            let accepted = accepted.ok_or(ErrorKind::WouldBlock)?;
            let peer = state.stream(accepted).peer_addr.clone();
            let socket = Self {
                world: self.world,
                index: u32::try_from(accepted).expect("tests open few sockets"),
            };
            state.note(|| format!("socket {index} accepted socket {accepted}"));
            Ok((
                socket,
                peer.expect("an accepted stream stores the address of its peer"),
            ))
        })
    }
}

impl State {
    fn listener(&mut self, index: usize) -> &mut Listener {
        match &mut self.sockets[index].kind {
            Kind::Listener(listener) => listener,
            _ => panic!("socket {index} does not listen"),
        }
    }

    /// Returns the local address of a connect.
    fn local_for(&self, host: usize, to: &Addr, local: Option<&Addr>) -> io::Result<Addr> {
        let mut local = match (local, to) {
            (Some(local), _) => local.clone(),
            (None, Addr::Inet(_)) => Addr::Inet((Ipv4Addr::UNSPECIFIED, 0).into()),
            #[cfg(unix)]
            (None, Addr::Unix(_)) => Addr::Unix(crate::UnixAddr::default()),
        };
        if let (Addr::Inet(local), Addr::Inet(to)) = (&mut local, to)
            && local.ip().is_unspecified()
        {
            local.set_ip(self.source_for(host, *to)?);
        }
        Ok(local)
    }

    /// Checks the target of a Unix connect. The connect fails at once if no socket listens there or
    /// if the backlog is full (connect(2)).
    fn check_unix_connect(&mut self, addr: &Addr) -> io::Result<()> {
        let listener = self.bound(FIRST_HOST, addr, Class::Listeners);
        let listener = self.listener(listener.ok_or(ErrorKind::ConnectionRefused)?);
        if listener.is_full() {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(())
    }

    /// Handles the SYN of a connect, which has reached the host of its target. `repetition` is the
    /// number of SYNs that the client has sent before.
    pub(super) fn receive_syn(&mut self, client: usize, repetition: u32) {
        let local = self.sockets[client].local.clone();
        let to = self.stream(client).peer_addr.clone();
        let to = to.expect("a connecting stream stores its target");
        if self.sockets[client].is_closed && !self.stream(client).connects_after_close() {
            return;
        }
        let host = self.sockets[client].host;
        if to
            .inet()
            .is_some_and(|to| self.route(host, to.ip()).is_none())
        {
            // The packet is lost.
            return self.repeat_syn(client, repetition);
        }
        let Some(index) = self.bound(host, &to, Class::Listeners) else {
            self.stream(client).fail(ErrorKind::ConnectionRefused);
            return self.edge(client, Ready::ALL);
        };
        let listener = self.listener(index);
        if listener.is_full() {
            return self.repeat_syn(client, repetition);
        }
        let mut accepted = Stream::connecting(local, listener.buffer_lens);
        accepted.connect_to(client);
        let host = self.sockets[index].host;
        let accepted = self.add(host, to, Kind::Stream(Box::new(accepted))) as usize;
        self.listener(index).backlog.push_back(accepted);
        let (sent, fin) = self.stream(client).connect_to(accepted);
        self.edge(client, Ready::WRITABLE);
        self.edge(index, Ready::READABLE);
        if sent > 0 || fin {
            self.send_bytes(client, sent, fin);
        }
    }

    /// Handles a SYN that was lost, or that the listener dropped because its backlog is full. The
    /// client repeats it after 1, 2, 4 seconds and so on. It gives up after the last of six
    /// repetitions (`tcp_syn_retries`, ip-sysctl.rst).
    fn repeat_syn(&mut self, client: usize, repetition: u32) {
        let at = self.now + Duration::from_secs(1 << repetition);
        let next = match repetition {
            ..SYN_REPETITIONS => Action::Syn(client, repetition + 1),
            _ => Action::SynTimeout(client),
        };
        self.schedule(at, next);
    }

    /// Ends a connect that was never answered.
    pub(super) fn time_out_connect(&mut self, client: usize) {
        if !self.sockets[client].is_closed {
            self.stream(client).fail(ErrorKind::TimedOut);
            self.edge(client, Ready::ALL);
        }
    }

    /// Closes a listener: resets the connections that were not accepted.
    pub(super) fn close_listener(&mut self, index: usize) {
        let listener = std::mem::take(self.listener(index));
        for accepted in listener.backlog {
            self.sockets[accepted].is_closed = true;
            if let Some(client) = self.stream(accepted).peer.take() {
                self.send(Action::Reset(client));
            }
        }
    }
}
