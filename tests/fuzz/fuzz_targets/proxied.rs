//! Fuzz target for headers of the PROXY protocol and the framing behind them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::proxied(data));
