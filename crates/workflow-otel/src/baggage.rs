//! Which baggage is written into a run.

use std::collections::BTreeSet;

use opentelemetry::Context;
use opentelemetry::baggage::{Baggage, BaggageExt};

/// The limit on a `baggage` header that W3C asks every platform to support, and the most that the
/// SDK's own propagator reads.
const W3C_MAX_BYTES: usize = 8192;

/// Which baggage is stored with a run, and how much of it.
///
/// A carrier stays in the database as long as its run and is written again for every child, so
/// baggage there costs space and may be personal data. By default all entries are stored, up to
/// 8192 bytes (the W3C limit). Entries beyond the limit are left out in the order of their keys, and
/// [counted](crate::Losses::baggage_entries).
///
/// ```
/// use workflow_otel::{BaggagePolicy, OtelInterceptor};
///
/// let otel = OtelInterceptor::builder()
///     .baggage(BaggagePolicy::only(["tenant.id"]).max_bytes(512))
///     .build();
/// ```
#[derive(Debug, Clone)]
pub struct BaggagePolicy {
    allowed: Option<BTreeSet<String>>,
    max_bytes: usize,
}

impl BaggagePolicy {
    /// Stores every entry.
    #[must_use]
    pub fn all() -> Self {
        Self {
            allowed: None,
            max_bytes: W3C_MAX_BYTES,
        }
    }

    /// Stores the entries with these keys.
    pub fn only<K: Into<String>>(keys: impl IntoIterator<Item = K>) -> Self {
        Self {
            allowed: Some(keys.into_iter().map(Into::into).collect()),
            max_bytes: W3C_MAX_BYTES,
        }
    }

    /// Stores no baggage.
    #[must_use]
    pub fn none() -> Self {
        Self::only::<String>([])
    }

    /// Stores at most this many bytes, counted as the header that W3C describes (an upper bound of
    /// it, if characters need escaping).
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// `cx` with the baggage that may be stored, and the number of entries left out.
    pub(crate) fn apply(&self, cx: &Context) -> (Context, u64) {
        let baggage = cx.baggage();
        if baggage.is_empty() {
            return (cx.clone(), 0);
        }
        let mut entries: Vec<_> = baggage.iter().collect();
        entries.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        let mut kept = Baggage::new();
        let (mut bytes, mut left_out) = (0, 0);
        for (key, (value, metadata)) in entries {
            let properties = metadata.as_str();
            let separators = properties.matches([';', '=']).count();
            let size = escaped(key.as_str()) + escaped(value.as_str()) + escaped(properties)
                - 2 * separators;
            // An equals sign, a semicolon, a comma.
            let size = size + 3;
            let allowed = self.allowed.as_ref();
            if allowed.is_some_and(|keys| !keys.contains(key.as_str()))
                || bytes + size > self.max_bytes
            {
                left_out += 1;
                continue;
            }
            bytes += size;
            kept.insert_with_metadata(key.clone(), value.clone(), metadata.clone());
        }
        if left_out == 0 {
            return (cx.clone(), 0);
        }
        (cx.with_baggage(kept), left_out)
    }
}

impl Default for BaggagePolicy {
    fn default() -> Self {
        Self::all()
    }
}

/// An upper bound of the length of `text` when percent-encoded.
fn escaped(text: &str) -> usize {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes().map(|b| if plain(&b) { 1 } else { 3 }).sum()
}
