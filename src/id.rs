//! Names of the reactor's entries: a slab key and the generation that entry had.
//!
//! A slab hands the key it freed last out first, so a key alone would soon name somebody else's
//! connection. Every insertion into the slab takes the next number of one counter as its
//! generation, and every look-up compares it.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};

/// A slab key, in the lower half, with the generation of the entry it was handed out for: one
/// number, so that it is passed and compared as one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token(NonZeroU64);

impl Token {
    /// Names no entry: none has the generation zero.
    pub(crate) const NONE: Self = Self(NonZeroU64::MIN);

    #[inline]
    pub(crate) fn new(key: u32, generation: NonZeroU32) -> Self {
        let bits = u64::from(generation.get()) << 32 | u64::from(key);
        Self(NonZeroU64::new(bits).expect("a generation is not zero"))
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is the key")]
    pub(crate) fn key(self) -> u32 {
        self.0.get() as u32
    }

    #[inline]
    pub(crate) fn is_of(self, generation: NonZeroU32) -> bool {
        self.0.get() >> 32 == u64::from(generation.get())
    }

    /// The number that it is, to be kept where numbers are.
    pub(crate) fn to_bits(self) -> u64 {
        self.0.get()
    }

    /// The token that such a number was.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(NonZeroU64::new(bits).expect("a generation is not zero"))
    }

    /// The number given to the poll: generation and key where they fit, else the key alone.
    ///
    /// Where only the key fits, stale events of one batch are kept apart by the late reaping: a key
    /// is freed after the batch that could name it has been read.
    #[inline]
    pub(crate) fn to_poll(self) -> PollToken {
        #[cfg(target_pointer_width = "64")]
        let bits = self.0.get();
        #[cfg(not(target_pointer_width = "64"))]
        let bits = self.key();
        PollToken(usize::try_from(bits).expect("as wide as the number"))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}v{}", self.key(), self.0.get() >> 32)
    }
}

/// What the poll gave back for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PollToken(pub(crate) usize);

impl PollToken {
    /// The slab key in this number.
    #[inline]
    pub(crate) fn key(self) -> usize {
        #[cfg(target_pointer_width = "64")]
        return self.0 & 0xFFFF_FFFF;
        #[cfg(not(target_pointer_width = "64"))]
        return self.0;
    }

    /// The token that this number was given out for, if its entry had that generation.
    #[inline]
    pub(crate) fn of(self, generation: NonZeroU32) -> Option<Token> {
        let token = Token::new(u32::try_from(self.key()).ok()?, generation);
        (token.to_poll() == self).then_some(token)
    }
}

/// The counter that generations are taken from; zero is left out, so that an `Option` of an id is
/// no larger than the id.
#[derive(Debug)]
pub(crate) struct Generations {
    next: NonZeroU32,
}

impl Generations {
    pub(crate) fn new() -> Self {
        Self {
            next: NonZeroU32::MIN,
        }
    }

    #[cfg(test)]
    pub(crate) fn starting_at(next: NonZeroU32) -> Self {
        Self { next }
    }

    pub(crate) fn take(&mut self) -> NonZeroU32 {
        let taken = self.next;
        self.next = taken.checked_add(1).unwrap_or(NonZeroU32::MIN);
        taken
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $word:literal) => {
        $(#[$doc])*
        ///
        /// Eight bytes, `Copy`, and good for one life: after that it is answered as gone, also when
        /// its slot serves somebody else by then. It means something to its own reactor only.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub(crate) Token);

        impl $name {
            /// The id as a number, to be kept where numbers are: as the key of a
            /// [timer](crate::Context::set_timer), for example.
            #[must_use]
            pub fn to_bits(self) -> u64 {
                self.0.to_bits()
            }

            /// The id that such a number was. `None` for numbers below 2^32, which no id is: other
            /// keys may stand beside those that are ids. A number that is made up is as good as a
            /// stale id, at worst as that of another socket of this kind.
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
    };
}

id! {
    /// Names one connection, accepted, connected or adopted, over TCP or a Unix socket.
    ConnId, "connection"
}
id! {
    /// Names one listener, of TCP or of a Unix socket.
    ListenerId, "listener"
}
id! {
    /// Names one UDP socket.
    UdpId, "udp"
}

#[cfg(unix)]
id! {
    /// Names one Unix datagram socket.
    UnixDatagramId, "unix datagram socket"
}

/// Names any socket of a reactor, where a call serves all kinds alike.
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

impl From<ConnId> for SocketId {
    fn from(id: ConnId) -> Self {
        Self::Conn(id)
    }
}

impl From<ListenerId> for SocketId {
    fn from(id: ListenerId) -> Self {
        Self::Listener(id)
    }
}

#[cfg(unix)]
impl From<UnixDatagramId> for SocketId {
    fn from(id: UnixDatagramId) -> Self {
        Self::UnixDatagram(id)
    }
}

impl From<UdpId> for SocketId {
    fn from(id: UdpId) -> Self {
        Self::Udp(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_wrap_past_the_largest_and_leave_zero_out() {
        let mut generations = Generations::starting_at(NonZeroU32::MAX);
        assert_eq!(generations.take(), NonZeroU32::MAX);
        assert_eq!(generations.take().get(), 1);
        assert_eq!(generations.take().get(), 2);
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_poll_token_tells_the_generation_also_at_the_largest() {
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
    fn ids_come_back_from_their_numbers_and_small_numbers_are_none() {
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
    fn an_optional_id_is_no_larger_than_an_id() {
        assert_eq!(size_of::<ConnId>(), 8);
        assert_eq!(size_of::<Option<ConnId>>(), 8);
    }
}
