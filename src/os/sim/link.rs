//! The network between two hosts: latency, bandwidth, losses and cuts.
//!
//! ```text
//!   send -> wait for the bandwidth -> latency and jitter -> arrival
//!        \-> held while the link is cut (connects and streams), or lost (all other packets)
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{Action, State, World};
use crate::setters::setters;

/// Minimum time between two segments of a stream, if a segment length is set.
const SEGMENT_GAP: Duration = Duration::from_micros(1);
/// Time after which a lost segment is sent again for the first time (RFC 6298, 2.4, with Linux's
/// minimum). The time doubles for each further loss.
const RETRANSMIT_AFTER: Duration = Duration::from_millis(200);
/// Maximum number of times that one segment is lost in a row.
const LOSSES_IN_A_ROW_MAX: u32 = 6;
/// Longest time that a datagram waits for the bandwidth. A datagram that would wait longer is
/// dropped, as a router does.
const QUEUE_TIME_MAX: Duration = Duration::from_secs(1);

/// Properties of the network from one host to another, in one direction.
///
/// A new link has a latency of a millisecond, and no other restriction.
#[derive(Debug, Clone)]
pub struct Link {
    latency: Duration,
    jitter: Duration,
    bandwidth_bytes: Option<u64>,
    segment_len_max: usize,
    loss_percent: u8,
    duplicate_percent: u8,
}

impl Link {
    /// Creates a link with a latency of a millisecond.
    #[must_use]
    pub fn new() -> Self {
        Self {
            latency: Duration::from_millis(1),
            jitter: Duration::ZERO,
            bandwidth_bytes: None,
            segment_len_max: usize::MAX,
            loss_percent: 0,
            duplicate_percent: 0,
        }
    }

    setters! {
        /// Sets the time that each packet is on its way. With a latency of zero, bytes arrive at
        /// once. Handlers that reply to each other without end then stop the virtual time.
        latency(time: Duration) => latency = time;

        /// Sets the maximum of a random time that is added to the latency of each packet. Datagrams
        /// can overtake one another, and the bytes of a stream stay in order. Default: zero.
        jitter(time_max: Duration) => jitter = time_max;

        /// Sets the bandwidth in bytes per second, at least 1. Bytes beyond this rate wait. A
        /// datagram that would wait longer than a second is lost. Default: no limit.
        bandwidth_bytes(per_second: u64) => bandwidth_bytes = Some(per_second.max(1));

        /// Makes the bytes of streams arrive in segments of random lengths from 1 to `len`, at
        /// least a microsecond apart. Default: the bytes of a write arrive together.
        segment_len_max(len: usize) => segment_len_max = len.max(1);

        /// Sets the percentage of packets that are lost. A lost datagram or reset never arrives. A
        /// lost connect or part of a stream arrives at least 200 ms later, because it is sent
        /// again. It can be lost at most six times in a row. Default: 0.
        loss_percent(percent: u8) => loss_percent = percent;

        /// Sets the percentage of datagrams that arrive twice. Default: 0.
        duplicate_percent(percent: u8) => duplicate_percent = percent;
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

/// The links of a world.
#[derive(Default)]
pub(super) struct Links {
    /// The link of each pair of hosts without a separate link.
    default: Link,
    /// Links by their source and destination.
    each: BTreeMap<(usize, usize), Direction>,
}

/// The network from one host to another.
#[derive(Default)]
struct Direction {
    /// Properties of the link; `None` if the default applies.
    link: Option<Link>,
    is_cut: bool,
    /// Packets of connects and streams that were sent while the link was cut. They are sent again
    /// when it is restored.
    held: Vec<Action>,
    /// Time at which the last packet has left, if the bandwidth is limited.
    busy_until: Duration,
}

impl Links {
    /// Creates links without latency.
    pub(super) fn new() -> Self {
        Self {
            default: Link::new().latency(Duration::ZERO),
            each: BTreeMap::new(),
        }
    }

    fn link(&self, way: (usize, usize)) -> &Link {
        let own = self
            .each
            .get(&way)
            .and_then(|direction| direction.link.as_ref());
        own.unwrap_or(&self.default)
    }

    /// Gives all links the properties of [`Link::new`]. Returns the links that are cut.
    pub(super) fn reset(&mut self) -> Vec<(usize, usize)> {
        self.default = Link::new();
        self.each
            .values_mut()
            .for_each(|direction| direction.link = None);
        let cut = self.each.iter().filter(|(_, direction)| direction.is_cut);
        cut.map(|(way, _)| *way).collect()
    }

    fn is_cut(&self, way: (usize, usize)) -> bool {
        self.each
            .get(&way)
            .is_some_and(|direction| direction.is_cut)
    }
}

impl World {
    /// Sets the link of each pair of hosts without a separate link.
    pub(crate) fn set_default_link(self, link: Link) {
        self.with(|state| state.links.default = link);
    }

    /// Sets the link from one host to another.
    pub(crate) fn set_link(self, from: usize, to: usize, link: Link) {
        self.with(|state| state.links.each.entry((from, to)).or_default().link = Some(link));
    }

    /// Cuts or restores the link from one host to another. Packets of connects and streams that
    /// were held because of the cut are sent again when the link is restored.
    pub(crate) fn set_cut(self, from: usize, to: usize, is_cut: bool) {
        self.with(|state| {
            let direction = state.links.each.entry((from, to)).or_default();
            direction.is_cut = is_cut;
            if !is_cut {
                for action in std::mem::take(&mut direction.held) {
                    state.send(action);
                }
            }
        });
    }

    /// Sets the latency of the default link.
    pub(crate) fn set_latency(self, latency: Duration) {
        self.with(|state| state.links.default.latency = latency);
    }

    /// Makes the bytes of streams arrive in segments of random lengths up to `len` on the default
    /// link, at least a microsecond apart.
    pub(crate) fn set_segment_len_max(self, len: usize) {
        self.with(|state| state.links.default.segment_len_max = len);
    }

    /// Makes the default link lose this percentage of packets.
    pub(crate) fn set_loss_percent(self, percent: u8) {
        self.with(|state| state.links.default.loss_percent = percent);
    }
}

impl State {
    /// Sends a packet: performs its action when it arrives. A packet to an address that no host has
    /// is lost. The bytes of Unix sockets arrive at once, because no link carries them.
    pub(super) fn send(&mut self, action: Action) {
        if self.is_between_unix_sockets(&action) {
            return self.perform(action);
        }
        let Some(way) = self.way_of(&action) else {
            return;
        };
        let is_repeated = matches!(action, Action::Syn(..) | Action::Arrive { .. });
        if self.links.is_cut(way) {
            if is_repeated {
                let direction = self.links.each.entry(way).or_default();
                direction.held.push(action);
            }
            return;
        }
        let (loss_percent, duplicate_percent) = {
            let link = self.links.link(way);
            (link.loss_percent, link.duplicate_percent)
        };
        let wait = self.wait_for_bandwidth(way, action.len());
        if wait > QUEUE_TIME_MAX && matches!(action, Action::Datagram { .. }) {
            return;
        }
        if !wait.is_zero() {
            let direction = self.links.each.entry(way).or_default();
            direction.busy_until = self.now + wait;
        }
        let mut at = self.arrival(way) + wait;
        let mut resend_after = RETRANSMIT_AFTER;
        for _ in 0..LOSSES_IN_A_ROW_MAX {
            if !self.random.is_percent(loss_percent) {
                break;
            }
            if !is_repeated {
                return;
            }
            at += resend_after;
            resend_after *= 2;
        }
        if let Action::Arrive { from, .. } = action {
            at = self.in_order(way, from, at);
        }
        if let Some(duplicate) = action.duplicate()
            && self.random.is_percent(duplicate_percent)
        {
            let at = self.arrival(way) + wait;
            self.perform_at(at, duplicate);
        }
        self.perform_at(at, action);
    }

    /// Makes `len` bytes of a stream arrive at the host of its peer, in segments and after the
    /// latency. If `fin` is true, the FIN follows them.
    pub(super) fn send_bytes(&mut self, from: usize, len: usize, fin: bool) {
        let way = match self.stream(from).is_unix() {
            true => None,
            false => self.way_of(&Action::Arrive { from, len, fin }),
        };
        let segment_len_max = way.map_or(usize::MAX, |way| self.links.link(way).segment_len_max);
        let mut left = len;
        while left > 0 {
            let len = match segment_len_max {
                usize::MAX => left,
                len_max => 1 + self.random.below(len_max.min(left)),
            };
            left -= len;
            let fin = fin && left == 0;
            self.send(Action::Arrive { from, len, fin });
        }
        if len == 0 && fin {
            self.send(Action::Arrive { from, len, fin });
        }
    }

    /// Returns the time at which a packet arrives that leaves now.
    fn arrival(&mut self, way: (usize, usize)) -> Duration {
        let link = self.links.link(way);
        let (latency, jitter) = (link.latency, link.jitter);
        let added = match jitter {
            Duration::ZERO => jitter,
            _ => self.random.time(jitter),
        };
        self.now + latency + added
    }

    /// Returns the time until a packet has left, after the packets before it. A packet leaves at
    /// once if the bandwidth has no limit.
    fn wait_for_bandwidth(&self, way: (usize, usize), len: usize) -> Duration {
        let Some(bandwidth_bytes) = self.links.link(way).bandwidth_bytes else {
            return Duration::ZERO;
        };
        let busy_until = self
            .links
            .each
            .get(&way)
            .map(|direction| direction.busy_until);
        let waits = busy_until.unwrap_or_default().saturating_sub(self.now);
        waits + time_to_send(len, bandwidth_bytes)
    }

    /// Returns the arrival time of the next bytes of a stream: `at`, or a later time so that they
    /// do not overtake earlier bytes.
    fn in_order(&mut self, way: (usize, usize), from: usize, at: Duration) -> Duration {
        let is_cut_up = self.links.link(way).segment_len_max < usize::MAX;
        let gap = if is_cut_up {
            SEGMENT_GAP
        } else {
            Duration::ZERO
        };
        let stream = self.stream(from);
        stream.last_arrival = at.max(stream.last_arrival) + gap;
        stream.last_arrival
    }

    fn perform_at(&mut self, at: Duration, action: Action) {
        if at > self.now {
            self.schedule(at, action);
        } else {
            self.perform(action);
        }
    }

    fn is_between_unix_sockets(&mut self, action: &Action) -> bool {
        match *action {
            Action::Syn(socket, _)
            | Action::Arrive { from: socket, .. }
            | Action::Reset(socket) => self.stream(socket).is_unix(),
            Action::Datagram { to, .. } => self.sockets[to].local.inet().is_none(),
            _ => false,
        }
    }

    /// Returns the source and the destination of a packet. Returns `None` if no host has one of the
    /// two addresses, or if the connection no longer exists.
    pub(super) fn way_of(&mut self, action: &Action) -> Option<(usize, usize)> {
        let host = |state: &Self, socket: usize| state.sockets[socket].host;
        Some(match *action {
            Action::Syn(client, _) => {
                let to = self.stream(client).peer_addr.as_ref()?.inet();
                let from = host(self, client);
                (from, to.map_or(Some(from), |to| self.route(from, to.ip()))?)
            }
            Action::Arrive { from, .. } => {
                let to = self.stream(from).peer?;
                (host(self, from), host(self, to))
            }
            Action::Reset(to) => {
                let from = self.stream(to).peer?;
                (host(self, from), host(self, to))
            }
            Action::Datagram { to, ref datagram } => (host(self, datagram.sender), host(self, to)),
            Action::Refusal(to) => {
                let from = self.datagram_peer(to)?.inet()?;
                let host = host(self, to);
                (self.route(host, from.ip())?, host)
            }
            Action::Call(_) | Action::Edge(..) | Action::SynTimeout(_) => return None,
        })
    }
}

/// Returns the time that `len` bytes take at a bandwidth in bytes per second.
fn time_to_send(len: usize, bandwidth_bytes: u64) -> Duration {
    let len = u64::try_from(len).unwrap_or(u64::MAX);
    Duration::from_nanos(len.saturating_mul(1_000_000_000) / bandwidth_bytes)
}
