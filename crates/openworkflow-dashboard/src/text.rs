//! Data as text of a page. What may turn the page's text around, or is not seen, is escaped; what is long is
//! cut. Escaping for HTML is the templates' part.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use openworkflow::trace::picture::is_hostile;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Of names.
pub(crate) const NAME: usize = 200;
/// Of messages.
pub(crate) const MESSAGE: usize = 4_000;
/// Of payloads, where they are shown.
pub(crate) const PAYLOAD: usize = 100_000;

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'=')
    .remove(b':');

/// The first `most` characters, on one line.
pub(crate) fn cut(text: &str, most: usize) -> String {
    write(text, most, false)
}

/// The first `most` characters, with its lines.
pub(crate) fn lines(text: &str, most: usize) -> String {
    write(text, most, true)
}

fn write(text: &str, most: usize, with_lines: bool) -> String {
    let mut shown = String::new();
    for (count, c) in text.chars().enumerate() {
        if count >= most {
            shown.push('…');
            break;
        }
        match c {
            '\n' | '\t' if with_lines => shown.push(c),
            c if is_hostile(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// As a part of a path, or of what follows `#`.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// The id of a step's row, which is what follows `#` in links to it.
pub(crate) fn anchor(run_id: Option<&str>, step: &str) -> String {
    let step = cut(step, NAME);
    match run_id {
        Some(run_id) => format!("step={run_id}/{step}"),
        None => format!("step={step}"),
    }
}

/// RFC 3339 in UTC, with milliseconds.
pub(crate) fn timestamp(at: SystemTime) -> String {
    let at = Timestamp::try_from(at).unwrap_or(Timestamp::MAX);
    format!("{at:.3}")
}

/// For people: `2026-12-01 04:12:33.123`.
pub(crate) fn moment(at: SystemTime) -> String {
    timestamp(at).replace('T', " ").replace('Z', "")
}

pub(crate) fn between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

/// In one unit: `3 min`.
pub(crate) fn roughly(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `3 min ago`, or `in 3 min`.
pub(crate) fn relative(at: SystemTime, now: SystemTime) -> String {
    match now.duration_since(at) {
        Ok(age) if age < Duration::from_secs(1) => "just now".to_owned(),
        Ok(age) => format!("{} ago", roughly(age)),
        Err(ahead) => format!("in {}", roughly(ahead.duration())),
    }
}

/// `1 run`, `2 runs`, `1,200 runs`.
pub(crate) fn count(count: usize, one: &str, more: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        _ => format!("{} {more}", number(count as u64)),
    }
}

/// With commas: `1,200`.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_seen_and_cut() {
        assert_eq!(cut("a\u{1b}[31m\n\u{202e}", 99), "a\\u{1b}[31m\\n\\u{202e}");
        assert_eq!(lines("a\n\tb\r", 99), "a\n\tb\\r");
        assert_eq!(cut("訂單訂單", 2), "訂單…");
        assert_eq!(cut(&"x".repeat(1 << 20), NAME).chars().count(), NAME + 1);
        assert_eq!(encode("a/b c#?é"), "a%2Fb%20c%23%3F%C3%A9");
    }

    #[test]
    fn numbers_have_commas() {
        let numbers = [0, 999, 1_000, 1_234_567].map(number);
        assert_eq!(numbers, ["0", "999", "1,000", "1,234,567"]);
    }
}
