//! Text that is fit for a terminal: data without control characters, in a given width; times and durations.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
pub(crate) use openworkflow::trace::picture::{duration, is_hostile};
use unicode_width::UnicodeWidthChar as _;

/// Escapes what is hostile: `\n`, `\u{1b}`.
pub(crate) fn safe(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hostile) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        push_safe(&mut safe, c);
    }
    safe.into()
}

fn push_safe(text: &mut String, c: char) {
    if is_hostile(c) {
        text.extend(c.escape_default());
    } else {
        text.push(c);
    }
}

/// The columns that text takes which is safe.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// Data, safe and in `columns` at most. Looks at no more of it than it shows.
pub(crate) fn fit(text: &str, columns: usize) -> String {
    let mut fitting = String::new();
    let mut used = 0;
    // Where to cut, so that `…` has room.
    let mut cut = 0;
    // Characters without a width must not add up to a screen of them.
    let mut invisible = 0;
    for c in text.chars() {
        let before = fitting.len();
        push_safe(&mut fitting, c);
        let wide = width(&fitting[before..]);
        used += wide;
        invisible += usize::from(wide == 0);
        if used > columns || invisible > columns {
            fitting.truncate(cut);
            fitting.push('…');
            return fitting;
        }
        if used < columns {
            cut = fitting.len();
        }
    }
    fitting
}

/// Fills up with spaces.
pub(crate) fn pad(text: &str, columns: usize) -> String {
    let missing = columns.saturating_sub(width(text));
    format!("{text}{:missing$}", "")
}

/// Fills up with spaces before.
pub(crate) fn pad_left(text: &str, columns: usize) -> String {
    let missing = columns.saturating_sub(width(text));
    format!("{:missing$}{text}", "")
}

/// RFC 3339 in UTC, with milliseconds.
pub(crate) fn timestamp(at: SystemTime) -> String {
    let at = Timestamp::try_from(at).unwrap_or(Timestamp::MAX);
    format!("{at:.3}")
}

/// For people: `2026-12-01 04:12:33`, and less of it where there is less room.
pub(crate) fn moment(at: SystemTime, columns: usize) -> String {
    let text = timestamp(at).replace('T', " ");
    text.chars().take(columns).collect()
}

pub(crate) fn between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_fits_and_is_safe() {
        assert_eq!(safe("a\u{1b}[31m\r\n\u{9b}"), "a\\u{1b}[31m\\r\\n\\u{9b}");
        assert_eq!(fit("process-order", 13), "process-order");
        assert_eq!(fit("process-order", 8), "process…");
        assert_eq!(fit("訂單訂單", 5), "訂單…");
        assert_eq!(fit("a\u{1b}b", 4), "a…");
        assert!(fit(&"e\u{301}".repeat(1 << 20), 10).len() < 100);
        assert!(fit(&"\u{301}".repeat(1 << 20), 10).len() < 100);
    }
}
