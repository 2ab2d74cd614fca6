//! Fuzz target for length prefixes, length fields and framings of header and body.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::lengths(data));
