//! All system calls and the clock, behind one type: [`Os`], real or simulated.
//!
//! This module does not know frames or handlers. It repeats a call that a signal interrupted, with
//! two exceptions. [`Os::wait`] returns, because a part of its timeout has passed. A connect is not
//! repeated, because the kernel continues it. `WouldBlock` is flow control, so it is returned to
//! the caller.

mod adopt;
mod convert;
mod listener;
mod options;
mod poll;
#[cfg(feature = "signals")]
#[cfg_attr(not(unix), path = "signals_by_thread.rs")]
mod signals;
#[cfg(any(test, feature = "sim"))]
#[cfg_attr(
    not(all(test, feature = "sim")),
    allow(
        dead_code,
        unreachable_pub,
        unused_imports,
        reason = "the crate's own tests and `testkit::sim` use different parts of the simulation"
    )
)]
pub(crate) mod sim;
mod socket_ref;
mod stream;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod tcp_info;
mod udp;
#[cfg_attr(
    not(all(feature = "udp-batch", any(target_os = "linux", target_os = "android"))),
    path = "udp_no_batch.rs"
)]
mod udp_batch;
#[cfg(all(feature = "udp-batch", any(target_os = "linux", target_os = "android")))]
mod udp_control;
#[cfg(unix)]
mod unix_datagram;

use std::io;
#[cfg(unix)]
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

pub(crate) use adopt::OwnedSocket;
pub(crate) use listener::{AcceptFailure, Listener};
pub(crate) use options::names_no_server;
pub use options::{ConnectOptions, ListenOptions, UdpOptions};
pub(crate) use poll::{Event, Waker};
#[cfg(feature = "signals")]
pub(crate) use signals::{CaughtSignal, ENDING};
pub use socket_ref::{Keepalive, SocketRef};
pub(crate) use stream::Stream;
pub(crate) use udp::Udp;
#[cfg(unix)]
pub(crate) use unix_datagram::UnixDatagramSocket;

use crate::addr::Addr;
#[cfg(unix)]
use crate::addr::UnixAddr;
use convert::{local_addr, to_addr, to_sock_addr};
use poll::Poller;

/// True if a read that returned fewer bytes than requested has emptied the socket, so that the next
/// byte makes a new edge. The rule holds for epoll and kqueue (epoll(7), "Questions and answers",
/// 9). On other systems, only `WouldBlock` proves that the socket is empty.
pub(crate) const SHORT_READ_EMPTIES: bool = cfg!(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly",
));

/// Deadline of a wait in a thread that does not run the loop. Such a thread waits in real time,
/// even if its reactor is simulated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    begun: Instant,
    timeout: Duration,
}

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        Self {
            begun: Instant::now(),
            timeout,
        }
    }

    /// Returns the time that is left.
    pub(crate) fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.begun.elapsed())
    }
}

/// The operating system, as one engine uses it: the clock, the poll, and the calls that open
/// sockets. A real `Os` opens real sockets, and a simulated `Os` opens simulated sockets.
#[derive(Debug)]
pub(crate) enum Os {
    Real(Poller),
    #[cfg(any(test, feature = "sim"))]
    Sim(sim::SimPoll),
}

impl Os {
    /// Opens a poll of the real system, which takes two descriptors.
    pub(crate) fn real() -> io::Result<Self> {
        Poller::new().map(Self::Real)
    }

    /// Reads the clock: the monotonic clock of the system, or the virtual time of a simulated
    /// world. No other code of the library reads the clock, except [`Deadline`] and `sim_epoch`.
    pub(crate) fn now(&self) -> Instant {
        match self {
            Self::Real(_) => Instant::now(),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(poll) => sim_epoch() + poll.world().now(),
        }
    }

    pub(crate) fn waker(&self) -> Waker {
        match self {
            Self::Real(poller) => poller.waker.clone(),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(poll) => poll.waker(),
        }
    }

    /// Waits for events: at most for `timeout`, or without a limit if it is `None`. Returns
    /// `Interrupted` if a signal ended the wait.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Real(poller) => poller.wait(timeout),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(poll) => poll.wait(timeout),
        }
    }

    /// Returns true if the last wait returned events. Valid before [`Self::for_each_event`].
    pub(crate) fn has_events(&self) -> bool {
        match self {
            Self::Real(poller) => poller.has_events(),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(poll) => poll.has_events(),
        }
    }

    /// Calls `each` for every event of the last wait, and returns the number of events. Wake-ups
    /// and signals are events too. With kqueue, a socket can have two events: one per direction.
    pub(crate) fn for_each_event(&mut self, each: impl FnMut(Event<'_>)) -> usize {
        match self {
            Self::Real(poller) => poller.for_each_event(each),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(poll) => poll.for_each_event(each),
        }
    }

    /// Returns true if the last wait may not have returned all events. Valid after
    /// [`Self::for_each_event`].
    pub(crate) fn was_full(&self) -> bool {
        match self {
            Self::Real(poller) => poller.was_full,
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(_) => false,
        }
    }

    /// Returns true if the next wait of a simulated poll may report an event or a wake-up. Panics
    /// if the system is real.
    #[cfg(feature = "sim")]
    pub(crate) fn is_sim_ready(&self) -> bool {
        self.sim().is_ready()
    }

    /// Returns the descriptor of the poll. Panics if the system is simulated.
    #[cfg(unix)]
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.poller().as_fd()
    }

    /// Opens a listener. `backlog` applies if `options` sets no backlog.
    pub(crate) fn listen(
        &self,
        addr: &Addr,
        options: &ListenOptions,
        backlog: u32,
    ) -> io::Result<Listener> {
        match self {
            Self::Real(_) => options.listen(addr, backlog)?.try_into(),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(poll) => {
                let world = poll.world();
                world.bind_listener_of(poll.host(), addr, options, backlog)
            }
        }
    }

    /// Starts a connect. An event reports the end of the connect.
    pub(crate) fn connect(&self, addr: &Addr, options: &ConnectOptions) -> io::Result<Stream> {
        match self {
            Self::Real(_) => options.connect(addr)?.try_into(),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(poll) => poll.world().begin_connect(poll.host(), addr, options),
        }
    }

    /// Binds a UDP socket. `in_batches` requests several datagrams per system call, if the system
    /// supports it.
    pub(crate) fn bind_udp(
        &self,
        addr: std::net::SocketAddr,
        options: &UdpOptions,
        in_batches: bool,
    ) -> io::Result<Udp> {
        match self {
            Self::Real(_) => Udp::new(options.bind(addr)?, in_batches, options.wanted),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(poll) => {
                let socket = poll.world().bind_datagram_of(poll.host(), &addr.into());
                socket.map(Udp::Sim)
            }
        }
    }

    /// Opens a Unix datagram socket. A socket without an address stays unnamed.
    #[cfg(unix)]
    pub(crate) fn bind_unix_datagram(
        &self,
        addr: Option<&UnixAddr>,
    ) -> io::Result<UnixDatagramSocket> {
        match self {
            Self::Real(_) => UnixDatagramSocket::open(addr),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(poll) => {
                let addr = addr.cloned().unwrap_or_default();
                let socket = poll.world().bind_datagram_of(poll.host(), &addr.into());
                socket.map(UnixDatagramSocket::Sim)
            }
        }
    }

    /// Returns the real poll, to register a real socket. Fails if the system is simulated.
    fn real_poller(&self) -> io::Result<&Poller> {
        match self {
            Self::Real(poller) => Ok(poller),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a simulated reactor cannot use a real socket or signal",
            )),
        }
    }

    /// Returns the real poll, which real sockets are registered with. Panics if the system is
    /// simulated.
    fn poller(&self) -> &Poller {
        match self {
            Self::Real(poller) => poller,
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(_) => panic!("a simulated reactor has no descriptor"),
        }
    }

    /// Returns the simulated poll, which simulated sockets are registered with. Panics if the
    /// system is real.
    #[cfg(any(test, feature = "sim"))]
    fn sim(&self) -> &sim::SimPoll {
        match self {
            Self::Real(_) => panic!("a real reactor cannot use a simulated socket"),
            Self::Sim(poll) => poll,
        }
    }
}

/// Returns the instant at which the virtual time of every world begins. Only the real clock makes
/// an [`Instant`], so this function reads it once per process.
#[cfg(any(test, feature = "sim"))]
fn sim_epoch() -> Instant {
    static EPOCH: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    *EPOCH
}

/// `EAFNOSUPPORT`, which has no stable [`io::ErrorKind`].
const FAMILY_UNSUPPORTED: i32 = match () {
    () if cfg!(windows) => 10047,
    () if cfg!(any(target_os = "solaris", target_os = "illumos")) => 124,
    () if cfg!(any(target_arch = "mips", target_arch = "mips64")) => 124,
    () if cfg!(any(
        target_os = "linux",
        target_os = "android",
        target_os = "fuchsia"
    )) =>
    {
        97
    }
    () => 47,
};

/// Returns true if a socket cannot be opened because the system lacks its address family.
pub(crate) fn lacks_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(FAMILY_UNSUPPORTED)
}

/// `ENOBUFS`, which has no stable [`io::ErrorKind`].
const NO_BUFFERS: i32 = match () {
    () if cfg!(windows) => 10055,
    () if cfg!(any(target_os = "solaris", target_os = "illumos")) => 132,
    () if cfg!(any(target_arch = "mips", target_arch = "mips64")) => 132,
    () if cfg!(any(
        target_os = "linux",
        target_os = "android",
        target_os = "fuchsia"
    )) =>
    {
        105
    }
    () => 55,
};

/// `EMFILE` and `ENFILE`, which have no stable [`io::ErrorKind`]. Windows has one code for both.
const NO_DESCRIPTORS: &[i32] = if cfg!(windows) { &[10024] } else { &[24, 23] };

/// Returns true if a connect could not begin because this host lacks a descriptor or memory, or
/// because the local address is in use. The same connect may succeed later.
pub(crate) fn lacks_resources(error: &io::Error) -> bool {
    let is_lack = |code| code == NO_BUFFERS || NO_DESCRIPTORS.contains(&code);
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::OutOfMemory
    ) || error.raw_os_error().is_some_and(is_lack)
}

/// Repeats a call while a signal interrupts it.
#[inline]
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
