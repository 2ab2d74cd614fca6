//! One run of an experiment: a sending and a receiving reactor on loopback, and the cut map of
//! their traffic.
//!
//! One thread turns both reactors. To simulate a busy receiver, the thread does not turn the
//! receiving reactor. Meanwhile the kernel queues the bytes that the sender writes.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use unstick::cutmap::{CutMap, Recording};
use unstick::{
    Config, ConnId, ConnectOptions, Context, Datagram, Handler, ListenOptions, Origin, Reactor,
    SocketId, UdpId,
};

use crate::knobs::Knobs;
use crate::outcome::Outcome;
use crate::tls;

/// Maximum time that a run may take beyond its planned duration. Then the run ends with the
/// messages that were received so far.
const GRACE: Duration = Duration::from_secs(3);
/// Time without any arrival after which missing datagrams count as lost.
const QUIET: Duration = Duration::from_millis(50);
/// Maximum wait of one turn of the receiver.
const NAP: Duration = Duration::from_millis(1);

/// Number of messages sent and received so far in a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) sent: usize,
    pub(crate) came: usize,
}

/// The handler of the sender or the receiver; keeps all received messages.
#[derive(Default)]
struct Endpoint {
    conn: Option<ConnId>,
    messages: Vec<Vec<u8>>,
    bytes: usize,
    closed: Option<String>,
}

impl Handler for Endpoint {
    type Session = ();

    fn on_open(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        self.conn = Some(conn);
    }

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), frame: &[u8]) {
        self.bytes += frame.len();
        self.messages.push(frame.to_vec());
    }

    fn on_datagram(&mut self, _: &mut Context<'_, Self>, _: UdpId, datagram: Datagram<'_>) {
        self.messages.push(datagram.data.to_vec());
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), closed: unstick::Closed) {
        self.closed = Some(closed.reason.to_string());
    }
}

/// Runs the settings over TCP and returns the result.
pub(crate) fn run_tcp(knobs: &Knobs, report: &mut dyn FnMut(Progress)) -> io::Result<Outcome> {
    let mut receiver = Reactor::with_config(Endpoint::default(), receiver_config(knobs))?;
    let (mut listening, mut connecting) = (ListenOptions::new(), ConnectOptions::new());
    if knobs.tls {
        let (server, client) = tls::configs()?;
        listening = listening.tls(server);
        connecting = connecting.tls(client, tls::server_name());
    }
    let listener =
        receiver.with(|_, cx| cx.listen_with("127.0.0.1:0", knobs.framing(), &listening))?;
    set_receive_buffer(&mut receiver, listener, knobs)?;
    let addr = receiver.local_inet_addr(listener)?;
    let mut sender = Reactor::with_config(Endpoint::default(), sender_config(knobs))?;
    sender.with(|_, cx| cx.connect_with(addr, knobs.framing(), (), &connecting));
    let (tx, rx) = open(&mut sender, &mut receiver)?;
    prepare(&mut sender, tx, &mut receiver, rx, knobs)?;

    let segments_before = segments(&mut sender, tx);
    let mut run = Run::new(knobs, report);
    let total = knobs.count * knobs.size;
    let is_raw = knobs.framing == "raw";
    run.drive(
        &mut sender,
        &mut receiver,
        |cx, payload| cx.send(tx, payload).map(drop).map_err(io::Error::from),
        |endpoint| {
            // Without framing, a received frame is not a message, so count the bytes.
            if is_raw {
                endpoint.bytes >= total
            } else {
                endpoint.messages.len() >= knobs.count
            }
        },
    )?;
    // Leave out the segments of the TLS handshake.
    let segments = segments(&mut sender, tx).zip(segments_before);
    let segments = segments.map(|(now, before)| now.saturating_sub(before));
    let (sent, received) = (take(&mut sender), take(&mut receiver));
    let map = CutMap::join((&sent, tx), (&received, rx));
    let messages = &receiver.handler().messages;
    let whole =
        (0..knobs.count).filter(|index| messages.get(*index) == Some(&message(knobs, *index)));
    Ok(Outcome::of_tcp(knobs, &map, segments, whole.count()))
}

/// Runs the settings over UDP and returns the result.
pub(crate) fn run_udp(knobs: &Knobs, report: &mut dyn FnMut(Progress)) -> io::Result<Outcome> {
    let mut receiver = Reactor::with_config(Endpoint::default(), receiver_config(knobs))?;
    let rx = receiver.bind_udp("127.0.0.1:0")?;
    set_receive_buffer(&mut receiver, rx, knobs)?;
    let addr: SocketAddr = receiver.local_inet_addr(rx)?;
    let mut sender = Reactor::with_config(Endpoint::default(), sender_config(knobs))?;
    let tx = sender.bind_udp("127.0.0.1:0")?;
    sender.with(|_, cx| cx.record_all());
    receiver.with(|_, cx| cx.record_all());

    let mut run = Run::new(knobs, report);
    run.drive(
        &mut sender,
        &mut receiver,
        |cx, payload| cx.send_to(tx, addr, payload).map_err(io::Error::from),
        |endpoint| endpoint.messages.len() >= knobs.count,
    )?;
    let (sent, _) = take(&mut sender).datagrams(tx);
    let (_, received) = take(&mut receiver).datagrams(rx);
    let messages = receiver.handler().messages.iter();
    let numbers = messages
        .enumerate()
        .map(|(index, data)| number_of(data).unwrap_or(index as u64));
    let received: Vec<_> = numbers.zip(received).collect();
    Ok(Outcome::of_udp(knobs, &sent, &received))
}

/// Returns true if a message fits into one UDP datagram over IPv4.
pub(crate) fn fits_udp(knobs: &Knobs) -> bool {
    knobs.size <= 65_507
}

/// State of a run. Its method `drive` sends all messages, and receives them meanwhile or
/// afterwards.
struct Run<'a> {
    knobs: &'a Knobs,
    report: &'a mut dyn FnMut(Progress),
    sent: usize,
    started: Instant,
}

impl<'a> Run<'a> {
    fn new(knobs: &'a Knobs, report: &'a mut dyn FnMut(Progress)) -> Self {
        Self {
            knobs,
            report,
            sent: 0,
            started: Instant::now(),
        }
    }

    fn drive(
        &mut self,
        sender: &mut Reactor<Endpoint>,
        receiver: &mut Reactor<Endpoint>,
        mut send: impl FnMut(&mut Context<'_, Endpoint>, &[u8]) -> io::Result<()>,
        is_complete: impl Fn(&Endpoint) -> bool,
    ) -> io::Result<()> {
        let knobs = self.knobs;
        let deadline = self.started + knobs.planned() + GRACE;
        let busy_until = self.started + Duration::from_millis(knobs.delay as u64);
        let mut last_arrival = Instant::now();
        let mut last_report = Instant::now();
        loop {
            self.send_due(sender, &mut send)?;
            sender.turn(Some(Duration::ZERO))?;
            let now = Instant::now();
            let all_sent = self.sent == knobs.count;
            let is_busy = knobs.delay > 0 && (!all_sent || now < busy_until);
            if is_busy {
                // While the receiver is busy, only the sender runs.
                let next = if all_sent {
                    busy_until
                } else {
                    self.next_send()
                };
                sender.turn(Some(next.saturating_duration_since(now)))?;
                last_arrival = Instant::now();
            } else {
                let count_before = receiver.handler().messages.len();
                let wait = self.next_send().saturating_duration_since(now).min(NAP);
                receiver.turn(Some(wait))?;
                if receiver.handler().messages.len() > count_before {
                    last_arrival = Instant::now();
                }
                let is_quiet =
                    all_sent && receiver.handler().conn.is_none() && last_arrival.elapsed() > QUIET;
                if is_complete(receiver.handler()) || is_quiet {
                    break;
                }
            }
            let lost = sender
                .handler()
                .closed
                .as_ref()
                .or_else(|| receiver.handler().closed.as_ref());
            if let Some(reason) = lost {
                return Err(io::Error::other(format!("the connection closed: {reason}")));
            }
            if last_report.elapsed() > Duration::from_millis(20) {
                last_report = Instant::now();
                self.progress(receiver);
            }
            if now > deadline {
                break;
            }
        }
        self.progress(receiver);
        Ok(())
    }

    fn progress(&mut self, receiver: &Reactor<Endpoint>) {
        (self.report)(Progress {
            sent: self.sent,
            came: receiver.handler().messages.len(),
        });
    }

    /// Sends the messages that are due: all of them with `gather`, otherwise at most one per turn,
    /// so that each message is written alone.
    fn send_due(
        &mut self,
        sender: &mut Reactor<Endpoint>,
        send: &mut impl FnMut(&mut Context<'_, Endpoint>, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let count = if self.knobs.gather {
            self.knobs.count - self.sent
        } else {
            let is_due = self.sent < self.knobs.count && Instant::now() >= self.next_send();
            usize::from(is_due)
        };
        for _ in 0..count {
            let payload = message(self.knobs, self.sent);
            sender.with(|_, cx| send(cx, &payload))?;
            self.sent += 1;
        }
        Ok(())
    }

    /// Returns the time of the next send, or the deadline of the run if all messages are sent.
    fn next_send(&self) -> Instant {
        if self.sent == self.knobs.count {
            return self.started + self.knobs.planned() + GRACE;
        }
        self.started + Duration::from_millis((self.sent * self.knobs.gap) as u64)
    }
}

/// Returns a message: its number in four digits, filled up with one letter. Two consecutive
/// messages have different letters. A message of less than four bytes has no number.
fn message(knobs: &Knobs, index: usize) -> Vec<u8> {
    let letter = b'a' + u8::try_from(index % 26).expect("the index is below 26");
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
    receiver: &mut Reactor<Endpoint>,
    socket: impl Into<SocketId>,
    knobs: &Knobs,
) -> io::Result<()> {
    if knobs.receive_buffer == 0 {
        return Ok(());
    }
    // Accepted connections inherit this option from the listener.
    receiver.with(|_, cx| {
        cx.socket_options(socket)?
            .set_recv_buffer_size(knobs.receive_buffer)
    })
}

/// Turns both reactors until the connection is open at both ends.
fn open(
    sender: &mut Reactor<Endpoint>,
    receiver: &mut Reactor<Endpoint>,
) -> io::Result<(ConnId, ConnId)> {
    let deadline = Instant::now() + GRACE;
    loop {
        sender.turn(Some(Duration::ZERO))?;
        receiver.turn(Some(NAP))?;
        if let (Some(tx), Some(rx)) = (sender.handler().conn, receiver.handler().conn) {
            return Ok((tx, rx));
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

fn prepare(
    sender: &mut Reactor<Endpoint>,
    tx: ConnId,
    receiver: &mut Reactor<Endpoint>,
    rx: ConnId,
    knobs: &Knobs,
) -> io::Result<()> {
    if knobs.send_buffer > 0 {
        sender.with(|_, cx| {
            cx.socket_options(tx)?
                .set_send_buffer_size(knobs.send_buffer)
        })?;
    }
    // Linux acknowledges the first segments of a connection at once, and later segments with a
    // delay. Nagle's algorithm waits for that acknowledgement. Turning quick acknowledgements off
    // makes this new connection use the delay from the start.
    #[cfg(target_os = "linux")]
    receiver.with(|_, cx| cx.socket_options(rx)?.set_tcp_quickack(false))?;
    sender.with(|_, cx| cx.record_all());
    receiver.with(|_, cx| cx.record(rx))?;
    Ok(())
}

/// Returns the number of data segments sent so far, if the kernel reports it. Retransmitted
/// segments are not caused by the program, so they are not counted.
fn segments(sender: &mut Reactor<Endpoint>, tx: ConnId) -> Option<u32> {
    let counted = sender.with(|_, cx| cx.segments(tx)).ok()?;
    Some(counted.sent.saturating_sub(counted.retransmitted))
}

fn take(reactor: &mut Reactor<Endpoint>) -> Recording {
    reactor.with(|_, cx| cx.take_recording())
}
