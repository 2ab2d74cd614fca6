//! The web page of the results: one HTML file with its style, its script and its data.

use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};

use crate::experiments::ALL;
use crate::knobs::{FRAMINGS, Knobs, NUMBERS, SWITCHES};
use crate::outcome::{Outcome, quoted};

const HTML: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");

/// Builds the HTML page. A page with results needs no server. A page without results requests runs
/// from the server that sent it.
pub(crate) fn build(outcomes: &[Outcome], nonce: &str) -> String {
    let html = HTML.replace("{{NONCE}}", nonce);
    // Insert the data last, because `replace` would also replace a placeholder within the data.
    let html = html.replace("{{SCRIPT}}", SCRIPT);
    html.replace("{{DATA}}", &data(outcomes))
}

/// Returns an unpredictable nonce; the browser runs only scripts with this nonce.
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

/// Returns the settings as JSON objects, each with its kind, bounds, default and description.
fn knobs() -> Vec<String> {
    let mut defaults = Knobs::default();
    let mut knobs = Vec::new();
    for (name, min, max, field, description) in NUMBERS {
        knobs.push(format!(
            r#"{{"name":"{name}","kind":"number","min":{min},"max":{max},"value":"{}","help":{}}}"#,
            field(&mut defaults),
            quoted(description)
        ));
    }
    for (name, _, description) in SWITCHES {
        knobs.push(format!(
            r#"{{"name":"{name}","kind":"switch","value":"off","help":{}}}"#,
            quoted(description)
        ));
    }
    let choices: Vec<_> = FRAMINGS.iter().map(|name| quoted(name)).collect();
    knobs.push(format!(
        r#"{{"name":"framing","kind":"choice","choices":[{}],"value":"{}","help":"on TCP"}}"#,
        choices.join(","),
        defaults.framing
    ));
    knobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_requests_nothing_external_and_uses_one_nonce() {
        let page = build(&[], "word");
        for foreign in ["http://", "https://", "//cdn", "@import", "{{"] {
            let found = page.matches(foreign).count();
            // The page has one `http://`: the SVG namespace, a name that no browser requests.
            let allowed = usize::from(foreign == "http://");
            assert_eq!(
                found, allowed,
                "number of occurrences of {foreign} in the page"
            );
        }
        // The nonce is on each script and on the one style element.
        assert_eq!(
            page.matches("<script").count(),
            page.matches("nonce=\"word\"").count() - 1
        );
        assert_ne!(nonce(), nonce());
    }
}
