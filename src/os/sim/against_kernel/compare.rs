//! The comparison of one script on both systems.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use super::step::Step;
use super::system::{self, Outcomes};

/// Time to wait before each poll: one value per repeated run. On a busy machine, the kernel
/// delivers bytes to a loopback socket only some time after the call that sends them.
const PATIENCE: [Duration; 9] = {
    let millis = Duration::from_millis;
    [
        Duration::ZERO,
        Duration::ZERO,
        millis(1),
        Duration::ZERO,
        millis(10),
        Duration::ZERO,
        millis(60),
        millis(200),
        Duration::ZERO,
    ]
};

/// A script whose outcomes differ.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) steps: Vec<Step>,
    simulated: Outcomes,
    real: Outcomes,
}

impl Difference {
    /// Returns the index of the first step whose outcomes differ.
    pub(super) fn at(&self) -> usize {
        let pairs = self.simulated.iter().zip(&self.real);
        pairs
            .take_while(|(simulated, real)| simulated == real)
            .count()
    }

    /// Returns the script as text, with the outcome of each step. If the two outcomes of a step
    /// differ, the second outcome follows, with the name `other`.
    pub(super) fn report(&self, other: &str) -> String {
        let mut report = String::new();
        for (index, step) in self.steps.iter().enumerate() {
            let (simulated, real) = (&self.simulated[index], &self.real[index]);
            let _ = write!(report, "{:24} => {simulated}", step.to_string());
            if simulated != real {
                let _ = write!(report, "      ({other}: {real})");
            }
            report.push('\n');
        }
        report
    }
}

/// Returns true if the outcomes are equal, apart from the events of acknowledged FINs.
///
/// The guide page `simulated_kernel` lists this difference: when the peer acknowledges the FIN of a
/// socket, up to 40 ms later, the kernel reports one more event. This event says only that the
/// socket is writable.
fn are_equal(steps: &[Step], simulated: &Outcomes, real: &Outcomes) -> bool {
    let mut shut = BTreeSet::new();
    let mut outcomes = steps.iter().zip(simulated.iter().zip(real));
    outcomes.all(|(step, (simulated, real))| {
        if let Step::Shut(name) = step {
            shut.insert(format!("{name}:w"));
        }
        let is_of_fin = |event: &&str| shut.contains(*event) && !simulated.contains(*event);
        let has_news = |event: &&str| !is_of_fin(event);
        simulated == real
            || matches!(step, Step::Poll)
                && *simulated
                    == real
                        .split(' ')
                        .filter(has_news)
                        .collect::<Vec<_>>()
                        .join(" ")
    })
}

/// Returns the name of the difference between the two outcomes of a step, if it is a known one. The
/// guide page `simulated_kernel` lists all known differences; this function has those that random
/// scripts can meet. The rest of the script is then not compared.
fn known_difference(step: Step, simulated: &str, real: &str) -> Option<&'static str> {
    match (step, simulated, real) {
        (Step::Shut(_), "NotConnected", "done") => Some("shutdown of a pending connect"),
        _ => None,
    }
}

/// Runs a script on both systems and compares the outcomes with the expected ones. Returns a
/// report if they differ.
pub(super) fn check_fact(steps: &[Step], expected: &Outcomes) -> Result<(), String> {
    let difference = |simulated: &Outcomes, real: &Outcomes| Difference {
        steps: steps.to_vec(),
        simulated: simulated.clone(),
        real: real.clone(),
    };
    let simulated = system::simulate(steps);
    if simulated != *expected {
        let report = difference(expected, &simulated).report("simulated");
        return Err(report);
    }
    match compare(steps) {
        Ok(_) => Ok(()),
        Err(difference) => Err(difference.report("kernel")),
    }
}

/// Runs a script on both systems. Returns the number of repetitions on the kernel until the
/// outcomes were equal.
pub(super) fn compare(steps: &[Step]) -> Result<usize, Difference> {
    let simulated = system::simulate(steps);
    let mut real = system::execute(steps, Duration::ZERO);
    for (repetition, patience) in PATIENCE.iter().enumerate() {
        if are_equal(steps, &simulated, &real) {
            return Ok(repetition);
        }
        real = system::execute(steps, *patience);
    }
    if are_equal(steps, &simulated, &real) {
        return Ok(PATIENCE.len());
    }
    let difference = Difference {
        steps: steps.to_vec(),
        simulated,
        real,
    };
    let at = difference.at();
    let (simulated, real) = (&difference.simulated[at], &difference.real[at]);
    match known_difference(steps[at], simulated, real) {
        Some(_) => Ok(PATIENCE.len()),
        None => Err(difference),
    }
}

/// Removes steps from a script as long as its outcomes differ.
pub(super) fn shrink(mut difference: Difference) -> Difference {
    let end = (difference.at() + 1).min(difference.steps.len());
    if let Err(shorter) = compare(&difference.steps[..end]) {
        difference = shorter;
    }
    let mut index = difference.steps.len();
    while index > 0 {
        index -= 1;
        let mut steps = difference.steps.clone();
        steps.remove(index);
        if let Err(shorter) = compare(&steps) {
            difference = shorter;
            index = index.min(difference.steps.len());
        }
    }
    difference
}
