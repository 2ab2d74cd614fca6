//! The traits of public types: `Send`, `Sync`, `Debug`, `Clone`, `Copy`, `Eq`, `Hash`, `Ord` and
//! `Error`. A new private field can remove an auto trait, such as `Send`, from its type. If this
//! happens, these tests do not compile.

use std::error::Error;
use std::fmt::Debug;
use std::hash::Hash;
use std::rc::Rc;

use unstick::cutmap::{CutMap, Event, EventKind, FrameSpan, Recording, Segments, Span, Summary};
use unstick::testkit::{Cuts, Failure, ReadSide};
use unstick::{
    Addr, Backoff, CloseReason, Closed, Config, ConnId, ConnStats, ConnectOptions, Context,
    DatagramError, DecodeError, Deframer, Detached, FrameError, FramedStream, Framer, Framing,
    Gone, Handler, Keepalive, LengthField, Limits, ListenOptions, ListenerId, NotSent,
    ParseFramingError, Payload, PostError, Reactor, Reconnect, Refusal, Remote, SendError, Signal,
    SocketId, Stats, TimerId, UdpId, UdpOptions,
};

fn is_send<T: Send + Debug>() {}
fn is_shared<T: Send + Sync + Debug>() {}
fn is_cloned<T: Clone + Send + Sync + Debug>() {}
fn is_key<T: Copy + Eq + Hash + Ord + Send + Sync + Debug>() {}
fn is_error<T: Error + Send + Sync + 'static>() {}

/// A handler that owns a `T`.
struct With<T>(T);

impl<T> Handler for With<T> {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}
}

#[test]
fn reactor_is_send_if_its_handler_is_and_remote_always_is() {
    is_send::<Reactor<With<u8>>>();
    is_cloned::<Remote<With<u8>>>();
    is_cloned::<Remote<With<Rc<u8>>>>();
}

#[test]
fn framing_types_and_config_types_are_send_and_sync() {
    is_shared::<Deframer>();
    is_shared::<Framer>();
    is_shared::<FramedStream<std::net::TcpStream>>();
    is_shared::<Reconnect<String>>();
    is_send::<ReadSide>();
    is_send::<Cuts>();
    is_cloned::<Framing>();
    is_cloned::<LengthField>();
    is_cloned::<Backoff>();
    is_cloned::<Payload>();
    is_cloned::<Config>();
    is_cloned::<Limits>();
    is_cloned::<ConnectOptions>();
    is_cloned::<ListenOptions>();
    is_cloned::<UdpOptions>();
    is_cloned::<Keepalive>();
    is_cloned::<Addr>();
}

#[test]
fn ids_and_report_types_can_be_cloned_or_stored() {
    is_shared::<Closed>();
    is_shared::<Detached>();
    is_cloned::<Stats>();
    is_cloned::<ConnStats>();
    is_cloned::<CutMap>();
    is_cloned::<Recording>();
    is_cloned::<(Event, EventKind, FrameSpan, Span, Summary, Segments)>();
    is_cloned::<Refusal>();
    is_key::<ConnId>();
    is_key::<ListenerId>();
    is_key::<UdpId>();
    is_key::<TimerId>();
    is_key::<Signal>();
    is_cloned::<SocketId>();
}

#[test]
fn error_types_implement_error_send_and_sync() {
    is_error::<CloseReason>();
    is_error::<DatagramError>();
    is_error::<DecodeError>();
    is_error::<Failure>();
    is_error::<FrameError>();
    is_error::<Gone>();
    is_error::<NotSent>();
    is_error::<ParseFramingError>();
    is_error::<PostError<Vec<u8>>>();
    is_error::<SendError>();
}
