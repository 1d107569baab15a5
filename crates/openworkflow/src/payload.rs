//! Between the user's types and [`Payload`].

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use workflow_core::{Error, ErrorKind, Payload, Result};

/// What an error is about: `the result of step "charge"`. Written only where there is one.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a>(pub(crate) &'static str, pub(crate) &'a str);

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(what, name) = self;
        write!(f, "{what} {name:?}")
    }
}

/// Writes `value` as JSON. `subject` begins the error's message.
pub(crate) fn encode<T: Serialize + ?Sized>(
    value: &T,
    subject: impl fmt::Display,
) -> Result<Payload> {
    match serde_json::to_string(value) {
        Ok(json) if holds_nul(&json) => Err(invalid(format!(
            "{subject} holds the character U+0000, which PostgreSQL's JSON cannot keep; leave it out"
        ))),
        Ok(json) => Ok(Payload::from_json(json)),
        Err(error) => Err(invalid(format!(
            "{subject} cannot be written as JSON: {}; mend its Serialize implementation",
            without_values(&error)
        ))),
    }
}

/// Whether a string in `json` holds U+0000, in the escaped form that serde_json gives it. Refused on
/// every backend, so that a workflow does not begin to fail when it moves to another.
fn holds_nul(json: &str) -> bool {
    json.match_indices("\\u0000").any(|(at, _)| {
        let backslashes = json[..at]
            .bytes()
            .rev()
            .take_while(|byte| *byte == b'\\')
            .count();
        backslashes % 2 == 0
    })
}

/// Reads JSON as a `T`. `subject` begins the error's message.
pub(crate) fn decode<T: DeserializeOwned>(
    payload: &Payload,
    subject: impl fmt::Display,
) -> Result<T> {
    decode_stored(payload, subject).map_err(|error| invalid(error.message().to_owned()))
}

/// Reads JSON that an earlier execution, or another process, has stored. The error is of kind
/// `Backend` where the row is damaged, and `InvalidPayload` where the code has another type in mind;
/// either can be mended, so it is retryable.
pub(crate) fn decode_stored<T: DeserializeOwned>(
    payload: &Payload,
    subject: impl fmt::Display,
) -> Result<T> {
    serde_json::from_str(payload.expose()).map_err(|error| {
        // The type may be found unfit before the end of the JSON is found missing.
        if let Err(damaged) = check_json(payload, &subject) {
            return damaged;
        }
        Error::of_kind(
            ErrorKind::InvalidPayload,
            format!(
                "{subject} does not fit the type {}: {}; mend the type or who wrote the value",
                std::any::type_name::<T>(),
                without_values(&error)
            ),
        )
    })
}

/// Refuses what is no JSON at all.
pub(crate) fn check_json(payload: &Payload, subject: impl fmt::Display) -> Result<()> {
    match serde_json::from_str::<serde::de::IgnoredAny>(payload.expose()) {
        Ok(_) => Ok(()),
        Err(error) => Err(damaged(subject, &error)),
    }
}

fn damaged(subject: impl fmt::Display, error: &serde_json::Error) -> Error {
    let place = without_values(error);
    let message = format!("{subject} holds {place}; repair the row, or delete the run");
    Error::of_kind(ErrorKind::Backend, message)
}

/// The error of a value that the database refuses.
pub(crate) fn refused(subject: impl fmt::Display, problem: &str) -> Error {
    invalid(format!(
        "{subject} cannot be stored: {problem}; leave out what the database refuses, or keep the value elsewhere and store a reference"
    ))
}

fn invalid(message: String) -> Error {
    Error::of_kind(ErrorKind::InvalidPayload, message).non_retryable()
}

/// serde's messages quote the offending value, which may be personal data and would end up in logs
/// and spans. What was expected, and where, is all that is kept.
fn without_values(error: &serde_json::Error) -> String {
    let place = format!("line {} column {}", error.line(), error.column());
    let text = error.to_string();
    if text.starts_with("missing field `") {
        // Names a field of the type, not of the value.
        return text;
    }
    match text.rsplit_once(", expected ") {
        Some((_, expected)) => format!("expected {expected}"),
        None if error.is_syntax() || error.is_eof() => format!("broken JSON at {place}"),
        None => format!("a value is refused at {place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_null_character_is_refused_and_its_name_is_not() {
        assert!(
            encode("a\0b", "the input")
                .unwrap_err()
                .message()
                .contains("U+0000")
        );
        assert!(encode("\\\0", "the input").is_err());
        assert!(encode("the text \\u0000", "the input").is_ok());
    }

    #[test]
    fn errors_quote_no_values() {
        #[derive(Debug, serde::Deserialize)]
        struct Card {
            #[expect(dead_code)]
            number: u64,
        }
        let decode =
            |json: &str| decode::<Card>(&Payload::from_json(json), "the input").unwrap_err();
        let wrong_type = decode(r#"{"number":"4242-secret"}"#);
        assert!(!wrong_type.message().contains("secret"), "{wrong_type}");
        assert!(
            wrong_type.message().contains("expected u64"),
            "{wrong_type}"
        );
        assert!(decode("{}").message().contains("missing field `number`"));
        assert!(
            decode(r#"{"number":"sec"#)
                .message()
                .contains("broken JSON")
        );
        assert!(!wrong_type.is_retryable());
    }
}
