//! Options that are set before a socket listens, connects or is bound.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "tls")]
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use socket2::{Domain, SockRef, Socket, Type};

use super::udp_batch::Wanted;
use super::{SocketRef, to_sock_addr};
use crate::addr::Addr;
use crate::error::invalid_input;
use crate::proxy_header::{ProxyHeader, ProxyProtocol};
use crate::setters::setters;

/// Options that are set before the bind, for all types of sockets.
#[derive(Debug, Clone, Default)]
struct Before {
    reuse_addr: Option<bool>,
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
    reuse_port: bool,
    only_v6: Option<bool>,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    device: Option<String>,
    recv_buffer_len: Option<usize>,
    send_buffer_len: Option<usize>,
}

impl Before {
    /// Opens a non-blocking socket with these options. Child processes do not inherit the socket.
    /// The argument `reuse_addr` applies if the option `reuse_addr` is not set.
    fn open(&self, domain: Domain, kind: Type, reuse_addr: bool) -> io::Result<Socket> {
        let socket = new_nonblocking(domain, kind)?;
        if self.reuse_addr.unwrap_or(reuse_addr) && domain != Domain::UNIX {
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

/// Opens a non-blocking socket, with one system call if the system supports it.
pub(super) fn new_nonblocking(domain: Domain, kind: Type) -> io::Result<Socket> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    return Socket::new(domain, kind.nonblocking(), None);
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    {
        let socket = Socket::new(domain, kind, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// Builder functions that all three option types share.
macro_rules! before {
    () => {
        /// Creates options with the defaults.
        #[must_use]
        pub fn new() -> Self {
            Self::default()
        }

        setters! {
            /// Allows several sockets to be bound to one address (`SO_REUSEPORT`, socket(7)). The
            /// sockets may belong to several processes of one user, and each socket must set the
            /// option. Linux and DragonFly distribute connections and datagrams over these sockets.
            /// Other systems may deliver everything to one socket. Off by default. Not available on
            /// Windows, Solaris and illumos.
            #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
            reuse_port(on: bool) => before.reuse_port = on;

            /// Restricts the socket to one network interface (`SO_BINDTODEVICE`, socket(7)). `ip
            /// link` lists the names. Linux only.
            #[cfg(any(target_os = "linux", target_os = "android"))]
            device(name: impl Into<String>) => before.device = Some(name.into());

            /// Sets the size of the kernel's receive buffer in bytes (`SO_RCVBUF`). The option is
            /// set before the handshake, because the handshake fixes the maximum TCP window
            /// (tcp(7)). Linux limits the number to `net.core.rmem_max`, and then doubles it for
            /// its bookkeeping. By default the kernel adapts the size to a TCP connection; a fixed
            /// size turns the adaptation off.
            recv_buffer_len(bytes: usize) => before.recv_buffer_len = Some(bytes);

            /// Sets the size of the kernel's send buffer in bytes (`SO_SNDBUF`). Linux limits the
            /// number to `net.core.wmem_max`, and then doubles it for its bookkeeping. By default
            /// the kernel adapts the size to a TCP connection; a fixed size turns the adaptation
            /// off.
            send_buffer_len(bytes: usize) => before.send_buffer_len = Some(bytes);
        }
    };
}

/// Options of a listener, for [`Context::listen_with`](crate::Context::listen_with).
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
/// # }
///
/// // Several reactors, each in its own thread, can share a port if its number is not 0.
/// let options = ListenOptions::new().reuse_port(true).backlog(1024);
/// let mut reactor = Reactor::new(Nothing)?;
/// reactor.with(|_, cx| cx.listen_with("127.0.0.1:0", Framing::line(), &options))?;
/// # Ok(())
/// # }
/// # #[cfg(any(windows, target_os = "solaris", target_os = "illumos"))]
/// # fn main() {}
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ListenOptions {
    before: Before,
    backlog: Option<u32>,
    pub(crate) proxy: Option<Arc<ProxyProtocol>>,
    pub(crate) key: u64,
    /// The configuration of TLS, and true if TLS is optional.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<(Arc<ServerConfig>, bool)>,
}

impl ListenOptions {
    before!();

    setters! {
        /// Allows the bind while connections of an earlier listener still use the address
        /// (`SO_REUSEADDR`). On by default, except on Windows: there the option allows another
        /// socket to take over the address.
        reuse_addr(on: bool) => before.reuse_addr = Some(on);

        /// Restricts a listener at an IPv6 address to IPv6 (`IPV6_V6ONLY`). On by default if one
        /// call listens at IPv4 and IPv6 addresses. Otherwise the system decides: on Linux `[::]`
        /// accepts IPv4 too. No effect at an IPv4 address.
        only_v6(on: bool) => before.only_v6 = Some(on);

        /// Sets the maximum number of connections that wait to be accepted. The kernel may lower
        /// this number (`net.core.somaxconn` on Linux). The default is
        /// [`Config::backlog`](crate::Config::backlog), which describes how to notice a backlog
        /// that is too short. Zero selects the minimum of the system: one on Linux.
        backlog(connections: u32) => backlog = Some(connections);

        /// Receives a header of the PROXY protocol, version 1 or 2, before the first frame of each
        /// connection. [`Context::proxied`](crate::Context::proxied) returns it. Off by default.
        ///
        /// [`on_open`](crate::Handler::on_open) is called when the header is complete. If the
        /// header is invalid, or is missing although it is [required](ProxyProtocol::required), the
        /// connection is reset. Then [`on_close`](crate::Handler::on_close) alone is called, with
        /// [`CloseReason::ProxyHeader`](crate::CloseReason::ProxyHeader).
        /// [`Config::connections_per_addr_max`](crate::Config::connections_per_addr_max) applies to
        /// the client that the header announces. [`on_refused`](crate::Handler::on_refused) reports
        /// a client with too many connections. If the header is required, `on_refused` also reports
        /// a peer that is not trusted.
        proxy_protocol(policy: ProxyProtocol) => proxy = Some(Arc::new(policy));

        /// Sets a number that [`Handler::on_open`](crate::Handler::on_open) gets, in
        /// [`Origin::Accepted`](crate::Origin::Accepted), for each connection of the listener. The
        /// program chooses it, for example one number for each protocol:
        /// [`Origin`](crate::Origin) has an example. Default: 0.
        key(key: u64) => key = key;

        /// Accepts TLS. [`on_open`](crate::Handler::on_open) is called after the handshake.
        /// [The guide](crate::guide::tls) has examples. Not available for UDP.
        ///
        /// The listen fails with `InvalidInput` if `max_early_data_size` is not 0, because early
        /// data can be replayed. [`Context::set_listener_tls`] replaces the configuration.
        ///
        /// [`Context::set_listener_tls`]: crate::Context::set_listener_tls
        #[cfg(feature = "tls")]
        tls(config: Arc<ServerConfig>) => tls = Some((config, false));

        /// Accepts both TLS and plain connections: the first byte of the client decides. Each TLS
        /// session starts with the byte 0x16. So the plain protocol must not start with this byte,
        /// and the client must send first. [`Context::tls`](crate::Context::tls) returns `None` for
        /// a plain connection. A client that sends nothing is closed after
        /// [`Config::tls_handshake_timeout`](crate::Config::tls_handshake_timeout).
        #[cfg(feature = "tls")]
        tls_or_plain(config: Arc<ServerConfig>) => tls = Some((config, true));
    }

    /// Turns `only_v6` on, unless the program has set the option.
    pub(crate) fn or_only_v6(&mut self) {
        self.before.only_v6.get_or_insert(true);
    }

    /// Opens a listening socket.
    pub(super) fn listen(&self, addr: &Addr, backlog: u32) -> io::Result<Socket> {
        let addr = to_sock_addr(addr)?;
        // On Unix, the option allows a server to restart while old connections are in TIME-WAIT.
        // On Windows, it would allow two servers to share a port.
        let reuse_addr = cfg!(unix);
        let socket = self.before.open(addr.domain(), Type::STREAM, reuse_addr)?;
        socket.bind(&addr)?;
        let backlog = self.backlog.unwrap_or(backlog);
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(socket)
    }
}

/// Options of a connect, for [`Context::connect_with`](crate::Context::connect_with).
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
///     .local_addr(SocketAddr::from(([127, 0, 0, 1], 0)));
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ConnectOptions {
    before: Before,
    pub(crate) timeout: Option<Duration>,
    local_addr: Option<Addr>,
    pub(crate) proxy_header: Option<Vec<u8>>,
    /// The configuration of TLS, and the name of the server.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl ConnectOptions {
    before!();

    setters! {
        /// Sets the time limit of the connect over all addresses that it tries. The lookup of a
        /// name is not included. At the limit all pending attempts are closed, and the connect
        /// fails with `TimedOut`. Default:
        /// [`Config::connect_deadline`](crate::Config::connect_deadline). With zero, only a connect
        /// that completes before the next turn can succeed.
        timeout(timeout: Duration) => timeout = Some(timeout);

        /// Sets the local address of the connection: a [`SocketAddr`], or a path or name of a Unix
        /// socket. Port 0 chooses a free port. A connect to an address of another family fails, and
        /// the next address of the peer is tried.
        ///
        /// Two attempts cannot use one port. So with a port other than 0, the attempts of a name
        /// with several addresses do not overlap. The next address is tried when the attempt before
        /// it fails.
        local_addr(addr: impl Into<Addr>) => local_addr = Some(addr.into());

        /// Sends a header of the PROXY protocol before the first frame, so that the server knows
        /// the client for which this connection is opened. Off by default.
        ///
        /// The server must expect the header. [`on_open`](crate::Handler::on_open) is called after
        /// the kernel took the header.
        proxy_header(header: &ProxyHeader) => proxy_header = Some(header.encode());

        /// Allows a [`local_addr`](Self::local_addr) that an earlier connection still uses
        /// (`SO_REUSEADDR`). Off by default.
        reuse_addr(on: bool) => before.reuse_addr = Some(on);
    }

    /// Opens a TLS session. `name` is the name that the certificate of the server must have. The
    /// name is sent to the server (SNI, RFC 6066), unless it is an IP address.
    ///
    /// [`on_open`](crate::Handler::on_open) is called after the handshake, which has a separate
    /// deadline: [`Config::tls_handshake_timeout`](crate::Config::tls_handshake_timeout). Payloads
    /// sent before `on_open` are queued. The connect fails with `InvalidInput` if
    /// `enable_early_data` is true, because early data can be replayed.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, config: Arc<ClientConfig>, name: ServerName<'static>) -> Self {
        self.tls = Some((config, name));
        self
    }

    /// Returns true if the program has chosen the local port. Two attempts cannot use it together.
    pub(crate) fn has_local_port(&self) -> bool {
        let local = self.local_addr.as_ref().and_then(Addr::inet);
        local.is_some_and(|local| local.port() != 0)
    }

    /// Opens a socket and starts its connect. An event reports the end of the connect.
    pub(super) fn connect(&self, addr: &Addr) -> io::Result<Socket> {
        if addr.inet().is_some_and(names_no_server) {
            let error = format!(
                "{addr} is not the address of a TCP server: the port is 0, or the address is \
                 multicast or broadcast"
            );
            return Err(invalid_input(error));
        }
        let addr = to_sock_addr(addr)?;
        let socket = self.before.open(addr.domain(), Type::STREAM, false)?;
        if let Some(local) = &self.local_addr {
            socket.bind(&to_sock_addr(local)?)?;
        }
        match socket.connect(&addr) {
            // The connect of a Unix socket succeeds or fails at once. `WouldBlock` means that the
            // backlog of the listener is full. No event reports when it has space (connect(2)).
            Err(error) if addr.is_unix() || !is_under_way(&error) => Err(error),
            _ => Ok(socket),
        }
    }
}

/// Returns true if the port is 0 or the address names a group of hosts (RFC 1122, 4.2.3.10). An
/// IPv4-mapped IPv6 address is checked as an IPv4 address.
pub(crate) fn names_no_server(addr: SocketAddr) -> bool {
    addr.port() == 0
        || match addr.ip().to_canonical() {
            IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_multicast(),
        }
}

/// Error number `EINPROGRESS`, for which there is no stable [`ErrorKind`]. Its value differs
/// between Linux, BSD and System V. Windows returns `WouldBlock` instead.
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

/// Returns true if the error means that a non-blocking connect is in progress. A signal does not
/// cancel the connect (connect(2), EINTR).
fn is_under_way(error: &io::Error) -> bool {
    error.raw_os_error() == Some(IN_PROGRESS)
        || matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Options of a UDP socket, for [`Context::bind_udp_with`](crate::Context::bind_udp_with).
///
/// # Examples
///
/// ```
/// use std::net::Ipv4Addr;
/// use unstick::UdpOptions;
///
/// // Receives datagrams to a group, next to other receivers on this host.
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
    #[cfg(target_os = "linux")]
    multicast_all: Option<bool>,
    pub(super) wanted: Wanted,
    pub(crate) proxy: Option<Arc<ProxyProtocol>>,
    groups_v4: Vec<(Ipv4Addr, Ipv4Addr)>,
    groups_v6: Vec<(Ipv6Addr, u32)>,
}

impl UdpOptions {
    before!();

    setters! {
        /// Allows several sockets to be bound to one address (`SO_REUSEADDR`). Each of these
        /// sockets must set the option. A multicast or broadcast datagram is delivered to all of
        /// the sockets, any other datagram to one of them. Off by default.
        reuse_addr(on: bool) => before.reuse_addr = Some(on);

        /// Restricts a socket at an IPv6 address to IPv6 (`IPV6_V6ONLY`). By default the system
        /// decides. No effect at an IPv4 address.
        only_v6(on: bool) => before.only_v6 = Some(on);

        /// Allows datagrams to broadcast addresses (`SO_BROADCAST`). Off by default.
        broadcast(on: bool) => broadcast = on;

        /// Lets receivers on this host also get the datagrams that this socket sends to a group
        /// (`IP_MULTICAST_LOOP`, `IPV6_MULTICAST_LOOP`). The system's default is on.
        multicast_loop(on: bool) => multicast_loop = Some(on);

        /// Sets the number of hops of a datagram to a group (`IP_MULTICAST_TTL`,
        /// `IPV6_MULTICAST_HOPS`). The system's default is 1, the local network.
        multicast_ttl(hops: u8) => multicast_ttl = Some(hops);

        /// Removes the header of the PROXY protocol, version 2, from the start of each datagram.
        /// [`Datagram::proxied`](crate::Datagram::proxied) returns it. Off by default.
        ///
        /// A datagram with an invalid header is dropped. If the header is
        /// [required](ProxyProtocol::required), a datagram without a header or from a sender that
        /// is not trusted is dropped too. Each dropped datagram counts in
        /// [`Stats::datagrams_refused`](crate::Stats::datagrams_refused). A sender can forge its
        /// address, so trust a network only if a firewall protects it.
        proxy_protocol(policy: ProxyProtocol) => proxy = Some(Arc::new(policy));
    }

    /// Receives datagrams to groups that other sockets of this host have joined
    /// (`IP_MULTICAST_ALL`, `IPV6_MULTICAST_ALL`). The system's default is on: a socket bound to a
    /// wildcard address and the port of a group receives the group's datagrams as soon as any
    /// process joins it. Turn the option off to receive only the groups that this socket joined.
    /// [`Datagram::to`](crate::Datagram::to) is the group of a datagram. Linux only.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn multicast_all(mut self, on: bool) -> Self {
        self.multicast_all = Some(on);
        self
    }

    /// Joins a multicast group on the interface with the address `interface`. If this address is
    /// unspecified, the system chooses an interface. Call the method once per group.
    #[must_use]
    pub fn join_multicast_v4(mut self, group: Ipv4Addr, interface: Ipv4Addr) -> Self {
        self.groups_v4.push((group, interface));
        self
    }

    /// Joins a multicast group on the interface with the index `interface`. If this index is 0, the
    /// system chooses an interface. Call the method once per group.
    #[must_use]
    pub fn join_multicast_v6(mut self, group: Ipv6Addr, interface: u32) -> Self {
        self.groups_v6.push((group, interface));
        self
    }

    /// Reports the destination of each datagram, in [`Datagram::to`](crate::Datagram::to) and
    /// [`Datagram::interface`](crate::Datagram::interface) (`IP_PKTINFO`, `IPV6_RECVPKTINFO`). A
    /// reply to the datagram is sent from its destination address.
    ///
    /// On by default for a socket bound to a wildcard address such as `0.0.0.0`, and off for a
    /// socket bound to one address. A client drops a reply that comes from another address than the
    /// request was sent to (RFC 2181, 4.1). Linux only; needs the feature `udp-batch`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use unstick::{ConnId, Context, Handler};
    /// use unstick::{Datagram, Reactor, UdpId, UdpOptions};
    ///
    /// struct Echo;
    ///
    /// impl Handler for Echo {
    ///     type Session = ();
    ///
    ///     fn on_datagram(&mut self, cx: &mut Context<'_, Self>, udp: UdpId, got: Datagram<'_>) {
    ///         println!("{} asked {:?}", got.from, got.to());
    ///         let _ = cx.send_to(udp, got.from, got.data); // leaves from `got.to()`
    ///     }
    /// }
    ///
    /// let mut reactor = Reactor::new(Echo)?;
    /// let options = UdpOptions::new().ecn(true).receive_time(true);
    /// let udp = reactor.with(|_, cx| cx.bind_udp_with("0.0.0.0:0", &options))?;
    /// # let port = reactor.local_inet_addr(udp)?.port();
    /// # let peer = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// # peer.connect(("127.0.0.7", port))?;
    /// # peer.send(b"request")?;
    /// # while reactor.stats().datagrams_out == 0 { reactor.turn(None)?; }
    /// # assert_eq!(peer.recv(&mut [0; 9])?, 7);
    /// # std::io::Result::Ok(())
    /// ```
    #[cfg(all(feature = "udp-batch", any(target_os = "linux", target_os = "android")))]
    #[must_use]
    pub fn destination(mut self, on: bool) -> Self {
        self.wanted.destination = Some(on);
        self
    }

    /// Reports the ECN mark of each datagram, in [`Datagram::ecn`](crate::Datagram::ecn)
    /// (`IP_RECVTOS`, `IPV6_RECVTCLASS`). Off by default. [`Route::tos`](crate::Route::tos) sets
    /// the mark of a sent datagram. Linux only; needs the feature `udp-batch`.
    #[cfg(all(feature = "udp-batch", any(target_os = "linux", target_os = "android")))]
    #[must_use]
    pub fn ecn(mut self, on: bool) -> Self {
        self.wanted.ecn = on;
        self
    }

    /// Reports when the kernel received each datagram, in
    /// [`Datagram::received_at`](crate::Datagram::received_at) (`SO_TIMESTAMPNS`). Off by default.
    /// A socket with this option receives one message per system call. Linux only; needs the
    /// feature `udp-batch`.
    #[cfg(all(feature = "udp-batch", any(target_os = "linux", target_os = "android")))]
    #[must_use]
    pub fn receive_time(mut self, on: bool) -> Self {
        self.wanted.receive_time = on;
        self
    }

    /// Counts datagrams that the kernel dropped because the receive buffer was full, in
    /// [`Stats::datagrams_overflowed`](crate::Stats::datagrams_overflowed) (`SO_RXQ_OVFL`). The
    /// kernel reports a loss with the next datagram that it queues. Off by default. A socket with
    /// this option receives one message per system call. Linux only; needs the feature `udp-batch`.
    #[cfg(all(feature = "udp-batch", any(target_os = "linux", target_os = "android")))]
    #[must_use]
    pub fn count_overflows(mut self, on: bool) -> Self {
        self.wanted.kernel_drops = on;
        self
    }

    /// Opens and binds a socket.
    pub(super) fn bind(&self, addr: SocketAddr) -> io::Result<Socket> {
        let domain = Domain::for_address(addr);
        let socket = self.before.open(domain, Type::DGRAM, false)?;
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
        #[cfg(target_os = "linux")]
        if let Some(on) = self.multicast_all {
            // An IPv6 socket may be a member of IPv4 groups too, so the IPv4 option is always set.
            // Its error is ignored for an IPv6 socket, because the system may not support it.
            let v4 = socket.set_multicast_all_v4(on);
            if live.is_v6 {
                socket.set_multicast_all_v6(on)?;
            } else {
                v4?;
            }
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

#[cfg(any(test, feature = "sim"))]
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
