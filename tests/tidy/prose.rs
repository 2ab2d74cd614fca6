//! The English of comments, docs and Markdown: the banned words, and the paragraphs of the tree.

use crate::source::{Comment, Kind, Source, files, read, sources};

/// Words and phrases that are hard to read, with the replacement, in alphabetical order. A slash
/// separates forms of a word.
pub(crate) const BANNED: [(&str, &str); 32] = [
    ("anew", "again"),
    ("answer/answers as/which/with", "return, or report"),
    ("answer/answers false/true", "return"),
    ("answer/answers how", "return the number of"),
    ("answer/answers too", "also return"),
    ("answer/answers whether", "return true if"),
    ("as it stands", "the present state"),
    ("as there", "the name of the other item"),
    ("come/comes to be", "become"),
    ("heed/heeds", "handle, or check"),
    ("in the midst", "in the middle, or during"),
    ("let/lets on", "resume"),
    ("look/looks at it", "check it"),
    ("made ready", "prepared, or allocated"),
    ("names nothing", "is closed"),
    ("nobody", "the component or user that is meant"),
    ("nought", "zero"),
    ("of its own", "own, or separate"),
    ("of which there", "a sentence of its own"),
    ("one that is", "an adjective"),
    ("seldom", "rarely"),
    ("so many", "the number, or a name for it"),
    ("somebody", "the component or user that is meant"),
    ("stand/stands in the/its/a", "is, or is stored"),
    ("tell/tells/told of", "report, or notify"),
    ("those that are", "an adjective"),
    ("what is there", "the noun that is meant"),
    ("what stands", "the noun that is meant"),
    ("whoever", "the component or user that is meant"),
    ("whom", "the component or user that is meant"),
    ("whomever", "the component or user that is meant"),
    ("with a word", "with a message"),
];

/// Words that a doc comment must not open with, in alphabetical order.
pub(crate) const HEADLESS: [&str; 23] = [
    "as",
    "behind",
    "by",
    "for",
    "how",
    "in",
    "most",
    "neither",
    "nothing",
    "of",
    "since",
    "so",
    "what",
    "where",
    "whether",
    "which",
    "whichever",
    "while",
    "who",
    "whoever",
    "whom",
    "whose",
    "with",
];

/// Files and folders with prose, outside the folders of source code.
const ROOT_FILES: [&str; 5] = [
    ".ci",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.toml",
    "README.md",
];

/// A paragraph of a comment or of a Markdown file.
pub(crate) struct Paragraph {
    pub path: String,
    pub kind: Kind,
    /// True if the paragraph is the first of its comment.
    pub is_first: bool,
    /// Line number and lower-case text of each word. Link targets are left out.
    pub words: Vec<(usize, String)>,
}

impl Paragraph {
    pub(crate) fn count(&self, word: &str) -> usize {
        self.words.iter().filter(|(_, it)| it == word).count()
    }

    /// Returns the lines on which a phrase starts.
    pub(crate) fn find(&self, phrase: &str) -> Vec<usize> {
        let phrase: Vec<Vec<&str>> = phrase
            .split(' ')
            .map(|word| word.split('/').collect())
            .collect();
        self.words
            .windows(phrase.len())
            .filter(|words| {
                let mut pairs = words.iter().zip(&phrase);
                pairs.all(|((_, word), forms)| forms.contains(&word.as_str()))
            })
            .map(|words| words[0].0)
            .collect()
    }
}

/// Returns the prose of Rust comments and Markdown files, and of the comments in TOML files, in
/// `*.sh` files and in some scripts.
pub(crate) fn paragraphs() -> Vec<Paragraph> {
    let folders = ["src", "tests", "examples", "benches"];
    let mut paragraphs = Vec::new();
    for source in sources(&folders) {
        paragraphs.extend(of_source(&source));
    }
    for path in files(&[&folders[..], &ROOT_FILES].concat()) {
        let is_markdown = path.ends_with(".md");
        let is_script = [".toml", ".sh", ".ci/run", "interop/run"]
            .iter()
            .any(|end| path.ends_with(end));
        if is_markdown || is_script {
            let lines = if is_markdown {
                markdown_lines(&read(&path))
            } else {
                script_lines(&read(&path))
            };
            paragraphs.extend(split(&path, &lines));
        }
    }
    paragraphs
}

/// Returns the prose of a Rust file.
pub(crate) fn of_source(source: &Source) -> Vec<Paragraph> {
    split(&source.path, &source.comments)
}

fn markdown_lines(text: &str) -> Vec<Comment> {
    let lines = text.lines().enumerate();
    lines
        .map(|(index, line)| Comment {
            line: index + 1,
            kind: Kind::Markdown,
            text: line.to_owned(),
            is_trailing: false,
        })
        .collect()
}

fn script_lines(text: &str) -> Vec<Comment> {
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| line.trim_start().starts_with('#') && !line.starts_with("#!"))
        .map(|(index, line)| Comment {
            line: index + 1,
            kind: Kind::Plain,
            text: line.trim_start().trim_start_matches('#').trim().to_owned(),
            is_trailing: false,
        })
        .collect()
}

/// Splits comments into paragraphs. Leaves out code blocks, tables, headings, and lines that start
/// with `[`.
fn split(path: &str, comments: &[Comment]) -> Vec<Paragraph> {
    let mut paragraphs: Vec<Paragraph> = Vec::new();
    let mut is_open = false;
    let mut is_code = false;
    let mut last: Option<&Comment> = None;
    for comment in comments {
        let is_new = last.is_none_or(|last| {
            last.kind != comment.kind || last.line + 1 != comment.line || comment.is_trailing
        });
        last = Some(comment);
        if is_new {
            is_open = false;
            is_code = false;
        }
        let text = comment.text.as_str();
        if text.starts_with("```") {
            is_code = !is_code;
            is_open = false;
            continue;
        }
        let is_left_out = text.is_empty() || text.starts_with(['|', '#', '[']);
        if is_code || is_left_out || text.starts_with("    ") {
            is_open = false;
            continue;
        }
        if !is_open {
            paragraphs.push(Paragraph {
                path: path.to_owned(),
                kind: comment.kind,
                is_first: is_new,
                words: Vec::new(),
            });
            is_open = true;
        }
        let paragraph = paragraphs.last_mut().expect("a paragraph is open");
        let words = words(text).into_iter().map(|word| (comment.line, word));
        paragraph.words.extend(words);
    }
    paragraphs
}

/// Returns the lower-case words of a line. A code span counts as the word `x`.
fn words(line: &str) -> Vec<String> {
    let mut prose = String::new();
    for (index, part) in line.split('`').enumerate() {
        prose.push_str(if index % 2 == 0 { part } else { " x " });
    }
    let mut text = String::new();
    let mut rest = prose.as_str();
    while let Some(start) = rest.find("](") {
        text.push_str(&rest[..start]);
        rest = &rest[start..];
        rest = &rest[rest.find(')').unwrap_or(rest.len() - 1) + 1..];
    }
    text.push_str(rest);
    text.split(|c: char| !c.is_ascii_alphabetic() && c != '\'')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}
