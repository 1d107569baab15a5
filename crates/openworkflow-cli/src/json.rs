//! JSON for scripts: one object per line, whatever is in it, and nothing in it that a terminal obeys.

use std::borrow::Cow;
use std::time::SystemTime;

use openworkflow::Payload;
use serde::Serializer;
use serde_json::value::{RawValue, to_raw_value};

use crate::text::{is_hostile, timestamp};

/// Escapes what a terminal might obey. In JSON that can only stand in strings, where the escape means the same.
pub(crate) fn plain(json: &str) -> Cow<'_, str> {
    if !json.contains(is_hostile) {
        return json.into();
    }
    let mut text = String::with_capacity(json.len() + 16);
    let mut units = [0; 2];
    for c in json.chars() {
        if is_hostile(c) {
            for unit in c.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            text.push(c);
        }
    }
    text.into()
}

/// A payload as it is, numbers and all, without the white space between its parts.
pub(crate) fn payload(payload: &Payload) -> Option<Box<RawValue>> {
    let text = payload.expose();
    RawValue::from_string(compact(text))
        // What is no JSON is shown as the text that it is.
        .or_else(|_| to_raw_value(text))
        .ok()
}

/// Leaves out the white space between tokens, line breaks among it.
fn compact(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            in_string = c == '"';
        }
        text.push(c);
    }
    text
}

pub(crate) fn time<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&timestamp(*time))
}

pub(crate) fn optional_time<S: Serializer>(
    at: &Option<SystemTime>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, to),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_one_line_and_the_same_value() {
        let text = "{\"a\": [1.10, \"x \\\" y\\\\\"],\n \"b\" : 12345678901234567890123}";
        let shown = payload(&Payload::from_json(text)).map(|raw| raw.get().to_owned());
        let expected = r#"{"a":[1.10,"x \" y\\"],"b":12345678901234567890123}"#;
        assert_eq!(shown.as_deref(), Some(expected));
        let broken = payload(&Payload::from_json("{")).map(|raw| raw.get().to_owned());
        assert_eq!(broken.as_deref(), Some(r#""{""#));
    }

    #[test]
    fn what_terminals_obey_is_escaped() {
        assert_eq!(plain("\"\u{9b}31m\u{202e}\""), r#""\u009b31m\u202e""#);
    }
}
