//! The string map that is stored with a run and read back by each of its executions.

use std::collections::BTreeMap;
use std::fmt;

/// A string map kept with a run: how trace context, baggage and anything else an interceptor wants
/// to remember travel from the caller to every execution of the run.
///
/// An interceptor writes it in [`Interceptor::create_run`](crate::Interceptor::create_run), before
/// the run exists; the engine stores it in the statement that writes the run, and it never changes
/// afterwards. Keys are case-sensitive when written; [`get`](Self::get) falls back to ignoring
/// ASCII case, because carriers of other writers are not always in lower case.
///
/// `Debug` shows the keys only: baggage may hold personal data.
///
/// ```
/// use workflow_core::Carrier;
///
/// let mut carrier = Carrier::new();
/// carrier.insert("tenant", "acme");
/// assert_eq!(carrier.get("Tenant"), Some("acme"));
/// assert_eq!(format!("{carrier:?}"), r#"Carrier {"tenant"}"#);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Carrier {
    entries: BTreeMap<String, String>,
    unreadable: u32,
}

impl Carrier {
    /// An empty carrier.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            unreadable: 0,
        }
    }

    /// The value under `key`: the exact key first, else one that differs in ASCII case only.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let exact = self.entries.get(key);
        let found = exact.or_else(|| {
            self.entries
                .iter()
                .find_map(|(k, v)| k.eq_ignore_ascii_case(key).then_some(v))
        });
        found.map(String::as_str)
    }

    /// Sets `key` to `value` and returns the value it replaces.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) -> Option<String> {
        self.entries.insert(key.into(), value.into())
    }

    /// Removes `key` (exact case) and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        self.entries.remove(key)
    }

    /// The entries, by key in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many parts of a stored carrier could not be read: members that are not strings, or a
    /// carrier (counted once) that is no map at all. Never a reason to fail a run.
    #[must_use]
    pub fn unreadable(&self) -> u32 {
        self.unreadable
    }

    /// Sets [`unreadable`](Self::unreadable). For engines, when they load a run.
    #[must_use]
    pub fn with_unreadable(mut self, parts: u32) -> Self {
        self.unreadable = parts;
        self
    }
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Carrier ")?;
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Carrier {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let entries = entries
            .into_iter()
            .map(|(k, v)| (k.into(), v.into()))
            .collect();
        Self {
            entries,
            unreadable: 0,
        }
    }
}

impl<K: Into<String>, V: Into<String>> Extend<(K, V)> for Carrier {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        self.entries
            .extend(entries.into_iter().map(|(k, v)| (k.into(), v.into())));
    }
}
