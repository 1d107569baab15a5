//! Errors on their way into ours and back: what is kept, what is shown, what they are called.

use std::error::Error as StdError;
use std::fmt;

use workflow_core::{BoxError, Error, ErrorKind, ResultExt as _};

/// An error with a text and perhaps a cause, which it may hide, as `anyhow::Error` does in a box.
#[derive(Debug)]
struct Wrapped {
    text: &'static str,
    inner: BoxError,
    hides: bool,
}

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text {
            "" => self.inner.fmt(f),
            text => f.write_str(text),
        }
    }
}

impl StdError for Wrapped {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        (!self.hides).then_some(&*self.inner)
    }
}

fn wrapped(text: &'static str, inner: impl Into<BoxError>, hides: bool) -> Wrapped {
    Wrapped {
        text,
        inner: inner.into(),
        hides,
    }
}

fn late() -> Error {
    Error::of_kind(ErrorKind::Timeout, "too late")
        .non_retryable()
        .with_step_name("charge".into())
        .with_stack("at the bank")
}

#[track_caller]
fn assert_late(error: &Error, message: &str) {
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.name(), "TimeoutError");
    assert_eq!(error.step_name(), Some("charge"));
    assert_eq!(error.stack(), Some("at the bank"));
    assert!(!error.is_retryable());
    assert_eq!(error.to_string(), message);
}

#[test]
fn an_error_of_ours_comes_back_from_a_box_as_it_was() {
    let through = || -> Result<(), BoxError> { Ok(Err(late())?) };
    let back = || -> Result<(), Error> { Ok(through()?) };
    assert_late(&back().unwrap_err(), "too late");
    assert_late(&late().into_boxed().into(), "too late");
}

#[test]
fn context_goes_in_front() {
    let boxed = BoxError::from(wrapped(
        "checkout",
        wrapped("booking", late(), false),
        false,
    ));
    assert_late(&boxed.into(), "checkout: booking: too late");
}

#[test]
fn what_hides_an_error_of_ours_and_speaks_with_its_text_is_that_error() {
    let error = Error::from(wrapped("", late(), true));
    assert_late(&error, "too late");
    assert_late(&wrapped("", error, true).into(), "too late");
    let other = Error::from(wrapped("not so", late(), true));
    assert_eq!((other.name(), other.is_retryable()), ("Wrapped", true));
}

#[test]
fn a_type_with_an_error_of_ours_as_its_cause_has_its_own_name() {
    let error = Error::from(wrapped("booking", late(), false));
    assert_eq!(error.kind(), ErrorKind::Application);
    assert_eq!(error.error_type(), "Wrapped");
    assert_eq!(error.step_name(), Some("charge"));
    assert!(!error.is_retryable());
    assert_eq!(error.to_string(), "booking: too late");
}

#[test]
fn the_text_is_the_chain_of_causes_each_of_them_once() {
    let number = || "x".parse::<u8>().unwrap_err();
    let said = wrapped("no number: invalid digit found in string", number(), false);
    let error = Error::from(wrapped("reading", said, false));
    let message = "reading: no number: invalid digit found in string";
    assert_eq!(error.message(), message);
    let built = Error::new("BadAmount", "reading").with_source(error.into_boxed());
    assert_eq!(built.to_string(), format!("reading: {message}"));
    assert!(StdError::source(&built).is_none(), "its text has them all");
}

#[test]
fn causes_are_found_by_their_type() {
    let number = "x".parse::<u8>().unwrap_err();
    let read = Error::from(wrapped("reading", number.clone(), false));
    let error = Error::from(wrapped("checkout", read, false));
    let found = error.downcast_ref::<std::num::ParseIntError>();
    assert_eq!(found, Some(&number));
    assert!(error.downcast_ref::<fmt::Error>().is_none());
}

#[test]
fn a_result_says_what_its_failure_is() {
    let text = String::from("error 51");
    let failed: Result<(), &str> = Err(&text);
    let error = failed.named("Declined").non_retryable().unwrap_err();
    assert_eq!(error.error_type(), "Declined");
    assert_eq!(error.message(), "error 51");
    assert!(!error.is_retryable());
}
