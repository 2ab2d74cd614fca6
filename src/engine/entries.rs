//! The slab, and the one place where a token is held against it.

use std::num::NonZeroU32;

use slab::Slab;

use super::{Connection, Entry, ListenerEntry, UdpEntry};
use crate::conn::Flags;
use crate::error::Gone;
use crate::token::{Generations, ListenerId, PollToken, Token, UdpId};

/// All entries of a reactor.
#[derive(Debug)]
pub(crate) struct Entries {
    slab: Slab<Entry>,
    generations: Generations,
}

impl Entries {
    pub(super) fn new() -> Self {
        Self {
            slab: Slab::new(),
            generations: Generations::new(),
        }
    }

    pub(super) fn insert(&mut self, entry: impl FnOnce(NonZeroU32) -> Entry) -> Token {
        let generation = self.generations.take();
        let vacant = self.slab.vacant_entry();
        let key = u32::try_from(vacant.key()).expect("descriptors end before 2^32 entries do");
        vacant.insert(entry(generation));
        Token { key, generation }
    }

    /// Frees the key of an entry that is there.
    pub(super) fn remove(&mut self, token: Token) {
        self.slab.remove(token.key as usize);
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// The tokens of all entries that are there now.
    pub(super) fn tokens(&self) -> Vec<Token> {
        let token = |(key, entry): (usize, &Entry)| Token {
            key: u32::try_from(key).expect("keys are handed out as 32 bits"),
            generation: entry.generation(),
        };
        self.slab.iter().map(token).collect()
    }

    #[inline]
    pub(crate) fn get(&self, token: Token) -> Result<&Entry, Gone> {
        match self.slab.get(token.key as usize) {
            Some(entry) if entry.generation() == token.generation => Ok(entry),
            _ => Err(Gone),
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, token: Token) -> Result<&mut Entry, Gone> {
        match self.slab.get_mut(token.key as usize) {
            Some(entry) if entry.generation() == token.generation => Ok(entry),
            _ => Err(Gone),
        }
    }

    /// The flags, which all kinds have.
    #[inline]
    pub(super) fn flags_mut(&mut self, token: Token) -> Option<&mut Flags> {
        let (generation, flags) = self.slab.get_mut(token.key as usize)?.head_mut();
        (generation == token.generation).then_some(flags)
    }

    /// The entry that the poll has named, and its flags.
    #[inline]
    pub(super) fn of_poll(&mut self, token: PollToken) -> Option<(Token, &mut Flags)> {
        let (generation, flags) = self.slab.get_mut(token.key())?.head_mut();
        let key = u32::try_from(token.key()).expect("keys are handed out as 32 bits");
        token
            .is_of(generation)
            .then_some((Token { key, generation }, flags))
    }

    #[inline]
    pub(crate) fn conn(&self, token: Token) -> Result<&Connection, Gone> {
        match self.slab.get(token.key as usize) {
            Some(Entry::Conn(conn)) if conn.generation == token.generation => Ok(conn),
            _ => Err(Gone),
        }
    }

    #[inline]
    pub(crate) fn conn_mut(&mut self, token: Token) -> Result<&mut Connection, Gone> {
        match self.slab.get_mut(token.key as usize) {
            Some(Entry::Conn(conn)) if conn.generation == token.generation => Ok(conn),
            _ => Err(Gone),
        }
    }

    pub(crate) fn listener_mut(&mut self, id: ListenerId) -> Result<&mut ListenerEntry, Gone> {
        match self.get_mut(id.0)? {
            Entry::Listener(entry) => Ok(entry),
            _ => Err(Gone),
        }
    }

    pub(crate) fn udp_mut(&mut self, id: UdpId) -> Result<&mut UdpEntry, Gone> {
        match self.get_mut(id.0)? {
            Entry::Udp(entry) => Ok(entry),
            _ => Err(Gone),
        }
    }
}
