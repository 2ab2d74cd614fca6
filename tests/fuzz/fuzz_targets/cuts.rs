//! Fuzz target of streams that are split anywhere.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::cuts(data));
