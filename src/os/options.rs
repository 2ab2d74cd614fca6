//! Options that must stand before a socket listens, connects or is bound.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::{SocketRef, to_sock_addr};
use crate::addr::Addr;

/// What all kinds of sockets may be given before they are bound.
#[derive(Debug, Clone, Default)]
struct Before {
    reuse_addr: bool,
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
    reuse_port: bool,
    only_v6: Option<bool>,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    device: Option<String>,
    recv_buffer_len: Option<usize>,
    send_buffer_len: Option<usize>,
}

impl Before {
    /// A socket that does not block and is not inherited, with these options.
    fn open(&self, domain: Domain, kind: Type) -> io::Result<Socket> {
        let socket = new_nonblocking(domain, kind)?;
        if self.reuse_addr && domain != Domain::UNIX {
            socket.set_reuse_address(true)?;
        }
        if let Some(on) = self.only_v6
            && domain == Domain::IPV6
        {
            socket.set_only_v6(on)?;
        }
        if let Some(len) = self.recv_buffer_len {
            socket.set_recv_buffer_size(len)?;
        }
        if let Some(len) = self.send_buffer_len {
            socket.set_send_buffer_size(len)?;
        }
        #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
        if self.reuse_port {
            socket.set_reuse_port(true)?;
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(device) = &self.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        Ok(socket)
    }
}

/// With one system call where the system can.
fn new_nonblocking(domain: Domain, kind: Type) -> io::Result<Socket> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    return Socket::new(domain, kind.nonblocking(), None);
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    {
        let socket = Socket::new(domain, kind, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// The builder's calls that all three kinds of options share.
macro_rules! before {
    () => {
        /// The system's defaults.
        #[must_use]
        pub fn new() -> Self {
            Self::default()
        }

        /// Lets several sockets, of this process or of others with the same user, be bound to the
        /// same address (`SO_REUSEPORT`, socket(7)). Each of them must ask for it. Linux and
        /// DragonFly spread connections and datagrams over them; other systems may give all to
        /// one. Off by default; not on Windows and Solaris.
        #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
        #[must_use]
        pub fn reuse_port(mut self, on: bool) -> Self {
            self.before.reuse_port = on;
            self
        }

        /// Sends and receives by this network interface only (`SO_BINDTODEVICE`, socket(7)), named
        /// as `ip link` names it. Linux only.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        #[must_use]
        pub fn device(mut self, name: impl Into<String>) -> Self {
            self.before.device = Some(name.into());
            self
        }

        /// The kernel's receive buffer, in bytes (`SO_RCVBUF`). Set before the handshake, as the
        /// largest TCP window is agreed on there (tcp(7)). Linux doubles the number, for its own
        /// upkeep, and caps it by `net.core.rmem_max`. By default the kernel sizes it by itself,
        /// and adapts it to the connection, which a number given here stops.
        #[must_use]
        pub fn recv_buffer_len(mut self, bytes: usize) -> Self {
            self.before.recv_buffer_len = Some(bytes);
            self
        }

        /// The kernel's send buffer, in bytes (`SO_SNDBUF`); as for
        /// [`recv_buffer_len`](Self::recv_buffer_len), with `net.core.wmem_max`.
        #[must_use]
        pub fn send_buffer_len(mut self, bytes: usize) -> Self {
            self.before.send_buffer_len = Some(bytes);
            self
        }
    };
}

/// How [`Context::listen_with`](crate::Context::listen_with) opens a listener.
///
/// # Examples
///
/// ```
/// # #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
/// # fn main() -> std::io::Result<()> {
/// use unstick::{Framing, ListenOptions, Reactor};
/// # use unstick::{ConnId, Context, Handler};
/// # struct Nothing;
/// # impl Handler for Nothing {
/// #     type Session = ();
/// #     fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}
/// # }
///
/// // One of several reactors, each in a thread of its own, that share a port.
/// let options = ListenOptions::new().reuse_port(true).backlog(1024);
/// let mut reactor = Reactor::new(Nothing)?;
/// reactor.with(|_, cx| cx.listen_with("127.0.0.1:0", Framing::line(), &options))?;
/// # Ok(())
/// # }
/// # #[cfg(any(windows, target_os = "solaris", target_os = "illumos"))]
/// # fn main() {}
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListenOptions {
    before: Before,
    backlog: Option<u32>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        let before = Before {
            // On Unix it lets a server restart while old connections are in TIME-WAIT; on Windows
            // it would let two servers share a port.
            reuse_addr: cfg!(unix),
            ..Before::default()
        };
        Self {
            before,
            backlog: None,
        }
    }
}

impl ListenOptions {
    before!();

    /// Binds to an address that connections of an earlier listener still have (`SO_REUSEADDR`). On
    /// by default; off by default on Windows, where it means something else: that another socket
    /// may take the address away.
    #[must_use]
    pub fn reuse_addr(mut self, on: bool) -> Self {
        self.before.reuse_addr = on;
        self
    }

    /// Whether a listener at an IPv6 address leaves IPv4 alone (`IPV6_V6ONLY`). By default the
    /// system decides: on Linux `[::]` takes IPv4 too. Means nothing to an IPv4 address.
    #[must_use]
    pub fn only_v6(mut self, on: bool) -> Self {
        self.before.only_v6 = Some(on);
        self
    }

    /// Connections that the kernel keeps until they are accepted; it caps them by a limit of its
    /// own (`net.core.somaxconn`). [`Config::backlog`](crate::Config::backlog) by default.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = Some(connections);
        self
    }

    /// A socket that listens.
    pub(super) fn listen(&self, addr: &Addr, backlog: u32) -> io::Result<Socket> {
        let addr = to_sock_addr(addr)?;
        let socket = self.before.open(addr.domain(), Type::STREAM)?;
        socket.bind(&addr)?;
        let backlog = self.backlog.unwrap_or(backlog);
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(socket)
    }
}

/// How [`Context::connect_with`](crate::Context::connect_with) connects.
///
/// # Examples
///
/// ```
/// use std::net::SocketAddr;
/// use std::time::Duration;
/// use unstick::ConnectOptions;
///
/// let options = ConnectOptions::new()
///     .timeout(Duration::from_secs(3))
///     .local_inet_addr(SocketAddr::from(([127, 0, 0, 1], 0)));
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ConnectOptions {
    before: Before,
    timeout: Option<Duration>,
    local_addr: Option<Addr>,
}

impl ConnectOptions {
    before!();

    /// How long the connect may take, with all the addresses that it tries: each has an equal share
    /// of what those before it left. Looking a name up is not in it. Then it fails with `TimedOut`.
    /// [`Config::connect_deadline`](crate::Config::connect_deadline) by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The address to connect from: a [`SocketAddr`], where port 0 takes a free one, or for a Unix
    /// socket a path or a name. An address of another family than the peer's fails, and the next
    /// one of the peer's is tried.
    #[must_use]
    pub fn local_addr(mut self, addr: impl Into<Addr>) -> Self {
        self.local_addr = Some(addr.into());
        self
    }

    /// Connects from a [`local_inet_addr`](Self::local_addr) that an earlier connection still has
    /// (`SO_REUSEADDR`). Off by default.
    #[must_use]
    pub fn reuse_addr(mut self, on: bool) -> Self {
        self.before.reuse_addr = on;
        self
    }

    pub(crate) fn timeout_or(&self, default: Duration) -> Duration {
        self.timeout.unwrap_or(default)
    }

    /// A socket that connects; the end of it is told by an event.
    pub(super) fn connect(&self, addr: &Addr) -> io::Result<Socket> {
        let addr = to_sock_addr(addr)?;
        let socket = self.before.open(addr.domain(), Type::STREAM)?;
        if let Some(local) = &self.local_addr {
            socket.bind(&to_sock_addr(local)?)?;
        }
        match socket.connect(&addr) {
            // A Unix socket's connect is done at once, or fails: `WouldBlock` says that the
            // listener's backlog is full, and no event would tell when it is not (connect(2)).
            Err(error) if addr.is_unix() || !is_under_way(&error) => Err(error),
            _ => Ok(socket),
        }
    }
}

/// EINPROGRESS, which has no [`io::ErrorKind`] yet: on Linux, on systems of the BSD family, and on
/// those of the System V family. Windows says that it would block.
const IN_PROGRESS: i32 = match () {
    () if cfg!(any(target_os = "solaris", target_os = "illumos")) => 150,
    () if cfg!(any(target_arch = "mips", target_arch = "mips64")) => 150,
    () if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) => 36,
    () if cfg!(any(
        target_os = "linux",
        target_os = "android",
        target_os = "fuchsia"
    )) =>
    {
        115
    }
    () => 36,
};

/// Whether a connect without blocking has begun, which the systems tell as an error. A signal does
/// not undo it (connect(2), EINTR).
fn is_under_way(error: &io::Error) -> bool {
    error.raw_os_error() == Some(IN_PROGRESS)
        || matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
        )
}

/// How [`Context::bind_udp_with`](crate::Context::bind_udp_with) opens a UDP socket.
///
/// # Examples
///
/// ```
/// use std::net::Ipv4Addr;
/// use unstick::UdpOptions;
///
/// // Hears what is sent to a group, beside others on this host that do.
/// let options = UdpOptions::new()
///     .reuse_addr(true)
///     .join_multicast_v4(Ipv4Addr::new(239, 1, 2, 3), Ipv4Addr::UNSPECIFIED);
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct UdpOptions {
    before: Before,
    broadcast: bool,
    multicast_loop: Option<bool>,
    multicast_ttl: Option<u8>,
    groups_v4: Vec<(Ipv4Addr, Ipv4Addr)>,
    groups_v6: Vec<(Ipv6Addr, u32)>,
}

impl UdpOptions {
    before!();

    /// Lets several sockets be bound to the same address, where each of them asks for it
    /// (`SO_REUSEADDR`): all of them hear a multicast or broadcast datagram, one of them another.
    /// Off by default.
    #[must_use]
    pub fn reuse_addr(mut self, on: bool) -> Self {
        self.before.reuse_addr = on;
        self
    }

    /// Whether a socket at an IPv6 address leaves IPv4 alone (`IPV6_V6ONLY`), as for
    /// [`ListenOptions::only_v6`].
    #[must_use]
    pub fn only_v6(mut self, on: bool) -> Self {
        self.before.only_v6 = Some(on);
        self
    }

    /// Allows datagrams to broadcast addresses (`SO_BROADCAST`). Off by default.
    #[must_use]
    pub fn broadcast(mut self, on: bool) -> Self {
        self.broadcast = on;
        self
    }

    /// Whether sockets of this host hear what this one sends to a group (`IP_MULTICAST_LOOP`,
    /// `IPV6_MULTICAST_LOOP`). The system's default is yes.
    #[must_use]
    pub fn multicast_loop(mut self, on: bool) -> Self {
        self.multicast_loop = Some(on);
        self
    }

    /// How many routers a datagram to a group may pass (`IP_MULTICAST_TTL`,
    /// `IPV6_MULTICAST_HOPS`). The system's default is 1: the local network.
    #[must_use]
    pub fn multicast_ttl(mut self, hops: u8) -> Self {
        self.multicast_ttl = Some(hops);
        self
    }

    /// Joins a group on the interface that has the address `interface`; on one that the system
    /// chooses where it is unspecified. May be called for several.
    #[must_use]
    pub fn join_multicast_v4(mut self, group: Ipv4Addr, interface: Ipv4Addr) -> Self {
        self.groups_v4.push((group, interface));
        self
    }

    /// Joins a group on the interface with the index `interface`; on one that the system chooses
    /// where it is 0. May be called for several.
    #[must_use]
    pub fn join_multicast_v6(mut self, group: Ipv6Addr, interface: u32) -> Self {
        self.groups_v6.push((group, interface));
        self
    }

    /// A socket that is bound.
    pub(super) fn bind(&self, addr: SocketAddr) -> io::Result<Socket> {
        let domain = Domain::for_address(addr);
        let socket = self.before.open(domain, Type::DGRAM)?;
        if self.broadcast {
            socket.set_broadcast(true)?;
        }
        let live = SocketRef {
            socket: SockRef::from(&socket),
            is_v6: addr.is_ipv6(),
        };
        if let Some(on) = self.multicast_loop {
            live.set_multicast_loop(on)?;
        }
        if let Some(hops) = self.multicast_ttl {
            live.set_multicast_ttl(hops)?;
        }
        socket.bind(&addr.into())?;
        for (group, interface) in &self.groups_v4 {
            live.join_multicast_v4(*group, *interface)?;
        }
        for (group, interface) in &self.groups_v6 {
            live.join_multicast_v6(*group, *interface)?;
        }
        Ok(socket)
    }
}

#[cfg(test)]
mod sim {
    use super::*;

    impl Before {
        fn buffer_lens(&self, default: (usize, usize)) -> (usize, usize) {
            let (send, recv) = default;
            (
                self.send_buffer_len.unwrap_or(send),
                self.recv_buffer_len.unwrap_or(recv),
            )
        }
    }

    impl ListenOptions {
        /// Returns the lengths of the send and the receive buffer.
        pub(in crate::os) fn buffer_lens(&self, default: (usize, usize)) -> (usize, usize) {
            self.before.buffer_lens(default)
        }

        pub(in crate::os) fn backlog_or(&self, default: u32) -> usize {
            self.backlog.unwrap_or(default) as usize
        }
    }

    impl ConnectOptions {
        /// Returns the lengths of the send and the receive buffer.
        pub(in crate::os) fn buffer_lens(&self, default: (usize, usize)) -> (usize, usize) {
            self.before.buffer_lens(default)
        }

        pub(in crate::os) fn local(&self) -> Option<&Addr> {
            self.local_addr.as_ref()
        }
    }
}
