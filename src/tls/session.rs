//! One TLS session: records in, records out. Does no I/O.
//!
//! The session uses rustls's *unbuffered* connection. The buffered one owns a vector of at least 4
//! KiB for each connection, and takes at most 4 KiB from each read. The unbuffered one decrypts in
//! the caller's memory, so an idle connection needs no buffer, and one read returns many records.
//!
//! Three rules of the unbuffered connection are easy to break, and then it panics or loses bytes:
//!
//! 1. The input must begin with all bytes that earlier calls did not consume, also if a call only
//!    wants to send. A handshake message that is incomplete is kept as offsets into these bytes.
//! 2. After an error, the input must not be processed again: rustls would panic at a second alert.
//!    Only calls with an empty input follow. They return the pending output.
//! 3. A call returns after one event. So the call is repeated until it reports that nothing is
//!    left.
//!
//! Only this file names rustls's connection types, because the next version of rustls changes them.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error, HandshakeKind, ProtocolVersion};

use super::{TlsClient, TlsError, TlsServer, TlsVersion};
use crate::memory::Buf;

/// Maximum plaintext of one record, in bytes (RFC 8446, 5.1).
pub(crate) const RECORD_PLAIN_LEN_MAX: usize = 1 << 14;
/// Maximum length of one record on the wire: header, plaintext, and the expansion that TLS 1.2
/// allows (RFC 5246, 6.2.3).
pub(crate) const RECORD_WIRE_LEN_MAX: usize = 5 + RECORD_PLAIN_LEN_MAX + 2048;

/// Output capacity that is reserved for a `close_notify`, in bytes.
const CONTROL_LEN: usize = 64;

/// The session of one connection.
pub(crate) enum TlsSession {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// The result of processing received records.
#[derive(Debug)]
pub(crate) struct Processed {
    /// Number of bytes at the start of the input that are no longer needed.
    pub(crate) consumed: usize,
    /// Number of bytes of plaintext, all of one record.
    pub(crate) plain_len: usize,
    /// True if no complete record is left in the rest of the input.
    pub(crate) is_exhausted: bool,
    /// True if the peer has ended its side with a `close_notify`.
    pub(crate) is_peer_closed: bool,
}

/// The event at which one call of rustls ended.
enum Event {
    /// Plaintext or output was produced. More events may follow.
    Progress,
    /// The peer sent a `close_notify`.
    PeerClosed,
    /// No complete record and no output is left.
    Idle,
}

/// The function that rustls's client and server connections have in common.
trait Process {
    type Data;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Process for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

impl Process for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

/// Evaluates `$result` with `$conn` bound to the session's connection of rustls, client or server.
macro_rules! of_either {
    ($session:expr, $conn:ident => $result:expr) => {
        match $session {
            Self::Client($conn) => $result,
            Self::Server($conn) => $result,
        }
    };
}

impl TlsSession {
    pub(crate) fn client(client: &TlsClient) -> Result<Self, TlsError> {
        let TlsClient { config, name } = client.clone();
        let conn = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::Client(Box::new(conn)))
    }

    pub(crate) fn server(server: &TlsServer) -> Result<Self, TlsError> {
        let conn = UnbufferedServerConnection::new(server.config.clone())?;
        Ok(Self::Server(Box::new(conn)))
    }

    /// Processes records until plaintext is found or no complete record is left. `input` begins
    /// with the bytes that earlier calls left. Passes plaintext to `plain`, and appends records
    /// to send to `output`.
    pub(crate) fn process(
        &mut self,
        input: &mut [u8],
        plain: &mut dyn FnMut(&[u8]),
        output: &mut Buf,
    ) -> Result<Processed, TlsError> {
        let (mut consumed, mut plain_len) = (0, 0);
        let (mut is_exhausted, mut is_peer_closed) = (false, false);
        while plain_len == 0 && !is_exhausted {
            let input = &mut input[consumed..];
            let mut plain = |bytes: &[u8]| {
                plain_len += bytes.len();
                plain(bytes);
            };
            let event = of_either!(self, conn => step(&mut **conn, input, &mut plain, output));
            let (discard, event) = event;
            consumed += discard;
            match event? {
                Event::Progress => {}
                Event::PeerClosed => is_peer_closed = true,
                Event::Idle => is_exhausted = true,
            }
        }
        Ok(Processed {
            consumed,
            plain_len,
            is_exhausted,
            is_peer_closed,
        })
    }

    /// Appends records that are pending after an error, such as the alert.
    pub(crate) fn take_alert(&mut self, output: &mut Buf) {
        while self.common().wants_write() {
            let event = of_either!(self, conn => {
                step(&mut **conn, &mut [], &mut |_| {}, output)
            });
            if event.1.is_err() {
                return;
            }
        }
    }

    /// Encrypts plaintext into one or more records, and appends them to `output`. `left` is the
    /// input that [`process`](Self::process) left, which must contain no complete record.
    pub(crate) fn encrypt(
        &mut self,
        plain: &[u8],
        left: &mut [u8],
        output: &mut Buf,
    ) -> Result<(), TlsError> {
        of_either!(self, conn => with_writer(&mut **conn, left, output, |mut writer, output| {
            let mut encrypted = writer.encrypt(plain, output.spare_mut());
            if let Err(EncryptError::InsufficientSize(needed)) = &encrypted {
                output.reserve(needed.required_size);
                encrypted = writer.encrypt(plain, output.spare_mut());
            }
            encrypted
        }))
    }

    /// Appends a `close_notify` alert to `output`, unless an alert was sent before. `left` is as
    /// for [`encrypt`](Self::encrypt).
    pub(crate) fn close_notify(
        &mut self,
        left: &mut [u8],
        output: &mut Buf,
    ) -> Result<(), TlsError> {
        of_either!(self, conn => with_writer(&mut **conn, left, output, |mut writer, output| {
            output.reserve(CONTROL_LEN);
            let mut queued = writer.queue_close_notify(output.spare_mut());
            if let Err(EncryptError::InsufficientSize(needed)) = &queued {
                output.reserve(needed.required_size);
                queued = writer.queue_close_notify(output.spare_mut());
            }
            queued
        }))
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Returns true if records are pending. The next call of [`process`](Self::process) appends
    /// them to its output.
    pub(crate) fn has_output(&self) -> bool {
        self.common().wants_write()
    }

    fn common(&self) -> &CommonState {
        of_either!(self, conn => conn)
    }
}

/// The results of the handshake.
impl TlsSession {
    pub(super) fn version(&self) -> TlsVersion {
        match self.common().protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
            _ => TlsVersion::Tls13,
        }
    }

    pub(super) fn cipher_suite(&self) -> &'static str {
        let suite = self.common().negotiated_cipher_suite();
        suite
            .and_then(|suite| suite.suite().as_str())
            .unwrap_or("unknown")
    }

    pub(super) fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    pub(super) fn peer_certificates(&self) -> impl Iterator<Item = &[u8]> {
        let chain = self.common().peer_certificates().unwrap_or_default();
        chain.iter().map(|certificate| &certificate[..])
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.common().handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

impl std::fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = match self {
            Self::Client(_) => "Client",
            Self::Server(_) => "Server",
        };
        f.debug_struct(side)
            .field("is_handshaking", &self.is_handshaking())
            .finish_non_exhaustive()
    }
}

/// Calls rustls once. Returns the number of bytes of `input` to discard, and the event.
fn step<C: Process>(
    conn: &mut C,
    input: &mut [u8],
    plain: &mut dyn FnMut(&[u8]),
    output: &mut Buf,
) -> (usize, Result<Event, Error>) {
    let UnbufferedStatus { mut discard, state } = conn.process(input);
    let event = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Event::Progress),
                Some(Err(error)) => break Err(error),
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain(record.payload);
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(data)) => encode(data, output),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Event::Progress)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Event::PeerClosed),
        Ok(
            ConnectionState::Closed
            | ConnectionState::BlockedHandshake
            | ConnectionState::WriteTraffic(_),
        ) => Ok(Event::Idle),
        Ok(state) => Err(Error::General(format!("unexpected state {state:?}"))),
        Err(error) => Err(error),
    };
    (discard, event)
}

/// Appends a record that is ready to be sent.
fn encode<D>(mut data: EncodeTlsData<'_, D>, output: &mut Buf) -> Result<Event, Error> {
    let mut encoded = data.encode(output.spare_mut());
    if let Err(EncodeError::InsufficientSize(needed)) = &encoded {
        output.reserve(needed.required_size);
        encoded = data.encode(output.spare_mut());
    }
    let len = encoded.map_err(|error| Error::General(error.to_string()))?;
    output.advance(len);
    Ok(Event::Progress)
}

/// Calls `write` with the writer of an established session, and appends its output. Pending records
/// come first.
fn with_writer<C: Process>(
    conn: &mut C,
    left: &mut [u8],
    output: &mut Buf,
    write: impl FnOnce(WriteTraffic<'_, C::Data>, &mut Buf) -> Result<usize, EncryptError>,
) -> Result<(), TlsError> {
    loop {
        let UnbufferedStatus { state, .. } = conn.process(left);
        let written = match state? {
            ConnectionState::WriteTraffic(writer) => write(writer, output),
            // Both sides have sent their `close_notify`.
            ConnectionState::Closed => return Ok(()),
            ConnectionState::EncodeTlsData(data) => {
                encode(data, output)?;
                continue;
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                continue;
            }
            state => return Err(Error::General(format!("unexpected state {state:?}")).into()),
        };
        let len = written.map_err(|error| Error::General(error.to_string()))?;
        output.advance(len);
        return Ok(());
    }
}
