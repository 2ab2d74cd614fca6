//! Closures of one kind that were posted one behind the other: a box for many.
//!
//! A thread mostly posts the same closure again and again, with other captures. Each would be a
//! box of its own, allocated by one thread and freed by another, which costs more than all the
//! rest of a post. So the closures of one type that come in a row share a buffer.

use std::any::Any;
use std::collections::VecDeque;

use crate::context::Context;
use crate::handler::Handler;

/// The most closures that share a buffer, so that it is never long in being filled or moved.
const RUN_LEN_MAX: usize = 32;
/// And the most bytes of them: what is larger than that shares with nobody.
const RUN_BYTES_MAX: usize = 4096;

/// Closures that wait to be run on the loop's thread.
pub(crate) trait Closures<H: Handler> {
    /// Runs the one that has waited longest. Answers false where there is none.
    fn run_next(&mut self, handler: &mut H, cx: &mut Context<'_, H>) -> bool;

    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// Closures of one type, in the order in which they came.
struct Run<F> {
    /// Apart from the others, as most runs of kinds that alternate hold no more.
    first: Option<F>,
    others: VecDeque<F>,
}

impl<F> Run<F> {
    /// How many may stand behind the first.
    const OTHERS_MAX: usize = match RUN_BYTES_MAX.checked_div(size_of::<F>()) {
        Some(fitting) if fitting < RUN_LEN_MAX => fitting.saturating_sub(1),
        _ => RUN_LEN_MAX - 1,
    };
}

impl<H, F> Closures<H> for Run<F>
where
    H: Handler,
    F: FnOnce(&mut H, &mut Context<'_, H>) + 'static,
{
    fn run_next(&mut self, handler: &mut H, cx: &mut Context<'_, H>) -> bool {
        // It is out before it runs: one that panics is not run again.
        let next = self.first.take().or_else(|| self.others.pop_front());
        next.map(|task| task(handler, cx)).is_some()
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// A new run, with one closure in it.
pub(super) fn first<H, F>(task: F) -> Box<dyn Closures<H> + Send>
where
    H: Handler,
    F: FnOnce(&mut H, &mut Context<'_, H>) + Send + 'static,
{
    Box::new(Run {
        first: Some(task),
        others: VecDeque::new(),
    })
}

/// Puts a closure into a run, or gives it back where the run is of another type, or full.
#[inline]
pub(super) fn append<F: 'static>(last: &mut dyn Any, task: F) -> Option<F> {
    match last.downcast_mut::<Run<F>>() {
        Some(run) if run.others.len() < Run::<F>::OTHERS_MAX => {
            if run.others.capacity() == 0 {
                run.others.reserve_exact(Run::<F>::OTHERS_MAX);
            }
            run.others.push_back(task);
            None
        }
        _ => Some(task),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::id::ConnId;

    struct Nobody;

    impl Handler for Nobody {
        type Session = ();

        fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}
    }

    /// A closure of so many bytes; all of one length are of one type.
    fn closure<const LEN: usize>() -> impl FnOnce(&mut Nobody, &mut Context<'_, Nobody>) {
        let captured = [7_u8; LEN];
        move |_, _| assert_eq!(captured, [7; LEN])
    }

    fn shared<const LEN: usize>() -> usize {
        let mut run = first::<Nobody, _>(closure::<LEN>());
        let appended =
            (0..100).take_while(|_| append(run.as_any_mut(), closure::<LEN>()).is_none());
        1 + appended.count()
    }

    #[test]
    fn closures_of_one_type_share_a_run_as_long_as_they_are_few_and_small() {
        assert_eq!(shared::<0>(), RUN_LEN_MAX);
        assert_eq!(shared::<8>(), RUN_LEN_MAX);
        assert_eq!(shared::<1024>(), 4);
        assert_eq!(shared::<5000>(), 1);
    }

    #[test]
    fn a_closure_of_another_type_is_given_back() {
        let mut run = first::<Nobody, _>(closure::<8>());
        assert!(append(run.as_any_mut(), closure::<9>()).is_some());
        assert!(append(run.as_any_mut(), closure::<8>()).is_none());
    }
}
