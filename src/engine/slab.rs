//! The slab of entries. The generation of a token is checked here and nowhere else.

use std::num::NonZeroU32;

use slab::Slab;

use super::{Connection, Entry, ListenerEntry, UdpEntry};
use crate::conn::State;
use crate::error::Gone;
use crate::id::{Generations, ListenerId, PollToken, Token, UdpId};

/// All entries of a reactor.
///
/// Callbacks can change an entry only through this type, so the dispatch can *watch* the active
/// connection. If no entry was borrowed mutably since the start of the watch, the connection is
/// unchanged. The dispatch then need not look it up after each frame.
#[derive(Debug)]
pub(crate) struct Entries {
    slab: Slab<Entry>,
    generations: Generations,
    /// The watched connection; `None` once any entry was borrowed mutably. [`Token::NONE`] if the
    /// active connection is unchanged, but each of its sends needs a look-up.
    watched: Option<Token>,
    /// True if new sockets are recorded from the start.
    records_new: bool,
}

impl Entries {
    pub(super) fn new() -> Self {
        Self {
            slab: Slab::new(),
            generations: Generations::new(),
            watched: None,
            records_new: false,
        }
    }

    /// Sets the generation of the next entry.
    #[cfg(test)]
    pub(crate) fn set_next_generation(&mut self, next: NonZeroU32) {
        self.generations = Generations::starting_at(next);
    }

    /// Adds the entry that `entry` creates for a new generation. Returns the token of the entry.
    pub(super) fn insert(&mut self, entry: impl FnOnce(NonZeroU32) -> Entry) -> Token {
        let generation = self.generations.take();
        let vacant = self.slab.vacant_entry();
        let key = u32::try_from(vacant.key()).expect("descriptors run out before 2^32 entries");
        let entry = vacant.insert(entry(generation));
        entry.state_mut().set_recorded(self.records_new);
        Token::new(key, generation)
    }

    /// Starts or stops the recording of all entries, including future ones.
    pub(super) fn record_all(&mut self, on: bool) {
        self.watched = None;
        self.records_new = on;
        for (_, entry) in &mut self.slab {
            entry.state_mut().set_recorded(on);
        }
    }

    /// Frees the key of an entry.
    pub(super) fn remove(&mut self, token: Token) {
        self.slab.remove(token.key() as usize);
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// Returns the tokens of all entries.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        let token = |(key, entry): (usize, &Entry)| {
            let key = u32::try_from(key).expect("`insert` checked that keys have 32 bits");
            Token::new(key, entry.generation())
        };
        self.slab.iter().map(token).collect()
    }

    pub(crate) fn get(&self, token: Token) -> Result<&Entry, Gone> {
        match self.slab.get(token.key() as usize) {
            Some(entry) if token.is_of(entry.generation()) => Ok(entry),
            _ => Err(Gone),
        }
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Result<&mut Entry, Gone> {
        self.watched = None;
        match self.slab.get_mut(token.key() as usize) {
            Some(entry) if token.is_of(entry.generation()) => Ok(entry),
            _ => Err(Gone),
        }
    }

    /// Returns the state of an entry of any kind.
    pub(super) fn state_mut(&mut self, token: Token) -> Result<&mut State, Gone> {
        Ok(self.get_mut(token)?.state_mut())
    }

    /// Returns the token and the state of the entry to which the token of an event belongs; `None`
    /// if no entry has this token, for example because its socket is closed.
    #[inline]
    pub(super) fn of_poll(&mut self, token: PollToken) -> Option<(Token, &mut State)> {
        let (generation, state) = self.slab.get_mut(token.key())?.head_mut();
        Some((token.of(generation)?, state))
    }

    pub(crate) fn conn(&self, token: Token) -> Result<&Connection, Gone> {
        match self.slab.get(token.key() as usize) {
            Some(Entry::Conn(conn)) if token.is_of(conn.generation) => Ok(conn),
            _ => Err(Gone),
        }
    }

    pub(crate) fn conn_mut(&mut self, token: Token) -> Result<&mut Connection, Gone> {
        self.watched = None;
        self.watched_conn_mut(token)
    }

    /// Borrows a connection without ending the watch. Only for code of the dispatch, which takes
    /// its own changes into account.
    pub(super) fn watched_conn_mut(&mut self, token: Token) -> Result<&mut Connection, Gone> {
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
        self.watched = None;
        match self.slab.get_mut(id.0.key() as usize) {
            Some(Entry::Udp(entry)) if id.0.is_of(entry.generation) => Ok(entry),
            _ => Err(Gone),
        }
    }

    /// Watches the connection `token` from now on; `None` ends the watch. With [`Token::NONE`],
    /// [`is_watching`](Self::is_watching) returns true, but [`is_unchanged`](Self::is_unchanged)
    /// returns false for every connection.
    pub(super) fn watch(&mut self, token: Option<Token>) {
        self.watched = token;
    }

    /// Returns true if `token` is still the watched connection. A mutable borrow of any entry ends
    /// the watch, unless `watched_conn_mut` or `of_poll` borrows the entry.
    pub(super) fn is_unchanged(&self, token: Token) -> bool {
        self.watched == Some(token)
    }

    /// Returns true if the active connection need not be looked up after a frame. A mutable borrow
    /// of any entry ends the watch, unless `watched_conn_mut` or `of_poll` borrows the entry.
    pub(crate) fn is_watching(&self) -> bool {
        self.watched.is_some()
    }
}
