//! The slab, and the one place where a token is held against it.

use std::num::NonZeroU32;

use ::slab::Slab;

use super::{Connection, Entry, ListenerEntry, UdpEntry};
use crate::conn::State;
use crate::error::Gone;
use crate::id::{Generations, ListenerId, PollToken, Token, UdpId};

/// All entries of a reactor.
///
/// Every way in which a callback can change an entry leads through here. So one connection can be
/// [watched](Entries::watch): as long as nobody looked anything up to change it, that connection is
/// as it was, and need not be looked at.
#[derive(Debug)]
pub(crate) struct Entries {
    slab: Slab<Entry>,
    generations: Generations,
    /// The connection that is watched, until any entry is looked up to be changed.
    watched: Option<Token>,
    /// Whether whoever is opened from now on is observed.
    observes_new: bool,
}

impl Entries {
    pub(super) fn new() -> Self {
        Self {
            slab: Slab::new(),
            generations: Generations::new(),
            watched: None,
            observes_new: false,
        }
    }

    /// As if so many entries had been there before.
    #[cfg(test)]
    pub(crate) fn set_next_generation(&mut self, next: NonZeroU32) {
        self.generations = Generations::starting_at(next);
    }

    pub(super) fn insert(&mut self, entry: impl FnOnce(NonZeroU32) -> Entry) -> Token {
        let generation = self.generations.take();
        let vacant = self.slab.vacant_entry();
        let key = u32::try_from(vacant.key()).expect("descriptors end before 2^32 entries do");
        let entry = vacant.insert(entry(generation));
        entry.flags_mut().set(State::RECORDED, self.observes_new);
        Token::new(key, generation)
    }

    /// Observes all that are there and all that come, or none.
    pub(super) fn record_all(&mut self, on: bool) {
        self.watched = None;
        self.observes_new = on;
        for (_, entry) in &mut self.slab {
            entry.flags_mut().set(State::RECORDED, on);
        }
    }

    /// Frees the key of an entry that is there.
    pub(super) fn remove(&mut self, token: Token) {
        self.slab.remove(token.key() as usize);
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// The tokens of all entries that are there now.
    pub(super) fn tokens(&self) -> Vec<Token> {
        let token = |(key, entry): (usize, &Entry)| {
            let key = u32::try_from(key).expect("keys are handed out as 32 bits");
            Token::new(key, entry.generation())
        };
        self.slab.iter().map(token).collect()
    }

    #[inline]
    pub(crate) fn get(&self, token: Token) -> Result<&Entry, Gone> {
        match self.slab.get(token.key() as usize) {
            Some(entry) if token.is_of(entry.generation()) => Ok(entry),
            _ => Err(Gone),
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, token: Token) -> Result<&mut Entry, Gone> {
        self.watched = None;
        match self.slab.get_mut(token.key() as usize) {
            Some(entry) if token.is_of(entry.generation()) => Ok(entry),
            _ => Err(Gone),
        }
    }

    /// The flags, which all kinds have.
    #[inline]
    pub(super) fn flags_mut(&mut self, token: Token) -> Option<&mut State> {
        self.watched = None;
        let (generation, flags) = self.slab.get_mut(token.key() as usize)?.head_mut();
        token.is_of(generation).then_some(flags)
    }

    /// The entry that the poll has named, and its flags.
    #[inline]
    pub(super) fn of_poll(&mut self, token: PollToken) -> Option<(Token, &mut State)> {
        let (generation, flags) = match self.slab.get_mut(token.key()) {
            Some(Entry::Conn(conn)) => (conn.generation, &mut conn.flags),
            other => other?.rare_head_mut(),
        };
        Some((token.of(generation)?, flags))
    }

    #[inline]
    pub(crate) fn conn(&self, token: Token) -> Result<&Connection, Gone> {
        match self.slab.get(token.key() as usize) {
            Some(Entry::Conn(conn)) if token.is_of(conn.generation) => Ok(conn),
            _ => Err(Gone),
        }
    }

    #[inline]
    pub(crate) fn conn_mut(&mut self, token: Token) -> Result<&mut Connection, Gone> {
        self.watched = None;
        self.unwatched_mut(token)
    }

    /// [`conn_mut`](Entries::conn_mut) for the dispatch itself: it knows what it changes.
    #[inline]
    pub(super) fn unwatched_mut(&mut self, token: Token) -> Result<&mut Connection, Gone> {
        match self.slab.get_mut(token.key() as usize) {
            Some(Entry::Conn(conn)) if token.is_of(conn.generation) => Ok(conn),
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

    #[inline]
    pub(super) fn watch(&mut self, token: Option<Token>) {
        self.watched = token;
    }

    /// Whether this connection is watched, and nothing was changed since.
    #[inline]
    pub(super) fn is_unchanged(&self, token: Token) -> bool {
        self.watched == Some(token)
    }

    /// Whether the connection that was watched last is unchanged.
    #[inline]
    pub(super) fn is_watching(&self) -> bool {
        self.watched.is_some()
    }
}
