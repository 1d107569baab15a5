//! Runs: who starts, claims, ends, cancels, counts and finds them.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use openworkflow::{ClientError, ExecuteRun, ExecutionOutcome, Interceptor, Next, Result};
use openworkflow::{WorkerBuilder, async_trait};
use openworkflow_tests::{Database, Log, RunRow};
use serde_json::{Value, json};

use super::workflows::{CHILD, ECHO, ECHO_2, FLAKY, NAPS, NOTHING, PHASES, SLOW};
use super::{By, Hold, Sdk, Site};

super::checks! {
    both:
        each_completes_what_the_other_starts,
        both_claim_in_the_same_order,
        both_leave_runs_alike,
        parallel_starts_with_one_key_make_one_run;
    current:
        a_key_is_forgotten_after_a_day,
        versions_are_told_apart,
        a_run_of_an_unregistered_workflow_is_put_back,
        a_rust_worker_touches_only_its_own_workflows,
        deadlines_hold_in_either_language,
        each_cancels_what_the_other_made,
        a_run_can_be_canceled_in_the_middle_of_a_step,
        both_count_the_same,
        legacy_rows_are_understood
}

const HOUR: Duration = Duration::from_secs(3600);

async fn each_completes_what_the_other_starts(sdk: Sdk) {
    let site = Site::new(sdk).await;
    let input = json!({"outerKey": {"innerKey": [1, 2.5, null, true, "ü\u{1F600}\n"]}, "": {}});

    let worker = site.work(By::Rust).await;
    let echo = site.peer.start("echo", input.clone()).await;
    let nothing = site.peer.start_with(json!({"workflow": "nothing"})).await;
    assert_eq!(
        site.peer.result(&echo).await.unwrap(),
        json!({"by": "rust", "value": input})
    );
    assert_eq!(site.peer.result(&nothing).await.unwrap(), Value::Null);
    let fails = site.peer.start("child", json!({"mode": "fail"})).await;
    let failed = site.peer.result(&fails).await.unwrap_err();
    assert!(failed.message.contains("the child broke"), "{failed:?}");
    site.rest(worker).await;
    let row = site.db.run(&nothing).await;
    assert_eq!((row.input, row.output), (None, None));

    let worker = site.work(By::TypeScript).await;
    let echo = site.start(&ECHO, input.clone()).await;
    let nothing = site.start(&NOTHING, Value::Null).await;
    assert_eq!(
        site.output(&echo).await,
        json!({"by": "typescript", "value": input})
    );
    assert_eq!(site.output(&nothing).await, Value::Null);
    let fails = site.start(&CHILD, json!({"mode": "fail"})).await;
    match fails.result().await {
        Err(ClientError::RunFailed { error, .. }) => {
            assert_eq!(error.message, "the child broke");
            assert_eq!(error.name.as_deref(), Some("ChildBroke"));
        }
        other => panic!("{other:?}"),
    }
    site.rest(worker).await;
    let row = site.db.run(nothing.id()).await;
    assert_eq!((row.input, row.output), (None, None));
    let step = site.step(nothing.id(), "nothing").await.remove(0);
    assert_eq!((step.output, step.status.as_str()), (None, "completed"));
}

async fn both_claim_in_the_same_order(sdk: Sdk) {
    for (by, _) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let parked = site.start_by(by, &NAPS, json!({"nap": "1h"})).await;
        site.park_by(by, &parked, 1).await;
        site.advance(2 * HOUR).await;
        let late = json!({"workflow": "echo", "options": {"availableAt": "1h"}});
        let late = site.peer.start_with(late).await;
        let pending = site.start(&ECHO, Value::Null).await.id().to_owned();
        site.advance(HOUR + Duration::from_secs(1)).await;

        // One at a time.
        let order = match by {
            By::Rust => {
                let log = Log::new();
                let executed = Executed(log.clone());
                let configure = |it: WorkerBuilder| it.concurrency(1).interceptor(executed);
                let mut worker = site.rust_works(configure);
                for run in [&parked, &late, &pending] {
                    site.ended(run).await;
                }
                worker.stop().await.unwrap();
                let mut order = log.lines();
                // One claim of four is kept for what was started, and it may be any of these.
                order.retain(|run| *run != parked);
                order.push(parked.clone());
                order
            }
            By::TypeScript => {
                site.peer.call("work", json!({"concurrency": 1})).await;
                let mut ended = Vec::new();
                for run in [&parked, &late, &pending] {
                    ended.push((site.ended(run).await.finished_at, run.clone()));
                }
                site.peer.rest().await;
                ended.sort();
                ended.into_iter().map(|(_, run)| run).collect()
            }
        };
        assert_eq!(order, [pending, late, parked], "{by:?}");
    }
}

/// Notes which run is executed. (Of two that are, the second can be the first whose end is written.)
struct Executed(Log);

#[async_trait]
impl Interceptor for Executed {
    async fn execute(
        &self,
        call: ExecuteRun,
        next: Next<'_, ExecuteRun>,
    ) -> Result<ExecutionOutcome> {
        self.0.add(&*call.execution.run.id);
        next.run(call).await
    }
}

/// What two runs that ended the same way have in common, whoever executed them.
fn shape(row: &RunRow) -> Value {
    let error = row.error.clone().map(|error| {
        let members = error.as_object().expect("an error is an object");
        // Of the step that failed only Rust says the name.
        let members = members.iter();
        let members = members.filter(|(name, _)| !["stack", "step"].contains(&name.as_str()));
        Value::Object(
            members
                .map(|(name, value)| {
                    let value = value
                        .as_str()
                        .map(|text| text.replace("typescript", "rust"));
                    (name.clone(), json!(value))
                })
                .collect(),
        )
    });
    json!({
        "status": row.status,
        "attempts": row.attempts,
        "has worker": row.worker_id.is_some(),
        "is available": row.available_at.is_some(),
        "has started": row.started_at.is_some(),
        "has finished": row.finished_at.is_some(),
        "config": row.config,
        "context": row.context,
        "version": row.version,
        "key": row.idempotency_key,
        "error": error,
    })
}

async fn both_leave_runs_alike(sdk: Sdk) {
    let site = Site::new(sdk).await;
    let mut shapes = Vec::new();
    for (starts, executes) in [
        (By::Rust, By::Rust),
        (By::Rust, By::TypeScript),
        (By::TypeScript, By::Rust),
        (By::TypeScript, By::TypeScript),
    ] {
        let inputs = [
            (&ECHO, json!(1)),
            (&CHILD, json!({"mode": "fail"})),
            (&FLAKY, json!({"works": "nowhere", "attempts": 1})),
            (&PHASES, json!({"signal": "s"})),
        ];
        let mut runs = Vec::new();
        for (spec, input) in inputs {
            runs.push(site.start_by(starts, spec, input).await);
        }
        let mut rows = vec![shape(&site.db.run(&runs[0]).await)];
        let worker = site.work(executes).await;
        for run in &runs[..3] {
            rows.push(shape(&site.ended(run).await));
        }
        let flaky = site.db.run(&runs[2]).await.error.unwrap_or_default();
        let step = matches!(executes, By::Rust).then(|| json!("flaky"));
        assert_eq!(flaky.get("step"), step.as_ref());
        rows.push(shape(&site.parked(&runs[3], 1).await));
        site.rest(worker).await;
        site.cancel_by(starts, &runs[3]).await.unwrap();
        rows.push(shape(&site.db.run(&runs[3]).await));
        shapes.push(rows);
    }
    for other in &shapes[1..] {
        assert_eq!(&shapes[0], other);
    }
    assert_eq!(
        shapes[0][1],
        json!({
            "status": "completed", "attempts": 1, "has worker": true, "is available": false,
            "has started": true, "has finished": true, "config": {}, "context": null,
            "version": null, "key": null, "error": null,
        })
    );
    let failed = json!({"has worker": false, "is available": false, "has started": false});
    for (name, value) in failed.as_object().unwrap() {
        assert_eq!(&shapes[0][2][name], value, "{name}");
        assert_eq!(&shapes[0][3][name], value, "{name}");
    }
}

async fn parallel_starts_with_one_key_make_one_run(sdk: Sdk) {
    let site = Site::new(sdk).await;
    for key in ["order-1", "", "ключ \"2\""] {
        let rust = (0..8).map(|_| async {
            let start = site
                .client
                .start(&ECHO, &json!("rust"))
                .idempotency_key(key);
            start.await.unwrap().id().to_owned()
        });
        let start = json!({"workflow": "echo", "options": {"idempotencyKey": key}});
        let typescript = (0..8).map(|_| site.peer.start_with(start.clone()));
        let (rust, typescript) = tokio::join!(join_all(rust), join_all(typescript));
        let runs: HashSet<_> = rust.into_iter().chain(typescript).collect();
        assert_eq!(runs.len(), 1, "key {key:?}");
    }
    assert_eq!(site.runs().await.len(), 3);
}

async fn a_key_is_forgotten_after_a_day(sdk: Sdk) {
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let start = |by| {
            let site = &site;
            async move {
                match by {
                    By::Rust => {
                        let start = site.client.start(&ECHO, &json!(by.name()));
                        start.idempotency_key("key").await.unwrap().id().to_owned()
                    }
                    By::TypeScript => {
                        let options = json!({"idempotencyKey": "key"});
                        let start =
                            json!({"workflow": "echo", "input": by.name(), "options": options});
                        site.peer.start_with(start).await
                    }
                }
            }
        };
        let run = start(first).await;
        // It is found whatever became of it.
        site.cancel_by(second, &run).await.unwrap();
        site.advance(24 * HOUR - Duration::from_secs(60)).await;
        assert_eq!(start(second).await, run);
        site.advance(Duration::from_secs(61)).await;
        let newer = start(second).await;
        assert_ne!(newer, run);
        assert_eq!(start(first).await, newer);
        assert_eq!(site.runs().await.len(), 2);
    }
}

async fn versions_are_told_apart(sdk: Sdk) {
    let site = Site::new(sdk).await;
    let rust = site.start(&ECHO_2, json!("a")).await;
    let start = json!({"workflow": "echo", "version": "2", "input": "b"});
    let typescript = site.peer.start_with(start).await;
    let worker = site.work_on(By::Rust, &["echo"]).await;
    let other = site.start(&ECHO, Value::Null).await;
    site.output(&other).await;
    site.rest(worker).await;
    for run in [rust.id(), &typescript] {
        let row = site.db.run(run).await;
        assert_eq!((row.attempts, row.version.as_deref()), (0, Some("2")));
    }
    assert_eq!(
        site.complete_by(By::TypeScript, rust.id()).await,
        json!({"by": "typescript", "value": "a", "version": "2"})
    );
    assert_eq!(site.db.run(&typescript).await.status, "completed");
    let again = site
        .peer
        .start_with(json!({"workflow": "echo", "version": "2", "input": "c"}));
    assert_eq!(
        site.complete_by(By::Rust, &again.await).await,
        json!({"by": "rust", "value": "c", "version": "2"})
    );
}

async fn a_run_of_an_unregistered_workflow_is_put_back(sdk: Sdk) {
    for (by, _) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let worker = match by {
            By::Rust => {
                super::site::AtWork::Rust(site.rust_works(|worker| worker.claim_unregistered(true)))
            }
            By::TypeScript => site.work(by).await,
        };
        let unknown = openworkflow::WorkflowSpec::<Value, Value>::new("unknown");
        let plain = site.start(&unknown, Value::Null).await;
        let versioned = openworkflow::WorkflowSpec::<Value, Value>::new("echo").version("9");
        let versioned = site.start(&versioned, Value::Null).await;
        for (run, message) in [
            (plain.id(), "Workflow \"unknown\" is not registered"),
            (
                versioned.id(),
                "Workflow \"echo\" (version: 9) is not registered",
            ),
        ] {
            for (attempts, delay) in [(1, 5), (2, 10), (3, 20)] {
                let row = site.retrying(run, attempts).await;
                assert_eq!(row.error, Some(json!({"message": message})), "{by:?}");
                assert_eq!((row.started_at, row.worker_id), (None, None));
                let delay = Duration::from_secs(delay);
                let since = row
                    .available_at
                    .unwrap()
                    .duration_since(row.updated_at.unwrap());
                let off = since.clone().unwrap().abs_diff(delay);
                assert!(off < Duration::from_secs(1), "{by:?}: {since:?}");
                site.db
                    .execute(&format!(
                        "UPDATE workflow_runs SET available_at = created_at WHERE id = '{run}'"
                    ))
                    .await;
            }
        }
        // The next try would come after the deadline.
        let urgent = site
            .client
            .start(&unknown, &Value::Null)
            .deadline("4s")
            .await
            .unwrap();
        let row = site.ended(urgent.id()).await;
        assert_eq!(row.status, "failed");
        assert_eq!(
            row.error,
            Some(json!({"message": "Workflow \"unknown\" is not registered"}))
        );
        assert!(row.finished_at.unwrap() < row.deadline_at.unwrap());
        site.rest(worker).await;
    }
}

async fn a_rust_worker_touches_only_its_own_workflows(sdk: Sdk) {
    let site = Site::new(sdk).await;
    let foreign = site.peer.start("naps", json!({"nap": "1ms"})).await;
    let version = json!({"workflow": "echo", "version": "2"});
    let version = site.peer.start_with(version).await;
    let worker = site.work_on(By::Rust, &["echo"]).await;
    for _ in 0..3 {
        let own = site.peer.start("echo", Value::Null).await;
        assert_eq!(site.ended(&own).await.status, "completed");
    }
    site.rest(worker).await;
    for run in [foreign, version] {
        let row = site.db.run(&run).await;
        assert_eq!(
            (row.status.as_str(), row.attempts, row.error),
            ("pending", 0, None)
        );
        let touched = row
            .updated_at
            .unwrap()
            .duration_since(row.created_at.unwrap());
        // Where a row is made, one is cut to milliseconds and the other may not be.
        assert!(touched.unwrap() < Duration::from_millis(1));
    }
}

async fn deadlines_hold_in_either_language(sdk: Sdk) {
    let exceeded = json!({"message": "Workflow run deadline exceeded"});
    let mut endings = Vec::new();
    for (by, other) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let start = async |spec, input, deadline: Duration| {
            let start = site.client.start(spec, &input).deadline(deadline);
            start.await.unwrap().id().to_owned()
        };

        // Pending and parked runs, swept by whoever claims next.
        let parked = start(&PHASES, json!({"signal": "s"}), HOUR).await;
        site.park_by(other, &parked, 1).await;
        let pending = start(&ECHO, Value::Null, HOUR).await;
        site.advance(2 * HOUR).await;
        let worker = site.work(by).await;
        for run in [&pending, &parked] {
            let row = site.ended(run).await;
            assert_eq!(
                (row.status.as_str(), row.error.as_ref()),
                ("failed", Some(&exceeded))
            );
            assert_eq!((row.worker_id.as_ref(), row.available_at), (None, None));
            endings.push((by, row.attempts, row.started_at.is_some()));
        }

        // During a step: what the step does later changes nothing.
        let hold = Hold::new();
        let slow = start(&SLOW, json!({"hold": hold.path()}), HOUR).await;
        site.step_is(&slow, "slow", "running").await;
        site.advance(HOUR).await;
        let row = site.ended(&slow).await;
        assert_eq!(row.error, Some(exceeded.clone()));
        drop(hold);
        site.rest(worker).await;
        let after = site.db.run(&slow).await;
        assert_eq!(
            (after.status.as_str(), after.updated_at),
            ("failed", row.updated_at)
        );

        // The next attempt would come after the deadline: the error is the step's.
        let flaky = json!({"works": "nowhere", "interval_seconds": 100});
        let flaky = start(&FLAKY, flaky, Duration::from_secs(90)).await;
        let error = site.fail_by(by, &flaky).await;
        assert_eq!(error["message"], format!("does not work by {}", by.name()));
    }
    let (rust, typescript) = endings.split_at(2);
    for (rust, typescript) in rust.iter().zip(typescript) {
        assert_eq!((rust.1, rust.2), (typescript.1, typescript.2));
    }
}

async fn each_cancels_what_the_other_made(sdk: Sdk) {
    let mut refusals = Vec::new();
    for (makes, cancels) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let pending = site.start_by(makes, &ECHO, Value::Null).await;
        site.cancel_by(cancels, &pending).await.unwrap();
        let parked = site.start_by(makes, &PHASES, json!({"signal": "s"})).await;
        site.park_by(makes, &parked, 1).await;
        site.cancel_by(cancels, &parked).await.unwrap();
        for run in [&pending, &parked] {
            let row = site.db.run(run).await;
            assert_eq!(row.status, "canceled");
            assert!(row.finished_at.is_some() && row.available_at.is_none());
            // Again, by either.
            site.cancel_by(cancels, run).await.unwrap();
            site.cancel_by(makes, run).await.unwrap();
            assert_eq!(site.db.run(run).await.finished_at, row.finished_at);
        }

        let done = site.start_by(makes, &ECHO, Value::Null).await;
        site.complete_by(makes, &done).await;
        let ended = site.cancel_by(cancels, &done).await.unwrap_err();
        let missing = "00000000-0000-4000-8000-000000000000";
        let missing = site.cancel_by(cancels, missing).await.unwrap_err();
        refusals.push((ended.replace(&done, "ID"), missing));

        // Whoever waits for the result is told.
        let parked = site.peer.start("phases", json!({"signal": "t"})).await;
        site.cancel_by(By::Rust, &parked).await.unwrap();
        let told = site.peer.result(&parked).await.unwrap_err();
        assert!(told.message.contains("canceled"), "{told:?}");
        let parked = site.start(&PHASES, json!({"signal": "t"})).await;
        site.cancel_by(By::TypeScript, parked.id()).await.unwrap();
        let told = parked.result().await;
        assert!(
            matches!(told, Err(ClientError::RunCanceled { .. })),
            "{told:?}"
        );
    }
    assert_eq!(refusals[0], refusals[1]);
}

async fn a_run_can_be_canceled_in_the_middle_of_a_step(sdk: Sdk) {
    for (executes, cancels) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let hold = Hold::new();
        let input = json!({"hold": hold.path()});
        let run = site.start_by(cancels, &SLOW, input).await;
        let worker = site.work(executes).await;
        site.step_is(&run, "slow", "running").await;
        site.cancel_by(cancels, &run).await.unwrap();
        let canceled = site.db.run(&run).await;
        drop(hold);
        site.rest(worker).await;
        // The step's result is refused.
        let row = site.db.run(&run).await;
        assert_eq!(
            (row.status.as_str(), row.updated_at),
            ("canceled", canceled.updated_at)
        );
        assert_eq!(site.step(&run, "slow").await[0].status, "running");
    }
}

async fn both_count_the_same(sdk: Sdk) {
    let site = Site::new(sdk).await;
    let statuses = [
        ("pending", 1),
        ("running", 2),
        ("sleeping", 3),
        ("completed", 4),
        ("succeeded", 5),
        ("failed", 6),
        ("canceled", 7),
        ("odd", 8),
    ];
    for (status, count) in statuses {
        for _ in 0..count {
            let run = site.start(&ECHO, Value::Null).await;
            let id = run.id();
            site.db
                .execute(&format!(
                    "UPDATE workflow_runs SET status = '{status}' WHERE id = '{id}'"
                ))
                .await;
        }
    }
    let rust = site.client.count_runs().await.unwrap();
    let rust = json!({
        "pending": rust.pending, "running": rust.running, "completed": rust.completed,
        "failed": rust.failed, "canceled": rust.canceled,
    });
    assert_eq!(
        site.peer.backend("countWorkflowRuns", json!({})).await,
        rust
    );
    assert_eq!(rust["running"], 5);
    assert_eq!(rust["completed"], 9);
}

async fn legacy_rows_are_understood(sdk: Sdk) {
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let run = site.start_by(first, &NAPS, json!({"nap": "1h"})).await;
        site.park_by(first, &run, 1).await;
        site.db
            .execute(&format!(
                "UPDATE workflow_runs SET status = 'sleeping' WHERE id = '{run}';
                 UPDATE step_attempts SET status = 'succeeded', output = '\"legacy\"'
                 WHERE workflow_run_id = '{run}' AND step_name = 'before'"
            ))
            .await;
        site.advance(HOUR).await;
        let output = site.complete_by(second, &run).await;
        assert_eq!(output, json!({"before": "legacy", "after": second.name()}));
        assert_eq!(site.step(&run, "before").await.len(), 1);

        let sleeping = site.start_by(first, &PHASES, json!({"signal": "s"})).await;
        site.park_by(first, &sleeping, 1).await;
        site.db
            .execute(&format!(
                "UPDATE workflow_runs SET status = 'sleeping' WHERE id = '{sleeping}'"
            ))
            .await;
        site.cancel_by(second, &sleeping).await.unwrap();
        assert_eq!(site.db.run(&sleeping).await.status, "canceled");
    }
}
