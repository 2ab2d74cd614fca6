//! A game server with its own loop: the world moves at fixed times, and the reactor runs between
//! them.
//!
//! ```text
//! cargo run --release --example game_loop
//! nc 127.0.0.1 7005        (type `left`, `right`, `up` or `down`)
//! ```

#[path = "support/cli.rs"]
mod cli;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{io, thread};

use unstick::{Closed, Config, ConnId, Context, Framing, Handler, Origin, Reactor};

const HELP: &str = "\
A game server with its own loop.

Usage: game_loop [ADDR]

  ADDR        address to listen on: HOST:PORT or unix:PATH (default 127.0.0.1:7005)
  -h, --help  print this help

A client sends the lines `left`, `right`, `up` and `down`. It receives a line twenty
times a second: the number of the step, and the place X,Y of each player.";

/// Time between two steps of the world.
const STEP: Duration = Duration::from_millis(50);
/// Maximum number of missed steps that the world makes up for without a pause. Earlier missed steps
/// are left out.
const STEPS_LATE_MAX: u32 = 5;
/// Width and height of the world, which is a torus.
const SIZE: i32 = 100;

/// The place of a player, and its speed in each direction per step.
#[derive(Default)]
struct Player {
    place: [i32; 2],
    speed: [i32; 2],
}

#[derive(Default)]
struct World {
    steps: u64,
    players: BTreeMap<ConnId, Player>,
}

impl World {
    /// Moves all players by one step, and sends their places to all clients.
    fn step(&mut self, cx: &mut Context<'_, Self>) {
        self.steps += 1;
        let mut places = format!("{}", self.steps);
        for player in self.players.values_mut() {
            for (place, speed) in player.place.iter_mut().zip(player.speed) {
                *place = (*place + speed).rem_euclid(SIZE);
            }
            let [x, y] = player.place;
            places += &format!(" {x},{y}");
        }
        cx.broadcast(self.players.keys(), places);
    }
}

impl Handler for World {
    type Session = ();

    fn on_open(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
        self.players.insert(conn, Player::default());
    }

    fn on_frame(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: &mut (), line: &[u8]) {
        let speed = match line {
            b"left" => [-1, 0],
            b"right" => [1, 0],
            b"up" => [0, -1],
            b"down" => [0, 1],
            _ => return,
        };
        if let Some(player) = self.players.get_mut(&conn) {
            player.speed = speed;
        }
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: (), closed: Closed) {
        log::info!("{conn} left: {}", closed.reason);
        self.players.remove(&conn);
    }
}

/// Runs turns until `end`. The wait of `turn` may be up to 1 ms too long, because the system waits
/// for whole milliseconds. So this function rounds that wait down to whole milliseconds, and sleeps
/// for the rest.
fn turns_until(reactor: &mut Reactor<World>, end: Instant) -> io::Result<()> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let below_milli = Duration::from_nanos(u64::from(left.subsec_nanos() % 1_000_000));
        let millis = left - below_milli;
        reactor.turn(Some(millis))?;
        if millis.is_zero() {
            thread::sleep(end.saturating_duration_since(Instant::now()));
            return Ok(());
        }
    }
}

fn main() -> ExitCode {
    cli::run("game_loop", HELP, |args| {
        let [addr] = cli::operands(args)?;
        // A client that reads too slowly misses some steps. A client that reads nothing is
        // disconnected.
        let config = Config::new()
            .write_queue_bytes_max(64 << 10)
            .write_high_bytes(32 << 10)
            .write_low_bytes(16 << 10)
            .write_stall_timeout(Duration::from_secs(10));
        let mut reactor = Reactor::with_config(World::default(), config)?;
        reactor.shutdown_on_signals(Duration::from_secs(1))?;
        let framing = Framing::line().frame_len_max(100);
        cli::listen(
            &mut reactor,
            addr.as_deref().unwrap_or("127.0.0.1:7005"),
            framing,
        )?;

        let mut next = Instant::now() + STEP;
        while !reactor.is_shut_down() {
            turns_until(&mut reactor, next)?;
            reactor.with(World::step);
            let now = Instant::now();
            next = (next + STEP).max(now.checked_sub(STEPS_LATE_MAX * STEP).unwrap_or(now));
        }
        Ok(())
    })
}
