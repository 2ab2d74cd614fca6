//! The tree keeps its own lines: who may know of what, and how long things are.

use std::fs;
use std::path::{Path, PathBuf};

const LINE_LEN_MAX: usize = 100;
const FILE_LINES_MAX: usize = 800;

/// Modules that turn bytes into frames, or hold them: no sockets, no clock, no loop.
const NO_IO: [&str; 5] = [
    "src/codec",
    "src/memory",
    "src/conn",
    "src/timer",
    "src/datagram",
];

struct Source {
    /// From the package's root on, with `/` between its parts.
    path: String,
    text: String,
}

impl Source {
    fn is_under(&self, place: &str) -> bool {
        self.path
            .strip_prefix(place)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The lines of the library itself, numbered: without comments, and without the unit tests,
    /// which stand last.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines
            .take_while(|(_, line)| !line.starts_with("mod tests {"))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(index, line)| (index + 1, line))
    }
}

/// All Rust files of the package under these folders.
fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let parts = path.strip_prefix(root).expect("it is in the package");
                let parts: Vec<_> = parts.iter().map(|part| part.to_string_lossy()).collect();
                let text = fs::read_to_string(&path).expect("it is text");
                sources.push(Source {
                    path: parts.join("/"),
                    text,
                });
            }
        }
    }
    assert!(!sources.is_empty(), "nothing was looked at");
    sources
}

fn library() -> Vec<Source> {
    sources(&["src"])
}

fn all() -> Vec<Source> {
    sources(&["src", "tests", "examples", "benches"])
}

/// Fails with every place that was found, not only the first.
fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Code lines of `sources` that contain one of `words`.
fn mentions<'a>(sources: impl IntoIterator<Item = &'a Source>, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (number, line) in source.code() {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    found
}

#[test]
fn mio_appears_only_where_the_sockets_are() {
    let library = library();
    let elsewhere = library.iter().filter(|source| !source.is_under("src/os"));
    assert_none(&mentions(elsewhere, &["mio::", "use mio"]));
}

#[test]
fn the_clock_is_read_in_one_file_only() {
    let library = library();
    let elsewhere = library
        .iter()
        .filter(|source| source.path != "src/os/clock.rs");
    assert_none(&mentions(
        elsewhere,
        &["Instant::now", "SystemTime", ".elapsed()"],
    ));
}

#[test]
fn what_handles_bytes_knows_no_socket_no_loop_and_no_clock() {
    let library = library();
    for place in NO_IO {
        let inside: Vec<_> = library
            .iter()
            .filter(|source| source.is_under(place))
            .collect();
        assert!(!inside.is_empty(), "{place} is not there");
        let words = [
            "mio",
            "socket2",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "Instant",
            "crate::os",
            "crate::reactor",
            "crate::engine",
            "crate::context",
            "crate::handler",
        ];
        assert_none(&mentions(inside, &words));
    }
}

/// Gathered writes by std may raise `SIGPIPE`: unlike `write`, they do not ask for none. Those of
/// this crate do, in calls of their own.
#[test]
fn no_gathered_write_can_raise_a_signal() {
    assert_none(&mentions(&library(), &["write_vectored"]));
}

#[test]
fn the_library_does_not_unwrap_or_leave_notes_to_itself() {
    let words = [
        ".unwrap()",
        "todo!",
        "unimplemented!",
        "dbg!",
        "println!",
        "print!(",
    ];
    assert_none(&mentions(&library(), &words));
}

#[test]
fn the_library_sleeps_and_spins_nowhere() {
    assert_none(&mentions(
        &library(),
        &["thread::sleep", "yield_now", "spin_loop"],
    ));
}

#[test]
fn every_file_says_first_what_it_is() {
    let silent = library()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect::<Vec<_>>();
    assert_none(&silent);
}

#[test]
fn lines_and_files_are_short_and_have_no_tabs() {
    let mut found = Vec::new();
    for source in all() {
        let path = &source.path;
        for (index, line) in source.text.lines().enumerate() {
            let number = index + 1;
            let len = line.chars().count();
            // A row of a table in the documentation cannot be broken.
            let is_row = ["//! |", "/// |"].iter().any(|row| line.starts_with(row));
            if len > LINE_LEN_MAX && !is_row {
                found.push(format!("{path}:{number}: {len} columns"));
            }
            if line.contains('\t') {
                found.push(format!("{path}:{number}: a tab"));
            }
            if line.ends_with(char::is_whitespace) {
                found.push(format!("{path}:{number}: ends with a space"));
            }
        }
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            found.push(format!("{path}: {lines} lines"));
        }
    }
    assert_none(&found);
}

/// A test that sleeps to wait is slow where the machine is fast, and fails where it is slow.
#[test]
fn tests_wait_for_conditions_and_not_by_sleeping() {
    let tests = sources(&["tests"]);
    let others = tests.iter().filter(|source| source.path != "tests/tidy.rs");
    // The one place is for tests whose matter is time itself.
    let found = mentions(others, &["thread::sleep"]);
    assert_eq!(found.len(), 1, "{}", found.join("\n"));
    assert!(found[0].starts_with("tests/common/mod.rs"), "{}", found[0]);
}
