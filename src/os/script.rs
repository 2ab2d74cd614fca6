//! A stream that does what a list says, call by call: what no kernel can be made to do on demand.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;

/// What one call of read does.
#[derive(Debug)]
pub(crate) enum Reading {
    /// Gives these bytes; what the caller has no room for stays for the next call.
    Bytes(Vec<u8>),
    /// Tells of the end, from now on.
    End,
    Fails(io::ErrorKind),
}

/// What one call of write does.
#[derive(Debug)]
pub(crate) enum Writing {
    /// Takes that many bytes at most.
    Takes(usize),
    Fails(io::ErrorKind),
}

/// Names a script of this thread: the stream plays it, the test writes it and looks at it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Script(u32);

thread_local! {
    static SCRIPTS: RefCell<Vec<State>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug, Default)]
struct State {
    readings: VecDeque<Reading>,
    writings: VecDeque<Writing>,
    seen: Seen,
}

/// What was done to the stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) reads: usize,
    pub(crate) writes: usize,
    pub(crate) written: Vec<u8>,
    pub(crate) is_shut_down: bool,
    /// How often the socket was asked for its error.
    pub(crate) error_asks: usize,
}

impl Script {
    pub(crate) fn new() -> Self {
        SCRIPTS.with_borrow_mut(|scripts| {
            scripts.push(State::default());
            Self(u32::try_from(scripts.len() - 1).expect("tests are short"))
        })
    }

    /// Behind the last reading nothing is there yet: `WouldBlock`.
    pub(crate) fn then_read(self, readings: impl IntoIterator<Item = Reading>) {
        self.with(|state| state.readings.extend(readings));
    }

    /// Behind the last writing everything is taken.
    pub(crate) fn then_write(self, writings: impl IntoIterator<Item = Writing>) {
        self.with(|state| state.writings.extend(writings));
    }

    /// Whether all readings were read.
    pub(crate) fn is_played(self) -> bool {
        self.with(|state| state.readings.is_empty())
    }

    pub(crate) fn seen(self) -> Seen {
        self.with(|state| state.seen.clone())
    }

    pub(super) fn read(self, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|state| {
            state.seen.reads += 1;
            match state.readings.pop_front() {
                Some(Reading::Bytes(mut bytes)) => {
                    let len = bytes.len().min(buf.len());
                    buf[..len].copy_from_slice(&bytes[..len]);
                    let rest = bytes.split_off(len);
                    if !rest.is_empty() {
                        state.readings.push_front(Reading::Bytes(rest));
                    }
                    Ok(len)
                }
                Some(Reading::End) => {
                    state.readings.push_front(Reading::End);
                    Ok(0)
                }
                Some(Reading::Fails(kind)) => Err(kind.into()),
                None => Err(io::ErrorKind::WouldBlock.into()),
            }
        })
    }

    pub(super) fn write(self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|state| {
            state.seen.writes += 1;
            let len = match state.writings.pop_front() {
                Some(Writing::Takes(len)) => len.min(bytes.len()),
                Some(Writing::Fails(kind)) => return Err(kind.into()),
                None => bytes.len(),
            };
            state.seen.written.extend_from_slice(&bytes[..len]);
            Ok(len)
        })
    }

    pub(super) fn has_unread(self) -> bool {
        self.with(|state| matches!(state.readings.front(), Some(Reading::Bytes(_))))
    }

    pub(super) fn take_error(self) -> Option<io::Error> {
        self.with(|state| state.seen.error_asks += 1);
        None
    }

    pub(super) fn shutdown_write(self) {
        self.with(|state| state.seen.is_shut_down = true);
    }

    fn with<R>(self, look: impl FnOnce(&mut State) -> R) -> R {
        SCRIPTS.with_borrow_mut(|scripts| look(&mut scripts[self.0 as usize]))
    }
}
