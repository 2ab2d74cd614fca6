//! Addresses, options, statistics and recordings of sockets.

use std::io;
use std::net::SocketAddr;
#[cfg(feature = "metrics")]
use std::time::Duration;

use super::Context;
use crate::addr::{Addr, unknown};
use crate::cutmap::{Recording, Segments};
use crate::error::Gone;
use crate::handler::Handler;
use crate::id::{ConnId, SocketId};
use crate::os::SocketRef;
use crate::proxy_header::ProxyHeader;
use crate::stats::{ConnStats, Stats};

/// Addresses and options of sockets.
impl<H: Handler> Context<'_, H> {
    /// Returns the IP address and port of a TCP connection's peer. Makes no system call.
    ///
    /// While the connect is in progress, this is the address that was tried last. The address stays
    /// available until `on_close` has returned. The address of an IPv4 peer is in IPv4 form, even
    /// if the socket is an IPv6 socket.
    ///
    /// # Errors
    ///
    /// * `NotConnected`: the connection is closed.
    /// * `AddrNotAvailable`: no address is known, because the connect could not begin. For example,
    ///   the host name has no address, or a limit of this reactor prevented the connect.
    /// * `Unsupported`: the connection has a Unix socket; use [`peer_addr`](Context::peer_addr).
    pub fn peer_inet_addr(&self, conn: ConnId) -> io::Result<SocketAddr> {
        self.peer_addr(conn)?.inet().ok_or_else(not_inet)
    }

    /// Returns the address of a connection's peer, for TCP and Unix connections. Makes no system
    /// call.
    ///
    /// While the connect is in progress, this is the address that was tried last. The address stays
    /// available until `on_close` has returned. The address of an IPv4 peer is in IPv4 form, even
    /// if the socket is an IPv6 socket.
    ///
    /// # Errors
    ///
    /// * `NotConnected`: the connection is closed.
    /// * `AddrNotAvailable`: no address is known, because the connect could not begin. For example,
    ///   the host name has no address, or a limit of this reactor prevented the connect.
    pub fn peer_addr(&self, conn: ConnId) -> io::Result<Addr> {
        let peer = &self.engine.conn(conn.0)?.peer;
        match *peer == unknown() {
            true => Err(io::ErrorKind::AddrNotAvailable.into()),
            false => Ok(peer.clone()),
        }
    }

    /// Returns the header of the PROXY protocol with which a connection began; `None` for a direct
    /// client or a closed connection.
    ///
    /// [`peer_addr`](Context::peer_addr) returns the address of the balancer. The header stays
    /// available until `on_close` has returned, and moves with a [detached](Context::detach)
    /// connection.
    ///
    /// # Examples
    ///
    /// The address of the client, also if no balancer is in front:
    ///
    /// ```
    /// use unstick::{Addr, ConnId, Context, Handler, ProxyHeader};
    ///
    /// fn client<H: Handler>(cx: &Context<'_, H>, conn: ConnId) -> std::io::Result<Addr> {
    ///     match cx.proxied(conn).and_then(ProxyHeader::source) {
    ///         Some(client) => Ok(client.clone()),
    ///         None => cx.peer_addr(conn), // a direct client, or a check by the balancer itself
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn proxied(&self, conn: ConnId) -> Option<&ProxyHeader> {
        self.engine
            .conn(conn.0)
            .ok()?
            .extras_ref()?
            .proxied
            .as_deref()
    }

    /// Returns the local IP address and port of a connection, a listener or a UDP socket, as
    /// reported by the kernel.
    ///
    /// # Errors
    ///
    /// * `NotConnected`: the socket is closed, or the connection has no socket yet.
    /// * `Unsupported`: the socket is a Unix socket; use [`local_addr`](Context::local_addr).
    /// * Any other error of the system.
    pub fn local_inet_addr(&self, socket: impl Into<SocketId>) -> io::Result<SocketAddr> {
        self.local_addr(socket)?.inet().ok_or_else(not_inet)
    }

    /// Returns the local address of any socket, as reported by the kernel.
    ///
    /// # Errors
    ///
    /// * `NotConnected`: the socket is closed, or the connection has no socket yet.
    /// * Any other error of the system.
    pub fn local_addr(&self, socket: impl Into<SocketId>) -> io::Result<Addr> {
        self.engine.local_addr(socket.into())
    }

    /// Returns access to the options of an open socket.
    ///
    /// # Errors
    ///
    /// * `NotConnected`: the socket is closed, or the connection has no socket yet.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use unstick::{ConnId, Context, Handler, Keepalive};
    /// # fn f<H: Handler>(cx: &mut Context<'_, H>, conn: ConnId) -> std::io::Result<()> {
    /// cx.socket(conn)?.set_keepalive(Some(Keepalive::new().idle(Duration::from_secs(60))))
    /// # }
    /// ```
    pub fn socket(&self, socket: impl Into<SocketId>) -> io::Result<SocketRef<'_>> {
        SocketRef::new(self.engine.options(socket.into())?)
    }

    /// Returns access to the options that [`socket`](Context::socket) does not cover, as a type of
    /// the crate `socket2`.
    ///
    /// Do not set the socket to blocking mode, because the reactor needs a non-blocking socket. A
    /// duplicate descriptor shares the state of the socket: see [`detach`](Context::detach).
    ///
    /// # Errors
    ///
    /// * `NotConnected`: the socket is closed, or the connection has no socket yet.
    ///
    /// # Examples
    ///
    /// ```
    /// # use unstick::{ConnId, Context, Handler};
    /// # fn f<H: Handler>(cx: &mut Context<'_, H>, conn: ConnId) -> std::io::Result<()> {
    /// cx.socket_options(conn)?.set_out_of_band_inline(true)
    /// # }
    /// ```
    pub fn socket_options(&self, socket: impl Into<SocketId>) -> io::Result<socket2::SockRef<'_>> {
        self.engine.options(socket.into())
    }
}

/// Statistics.
impl<H: Handler> Context<'_, H> {
    /// Returns the counters of a connection.
    ///
    /// # Errors
    ///
    /// * [`Gone`]: the connection is closed.
    pub fn conn_stats(&self, conn: ConnId) -> Result<ConnStats, Gone> {
        self.engine.conn_stats(conn.0)
    }

    /// Returns the counters of the reactor.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Publishes the [statistics](Context::stats) now and after each `interval`, as metrics of the
    /// crate `metrics`. Requires the feature `metrics`.
    ///
    /// Install the recorder of the program before this call: metrics that are created without a
    /// recorder are lost. `reactor` is the value of the label `reactor`, so that several reactors
    /// of a process differ. An interval shorter than 1 ms counts as 1 ms. A second call sets a new
    /// interval and label.
    ///
    /// The names follow the conventions of Prometheus, for example `unstick_received_frames_total`,
    /// `unstick_held_bytes` and `unstick_closed_connections_total{reason="peer"}`. There are
    /// counters and gauges for fields of [`Stats`], counters for the reasons of closes, frame
    /// errors and refusals, and two histograms. One has the time of each turn. The other has the
    /// time of each callback, if [`Config::slow_callback_min`](crate::Config::slow_callback_min) is
    /// set. A time in a histogram differs from the measured time by at most an eighth.
    ///
    /// Publishing adds one reading of the clock to each turn. It adds no cost to a frame.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use unstick::{ConnId, Context, Handler, Reactor};
    /// # struct Server;
    /// # impl Handler for Server {
    /// #     type Session = ();
    /// #     fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}
    /// # }
    /// let mut reactor = Reactor::new(Server)?;
    /// // First: PrometheusBuilder::new().install_recorder(), or another recorder.
    /// reactor.with(|_, cx| cx.publish_metrics(Duration::from_secs(1), "main"));
    /// # std::io::Result::Ok(())
    /// ```
    #[cfg(feature = "metrics")]
    pub fn publish_metrics(&mut self, interval: Duration, reactor: &str) {
        self.engine
            .publish_metrics(interval, reactor.to_owned().into());
    }
}

/// Recordings, for [cut maps](crate::cutmap).
impl<H: Handler> Context<'_, H> {
    /// Starts the recording of a socket, for a [cut map](crate::cutmap).
    ///
    /// If a callback that delivers the connection's own input calls this method, the recording of
    /// the input starts with the next read. The recording ends with
    /// [`stop_recording`](Context::stop_recording) or when the socket closes. Does nothing for a
    /// listener, a Unix datagram socket, or a socket that is recorded already.
    ///
    /// # Errors
    ///
    /// * [`Gone`]: the socket is closed.
    pub fn record(&mut self, socket: impl Into<SocketId>) -> Result<(), Gone> {
        self.engine.record(socket.into(), true)
    }

    /// Stops the recording of one socket. The recorded events are kept until
    /// [`take_recording`](Context::take_recording).
    ///
    /// # Errors
    ///
    /// * [`Gone`]: the socket is closed.
    pub fn stop_recording(&mut self, socket: impl Into<SocketId>) -> Result<(), Gone> {
        self.engine.record(socket.into(), false)
    }

    /// Starts the recording of all sockets, including sockets that are opened later.
    pub fn record_all(&mut self) {
        self.engine.record_all(true);
    }

    /// Stops the recording of all sockets. Sockets that are opened later are not recorded either.
    pub fn stop_recording_all(&mut self) {
        self.engine.record_all(false);
    }

    /// Returns the events recorded so far, and removes them from the reactor. Recording continues.
    pub fn take_recording(&mut self) -> Recording {
        self.engine.take_recording()
    }

    /// Returns the kernel's segment counters of a TCP connection. Linux and Android only.
    ///
    /// The call opens a socket and makes one request to the kernel, so it is too slow for every
    /// turn.
    ///
    /// # Errors
    ///
    /// * `NotConnected`: the connection is closed.
    /// * `Unsupported`: another operating system, or a Unix socket.
    /// * Any other error of the system.
    pub fn segments(&self, conn: ConnId) -> io::Result<Segments> {
        let conn = self.engine.conn(conn.0)?;
        conn.socket.segments(&conn.peer)
    }
}

pub(crate) fn not_inet() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "a Unix socket has no IP address: use peer_addr or local_addr",
    )
}
