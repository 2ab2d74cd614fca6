//! System calls that std lacks: epoll, processor affinity, limits and signals.
//!
//! This module and `servers::native` contain all unsafe code of the package. Each call is behind a
//! safe function. The module does not depend on frames, servers or measurements.
#![expect(unsafe_code, reason = "std has no epoll, affinity, limits or signals")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

pub(crate) use libc::epoll_event as Event;

pub(crate) const READABLE: u32 = libc::EPOLLIN as u32;
pub(crate) const WRITABLE: u32 = libc::EPOLLOUT as u32;

/// An epoll instance, level-triggered.
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let descriptor = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just returned this descriptor, and this is its only owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Registers a socket. Closing the socket removes its registration.
    pub(crate) fn add(&self, socket: &impl AsRawFd, key: usize, interest: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, socket.as_raw_fd(), key, interest)
    }

    /// Changes the interest of a registered socket.
    pub(crate) fn modify(
        &self,
        socket: &impl AsRawFd,
        key: usize,
        interest: u32,
    ) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, socket.as_raw_fd(), key, interest)
    }

    /// Waits for events, writes them to `events`, and returns their number. A signal does not end
    /// the wait.
    ///
    /// The timeout is in milliseconds; -1 means no timeout. The result 0 means that the timeout
    /// passed.
    pub(crate) fn wait(&self, events: &mut [Event], timeout_ms: i32) -> io::Result<usize> {
        let capacity = i32::try_from(events.len()).unwrap_or(i32::MAX);
        loop {
            // SAFETY: the pointer and the capacity describe the slice that is borrowed here.
            let count = check(unsafe {
                libc::epoll_wait(
                    self.0.as_raw_fd(),
                    events.as_mut_ptr(),
                    capacity,
                    timeout_ms,
                )
            });
            match count {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(|count| count.cast_unsigned() as usize),
            }
        }
    }

    fn control(&self, operation: i32, socket: RawFd, key: usize, interest: u32) -> io::Result<()> {
        let mut event = Event {
            events: interest,
            u64: key as u64,
        };
        // SAFETY: the event lives until the call returns, and the kernel only reads it.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, socket, &raw mut event) })?;
        Ok(())
    }
}

/// Initial value of the events in the slice that `Epoll::wait` writes to.
pub(crate) const NO_EVENT: Event = Event { events: 0, u64: 0 };

/// Returns the processor cores on which this process may run, lowest first.
pub(crate) fn cores() -> Vec<usize> {
    // SAFETY: a set of all zero bits is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer and the size describe the same local variable.
    let read = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if read != 0 {
        return Vec::new();
    }
    // SAFETY: every index is below the size of the set.
    (0..libc::CPU_SETSIZE as usize)
        .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
        .collect()
}

/// Restricts the calling thread, and all threads and processes that it starts later, to one core.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: a set of all zero bits is a valid, empty set, and the index was checked above.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        set
    };
    // SAFETY: the pointer and the size describe the same local variable.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })?;
    Ok(())
}

/// Limits the memory of this process (`RLIMIT_DATA` of getrlimit(2)).
#[allow(
    dead_code,
    reason = "the benchmarks include this file and do not use the function"
)]
pub(crate) fn limit_data(bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: the kernel reads the limit, which is a local variable.
    check(unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) })?;
    Ok(())
}

/// Makes the close of a TCP socket reset the connection.
#[allow(
    dead_code,
    reason = "the benchmarks include this file and do not use the function"
)]
pub(crate) fn reset_on_close(socket: &impl AsRawFd) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the pointer and the size describe the same local variable.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Gives the calling thread the lowest priority (`SCHED_IDLE` of sched(7)). The thread then runs
/// almost only while no other thread needs its core.
pub(crate) fn give_way() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the parameters, which are a local variable.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) })?;
    Ok(())
}

/// Raises the limit of open descriptors to the user's maximum, and returns that maximum.
pub(crate) fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one `rlimit` to a local variable.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one `rlimit` from a local variable.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// Sets `TCP_NODELAY` on a socket. Accepted sockets inherit the option from their listener.
pub(crate) fn set_nodelay(descriptor: RawFd) -> io::Result<()> {
    set_option(descriptor, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// Requests a receive buffer of 4 MiB, enough for the datagrams of the default cells. The kernel
/// may choose a smaller buffer.
pub(crate) fn set_receive_buffer(socket: &impl AsRawFd) -> io::Result<()> {
    let level = libc::SOL_SOCKET;
    set_option(socket.as_raw_fd(), level, libc::SO_RCVBUF, 1 << 22)
}

/// Turns on GSO and GRO: the kernel splits each send into datagrams of `len` bytes, and may join
/// received datagrams.
pub(crate) fn set_segments(socket: &impl AsRawFd, len: usize) -> io::Result<()> {
    let len = i32::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    set_option(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, len)?;
    set_option(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, 1)
}

fn set_option(descriptor: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and the size describe the same local variable.
    check(unsafe {
        libc::setsockopt(
            descriptor,
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Makes the kernel end this process when its parent ends, so that no server outlives a failed run.
pub(crate) fn end_with_parent() -> io::Result<()> {
    // SAFETY: the call takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) })?;
    Ok(())
}

/// Sends SIGTERM to a process.
pub(crate) fn terminate(process: u32) -> io::Result<()> {
    let process = i32::try_from(process).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the call takes integers only.
    check(unsafe { libc::kill(process, libc::SIGTERM) })?;
    Ok(())
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
