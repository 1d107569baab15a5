//! Which baggage is written into a run.

use opentelemetry::Context;
use opentelemetry::baggage::{Baggage, BaggageExt};

use crate::config::BaggagePolicy;

impl BaggagePolicy {
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

/// An upper bound of the length of `text` when percent-encoded.
fn escaped(text: &str) -> usize {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes().map(|b| if plain(&b) { 1 } else { 3 }).sum()
}
