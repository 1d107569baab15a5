//! Payloads that do not fit the type that they are read as.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use openworkflow::{ClientError, ErrorKind, RunHandle, Workflow, WorkflowSpec};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::kit::{Db, HOUR, assert_words, eventually, result};

static LOOSE: WorkflowSpec<Value, Value> = WorkflowSpec::new("typed");
static STRICT: WorkflowSpec<u32, Value> = WorkflowSpec::new("typed");

/// Takes any input; takes a step that returns a text, and sleeps.
fn loose(ran: &Arc<AtomicU32>) -> Workflow {
    let ran = Arc::clone(ran);
    LOOSE.implement(move |wf, _| {
        let ran = Arc::clone(&ran);
        async move {
            let step = || async {
                ran.fetch_add(1, Ordering::SeqCst);
                Ok(json!("a secret"))
            };
            let value = wf.run("remember", step).await?;
            wf.sleep("nap", "1 minute").await?;
            Ok(value)
        }
    })
}

async fn until_parked<O>(db: &Db, run: &RunHandle<O>) {
    let sql = format!(
        "SELECT id FROM workflow_runs WHERE id = '{}' AND status = 'running' AND worker_id IS NULL",
        run.id()
    );
    eventually(|| async { db.query(&sql).pop() }).await;
}

/// A run that sleeps, without a worker.
async fn parked(db: &Db, ran: &Arc<AtomicU32>) -> RunHandle<Value> {
    let mut worker = db.worker(loose(ran));
    let run = db.client.start(&LOOSE, &json!("a secret")).await.unwrap();
    until_parked(db, &run).await;
    worker.stop().await.unwrap();
    run
}

#[tokio::test]
async fn an_input_that_never_fitted_fails_the_run() {
    let db = Db::new().await;
    let _worker = db.worker(STRICT.implement(|_, number| async move { Ok(json!(number)) }));
    let run = db.client.start(&LOOSE, &json!("a secret")).await.unwrap();
    let error = result(&run).await.unwrap_err();
    assert_words(
        &error,
        &[
            "InvalidPayloadError",
            "input of workflow \"typed\"",
            "expected u32",
        ],
    );
    assert!(!error.contains("secret"), "{error}");
    assert_eq!(
        db.query("SELECT input FROM workflow_runs"),
        ["\"a secret\""]
    );
    db.assert_others_go_on().await;
}

#[tokio::test]
async fn an_input_that_fitted_once_waits_for_the_code() {
    let db = Db::new().await;
    let ran = Arc::default();
    let run = parked(&db, &ran).await;
    let mut worker = db.worker(STRICT.implement(|_, number| async move { Ok(json!(number)) }));
    db.clock.advance(HOUR);
    let words = [
        "InvalidPayloadError",
        "input of workflow",
        "u32",
        "mend the type",
    ];
    db.assert_put_back(run.id(), &words).await;
    db.assert_others_go_on().await;
    worker.stop().await.unwrap();
    let _worker = db.worker(loose(&ran));
    assert_eq!(db.result_later(&run).await, Ok(json!("a secret")));
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_result_of_a_step_whose_type_changed_waits_for_the_code() {
    let db = Db::new().await;
    let ran = Arc::default();
    let run = parked(&db, &ran).await;
    let changed = LOOSE.implement(|wf, _| async move {
        // Nothing to catch: another deployment can still mend it.
        let value = wf.run("remember", || async { Ok(7_u32) }).await;
        Ok(json!(value.unwrap_or(0)))
    });
    let mut worker = db.worker(changed);
    db.clock.advance(HOUR);
    let words = [
        "InvalidPayloadError",
        "result of step",
        "remember",
        "u32",
        "mend the type",
    ];
    db.assert_put_back(run.id(), &words).await;
    let stored = db.query("SELECT error FROM workflow_runs WHERE error IS NOT NULL");
    assert!(!stored[0].contains("secret"), "{stored:?}");
    db.assert_others_go_on().await;
    worker.stop().await.unwrap();
    let _worker = db.worker(loose(&ran));
    assert_eq!(db.result_later(&run).await, Ok(json!("a secret")));
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_output_that_the_caller_misreads_stays() {
    static COUNT: WorkflowSpec<(), u32> = WorkflowSpec::new("typed");
    let db = Db::new().await;
    let _worker = db.worker(STRICT.implement(|_, _| async { Ok(json!({ "card": "a secret" })) }));
    let run = db.client.start(&STRICT, &1).await.unwrap();
    assert_eq!(result(&run).await, Ok(json!({ "card": "a secret" })));
    let misread = db.client.handle::<u32>(run.id());
    let Err(ClientError::Invalid(message)) = misread.result().await else {
        panic!("an object is no number");
    };
    assert_words(
        &message,
        &["output of workflow", COUNT.name(), "expected u32"],
    );
    assert!(!message.contains("secret"), "{message}");
}

static PARENT: WorkflowSpec<(), Value> = WorkflowSpec::new("parent");

/// Has a child whose output is a text, and takes it for a number.
fn misreading_parent() -> Workflow {
    static CHILD: WorkflowSpec<u32, u32> = WorkflowSpec::new("sound");
    static LOOSE_CHILD: WorkflowSpec<u32, Vec<u32>> = WorkflowSpec::new("sound");
    PARENT.implement(|wf, ()| async move {
        let number = wf.run_workflow(&CHILD, &1).name("as-a-number").await?;
        let Err(error) = wf.run_workflow(&LOOSE_CHILD, &1).name("as-a-list").await else {
            return Ok(json!("a number is no list"));
        };
        assert_eq!(error.kind(), ErrorKind::InvalidPayload);
        Ok(json!([number, error.message()]))
    })
}

#[tokio::test]
async fn an_output_of_a_child_that_does_not_fit_fails_the_step() {
    let db = Db::new().await;
    let _worker = db.worker(misreading_parent());
    let run = db.client.start(&PARENT, &()).await.unwrap();
    let told = result(&run).await.unwrap();
    assert_eq!(told[0], 2);
    let message = told[1].as_str().unwrap();
    assert_words(
        message,
        &["output of child workflow", "as-a-list", "Vec<u32>"],
    );
    let outputs = db.query("SELECT output FROM workflow_runs WHERE workflow_name = 'sound'");
    assert_eq!(outputs, ["2", "2"], "the child keeps its output");
}

#[tokio::test]
async fn a_broken_output_of_a_child_waits_for_its_repair() {
    let db = Db::new().await;
    let mut worker = db.worker(misreading_parent());
    let run = db.client.start(&PARENT, &()).await.unwrap();
    result(&run).await.unwrap();
    worker.stop().await.unwrap();
    // As if the parent had not seen the second child's end yet.
    db.execute(&format!(
        "UPDATE step_attempts SET status = 'running', error = NULL, finished_at = NULL
             WHERE step_name = 'as-a-list';
         UPDATE workflow_runs SET output = '[1' WHERE id = (
             SELECT child_workflow_run_id FROM step_attempts WHERE step_name = 'as-a-list');
         UPDATE workflow_runs SET status = 'running', output = NULL, worker_id = NULL,
             available_at = created_at, finished_at = NULL WHERE id = '{}'",
        run.id()
    ));
    let _worker = db.worker(misreading_parent());
    let words = [
        "output of child workflow",
        "as-a-list",
        "broken JSON",
        "repair the row",
    ];
    db.assert_put_back(run.id(), &words).await;
    db.execute("UPDATE workflow_runs SET output = '[1]' WHERE output = '[1'");
    let told = db.result_later(&run).await;
    assert_eq!(told, Ok(json!("a number is no list")));
}

static LISTENER: WorkflowSpec<(), Value> = WorkflowSpec::new("listener");

fn listener() -> Workflow {
    LISTENER.implement(|wf, ()| async move {
        let heard = wf.wait_for_signal::<u32>("go").await;
        Ok(match heard {
            Ok(number) => json!(number),
            Err(error) => json!({ "kind": error.kind().as_str(), "message": error.message() }),
        })
    })
}

#[tokio::test]
async fn data_of_a_signal_that_does_not_fit_fails_the_step() {
    let db = Db::new().await;
    let _worker = db.worker(listener());
    let run = db.client.start(&LISTENER, &()).await.unwrap();
    until_parked(&db, &run).await;
    let sent = db.client.send_signal("go", &"a secret").await.unwrap();
    assert_eq!(sent, [run.id()]);
    let told = result(&run).await.unwrap();
    assert_eq!(told["kind"], "invalid_payload");
    let message = told["message"].as_str().unwrap();
    assert_words(
        message,
        &[
            "Signal schema validation failed",
            "signal \"go\"",
            "expected u32",
        ],
    );
    assert!(!message.contains("secret"), "{message}");
    assert_eq!(
        db.query("SELECT data FROM workflow_signals"),
        ["\"a secret\""]
    );
}

#[tokio::test]
async fn broken_data_of_a_signal_waits_for_its_repair() {
    let db = Db::new().await;
    let mut worker = db.worker(listener());
    let run = db.client.start(&LISTENER, &()).await.unwrap();
    until_parked(&db, &run).await;
    worker.stop().await.unwrap();
    db.client.send_signal("go", &1).await.unwrap();
    db.execute("UPDATE workflow_signals SET data = '{\"secret'");
    let _worker = db.worker(listener());
    let words = ["data of signal", "go", "broken JSON", "repair the row"];
    db.assert_put_back(run.id(), &words).await;
    db.execute("UPDATE workflow_signals SET data = '12'");
    assert_eq!(db.result_later(&run).await, Ok(json!(12)));
}

#[tokio::test]
async fn stored_results_of_waits_and_sends_that_are_none_wait_for_their_repair() {
    static SENDER: WorkflowSpec<(), Value> = WorkflowSpec::new("sender");
    for (step, good) in [
        ("hear", r#"{"data":5}"#),
        ("tell", r#"{"workflowRunIds":[]}"#),
    ] {
        let db = Db::new().await;
        let workflow = || {
            SENDER.implement(|wf, ()| async move {
                let heard: Option<u32> = wf.wait_for_signal("go").name("hear").await?;
                let told = wf.send_signal("news", &1).name("tell").await?;
                wf.sleep("nap", "1 minute").await?;
                Ok(json!([heard, told]))
            })
        };
        let mut worker = db.worker(workflow());
        let run = db.client.start(&SENDER, &()).await.unwrap();
        until_parked(&db, &run).await;
        db.client.send_signal("go", &5).await.unwrap();
        let nap = "SELECT r.id FROM workflow_runs r JOIN step_attempts a ON a.kind = 'sleep'
            WHERE r.worker_id IS NULL";
        eventually(|| async { db.query(nap).pop() }).await;
        worker.stop().await.unwrap();
        db.execute(&format!(
            "UPDATE step_attempts SET output = '\"a secret\"' WHERE step_name = '{step}'"
        ));
        let _worker = db.worker(workflow());
        db.clock.advance(HOUR);
        db.assert_put_back(run.id(), &["InvalidPayloadError", "mend"])
            .await;
        let stored = db.query("SELECT error FROM workflow_runs WHERE error IS NOT NULL");
        assert!(!stored[0].contains("secret"), "{stored:?}");
        db.execute(&format!(
            "UPDATE step_attempts SET output = '{good}' WHERE step_name = '{step}'"
        ));
        assert_eq!(db.result_later(&run).await, Ok(json!([5, []])), "{step}");
    }
}

/// Cannot be written as JSON.
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("a secret is in the way"))
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_refused_before_anything_is() {
    static UNWRITABLE: WorkflowSpec<Unwritable, ()> = WorkflowSpec::new("unwritable");
    let db = Db::new().await;
    let Err(ClientError::Invalid(message)) = db.client.start(&UNWRITABLE, &Unwritable).await else {
        panic!("an input that is no JSON is refused");
    };
    assert_words(&message, &["input of workflow", "unwritable", "Serialize"]);
    assert!(!message.contains("secret"), "{message}");
    let sent = db.client.send_signal("go", &Unwritable).await;
    assert!(matches!(sent, Err(ClientError::Invalid(_))), "{sent:?}");
    assert_eq!(db.everything(), Vec::<String>::new());
}
