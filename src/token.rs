//! Names of the reactor's entries: a slab key and the generation that entry had.
//!
//! A slab hands the key it freed last out first, so a key alone would soon name somebody else's
//! connection. Every insertion into the slab takes the next number of one counter as its
//! generation, and every look-up compares it.

use std::fmt;
use std::num::NonZeroU32;

/// A slab key with the generation of the entry it was handed out for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token {
    pub(crate) key: u32,
    pub(crate) generation: NonZeroU32,
}

impl Token {
    /// The number given to the poll: generation and key where they fit, else the key alone.
    ///
    /// Where only the key fits, stale events of one batch are kept apart by the late reaping: a key
    /// is freed after the batch that could name it has been read.
    pub(crate) fn to_poll(self) -> usize {
        #[cfg(target_pointer_width = "64")]
        return (self.generation.get() as usize) << 32 | self.key as usize;
        #[cfg(not(target_pointer_width = "64"))]
        return self.key as usize;
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}v{}", self.key, self.generation)
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

    /// Whether this number was given out for an entry of that generation.
    #[inline]
    pub(crate) fn is_of(self, generation: NonZeroU32) -> bool {
        #[cfg(target_pointer_width = "64")]
        return self.0 >> 32 == generation.get() as usize;
        #[cfg(not(target_pointer_width = "64"))]
        return {
            let _ = generation;
            true
        };
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
        /// its slot serves somebody else by then.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub(crate) Token);

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
    /// Names one TCP connection, accepted or connected.
    ConnId, "connection"
}
id! {
    /// Names one TCP listener.
    ListenerId, "listener"
}
id! {
    /// Names one UDP socket.
    UdpId, "udp"
}

/// Names any socket of a reactor, where a call serves all kinds alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketId {
    /// A TCP connection.
    Conn(ConnId),
    /// A TCP listener.
    Listener(ListenerId),
    /// A UDP socket.
    Udp(UdpId),
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
            let token = Token {
                key: u32::MAX - 1,
                generation,
            };
            let back = PollToken(token.to_poll());
            assert_eq!(back.key(), (u32::MAX - 1) as usize);
            assert!(back.is_of(generation));
            assert!(!back.is_of(NonZeroU32::new(7).expect("seven is not zero")));
        }
    }

    #[test]
    fn an_optional_id_is_no_larger_than_an_id() {
        assert_eq!(size_of::<ConnId>(), 8);
        assert_eq!(size_of::<Option<ConnId>>(), 8);
    }
}
