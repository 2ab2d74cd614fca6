//! Checks the rules of the source tree that a script can check: layers, lengths, words and names.
//! Each failure lists all places, with the rule that is broken and the change to make.

#[path = "tidy/prose.rs"]
mod prose;
#[path = "tidy/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prose::{BANNED, HEADLESS, Paragraph, paragraphs};
use source::{Kind, Source, files, read, sources};

const LINE_COLUMNS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 800;
/// Number of lines above which a file counts as long.
const LONG_FILE_LINES: usize = 600;
const LONG_FILES_MAX: usize = 3;
const FUNCTION_LINES_MAX: usize = 70;
const TEST_NAME_LEN_MAX: usize = 60;
/// Maximum uses of the word "what" per 10,000 words of prose. Clear technical English has 2 to 7.
const WHAT_MAX: f64 = 12.0;
/// Maximum uses of the word "where" per 10,000 words of prose. Clear technical English has 6 to 11.
const WHERE_MAX: f64 = 15.0;

const TREE: [&str; 4] = ["src", "tests", "examples", "benches"];

/// Modules that receive bytes and times as arguments, and use no socket, clock or event loop.
const PURE: [&str; 9] = [
    "src/framed",
    "src/codec",
    "src/conn",
    "src/memory",
    "src/timer",
    "src/datagram",
    "src/cutmap",
    "src/proxy_header",
    "src/tls",
];

/// Layers of modules, from the top. A module uses only modules of the same layer and of lower
/// layers. Modules that are not in the list hold plain values, and every module may use them.
const LAYERS: [&[&str]; 8] = [
    &["testkit"],
    &["framed"],
    &["reactor"],
    &["remote", "reconnect"],
    &["handler", "context"],
    &["engine"],
    &["conn", "os"],
    &[
        "codec", "cutmap", "datagram", "guard", "memory", "timer", "tls",
    ],
];

/// Returns the place of an offset as `path:line`.
fn place(source: &Source, offset: usize) -> String {
    format!("{}:{}", source.path, source.line_of(offset))
}

/// Fails with a list of all places, unless `found` is empty.
fn assert_none(found: &[String]) {
    assert!(
        found.is_empty(),
        "{} places:\n{}",
        found.len(),
        found.join("\n")
    );
}

/// Returns each use of `patterns` in library code outside the `allowed` files and folders.
fn uses_outside(allowed: &[&str], patterns: &[&str], advice: &str) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources(&["src"]) {
        if allowed.iter().any(|place| source.is_under(place)) {
            continue;
        }
        for pattern in patterns {
            for offset in source.find_in_library(pattern) {
                found.push(format!("{}: `{pattern}` {advice}", place(&source, offset)));
            }
        }
    }
    found
}

/// Returns the module of each name that `src/lib.rs` exports.
fn exports() -> BTreeMap<String, String> {
    let lib = Source::load("src/lib.rs");
    let mut exports = BTreeMap::new();
    for offset in lib.find("pub use") {
        let item = lib.code[offset + "pub use".len()..].trim_start();
        let item = &item[..item.find(';').expect("an item has an end")];
        // The item is `module::{A, B}`, `module::A`, or `{first::A, second::B}`.
        let mut module = "";
        for path in item.split([',', '{', '}']).map(str::trim) {
            let name = match path.rsplit_once("::") {
                Some((of_path, name)) => {
                    module = of_path;
                    name
                }
                None => path,
            };
            exports.insert(name.to_owned(), module.to_owned());
        }
    }
    let module_of = |name| exports.get(name).map(String::as_str);
    assert_eq!(module_of("FramedStream"), Some("framed"));
    assert_eq!(module_of("UnixAddr"), Some("addr"));
    exports
}

/// Returns each place in a module that uses a `forbidden` module, or a name that it exports. The
/// module is a folder, or a file without `.rs`.
fn paths_to(folder: &str, forbidden: &[&str]) -> Vec<String> {
    let exports = exports();
    let mut found = Vec::new();
    for source in sources(&[folder, &format!("{folder}.rs")]) {
        for (offset, name) in source.crate_paths() {
            let module = exports.get(name).map_or(name, String::as_str);
            if forbidden.contains(&module) {
                found.push(format!(
                    "{}: {folder} must not know `{module}`; pass the value as an argument, or move \
                     the code up a layer",
                    place(&source, offset)
                ));
            }
        }
    }
    found
}

/// Two files may name `socket2::SockRef`: they let a program set all options of an open socket.
#[test]
fn mio_and_socket2_are_used_in_os_only() {
    let advice = "is used outside src/os; add a method to a type of src/os";
    let mut found = uses_outside(&["src/os"], &["mio"], advice);
    for source in sources(&["src"]) {
        if source.is_under("src/os") {
            continue;
        }
        let exceptions = ["src/context/sockets.rs", "src/engine/mod.rs"];
        let may_use_sock_ref = exceptions.contains(&&*source.path);
        for offset in source.find_in_library("socket2") {
            let is_sock_ref = source.code[offset..].starts_with("socket2::SockRef");
            if !may_use_sock_ref || !is_sock_ref {
                found.push(format!("{}: `socket2` {advice}", place(&source, offset)));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn pure_modules_know_no_io_and_no_loop() {
    let forbidden = [
        "os",
        "engine",
        "reactor",
        "context",
        "handler",
        "remote",
        "reconnect",
    ];
    let mut found = PURE.map(|folder| paths_to(folder, &forbidden)).concat();
    let patterns = [
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "UnixListener",
        "unix::net",
        "fs::",
        "File::",
        "env::",
        "process::",
        "thread::",
    ];
    for source in sources(&PURE) {
        for pattern in patterns {
            for offset in source.find_in_library(pattern) {
                found.push(format!(
                    "{}: a pure module uses `{pattern}`; pass the bytes as an argument",
                    place(&source, offset)
                ));
            }
        }
    }
    assert_none(&found);
}

/// `src/cutmap` may name `Instant`, because it stores times that it receives.
#[test]
fn pure_modules_know_no_clock() {
    let mut found = Vec::new();
    for source in sources(&PURE) {
        let times = if source.is_under("src/cutmap") {
            &["SystemTime"][..]
        } else {
            &["Instant", "SystemTime"]
        };
        for offset in times.iter().flat_map(|time| source.find_in_library(time)) {
            found.push(format!(
                "{}: a pure module names a clock; take the time as a number",
                place(&source, offset)
            ));
        }
    }
    assert_none(&found);
}

/// The simulated system may use the random numbers of `testkit`.
#[test]
fn modules_use_no_layer_above_them() {
    let mut found = Vec::new();
    for (index, layer) in LAYERS.iter().enumerate() {
        let above = LAYERS[..index].concat();
        for module in *layer {
            found.extend(paths_to(&format!("src/{module}"), &above));
        }
    }
    found.retain(|it| !(it.starts_with("src/os/sim/") && it.contains("`testkit`")));
    found.extend(paths_to("src/os", &["conn"]));
    assert_none(&found);
}

#[test]
fn clock_is_read_in_one_file() {
    let patterns = ["Instant::now", "SystemTime::now", ".elapsed("];
    let advice = "reads the clock; only src/os/mod.rs does, pass the time as an argument";
    assert_none(&uses_outside(&["src/os/mod.rs"], &patterns, advice));
}

#[test]
fn raw_steps_are_handled_in_codec_only() {
    let advice = "outside src/codec; use the checked step of src/codec";
    assert_none(&uses_outside(&["src/codec"], &["Step::"], advice));
}

#[test]
fn handler_is_called_in_one_file() {
    let handler = Source::load("src/handler.rs");
    let callbacks: Vec<String> = handler
        .code
        .split("fn on_")
        .skip(1)
        .filter_map(|rest| rest.split('(').next())
        .flat_map(|name| [format!(".on_{name}("), format!("::on_{name}(")])
        .collect();
    assert!(
        callbacks.contains(&".on_frame(".to_owned()) && callbacks.len() > 20,
        "src/handler.rs has too few callbacks, or no on_frame: {callbacks:?}"
    );
    let callbacks: Vec<&str> = callbacks.iter().map(String::as_str).collect();
    let advice = "calls the handler; only src/reactor/callbacks.rs does, add a method there";
    let allowed = ["src/reactor/callbacks.rs"];
    assert_none(&uses_outside(&allowed, &callbacks, advice));
}

/// `FramedStream` is exempt, because its stream belongs to the user.
#[test]
fn sockets_are_read_and_written_in_transport_only() {
    let allowed = [
        "src/engine/transport",
        "src/framed/framed_stream.rs",
        "src/os",
    ];
    let patterns = [
        "socket.read(",
        "socket.write(",
        "stream.read(",
        "stream.write(",
        ".write_gathered(",
    ];
    let advice = "outside the transport; call `fill` or `drain` of src/engine/transport/mod.rs";
    assert_none(&uses_outside(&allowed, &patterns, advice));
}

#[test]
fn mem_forget_is_used_at_most_once() {
    let advice = "is used more than once in src; use a type that expresses the ownership";
    let found = uses_outside(&[], &["mem::forget"], advice);
    assert!(found.len() <= 1, "{}", found.join("\n"));
}

/// `write_vectored` of std may raise `SIGPIPE`: unlike `write`, it does not set `MSG_NOSIGNAL`.
#[test]
fn no_gathered_write_can_raise_a_signal() {
    let advice = "may raise SIGPIPE; call `write_gathered` of src/os";
    assert_none(&uses_outside(&[], &["write_vectored"], advice));
}

#[test]
fn library_does_not_unwrap() {
    let advice = "in the library; return an error, or `expect` with the invariant";
    assert_none(&uses_outside(&[], &[".unwrap()"], advice));
}

#[test]
fn library_is_finished_and_prints_nothing() {
    let patterns = [
        "todo!",
        "unimplemented!",
        "dbg!",
        "println!",
        "print!",
        "eprintln!",
        "eprint!",
    ];
    let advice = "in the library; finish the code, or write to the log";
    assert_none(&uses_outside(&[], &patterns, advice));
}

#[test]
fn library_never_sleeps_or_spins() {
    let patterns = ["thread::sleep", "yield_now", "spin_loop"];
    let advice = "in the library; wait in the poll, with a timer";
    assert_none(&uses_outside(&[], &patterns, advice));
}

/// Only `common::let_pass` may sleep, because tests of timers and timeouts need time to pass.
#[test]
fn tests_do_not_sleep() {
    let mut found = Vec::new();
    for source in sources(&["tests"]) {
        for offset in source.find("thread::sleep") {
            found.push(format!(
                "{}: wait for a condition with a deadline; `common::let_pass` is the only sleep",
                place(&source, offset)
            ));
        }
    }
    let is_allowed = found.len() == 1 && found[0].starts_with("tests/common/mod.rs:");
    assert!(is_allowed, "{}", found.join("\n"));
}

#[test]
fn functions_are_at_most_70_lines() {
    let mut found = Vec::new();
    for source in sources(&TREE) {
        for function in source.functions() {
            let count = function.line_count;
            if count > FUNCTION_LINES_MAX {
                found.push(format!(
                    "{}:{}: `{}` has {count} lines, at most {FUNCTION_LINES_MAX} are allowed; \
                     split it",
                    source.path, function.line, function.name
                ));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn files_are_at_most_800_lines() {
    let mut found = Vec::new();
    for source in sources(&TREE) {
        let count = source.text.lines().count();
        if count > FILE_LINES_MAX {
            found.push(format!(
                "{}:1: {count} lines, at most {FILE_LINES_MAX} are allowed; split the file",
                source.path
            ));
        }
    }
    assert_none(&found);
}

/// A library file has one subject. A test file may be longer, because it may contain all tests of a
/// large subject.
#[test]
fn at_most_three_files_of_src_exceed_600_lines() {
    let mut found = Vec::new();
    for source in sources(&["src"]) {
        let count = source.text.lines().count();
        if count > LONG_FILE_LINES {
            found.push(format!(
                "{}:1: {count} lines; at most {LONG_FILES_MAX} files may exceed {LONG_FILE_LINES}, \
                 split some of these",
                source.path
            ));
        }
    }
    assert!(found.len() <= LONG_FILES_MAX, "{}", found.join("\n"));
}

/// Rows of tables, code blocks of Markdown, and lines with a very long word are exempt, because
/// they cannot be broken.
#[test]
fn lines_are_at_most_100_columns() {
    let mut found = Vec::new();
    for (path, text) in texts() {
        let mut is_code = false;
        for (index, line) in text.lines().enumerate() {
            let is_markdown = path.ends_with(".md");
            is_code ^= is_markdown && line.starts_with("```");
            let is_row = line.trim_start_matches(['/', '!', ' ']).starts_with('|');
            let columns = line.chars().count();
            let word_columns = line.split(' ').map(|word| word.chars().count()).max();
            let indent = columns - line.trim_start().chars().count();
            let is_unbreakable = indent + word_columns.unwrap_or(0) > LINE_COLUMNS_MAX;
            if columns > LINE_COLUMNS_MAX && !is_row && !is_unbreakable && !is_code {
                found.push(format!(
                    "{path}:{}: {columns} columns, at most {LINE_COLUMNS_MAX} are allowed; break \
                     the line",
                    index + 1
                ));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn lines_have_no_tabs_and_no_trailing_spaces() {
    let mut found = Vec::new();
    for (path, text) in texts() {
        for (index, line) in text.lines().enumerate() {
            if line.contains('\t') {
                found.push(format!("{path}:{}: a tab; use spaces", index + 1));
            }
            if line.ends_with(char::is_whitespace) {
                found.push(format!("{path}:{}: ends with a space", index + 1));
            }
        }
    }
    assert_none(&found);
}

/// A patch of `tests/sensitivity` puts a bug into the code, to show that a test finds it.
#[test]
fn sensitivity_patches_apply_to_the_code() {
    let mut found = Vec::new();
    for path in files(&["tests/sensitivity"]) {
        if !path.ends_with(".patch") {
            continue;
        }
        let mut git = std::process::Command::new("git");
        git.args(["apply", "--check", &path])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        let Ok(checked) = git.output() else {
            return; // git is not installed.
        };
        if !checked.status.success() {
            let reason = String::from_utf8_lossy(&checked.stderr).into_owned();
            found.push(format!(
                "{path}: put the bug into the new code; see the README.md beside it: {reason}"
            ));
        }
    }
    assert_none(&found);
}

/// Returns the path and the text of each Rust and Markdown file.
fn texts() -> Vec<(String, String)> {
    let places = [&TREE[..], &["README.md", "CHANGELOG.md", "CONTRIBUTING.md"]].concat();
    files(&places)
        .into_iter()
        .filter(|path| path.ends_with(".rs") || path.ends_with(".md"))
        .map(|path| (path.clone(), read(&path)))
        .collect()
}

#[test]
fn every_file_opens_with_a_module_doc() {
    let mut found = Vec::new();
    for source in sources(&TREE) {
        if !source.text.starts_with("//! ") {
            found.push(format!(
                "{}:1: no module doc; open with `//! ` and one sentence: what the module owns",
                source.path
            ));
        }
    }
    assert_none(&found);
}

#[test]
fn prose_has_no_banned_words() {
    assert!(BANNED.is_sorted(), "keep the list in alphabetical order");
    let mut found = Vec::new();
    for paragraph in paragraphs() {
        for (phrase, replacement) in BANNED {
            for line in paragraph.find(phrase) {
                found.push(format!(
                    "{}:{line}: \"{phrase}\" is hard to read; use {replacement}",
                    paragraph.path
                ));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn docs_open_with_a_noun_or_a_verb() {
    assert!(HEADLESS.is_sorted(), "keep the list in alphabetical order");
    let mut found = Vec::new();
    for paragraph in sources(&["src"]).iter().flat_map(prose::of_source) {
        let is_doc = matches!(paragraph.kind, Kind::Doc | Kind::ModuleDoc);
        let Some((line, word)) = paragraph.words.first().filter(|_| is_doc) else {
            continue;
        };
        let is_same = !paragraph.find("the same").is_empty() && word == "the";
        let is_same = is_same && paragraph.words[1].1 == "same";
        if paragraph.is_first && (HEADLESS.contains(&word.as_str()) || is_same) {
            found.push(format!(
                "{}:{line}: the doc opens with \"{word}\"; use a noun phrase, or a verb such as \
                 \"Returns\"",
                paragraph.path
            ));
        }
    }
    assert_none(&found);
}

#[test]
fn prose_rarely_says_what_and_where() {
    let paragraphs = paragraphs();
    let count: usize = paragraphs.iter().map(|it| it.words.len()).sum();
    let mut found = Vec::new();
    for (word, max) in [("what", WHAT_MAX), ("where", WHERE_MAX)] {
        let uses: usize = paragraphs.iter().map(|it| it.count(word)).sum();
        let rate = per_10_000(uses, count);
        if rate >= max {
            found.push(format!(
                "\"{word}\" is used {rate:.1} times per 10,000 words, the limit is {max}; name \
                 the thing, or use \"if\". Most uses: {}",
                most_uses(&paragraphs, word)
            ));
        }
    }
    assert_none(&found);
}

fn per_10_000(uses: usize, count: usize) -> f64 {
    let number = |count| f64::from(u32::try_from(count).expect("a number of words fits 32 bits"));
    10_000.0 * number(uses) / number(count)
}

/// Returns the ten files that use a word most, with the number of uses.
fn most_uses(paragraphs: &[Paragraph], word: &str) -> String {
    let mut uses = BTreeMap::new();
    for paragraph in paragraphs {
        *uses.entry(paragraph.path.as_str()).or_insert(0) += paragraph.count(word);
    }
    let mut uses: Vec<_> = uses.into_iter().collect();
    uses.sort_by_key(|&(path, count)| (usize::MAX - count, path));
    let uses = uses.iter().take(10);
    let uses: Vec<_> = uses
        .map(|(path, count)| format!("{path} ({count})"))
        .collect();
    uses.join(", ")
}

#[test]
fn test_names_are_at_most_60_characters() {
    let mut found = Vec::new();
    for source in sources(&["src", "tests"]) {
        for function in source.functions() {
            let len = function.name.len();
            if function.is_test && len > TEST_NAME_LEN_MAX {
                found.push(format!(
                    "{}:{}: the name `{}` has {len} characters, at most {TEST_NAME_LEN_MAX} are \
                     allowed; shorten it",
                    source.path, function.line, function.name
                ));
            }
        }
    }
    assert_none(&found);
}

/// Path of the table that maps promises to tests.
const PROMISES: &str = "tests/README.md";

/// Returns the line number and the cells of each row of the tables of promises.
fn promise_rows() -> Vec<(usize, Vec<String>)> {
    let text = read(PROMISES);
    let rows: Vec<(usize, Vec<String>)> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.starts_with("| ") && !line.starts_with("| id |"))
        .map(|(index, line)| {
            let cells = line.trim_matches('|').split(" | ");
            (index + 1, cells.map(|it| it.trim().to_owned()).collect())
        })
        .collect();
    assert!(rows.len() > 50, "{PROMISES} has only {} rows", rows.len());
    rows
}

/// A promise names tests, such as `tests/tcp.rs::name`, or scripts, such as `tests/clients/dns`.
#[test]
fn promised_tests_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests: BTreeSet<String> = sources(&["src", "tests"])
        .iter()
        .flat_map(|source| {
            let tests = source.functions().into_iter().filter(|it| it.is_test);
            let names: Vec<_> = tests
                .map(|it| format!("{}::{}", source.path, it.name))
                .collect();
            names
        })
        .collect();
    let mut found = Vec::new();
    for (line, cells) in promise_rows() {
        let spans = cells.get(2).expect("a row has three cells").split('`');
        let names: Vec<_> = spans.skip(1).step_by(2).collect();
        if names.is_empty() {
            found.push(format!("{PROMISES}:{line}: no test; name one"));
        }
        for name in names {
            let exists = match name.contains("::") {
                true => tests.contains(name),
                false => name.contains('/') && root.join(name).is_file(),
            };
            if !exists {
                found.push(format!(
                    "{PROMISES}:{line}: no test `{name}`; correct its file or its name"
                ));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn promises_have_one_row_each() {
    let mut ids = BTreeSet::new();
    let mut found = Vec::new();
    for (line, cells) in promise_rows() {
        let id = &cells[0];
        let number = id.strip_prefix(|c: char| c.is_ascii_uppercase());
        if number.is_none_or(|it| it.parse::<u32>().is_err()) {
            found.push(format!(
                "{PROMISES}:{line}: `{id}` is not an id such as A1; correct it"
            ));
        }
        if !ids.insert(id.clone()) {
            found.push(format!(
                "{PROMISES}:{line}: {id} has two rows; remove one of them"
            ));
        }
    }
    assert_none(&found);
}
