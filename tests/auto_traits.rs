//! What may go to other threads, and what is an error, a copy, a key: held here, as a field of
//! another type could take it away unseen.

use std::error::Error;
use std::fmt::Debug;
use std::hash::Hash;
use std::rc::Rc;

use unstick::cutmap::{CutMap, Event, EventKind, FrameSpan, Recording, Segments, Span, Summary};
use unstick::testkit::{Cuts, Failure, ReadSide};
use unstick::{
    Addr, Backoff, CloseReason, Closed, Config, ConnId, ConnStats, ConnectOptions, Context,
    DatagramError, DecodeError, Deframer, FrameError, FramedStream, Framer, Framing, Gone, Handler,
    Keepalive, LengthField, Limits, ListenOptions, ListenerId, NotSent, ParseFramingError, Payload,
    PostError, Reactor, Reconnect, Refusal, Remote, SendError, SocketId, Stats, TimerId, UdpId,
    UdpOptions,
};

fn is_send<T: Send + Debug>() {}
fn is_shared<T: Send + Sync + Debug>() {}
fn is_cloned<T: Clone + Send + Sync + Debug>() {}
fn is_key<T: Copy + Eq + Hash + Ord + Send + Sync + Debug>() {}
fn is_error<T: Error + Send + Sync + 'static>() {}

/// A handler of type `T`.
struct With<T>(T);

impl<T> Handler for With<T> {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}
}

#[test]
fn a_reactor_moves_with_its_handler_and_remotes_are_for_every_thread_whatever_that_is() {
    is_send::<Reactor<With<u8>>>();
    is_cloned::<Remote<With<u8>>>();
    is_cloned::<Remote<With<Rc<u8>>>>();
}

#[test]
fn what_works_without_a_reactor_is_for_every_thread_and_so_are_settings() {
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
fn what_is_told_can_be_kept_and_handed_on() {
    is_shared::<Closed>();
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
    is_cloned::<SocketId>();
}

#[test]
fn errors_are_errors_that_any_thread_may_have() {
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
