//! An echo server with a reactor on every core, each in a pinned thread.
//!
//! ```text
//! cargo run --release --manifest-path examples/production/Cargo.toml --bin multicore -- \
//!     --share reuseport --listen 127.0.0.1:7000 --threads 2
//! ```
//!
//! There are two ways to share the connections:
//!
//! * `--share reuseport`: every reactor listens at the port. The kernel chooses a reactor for each
//!   connection by a hash of its addresses. Nothing is shared, but the reactors may get different
//!   numbers of connections.
//! * `--share handout`: one more reactor accepts, and hands each socket to the reactor with the
//!   fewest connections. The numbers stay equal, and each connection costs one post.
//!
//! On SIGINT or SIGTERM, the server prints the connections and frames of each reactor.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use unstick::{
    Addr, CloseReason, Closed, ConnId, Context, Detached, Framing, Handler, ListenOptions, Origin,
    Reactor, Remote, ShutdownPhase, Stats,
};

const CLOSE_TIME: Duration = Duration::from_secs(2);

fn framing() -> Framing {
    Framing::length_u32()
}

/// State that all reactors read. A program keeps its configuration here.
struct Shared {
    greeting: &'static [u8],
}

/// A reactor that serves connections.
struct Worker {
    shared: Arc<Shared>,
    /// Number of connections, which the acceptor reads.
    load: Arc<AtomicUsize>,
}

impl Handler for Worker {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), origin: Origin) {
        // An adopted connection was already counted by the acceptor.
        if matches!(origin, Origin::Accepted { .. }) {
            self.load.fetch_add(1, Ordering::Relaxed);
        }
        if !self.shared.greeting.is_empty() {
            let _ = cx.send(conn, self.shared.greeting);
        }
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        let _ = cx.send(conn, frame);
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), _: Closed) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A worker, as the main thread and the acceptor see it.
struct Member {
    remote: Remote<Worker>,
    load: Arc<AtomicUsize>,
    thread: thread::JoinHandle<io::Result<Stats>>,
}

/// The reactor of the main thread. It ends the workers, and may accept for them.
struct Front {
    members: Vec<(Remote<Worker>, Arc<AtomicUsize>)>,
}

impl Front {
    /// Hands a socket to the worker with the fewest connections. If the queue of posts of this
    /// worker is full, the socket is dropped, which closes it.
    fn hand_out(&self, detached: Detached) {
        let least = self
            .members
            .iter()
            .min_by_key(|(_, load)| load.load(Ordering::Relaxed));
        let Some((remote, load)) = least else {
            return;
        };
        load.fetch_add(1, Ordering::Relaxed);
        let posted = remote.post(move |_, cx| {
            cx.adopt_detached(detached, framing(), ());
        });
        if posted.is_err() {
            load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Handler for Front {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        let _ = cx.detach(conn);
    }

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: (), closed: Closed) {
        if let CloseReason::Detached(detached) = closed.reason {
            self.hand_out(detached);
        }
    }

    fn on_shutdown(&mut self, _: &mut Context<'_, Self>, phase: ShutdownPhase) {
        if phase == ShutdownPhase::Close {
            for (remote, _) in &self.members {
                let _ = remote.shutdown(CLOSE_TIME);
            }
        }
    }
}

/// Starts a worker on a core. The worker listens at `addr`, or does not listen if `addr` is `None`.
fn start(
    shared: Arc<Shared>,
    core: core_affinity::CoreId,
    addr: Option<&Addr>,
) -> io::Result<(Member, Option<Addr>)> {
    let load = Arc::new(AtomicUsize::new(0));
    let worker = Worker {
        shared,
        load: load.clone(),
    };
    let mut reactor = Reactor::new(worker)?;
    let bound = match addr {
        Some(addr) => {
            let options = ListenOptions::new().reuse_port(true);
            let listener =
                reactor.with(|_, cx| cx.listen_with(addr.clone(), framing(), &options))?;
            Some(reactor.local_addr(listener)?)
        }
        None => None,
    };
    let remote = reactor.remote();
    let thread = thread::spawn(move || {
        if !core_affinity::set_for_current(core) {
            log::warn!("the thread of core {} cannot be pinned", core.id);
        }
        reactor.run()?;
        Ok(reactor.stats())
    });
    let member = Member {
        remote,
        load,
        thread,
    };
    Ok((member, bound))
}

struct Arguments {
    addr: Addr,
    threads: usize,
    is_handout: bool,
}

impl Arguments {
    fn parse() -> Result<Self, Box<dyn Error>> {
        use lexopt::prelude::*;
        let mut arguments = Self {
            addr: "127.0.0.1:7000".parse()?,
            threads: 0,
            is_handout: false,
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("listen") => arguments.addr = parser.value()?.parse()?,
                Long("threads") => arguments.threads = parser.value()?.parse()?,
                Long("share") => {
                    arguments.is_handout = match parser.value()?.string()?.as_str() {
                        "handout" => true,
                        "reuseport" => false,
                        other => return Err(format!("--share {other}: unknown").into()),
                    }
                }
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(arguments)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    env_logger::init();
    let arguments = Arguments::parse()?;
    let mut cores = core_affinity::get_core_ids().ok_or("the system names no cores")?;
    if arguments.threads > 0 {
        // If there are more threads than cores, several threads run on one core.
        cores = cores.into_iter().cycle().take(arguments.threads).collect();
    }
    let shared = Arc::new(Shared { greeting: b"" });
    let mut front = Reactor::new(Front {
        members: Vec::new(),
    })?;
    let mut addr = arguments.addr;
    let mut members = Vec::new();
    for core in cores {
        let own = (!arguments.is_handout).then_some(&addr);
        let (member, bound) = start(shared.clone(), core, own)?;
        // If the system chose the port, the other reactors use the same port.
        addr = bound.unwrap_or(addr);
        let entry = (member.remote.clone(), member.load.clone());
        front.handler_mut().members.push(entry);
        members.push(member);
    }
    if arguments.is_handout {
        let listener = front.listen(addr, framing())?;
        addr = front.local_addr(listener)?;
    }
    println!("listening {addr}");
    front.shutdown_on_signals(CLOSE_TIME)?;
    front.run()?;

    let mut total = 0;
    for (index, member) in members.into_iter().enumerate() {
        let stats = member
            .thread
            .join()
            .map_err(|_| "a worker has panicked")??;
        let connections = stats.accepted + stats.connected;
        println!(
            "reactor {index}: {connections} connections, {} frames",
            stats.frames_in
        );
        total += stats.frames_in;
    }
    println!("served {total} frames");
    Ok(())
}
