//! The sessions of all connections, beside the slab and by the same keys.

/// A session stands here except while a callback has it.
pub(crate) struct Sessions<S> {
    slots: Vec<Option<S>>,
}

impl<S> Sessions<S> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new() }
    }

    #[inline]
    pub(crate) fn put(&mut self, key: u32, session: S) {
        match self.slots.get_mut(key as usize) {
            Some(slot) => *slot = Some(session),
            None => self.put_beyond(key, session),
        }
    }

    /// Takes a session out for a callback; the default for a key that has none yet.
    #[inline]
    pub(crate) fn take(&mut self, key: u32) -> S
    where
        S: Default,
    {
        self.slots
            .get_mut(key as usize)
            .and_then(Option::take)
            .unwrap_or_default()
    }

    pub(crate) fn at(&mut self, key: u32) -> Option<&mut S> {
        self.slots.get_mut(key as usize)?.as_mut()
    }

    #[cold]
    fn put_beyond(&mut self, key: u32, session: S) {
        self.slots.resize_with(key as usize, || None);
        self.slots.push(Some(session));
    }
}
