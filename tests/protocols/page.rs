//! Check that the guide page shows the code that these tests run.

/// Source files whose items above the first test are on the page.
const SHOWN: [(&str, &str); 8] = [
    ("length.rs", include_str!("length.rs")),
    ("header.rs", include_str!("header.rs")),
    ("variable.rs", include_str!("variable.rs")),
    ("text.rs", include_str!("text.rs")),
    ("sockets.rs", include_str!("sockets.rs")),
    ("stateful.rs", include_str!("stateful.rs")),
    ("delimited.rs", include_str!("delimited.rs")),
    ("resync.rs", include_str!("resync.rs")),
];

#[test]
fn guide_page_shows_the_tested_code() {
    let page = include_str!("../../src/guide/protocols.md");
    for (file, source) in SHOWN {
        let (shown, _) = source.split_once("#[test]").expect("the file has tests");
        let shown = shown.replace("pub(crate) ", "");
        for part in shown.split("\n\n") {
            if part.starts_with("//! ") || part.starts_with("use ") {
                continue;
            }
            assert!(
                page.contains(part),
                "{file}: the page does not show\n{part}"
            );
        }
    }
}
