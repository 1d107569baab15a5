//! What becomes of the errors that people have: of their own, in boxes, in `anyhow::Error`, as text.

#![cfg(feature = "sqlite")]

use std::error::Error as StdError;
use std::time::Duration;

use anyhow::Context as _;
use openworkflow::backend::StoredError;
use openworkflow::{
    BoxError, Client, ClientError, Error, ErrorKind, ResultExt as _, RetryPolicy, Sqlite, Worker,
    Workflow, WorkflowContext, WorkflowSpec,
};

type Fallible = Result<(), Box<dyn StdError>>;

const PATIENCE: Duration = Duration::from_secs(60);

static WORKFLOW: WorkflowSpec<(), String> = WorkflowSpec::new("under-test");

#[derive(Debug, thiserror::Error)]
enum CheckoutError {
    #[error("the card was declined")]
    Declined,
    #[error("the bank does not answer")]
    Bank(#[source] std::io::Error),
    #[error("no number: {0}")]
    Number(#[from] std::num::ParseIntError),
    #[error(transparent)]
    Step(#[from] Error),
}

/// As an error says that holds one of the library's.
impl Unpin for CheckoutError {}

fn refused() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused")
}

/// What the client gets to hear of a run of `workflow`, and how often that was executed.
async fn failure_of(workflow: Workflow) -> Result<(StoredError, u32), Box<dyn StdError>> {
    let store = Sqlite::options().open_in_memory().await?;
    let worker = Worker::builder(store.clone()).workflow(workflow).build()?;
    let run = Client::new(store).start(&WORKFLOW, &()).await?;
    let _worker = worker.start();
    match run.result_within(PATIENCE).await {
        Err(ClientError::RunFailed { error, .. }) => Ok((*error, run.describe().await?.attempts)),
        other => Err(format!("the run did not fail: {other:?}").into()),
    }
}

/// The failure of a step whose body is `$body`, in whatever way that fails.
macro_rules! failure_of_step {
    ($body:expr) => {{
        let workflow = WORKFLOW.implement(|wf, ()| async move {
            let body = || async { $body };
            wf.run("pay", body).retry(RetryPolicy::none()).await
        });
        failure_of(workflow).await?.0
    }};
}

#[track_caller]
fn assert_error(error: &StoredError, name: &str, message: &str) {
    assert_eq!(error.name.as_deref(), Some(name));
    assert_eq!(error.message, message);
}

#[tokio::test]
async fn an_error_of_ones_own_converts_with_the_question_mark() -> Fallible {
    let error = failure_of_step!(Ok(Err(CheckoutError::Declined)?));
    assert_error(&error, "CheckoutError", "the card was declined");
    let said = r#"step "pay": CheckoutError: the card was declined"#;
    assert_eq!(error.to_string(), said);
    let error = failure_of_step!(Ok(Err(CheckoutError::Bank(refused()))?));
    let message = "the bank does not answer: connection refused";
    assert_error(&error, "CheckoutError", message);
    let error = failure_of_step!({
        "x".parse::<u8>().map_err(CheckoutError::from)?;
        Ok(String::new())
    });
    // The cause is in the text already.
    let message = "no number: invalid digit found in string";
    assert_error(&error, "CheckoutError", message);
    Ok(())
}

#[tokio::test]
async fn text_and_boxes_convert_with_the_question_mark() -> Fallible {
    assert_error(&failure_of_step!(Err("no money")?), "Error", "no money");
    let error = failure_of_step!(Err(format!("no {}", "money"))?);
    assert_error(&error, "Error", "no money");
    let error = failure_of_step!(Ok(Err(BoxError::from(refused()))?));
    assert_error(&error, "io::Error", "connection refused");
    let error = failure_of_step!(Ok(Err(BoxError::from(CheckoutError::Bank(refused())))?));
    let message = "the bank does not answer: connection refused";
    assert_error(&error, "io::Error", message);
    Ok(())
}

#[tokio::test]
async fn a_box_is_called_by_what_is_in_it() -> Fallible {
    fn broken() -> serde_json::Result<u32> {
        serde_json::from_str("[")
    }
    let error = failure_of_step!(Ok(Err(broken()
        .map_err(BoxError::from)
        .err()
        .ok_or("")?)?));
    assert_eq!(error.name.as_deref(), Some("serde_json::Error"));
    let workflow = WORKFLOW.implement(|_, ()| async {
        broken().context("reading the order")?;
        Ok(String::new())
    });
    let (error, _) = failure_of(workflow).await?;
    assert_eq!(error.name.as_deref(), Some("serde_json::Error"));
    Ok(())
}

#[tokio::test]
async fn anyhow_converts_with_the_question_mark() -> Fallible {
    let error = failure_of_step!(Ok(Err(anyhow::anyhow!("no money"))?));
    assert_error(&error, "Error", "no money");
    let error = failure_of_step!(Ok(Err(refused())
        .context("asking the bank")
        .context("paying")?));
    let message = "paying: asking the bank: connection refused";
    assert_error(&error, "io::Error", message);
    assert_eq!(
        error.stack.as_deref(),
        Some("caused by: asking the bank\ncaused by: connection refused")
    );
    Ok(())
}

#[tokio::test]
async fn a_failure_is_called_what_its_author_says() -> Fallible {
    let error = failure_of_step!({
        Err(anyhow::anyhow!("error 51"))
            .named("CardDeclined")
            .non_retryable()
    });
    assert_error(&error, "CardDeclined", "error 51");
    Ok(())
}

async fn pays(wf: &WorkflowContext) -> openworkflow::Result<u32> {
    let declined = || async { Err(CheckoutError::Declined).named("CardDeclined") };
    let declined = wf.run("pay", declined).retry(RetryPolicy::none());
    declined.await.non_retryable()
}

async fn helps_anyhow(wf: &WorkflowContext) -> anyhow::Result<u32> {
    Ok(pays(wf).await? + "1".parse::<u32>()?)
}

async fn helps_anyhow_with_context(wf: &WorkflowContext) -> anyhow::Result<u32> {
    helps_anyhow(wf)
        .await
        .context("booking")
        .context("checkout")
}

async fn helps_boxed(wf: &WorkflowContext) -> Result<u32, BoxError> {
    Ok(pays(wf).await? + "1".parse::<u32>()?)
}

async fn helps_in_a_plain_box(wf: &WorkflowContext) -> Result<u32, Box<dyn StdError>> {
    Ok(pays(wf).await?)
}

async fn helps_transparently(wf: &WorkflowContext) -> Result<u32, CheckoutError> {
    Ok(pays(wf).await?)
}

/// Checks that the failure of [`pays`] came through the helper `$help` as it was, after `$context`.
macro_rules! assert_survives {
    ($help:expr, $context:literal) => {{
        // A failure that may be retried would be, by this policy.
        let spec = WorkflowSpec::<(), String>::new("under-test").retry(RetryPolicy::attempts(3));
        let workflow = spec.implement(|wf, ()| async move { Ok($help(&wf).await?.to_string()) });
        let (error, executions) = failure_of(workflow).await?;
        let message = concat!($context, "the card was declined");
        assert_error(&error, "CardDeclined", message);
        assert_eq!(error.step_name.as_deref(), Some("pay"));
        assert_eq!(executions, 1, "it was tried again");
    }};
}

#[tokio::test]
async fn a_steps_failure_survives_a_helper() -> Fallible {
    assert_survives!(pays, "");
    assert_survives!(helps_anyhow, "");
    assert_survives!(helps_anyhow_with_context, "checkout: booking: ");
    assert_survives!(helps_boxed, "");
    assert_survives!(helps_transparently, "");
    Ok(())
}

#[tokio::test]
async fn what_a_failure_was_can_be_read_after_a_helper() -> Fallible {
    let workflow = WORKFLOW.implement(|wf, ()| async move {
        let boxed = match helps_in_a_plain_box(&wf).await {
            Ok(_) => return Err("the step did not fail")?,
            Err(error) => error.is::<Error>(),
        };
        let timed = wf.run("times-out", async || {
            Err::<(), _>(Error::of_kind(ErrorKind::Timeout, "too late").non_retryable())
        });
        let timed = timed.await.context("waiting").map_err(Error::from);
        let timed = timed.err().ok_or("the step did not fail")?;
        // Parks, so that what is told was read back.
        wf.sleep("later", Duration::from_millis(1)).await?;
        let told = format!(
            "{boxed}, {timed}, {}, {:?}, {}, {}",
            timed.kind(),
            timed.step_name(),
            timed.is_retryable(),
            wf.is_replay()
        );
        Err(told)?
    });
    let (error, _) = failure_of(workflow).await?;
    let told = r#"true, waiting: too late, timeout, Some("times-out"), false, true"#;
    assert_eq!(error.message, told);
    Ok(())
}
