//! The span of a whole run, made when the run ends by whoever ends it.

use std::time::SystemTime;

use opentelemetry::trace::{SpanBuilder, SpanKind, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use workflow_core::{
    CreateRun, Error, Execution, ExecutionOutcome, Interruption, RunInfo, Unwritten,
};

use super::end::About;
use super::outcome::Ending;
use super::{Traces, call};
use crate::config::SpanSelection;
use crate::context::bar;
use crate::ids::Wanted;
use crate::names::{attribute, operation};
use crate::outcomes;

/// How a run ended.
pub(crate) enum RunEnd<'a> {
    Completed,
    Failed(&'a Error),
    Canceled,
}

impl Traces {
    /// Writes the context in which a run's executions are: that of `creator`, or of the run's bar.
    pub(super) fn inject_run(&self, creator: &Context, call: &mut CreateRun) {
        let parent = creator.span().span_context().clone();
        let selected = self.config.spans_of(&call.run.workflow_name) != SpanSelection::None;
        if self.config.run_bar && selected && parent.is_valid() && parent.is_sampled() {
            self.inject(&bar::context(&call.run, creator, &parent), call);
            bar::write(&mut call.run.carrier, &parent);
        } else {
            // Should the carrier be that of another run.
            bar::remove(&mut call.run.carrier);
            self.inject(creator, call);
        }
    }

    /// A run that continues another has that one's carrier, and a bar of its own.
    pub(super) fn continue_bar(&self, call: &mut CreateRun) {
        let Some(parent) = bar::parent(&call.run.carrier) else {
            return;
        };
        let before = self.propagation.extract(&call.run.carrier, &self.losses);
        self.inject(&bar::context(&call.run, &before, &parent), call);
    }

    /// An execution wrote how it ended: perhaps its run's end.
    pub(super) fn wrote(
        &self,
        execution: &Execution,
        written: &Result<&ExecutionOutcome, Unwritten<'_>>,
    ) {
        let end = match written {
            Ok(ExecutionOutcome::Completed { .. } | ExecutionOutcome::Continued { .. }) => {
                RunEnd::Completed
            }
            Ok(ExecutionOutcome::Failed { error }) => RunEnd::Failed(error),
            _ => return,
        };
        let created = execution.run_created_at;
        let ended = created.zip(execution.run_age());
        let ended = ended.and_then(|(created, age)| created.checked_add(age));
        self.run_ended(&execution.run, created, ended, &end);
    }

    /// Makes the bar of a run that ended, if it has one.
    pub(crate) fn run_ended(
        &self,
        run: &RunInfo,
        created_at: Option<SystemTime>,
        ended_at: Option<SystemTime>,
        end: &RunEnd<'_>,
    ) {
        let Some(parent) = bar::parent(&run.carrier) else {
            return;
        };
        if self.config.spans_of(&run.workflow_name) == SpanSelection::None {
            return;
        }
        let cx = self.propagation.extract(&run.carrier, &self.losses);
        let own = cx.span().span_context().clone();
        // A carrier whose trace cannot be read, or was replaced: its executions are elsewhere.
        if own.trace_id() != parent.trace_id() {
            return;
        }
        let ended_at = ended_at.unwrap_or_else(SystemTime::now);
        let began_at = created_at.map_or(ended_at, |created| created.min(ended_at));
        let (status, mut ending) = match end {
            RunEnd::Completed => ("completed", Ending::success(None)),
            RunEnd::Failed(error) => (outcomes::FAILED, Ending::failure(None, error)),
            RunEnd::Canceled => {
                let reason = Interruption::Canceled.as_str();
                (outcomes::CANCELED, Ending::interrupted(None, reason))
            }
        };
        let mut attributes = call::run_attributes(run, true);
        attributes.push(KeyValue::new(attribute::WORKFLOW_RUN_STATUS, status));
        let span = SpanBuilder::from_name(call::name(operation::WORKFLOW_RUN, &run.workflow_name))
            .with_kind(SpanKind::Internal)
            .with_start_time(began_at)
            .with_attributes(attributes);
        let cx = Context::new().with_remote_span_context(parent);
        let wanted = Wanted::span(own.span_id());
        if let Some(started) = self.start(&*self.tracer(), span, wanted, &cx)
            && started.recording
        {
            self.end_span(&started.cx, About::Run, &mut ending, Some(ended_at));
        }
    }
}
