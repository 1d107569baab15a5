//! A signal whose sender dies between the delivery and whatever it was to do next.

use openworkflow::{Workflow, WorkflowSpec};
use openworkflow_tests::{Database, Gate};
use serde_json::json;

use super::{HOUR, Harness, LEASE};

static SENDER: WorkflowSpec<(), Vec<String>> = WorkflowSpec::new("sender");
static RECEIVER: WorkflowSpec<(), u32> = WorkflowSpec::new("receiver");

/// Sends, and then does something that takes until the gate opens.
fn sender(gate: &Gate) -> Workflow {
    let gate = gate.clone();
    SENDER.implement(move |wf, ()| {
        let gate = gate.clone();
        async move {
            let told = wf.send_signal("go", &7).await?;
            wf.run("afterwards", || async {
                gate.pass().await;
                Ok(())
            })
            .await?;
            Ok(told)
        }
    })
}

/// Waits for the signal again and again, and would count each delivery.
fn receiver() -> Workflow {
    RECEIVER.implement(|wf, ()| async move {
        let mut heard = 0;
        while wf
            .wait_for_signal::<u32>("go")
            .timeout(HOUR)
            .await?
            .is_some()
        {
            heard += 1;
        }
        Ok(heard)
    })
}

/// Plays it with what `what_is_left` makes of the row of the sending, given the run's id.
async fn delivered_once(what_is_left: impl Fn(&str) -> String) {
    let gate = Gate::closed();
    let mut harness = Harness::new(|worker| worker.workflow(receiver())).await;
    let receiving = harness.start(&RECEIVER, ()).await;
    harness.parked(receiving.id(), 1).await;
    let mut sending =
        harness.another_worker(|worker| worker.workflow(sender(&gate)).concurrency(1));
    let run = harness.start(&SENDER, ()).await;
    gate.reached_by(1).await;
    // The receiver has it, and waits for the next.
    harness.parked(receiving.id(), 2).await;
    sending.abort().await;
    harness.execute(&what_is_left(run.id())).await;
    gate.open();
    harness.advance(LEASE).await;
    let _again = harness.another_worker(|worker| worker.workflow(sender(&gate)));
    assert_eq!(
        harness.output(&run).await,
        [receiving.id()],
        "as the first time"
    );
    assert_eq!(harness.run(run.id()).await.attempts, 2);
    let sent = harness.step(run.id(), "go").await;
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].summary(), "go signal-send completed");
    assert_eq!(
        sent[0].output,
        Some(json!({"workflowRunIds": [receiving.id()]}))
    );
    assert_eq!(harness.signals().await.len(), 1, "it is delivered once");
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&receiving).await, 1);
    harness.stop().await;
}

#[tokio::test]
async fn one_that_was_recorded_is_not_sent_again() {
    delivered_once(|_| "SELECT 1".to_owned()).await;
}

#[tokio::test]
async fn one_whose_sending_was_not_recorded_is_sent_under_the_same_key() {
    delivered_once(|run_id| {
        format!("DELETE FROM step_attempts WHERE workflow_run_id = '{run_id}'")
    })
    .await;
}

#[tokio::test]
async fn one_whose_sending_was_begun_is_sent_under_the_same_key() {
    // As OpenWorkflow for TypeScript records it before it sends.
    delivered_once(|run_id| {
        format!(
            "UPDATE step_attempts SET status = 'running', output = NULL, config = '{{}}',
                 finished_at = NULL WHERE workflow_run_id = '{run_id}' AND kind = 'signal-send'"
        )
    })
    .await;
}
