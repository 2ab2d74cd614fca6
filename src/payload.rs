//! [`Payload`]: bytes passed to the reactor by value, owned or shared.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A payload passed by value, which can be queued without a copy.
///
/// A `Vec<u8>`, a `Box<[u8]>` or a `String` becomes an owned payload. An `Arc<[u8]>`, a `&'static
/// [u8]` or a literal becomes a shared payload, and with the feature `bytes` also a `bytes::Bytes`.
/// Cloning a shared payload copies no bytes; cloning an owned payload copies all bytes.
///
/// # Examples
///
/// ```
/// use unstick::Payload;
///
/// for literal in [Payload::from("hello"), Payload::from(b"hello")] {
///     assert_eq!(literal[..], *b"hello");
/// }
/// let owned = Payload::from(vec![0; 1 << 20]);
/// let shared = owned.into_shared(); // copies once
/// let same = shared.clone(); // copies nothing
/// assert_eq!(&shared[..4], &same[..4]);
/// ```
#[derive(Clone)]
pub struct Payload(Kind);

#[derive(Clone)]
enum Kind {
    Owned(Vec<u8>),
    Shared(Arc<[u8]>),
    Static(&'static [u8]),
    #[cfg(feature = "bytes")]
    Bytes(bytes::Bytes),
}

impl Payload {
    /// Returns a shared payload with the same bytes. Copies the bytes once if this payload is
    /// owned.
    #[must_use]
    pub fn into_shared(self) -> Self {
        match self.0 {
            Kind::Owned(bytes) => Self(Kind::Shared(bytes.into())),
            shared => Self(shared),
        }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kind::Owned(bytes) => bytes,
            Kind::Shared(bytes) => bytes,
            Kind::Static(bytes) => bytes,
            #[cfg(feature = "bytes")]
            Kind::Bytes(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Implements the conversion of each type into a payload of one [`Kind`].
macro_rules! impl_from {
    ($($source:ty, $bytes:ident => $kind:expr;)*) => {$(
        impl From<$source> for Payload {
            fn from($bytes: $source) -> Self {
                Self($kind)
            }
        }
    )*};
}

impl_from! {
    Vec<u8>, bytes => Kind::Owned(bytes);
    Box<[u8]>, bytes => Kind::Owned(bytes.into_vec());
    String, text => Kind::Owned(text.into_bytes());
    Arc<[u8]>, bytes => Kind::Shared(bytes);
    &'static [u8], bytes => Kind::Static(bytes);
    &'static str, text => Kind::Static(text.as_bytes());
}

/// Shares the bytes, without a copy. Requires the feature `bytes`.
#[cfg(feature = "bytes")]
impl From<bytes::Bytes> for Payload {
    fn from(bytes: bytes::Bytes) -> Self {
        Self(Kind::Bytes(bytes))
    }
}

/// Freezes the bytes, without a copy. Requires the feature `bytes`.
#[cfg(feature = "bytes")]
impl From<bytes::BytesMut> for Payload {
    fn from(bytes: bytes::BytesMut) -> Self {
        bytes.freeze().into()
    }
}

impl<const N: usize> From<&'static [u8; N]> for Payload {
    fn from(bytes: &'static [u8; N]) -> Self {
        Self(Kind::Static(bytes))
    }
}

/// Returns the bytes of an owned payload without a copy. Usually copies the bytes of a shared
/// payload.
impl From<Payload> for Vec<u8> {
    fn from(payload: Payload) -> Self {
        match payload.0 {
            Kind::Owned(bytes) => bytes,
            Kind::Shared(bytes) => bytes.to_vec(),
            Kind::Static(bytes) => bytes.to_vec(),
            #[cfg(feature = "bytes")]
            Kind::Bytes(bytes) => bytes.into(),
        }
    }
}

/// Writes the length, not the bytes.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
