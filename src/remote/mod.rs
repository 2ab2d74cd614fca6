//! [`Remote`]: access to a reactor from other threads.

mod call;
mod closures;
mod queue;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::context::Context;
use crate::error::{CallError, PostError};
use crate::handler::Handler;
use crate::id::ConnId;
use crate::os::{Deadline, Waker};
use crate::shutdown::ShutdownPlan;
pub(crate) use closures::Closures;
use queue::Queue;

/// A request from another thread.
pub(crate) enum Posted<H: Handler> {
    /// One or several closures of one type.
    Run(Box<dyn Closures<H> + Send>),
    /// A payload for a connection.
    Send { conn: ConnId, payload: Vec<u8> },
}

/// Handle to a reactor for other threads: posts closures to the loop, sends to connections and
/// shuts the reactor down.
///
/// A `Remote` is cheap to clone, and it is `Send` even if the handler is not. Closures and payloads
/// of one thread keep their order. A post costs no system call while the loop is running. If the
/// loop sleeps, one wake-up is enough for any number of posts.
///
/// # Examples
///
/// A thread that does work for a connection while the loop continues:
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
///             work.sort_unstable(); // a long computation
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
#[doc(alias("channel", "waker", "mpsc"))]
pub struct Remote<H: Handler> {
    queue: Arc<Queue<Posted<H>, Waker>>,
}

impl<H: Handler> Remote<H> {
    /// Runs `task` on the loop's thread, in the current turn or the next one. `task` runs later if
    /// [`Config::post_budget`](crate::Config::post_budget) or more posts are ahead of it. If the
    /// reactor is dropped first, `task` is dropped with it, without running.
    ///
    /// # Errors
    ///
    /// * [`PostError::Full`]: [`Config::posts_max`](crate::Config::posts_max) posts are waiting.
    ///   The error contains `task`; try again later.
    /// * [`PostError::Closed`]: the reactor was dropped. The error contains `task`.
    /// * [`PostError::Wake`]: the system could not wake the loop. `task` is queued and runs with
    ///   the next event; do not post it again.
    pub fn post<F>(&self, task: F) -> Result<(), PostError<F>>
    where
        F: FnOnce(&mut H, &mut Context<'_, H>) + Send + 'static,
    {
        self.queue.post(task, put_task)
    }

    /// Posts `task` like [`post`](Remote::post). If the queue of posts is full, waits at most
    /// `timeout` for a place in it. With a timeout of zero, it does not wait.
    ///
    /// A thread that produces faster than the loop works is slowed down to the pace of the loop. Do
    /// not call this method in a callback: a loop that waits takes no posts.
    ///
    /// # Errors
    ///
    /// * Same as [`post`](Remote::post). [`PostError::Full`] means that the queue was still full
    ///   after `timeout`.
    pub fn post_timeout<F>(&self, timeout: Duration, task: F) -> Result<(), PostError<F>>
    where
        F: FnOnce(&mut H, &mut Context<'_, H>) + Send + 'static,
    {
        self.queue.post_timeout(timeout, task, put_task)
    }

    /// Runs `task` on the loop's thread, waits for its end, and returns its result.
    ///
    /// Waits at most `timeout` for the start of `task`. This includes the wait for a place in the
    /// queue of posts. If `task` has not begun by then, it is cancelled. Once `task` has begun, the
    /// call waits for its end, without a limit. So an error other than [`CallError::Panicked`]
    /// means that `task` did not begin, and never will.
    ///
    /// Do not call this method in a callback: the loop would wait for itself until the timeout.
    ///
    /// # Errors
    ///
    /// * [`CallError::Timeout`]: the loop did not begin `task` in time.
    /// * [`CallError::Closed`]: the reactor was dropped.
    /// * [`CallError::Panicked`]: `task` panicked. The panic unwinds the loop, as a panic in a
    ///   callback does.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use unstick::{Framing, Handler, Reactor};
    ///
    /// struct Server {
    ///     users: Vec<String>,
    /// }
    ///
    /// impl Handler for Server {
    ///     type Session = ();
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut reactor = Reactor::new(Server { users: vec!["ada".to_owned()] })?;
    /// reactor.listen("127.0.0.1:0", Framing::line())?;
    /// let remote = reactor.remote();
    /// let server = std::thread::spawn(move || reactor.run());
    ///
    /// let timeout = Duration::from_secs(10);
    /// let users = remote.call(timeout, |server, _| server.users.clone())?;
    /// assert_eq!(users, ["ada"]);
    /// let accepted = remote.call(timeout, |_, cx| cx.stats().accepted)?;
    /// assert_eq!(accepted, 0);
    ///
    /// remote.shutdown(Duration::ZERO)?;
    /// server.join().expect("the loop does not panic")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn call<F, R>(&self, timeout: Duration, task: F) -> Result<R, CallError>
    where
        F: FnOnce(&mut H, &mut Context<'_, H>) -> R + Send + 'static,
        R: Send + 'static,
    {
        let deadline = Deadline::after(timeout);
        let (call, place) = call::new();
        let run = move |handler: &mut H, cx: &mut Context<'_, H>| {
            place.run(|| task(handler, cx));
        };
        match self.post_timeout(deadline.left(), run) {
            // If the wake-up failed, the next event runs the task.
            Ok(()) | Err(PostError::Wake(_)) => call.wait(deadline.left()),
            Err(PostError::Full(_)) => Err(CallError::Timeout),
            Err(PostError::Closed(_)) => Err(CallError::Closed),
        }
    }

    /// Sends `payload` to a connection as one frame, like [`Context::send`]. The loop sends it in
    /// the current turn or the next one, like a [`post`](Remote::post).
    ///
    /// A `Vec<u8>` is moved into the queue of posts; other types are copied once. The loop puts a
    /// payload of 16 KiB or more into the write queue without a further copy, like
    /// [`send_owned`](Context::send_owned).
    ///
    /// Success means only that the payload is queued for the loop. If the connection does not
    /// accept the payload, for example because it is closed or its write queue is full,
    /// [`Handler::on_send_refused`] returns the payload. If the reactor is dropped first, the
    /// payload is dropped with it.
    ///
    /// # Errors
    ///
    /// * [`PostError::Full`]: [`Config::posts_max`](crate::Config::posts_max) posts are waiting.
    ///   The error contains the payload; try again later.
    /// * [`PostError::Closed`]: the reactor was dropped. The error contains the payload.
    /// * [`PostError::Wake`]: the system could not wake the loop. The payload is queued and is sent
    ///   with the next event; do not send it again.
    pub fn send(
        &self,
        conn: ConnId,
        payload: impl Into<Vec<u8>>,
    ) -> Result<(), PostError<Vec<u8>>> {
        self.queue.post(payload.into(), |posted, payload| {
            posted.push_back(Posted::Send { conn, payload });
        })
    }

    /// Shuts the reactor down, like [`Context::shutdown`].
    ///
    /// The shutdown begins in the current turn or the next one, before the posts that wait. So the
    /// call works even if the queue of posts is full. Posts that still wait when the shutdown is
    /// complete are dropped with the reactor. To shut down after a post, call
    /// [`Context::shutdown`] in the post. If the reactor was dropped, the call does nothing and
    /// returns `Ok`.
    ///
    /// # Errors
    ///
    /// * Any error of the system while waking the loop. The reactor then shuts down with its next
    ///   event.
    pub fn shutdown(&self, plan: impl Into<ShutdownPlan>) -> io::Result<()> {
        self.queue.shut_down(plan.into())
    }
}

/// Adds a closure to the queue. If the last post is a batch of closures of the same type with space
/// left, the closure joins that batch.
fn put_task<H, F>(posted: &mut VecDeque<Posted<H>>, task: F)
where
    H: Handler,
    F: FnOnce(&mut H, &mut Context<'_, H>) + Send + 'static,
{
    match posted.back_mut() {
        Some(Posted::Run(last)) => {
            if let Some(task) = closures::append(last.as_any_mut(), task) {
                posted.push_back(Posted::Run(closures::first(task)));
            }
        }
        _ => posted.push_back(Posted::Run(closures::first(task))),
    }
}

/// Receiver of the queue, owned by the loop. Dropping it closes the queue, so that later posts
/// fail.
pub(crate) struct Inlet<H: Handler> {
    queue: Arc<Queue<Posted<H>, Waker>>,
    /// True once a [`Remote`] was created. Until then the loop skips the queue.
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

    pub(crate) fn is_pending(&self) -> bool {
        self.is_open() && self.queue.is_pending()
    }

    /// Prepares the queue for a wait of the loop. Returns false if the loop must not wait because a
    /// post or a shutdown is pending.
    pub(crate) fn fall_asleep(&self) -> bool {
        !self.is_open() || self.queue.fall_asleep()
    }

    /// Marks the loop as awake after a wait. The loop checks the queue before it waits again.
    pub(crate) fn awake(&self) {
        if self.is_open() {
            self.queue.awake();
        }
    }

    /// Moves all posts into the empty queue `posted`, and returns the plan of a requested
    /// shutdown.
    pub(crate) fn take(&self, posted: &mut VecDeque<Posted<H>>) -> Option<ShutdownPlan> {
        self.queue.take(posted)
    }

    /// Returns the plan of a requested shutdown, and leaves the posts in the queue.
    pub(crate) fn take_shutdown(&self) -> Option<ShutdownPlan> {
        self.queue.take_shutdown()
    }

    /// Returns a guard for the time in which the loop runs. Its drop makes the poll's descriptor
    /// readable if posts are pending. The guard is dropped when the loop returns to its caller, or
    /// when a panic unwinds through the loop.
    pub(crate) fn park_on_drop(&self) -> Option<ParkOnDrop<H>> {
        self.is_open().then(|| ParkOnDrop {
            queue: Arc::downgrade(&self.queue),
        })
    }

    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }
}

impl<H: Handler> Drop for Inlet<H> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Guard returned by [`Inlet::park_on_drop`].
pub(crate) struct ParkOnDrop<H: Handler> {
    queue: Weak<Queue<Posted<H>, Waker>>,
}

impl<H: Handler> Drop for ParkOnDrop<H> {
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
