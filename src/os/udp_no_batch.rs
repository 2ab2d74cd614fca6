//! Replacement for batches on systems without them: [`Udp`](super::Udp) handles single datagrams.

use std::io;

use mio::net::UdpSocket;

use super::udp::Received;
use crate::datagram::{DatagramQueue, RecvBatch};

/// A type without values.
#[derive(Debug)]
pub(super) enum Batcher {}

impl Batcher {
    pub(super) fn new(_: &UdpSocket) -> io::Result<Option<Self>> {
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
