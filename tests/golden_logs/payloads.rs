//! No payload is in any log; texts of errors are, as they are the application's own.

use openworkflow::otel::opentelemetry::logs::AnyValue;
use openworkflow::{Error, WorkflowSpec};
use openworkflow_tests::{Database, wait_until};
use serde_json::{Value, json};

use super::{HOUR, harness, title};

/// What a log would break on, or be taken in by.
const SECRET: &str = "4242-secret\"}\n{\"level\":\"ERROR\",\"workflow_run.id\":\"forged\u{1b}[31m";

static PARENT: WorkflowSpec<Value, Value> = WorkflowSpec::new("parent");
static CHILD: WorkflowSpec<Value, Value> = WorkflowSpec::new("child");
/// What a client believes the parent to take.
static NUMBERS: WorkflowSpec<String, Value> = WorkflowSpec::new("numbers");
static NUMBERS_TAKEN: WorkflowSpec<u32, Value> = WorkflowSpec::new("numbers");

#[tokio::test]
async fn no_payload_and_the_texts_of_errors() {
    let secret = || json!({ "card": SECRET });
    let parent = PARENT.implement(|wf, input: Value| async move {
        wf.run("result", || async { Ok(input.clone()) }).await?;
        wf.run_with_progress("progress", |progress| {
            let input = input.clone();
            async move {
                progress.save(&input).await?;
                Ok::<Value, Error>(input)
            }
        })
        .await?;
        wf.run_workflow(&CHILD, &input).await?;
        wf.wait_for_signal::<Value>("word").await?;
        wf.send_signal("nobody", &input).await?;
        wf.sleep("nap", HOUR).await?;
        wf.run("fails", || async {
            Err::<(), _>(Error::new("Declined", "the card was declined").non_retryable())
        })
        .await?;
        Ok(input)
    });
    let child = CHILD.implement(|wf, input: Value| async move {
        wf.run("echo", || async { Ok(input.clone()) }).await?;
        Ok(input)
    });
    let numbers = NUMBERS_TAKEN.implement(|_, _| async { Ok(Value::Null) });
    let (mut harness, book) = harness(
        |otel| otel,
        |worker| worker.workflow(parent).workflow(child).workflow(numbers),
    )
    .await;
    let run = harness.start(&PARENT, secret()).await;
    // An input that does not fit what the code takes: the error says what was expected, and no more.
    let unfit = harness.start(&NUMBERS, SECRET.to_owned()).await;
    harness.failure(&unfit).await;
    harness
        .client
        .send_signal("word", &secret())
        .until_received()
        .await
        .unwrap();
    wait_until("the sleep is set up", async || {
        !harness.step(run.id(), "nap").await.is_empty()
    })
    .await;
    harness.advance(HOUR).await;
    harness.failure(&run).await;
    harness.stop().await;

    let text = book.text();
    let leaks = text.lines().filter(|line| line.contains("4242-secret"));
    assert_eq!(leaks.collect::<Vec<_>>(), [""; 0]);
    for record in book.records() {
        let values = record.attributes_iter().map(|(_, value)| value);
        for value in values.chain(record.body()) {
            let leaks =
                matches!(value, AnyValue::String(text) if text.as_str().contains("4242-secret"));
            assert!(!leaks, "{record:?}");
        }
    }
    let lines = book.lines(run.id());
    let failed: Vec<_> = lines
        .iter()
        .filter(|line| title(line) == "step.failed" || title(line) == "execution.end")
        .filter(|line| line["fields"].get("error").is_some())
        .collect();
    assert_eq!(failed.len(), 2, "{lines:#?}");
    for line in failed {
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["fields"]["error"], "the card was declined");
        assert_eq!(line["fields"]["error.type"], "Declined");
    }
    let unfit = book.lines(unfit.id());
    let end = unfit
        .iter()
        .find(|line| title(line) == "execution.end")
        .unwrap();
    let error = end["fields"]["error"].as_str().unwrap();
    assert!(error.contains("expected u32"), "{error}");
}

#[tokio::test]
async fn what_the_code_logs_of_hostile_data_stays_in_its_field() {
    let parent = PARENT.implement(|_, input: Value| async move {
        let card = input["card"].as_str().unwrap_or_default();
        tracing::info!(card, "{card}");
        Ok(Value::Null)
    });
    let (mut harness, book) = super::with(parent).await;
    let card = SECRET.replace("4242-secret", "told");
    let run = harness.start(&PARENT, json!({ "card": card })).await;
    harness.output(&run).await;
    harness.stop().await;
    assert_eq!(book.lines("forged").len(), 0);
    let lines = book.lines(run.id());
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[2]["fields"]["card"], card);
    assert_eq!(lines[2]["fields"]["message"], card);
}
