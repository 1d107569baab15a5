//! Rows that hold what nobody who follows the protocol writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use openworkflow::backend::{BackendError, RunStatus, StepStatus};
use openworkflow::{ClientError, Error, RunHandle, Workflow, WorkflowSpec};

use crate::kit::{Db, HOUR, assert_words, eventually, result};

static FRAGILE: WorkflowSpec<u32, u32> = WorkflowSpec::new("fragile");

/// A step, a sleep, and a step; and how often the first step ran.
fn fragile() -> (Workflow, Arc<AtomicU32>) {
    let ran = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&ran);
    let workflow = FRAGILE.implement(move |wf, number| {
        let counter = Arc::clone(&counter);
        async move {
            let first = wf.run("first", || async {
                counter.fetch_add(1, Ordering::SeqCst);
                Ok(number * 10)
            });
            // Who catches everything must not be told of a damaged row either.
            let first: u32 = first.await.unwrap_or(0);
            wf.sleep("nap", "1 minute").await?;
            wf.run("second", || async move { Ok(first + 1) }).await
        }
    });
    (workflow, ran)
}

async fn start(db: &Db) -> RunHandle<u32> {
    let run = db.client.start(&FRAGILE, &4).await;
    run.expect("the run starts")
}

async fn until_parked(db: &Db, run: &RunHandle<u32>) {
    eventually(|| async {
        let run = run.describe().await.ok()?;
        let steps = db.client.list_steps(run.id.as_str()).await.ok()?.items;
        (run.worker_id.is_none() && steps.iter().any(|step| step.kind.as_str() == "sleep"))
            .then_some(())
    })
    .await;
}

/// A run whose first step is completed and that sleeps, without a worker.
async fn parked(db: &Db) -> RunHandle<u32> {
    let mut worker = db.worker(fragile().0);
    let run = start(db).await;
    until_parked(db, &run).await;
    worker.stop().await.expect("the worker stops");
    run
}

#[tokio::test]
async fn a_broken_context_of_a_run_is_passed_over() {
    let db = Db::new().await;
    let run = start(&db).await;
    db.execute(r#"UPDATE workflow_runs SET context = '{"telemetry":{"a'"#);
    assert_eq!(run.describe().await.unwrap().carrier.unreadable(), 1);
    let _worker = db.worker(fragile().0);
    assert_eq!(db.result_later(&run).await, Ok(41));
    let kept = db.query("SELECT context FROM workflow_runs");
    assert_eq!(kept, [r#"{"telemetry":{"a"#]);
}

#[tokio::test]
async fn a_broken_input_waits_for_its_repair() {
    let db = Db::new().await;
    let run = start(&db).await;
    db.execute("UPDATE workflow_runs SET input = '{\"secret'");
    let _worker = db.worker(fragile().0);
    let words = [
        "input of workflow",
        "fragile",
        "broken JSON",
        "repair the row",
    ];
    db.assert_put_back(run.id(), &words).await;
    db.assert_others_go_on().await;
    db.execute("UPDATE workflow_runs SET input = '4' WHERE workflow_name = 'fragile'");
    assert_eq!(db.result_later(&run).await, Ok(41));
}

#[tokio::test]
async fn a_broken_output_of_a_run_is_reported_and_kept() {
    let db = Db::new().await;
    let run = start(&db).await;
    let _worker = db.worker(fragile().0);
    assert_eq!(db.result_later(&run).await, Ok(41));
    db.execute("UPDATE workflow_runs SET output = '[\"secret'");
    let Err(ClientError::Invalid(message)) = run.result().await else {
        panic!("a broken output is no result");
    };
    assert_words(
        &message,
        &["output of workflow", "fragile", "broken JSON", "repair"],
    );
    assert!(!message.contains("secret"), "{message}");
    db.execute("UPDATE workflow_runs SET output = '41'");
    assert_eq!(result(&run).await, Ok(41));
}

#[tokio::test]
async fn a_broken_error_of_a_run_is_its_message() {
    let db = Db::new().await;
    let run = start(&db).await;
    db.execute("UPDATE workflow_runs SET status = 'failed', error = '{broken'");
    let Err(ClientError::RunFailed { run_id, error }) = run.result().await else {
        panic!("a failed run fails");
    };
    assert_eq!(
        (run_id.as_str(), error.message.as_str()),
        (run.id(), "{broken")
    );
}

#[tokio::test]
async fn a_broken_result_of_a_step_waits_for_its_repair() {
    let db = Db::new().await;
    let (workflow, ran) = fragile();
    let mut worker = db.worker(workflow.clone());
    let run = start(&db).await;
    until_parked(&db, &run).await;
    worker.stop().await.unwrap();
    db.execute("UPDATE step_attempts SET output = '{\"secret' WHERE step_name = 'first'");
    let _worker = db.worker(workflow);
    db.clock.advance(HOUR);
    let words = ["result of step", "first", "broken JSON", "repair the row"];
    db.assert_put_back(run.id(), &words).await;
    db.assert_others_go_on().await;
    db.execute("UPDATE step_attempts SET output = '40' WHERE step_name = 'first'");
    assert_eq!(db.result_later(&run).await, Ok(41));
    assert_eq!(
        ran.load(Ordering::SeqCst),
        1,
        "a completed step does not run again"
    );
}

#[tokio::test]
async fn a_broken_error_of_a_step_counts_as_a_failure() {
    static FLAKY: WorkflowSpec<(), u32> = WorkflowSpec::new("flaky");
    let db = Db::new().await;
    let workflow = FLAKY.implement(|wf, ()| async move {
        let attempt = wf.attempt();
        wf.run("try", || async move {
            if attempt < 3 {
                return Err(Error::new("NotYet", "not yet"));
            }
            Ok(attempt)
        })
        .await
    });
    let mut worker = db.worker(workflow.clone());
    let run = db.client.start(&FLAKY, &()).await.unwrap();
    db.assert_put_back(run.id(), &["NotYet"]).await;
    worker.stop().await.unwrap();
    db.execute("UPDATE step_attempts SET error = '{broken'");
    let _worker = db.worker(workflow);
    assert_eq!(db.result_later(&run).await, Ok(3));
}

#[tokio::test]
async fn a_wait_whose_context_is_broken_ends() {
    let db = Db::new().await;
    let run = parked(&db).await;
    db.execute("UPDATE step_attempts SET context = '{\"resumeAt' WHERE kind = 'sleep'");
    let _worker = db.worker(fragile().0);
    assert_eq!(db.result_later(&run).await, Ok(41));
}

#[tokio::test]
async fn the_database_refuses_a_broken_context_of_a_signal_wait() {
    static WAITER: WorkflowSpec<(), Option<u32>> = WorkflowSpec::new("waiter");
    let db = Db::new().await;
    let workflow = WAITER.implement(|wf, ()| async move { wf.wait_for_signal("go").await });
    let _worker = db.worker(workflow);
    let run = db.client.start(&WAITER, &()).await.unwrap();
    eventually(|| async { db.query("SELECT id FROM step_attempts").pop() }).await;
    let broken = db
        .raw()
        .execute_batch("UPDATE step_attempts SET context = '{broken'");
    assert_words(&broken.unwrap_err().to_string(), &["malformed JSON"]);
    // What is JSON, but no context, waits on: the signal's name is in the code too.
    db.execute("UPDATE step_attempts SET context = '[1]'");
    assert!(db.client.send_signal("go", &1).await.unwrap().is_empty());
    db.execute(r#"UPDATE step_attempts SET context = '{"signal":"go","timeoutAt":7}'"#);
    assert_eq!(db.client.send_signal("go", &1).await.unwrap(), [run.id()]);
    assert_eq!(result(&run).await, Ok(Some(1)));
}

#[tokio::test]
async fn steps_of_unknown_statuses_go_on_and_those_of_unknown_kinds_wait_for_their_code() {
    let db = Db::new().await;
    let run = parked(&db).await;
    db.execute(
        "UPDATE step_attempts SET kind = 'teleport' WHERE step_name = 'first';
         UPDATE step_attempts SET status = 'paused' WHERE kind = 'sleep'",
    );
    for step in db.client.list_steps(run.id()).await.unwrap().items {
        match step.step_name.as_str() {
            "first" => assert_eq!(step.kind.as_str(), "teleport"),
            _ => assert_eq!(step.status, StepStatus::Other("paused".to_owned())),
        }
    }
    let (workflow, ran) = fragile();
    let _worker = db.worker(workflow);
    db.clock.advance(HOUR);
    let error = eventually(|| async { run.describe().await.unwrap().error }).await;
    assert_words(
        &error.message,
        &["\"first\"", "teleport", "function", run.id()],
    );
    db.execute("UPDATE step_attempts SET kind = 'function' WHERE step_name = 'first'");
    // A status that is not known means "not ended".
    assert_eq!(db.result_later(&run).await, Ok(41));
    assert_eq!(ran.load(Ordering::SeqCst), 0);
}

/// One row that cannot be read hides nothing else of what happened.
#[tokio::test]
async fn what_happened_is_told_beside_a_row_that_cannot_be_read() {
    let db = Db::new().await;
    let run = parked(&db).await;
    db.execute("UPDATE step_attempts SET created_at = 'yesterday' WHERE step_name = 'first'");
    let trace = db.client.trace_events(run.id()).await.unwrap();
    let names: Vec<_> = trace.events.iter().map(|event| event.kind.name()).collect();
    assert_eq!(names, ["run_created", "step_started"]);
    let words = ["step_attempts", "created_at", "yesterday"];
    assert_words(&trace.unreadable[0].problem, &words);
    assert_eq!(trace.unreadable[0].run_id, run.id());
    let summary = db.client.trace_summary(run.id()).await.unwrap();
    assert_eq!(
        (summary.steps.len(), &summary.unreadable),
        (1, &trace.unreadable)
    );

    // What its executions recorded says nothing then, and a broken context of a wait neither.
    db.execute(
        "UPDATE workflow_runs SET config = '{\"executions';
         UPDATE step_attempts SET context = '{\"resumeAt', config = '[' WHERE kind = 'sleep'",
    );
    let trace = db
        .client
        .trace_events(run.id())
        .include_internal(true)
        .await;
    assert_eq!(trace.unwrap().unreadable.len(), 1);

    db.execute("UPDATE workflow_runs SET available_at = 'soon'");
    let error = db.client.trace_events(run.id()).await.unwrap_err();
    assert_words(
        &error.to_string(),
        &["workflow_runs", run.id(), "available_at", "soon"],
    );
    let error = db.client.trace_summary(run.id()).await.unwrap_err();
    assert_words(
        &error.to_string(),
        &["workflow_runs", run.id(), "available_at", "soon"],
    );
}

#[tokio::test]
async fn a_run_with_an_unknown_status_is_left_alone() {
    let db = Db::new().await;
    let run = start(&db).await;
    db.execute("UPDATE workflow_runs SET status = 'paused'");
    let before = db.everything();
    let _worker = db.worker(fragile().0);
    db.assert_others_go_on().await;
    db.clock.advance(HOUR);
    let waited = run.result_within(Duration::from_millis(50)).await;
    assert!(
        matches!(waited, Err(ClientError::TimedOut { .. })),
        "{waited:?}"
    );
    let error = run.cancel().await.unwrap_err();
    assert_words(&error.to_string(), &["Cannot cancel", run.id(), "paused"]);
    let ClientError::NotCancelable { status, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(status, RunStatus::Other("paused".to_owned()));
    assert_eq!(db.everything()[0], before[0], "the row is as it was");
    db.execute("UPDATE workflow_runs SET status = 'pending' WHERE status = 'paused'");
    assert_eq!(db.result_later(&run).await, Ok(41));
}

#[tokio::test]
async fn a_bad_time_of_a_run_is_named_and_waits_for_its_repair() {
    for column in [
        "available_at",
        "deadline_at",
        "started_at",
        "finished_at",
        "created_at",
        "updated_at",
    ] {
        let db = Db::new().await;
        let run = start(&db).await;
        let before = db
            .query(&format!("SELECT {column} FROM workflow_runs"))
            .remove(0);
        db.execute(&format!("UPDATE workflow_runs SET {column} = 'yesterday'"));
        let error = run.describe().await.unwrap_err();
        assert_words(
            &error.to_string(),
            &[run.id(), column, "yesterday", "repair"],
        );
        assert_malformed(&error, "workflow_runs", column);
        let mut worker = db.worker(fragile().0);
        db.assert_others_go_on().await;
        if !matches!(column, "available_at" | "updated_at") {
            // Nobody finds a run that is available at no time, and a claim writes when it was.
            db.assert_put_back(run.id(), &["workflow_runs", column, "repair"])
                .await;
        }
        worker.stop().await.unwrap();
        let value = match before.as_str() {
            "NULL" => before,
            time => format!("'{time}'"),
        };
        db.execute(&format!(
            "UPDATE workflow_runs SET {column} = {value} WHERE {column} = 'yesterday'"
        ));
        let _worker = db.worker(fragile().0);
        assert_eq!(db.result_later(&run).await, Ok(41), "{column}");
    }
}

#[tokio::test]
async fn a_bad_time_of_a_step_is_named_and_waits_for_its_repair() {
    for column in ["started_at", "finished_at", "created_at", "updated_at"] {
        let db = Db::new().await;
        let run = parked(&db).await;
        let sql = format!("SELECT {column} FROM step_attempts WHERE step_name = 'first'");
        let before = db.query(&sql).remove(0);
        let damage =
            format!("UPDATE step_attempts SET {column} = '12:00' WHERE step_name = 'first'");
        db.execute(&damage);
        let error = db.client.list_steps(run.id()).await.unwrap_err();
        assert_malformed(&error, "step_attempts", column);
        let (workflow, ran) = fragile();
        let _worker = db.worker(workflow);
        db.clock.advance(HOUR);
        db.assert_put_back(run.id(), &["step_attempts", column, "12:00", "repair"])
            .await;
        db.assert_others_go_on().await;
        db.execute(&damage.replace("12:00", &before));
        assert_eq!(db.result_later(&run).await, Ok(41), "{column}");
        assert_eq!(
            ran.load(Ordering::SeqCst),
            0,
            "a completed step does not run again"
        );
    }
}

#[tokio::test]
async fn a_value_of_the_wrong_type_is_named() {
    for column in ["context", "input", "error", "version", "idempotency_key"] {
        let db = Db::new().await;
        let run = start(&db).await;
        db.execute(&format!("UPDATE workflow_runs SET {column} = x'ff00'"));
        let error = run.describe().await.unwrap_err();
        assert_malformed(&error, "workflow_runs", column);
        let _worker = db.worker(fragile().0);
        db.assert_others_go_on().await;
        if column != "version" {
            db.assert_put_back(run.id(), &[column, "Blob", "repair"])
                .await;
        }
    }
}

#[tokio::test]
async fn one_bad_row_is_named_by_a_list() {
    let db = Db::new().await;
    let run = start(&db).await;
    db.execute("UPDATE workflow_runs SET started_at = '?'");
    let error = db.client.list_runs().await.unwrap_err();
    assert_malformed(&error, "workflow_runs", "started_at");
    assert_words(&error.to_string(), &[run.id()]);
    assert_eq!(db.client.count_runs().await.unwrap().pending, 1);
}

#[track_caller]
fn assert_malformed(error: &ClientError, in_table: &str, in_column: &str) {
    match error {
        ClientError::Backend(BackendError::MalformedRow { table, column, .. }) => {
            assert_eq!((*table, *column), (in_table, in_column));
        }
        other => panic!("expected a malformed row, got {other:?}"),
    }
}
