//! Tests that run again under strace(1), which traces their system calls or makes calls fail.

use std::process::Command;

/// Output of a test that ran under strace.
pub struct Traced {
    /// Standard error of the test.
    pub log: String,
    /// Traced system calls. strace adds `(INJECTED)` to each call that it made fail.
    pub calls: String,
}

/// Returns true if strace can trace a process. Otherwise prints a message, and the test must pass.
pub fn is_usable() -> bool {
    let traced = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .output();
    let is_usable = traced.is_ok_and(|output| output.status.success());
    if !is_usable {
        println!("skipped: strace cannot be run");
    }
    is_usable
}

/// Runs a test of this binary in a child process under strace, and checks that it passes. `options`
/// are further options of strace. Returns `None` if strace is not usable.
pub fn rerun(test: &str, options: &[&str]) -> Option<Traced> {
    if !is_usable() {
        return None;
    }
    let name = format!("unstick-{}-{}", test.replace(':', "-"), std::process::id());
    let trace = std::env::temp_dir().join(name);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&trace).args(options);
    let inner = super::rerun(test);
    let envs = inner.get_envs();
    command
        .arg(inner.get_program())
        .args(inner.get_args())
        .envs(envs.filter_map(|(key, value)| Some((key, value?))));
    let output = command.output().expect("strace was run before");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let out = String::from_utf8_lossy(&output.stdout);
    let has_passed = output.status.success() && out.contains("1 passed");
    assert!(has_passed, "{options:?}: {out}\n{log}");
    let calls = std::fs::read_to_string(&trace).expect("strace writes its trace");
    std::fs::remove_file(&trace).expect("strace created the file");
    Some(Traced { log, calls })
}
