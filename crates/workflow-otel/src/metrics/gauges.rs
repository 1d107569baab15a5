//! Gauges of what workers tell of themselves, read whenever somebody collects. Nothing is kept up to date
//! in between.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use workflow_core::{QueueReading, WorkerReading, WorkerState};

use crate::names::{attribute, metric};

/// The workers that were introduced, as long as they live.
#[derive(Default)]
pub(super) struct Workers(Mutex<Vec<Weak<dyn WorkerState>>>);

impl Workers {
    pub(super) fn add(&self, worker: &Arc<dyn WorkerState>) {
        let mut workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        workers.retain(|worker| worker.strong_count() > 0);
        workers.push(Arc::downgrade(worker));
    }

    fn read(&self) -> Vec<WorkerReading> {
        let workers: Vec<_> = {
            let workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            workers.iter().filter_map(Weak::upgrade).collect()
        };
        workers.iter().map(|worker| worker.read()).collect()
    }

    /// The queues that they read, each once.
    fn queues(&self) -> Vec<Arc<QueueReading>> {
        let readings = self.read().into_iter().filter_map(|worker| worker.queue);
        let queues: BTreeMap<_, _> = readings.map(|queue| (queue.source, queue)).collect();
        queues.into_values().collect()
    }
}

/// Registers the gauges with a meter. They tell nothing as long as there is no worker.
pub(super) fn observe(meter: &Meter, workers: &Arc<Workers>) {
    observe_slots(meter, Arc::clone(workers));
    observe_connections(meter, Arc::clone(workers));
    observe_depth(meter, Arc::clone(workers));
    observe_oldest(meter, Arc::clone(workers));
    observe_runs(meter, Arc::clone(workers));
}

fn observe_slots(meter: &Meter, workers: Arc<Workers>) {
    meter
        .u64_observable_gauge(metric::WORKFLOW_WORKER_SLOTS)
        .with_unit("{slot}")
        .with_description("Slots of this process's workers.")
        .with_callback(move |gauge| {
            let workers = workers.read();
            if workers.is_empty() {
                return;
            }
            let used = workers.iter().map(|worker| worker.slots_used).sum();
            let free = workers.iter().map(|worker| worker.slots_free).sum();
            gauge.observe(used, &[state("used")]);
            gauge.observe(free, &[state("free")]);
        })
        .build();
}

fn observe_connections(meter: &Meter, workers: Arc<Workers>) {
    meter
        .i64_observable_up_down_counter(metric::DB_CLIENT_CONNECTION_COUNT)
        .with_unit("{connection}")
        .with_description("The number of connections that are currently in state described by the state attribute.")
        .with_callback(move |counter| {
            let pools = workers.read().into_iter();
            let pools = pools.filter_map(|worker| worker.connections);
            // Each once, however many workers share it.
            let pools: BTreeMap<_, _> = pools.map(|pool| (Arc::clone(&pool.pool), pool)).collect();
            for (name, pool) in pools {
                for (state, connections) in [("used", pool.used), ("idle", pool.idle)] {
                    let attributes = [
                        KeyValue::new(attribute::DB_CLIENT_CONNECTION_POOL_NAME, Arc::clone(&name)),
                        KeyValue::new(attribute::DB_CLIENT_CONNECTION_STATE, state),
                    ];
                    counter.observe(i64::try_from(connections).unwrap_or(i64::MAX), &attributes);
                }
            }
        })
        .build();
}

fn observe_depth(meter: &Meter, workers: Arc<Workers>) {
    meter
        .u64_observable_gauge(metric::WORKFLOW_QUEUE_DEPTH)
        .with_unit("{run}")
        .with_description("Runs in the database that are not over, counted up to a limit.")
        .with_callback(move |gauge| {
            let queues = workers.queues();
            if queues.is_empty() {
                return;
            }
            let sum = |of: fn(&QueueReading) -> u64| queues.iter().map(|queue| of(queue)).sum();
            gauge.observe(sum(|queue| queue.due), &[state("due")]);
            gauge.observe(sum(|queue| queue.scheduled), &[state("scheduled")]);
            gauge.observe(sum(|queue| queue.waiting), &[state("waiting")]);
            gauge.observe(sum(|queue| queue.running), &[state("running")]);
        })
        .build();
}

fn observe_oldest(meter: &Meter, workers: Arc<Workers>) {
    meter
        .f64_observable_gauge(metric::WORKFLOW_QUEUE_OLDEST)
        .with_unit("s")
        .with_description("For how long the oldest run has been due that is not claimed.")
        .with_callback(move |gauge| {
            let queues = workers.queues();
            let oldest = queues
                .iter()
                .map(|queue| queue.oldest_due.unwrap_or_default());
            if let Some(oldest) = oldest.max() {
                gauge.observe(Duration::as_secs_f64(&oldest), &[]);
            }
        })
        .build();
}

fn observe_runs(meter: &Meter, workers: Arc<Workers>) {
    meter
        .u64_observable_gauge(metric::OPENWORKFLOW_WORKFLOW_RUNS)
        .with_description("Current count of workflow runs in each status.")
        .with_callback(move |gauge| {
            let mut sums = BTreeMap::new();
            for queue in workers.queues() {
                for (status, runs) in &queue.runs {
                    *sums.entry(*status).or_insert(0) += runs;
                }
            }
            for (status, runs) in sums {
                gauge.observe(runs, &[KeyValue::new(attribute::STATUS, status)]);
            }
        })
        .build();
}

fn state(state: &'static str) -> KeyValue {
    KeyValue::new(attribute::STATE, state)
}
