//! Simulated streams: two byte queues with limited lengths, half-close, reset and pending errors.
//!
//! ```text
//!   write -> send buffer [ arrived | in flight ] -> the peer's receive buffer -> read
//! ```
//!
//! Bytes in flight become arrived bytes after the latency. Arrived bytes stay in the send buffer
//! until the receive buffer of the peer has spare capacity for them.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::time::Duration;

use super::faults::Call;
use super::peer::PeerState;
use super::poll::Ready;
use super::script::Entries;
use super::socket::{Kind, SimSocket};
use super::world::{Action, State};
use crate::addr::Addr;

/// Length of a send buffer without a limit. A calculation with three times the length does not
/// overflow.
const RAW_SEND_LEN_MAX: usize = usize::MAX / 4;

/// One end of a connection.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// True if the stream has no peer. The poll then reports only the events that the test injects.
    pub(super) is_scripted: bool,
    pub(super) script: Entries,
    /// True if a raw peer of the public simulation uses the stream. Its send buffer has no limit,
    /// and takes bytes before the connection is open.
    is_raw: bool,
    /// True if the connect is pending.
    is_connecting: bool,
    /// Index of the socket at the other end.
    pub(super) peer: Option<usize>,
    /// Address of the peer. While the connect is pending, it is the target of the connect.
    pub(super) peer_addr: Option<Addr>,
    /// Invariant: `send.len() <= send_len_max`.
    send: VecDeque<u8>,
    /// Invariant for TCP: `recv.len() <= recv_len_max`.
    recv: VecDeque<u8>,
    /// Number of bytes of `send` that have reached the host of the peer. Invariant: `arrived <=
    /// send.len()`.
    arrived: usize,
    send_len_max: usize,
    recv_len_max: usize,
    /// True if this side no longer sends: it has sent its FIN or a reset, or its Unix peer was
    /// closed.
    has_sent_fin: bool,
    /// True if the FIN of this side has reached the host of the peer.
    fin_arrived: bool,
    /// True if the peer's FIN was received, or the Unix peer was closed.
    has_fin: bool,
    /// True if a reset, a failed connect or a fault has ended the stream.
    is_reset: bool,
    error: Option<ErrorKind>,
    /// The error that ended the connect.
    failed_connect: Option<ErrorKind>,
    /// True for a Unix stream. Its writes go to the receive buffer of the peer at once, and only
    /// the send buffer limits them.
    is_unix: bool,
    /// The writes of a Unix stream that the peer has not read completely. The oldest one comes
    /// first.
    unix_writes: VecDeque<UnixWrite>,
    /// True if a write was short or would block. The socket then reports an edge when it becomes
    /// writable.
    no_space: bool,
    /// Arrival time of the last bytes that this side has sent.
    pub(super) last_arrival: Duration,
}

/// One write of a Unix stream. It uses the send buffer until the peer has read all of it.
#[derive(Debug)]
struct UnixWrite {
    len: usize,
    /// Number of bytes that the peer has not read. Invariant: `0 < unread <= len`.
    unread: usize,
}

impl Stream {
    /// Creates a stream without a peer, whose script decides the result of each call.
    pub(super) fn scripted() -> Self {
        Self {
            is_scripted: true,
            peer_addr: Some(Addr::Inet(([127, 0, 0, 1], 1).into())),
            ..Self::default()
        }
    }

    /// Creates one end of a pending connection. The pair contains the maximum lengths of its send
    /// and receive buffers.
    pub(super) fn connecting(peer_addr: Addr, (send, recv): (usize, usize)) -> Self {
        Self {
            is_connecting: true,
            is_unix: peer_addr.inet().is_none(),
            peer_addr: Some(peer_addr),
            send_len_max: send,
            recv_len_max: recv,
            ..Self::default()
        }
    }

    /// Completes the connect. `peer` is the index of the socket at the other end. Returns the
    /// number of bytes that a raw peer has already sent, and true if its FIN follows them.
    pub(super) fn connect_to(&mut self, peer: usize) -> (usize, bool) {
        self.is_connecting = false;
        self.peer = Some(peer);
        (self.send.len(), self.has_sent_fin)
    }

    /// Returns true if the socket still connects although it is closed already. A raw peer may send
    /// bytes and close its socket before the connection is open.
    pub(super) fn connects_after_close(&self) -> bool {
        self.is_raw && self.has_sent_fin
    }

    pub(super) fn is_unix(&self) -> bool {
        self.is_unix
    }

    pub(super) fn ready(&self) -> Ready {
        if self.is_scripted || self.is_connecting && self.error.is_none() {
            return Ready::NONE;
        }
        // A TCP socket is also writable if a write would fail. A Unix socket is writable only if
        // enough of its send buffer is free.
        let fails_writes = !self.is_unix && (self.has_sent_fin || self.is_reset);
        Ready::READABLE.only_if(!self.recv.is_empty() || self.has_fin || self.is_reset)
            | Ready::WRITABLE.only_if(self.is_writable() || fails_writes)
            | (Ready::ENDED | Ready::HUNG_UP).only_if(self.has_fin || self.is_reset)
    }

    /// Returns true if, for the kernel, a TCP connection no longer has a peer: the connection was
    /// reset or refused, or both sides have ended (state `CLOSE` or `TIME_WAIT`).
    fn is_over(&self) -> bool {
        self.is_reset && !self.is_unix || self.has_ended()
    }

    /// Returns true if both FINs of a TCP connection have arrived.
    fn has_ended(&self) -> bool {
        !self.is_unix && self.has_fin && self.fin_arrived && self.send.is_empty()
    }

    /// Ends the stream with an error: by a reset, or because the connect failed.
    pub(super) fn fail(&mut self, error: ErrorKind) {
        self.error = Some(error);
        self.failed_connect = self.is_connecting.then_some(error);
        self.is_connecting = false;
        self.is_reset = true;
        self.peer = None;
        self.send.clear();
        self.unix_writes.clear();
        self.arrived = 0;
    }

    /// Returns true if enough of the send buffer is free, as on Linux: a third for TCP
    /// (`sk_stream_is_writeable`), three quarters for a Unix stream (`unix_writable`).
    fn is_writable(&self) -> bool {
        if self.is_unix {
            return self.queued_len() * 4 <= self.send_len_max;
        }
        self.send.len() * 3 <= self.send_len_max * 2
    }

    /// Returns the number of bytes that use the send buffer.
    fn queued_len(&self) -> usize {
        let written = self.unix_writes.iter().map(|write| write.len);
        self.send.len() + written.sum::<usize>()
    }

    /// Returns the number of bytes that the receive buffer can still take.
    fn spare(&self) -> usize {
        if self.is_unix {
            return usize::MAX;
        }
        self.recv_len_max - self.recv.len()
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(result) = self.script.read(buf) {
            return result;
        }
        if !self.recv.is_empty() {
            let len = buf.len().min(self.recv.len());
            for (to, from) in buf.iter_mut().zip(self.recv.drain(..len)) {
                *to = from;
            }
            return Ok(len);
        }
        self.take_read_error()?;
        if self.has_fin || self.is_reset {
            return Ok(0);
        }
        Err(ErrorKind::WouldBlock.into())
    }

    /// Returns and clears the pending error, if a read of an empty receive buffer reports it. After
    /// a FIN, a read of a TCP socket reports the end instead (`tcp_recvmsg`, flag `SOCK_DONE`).
    fn take_read_error(&mut self) -> io::Result<()> {
        if self.has_fin && !self.is_unix {
            return Ok(());
        }
        self.error.take().map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let scripted = self.script.write(bytes.len())?;
        if self.is_scripted {
            return Ok(scripted.unwrap_or(bytes.len()));
        }
        if self.is_unix && (self.is_reset || self.has_sent_fin) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if let Some(kind) = self.error.take() {
            return Err(kind.into());
        }
        if self.is_connecting && !self.is_raw {
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.is_reset || self.has_sent_fin {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let len = self.put(&bytes[..scripted.unwrap_or(bytes.len())]);
        self.no_space |= len < bytes.len();
        if len == 0 && !bytes.is_empty() && scripted != Some(0) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(len)
    }

    /// Appends bytes to the send buffer, and returns the number of bytes that it took.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let free = self.send_len_max.saturating_sub(self.queued_len());
        let len = bytes.len().min(free);
        self.send.extend(&bytes[..len]);
        len
    }

    /// Records that the peer has read `len` bytes of a Unix stream. Returns true if the peer has
    /// read the last byte of a write. The kernel then frees the memory of this write and reports a
    /// writable edge, also if no write was short (`sock_wfree`).
    fn was_read_by_peer(&mut self, mut len: usize) -> bool {
        let mut has_freed = false;
        while len > 0
            && let Some(write) = self.unix_writes.front_mut()
        {
            let part = len.min(write.unread);
            len -= part;
            write.unread -= part;
            if write.unread == 0 {
                self.unix_writes.pop_front();
                has_freed = true;
            }
        }
        has_freed
    }
}

impl SimSocket {
    pub(crate) fn read(self, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|state, index| {
            let host = state.sockets[index].host;
            let result = state.fault(host, Some(index), Call::Read).and_then(|()| {
                let len = state.shortened(index, Call::Read, buf.len());
                state.stream(index).read(&mut buf[..len])
            });
            let stream = state.stream(index);
            stream.script.was_read(buf.len(), &result);
            let peer = stream.peer;
            state.note(|| format!("socket {index} read {}: {result:?}", buf.len()));
            // The read freed space in the receive buffer, so bytes of the peer can move into it.
            if let Some(peer) = peer {
                state.pump(peer);
                let sender = state.stream(peer);
                let len = *result.as_ref().unwrap_or(&0);
                if sender.was_read_by_peer(len) && sender.is_writable() {
                    state.edge(peer, Ready::WRITABLE);
                }
            }
            result
        })
    }

    pub(crate) fn write(self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|state, index| {
            let host = state.sockets[index].host;
            let was_blocked = state.stream(index).no_space;
            let mut is_whole = !state.stream(index).script.has_write_results();
            let mut result = state.fault(host, Some(index), Call::Write).and_then(|()| {
                let len = state.shortened(index, Call::Write, bytes.len());
                let stream = state.stream(index);
                stream.no_space |= len < bytes.len();
                is_whole &= len == bytes.len();
                stream.write(&bytes[..len])
            });
            let has_peer = state.stream(index).peer.is_some();
            if has_peer {
                state.send_bytes(index, *result.as_ref().unwrap_or(&0), false);
            }
            if let Ok(len) = &mut result
                && has_peer
                && is_whole
            {
                *len += state.write_on(index, &bytes[*len..]);
                state.stream(index).no_space = was_blocked || *len < bytes.len();
            }
            let stream = state.stream(index);
            stream.script.was_written(bytes, &result);
            let blocked = |error: &io::Error| error.kind() == ErrorKind::WouldBlock;
            stream.no_space |= result.as_ref().is_err_and(blocked);
            state.note(|| format!("socket {index} write {}: {result:?}", bytes.len()));
            if has_peer {
                // If the script made the write block although the buffer has space, report the edge
                // now.
                state.report_writable(index);
            }
            result
        })
    }

    pub(crate) fn shutdown_write(self) -> io::Result<()> {
        self.with(|state, index| {
            let stream = state.stream(index);
            stream.script.calls.is_shut_down = true;
            if stream.is_connecting && !stream.is_raw {
                return Err(ErrorKind::NotConnected.into());
            }
            let is_over = stream.is_over();
            if !std::mem::replace(&mut stream.has_sent_fin, true) && stream.peer.is_some() {
                state.send_bytes(index, 0, true);
            }
            // The kernel wakes the poll even if the connection has already ended (`inet_shutdown`).
            // For a Unix socket, it also wakes the poll of the peer (`unix_shutdown`).
            let stream = state.stream(index);
            let peer = stream.peer.filter(|_| stream.is_unix);
            state.edge(index, Ready::ALL);
            if let Some(peer) = peer {
                state.edge(peer, Ready::ALL);
            }
            if is_over {
                return Err(ErrorKind::NotConnected.into());
            }
            Ok(())
        })
    }

    pub(crate) fn take_error(self) -> Option<io::Error> {
        self.with(|state, index| {
            let stream = state.stream(index);
            stream.script.calls.take_errors += 1;
            stream.error.take().map(io::Error::from)
        })
    }

    pub(crate) fn has_unread(self) -> bool {
        self.with(|state, index| {
            let stream = state.stream(index);
            if stream.script.has_unread() || !stream.recv.is_empty() {
                return true;
            }
            // A peek takes the pending error, as a read does.
            let _ = stream.take_read_error();
            false
        })
    }

    /// Checks a connect. The results are those of
    /// [`Stream::connected`](crate::os::Stream::connected).
    pub(crate) fn connected(self) -> io::Result<Option<Addr>> {
        self.with(|state, index| {
            let stream = state.stream(index);
            match stream.error.take() {
                Some(kind) => Err(kind.into()),
                None if stream.is_connecting || stream.is_over() => Ok(None),
                None => Ok(stream.peer_addr.clone()),
            }
        })
    }

    /// Sends a reset to the peer, and discards the bytes of the send buffer.
    pub(crate) fn reset(self) {
        self.with(|state, index| {
            // A Unix socket has no reset: its close is all that its peer notices.
            if !state.stream(index).is_unix {
                state.send_reset(index);
            }
        });
    }

    /// Returns the number of bytes in the receive buffer.
    pub(crate) fn unread_len(self) -> usize {
        self.with(|state, index| state.stream(index).recv.len())
    }

    /// Makes this end a raw peer, whose send buffer has no limit.
    pub(crate) fn set_raw(self) {
        self.with(|state, index| {
            let stream = state.stream(index);
            stream.is_raw = true;
            stream.send_len_max = RAW_SEND_LEN_MAX;
        });
    }

    /// Returns the state of the connection for a peer without a reactor.
    pub(crate) fn peer_state(self) -> PeerState {
        self.with(|state, index| {
            let is_closed = state.sockets[index].is_closed;
            let stream = state.stream(index);
            match stream.failed_connect {
                _ if is_closed => PeerState::Closed,
                Some(kind) => PeerState::Failed(kind),
                None if stream.is_reset => PeerState::Reset,
                None if stream.is_connecting => PeerState::Connecting,
                None if stream.has_fin => PeerState::Ended,
                None => PeerState::Open,
            }
        })
    }

    /// Returns the number of bytes in the send buffer.
    pub(crate) fn unsent_len(self) -> usize {
        self.with(|state, index| state.stream(index).send.len())
    }
}

impl State {
    pub(super) fn stream(&mut self, index: usize) -> &mut Stream {
        match &mut self.sockets[index].kind {
            Kind::Stream(stream) => stream,
            _ => panic!("socket {index} is not a stream"),
        }
    }

    /// Continues a write after its first bytes have left the send buffer, as the kernel does while
    /// it copies. Returns the number of bytes that were taken.
    fn write_on(&mut self, index: usize, bytes: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let stream = self.stream(index);
            if stream.peer.is_none() {
                return taken;
            }
            let len = stream.put(&bytes[taken..]);
            if len == 0 {
                return taken;
            }
            taken += len;
            self.send_bytes(index, len, false);
        }
    }

    /// Handles bytes of a stream that have reached the host of its peer.
    pub(super) fn arrive(&mut self, from: usize, len: usize, fin: bool) {
        let stream = self.stream(from);
        // A reset may have discarded these bytes in the meantime.
        stream.arrived = (stream.arrived + len).min(stream.send.len());
        stream.fin_arrived |= fin;
        self.pump(from);
    }

    /// Moves arrived bytes of a stream to its peer, up to the spare capacity of the receive buffer.
    pub(super) fn pump(&mut self, from: usize) {
        let Some(peer) = self.stream(from).peer else {
            return;
        };
        let is_closed = self.sockets[peer].is_closed;
        let is_sender_closed = self.sockets[from].is_closed;
        if is_closed && self.stream(from).arrived > 0 {
            // A host sends a reset when bytes arrive for a closed socket.
            return self.receive_reset(from);
        }
        let spare = self.stream(peer).spare();
        let sender = self.stream(from);
        let len = sender.arrived.min(spare);
        sender.arrived -= len;
        let moved: Vec<u8> = sender.send.drain(..len).collect();
        if sender.is_unix && len > 0 {
            sender.unix_writes.push_back(UnixWrite { len, unread: len });
        }
        let ends = sender.fin_arrived && sender.send.is_empty();
        let receiver = self.stream(peer);
        receiver.recv.extend(moved);
        if ends && is_sender_closed && receiver.is_unix {
            return self.receive_unix_close(peer);
        }
        let ends = ends && !receiver.has_fin;
        receiver.has_fin |= ends;
        let change = Ready::READABLE.only_if(len > 0)
            | (Ready::READABLE | Ready::ENDED | Ready::HUNG_UP).only_if(ends);
        if change != Ready::NONE {
            self.edge(peer, change);
        }
        self.report_writable(from);
    }

    /// Handles the close of the socket at the other end of a Unix stream, which ends both sides
    /// (`unix_release_sock`).
    fn receive_unix_close(&mut self, index: usize) {
        let stream = self.stream(index);
        stream.has_fin = true;
        stream.has_sent_fin = true;
        stream.peer = None;
        self.edge(index, Ready::ALL);
    }

    /// Reports a writable edge after a write that was short or would block, once enough of the send
    /// buffer is free.
    fn report_writable(&mut self, index: usize) {
        if self.is_blocked(index, Call::Write) {
            return; // A fault has scheduled the edge.
        }
        let stream = self.stream(index);
        if stream.no_space && stream.is_writable() {
            stream.no_space = false;
            self.edge(index, Ready::WRITABLE);
        }
    }

    /// Closes a stream: with a reset if there are unread bytes (RFC 1122, 4.2.2.13), else with a
    /// FIN after the bytes of the send buffer.
    pub(super) fn close_stream(&mut self, index: usize) {
        let stream = self.stream(index);
        if !stream.recv.is_empty() && !stream.has_ended() {
            self.send_reset(index);
        } else if (!std::mem::replace(&mut stream.has_sent_fin, true) || stream.is_unix)
            && stream.peer.is_some()
        {
            self.send_bytes(index, 0, true);
        }
    }

    /// Ends a stream because of an error of the network: both ends are reset.
    pub(super) fn break_stream(&mut self, index: usize) {
        self.send_reset(index);
        let stream = self.stream(index);
        stream.is_reset = true;
        stream.error = None;
    }

    fn send_reset(&mut self, index: usize) {
        let stream = self.stream(index);
        stream.send.clear();
        stream.arrived = 0;
        stream.has_sent_fin = true;
        if let Some(peer) = stream.peer.take() {
            self.send(Action::Reset(peer));
        }
    }

    pub(super) fn receive_reset(&mut self, index: usize) {
        let stream = self.stream(index);
        if stream.is_reset || stream.has_ended() {
            return;
        }
        // Only the state `CLOSE_WAIT` makes the error a broken pipe (`tcp_reset`).
        let awaits_close = stream.has_fin && !stream.has_sent_fin;
        stream.fail(if awaits_close && !stream.is_unix {
            ErrorKind::BrokenPipe
        } else {
            ErrorKind::ConnectionReset
        });
        self.edge(index, Ready::ALL);
    }
}
