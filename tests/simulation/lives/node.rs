//! The handler of the reactors: it reports each callback to the model, and makes random calls.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use unstick::testkit::Random;
use unstick::testkit::sim::Simulation;
use unstick::{
    CloseReason, Closed, ConnId, ConnectOptions, Context, Datagram, Framing, Handler, Hangup,
    Origin, Payload, TimerId, UdpId,
};

use super::model::Model;

/// Length of the header of each frame, in bytes.
const HEADER_LEN: usize = 2;

/// A handler with its view of the model, which all reactors of a run share.
pub(crate) struct Node {
    pub(crate) model: Rc<RefCell<Model>>,
    /// Number of this process: each restart gets a new number.
    pub(crate) life: usize,
    /// Length of the send and receive buffers of the connections, in bytes.
    pub(crate) buffer_len: usize,
    pub(crate) random: Random,
    /// Number of random calls that may still be made.
    pub(crate) calls_left: usize,
    /// Timers that are set: their ids, and their indexes in the model.
    pub(crate) timers: Vec<(TimerId, usize)>,
    /// True if timers may be late: the reactor was paused, or a turn fires only one timer.
    pub(crate) may_be_late: bool,
}

pub(crate) type Cx<'a> = Context<'a, Node>;

/// Returns the framing of all connections.
pub(crate) fn framing(frame_len_max: usize) -> Framing {
    Framing::length_u16().frame_len_max(frame_len_max)
}

impl Node {
    fn index(&self, conn: ConnId) -> usize {
        self.model.borrow().index(self.life, conn)
    }

    /// Starts a connect, and adds its end to the model.
    pub(crate) fn connect(&self, cx: &mut Cx<'_>, to: SocketAddr) {
        let frame_len_max = self.model.borrow().rules.frame_len_max;
        let options = ConnectOptions::new()
            .send_buffer_len(self.buffer_len)
            .recv_buffer_len(self.buffer_len);
        let conn = cx.connect_with(to, framing(frame_len_max), (), &options);
        let mut model = self.model.borrow_mut();
        let index = model.add(self.life, conn, true);
        if let Ok(local) = cx.local_inet_addr(conn) {
            model.set_client(index, local);
        }
    }

    /// Sends the next payload of an end, with a random send call.
    pub(crate) fn send(&mut self, cx: &mut Cx<'_>, index: usize, len: usize) {
        let (conn, payload) = {
            let model = self.model.borrow();
            (model.ends[index].conn, model.next_payload(index, len))
        };
        let sent = match self.random.below(4) {
            0 => cx.send_parts(conn, &[&payload[..len / 2], &payload[len / 2..]]),
            1 => cx.send_with(conn, |out| {
                out.put(&payload);
                Ok(())
            }),
            2 => {
                let sent = cx.send_owned(conn, Payload::from(payload));
                sent.map_err(|refused| refused.error)
            }
            _ => cx.send(conn, &payload),
        };
        let queued = cx.queued_bytes(conn).ok();
        self.model
            .borrow_mut()
            .sent(index, len, HEADER_LEN, queued, &sent);
    }

    pub(crate) fn close(&self, cx: &mut Cx<'_>, index: usize, aborts: bool) {
        let conn = self.model.borrow().ends[index].conn;
        match aborts {
            true => cx.abort(conn),
            false => cx.close(conn),
        }
        self.model.borrow_mut().close_called(index, aborts);
    }

    /// Detaches a connection, if its state allows it.
    pub(crate) fn detach(&self, cx: &mut Cx<'_>, index: usize) {
        let conn = self.model.borrow().ends[index].conn;
        if cx.detach(conn).is_ok() {
            self.model.borrow_mut().detach_called(index);
        }
    }

    /// Adopts the connection that was detached first.
    pub(crate) fn adopt(&self, cx: &mut Cx<'_>) {
        let mut model = self.model.borrow_mut();
        if let Some((index, detached)) = model.parked.pop_front() {
            let (unsent, framing) = (detached.unsent.len(), framing(model.rules.frame_len_max));
            let conn = cx.adopt_detached(detached, framing, ());
            model.adopted(index, self.life, conn, unsent);
        }
    }

    pub(crate) fn half_close(&self, cx: &mut Cx<'_>, index: usize) {
        let conn = self.model.borrow().ends[index].conn;
        let is_gone = cx.half_close(conn).is_err();
        self.model.borrow_mut().half_close_called(index, is_gone);
    }

    pub(crate) fn set_paused(&self, cx: &mut Cx<'_>, index: usize, is_paused: bool) {
        let conn = self.model.borrow().ends[index].conn;
        let result = match is_paused {
            true => cx.pause(conn),
            false => cx.resume(conn),
        };
        let mut model = self.model.borrow_mut();
        model.pause_called(index, is_paused, result.is_err());
    }

    pub(crate) fn grant(&self, cx: &mut Cx<'_>, index: usize, frames: u64, in_frame: bool) {
        let conn = self.model.borrow().ends[index].conn;
        if cx.grant(conn, frames).is_ok() {
            self.model
                .borrow_mut()
                .grant_called(index, frames, in_frame);
        }
    }

    pub(crate) fn set_timer(&mut self, cx: &mut Cx<'_>, after: Duration) {
        let mut model = self.model.borrow_mut();
        let key = model.timers.len();
        let timer = cx.set_timer(after, key as u64);
        model.timer_set(self.life, cx.now(), after);
        self.timers.push((timer, key));
    }

    pub(crate) fn cancel_timer(&mut self, cx: &mut Cx<'_>) {
        if let Some((timer, key)) = self.timers.pop() {
            assert!(cx.cancel_timer(timer), "timer {key} is set");
            self.model.borrow_mut().timers[key].is_cancelled = true;
        }
    }

    /// Makes at most one random call, mostly for the connection of the callback.
    fn act(&mut self, cx: &mut Cx<'_>, own: usize, in_frame: bool) {
        if self.calls_left == 0 || !self.random.one_in(3) {
            return;
        }
        self.calls_left -= 1;
        let index = match self.random.one_in(4) {
            true => self.any_end(),
            false => own,
        };
        let is_own = index == own;
        match self.random.below(40) {
            0 => self.close(cx, index, false),
            1 => self.close(cx, index, true),
            2 => self.half_close(cx, index),
            3 | 4 => self.set_paused(cx, index, true),
            5..9 => self.set_paused(cx, index, false),
            9 => self.grant(cx, index, 2, in_frame && is_own),
            10 => self.grant(cx, index, u64::MAX, in_frame && is_own),
            11 => self.set_timer(cx, Duration::from_millis(5)),
            12 => self.cancel_timer(cx),
            13 => self.detach(cx, index),
            _ => {
                let len = self.random.of(&[0, 1, 10, 100, 1000]);
                self.send(cx, index, len);
            }
        }
    }

    /// Returns a random end of this process, whether it is open or closed.
    fn any_end(&mut self) -> usize {
        let model = self.model.borrow();
        let own = |(index, _): &(usize, &_)| model.ends[*index].life == self.life;
        let own: Vec<_> = model.ends.iter().enumerate().filter(own).collect();
        own[self.random.below(own.len())].0
    }
}

impl Handler for Node {
    type Session = ();

    fn on_open(&mut self, cx: &mut Cx<'_>, conn: ConnId, _: &mut (), origin: Origin) {
        let index = match origin {
            Origin::Accepted { .. } => {
                let peer = cx.peer_inet_addr(conn).expect("the connection is open");
                let mut model = self.model.borrow_mut();
                let index = model.add(self.life, conn, false);
                model.set_client(index, peer);
                if peer.ip() == Simulation::PEER_IP {
                    model.set_foreign(index);
                }
                index
            }
            Origin::Adopted => self.index(conn),
            _ => {
                let local = cx.local_inet_addr(conn).expect("the connection is open");
                let index = self.index(conn);
                self.model.borrow_mut().set_client(index, local);
                index
            }
        };
        self.model.borrow_mut().opened(index);
        self.act(cx, index, false);
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, conn: ConnId, _: &mut (), frame: &[u8]) {
        let index = self.index(conn);
        self.model.borrow_mut().frame(index, frame);
        self.act(cx, index, true);
        self.model.borrow_mut().frame_returned(index);
    }

    fn on_drained(&mut self, cx: &mut Cx<'_>, conn: ConnId, _: &mut ()) {
        let index = self.index(conn);
        self.model.borrow_mut().drained(index);
        self.act(cx, index, false);
    }

    fn on_half_close(&mut self, cx: &mut Cx<'_>, conn: ConnId, _: &mut ()) {
        let index = self.index(conn);
        self.model.borrow_mut().half_closed(index);
        match self.random.one_in(2) {
            true => self.close(cx, index, false),
            false => self.act(cx, index, false),
        }
    }

    fn on_hangup(&mut self, cx: &mut Cx<'_>, conn: ConnId, _: &mut (), _: Hangup) {
        let index = self.index(conn);
        self.model.borrow_mut().hung_up(index);
        self.act(cx, index, false);
    }

    fn on_close(&mut self, _: &mut Cx<'_>, conn: ConnId, _: (), closed: Closed) {
        let index = self.index(conn);
        let mut model = self.model.borrow_mut();
        model.closed(index, &closed);
        if let CloseReason::Detached(detached) = closed.reason {
            model.parked.push_back((index, detached));
        }
    }

    fn on_datagram(&mut self, _: &mut Cx<'_>, _: UdpId, datagram: Datagram<'_>) {
        let mut model = self.model.borrow_mut();
        model.datagram(datagram.data, datagram.truncated);
    }

    fn on_timer(&mut self, cx: &mut Cx<'_>, timer: TimerId, key: u64) {
        self.timers.retain(|(set, _)| *set != timer);
        let mut model = self.model.borrow_mut();
        model.timer(key, cx.now(), self.may_be_late);
    }
}
