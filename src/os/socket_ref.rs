//! Options of a live socket.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};

use crate::setters::setters;

/// Times of the kernel's keep-alive probes, which check that the peer of a silent connection still
/// responds (`SO_KEEPALIVE`, tcp(7)). For a value that is not set, the system's default applies.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use unstick::Keepalive;
///
/// // Probes after a minute of silence, every ten seconds; a reset after three without a reply.
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
    /// Creates keep-alive options with the system's times. Linux sends the first probe after two
    /// hours by default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// Sets the time of silence before the first probe (`TCP_KEEPIDLE`). Most systems count
        /// whole seconds. The value is ignored on OpenBSD, which has no such option.
        idle(time: Duration) => idle = Some(time);

        /// Sets the time between two probes (`TCP_KEEPINTVL`). Most systems count whole seconds.
        /// The value is ignored on OpenBSD and Solaris.
        interval(time: Duration) => interval = Some(time);

        /// Sets the number of probes without a reply after which the connection is reset
        /// (`TCP_KEEPCNT`). The value is ignored on OpenBSD and Solaris.
        count(probes: u32) => count = Some(probes);
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

/// The options of a live socket, from [`Context::socket`](crate::Context::socket). Each function
/// makes at most four system calls.
///
/// The usual reason for an error is that this type of socket does not have the option, for example
/// a TCP option of a UDP socket. The error is then `InvalidInput`, `Unsupported`, or has no
/// specific kind. The socket stays usable.
///
/// [`Context::socket_options`](crate::Context::socket_options) gives access to further options.
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

/// Defines a getter and a setter that call the getter and the setter of socket2.
macro_rules! option {
    ($(#[$doc:meta])+ $get:ident, $set:ident: $type:ty => $raw_get:ident, $raw_set:ident) => {
        $(#[$doc])+
        ///
        /// # Errors
        ///
        /// The system's error, if it does not accept the option or the value.
        pub fn $set(&self, value: $type) -> io::Result<()> {
            self.socket.$raw_set(value)
        }

        #[doc = concat!("Returns the value of [`Self::", stringify!($set), "`].")]
        ///
        /// # Errors
        ///
        /// The system's error, if the socket does not have the option.
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
        /// Turns Nagle's algorithm off if the value is true, so that small writes are sent at once
        /// (`TCP_NODELAY`, RFC 896). Turns the algorithm on if the value is false.
        /// [`Config::nodelay`](crate::Config::nodelay) sets this option for new connections.
        nodelay, set_nodelay: bool => tcp_nodelay, set_tcp_nodelay
    }

    option! {
        /// Sets the size of the kernel's receive buffer in bytes (`SO_RCVBUF`). Linux limits the
        /// number to `net.core.rmem_max`, doubles it, and returns the doubled number. For a TCP
        /// window above 64 KiB, set the size before the handshake:
        /// [`ListenOptions::recv_buffer_len`](crate::ListenOptions::recv_buffer_len).
        recv_buffer_len, set_recv_buffer_len: usize => recv_buffer_size, set_recv_buffer_size
    }

    option! {
        /// Sets the size of the kernel's send buffer in bytes (`SO_SNDBUF`). Linux limits the
        /// number to `net.core.wmem_max`, doubles it, and returns the doubled number.
        send_buffer_len, set_send_buffer_len: usize => send_buffer_size, set_send_buffer_size
    }

    /// Turns keep-alive probes of a TCP connection on, or off with `None` (`SO_KEEPALIVE`). The
    /// probes end a connection only if its peer does not reply. In contrast, an [idle
    /// timeout](crate::Config::idle_timeout) ends any connection without traffic.
    ///
    /// # Errors
    ///
    /// The system's error, if the socket does not have the option.
    pub fn set_keepalive(&self, keepalive: Option<Keepalive>) -> io::Result<()> {
        match keepalive {
            Some(keepalive) => self.socket.set_tcp_keepalive(&keepalive.to_socket2()),
            None => self.socket.set_keepalive(false),
        }
    }

    /// Returns the options of the keep-alive probes; `None` if the probes are off. Options that the
    /// program did not set have the system's values. Windows reports only the number of probes, and
    /// OpenBSD and Solaris report none of the options.
    ///
    /// # Errors
    ///
    /// The system's error, if the socket does not have the option.
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

    /// Sets the maximum number of hops of a packet, 1 to 255 (`IP_TTL`, `IPV6_UNICAST_HOPS`).
    ///
    /// # Errors
    ///
    /// The system's error, if the socket does not have the option.
    pub fn set_ttl(&self, hops: u8) -> io::Result<()> {
        if !self.is_v6 {
            return self.socket.set_ttl_v4(hops.into());
        }
        // An IPv6 socket may carry IPv4 too, so the IPv4 option is set too. Its error is ignored,
        // because the system may not support IPv4 on this socket.
        let _ = self.socket.set_ttl_v4(hops.into());
        self.socket.set_unicast_hops_v6(hops.into())
    }

    /// Returns the value of [`set_ttl`](Self::set_ttl).
    ///
    /// # Errors
    ///
    /// The system's error, if the socket does not have the option.
    pub fn ttl(&self) -> io::Result<u8> {
        octet(self.by_family(Socket::ttl_v4, Socket::unicast_hops_v6)?)
    }

    /// Sets the traffic class byte of packets (`IP_TOS`, `IPV6_TCLASS`). Its upper six bits are the
    /// DSCP (RFC 2474). The lower two bits belong to ECN, and TCP sets them itself. Not available
    /// on Solaris. On Windows, and on Apple's systems except macOS, available only for IPv4.
    ///
    /// # Errors
    ///
    /// * `Unsupported` for IPv6 on Windows, and on Apple's systems except macOS.
    /// * The system's error, if the socket does not have the option.
    #[cfg(not(target_os = "solaris"))]
    pub fn set_tos(&self, tos: u8) -> io::Result<()> {
        if !self.is_v6 {
            return self.socket.set_tos_v4(tos.into());
        }
        // An IPv6 socket may carry IPv4 too, so the IPv4 option is set too. Its error is ignored,
        // because the system may not support IPv4 on this socket.
        let _ = self.socket.set_tos_v4(tos.into());
        #[cfg(not(any(windows, all(target_vendor = "apple", not(target_os = "macos")))))]
        return self.socket.set_tclass_v6(tos.into());
        #[cfg(any(windows, all(target_vendor = "apple", not(target_os = "macos"))))]
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Returns the value of [`set_tos`](Self::set_tos).
    ///
    /// # Errors
    ///
    /// * `Unsupported` for IPv6 on Windows, and on Apple's systems except macOS.
    /// * The system's error, if the socket does not have the option.
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

    #[cfg(any(target_os = "linux", target_os = "android"))]
    option! {
        /// Sets the time limit for data that is unacknowledged or queued in the kernel
        /// (`TCP_USER_TIMEOUT`, RFC 5482). At the limit, the connection ends with `TimedOut`. The
        /// kernel counts whole milliseconds. `None`, or less than a millisecond, restores the
        /// system's limit. Linux only.
        user_timeout, set_user_timeout: Option<Duration> => tcp_user_timeout, set_tcp_user_timeout
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    option! {
        /// Sets the number of unsent bytes at which the kernel accepts no further bytes for a
        /// connection (`TCP_NOTSENT_LOWAT`; `tcp_notsent_lowat` in ip-sysctl.rst). With a small
        /// number, unsent bytes stay in the write queue of the reactor, where they are counted.
        /// Linux only.
        notsent_lowat, set_notsent_lowat: u32 => tcp_notsent_lowat, set_tcp_notsent_lowat
    }

    /// Returns the network interface that the socket is restricted to (`SO_BINDTODEVICE`): see
    /// [`ListenOptions::device`](crate::ListenOptions::device). Linux only.
    ///
    /// # Errors
    ///
    /// The system's error, if the socket does not have the option.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn device(&self) -> io::Result<Option<String>> {
        let device = self.socket.device()?;
        Ok(device.map(|name| String::from_utf8_lossy(&name).into_owned()))
    }

    /// Returns true if `SO_REUSEADDR` is on: see
    /// [`ListenOptions::reuse_addr`](crate::ListenOptions::reuse_addr).
    ///
    /// # Errors
    ///
    /// The system's error, if the socket does not have the option.
    pub fn reuse_addr(&self) -> io::Result<bool> {
        self.socket.reuse_address()
    }

    /// Returns true if `SO_REUSEPORT` is on: see
    /// [`ListenOptions::reuse_port`](crate::ListenOptions::reuse_port).
    ///
    /// # Errors
    ///
    /// The system's error, if the socket does not have the option.
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
    pub fn reuse_port(&self) -> io::Result<bool> {
        self.socket.reuse_port()
    }

    /// Returns true if an IPv6 socket is restricted to IPv6.
    ///
    /// # Errors
    ///
    /// The system's error, if the socket does not have the option.
    pub fn only_v6(&self) -> io::Result<bool> {
        self.socket.only_v6()
    }

    option! {
        /// Allows datagrams to broadcast addresses (`SO_BROADCAST`).
        broadcast, set_broadcast: bool => broadcast, set_broadcast
    }

    /// Lets receivers on this host also get the datagrams that this socket sends to a group
    /// (`IP_MULTICAST_LOOP`, `IPV6_MULTICAST_LOOP`).
    ///
    /// # Errors
    ///
    /// The system's error, if the socket does not have the option.
    pub fn set_multicast_loop(&self, on: bool) -> io::Result<()> {
        self.by_family(
            |socket| socket.set_multicast_loop_v4(on),
            |socket| socket.set_multicast_loop_v6(on),
        )
    }

    /// Returns the value of [`set_multicast_loop`](Self::set_multicast_loop).
    ///
    /// # Errors
    ///
    /// The system's error, if the socket does not have the option.
    pub fn multicast_loop(&self) -> io::Result<bool> {
        self.by_family(Socket::multicast_loop_v4, Socket::multicast_loop_v6)
    }

    /// Sets the maximum number of hops of a datagram to a group (`IP_MULTICAST_TTL`,
    /// `IPV6_MULTICAST_HOPS`). With 0, the datagram stays on this host.
    ///
    /// # Errors
    ///
    /// The system's error, if the socket does not have the option.
    pub fn set_multicast_ttl(&self, hops: u8) -> io::Result<()> {
        self.by_family(
            |socket| socket.set_multicast_ttl_v4(hops.into()),
            |socket| socket.set_multicast_hops_v6(hops.into()),
        )
    }

    /// Returns the value of [`set_multicast_ttl`](Self::set_multicast_ttl).
    ///
    /// # Errors
    ///
    /// The system's error, if the socket does not have the option.
    pub fn multicast_ttl(&self) -> io::Result<u8> {
        octet(self.by_family(Socket::multicast_ttl_v4, Socket::multicast_hops_v6)?)
    }

    /// Joins a multicast group on the interface with the address `interface`. If this address is
    /// unspecified, the system chooses an interface.
    ///
    /// # Errors
    ///
    /// The system's error, for example if there is no such interface, if `group` is not a multicast
    /// address, or if the socket has already joined it.
    pub fn join_multicast_v4(&self, group: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        self.socket.join_multicast_v4(&group, &interface)
    }

    /// Joins a multicast group on the interface with the index `interface`. If this index is 0, the
    /// system chooses an interface.
    ///
    /// # Errors
    ///
    /// The system's error, for example if there is no such interface, if `group` is not a multicast
    /// address, or if the socket has already joined it.
    pub fn join_multicast_v6(&self, group: Ipv6Addr, interface: u32) -> io::Result<()> {
        self.socket.join_multicast_v6(&group, interface)
    }

    /// Leaves a multicast group that was joined on the interface with the address `interface`.
    ///
    /// # Errors
    ///
    /// The system's error, if the socket has not joined the group on this interface.
    pub fn leave_multicast_v4(&self, group: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        self.socket.leave_multicast_v4(&group, &interface)
    }

    /// Leaves a multicast group that was joined on the interface with the index `interface`.
    ///
    /// # Errors
    ///
    /// The system's error, if the socket has not joined the group on this interface.
    pub fn leave_multicast_v6(&self, group: Ipv6Addr, interface: u32) -> io::Result<()> {
        self.socket.leave_multicast_v6(&group, interface)
    }

    /// Sets the interface, by its address, for datagrams to a group (`IP_MULTICAST_IF`). If the
    /// address is unspecified, the system chooses an interface.
    ///
    /// # Errors
    ///
    /// The system's error, if there is no such interface.
    pub fn set_multicast_if_v4(&self, interface: Ipv4Addr) -> io::Result<()> {
        self.socket.set_multicast_if_v4(&interface)
    }

    /// Sets the interface, by its index, for datagrams to a group (`IPV6_MULTICAST_IF`). If the
    /// index is 0, the system chooses an interface.
    ///
    /// # Errors
    ///
    /// The system's error, if there is no such interface.
    pub fn set_multicast_if_v6(&self, interface: u32) -> io::Result<()> {
        self.socket.set_multicast_if_v6(interface)
    }

    /// Calls the function for the IP version of the socket.
    fn by_family<T>(
        &self,
        v4: impl FnOnce(&Socket) -> io::Result<T>,
        v6: impl FnOnce(&Socket) -> io::Result<T>,
    ) -> io::Result<T> {
        match self.is_v6 {
            true => v6(&self.socket),
            false => v4(&self.socket),
        }
    }
}

/// Converts the number that the system returns for an option into the byte that packets carry.
fn octet(number: u32) -> io::Result<u8> {
    u8::try_from(number).map_err(|_| io::ErrorKind::InvalidData.into())
}
