//! TLS without I/O: the session of a connection, its public view and its errors.
//!
//! [`session`] is the only file that uses rustls's connection types. The engine's transport filter
//! reads and writes the records.

mod endpoint;
mod info;
mod session;

pub(crate) use endpoint::{TlsClient, TlsServer};
pub use info::{TlsError, TlsInfo, TlsVersion};
pub(crate) use session::{RECORD_PLAIN_LEN_MAX, RECORD_WIRE_LEN_MAX, TlsSession};
