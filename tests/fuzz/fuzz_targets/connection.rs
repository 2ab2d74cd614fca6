//! Fuzz target for the read side of a connection whose handler acts on each frame.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::connection(data));
