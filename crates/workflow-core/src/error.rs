//! The error of every hook, step and workflow.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// A boxed standard error, as `tower` and others use it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The result of hooks, steps and workflows.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed, in a word that is the same for every occurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The user's own code returned an error.
    Application,
    /// The user's code, or an interceptor, panicked.
    Panic,
    /// Something took longer than it was given.
    Timeout,
    /// A child workflow failed.
    ChildFailed,
    /// A child workflow was canceled.
    ChildCanceled,
    /// A value does not fit the type it was to be read as, or could not be written as JSON.
    InvalidPayload,
    /// An argument of a workflow operation makes no sense.
    InvalidArgument,
    /// An interceptor or middleware refused the call.
    Rejected,
    /// The run reached the limit on step attempts.
    StepLimitExceeded,
    /// The run's deadline passed.
    DeadlineExceeded,
    /// The workflow is not registered with the worker that claimed its run.
    NotRegistered,
    /// The workflow's code departed from what it did in an earlier execution of the run.
    NonDeterminism,
    /// The run's database failed or refused the operation.
    Backend,
}

impl ErrorKind {
    /// The kind in `snake_case`, for `error.type` and the like.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::ChildFailed => "child_failed",
            Self::ChildCanceled => "child_canceled",
            Self::InvalidPayload => "invalid_payload",
            Self::InvalidArgument => "invalid_argument",
            Self::Rejected => "rejected",
            Self::StepLimitExceeded => "step_limit_exceeded",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotRegistered => "not_registered",
            Self::NonDeterminism => "non_determinism",
            Self::Backend => "backend",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error of a step, a workflow or a hook: a kind, a message, and whether trying again may help.
///
/// Anything that converts into a boxed standard error converts into this one with `?`: the user's
/// own error types, `anyhow::Error`, strings. It then is of kind [`ErrorKind::Application`],
/// retryable, and named after its type. To keep that conversion open this type is not itself a
/// [`std::error::Error`]; [`into_boxed`](Self::into_boxed) makes one, and converting that back
/// restores the error as it was.
///
/// ```
/// use workflow_core::{Error, ErrorKind, Result};
///
/// fn charge(cents: i64) -> Result<()> {
///     if cents < 0 {
///         return Err(Error::new("NegativeAmount", "an amount is never negative").non_retryable());
///     }
///     "12".parse::<u8>()?;
///     Ok(())
/// }
///
/// let error = charge(-1).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Application);
/// assert_eq!(error.name(), "NegativeAmount");
/// assert!(!error.is_retryable());
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    name: Cow<'static, str>,
    message: String,
    stack: Option<String>,
    source: Option<BoxError>,
    retryable: bool,
    step_name: Option<Arc<str>>,
}

impl Error {
    /// An error of the user's own, of kind [`ErrorKind::Application`] and retryable. `name` is the
    /// same for every occurrence, as a type's name is; what varies belongs in `message`.
    pub fn new(name: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind: ErrorKind::Application,
            name: name.into(),
            message: message.into(),
            stack: None,
            source: None,
            retryable: true,
            step_name: None,
        }))
    }

    /// An error of the given kind, retryable, named after it.
    pub fn of_kind(kind: ErrorKind, message: impl Into<String>) -> Self {
        let name = match kind {
            ErrorKind::Application | ErrorKind::ChildFailed => "Error",
            ErrorKind::Panic => "Panic",
            ErrorKind::Timeout => "TimeoutError",
            ErrorKind::ChildCanceled => "ChildCanceledError",
            ErrorKind::InvalidPayload => "InvalidPayloadError",
            ErrorKind::InvalidArgument => "InvalidArgumentError",
            ErrorKind::Rejected => "RejectedError",
            ErrorKind::StepLimitExceeded => "StepLimitExceededError",
            ErrorKind::DeadlineExceeded => "DeadlineExceededError",
            ErrorKind::NotRegistered => "NotRegisteredError",
            ErrorKind::NonDeterminism => "NonDeterminismError",
            ErrorKind::Backend => "BackendError",
        };
        let mut error = Self::new(name, message);
        error.0.kind = kind;
        error
    }

    /// The refusal of a call by an interceptor; retryable unless [`non_retryable`](Self::non_retryable).
    pub fn rejected(message: impl Into<String>) -> Self {
        Self::of_kind(ErrorKind::Rejected, message)
    }

    /// What a panic carried, as an error of kind [`ErrorKind::Panic`].
    #[must_use]
    pub fn from_panic(panic: &(dyn Any + Send)) -> Self {
        let message = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "panicked with a value that is not text".to_owned());
        Self::of_kind(ErrorKind::Panic, message)
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The name, as a type's name: the same for every occurrence.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The message, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Where it came from, if known: a stack trace from another language, or else the chain of causes.
    #[must_use]
    pub fn stack(&self) -> Option<&str> {
        self.0.stack.as_deref()
    }

    /// Whether trying again may help. The retry policy has the last word.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// The step that failed for good with this error, where one did. Set by the engine.
    #[must_use]
    pub fn step_name(&self) -> Option<&str> {
        self.0.step_name.as_deref()
    }

    /// A low-cardinality word for what happened, as OpenTelemetry's `error.type` asks for: the
    /// [name](Self::name) of an application's error (or of a failed child's), the kind of any other.
    #[must_use]
    pub fn error_type(&self) -> &str {
        match self.0.kind {
            ErrorKind::Application | ErrorKind::ChildFailed => &self.0.name,
            other => other.as_str(),
        }
    }

    /// The error this one was made from. An error that was stored and read back has none: code that
    /// decides something durable should go by the [kind](Self::kind) and the [name](Self::name).
    #[must_use]
    pub fn source(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.0.source.as_deref()
    }

    /// The error this one was made from, if it is a `T`; see [`source`](Self::source).
    #[must_use]
    pub fn downcast_ref<T: StdError + 'static>(&self) -> Option<&T> {
        self.0.source.as_deref()?.downcast_ref()
    }

    /// The error this one was made from, by value, if it is a `T`; see [`source`](Self::source).
    ///
    /// # Errors
    ///
    /// This error, unchanged, if it is not.
    pub fn downcast<T: StdError + Send + Sync + 'static>(mut self) -> Result<T, Self> {
        match self.0.source.take().map(|source| source.downcast::<T>()) {
            Some(Ok(source)) => Ok(*source),
            Some(Err(source)) => {
                self.0.source = Some(source);
                Err(self)
            }
            None => Err(self),
        }
    }

    /// This error, not to be tried again.
    #[must_use]
    pub fn non_retryable(mut self) -> Self {
        self.0.retryable = false;
        self
    }

    /// This error under another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// This error under another name.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.0.name = name.into();
        self
    }

    /// This error with a stack trace.
    #[must_use]
    pub fn with_stack(mut self, stack: impl Into<String>) -> Self {
        self.0.stack = Some(stack.into());
        self
    }

    /// This error with a cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// This error as the failure for good of a step. For engines.
    #[must_use]
    pub fn with_step_name(mut self, step_name: Arc<str>) -> Self {
        self.0.step_name = Some(step_name);
        self
    }

    /// This error as a standard one. Converting the box back gives this error again, unchanged.
    #[must_use]
    pub fn into_boxed(self) -> BoxError {
        Box::new(Standard(self))
    }
}

/// [`Error`] behind the standard trait, which it cannot implement itself.
struct Standard(Error);

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl StdError for Standard {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // The wrapped error's text is ours, so the chain goes on with *its* source.
        self.0.source().and_then(StdError::source)
    }
}

impl<E: Into<BoxError>> From<E> for Error {
    fn from(error: E) -> Self {
        let source = match error.into().downcast::<Standard>() {
            Ok(ours) => return ours.0,
            Err(source) => source,
        };
        let mut converted = Self::new(
            short_type_name(std::any::type_name::<E>()),
            source.to_string(),
        );
        converted.0.stack = causes(&*source);
        converted.0.source = Some(source);
        converted
    }
}

/// `PaymentDeclined` for `shop::payment::PaymentDeclined`; `io::Error` for `std::io::error::Error`,
/// because "Error" alone says nothing; `Error` for strings and boxes.
fn short_type_name(path: &'static str) -> Cow<'static, str> {
    let path = path.split('<').next().unwrap_or(path);
    if path.starts_with('&') || path.starts_with("alloc::") {
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

fn causes(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut chain = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let separator = if chain.is_empty() { "" } else { "\n" };
        chain.push_str(&format!("{separator}caused by: {error}"));
        cause = error.source();
    }
    (!chain.is_empty()).then_some(chain)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("name", &self.0.name)
            .field("message", &self.0.message)
            .field("retryable", &self.0.retryable)
            .field("step_name", &self.0.step_name)
            .field("source", &self.0.source)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::short_type_name;

    #[test]
    fn names_come_from_types() {
        for (path, name) in [
            ("shop::payment::PaymentDeclined", "PaymentDeclined"),
            ("std::io::error::Error", "io::Error"),
            ("serde_json::error::Error", "serde_json::Error"),
            ("anyhow::Error", "anyhow::Error"),
            ("alloc::string::String", "Error"),
            ("&str", "Error"),
            ("alloc::boxed::Box<dyn core::error::Error>", "Error"),
            ("shop::Failed<alloc::string::String>", "Failed"),
        ] {
            assert_eq!(short_type_name(path), name, "{path}");
        }
    }
}
