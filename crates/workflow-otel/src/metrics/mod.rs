//! Metrics of what the hooks see: `instruments` are what is counted and measured, `timing` the calls under
//! way, `gauges` what workers tell of themselves, `step_names` which names of steps there are.

mod attributes;
#[cfg(feature = "prometheus")]
pub(crate) mod exemplars;
mod gauges;
mod instruments;
mod step_names;
mod timing;

use std::sync::{Arc, OnceLock};

use opentelemetry::KeyValue;
use opentelemetry::global;
use opentelemetry::metrics::{Histogram, Meter};
use opentelemetry::trace::{SpanContext, SpanId, TraceId};
use workflow_core::{
    CreateRun, CreatedRun, Error, Event, ExecuteRun, Execution, ExecutionOutcome, Interruption,
    Result, SendSignal, SentSignal, StepCall, Unwritten,
};

use self::attributes::{Attributes, flag, text, word};
#[cfg(feature = "prometheus")]
use self::exemplars::Exemplars;
use self::gauges::Workers;
use self::instruments::Instruments;
use self::step_names::StepNames;
use self::timing::{ExecutionTiming, StepTiming};
use crate::config::{MetricSelection, MetricsConfig};
use crate::losses::LossCounters;
use crate::names::{attribute, metric};
use crate::outcomes;

/// The span in which something is measured, where that is sampled.
pub(crate) type SeenIn = (TraceId, SpanId);

pub(crate) fn seen_in(span: &SpanContext) -> Option<SeenIn> {
    let is_seen = span.is_sampled() && span.is_valid();
    is_seen.then(|| (span.trace_id(), span.span_id()))
}

/// The metrics of one interceptor.
pub(crate) struct Metrics {
    config: MetricsConfig,
    /// Those of the provider that was given, or of the first global one there was.
    instruments: OnceLock<Instruments>,
    workers: Arc<Workers>,
    step_names: StepNames,
    losses: Arc<LossCounters>,
    #[cfg(feature = "prometheus")]
    exemplars: Option<Arc<Exemplars>>,
}

impl Metrics {
    pub(crate) fn new(
        config: MetricsConfig,
        meter: Option<&Meter>,
        losses: Arc<LossCounters>,
    ) -> Self {
        let instruments = OnceLock::new();
        let workers = Arc::new(Workers::default());
        if let Some(meter) = meter
            && let Some(made) = losses.contain(|| Instruments::new(meter, &workers))
        {
            count_losses(&config, &losses, &made);
            // Nobody has filled it before.
            let _ = instruments.set(made);
        }
        let step_names = StepNames::up_to(config.step_names);
        Self {
            config,
            instruments,
            workers,
            step_names,
            losses,
            #[cfg(feature = "prometheus")]
            exemplars: None,
        }
    }

    /// Keeps exemplars there from now on.
    #[cfg(feature = "prometheus")]
    pub(crate) fn with_exemplars(mut self, exemplars: Option<Arc<Exemplars>>) -> Self {
        self.exemplars = exemplars;
        self
    }

    /// Whether it matters in which span something is measured.
    pub(crate) fn keeps_exemplars(&self) -> bool {
        #[cfg(feature = "prometheus")]
        return self.exemplars.is_some();
        #[cfg(not(feature = "prometheus"))]
        false
    }

    /// Records a measurement, and in which span it was taken.
    fn measure(
        &self,
        (name, histogram): (&'static str, &Histogram<f64>),
        value: f64,
        all: &[KeyValue],
        span: Option<SeenIn>,
    ) {
        self.record(|| histogram.record(value, all));
        #[cfg(feature = "prometheus")]
        if let (Some(exemplars), Some(span)) = (&self.exemplars, span) {
            exemplars.keep(name, all, value, span, std::time::Instant::now());
        }
        #[cfg(not(feature = "prometheus"))]
        let _ = (name, span);
    }

    pub(crate) fn config(&self) -> &MetricsConfig {
        &self.config
    }

    pub(crate) fn create_run(&self, call: &CreateRun) -> Option<Creating<'_>> {
        let workflow = &call.run.workflow_name;
        let instruments = self.wanted(workflow, MetricSelection::RunsOnly)?;
        Some(Creating {
            metrics: self,
            instruments,
            workflow: Arc::clone(workflow),
            child: call.parent.is_some(),
        })
    }

    pub(crate) fn execute(&self, call: &ExecuteRun) -> Option<ExecutionTiming<'_>> {
        let workflow = &call.execution.run.workflow_name;
        let instruments = self.wanted(workflow, MetricSelection::RunsOnly)?;
        Some(ExecutionTiming::begin(self, instruments, &call.execution))
    }

    pub(crate) fn step(&self, call: &StepCall) -> Option<StepTiming<'_>> {
        // Looked for where its execution began.
        let instruments = self.instruments.get()?;
        let workflow = &call.execution.run.workflow_name;
        if !self.config.selects(workflow, MetricSelection::All) {
            return None;
        }
        Some(StepTiming::begin(self, instruments, call))
    }

    pub(crate) fn send_signal(&self, _: &SendSignal) -> Option<Sending<'_>> {
        if self.config.selection == MetricSelection::None {
            return None;
        }
        let instruments = self.instruments()?;
        Some(Sending {
            metrics: self,
            instruments,
        })
    }

    /// `span` is that of the execution, where the event is its end.
    pub(crate) fn event(&self, event: &Event<'_>, span: Option<SeenIn>) {
        match event {
            Event::StepReplayed { execution, .. } => self.step_replayed(execution),
            Event::StepRetrying {
                execution,
                step,
                error,
                ..
            } => {
                let name = (!step.is_signals).then_some(step.base_name);
                self.step_retrying(execution, name, error);
            }
            Event::ExecutionEnded {
                execution, written, ..
            } => self.execution_ended(execution, written, span),
            Event::RunCanceled { run, age, .. } => {
                let workflow = &run.workflow_name;
                if let Some(instruments) = self.wanted(workflow, MetricSelection::RunsOnly)
                    && let Some(age) = age
                {
                    self.run_ended(instruments, workflow, outcomes::CANCELED, None, *age, None);
                }
            }
            Event::RunOverdue {
                run,
                error,
                age: Some(age),
                ..
            } => {
                let workflow = &run.workflow_name;
                if let Some(instruments) = self.wanted(workflow, MetricSelection::RunsOnly) {
                    let error_type = Some(error.error_type());
                    self.run_ended(
                        instruments,
                        workflow,
                        outcomes::FAILED,
                        error_type,
                        *age,
                        None,
                    );
                }
            }
            Event::WorkerStarted { worker, .. }
                if self.config.selection != MetricSelection::None =>
            {
                self.workers.add(worker);
                // The provider that is there by now.
                self.instruments();
            }
            _ => {}
        }
    }

    fn step_replayed(&self, execution: &Execution) {
        let workflow = &execution.run.workflow_name;
        let Some(instruments) = self.instruments.get() else {
            return;
        };
        if self.config.selects(workflow, MetricSelection::All) {
            let workflow = text(attribute::WORKFLOW_NAME, workflow);
            self.record(|| instruments.steps_replayed.add(1, &[workflow]));
        }
    }

    fn step_retrying(&self, execution: &Execution, name: Option<&Arc<str>>, error: &Error) {
        let workflow = &execution.run.workflow_name;
        let Some(instruments) = self.instruments.get() else {
            return;
        };
        if self.config.selects(workflow, MetricSelection::All) {
            let mut all = Attributes::of(text(attribute::WORKFLOW_NAME, workflow));
            all.extend(name.map(|name| self.step_names.attribute(name)));
            all.push_error(error.error_type());
            self.record(|| instruments.step_retries.add(1, &all));
        }
    }

    /// What came of an execution, once that is written.
    fn execution_ended(
        &self,
        execution: &Execution,
        written: &Result<&ExecutionOutcome, Unwritten<'_>>,
        span: Option<SeenIn>,
    ) {
        let workflow = &execution.run.workflow_name;
        let Some(instruments) = self.wanted(workflow, MetricSelection::RunsOnly) else {
            return;
        };
        let (outcome, error_type) = match written {
            Ok(outcome) => (
                outcomes::of_execution(outcome),
                outcome.error().map(Error::error_type),
            ),
            Err(Unwritten::Interrupted(reason)) => {
                let (outcome, error_type) = outcomes::of_interruption(*reason);
                // A worker that stops gives its runs back.
                if *reason != Interruption::WorkerStopped {
                    let reason = word(attribute::REASON, error_type);
                    self.record(|| instruments.leases_lost.add(1, &[reason]));
                }
                (Some(outcome), Some(error_type))
            }
            Err(Unwritten::Failed(error)) => (Some(outcomes::STALE), Some(error.error_type())),
            Err(_) => (Some(outcomes::STALE), None),
        };
        self.count_execution(instruments, execution, outcome, error_type, span);
        if let Ok(outcome) = written {
            self.count_run(instruments, execution, outcome, span);
        }
    }

    fn count_execution(
        &self,
        instruments: &Instruments,
        execution: &Execution,
        outcome: Option<&'static str>,
        error_type: Option<&str>,
        span: Option<SeenIn>,
    ) {
        let workflow = &execution.run.workflow_name;
        let mut all = Attributes::of(text(attribute::WORKFLOW_NAME, workflow));
        all.extend(outcome.map(|outcome| word(attribute::WORKFLOW_OUTCOME, outcome)));
        if let Some(error_type) = error_type {
            all.push_error(error_type);
        }
        let seconds = execution.elapsed().as_secs_f64();
        self.record(|| instruments.executions.add(1, &all));
        let histogram = (
            metric::WORKFLOW_EXECUTION_DURATION,
            &instruments.execution_duration,
        );
        self.measure(histogram, seconds, &all, span);
    }

    /// The run itself, where its execution was its last.
    fn count_run(
        &self,
        instruments: &Instruments,
        execution: &Execution,
        outcome: &ExecutionOutcome,
        span: Option<SeenIn>,
    ) {
        let ended = matches!(
            outcome,
            ExecutionOutcome::Completed { .. }
                | ExecutionOutcome::Continued { .. }
                | ExecutionOutcome::Failed { .. }
        );
        if ended
            && let Some(status) = outcomes::of_execution(outcome)
            && let Some(age) = execution.run_age()
        {
            let workflow = &execution.run.workflow_name;
            let error_type = outcome.error().map(Error::error_type);
            self.run_ended(instruments, workflow, status, error_type, age, span);
        }
    }

    fn run_ended(
        &self,
        instruments: &Instruments,
        workflow: &Arc<str>,
        status: &'static str,
        error_type: Option<&str>,
        age: std::time::Duration,
        span: Option<SeenIn>,
    ) {
        let mut all = Attributes::of(text(attribute::WORKFLOW_NAME, workflow));
        all.push(word(attribute::WORKFLOW_RUN_STATUS, status));
        if let Some(error_type) = error_type {
            all.push_error(error_type);
        }
        let histogram = (metric::WORKFLOW_DURATION, &instruments.run_duration);
        self.measure(histogram, age.as_secs_f64(), &all, span);
    }

    fn signal_sent(&self, instruments: &Instruments, recipients: usize) {
        let delivered = flag(attribute::SIGNAL_DELIVERED, recipients > 0);
        self.record(|| instruments.signals_sent.add(1, &[delivered]));
    }

    /// The instruments, where `workflow` has the metrics of `selection`.
    fn wanted(&self, workflow: &str, selection: MetricSelection) -> Option<&Instruments> {
        if self.config.selects(workflow, selection) {
            self.instruments()
        } else {
            None
        }
    }

    /// `None` as long as nobody would collect anything.
    fn instruments(&self) -> Option<&Instruments> {
        if let Some(instruments) = self.instruments.get() {
            return Some(instruments);
        }
        let provider = self.losses.contain(global::meter_provider)?;
        // The API does not tell whether one was set. The one that does nothing has nothing: it would be
        // kept for good, and what it does not record be computed for it.
        if size_of_val(&*provider) == 0 {
            return None;
        }
        let made = self.losses.contain(|| {
            let meter = provider.meter_with_scope(crate::tracer::scope());
            Instruments::new(&meter, &self.workers)
        })?;
        count_losses(&self.config, &self.losses, &made);
        Some(self.instruments.get_or_init(|| made))
    }

    /// Calls into a meter, whose panic is nobody else's.
    fn record(&self, record: impl FnOnce()) {
        self.losses.contain(record);
    }
}

/// They belong to no workflow, so what holds for all others says whether they are counted.
fn count_losses(config: &MetricsConfig, losses: &LossCounters, instruments: &Instruments) {
    if config.selection != MetricSelection::None {
        losses.count_with(instruments.telemetry_lost.clone());
    }
}

/// A run is being created.
pub(crate) struct Creating<'m> {
    metrics: &'m Metrics,
    instruments: &'m Instruments,
    workflow: Arc<str>,
    child: bool,
}

impl Creating<'_> {
    pub(crate) fn end(self, result: &Result<CreatedRun>) {
        if matches!(result, Ok(created) if !created.deduplicated) {
            let all = [
                text(attribute::WORKFLOW_NAME, &self.workflow),
                flag(attribute::WORKFLOW_CHILD, self.child),
            ];
            self.metrics
                .record(|| self.instruments.runs_created.add(1, &all));
        }
    }
}

/// A client sends a signal.
pub(crate) struct Sending<'m> {
    metrics: &'m Metrics,
    instruments: &'m Instruments,
}

impl Sending<'_> {
    /// A count has no exemplar.
    pub(crate) fn seen_in(&mut self, _: Option<SeenIn>) {}

    pub(crate) fn end(self, result: &Result<SentSignal>) {
        if let Ok(sent) = result {
            self.metrics
                .signal_sent(self.instruments, sent.run_ids.len());
        }
    }
}
