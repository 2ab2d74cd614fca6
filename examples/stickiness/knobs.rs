//! What can be set in a run, by an option or by the page: names, bounds, defaults.

use std::fmt::Write;
use std::time::Duration;

use unstick::Framing;

/// The most bytes that all messages of a run may have together.
const BYTES_MAX: usize = 4 << 20;
/// The longest that a run's gaps and delay may take together.
const TIME_MAX: Duration = Duration::from_secs(5);

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Knobs {
    /// How many messages are sent.
    pub(crate) count: usize,
    /// Bytes of each message, without what its framing adds.
    pub(crate) size: usize,
    /// Milliseconds between two sends.
    pub(crate) gap: usize,
    /// All sends are made in one turn, which the reactor writes by one call.
    pub(crate) gather: bool,
    /// Nagle's algorithm: the opposite of `TCP_NODELAY`.
    pub(crate) nagle: bool,
    /// `SO_SNDBUF` of the sender; zero leaves it as it is.
    pub(crate) send_buffer: usize,
    /// `SO_RCVBUF` of the receiver; zero leaves it as it is.
    pub(crate) receive_buffer: usize,
    /// The receiver is busy for so many milliseconds, and until all is sent, before it reads. Zero
    /// reads at once.
    pub(crate) delay: usize,
    /// The most that the receiver asks for by one read.
    pub(crate) read: usize,
    /// The longest datagram that the receiver has room for.
    pub(crate) slot: usize,
    /// How messages are told apart on TCP.
    pub(crate) framing: String,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            count: 10,
            size: 64,
            gap: 0,
            gather: false,
            nagle: false,
            send_buffer: 0,
            receive_buffer: 0,
            delay: 0,
            read: 256 * 1024,
            slot: 65_535,
            framing: "u16".to_owned(),
        }
    }
}

/// A number that can be set: its name, its bounds, where it lies, what it is.
type Number = (
    &'static str,
    usize,
    usize,
    fn(&mut Knobs) -> &mut usize,
    &'static str,
);

pub(crate) const NUMBERS: [Number; 8] = [
    ("count", 1, 200, |knobs| &mut knobs.count, "messages"),
    ("size", 1, 1 << 20, |knobs| &mut knobs.size, "bytes each"),
    ("gap", 0, 500, |knobs| &mut knobs.gap, "ms between sends"),
    (
        "delay",
        0,
        2000,
        |knobs| &mut knobs.delay,
        "ms until the receiver reads",
    ),
    (
        "send-buffer",
        0,
        1 << 20,
        |knobs| &mut knobs.send_buffer,
        "SO_SNDBUF in bytes, 0 as it is",
    ),
    (
        "receive-buffer",
        0,
        1 << 20,
        |knobs| &mut knobs.receive_buffer,
        "SO_RCVBUF in bytes, 0 as it is",
    ),
    (
        "read",
        1,
        1 << 20,
        |knobs| &mut knobs.read,
        "bytes asked for by one read",
    ),
    (
        "slot",
        1,
        65_535,
        |knobs| &mut knobs.slot,
        "bytes of room for a datagram",
    ),
];

/// What can be switched on and off.
type Switch = (&'static str, fn(&mut Knobs) -> &mut bool, &'static str);

pub(crate) const SWITCHES: [Switch; 2] = [
    (
        "nagle",
        |knobs| &mut knobs.nagle,
        "Nagle's algorithm, no TCP_NODELAY",
    ),
    ("gather", |knobs| &mut knobs.gather, "all sends in one turn"),
];

pub(crate) const FRAMINGS: [&str; 10] = [
    "raw",
    "line",
    "u8",
    "u16",
    "u32",
    "u64",
    "varint",
    "netstring",
    "delimiter",
    "fixed",
];

impl Knobs {
    /// Sets one by its name. Answers what is wrong with the name or the value.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        if let Some((_, min, max, place, _)) = NUMBERS.iter().find(|knob| knob.0 == name) {
            let number = value.parse().ok();
            let number = number.filter(|number| (min..=max).contains(&number));
            *place(self) = number.ok_or_else(|| format!("{name} is a number, {min} to {max}"))?;
        } else if let Some((_, place, _)) = SWITCHES.iter().find(|knob| knob.0 == name) {
            *place(self) = match value {
                "on" => true,
                "off" => false,
                _ => return Err(format!("{name} is on or off")),
            };
        } else if name == "framing" {
            if !FRAMINGS.contains(&value) {
                return Err(format!("framing is one of {}", FRAMINGS.join(", ")));
            }
            value.clone_into(&mut self.framing);
        } else {
            return Err("there is no such knob".to_owned());
        }
        Ok(())
    }

    /// Holds the run as a whole to its bounds: it is work that strangers may ask for.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.count * self.size > BYTES_MAX {
            return Err(format!("count times size is at most {BYTES_MAX} bytes"));
        }
        if self.planned() > TIME_MAX {
            return Err(format!("gaps and delay are at most {TIME_MAX:?} together"));
        }
        if self.framing == "u8" && self.size > 255 {
            return Err("a length of one byte tells at most 255".to_owned());
        }
        if self.framing == "u16" && self.size > 65_535 {
            return Err("a length of two bytes tells at most 65535".to_owned());
        }
        Ok(())
    }

    /// How long it takes at least, but for what the kernel does.
    pub(crate) fn planned(&self) -> Duration {
        let millis = self.gap * self.count + self.delay;
        Duration::from_millis(millis as u64)
    }

    pub(crate) fn framing(&self) -> Framing {
        match self.framing.as_str() {
            "delimiter" => Framing::delimiter(b"--end--"),
            "fixed" => Framing::fixed(self.size),
            name => name.parse().unwrap_or_else(|_| Framing::length_u16()),
        }
    }

    /// As the query of a link, or the fields of a JSON object.
    pub(crate) fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut knobs = self.clone();
        let mut pairs = Vec::new();
        for (name, _, _, place, _) in &NUMBERS {
            pairs.push((*name, place(&mut knobs).to_string()));
        }
        for (name, place, _) in &SWITCHES {
            let value = if *place(&mut knobs) { "on" } else { "off" };
            pairs.push((*name, value.to_owned()));
        }
        pairs.push(("framing", self.framing.clone()));
        pairs
    }

    pub(crate) fn to_json(&self) -> String {
        let mut json = String::new();
        for (name, value) in self.pairs() {
            let comma = if json.is_empty() { '{' } else { ',' };
            // Names and values are our own words and numbers: nothing to escape.
            let _ = write!(json, r#"{comma}"{name}":"{value}""#);
        }
        json + "}"
    }

    /// The knobs of a link, and which transport it asks for, if it asks for one.
    pub(crate) fn from_query(query: &str) -> Result<Self, String> {
        let mut knobs = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            knobs.set(name, value)?;
        }
        knobs.check()?;
        Ok(knobs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_reads_back_as_the_knobs_that_wrote_it() {
        let mut knobs = Knobs::default();
        for (name, value) in [("count", "3"), ("nagle", "on"), ("framing", "line")] {
            knobs.set(name, value).expect("within its bounds");
        }
        let pairs = knobs.pairs().into_iter();
        let query: Vec<_> = pairs
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(Knobs::from_query(&query.join("&")), Ok(knobs));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        for query in [
            "count=0",
            "count=201",
            "size=x",
            "size=-1",
            "count=99999999999999999999",
            "nagle=yes",
            "framing=<b>",
            "colour=red",
            "count=200&size=100000",
            "count=200&gap=500",
            "framing=u8&size=256",
        ] {
            Knobs::from_query(query).expect_err(query);
        }
    }
}
