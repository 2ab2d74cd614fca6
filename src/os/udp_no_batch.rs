//! Replacement for `udp_batch.rs` in a build without batches: without the feature `udp-batch`, or
//! for a system other than Linux and Android. [`Udp`](super::Udp) handles single datagrams.

use std::io;

use mio::net::UdpSocket;

use super::udp::Received;
use crate::datagram::gso_run::GsoRun;
use crate::datagram::{DatagramQueue, Marks, RecvBatch};

/// Details that the program can select: none in this build.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {}

/// Type without values, because no socket uses batches in this build.
#[derive(Debug)]
pub(super) enum Batcher {}

impl Batcher {
    pub(super) fn new(_: &UdpSocket, _: bool, _: Wanted) -> io::Result<Option<Self>> {
        Ok(None)
    }

    pub(super) fn receive(
        &self,
        _: &UdpSocket,
        _: &mut RecvBatch,
        _: usize,
    ) -> io::Result<Received> {
        match *self {}
    }

    pub(super) fn send(&self, _: &UdpSocket, _: bool, _: &DatagramQueue) -> io::Result<usize> {
        match *self {}
    }
}

/// Sends one datagram. Datagrams have no marks in this build.
pub(super) fn send_marked(udp: &UdpSocket, one: GsoRun<'_>, _: Marks) -> io::Result<usize> {
    match one.to {
        Some(to) => udp.send_to(one.data, to),
        None => udp.send(one.data),
    }
}
