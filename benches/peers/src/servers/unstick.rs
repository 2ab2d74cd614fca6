//! Echo servers with unstick, for TCP, TLS and UDP: with the default configuration, without
//! sleeping, or with the configuration of a public server.

use std::io;
use std::time::Duration;

use unstick::{Config, ConnId, Context, Datagram, Framing, Handler, ListenOptions, Reactor, UdpId};

use super::{announce, on_frame};
use crate::tls;

pub(super) fn serve() -> io::Result<()> {
    serve_with(Config::default())
}

/// Serves without sleeping: `busy_poll` is unlimited.
pub(super) fn serve_busily() -> io::Result<()> {
    let mut config = Config::default();
    config.busy_poll = Some(Duration::MAX);
    serve_with(config)
}

fn serve_with(config: Config) -> io::Result<()> {
    let mut reactor = Reactor::with_config(Echo, config)?;
    let listener = reactor.listen("127.0.0.1:0", Framing::length_u32())?;
    announce(reactor.local_inet_addr(listener)?.port())?;
    reactor.run()
}

/// Serves with the configuration for unknown clients. Half of the memory limit of the mode `attack`
/// is left for everything that is not a buffer. The UDP socket is the target of the UDP flood.
pub(super) fn serve_in_public() -> io::Result<()> {
    let config = Config::for_public_server(crate::attack::DATA_MAX as usize / 2);
    let mut reactor = Reactor::with_config(Echo, config)?;
    let listener = reactor.listen("127.0.0.1:0", Framing::length_u32())?;
    let addr = reactor.local_inet_addr(listener)?;
    reactor.bind_udp(addr)?;
    announce(addr.port())?;
    reactor.run()
}

pub(super) fn serve_tls() -> io::Result<()> {
    let mut reactor = Reactor::new(Echo)?;
    let options = ListenOptions::new().tls(tls::server_config()?);
    let framing = Framing::length_u32();
    let listener = reactor.with(|_, cx| cx.listen_with("127.0.0.1:0", framing, &options))?;
    announce(reactor.local_inet_addr(listener)?.port())?;
    reactor.run()
}

pub(super) fn serve_udp() -> io::Result<()> {
    let mut reactor = Reactor::new(Echo)?;
    let socket = reactor.bind_udp("127.0.0.1:0")?;
    reactor.with(|_, cx| cx.socket_options(socket)?.set_recv_buffer_size(1 << 22))?;
    announce(reactor.local_inet_addr(socket)?.port())?;
    reactor.run()
}

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        // If the echo cannot be sent, the load detects the missing echo and ends with an error.
        let _ = cx.send(conn, on_frame(frame));
    }

    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, datagram: Datagram<'_>) {
        let _ = cx.send_to(socket, datagram.from, on_frame(datagram.data));
    }
}
