//! Ids of the reactor's entries: a slab key and the generation of its entry.
//!
//! A slab reuses the key that was freed last, so a key alone would soon refer to another
//! connection. Every insertion into the slab takes the next number of a counter as its generation.
//! Every look-up compares the generations.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};

/// A slab key in the lower 32 bits, and the generation of its entry in the upper 32 bits. Both are
/// stored in one number, which is cheap to pass and to compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token(NonZeroU64);

impl Token {
    /// A token that refers to no entry. Its generation is zero, which no entry has.
    pub(crate) const NONE: Self = Self(NonZeroU64::MIN);

    pub(crate) fn new(key: u32, generation: NonZeroU32) -> Self {
        let bits = u64::from(generation.get()) << 32 | u64::from(key);
        Self(NonZeroU64::new(bits).expect("the generation in the upper half is not zero"))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half is the key")]
    pub(crate) fn key(self) -> u32 {
        self.0.get() as u32
    }

    pub(crate) fn is_of(self, generation: NonZeroU32) -> bool {
        self.0.get() >> 32 == u64::from(generation.get())
    }

    /// Returns the token as a number.
    pub(crate) fn to_bits(self) -> u64 {
        self.0.get()
    }

    /// Returns the token of a number from [`to_bits`](Self::to_bits).
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(NonZeroU64::new(bits).expect("the generation in the upper half is not zero"))
    }

    /// Returns the number to register with the poll: the generation and the key if both fit into a
    /// `usize`, else the key alone.
    ///
    /// If only the key fits, events of a closed entry are still harmless: a key is freed only after
    /// all events of the turn are recorded.
    pub(crate) fn to_poll(self) -> PollToken {
        #[cfg(target_pointer_width = "64")]
        let bits = self.0.get();
        #[cfg(not(target_pointer_width = "64"))]
        let bits = self.key();
        PollToken(usize::try_from(bits).expect("the bits fit into usize"))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}v{}", self.key(), self.0.get() >> 32)
    }
}

/// Number returned by the poll with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PollToken(pub(crate) usize);

impl PollToken {
    /// Returns the slab key in this number.
    pub(crate) fn key(self) -> usize {
        self.0 & 0xFFFF_FFFF
    }

    /// Returns the token of this number; `None` if the number was registered for an entry of
    /// another generation.
    #[inline]
    pub(crate) fn of(self, generation: NonZeroU32) -> Option<Token> {
        let token = Token::new(u32::try_from(self.key()).ok()?, generation);
        (token.to_poll() == self).then_some(token)
    }
}

/// Counter that supplies the generations. It skips zero, so that an `Option` of an id is no larger
/// than the id.
#[derive(Debug)]
pub(crate) struct Generations(NonZeroU32);

impl Generations {
    pub(crate) fn new() -> Self {
        Self(NonZeroU32::MIN)
    }

    #[cfg(test)]
    pub(crate) fn starting_at(next: NonZeroU32) -> Self {
        Self(next)
    }

    pub(crate) fn take(&mut self) -> NonZeroU32 {
        let taken = self.0;
        self.0 = taken.checked_add(1).unwrap_or(NonZeroU32::MIN);
        taken
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $variant:ident, $word:literal) => {
        $(#[$doc])*
        ///
        /// An id takes eight bytes and is `Copy`. After its connection or socket has closed, calls
        /// with the id fail or do nothing, even if the slot is in use again. An id is valid only
        /// for the reactor that issued it.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub(crate) Token);

        impl $name {
            /// Returns the id as a number, which can be the key of a
            /// [timer](crate::Context::set_timer), for example.
            #[must_use]
            pub fn to_bits(self) -> u64 {
                self.0.to_bits()
            }

            /// Returns the id of a number from [`to_bits`](Self::to_bits).
            ///
            /// Returns `None` for numbers below 2^32, because no id has such a number. So keys
            /// below 2^32 are free for other uses. A number that was not created by `to_bits`
            /// usually acts as a closed id. In the worst case it acts as the id of another socket
            /// of this kind.
            #[must_use]
            pub fn from_bits(bits: u64) -> Option<Self> {
                (bits >> 32 != 0).then(|| Self(Token::from_bits(bits)))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {:?}"), self.0)
            }
        }

        impl From<$name> for SocketId {
            fn from(id: $name) -> Self {
                Self::$variant(id)
            }
        }
    };
}

id! {
    /// Id of a connection over TCP or a Unix socket: accepted, connected or adopted.
    ConnId, Conn, "connection"
}
id! {
    /// Id of a listener for TCP or Unix connections.
    ListenerId, Listener, "listener"
}
id! {
    /// Id of a UDP socket.
    UdpId, Udp, "UDP socket"
}

#[cfg(unix)]
id! {
    /// Id of a Unix datagram socket.
    UnixDatagramId, UnixDatagram, "Unix datagram socket"
}

/// Id of any socket of a reactor, for calls that accept every kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketId {
    /// A connection.
    Conn(ConnId),
    /// A listener.
    Listener(ListenerId),
    /// A UDP socket.
    Udp(UdpId),
    /// A Unix datagram socket.
    #[cfg(unix)]
    UnixDatagram(UnixDatagramId),
}

impl SocketId {
    pub(crate) fn token(self) -> Token {
        match self {
            Self::Conn(id) => id.0,
            Self::Listener(id) => id.0,
            Self::Udp(id) => id.0,
            #[cfg(unix)]
            Self::UnixDatagram(id) => id.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_wrap_and_skip_zero() {
        let mut generations = Generations::starting_at(NonZeroU32::MAX);
        assert_eq!(generations.take(), NonZeroU32::MAX);
        assert_eq!(generations.take().get(), 1);
        assert_eq!(generations.take().get(), 2);
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn poll_token_carries_the_whole_generation() {
        for generation in [NonZeroU32::MIN, NonZeroU32::MAX] {
            let token = Token::new(u32::MAX - 1, generation);
            assert_eq!(token.key(), u32::MAX - 1);
            let back = token.to_poll();
            assert_eq!(back.key(), (u32::MAX - 1) as usize);
            assert_eq!(back.of(generation), Some(token));
            let other = NonZeroU32::new(7).expect("seven is not zero");
            assert_eq!(back.of(other), None);
        }
    }

    #[test]
    fn ids_round_trip_as_numbers_and_small_numbers_are_none() {
        for generation in [NonZeroU32::MIN, NonZeroU32::MAX] {
            let conn = ConnId(Token::new(7, generation));
            assert_eq!(ConnId::from_bits(conn.to_bits()), Some(conn));
        }
        assert_eq!(ConnId::from_bits(0), None);
        assert_eq!(ConnId::from_bits(u64::from(u32::MAX)), None);
        let smallest = Token::new(0, NonZeroU32::MIN);
        assert_eq!(ConnId::from_bits(1 << 32), Some(ConnId(smallest)));
    }

    #[test]
    fn option_of_an_id_is_no_larger_than_the_id() {
        assert_eq!(size_of::<ConnId>(), 8);
        assert_eq!(size_of::<Option<ConnId>>(), 8);
    }
}
