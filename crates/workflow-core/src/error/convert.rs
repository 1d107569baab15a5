//! How other errors become ours: the text of a chain of causes, and the name.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::iter;

use super::{BoxError, Error};

impl<E: Into<BoxError> + Unpin> From<E> for Error {
    fn from(error: E) -> Self {
        convert(std::any::type_name::<E>(), error.into())
    }
}

/// `path` is the name of the type that was converted, as the compiler writes it.
fn convert(path: &'static str, source: BoxError) -> Error {
    let source = match source.downcast::<Error>() {
        Ok(ours) => return *ours,
        Err(source) => source,
    };
    let (mut message, speaker) = listen(&*source);
    append(&mut message, source.source());
    let mut converted = match (speaker, ours_among(&*source)) {
        (Some(speaker), _) => speaker,
        (None, Some(ours)) if is_carrier(path) => ours.likeness(),
        (None, ours) => {
            let mut named = Error::new(name(path, &*source), String::new());
            if let Some(ours) = ours {
                // What the user's type says of itself is its name. The rest is its cause's.
                named.0.retryable = ours.0.retryable;
                named.0.step_name.clone_from(&ours.0.step_name);
            }
            named
        }
    };
    if converted.0.stack.is_none() {
        converted.0.stack = causes(&*source);
    }
    converted.0.message = message;
    converted.0.source = Some(source);
    converted
}

/// An error, its cause, the cause's cause, and so on.
fn chain<'a>(
    first: Option<&'a (dyn StdError + 'static)>,
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    iter::successors(first, |error| (**error).source())
}

/// Puts the texts of `cause` and its causes behind a message. One that the message ends with already,
/// as where `thiserror` was told `{0}`, is not repeated.
pub(super) fn append(message: &mut String, cause: Option<&(dyn StdError + 'static)>) {
    for cause in chain(cause) {
        let text = cause.to_string();
        if !message.ends_with(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
    }
}

/// The causes, a line each.
fn causes(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut lines = String::new();
    for cause in chain(error.source()) {
        let separator = if lines.is_empty() { "" } else { "\n" };
        lines.push_str(&format!("{separator}caused by: {cause}"));
    }
    (!lines.is_empty()).then_some(lines)
}

/// The first error of ours among the causes.
fn ours_among<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    chain(error.source()).find_map(<dyn StdError>::downcast_ref)
}

thread_local! {
    static LISTENING: Cell<bool> = const { Cell::new(false) };
    static HEARD: RefCell<Option<Error>> = const { RefCell::new(None) };
}

/// Told by each error of ours whose text is written.
pub(super) fn overheard(error: &Error) {
    if LISTENING.try_with(Cell::get) == Ok(true) {
        HEARD.set(Some(error.likeness()));
    }
}

/// The text of `error`, and what speaks through it, if its whole text is that of an error of ours. A
/// wrapper that hides what it holds (an `anyhow::Error` that became a box, a variant that is
/// `#[error(transparent)]`) shows it in this way alone.
fn listen(error: &(dyn StdError + 'static)) -> (String, Option<Error>) {
    /// Leaves things as they were, should writing the text panic.
    struct Before(bool, Option<Error>);
    impl Drop for Before {
        fn drop(&mut self) {
            LISTENING.set(self.0);
            HEARD.set(self.1.take());
        }
    }
    let _before = Before(LISTENING.replace(true), HEARD.take());
    let text = error.to_string();
    let speaker = HEARD.take().filter(|heard| heard.message() == text);
    (text, speaker)
}

/// Whether it says nothing of its own, but carries others.
fn is_carrier(path: &str) -> bool {
    path == "anyhow::Error" || path == "eyre::Report" || path.starts_with("alloc::boxed::Box<")
}

fn name(path: &'static str, error: &(dyn StdError + 'static)) -> Cow<'static, str> {
    if !is_carrier(path) {
        return short_type_name(path);
    }
    let root = chain(Some(error)).filter_map(known_type).last();
    root.map_or(Cow::Borrowed("Error"), short_type_name)
}

/// The path of the type of `error`, if it is one of the standard library's.
fn known_type(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    macro_rules! path_if_any {
        ($($type:ty),* $(,)?) => {
            $(if error.is::<$type>() {
                return Some(std::any::type_name::<$type>());
            })*
        };
    }
    path_if_any!(
        std::io::Error,
        std::num::ParseIntError,
        std::num::ParseFloatError,
        std::num::TryFromIntError,
        std::str::ParseBoolError,
        std::str::Utf8Error,
        std::string::FromUtf8Error,
        std::string::FromUtf16Error,
        std::char::ParseCharError,
        std::char::CharTryFromError,
        std::array::TryFromSliceError,
        std::net::AddrParseError,
        std::env::VarError,
        std::fmt::Error,
        std::time::SystemTimeError,
        std::path::StripPrefixError,
        std::sync::mpsc::RecvError,
        std::sync::mpsc::RecvTimeoutError,
    );
    None
}

/// `PaymentDeclined` for `shop::payment::PaymentDeclined`; `io::Error` for `std::io::error::Error`,
/// because "Error" alone says nothing; `Error` for strings.
fn short_type_name(path: &'static str) -> Cow<'static, str> {
    let path = path.split('<').next().unwrap_or(path);
    if path.starts_with('&')
        || path.starts_with("alloc::string::String")
        || path.starts_with("alloc::borrow::")
    {
        return Cow::Borrowed("Error");
    }
    let mut segments = path.rsplit("::");
    match segments.next() {
        Some("Error") => match segments.find(|module| *module != "error") {
            Some(module) => Cow::Owned(format!("{module}::Error")),
            None => Cow::Borrowed("Error"),
        },
        Some(name) => Cow::Borrowed(name),
        None => Cow::Borrowed("Error"),
    }
}

#[cfg(test)]
mod tests {
    use super::{known_type, name, short_type_name};
    use crate::BoxError;

    #[test]
    fn names_come_from_types() {
        for (path, name) in [
            ("shop::payment::PaymentDeclined", "PaymentDeclined"),
            ("std::io::error::Error", "io::Error"),
            ("serde_json::error::Error", "serde_json::Error"),
            ("alloc::string::String", "Error"),
            ("alloc::string::FromUtf8Error", "FromUtf8Error"),
            ("alloc::borrow::Cow<str>", "Error"),
            ("&str", "Error"),
            ("shop::Failed<alloc::string::String>", "Failed"),
        ] {
            assert_eq!(short_type_name(path), name, "{path}");
        }
    }

    #[test]
    fn what_carries_errors_is_named_after_a_known_cause() {
        let number = || BoxError::from("x".parse::<u8>().unwrap_err());
        let io = || BoxError::from(std::io::Error::other(number()));
        let said = || BoxError::from("so");
        for (path, error, expected) in [
            ("anyhow::Error", number(), "ParseIntError"),
            ("eyre::Report", said(), "Error"),
            (
                "alloc::boxed::Box<dyn core::error::Error>",
                io(),
                "io::Error",
            ),
            ("shop::Failed", number(), "Failed"),
        ] {
            assert_eq!(name(path, &*error), expected, "{path}");
        }
        assert_eq!(known_type(&*io()), Some("std::io::error::Error"));
    }
}
