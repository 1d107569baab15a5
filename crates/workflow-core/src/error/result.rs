//! What a `Result` can be told on the way to [`Error`].

use std::borrow::Cow;

use super::{Error, Result};

/// Says of a failure what the type of its error does not: what it is called, and that trying again
/// does not help.
///
/// ```
/// use workflow_core::{Result, ResultExt as _};
///
/// fn charge(card: &str) -> Result<u32> {
///     card.parse::<u32>().named("CardDeclined").non_retryable()
/// }
///
/// let error = charge("none").unwrap_err();
/// assert_eq!(error.error_type(), "CardDeclined");
/// assert!(!error.is_retryable());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no result whose error converts into `workflow_core::Error`",
    note = "standard errors, boxed errors, `anyhow::Error` and strings do"
)]
pub trait ResultExt<T>: Sized {
    /// Converts the error, and calls it `name`: that is its [`error_type`](Error::error_type), the same
    /// for every occurrence. What varies belongs in the message.
    ///
    /// # Errors
    ///
    /// The error, where this is one.
    fn named(self, name: impl Into<Cow<'static, str>>) -> Result<T>;

    /// Converts the error into one that is not tried again, whatever the retry policy.
    ///
    /// # Errors
    ///
    /// The error, where this is one.
    fn non_retryable(self) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for Result<T, E> {
    fn named(self, name: impl Into<Cow<'static, str>>) -> Result<T> {
        self.map_err(|error| error.into().with_name(name))
    }

    fn non_retryable(self) -> Result<T> {
        self.map_err(|error| error.into().non_retryable())
    }
}
