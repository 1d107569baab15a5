//! What a run came from, in its carrier: the links from its first execution to an earlier run's.

use std::time::{Duration, SystemTime};

use opentelemetry::KeyValue;
use opentelemetry::trace::{Link, SpanContext, TraceFlags, TraceState};
use workflow_core::{Carrier, RunInfo};

use super::traceparent;
use crate::ids;
use crate::names::attribute;

/// The span of the execution that continued as the run.
const CONTINUED_FROM: &str = "workflow-continued-from";

/// The run that a run was made of by hand, as whoever made it wrote it, who need not know of spans: the
/// number of its last execution, its id, and the `traceparent` of its carrier, if that has one.
const MADE_OF: [(&str, &str); 3] = [
    ("workflow-retried-from", "retried_from"),
    ("workflow-resumed-from", "resumed_from"),
    ("workflow-forked-from", "forked_from"),
];

/// When the first of the runs was created that continued as this one, in milliseconds since 1970.
const FIRST_CREATED_AT: &str = "workflow-first-created-at";

/// Names the span of the execution in the carrier of the run that it continues as; or none, where it has
/// none.
pub(crate) fn continue_from(carrier: &mut Carrier, span: Option<&SpanContext>) {
    for (key, _) in MADE_OF {
        carrier.remove(key);
    }
    match span.filter(|span| span.is_valid()) {
        Some(span) => carrier.insert(CONTINUED_FROM, traceparent::write(span)),
        None => carrier.remove(CONTINUED_FROM),
    };
}

/// The links to what `run` came from. `roots` says whether every execution is the root of a trace.
pub(crate) fn links(run: &RunInfo, roots: bool) -> impl Iterator<Item = Link> {
    let continued = run.carrier.get(CONTINUED_FROM);
    let continued = continued.and_then(traceparent::read).map(|span| {
        let why = KeyValue::new(attribute::WORKFLOW_LINK, "continued_from");
        Link::new(span, vec![why], 0)
    });
    let made_of = MADE_OF.into_iter().filter_map(move |(key, why)| {
        let (span, run_id) = last_execution(run.carrier.get(key)?, &run.namespace_id, roots)?;
        let attributes = vec![
            KeyValue::new(attribute::WORKFLOW_LINK, why),
            KeyValue::new(attribute::WORKFLOW_RUN_ID, run_id),
        ];
        Some(Link::new(span, attributes, 0))
    });
    continued.into_iter().chain(made_of)
}

/// The span of the execution that `text` names, and its run.
fn last_execution(text: &str, namespace_id: &str, roots: bool) -> Option<(SpanContext, String)> {
    let mut parts = text.splitn(3, ' ');
    let attempt: u32 = parts.next()?.parse().ok()?;
    let run_id = parts.next().filter(|id| !id.is_empty())?;
    let creator = parts.next().and_then(traceparent::read);
    let span = match creator {
        // It was never executed.
        Some(creator) if attempt == 0 => creator,
        None if attempt == 0 => return None,
        Some(creator) => {
            let trace = if roots && creator.is_sampled() {
                ids::trace(namespace_id, run_id, attempt)
            } else {
                creator.trace_id()
            };
            let span = ids::execution(namespace_id, run_id, attempt);
            let flags = creator.trace_flags();
            SpanContext::new(trace, span, flags, true, TraceState::default())
        }
        None => {
            let trace = ids::trace(namespace_id, run_id, attempt);
            let span = ids::execution(namespace_id, run_id, attempt);
            let flags = TraceFlags::SAMPLED;
            SpanContext::new(trace, span, flags, true, TraceState::default())
        }
    };
    Some((span, run_id.to_owned()))
}

/// Notes when the first run of a chain was created, unless that is noted already.
pub(crate) fn note_first_created_at(carrier: &mut Carrier, created_at: Option<SystemTime>) {
    if carrier.get(FIRST_CREATED_AT).is_some() {
        return;
    }
    let since = created_at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    if let Some(since) = since {
        carrier.insert(FIRST_CREATED_AT, since.as_millis().to_string());
    }
}

/// When the first run of the chain was created that `carrier`'s continues.
pub(crate) fn first_created_at(carrier: &Carrier) -> Option<SystemTime> {
    let millis = carrier.get(FIRST_CREATED_AT)?.parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn link_of(key: &str, value: &str, roots: bool) -> Option<Link> {
        let mut run = RunInfo::new("default", "new", "order");
        run.carrier.insert(key, value);
        links(&run, roots).next()
    }

    #[test]
    fn a_run_made_of_another_links_to_its_last_execution() {
        for (key, why) in MADE_OF {
            let link = link_of(key, &format!("3 old {PARENT}"), false).expect("there is one");
            let span = &link.span_context;
            assert_eq!(span.span_id(), ids::execution("default", "old", 3));
            assert_eq!(
                span.trace_id().to_string(),
                "0af7651916cd43dd8448eb211c80319c"
            );
            assert!(span.is_sampled() && span.is_remote());
            let attributes: Vec<_> = link.attributes.iter().map(|kv| kv.value.as_str()).collect();
            assert_eq!(attributes, [why, "old"]);
        }
    }

    #[test]
    fn a_root_of_its_own_is_linked_to_in_its_own_trace() {
        let key = "workflow-forked-from";
        let of_root = link_of(key, &format!("3 old {PARENT}"), true).expect("there is one");
        let without_carrier = link_of(key, "3 old", false).expect("there is one");
        for link in [of_root, without_carrier] {
            let trace = link.span_context.trace_id();
            assert_eq!(trace, ids::trace("default", "old", 3));
        }
    }

    #[test]
    fn one_that_was_never_executed_is_linked_to_where_it_was_created() {
        let link = link_of("workflow-retried-from", &format!("0 old {PARENT}"), true);
        let span = link.expect("there is one").span_context;
        assert_eq!(span.span_id().to_string(), "b7ad6b7169203331");
        assert!(link_of("workflow-retried-from", "0 old", true).is_none());
    }

    #[test]
    fn nonsense_is_no_link() {
        for nonsense in ["", "x", "1", "1 ", "-1 old", "4294967296 old", "x old"] {
            assert!(link_of("workflow-retried-from", nonsense, false).is_none());
        }
    }

    #[test]
    fn the_first_creation_of_a_chain_stays() {
        let mut carrier = Carrier::new();
        let created = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_678);
        note_first_created_at(&mut carrier, Some(created));
        note_first_created_at(&mut carrier, Some(SystemTime::now()));
        assert_eq!(first_created_at(&carrier), Some(created));
        carrier.insert(FIRST_CREATED_AT, "yesterday");
        assert_eq!(first_created_at(&carrier), None);
    }
}
