//! The metrics that `docs/metrics.md` promises, as whole sets of data points, from runs on a real database
//! and through a real SDK. The clock is the test's, so that durations of minutes are exact.

use std::time::Duration;

use opentelemetry_sdk::metrics::{Aggregation, Instrument, Stream};
use openworkflow::otel::MetricSelection;
use openworkflow::{
    Error, ExecuteRun, ExecutionOutcome, Interceptor, Next, Result, RetryPolicy, WorkerBuilder,
    Workflow, WorkflowSpec, async_trait,
};
use openworkflow_examples::{Order, PROCESS_ORDER, confirm, fulfill_shipment, process_order};
use openworkflow_tests::{Database, Gate, Points, SqliteDatabase, wait_until};

type Harness = openworkflow_tests::Harness<SqliteDatabase>;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

static PLAIN: WorkflowSpec<(), ()> = WorkflowSpec::new("plain");

/// A client and a worker whose metrics are collected.
async fn measured(worker: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> (Harness, Points) {
    let points = Points::default();
    let otel = points.interceptor().build();
    let harness = Harness::with_client(
        |client| client.interceptor(otel.clone()),
        |builder| worker(builder.interceptor(otel.clone())),
    );
    (harness.await, points)
}

#[tokio::test]
async fn an_order() {
    let (mut harness, points) = measured(|worker| {
        let parent = process_order(10 * MINUTE);
        worker.workflow(parent).workflow(fulfill_shipment())
    })
    .await;
    let order = Order::sample();
    let run = harness.start(&PROCESS_ORDER, order.clone()).await;
    confirm(&harness.client, &order).await.unwrap();
    harness.parked(run.id(), 3).await;
    harness.advance(12 * MINUTE).await;
    harness.retrying(run.id(), 4).await;
    harness.advance(MINUTE).await;
    harness.output(&run).await;
    harness.stop().await;
    points.assert_eq(
        "
        active_workflows [{execution}]
            {workflow.name=fulfill-shipment} 0
            {workflow.name=process-order} 0
        signal.sent [{signal}]
            {signal.delivered=true} 1
        step.duration [s]
            {error.type=MailServerDown, step.kind=function, step.name=notify-customer, step.outcome=failed, workflow.name=process-order} 1
            {step.kind=function, step.name=dispatch-courier, step.outcome=completed, workflow.name=fulfill-shipment} 1
            {step.kind=function, step.name=notify-customer, step.outcome=completed, workflow.name=process-order} 1
            {step.kind=function, step.name=reserve-inventory, step.outcome=completed, workflow.name=fulfill-shipment} 1
            {step.kind=function, step.name=validate-order, step.outcome=completed, workflow.name=process-order} 1
            {step.kind=signal-wait, step.outcome=completed, workflow.name=process-order} 1
            {step.kind=signal-wait, step.outcome=parked, workflow.name=process-order} 1
            {step.kind=sleep, step.name=cooldown, step.outcome=parked, workflow.name=process-order} 1
            {step.kind=workflow, step.name=fulfill-shipment, step.outcome=completed, workflow.name=process-order} 1
            {step.kind=workflow, step.name=fulfill-shipment, step.outcome=parked, workflow.name=process-order} 1
        step.replayed [{step}]
            {workflow.name=process-order} 10
        step.retries [{retry}]
            {error.type=MailServerDown, step.name=notify-customer, workflow.name=process-order} 1
        workflow.duration [s]
            {workflow.name=fulfill-shipment, workflow_run.status=completed} 1
            {workflow.name=process-order, workflow_run.status=completed} 1, 13 min
        workflow.execution.duration [s]
            {error.type=MailServerDown, workflow.name=process-order, workflow.outcome=retrying} 1
            {workflow.name=fulfill-shipment, workflow.outcome=completed} 1
            {workflow.name=process-order, workflow.outcome=completed} 1
            {workflow.name=process-order, workflow.outcome=parked} 3
        workflow.executions [{execution}]
            {error.type=MailServerDown, workflow.name=process-order, workflow.outcome=retrying} 1
            {workflow.name=fulfill-shipment, workflow.outcome=completed} 1
            {workflow.name=process-order, workflow.outcome=completed} 1
            {workflow.name=process-order, workflow.outcome=parked} 3
        workflow.queue.duration [s]
            {workflow.name=fulfill-shipment} 1
            {workflow.name=process-order} 5, 2 min
        workflow.runs.created [{run}]
            {workflow.child=false, workflow.name=process-order} 1
            {workflow.child=true, workflow.name=fulfill-shipment} 1
        ",
    );
    let text = points.text();
    for private in [run.id(), "ada@example.com", "4711", "confirmed"] {
        assert!(!text.contains(private), "{private} in\n{text}");
    }
}

#[tokio::test]
async fn buckets_are_advice() {
    let ours = "0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 30 60 300 1800 3600";
    let days = |instrument: &Instrument| {
        let aggregation = Aggregation::ExplicitBucketHistogram {
            boundaries: vec![3600.0, 86_400.0],
            record_min_max: true,
        };
        let stream = Stream::builder().with_aggregation(aggregation);
        (instrument.name() == "workflow.duration").then(|| stream.build().unwrap())
    };
    let points = Points::viewed(days);
    let otel = points.interceptor().build();
    let mut harness = Harness::new(|worker| {
        let step = |wf: openworkflow::WorkflowContext, ()| async move {
            wf.run("it", || async { Ok(()) }).await
        };
        worker.interceptor(otel).workflow(PLAIN.implement(step))
    })
    .await;
    harness.complete(&PLAIN, ()).await;
    harness.stop().await;
    let of = |name: &str, buckets: &str| (format!("{name} [s]"), buckets.to_owned());
    let expected = [
        of("step.duration", ours),
        of("workflow.duration", "3600 86400"),
        of("workflow.execution.duration", ours),
        of("workflow.queue.duration", ours),
    ];
    assert_eq!(points.boundaries(), expected.into());
}

#[tokio::test]
async fn failures() {
    static FAILS: WorkflowSpec<(), ()> = WorkflowSpec::new("fails");
    let (mut harness, points) = measured(|worker| {
        worker.workflow(FAILS.implement(|wf, ()| async move {
            let body = || async { Err::<(), _>(Error::new("Declined", "no money left")) };
            wf.run("charge", body).retry(RetryPolicy::attempts(3)).await
        }))
    })
    .await;
    let run = harness.start(&FAILS, ()).await;
    for attempt in 1..=2 {
        harness.retrying(run.id(), attempt).await;
        harness.advance(HOUR).await;
    }
    harness.failure(&run).await;
    harness.stop().await;
    points.assert_eq(
        "
        active_workflows [{execution}]
            {workflow.name=fails} 0
        step.duration [s]
            {error.type=Declined, step.kind=function, step.name=charge, step.outcome=failed, workflow.name=fails} 3
        step.retries [{retry}]
            {error.type=Declined, step.name=charge, workflow.name=fails} 2
        workflow.duration [s]
            {error.type=Declined, workflow.name=fails, workflow_run.status=failed} 1, 120 min
        workflow.execution.duration [s]
            {error.type=Declined, workflow.name=fails, workflow.outcome=failed} 1
            {error.type=Declined, workflow.name=fails, workflow.outcome=retrying} 2
        workflow.executions [{execution}]
            {error.type=Declined, workflow.name=fails, workflow.outcome=failed} 1
            {error.type=Declined, workflow.name=fails, workflow.outcome=retrying} 2
        workflow.queue.duration [s]
            {workflow.name=fails} 3, 119 min
        workflow.runs.created [{run}]
            {workflow.child=false, workflow.name=fails} 1
        ",
    );
}

#[tokio::test]
async fn cancellations_and_found_runs() {
    static PARENT: WorkflowSpec<(), ()> = WorkflowSpec::new("parent");
    static CHILD: WorkflowSpec<(), ()> = WorkflowSpec::new("child");
    let (mut harness, points) = measured(|worker| {
        let parent = PARENT.implement(|wf, ()| async move {
            wf.run_workflow(&CHILD, &()).cancel_with_parent(true).await
        });
        let child = CHILD.implement(|wf, ()| async move { wf.sleep("a while", "1 day").await });
        worker.workflow(parent).workflow(child)
    })
    .await;
    let run = harness
        .client
        .start(&PARENT, &())
        .idempotency_key("once")
        .await
        .unwrap();
    harness.parked(run.id(), 1).await;
    let rows = harness.runs().await;
    let child = rows.iter().find(|row| row.id != run.id()).unwrap();
    harness.parked(&child.id, 1).await;
    let again = harness.client.start(&PARENT, &()).idempotency_key("once");
    assert_eq!(again.await.unwrap().id(), run.id());
    harness.advance(HOUR).await;
    harness.client.cancel(run.id()).await.unwrap();
    // It is canceled already: nothing comes of it.
    harness.client.cancel(run.id()).await.unwrap();
    harness.stop().await;
    points.assert_eq(
        "
        active_workflows [{execution}]
            {workflow.name=child} 0
            {workflow.name=parent} 0
        step.duration [s]
            {step.kind=sleep, step.name=a while, step.outcome=parked, workflow.name=child} 1
            {step.kind=workflow, step.name=child, step.outcome=parked, workflow.name=parent} 1
        workflow.duration [s]
            {workflow.name=child, workflow_run.status=canceled} 1, 60 min
            {workflow.name=parent, workflow_run.status=canceled} 1, 60 min
        workflow.execution.duration [s]
            {workflow.name=child, workflow.outcome=parked} 1
            {workflow.name=parent, workflow.outcome=parked} 1
        workflow.executions [{execution}]
            {workflow.name=child, workflow.outcome=parked} 1
            {workflow.name=parent, workflow.outcome=parked} 1
        workflow.queue.duration [s]
            {workflow.name=child} 1
            {workflow.name=parent} 1
        workflow.runs.created [{run}]
            {workflow.child=false, workflow.name=parent} 1
            {workflow.child=true, workflow.name=child} 1
        ",
    );
}

/// A workflow that another worker takes over while it executes: the gate is passed when that is so.
async fn taken(workflow: impl FnOnce(Gate) -> Workflow) -> Points {
    let gate = Gate::closed();
    let (mut harness, points) = measured(|worker| worker.workflow(workflow(gate.clone()))).await;
    let run = harness.start(&PLAIN, ()).await;
    gate.reached_by(1).await;
    assert_eq!(points.count("active_workflows", &[]), 1);
    let id = run.id();
    let steal = format!("UPDATE workflow_runs SET worker_id = 'another' WHERE id = '{id}'");
    harness.execute(&steal).await;
    gate.open();
    wait_until("the execution is dropped", || async {
        points.count("workflow.executions", &[]) == 1
    })
    .await;
    harness.stop().await;
    assert_eq!(harness.run(id).await.status, "running");
    points
}

#[tokio::test]
async fn a_last_write_that_is_refused_is_no_completion() {
    let points = taken(|gate| {
        PLAIN.implement(move |_, ()| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                Ok(())
            }
        })
    })
    .await;
    points.assert_eq(
        "
        active_workflows [{execution}]
            {workflow.name=plain} 0
        workflow.execution.duration [s]
            {error.type=lease_lost, workflow.name=plain, workflow.outcome=stale} 1
        workflow.executions [{execution}]
            {error.type=lease_lost, workflow.name=plain, workflow.outcome=stale} 1
        workflow.lease.lost [{lease}]
            {reason=lease_lost} 1
        workflow.queue.duration [s]
            {workflow.name=plain} 1
        workflow.runs.created [{run}]
            {workflow.child=false, workflow.name=plain} 1
        ",
    );
}

#[tokio::test]
async fn a_lost_lease_cuts_steps_off() {
    let points = taken(|gate| {
        PLAIN.implement(move |wf, ()| {
            let gate = gate.clone();
            async move {
                let held = wf.run("held", || async {
                    gate.pass().await;
                    Ok(())
                });
                let endless = wf.run("endless", std::future::pending::<Result<()>>);
                futures::future::try_join(held, endless).await.map(|_| ())
            }
        })
    })
    .await;
    points.assert_eq(
        "
        active_workflows [{execution}]
            {workflow.name=plain} 0
        step.duration [s]
            {error.type=lease_lost, step.kind=function, step.name=endless, step.outcome=stale, workflow.name=plain} 1
            {step.kind=function, step.name=held, step.outcome=completed, workflow.name=plain} 1
        workflow.execution.duration [s]
            {error.type=lease_lost, workflow.name=plain, workflow.outcome=stale} 1
        workflow.executions [{execution}]
            {error.type=lease_lost, workflow.name=plain, workflow.outcome=stale} 1
        workflow.lease.lost [{lease}]
            {reason=lease_lost} 1
        workflow.queue.duration [s]
            {workflow.name=plain} 1
        workflow.runs.created [{run}]
            {workflow.child=false, workflow.name=plain} 1
        ",
    );
}

#[tokio::test]
async fn repeated_names_and_signals() {
    let (mut harness, points) = measured(|worker| {
        worker.workflow(PLAIN.implement(|wf, ()| async move {
            let nothing = || async { Ok(()) };
            for _ in 0..3 {
                wf.run("charge", nothing).await?;
            }
            // The author's own, though the engine has called a step so.
            wf.run("charge:1", nothing).await?;
            wf.send_signal("paid:ada@example.com", &1).await?;
            wf.send_signal("paid:ada@example.com", &2)
                .name("pay")
                .await?;
            let never = wf.wait_for_signal::<u32>("answer:ada@example.com");
            tokio::select! {
                biased;
                _ = never => {}
                done = wf.run("faster", nothing) => done?,
            }
            tokio::select! {
                biased;
                _ = wf.run("slower", std::future::pending::<Result<()>>) => {}
                done = wf.run("faster", nothing) => done?,
            }
            Ok(())
        }))
    })
    .await;
    harness.complete(&PLAIN, ()).await;
    harness.client.send_signal("x:1", &1).await.unwrap();
    harness.stop().await;
    let steps = points.text();
    let steps = steps.split("step.duration [s]\n").nth(1).unwrap();
    let steps = steps.split("workflow.duration").next().unwrap();
    let expected = [
        "{step.kind=function, step.name=charge, step.outcome=completed, workflow.name=plain} 3",
        "{step.kind=function, step.name=charge:1, step.outcome=completed, workflow.name=plain} 1",
        "{step.kind=function, step.name=faster, step.outcome=completed, workflow.name=plain} 2",
        "{step.kind=function, step.name=slower, step.outcome=canceled, workflow.name=plain} 1",
        "{step.kind=signal-send, step.name=pay, step.outcome=completed, workflow.name=plain} 1",
        "{step.kind=signal-send, step.outcome=completed, workflow.name=plain} 1",
        "{step.kind=signal-wait, step.outcome=parked, workflow.name=plain} 1",
    ];
    let steps: Vec<_> = steps.lines().map(str::trim).collect();
    assert_eq!(steps, expected);
    assert_eq!(
        points.count("signal.sent", &[("signal.delivered", "false")]),
        3
    );
    assert_eq!(points.count("signal.sent", &[]), 3);
}

#[tokio::test]
async fn names_made_of_data_end_at_the_limit() {
    static MANY: WorkflowSpec<u32, ()> = WorkflowSpec::new("many");
    let (mut harness, points) = measured(|worker| {
        worker.workflow(MANY.implement(|wf, of: u32| async move {
            for step in 0..501 {
                wf.run(format!("{of}-{step}"), || async { Ok(()) }).await?;
            }
            Ok(())
        }))
    })
    .await;
    // One run has at most 1,000 steps.
    harness.complete(&MANY, 1).await;
    harness.complete(&MANY, 2).await;
    harness.stop().await;
    let text = points.text();
    let names = |line: &&str| line.contains("step.name=") && !line.contains("step.name=other");
    assert_eq!(text.lines().filter(names).count(), 1000);
    assert_eq!(points.count("step.duration", &[]), 1002);
    assert_eq!(points.count("step.duration", &[("step.name", "other")]), 2);
}

#[tokio::test]
async fn what_is_switched_off() {
    static QUIET: WorkflowSpec<(), ()> = WorkflowSpec::new("quiet");
    static RUNS: WorkflowSpec<(), ()> = WorkflowSpec::new("runs");
    let points = Points::default();
    let otel = points
        .interceptor()
        .metrics_of("quiet", MetricSelection::None)
        .metrics_of("runs", MetricSelection::RunsOnly)
        .build();
    let mut harness = Harness::with_client(
        |client| client.interceptor(otel.clone()),
        |worker| {
            let mut worker = worker.interceptor(otel.clone());
            for spec in [&QUIET, &RUNS, &PLAIN] {
                worker = worker.workflow(spec.implement(|wf, ()| async move {
                    wf.run("it", || async { Ok(()) }).await?;
                    wf.sleep("a while", "1 h").await
                }));
            }
            worker
        },
    )
    .await;
    for spec in [&QUIET, &RUNS, &PLAIN] {
        let run = harness.start(spec, ()).await;
        harness.parked(run.id(), 1).await;
        harness.advance(HOUR).await;
        harness.output(&run).await;
    }
    let run = harness.start(&QUIET, ()).await;
    harness.client.cancel(run.id()).await.unwrap();
    harness.stop().await;
    let of = |workflow: &'static str| {
        let text = points.text();
        let name = format!("workflow.name={workflow}");
        let mut instrument = "";
        let mut seen = Vec::new();
        for line in text.lines() {
            if !line.starts_with(' ') {
                instrument = line;
            } else if line.contains(&name) {
                seen.push(instrument.split(' ').next().unwrap().to_owned());
            }
        }
        seen.dedup();
        seen.join(" ")
    };
    assert_eq!(of("quiet"), "");
    let of_runs = "workflow.duration workflow.execution.duration workflow.executions \
                   workflow.queue.duration workflow.runs.created";
    assert_eq!(of("runs"), format!("active_workflows {of_runs}"));
    assert_eq!(
        of("plain"),
        format!("active_workflows step.duration step.replayed {of_runs}")
    );
}

/// Ends executions without passing them on, as an outcome or with an error.
struct Refuses;

#[async_trait]
impl Interceptor for Refuses {
    async fn execute(
        &self,
        call: ExecuteRun,
        next: Next<'_, ExecuteRun>,
    ) -> Result<ExecutionOutcome> {
        next.run(call).await?;
        Err(Error::rejected("not today").non_retryable())
    }
}

#[tokio::test]
async fn what_is_counted_is_what_was_written() {
    let points = Points::default();
    let otel = points.interceptor().build();
    let worker = |worker: WorkerBuilder| {
        let worker = worker.interceptor(Refuses).interceptor(otel);
        worker.workflow(PLAIN.implement(|_, ()| async { Ok(()) }))
    };
    let mut harness = Harness::new(worker).await;
    let run = harness.start(&PLAIN, ()).await;
    harness.failure(&run).await;
    harness.stop().await;
    let failed = [("workflow.outcome", "failed"), ("error.type", "rejected")];
    assert_eq!(points.count("workflow.executions", &failed), 1);
    assert_eq!(points.count("workflow.executions", &[]), 1);
    let failed = [("workflow_run.status", "failed")];
    assert_eq!(points.count("workflow.duration", &failed), 1);
    assert_eq!(points.count("workflow.duration", &[]), 1);
}
