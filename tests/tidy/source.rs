//! The source files of the package, separated into code, comments and unit tests.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Names of folders without source code of the package.
const SKIPPED_FOLDERS: [&str; 5] = ["target", "corpus", "runs", "artifacts", "node_modules"];

/// A comment, or the part of a comment that is on one line.
pub(crate) struct Comment {
    pub line: usize,
    pub kind: Kind,
    /// Text after the comment mark and one space.
    pub text: String,
    /// True if code precedes the comment on its line.
    pub is_trailing: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `//`, `/* */`, or `#` in a script.
    Plain,
    /// `///`
    Doc,
    /// `//!`
    ModuleDoc,
    /// A line of a Markdown file.
    Markdown,
}

/// A function with a body.
pub(crate) struct Function {
    pub name: String,
    pub line: usize,
    /// Lines from `fn` to the closing brace, without doc comments.
    pub line_count: usize,
    pub is_test: bool,
}

/// A Rust file.
pub(crate) struct Source {
    /// Path from the root of the package, with `/` between its parts.
    pub path: String,
    pub text: String,
    /// The text with spaces in place of comments, strings and characters. Offsets stay the same.
    pub code: String,
    pub comments: Vec<Comment>,
    /// Parts of `code` that are compiled only for unit tests.
    test_parts: Vec<Range<usize>>,
}

impl Source {
    /// Reads one file.
    pub(crate) fn load(path: &str) -> Self {
        Self::new(path.to_owned(), read(path))
    }

    fn new(path: String, text: String) -> Self {
        let (code, comments) = lex(&text);
        let test_parts = test_parts(&code);
        Self {
            path,
            text,
            code,
            comments,
            test_parts,
        }
    }

    /// Returns true if `place` is the path of this file, or of a folder that contains this file.
    pub(crate) fn is_under(&self, place: &str) -> bool {
        self.path
            .strip_prefix(place)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Returns the number of the line that contains this offset.
    pub(crate) fn line_of(&self, offset: usize) -> usize {
        1 + self.code[..offset].matches('\n').count()
    }

    /// Returns true if the code at this offset is compiled only for unit tests.
    pub(crate) fn is_unit_test(&self, offset: usize) -> bool {
        self.test_parts.iter().any(|part| part.contains(&offset))
    }

    /// Returns the offsets of a pattern in the code. If the pattern starts or ends with a letter,
    /// only whole words match.
    pub(crate) fn find(&self, pattern: &str) -> Vec<usize> {
        let is_start = |offset: usize| {
            !pattern.starts_with(is_ident) || !self.code[..offset].ends_with(is_ident)
        };
        let is_end = |offset: usize| {
            !pattern.ends_with(is_ident) || !self.code[offset..].starts_with(is_ident)
        };
        self.code
            .match_indices(pattern)
            .map(|(offset, _)| offset)
            .filter(|&offset| is_start(offset) && is_end(offset + pattern.len()))
            .collect()
    }

    /// Returns the offsets of a pattern in code that is not a unit test.
    pub(crate) fn find_in_library(&self, pattern: &str) -> Vec<usize> {
        let mut offsets = self.find(pattern);
        offsets.retain(|&offset| !self.is_unit_test(offset));
        offsets
    }

    /// Returns the functions that have a body.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        let macro_tests = self.macro_tests();
        for offset in self.find("fn") {
            let rest = self.code[offset + 2..].trim_start();
            let name: String = rest.chars().take_while(|&c| is_ident(c)).collect();
            let Some(body) = body(&self.code, offset).filter(|_| !name.is_empty()) else {
                continue;
            };
            let lines = self.line_of(offset)..self.line_of(body.end);
            let docs = self
                .comments
                .iter()
                .filter(|comment| comment.kind != Kind::Plain && lines.contains(&comment.line));
            // A macro call such as `for_every_framing!(name);` creates tests that call `name`.
            let is_macro_test =
                self.code.contains(&format!("!({name});")) || macro_tests.contains(&name.as_str());
            functions.push(Function {
                name,
                line: lines.start,
                line_count: lines.end + 1 - lines.start - docs.count(),
                is_test: is_macro_test || self.has_test_attribute(offset),
            });
        }
        functions
    }

    /// Returns the function names in each `on_all_transports! { .. }`. This macro creates
    /// several tests per function. An attribute may precede a name, as in `#[cfg(unix)] name`. The
    /// list may have a second part, after `; not over TLS:`.
    fn macro_tests(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for offset in self.find("on_all_transports! {") {
            let start = offset + "on_all_transports! ".len();
            let end = closing(&self.code, start).unwrap_or(self.code.len());
            let items = self.code[start + 1..end].split([',', ';']);
            names.extend(items.map(|item| item.rsplit([']', ':']).next().unwrap_or(item).trim()));
        }
        names
    }

    /// Returns true if `#[test]` is among the attributes before a `fn`.
    fn has_test_attribute(&self, offset: usize) -> bool {
        let before = &self.code[..offset];
        let start = before.rfind([';', '}', '{']).map_or(0, |at| at + 1);
        before[start..].contains("#[test]")
    }

    /// Returns the first name of each path that starts at the root of the crate, with its offset.
    /// Unit tests are left out.
    pub(crate) fn crate_paths(&self) -> Vec<(usize, &str)> {
        let mut starts: Vec<usize> = self
            .find_in_library("crate::")
            .iter()
            .map(|offset| offset + "crate::".len())
            .collect();
        let to_root = "super::".repeat(self.module_depth());
        starts.extend(
            self.find_in_library(&to_root)
                .iter()
                .map(|offset| offset + to_root.len()),
        );
        let mut names = Vec::new();
        for start in starts {
            if self.code[start..].starts_with('{') {
                let end = closing(&self.code, start).expect("braces are balanced");
                names.extend(group_names(&self.code, start + 1..end));
            } else {
                names.push((start, ident_at(&self.code, start)));
            }
        }
        names
    }

    /// Returns the number of steps `super::` from this file's module to the crate root, at least
    /// one.
    fn module_depth(&self) -> usize {
        let parts = self.path.split('/').count() - 1;
        let is_folder = self.path.ends_with("/mod.rs");
        (parts - usize::from(is_folder)).max(1)
    }
}

/// Returns all Rust files under these folders, sorted by path.
pub(crate) fn sources(folders: &[&str]) -> Vec<Source> {
    let mut sources: Vec<Source> = files(folders)
        .into_iter()
        .filter(|path| path.ends_with(".rs"))
        .map(|path| Source::load(&path))
        .collect();
    mark_test_files(&mut sources);
    sources
}

/// Returns the text of a file of the package.
pub(crate) fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the paths of these files, and of all files under these folders, sorted. Leaves out
/// [`SKIPPED_FOLDERS`].
pub(crate) fn files(places: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open: Vec<PathBuf> = places.iter().map(|place| root.join(place)).collect();
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            if SKIPPED_FOLDERS.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            let entries = fs::read_dir(&path).expect("the folder can be read");
            open.extend(entries.map(|entry| entry.expect("the folder can be read").path()));
        } else if path.is_file() {
            let parts = path
                .strip_prefix(root)
                .expect("the file is in the package")
                .iter()
                .map(|part| part.to_string_lossy());
            files.push(parts.collect::<Vec<_>>().join("/"));
        }
    }
    assert!(!files.is_empty(), "no file found in {places:?}");
    files.sort();
    files
}

/// Marks a file, and all files below its folder, as test code if a `mod name;` with `#[cfg(test)]`
/// declares its module.
fn mark_test_files(sources: &mut [Source]) {
    let mut test_modules = Vec::new();
    for source in sources.iter() {
        let folder = match source.path.strip_suffix("/mod.rs") {
            Some(folder) => folder,
            None if source.path == "src/lib.rs" => "src",
            None => source.path.trim_end_matches(".rs"),
        };
        for offset in source.find("mod") {
            let name = source.code[offset + 3..].trim_start();
            let name = ident_at(name, 0);
            let is_declared = source.code[offset..]
                .find([';', '{'])
                .is_some_and(|end| source.code[offset + end..].starts_with(';'));
            if source.is_unit_test(offset) && is_declared {
                test_modules.push(format!("{folder}/{name}"));
            }
        }
    }
    for source in sources {
        let is_test = |module: &String| {
            source.path == format!("{module}.rs") || source.is_under(module.as_str())
        };
        if test_modules.iter().any(is_test) {
            source.test_parts.push(0..source.code.len() + 1);
        }
    }
}

fn is_ident(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn ident_at(code: &str, start: usize) -> &str {
    let rest = &code[start..];
    let end = rest.find(|c: char| !is_ident(c)).unwrap_or(rest.len());
    &rest[..end]
}

/// Returns the offset of the bracket that closes the bracket at `start`.
fn closing(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in code[start..].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(start + at);
        }
    }
    None
}

/// Returns the range of a function body, from the opening to the closing brace. The function's `fn`
/// is at `start`.
fn body(code: &str, start: usize) -> Option<Range<usize>> {
    let mut at = start;
    loop {
        at += code[at..].find(['{', '(', '[', ';', '}', ')', ']'])?;
        match code.as_bytes()[at] {
            b'{' => return Some(at..closing(code, at)?),
            b'(' | b'[' => at = closing(code, at)? + 1,
            _ => return None,
        }
    }
}

/// Returns the first name of each path in a group, such as `a` and `c` in `{a::{b, d}, c}`.
fn group_names(code: &str, group: Range<usize>) -> Vec<(usize, &str)> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut is_start = true;
    for (at, c) in code[group.clone()].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            _ if is_start && is_ident(c) => {
                names.push((group.start + at, ident_at(code, group.start + at)));
                is_start = false;
            }
            _ => {}
        }
    }
    names
}

/// Returns the ranges of the items that follow an attribute such as `#[cfg(test)]`.
fn test_parts(code: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    for attribute in ["#[cfg(test)]", "#[cfg(all(test", "#[cfg(loom)]"] {
        for (start, _) in code.match_indices(attribute) {
            let bracket = start + 1;
            let end = closing(code, bracket).map_or(code.len(), |end| item_end(code, end + 1));
            parts.push(start..end);
        }
    }
    parts
}

/// Returns the end of the item, field, variant or statement that starts at `start`.
fn item_end(code: &str, start: usize) -> usize {
    let mut at = start;
    while let Some(next) = code[at..].find(['{', '(', '[', ';', ',', '}', ')', ']']) {
        at += next;
        let is_list = ["fn", "impl", "struct", "enum", "trait", "type"]
            .iter()
            .any(|word| code[start..at].split_whitespace().any(|it| it == *word));
        match code.as_bytes()[at] {
            b',' if is_list => at += 1,
            b'{' => return closing(code, at).map_or(code.len(), |end| end + 1),
            b'(' | b'[' => match closing(code, at) {
                Some(end) => at = end + 1,
                None => return code.len(),
            },
            _ => return at,
        }
    }
    code.len()
}

/// Splits a Rust file into its code and its comments.
fn lex(text: &str) -> (String, Vec<Comment>) {
    let mut lexer = Lexer {
        text,
        at: 0,
        code: String::with_capacity(text.len()),
        comments: Vec::new(),
    };
    while lexer.at < text.len() {
        lexer.step();
    }
    (lexer.code, lexer.comments)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    code: String,
    comments: Vec<Comment>,
}

impl Lexer<'_> {
    fn step(&mut self) {
        let rest = &self.text[self.at..];
        let is_word = self.code.ends_with(is_ident);
        if rest.starts_with("//") {
            let len = rest.find('\n').unwrap_or(rest.len());
            self.comment(len);
        } else if rest.starts_with("/*") {
            let len = rest.find("*/").map_or(rest.len(), |end| end + 2);
            self.comment(len);
        } else if let Some(len) = raw_string_len(rest).filter(|_| !is_word) {
            self.blank(len);
        } else if rest.starts_with('"') {
            self.blank(quoted_len(rest, '"'));
        } else if let Some(len) = char_len(rest) {
            self.blank(len);
        } else {
            let c = rest.chars().next().expect("the text has not ended");
            self.code.push(c);
            self.at += c.len_utf8();
        }
    }

    /// Replaces text by spaces and keeps its line ends.
    fn blank(&mut self, len: usize) {
        for byte in self.text[self.at..self.at + len].bytes() {
            self.code.push(if byte == b'\n' { '\n' } else { ' ' });
        }
        self.at += len;
    }

    fn comment(&mut self, len: usize) {
        let line = 1 + self.code.matches('\n').count();
        let line_start = self.code.rfind('\n').map_or(0, |at| at + 1);
        let is_trailing = !self.code[line_start..].trim().is_empty();
        for (index, text) in self.text[self.at..self.at + len].lines().enumerate() {
            let text = text.trim();
            let (kind, text) = match text {
                _ if text.starts_with("////") => (Kind::Plain, ""),
                _ if text.starts_with("///") => (Kind::Doc, &text[3..]),
                _ if text.starts_with("//!") => (Kind::ModuleDoc, &text[3..]),
                _ => (Kind::Plain, text.trim_start_matches(['/', '*'])),
            };
            self.comments.push(Comment {
                line: line + index,
                kind,
                text: text.strip_prefix(' ').unwrap_or(text).to_owned(),
                is_trailing,
            });
        }
        self.blank(len);
    }
}

/// Returns the length of the raw string, with or without a `b`, that `rest` starts with.
fn raw_string_len(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('b').unwrap_or(rest).strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let content = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let content_len = content.find(&end).unwrap_or(content.len());
    Some((rest.len() - content.len() + content_len + end.len()).min(rest.len()))
}

/// Returns the length of a string or character with its quotes.
fn quoted_len(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Returns the length of the character literal that `rest` starts with. Returns `None` if `rest`
/// starts with a lifetime such as `'a`, which has no closing quote.
fn char_len(rest: &str) -> Option<usize> {
    let mut chars = rest.strip_prefix('\'')?.chars();
    let first = chars.next()?;
    let is_char = first == '\\' || chars.next() == Some('\'');
    is_char.then(|| quoted_len(rest, '\''))
}

#[test]
fn comments_and_strings_are_not_code() {
    let text =
        "let a = \"x // y\"; // \"z\"\nlet b = r#\"\"k\"#; let c = '\"'; /* k */ fn d<'k>() {}\n";
    let source = Source::new("src/a.rs".to_owned(), text.to_owned());
    assert_eq!(source.code.len(), text.len());
    for word in ["x", "y", "z"] {
        assert_eq!(source.find(word), [], "{word} is not code");
    }
    assert_eq!(source.find("k").len(), 1, "`k` is code only in `'k`");
    let comments: Vec<_> = source.comments.iter().map(|it| it.text.trim()).collect();
    assert_eq!(comments, ["\"z\"", "k */"]);
    assert_eq!(source.functions()[0].line, 2);
}

#[test]
fn unit_tests_are_not_the_library() {
    let text = "fn a() { x }\n#[cfg(test)]\nfn b(c: u8, d: u8) { x }\nstruct E {\n\
        #[cfg(test)]\nf: x,\ng: x,\n}\n\
        #[cfg(test)]\nmod tests {\n    #[test]\n    fn h() { x }\n}\n";
    let source = Source::new("src/a.rs".to_owned(), text.to_owned());
    let uses = source.find_in_library("x");
    let lines: Vec<_> = uses.iter().map(|&it| source.line_of(it)).collect();
    assert_eq!(lines, [1, 7]);
    let tests: Vec<_> = source.functions().iter().map(|it| it.is_test).collect();
    assert_eq!(tests, [false, false, true]);
}

#[test]
fn functions_in_the_list_of_a_macro_are_tests() {
    let text = "on_all_transports! {\n    #[cfg(unix)] a;\n    not over TLS:\n    b,\n}\n\
        fn a() { x }\nfn b() { x }\nfn c() { x }\n";
    let source = Source::new("src/a.rs".to_owned(), text.to_owned());
    let tests: Vec<_> = source.functions().iter().map(|it| it.is_test).collect();
    assert_eq!(tests, [true, true, false]);
}

#[test]
fn paths_to_other_modules_are_found_in_groups() {
    let text =
        "use crate::{a::{x, y}, b};\nuse super::super::c::z;\nuse super::x;\nuse crate::d;\n";
    let source = Source::new("src/conn/part.rs".to_owned(), text.to_owned());
    let mut names: Vec<_> = source.crate_paths().iter().map(|it| it.1).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "c", "d"]);
}
