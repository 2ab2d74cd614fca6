//! Fuzz target for TLS connections of a reactor.

#![no_main]

use entries::input::Input;

#[path = "../entries/tls.rs"]
mod tls;

libfuzzer_sys::fuzz_target!(|data: &[u8]| tls::tls(data));
