//! The span of an execution: of one that begins, and of one that nobody else ends any more.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use opentelemetry::trace::{Link, SpanBuilder, SpanId, SpanKind, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use workflow_core::{ExecuteRun, Execution, LostExecution, RunInfo};

use super::end::About;
use super::outcome::Ending;
use super::span::{OpenSpan, Subject};
use super::{Traces, address_of, call, lock};
use crate::config::{SpanCall, SpanSelection, TraceMode};
use crate::context::origin;
use crate::context::progress::Progress;
use crate::context::propagation::without_span;
#[cfg(any(feature = "logs", feature = "tracing"))]
use crate::context::scope::LogScope;
use crate::context::scope::RunScope;
use crate::ids::{StepIds, Wanted};
use crate::names::{attribute, operation};
use crate::outcomes;

/// The `error.type` of an execution whose worker is gone.
const WORKER_LOST: &str = "worker_lost";

/// An execution, as far as it says where its span belongs.
struct Place<'a> {
    run: &'a RunInfo,
    attempt: u32,
    began_at: SystemTime,
    run_created_at: Option<SystemTime>,
}

impl Traces {
    pub(crate) fn execute(&self, call: &ExecuteRun) -> OpenSpan<'_> {
        let execution = &call.execution;
        let config = &self.config;
        let mut base = self
            .propagation
            .extract(&execution.run.carrier, &self.losses);
        let selection = config.spans_of(&execution.run.workflow_name);
        let tracer = self.tracer();
        let step_ids = step_ids(execution);
        let mut started = None;
        let mut attributes = Vec::new();
        if selection != SpanSelection::None {
            let place = Place {
                run: &execution.run,
                attempt: execution.attempt,
                began_at: execution.started_at,
                run_created_at: execution.run_created_at,
            };
            let span = self.execution_span(&place, &mut base);
            attributes = call::execution_attributes(execution);
            let mut all = attributes.clone();
            all.extend(call::waking(execution.due_for, execution.woken_by));
            let all = self.with_extra(all, SpanCall::ExecuteRun(call));
            let wanted = step_ids.map_or(Wanted::ANY, |_| place.ids());
            started = self.start(&*tracer, span.with_attributes(all), wanted, &base);
        }
        let recording = started.as_ref().is_some_and(|started| started.recording);
        let unrecorded = started.as_ref().filter(|started| !started.recording);
        let unrecorded = unrecorded.map(|started| started.cx.span().span_context().span_id());
        let scope = Arc::new(RunScope {
            execution: Arc::clone(execution),
            span_id: started.as_ref().map_or(SpanId::INVALID, |started| {
                started.cx.span().span_context().span_id()
            }),
            owner: self.address(),
            tracer,
            selection,
            attributes,
            step_ids,
            unrecorded,
            sampled: started
                .as_ref()
                .is_some_and(|started| started.cx.span().span_context().is_sampled()),
            dropping: AtomicBool::new(false),
            progress: Progress::default(),
        });
        let cx = scope.put(&started.map_or(base, |started| started.cx));
        #[cfg(any(feature = "logs", feature = "tracing"))]
        let cx = LogScope::put(config.logs_of(&execution.run.workflow_name), cx);
        self.executions().insert(address_of(execution), cx.clone());
        OpenSpan {
            traces: self,
            cx,
            recording,
            left_open: false,
            subject: Subject::Execution(scope),
        }
    }

    /// Makes the span that a worker did not live to end, under the id that its steps have as their parent's.
    pub(crate) fn execution_lost(
        &self,
        run: &RunInfo,
        run_created_at: Option<SystemTime>,
        lost: &LostExecution,
    ) {
        // One that was cut off and lives, in this process, ends its span itself.
        let lives = self.is_under_way(run, lost.attempt);
        if lives || self.config.spans_of(&run.workflow_name) == SpanSelection::None {
            return;
        }
        let mut base = self.propagation.extract(&run.carrier, &self.losses);
        let place = Place {
            run,
            attempt: lost.attempt,
            began_at: lost.started_at,
            run_created_at,
        };
        let span = self
            .execution_span(&place, &mut base)
            .with_start_time(lost.started_at)
            .with_attributes(call::lost_attributes(run, lost));
        if let Some(started) = self.start(&*self.tracer(), span, place.ids(), &base)
            && started.recording
        {
            let outcome = KeyValue::new(attribute::WORKFLOW_OUTCOME, outcomes::LOST);
            let mut ending = Ending::interrupted(Some(outcome), WORKER_LOST);
            let at = lost.last_seen_at.max(lost.started_at);
            self.end_span(&started.cx, About::Client, &mut ending, Some(at));
        }
    }

    fn is_under_way(&self, run: &RunInfo, attempt: u32) -> bool {
        let is_it = |cx: &Context| {
            RunScope::of(cx).is_some_and(|scope| {
                let other = &scope.execution;
                let same_run = other.run.id == run.id;
                same_run && other.run.namespace_id == run.namespace_id && other.attempt == attempt
            })
        };
        let executing = self.executions().values().any(is_it);
        executing
            || lock(&self.unwritten)
                .values()
                .flatten()
                .any(|u| is_it(&u.cx))
    }

    /// The span of an execution but for its attributes. `creator`, the context in the run's carrier, becomes
    /// the one that the span is started in.
    fn execution_span(&self, place: &Place<'_>, creator: &mut Context) -> SpanBuilder {
        let run = place.run;
        let name = call::name(operation::WORKFLOW_EXECUTE, &run.workflow_name);
        let span = SpanBuilder::from_name(name).with_kind(SpanKind::Consumer);
        let mut links = Vec::new();
        let created_by = creator.span().span_context().clone();
        if created_by.is_sampled() && self.is_linked(place) {
            links.push(Link::with_context(created_by));
            *creator = without_span(creator);
        }
        if place.attempt == 1 {
            let roots = self.config.mode == TraceMode::Linked;
            links.extend(origin::links(run, roots));
        }
        if links.is_empty() {
            span
        } else {
            span.with_links(links)
        }
    }

    /// Whether an execution has a trace of its own, although it knows who created its run.
    fn is_linked(&self, place: &Place<'_>) -> bool {
        match self.config.mode {
            TraceMode::CallerAsParent => false,
            TraceMode::Linked => true,
            TraceMode::Auto { linked_after } => {
                let created = origin::first_created_at(&place.run.carrier);
                let age = created
                    .or(place.run_created_at)
                    .and_then(|created| place.began_at.duration_since(created).ok());
                age.is_some_and(|age| age >= linked_after)
            }
        }
    }
}

impl Place<'_> {
    fn ids(&self) -> Wanted {
        Wanted::execution(&self.run.namespace_id, &self.run.id, self.attempt)
    }
}

/// What the ids of an execution's steps are derived from. `None` where an interceptor further out derives
/// them: no two spans have the same id, should both be in one trace.
fn step_ids(execution: &Arc<Execution>) -> Option<StepIds> {
    let is_taken = Context::map_current(|current| {
        RunScope::of(current).is_some_and(|outer| Arc::ptr_eq(&outer.execution, execution))
    });
    let run = &execution.run;
    (!is_taken).then(|| StepIds::of(&run.namespace_id, &run.id, execution.attempt))
}
