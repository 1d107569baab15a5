//! The error of every hook, step and workflow.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::iter;
use std::marker::PhantomData;
use std::sync::Arc;

mod convert;
mod kind;
mod result;

pub use kind::ErrorKind;
pub use result::ResultExt;

/// A boxed standard error, as `tower` and others use it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The result of hooks, steps and workflows.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a step, a workflow or a hook: a kind, a message, and whether trying again may help.
///
/// The user's own error types, `anyhow::Error`, boxed errors and strings convert into this one with
/// `?`, and it converts into boxed errors and `anyhow::Error`, being a standard error itself. What is
/// converted is of kind [`ErrorKind::Application`], retryable, and named after its type; where that says
/// nothing (a box, an `anyhow::Error`) after the innermost cause whose type is one of the standard
/// library's. An error of this type that comes back in a box or an `anyhow::Error`, with or without
/// context, is what it was before.
///
/// The text is the whole chain of causes, the root at its end. So [`std::error::Error::source`] has
/// none of them, as the standard library asks; [`Error::source`] and [`Error::downcast_ref`] have.
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

    /// The message, for people, with the texts of the causes.
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

    /// The first `T` among the error that this one was made from and its causes; see
    /// [`source`](Self::source).
    #[must_use]
    pub fn downcast_ref<T: StdError + 'static>(&self) -> Option<&T> {
        self.causes().find_map(<dyn StdError>::downcast_ref)
    }

    /// The error this one was made from, its cause, and so on.
    fn causes(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        let first = self
            .source()
            .map(|source| source as &(dyn StdError + 'static));
        iter::successors(first, |error| match error.downcast_ref::<Self>() {
            Some(ours) => ours.source().map(|source| source as _),
            None => (**error).source(),
        })
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

    /// This error with a cause. Its text, and that of its own causes, goes on with the message.
    ///
    /// ```
    /// use workflow_core::Error;
    ///
    /// let cause = "12a".parse::<u8>().unwrap_err();
    /// let error = Error::new("BadAmount", "the amount is no number").with_source(cause);
    /// assert_eq!(error.to_string(), "the amount is no number: invalid digit found in string");
    /// ```
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        let source = source.into();
        convert::append(&mut self.0.message, Some(&*source));
        self.0.source = Some(source);
        self
    }

    /// This error without its source.
    fn likeness(&self) -> Self {
        Self(Box::new(Inner {
            kind: self.0.kind,
            name: self.0.name.clone(),
            message: self.0.message.clone(),
            stack: self.0.stack.clone(),
            source: None,
            retryable: self.0.retryable,
            step_name: self.0.step_name.clone(),
        }))
    }

    /// This error as the failure for good of a step. For engines.
    #[must_use]
    pub fn with_step_name(mut self, step_name: Arc<str>) -> Self {
        self.0.step_name = Some(step_name);
        self
    }

    /// This error in a box. Converting the box back gives this error again, unchanged.
    #[must_use]
    pub fn into_boxed(self) -> BoxError {
        Box::new(self)
    }
}

impl StdError for Error {}

/// Not granted, so that this type alone is not `Unpin`. Whatever converts into a boxed error converts
/// into this one, and this one is a standard error, so it would convert into itself, for which there is
/// `From<T> for T`. The conversion asks for `Unpin` beside that, which other errors are, and so leaves
/// this type out in a way that the compiler can see. Nothing in it is ever pinned: a type that holds one
/// may say of itself that it is `Unpin`, which an error has to in order to convert back.
impl<'a> Unpin for Error where Withheld<'a>: Granted {}

struct Withheld<'a>(PhantomData<&'a ()>);

#[diagnostic::on_unimplemented(
    message = "an error that holds a `workflow_core::Error` has to say that it is `Unpin`",
    label = "write `impl Unpin for MyError {{}}` for the error of yours that holds the `workflow_core::Error`"
)]
trait Granted {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        convert::overheard(self);
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
