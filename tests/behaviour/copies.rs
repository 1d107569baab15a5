//! Runs that are made of others: retried, resumed, forked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use openworkflow::backend::CopyKind;
use openworkflow::{ClientError, Error, RunStatus, Workflow, WorkflowSpec};

use super::Harness;

static CHARGE: WorkflowSpec<u32, u32> = WorkflowSpec::new("charge").version("v1");

/// How often each of the steps ran, and whether the middle one fails.
#[derive(Default)]
struct Ran {
    first: AtomicU32,
    middle: AtomicU32,
    last: AtomicU32,
    broken: AtomicBool,
}

impl Ran {
    fn counts(&self) -> [u32; 3] {
        [&self.first, &self.middle, &self.last].map(|of| of.load(Ordering::SeqCst))
    }
}

/// Three steps, the middle one beside a wait for a signal.
fn charging(ran: &Arc<Ran>) -> Workflow {
    let ran = Arc::clone(ran);
    CHARGE.implement(move |wf, input: u32| {
        let ran = Arc::clone(&ran);
        async move {
            let count = |of: &AtomicU32| of.fetch_add(1, Ordering::SeqCst) + 1;
            let first = wf.run("first", async || Ok(count(&ran.first))).await?;
            let paid: Option<u32> = wf.wait_for_signal(format!("paid:{input}")).await?;
            let middle = async || {
                let nth = count(&ran.middle);
                if ran.broken.load(Ordering::SeqCst) {
                    return Err(Error::new("CardError", "declined").non_retryable());
                }
                Ok(nth)
            };
            let middle = wf.run("middle", middle).await?;
            let last = wf.run("last", async || Ok(count(&ran.last))).await?;
            Ok(input + paid.unwrap_or_default() + 100 * first + 10_000 * middle + 1_000_000 * last)
        }
    })
}

/// A run that was paid 7 and failed in the middle.
async fn declined(harness: &Harness, ran: &Ran) -> String {
    ran.broken.store(true, Ordering::SeqCst);
    let run = harness.start(&CHARGE, 1).await;
    harness.parked(run.id(), 1).await;
    harness.client.send_signal("paid:1", &7).await.unwrap();
    assert_eq!(harness.ended(run.id()).await.status, "failed");
    ran.broken.store(false, Ordering::SeqCst);
    run.id().to_owned()
}

#[tokio::test]
async fn a_resumed_run_goes_on_at_the_failed_step() {
    let ran = Arc::new(Ran::default());
    let harness = Harness::new(|worker| worker.workflow(charging(&ran))).await;
    let old = declined(&harness, &ran).await;
    let before = harness.client.describe(&old).await.unwrap();
    assert_eq!(ran.counts(), [1, 1, 0]);

    let new = harness.client.resume(&old).await.unwrap();
    let output = harness
        .output(&harness.client.handle::<u32>(new.as_str()))
        .await;
    assert_eq!(output, 1 + 7 + 100 + 20_000 + 1_000_000);
    assert_eq!(ran.counts(), [1, 2, 1]);

    // The old run stays as it is, and each names the other.
    let after = harness.client.describe(&old).await.unwrap();
    assert_eq!(after.status, RunStatus::Failed);
    assert_eq!(after.updated_at, before.updated_at);
    let of_old = harness.client.related_runs(&old).await.unwrap();
    let of_new = harness.client.related_runs(&new).await.unwrap();
    let made_of = of_new.made_of.expect("it was made of the old one");
    assert_eq!(
        (made_of.kind, made_of.run_id),
        (CopyKind::Resumed, old.clone())
    );
    assert_eq!(of_old.made_into.len(), 1);
    assert_eq!(of_old.made_into[0].run_id, new);
    let made = harness.client.describe(&new).await.unwrap();
    assert_eq!(made.version.as_deref(), Some("v1"));
    let link = made.carrier.get("workflow-resumed-from").unwrap();
    assert!(
        link.starts_with(&format!("{} {old}", before.attempts)),
        "{link}"
    );
}

#[tokio::test]
async fn a_retried_run_begins_anew_from_the_same_input() {
    let ran = Arc::new(Ran::default());
    let harness = Harness::new(|worker| worker.workflow(charging(&ran))).await;
    let old = declined(&harness, &ran).await;

    let new = harness.client.retry(&old).await.unwrap();
    harness.parked(&new, 1).await;
    assert_eq!(harness.step_summary(&new).await.len(), 2);
    harness.client.send_signal("paid:1", &9).await.unwrap();
    let output = harness
        .output(&harness.client.handle::<u32>(new.as_str()))
        .await;
    assert_eq!(output, 1 + 9 + 200 + 20_000 + 1_000_000);

    let again = harness.client.retry(&old).await.unwrap();
    let related = harness.client.related_runs(&old).await.unwrap();
    let ids: Vec<_> = related.made_into.into_iter().map(|of| of.run_id).collect();
    assert_eq!(ids, [new, again]);
}

#[tokio::test]
async fn a_forked_run_has_the_results_from_before_the_step() {
    let ran = Arc::new(Ran::default());
    let harness = Harness::new(|worker| worker.workflow(charging(&ran))).await;
    let run = harness.start(&CHARGE, 1).await;
    harness.parked(run.id(), 1).await;
    harness.client.send_signal("paid:1", &7).await.unwrap();
    harness.output(&run).await;
    assert_eq!(ran.counts(), [1, 1, 1]);

    let from_last = harness.client.fork(run.id(), "last").await.unwrap();
    let output = harness
        .output(&harness.client.handle::<u32>(from_last.as_str()))
        .await;
    assert_eq!(output, 1 + 7 + 100 + 10_000 + 2_000_000);
    // Of a copy, too.
    let from_middle = harness.client.fork(&from_last, "middle").await.unwrap();
    let output = harness
        .output(&harness.client.handle::<u32>(from_middle.as_str()))
        .await;
    assert_eq!(output, 1 + 7 + 100 + 20_000 + 3_000_000);
    assert_eq!(ran.counts(), [1, 2, 3]);
}

#[tokio::test]
async fn a_signal_that_was_delivered_goes_along() {
    let ran = Arc::new(Ran::default());
    let mut harness = Harness::new(|worker| worker.workflow(charging(&ran))).await;
    let run = harness.start(&CHARGE, 1).await;
    harness.parked(run.id(), 1).await;
    harness.stop().await;
    harness.client.send_signal("paid:1", &7).await.unwrap();
    harness.client.cancel(run.id()).await.unwrap();

    let new = harness.client.resume(run.id()).await.unwrap();
    harness.start_worker(|worker| worker.workflow(charging(&ran)));
    let output = harness
        .output(&harness.client.handle::<u32>(new.as_str()))
        .await;
    assert_eq!(output, 1 + 7 + 100 + 10_000 + 1_000_000);
}

#[tokio::test]
async fn what_cannot_be_done_is_refused() {
    let ran = Arc::new(Ran::default());
    let harness = Harness::new(|worker| worker.workflow(charging(&ran))).await;
    let client = &harness.client;
    let run = harness.start(&CHARGE, 1).await;
    harness.parked(run.id(), 1).await;
    for made in [
        client.retry(run.id()).await,
        client.resume(run.id()).await,
        client.fork(run.id(), "first").await,
    ] {
        let error = made.expect_err("it still goes on");
        assert!(matches!(error, ClientError::NotOver { .. }), "{error}");
        assert!(error.to_string().contains("cancel it first"), "{error}");
    }
    client.send_signal("paid:1", &7).await.unwrap();
    harness.output(&run).await;
    let error = client.resume(run.id()).await.expect_err("it is completed");
    assert!(
        matches!(error, ClientError::NothingToResume { .. }),
        "{error}"
    );
    let error = client
        .fork(run.id(), "no-such")
        .await
        .expect_err("there is none");
    assert!(matches!(error, ClientError::StepNotFound { .. }), "{error}");
    let error = client.retry("no-such").await.expect_err("there is none");
    assert!(matches!(error, ClientError::RunNotFound { .. }), "{error}");
    let related = client.related_runs(run.id()).await.unwrap();
    assert!(related.made_into.is_empty() && related.made_of.is_none());
}
