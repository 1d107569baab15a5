//! Signals: received, missed, refused, sent.

use openworkflow::backend::Backend;
use openworkflow::{Client, Worker, Workflow, WorkflowSpec};

use super::{Traced, idle, over, parked, tree, until};

static RECEIVER: WorkflowSpec<(), Option<u32>> = WorkflowSpec::new("receiver");
static SENDER: WorkflowSpec<(), usize> = WorkflowSpec::new("sender");

fn receiver(timeout: &'static str) -> Workflow {
    RECEIVER.implement(move |wf, ()| async move { wf.wait_for_signal("go").timeout(timeout).await })
}

pub(crate) async fn signal_delivered<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker.workflow(RECEIVER.implement(|wf, ()| async move {
            // Named by the workflow, so the spans show the name.
            wf.wait_for_signal("go")
                .name("starting-gun")
                .timeout("1h")
                .await
        }))
    });
    let run = traced.start(traced.client.start(&RECEIVER, &())).await;
    parked(&run).await;
    assert_eq!(
        traced.stranger.send_signal("go", &7).await.unwrap(),
        [run.id()]
    );
    assert_eq!(over(&run).await.output.expose(), "7");
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        "
        caller [internal] unset
        └── workflow.start receiver [producer] ok
            ├── workflow.execute receiver [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
            │   └── step.wait_for_signal starting-gun [internal] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
            └── workflow.execute receiver [consumer] ok {workflow.outcome=completed, workflow_run.attempt=2}
                └── step.wait_for_signal starting-gun [internal] ok {step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=2}
        ",
    );
}

pub(crate) async fn signal_timed_out<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| worker.workflow(receiver("50ms")));
    traced.run(traced.client.start(&RECEIVER, &())).await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        "
        caller [internal] unset
        └── workflow.start receiver [producer] ok
            ├── workflow.execute receiver [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
            │   └── step.wait_for_signal [internal] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
            └── workflow.execute receiver [consumer] ok {workflow.outcome=completed, workflow_run.attempt=2}
                └── step.wait_for_signal [internal] ok {step.outcome=timed_out, step_attempt.prior_failures=0, workflow_run.attempt=2}
        ",
    );
}

pub(crate) async fn signal_refused<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| worker.workflow(receiver("1h")));
    let run = traced.start(traced.client.start(&RECEIVER, &())).await;
    parked(&run).await;
    traced
        .stranger
        .send_signal("go", "a marker that is no number")
        .await
        .unwrap();
    over(&run).await;
    let spans = traced.spans().await;
    assert_eq!(spans.mentions("marker"), Vec::<String>::new());
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start receiver [producer] ok
            ├── workflow.execute receiver [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
            │   └── step.wait_for_signal [internal] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
            └── workflow.execute receiver [consumer] error("Signal schema validation failed: the data of signal \"go\" does not fit the type u32: expected u32 at line 1 column 28; mend the type or who wrote the value") {error.type=invalid_payload, workflow.outcome=failed, workflow_run.attempt=2}
                └── step.wait_for_signal [internal] error("Signal schema validation failed: the data of signal \"go\" does not fit the type u32: expected u32 at line 1 column 28; mend the type or who wrote the value") {error.type=invalid_payload, step.outcome=failed, step_attempt.prior_failures=0, workflow_run.attempt=2}
                      * exception {exception.message="Signal schema validation failed: the data of signal \"go\" does not fit the type u32: expected u32 at line 1 column 28; mend the type or who wrote the value", exception.type=InvalidPayloadError}
        "#,
    );
}

pub(crate) async fn signal_before_parking<S: Backend + Clone>(store: S) {
    let stranger = Client::new(store.clone());
    let traced = Traced::new(&store, |worker| {
        worker.workflow(RECEIVER.implement(move |wf, ()| {
            let stranger = stranger.clone();
            async move {
                let wait = wf.wait_for_signal("go").timeout("1h");
                // Keeps the execution busy until the signal is there.
                let work = wf.run("work", || async {
                    until("somebody receives", || async {
                        let received = stranger.send_signal("go", &1).await.ok()?;
                        (!received.is_empty()).then_some(())
                    })
                    .await;
                    Ok(())
                });
                let (received, worked) = tokio::join!(wait, work);
                worked.and(received)
            }
        }))
    });
    traced.run(traced.client.start(&RECEIVER, &())).await;
    let spans = traced.spans().await;
    spans
        .tree()
        .attributes(["step.outcome", "workflow.outcome"])
        .assert_eq(
            "
        caller
        └── workflow.start receiver
            ├── workflow.execute receiver {workflow.outcome=parked}
            │   ├── step.wait_for_signal {step.outcome=parked}
            │   └── step.run work {step.outcome=completed}
            └── workflow.execute receiver {workflow.outcome=completed}
                └── step.wait_for_signal {step.outcome=completed}
        ",
        );
}

pub(crate) async fn signal_sent_by_a_step<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker
            .workflow(receiver("1h"))
            .workflow(SENDER.implement(|wf, ()| async move {
                let received = wf.send_signal("go", &1).name("fire").await?.len();
                // Under the signal's name, which is in no span's.
                wf.send_signal("go:again", &2).await?;
                Ok(received)
            }))
    });
    let receiver = traced.stranger.start(&RECEIVER, &()).await.unwrap();
    parked(&receiver).await;
    traced.run(traced.client.start(&SENDER, &())).await;
    over(&receiver).await;
    let spans = traced.spans().await;
    // The receiver was created without an interceptor: each execution begins a trace of its own.
    tree(&spans).assert_eq(
        "
        workflow.execute receiver [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
        └── step.wait_for_signal [internal] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
        caller [internal] unset
        └── workflow.start sender [producer] ok
            └── workflow.execute sender [consumer] ok {workflow.outcome=completed, workflow_run.attempt=1}
                ├── step.send_signal fire [producer] ok {signal.recipient_count=1, step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=1}
                └── step.send_signal [producer] ok {signal.recipient_count=0, step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=1}
        workflow.execute receiver [consumer] ok {workflow.outcome=completed, workflow_run.attempt=2}
        └── step.wait_for_signal [internal] ok {step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=2}
        ",
    );
}

pub(crate) async fn signal_sent_by_a_client<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, idle);
    assert!(
        traced
            .client
            .send_signal("go", &1)
            .await
            .unwrap()
            .is_empty()
    );
    let spans = traced.spans().await;
    tree(&spans).assert_eq("signal.send [producer] ok {signal.recipient_count=0}");
}

pub(crate) async fn signal_sent_until_received<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker.workflow(SENDER.implement(|wf, ()| async move {
            let sent = wf.send_signal("from-a-step", &1).within("120ms").await;
            Ok(sent.map_or(0, |run_ids| run_ids.len()))
        }))
    });
    let sent = traced.client.send_signal("from-a-client", &1);
    sent.within("120ms").await.unwrap_err();
    traced.run(traced.client.start(&SENDER, &())).await;
    let receiver = Worker::builder(store).workflow(receiver("1h")).build();
    let _receiver = receiver.unwrap().start();
    let sending = traced.client.send_signal("go", &1).until_received();
    let (sent, run) = tokio::join!(sending, traced.stranger.start(&RECEIVER, &()));
    assert_eq!(sent.unwrap(), [run.unwrap().id()]);
    // However often it was sent.
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        signal.send [producer] error("nobody received signal \"from-a-client\" within 120ms: no run waited for it") {error.type=timeout}
          * exception {exception.message="nobody received signal \"from-a-client\" within 120ms: no run waited for it", exception.type=TimeoutError}
        caller [internal] unset
        └── workflow.start sender [producer] ok
            └── workflow.execute sender [consumer] ok {workflow.outcome=completed, workflow_run.attempt=1}
                └── step.send_signal [producer] error("nobody received signal \"from-a-step\" within 120ms: no run waited for it") {error.type=timeout, step.outcome=failed, step_attempt.prior_failures=0, workflow_run.attempt=1}
                      * exception {exception.message="nobody received signal \"from-a-step\" within 120ms: no run waited for it", exception.type=TimeoutError}
        signal.send [producer] ok {signal.recipient_count=1}
        "#,
    );
}
