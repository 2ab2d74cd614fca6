//! One call of [`Remote::call`](super::Remote::call): a thread that waits for the result of a
//! closure on the loop's thread.
//!
//! ```text
//!   WAITING --- the loop begins the task ---> RUNNING ---> DONE, or LOST after a panic
//!      |
//!      +--- the timeout passes: CANCELLED; the task never begins
//!      +--- the reactor is dropped: LOST
//! ```

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::CallError;

enum State<R> {
    Waiting,
    Running,
    Done(R),
    Cancelled,
    Lost(CallError),
}

struct Shared<R> {
    state: Mutex<State<R>>,
    changed: Condvar,
}

impl<R> Shared<R> {
    /// Locks the state. It is consistent even if the lock is poisoned, because no user code runs
    /// under the lock.
    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State<R>) {
        *self.lock() = state;
        self.changed.notify_all();
    }
}

/// The side of the thread that waits.
pub(super) struct Call<R>(Arc<Shared<R>>);

/// The side of the loop: the place where the result is put. Dropping the place without a result
/// ends the wait.
pub(super) struct Place<R>(Arc<Shared<R>>);

/// Creates both sides of a call.
pub(super) fn new<R>() -> (Call<R>, Place<R>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State::Waiting),
        changed: Condvar::new(),
    });
    (Call(Arc::clone(&shared)), Place(shared))
}

impl<R> Call<R> {
    /// Waits for the result. If the task has not begun within `timeout`, cancels it.
    pub(super) fn wait(self, timeout: Duration) -> Result<R, CallError> {
        let Shared { state, changed } = &*self.0;
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_waiting = |state: &mut State<R>| matches!(state, State::Waiting);
        let begun = changed.wait_timeout_while(state, timeout, is_waiting);
        let (state, _) = begun.unwrap_or_else(PoisonError::into_inner);
        let is_running = |state: &mut State<R>| matches!(state, State::Running);
        let ended = changed.wait_while(state, is_running);
        let mut state = ended.unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Cancelled) {
            State::Done(result) => Ok(result),
            State::Lost(error) => Err(error),
            State::Waiting | State::Running | State::Cancelled => Err(CallError::Timeout),
        }
    }
}

impl<R> Place<R> {
    /// Runs `task` and stores its result, unless the call was cancelled.
    pub(super) fn run(self, task: impl FnOnce() -> R) {
        let mut state = self.0.lock();
        if matches!(*state, State::Cancelled) {
            return;
        }
        *state = State::Running;
        drop(state);
        let result = task();
        self.0.set(State::Done(result));
    }
}

impl<R> Drop for Place<R> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        match *state {
            State::Waiting => *state = State::Lost(CallError::Closed),
            State::Running => *state = State::Lost(CallError::Panicked),
            State::Done(_) | State::Cancelled | State::Lost(_) => return,
        }
        self.0.changed.notify_all();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn wait_past_its_timeout_returns_the_result_of_a_begun_task() {
        let (call, place) = new();
        let (has_begun, begun) = mpsc::channel();
        let (go_on, may_end) = mpsc::channel::<()>();
        let runner = thread::spawn(move || {
            place.run(|| {
                has_begun.send(()).expect("the test waits");
                may_end.recv().is_ok()
            });
        });
        begun.recv().expect("the task begins");
        let waiter = thread::spawn(move || call.wait(Duration::ZERO));
        go_on.send(()).expect("the task waits");
        let waited = waiter.join().expect("the thread does not panic");
        assert_eq!(waited, Ok(true));
        runner.join().expect("the thread does not panic");
    }

    #[test]
    fn task_of_a_cancelled_call_does_not_run() {
        let (call, place) = new::<()>();
        assert_eq!(call.wait(Duration::ZERO), Err(CallError::Timeout));
        place.run(|| panic!("the task must not run"));
    }
}
