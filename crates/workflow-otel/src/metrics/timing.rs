//! Calls under way, measured from their begin to their end: however they end.

use std::sync::Arc;
use std::time::Instant;

use opentelemetry::KeyValue;
use workflow_core::{Error, Execution, ExecutionOutcome, Result, StepCall, StepOutcome};

use super::Metrics;
use super::attributes::{Attributes, text, word};
use super::instruments::Instruments;
use crate::names::attribute;
use crate::outcomes;

/// An execution under way, which is active until this is dropped.
pub(crate) struct ExecutionTiming<'m> {
    metrics: &'m Metrics,
    instruments: &'m Instruments,
    execution: Arc<Execution>,
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
        };
        let workflow = [timing.workflow()];
        metrics.record(|| {
            instruments.active.add(1, &workflow);
            if let Some(due_for) = execution.due_for {
                let seconds = due_for.as_secs_f64();
                instruments.queue_duration.record(seconds, &workflow);
            }
        });
        timing
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
        } = &self;
        if execution.end_is_promised() {
            return;
        }
        let (outcome, error) = match result {
            Ok(outcome) => (outcomes::of_execution(outcome), outcome.error()),
            Err(error) => (Some(outcomes::of_refused(error)), Some(error)),
        };
        let error_type = error.map(Error::error_type);
        metrics.count_execution(instruments, execution, outcome, error_type);
        if let Ok(outcome) = result {
            metrics.count_run(instruments, execution, outcome);
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
        }
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
        self.metrics
            .record(|| self.instruments.step_duration.record(seconds, &all));
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
