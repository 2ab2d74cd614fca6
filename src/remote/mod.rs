//! [`Remote`]: the way into a reactor from other threads.

mod closures;
mod queue;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::context::Context;
use crate::error::PostError;
use crate::handler::Handler;
use crate::id::ConnId;
use crate::os::Waker;
pub(crate) use closures::Closures;
use queue::Queue;

/// What another thread asked for.
pub(crate) enum Posted<H: Handler> {
    /// One closure, or several of one kind.
    Run(Box<dyn Closures<H> + Send>),
    /// A payload for a connection.
    Send { conn: ConnId, payload: Vec<u8> },
}

/// A reactor, as other threads have it: they post closures to its thread, send to its connections,
/// and shut it down. Cheap to clone, and `Send` whatever the handler is.
///
/// What one thread posts and sends comes in that order. A post costs no system call while the loop
/// is at work, and one for all that is posted while it sleeps.
///
/// # Examples
///
/// A thread that works for a connection while the loop goes on:
///
/// ```
/// use std::thread;
/// use unstick::{ConnId, Context, Framing, Handler, Reactor, Remote};
///
/// struct Offload {
///     remote: Option<Remote<Self>>,
/// }
///
/// impl Handler for Offload {
///     type Session = ();
///
///     fn on_frame(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
///         let (remote, mut work) = (self.remote.clone(), frame.to_vec());
///         thread::spawn(move || {
///             work.sort_unstable(); // something long
///             remote.map(|remote| remote.send(conn, work))
///         });
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let mut reactor = Reactor::new(Offload { remote: None })?;
/// reactor.handler_mut().remote = Some(reactor.remote());
/// reactor.listen("127.0.0.1:0", Framing::length_u32())?;
/// # reactor.remote().shutdown(std::time::Duration::ZERO)?;
/// reactor.run()
/// # }
/// ```
pub struct Remote<H: Handler> {
    queue: Arc<Queue<Posted<H>, Waker>>,
}

impl<H: Handler> Remote<H> {
    /// Runs `task` on the loop's thread, within its next turn; later where more than
    /// [`Config::post_budget`](crate::Config::post_budget) come before it.
    ///
    /// # Errors
    ///
    /// * [`PostError::Full`]: [`Config::posts_max`](crate::Config::posts_max) posts wait already.
    ///   `task` is given back; try again later.
    /// * [`PostError::Closed`]: the reactor is gone. `task` is given back.
    /// * [`PostError::Wake`]: the system refused the wake-up. `task` runs with the next event.
    pub fn post<F>(&self, task: F) -> Result<(), PostError<F>>
    where
        F: FnOnce(&mut H, &mut Context<'_, H>) + Send + 'static,
    {
        self.queue.post(task, |posted, task| {
            // A closure of the kind that came last needs no box of its own.
            match posted.back_mut() {
                Some(Posted::Run(last)) => {
                    if let Some(task) = closures::append(last.as_any_mut(), task) {
                        posted.push_back(Posted::Run(closures::first(task)));
                    }
                }
                _ => posted.push_back(Posted::Run(closures::first(task))),
            }
        })
    }

    /// Sends `payload` to a connection as one frame, as [`Context::send`] does, within the loop's
    /// next turn. A vector is moved, anything else is copied once; and a long one is then queued
    /// without a copy, as by [`send_owned`](Context::send_owned).
    ///
    /// That it is accepted here says that the loop will try. What the connection then refuses, as
    /// it is gone or its queue is full, is told to [`Handler::on_send_refused`], with the payload.
    ///
    /// # Errors
    ///
    /// * [`PostError::Full`]: [`Config::posts_max`](crate::Config::posts_max) posts wait already.
    ///   The payload is given back; try again later.
    /// * [`PostError::Closed`]: the reactor is gone. The payload is given back.
    /// * [`PostError::Wake`]: the system refused the wake-up. It is sent with the next event.
    pub fn send(
        &self,
        conn: ConnId,
        payload: impl Into<Vec<u8>>,
    ) -> Result<(), PostError<Vec<u8>>> {
        self.queue.post(payload.into(), |posted, payload| {
            posted.push_back(Posted::Send { conn, payload });
        })
    }

    /// Shuts the reactor down, as [`Context::shutdown`] does. It is heard also where the queue of
    /// posts is full, and by a reactor that is gone without an error.
    ///
    /// # Errors
    ///
    /// What the system answered to the wake-up; the reactor shuts down with its next event.
    pub fn shutdown(&self, deadline: Duration) -> io::Result<()> {
        self.queue.shut_down(deadline)
    }
}

/// The loop's end of the queue. When it is dropped, posts are refused.
pub(crate) struct Inlet<H: Handler> {
    queue: Arc<Queue<Posted<H>, Waker>>,
    /// Whether anybody was ever given a [`Remote`]; a loop that is alone need not look.
    is_open: AtomicBool,
}

impl<H: Handler> Inlet<H> {
    pub(crate) fn new(waker: Waker, posts_max: usize) -> Self {
        Self {
            queue: Arc::new(Queue::new(waker, posts_max)),
            is_open: AtomicBool::new(false),
        }
    }

    pub(crate) fn remote(&self) -> Remote<H> {
        self.is_open.store(true, Ordering::Relaxed);
        let queue = Arc::clone(&self.queue);
        Remote { queue }
    }

    #[inline]
    pub(crate) fn is_pending(&self) -> bool {
        self.is_open() && self.queue.is_pending()
    }

    /// The loop is about to wait. Answers whether it may: not if there is something to take.
    #[inline]
    pub(crate) fn fall_asleep(&self) -> bool {
        !self.is_open() || self.queue.fall_asleep()
    }

    /// The loop has waited, and looks at the queue before it does so again.
    #[inline]
    pub(crate) fn awake(&self) {
        if self.is_open() {
            self.queue.awake();
        }
    }

    /// Takes all that was posted, in exchange for an empty queue, and a shutdown asked for.
    pub(crate) fn take(&self, posted: &mut VecDeque<Posted<H>>) -> Option<Duration> {
        self.queue.take(posted)
    }

    /// Lets posts be seen at the poll's descriptor when the result is dropped: when the loop leaves
    /// the thread to its caller, also by a panic.
    pub(crate) fn parks(&self) -> Option<Parks<H>> {
        self.is_open().then(|| Parks {
            queue: Arc::downgrade(&self.queue),
        })
    }

    #[inline]
    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }
}

impl<H: Handler> Drop for Inlet<H> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// See [`Inlet::parks`].
pub(crate) struct Parks<H: Handler> {
    queue: Weak<Queue<Posted<H>, Waker>>,
}

impl<H: Handler> Drop for Parks<H> {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.upgrade() {
            queue.park();
        }
    }
}

impl<H: Handler> Clone for Remote<H> {
    fn clone(&self) -> Self {
        let queue = Arc::clone(&self.queue);
        Self { queue }
    }
}

impl<H: Handler> fmt::Debug for Remote<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}
