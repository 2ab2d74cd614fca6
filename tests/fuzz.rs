//! Runs the entry function of each fuzz target, except `tls` and `proxied_listener`, with the
//! inputs of its committed corpus, and with short inputs. `tests/simulation` runs the corpora of
//! those two.

#[path = "fuzz/entries/lib.rs"]
mod entries;

use std::fs;
use std::path::Path;

/// Maximum number of files in a corpus, which keeps the corpus small enough to review.
const FILES_MAX: usize = 50;
/// Maximum length of a corpus file, in bytes.
const FILE_LEN_MAX: usize = 4096;

#[test]
fn every_fuzz_entry_passes_its_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, entry) in entries::ENTRIES {
        let folder = fs::read_dir(root.join(name)).expect("every entry has a corpus folder");
        let mut count = 0;
        for file in folder {
            let path = file.expect("the folder can be read").path();
            let data = fs::read(&path).expect("the file can be read");
            assert!(
                data.len() <= FILE_LEN_MAX,
                "{} is longer than {FILE_LEN_MAX} bytes",
                path.display()
            );
            // If the test fails, the last printed line names the failing input.
            println!("{}", path.display());
            entry(&data);
            count += 1;
        }
        assert!(
            (1..=FILES_MAX).contains(&count),
            "{name} has {count} corpus files, not 1 to {FILES_MAX}"
        );
    }
}

#[test]
fn fuzz_entries_accept_up_to_seven_equal_bytes() {
    for (_, entry) in entries::ENTRIES {
        for byte in 0..=u8::MAX {
            for len in 0..8 {
                entry(&vec![byte; len]);
            }
        }
    }
}
