//! The data: strings, lists, sets and hashes by key, with a limit of their total size.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque, hash_map::Entry};

type Bytes = Vec<u8>;

/// Estimated memory overhead of each stored key, element, field or field value, in bytes.
const ENTRY_BYTES: usize = 64;

/// Reason why a command failed. The text is the error reply.
pub(crate) type Refused = &'static str;

const WRONG_TYPE: Refused = "WRONGTYPE Operation against a key holding the wrong kind of value";
pub(crate) const OUT_OF_MEMORY: Refused = "OOM command not allowed when used memory > 'maxmemory'";
const NOT_INTEGER: Refused = "ERR value is not an integer or out of range";

pub(crate) enum Value {
    Text(Bytes),
    List(VecDeque<Bytes>),
    Set(HashSet<Bytes>),
    Hash(BTreeMap<Bytes, Bytes>),
}

impl Value {
    fn bytes(&self) -> usize {
        let of = |value: &Bytes| value.len() + ENTRY_BYTES;
        match self {
            Self::Text(text) => text.len(),
            Self::List(list) => list.iter().map(of).sum(),
            Self::Set(set) => set.iter().map(of).sum(),
            Self::Hash(hash) => hash.iter().map(|(key, value)| of(key) + of(value)).sum(),
        }
    }
}

/// All keys. If commands that add data are rejected while [`is_full`](Self::is_full) returns true,
/// `bytes` exceeds `bytes_max` by at most the data of one command.
pub(crate) struct Store {
    values: HashMap<Bytes, Value>,
    bytes: usize,
    bytes_max: usize,
}

/// Defines two methods for one type of value. `$get` returns the value at a key, or `None` if there
/// is no such key. `$make` also creates a missing value. Both methods fail if the value has another
/// type.
macro_rules! typed {
    ($get:ident, $make:ident, $variant:ident, $type:ty) => {
        pub(crate) fn $get(&self, key: &[u8]) -> Result<Option<&$type>, Refused> {
            match self.values.get(key) {
                Some(Value::$variant(value)) => Ok(Some(value)),
                Some(_) => Err(WRONG_TYPE),
                None => Ok(None),
            }
        }

        fn $make(&mut self, key: &[u8]) -> Result<&mut $type, Refused> {
            if !self.values.contains_key(key) {
                self.bytes += key.len() + ENTRY_BYTES;
                let value = Value::$variant(Default::default());
                self.values.insert(key.to_vec(), value);
            }
            match self.values.get_mut(key) {
                Some(Value::$variant(value)) => Ok(value),
                _ => Err(WRONG_TYPE),
            }
        }
    };
}

impl Store {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            values: HashMap::new(),
            bytes: 0,
            bytes_max,
        }
    }

    typed!(text, make_text, Text, Bytes);
    typed!(list, make_list, List, VecDeque<Bytes>);
    typed!(set, make_set, Set, HashSet<Bytes>);
    typed!(hash, make_hash, Hash, BTreeMap<Bytes, Bytes>);

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns true if the memory is used up.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes > self.bytes_max
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.values.contains_key(key)
    }

    pub(crate) fn clear(&mut self) {
        self.values.clear();
        self.bytes = 0;
    }

    /// Removes a key. Returns true if the key existed.
    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        let removed = self.values.remove(key);
        if let Some(value) = &removed {
            self.bytes -= value.bytes() + key.len() + ENTRY_BYTES;
        }
        removed.is_some()
    }

    /// Sets a key to a text. The former value may have any type.
    pub(crate) fn put(&mut self, key: &[u8], text: &[u8]) -> Result<(), Refused> {
        if let Some(Value::Text(old)) = self.values.get_mut(key) {
            self.bytes = self.bytes - old.len() + text.len();
            text.clone_into(old);
            return Ok(());
        }
        self.remove(key);
        text.clone_into(self.make_text(key)?);
        self.bytes += text.len();
        Ok(())
    }

    /// Adds to the number at a key, and returns the sum.
    pub(crate) fn add(&mut self, key: &[u8], amount: i64) -> Result<i64, Refused> {
        let text = self
            .text(key)?
            .map_or("0", |text| std::str::from_utf8(text).unwrap_or_default());
        let number: i64 = text.parse().map_err(|_| NOT_INTEGER)?;
        let sum = number.checked_add(amount).ok_or(NOT_INTEGER)?;
        self.put(key, sum.to_string().as_bytes())?;
        Ok(sum)
    }

    /// Adds a value at one end of a list. Returns the new length of the list.
    pub(crate) fn push(&mut self, key: &[u8], at: End, value: &[u8]) -> Result<usize, Refused> {
        let list = self.make_list(key)?;
        match at {
            End::Left => list.push_front(value.to_vec()),
            End::Right => list.push_back(value.to_vec()),
        }
        let len = list.len();
        self.bytes += value.len() + ENTRY_BYTES;
        Ok(len)
    }

    pub(crate) fn pop(&mut self, key: &[u8], at: End) -> Result<Option<Bytes>, Refused> {
        if self.list(key)?.is_none() {
            return Ok(None);
        }
        let list = self.make_list(key)?;
        let popped = match at {
            End::Left => list.pop_front(),
            End::Right => list.pop_back(),
        };
        let is_empty = list.is_empty();
        self.bytes -= popped.as_ref().map_or(0, |it| it.len() + ENTRY_BYTES);
        if is_empty {
            self.remove(key);
        }
        Ok(popped)
    }

    /// Adds a member to a set. Returns true if the member is new.
    pub(crate) fn add_member(&mut self, key: &[u8], member: &[u8]) -> Result<bool, Refused> {
        let is_new = self.make_set(key)?.insert(member.to_vec());
        self.bytes += usize::from(is_new) * (member.len() + ENTRY_BYTES);
        Ok(is_new)
    }

    /// Removes an arbitrary member of a set, and returns the member.
    pub(crate) fn pop_member(&mut self, key: &[u8]) -> Result<Option<Bytes>, Refused> {
        let Entry::Occupied(mut entry) = self.values.entry(key.to_vec()) else {
            return Ok(None);
        };
        let Value::Set(set) = entry.get_mut() else {
            return Err(WRONG_TYPE);
        };
        let member = set.iter().next().cloned();
        if let Some(member) = &member {
            set.remove(member);
            self.bytes -= member.len() + ENTRY_BYTES;
        }
        if set.is_empty() {
            entry.remove();
            self.bytes -= key.len() + ENTRY_BYTES;
        }
        Ok(member)
    }

    /// Sets a field of a hash. Returns true if the field is new.
    pub(crate) fn put_field(
        &mut self,
        key: &[u8],
        field: &[u8],
        value: &[u8],
    ) -> Result<bool, Refused> {
        let old = self.make_hash(key)?.insert(field.to_vec(), value.to_vec());
        match &old {
            Some(old) => self.bytes = self.bytes - old.len() + value.len(),
            None => self.bytes += field.len() + value.len() + 2 * ENTRY_BYTES,
        }
        Ok(old.is_none())
    }
}

/// One end of a list.
#[derive(Clone, Copy)]
pub(crate) enum End {
    Left,
    Right,
}
