//! Network namespaces, in which a test may change the loopback interface.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Moves this thread to a new network namespace and runs the commands in it. Returns false if the
/// namespace cannot be created or a command fails.
pub fn enter_new_network(commands: &[&[&str]]) -> bool {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("skipped: a network namespace cannot be created ({error})");
        return false;
    }
    commands.iter().all(|command| {
        let is_done = run(command);
        if !is_done {
            println!("skipped: {command:?} fails");
        }
        is_done
    })
}

/// Runs a command in the network namespace of this thread. Returns true if it succeeds.
pub fn run(command: &[&str]) -> bool {
    let status = Command::new(command[0]).args(&command[1..]).status();
    status.is_ok_and(|status| status.success())
}
