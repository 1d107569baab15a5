//! The link from a run to the execution that continued as it, in the run's carrier.

use opentelemetry::KeyValue;
use opentelemetry::trace::{Link, SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use workflow_core::Carrier;

use crate::names::attribute;

/// In the form of a W3C `traceparent`, whatever the propagators write.
const KEY: &str = "workflow-continued-from";

/// Names the span of the execution in the carrier of the run that it continues as; or none, where it has
/// none.
pub(crate) fn write(carrier: &mut Carrier, span: Option<&SpanContext>) {
    match span.filter(|span| span.is_valid()) {
        Some(span) => {
            let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags());
            carrier.insert(KEY, format!("00-{trace}-{id}-{flags:02x}"));
        }
        None => {
            carrier.remove(KEY);
        }
    }
}

/// The link to that span, if the carrier names one.
pub(crate) fn read(carrier: &Carrier) -> Option<Link> {
    let mut parts = carrier.get(KEY)?.split('-');
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
    let why = KeyValue::new(attribute::WORKFLOW_LINK, "continued_from");
    span.is_valid().then(|| Link::new(span, vec![why], 0))
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
        let mut carrier = Carrier::new();
        write(&mut carrier, Some(&span));
        let link = read(&carrier).expect("there is one");
        assert_eq!(link.span_context.trace_id(), span.trace_id());
        assert_eq!(link.span_context.span_id(), span.span_id());
        assert!(link.span_context.is_remote() && link.span_context.is_sampled());
        for nonsense in ["", "00", "00-x-y-z", "01-1-2-01", "00-0-0-01", "00-1-2-100"] {
            carrier.insert(KEY, nonsense);
            assert!(read(&carrier).is_none(), "{nonsense}");
        }
        write(&mut carrier, Some(&SpanContext::NONE));
        assert!(carrier.is_empty());
    }
}
