//! Routes: the destination of a datagram, and the marks that it leaves with.

use std::net::{IpAddr, SocketAddr};

/// Destination of a datagram, with the local address that it leaves from.
///
/// A [`SocketAddr`] is a route on which the system chooses the local address.
/// [`Datagram::reply_route`](super::Datagram::reply_route) is the route back to a sender.
///
/// # Examples
///
/// ```
/// use std::net::SocketAddr;
/// use unstick::Route;
///
/// let to = SocketAddr::from(([127, 0, 0, 1], 7000));
/// assert_eq!(Route::from(to), Route::new(to));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route {
    pub(crate) to: SocketAddr,
    /// Source address and traffic class; `None` if the program sets neither.
    pub(crate) marks: Option<Marks>,
}

/// Properties of a sent datagram that the system does not choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Marks {
    /// Local address to leave from; `None` lets the system choose.
    pub(crate) source: Option<IpAddr>,
    /// Traffic class byte; `None` for the traffic class of the socket.
    pub(crate) tos: Option<u8>,
}

impl Route {
    /// Creates a route on which the system chooses the local address.
    #[must_use]
    pub fn new(to: SocketAddr) -> Self {
        Self { to, marks: None }
    }

    /// Sets the local address to leave from. Does nothing if `source` is `None`.
    pub(crate) fn with_source(mut self, source: Option<IpAddr>) -> Self {
        if source.is_some() {
            self.marks.get_or_insert_default().source = source;
        }
        self
    }

    /// Sets the traffic class byte of the datagram: the DSCP in the upper six bits and the ECN mark
    /// in the lower two bits. It replaces the byte that the socket has
    /// ([`SocketRef::set_tos`](crate::SocketRef::set_tos)). Linux only; needs the feature
    /// `udp-batch`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::SocketAddr;
    /// use unstick::{Ecn, Route};
    ///
    /// # let to = SocketAddr::from(([127, 0, 0, 1], 7000));
    /// let route = Route::new(to).tos(Ecn::Ect0 as u8);
    /// ```
    #[cfg(all(feature = "udp-batch", any(target_os = "linux", target_os = "android")))]
    #[must_use]
    pub fn tos(mut self, tos: u8) -> Self {
        self.marks.get_or_insert_default().tos = Some(tos);
        self
    }

    /// Returns the destination.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        self.to
    }

    /// Returns the local address that the datagram leaves from; `None` if the system chooses it.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.marks?.source
    }
}

impl From<SocketAddr> for Route {
    fn from(to: SocketAddr) -> Self {
        Self::new(to)
    }
}

/// Mark of explicit congestion notification (ECN): the lower two bits of the traffic class byte
/// (RFC 3168, 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(clippy::exhaustive_enums, reason = "two bits have four values")]
pub enum Ecn {
    /// Not ECT: the sender does not support ECN.
    NotEct = 0b00,
    /// ECT(1): the sender supports ECN.
    Ect1 = 0b01,
    /// ECT(0): the sender supports ECN.
    Ect0 = 0b10,
    /// CE: a router on the way experienced congestion.
    Ce = 0b11,
}

impl Ecn {
    /// Returns the mark of a traffic class byte.
    #[cfg_attr(
        not(all(feature = "udp-batch", any(target_os = "linux", target_os = "android"))),
        allow(dead_code, reason = "marks are received on Linux only")
    )]
    pub(crate) fn of_tos(tos: u8) -> Self {
        match tos & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}
