//! Where a test's spans go.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::trace::{Span as _, SpanContext, SpanId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanProcessor};

use super::tree::SpanTree;
use crate::ids::DerivedIds;

/// Collects the spans of a tracer provider, in the order in which they start. Clones share what was
/// collected.
///
/// It is a span processor: it sees a span's start and its end at the moment they happen, so there is
/// nothing to flush, and it can tell spans that never ended or ended twice.
#[derive(Debug, Clone, Default)]
pub struct SpanCollector {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Every span that started, with its name, and how often it ended.
    started: Vec<(SpanContext, String, u32)>,
    positions: HashMap<SpanId, usize>,
    ended: Vec<SpanData>,
}

impl SpanCollector {
    /// One that has collected nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A tracer provider whose spans go here alone. It samples as the SDK does by default: what has
    /// no parent, and what has a sampled one. The ids of spans are [derived](crate::ids), as
    /// [`init`](crate::init) has it. For another sampler, add a clone of the collector to a
    /// provider of your own with `with_span_processor`.
    #[must_use]
    pub fn provider(&self) -> SdkTracerProvider {
        SdkTracerProvider::builder()
            .with_id_generator(DerivedIds::default())
            .with_span_processor(self.clone())
            .build()
    }

    /// The spans that ended, in the order in which they started.
    #[must_use]
    pub fn spans(&self) -> Vec<SpanData> {
        let state = self.state();
        let mut spans = state.ended.clone();
        let position = |span: &SpanData| state.positions.get(&span.span_context.span_id());
        spans.sort_by_key(|span| position(span).copied());
        spans
    }

    /// The names of the spans that have not ended.
    #[must_use]
    pub fn open(&self) -> Vec<String> {
        let state = self.state();
        let open = state.started.iter().filter(|(_, _, ends)| *ends == 0);
        open.map(|(_, name, _)| name.clone()).collect()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        *self.state() = State::default();
    }

    /// The spans that ended, as a tree.
    #[must_use]
    pub fn tree(&self) -> SpanTree {
        SpanTree::in_order(self.spans())
    }

    /// Asserts what holds for every trace, whatever it shows.
    ///
    /// # Panics
    ///
    /// If there are [`violations`](Self::violations).
    #[track_caller]
    pub fn assert_sound(&self) {
        let violations = self.violations();
        assert!(
            violations.is_empty(),
            "the trace is not sound:\n- {}\n\n{}",
            violations.join("\n- "),
            self.tree()
        );
    }

    /// What is wrong with the spans by themselves: one that never ended, ended twice, ends before it
    /// starts, or whose parent was neither collected nor is remote; a trace with several roots; an
    /// attribute that is set twice.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (_, name, ends) in &self.state().started {
            match ends {
                0 => found.push(format!("`{name}` never ended")),
                1 => {}
                more => found.push(format!("`{name}` ended {more} times")),
            }
        }
        let spans = self.spans();
        let ids: HashSet<_> = spans.iter().map(|s| s.span_context.span_id()).collect();
        let mut roots = HashMap::new();
        for span in &spans {
            let name = &span.name;
            if span.end_time < span.start_time {
                found.push(format!("`{name}` ends before it starts"));
            }
            if span.parent_span_id == SpanId::INVALID {
                let root = roots.insert(span.span_context.trace_id(), name);
                if let Some(other) = root {
                    found.push(format!("`{other}` and `{name}` are both roots of a trace"));
                }
            } else if !span.parent_span_is_remote && !ids.contains(&span.parent_span_id) {
                found.push(format!("the parent of `{name}` is missing"));
            }
            let mut keys = HashSet::new();
            for attribute in &span.attributes {
                if !keys.insert(attribute.key.as_str()) {
                    found.push(format!("`{name}` has `{}` twice", attribute.key));
                }
            }
        }
        found
    }

    /// Where `text` occurs in what was collected: in names, attributes, events, links, statuses. For
    /// tests that data which must not be exported is not.
    ///
    /// ```
    /// use opentelemetry::trace::{Tracer, TracerProvider};
    /// use workflow_otel::testing::SpanCollector;
    ///
    /// let spans = SpanCollector::new();
    /// spans.provider().tracer("shop").in_span("charge 4242", |_| {});
    /// assert_eq!(spans.mentions("4242"), ["the name of `charge 4242`"]);
    /// ```
    #[must_use]
    pub fn mentions(&self, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for span in self.spans() {
            let mut look = |place: String, value: &str| {
                if value.contains(text) {
                    found.push(format!("{place} of `{}`", span.name));
                }
            };
            let attributes = |place: &str, all: &[KeyValue], look: &mut dyn FnMut(String, &str)| {
                for attribute in all {
                    look(format!("the key of {place}"), attribute.key.as_str());
                    let key = format!("{place} `{}`", attribute.key);
                    look(key, &attribute.value.as_str());
                }
            };
            look("the name".to_owned(), &span.name);
            look("the status".to_owned(), &format!("{:?}", span.status));
            let state = span.span_context.trace_state().header();
            look("the trace state".to_owned(), &state);
            attributes("attribute", &span.attributes, &mut look);
            for event in &span.events.events {
                look("an event".to_owned(), &event.name);
                let place = format!("attribute of event `{}`,", event.name);
                attributes(&place, &event.attributes, &mut look);
            }
            for link in &span.links.links {
                attributes("attribute of a link,", &link.attributes, &mut look);
            }
        }
        found
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SpanProcessor for SpanCollector {
    fn on_start(&self, span: &mut Span, _parent: &Context) {
        let span_context = span.span_context().clone();
        let name = span.exported_data().map(|data| data.name.into_owned());
        let mut state = self.state();
        let position = state.started.len();
        state.positions.insert(span_context.span_id(), position);
        state
            .started
            .push((span_context, name.unwrap_or_default(), 0));
    }

    fn on_end(&self, span: SpanData) {
        let mut state = self.state();
        let position = state.positions.get(&span.span_context.span_id()).copied();
        // Unknown if it started before `clear`.
        let Some(position) = position else { return };
        if let Some((_, _, ends)) = state.started.get_mut(position) {
            *ends += 1;
        }
        state.ended.push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}
