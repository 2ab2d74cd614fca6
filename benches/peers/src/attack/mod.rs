//! The mode `attack`: misbehaving clients against each server, whose memory is limited.
//!
//! Each attack has a new server process, which may use 64 MiB of memory (`RLIMIT_DATA`). Each
//! attack runs alone, then all run at once. Well-behaved clients make round trips in the meantime.
//! The table shows if the server survived, the latency of these round trips, and the memory of the
//! server: before the attack, its maximum during the attack, and within five seconds after it.
//!
//! The threads of the attackers run at the lowest priority (`SCHED_IDLE`). So the latency shows the
//! work that an attack causes and not a lack of processors.

mod attackers;
mod honest;

use std::error::Error;
use std::io::Write;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use attackers::{ATTACKS, Attack, Target};
use honest::Honest;

use crate::process::Process;
use crate::servers::Server;

/// Maximum memory of a server, in bytes.
pub(crate) const DATA_MAX: u64 = 64 << 20;
const ATTACK_TIME: Duration = Duration::from_secs(3);
/// Time after an attack within which the memory of the server should be free again.
const FREE_TIME: Duration = Duration::from_secs(5);
const CHECK_EVERY: Duration = Duration::from_millis(20);

/// Attacks each server with each attack, and writes the tables.
pub(crate) fn run(
    servers: &[&'static Server],
    output: &mut dyn Write,
) -> Result<(), Box<dyn Error>> {
    writeln!(
        output,
        "memory of a server at most {} MiB; attack of {ATTACK_TIME:?}; latency of honest clients",
        DATA_MAX >> 20
    )?;
    let is_tcp = |server: &&&Server| server.protocol.tcp_framing().is_some();
    for server in servers.iter().filter(is_tcp) {
        writeln!(output, "\n{}: {}", server.name, server.summary)?;
        writeln!(
            output,
            "| attack | server | round trips | failed | p50 ms | p99 ms | longest ms | MiB before \
             | most | after |"
        )?;
        writeln!(output, "|---|---|---|---|---|---|---|---|---|---|")?;
        let alone = ATTACKS
            .iter()
            .map(|attack| (attack.name, slice::from_ref(attack)));
        for (name, attacks) in alone.chain([("all at once", ATTACKS)]) {
            writeln!(output, "{}", outcome(server, name, attacks)?)?;
            output.flush()?;
        }
    }
    Ok(())
}

/// Runs attacks at once against a new process of the server. Returns the row of the table.
fn outcome(
    server: &'static Server,
    name: &str,
    attacks: &[Attack],
) -> Result<String, Box<dyn Error>> {
    let mut process = Process::start_limited(server, DATA_MAX)?;
    let framing = server.protocol.tcp_framing();
    let framing = framing.ok_or("the server does not serve plain TCP")?;
    let target = Target::new(process.port(), framing);
    let mut honest = Honest::new(target);
    honest.run_until(Instant::now() + Duration::from_millis(500), || true);
    honest.forget();
    let before = process.resident_bytes()?;
    let stop = AtomicBool::new(false);
    let mut most = before;
    thread::scope(|scope| {
        for attack in attacks {
            let stop = &stop;
            scope.spawn(move || {
                // If the call fails, the attackers run at the normal priority.
                let _ = crate::system::give_way();
                (attack.run)(target, stop);
            });
        }
        let end = Instant::now() + ATTACK_TIME;
        let mut next_check = Instant::now();
        honest.run_until(end, || {
            if Instant::now() < next_check {
                return true;
            }
            next_check = Instant::now() + CHECK_EVERY;
            most = most.max(process.resident_bytes().unwrap_or(0));
            process.is_alive()
        });
        stop.store(true, Ordering::Relaxed);
    });
    let survived = process.is_alive();
    let after = if survived {
        memory_after(&process, before)?
    } else {
        0
    };
    let mebibytes = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    Ok(format!(
        "| {} | {} | {} | {} | {} | {} |",
        name,
        if survived { "survived" } else { "**killed**" },
        honest.latencies(),
        mebibytes(before),
        mebibytes(most),
        if survived {
            mebibytes(after)
        } else {
            "-".into()
        },
    ))
}

/// Returns the memory of the server when it is within 10 % of `before` again, or after
/// [`FREE_TIME`].
fn memory_after(process: &Process, before: u64) -> std::io::Result<u64> {
    let end = Instant::now() + FREE_TIME;
    loop {
        let now = process.resident_bytes()?;
        if now <= before + before / 10 || Instant::now() > end {
            return Ok(now);
        }
        thread::sleep(CHECK_EVERY);
    }
}
