//! One test for each fixed bug of a whole process: signals, the wake-up of the loop, and the
//! example programs.
//!
//! Each test is named after its bug, and its comment says what was wrong.

mod common;

use common::{DEADLINE, Probe};
use unstick::Reactor;

// A second thread caught the signals. For glibc the process was then multi-threaded, which made
// every lock and every allocation slower: 492 instead of 398 instructions a frame.
#[test]
#[cfg(target_os = "linux")]
fn signals_made_a_process_multi_threaded() {
    const NAME: &str = "signals_made_a_process_multi_threaded";
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("proc is mounted");
        tasks.count()
    };
    if common::is_child() {
        let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
        let before = threads();
        reactor
            .shutdown_on_signals(DEADLINE)
            .expect("the signals can be caught");
        assert_eq!(threads(), before);
        return;
    }
    let status = common::rerun(NAME)
        .status()
        .expect("the test binary starts again");
    assert!(status.success(), "{status}");
}
