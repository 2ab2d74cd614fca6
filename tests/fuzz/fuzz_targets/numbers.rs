//! Fuzz target for varints and netstrings.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::numbers(data));
