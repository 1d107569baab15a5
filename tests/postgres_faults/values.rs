//! Values that Rust's JSON takes and the server's does not: each fails what it belongs to, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openworkflow::backend::StoredError;
use openworkflow::{
    Client, ClientError, Error, ErrorKind, Progress, Result, RetryPolicy, RunHandle, Worker,
    WorkerHandle, Workflow, WorkflowContext, WorkflowSpec,
};
use openworkflow_tests::faults::{Ground as _, PostgresGround};
use serde_json::value::RawValue;

/// What it does, and the JSON that it does it with.
type Input = (String, String);

static VALUES: WorkflowSpec<Input, Box<RawValue>> = WorkflowSpec::new("values");
static CHILD: WorkflowSpec<Box<RawValue>, ()> = WorkflowSpec::new("child");

/// A number that `numeric` cannot hold, and half of a character.
const REFUSED: [&str; 2] = ["1e200000", "\"\\ud800\""];
const PATIENCE: Duration = Duration::from_secs(60);

struct Bench {
    client: Client,
    bodies: Arc<AtomicUsize>,
    _worker: WorkerHandle,
}

impl Bench {
    async fn new() -> Self {
        let store = PostgresGround::make().await.open().await;
        let bodies = Arc::new(AtomicUsize::new(0));
        let worker = Worker::builder(store.clone())
            .workflow(values(&bodies))
            .workflow(CHILD.implement(|_, _| async { Ok(()) }));
        Self {
            client: Client::new(store),
            bodies,
            _worker: worker.build().unwrap().start(),
        }
    }

    async fn start(&self, what: &str, json: &str) -> RunHandle<Box<RawValue>> {
        let input = (what.to_owned(), json.to_owned());
        self.client.start(&VALUES, &input).await.unwrap()
    }

    /// The error that the run fails with, in its first execution.
    async fn failure(&self, what: &str, json: &str) -> StoredError {
        let run = self.start(what, json).await;
        let failed = run.result_within(PATIENCE).await;
        let Err(ClientError::RunFailed { error, .. }) = failed else {
            panic!("{what} {json}: {failed:?}");
        };
        assert_eq!(run.describe().await.unwrap().attempts, 1, "{what} {json}");
        *error
    }
}

fn raw(json: String) -> Result<Box<RawValue>> {
    Ok(RawValue::from_string(json)?)
}

fn values(bodies: &Arc<AtomicUsize>) -> Workflow {
    let bodies = Arc::clone(bodies);
    VALUES.implement(move |wf: WorkflowContext, (what, json): Input| {
        let bodies = Arc::clone(&bodies);
        async move {
            let made = || async {
                bodies.fetch_add(1, Ordering::SeqCst);
                raw(json.clone())
            };
            match what.as_str() {
                "result" => wf.run("make", made).retry(RetryPolicy::attempts(5)).await,
                "caught" => {
                    let error = wf.run("make", made).await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::InvalidPayload);
                    // Parks, so that the failure is told from history.
                    wf.sleep("nap", Duration::from_millis(1)).await?;
                    raw("1".to_owned())
                }
                "progress" => {
                    let body = |progress: Progress<Box<RawValue>>| async move {
                        progress.save(&raw("1".to_owned())?).await?;
                        // Two, of which the one before is kept where the last is refused.
                        let (kept, refused) = (raw("2".to_owned())?, raw(json)?);
                        let saves = [
                            progress.save(&raw("1".to_owned())?),
                            progress.save(&kept),
                            progress.save(&refused),
                        ];
                        let saved = futures::future::join_all(saves).await;
                        assert!(saved[0].is_ok() && saved[1].is_ok(), "{saved:?}");
                        raw(serde_json::to_string(
                            saved[2].as_ref().unwrap_err().message(),
                        )?)
                    };
                    let step = wf.run_with_progress("make", body);
                    step.retry(RetryPolicy::none()).await
                }
                "output" => raw(json),
                "signal" => {
                    wf.send_signal("anybody", &raw(json)?).await?;
                    raw("1".to_owned())
                }
                "child" => {
                    wf.run_workflow(&CHILD, &raw(json)?).await?;
                    raw("1".to_owned())
                }
                "error" => {
                    let text = "far too much ".repeat(300_000);
                    let fails = || async move { Err(Error::new("Chatty", text).non_retryable()) };
                    wf.run("make", fails).await
                }
                other => panic!("{other:?} is nothing that this does"),
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_the_server_refuses_fails_what_it_belongs_to() {
    let bench = Bench::new().await;
    for json in REFUSED {
        for (what, subject) in [
            ("result", "the result of step \"make\" cannot be stored"),
            (
                "output",
                "the output of workflow \"values\" cannot be stored",
            ),
            ("signal", "the data of signal \"anybody\" cannot be stored"),
            ("child", "of child workflow \"child\" cannot be stored"),
        ] {
            let error = bench.failure(what, json).await;
            assert!(error.message.contains(subject), "{what} {json}: {error}");
            assert!(
                !error.message.contains(json),
                "values are nobody's: {error}"
            );
        }
        let run = bench.start("caught", json).await;
        run.result_within(PATIENCE).await.unwrap();
        let steps = bench.client.list_steps(run.id()).await.unwrap().items;
        assert_eq!(steps[0].status.as_str(), "failed");

        let run = bench.start("progress", json).await;
        let message = run.result_within(PATIENCE).await.unwrap();
        for part in ["the progress of step", "cannot be stored"] {
            assert!(message.get().contains(part), "{part} in {message}");
        }
        let steps = bench.client.list_steps(run.id()).await.unwrap().items;
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(steps[0].config.as_ref().unwrap()).unwrap(),
            serde_json::json!({"progress": [2], "order": 1})
        );
    }
    // Neither the policy of the step nor a replay ran a body again.
    assert_eq!(bench.bodies.load(Ordering::SeqCst), REFUSED.len() * 2);
    let error = bench.failure("error", "").await;
    assert_eq!(error.name.as_deref(), Some("Chatty"));
    assert!(error.message.contains("bytes more"), "it is shortened");
}

#[tokio::test]
async fn a_client_is_told_of_the_value_that_the_server_refuses() {
    let store = PostgresGround::make().await.open().await;
    let client = Client::new(store);
    for json in REFUSED {
        let value = raw(json.to_owned()).unwrap();
        let start = client.start(&CHILD, &value).await.map(drop);
        let send = client.send_signal("anybody", &value).await.map(drop);
        for (refused, subject) in [(start, "workflow \"child\""), (send, "signal \"anybody\"")] {
            let Err(ClientError::Invalid(message)) = refused else {
                panic!("{subject}: {refused:?}");
            };
            assert!(message.contains(subject), "{message}");
            assert!(message.contains("cannot be stored"), "{message}");
        }
    }
    assert_eq!(client.count_runs().await.unwrap().pending, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_value_harms_no_write_beside_it() {
    let bench = Bench::new().await;
    let mut runs = Vec::new();
    for n in 0..40 {
        let json = if n % 4 == 0 { REFUSED[0] } else { "1" };
        runs.push(bench.start("result", json).await);
    }
    for (n, run) in runs.iter().enumerate() {
        let result = run.result_within(PATIENCE).await;
        assert_eq!(result.is_ok(), n % 4 != 0, "{result:?}");
    }
}
