//! The settings of a run, from the command line or the page: names, bounds and defaults.

use std::fmt::Write;
use std::time::Duration;

use unstick::Framing;

/// Maximum size of all messages of a run together, in bytes.
const BYTES_MAX: usize = 4 << 20;
/// Maximum duration of the gaps and the delay of a run together.
const TIME_MAX: Duration = Duration::from_secs(5);

/// The settings of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Knobs {
    /// Number of messages.
    pub(crate) count: usize,
    /// Size of each message in bytes, without the bytes of its framing.
    pub(crate) size: usize,
    /// Time between two sends, in milliseconds.
    pub(crate) gap: usize,
    /// Sends all messages in one turn, so that the reactor writes them with one system call.
    pub(crate) gather: bool,
    /// Turns on Nagle's algorithm, which means no `TCP_NODELAY`.
    pub(crate) nagle: bool,
    /// Uses TLS over TCP, with a self-signed certificate.
    pub(crate) tls: bool,
    /// `SO_SNDBUF` of the sender in bytes; zero keeps the default.
    pub(crate) send_buffer: usize,
    /// `SO_RCVBUF` of the receiver in bytes; zero keeps the default.
    pub(crate) receive_buffer: usize,
    /// Time before the receiver reads, in milliseconds. If the time is not zero, the receiver also
    /// waits until all messages are sent.
    pub(crate) delay: usize,
    /// Maximum length of one read of the receiver, in bytes.
    pub(crate) read: usize,
    /// Maximum length of a datagram that the receiver does not truncate, in bytes.
    pub(crate) slot: usize,
    /// Name of the framing on TCP.
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
            tls: false,
            send_buffer: 0,
            receive_buffer: 0,
            delay: 0,
            read: 256 * 1024,
            slot: 65_535,
            framing: "u16".to_owned(),
        }
    }
}

/// A numeric setting: its name, minimum, maximum, field, and description.
type Number = (
    &'static str,
    usize,
    usize,
    fn(&mut Knobs) -> &mut usize,
    &'static str,
);

pub(crate) const NUMBERS: [Number; 8] = [
    (
        "count",
        1,
        200,
        |knobs| &mut knobs.count,
        "number of messages",
    ),
    (
        "size",
        1,
        1 << 20,
        |knobs| &mut knobs.size,
        "bytes per message",
    ),
    (
        "gap",
        0,
        500,
        |knobs| &mut knobs.gap,
        "ms between two sends",
    ),
    (
        "delay",
        0,
        2000,
        |knobs| &mut knobs.delay,
        "ms before the receiver reads",
    ),
    (
        "send-buffer",
        0,
        1 << 20,
        |knobs| &mut knobs.send_buffer,
        "SO_SNDBUF in bytes, 0 for the default",
    ),
    (
        "receive-buffer",
        0,
        1 << 20,
        |knobs| &mut knobs.receive_buffer,
        "SO_RCVBUF in bytes, 0 for the default",
    ),
    (
        "read",
        1,
        1 << 20,
        |knobs| &mut knobs.read,
        "maximum bytes per read",
    ),
    (
        "slot",
        1,
        65_535,
        |knobs| &mut knobs.slot,
        "maximum bytes per received datagram",
    ),
];

/// An on/off setting: its name, field, and description.
type Switch = (&'static str, fn(&mut Knobs) -> &mut bool, &'static str);

pub(crate) const SWITCHES: [Switch; 3] = [
    (
        "nagle",
        |knobs| &mut knobs.nagle,
        "Nagle's algorithm (no TCP_NODELAY)",
    ),
    (
        "gather",
        |knobs| &mut knobs.gather,
        "all sends in one turn of the loop",
    ),
    ("tls", |knobs| &mut knobs.tls, "TLS over TCP; not for UDP"),
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
    /// Sets one setting by its name. Fails with a message if the name is unknown or the value is
    /// invalid.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        if let Some((_, min, max, field, _)) = NUMBERS.iter().find(|knob| knob.0 == name) {
            let number = value.parse().ok();
            let number = number.filter(|number| (min..=max).contains(&number));
            *field(self) =
                number.ok_or_else(|| format!("{name} must be a number from {min} to {max}"))?;
        } else if let Some((_, field, _)) = SWITCHES.iter().find(|knob| knob.0 == name) {
            *field(self) = match value {
                "on" => true,
                "off" => false,
                _ => return Err(format!("{name} must be on or off")),
            };
        } else if name == "framing" {
            if !FRAMINGS.contains(&value) {
                return Err(format!("framing must be one of {}", FRAMINGS.join(", ")));
            }
            value.clone_into(&mut self.framing);
        } else {
            return Err("unknown setting".to_owned());
        }
        Ok(())
    }

    /// Checks the limits that depend on several settings. Unknown users may request runs, so each
    /// run must be bounded.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.count * self.size > BYTES_MAX {
            return Err(format!(
                "count times size must be at most {BYTES_MAX} bytes"
            ));
        }
        if self.planned() > TIME_MAX {
            return Err(format!(
                "gaps and delay together must be at most {TIME_MAX:?}"
            ));
        }
        if self.framing == "u8" && self.size > 255 {
            return Err("u8 framing allows at most 255 bytes per message".to_owned());
        }
        if self.framing == "u16" && self.size > 65_535 {
            return Err("u16 framing allows at most 65535 bytes per message".to_owned());
        }
        Ok(())
    }

    /// Returns the minimum duration of the run, without the time that the kernel needs.
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

    /// Returns all names and values, for the query of a link or a JSON object.
    pub(crate) fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut knobs = self.clone();
        let mut pairs = Vec::new();
        for (name, _, _, field, _) in &NUMBERS {
            pairs.push((*name, field(&mut knobs).to_string()));
        }
        for (name, field, _) in &SWITCHES {
            let value = if *field(&mut knobs) { "on" } else { "off" };
            pairs.push((*name, value.to_owned()));
        }
        pairs.push(("framing", self.framing.clone()));
        pairs
    }

    pub(crate) fn to_json(&self) -> String {
        let mut json = String::new();
        for (name, value) in self.pairs() {
            let comma = if json.is_empty() { '{' } else { ',' };
            // Names and values are known words and numbers, so they need no escaping.
            let _ = write!(json, r#"{comma}"{name}":"{value}""#);
        }
        json + "}"
    }

    /// Parses the settings in the query of a link. Missing settings get their defaults.
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
    fn query_round_trips() {
        let mut knobs = Knobs::default();
        for (name, value) in [("count", "3"), ("nagle", "on"), ("framing", "line")] {
            knobs.set(name, value).expect("the value is valid");
        }
        let pairs = knobs.pairs().into_iter();
        let query: Vec<_> = pairs
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(Knobs::from_query(&query.join("&")), Ok(knobs));
    }

    #[test]
    fn out_of_range_settings_are_rejected() {
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
