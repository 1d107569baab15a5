//! Tables: columns as wide as what is in them, and one that takes what is left.

use anstyle::Style;

use crate::screen::Screen;
use crate::text::{fit, pad, width};

/// Between columns.
const GAP: usize = 2;
/// Nothing in a column is wider, other than in the last.
const WIDEST: usize = 60;
/// No column is cut further.
const LEAST: usize = 8;

pub(crate) struct Table {
    titles: Vec<&'static str>,
    rows: Vec<Vec<(String, Style)>>,
}

impl Table {
    pub(crate) fn new(titles: &[&'static str]) -> Self {
        Self {
            titles: titles.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row of data, a cell for each title.
    pub(crate) fn row(&mut self, cells: Vec<(&str, Style)>) {
        let cells = cells.into_iter();
        // No more of a text than could be shown.
        self.rows.push(
            cells
                .map(|(text, style)| (fit(text, 1000), style))
                .collect(),
        );
    }

    /// Prints it. The last column is cut where it does not fit.
    pub(crate) fn show(&self, screen: &mut Screen) {
        let last = self.titles.len().saturating_sub(1);
        let mut widths: Vec<usize> = self.titles.iter().map(|title| width(title)).collect();
        for row in &self.rows {
            for (at, (text, _)) in row.iter().enumerate() {
                widths[at] = widths[at].max(width(text)).min(WIDEST);
            }
        }
        let room = screen.width.saturating_sub(LEAST);
        let before = loop {
            let before: usize = widths[..last].iter().map(|columns| columns + GAP).sum();
            // Only what nobody would write takes so much: the widest gives way.
            match widths[..last].iter_mut().max() {
                Some(widest) if before > room && *widest > LEAST => *widest -= 1,
                _ => break before,
            }
        };
        widths[last] = screen.width.saturating_sub(before).max(LEAST);
        let dim = Style::new().dimmed();
        let titles = self.titles.iter().map(|title| ((*title).to_owned(), dim));
        let titles: Vec<_> = titles.collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let cells = row.iter().zip(&widths).enumerate();
            let cells: Vec<_> = cells
                .map(|(at, ((text, style), columns))| {
                    // What is safe stays as it is.
                    let text = fit(text, *columns);
                    let room = if at == last { 0 } else { columns + GAP };
                    let fill = room.saturating_sub(width(&text));
                    format!("{style}{text}{style:#}{}", pad("", fill))
                })
                .collect();
            screen.line(cells.concat());
        }
    }
}

pub(crate) mod styles {
    //! What has which color. Everything is said in words or shapes, too.

    use anstyle::{AnsiColor, Style};
    use openworkflow::RunStatus;

    pub(crate) const PLAIN: Style = Style::new();
    pub(crate) const DIM: Style = Style::new().dimmed();
    pub(crate) const BOLD: Style = Style::new().bold();
    pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
    pub(crate) const BAD: Style = AnsiColor::Red.on_default();
    pub(crate) const WAITING: Style = AnsiColor::Cyan.on_default();
    pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default();

    pub(crate) fn of_run(status: &RunStatus) -> Style {
        match status {
            RunStatus::Completed | RunStatus::Succeeded => GOOD,
            RunStatus::Failed => BAD,
            RunStatus::Canceled => WARNING,
            RunStatus::Running | RunStatus::Sleeping => WAITING,
            _ => PLAIN,
        }
    }
}
