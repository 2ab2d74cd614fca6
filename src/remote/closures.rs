//! Batches of posted closures of one type: one allocation for many closures.
//!
//! A thread usually posts closures of one type again and again, with different captures. A box per
//! closure would be allocated by one thread and freed by another, which costs more than the rest of
//! a post. So consecutive closures of one type share a buffer.

use std::any::Any;
use std::collections::VecDeque;

use crate::context::Context;
use crate::handler::Handler;

/// Maximum number of closures that share a buffer. The buffer is allocated with its full size, so
/// the maximum keeps the buffers of small closures small.
const RUN_LEN_MAX: usize = 32;
/// Maximum total size of the closures that share a buffer, in bytes. A closure of more than half
/// this size shares no buffer.
const RUN_BYTES_MAX: usize = 4096;

/// Closures waiting to run on the loop's thread.
pub(crate) trait Closures<H: Handler> {
    /// Runs the closure that has waited longest. Returns false if no closure is left.
    fn run_next(&mut self, handler: &mut H, cx: &mut Context<'_, H>) -> bool;

    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// A run: consecutive posted closures of one type, in the order of their posts.
struct Run<F> {
    /// The first closure, until it runs. It is stored apart from `others`, so that a run of one
    /// closure needs no second allocation. Such runs are common if closures of several types
    /// alternate.
    first: Option<F>,
    others: VecDeque<F>,
}

impl<F> Run<F> {
    /// Maximum number of closures after the first.
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
        // The closure is removed before it runs. If it panics, it does not run again.
        let next = self.first.take().or_else(|| self.others.pop_front());
        next.map(|task| task(handler, cx)).is_some()
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Creates a run with one closure in it.
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

/// Appends a closure to a run. Returns the closure if the run is of another type or is full.
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

    struct NoOp;

    impl Handler for NoOp {
        type Session = ();

        fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}
    }

    /// Returns a closure that captures `LEN` bytes. All closures of one length have the same type.
    fn closure<const LEN: usize>() -> impl FnOnce(&mut NoOp, &mut Context<'_, NoOp>) {
        let captured = [7_u8; LEN];
        move |_, _| assert_eq!(captured, [7; LEN])
    }

    /// Returns the number of closures of `LEN` bytes that share one run.
    fn shared<const LEN: usize>() -> usize {
        let mut run = first::<NoOp, _>(closure::<LEN>());
        let appended =
            (0..100).take_while(|_| append(run.as_any_mut(), closure::<LEN>()).is_none());
        1 + appended.count()
    }

    #[test]
    fn small_closures_of_one_type_share_a_run() {
        assert_eq!(shared::<0>(), RUN_LEN_MAX);
        assert_eq!(shared::<8>(), RUN_LEN_MAX);
        assert_eq!(shared::<1024>(), 4);
        assert_eq!(shared::<5000>(), 1);
    }

    #[test]
    fn closure_of_another_type_is_returned() {
        let mut run = first::<NoOp, _>(closure::<8>());
        assert!(append(run.as_any_mut(), closure::<9>()).is_some());
        assert!(append(run.as_any_mut(), closure::<8>()).is_none());
    }
}
