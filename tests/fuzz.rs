//! The entries of the fuzz targets, with the corpus that is kept of their runs.

#[path = "fuzz/entries/lib.rs"]
mod entries;

use std::fs;
use std::path::Path;

/// A corpus of more or larger files would be a burden, and not read by anybody.
const FILES_MAX: usize = 50;
const FILE_LEN_MAX: usize = 4096;

#[test]
fn every_entry_takes_its_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, entry) in entries::ENTRIES {
        let folder = fs::read_dir(root.join(name)).expect("each has its corpus");
        let mut count = 0;
        for file in folder {
            let path = file.expect("the folder can be read").path();
            let data = fs::read(&path).expect("the file can be read");
            assert!(data.len() <= FILE_LEN_MAX, "{}", path.display());
            // Told by the test's output, if it fails.
            println!("{}", path.display());
            entry(&data);
            count += 1;
        }
        assert!((1..=FILES_MAX).contains(&count), "{name}: {count} files");
    }
}

#[test]
fn no_input_is_too_short_for_an_entry() {
    for (_, entry) in entries::ENTRIES {
        for byte in 0..=u8::MAX {
            for len in 0..8 {
                entry(&vec![byte; len]);
            }
        }
    }
}
