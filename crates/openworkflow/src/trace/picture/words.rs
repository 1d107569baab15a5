//! What is said the same way in the terminal and on the page.

use std::time::Duration;

use super::super::StepState;

impl StepState {
    /// The word for people: `timed out`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed out",
            Self::Withdrawn => "withdrawn",
            Self::Retrying => "retrying",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Abandoned => "abandoned",
        }
    }
}

/// A duration with the digits that matter.
///
/// ```
/// use std::time::Duration;
/// use openworkflow::trace::picture::duration;
///
/// assert_eq!(duration(Duration::from_micros(1_240)), "1.2 ms");
/// assert_eq!(duration(Duration::from_millis(3_040)), "3.04 s");
/// assert_eq!(duration(Duration::from_secs(2_588_400)), "29 d 23 h");
/// ```
#[must_use]
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let rounded = seconds + u64::from(duration.subsec_millis() >= 500);
    match seconds {
        0 if duration.is_zero() => "0 ms".to_owned(),
        0 if duration < Duration::from_millis(10) => {
            format!("{:.1} ms", duration.as_secs_f64() * 1e3)
        }
        0 => format!("{} ms", duration.as_millis()),
        1..10 => format!("{:.2} s", duration.as_secs_f64()),
        10..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => two(rounded, 60, "min", 1, "s"),
        3600..86_400 => two(rounded, 3600, "h", 60, "min"),
        _ => two(rounded, 86_400, "d", 3600, "h"),
    }
}

fn two(seconds: u64, large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    let seconds = (seconds + small / 2) / small * small;
    match seconds % large / small {
        0 => format!("{} {large_unit}", seconds / large),
        rest => format!("{} {large_unit} {rest} {small_unit}", seconds / large),
    }
}

/// Whether a character is not seen, has a terminal obey it, or shows what stands around it in another order or
/// place. Who shows names and messages, which are somebody's data, escapes these.
///
/// ```
/// use openworkflow::trace::picture::is_hostile;
///
/// assert!(is_hostile('\u{1b}') && is_hostile('\u{202e}'));
/// assert!(!"Grüße, 世界".contains(is_hostile));
/// ```
#[must_use]
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_digits_that_matter() {
        let cases = [
            (0, "0 ms"),
            (1_240, "1.2 ms"),
            (12_400, "12 ms"),
            (3_040_000, "3.04 s"),
            (59_940_000, "59.9 s"),
            (252_000_000, "4 min 12 s"),
            (11_520_000_000, "3 h 12 min"),
            (2_588_400_000_000, "29 d 23 h"),
        ];
        for (micros, text) in cases {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
    }
}
