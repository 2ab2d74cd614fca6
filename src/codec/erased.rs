//! A user's codec as a trait object, whose state is in a box; and the state of any codec.

use std::any::Any;
use std::sync::{Mutex, PoisonError};

use super::step::{CheckedStep, check};
use super::{AnyDecoder, Codec, Decoder, Kind, Out, ScanState, Step, with_builtin};
use crate::error::FrameError;

/// State of a user's codec for one connection.
#[derive(Debug, Default)]
pub(crate) struct ErasedState {
    /// State of the codec; `None` until the codec is called.
    state: Option<Box<dyn Any + Send>>,
    /// True while a frame is being skipped: the last step other than `Need` was [`Step::SkipPart`].
    is_skipping: bool,
}

/// A user's codec without its type.
pub(crate) type ErasedCodec = dyn Codec<State = ErasedState> + Send + Sync;

/// A user's codec that keeps its state in a box.
pub(super) struct Boxed<C>(pub(super) C);

impl<C> Codec for Boxed<C>
where
    C: Codec,
    C::State: Send + 'static,
{
    type State = ErasedState;

    fn decode(&self, state: &mut ErasedState, bytes: &[u8]) -> Result<Step, FrameError> {
        let step = self.0.decode(state.of::<C>(), bytes);
        state.record(step)
    }

    fn finish(&self, state: &mut ErasedState, rest: &[u8]) -> Result<Step, FrameError> {
        let step = self.0.finish(state.of::<C>(), rest);
        state.record(step)
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        self.0.encode(payload, out)
    }

    fn headroom(&self) -> usize {
        self.0.headroom()
    }

    fn encode_in_place(&self, out: &mut Out<'_>) -> Result<(), FrameError> {
        self.0.encode_in_place(out)
    }
}

impl ErasedState {
    /// Returns the state as the state type of the codec `C`.
    fn of<C>(&mut self) -> &mut C::State
    where
        C: Codec,
        C::State: Send + 'static,
    {
        self.state
            .get_or_insert_with(|| Box::new(C::State::default()))
            .downcast_mut()
            .expect("a state is only passed to the codec that created it")
    }

    /// Records a step of the codec, and checks that a frame whose beginning was skipped is not
    /// delivered.
    fn record(&mut self, step: Result<Step, FrameError>) -> Result<Step, FrameError> {
        let was_skipping = self.is_skipping;
        match &step {
            Ok(Step::Frame { .. }) if was_skipping => {
                return Err(FrameError::Contract(
                    "`Frame` for a frame whose beginning was skipped by `SkipPart`",
                ));
            }
            Ok(Step::Need(_)) => {}
            Ok(Step::SkipPart { .. }) => self.is_skipping = true,
            _ => self.is_skipping = false,
        }
        step
    }
}

/// State of any codec for one stream.
#[derive(Default)]
pub(crate) struct AnyState {
    scanned: ScanState,
    /// State of a user's codec. It is only accessed by `&mut`, so the mutex is never locked. The
    /// mutex makes `AnyState` `Sync` even if the state is not.
    custom: Mutex<ErasedState>,
}

impl AnyState {
    /// Creates the state of a stream from its two parts: `scanned`, the state of a built-in codec,
    /// and `custom`, the state of a user's codec.
    pub(crate) fn new(scanned: ScanState, custom: ErasedState) -> Self {
        let custom = Mutex::new(custom);
        Self { scanned, custom }
    }

    /// Returns true if the codec has skipped the beginning of a frame that is too long, but not yet
    /// its end.
    pub(crate) fn is_skipping(&mut self, kind: &Kind) -> bool {
        let custom = self.custom.get_mut();
        let custom = custom.unwrap_or_else(PoisonError::into_inner);
        custom.is_skipping || kind.is_skipping(self.scanned)
    }

    /// Decodes the start of `bytes` with one call of the codec: of `finish` if the stream
    /// `has_ended`, otherwise of `decode`.
    pub(crate) fn step<'a>(
        &mut self,
        kind: &Kind,
        bytes: &'a [u8],
        has_ended: bool,
    ) -> CheckedStep<'a> {
        let Self { scanned, custom } = self;
        let custom = custom.get_mut().unwrap_or_else(PoisonError::into_inner);
        AnyDecoder {
            kind,
            scanned,
            custom,
            has_ended,
        }
        .step(bytes)
    }

    /// Decodes the start of `bytes` before the stream has ended. Calls `then` with the step and
    /// returns its result.
    // Inlined together with `then` for each codec. Otherwise a loop over single frames reads each
    // step back from memory and takes twice the time.
    #[inline(always)]
    pub(crate) fn step_then<'a, T>(
        &mut self,
        kind: &Kind,
        bytes: &'a [u8],
        then: impl Fn(CheckedStep<'a>) -> T,
    ) -> T {
        let Self { scanned, custom } = self;
        with_builtin!(kind, codec => then(check(bytes, codec.decode(scanned, bytes))), codec => {
            let custom = custom.get_mut().unwrap_or_else(PoisonError::into_inner);
            then(check(bytes, codec.decode(custom, bytes)))
        })
    }
}
