//! The entries of the fuzz targets `tls` and `proxied_listener`, run with their committed corpora.

use std::fs;
use std::path::Path;

use super::entries::input::Input;
use super::entries::naive;

#[allow(
    unreachable_pub,
    reason = "the fuzz target is a crate that includes this file too"
)]
#[path = "../fuzz/entries/proxied_listener.rs"]
mod proxied_listener;
#[allow(
    unreachable_pub,
    reason = "the fuzz target is a crate that includes this file too"
)]
#[path = "../fuzz/entries/tls.rs"]
mod tls;

/// Maximum number of files in a corpus, as for the other fuzz targets.
const FILES_MAX: usize = 50;

fn run_corpus(name: &str, entry: fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let mut count = 0;
    for file in fs::read_dir(root.join(name)).expect("the corpus has a folder") {
        let path = file.expect("the folder can be read").path();
        println!("{}", path.display());
        entry(&fs::read(&path).expect("the file can be read"));
        count += 1;
    }
    assert!((1..=FILES_MAX).contains(&count), "{count} corpus files");
}

#[test]
fn tls_fuzz_entry_passes_its_corpus() {
    run_corpus("tls", tls::tls);
}

#[test]
fn tls_fuzz_entry_accepts_short_inputs() {
    for byte in (0..=u8::MAX).step_by(5) {
        for len in 0..6 {
            tls::tls(&vec![byte; len]);
        }
    }
}

#[test]
fn listener_fuzz_entry_passes_its_corpus() {
    run_corpus("proxied_listener", proxied_listener::proxied_listener);
}

#[test]
fn listener_fuzz_entry_accepts_short_inputs() {
    for byte in (0..=u8::MAX).step_by(3) {
        for len in 0..12 {
            proxied_listener::proxied_listener(&vec![byte; len]);
        }
    }
}
