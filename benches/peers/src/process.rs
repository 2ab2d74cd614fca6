//! Servers as child processes: start, end, CPU time and memory.
//!
//! The clients that keep idle connections open are child processes, too.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::servers::Server;

/// Maximum time to wait until all threads of a server sleep. After this time, the CPU time is read
/// while some of them still run.
const SLEEP_LIMIT: Duration = Duration::from_millis(20);

/// A running server, or a client that keeps idle connections open. Dropping this value kills the
/// process.
pub(crate) struct Process {
    child: Child,
    port: u16,
}

impl Process {
    /// Starts a server, on the given core or, if `core` is `None`, on any core.
    pub(crate) fn start(server: &Server, core: Option<usize>) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", server.name]);
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        Self::spawn(command)
    }

    /// Starts a server that may use at most `data_max` bytes of memory. Its allocator returns each
    /// freed block of 16 KiB or more to the kernel, so that the resident memory shows the memory in
    /// use.
    pub(crate) fn start_limited(server: &Server, data_max: u64) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", server.name, "--data-max", &data_max.to_string()]);
        command.env("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=16384");
        Self::spawn(command)
    }

    /// Returns true if the process has not ended.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Starts a server under a tool. `tool` is a program and its arguments.
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

    /// Starts a process that opens idle connections to a server. When this function returns, each
    /// connection has echoed one frame.
    ///
    /// A separate process keeps the connections open, so that they do not use up the descriptors of
    /// this process.
    pub(crate) fn hold(server: &Server, port: u16, connections: usize) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["hold", server.name, &port.to_string()]);
        command.arg(connections.to_string());
        Self::spawn(command)
    }

    /// Starts a server or a client in a process, and waits for its line `port N`. Then the server
    /// listens, or the client has opened its connections.
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
            .ok_or_else(|| {
                io::Error::other(format!("the process printed {line:?} instead of `port N`"))
            })?;
        Ok(process)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Sends SIGTERM to the server, or to the tool that runs it, and waits for the end of the
    /// process. A tool can handle this signal and then write its report.
    pub(crate) fn terminate(mut self) -> io::Result<()> {
        crate::system::terminate(self.child.id())?;
        self.child.wait()?;
        Ok(())
    }

    /// Returns the anonymous resident memory in bytes, without kernel memory.
    pub(crate) fn resident_bytes(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        resident_kilobytes(&status)
            .map(|kilobytes| kilobytes * 1024)
            .ok_or_else(|| io::Error::other("/proc/PID/status has no RssAnon line"))
    }

    /// Returns a clock of the CPU time of all threads that the process has now.
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
        // Both calls fail only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Clock of the CPU time of a process, as the scheduler counts it.
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
    /// Returns the CPU time of all threads so far, in nanoseconds. Waits until all threads sleep,
    /// for at most `SLEEP_LIMIT`.
    ///
    /// The scheduler updates the time of a thread when the thread goes to sleep. While the thread
    /// runs, the scheduler updates its time only at each tick. So the time is exact only if the
    /// thread sleeps.
    pub(crate) fn nanoseconds(&self) -> io::Result<u64> {
        let deadline = Instant::now() + SLEEP_LIMIT;
        while !self.all_sleep()? && Instant::now() < deadline {
            // Do not sleep here: this core would become idle, and the next slice would include the
            // time to wake it.
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

/// Reads a short file of `/proc` from its start. The kernel generates the content again for each
/// such read.
fn read_at_start<T>(file: &File, parse: fn(&str) -> Option<T>) -> io::Result<T> {
    let mut buffer = [0; 512];
    let len = file.read_at(&mut buffer, 0)?;
    std::str::from_utf8(&buffer[..len])
        .ok()
        .and_then(parse)
        .ok_or_else(|| io::Error::other("cannot parse the kernel's statistics of a thread"))
}

fn first_number(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Parses the resident memory that belongs to no file, in kilobytes: `RssAnon` in
/// proc_pid_status(5).
fn resident_kilobytes(status: &str) -> Option<u64> {
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Returns true if the thread sleeps. The state follows the thread's name, which is in parentheses
/// and may contain any character.
fn is_asleep(stat: &str) -> Option<bool> {
    let (_, after_name) = stat.rsplit_once(')')?;
    Some(after_name.trim_start().starts_with('S'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_parsed() {
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
