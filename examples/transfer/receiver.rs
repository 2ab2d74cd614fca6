//! The receiver: a server that stores the files of many senders.
//!
//! The loop appends received bytes to files. This only copies the bytes to the cache of the system.
//! A separate thread does the slow work: it computes digests, and waits for the disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use unstick::{Closed, Config, ConnId, Context, Handler, Keepalive, Origin, Reactor, Remote};

use super::cli::{self, Failure};
use super::folder::{Folder, Opened};
use super::message::{self, Message, Offer};

/// Maximum number of senders at the same time.
const SENDERS_MAX: usize = 100;

/// Work for the thread, in order.
enum Job {
    Open(ConnId, Offer),
    Finish(ConnId, Offer),
}

/// A file whose bytes arrive.
struct Incoming {
    offer: Offer,
    file: File,
    /// Length of the partial file; at most `offer.len`.
    len: u64,
}

/// State of one connection.
#[derive(Default)]
enum Session {
    /// Waits for an offer.
    #[default]
    Idle,
    /// The thread works. The sender waits for its result.
    Working,
    Receiving(Box<Incoming>),
}

struct Receiver {
    jobs: mpsc::Sender<Job>,
    len_max: u64,
    /// The connection that sends each file, by name and digest.
    sources: HashMap<(String, [u8; 32]), ConnId>,
}

impl Receiver {
    /// Handles an offer. A sender that lost its connection may come back before the reactor notices
    /// the loss. So a new connection replaces the old one of the same file.
    fn offered(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        offer: Offer,
    ) -> Result<Session, String> {
        if offer.len > self.len_max {
            let max = self.len_max;
            return Err(format!("{} bytes exceed the limit of {max}", offer.len));
        }
        let key = (offer.name.clone(), offer.digest);
        if let Some(old) = self.sources.insert(key, conn).filter(|old| *old != conn) {
            log::info!("{conn} continues {} of {old}", offer.name);
            cx.abort(old);
        }
        self.work(Job::Open(conn, offer))
    }

    fn work(&self, job: Job) -> Result<Session, String> {
        let sent = self.jobs.send(job);
        sent.map_err(|_| "the receiver ends".to_owned())?;
        Ok(Session::Working)
    }

    /// Appends bytes to a file. The last byte starts the check of the digest.
    fn received(
        &self,
        conn: ConnId,
        mut incoming: Box<Incoming>,
        bytes: &[u8],
    ) -> Result<Session, String> {
        let len = incoming.len + bytes.len() as u64;
        if len > incoming.offer.len {
            return Err("more bytes than were offered".to_owned());
        }
        let written = incoming.file.write_all(bytes);
        written.map_err(|error| error.to_string())?;
        incoming.len = len;
        match len == incoming.offer.len {
            true => self.work(Job::Finish(conn, incoming.offer)),
            false => Ok(Session::Receiving(incoming)),
        }
    }

    /// Continues with a partial file that the thread has opened.
    fn opened(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        offer: Offer,
        opened: Opened,
    ) -> Result<Session, String> {
        match opened {
            Opened::Stored => {
                log::info!("{conn}: {} is complete", offer.name);
                self.sources.remove(&(offer.name, offer.digest));
                let _ = message::send_stored(cx, conn);
                Ok(Session::Idle)
            }
            Opened::Partial(_, len) if len == offer.len => self.work(Job::Finish(conn, offer)),
            Opened::Partial(file, len) => {
                let _ = message::send_resume(cx, conn, len);
                Ok(Session::Receiving(Box::new(Incoming { offer, file, len })))
            }
        }
    }
}

/// Returns the next state of a connection. After a failure, sends the reason and closes the
/// connection.
fn next(cx: &mut Context<'_, Receiver>, conn: ConnId, next: Result<Session, String>) -> Session {
    next.unwrap_or_else(|reason| {
        log::warn!("{conn}: {reason}");
        let _ = message::send_refused(cx, conn, &reason);
        cx.close(conn);
        Session::Idle
    })
}

impl Handler for Receiver {
    type Session = Session;

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut Session, _: Origin) {
        // The connection of a sender that vanished ends after some minutes.
        let keepalive = Keepalive::new().idle(Duration::from_secs(60));
        let socket = cx.socket(conn);
        if let Err(error) = socket.and_then(|it| it.set_keepalive(Some(keepalive))) {
            log::debug!("{conn}: no keep-alive: {error}");
        }
    }

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Session,
        frame: &[u8],
    ) {
        let result = match (std::mem::take(session), message::parse(frame)) {
            (Session::Idle, Ok(Message::Offer(offer))) => self.offered(cx, conn, offer),
            (Session::Receiving(it), Ok(Message::Data(bytes))) => self.received(conn, it, bytes),
            (_, Ok(_)) => Err("this message is not expected now".to_owned()),
            (_, Err(error)) => Err(error.to_owned()),
        };
        *session = next(cx, conn, result);
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: Session, closed: Closed) {
        log::info!("{conn} ended: {}", closed.reason);
        self.sources.retain(|_, source| *source != conn);
    }
}

/// Does the work that would block the loop, and posts each result to it.
fn work(folder: &Folder, jobs: mpsc::Receiver<Job>, remote: &Remote<Receiver>) {
    for job in jobs {
        let (conn, opened, offer) = match job {
            Job::Open(conn, offer) => (conn, folder.open(&offer), offer),
            Job::Finish(conn, offer) => {
                let stored = folder.finish(&offer);
                (conn, stored.map(|()| Opened::Stored), offer)
            }
        };
        let task = move |receiver: &mut Receiver, cx: &mut Context<'_, Receiver>| {
            cx.with_session(conn, |cx, session| {
                let result = opened.and_then(|it| receiver.opened(cx, conn, offer, it));
                *session = next(cx, conn, result);
            });
        };
        // The queue is never full: each connection has at most one job.
        if remote.post(task).is_err() {
            break;
        }
    }
}

/// Receives files until a signal ends the program.
pub(crate) fn run(addr: &str, path: &str, len_max: u64) -> Result<(), Failure> {
    let folder = Folder::new(path).map_err(|error| cli::at("store files in", path, &error))?;
    let (jobs, queue) = mpsc::channel();
    let config = Config::new()
        .connections_max(SENDERS_MAX)
        .frame_deadline(Duration::from_secs(60))
        .write_stall_timeout(Duration::from_secs(60));
    let receiver = Receiver {
        jobs,
        len_max,
        sources: HashMap::new(),
    };
    let mut reactor = Reactor::with_config(receiver, config)?;
    reactor.shutdown_on_signals(Duration::from_secs(1))?;
    cli::listen(&mut reactor, addr, message::framing())?;
    let remote = reactor.remote();
    let worker = thread::spawn(move || work(&folder, queue, &remote));
    let ended = reactor.run();
    drop(reactor); // ends the queue of the jobs
    let _ = worker.join();
    Ok(ended?)
}
