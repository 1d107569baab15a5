//! Inputs, outputs and signal data, opaque on their way through a chain of interceptors.

use std::fmt;

/// A serialized value of the user's: a run's input or output, a step's result, a signal's data.
///
/// The content is JSON text, and may be personal data. It is reached only by [`expose`](Self::expose)
/// or [`into_json`](Self::into_json); `Debug` shows its size alone, so that no log line or span leaks
/// it by accident. JSON `null` and an absent value are the same thing.
///
/// ```
/// use workflow_core::Payload;
///
/// let payload = Payload::from_json(r#"{"card":"4242"}"#);
/// assert_eq!(format!("{payload:?}"), "Payload(15 bytes)");
/// assert_eq!(payload.expose(), r#"{"card":"4242"}"#);
/// assert!(Payload::from_json("null").is_null());
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Payload(Option<String>);

impl Payload {
    /// The absent value, JSON `null`. Allocates nothing.
    pub const NULL: Self = Self(None);

    /// Wraps JSON text. The text is not parsed: it is the caller's to guarantee that it is JSON.
    pub fn from_json(json: impl Into<String>) -> Self {
        let json = json.into();
        if json == "null" {
            Self(None)
        } else {
            Self(Some(json))
        }
    }

    /// Whether this is JSON `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.0.is_none()
    }

    /// The JSON text. Calling this is the decision to look at the user's data.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.as_deref().unwrap_or("null")
    }

    /// The JSON text by value; `None` stands for `null`.
    #[must_use]
    pub fn into_json(self) -> Option<String> {
        self.0
    }

    /// The size of the JSON text in bytes; 0 for `null`.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(0, String::len)
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("Payload(null)"),
            Some(json) => write!(f, "Payload({} bytes)", json.len()),
        }
    }
}
