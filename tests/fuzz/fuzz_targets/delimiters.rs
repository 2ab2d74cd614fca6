//! Fuzz target for lines and delimiters.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::delimiters(data));
