//! Random scripts: the search for a script that makes a test fail, and the smallest such script.

use std::any::Any;
use std::cell::Cell;
use std::env;
use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use crate::testkit::Random;

/// Environment variable with the number of seeds to test.
const SEEDS: &str = "UNSTICK_SEEDS";
/// Environment variable with the only seed to test.
const SEED: &str = "UNSTICK_SEED";
/// Maximum number of runs that make one script smaller.
const SHRINK_RUNS_MAX: usize = 2000;

/// The function that creates a script.
type Generate<S> = dyn Fn(&mut Random) -> Vec<S>;

/// Random scripts for a test. A script is a list of steps, whose type the test defines.
///
/// The test runs each script in a new [`Simulation`](super::Simulation) and panics if a promise is
/// broken. After a failure, steps are removed from the script while the test still fails. The
/// result is a [`ScriptFailure`] with the seed and a small script.
///
/// # Examples
///
/// See [the guide](crate::guide::simulation).
pub struct Scripts<S> {
    generate: Box<Generate<S>>,
    seeds: Range<u64>,
}

impl<S: Clone + fmt::Debug> Scripts<S> {
    /// Creates scripts for the seeds 0 to 99. `generate` creates one script; it must use no other
    /// source of random decisions.
    pub fn new(generate: impl Fn(&mut Random) -> Vec<S> + 'static) -> Self {
        Self {
            generate: Box::new(generate),
            seeds: 0..100,
        }
    }

    /// Sets the seeds to test. The environment can set others: see [`check`](Scripts::check).
    #[must_use]
    pub fn seeds(mut self, seeds: Range<u64>) -> Self {
        self.seeds = seeds;
        self
    }

    /// Returns the script of a seed.
    #[must_use]
    pub fn script(&self, seed: u64) -> Vec<S> {
        (self.generate)(&mut Random::new(seed))
    }

    /// Runs the test with the script of each seed. The test gets the seed, for its simulation, and
    /// the script.
    ///
    /// The environment variable `UNSTICK_SEEDS` sets the number of seeds, and `UNSTICK_SEED`
    /// selects a single one.
    ///
    /// # Panics
    ///
    /// If the test panics. The message has the seed, the command to run the test again, and a
    /// small script that makes the test panic.
    #[track_caller]
    pub fn check(&self, test: impl Fn(u64, &[S])) {
        if let Err(failure) = self.try_check(test) {
            panic!("{failure}");
        }
    }

    /// Runs the test like [`check`](Scripts::check), and returns a failure. While the test runs,
    /// its panics are not printed.
    ///
    /// # Errors
    ///
    /// * [`ScriptFailure`]: the test panicked with the script of a seed.
    pub fn try_check(&self, test: impl Fn(u64, &[S])) -> Result<(), ScriptFailure<S>> {
        for seed in self.chosen_seeds() {
            let script = self.script(seed);
            if let Err(message) = run(&test, seed, &script) {
                return Err(shrink(&test, seed, script, message));
            }
        }
        Ok(())
    }

    fn chosen_seeds(&self) -> Range<u64> {
        match (number(SEED), number(SEEDS)) {
            (Some(seed), _) => seed..seed.saturating_add(1),
            (None, Some(count)) => self.seeds.start..self.seeds.start.saturating_add(count),
            (None, None) => self.seeds.clone(),
        }
    }
}

impl<S> fmt::Debug for Scripts<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripts")
            .field("seeds", &self.seeds)
            .finish_non_exhaustive()
    }
}

/// A script that makes a test panic, with its seed. Steps were removed until each step that is left
/// is necessary for the panic, or until the test had run 2,000 more times.
#[derive(Debug, Clone)]
pub struct ScriptFailure<S> {
    seed: u64,
    script: Vec<S>,
    full_len: usize,
    message: String,
}

impl<S> ScriptFailure<S> {
    /// Returns the seed of the script.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns the small script.
    #[must_use]
    pub fn script(&self) -> &[S] {
        &self.script
    }

    /// Returns the number of steps of the script before steps were removed.
    #[must_use]
    pub fn full_len(&self) -> usize {
        self.full_len
    }

    /// Returns the message of the panic with the small script.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl<S: fmt::Debug> fmt::Display for ScriptFailure<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, full_len, .. } = self;
        writeln!(f, "seed {seed}: {}", self.message)?;
        writeln!(
            f,
            "  a script of {full_len} steps fails, and these steps of it are enough:"
        )?;
        for step in &self.script {
            writeln!(f, "    {step:?}")?;
        }
        write!(f, "  to run it again: {SEED}={seed} cargo test")?;
        match std::thread::current().name() {
            Some(name) if name != "main" => write!(f, " {name}"),
            _ => Ok(()),
        }
    }
}

impl<S: fmt::Debug> Error for ScriptFailure<S> {}

/// Returns the number in an environment variable. Returns `None` if it is not set.
fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

/// Removes steps while the test still panics: first halves, then smaller parts, then single steps.
fn shrink<S: Clone>(
    test: &impl Fn(u64, &[S]),
    seed: u64,
    mut script: Vec<S>,
    mut message: String,
) -> ScriptFailure<S> {
    let full_len = script.len();
    let mut runs = 0;
    let mut part_len = script.len().div_ceil(2).max(1);
    loop {
        let mut is_smaller = false;
        let mut start = 0;
        while start < script.len() && runs < SHRINK_RUNS_MAX {
            let end = script.len().min(start + part_len);
            let mut rest = script.clone();
            rest.drain(start..end);
            runs += 1;
            match run(test, seed, &rest) {
                Err(panic) => {
                    (script, message) = (rest, panic);
                    is_smaller = true;
                }
                Ok(()) => start = end,
            }
        }
        if runs >= SHRINK_RUNS_MAX || part_len == 1 && !is_smaller {
            break;
        }
        part_len = part_len.div_ceil(2);
    }
    ScriptFailure {
        seed,
        script,
        full_len,
        message,
    }
}

thread_local! {
    /// True while a script runs on this thread: its panics are not printed.
    static IS_RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Runs the test with a script. Returns the message of its panic.
fn run<S>(test: &impl Fn(u64, &[S]), seed: u64, script: &[S]) -> Result<(), String> {
    silence_panics();
    let was_running = IS_RUNNING.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(|| test(seed, script)));
    IS_RUNNING.set(was_running);
    result.map_err(|panic| message(&*panic))
}

/// Installs a panic hook that prints nothing about a panic of a running script. It calls the former
/// hook for all other panics.
fn silence_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let former = panic::take_hook();
        panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if !IS_RUNNING.get() {
                former(info);
            }
        }));
    });
}

fn message(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "the test panicked without a message".to_owned(),
    }
}
