//! Which metrics and labels a query names.

use std::collections::BTreeSet;

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Names {
    pub(crate) metrics: BTreeSet<String>,
    pub(crate) labels: BTreeSet<String>,
}

/// Words of PromQL that are followed by labels in parentheses.
const BEFORE_LABELS: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
const OPERATORS: [&str; 5] = ["and", "or", "unless", "offset", "bool"];

impl Names {
    pub(crate) fn of(query: &str) -> Self {
        let mut names = Self::default();
        let mut rest = query;
        // Whether names are labels, until this closes.
        let mut closes = None;
        while let Some(first) = rest.chars().next() {
            if first == '"' {
                let (_, after) = rest[1..].split_once('"').expect("strings end");
                rest = after;
            } else if first == '[' {
                let (_, after) = rest.split_once(']').expect("ranges end");
                rest = after;
            } else if first.is_ascii_alphanumeric() || first == '_' {
                let (word, after) = rest.split_at(word_length(rest));
                rest = after;
                let next = after.trim_start();
                let is_function = next.starts_with('(') || next.starts_with("by ");
                if first.is_ascii_digit() || OPERATORS.contains(&word) {
                    // A number, or a duration.
                } else if closes.is_some() {
                    names.labels.insert(word.to_owned());
                } else if BEFORE_LABELS.contains(&word) {
                    let (_, labels) = after.split_once('(').expect("labels follow");
                    rest = labels;
                    closes = Some(')');
                } else if !is_function {
                    names.metrics.insert(word.to_owned());
                }
            } else {
                match first {
                    '{' => closes = Some('}'),
                    _ if closes == Some(first) => closes = None,
                    _ => {}
                }
                rest = &rest[first.len_utf8()..];
            }
        }
        names
    }
}

fn word_length(text: &str) -> usize {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.find(|c| !is_part(c)).unwrap_or(text.len())
}

#[test]
fn names_of_a_query() {
    let names = Names::of(
        r#"histogram_quantile(0.95, sum by (job, le) (rate(a_bucket{status!="x}", name=~"$b"}[5m])))
           and c offset 5m > 1e3 unless on (job) d:e:f or label_replace(g, "h", "i", "", "")"#,
    );
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(names.metrics, set(&["a_bucket", "c", "d:e:f", "g"]));
    assert_eq!(names.labels, set(&["job", "le", "name", "status"]));
}
