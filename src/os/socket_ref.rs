//! Options of a live socket.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// When the kernel looks whether the peer of a silent connection is still there
/// (`SO_KEEPALIVE`, tcp(7)). What is not given is left to the system.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use unstick::Keepalive;
///
/// // After a minute of silence, every ten seconds; gone after three without an answer.
/// let keepalive = Keepalive::new()
///     .idle(Duration::from_secs(60))
///     .interval(Duration::from_secs(10))
///     .count(3);
/// # let _ = keepalive;
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Keepalive {
    idle: Option<Duration>,
    interval: Option<Duration>,
    count: Option<u32>,
}

impl Keepalive {
    /// Keep-alive at the system's times; on Linux after two hours.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a connection is silent before the first probe, in whole seconds on most systems
    /// (`TCP_KEEPIDLE`).
    #[must_use]
    pub fn idle(mut self, time: Duration) -> Self {
        self.idle = Some(time);
        self
    }

    /// The time between two probes, in whole seconds on most systems (`TCP_KEEPINTVL`). Left out
    /// where the system has no such option (OpenBSD).
    #[must_use]
    pub fn interval(mut self, time: Duration) -> Self {
        self.interval = Some(time);
        self
    }

    /// After so many probes without an answer the connection is reset (`TCP_KEEPCNT`). Left out
    /// where the system has no such option (OpenBSD).
    #[must_use]
    pub fn count(mut self, probes: u32) -> Self {
        self.count = Some(probes);
        self
    }

    fn to_socket2(self) -> TcpKeepalive {
        let mut keepalive = TcpKeepalive::new();
        if let Some(time) = self.idle {
            keepalive = keepalive.with_time(time);
        }
        #[cfg(not(any(target_os = "openbsd", target_os = "solaris")))]
        if let Some(time) = self.interval {
            keepalive = keepalive.with_interval(time);
        }
        #[cfg(not(any(target_os = "openbsd", target_os = "solaris")))]
        if let Some(count) = self.count {
            keepalive = keepalive.with_retries(count);
        }
        keepalive
    }
}

/// The options of a live socket, from [`Context::socket`](crate::Context::socket). Each call is one
/// system call or two, and its error is the system's: an option that this kind of socket does not
/// have, for example.
///
/// What is not here is reached by [`Context::socket_options`](crate::Context::socket_options).
///
/// # Examples
///
/// ```
/// # use unstick::{ConnId, Context, Handler, Keepalive};
/// # fn f<H: Handler>(cx: &mut Context<'_, H>, conn: ConnId) -> std::io::Result<()> {
/// let socket = cx.socket(conn)?;
/// socket.set_nodelay(false)?;
/// socket.set_keepalive(Some(Keepalive::new()))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SocketRef<'a> {
    pub(super) socket: SockRef<'a>,
    pub(super) is_v6: bool,
}

/// A getter and a setter that hand on to socket2's of the same type.
macro_rules! option {
    ($get:ident, $set:ident: $type:ty => $raw_get:ident, $raw_set:ident; $($doc:literal)+) => {
        $(#[doc = $doc])+
        ///
        /// # Errors
        ///
        /// The system's.
        pub fn $set(&self, value: $type) -> io::Result<()> {
            self.socket.$raw_set(value)
        }

        #[doc = concat!("What [`", stringify!($set), "`](Self::", stringify!($set), ") sets.")]
        ///
        /// # Errors
        ///
        /// The system's.
        pub fn $get(&self) -> io::Result<$type> {
            self.socket.$raw_get()
        }
    };
}

impl<'a> SocketRef<'a> {
    pub(crate) fn new(socket: SockRef<'a>) -> io::Result<Self> {
        let is_v6 = socket.local_addr()?.is_ipv6();
        Ok(Self { socket, is_v6 })
    }

    option! {
        nodelay, set_nodelay: bool => tcp_nodelay, set_tcp_nodelay;
        "Sends small writes at once (`TCP_NODELAY`): no Nagle's algorithm (RFC 896). A new"
        "connection has it as [`Config::nodelay`](crate::Config::nodelay) says."
    }

    option! {
        recv_buffer_len, set_recv_buffer_len: usize => recv_buffer_size, set_recv_buffer_size;
        "The kernel's receive buffer, in bytes (`SO_RCVBUF`). Linux doubles the number that is"
        "set, caps it by `net.core.rmem_max`, and tells the doubled one. For a window of more than"
        "64 KiB it stands before the handshake: see"
        "[`ListenOptions::recv_buffer_len`](crate::ListenOptions::recv_buffer_len)."
    }

    option! {
        send_buffer_len, set_send_buffer_len: usize => send_buffer_size, set_send_buffer_size;
        "The kernel's send buffer, in bytes (`SO_SNDBUF`). Linux doubles the number that is set,"
        "caps it by `net.core.wmem_max`, and tells the doubled one."
    }

    /// Lets the kernel look whether a silent connection's peer is still there, or with `None` no
    /// longer (`SO_KEEPALIVE`). An [idle timeout](crate::Config::idle_timeout) ends a connection
    /// over which nothing goes; this one ends it only where nobody answers.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn set_keepalive(&self, keepalive: Option<Keepalive>) -> io::Result<()> {
        match keepalive {
            Some(keepalive) => self.socket.set_tcp_keepalive(&keepalive.to_socket2()),
            None => self.socket.set_keepalive(false),
        }
    }

    /// What [`set_keepalive`](Self::set_keepalive) set; with the times that the system tells.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn keepalive(&self) -> io::Result<Option<Keepalive>> {
        if !self.socket.keepalive()? {
            return Ok(None);
        }
        let keepalive = Keepalive::new();
        #[cfg(not(any(windows, target_os = "openbsd", target_os = "solaris")))]
        let keepalive = keepalive
            .idle(self.socket.tcp_keepalive_time()?)
            .interval(self.socket.tcp_keepalive_interval()?);
        #[cfg(not(any(target_os = "openbsd", target_os = "solaris")))]
        let keepalive = keepalive.count(self.socket.tcp_keepalive_retries()?);
        Ok(Some(keepalive))
    }

    /// How many routers a packet may pass (`IP_TTL`, `IPV6_UNICAST_HOPS`): 1 to 255.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn set_ttl(&self, hops: u8) -> io::Result<()> {
        if !self.is_v6 {
            return self.socket.set_ttl_v4(hops.into());
        }
        // It may carry IPv4 too, where the system lets one socket do both.
        let _ = self.socket.set_ttl_v4(hops.into());
        self.socket.set_unicast_hops_v6(hops.into())
    }

    /// What [`set_ttl`](Self::set_ttl) sets.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn ttl(&self) -> io::Result<u8> {
        let hops = if self.is_v6 {
            self.socket.unicast_hops_v6()
        } else {
            self.socket.ttl_v4()
        };
        octet(hops?)
    }

    /// The byte that routers choose a queue by (`IP_TOS`, `IPV6_TCLASS`): the DSCP in its upper six
    /// bits (RFC 2474). The lower two are ECN's, which TCP sets itself. Not on Solaris, and on
    /// Windows and iOS for IPv4 only.
    ///
    /// # Errors
    ///
    /// The system's; `Unsupported` for IPv6 on Windows and iOS.
    #[cfg(not(target_os = "solaris"))]
    pub fn set_tos(&self, tos: u8) -> io::Result<()> {
        if !self.is_v6 {
            return self.socket.set_tos_v4(tos.into());
        }
        // It may carry IPv4 too, where the system lets one socket do both.
        let _ = self.socket.set_tos_v4(tos.into());
        #[cfg(not(any(windows, all(target_vendor = "apple", not(target_os = "macos")))))]
        return self.socket.set_tclass_v6(tos.into());
        #[cfg(any(windows, all(target_vendor = "apple", not(target_os = "macos"))))]
        Err(io::ErrorKind::Unsupported.into())
    }

    /// What [`set_tos`](Self::set_tos) sets.
    ///
    /// # Errors
    ///
    /// The system's; `Unsupported` for IPv6 on Windows and iOS.
    #[cfg(not(target_os = "solaris"))]
    pub fn tos(&self) -> io::Result<u8> {
        if !self.is_v6 {
            return octet(self.socket.tos_v4()?);
        }
        #[cfg(not(any(windows, all(target_vendor = "apple", not(target_os = "macos")))))]
        return octet(self.socket.tclass_v6()?);
        #[cfg(any(windows, all(target_vendor = "apple", not(target_os = "macos"))))]
        Err(io::ErrorKind::Unsupported.into())
    }

    /// How long sent data may stay unacknowledged, or queued in the kernel, before the connection
    /// is ended with `TimedOut` (`TCP_USER_TIMEOUT`, RFC 5482), in milliseconds; `None` leaves it
    /// to the system. Linux only.
    ///
    /// # Errors
    ///
    /// The system's.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn set_user_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_tcp_user_timeout(timeout)
    }

    /// What [`set_user_timeout`](Self::set_user_timeout) sets.
    ///
    /// # Errors
    ///
    /// The system's.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn user_timeout(&self) -> io::Result<Option<Duration>> {
        self.socket.tcp_user_timeout()
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    option! {
        notsent_lowat, set_notsent_lowat: u32 => tcp_notsent_lowat, set_tcp_notsent_lowat;
        "How many unsent bytes the kernel takes of a connection before it refuses more"
        "(`TCP_NOTSENT_LOWAT`, tcp(7)). A small number keeps what is not sent yet in the reactor's"
        "queue, where it is counted, and where what is urgent has less before it. Linux only."
    }

    /// The interface that the socket is bound to (`SO_BINDTODEVICE`), by
    /// [`ListenOptions::device`](crate::ListenOptions::device) and its like. Linux only.
    ///
    /// # Errors
    ///
    /// The system's.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn device(&self) -> io::Result<Option<String>> {
        let device = self.socket.device()?;
        Ok(device.map(|name| String::from_utf8_lossy(&name).into_owned()))
    }

    /// Whether the address may be shared as
    /// [`ListenOptions::reuse_addr`](crate::ListenOptions::reuse_addr) says.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn reuse_addr(&self) -> io::Result<bool> {
        self.socket.reuse_address()
    }

    /// Whether the address may be shared as
    /// [`ListenOptions::reuse_port`](crate::ListenOptions::reuse_port) says.
    ///
    /// # Errors
    ///
    /// The system's.
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
    pub fn reuse_port(&self) -> io::Result<bool> {
        self.socket.reuse_port()
    }

    /// Whether an IPv6 socket leaves IPv4 alone.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn only_v6(&self) -> io::Result<bool> {
        self.socket.only_v6()
    }

    option! {
        broadcast, set_broadcast: bool => broadcast, set_broadcast;
        "Allows datagrams to broadcast addresses (`SO_BROADCAST`)."
    }

    /// Whether sockets of this host hear what this one sends to a group (`IP_MULTICAST_LOOP`,
    /// `IPV6_MULTICAST_LOOP`).
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn set_multicast_loop(&self, on: bool) -> io::Result<()> {
        if self.is_v6 {
            self.socket.set_multicast_loop_v6(on)
        } else {
            self.socket.set_multicast_loop_v4(on)
        }
    }

    /// What [`set_multicast_loop`](Self::set_multicast_loop) sets.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn multicast_loop(&self) -> io::Result<bool> {
        if self.is_v6 {
            self.socket.multicast_loop_v6()
        } else {
            self.socket.multicast_loop_v4()
        }
    }

    /// How many routers a datagram to a group may pass (`IP_MULTICAST_TTL`,
    /// `IPV6_MULTICAST_HOPS`); 0 keeps it on this host.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn set_multicast_ttl(&self, hops: u8) -> io::Result<()> {
        if self.is_v6 {
            self.socket.set_multicast_hops_v6(hops.into())
        } else {
            self.socket.set_multicast_ttl_v4(hops.into())
        }
    }

    /// What [`set_multicast_ttl`](Self::set_multicast_ttl) sets.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn multicast_ttl(&self) -> io::Result<u8> {
        octet(if self.is_v6 {
            self.socket.multicast_hops_v6()?
        } else {
            self.socket.multicast_ttl_v4()?
        })
    }

    /// Joins a group on the interface that has the address `interface`; on one that the system
    /// chooses where it is unspecified.
    ///
    /// # Errors
    ///
    /// The system's: no such interface, for example, or an address that is no group's.
    pub fn join_multicast_v4(&self, group: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        self.socket.join_multicast_v4(&group, &interface)
    }

    /// Joins a group on the interface with the index `interface`; on one that the system chooses
    /// where it is 0.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn join_multicast_v6(&self, group: Ipv6Addr, interface: u32) -> io::Result<()> {
        self.socket.join_multicast_v6(&group, interface)
    }

    /// Leaves a group that was joined on that interface.
    ///
    /// # Errors
    ///
    /// The system's: that it was not joined.
    pub fn leave_multicast_v4(&self, group: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        self.socket.leave_multicast_v4(&group, &interface)
    }

    /// Leaves a group that was joined on that interface.
    ///
    /// # Errors
    ///
    /// The system's: that it was not joined.
    pub fn leave_multicast_v6(&self, group: Ipv6Addr, interface: u32) -> io::Result<()> {
        self.socket.leave_multicast_v6(&group, interface)
    }

    /// Sends what goes to a group by the interface that has this address (`IP_MULTICAST_IF`); by
    /// one that the system chooses where it is unspecified.
    ///
    /// # Errors
    ///
    /// The system's: no such interface, for example.
    pub fn set_multicast_if_v4(&self, interface: Ipv4Addr) -> io::Result<()> {
        self.socket.set_multicast_if_v4(&interface)
    }

    /// Sends what goes to a group by the interface with this index (`IPV6_MULTICAST_IF`); by one
    /// that the system chooses where it is 0.
    ///
    /// # Errors
    ///
    /// The system's: no such interface, for example.
    pub fn set_multicast_if_v6(&self, interface: u32) -> io::Result<()> {
        self.socket.set_multicast_if_v6(interface)
    }
}

/// What the system tells as a number, and is one byte in the packet.
fn octet(number: u32) -> io::Result<u8> {
    u8::try_from(number).map_err(|_| io::ErrorKind::InvalidData.into())
}
