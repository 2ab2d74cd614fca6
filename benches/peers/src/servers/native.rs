//! The servers that are written in C with libuv and in C++ with asio.
//!
//! `build.rs` compiles each server whose library is installed, and sets `cfg(libuv)` or
//! `cfg(asio)`.
#![expect(unsafe_code, reason = "the peers are called through C functions")]

use std::hint::black_box;
use std::io;

use super::announce;

/// User's code as a C function, which is not inlined; see [`on_frame`](super::on_frame).
type OnFrame = extern "C" fn(*const u8, usize) -> *const u8;
/// [`announce`] as a C function; returns zero on success.
type Announce = extern "C" fn(u16) -> i32;
/// Main function of a server; returns a negated system error, or zero.
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
    extern "C" fn print_port(port: u16) -> i32 {
        announce(port).map_or(-libc::EIO, |()| 0)
    }
    // SAFETY: each `peers_*` function uses C types only, and calls both callbacks on this thread.
    // `on_frame` returns the pointer that it receives, so the reply is as long as the frame.
    match unsafe { serve(on_frame, print_port) } {
        0 => Err(io::Error::other("the event loop ended without an error")),
        status => Err(io::Error::from_raw_os_error(-status)),
    }
}
