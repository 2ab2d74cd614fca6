//! A user's codec behind a trait object, with its state in a box; and the state of any codec.

use std::any::Any;
use std::sync::{Mutex, PoisonError};

use super::{Codec, Kind, Out, ScanState, Step, with_builtin};
use crate::error::FrameError;

pub(crate) type ErasedState = Box<dyn Any + Send>;

/// [`Codec`] without its associated type.
pub(crate) trait ErasedCodec: Send + Sync {
    fn new_state(&self) -> ErasedState;
    fn decode_erased(&self, state: &mut ErasedState, bytes: &[u8]) -> Result<Step, FrameError>;
    fn finish_erased(&self, state: &mut ErasedState, rest: &[u8]) -> Result<Step, FrameError>;
    fn encode_erased(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError>;
    fn headroom_erased(&self) -> usize;
    fn encode_in_place_erased(&self, out: &mut Out<'_>) -> Result<(), FrameError>;
}

impl<C> ErasedCodec for C
where
    C: Codec + Send + Sync,
    C::State: Send + 'static,
{
    fn new_state(&self) -> ErasedState {
        Box::new(C::State::default())
    }

    fn decode_erased(&self, state: &mut ErasedState, bytes: &[u8]) -> Result<Step, FrameError> {
        Codec::decode(self, own_state::<C>(state), bytes)
    }

    fn finish_erased(&self, state: &mut ErasedState, rest: &[u8]) -> Result<Step, FrameError> {
        Codec::finish(self, own_state::<C>(state), rest)
    }

    fn encode_erased(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        Codec::encode(self, payload, out)
    }

    fn headroom_erased(&self) -> usize {
        Codec::headroom(self)
    }

    fn encode_in_place_erased(&self, out: &mut Out<'_>) -> Result<(), FrameError> {
        Codec::encode_in_place(self, out)
    }
}

fn own_state<C>(state: &mut ErasedState) -> &mut C::State
where
    C: Codec,
    C::State: 'static,
{
    (**state)
        .downcast_mut()
        .expect("a state is only shown to the codec that made it")
}

/// What a codec remembers of a stream, whichever it is.
#[derive(Default)]
pub(crate) struct AnyState {
    scanned: ScanState,
    /// That of a user's codec. Nobody reaches it but by `&mut`, so it is never locked: this only
    /// lets what is not `Sync` stand in what is.
    own: Mutex<Option<ErasedState>>,
}

fn own_of<'a>(
    own: &'a mut Mutex<Option<ErasedState>>,
    custom: &dyn ErasedCodec,
) -> &'a mut ErasedState {
    let own = own.get_mut().unwrap_or_else(PoisonError::into_inner);
    own.get_or_insert_with(|| custom.new_state())
}

impl AnyState {
    /// Asks the codec, once, and holds it to its contract.
    pub(crate) fn checked_step(
        &mut self,
        kind: &Kind,
        bytes: &[u8],
        has_ended: bool,
    ) -> Result<Step, FrameError> {
        self.step(kind, bytes, has_ended)?.check(bytes.len())
    }

    /// Asks the codec, once.
    pub(crate) fn step(
        &mut self,
        kind: &Kind,
        bytes: &[u8],
        has_ended: bool,
    ) -> Result<Step, FrameError> {
        if !has_ended {
            return self.decode(kind, bytes, |step| step);
        }
        let Self { scanned, own } = self;
        with_builtin!(kind, codec => codec.finish(scanned, bytes), custom => {
            custom.finish_erased(own_of(own, &**custom), bytes)
        })
    }

    /// Asks the codec for the next frame, and answers what `then` makes of that. Both are inlined
    /// for each codec.
    #[inline(always)]
    pub(crate) fn decode<T>(
        &mut self,
        kind: &Kind,
        bytes: &[u8],
        mut then: impl FnMut(Result<Step, FrameError>) -> T,
    ) -> T {
        let Self { scanned, own } = self;
        with_builtin!(kind, codec => then(codec.decode(scanned, bytes)), custom => {
            then(custom.decode_erased(own_of(own, &**custom), bytes))
        })
    }
}
