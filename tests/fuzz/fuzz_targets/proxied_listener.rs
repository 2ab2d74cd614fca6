//! Fuzz target for a listener that expects headers of the PROXY protocol.

#![no_main]

use entries::input::Input;
use entries::naive;

#[path = "../entries/proxied_listener.rs"]
mod proxied_listener;

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxied_listener::proxied_listener(data));
