//! The page: one file of HTML, with its style, its script and its data in it.

use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};

use crate::experiments::ALL;
use crate::knobs::{FRAMINGS, Knobs, NUMBERS, SWITCHES};
use crate::outcome::{Outcome, quoted};

const HTML: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");

/// A page of what was run already: it needs nothing but itself. Without outcomes, it asks the
/// server that it came from.
pub(crate) fn build(outcomes: &[Outcome], nonce: &str) -> String {
    let html = HTML.replace("{{NONCE}}", nonce);
    // The data last: it is put in, and not looked at.
    let html = html.replace("{{SCRIPT}}", SCRIPT);
    html.replace("{{DATA}}", &data(outcomes))
}

/// A word that nobody can guess, for the scripts that are ours.
pub(crate) fn nonce() -> String {
    let random = || RandomState::new().hash_one(0_u8);
    format!("{:016x}{:016x}", random(), random())
}

fn data(outcomes: &[Outcome]) -> String {
    let mut json = format!(r#"{{"live":{},"experiments":["#, outcomes.is_empty());
    for (index, experiment) in ALL.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(
            json,
            r#"{comma}{{"name":{},"title":{},"group":{},"transport":{},"why":{},"knobs":{}}}"#,
            quoted(experiment.name),
            quoted(experiment.title),
            quoted(experiment.group()),
            quoted(experiment.transport),
            quoted(experiment.why),
            experiment.knobs().to_json(),
        );
    }
    json += r#"],"knobs":["#;
    json += &knobs().join(",");
    json += r#"],"outcomes":["#;
    let outcomes: Vec<_> = outcomes.iter().map(Outcome::to_json).collect();
    json += &outcomes.join(",");
    json + "]}"
}

/// The knobs, each with what it takes and its default.
fn knobs() -> Vec<String> {
    let mut defaults = Knobs::default();
    let mut knobs = Vec::new();
    for (name, min, max, place, what) in NUMBERS {
        knobs.push(format!(
            r#"{{"name":"{name}","kind":"number","min":{min},"max":{max},"value":"{}","what":{}}}"#,
            place(&mut defaults),
            quoted(what)
        ));
    }
    for (name, _, what) in SWITCHES {
        knobs.push(format!(
            r#"{{"name":"{name}","kind":"switch","value":"off","what":{}}}"#,
            quoted(what)
        ));
    }
    let choices: Vec<_> = FRAMINGS.iter().map(|name| quoted(name)).collect();
    knobs.push(format!(
        r#"{{"name":"framing","kind":"choice","choices":[{}],"value":"{}","what":"on TCP"}}"#,
        choices.join(","),
        defaults.framing
    ));
    knobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_nobody_else_and_has_one_word_for_its_scripts() {
        let page = build(&[], "word");
        for foreign in ["http://", "https://", "//cdn", "@import", "{{"] {
            let places = page.matches(foreign).count();
            // The namespace of SVG is a name, and no address.
            let names = usize::from(foreign == "http://");
            assert_eq!(places, names, "{foreign}");
        }
        assert_eq!(
            page.matches("<script").count(),
            page.matches("nonce=\"word\"").count() - 1
        );
        assert_ne!(nonce(), nonce());
    }
}
