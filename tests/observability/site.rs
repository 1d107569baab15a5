//! What is observed: a worker that tells its metrics on a port of its own, and what happens there. The
//! database's clock is the test's, so that runs take minutes in no time.

use std::path::Path;
use std::time::Duration;

use openworkflow::observe::Observe;
use openworkflow::otel;
use openworkflow::otel::export::{Signal, Telemetry};
use openworkflow::otel::opentelemetry::logs::{Logger as _, LoggerProvider as _};
use openworkflow::{Error, Result, RetryPolicy, WorkerHandle, Workflow, WorkflowSpec};
use openworkflow_tests::prometheus::Prometheus;
use openworkflow_tests::{Database as _, Gate, Harness, SqliteDatabase, wait_until};

use crate::programs;

const MINUTE: Duration = Duration::from_secs(60);

static ORDER: WorkflowSpec<u32, ()> = WorkflowSpec::new("order");
static SHIP: WorkflowSpec<u32, ()> = WorkflowSpec::new("ship");
static REFUSED: WorkflowSpec<(), ()> = WorkflowSpec::new("refused");
static TAKEN: WorkflowSpec<(), ()> = WorkflowSpec::new("taken");
static HELD: WorkflowSpec<(), ()> = WorkflowSpec::new("held");
static NOBODYS: WorkflowSpec<(), ()> = WorkflowSpec::new("nobodys");

/// What [`Site::day`] comes to: executions by workflow and outcome, each time.
pub(crate) const EXECUTIONS: [(&str, &str, u32); 5] = [
    ("order", "completed", 1),
    ("order", "parked", 3),
    ("refused", "failed", 1),
    ("refused", "retrying", 1),
    ("ship", "completed", 1),
];

/// A worker with its database, and a Prometheus that scrapes it as the job `shop`.
pub(crate) struct Site {
    harness: Harness<SqliteDatabase>,
    pub(crate) prometheus: Prometheus,
    telemetry: Telemetry,
    taken: Gate,
    held: Gate,
    days: u32,
}

impl Site {
    pub(crate) async fn open(rules: &Path) -> Self {
        let metrics = otel::Prometheus::new();
        // Its receiver is away: nobody listens on that port.
        let telemetry = Telemetry::builder()
            .endpoint("http://127.0.0.1:9")
            // Room for what the days make, and no more than that can be filled soon.
            .max_queue_size(256)
            .max_batch_size(64)
            .prometheus(&metrics)
            .build()
            .expect("telemetry can be set up");
        let otel = telemetry.interceptor();
        let (taken, held) = (Gate::closed(), Gate::closed());
        let mut harness = Harness::idle_with(|client| client.interceptor(otel.clone())).await;
        leave_due(&harness).await;
        harness.start_worker(|worker| {
            let held = [behind(&TAKEN, &taken), behind(&HELD, &held)];
            let workflows = [order(), ship(), refused()].into_iter().chain(held);
            workflows
                .fold(worker, openworkflow::WorkerBuilder::workflow)
                .interceptor(otel)
                .count_queue(true)
                .observe(Observe::on("127.0.0.1:0").metrics(&metrics))
        });
        let worker = harness.worker.as_ref();
        let address = worker.and_then(WorkerHandle::observed_at);
        let address = address.expect("the worker is observed").to_string();
        let prometheus = Prometheus::start(programs(), &[("shop", &address)], rules).await;
        Self {
            harness,
            prometheus,
            telemetry,
            taken,
            held,
            days: 0,
        }
    }

    /// An order that is shipped, confirmed and lets 10 minutes pass; and one that is refused twice. The
    /// caller's trace of the first cannot be read. Returns when Prometheus has seen all of it.
    pub(crate) async fn day(&mut self) {
        let Self { harness, days, .. } = self;
        *days += 1;
        let order = harness.client.start(&ORDER, days).traceparent("nonsense");
        let order = order.await.expect("the run starts");
        let paid = harness.client.send_signal(format!("paid:{days}"), &());
        paid.until_received().await.expect("the signal is received");
        harness.parked(order.id(), 3).await;
        harness.advance(12 * MINUTE).await;
        harness.output(&order).await;

        let refused = harness.start(&REFUSED, ()).await;
        harness.retrying(refused.id(), 1).await;
        harness.advance(60 * MINUTE).await;
        harness.failure(&refused).await;

        for (workflow, outcome, executions) in EXECUTIONS {
            let query = format!(
                "sum(workflow_executions_total{{workflow_name={workflow:?}, workflow_outcome={outcome:?}}})"
            );
            let executions = f64::from(executions * *days);
            self.prometheus.query_is(&query, executions).await;
        }
    }

    /// A run that another worker takes away while it executes.
    pub(crate) async fn lose_a_lease(&self) {
        let run = self.harness.start(&TAKEN, ()).await;
        self.taken.reached_by(1).await;
        let id = run.id();
        let steal = format!("UPDATE workflow_runs SET worker_id = 'another' WHERE id = '{id}'");
        self.harness.execute(&steal).await;
        self.taken.open();
        let lost = r#"sum(workflow_lease_lost_total{reason="lease_lost"})"#;
        self.prometheus.query_is(lost, 1.0).await;
    }

    /// A run that executes until [`release`](Self::release).
    pub(crate) async fn hold(&self) {
        self.harness.start(&HELD, ()).await;
        self.held.reached_by(1).await;
    }

    pub(crate) fn release(&self) {
        self.held.open();
    }

    /// Ends spans until the queue of the export has no room for one.
    pub(crate) async fn lose_spans(&self) {
        assert_eq!(
            self.telemetry.stats(Signal::Traces).dropped,
            0,
            "there was room so far"
        );
        wait_until("a span finds no room in the queue", || async {
            for _ in 0..16 {
                let nobody = self.harness.client.send_signal("nobody waits", &());
                nobody.await.expect("the signal is sent");
            }
            self.telemetry.stats(Signal::Traces).dropped > 0
        })
        .await;
    }

    /// Logs until the queue of the export is full.
    pub(crate) fn lose_log_records(&self) {
        let logger = self.telemetry.logger_provider().logger("shop");
        while self.telemetry.stats(Signal::Logs).dropped == 0 {
            logger.emit(logger.create_log_record());
        }
    }
}

/// A run that no worker takes, and that has been due for longer than 5 minutes. It is there before the worker,
/// which reads the queue at once, and then every 15 s only.
async fn leave_due(harness: &Harness<SqliteDatabase>) {
    harness.start(&NOBODYS, ()).await;
    harness.advance(6 * MINUTE).await;
}

fn order() -> Workflow {
    ORDER.implement(|wf, number: u32| async move {
        wf.run("validate", || async { Ok(()) }).await?;
        wf.run_workflow(&SHIP, &number).await?;
        let paid: Option<()> = wf.wait_for_signal(format!("paid:{number}")).await?;
        wf.sleep("cooldown", "10 minutes").await?;
        wf.run("notify", || async { Ok(paid.is_some()) })
            .await
            .map(drop)
    })
}

fn ship() -> Workflow {
    SHIP.implement(|wf, _| async move { wf.run("dispatch", || async { Ok(()) }).await })
}

fn refused() -> Workflow {
    REFUSED.implement(|wf, ()| async move {
        let declined = || async { Err::<(), _>(Error::new("Declined", "no money left")) };
        wf.run("charge", declined)
            .retry(RetryPolicy::attempts(2))
            .await
    })
}

/// Executes until the gate is opened.
fn behind(workflow: &WorkflowSpec<(), ()>, gate: &Gate) -> Workflow {
    let gate = gate.clone();
    workflow.implement(move |_, ()| {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            Result::Ok(())
        }
    })
}
