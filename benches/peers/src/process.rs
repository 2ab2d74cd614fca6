//! A server as a child process: how it is started and ended, and how its CPU time and memory are
//! read. Those who only hold idle connections to it are processes too.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::servers::Server;

/// How long a server may go on after its last answer before its time is read all the same.
const SLEEP_LIMIT: Duration = Duration::from_millis(20);

/// A running server, or the client of one; it is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    port: u16,
}

impl Process {
    /// Starts a server on a core of its own, or on any.
    pub(crate) fn start(server: &Server, core: Option<usize>) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", server.name]);
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        Self::spawn(command)
    }

    /// Starts a server under a tool, which is a program with its own arguments.
    pub(crate) fn start_under(tool: &[&str], server: &Server) -> io::Result<Self> {
        let [program, arguments @ ..] = tool else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg(std::env::current_exe()?)
            .args(["serve", server.name]);
        Self::spawn(command)
    }

    /// Opens connections to a server, each of which has echoed one frame when this returns, and
    /// then idles. A process of their own holds them, which has descriptors of its own to do so.
    pub(crate) fn hold(server: &Server, port: u16, connections: usize) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["hold", server.name, &port.to_string()]);
        command.arg(connections.to_string());
        Self::spawn(command)
    }

    /// Waits for the line `port N`, so the server listens when this returns.
    fn spawn(mut command: Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let mut process = Self { child, port: 0 };
        process.port = line
            .strip_prefix("port ")
            .and_then(|port| port.trim().parse().ok())
            .ok_or_else(|| io::Error::other(format!("a server's first line was {line:?}")))?;
        Ok(process)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends the server by a signal that a tool around it can catch, and waits for both.
    pub(crate) fn terminate(mut self) -> io::Result<()> {
        crate::system::terminate(self.child.id())?;
        self.child.wait()?;
        Ok(())
    }

    /// Bytes of its own in memory; what the kernel has for it is not among them.
    pub(crate) fn resident_bytes(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        resident_kilobytes(&status)
            .map(|kilobytes| kilobytes * 1024)
            .ok_or_else(|| io::Error::other("the kernel tells of no memory"))
    }

    /// A clock of the CPU time of the threads that there are now.
    pub(crate) fn clock(&self) -> io::Result<CpuClock> {
        let mut threads = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let directory = entry?.path();
            threads.push(Thread {
                state: File::open(directory.join("stat"))?,
                time: File::open(directory.join("schedstat"))?,
            });
        }
        Ok(CpuClock { threads })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either fails only where the process has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The scheduler's own account of a process, in nanoseconds of CPU time.
///
/// See `Documentation/scheduler/sched-stats.rst` in the kernel's sources: the first field of a
/// task's `schedstat` is the time it spent on a processor.
pub(crate) struct CpuClock {
    threads: Vec<Thread>,
}

struct Thread {
    state: File,
    time: File,
}

impl CpuClock {
    /// The CPU time of all threads so far, once none of them runs.
    ///
    /// The scheduler brings a running thread's account up to date at its next tick only, but a
    /// sleeping one's when it goes to sleep: so this waits until all sleep.
    pub(crate) fn nanoseconds(&self) -> io::Result<u64> {
        let deadline = Instant::now() + SLEEP_LIMIT;
        while !self.all_sleep()? && Instant::now() < deadline {
            // A sleep would outcome this core, and the next slice would begin with waking it.
            thread::yield_now();
        }
        let mut sum = 0;
        for thread in &self.threads {
            sum += read_at_start(&thread.time, first_number)?;
        }
        Ok(sum)
    }

    fn all_sleep(&self) -> io::Result<bool> {
        for thread in &self.threads {
            if !read_at_start(&thread.state, is_asleep)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Reads a short file that the kernel writes anew at each read from its start.
fn read_at_start<T>(file: &File, parse: fn(&str) -> Option<T>) -> io::Result<T> {
    let mut buffer = [0; 512];
    let len = file.read_at(&mut buffer, 0)?;
    std::str::from_utf8(&buffer[..len])
        .ok()
        .and_then(parse)
        .ok_or_else(|| io::Error::other("the kernel's account of a thread could not be read"))
}

fn first_number(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Of pages that no file backs: `RssAnon` in proc_pid_status(5).
fn resident_kilobytes(status: &str) -> Option<u64> {
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The state follows the name, which stands in parentheses and may hold any character.
fn is_asleep(stat: &str) -> Option<bool> {
    let (_, after_name) = stat.rsplit_once(')')?;
    Some(after_name.trim_start().starts_with('S'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_parsed() {
        assert_eq!(first_number("123 45 6\n"), Some(123));
        assert_eq!(is_asleep("7 (a) b) S 1 2"), Some(true));
        assert_eq!(is_asleep("7 (S) R 1 2"), Some(false));
        assert_eq!(is_asleep(""), None);
        assert_eq!(
            resident_kilobytes("VmRSS:\t 9 kB\nRssAnon:\t  12 kB\n"),
            Some(12)
        );
        assert_eq!(resident_kilobytes("RssAnon:\t12\n"), None);
    }
}
