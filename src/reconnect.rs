//! [`Reconnect`] and [`Backoff`]: a client connection that is opened again each time it ends.
//!
//! A handler with other needs can replace both types with about a page of code: a connect, a timer,
//! and the callbacks `on_close` and `on_timer`.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::{Duration, Instant};

use crate::addr::ToAddrs;
use crate::codec::Framing;
use crate::context::Context;
use crate::event::{CloseReason, Closed};
use crate::handler::Handler;
use crate::id::ConnId;
use crate::os::ConnectOptions;
use crate::setters::setters;
use crate::shutdown::ShutdownPhase;
use crate::timer::TimerId;

/// Delays between attempts: longer after every failure, and randomised so that the clients of a
/// restarted server do not all return at once.
///
/// Without jitter, the first delay is `base` and each later delay is `factor` times the previous
/// delay, up to `max`. This type reads no clock and sets no timer.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use unstick::Backoff;
///
/// let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1)).jitter(0.0);
/// let delays: Vec<_> = (0..6).map(|_| backoff.next_delay().as_millis()).collect();
/// assert_eq!(delays, [100, 200, 400, 800, 1000, 1000]);
/// backoff.reset();
/// assert_eq!(backoff.next_delay().as_millis(), 100);
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    factor: f64,
    jitter: f64,
    /// Next delay without jitter; `next <= max`.
    next: Duration,
    random: u64,
}

impl Backoff {
    /// Creates delays from `base` to `max` with a factor of 2 and a jitter of 0.5.
    ///
    /// A `max` below `base` counts as `base`. A `base` of zero gives delays of zero.
    #[must_use]
    pub fn new(base: Duration, max: Duration) -> Self {
        Self {
            base,
            max: max.max(base),
            factor: 2.0,
            jitter: 0.5,
            next: base,
            random: RandomState::new().hash_one(0),
        }
    }

    setters! {
        /// Sets the ratio of each delay to the previous one. Default: 2.
        ///
        /// A factor below 1, or NaN, counts as 1: every delay is `base`.
        // `f64::max` replaces NaN by 1. The upper limit is finite, because infinity times zero is
        // NaN.
        factor(factor: f64) => factor = factor.clamp(1.0, f64::MAX).max(1.0);

        /// Sets the random share of each delay, from 0 (none) to 1 (all of it). Default: 0.5.
        ///
        /// A jitter of 0.5 turns a delay of one second into a random delay from half a second to
        /// one second. Values outside the range count as 0 or 1; NaN counts as 0.
        // `f64::max` replaces NaN by 0.
        jitter(share: f64) => jitter = share.clamp(0.0, 1.0).max(0.0);

        /// Sets the seed of the jitter, so that a test gets the same delays in every run. By
        /// default the seed is random.
        seed(seed: u64) => random = seed;
    }

    /// Returns the delay to wait before the next attempt, and makes the next delay longer. Call it
    /// after a failure.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        let longer = delay.as_secs_f64() * self.factor;
        self.next = Duration::try_from_secs_f64(longer).map_or(self.max, |next| next.min(self.max));
        let kept = delay.as_secs_f64() * (1.0 - self.jitter * self.chance());
        // The longest delays are rounded up to a value that is too large for a `Duration`.
        Duration::try_from_secs_f64(kept).map_or(delay, |kept| kept.min(delay))
    }

    /// Makes `base` the next delay again. Call it after a success: a connection that lived for some
    /// time, not a connection that was only accepted.
    pub fn reset(&mut self) {
        self.next = self.base;
    }

    /// Returns a random number of at least 0 and below 1, by splitmix64 (Steele, Lea, Flood: "Fast
    /// splittable pseudorandom number generators", 2014).
    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^= bits >> 31;
        let high = u32::try_from(bits >> 32).unwrap_or(u32::MAX);
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }
}

/// A connection to one server that is opened again after it ends or fails to open.
///
/// A handler keeps one `Reconnect` per server and forwards its callbacks to it:
/// [`open`](Reconnect::open) to start, then [`on_close`](Reconnect::on_close) and
/// [`on_timer`](Reconnect::on_timer). The last two ignore the connections and timers of other
/// servers, so one handler can have several `Reconnect` values.
///
/// The delays between the attempts grow until a connection has lived for
/// [`lifetime_min`](Reconnect::lifetime_min). An accept is no success: a server that is overloaded
/// or broken may accept each connection, send an error and close. No further attempt is made in
/// these cases:
///
/// * A shutdown of the reactor has reached the phase [`Close`](crate::ShutdownPhase::Close).
/// * The handler has [detached](Context::detach) the connection.
/// * No server can have the address.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use unstick::{Backoff, Closed, ConnId, Context, Framing, Handler, Origin, Reactor};
/// use unstick::{Reconnect, TimerId};
///
/// struct Client {
///     server: Reconnect<String>,
/// }
///
/// impl Handler for Client {
///     type Session = ();
///
///     fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
///         let _ = cx.send(conn, b"hello");
///     }
///
///     fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), frame: &[u8]) {
///         println!("{}", frame.escape_ascii());
///     }
///
///     fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: (), closed: Closed) {
///         match self.server.on_close(cx, conn, &closed) {
///             Some(delay) => println!("{}; again in {delay:?}", closed.reason),
///             None => cx.stop(), // the address is invalid
///         }
/// #       cx.stop();
///     }
///
///     fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, _: u64) {
///         self.server.on_timer(cx, timer, ());
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// # let free = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let addr = free.local_addr()?.to_string();
/// # drop(free);
/// let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
/// let server = Reconnect::new(addr, Framing::line(), backoff);
/// let mut reactor = Reactor::new(Client { server })?;
/// reactor.with(|client, cx| client.server.open(cx, ()));
/// reactor.run()
/// # }
/// ```
#[doc(alias("ReconnectingClientFactory", "retry"))]
#[derive(Debug)]
pub struct Reconnect<A> {
    addr: A,
    framing: Framing,
    backoff: Backoff,
    options: ConnectOptions,
    timer_key: u64,
    lifetime_min: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ended,
    /// A connection that is connecting or open, and the start time of its attempt.
    Up(ConnId, Instant),
    /// The timer that starts the next attempt.
    Waiting(TimerId),
}

impl<A> Reconnect<A>
where
    for<'a> &'a A: ToAddrs,
{
    /// Creates a disconnected `Reconnect` for `addr`, a TCP or a Unix address.
    ///
    /// The address is resolved again for each attempt, because a host name may have moved.
    /// Resolving a host name blocks; an IP or Unix address does not. Call [`open`](Reconnect::open)
    /// to connect.
    #[must_use]
    pub fn new(addr: A, framing: Framing, backoff: Backoff) -> Self {
        Self {
            addr,
            framing,
            lifetime_min: backoff.max,
            backoff,
            options: ConnectOptions::new(),
            timer_key: u64::MAX,
            state: State::Ended,
        }
    }

    setters! {
        /// Sets the options of each attempt: the timeout and the local address, for example.
        options(options: ConnectOptions) => options = options;

        /// Sets the key of the timers, which the handler's `on_timer` receives. Default:
        /// `u64::MAX`.
        ///
        /// A handler with many servers uses different keys to find the server of a timer.
        timer_key(key: u64) => timer_key = key;

        /// Sets the time after which a connection counts as a success, so that the next delay is
        /// the shortest one again. Default: the longest delay of the backoff.
        ///
        /// The time counts from the start of the attempt. A connect that fails is never a success.
        /// If `min` is zero, each connection that opens is a success. Such a client reconnects at
        /// the shortest delay, forever, to a server that accepts and closes.
        lifetime_min(min: Duration) => lifetime_min = min;
    }

    /// Connects at once with `session`, and cancels the timer of the next attempt if it is set.
    ///
    /// If a connection is open or connecting already, returns this connection and drops `session`.
    pub fn open<H: Handler>(&mut self, cx: &mut Context<'_, H>, session: H::Session) -> ConnId {
        match self.state {
            State::Up(conn, _) => return conn,
            State::Waiting(timer) => {
                cx.cancel_timer(timer);
            }
            State::Ended => {}
        }
        let conn = cx.connect_with(&self.addr, self.framing.clone(), session, &self.options);
        // The time after the connect, because resolving a host name may take long.
        self.state = State::Up(conn, cx.now());
        conn
    }

    /// Sets a timer for the next attempt and returns its delay. Call it from [`Handler::on_close`].
    ///
    /// Returns `None`, and sets no timer, in these cases:
    ///
    /// * `conn` is another connection.
    /// * A shutdown has reached the phase [`Close`](crate::ShutdownPhase::Close).
    /// * The handler [detached](Context::detach) the connection, so the connection to the server is
    ///   still open. Call [`open`](Reconnect::open) to open a second connection.
    /// * No server can have the address: the text is malformed (for example, it has no port), the
    ///   port is 0, or the address names a group of hosts. If a name has several addresses, this
    ///   must hold for all of them. The error of the connect is then `InvalidInput` or
    ///   `Unsupported`, and does not come from the system. A host name that is not found is tried
    ///   again.
    pub fn on_close<H: Handler>(
        &mut self,
        cx: &mut Context<'_, H>,
        conn: ConnId,
        closed: &Closed,
    ) -> Option<Duration> {
        let since = match self.state {
            State::Up(own, since) if own == conn => since,
            _ => return None,
        };
        self.state = State::Ended;
        let is_failed = matches!(closed.reason, CloseReason::ConnectFailed(_));
        if !is_failed && cx.now().saturating_duration_since(since) >= self.lifetime_min {
            self.backoff.reset();
        }
        let is_detached = matches!(closed.reason, CloseReason::Detached(_));
        if is_detached || has_reached_close(cx) || is_final(&closed.reason) {
            return None;
        }
        let delay = self.backoff.next_delay();
        self.state = State::Waiting(cx.set_timer(delay, self.timer_key));
        Some(delay)
    }

    /// Connects, if `timer` was set for the next attempt. Call it from [`Handler::on_timer`].
    ///
    /// Returns `None`, and drops `session`, if `timer` is a different timer, or if a shutdown has
    /// reached the phase [`Close`](crate::ShutdownPhase::Close).
    pub fn on_timer<H: Handler>(
        &mut self,
        cx: &mut Context<'_, H>,
        timer: TimerId,
        session: H::Session,
    ) -> Option<ConnId> {
        if self.state != State::Waiting(timer) {
            return None;
        }
        self.state = State::Ended;
        (!has_reached_close(cx)).then(|| self.open(cx, session))
    }

    /// Closes the connection gracefully or cancels the next attempt. No further attempt is made
    /// until [`open`](Reconnect::open).
    pub fn close<H: Handler>(&mut self, cx: &mut Context<'_, H>) {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Up(conn, _) => cx.close(conn),
            State::Waiting(timer) => {
                cx.cancel_timer(timer);
            }
            State::Ended => {}
        }
    }

    /// Returns the connection, if it is open or connecting.
    #[must_use]
    pub fn conn(&self) -> Option<ConnId> {
        match self.state {
            State::Up(conn, _) => Some(conn),
            State::Waiting(_) | State::Ended => None,
        }
    }
}

/// Returns true if a shutdown has reached its last phase, in which no connection can be opened.
fn has_reached_close<H: Handler>(cx: &Context<'_, H>) -> bool {
    cx.shutdown_phase() == Some(ShutdownPhase::Close)
}

/// Returns true if no further attempt can succeed. An `InvalidInput` of the system does not count,
/// because it may mean a missing route, which may appear later (ip-route(8), "blackhole").
fn is_final(reason: &CloseReason) -> bool {
    let is_invalid = |error: &io::Error| {
        let kinds = [io::ErrorKind::InvalidInput, io::ErrorKind::Unsupported];
        kinds.contains(&error.kind()) && error.raw_os_error().is_none()
    };
    matches!(reason, CloseReason::ConnectFailed(error) if is_invalid(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn jittered_delays_stay_in_range_and_depend_on_the_seed() {
        let delays = |seed| {
            let mut backoff = Backoff::new(SECOND, 60 * SECOND).jitter(0.25).seed(seed);
            let delays: Vec<_> = (0..200).map(|_| backoff.next_delay()).collect();
            delays
        };
        let full = |index: u32| (SECOND * 2_u32.pow(index.min(6))).min(60 * SECOND);
        for (index, delay) in (0..).zip(delays(7)) {
            let full = full(index);
            assert!(
                delay <= full && delay > full.mul_f64(0.7499),
                "the delay is {delay:?}"
            );
        }
        let rest = delays(7).split_off(6);
        let (shortest, longest) = (rest.iter().min(), rest.iter().max());
        assert!(shortest < Some(&(46 * SECOND)) && longest > Some(&(59 * SECOND)));
        assert_eq!(delays(7), delays(7));
        assert_ne!(delays(7), delays(8));
    }

    #[test]
    fn backoff_factor_multiplies_each_delay() {
        for (factor, delays) in [(3.0, [1, 3, 9, 20]), (1.0, [1; 4]), (f64::NAN, [1; 4])] {
            let mut backoff = Backoff::new(SECOND, 20 * SECOND).factor(factor).jitter(0.0);
            assert_eq!(
                [(); 4].map(|()| backoff.next_delay()),
                delays.map(|n| n * SECOND)
            );
        }
    }

    #[test]
    fn backoff_with_extreme_settings_returns_valid_delays() {
        let all = |mut backoff: Backoff| (0..2000).all(|_| backoff.next_delay() <= backoff.max);
        for extreme in [0.0, -1.0, 1e300, f64::INFINITY, f64::NAN] {
            for (base, max) in [
                (Duration::ZERO, Duration::MAX),
                (SECOND, Duration::MAX),
                (Duration::MAX, Duration::MAX),
                (SECOND, Duration::ZERO),
            ] {
                assert!(all(Backoff::new(base, max).factor(extreme).jitter(0.0)));
                assert!(all(Backoff::new(base, max).jitter(extreme)));
            }
        }
        for extreme in [1e300, f64::INFINITY] {
            let mut backoff = Backoff::new(Duration::ZERO, SECOND).factor(extreme);
            assert_eq!(
                [backoff.next_delay(), backoff.next_delay()],
                [Duration::ZERO; 2]
            );
        }
        let mut backoff = Backoff::new(SECOND, Duration::ZERO).jitter(0.0);
        assert_eq!([backoff.next_delay(), backoff.next_delay()], [SECOND; 2]);
    }
}
