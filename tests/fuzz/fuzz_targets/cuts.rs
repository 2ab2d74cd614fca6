//! Fuzz target for streams that are split at arbitrary bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::cuts(data));
