//! Text that no database can hold: refused by the call that brings it, which names it.

use std::future::IntoFuture;

use openworkflow::backend::Cursor;
use openworkflow::{Client, ClientError, RunStatus, Worker, WorkflowSpec};
use openworkflow_tests::Database;

use super::{Harness, SECOND};

static W: WorkflowSpec<u32, u32> = WorkflowSpec::new("w");
static BAD_NAME: WorkflowSpec<u32, u32> = WorkflowSpec::new("w\0");
static BAD_VERSION: WorkflowSpec<u32, u32> = WorkflowSpec::new("w").version("v\0");

/// What the call is refused with.
async fn refusal<T>(call: impl IntoFuture<Output = Result<T, ClientError>>) -> String {
    match call.await {
        Err(ClientError::Invalid(message)) => message,
        Err(error) => panic!("another error: {error:?}"),
        Ok(_) => panic!("it is not refused"),
    }
}

#[tokio::test]
async fn a_null_character_is_refused_by_name_wherever_it_comes_in() {
    let harness = Harness::idle().await;
    let client = &harness.client;
    let run = client.handle::<u32>("a\0b");
    let start = || client.start(&W, &1);
    let send = || client.send_signal("s", &1);
    let refusals = [
        ("the run's id", refusal(client.describe("a\0b")).await),
        ("the run's id", refusal(client.cancel("a\0b")).await),
        ("the run's id", refusal(client.list_steps("a\0b")).await),
        ("the run's id", refusal(run.result()).await),
        ("the run's id", refusal(run.result_within(SECOND)).await),
        ("the run's id", refusal(run.describe()).await),
        ("the run's id", refusal(run.cancel()).await),
        (
            "the status",
            refusal(
                client
                    .list_runs()
                    .status(RunStatus::Other("a\0b".to_owned())),
            )
            .await,
        ),
        (
            "the workflow's name",
            refusal(client.list_runs().workflow("a\0b")).await,
        ),
        (
            "the name of a workflow",
            refusal(client.start(&BAD_NAME, &1)).await,
        ),
        (
            "the version of workflow \"w\"",
            refusal(client.start(&BAD_VERSION, &1)).await,
        ),
        (
            "the idempotency key",
            refusal(start().idempotency_key("a\0b")).await,
        ),
        (
            "the key of a carrier entry",
            refusal(start().carrier_entry("a\0b", "v")).await,
        ),
        (
            "the carrier entry \"k\"",
            refusal(start().carrier_entry("k", "a\0b")).await,
        ),
        (
            "the carrier entry \"traceparent\"",
            refusal(start().traceparent("a\0b")).await,
        ),
        (
            "the name of a signal",
            refusal(client.send_signal("a\0b", &1)).await,
        ),
        (
            "the data of signal",
            refusal(client.send_signal("s", "a\0b")).await,
        ),
        (
            "the idempotency key",
            refusal(send().idempotency_key("a\0b")).await,
        ),
    ];
    for (subject, message) in refusals {
        assert!(message.starts_with(subject), "{subject}: {message}");
        assert!(message.contains("U+0000"), "{message}");
        assert!(message.ends_with("leave it out"), "{message}");
    }
    assert!(harness.runs().await.is_empty(), "nothing is written");
}

#[tokio::test]
async fn a_namespace_with_a_null_character_is_refused_by_every_call() {
    let harness = Harness::idle().await;
    let client = Client::builder(harness.store()).namespace("a\0b").build();
    let run = client.handle::<u32>("r");
    for message in [
        refusal(client.start(&W, &1)).await,
        refusal(client.describe("r")).await,
        refusal(client.cancel("r")).await,
        refusal(client.list_runs()).await,
        refusal(client.list_steps("r")).await,
        refusal(client.count_runs()).await,
        refusal(client.send_signal("s", &1)).await,
        refusal(run.result()).await,
    ] {
        assert!(message.contains("the client's namespace"), "{message}");
        assert!(message.contains("U+0000"), "{message}");
    }
    let worker = Worker::builder(harness.store()).namespace("a\0b").build();
    let message = worker.unwrap_err().to_string();
    assert!(message.contains("the worker's namespace"), "{message}");
}

#[tokio::test]
async fn a_cursor_with_a_null_character_is_no_cursor() {
    let harness = Harness::idle().await;
    let cursor = Cursor::new(harness.now(), "a\0b").encode();
    let listed = harness.client.list_runs().after(cursor.as_str()).await;
    assert!(
        matches!(listed, Err(ClientError::InvalidCursor { .. })),
        "{listed:?}"
    );
    let listed = harness.client.list_steps("r").before(cursor.as_str()).await;
    assert!(
        matches!(listed, Err(ClientError::InvalidCursor { .. })),
        "{listed:?}"
    );
}
