//! Arguments that make no sense: names, times, policies, limits and cursors.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use openworkflow::backend::{StepAttemptKind, StepStatus};
use openworkflow::{
    BuildError, Client, ClientError, Error, RetryPolicy, RunStatus, When, Worker, WorkerBuilder,
    Workflow, WorkflowSpec,
};
use serde_json::{Value, json};

use crate::kit::{Db, assert_words, result};

fn huge() -> String {
    "n".repeat(1 << 20)
}

/// The two names that nothing may have, and what their errors say.
fn bad_names() -> [(String, [&'static str; 2]); 2] {
    [
        (String::new(), ["is empty", "1 to 1024"]),
        (huge(), ["1048576 bytes", "at most 1024"]),
    ]
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

#[track_caller]
fn assert_invalid<T: std::fmt::Debug>(result: Result<T, ClientError>, words: &[&str]) {
    match result {
        Err(ClientError::Invalid(message)) => {
            assert_words(&message, words);
            assert!(message.len() < 500, "a message is no place for a megabyte");
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn a_client_refuses_bad_names_and_writes_nothing() {
    static SPEC: WorkflowSpec<(), ()> = WorkflowSpec::new("w");
    let db = Db::new().await;
    for (name, words) in bad_names() {
        let leaked = leak(name.clone());
        let spec = WorkflowSpec::<(), ()>::new(leaked);
        assert_invalid(db.client.start(&spec, &()).await, &words);
        let spec = WorkflowSpec::<(), ()>::new("w").version(leaked);
        let started = db.client.start(&spec, &()).await;
        assert_invalid(started, &[words[0], words[1], "version", "\"w\""]);
        let sent = db.client.send_signal(name.as_str(), &1).await;
        assert_invalid(sent, &[words[0], words[1], "signal"]);
        let client = Client::builder(db.store.clone())
            .namespace(name.as_str())
            .build();
        let words = [words[0], words[1], "namespace"];
        assert_invalid(client.start(&SPEC, &()).await, &words);
        assert_invalid(client.send_signal("s", &1).await, &words);
    }
    let key = huge();
    let started = db
        .client
        .start(&SPEC, &())
        .idempotency_key(key.as_str())
        .await;
    assert_invalid(started, &["idempotency key", "1048576 bytes"]);
    let sent = db.client.send_signal("s", &1).idempotency_key(key).await;
    assert_invalid(sent, &["idempotency key", "1048576 bytes"]);
    assert_eq!(db.everything(), Vec::<String>::new());
    // The empty key is a key.
    let first = db
        .client
        .start(&SPEC, &())
        .idempotency_key("")
        .await
        .unwrap();
    let second = db
        .client
        .start(&SPEC, &())
        .idempotency_key("")
        .await
        .unwrap();
    assert_eq!(first.id(), second.id());
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let db = Db::new().await;
    for id in [String::new(), huge(), "0".to_owned()] {
        let handle = db.client.handle::<()>(id.as_str());
        let result = handle.result().await;
        assert!(matches!(result, Err(ClientError::RunNotFound { run_id }) if run_id == id));
        let canceled = handle.cancel().await;
        assert!(matches!(canceled, Err(ClientError::RunNotFound { run_id }) if run_id == id));
        assert!(db.client.list_steps(id).await.unwrap().items.is_empty());
    }
}

fn noop(name: &str) -> Workflow {
    Workflow::new(name, |_, (): ()| async { Ok(()) })
}

#[track_caller]
fn assert_not_built(builder: WorkerBuilder, words: &[&str]) {
    let error: BuildError = builder.build().unwrap_err();
    assert_words(&error.to_string(), &["cannot build the worker"]);
    assert_words(&error.to_string(), words);
}

#[tokio::test]
async fn a_worker_is_not_built_of_nonsense() {
    let db = Db::new().await;
    let builder = || Worker::builder(db.store.clone());
    for (name, words) in bad_names() {
        assert_not_built(builder().workflow(noop(&name)), &words);
        let version = noop("w").version(name.as_str());
        assert_not_built(builder().workflow(version), &[words[0], "version", "\"w\""]);
        assert_not_built(builder().namespace(name), &[words[0], "namespace"]);
    }
    assert_not_built(
        builder()
            .workflow(noop("w").version("1"))
            .workflow(noop("w").version("1")),
        &["Workflow \"w\" (version: 1)", "twice", "another version"],
    );
    for coefficient in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0] {
        let policy = RetryPolicy::attempts(3).backoff_coefficient(coefficient);
        let words = ["Workflow \"w\"", "backoff coefficient", "positive, finite"];
        assert_not_built(builder().workflow(noop("w").retry(policy)), &words);
    }
    assert_not_built(
        builder().concurrency(0),
        &["concurrency is 0", "at least 1"],
    );
    assert_not_built(builder().concurrency(usize::MAX), &["at most 10000"]);
    assert_not_built(
        builder().lease(Duration::ZERO),
        &["lease of 0ns", "100 ms or more"],
    );
}

#[tokio::test]
async fn the_largest_numbers_work() {
    let db = Db::new().await;
    let builder = Worker::builder(db.store.clone()).workflow(noop("w"));
    let builder = builder.lease(Duration::MAX).stop_deadline(Duration::MAX);
    let mut worker = builder.concurrency(10_000).build().unwrap().start();
    static SPEC: WorkflowSpec<(), ()> = WorkflowSpec::new("w");
    let run = db.client.start(&SPEC, &()).await.unwrap();
    run.result_within(Duration::MAX).await.unwrap();
    worker.stop().await.unwrap();
}

static PROBE: WorkflowSpec<(), Value> = WorkflowSpec::new("probe");

#[tokio::test]
async fn a_workflow_can_catch_what_makes_no_sense() {
    let db = Db::new().await;
    let workflow = PROBE.implement(|wf, ()| async move {
        let wf = &wf;
        let mut refusals: Vec<Error> = Vec::new();
        let mut refused = |what: &str, error: Option<Error>| match error {
            Some(error) => refusals.push(error),
            None => panic!("{what} is accepted"),
        };
        static CHILD: WorkflowSpec<(), ()> = WorkflowSpec::new("child");
        static EMPTY: WorkflowSpec<(), ()> = WorkflowSpec::new("");
        static NO_VERSION: WorkflowSpec<(), ()> = WorkflowSpec::new("child").version("");
        for name in [String::new(), huge()] {
            let name = name.as_str();
            let ran = wf.run(name, || async { Ok(()) }).await;
            refused("a step's name", ran.err());
            refused("a sleep's name", wf.sleep(name, "1s").await.err());
            let child = wf.run_workflow(&CHILD, &()).name(name).await;
            refused("a child's name", child.err());
            let heard = wf.wait_for_signal::<()>(name).await;
            refused("a signal", heard.err());
            let heard = wf.wait_for_signal::<()>("s").name(name).await;
            refused("a wait's name", heard.err());
            refused("a signal", wf.send_signal(name, &()).await.err());
            let sent = wf.send_signal("s", &()).name(name).await;
            refused("a sending's name", sent.err());
        }
        refused("no name", wf.run_workflow(&EMPTY, &()).await.err());
        refused("no version", wf.run_workflow(&NO_VERSION, &()).await.err());
        for (step, when) in bad_times().into_iter().enumerate() {
            let slept = wf.sleep(format!("sleep-{step}"), when.clone()).await;
            refused("a time", slept.err());
            let child = wf.run_workflow(&CHILD, &()).timeout(when.clone()).await;
            refused("a child's timeout", child.err());
            let heard = wf.wait_for_signal::<()>("s").timeout(when).await;
            refused("a wait's timeout", heard.err());
        }
        for coefficient in [f64::NAN, f64::INFINITY, 0.0, -2.0] {
            let policy = RetryPolicy::attempts(3).backoff_coefficient(coefficient);
            let ran = wf.run("retried", || async { Ok(()) }).retry(policy).await;
            refused("a policy", ran.err());
        }
        Ok(refusals
            .iter()
            .map(|error| json!([error.error_type(), error.message()]))
            .collect())
    });
    let _worker = db.worker(workflow);
    let run = db.client.start(&PROBE, &()).await.unwrap();
    let told = result(&run).await.unwrap();
    let told = told.as_array().unwrap();
    assert_eq!(told.len(), 2 * 7 + 2 + 5 * 3 + 4);
    for refusal in told {
        assert_eq!(refusal[0], "invalid_argument");
        let message = refusal[1].as_str().unwrap();
        assert!(message.len() < 500, "a message is no place for a megabyte");
        let remedies = [
            "give one of",
            "use at most",
            "write a number",
            "give an earlier",
            "give a positive",
        ];
        assert!(
            remedies.iter().any(|remedy| message.contains(remedy)),
            "{message}"
        );
    }
    let names = ["sleep-0", "child", "wait \"s", "step \"retried\""];
    assert_words(&format!("{told:?}").replace('\\', ""), &names);
    assert!(
        db.query("SELECT id FROM step_attempts").is_empty(),
        "nothing is begun"
    );
}

/// Times that are none, or lie too far ahead.
fn bad_times() -> [When; 5] {
    [
        Duration::MAX.into(),
        Duration::from_secs(u64::from(u32::MAX) * 100).into(),
        "soon".into(),
        "".into(),
        (SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40)).into(),
    ]
}

#[tokio::test]
async fn a_client_refuses_bad_times_and_writes_nothing() {
    let db = Db::new().await;
    for when in bad_times() {
        let delayed = db.client.start(&PROBE, &()).delay(when.clone()).await;
        assert_invalid(delayed, &["delay of workflow \"probe\""]);
        let limited = db.client.start(&PROBE, &()).deadline(when).await;
        assert_invalid(limited, &["deadline of workflow \"probe\""]);
    }
    assert_eq!(db.everything(), Vec::<String>::new());
}

#[tokio::test]
async fn no_time_and_times_past_are_now() {
    let db = Db::new().await;
    let workflow = PROBE.implement(|wf, ()| async move {
        wf.sleep("zero", Duration::ZERO).await?;
        wf.sleep("past", SystemTime::UNIX_EPOCH).await?;
        wf.sleep(
            "before time",
            SystemTime::UNIX_EPOCH - Duration::from_secs(1 << 33),
        )
        .await?;
        let heard: Option<()> = wf.wait_for_signal("s").timeout("0").await?;
        static NOBODYS: WorkflowSpec<(), ()> = WorkflowSpec::new("nobody's");
        let child = wf.run_workflow(&NOBODYS, &()).timeout(Duration::ZERO).await;
        let error = child.expect_err("a child without time times out");
        Ok(json!([heard, error.error_type()]))
    });
    let _worker = db.worker(workflow);
    let run = db
        .client
        .start(&PROBE, &())
        .delay(SystemTime::UNIX_EPOCH)
        .await
        .unwrap();
    let waited = run.result_within(Duration::ZERO).await;
    assert!(
        matches!(waited, Err(ClientError::TimedOut { .. })),
        "{waited:?}"
    );
    assert_eq!(result(&run).await, Ok(json!([null, "timeout"])));
    let late = db
        .client
        .start(&PROBE, &())
        .deadline(Duration::ZERO)
        .await
        .unwrap();
    // Deadlines are looked for every second.
    db.clock.advance(Duration::from_secs(2));
    let error = result(&late).await.unwrap_err();
    assert_words(&error, &["Workflow run deadline exceeded"]);
}

#[tokio::test]
async fn the_longest_retry_intervals_end_with_time() {
    let db = Db::new().await;
    let workflow = PROBE.implement(|wf, ()| async move {
        let policy = RetryPolicy::unlimited()
            .initial_interval(Duration::MAX)
            .maximum_interval(Duration::MAX)
            .backoff_coefficient(f64::MAX);
        let fails = || async { Err::<(), _>(Error::new("Fails", "fails")) };
        wf.run("fails", fails).retry(policy).await?;
        Ok(Value::Null)
    });
    let _worker = db.worker(workflow);
    let run = db.client.start(&PROBE, &()).await.unwrap();
    db.assert_put_back(run.id(), &["Fails"]).await;
    let due = db.query("SELECT available_at FROM workflow_runs");
    assert!(due[0].starts_with("9999-12-3"), "{due:?}");
    db.assert_others_go_on().await;
}

#[tokio::test]
async fn the_1001st_attempt_fails_the_run() {
    let db = Db::new().await;
    let workflow = PROBE.implement(|wf, ()| async move {
        // Side by side, so that they share commits. The end cannot be caught.
        let steps = (0..1001).map(|_| wf.run("again", || async { Ok(()) }));
        let all: Vec<_> = join_all(steps).await;
        Ok(json!(all.len()))
    });
    let _worker = db.worker(workflow);
    let run = db.client.start(&PROBE, &()).await.unwrap();
    assert!(result(&run).await.is_err());
    let error = db.query("SELECT error FROM workflow_runs");
    let expected: Value = json!({
        "code": "STEP_LIMIT_EXCEEDED", "name": "StepLimitExceededError", "limit": 1000,
        "stepCount": 1000,
        "message": "Exceeded the step limit of 1000 attempts (current count: 1000)",
    });
    assert_eq!(serde_json::from_str::<Value>(&error[0]).unwrap(), expected);
    let completed = "SELECT count(*) FROM step_attempts WHERE status = 'completed'";
    assert_eq!(db.query(completed), ["Integer(1000)"]);
    db.assert_others_go_on().await;
}

#[tokio::test]
async fn a_run_of_a_workflow_that_is_not_registered_waits_for_a_worker_that_has_it() {
    let db = Db::new().await;
    let run = db.client.start(&PROBE, &()).await.unwrap();
    let before = db.everything();
    let mut worker = db.worker(noop("another"));
    db.assert_others_go_on().await;
    assert!(db.everything().contains(&before[0]), "it is not touched");
    worker.stop().await.unwrap();

    let builder = Worker::builder(db.store.clone()).workflow(noop("another"));
    let mut worker = builder.claim_unregistered(true).build().unwrap().start();
    db.assert_put_back(run.id(), &["Workflow \\\"probe\\\" is not registered"])
        .await;
    worker.stop().await.unwrap();

    let _worker = db.worker(PROBE.implement(|_, ()| async { Ok(json!("here")) }));
    assert_eq!(db.result_later(&run).await, Ok(json!("here")));
}

#[tokio::test]
async fn lists_refuse_bad_cursors_and_limits() {
    let db = Db::new().await;
    for _ in 0..3 {
        db.client.start(&PROBE, &()).await.unwrap();
    }
    for limit in [0, 1001, u32::MAX] {
        let words = ["a page of", "1 to 1000"];
        assert_invalid(db.client.list_runs().limit(limit).await, &words);
        assert_invalid(db.client.list_steps("x").limit(limit).await, &words);
    }
    let page = db.client.list_runs().limit(1).await.unwrap();
    let good = page.next.unwrap();
    let mut cursors = vec![
        String::new(),
        "nonsense".to_owned(),
        huge(),
        good[1..].to_owned(),
    ];
    cursors.push("eyJjcmVhdGVkQXQiOiJzb29uIiwiaWQiOiJ4In0=".to_owned());
    cursors.push("bnVsbA==".to_owned());
    for cursor in cursors {
        for listed in [
            db.client.list_runs().after(cursor.as_str()).await,
            db.client.list_runs().before(cursor.as_str()).await,
        ] {
            let Err(error @ ClientError::InvalidCursor { .. }) = listed else {
                panic!("{listed:?}");
            };
            assert_words(
                &error.to_string(),
                &["no cursor", "pass the `next` or `prev`"],
            );
            assert!(error.to_string().len() < 500);
        }
    }
    let both = db
        .client
        .list_runs()
        .after(good.as_str())
        .before(good.as_str())
        .await;
    assert_words(&both.unwrap_err().to_string(), &["exclude each other"]);
    let next = db.client.list_runs().after(good).await.unwrap();
    assert_eq!(next.items.len(), 2);
}

/// A typo is refused where it is made, and never answered with an empty list.
#[test]
fn a_misspelt_status_is_refused_with_the_right_words() {
    let typo = "compleeted".parse::<RunStatus>().unwrap_err();
    assert_words(
        &typo.to_string(),
        &[
            "\"compleeted\"",
            "status of a run",
            "\"completed\"",
            "\"canceled\"",
        ],
    );
    for word in ["", "Completed", " completed", "cancelled"] {
        assert!(word.parse::<RunStatus>().is_err(), "{word:?}");
    }
    let typo = "done".parse::<StepStatus>().unwrap_err();
    assert_words(
        &typo.to_string(),
        &["\"done\"", "step attempt", "\"failed\""],
    );
    let long = "x".repeat(100_000).parse::<StepAttemptKind>().unwrap_err();
    assert!(long.to_string().len() < 500);
}
