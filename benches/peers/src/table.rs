//! A table of text, printed with aligned columns or as Markdown.

use std::io::{self, Write};

/// Rows under a header. Columns of numbers are aligned to the right, columns of words to the left.
pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(header: [&str; N]) -> Self {
        Self {
            header: header.map(str::to_owned).into(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// Writes the table and an empty line.
    pub(crate) fn write(&self, output: &mut impl Write, markdown: bool) -> io::Result<()> {
        let columns: Vec<Column> = (0..self.header.len()).map(|at| self.column(at)).collect();
        writeln!(output, "{}", line(&self.header, &columns, markdown))?;
        if markdown {
            let rules: Vec<String> = columns.iter().map(|column| column.rule()).collect();
            writeln!(output, "{}", line(&rules, &columns, markdown))?;
        }
        for row in &self.rows {
            writeln!(output, "{}", line(row, &columns, markdown))?;
        }
        writeln!(output)
    }

    fn column(&self, at: usize) -> Column {
        let cells = || self.rows.iter().filter_map(move |row| row.get(at));
        let widest = cells().chain(self.header.get(at)).map(String::len).max();
        Column {
            // The line below a Markdown header needs at least three characters per column.
            width: widest.unwrap_or_default().max(3),
            is_words: cells().any(|cell| cell.starts_with(char::is_alphabetic)),
        }
    }
}

struct Column {
    width: usize,
    is_words: bool,
}

impl Column {
    fn pad(&self, text: &str) -> String {
        let width = self.width;
        if self.is_words {
            format!("{text:<width$}")
        } else {
            format!("{text:>width$}")
        }
    }

    fn rule(&self) -> String {
        let dashes = "-".repeat(self.width - 1);
        if self.is_words {
            format!(":{dashes}")
        } else {
            format!("{dashes}:")
        }
    }
}

fn line(row: &[String], columns: &[Column], markdown: bool) -> String {
    let cells: Vec<String> = row
        .iter()
        .zip(columns)
        .map(|(text, column)| column.pad(text))
        .collect();
    if markdown {
        format!("| {} |", cells.join(" | "))
    } else {
        // Remove the padding of the last column, which is white space at the end of the line.
        cells.join("  ").trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_markdown_has_rules() {
        let mut table = Table::new(["server", "ns"]);
        table.push(vec!["epoll".into(), "123".into()]);
        let written = |markdown| {
            let mut output = Vec::new();
            table
                .write(&mut output, markdown)
                .expect("writing to a vector succeeds");
            String::from_utf8(output).expect("the table is UTF-8")
        };
        assert_eq!(written(false), "server   ns\nepoll   123\n\n");
        assert_eq!(
            written(true),
            "| server |  ns |\n| :----- | --: |\n| epoll  | 123 |\n\n"
        );
    }
}
