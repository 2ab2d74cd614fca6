//! A run: two reactors on loopback, one that sends and one that receives, and the cut map of what
//! went between them.
//!
//! Both are turned by hand from one thread. So a receiver that is busy is one that is not turned,
//! and what the kernel does meanwhile is certain: what was written lies in its queue.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use unstick::cutmap::{CutMap, Recording};
use unstick::{Config, ConnId, Context, Datagram, Handler, Origin, Reactor, SocketId, UdpId};

use crate::knobs::Knobs;
use crate::outcome::Outcome;

/// How much longer than planned a run may take before it is told as it stands.
const GRACE: Duration = Duration::from_secs(3);
/// How long nothing must come before the rest counts as lost, on UDP.
const QUIET: Duration = Duration::from_millis(50);
/// How long the receiver is waited for at a time.
const NAP: Duration = Duration::from_millis(1);

/// How far a run is, told while it goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) sent: usize,
    pub(crate) came: usize,
}

/// Either end: it keeps what came.
#[derive(Default)]
struct End {
    conn: Option<ConnId>,
    came: Vec<Vec<u8>>,
    bytes: usize,
    closed: Option<String>,
}

impl Handler for End {
    type Session = ();

    fn on_open(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        self.conn = Some(conn);
    }

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), frame: &[u8]) {
        self.bytes += frame.len();
        self.came.push(frame.to_vec());
    }

    fn on_datagram(&mut self, _: &mut Context<'_, Self>, _: UdpId, datagram: Datagram<'_>) {
        self.came.push(datagram.data.to_vec());
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), closed: unstick::Closed) {
        self.closed = Some(closed.reason.to_string());
    }
}

/// Runs the messages over TCP.
pub(crate) fn run_tcp(knobs: &Knobs, tell: &mut dyn FnMut(Progress)) -> io::Result<Outcome> {
    let mut far = Reactor::with_config(End::default(), receiver_config(knobs))?;
    let listener = far.listen("127.0.0.1:0", knobs.framing())?;
    set_receive_buffer(&mut far, listener, knobs)?;
    let addr = far.local_inet_addr(listener)?;
    let mut near = Reactor::with_config(End::default(), sender_config(knobs))?;
    near.connect(addr, knobs.framing(), ());
    let (tx, rx) = open(&mut near, &mut far)?;
    prepare(&mut near, tx, &mut far, rx, knobs)?;

    let mut run = Run::new(knobs, tell);
    let total = knobs.count * knobs.size;
    let is_raw = knobs.framing == "raw";
    run.go(
        &mut near,
        &mut far,
        |cx, payload| cx.send(tx, payload).map(drop).map_err(io::Error::from),
        |end| {
            // Unframed, only the bytes can be counted.
            if is_raw {
                end.bytes >= total
            } else {
                end.came.len() >= knobs.count
            }
        },
    )?;
    let segments = near.with(|_, cx| cx.segments(tx)).ok();
    let (sent, received) = (take(&mut near), take(&mut far));
    let map = CutMap::join((&sent, tx), (&received, rx));
    let came = &far.handler().came;
    let whole = (0..knobs.count).filter(|index| came.get(*index) == Some(&message(knobs, *index)));
    Ok(Outcome::of_tcp(knobs, &map, segments, whole.count()))
}

/// Runs the same messages over UDP.
pub(crate) fn run_udp(knobs: &Knobs, tell: &mut dyn FnMut(Progress)) -> io::Result<Outcome> {
    let mut far = Reactor::with_config(End::default(), receiver_config(knobs))?;
    let rx = far.bind_udp("127.0.0.1:0")?;
    set_receive_buffer(&mut far, rx, knobs)?;
    let addr: SocketAddr = far.local_inet_addr(rx)?;
    let mut near = Reactor::with_config(End::default(), sender_config(knobs))?;
    let tx = near.bind_udp("127.0.0.1:0")?;
    near.with(|_, cx| cx.record_all());
    far.with(|_, cx| cx.record_all());

    let mut run = Run::new(knobs, tell);
    run.go(
        &mut near,
        &mut far,
        |cx, payload| cx.send_to(tx, addr, payload).map_err(io::Error::from),
        |end| end.came.len() >= knobs.count,
    )?;
    let (sent, _) = take(&mut near).datagrams(tx);
    let (_, received) = take(&mut far).datagrams(rx);
    let came = far.handler().came.iter();
    let numbers = came
        .enumerate()
        .map(|(index, data)| number_of(data).unwrap_or(index as u64));
    let received: Vec<_> = numbers.zip(received).collect();
    Ok(Outcome::of_udp(knobs, &sent, &received))
}

/// The largest message that UDP carries over IPv4.
pub(crate) fn fits_udp(knobs: &Knobs) -> bool {
    knobs.size <= 65_507
}

/// The sending, and the receiving beside it or after it.
struct Run<'a> {
    knobs: &'a Knobs,
    tell: &'a mut dyn FnMut(Progress),
    sent: usize,
    began: Instant,
}

impl<'a> Run<'a> {
    fn new(knobs: &'a Knobs, tell: &'a mut dyn FnMut(Progress)) -> Self {
        Self {
            knobs,
            tell,
            sent: 0,
            began: Instant::now(),
        }
    }

    fn go(
        &mut self,
        near: &mut Reactor<End>,
        far: &mut Reactor<End>,
        mut send: impl FnMut(&mut Context<'_, End>, &[u8]) -> io::Result<()>,
        is_all: impl Fn(&End) -> bool,
    ) -> io::Result<()> {
        let knobs = self.knobs;
        let deadline = self.began + knobs.planned() + GRACE;
        let busy_until = self.began + Duration::from_millis(knobs.delay as u64);
        let mut last_came = Instant::now();
        let mut told = Instant::now();
        loop {
            self.send_due(near, &mut send)?;
            near.turn(Some(Duration::ZERO))?;
            let now = Instant::now();
            let all_sent = self.sent == knobs.count;
            let is_busy = knobs.delay > 0 && (!all_sent || now < busy_until);
            if is_busy {
                // Nothing but the sender's timetable goes on.
                let next = if all_sent {
                    busy_until
                } else {
                    self.next_send()
                };
                near.turn(Some(next.saturating_duration_since(now)))?;
                last_came = Instant::now();
            } else {
                let came = far.handler().came.len();
                let wait = self.next_send().saturating_duration_since(now).min(NAP);
                far.turn(Some(wait))?;
                if far.handler().came.len() > came {
                    last_came = Instant::now();
                }
                let is_quiet =
                    all_sent && far.handler().conn.is_none() && last_came.elapsed() > QUIET;
                if is_all(far.handler()) || is_quiet {
                    break;
                }
            }
            let lost = near
                .handler()
                .closed
                .as_ref()
                .or_else(|| far.handler().closed.as_ref());
            if let Some(reason) = lost {
                return Err(io::Error::other(format!("the connection ended: {reason}")));
            }
            if told.elapsed() > Duration::from_millis(20) {
                told = Instant::now();
                self.progress(far);
            }
            if now > deadline {
                break;
            }
        }
        self.progress(far);
        Ok(())
    }

    fn progress(&mut self, far: &Reactor<End>) {
        (self.tell)(Progress {
            sent: self.sent,
            came: far.handler().came.len(),
        });
    }

    /// Sends what is due: one message a turn, so that each is written for itself; or all at once.
    fn send_due(
        &mut self,
        near: &mut Reactor<End>,
        send: &mut impl FnMut(&mut Context<'_, End>, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let count = if self.knobs.gather {
            self.knobs.count - self.sent
        } else {
            let is_due = self.sent < self.knobs.count && Instant::now() >= self.next_send();
            usize::from(is_due)
        };
        for _ in 0..count {
            let payload = message(self.knobs, self.sent);
            near.with(|_, cx| send(cx, &payload))?;
            self.sent += 1;
        }
        Ok(())
    }

    /// When the next message is to be sent; far away where there is none.
    fn next_send(&self) -> Instant {
        if self.sent == self.knobs.count {
            return self.began + self.knobs.planned() + GRACE;
        }
        self.began + Duration::from_millis((self.sent * self.knobs.gap) as u64)
    }
}

/// A message: its number, and letters that are the same in no two neighbours.
fn message(knobs: &Knobs, index: usize) -> Vec<u8> {
    let letter = b'a' + u8::try_from(index % 26).expect("there are 26");
    let mut message = format!("{index:04}").into_bytes();
    if knobs.size < message.len() {
        message = vec![letter];
    }
    message.resize(knobs.size, letter);
    message
}

fn number_of(message: &[u8]) -> Option<u64> {
    std::str::from_utf8(message.get(..4)?).ok()?.parse().ok()
}

fn sender_config(knobs: &Knobs) -> Config {
    let mut config = Config::default();
    config.nodelay = !knobs.nagle;
    config.datagram_queue_bytes_max = 8 << 20;
    config.recording_events_max = 1 << 18;
    config
}

fn receiver_config(knobs: &Knobs) -> Config {
    let mut config = Config::default();
    config.read_len_max = knobs.read;
    config.read_budget_bytes = config.read_budget_bytes.max(knobs.read);
    config.datagram_len_max = knobs.slot;
    config.recording_events_max = 1 << 18;
    config
}

fn set_receive_buffer(
    far: &mut Reactor<End>,
    socket: impl Into<SocketId>,
    knobs: &Knobs,
) -> io::Result<()> {
    if knobs.receive_buffer == 0 {
        return Ok(());
    }
    // A listener's connections inherit it.
    far.with(|_, cx| {
        cx.socket_options(socket)?
            .set_recv_buffer_size(knobs.receive_buffer)
    })
}

/// Turns both until the connection stands at both ends.
fn open(near: &mut Reactor<End>, far: &mut Reactor<End>) -> io::Result<(ConnId, ConnId)> {
    let deadline = Instant::now() + GRACE;
    loop {
        near.turn(Some(Duration::ZERO))?;
        far.turn(Some(NAP))?;
        if let (Some(tx), Some(rx)) = (near.handler().conn, far.handler().conn) {
            return Ok((tx, rx));
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

fn prepare(
    near: &mut Reactor<End>,
    tx: ConnId,
    far: &mut Reactor<End>,
    rx: ConnId,
    knobs: &Knobs,
) -> io::Result<()> {
    if knobs.send_buffer > 0 {
        near.with(|_, cx| {
            cx.socket_options(tx)?
                .set_send_buffer_size(knobs.send_buffer)
        })?;
    }
    // A young connection acknowledges at once, an older one with a delay, which is what Nagle's
    // algorithm waits for: be an older one.
    #[cfg(target_os = "linux")]
    far.with(|_, cx| cx.socket_options(rx)?.set_tcp_quickack(false))?;
    near.with(|_, cx| cx.record_all());
    far.with(|_, cx| cx.record(rx))?;
    Ok(())
}

fn take(reactor: &mut Reactor<End>) -> Recording {
    reactor.with(|_, cx| cx.take_recording())
}
