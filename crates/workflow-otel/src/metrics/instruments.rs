//! What is counted and measured: names, units, meanings, buckets.

use std::sync::Arc;

use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};

use super::gauges::{self, Workers};
use crate::names::metric;

/// From a step that does next to nothing to a run that waits for somebody, in seconds.
pub(super) const BUCKETS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 1800.0, 3600.0,
];

pub(super) struct Instruments {
    pub(super) runs_created: Counter<u64>,
    pub(super) executions: Counter<u64>,
    pub(super) execution_duration: Histogram<f64>,
    pub(super) run_duration: Histogram<f64>,
    pub(super) queue_duration: Histogram<f64>,
    pub(super) active: UpDownCounter<i64>,
    pub(super) step_duration: Histogram<f64>,
    pub(super) step_retries: Counter<u64>,
    pub(super) steps_replayed: Counter<u64>,
    pub(super) signals_sent: Counter<u64>,
    pub(super) leases_lost: Counter<u64>,
    pub(super) telemetry_lost: Counter<u64>,
}

impl Instruments {
    /// Gauges are read from `workers` whenever somebody collects.
    pub(super) fn new(meter: &Meter, workers: &Arc<Workers>) -> Self {
        gauges::observe(meter, workers);
        let counter = |name, unit, description| {
            meter
                .u64_counter(name)
                .with_unit(unit)
                .with_description(description)
                .build()
        };
        let duration = |name, description| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description)
                .with_boundaries(BUCKETS.to_vec())
                .build()
        };
        Self {
            runs_created: counter(
                metric::WORKFLOW_RUNS_CREATED,
                "{run}",
                "Runs that were created.",
            ),
            executions: counter(
                metric::WORKFLOW_EXECUTIONS,
                "{execution}",
                "Executions that ended.",
            ),
            execution_duration: duration(
                metric::WORKFLOW_EXECUTION_DURATION,
                "From the claim of a run to the last write of its execution.",
            ),
            run_duration: duration(
                metric::WORKFLOW_DURATION,
                "From the creation of a run to its end, waits included.",
            ),
            queue_duration: duration(
                metric::WORKFLOW_QUEUE_DURATION,
                "From when a run was due to when it was claimed.",
            ),
            active: meter
                .i64_up_down_counter(metric::ACTIVE_WORKFLOWS)
                .with_unit("{execution}")
                .with_description("Executions under way in this process.")
                .build(),
            step_duration: duration(
                metric::STEP_DURATION,
                "The body of a function; the set-up, or the observed end, of a wait.",
            ),
            step_retries: counter(
                metric::STEP_RETRIES,
                "{retry}",
                "Failures of steps that are tried again.",
            ),
            steps_replayed: counter(
                metric::STEP_REPLAYED,
                "{step}",
                "Steps that were answered from history.",
            ),
            signals_sent: counter(metric::SIGNAL_SENT, "{signal}", "Signals that were sent."),
            leases_lost: counter(
                metric::WORKFLOW_LEASE_LOST,
                "{lease}",
                "Executions that were dropped because their run was no longer theirs.",
            ),
            telemetry_lost: counter(
                metric::WORKFLOW_TELEMETRY_LOST,
                "{item}",
                "Telemetry that could not be made, ended or read.",
            ),
        }
    }
}
