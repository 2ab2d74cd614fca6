//! Random scripts.

use super::step::{Family, Name, Step, To};
use crate::testkit::Random;

/// Maximum number of sockets of a script.
const SOCKETS_MAX: usize = 9;

/// The steps of a random script that is being generated, and the sockets that these steps leave
/// open. The next step can use one of these sockets.
struct Generator {
    random: Random,
    steps: Vec<Step>,
    listeners: Vec<Name>,
    streams: Vec<Name>,
    datagrams: Vec<Name>,
    unregistered: Vec<Name>,
    count: usize,
    family: Family,
    /// True if the script fills buffers. Reads and writes of fixed lengths are then left out,
    /// because their results depend on the lengths of the kernel's buffers.
    fills: bool,
}

/// Returns the script of a seed.
pub(super) fn script(seed: u64) -> Vec<Step> {
    let mut random = Random::new(seed);
    let family = if random.below(4) == 0 {
        Family::Unix
    } else {
        Family::Inet
    };
    let kind = random.below(8);
    let len = 4 + random.below(20);
    let mut generator = Generator {
        random,
        steps: Vec::new(),
        listeners: Vec::new(),
        streams: Vec::new(),
        datagrams: Vec::new(),
        unregistered: Vec::new(),
        count: 0,
        family,
        fills: kind == 0,
    };
    if kind < 6 {
        generator.begin_streams();
        while generator.steps.len() < len + 6 {
            generator.stream_step();
        }
    } else {
        generator.begin_datagrams();
        while generator.steps.len() < len + 4 {
            generator.datagram_step();
        }
    }
    generator.steps.push(Step::Poll);
    generator.steps
}

impl Generator {
    fn new_name(&mut self) -> Name {
        self.count += 1;
        let name = u8::try_from(self.count - 1).expect("a script has few sockets");
        Name(name)
    }

    /// Adds a step that opens a socket, and mostly registers the socket at once.
    fn open(&mut self, name: Name, step: Step) {
        self.steps.push(step);
        if self.random.below(8) > 0 {
            self.steps.push(Step::Register(name));
        } else {
            self.unregistered.push(name);
        }
    }

    fn one_of(&mut self, names: fn(&Self) -> &Vec<Name>) -> Option<Name> {
        let count = names(self).len();
        (count > 0)
            .then(|| self.random.below(count))
            .map(|index| names(self)[index])
    }

    fn begin_streams(&mut self) {
        let name = self.new_name();
        let backlog = (self.random.below(6) == 0).then_some(1);
        self.open(name, Step::Listen(name, self.family, backlog));
        self.listeners.push(name);
        self.connect();
        self.accept();
    }

    fn connect(&mut self) {
        let Some(listener) = self.one_of(|it| &it.listeners) else {
            return;
        };
        let name = self.new_name();
        let is_refused = self.random.below(10) == 0 && self.family == Family::Inet;
        let to = if is_refused {
            To::Nobody
        } else {
            To::Name(listener)
        };
        self.open(name, Step::Connect(name, to));
        self.streams.push(name);
    }

    fn accept(&mut self) {
        let Some(listener) = self.one_of(|it| &it.listeners) else {
            return;
        };
        let name = self.new_name();
        self.open(name, Step::Accept(name, listener));
        self.streams.push(name);
    }

    fn stream_step(&mut self) {
        let Some(name) = self.one_of(|it| &it.streams) else {
            return self.steps.push(Step::Poll);
        };
        let len = [1, 10, 50, 100][self.random.below(4)];
        let step = match self.random.below(28) {
            0..6 => Step::Poll,
            6..10 if self.fills => Step::Fill(name),
            6..10 => Step::Write(name, len),
            10..15 if self.fills => Step::Drain(name),
            10..14 => Step::Read(name, len),
            14 => Step::Drain(name),
            15 => Step::Shut(name),
            16 | 17 => {
                self.streams.retain(|it| *it != name);
                let is_reset = self.random.below(2) == 0;
                if is_reset {
                    Step::Reset(name)
                } else {
                    Step::Close(name)
                }
            }
            18 => Step::Rearm(name),
            19 => Step::Connected(name),
            20 => Step::TakeError(name),
            21 => Step::HasUnread(name),
            22 => match self.unregistered.pop() {
                Some(name) => Step::Register(name),
                None => Step::Poll,
            },
            23 | 24 if self.count < SOCKETS_MAX => return self.connect(),
            25 | 26 if self.count < SOCKETS_MAX => return self.accept(),
            27 if self.random.below(3) == 0 => match self.listeners.pop() {
                Some(name) => Step::Close(name),
                None => Step::Poll,
            },
            _ => Step::Poll,
        };
        self.steps.push(step);
    }

    fn begin_datagrams(&mut self) {
        for _ in 0..2 {
            self.bind();
        }
    }

    fn bind(&mut self) {
        let name = self.new_name();
        self.open(name, Step::Datagram(name, self.family));
        self.datagrams.push(name);
    }

    fn datagram_step(&mut self) {
        let Some(name) = self.one_of(|it| &it.datagrams) else {
            return self.steps.push(Step::Poll);
        };
        let other = Name(u8::try_from(self.random.below(self.count)).expect("few sockets"));
        let to = match self.random.below(6) {
            0 => To::Peer,
            1 if self.family == Family::Inet => To::Nobody,
            _ => To::Name(other),
        };
        let len = [0, 1, 10, 50][self.random.below(4)];
        let step = match self.random.below(20) {
            0..5 => Step::Poll,
            5..10 => Step::Send(name, to, len),
            10..15 => Step::Receive(name),
            15 if to != To::Peer => Step::ConnectDatagram(name, to),
            16 => Step::AwaitWritable(name, self.random.below(2) == 0),
            17 => {
                self.datagrams.retain(|it| *it != name);
                Step::Close(name)
            }
            18 if self.count < SOCKETS_MAX => return self.bind(),
            19 => match self.unregistered.pop() {
                Some(name) => Step::Register(name),
                None => Step::Poll,
            },
            _ => Step::Poll,
        };
        self.steps.push(step);
    }
}
