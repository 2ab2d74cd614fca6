//! The sender: a client that continues after a cut of its connection.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use unstick::{
    Backoff, CloseReason, Closed, Config, ConnId, Context, Handler, Origin, Reactor, Reconnect,
    Sent, TimerId,
};

use super::cli::{self, Failure};
use super::folder;
use super::message::{self, Message, Offer};

/// Number of attempts to connect, one after the other, after which the sender gives up.
const ATTEMPTS_MAX: u32 = 10;

struct Outgoing {
    path: PathBuf,
    offer: Offer,
}

impl Outgoing {
    /// Reads the whole file for its digest.
    fn new(path: &str) -> Result<Self, Failure> {
        let name = Path::new(path).file_name().and_then(|name| name.to_str());
        let name = message::valid_name(name.unwrap_or("").as_bytes())
            .map_err(|error| Failure::Usage(format!("cannot send {path}: {error}")))?;
        let read = folder::digest(Path::new(path));
        let (len, digest) = read.map_err(|error| cli::at("read", path, &error))?;
        Ok(Self {
            path: PathBuf::from(path),
            offer: Offer {
                name: name.to_owned(),
                len,
                digest,
            },
        })
    }
}

struct Sender {
    server: Reconnect<String>,
    /// The files that are not stored yet; the first one is being sent.
    files: VecDeque<Outgoing>,
    /// The open file and the offset of its next read. `None` before the receiver has sent where to
    /// continue, and after the last read.
    current: Option<(File, u64)>,
    bar: ProgressBar,
    /// Number of attempts since the last message of the receiver.
    attempts: u32,
    failure: Option<String>,
}

impl Sender {
    fn fail(&mut self, cx: &mut Context<'_, Self>, failure: impl ToString) {
        self.failure.get_or_insert_with(|| failure.to_string());
        cx.stop();
    }

    /// Offers the first file, or ends if there is none.
    fn offer(&mut self, cx: &mut Context<'_, Self>, conn: ConnId) {
        let Some(file) = self.files.front() else {
            return cx.close(conn);
        };
        self.bar.reset();
        self.bar.set_length(file.offer.len);
        self.bar.set_message(file.offer.name.clone());
        if let Err(error) = message::send_offer(cx, conn, &file.offer) {
            self.fail(cx, error);
        }
    }

    fn resume(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, offset: u64) {
        let Some(file) = self.files.front().filter(|it| offset <= it.offer.len) else {
            return self.fail(cx, "the receiver resumes behind the end of the file");
        };
        let opened = File::open(&file.path).and_then(|mut opened| {
            opened.seek(SeekFrom::Start(offset))?;
            Ok(opened)
        });
        match opened {
            Ok(opened) => self.current = Some((opened, offset)),
            Err(error) => return self.fail(cx, error),
        }
        if offset > 0 {
            let line = format!("resuming {} at {offset}", file.offer.name);
            self.bar.suspend(|| eprintln!("transfer: {line}"));
        }
        self.pump(cx, conn);
    }

    /// Sends until the write queue is long enough. `on_drained` sends the rest.
    fn pump(&mut self, cx: &mut Context<'_, Self>, conn: ConnId) {
        let mut buffer = vec![0; message::BODY_LEN_MAX];
        while let Some((file, offset)) = &mut self.current {
            let sent = match file.read(&mut buffer) {
                Ok(0) => {
                    self.current = None;
                    break;
                }
                Ok(count) => {
                    *offset += count as u64;
                    message::send_data(cx, conn, &buffer[..count])
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.fail(cx, error),
            };
            match sent {
                Ok(Sent::Queued) => {}
                Ok(_) => break,
                Err(_) => return, // `on_close` follows
            }
        }
        if let Some((_, offset)) = self.current {
            let queued = cx.queued_bytes(conn).unwrap_or(0);
            self.bar.set_position(offset.saturating_sub(queued as u64));
        }
    }
}

impl Handler for Sender {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        self.offer(cx, conn);
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        self.attempts = 0;
        match message::parse(frame) {
            Ok(Message::Resume(offset)) => self.resume(cx, conn, offset),
            Ok(Message::Stored) => {
                if let Some(Outgoing { offer, .. }) = self.files.pop_front() {
                    self.bar.set_position(offer.len);
                    let line = format!("stored {}: {} bytes", offer.name, offer.len);
                    if let Err(error) = self.bar.suspend(|| writeln!(io::stdout(), "{line}")) {
                        return self.fail(cx, error);
                    }
                }
                self.current = None;
                self.offer(cx, conn);
            }
            Ok(Message::Refused(reason)) => {
                let name = self.files.front().map_or("", |it| it.offer.name.as_str());
                self.fail(cx, format!("{name} was refused: {reason}"));
            }
            Ok(_) => self.fail(cx, "the receiver sent a message of a sender"),
            Err(error) => self.fail(cx, error),
        }
    }

    fn on_drained(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut ()) {
        self.pump(cx, conn);
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: (), closed: Closed) {
        self.current = None;
        self.attempts += 1;
        if self.files.is_empty() || self.failure.is_some() || cx.is_shutting_down() {
            return cx.stop();
        }
        let reason = match closed.reason {
            CloseReason::ConnectFailed(ref error) => format!("cannot connect: {error}"),
            ref reason => reason.to_string(),
        };
        match self.server.on_close(cx, conn, &closed) {
            Some(delay) if self.attempts < ATTEMPTS_MAX => {
                let millis = delay.as_millis();
                let line = format!("transfer: {reason}; connecting again in {millis} ms");
                self.bar.suspend(|| eprintln!("{line}"));
            }
            _ => self.fail(cx, reason),
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, _: u64) {
        self.server.on_timer(cx, timer, ());
    }
}

/// Sends files, one after the other.
pub(crate) fn run(addr: &str, paths: &[String]) -> Result<(), Failure> {
    let files = paths.iter().map(|path| Outgoing::new(path));
    let files = files.collect::<Result<VecDeque<_>, _>>()?;
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let style = "{msg} [{bar:40}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(style);
    let style = style.map_err(|error| Failure::Runtime(error.to_string()))?;
    let sender = Sender {
        server: Reconnect::new(addr.to_owned(), message::framing(), backoff),
        files,
        current: None,
        // Draws to standard error, and only if that is a terminal.
        bar: ProgressBar::new(0).with_style(style.progress_chars("=> ")),
        attempts: 0,
        failure: None,
    };
    let config = Config::new().write_stall_timeout(Duration::from_secs(60));
    let mut reactor = Reactor::with_config(sender, config)?;
    reactor.shutdown_on_signals(Duration::from_secs(1))?;
    reactor.with(|sender, cx| sender.server.open(cx, ()));
    reactor.run()?;
    let sender = reactor.into_handler();
    sender.bar.finish_and_clear();
    match sender.failure {
        Some(failure) => Err(Failure::Runtime(format!("{addr}: {failure}"))),
        None if sender.files.is_empty() => Ok(()),
        None => Err(Failure::Runtime(
            "interrupted; start again to resume".to_owned(),
        )),
    }
}
