//! Fuzz target for encoding followed by decoding.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::round_trip(data));
