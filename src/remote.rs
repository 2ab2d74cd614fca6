//! [`Remote`]: the way into a reactor from other threads.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::context::Context;
use crate::error::PostError;
use crate::handler::Handler;
use crate::socket::Waker;

/// A closure that runs on the loop's thread.
pub(crate) type Posted<H> = Box<dyn FnOnce(&mut H, &mut Context<'_, H>) + Send>;

/// Posts closures to a reactor's thread. Cheap to clone, and `Send` whatever the handler is.
pub struct Remote<H: Handler> {
    shared: Arc<Shared<H>>,
}

/// The queue between the threads.
///
/// A wake-up cannot be lost: the loop takes the whole queue and clears `woken` under the lock, and
/// whoever puts something in while `woken` is false wakes it. Any number of posts in between costs
/// one wake-up, and one that the system refused is tried again by the next post.
struct Shared<H: Handler> {
    inbox: Mutex<Inbox<H>>,
    /// Something was put in since the loop last looked; so that it need not lock to see nothing.
    pending: AtomicBool,
    waker: Waker,
    posts_max: usize,
}

struct Inbox<H: Handler> {
    posted: VecDeque<Posted<H>>,
    shutdown: Option<Duration>,
    woken: bool,
    closed: bool,
}

impl<H: Handler> Remote<H> {
    /// Runs `task` on the loop's thread, within its next turn.
    ///
    /// # Errors
    ///
    /// * [`PostError::Full`]: [`Config::posts_max`](crate::Config::posts_max) closures wait
    ///   already. `task` is given back; try again later.
    /// * [`PostError::Closed`]: the reactor is gone. `task` is given back.
    /// * [`PostError::Wake`]: the system refused the wake-up. `task` runs with the next event.
    pub fn post<F>(&self, task: F) -> Result<(), PostError<F>>
    where
        F: FnOnce(&mut H, &mut Context<'_, H>) + Send + 'static,
    {
        let mut inbox = self.shared.lock();
        if inbox.closed {
            return Err(PostError::Closed(task));
        }
        if inbox.posted.len() >= self.shared.posts_max {
            return Err(PostError::Full(task));
        }
        inbox.posted.push_back(Box::new(task));
        self.shared.wake(&mut inbox).map_err(PostError::Wake)
    }

    /// Shuts the reactor down, as [`Context::shutdown`] does. It is heard also where the queue of
    /// closures is full, and by a reactor that is gone without an error.
    ///
    /// # Errors
    ///
    /// What the system answered to the wake-up; the reactor shuts down with its next event.
    pub fn shutdown(&self, deadline: Duration) -> io::Result<()> {
        let mut inbox = self.shared.lock();
        if inbox.closed {
            return Ok(());
        }
        inbox.shutdown = Some(deadline);
        self.shared.wake(&mut inbox)
    }
}

/// The loop's end of the queue. When it is dropped, posts are refused.
pub(crate) struct Inlet<H: Handler> {
    shared: Arc<Shared<H>>,
}

impl<H: Handler> Inlet<H> {
    pub(crate) fn new(waker: Waker, posts_max: usize) -> Self {
        let inbox = Inbox {
            posted: VecDeque::new(),
            shutdown: None,
            woken: false,
            closed: false,
        };
        let pending = AtomicBool::new(false);
        let shared = Arc::new(Shared {
            inbox: Mutex::new(inbox),
            pending,
            waker,
            posts_max,
        });
        Self { shared }
    }

    pub(crate) fn remote(&self) -> Remote<H> {
        Remote {
            shared: Arc::clone(&self.shared),
        }
    }

    #[inline]
    pub(crate) fn is_pending(&self) -> bool {
        self.shared.pending.load(Ordering::Acquire)
    }

    /// Takes all that was posted, in exchange for an empty queue, and a shutdown asked for.
    pub(crate) fn take(&self, posted: &mut VecDeque<Posted<H>>) -> Option<Duration> {
        let mut inbox = self.shared.lock();
        self.shared.pending.store(false, Ordering::Release);
        inbox.woken = false;
        std::mem::swap(&mut inbox.posted, posted);
        inbox.shutdown.take()
    }
}

impl<H: Handler> Drop for Inlet<H> {
    fn drop(&mut self) {
        let mut inbox = self.shared.lock();
        inbox.closed = true;
        let posted = std::mem::take(&mut inbox.posted);
        drop(inbox);
        // Dropped outside of the lock: a closure may hold a `Remote` of its own.
        drop(posted);
    }
}

impl<H: Handler> Shared<H> {
    fn wake(&self, inbox: &mut Inbox<H>) -> io::Result<()> {
        self.pending.store(true, Ordering::Release);
        if !inbox.woken {
            self.waker.wake()?;
            inbox.woken = true;
        }
        Ok(())
    }

    /// The queue stays whole if a thread panics: nothing of the user's runs under the lock.
    fn lock(&self) -> MutexGuard<'_, Inbox<H>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H: Handler> Clone for Remote<H> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<H: Handler> fmt::Debug for Remote<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}
