//! Trace context and baggage into a run's carrier, and out of it.

use std::sync::{Arc, OnceLock};

use opentelemetry::baggage::{Baggage, BaggageExt};
use opentelemetry::propagation::{
    Extractor, Injector, TextMapCompositePropagator, TextMapPropagator,
};
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, global};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use workflow_core::Carrier;

use super::baggage_header::{BAGGAGE, mend_read, mend_written};
use crate::config::BaggagePolicy;
use crate::losses::LossCounters;

/// The longest value that is handed to a propagator to be parsed. Twice what W3C allows for baggage,
/// far above everything else: longer ones are garbage, and parsing garbage costs the execution time.
const MAX_VALUE_BYTES: usize = 16 * 1024;

/// The propagator in use.
#[derive(Clone)]
pub(crate) enum Propagation {
    /// The global one at the time of the call; W3C trace context and baggage if none was set.
    Global,
    Given(Arc<dyn TextMapPropagator + Send + Sync>),
}

impl Propagation {
    fn with<T>(&self, mut f: impl FnMut(&dyn TextMapPropagator) -> T) -> T {
        match self {
            Self::Given(propagator) => f(&**propagator),
            Self::Global => global::get_text_map_propagator(|propagator| {
                // The API's placeholder has no fields; nothing else tells that none was set.
                if propagator.fields().next().is_some() {
                    f(propagator)
                } else {
                    f(w3c())
                }
            }),
        }
    }

    /// Writes `cx` into the headers of an outgoing request.
    #[cfg(feature = "http")]
    pub(crate) fn inject_headers(&self, cx: &Context, headers: &mut http::HeaderMap) {
        let losses = LossCounters::default();
        let entries = losses.contain(|| self.with(|propagator| write(propagator, cx)));
        let mut headers = opentelemetry_http::HeaderInjector(headers);
        for (key, value) in entries.unwrap_or_default() {
            headers.set(&key, value);
        }
    }

    /// The context that the headers of an incoming request describe.
    #[cfg(feature = "http")]
    pub(crate) fn extract_headers(&self, headers: &http::HeaderMap) -> Context {
        let losses = LossCounters::default();
        let extracted = losses.contain(|| {
            let _clean = Context::new().attach();
            self.with(|propagator| {
                let headers = opentelemetry_http::HeaderExtractor(headers);
                read(propagator, &headers)
            })
        });
        usable_parent(extracted.unwrap_or_default())
    }

    /// Writes `cx` into `carrier`, in place of what the propagator's fields held before.
    pub(crate) fn inject(
        &self,
        cx: &Context,
        policy: &BaggagePolicy,
        carrier: &mut Carrier,
        losses: &LossCounters,
    ) {
        let injected = losses.contain(|| {
            let (cx, left_out) = policy.apply(cx);
            losses.baggage_entries(left_out);
            self.with(|propagator| {
                let stale: Vec<String> = if carrier.is_empty() {
                    Vec::new()
                } else {
                    propagator.fields().map(str::to_owned).collect()
                };
                (stale, write(propagator, &cx))
            })
        });
        // Written only when the propagator is through: half of what it wanted to say is misleading.
        if let Some((stale, entries)) = injected {
            for field in stale {
                carrier.remove(&field);
            }
            carrier.extend(entries);
        }
    }

    /// The context that `carrier` describes, and nothing of the thread's current one.
    pub(crate) fn extract(&self, carrier: &Carrier, losses: &LossCounters) -> Context {
        if carrier.is_empty() {
            if carrier.unreadable() > 0 {
                losses.carrier();
            }
            return Context::new();
        }
        let extracted = losses.contain(|| {
            // A propagator is free to look at the current context, whatever it was told.
            let _clean = Context::new().attach();
            self.with(|propagator| {
                let names_trace = propagator
                    .fields()
                    .filter(|field| !["tracestate", "baggage"].contains(field))
                    .any(|field| carrier.get(field).is_some());
                (read(propagator, &Values(carrier)), names_trace)
            })
        });
        let (cx, names_trace) = extracted.unwrap_or_default();
        if carrier.unreadable() > 0
            || (names_trace && !cx.span().span_context().is_valid())
            || carrier.iter().any(|(_, v)| v.len() > MAX_VALUE_BYTES)
        {
            losses.carrier();
        }
        usable_parent(cx)
    }
}

/// `cx`, without its span if that is none: samplers take a span that is active but invalid for a
/// parent that was not sampled.
pub(crate) fn usable_parent(cx: Context) -> Context {
    if cx.has_active_span() && !cx.span().span_context().is_valid() {
        without_span(&cx)
    } else {
        cx
    }
}

/// The baggage of `cx` alone. (The API has no way to take a span out of a context.)
pub(crate) fn without_span(cx: &Context) -> Context {
    let mut rest = Context::new();
    if cx.is_telemetry_suppressed() {
        rest = rest.with_telemetry_suppressed();
    }
    if cx.baggage().is_empty() {
        return rest;
    }
    let mut baggage = Baggage::new();
    for (key, (value, metadata)) in cx.baggage() {
        baggage.insert_with_metadata(key.clone(), value.clone(), metadata.clone());
    }
    rest.with_baggage(baggage)
}

fn w3c() -> &'static TextMapCompositePropagator {
    static W3C: OnceLock<TextMapCompositePropagator> = OnceLock::new();
    W3C.get_or_init(|| {
        TextMapCompositePropagator::new(vec![
            Box::new(TraceContextPropagator::new()),
            Box::new(BaggagePropagator::new()),
        ])
    })
}

/// What `propagator` writes of `cx`.
fn write(propagator: &dyn TextMapPropagator, cx: &Context) -> Vec<(String, String)> {
    let mut entries = Entries(Vec::new());
    propagator.inject_context(cx, &mut entries);
    let baggage = entries.0.iter_mut().find(|(key, _)| key == BAGGAGE);
    if let Some((_, header)) = baggage {
        mend_written(cx.baggage(), header);
    }
    entries.0
}

/// What `propagator` reads out of `values`.
fn read(propagator: &dyn TextMapPropagator, values: &dyn Extractor) -> Context {
    let cx = propagator.extract_with_context(&Context::new(), values);
    match values.get(BAGGAGE) {
        Some(header) => mend_read(cx, header),
        None => cx,
    }
}

struct Entries(Vec<(String, String)>);

impl Injector for Entries {
    fn set(&mut self, key: &str, value: String) {
        // The SDK writes an empty `tracestate` where there is none.
        if !value.is_empty() {
            self.0.push((key.to_owned(), value));
        }
    }
}

struct Values<'a>(&'a Carrier);

impl Extractor for Values<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).filter(|v| v.len() <= MAX_VALUE_BYTES)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(key, _)| key).collect()
    }
}
