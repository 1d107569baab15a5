//! Calls under way, measured from their begin to their end: however they end.

use std::sync::Arc;
use std::time::Instant;

use opentelemetry::KeyValue;
use workflow_core::{Error, Execution, ExecutionOutcome, Result, StepCall, StepOutcome};

use super::attributes::{Attributes, text, word};
use super::instruments::Instruments;
use super::{Metrics, SeenIn};
use crate::names::{attribute, metric};
use crate::outcomes;

/// An execution under way, which is active until this is dropped.
pub(crate) struct ExecutionTiming<'m> {
    metrics: &'m Metrics,
    instruments: &'m Instruments,
    execution: Arc<Execution>,
    span: Option<SeenIn>,
}

impl<'m> ExecutionTiming<'m> {
    pub(super) fn begin(
        metrics: &'m Metrics,
        instruments: &'m Instruments,
        execution: &Arc<Execution>,
    ) -> Self {
        let timing = Self {
            metrics,
            instruments,
            execution: Arc::clone(execution),
            span: None,
        };
        let workflow = [timing.workflow()];
        metrics.record(|| instruments.active.add(1, &workflow));
        timing
    }

    /// The execution has a span, or has none: it begins.
    pub(crate) fn seen_in(&mut self, span: Option<SeenIn>) {
        self.span = span;
        if let Some(due_for) = self.execution.due_for {
            let histogram = (
                metric::WORKFLOW_QUEUE_DURATION,
                &self.instruments.queue_duration,
            );
            let workflow = [self.workflow()];
            let seconds = due_for.as_secs_f64();
            self.metrics.measure(histogram, seconds, &workflow, span);
        }
    }

    fn workflow(&self) -> KeyValue {
        text(attribute::WORKFLOW_NAME, &self.execution.run.workflow_name)
    }

    /// What counts is what the engine writes. Where it does not promise to tell that, this must do.
    pub(crate) fn end(self, result: &Result<ExecutionOutcome>) {
        let Self {
            metrics,
            instruments,
            execution,
            span,
        } = &self;
        if execution.end_is_promised() {
            return;
        }
        let (outcome, error) = match result {
            Ok(outcome) => (outcomes::of_execution(outcome), outcome.error()),
            Err(error) => (Some(outcomes::of_refused(error)), Some(error)),
        };
        let error_type = error.map(Error::error_type);
        metrics.count_execution(instruments, execution, outcome, error_type, *span);
        if let Ok(outcome) = result {
            metrics.count_run(instruments, execution, outcome, *span);
        }
    }
}

impl Drop for ExecutionTiming<'_> {
    fn drop(&mut self) {
        let workflow = [self.workflow()];
        self.metrics
            .record(|| self.instruments.active.add(-1, &workflow));
    }
}

/// A step under way. Dropped before its end, it was given up or cut off.
pub(crate) struct StepTiming<'m> {
    metrics: &'m Metrics,
    instruments: &'m Instruments,
    execution: Arc<Execution>,
    name: Option<KeyValue>,
    kind: &'static str,
    waits: bool,
    is_over: bool,
    begun: Instant,
    span: Option<SeenIn>,
}

impl<'m> StepTiming<'m> {
    pub(super) fn begin(
        metrics: &'m Metrics,
        instruments: &'m Instruments,
        call: &StepCall,
    ) -> Self {
        // Of a step about a signal whose author chose no name it is the signal's.
        let is_named = !call.is_named_after_signal();
        Self {
            metrics,
            instruments,
            execution: Arc::clone(&call.execution),
            name: is_named.then(|| metrics.step_names.attribute(&call.base_name)),
            kind: call.kind.as_str(),
            waits: call.kind.waits(),
            is_over: false,
            begun: Instant::now(),
            span: None,
        }
    }

    /// The step has a span, or has none.
    pub(crate) fn seen_in(&mut self, span: Option<SeenIn>) {
        self.span = span;
    }

    pub(crate) fn end(mut self, result: &Result<StepOutcome>) {
        match result {
            Ok(outcome) => {
                self.record(outcomes::of_step(outcome), None);
                if let StepOutcome::SignalSent { run_ids } = outcome {
                    self.metrics.signal_sent(self.instruments, run_ids.len());
                }
            }
            Err(error) => {
                let outcome = outcomes::of_failed_step(self.waits, error);
                self.record(Some(outcome), Some(error.error_type()));
            }
        }
    }

    fn record(&mut self, outcome: Option<&'static str>, error_type: Option<&str>) {
        self.is_over = true;
        let seconds = self.begun.elapsed().as_secs_f64();
        let workflow = &self.execution.run.workflow_name;
        let mut all = Attributes::of(text(attribute::WORKFLOW_NAME, workflow));
        all.extend(self.name.take());
        all.push(word(attribute::STEP_KIND, self.kind));
        all.extend(outcome.map(|outcome| word(attribute::STEP_OUTCOME, outcome)));
        if let Some(error_type) = error_type {
            all.push_error(error_type);
        }
        let histogram = (metric::STEP_DURATION, &self.instruments.step_duration);
        self.metrics.measure(histogram, seconds, &all, self.span);
    }
}

impl Drop for StepTiming<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        match self.execution.interruption() {
            Some(reason) => {
                let (outcome, error_type) = outcomes::of_interruption(reason);
                self.record(Some(outcome), Some(error_type));
            }
            None => self.record(Some(outcomes::CANCELED), None),
        }
    }
}
