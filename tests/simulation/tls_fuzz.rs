//! The entry of the fuzz target `tls` over its committed corpus.

use std::fs;
use std::path::Path;

use super::entries::input::Input;

#[allow(
    unreachable_pub,
    reason = "the fuzz target is a crate that includes this file too"
)]
#[path = "../fuzz/entries/tls.rs"]
mod tls;

/// Maximum number of files in the corpus, as for the other fuzz targets.
const FILES_MAX: usize = 50;

#[test]
fn tls_fuzz_entry_passes_its_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/tls");
    let mut count = 0;
    for file in fs::read_dir(folder).expect("the corpus has a folder") {
        let path = file.expect("the folder can be read").path();
        println!("{}", path.display());
        tls::tls(&fs::read(&path).expect("the file can be read"));
        count += 1;
    }
    assert!((1..=FILES_MAX).contains(&count), "{count} corpus files");
}

#[test]
fn tls_fuzz_entry_accepts_short_inputs() {
    for byte in (0..=u8::MAX).step_by(5) {
        for len in 0..6 {
            tls::tls(&vec![byte; len]);
        }
    }
}
