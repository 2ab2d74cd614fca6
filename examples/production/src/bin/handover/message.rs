//! Messages between the old and the new process, over a Unix socket.
//!
//! ```text
//!   kind 1 | length 4 | length 4 | undelivered bytes | unsent bytes      and a socket, or none
//! ```

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Maximum number of undelivered or unsent bytes of one connection.
const BYTES_MAX: usize = 64 << 20;

/// A message between the processes: a kind, two byte sequences, and at most one descriptor.
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) undelivered: Vec<u8>,
    pub(crate) unsent: Vec<u8>,
}

pub(crate) fn send(
    to: &mut UnixStream,
    kind: u8,
    socket: Option<BorrowedFd<'_>>,
    undelivered: &[u8],
    unsent: &[u8],
) -> io::Result<()> {
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| ErrorKind::InvalidInput);
    let mut head = vec![kind];
    head.extend_from_slice(&len(undelivered)?.to_be_bytes());
    head.extend_from_slice(&len(unsent)?.to_be_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = socket.as_slice();
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(ErrorKind::OutOfMemory.into());
    }
    let sent = sendmsg(
        &*to,
        &[IoSlice::new(&head)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    to.write_all(&head[sent..])?;
    to.write_all(undelivered)?;
    to.write_all(unsent)
}

pub(crate) fn receive(from: &mut UnixStream) -> io::Result<Message> {
    let mut head = [0; 9];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        &*from,
        &mut [IoSliceMut::new(&mut head)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut socket = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut sockets) = message {
            socket = sockets.next();
        }
    }
    if received.bytes == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    from.read_exact(&mut head[received.bytes..])?;
    let [kind, a, b, c, d, e, f, g, h] = head;
    let mut bytes = |len: [u8; 4]| {
        let len = u32::from_be_bytes(len) as usize;
        if len > BYTES_MAX {
            return Err(io::Error::from(ErrorKind::InvalidData));
        }
        let mut bytes = vec![0; len];
        from.read_exact(&mut bytes).map(|()| bytes)
    };
    Ok(Message {
        kind,
        socket,
        undelivered: bytes([a, b, c, d])?,
        unsent: bytes([e, f, g, h])?,
    })
}
