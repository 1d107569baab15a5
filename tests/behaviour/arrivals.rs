//! Signals that are sent until somebody receives them, by clients and by steps.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use openworkflow::{
    Client, ClientError, ErrorKind, Interceptor, Next, Result, SendSignal, SentSignal, When,
    Worker, Workflow, WorkflowSpec, async_trait,
};
use openworkflow_tests::{Database, Gate, Log, Recorded, wait_until};
use serde_json::json;

use super::{HOUR, Harness, LEASE};

/// Waits for the signal that its input names, for an hour.
static WAIT: WorkflowSpec<String, Option<u32>> = WorkflowSpec::new("wait");
/// Sends 7 to whoever waits for the signal, sooner or later.
static TELL: WorkflowSpec<String, Vec<String>> = WorkflowSpec::new("tell");

/// Not long, since a test waits for it. Nobody receives meanwhile.
const SHORT: Duration = Duration::from_millis(120);

fn wait() -> Workflow {
    WAIT.implement(
        |wf, signal: String| async move { wf.wait_for_signal(signal).timeout(HOUR).await },
    )
}

fn tell() -> Workflow {
    TELL.implement(|wf, signal: String| async move {
        let told = wf.send_signal(signal, &7).name("tell").until_received();
        let run_ids = told.await?;
        wf.sleep("replay", "0s").await?;
        Ok(run_ids)
    })
}

/// Writes down what came of each sending.
struct Sendings(Log);

#[async_trait]
impl Interceptor for Sendings {
    async fn send_signal(
        &self,
        call: SendSignal,
        next: Next<'_, SendSignal>,
    ) -> Result<SentSignal> {
        let sent = next.run(call).await;
        self.0.add(match &sent {
            Ok(sent) => format!("received by {}", sent.run_ids.len()),
            Err(error) => error.error_type().to_owned(),
        });
        sent
    }
}

#[tokio::test]
async fn a_signal_that_is_sent_too_early_arrives_in_one_call() {
    let harness = Harness::new(|worker| worker.workflow(wait())).await;
    let (store, log) = (Recorded::new(harness.store()), Log::new());
    let hook = Sendings(log.clone());
    let client = Client::builder(store.clone()).interceptor(hook).build();
    let sending = tokio::spawn(client.send_signal("go", &42).until_received().into_future());
    store.sent(2).await;
    let run = harness.start(&WAIT, "go".to_owned()).await;
    assert_eq!(sending.await.unwrap().unwrap(), [run.id()]);
    assert_eq!(harness.output(&run).await, Some(42));
    assert_eq!(log.lines(), ["received by 1"], "one call of the hooks");
    assert_eq!(harness.signals().await.len(), 1);
}

#[tokio::test]
async fn tries_that_nobody_received_leave_the_key_unused() {
    let harness = Harness::new(|worker| worker.workflow(wait())).await;
    let store = Recorded::new(harness.store());
    let client = Client::new(store.clone());
    let send = |data: u32| {
        let request = client.send_signal("go", &data).idempotency_key("k");
        request.until_received()
    };
    let sending = tokio::spawn(send(1).into_future());
    store.sent(2).await;
    let first = harness.start(&WAIT, "go".to_owned()).await;
    assert_eq!(sending.await.unwrap().unwrap(), [first.id()]);
    assert_eq!(harness.output(&first).await, Some(1));

    let second = harness.start(&WAIT, "go".to_owned()).await;
    harness.parked(second.id(), 1).await;
    let sendings = store.sendings().len();
    assert_eq!(send(2).await.unwrap(), [first.id()], "answered as before");
    assert_eq!(store.sendings().len(), sendings + 1);
    assert_eq!(harness.signals().await.len(), 1);
}

#[tokio::test]
async fn a_signal_that_nobody_receives_in_time_is_an_error() {
    let harness = Harness::idle().await;
    let (store, log) = (Recorded::new(harness.store()), Log::new());
    let hook = Sendings(log.clone());
    let client = Client::builder(store.clone()).interceptor(hook).build();
    let request = client.send_signal("go", &42).until_received().within(SHORT);
    let error = request.await.unwrap_err();
    let message = "nobody received signal \"go\" within 120ms: no run waited for it";
    assert_eq!(error.to_string(), message);
    let ClientError::NotReceived { signal, limit } = error else {
        panic!("{error:?}");
    };
    assert_eq!((signal.as_str(), limit), ("go", SHORT));
    assert_eq!(log.lines(), ["timeout"]);
    assert!(store.sendings().len() >= 2, "at first, and at the end");
    assert!(harness.signals().await.is_empty());
    // Whatever was said first.
    let request = client.send_signal("go", &42).within(SHORT).until_received();
    assert_eq!(request.await.unwrap_err().to_string(), message);
}

#[tokio::test]
async fn a_limit_that_makes_no_sense_is_refused_by_name() {
    let senseless: [(When, &str); 3] = [
        (Duration::ZERO.into(), "it is zero; give a longer one"),
        ("soon".into(), "\"soon\" is no duration"),
        (
            SystemTime::now().into(),
            "it is an instant; give a duration",
        ),
    ];
    static W: WorkflowSpec<u32, ()> = WorkflowSpec::new("w");
    let limits = Arc::new(senseless.clone().map(|(limit, _)| limit));
    let mut harness = Harness::idle().await;
    harness.start_worker(|worker| {
        worker.workflow(W.implement(move |wf, nth: u32| {
            let limit = limits[nth as usize].clone();
            async move { wf.send_signal("go", &1).within(limit).await.map(drop) }
        }))
    });
    for (nth, (limit, problem)) in (0..).zip(senseless) {
        let expected = format!("how long signal \"go\" may take to be received: {problem}");
        let error = harness.client.send_signal("go", &1).within(limit).await;
        let Err(ClientError::Invalid(message)) = error else {
            panic!("{error:?}");
        };
        assert!(message.starts_with(&expected), "{message}");
        let run = harness.start(&W, nth).await;
        let row = harness.failure(&run).await;
        let message = row.error_message().unwrap_or_default();
        assert!(message.starts_with(&expected), "{message}");
        assert!(harness.steps(run.id()).await.is_empty());
    }
}

#[tokio::test]
async fn a_step_sends_until_somebody_receives() {
    let harness = Harness::new(|worker| worker.workflow(wait()).workflow(tell())).await;
    let sender = harness.start(&TELL, "go".to_owned()).await;
    // The row says what the run is at.
    wait_until("nobody received at first", || async {
        harness.step_summary(sender.id()).await == ["tell signal-send running"]
    })
    .await;
    let receiver = harness.start(&WAIT, "go".to_owned()).await;
    assert_eq!(harness.output(&sender).await, [receiver.id()]);
    assert_eq!(harness.output(&receiver).await, Some(7));
    let step = harness.step(sender.id(), "tell").await.remove(0);
    assert_eq!(step.summary(), "tell signal-send completed");
    assert_eq!(
        step.output,
        Some(json!({"workflowRunIds": [receiver.id()]}))
    );
    let signals = harness.signals().await;
    assert_eq!(signals.len(), 1);
    assert_eq!(
        signals[0].sender_idempotency_key,
        Some(format!("__signal:{}:tell", sender.id()))
    );
}

#[tokio::test]
async fn a_step_is_recorded_when_nobody_received_at_first() {
    static ONCE: WorkflowSpec<String, Vec<String>> = WorkflowSpec::new("once");
    let harness = Harness::new(|worker| worker.workflow(wait())).await;
    let store = Recorded::new(harness.store());
    let once = ONCE.implement(|wf, signal: String| async move {
        wf.send_signal(signal, &7).until_received().await
    });
    let worker = Worker::builder(store.clone()).workflow(once);
    let _worker = worker.build().unwrap().start();
    let receiver = harness.start(&WAIT, "go".to_owned()).await;
    harness.parked(receiver.id(), 1).await;
    let sender = harness.start(&ONCE, "go".to_owned()).await;
    assert_eq!(harness.output(&sender).await, [receiver.id()]);
    assert_eq!((store.sendings().len(), store.begun()), (1, 0));

    let sender = harness.start(&ONCE, "come".to_owned()).await;
    store.sent(4).await;
    let receiver = harness.start(&WAIT, "come".to_owned()).await;
    assert_eq!(harness.output(&sender).await, [receiver.id()]);
    assert_eq!(store.begun(), 1, "once, however often it is sent");
}

#[tokio::test]
async fn a_step_whose_worker_dies_goes_on_sending() {
    let mut harness = Harness::new(|worker| worker.workflow(tell())).await;
    let sender = harness.start(&TELL, "go".to_owned()).await;
    wait_until("nobody received at first", || async {
        !harness.steps(sender.id()).await.is_empty()
    })
    .await;
    let begun = harness.step(sender.id(), "tell").await.remove(0);
    harness.worker = None;
    harness.advance(LEASE).await;
    harness.start_worker(|worker| worker.workflow(wait()).workflow(tell()));
    let receiver = harness.start(&WAIT, "go".to_owned()).await;
    assert_eq!(harness.output(&sender).await, [receiver.id()]);
    let attempts = harness.step(sender.id(), "tell").await;
    assert_eq!(attempts.len(), 1, "the same attempt");
    assert_eq!(
        (&attempts[0].id, attempts[0].status.as_str()),
        (&begun.id, "completed")
    );
    assert_eq!(harness.signals().await.len(), 1);
}

#[tokio::test]
async fn a_step_that_nobody_hears_fails_for_good() {
    static GIVE_UP: WorkflowSpec<(), String> = WorkflowSpec::new("give-up");
    let log = Log::new();
    let lines = log.clone();
    let harness = Harness::new(|worker| {
        worker.workflow(GIVE_UP.implement(move |wf, ()| {
            let log = lines.clone();
            async move {
                let sent = wf.send_signal("go", &7).within(SHORT).until_received();
                let error = sent.await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Timeout);
                assert!(!error.is_retryable());
                log.add(error.message());
                wf.sleep("replay", "1h").await?;
                Ok(error.message().to_owned())
            }
        }))
    })
    .await;
    let run = harness.start(&GIVE_UP, ()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    let message = "nobody received signal \"go\" within 120ms: no run waited for it";
    assert_eq!(harness.output(&run).await, message);
    assert_eq!(log.lines(), [message; 2]);
    let steps = harness.step(run.id(), "go").await;
    let summaries: Vec<_> = steps.iter().map(|step| step.summary()).collect();
    assert_eq!(summaries, ["go signal-send failed"]);
    assert_eq!(
        steps[0].error.as_ref().map(|error| &error["kind"]),
        Some(&json!("timeout"))
    );
}

#[tokio::test]
async fn a_run_does_not_park_while_a_step_is_still_sending() {
    static BOTH: WorkflowSpec<String, Vec<String>> = WorkflowSpec::new("both");
    let both = BOTH.implement(|wf, signal: String| async move {
        let told = wf.send_signal(signal, &7).until_received();
        let nap = wf.sleep("nap", HOUR);
        let (told, nap) = tokio::join!(told, nap);
        nap?;
        told
    });
    let harness = Harness::new(|worker| worker.workflow(wait()).workflow(both)).await;
    let sender = harness.start(&BOTH, "go".to_owned()).await;
    wait_until("it sleeps, and nobody received at first", || async {
        harness.step_summary(sender.id()).await.len() == 2
    })
    .await;
    let receiver = harness.start(&WAIT, "go".to_owned()).await;
    assert_eq!(harness.output(&receiver).await, Some(7));
    harness.parked(sender.id(), 1).await;
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&sender).await, [receiver.id()]);
}

/// Says when the workflow's code is dropped.
struct OnDrop(Log);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.add("dropped");
    }
}

#[tokio::test]
async fn what_a_canceled_run_would_still_send_reaches_nobody() {
    static LATE: WorkflowSpec<String, Vec<String>> = WorkflowSpec::new("late");
    let (gate, log) = (Gate::closed(), Log::new());
    let (held, dropped) = (gate.clone(), log.clone());
    let late = LATE.implement(move |wf, signal: String| {
        let (gate, log) = (held.clone(), dropped.clone());
        async move {
            let _dropped = OnDrop(log);
            // No step: nothing tells the execution meanwhile that its run is over.
            gate.pass().await;
            wf.send_signal(signal, &7).await
        }
    });
    let harness = Harness::new(|worker| worker.workflow(wait()).workflow(late)).await;
    let receiver = harness.start(&WAIT, "go".to_owned()).await;
    harness.parked(receiver.id(), 1).await;
    let sender = harness.start(&LATE, "go".to_owned()).await;
    gate.reached_by(1).await;
    sender.cancel().await.unwrap();
    assert_eq!(log.lines(), [""; 0], "it does not know yet");
    gate.open();
    log.reached("dropped", 1).await;
    assert_eq!(harness.signals().await.len(), 0);
    // It still waits.
    let received = harness.client.send_signal("go", &8).await.unwrap();
    assert_eq!(received, [receiver.id()]);
    assert_eq!(harness.output(&receiver).await, Some(8));
}
