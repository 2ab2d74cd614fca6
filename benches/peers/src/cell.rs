//! One cell of the table: how many connections, how many frames each keeps outstanding, how long.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::framing::Framing;

/// What carries the messages of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Frames.
    Tcp,
    /// Datagrams, each with a send of its own.
    Udp,
    /// Datagrams, of which the load sends a batch at once.
    UdpSegmented,
}

/// The shape of a load, written `CONNECTIONSxDEPTHxSIZE`, with `udp-` or `udp-gso-` before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) transport: Transport,
    pub(crate) connections: usize,
    /// Frames that each connection sends with one write, then waits for.
    pub(crate) depth: usize,
    /// Bytes of payload in each frame.
    pub(crate) size: usize,
}

/// What is measured unless told otherwise: small frames, where the loop itself is the cost.
pub(crate) const FIRST: &[Cell] = &[
    Cell::new(1, 1, 64),
    Cell::new(64, 1, 64),
    Cell::new(1000, 1, 64),
    Cell::new(1, 32, 64),
    Cell::new(64, 32, 64),
    Cell::new(1000, 32, 64),
];

/// What `--cells all` adds: other depths, and frames so large that copies are the cost.
pub(crate) const FURTHER: &[Cell] = &[
    Cell::new(64, 16, 64),
    Cell::new(64, 64, 64),
    Cell::new(64, 1, 1024),
    Cell::new(64, 16, 1024),
    Cell::new(16, 4, 16_384),
    Cell::new(4, 1, 262_144),
];

/// Datagrams: alone, many of one socket, one of many, many of many; and what came as one.
pub(crate) const UDP: &[Cell] = &[
    Cell::new(1, 1, 64).over(Transport::Udp),
    Cell::new(1, 32, 64).over(Transport::Udp),
    Cell::new(64, 1, 64).over(Transport::Udp),
    Cell::new(16, 32, 64).over(Transport::Udp),
    Cell::new(4, 32, 1200).over(Transport::Udp),
    Cell::new(16, 32, 64).over(Transport::UdpSegmented),
    Cell::new(4, 32, 1200).over(Transport::UdpSegmented),
];

/// A smoke run: one frame, glued frames, and frames that are cut.
pub(crate) const QUICK: &[Cell] = &[
    Cell::new(1, 1, 64),
    Cell::new(64, 32, 64),
    Cell::new(2, 1, 262_144),
    Cell::new(4, 8, 64).over(Transport::Udp),
    Cell::new(4, 8, 64).over(Transport::UdpSegmented),
];

/// Below this a length prefix of another framing could be longer than the frame.
const SIZE_MIN: usize = 16;
const SIZE_MAX: usize = 1 << 20;
/// The most that one send takes over IPv4.
const DATAGRAM_LEN_MAX: usize = 65_507;
/// A batch is kept in memory twice per connection in flight; this bounds a typing error.
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

    /// Connections of which each has one short frame echoed, and no more.
    pub(crate) fn idle(connections: usize) -> Self {
        Self::new(connections, 1, 64)
    }

    const fn over(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    pub(crate) fn is_udp(self) -> bool {
        self.transport != Transport::Tcp
    }

    /// Whether the load leaves the cutting to its kernel.
    pub(crate) fn is_segmented(self) -> bool {
        self.transport == Transport::UdpSegmented
    }

    /// What each socket keeps sending: `depth` datagrams, one behind the other.
    pub(crate) fn datagrams(self) -> Vec<u8> {
        (0..self.depth)
            .flat_map(|datagram| self.content(datagram))
            .collect()
    }

    fn content(self, message: usize) -> impl Iterator<Item = u8> {
        // 251 is prime, so the pattern never falls in step with a power of two.
        (0..self.size).map(move |at| ((at * 7 + message * 31) % 251) as u8)
    }

    /// The bytes that each connection keeps sending: `depth` frames of distinguishable content.
    pub(crate) fn batch(self, framing: Framing) -> Vec<u8> {
        let prefix = framing.prefix(self.size);
        let mut batch = Vec::with_capacity(self.depth * (prefix.len() + self.size));
        for frame in 0..self.depth {
            batch.extend_from_slice(&prefix);
            batch.extend(self.content(frame));
        }
        batch
    }

    /// How long one server is loaded before the next has its turn.
    ///
    /// Long enough to hold many batches of every connection, and as short as that allows: the
    /// machine's own speed changes within a second, and a turn must see one speed only.
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

const UDP_PREFIX: &str = "udp-";
const UDP_SEGMENTED_PREFIX: &str = "udp-gso-";

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "",
            Transport::Udp => UDP_PREFIX,
            Transport::UdpSegmented => UDP_SEGMENTED_PREFIX,
        };
        write!(
            formatter,
            "{transport}{}x{}x{}",
            self.connections, self.depth, self.size
        )
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (transport, shape) = if let Some(shape) = text.strip_prefix(UDP_SEGMENTED_PREFIX) {
            (Transport::UdpSegmented, shape)
        } else if let Some(shape) = text.strip_prefix(UDP_PREFIX) {
            (Transport::Udp, shape)
        } else {
            (Transport::Tcp, text)
        };
        let numbers: Vec<usize> = shape
            .split('x')
            .map(|number| number.parse().map_err(|error| format!("{text:?}: {error}")))
            .collect::<Result<_, _>>()?;
        let [connections, depth, size] = numbers[..] else {
            return Err(format!("{text:?} is not CONNECTIONSxDEPTHxSIZE"));
        };
        if connections == 0 || depth == 0 {
            return Err(format!(
                "{text:?}: a cell has a connection and a frame at least"
            ));
        }
        if !(SIZE_MIN..=SIZE_MAX).contains(&size) || depth.saturating_mul(size) > BATCH_BYTES_MAX {
            return Err(format!(
                "{text:?}: a payload has {SIZE_MIN} to {SIZE_MAX} bytes, a batch {BATCH_BYTES_MAX}"
            ));
        }
        let at_once = match transport {
            Transport::Tcp => 0,
            Transport::Udp => size,
            Transport::UdpSegmented => depth * size,
        };
        if at_once > DATAGRAM_LEN_MAX {
            return Err(format!("{text:?}: UDP carries {DATAGRAM_LEN_MAX} bytes"));
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
    fn what_is_printed_can_be_read() {
        for &cell in [FIRST, FURTHER, UDP, QUICK].concat().iter() {
            assert_eq!(cell.to_string().parse(), Ok(cell));
        }
    }

    #[test]
    fn nonsense_is_refused() {
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
