//! The names of spans, metrics and attributes, as constants: for queries, alerts, samplers and tests.

/// The operations that begin the names of spans. A span's name is the operation, a space, and the
/// name of the workflow or step. The name of a signal is in none: it often holds an id.
///
/// ```
/// let name = format!("{} {}", workflow_otel::operation::WORKFLOW_EXECUTE, "process-order");
/// assert_eq!(name, "workflow.execute process-order");
/// ```
pub mod operation {
    /// A client creates a run. PRODUCER.
    pub const WORKFLOW_START: &str = "workflow.start";
    /// A worker executes a run, from the claim to completion, failure or the next park. CONSUMER.
    pub const WORKFLOW_EXECUTE: &str = "workflow.execute";
    /// A run, from its creation to its end; where it is [asked for](crate::OtelInterceptorBuilder::run_bar).
    /// INTERNAL.
    pub const WORKFLOW_RUN: &str = "workflow.run";
    /// A client cancels a run. INTERNAL.
    pub const WORKFLOW_CANCEL: &str = "workflow.cancel";
    /// A client sends a signal. PRODUCER. Stands alone.
    pub const SIGNAL_SEND: &str = "signal.send";
    /// A step's function runs. INTERNAL.
    pub const STEP_RUN: &str = "step.run";
    /// A sleep is set up. INTERNAL.
    pub const STEP_SLEEP: &str = "step.sleep";
    /// A child run is created (PRODUCER), or its end observed (INTERNAL).
    pub const STEP_RUN_WORKFLOW: &str = "step.run_workflow";
    /// A wait for a signal is set up, or its end observed. INTERNAL. Followed by the step's name
    /// only where the workflow's author chose one.
    pub const STEP_WAIT_FOR_SIGNAL: &str = "step.wait_for_signal";
    /// A workflow sends a signal. PRODUCER. Followed by the step's name only where the workflow's
    /// author chose one.
    pub const STEP_SEND_SIGNAL: &str = "step.send_signal";
}

/// The names of the events on spans.
///
/// ```
/// assert_eq!(workflow_otel::event::EXCEPTION, "exception");
/// ```
pub mod event {
    /// An error, on the innermost span that saw it. OpenTelemetry's own.
    pub const EXCEPTION: &str = "exception";
    /// The workflow's code departed from the history of its run. On `workflow.execute`.
    pub const NON_DETERMINISM: &str = "workflow.non_determinism";
}

/// The names of the instruments. Durations are histograms, in seconds.
///
/// ```
/// assert_eq!(workflow_otel::metric::STEP_DURATION, "step.duration");
/// ```
#[cfg(feature = "metrics")]
pub mod metric {
    /// Runs that were created. Counter.
    pub const WORKFLOW_RUNS_CREATED: &str = "workflow.runs.created";
    /// Executions that ended. Counter.
    pub const WORKFLOW_EXECUTIONS: &str = "workflow.executions";
    /// From the claim of a run to the last write of its execution. Histogram.
    pub const WORKFLOW_EXECUTION_DURATION: &str = "workflow.execution.duration";
    /// From the creation of a run to its end, waits included. Histogram.
    pub const WORKFLOW_DURATION: &str = "workflow.duration";
    /// From when a run was due to when it was claimed. Histogram.
    pub const WORKFLOW_QUEUE_DURATION: &str = "workflow.queue.duration";
    /// Executions under way in this process. Up-down counter.
    pub const ACTIVE_WORKFLOWS: &str = "active_workflows";
    /// The body of a function; the set-up, or the observed end, of a wait. Histogram.
    pub const STEP_DURATION: &str = "step.duration";
    /// Failures of steps that are tried again. Counter.
    pub const STEP_RETRIES: &str = "step.retries";
    /// Steps that were answered from history. Counter.
    pub const STEP_REPLAYED: &str = "step.replayed";
    /// Signals that were sent. Counter.
    pub const SIGNAL_SENT: &str = "signal.sent";
    /// Executions that were dropped because their run was no longer theirs. Counter.
    pub const WORKFLOW_LEASE_LOST: &str = "workflow.lease.lost";
    /// Slots of this process's workers. Gauge.
    pub const WORKFLOW_WORKER_SLOTS: &str = "workflow.worker.slots";
    /// Runs in the database that are not over. Gauge.
    pub const WORKFLOW_QUEUE_DEPTH: &str = "workflow.queue.depth";
    /// For how long the oldest run has been due that is not claimed. Gauge.
    pub const WORKFLOW_QUEUE_OLDEST: &str = "workflow.queue.oldest";
    /// Connections of the pool to the database. OpenTelemetry's own. Up-down counter.
    pub const DB_CLIENT_CONNECTION_COUNT: &str = "db.client.connection.count";
    /// Runs in the database by their status: the gauge of OpenWorkflow's own dashboard, under its name.
    pub const OPENWORKFLOW_WORKFLOW_RUNS: &str = "openworkflow_workflow_runs";
    /// Telemetry that the interceptor could not make, end or read. Counter.
    pub const WORKFLOW_TELEMETRY_LOST: &str = "workflow.telemetry.lost";
    /// Spans that left the queue of an export, with [`ERROR_TYPE`](super::attribute::ERROR_TYPE) where it had
    /// no room for them. Counter. OpenTelemetry's own.
    pub const OTEL_SDK_PROCESSOR_SPAN_PROCESSED: &str = "otel.sdk.processor.span.processed";
    /// Spans that wait in the queue of an export. Up-down counter. OpenTelemetry's own.
    pub const OTEL_SDK_PROCESSOR_SPAN_QUEUE_SIZE: &str = "otel.sdk.processor.span.queue.size";
    /// Spans whose export is over, with [`ERROR_TYPE`](super::attribute::ERROR_TYPE) where no receiver has
    /// them. Counter. OpenTelemetry's own.
    pub const OTEL_SDK_EXPORTER_SPAN_EXPORTED: &str = "otel.sdk.exporter.span.exported";
    /// Log records that left the queue of an export, as
    /// [`OTEL_SDK_PROCESSOR_SPAN_PROCESSED`] has it of spans. Counter. OpenTelemetry's own.
    pub const OTEL_SDK_PROCESSOR_LOG_PROCESSED: &str = "otel.sdk.processor.log.processed";
    /// Log records that wait in the queue of an export. Up-down counter. OpenTelemetry's own.
    pub const OTEL_SDK_PROCESSOR_LOG_QUEUE_SIZE: &str = "otel.sdk.processor.log.queue.size";
    /// Log records whose export is over, as [`OTEL_SDK_EXPORTER_SPAN_EXPORTED`] has it of spans. Counter.
    /// OpenTelemetry's own.
    pub const OTEL_SDK_EXPORTER_LOG_EXPORTED: &str = "otel.sdk.exporter.log.exported";
    /// Data points of metrics whose export is over, as [`OTEL_SDK_EXPORTER_SPAN_EXPORTED`] has it of spans.
    /// Counter. OpenTelemetry's own.
    pub const OTEL_SDK_EXPORTER_METRIC_DATA_POINT_EXPORTED: &str =
        "otel.sdk.exporter.metric_data_point.exported";
}

/// The keys of the attributes on spans, their events, and metrics.
///
/// ```
/// use opentelemetry::KeyValue;
/// use workflow_otel::attribute;
///
/// let filter = KeyValue::new(attribute::WORKFLOW_OUTCOME, "failed");
/// assert_eq!(filter.key.as_str(), "workflow.outcome");
/// ```
pub mod attribute {
    /// The workflow's name. String.
    pub const WORKFLOW_NAME: &str = "workflow.name";
    /// The workflow's version, only where it has one. String.
    pub const WORKFLOW_VERSION: &str = "workflow.version";
    /// How an execution ended: `completed`, `parked`, `retrying`, `failed`, `canceled` or `stale`; `lost`
    /// where its worker died and another one tells.
    pub const WORKFLOW_OUTCOME: &str = "workflow.outcome";
    /// Whether a run that was created is a child's. On metrics. Boolean.
    pub const WORKFLOW_CHILD: &str = "workflow.child";
    /// How a run ended: `completed`, `failed` or `canceled`. On metrics and
    /// [`WORKFLOW_RUN`](super::operation::WORKFLOW_RUN).
    pub const WORKFLOW_RUN_STATUS: &str = "workflow_run.status";
    /// The run's id. String.
    pub const WORKFLOW_RUN_ID: &str = "workflow_run.id";
    /// The namespace in which the run's id is unique. String.
    pub const WORKFLOW_RUN_NAMESPACE_ID: &str = "workflow_run.namespace_id";
    /// Which execution of the run this is, from 1. Integer.
    pub const WORKFLOW_RUN_ATTEMPT: &str = "workflow_run.attempt";
    /// Whether the run had history when the execution began. Boolean.
    pub const WORKFLOW_RUN_REPLAY: &str = "workflow_run.replay";
    /// Whether an event was logged by code that repeats what an earlier execution did. On events that
    /// [would be left out](crate::logs::ReplayedEvents) otherwise. Boolean.
    #[cfg(any(feature = "logs", feature = "tracing"))]
    pub const WORKFLOW_RUN_REPLAYING: &str = "workflow_run.replaying";
    /// For how long the run was due before the execution claimed it. Double, in seconds.
    pub const WORKFLOW_RUN_QUEUE_DURATION: &str = "workflow_run.queue_duration";
    /// What made the run due: a [`WakeCause`](workflow_core::WakeCause). String.
    pub const WORKFLOW_RUN_WOKEN_BY: &str = "workflow_run.woken_by";
    /// The run as which the execution's run goes on, where it continued as a new one. String.
    pub const WORKFLOW_RUN_CONTINUED_AS: &str = "workflow_run.continued_as";
    /// Why there is a link, on links of [`WORKFLOW_EXECUTE`](super::operation::WORKFLOW_EXECUTE):
    /// `continued_from` where it leads to the execution that continued as this run; `retried_from`,
    /// `resumed_from` or `forked_from` where it leads to the last one of the run that this one was made of.
    /// String.
    pub const WORKFLOW_LINK: &str = "workflow.link";
    /// The worker that executes. String.
    pub const WORKER_ID: &str = "worker.id";
    /// The step's name. String. Where the author chose none for a step about a signal, it is the
    /// signal's, and left out with that. On metrics it is without the number of a repeated name, and never
    /// a signal's.
    pub const STEP_NAME: &str = "step.name";
    /// The step that history has where the code asked for another, on an event
    /// [`NON_DETERMINISM`](super::event::NON_DETERMINISM). String.
    pub const STEP_RECORDED_NAME: &str = "step.recorded_name";
    /// The step's kind: `function`, `sleep`, `workflow`, `signal-wait` or `signal-send`.
    pub const STEP_KIND: &str = "step.kind";
    /// How a step ended: `completed`, `parked`, `failed` or `timed_out`; `canceled` or `stale`
    /// where it was dropped.
    pub const STEP_OUTCOME: &str = "step.outcome";
    /// When a sleep ends. String, RFC 3339 in UTC.
    pub const STEP_RESUME_AT: &str = "step.resume_at";
    /// How long a wait lasted, on the span of its end. Double, in seconds.
    pub const STEP_PARKED_DURATION: &str = "step.parked_duration";
    /// When a wait gives up. String, RFC 3339 in UTC.
    pub const STEP_TIMEOUT_AT: &str = "step.timeout_at";
    /// The id of the attempt at the step. String.
    pub const STEP_ATTEMPT_ID: &str = "step_attempt.id";
    /// How many attempts at the step failed before. Integer.
    pub const STEP_ATTEMPT_PRIOR_FAILURES: &str = "step_attempt.prior_failures";
    /// The child's workflow. String.
    pub const CHILD_WORKFLOW_NAME: &str = "child_workflow.name";
    /// The child's run. String.
    pub const CHILD_WORKFLOW_RUN_ID: &str = "child_workflow_run.id";
    /// The signal's name. String. Can be [left out](crate::SignalNames).
    pub const SIGNAL_NAME: &str = "signal.name";
    /// How many runs received the signal. Integer.
    pub const SIGNAL_RECIPIENT_COUNT: &str = "signal.recipient_count";
    /// Whether anybody received the signal. On metrics. Boolean.
    pub const SIGNAL_DELIVERED: &str = "signal.delivered";
    /// Why an execution lost its run, on metrics: `lease_lost`, `canceled` or `deadline_exceeded`.
    pub const REASON: &str = "reason";
    /// On metrics: whether a slot is `used` or `free`; whether a run in the queue is `due`, `scheduled`,
    /// `waiting` or `running`.
    pub const STATE: &str = "state";
    /// A run's status in the database, on metrics.
    pub const STATUS: &str = "status";
    /// Whether a connection is `used` or `idle`. OpenTelemetry's own.
    pub const DB_CLIENT_CONNECTION_STATE: &str = "db.client.connection.state";
    /// What the pool of connections is called. OpenTelemetry's own.
    pub const DB_CLIENT_CONNECTION_POOL_NAME: &str = "db.client.connection.pool.name";
    /// What of telemetry was lost, on metrics: `call`, `span` or `carrier`.
    pub const ITEM: &str = "item";
    /// Which part of telemetry counts itself, on its metrics. OpenTelemetry's own.
    pub const OTEL_COMPONENT_NAME: &str = "otel.component.name";
    /// Of which kind that part is, on its metrics. OpenTelemetry's own.
    pub const OTEL_COMPONENT_TYPE: &str = "otel.component.type";
    /// What failed, in a word that is the same for every occurrence. OpenTelemetry's own.
    pub const ERROR_TYPE: &str = "error.type";
    /// The error's name, on an `exception` event. OpenTelemetry's own.
    pub const EXCEPTION_TYPE: &str = "exception.type";
    /// The error's message, on an `exception` event. OpenTelemetry's own.
    pub const EXCEPTION_MESSAGE: &str = "exception.message";
    /// Where the error came from, on an `exception` event. OpenTelemetry's own.
    pub const EXCEPTION_STACKTRACE: &str = "exception.stacktrace";
}
