//! A user's codec behind a trait object, with its state in a box; and the state of any codec.

use std::any::Any;
use std::sync::{Mutex, PoisonError};

use super::step::{CheckedStep, check};
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
        .expect("a state is only passed to the codec that made it")
}

/// State of any codec for one stream.
#[derive(Default)]
pub(crate) struct AnyState {
    scanned: ScanState,
    /// State of a user's codec. It is only reached by `&mut` and never locked: the mutex makes a
    /// state that is not `Sync` part of a type that is.
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
    /// Decodes the start of `bytes`: one call of the codec, also once the stream `has_ended`.
    pub(crate) fn step<'a>(
        &mut self,
        kind: &Kind,
        bytes: &'a [u8],
        has_ended: bool,
    ) -> CheckedStep<'a> {
        if !has_ended {
            return self.step_then(kind, bytes, |step| step);
        }
        let Self { scanned, own } = self;
        let step = with_builtin!(kind, codec => codec.finish(scanned, bytes), custom => {
            custom.finish_erased(own_of(own, &**custom), bytes)
        });
        check(bytes, step)
    }

    /// Decodes the start of `bytes` before the stream has ended, and returns the result of `then`
    /// for the step.
    // Inlined together with `then` for each codec. Otherwise a loop over single frames reads each
    // step back from memory and takes twice the time.
    #[inline(always)]
    pub(crate) fn step_then<'a, T>(
        &mut self,
        kind: &Kind,
        bytes: &'a [u8],
        then: impl Fn(CheckedStep<'a>) -> T,
    ) -> T {
        let Self { scanned, own } = self;
        with_builtin!(kind, codec => then(check(bytes, codec.decode(scanned, bytes))), custom => {
            then(check(bytes, custom.decode_erased(own_of(own, &**custom), bytes)))
        })
    }
}
