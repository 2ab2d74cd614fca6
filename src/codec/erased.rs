//! A user's codec behind a trait object, with its state in a box.

use std::any::Any;

use super::{Codec, Out, Step};
use crate::error::FrameError;

pub(crate) type ErasedState = Box<dyn Any + Send>;

/// [`Codec`] without its associated type.
pub(crate) trait ErasedCodec: Send + Sync {
    fn new_state(&self) -> ErasedState;
    fn decode_erased(&self, state: &mut ErasedState, bytes: &[u8]) -> Result<Step, FrameError>;
    fn finish_erased(&self, state: &mut ErasedState, rest: &[u8]) -> Result<Step, FrameError>;
    fn encode_erased(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError>;
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
