//! Draws results in the terminal, as aligned bars over the byte stream.
//!
//! All rows have the same scale, so a column shows the same bytes in every row. The digit and the
//! colour of a cell identify the message of its bytes. A bar begins at each send, write, read or
//! frame.

use std::fmt::Write;

use crate::experiments::Experiment;
use crate::outcome::{Block, Outcome, counted};

/// Width of the labels to the left of the bars, in columns.
const LABEL_LEN: usize = 12;
const COLUMNS_MIN: usize = 40;
const COLUMNS_MAX: usize = 160;

/// Drawing options.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub(crate) colours: bool,
    pub(crate) columns: usize,
}

impl Style {
    /// Returns the options for this process: colours if the output is a terminal and `NO_COLOR` is
    /// unset or empty (<https://no-color.org>).
    pub(crate) fn of_environment() -> Self {
        use std::io::IsTerminal;
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let columns = std::env::var("COLUMNS").ok();
        let columns = columns
            .and_then(|columns| columns.parse().ok())
            .unwrap_or(80);
        Self {
            colours: std::io::stdout().is_terminal() && !no_color,
            columns: columns.clamp(COLUMNS_MIN, COLUMNS_MAX),
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Returns a result as text: title, bars, summary and explanation.
pub(crate) fn draw(outcome: &Outcome, style: Style) -> String {
    let mut out = String::new();
    let experiment = Experiment::find(&outcome.experiment);
    let title = experiment.map_or("Custom run", |experiment| experiment.title);
    let name = &outcome.experiment;
    let _ = writeln!(out, "{}  ({name})", style.paint("1", title));
    let segments = match outcome.segments {
        Some(segments) => format!(", sent in {}", counted(segments as usize, "segment")),
        None => String::new(),
    };
    let Outcome { knobs, .. } = outcome;
    let _ = writeln!(
        out,
        "{} of {} over {}{segments}",
        counted(knobs.count, "message"),
        counted(knobs.size, "byte"),
        protocol(outcome),
    );
    let rows = [
        ("sends", &outcome.sends),
        ("records", &outcome.records_sent),
        ("writes", &outcome.writes),
        ("reads", &outcome.reads),
        ("records", &outcome.records_received),
        ("frames", &outcome.frames),
    ];
    let scale = Scale::new(outcome, style.columns - LABEL_LEN);
    for (label, blocks) in rows {
        // On UDP every send is a write, and every read is a frame, so these rows would be equal.
        if outcome.transport == "udp" && (label == "writes" || label == "frames") {
            continue;
        }
        if outcome.records_sent.is_empty() && label == "records" {
            continue;
        }
        let row = scale.row(outcome, blocks, style);
        let _ = writeln!(out, "{label:<7}{:>4} {row}", blocks.len());
    }
    let _ = writeln!(out, "{} {}", style.paint("32", "result:"), outcome.happened);
    let _ = writeln!(out, "{} {}", style.paint("36", "reason:"), outcome.why);
    out
}

/// Returns the name of the protocol of a run.
fn protocol(outcome: &Outcome) -> String {
    match outcome.transport {
        "tcp" if outcome.knobs.tls => "TLS and TCP".to_owned(),
        transport => transport.to_uppercase(),
    }
}

/// Maps byte offsets to columns.
struct Scale {
    bytes: u64,
    columns: u64,
}

impl Scale {
    fn new(outcome: &Outcome, columns: usize) -> Self {
        let ends = outcome.sends.iter().map(|send| range(outcome, send).1);
        Self {
            bytes: ends.max().unwrap_or(1).max(1),
            columns: columns as u64,
        }
    }

    fn column(&self, offset: u64) -> u64 {
        offset * self.columns / self.bytes
    }

    fn row(&self, outcome: &Outcome, blocks: &[Block], style: Style) -> String {
        let empty = Cell {
            message: None,
            begins: 0,
        };
        let mut cells =
            vec![empty; usize::try_from(self.columns).expect("the number of columns is a usize")];
        for block in blocks {
            let (start, end) = range(outcome, block);
            let first = self.column(start);
            let last = self.column(end).max(first + 1).min(self.columns);
            for column in first..last {
                let Some(cell) = cells.get_mut(usize::try_from(column).unwrap_or(usize::MAX))
                else {
                    continue;
                };
                let offset = (column * self.bytes / self.columns).max(start);
                cell.message = message_at(outcome, offset);
                cell.begins += usize::from(column == first);
            }
        }
        cells.iter().map(|cell| cell.draw(style)).collect()
    }
}

#[derive(Clone, Copy)]
struct Cell {
    /// Index of the message that contains the first byte of the cell.
    message: Option<usize>,
    /// Number of blocks that begin in the cell.
    begins: usize,
}

impl Cell {
    fn draw(self, style: Style) -> String {
        let Some(message) = self.message else {
            return style.paint("2", ".");
        };
        let char = match self.begins {
            0 if style.colours => ' ',
            0 => char::from(b'0' + u8::try_from(message % 10).expect("the remainder is a digit")),
            1 => '|',
            _ => '#',
        };
        // Twelve hues of the 6 x 6 x 6 colour cube, light enough for black text.
        const HUES: [u8; 12] = [117, 215, 157, 218, 229, 147, 209, 122, 183, 191, 80, 174];
        let hue = HUES[message % HUES.len()];
        style.paint(&format!("30;48;5;{hue}"), &char.to_string())
    }
}

/// Returns start and end of a block on the common scale. A datagram gets the offset that its bytes
/// would have in a stream.
fn range(outcome: &Outcome, block: &Block) -> (u64, u64) {
    let size = outcome.knobs.size as u64;
    match outcome.transport {
        "udp" => (block.offset * size, block.offset * size + block.len),
        _ => (block.offset, block.offset + block.len),
    }
}

/// Returns the index of the message that contains the byte.
fn message_at(outcome: &Outcome, offset: u64) -> Option<usize> {
    let sends = &outcome.sends;
    let next = sends.partition_point(|send| range(outcome, send).0 <= offset);
    next.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knobs::Knobs;

    fn outcome() -> Outcome {
        let block = |offset, len| Block {
            offset,
            len,
            t_us: 0,
            header: 0,
            wire: None,
        };
        let sends = vec![block(0, 10), block(10, 10), block(20, 10)];
        Outcome {
            experiment: "custom".to_owned(),
            transport: "tcp",
            knobs: Knobs::default(),
            records_sent: Vec::new(),
            writes: sends.clone(),
            records_received: Vec::new(),
            reads: vec![block(0, 25), block(25, 5)],
            frames: sends.clone(),
            sends,
            segments: None,
            truncated: 0,
            lost: 0,
            glued: 3,
            cut: 1,
            glued_in_records: 0,
            cut_by_records: 0,
            split_headers: 0,
            whole: 3,
            happened: "It happened.".to_owned(),
            why: "For a reason.".to_owned(),
        }
    }

    #[test]
    fn bars_are_aligned_and_plain_without_colours() {
        let style = Style {
            colours: false,
            columns: LABEL_LEN + 30,
        };
        let drawn = draw(&outcome(), style);
        let expected = "\
sends     3 |000000000|111111111|222222222
writes    3 |000000000|111111111|222222222
reads     2 |000000000111111111122222|2222
frames    3 |000000000|111111111|222222222
";
        assert!(drawn.contains(expected), "{drawn}");
        assert!(!drawn.contains('\x1b'));
    }

    #[test]
    fn rows_of_tls_records_are_drawn_only_with_tls() {
        let style = Style {
            colours: false,
            columns: LABEL_LEN + 30,
        };
        let mut outcome = outcome();
        assert!(!draw(&outcome, style).contains("records"));
        outcome.knobs.tls = true;
        outcome.records_sent = outcome.reads.clone();
        outcome.records_received = outcome.reads.clone();
        let drawn = draw(&outcome, style);
        let row = "records   2 |000000000111111111122222|2222\n";
        assert_eq!(drawn.matches(row).count(), 2, "{drawn}");
        assert!(drawn.contains("over TLS and TCP"), "{drawn}");
    }

    #[test]
    fn colours_are_used_if_enabled() {
        let style = Style {
            colours: true,
            columns: 80,
        };
        assert!(draw(&outcome(), style).contains("\x1b[30;48;5;117m"));
    }
}
