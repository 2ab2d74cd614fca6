//! Tests of random scripts: the search, the removal of steps, and the report.

use std::cell::Cell;

use unstick::testkit::sim::Scripts;

/// Returns scripts of 50 numbers below 100.
fn numbers() -> Scripts<usize> {
    Scripts::new(|random| (0..50).map(|_| random.below(100)).collect())
}

#[test]
fn failing_script_is_reduced_to_its_necessary_steps() {
    let failure = numbers()
        .try_check(|_, script| {
            let small = script.iter().position(|number| *number < 10);
            let large = script.iter().rposition(|number| *number >= 90);
            assert!(small > large || small.is_none(), "small before large");
        })
        .expect_err("some script has a small number before a large one");
    assert_eq!(failure.full_len(), 50);
    let [small, large] = failure.script() else {
        panic!("two steps are necessary: {failure}");
    };
    assert!(*small < 10 && *large >= 90);
    let text = failure.to_string();
    let seed = failure.seed();
    assert!(text.contains(&format!("UNSTICK_SEED={seed} cargo test")));
    assert!(text.contains("small before large"));
}

#[test]
fn scripts_depend_only_on_the_seed() {
    assert_eq!(numbers().script(3), numbers().script(3));
    assert_ne!(numbers().script(3), numbers().script(4));
}

#[test]
fn all_seeds_are_tested_and_passing_scripts_are_no_failure() {
    let runs = Cell::new(0);
    let result = numbers().seeds(5..25).try_check(|seed, script| {
        assert_eq!(script, numbers().script(seed));
        runs.set(runs.get() + 1);
    });
    assert!(result.is_ok());
    let is_set = |variable| std::env::var_os(variable).is_some();
    if !is_set("UNSTICK_SEED") && !is_set("UNSTICK_SEEDS") {
        assert_eq!(runs.get(), 20);
    }
}

#[test]
#[should_panic(expected = "to run it again")]
fn check_panics_with_the_command_to_run_it_again() {
    numbers().check(|_, script| assert!(script.is_empty(), "not empty"));
}
