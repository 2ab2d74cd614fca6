//! The script language: one step per line, with one letter for each socket.

use std::fmt;
use std::str::FromStr;

/// A socket of a script, written as a letter from `a` to `z`. It is also the token of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(pub(super) u8);

/// The address family of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Inet,
    Unix,
}

/// The target of a connect or of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// The address of a socket of the script.
    Name(Name),
    /// An address without a socket.
    Nobody,
    /// The connected peer of a datagram socket.
    Peer,
}

/// One call. The comment of each variant is its text form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// `listen a`, `listen-unix a`, `listen a backlog 1`
    Listen(Name, Family, Option<u32>),
    /// `buffers 4096`: the requested lengths of the buffers of sockets that are opened later.
    Buffers(u32),
    /// `connect b a`, `connect b nobody`
    Connect(Name, To),
    /// `accept c a`
    Accept(Name, Name),
    /// `register b`
    Register(Name),
    /// `rearm b`
    Rearm(Name),
    /// `connected b`
    Connected(Name),
    /// `take-error b`
    TakeError(Name),
    /// `write b 10`
    Write(Name, usize),
    /// `write-part b`: writes a megabyte with one call.
    WritePart(Name),
    /// `fill b`: writes until a write fails.
    Fill(Name),
    /// `read b 10`
    Read(Name, usize),
    /// `drain b`: reads until the end of the stream or an error.
    Drain(Name),
    /// `has-unread b`
    HasUnread(Name),
    /// `shut b`
    Shut(Name),
    /// `reset b`
    Reset(Name),
    /// `close b`
    Close(Name),
    /// `udp a`, `unix-datagram a`
    Datagram(Name, Family),
    /// `connect-datagram a b`
    ConnectDatagram(Name, To),
    /// `send a b 10`, `send a peer 10`
    Send(Name, To, usize),
    /// `receive a`
    Receive(Name),
    /// `await-writable a on`, `await-writable a off`
    AwaitWritable(Name, bool),
    /// `poll`: returns the pending events.
    Poll,
    /// `sleep 50`, in milliseconds
    Sleep(u32),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(b'a' + self.0))
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            [letter @ b'a'..=b'z'] => Ok(Self(letter - b'a')),
            _ => Err(format!("{text:?} is not a letter")),
        }
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Nobody => f.write_str("nobody"),
            Self::Peer => f.write_str("peer"),
        }
    }
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "nobody" => Ok(Self::Nobody),
            "peer" => Ok(Self::Peer),
            name => name.parse().map(Self::Name),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(name, family, backlog) => {
                let unix = if *family == Family::Unix { "-unix" } else { "" };
                write!(f, "listen{unix} {name}")?;
                backlog.map_or(Ok(()), |backlog| write!(f, " backlog {backlog}"))
            }
            Self::Buffers(len) => write!(f, "buffers {len}"),
            Self::Connect(name, to) => write!(f, "connect {name} {to}"),
            Self::Accept(name, listener) => write!(f, "accept {name} {listener}"),
            Self::Register(name) => write!(f, "register {name}"),
            Self::Rearm(name) => write!(f, "rearm {name}"),
            Self::Connected(name) => write!(f, "connected {name}"),
            Self::TakeError(name) => write!(f, "take-error {name}"),
            Self::Write(name, len) => write!(f, "write {name} {len}"),
            Self::WritePart(name) => write!(f, "write-part {name}"),
            Self::Fill(name) => write!(f, "fill {name}"),
            Self::Read(name, len) => write!(f, "read {name} {len}"),
            Self::Drain(name) => write!(f, "drain {name}"),
            Self::HasUnread(name) => write!(f, "has-unread {name}"),
            Self::Shut(name) => write!(f, "shut {name}"),
            Self::Reset(name) => write!(f, "reset {name}"),
            Self::Close(name) => write!(f, "close {name}"),
            Self::Datagram(name, Family::Inet) => write!(f, "udp {name}"),
            Self::Datagram(name, Family::Unix) => write!(f, "unix-datagram {name}"),
            Self::ConnectDatagram(name, to) => write!(f, "connect-datagram {name} {to}"),
            Self::Send(name, to, len) => write!(f, "send {name} {to} {len}"),
            Self::Receive(name) => write!(f, "receive {name}"),
            Self::AwaitWritable(name, true) => write!(f, "await-writable {name} on"),
            Self::AwaitWritable(name, false) => write!(f, "await-writable {name} off"),
            Self::Poll => f.write_str("poll"),
            Self::Sleep(millis) => write!(f, "sleep {millis}"),
        }
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &str| text.parse().map_err(|error| format!("{text:?}: {error}"));
        Ok(match words.as_slice() {
            ["listen", name] => Self::Listen(name.parse()?, Family::Inet, None),
            ["listen-unix", name] => Self::Listen(name.parse()?, Family::Unix, None),
            ["listen", name, "backlog", max] => {
                Self::Listen(name.parse()?, Family::Inet, Some(number(max)?))
            }
            ["listen-unix", name, "backlog", max] => {
                Self::Listen(name.parse()?, Family::Unix, Some(number(max)?))
            }
            ["buffers", len] => Self::Buffers(number(len)?),
            ["connect", name, to] => Self::Connect(name.parse()?, to.parse()?),
            ["accept", name, listener] => Self::Accept(name.parse()?, listener.parse()?),
            ["register", name] => Self::Register(name.parse()?),
            ["rearm", name] => Self::Rearm(name.parse()?),
            ["connected", name] => Self::Connected(name.parse()?),
            ["take-error", name] => Self::TakeError(name.parse()?),
            ["write", name, len] => Self::Write(name.parse()?, number(len)? as usize),
            ["write-part", name] => Self::WritePart(name.parse()?),
            ["fill", name] => Self::Fill(name.parse()?),
            ["read", name, len] => Self::Read(name.parse()?, number(len)? as usize),
            ["drain", name] => Self::Drain(name.parse()?),
            ["has-unread", name] => Self::HasUnread(name.parse()?),
            ["shut", name] => Self::Shut(name.parse()?),
            ["reset", name] => Self::Reset(name.parse()?),
            ["close", name] => Self::Close(name.parse()?),
            ["udp", name] => Self::Datagram(name.parse()?, Family::Inet),
            ["unix-datagram", name] => Self::Datagram(name.parse()?, Family::Unix),
            ["connect-datagram", name, to] => Self::ConnectDatagram(name.parse()?, to.parse()?),
            ["send", name, to, len] => {
                Self::Send(name.parse()?, to.parse()?, number(len)? as usize)
            }
            ["receive", name] => Self::Receive(name.parse()?),
            ["await-writable", name, "on"] => Self::AwaitWritable(name.parse()?, true),
            ["await-writable", name, "off"] => Self::AwaitWritable(name.parse()?, false),
            ["poll"] => Self::Poll,
            ["sleep", millis] => Self::Sleep(number(millis)?),
            _ => return Err(format!("{line:?} is not a step")),
        })
    }
}
