//! The peers that are written in C and C++: libuv and asio, each with its whole loop on its side.
//!
//! `build.rs` compiles them where their libraries are, and sets `cfg(libuv)` and `cfg(asio)`.
#![expect(unsafe_code, reason = "they are called through C's interface")]

use std::hint::black_box;
use std::io;

use super::announce;

/// As [`on_frame`](super::on_frame), called through a pointer, which is not inlined either.
type OnFrame = extern "C" fn(*const u8, usize) -> *const u8;
/// As [`announce`]; zero is success.
type Announce = extern "C" fn(u16) -> i32;
/// Serves, and answers with an error of the system, negative, or with zero.
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
    // SAFETY: the functions keep to C's types, call back with what they were given on this thread
    // only, and read no more of a frame than its length.
    match unsafe { serve(on_frame, tell) } {
        0 => Err(io::Error::other("the loop had nothing left to wait for")),
        status => Err(io::Error::from_raw_os_error(-status)),
    }
}
