//! A cell, which is one kind of load: its number of connections, frames in flight and frame size.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::framing::Framing;

/// Transport of the messages of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Frames on TCP connections.
    Tcp,
    /// Frames on TLS connections.
    Tls,
    /// Frames on TLS connections; each batch has a new connection, with a full handshake.
    TlsHandshakes,
    /// Datagrams; the client makes one system call for each datagram.
    Udp,
    /// Datagrams; the client sends a whole batch with one system call (GSO).
    UdpSegmented,
}

/// One kind of load. It is written `CONNECTIONSxDEPTHxSIZE`, with the prefix `udp-` or `udp-gso-`
/// for datagrams, and `tls-` or `tls-new-` for TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) transport: Transport,
    pub(crate) connections: usize,
    /// Number of frames that each connection sends with one write and then waits for.
    pub(crate) depth: usize,
    /// Payload of each frame, in bytes.
    pub(crate) size: usize,
}

/// Default cells: small frames, so the cost of the loop dominates.
pub(crate) const FIRST: &[Cell] = &[
    Cell::new(1, 1, 64),
    Cell::new(64, 1, 64),
    Cell::new(1000, 1, 64),
    Cell::new(1, 32, 64),
    Cell::new(64, 32, 64),
    Cell::new(1000, 32, 64),
];

/// Cells added by `--cells all`: other depths, and large frames, for which copying dominates.
pub(crate) const FURTHER: &[Cell] = &[
    Cell::new(64, 16, 64),
    Cell::new(64, 64, 64),
    Cell::new(64, 1, 1024),
    Cell::new(64, 16, 1024),
    Cell::new(16, 4, 16_384),
    Cell::new(4, 1, 262_144),
];

/// Cells of datagrams: one or many in flight, on one or many sockets, without and with GSO.
pub(crate) const UDP: &[Cell] = &[
    Cell::new(1, 1, 64).over(Transport::Udp),
    Cell::new(1, 32, 64).over(Transport::Udp),
    Cell::new(64, 1, 64).over(Transport::Udp),
    Cell::new(16, 32, 64).over(Transport::Udp),
    Cell::new(4, 32, 1200).over(Transport::Udp),
    Cell::new(16, 32, 64).over(Transport::UdpSegmented),
    Cell::new(4, 32, 1200).over(Transport::UdpSegmented),
];

/// Cells of TLS: one or many frames in flight, large frames, and handshakes.
pub(crate) const TLS: &[Cell] = &[
    Cell::new(1, 1, 64).over(Transport::Tls),
    Cell::new(64, 1, 64).over(Transport::Tls),
    Cell::new(1, 16, 64).over(Transport::Tls),
    Cell::new(64, 16, 64).over(Transport::Tls),
    Cell::new(4, 1, 262_144).over(Transport::Tls),
    Cell::new(16, 1, 64).over(Transport::TlsHandshakes),
];

/// Cells of `--quick`: single frames, glued frames, cut frames, datagrams, and TLS.
pub(crate) const QUICK: &[Cell] = &[
    Cell::new(1, 1, 64),
    Cell::new(64, 32, 64),
    Cell::new(2, 1, 262_144),
    Cell::new(4, 8, 64).over(Transport::Udp),
    Cell::new(4, 8, 64).over(Transport::UdpSegmented),
    Cell::new(4, 8, 64).over(Transport::Tls),
    Cell::new(2, 1, 262_144).over(Transport::Tls),
    Cell::new(2, 1, 64).over(Transport::TlsHandshakes),
];

/// Minimum payload in bytes; a smaller payload could be shorter than the prefix of its frame.
const SIZE_MIN: usize = 16;
const SIZE_MAX: usize = 1 << 20;
/// Maximum payload of one UDP send over IPv4, in bytes.
const DATAGRAM_LEN_MAX: usize = 65_507;
/// Maximum length of a batch in bytes, so that a typing error does not use up the memory.
const BATCH_BYTES_MAX: usize = 1 << 24;

impl Cell {
    const fn new(connections: usize, depth: usize, size: usize) -> Self {
        Self {
            transport: Transport::Tcp,
            connections,
            depth,
            size,
        }
    }

    /// Returns a cell whose connections each exchange one short frame and then stay idle.
    pub(crate) fn idle(connections: usize) -> Self {
        Self::new(connections, 1, 64)
    }

    pub(crate) const fn over(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    pub(crate) fn is_udp(self) -> bool {
        matches!(self.transport, Transport::Udp | Transport::UdpSegmented)
    }

    /// Returns true if the client's kernel splits a batch into datagrams (GSO).
    pub(crate) fn is_segmented(self) -> bool {
        self.transport == Transport::UdpSegmented
    }

    /// Returns the batch of a socket: `depth` datagrams, one after the other.
    pub(crate) fn datagrams(self) -> Vec<u8> {
        (0..self.depth)
            .flat_map(|datagram| self.content(datagram))
            .collect()
    }

    fn content(self, message: usize) -> impl Iterator<Item = u8> {
        // 251 is prime, so the pattern never aligns with a power of two.
        (0..self.size).map(move |at| ((at * 7 + message * 31) % 251) as u8)
    }

    /// Returns the batch of a connection: `depth` frames whose contents differ.
    pub(crate) fn batch(self, framing: Framing) -> Vec<u8> {
        let prefix = framing.prefix(self.size);
        let mut batch = Vec::with_capacity(self.depth * (prefix.len() + self.size));
        for frame in 0..self.depth {
            batch.extend_from_slice(&prefix);
            batch.extend(self.content(frame));
        }
        batch
    }

    /// Returns the duration of a slice, in which one server is loaded before the next server.
    ///
    /// A slice is just long enough for many batches of every connection. The speed of the machine
    /// changes within a second. So the slices of a round must be short to run at the same speed.
    pub(crate) fn slice(self) -> Duration {
        let in_flight = self.connections * self.depth * self.size;
        if self.connections >= 500 {
            Duration::from_millis(60)
        } else if in_flight >= 256 * 1024 {
            Duration::from_millis(40)
        } else {
            Duration::from_millis(20)
        }
    }
}

/// Transports by their prefix in the text of a cell. If two prefixes match a text, the longer one
/// is first.
const PREFIXES: [(&str, Transport); 5] = [
    ("udp-gso-", Transport::UdpSegmented),
    ("udp-", Transport::Udp),
    ("tls-new-", Transport::TlsHandshakes),
    ("tls-", Transport::Tls),
    ("", Transport::Tcp),
];

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut prefixes = PREFIXES.iter();
        let prefix = prefixes.find(|(_, transport)| *transport == self.transport);
        let (prefix, _) = prefix.expect("each transport has a prefix");
        write!(
            formatter,
            "{prefix}{}x{}x{}",
            self.connections, self.depth, self.size
        )
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (transport, shape) = PREFIXES
            .iter()
            .find_map(|(prefix, transport)| Some((*transport, text.strip_prefix(prefix)?)))
            .expect("the last prefix is empty");
        let numbers: Vec<usize> = shape
            .split('x')
            .map(|number| number.parse().map_err(|error| format!("{text:?}: {error}")))
            .collect::<Result<_, _>>()?;
        let [connections, depth, size] = numbers[..] else {
            return Err(format!("{text:?} is not CONNECTIONSxDEPTHxSIZE"));
        };
        if connections == 0 || depth == 0 {
            return Err(format!(
                "{text:?}: at least one connection and one frame are needed"
            ));
        }
        if !(SIZE_MIN..=SIZE_MAX).contains(&size) || depth.saturating_mul(size) > BATCH_BYTES_MAX {
            return Err(format!(
                "{text:?}: SIZE is {SIZE_MIN} to {SIZE_MAX}, DEPTH x SIZE at most {BATCH_BYTES_MAX}"
            ));
        }
        let send_len = match transport {
            Transport::Tcp | Transport::Tls | Transport::TlsHandshakes => 0,
            Transport::Udp => size,
            Transport::UdpSegmented => depth * size,
        };
        if send_len > DATAGRAM_LEN_MAX {
            return Err(format!(
                "{text:?}: a UDP send takes at most {DATAGRAM_LEN_MAX} bytes"
            ));
        }
        Ok(Self {
            transport,
            connections,
            depth,
            size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_cell_parses_to_an_equal_cell() {
        for &cell in [FIRST, FURTHER, UDP, TLS, QUICK].concat().iter() {
            assert_eq!(cell.to_string().parse(), Ok(cell));
        }
    }

    #[test]
    fn invalid_cells_are_rejected() {
        for text in [
            "",
            "64",
            "1x1",
            "0x1x64",
            "1x0x64",
            "1x1x15",
            "1x1x64x1",
            "1x999999x1024",
            "udp-1x1",
            "udp-1x1x65508",
            "udp-gso-1x64x1200",
        ] {
            assert!(text.parse::<Cell>().is_err(), "{text:?} was accepted");
        }
    }
}
