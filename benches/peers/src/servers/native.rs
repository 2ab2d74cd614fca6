//! The peers written in C and C++: libuv and asio. Their complete loops are in those languages.
//!
//! `build.rs` compiles them if their libraries are installed, and sets `cfg(libuv)` and
//! `cfg(asio)`.
#![expect(unsafe_code, reason = "the peers are called through C functions")]

use std::hint::black_box;
use std::io;

use super::announce;

/// The user's code as a C function: [`on_frame`](super::on_frame), also not inlined.
type OnFrame = extern "C" fn(*const u8, usize) -> *const u8;
/// [`announce`] as a C function; returns zero on success.
type Announce = extern "C" fn(u16) -> i32;
/// A server; returns a negated system error, or zero.
type Serve = unsafe extern "C" fn(OnFrame, Announce) -> i32;

unsafe extern "C" {
    #[cfg(libuv)]
    fn peers_libuv_tcp(on_frame: OnFrame, announce: Announce) -> i32;
    #[cfg(libuv)]
    fn peers_libuv_udp(on_frame: OnFrame, announce: Announce) -> i32;
    #[cfg(asio)]
    fn peers_asio_tcp(on_frame: OnFrame, announce: Announce) -> i32;
    #[cfg(asio)]
    fn peers_asio_udp(on_frame: OnFrame, announce: Announce) -> i32;
}

#[cfg(libuv)]
pub(super) fn libuv_tcp() -> io::Result<()> {
    serve(peers_libuv_tcp)
}

#[cfg(libuv)]
pub(super) fn libuv_udp() -> io::Result<()> {
    serve(peers_libuv_udp)
}

#[cfg(asio)]
pub(super) fn asio_tcp() -> io::Result<()> {
    serve(peers_asio_tcp)
}

#[cfg(asio)]
pub(super) fn asio_udp() -> io::Result<()> {
    serve(peers_asio_udp)
}

fn serve(serve: Serve) -> io::Result<()> {
    extern "C" fn on_frame(frame: *const u8, _len: usize) -> *const u8 {
        black_box(frame)
    }
    extern "C" fn tell(port: u16) -> i32 {
        announce(port).map_or(-libc::EIO, |()| 0)
    }
    // SAFETY: the functions use C types only. They call back on this thread only, with the
    // arguments they were given, and read no more of a frame than its length.
    match unsafe { serve(on_frame, tell) } {
        0 => Err(io::Error::other("the event loop ended without an error")),
        status => Err(io::Error::from_raw_os_error(-status)),
    }
}
