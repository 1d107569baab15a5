//! Tests of values beyond SQLite's limit of length, which is lowered for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::limits::Limit;

use super::Sqlite;
use super::writer::Isolation;
use crate::backend::StoredError;
use crate::{Client, ClientError, ErrorKind, Progress, RetryPolicy, Worker, WorkflowSpec};

/// What it does with how many bytes.
static VALUES: WorkflowSpec<(String, usize), String> = WorkflowSpec::new("values");

/// In place of a thousand million bytes.
const LIMIT: i32 = 50_000;
const TOO_MANY: usize = 60_000;

const PATIENCE: Duration = Duration::from_secs(60);

/// Whatever is too large fails what it belongs to, in the first execution, and the bodies run once.
#[tokio::test]
async fn a_value_that_is_too_large_fails_what_it_belongs_to() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(folder.path().join("a.db")).await.unwrap();
    let limited = store.write(Isolation::Statement, |tx| {
        Ok(tx.conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, LIMIT)?)
    });
    assert_eq!(limited.await.unwrap(), 1_000_000_000);

    let bodies = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&bodies);
    let values = VALUES.implement(move |wf, (what, size): (String, usize)| {
        let bodies = Arc::clone(&counted);
        async move {
            let made = || async {
                bodies.fetch_add(1, Ordering::SeqCst);
                Ok("x".repeat(size))
            };
            match &*what {
                "result" => wf.run("make", made).retry(RetryPolicy::attempts(5)).await,
                "progress" => {
                    wf.run_with_progress("make", |progress: Progress<String>| async move {
                        progress.save(&"small".to_owned()).await?;
                        let error = progress.save(&"x".repeat(size)).await.unwrap_err();
                        assert_eq!(error.kind(), ErrorKind::InvalidPayload);
                        Ok(error.message().to_owned())
                    })
                    .await
                }
                "caught" => {
                    let error = wf.run("make", made).await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::InvalidPayload);
                    wf.run("instead", || async { Ok("small".to_owned()) }).await
                }
                _ => made().await,
            }
        }
    });
    let client = Client::new(store.clone());
    let mut worker = Worker::builder(store)
        .workflow(values)
        .build()
        .unwrap()
        .start();

    for (what, subject) in [
        ("result", "the result of step \"make\" cannot be stored"),
        (
            "output",
            "the output of workflow \"values\" cannot be stored",
        ),
    ] {
        let bodies_before = bodies.load(Ordering::SeqCst);
        let run = client.start(&VALUES, &(what.to_owned(), TOO_MANY)).await;
        let run = run.unwrap();
        let failed = run.result_within(PATIENCE).await;
        let Err(ClientError::RunFailed { error, .. }) = failed else {
            panic!("{what}: {failed:?}");
        };
        let StoredError { message, .. } = &*error;
        for part in [subject, "too big", "store a reference"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert_eq!(run.describe().await.unwrap().attempts, 1, "{what}");
        assert_eq!(bodies.load(Ordering::SeqCst), bodies_before + 1, "{what}");
    }

    let caught = client
        .start(&VALUES, &("caught".to_owned(), TOO_MANY))
        .await;
    assert_eq!(
        caught.unwrap().result_within(PATIENCE).await.unwrap(),
        "small"
    );
    let progress = client
        .start(&VALUES, &("progress".to_owned(), TOO_MANY))
        .await
        .unwrap();
    let message = progress.result_within(PATIENCE).await.unwrap();
    for part in ["the progress of step \"make\"", "too big"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let steps = client.list_steps(progress.id()).await.unwrap().items;
    let kept = Some(r#"{"progress":["small"],"order":1}"#);
    assert_eq!(steps[0].config.as_deref(), kept);
    let input = "y".repeat(TOO_MANY);
    let refused = client.start(&VALUES, &(input, 1)).await.unwrap_err();
    assert!(matches!(refused, ClientError::Invalid(_)), "{refused:?}");
    worker.stop().await.unwrap();
}
