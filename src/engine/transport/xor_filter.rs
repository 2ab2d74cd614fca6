//! A filter that inverts every byte, to test the transport seam as TLS will use it.
//!
//! It has what makes TLS hard: records of its own that may be split anywhere, plaintext that is left
//! over when the caller's buffer is full, output that the socket has not taken, and reads that need
//! a write first. Each peer acknowledges every third record before it may use its plaintext.
//!
//! ```text
//!   | kind: 1 byte | length: 1 byte | payload, every byte XOR 0xFF |
//! ```

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::os::Stream;

const DATA: u8 = 1;
const ACKNOWLEDGEMENT: u8 = 2;
const HEADER_LEN: usize = 2;
/// Plaintext bytes of the largest record.
const RECORD_LEN_MAX: usize = 50;
/// Plaintext bytes that one `drain` accepts at most.
const DRAIN_LEN_MAX: usize = 400;
/// Bytes that one read of the socket asks for: few, so that records are split.
const READ_LEN: usize = 37;
/// The number of data records after which an acknowledgement is due.
const ACKNOWLEDGED_RECORDS: u32 = 3;

/// The direction that blocks a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocked {
    OnRead,
    OnWrite,
}

#[derive(Debug, Default)]
pub(crate) struct XorFilter {
    /// Ciphertext that is not a whole record yet.
    incoming: VecDeque<u8>,
    /// Decrypted bytes that the caller has not taken.
    plaintext: VecDeque<u8>,
    /// Ciphertext that the socket has not taken.
    outgoing: VecDeque<u8>,
    records: u32,
    /// An acknowledgement must be written before `plaintext` may be used.
    must_flush: bool,
}

impl XorFilter {
    /// Reads plaintext; `Ok(Ok(0))` is the end of the stream.
    pub(super) fn fill(
        &mut self,
        stream: &mut Stream,
        spare: &mut [u8],
    ) -> io::Result<Result<usize, Blocked>> {
        loop {
            if self.must_flush {
                match self.flush(stream) {
                    Ok(()) => self.must_flush = false,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Ok(Err(Blocked::OnWrite));
                    }
                    Err(error) => return Err(error),
                }
            }
            if !self.plaintext.is_empty() {
                let len = spare.len().min(self.plaintext.len());
                let bytes = self.plaintext.drain(..len);
                bytes.zip(spare).for_each(|(byte, spare)| *spare = byte);
                return Ok(Ok(len));
            }
            if self.decrypt_record()? {
                continue;
            }
            let mut ciphertext = [0; READ_LEN];
            match stream.read(&mut ciphertext) {
                Ok(0) if self.incoming.is_empty() => return Ok(Ok(0)),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.incoming.extend(&ciphertext[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Err(Blocked::OnRead));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Decrypts the first record; returns false if it is not whole.
    fn decrypt_record(&mut self) -> io::Result<bool> {
        let (Some(&kind), Some(&len)) = (self.incoming.front(), self.incoming.get(1)) else {
            return Ok(false);
        };
        let len = usize::from(len);
        if self.incoming.len() < HEADER_LEN + len {
            return Ok(false);
        }
        self.incoming.drain(..HEADER_LEN);
        let payload = self.incoming.drain(..len).map(|byte| !byte);
        match kind {
            DATA => self.plaintext.extend(payload),
            ACKNOWLEDGEMENT => drop(payload),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        if kind == DATA {
            self.records += 1;
            if self.records.is_multiple_of(ACKNOWLEDGED_RECORDS) {
                self.outgoing.extend([ACKNOWLEDGEMENT, 0]);
                self.must_flush = true;
            }
        }
        Ok(true)
    }

    /// Accepts plaintext, and writes as much ciphertext as the socket takes.
    pub(super) fn drain(
        &mut self,
        stream: &mut Stream,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        self.flush(stream)?;
        let mut accepted = 0;
        for slice in slices {
            for record in slice.chunks(RECORD_LEN_MAX) {
                if accepted + record.len() > DRAIN_LEN_MAX {
                    break;
                }
                self.encrypt(record);
                accepted += record.len();
            }
        }
        match self.flush(stream) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(accepted),
        }
    }

    fn encrypt(&mut self, record: &[u8]) {
        let len = u8::try_from(record.len()).expect("a record has at most 50 bytes");
        self.outgoing.extend([DATA, len]);
        self.outgoing.extend(record.iter().map(|byte| !byte));
    }

    /// Writes the ciphertext that is left; `WouldBlock` if the socket takes no more.
    pub(super) fn flush(&mut self, stream: &mut Stream) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            let (front, _) = self.outgoing.as_slices();
            match stream.write(front) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => drop(self.outgoing.drain(..len)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn has_output(&self) -> bool {
        !self.outgoing.is_empty()
    }
}
