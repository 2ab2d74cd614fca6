//! A guard that runs a recovery function when its scope ends: by a panic, by an early return, or at
//! its end if the guard was not disarmed.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

/// A value, and a recovery function that runs on drop unless the guard is disarmed.
///
/// A panic of the application unwinds through the reactor, and an error may end a function early.
/// Therefore a guard covers each call of application code. If the function ends early, the guard
/// does the work of the code after the call.
///
/// The value and the function must contain only references and ids. Disarming does not drop them,
/// so owned memory would leak.
#[derive(Debug)]
pub(crate) struct ScopeGuard<T, F: FnMut(&mut T)> {
    value: T,
    recover: F,
}

impl<T, F: FnMut(&mut T)> ScopeGuard<T, F> {
    pub(crate) fn new(value: T, recover: F) -> Self {
        Self { value, recover }
    }

    /// Ends the guard without running the recovery function. Call it after the application code
    /// returned.
    pub(crate) fn disarm(self) {
        let _ = ManuallyDrop::new(self);
    }
}

impl<T, F: FnMut(&mut T)> Deref for ScopeGuard<T, F> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T, F: FnMut(&mut T)> DerefMut for ScopeGuard<T, F> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T, F: FnMut(&mut T)> Drop for ScopeGuard<T, F> {
    fn drop(&mut self) {
        (self.recover)(&mut self.value);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn recovery_runs_after_a_panic_and_not_after_a_return() {
        for panics in [false, true] {
            let mut recovered = 0;
            let run = AssertUnwindSafe(|| {
                let mut guard = ScopeGuard::new(&mut recovered, |recovered| **recovered += 1);
                assert_eq!(**guard, 0);
                **guard += 0;
                assert!(!panics, "panic of the application");
                guard.disarm();
            });
            assert_eq!(catch_unwind(run).is_err(), panics);
            assert_eq!(recovered, i32::from(panics));
        }
    }
}
