//! The shadow model: the expected state of each end of each connection. The model knows only the
//! calls and their results, and checks every callback against the expected state.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use unstick::{CloseReason, Closed, ConnId, Detached, FrameError, SendError, Sent};

/// The settings of a run that affect what the model expects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) has_memory_limit: bool,
    pub(crate) reads_above_high: bool,
    /// True if reads and writes may fail at random.
    pub(crate) has_errors: bool,
    /// True if the network duplicates datagrams.
    pub(crate) duplicates: bool,
    pub(crate) write_low_bytes: usize,
    /// Maximum length of a payload that the framing accepts.
    pub(crate) frame_len_max: usize,
}

/// One end of a connection: a reactor's connection.
#[derive(Debug)]
pub(crate) struct End {
    /// Number of the process. Each restart of a reactor is a new process.
    pub(crate) life: usize,
    pub(crate) conn: ConnId,
    /// Address of the end that connected. Both ends know it.
    client: Option<SocketAddr>,
    is_client: bool,
    /// Index of the end that this end continues, after a detach; the end itself otherwise.
    origin: usize,
    /// Numbers of frames that the continued ends have received and sent.
    earlier: (usize, usize),
    /// True for a connection of a raw peer, which sends any bytes.
    is_foreign: bool,
    is_open: bool,
    pub(crate) closes: u32,
    /// True if the process ended, or if the program dropped the detached connection. No callback
    /// comes after that.
    pub(crate) is_lost: bool,
    /// Lengths of the payloads that `send` accepted.
    accepted: Vec<usize>,
    accepted_bytes: u64,
    /// Number of frames of the other end that were delivered.
    delivered: usize,
    is_paused: bool,
    credit: Option<u64>,
    /// True if the first credit was granted in `on_frame`. The frame of that callback uses no
    /// credit.
    is_credit_fresh: bool,
    /// True if `on_drained` must come.
    is_above: bool,
    /// True if `on_drained` may come.
    may_drain: bool,
    is_closed: bool,
    is_aborted: bool,
    is_detached: bool,
    is_half_closed: bool,
    has_half_close: bool,
}

/// A timer of a handler.
#[derive(Debug)]
pub(crate) struct Timer {
    pub(crate) life: usize,
    set_at: Instant,
    after: Duration,
    fires: u32,
    pub(crate) is_cancelled: bool,
}

/// Number of times that each kind of event happened, in all runs of a test.
#[derive(Debug, Default)]
pub(crate) struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    fn count(&mut self, event: &'static str) {
        *self.0.entry(event).or_default() += 1;
    }

    pub(crate) fn number(&self, event: &str) -> u64 {
        self.0.get(event).copied().unwrap_or(0)
    }
}

/// The expected state of a whole run.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) rules: Rules,
    coverage: Rc<RefCell<Coverage>>,
    /// True if a process has ended.
    has_restarted: bool,
    pub(crate) ends: Vec<End>,
    index: HashMap<(usize, ConnId), usize>,
    /// The connecting end of each client address.
    clients: HashMap<SocketAddr, usize>,
    pub(crate) timers: Vec<Timer>,
    /// Lengths of the datagrams that were sent, and the number of times that each one arrived.
    datagrams: Vec<(usize, u32)>,
    /// Detached connections that no reactor has adopted yet, with their ends.
    pub(crate) parked: VecDeque<(usize, Detached)>,
}

/// Returns the bytes of a payload. They depend on its sender and its number, so that a frame that
/// is lost, doubled or misdirected differs from the expected frame.
pub(crate) fn payload(sender: usize, number: usize, len: usize) -> Vec<u8> {
    let seed = sender.wrapping_mul(31).wrapping_add(number.wrapping_mul(7));
    (0..len)
        .map(|at| (seed + at * 13 + at / 251).to_le_bytes()[0])
        .collect()
}

impl Model {
    pub(crate) fn new(rules: Rules, coverage: Rc<RefCell<Coverage>>) -> Self {
        Self {
            rules,
            coverage,
            has_restarted: false,
            ends: Vec::new(),
            index: HashMap::new(),
            clients: HashMap::new(),
            timers: Vec::new(),
            datagrams: Vec::new(),
            parked: VecDeque::new(),
        }
    }

    /// Adds an end, and returns its index. `is_client` is true for the end that connected.
    pub(crate) fn add(&mut self, life: usize, conn: ConnId, is_client: bool) -> usize {
        let index = self.ends.len();
        let earlier = self.index.insert((life, conn), index);
        assert!(earlier.is_none(), "the id {conn} is used twice");
        self.ends.push(End::new(life, conn, is_client, index));
        index
    }

    /// Adds an end that continues a detached end.
    pub(crate) fn adopted(&mut self, earlier: usize, life: usize, conn: ConnId, unsent: usize) {
        if unsent > 0 {
            self.cover("adopted with unsent bytes");
        }
        let is_client = self.ends[earlier].is_client;
        let index = self.add(life, conn, is_client);
        let earlier = &self.ends[earlier];
        let (origin, delivered) = (earlier.origin, earlier.delivered);
        let (accepted, client) = (earlier.accepted.clone(), earlier.client);
        let is_foreign = earlier.is_foreign;
        let end = &mut self.ends[index];
        end.earlier = (delivered, accepted.len());
        (end.origin, end.delivered, end.accepted) = (origin, delivered, accepted);
        end.is_foreign = is_foreign;
        end.accepted_bytes = unsent as u64;
        end.is_above = unsent > self.rules.write_low_bytes;
        if let Some(client) = client {
            self.set_client(index, client);
        }
    }

    pub(crate) fn index(&self, life: usize, conn: ConnId) -> usize {
        self.index[&(life, conn)]
    }

    /// Stores the address of the connecting end, for both ends.
    pub(crate) fn set_client(&mut self, index: usize, client: SocketAddr) {
        self.ends[index].client = Some(client);
        if self.ends[index].is_client {
            self.clients.insert(client, index);
        }
    }

    pub(crate) fn set_foreign(&mut self, index: usize) {
        self.ends[index].is_foreign = true;
    }

    /// Returns the other end of a connection.
    fn peer(&self, index: usize) -> Option<&End> {
        let client = self.ends[index].client?;
        let is_other = |end: &&End| end.is_client != self.ends[index].is_client;
        match self.ends[index].is_client {
            true => self
                .ends
                .iter()
                .rev()
                .filter(is_other)
                .find(|end| end.client == Some(client)),
            false => self.clients.get(&client).map(|peer| &self.ends[*peer]),
        }
    }

    /// Counts an event.
    fn cover(&self, event: &'static str) {
        self.coverage.borrow_mut().count(event);
    }

    /// Returns true if the connection may end with an error of the system.
    fn may_fail(&self, index: usize) -> bool {
        let end = &self.ends[index];
        let has_left = |end: &End| end.is_closed || end.closes > 0 || end.is_lost;
        let peer = self.peer(index);
        self.rules.has_errors || end.is_foreign || peer.is_none_or(has_left)
    }

    /// Checks that an end may get a callback, and returns the end.
    fn alive(&mut self, index: usize) -> &mut End {
        let end = &mut self.ends[index];
        assert!(end.is_open, "a callback came before the open: {end:?}");
        assert_eq!(end.closes, 0, "a callback came after the close: {end:?}");
        assert!(!end.is_lost, "a callback came after the end of the process");
        assert!(
            !end.is_detached,
            "a callback came after the detach: {end:?}"
        );
        end
    }

    /// Checks that an end may get a callback about its input.
    fn check_reading(&mut self, index: usize) {
        let reads_above_high = self.rules.reads_above_high;
        let end = self.alive(index);
        assert!(!end.is_closed, "input after a close: {end:?}");
        assert!(!end.is_paused, "input while paused: {end:?}");
        assert!(
            !end.is_above || reads_above_high,
            "input above high: {end:?}"
        );
        assert_ne!(end.credit, Some(0), "input without credit: {end:?}");
        assert!(!end.has_half_close, "input after its end: {end:?}");
    }
}

/// The callbacks.
impl Model {
    pub(crate) fn opened(&mut self, index: usize) {
        let end = &mut self.ends[index];
        assert!(
            !end.is_open && end.closes == 0,
            "on_open came twice: {end:?}"
        );
        end.is_open = true;
    }

    pub(crate) fn frame(&mut self, index: usize, frame: &[u8]) {
        self.check_reading(index);
        let number = self.ends[index].delivered;
        if !self.ends[index].is_foreign {
            let peer = self
                .peer(index)
                .expect("a frame comes from an end that is known");
            let len = *peer.accepted.get(number).expect("the frame was sent");
            let sender = peer.origin;
            assert!(
                frame == payload(sender, number, len),
                "frame {number} is wrong"
            );
        }
        self.ends[index].delivered += 1;
        self.cover("frame");
    }

    /// Deducts the credit of a frame, after the callback of the frame.
    pub(crate) fn frame_returned(&mut self, index: usize) {
        let end = &mut self.ends[index];
        let is_counted = !std::mem::take(&mut end.is_credit_fresh);
        if let Some(credit) = &mut end.credit
            && is_counted
        {
            *credit = credit.saturating_sub(1);
        }
    }

    pub(crate) fn drained(&mut self, index: usize) {
        self.cover("drained");
        let end = self.alive(index);
        assert!(
            end.is_above || end.may_drain,
            "on_drained was not due: {end:?}"
        );
        end.is_above = false;
    }

    pub(crate) fn half_closed(&mut self, index: usize) {
        self.check_reading(index);
        self.cover("half-close");
        self.ends[index].has_half_close = true;
        let end = &self.ends[index];
        if end.is_foreign {
            return;
        }
        let peer = self
            .peer(index)
            .expect("the end of a stream comes from an end that is known");
        // A connect that is closed before it is open drops its output.
        if peer.is_lost || !peer.is_open {
            return;
        }
        assert!(
            peer.is_closed || peer.is_half_closed,
            "the peer has not ended its side"
        );
        assert_eq!(
            end.delivered,
            peer.accepted.len(),
            "frames are missing before the end"
        );
    }

    pub(crate) fn hung_up(&mut self, index: usize) {
        let rules = self.rules;
        self.cover("hangup");
        let end = self.alive(index);
        let is_stopped = end.is_paused || end.is_above || end.credit == Some(0);
        assert!(
            is_stopped || end.may_drain || rules.has_memory_limit,
            "on_hangup came although the connection is read: {end:?}"
        );
    }

    pub(crate) fn closed(&mut self, index: usize, closed: &Closed) {
        let may_fail = self.may_fail(index);
        self.cover("life");
        self.cover(match &closed.reason {
            CloseReason::Local => "closed locally",
            CloseReason::Peer => "closed by the peer",
            CloseReason::Aborted => "aborted",
            CloseReason::ConnectFailed(_) => "connect failed",
            CloseReason::CloseTimeout => "close timeout",
            CloseReason::Io(_) => "io error",
            CloseReason::MemoryFull => "memory full",
            CloseReason::Frame { .. } => "frame error",
            CloseReason::Detached(detached) if detached.undelivered.is_empty() => "detached",
            CloseReason::Detached(_) => "detached with undelivered bytes",
            _ => "other end",
        });
        let end = &mut self.ends[index];
        end.closes += 1;
        assert_eq!(end.closes, 1, "on_close came twice: {end:?}");
        assert!(!end.is_lost);
        let stats = closed.stats;
        let detached = match &closed.reason {
            CloseReason::Detached(detached) => detached.unsent.len() as u64,
            _ => 0,
        };
        let known = stats.written_bytes + closed.unsent_bytes + detached;
        assert_eq!(
            known, end.accepted_bytes,
            "output is lost: {closed:?} {end:?}"
        );
        let (earlier_in, earlier_out) = end.earlier;
        assert_eq!(stats.frames_out, (end.accepted.len() - earlier_out) as u64);
        assert_eq!(stats.frames_in, (end.delivered - earlier_in) as u64);
        match &closed.reason {
            CloseReason::Local | CloseReason::Peer => {
                assert!(end.is_closed || end.is_half_closed, "no close: {end:?}");
                assert!(closed.unsent_bytes == 0 || !end.is_open, "{closed:?}");
            }
            CloseReason::Aborted => assert!(end.is_aborted, "no abort: {end:?}"),
            CloseReason::Detached(_) => assert!(end.is_detached, "no detach: {end:?}"),
            CloseReason::ConnectFailed(_) => assert!(!end.is_open),
            CloseReason::CloseTimeout => {
                assert!(end.is_closed, "no close: {end:?}");
                end.is_aborted = true;
            }
            CloseReason::Io(_) => {
                assert!(may_fail, "{closed:?} {end:?}");
                end.is_aborted = true;
            }
            CloseReason::MemoryFull => {
                assert!(self.rules.has_memory_limit, "{closed:?}");
                end.is_aborted = true;
            }
            CloseReason::Frame { .. } => assert!(end.is_foreign, "{closed:?}"),
            reason => panic!("no part of the run can cause this end: {reason:?}"),
        }
    }

    pub(crate) fn timer(&mut self, key: u64, now: Instant, may_be_late: bool) {
        self.cover("timer");
        let timer = &mut self.timers[usize::try_from(key).expect("the key is an index")];
        timer.fires += 1;
        assert!(timer.fires == 1 && !timer.is_cancelled, "{timer:?}");
        let waited = now - timer.set_at;
        assert!(waited >= timer.after, "early by {:?}", timer.after - waited);
        let late = waited - timer.after;
        assert!(
            late <= Duration::from_millis(2) || may_be_late,
            "late by {late:?}"
        );
    }

    pub(crate) fn datagram(&mut self, data: &[u8], is_truncated: bool) {
        let number = u32::from_le_bytes(data[..4].try_into().expect("four bytes"));
        let number = usize::try_from(number).expect("the number fits");
        let (len, count) = &mut self.datagrams[number];
        *count += 1;
        self.coverage.borrow_mut().count("datagram");
        assert!(
            *count <= 1 + u32::from(self.rules.duplicates),
            "it came {count} times"
        );
        assert!(is_truncated || data.len() == *len);
        assert!(payload(number, 0, *len)[4..].starts_with(&data[4..]));
    }
}

/// The operations.
impl Model {
    /// Returns the next payload of an end, of this length.
    pub(crate) fn next_payload(&self, index: usize, len: usize) -> Vec<u8> {
        let end = &self.ends[index];
        payload(end.origin, end.accepted.len(), len)
    }

    /// Records the result of a send. `queued` is the length of the write queue afterwards.
    pub(crate) fn sent(
        &mut self,
        index: usize,
        len: usize,
        header_len: usize,
        queued: Option<usize>,
        sent: &Result<Sent, SendError>,
    ) {
        let (may_fail, rules) = (self.may_fail(index), self.rules);
        let end = &mut self.ends[index];
        match sent {
            Ok(sent) => {
                let has_ended = end.is_closed || end.is_half_closed || end.is_detached;
                assert!(!has_ended && end.closes == 0, "{end:?}");
                end.accepted.push(len);
                end.accepted_bytes += (len + header_len) as u64;
                end.is_above |= matches!(sent, Sent::AboveHigh);
            }
            Err(SendError::Full) => {
                self.coverage.borrow_mut().count("send queue full");
                end.is_above |= !rules.has_memory_limit && queued != Some(0);
                end.may_drain |= rules.has_memory_limit;
            }
            Err(SendError::Closing) => assert!(
                end.is_closed || end.is_half_closed || end.is_detached || may_fail,
                "`send` returned `Closing` for an open connection: {end:?}"
            ),
            Err(SendError::Gone) => {
                assert!(
                    end.is_aborted || end.is_detached || end.closes > 0,
                    "{end:?}"
                );
            }
            Err(SendError::Frame(FrameError::TooLong { .. })) => {
                assert!(len > rules.frame_len_max);
            }
            Err(error) => panic!("unexpected send error: {error}"),
        }
    }

    pub(crate) fn close_called(&mut self, index: usize, aborts: bool) {
        let end = &mut self.ends[index];
        end.is_aborted |= aborts;
        end.is_closed = true;
    }

    pub(crate) fn detach_called(&mut self, index: usize) {
        let end = &mut self.ends[index];
        assert!(end.is_open && end.closes == 0, "{end:?}");
        assert!(
            !end.is_closed && !end.is_half_closed && !end.is_detached,
            "{end:?}"
        );
        end.is_detached = true;
    }

    /// Removes a detached connection, to close its socket.
    pub(crate) fn drop_parked(&mut self) {
        if let Some((index, _)) = self.parked.pop_front() {
            self.ends[index].is_lost = true;
        }
    }

    pub(crate) fn half_close_called(&mut self, index: usize, is_gone: bool) {
        let end = &mut self.ends[index];
        assert_eq!(is_gone, end.closes > 0, "{end:?}");
        end.is_half_closed = true;
    }

    pub(crate) fn pause_called(&mut self, index: usize, is_paused: bool, is_gone: bool) {
        let end = &mut self.ends[index];
        assert_eq!(is_gone, end.closes > 0, "{end:?}");
        end.is_paused = is_paused;
    }

    pub(crate) fn grant_called(&mut self, index: usize, frames: u64, in_frame: bool) {
        let end = &mut self.ends[index];
        if end.credit.is_none() {
            end.is_credit_fresh = in_frame;
        }
        let credit = end.credit.unwrap_or(0).saturating_add(frames);
        end.credit = (credit < u64::MAX).then_some(credit);
    }

    pub(crate) fn timer_set(&mut self, life: usize, set_at: Instant, after: Duration) {
        self.timers.push(Timer {
            life,
            set_at,
            after,
            fires: 0,
            is_cancelled: false,
        });
    }

    /// Returns the next datagram: its number and bytes that depend on the number.
    pub(crate) fn next_datagram(&mut self, len: usize) -> Vec<u8> {
        let number = self.datagrams.len();
        let len = len.max(4);
        self.datagrams.push((len, 0));
        let mut data = payload(number, 0, len);
        let number = u32::try_from(number).expect("the number fits");
        data[..4].copy_from_slice(&number.to_le_bytes());
        data
    }

    /// Marks all ends and timers of a process that has ended.
    pub(crate) fn process_ended(&mut self, life: usize) {
        self.has_restarted = true;
        for end in &mut self.ends {
            end.is_lost |= end.life == life;
        }
        for timer in &mut self.timers {
            timer.is_cancelled |= timer.life == life;
        }
    }
}

/// The checks between two steps and at the end.
impl Model {
    /// Returns the number of connections that a reactor must have.
    pub(crate) fn connections(&self, life: usize) -> usize {
        let is_counted = |end: &&End| end.life == life && end.closes == 0;
        self.ends.iter().filter(is_counted).count()
    }

    /// Checks the write queue of an open end.
    pub(crate) fn check_queued(&self, index: usize, queued: usize, written: u64) {
        let end = &self.ends[index];
        if !end.is_closed && !self.may_fail(index) {
            assert_eq!(queued as u64 + written, end.accepted_bytes, "{end:?}");
        }
    }

    /// Checks that everything has arrived, after the faults have ended.
    pub(crate) fn check_all_arrived(&self) {
        for (index, end) in self.ends.iter().enumerate() {
            let is_alive = end.is_open && end.closes == 0 && !end.is_lost;
            // A process that has ended accepts nothing, and its reset may be lost.
            let may_be_alone = !end.is_client || end.has_half_close || self.has_restarted;
            let is_accepted = may_be_alone || self.peer(index).is_some();
            assert!(!is_alive || is_accepted, "never accepted: {end:?}");
            let peer = self
                .peer(index)
                .filter(|peer| peer.is_open && !peer.is_lost);
            let Some(peer) = peer.filter(|_| is_alive && !end.is_foreign) else {
                continue;
            };
            // If each end is above its high watermark, neither end reads, so neither queue drains.
            // With a memory limit, `may_drain` means that the end may be above its high watermark.
            let is_held =
                |end: &End| (end.is_above || end.may_drain) && !self.rules.reads_above_high;
            if is_held(end) && is_held(peer) {
                continue;
            }
            if !end.is_closed && !peer.is_aborted {
                let has_ended = peer.is_closed || peer.is_half_closed;
                assert_eq!(end.has_half_close, has_ended, "{end:?} {peer:?}");
                assert_eq!(
                    end.delivered,
                    peer.accepted.len(),
                    "frames are missing: {end:?}"
                );
            }
            assert!(
                !end.is_above || end.is_closed,
                "on_drained is missing: {end:?}"
            );
        }
        for timer in &self.timers {
            assert!(
                timer.fires == 1 || timer.is_cancelled,
                "did not fire: {timer:?}"
            );
        }
    }

    /// Checks that every connection was reported as closed.
    pub(crate) fn check_all_closed(&self) {
        for end in &self.ends {
            assert!(
                end.closes == 1 || end.is_lost,
                "on_close is missing: {end:?}"
            );
        }
    }
}

impl End {
    fn new(life: usize, conn: ConnId, is_client: bool, index: usize) -> Self {
        Self {
            life,
            conn,
            client: None,
            is_client,
            origin: index,
            earlier: (0, 0),
            is_foreign: false,
            is_open: false,
            closes: 0,
            is_lost: false,
            accepted: Vec::new(),
            accepted_bytes: 0,
            delivered: 0,
            is_paused: false,
            credit: None,
            is_credit_fresh: false,
            is_above: false,
            may_drain: false,
            is_closed: false,
            is_aborted: false,
            is_detached: false,
            is_half_closed: false,
            has_half_close: false,
        }
    }
}
