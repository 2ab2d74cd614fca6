//! The operations, and the callbacks in which they run.

use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// Selects the socket or timer of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// Socket or timer of the callback; the first of its kind if the callback has none.
    Own,
    /// Another socket or timer than `Own`, open unless an earlier operation closed it.
    Other,
    /// A closed socket or a cancelled timer.
    Gone,
}

const ALL_OF: [Of; 3] = [Of::Own, Of::Other, Of::Gone];

/// Kinds of sockets that share operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Conn,
    Listener,
    Udp,
    Unix,
}

const KINDS: [Kind; 4] = [Kind::Conn, Kind::Listener, Kind::Udp, Kind::Unix];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Send(Of),
    SendLong(Of),
    SendParts(Of),
    SendWith(Of),
    SendUnframed(Of),
    Grant(Of, u64),
    SetLimits(Of),
    HalfClose(Of),
    Reframe(Of),
    StartTlsServer(Of),
    StartTlsClient(Of),
    Peek(Of, usize),
    Session(Of),
    Pause(Kind, Of),
    Resume(Kind, Of),
    Close(Kind, Of),
    Record(Kind, Of),
    StopRecording(Kind, Of),
    Inspect(Kind, Of),
    Abort(Of),
    Detach(Of),
    SetListenerTls(Of),
    SendTo(Of),
    SendDatagram(Of),
    ConnectUdp(Of),
    DetachUdp(Of),
    SendUnix(Of),
    ConnectUnix(Of),
    ResetTimer(Of),
    CancelTimer(Of),
    Broadcast(usize),
    Connect,
    ConnectRefused,
    ConnectAndAbort,
    Listen,
    ListenAll,
    BindUdp,
    BindUnix,
    AdoptStream,
    AdoptDetached,
    AdoptListener,
    AdoptUdp,
    AdoptUnix,
    SetTimer,
    SetInterval,
    RecordAll,
    StopRecordingAll,
    TakeRecording,
    CatchSignal,
    Stop,
    Shutdown(Duration),
}

pub(crate) fn all_ops() -> Vec<Op> {
    let mut ops = vec![
        Op::Broadcast(300),
        Op::Broadcast(20_000),
        Op::Connect,
        Op::ConnectRefused,
        Op::ConnectAndAbort,
        Op::Listen,
        Op::ListenAll,
        Op::BindUdp,
        Op::BindUnix,
        Op::AdoptStream,
        Op::AdoptDetached,
        Op::AdoptListener,
        Op::AdoptUdp,
        Op::AdoptUnix,
        Op::SetTimer,
        Op::SetInterval,
        Op::RecordAll,
        Op::StopRecordingAll,
        Op::TakeRecording,
        Op::CatchSignal,
        Op::Stop,
        Op::Shutdown(HOUR),
        Op::Shutdown(Duration::ZERO),
    ];
    for of in ALL_OF {
        ops.extend([Op::Send(of), Op::SendLong(of), Op::SendParts(of)]);
        ops.extend([Op::SendWith(of), Op::SetLimits(of), Op::HalfClose(of)]);
        ops.extend([Op::SendUnframed(of), Op::Peek(of, 0), Op::Peek(of, 7)]);
        ops.extend([0, 2, u64::MAX].map(|frames| Op::Grant(of, frames)));
        ops.extend([Op::Reframe(of), Op::Session(of), Op::Abort(of)]);
        ops.extend([Op::Detach(of), Op::DetachUdp(of), Op::SetListenerTls(of)]);
        ops.extend([Op::StartTlsServer(of), Op::StartTlsClient(of)]);
        ops.extend([Op::SendTo(of), Op::SendDatagram(of), Op::ConnectUdp(of)]);
        ops.extend([Op::SendUnix(of), Op::ConnectUnix(of)]);
        ops.extend([Op::ResetTimer(of), Op::CancelTimer(of)]);
        for kind in KINDS {
            ops.extend([Op::Pause(kind, of), Op::Resume(kind, of)]);
            ops.extend([Op::Close(kind, of), Op::Inspect(kind, of)]);
            ops.extend([Op::Record(kind, of), Op::StopRecording(kind, of)]);
        }
    }
    ops
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callback {
    OpenAccepted,
    OpenConnected,
    OpenAdopted,
    Frame,
    Skipped,
    Peek,
    FrameError,
    /// `on_drained` after the dispatch of the connection wrote its queued output.
    DrainedInDispatch,
    /// `on_drained` after the flush at the end of the turn wrote the queued output.
    DrainedInFlush,
    HalfClose,
    Hangup,
    Close,
    ConnectFailed,
    Refused,
    Datagram,
    DatagramError,
    UnixDatagram,
    UnixDatagramError,
    UnixWritable,
    Timer,
    /// `on_shutdown` at the start of the phase `Unready`.
    ShutdownUnready,
    /// `on_shutdown` at the start of the phase `Close`.
    ShutdownClose,
    Signal,
    SendRefused,
    Posted,
    /// No callback: the operations run in [`Reactor::with`].
    Outside,
}

pub(crate) const CALLBACKS: [Callback; 26] = [
    Callback::OpenAccepted,
    Callback::OpenConnected,
    Callback::OpenAdopted,
    Callback::Frame,
    Callback::Skipped,
    Callback::Peek,
    Callback::FrameError,
    Callback::DrainedInDispatch,
    Callback::DrainedInFlush,
    Callback::HalfClose,
    Callback::Hangup,
    Callback::Close,
    Callback::ConnectFailed,
    Callback::Refused,
    Callback::Datagram,
    Callback::DatagramError,
    Callback::UnixDatagram,
    Callback::UnixDatagramError,
    Callback::UnixWritable,
    Callback::Timer,
    Callback::ShutdownUnready,
    Callback::ShutdownClose,
    Callback::Signal,
    Callback::SendRefused,
    Callback::Posted,
    Callback::Outside,
];
