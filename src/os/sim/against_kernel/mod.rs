//! The simulated system compared with the kernel: the same scripts run on both, and each call and
//! each wait must have the same outcome. The guide page `simulated_kernel` lists the exceptions.
//!
//! A script is a list of steps in a small language ([`step`]). One executor ([`system`]) performs
//! it with the calls that the reactor makes, on a simulated and on a real `Os`.

mod compare;
mod facts;
mod random;
mod step;
mod system;

use compare::{check_fact, compare, shrink};
use step::Step;

/// Number of random scripts in a normal test run.
const SCRIPTS: u64 = 1000;
/// Maximum number of scripts that run on one thread. The end of the thread frees the memory of its
/// worlds.
const SCRIPTS_PER_THREAD: usize = 1000;

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Splits the lines of a fact into its steps and the expected outcomes.
fn steps_of(fact: &str) -> (Vec<Step>, Vec<String>) {
    let lines = fact.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (step, outcome) = line.split_once("=>").expect("a line has an outcome");
            let step: Result<Step, String> = step.parse();
            (step.expect("the step is valid"), outcome.trim().to_string())
        })
        .unzip()
}

fn check_facts(facts: &[(&str, &str)]) {
    let reports = facts.iter().filter_map(|(name, fact)| {
        let (steps, expected) = steps_of(fact);
        let report = check_fact(&steps, &expected).err()?;
        Some(format!("{name}:\n{report}"))
    });
    let reports: Vec<String> = reports.collect();
    assert!(reports.is_empty(), "{}", reports.join("\n"));
}

#[test]
fn facts_behind_the_rules_hold_on_both_systems() {
    check_facts(facts::RULES);
}

#[test]
fn endings_are_equal_on_both_systems() {
    check_facts(facts::ENDINGS);
}

#[test]
fn epoll_tests_of_linux_and_gvisor_pass_on_both_systems() {
    check_facts(facts::OF_OTHERS);
}

/// Compares the scripts of some seeds on both systems. Returns the number of repeated runs, and a
/// report of each difference.
fn compare_seeds(seeds: std::ops::Range<u64>) -> (usize, Vec<String>) {
    let mut repetitions = 0;
    let mut reports = Vec::new();
    for seed in seeds {
        match compare(&random::script(seed)) {
            Ok(repeated) => repetitions += repeated,
            Err(difference) => {
                let report = shrink(difference).report("kernel");
                reports.push(format!("seed {seed}:\n{report}"));
            }
        }
    }
    (repetitions, reports)
}

/// The variables `UNSTICK_SEED` and `UNSTICK_SCRIPTS` choose the first seed and the number of
/// scripts.
#[test]
#[expect(
    clippy::print_stdout,
    reason = "the output of the test names its seeds"
)]
fn random_scripts_agree_with_the_kernel() {
    let begin = number_from("UNSTICK_SEED").unwrap_or(1);
    let end = begin + number_from("UNSTICK_SCRIPTS").unwrap_or(SCRIPTS);
    println!("UNSTICK_SEED={begin} UNSTICK_SCRIPTS={}", end - begin);
    let mut repetitions = 0;
    for first in (begin..end).step_by(SCRIPTS_PER_THREAD) {
        let seeds = first..end.min(first + SCRIPTS_PER_THREAD as u64);
        let thread = std::thread::spawn(|| compare_seeds(seeds));
        let (repeated, reports) = thread.join().expect("no script panics");
        repetitions += repeated;
        assert!(reports.is_empty(), "{}", reports.join("\n"));
    }
    println!("{repetitions} runs on the kernel were repeated");
}
