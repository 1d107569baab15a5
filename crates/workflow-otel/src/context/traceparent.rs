//! A span's context as text, in the form of a W3C `traceparent`: what this crate stores in carriers for
//! itself is so, whatever the propagators write.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

pub(super) fn write(span: &SpanContext) -> String {
    let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags());
    format!("00-{trace}-{id}-{flags:02x}")
}

/// The span that `text` names, if it names one.
pub(super) fn read(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let ("00", trace, id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?)
    else {
        return None;
    };
    let span = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(id).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::default(),
    );
    span.is_valid().then_some(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_no_span_is_not() {
        let span = SpanContext::new(
            TraceId::from(1_u128),
            SpanId::from(2_u64),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        );
        let found = read(&write(&span)).expect("there is one");
        assert_eq!(found.trace_id(), span.trace_id());
        assert_eq!(found.span_id(), span.span_id());
        assert!(found.is_remote() && found.is_sampled());
        for nonsense in ["", "00", "00-x-y-z", "01-1-2-01", "00-0-0-01", "00-1-2-100"] {
            assert!(read(nonsense).is_none(), "{nonsense}");
        }
    }
}
