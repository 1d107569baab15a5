//! Clients of a server that is restarted: what can be repeated rides through. Clients whose clocks are off:
//! they say so.

use std::sync::Arc;
use std::time::Duration;

use openworkflow::backend::{Backend as _, BackendError, Claim, RunStatus};
use openworkflow::{
    Client, ClientError, ClientResult, Clock, ClockOffset, Postgres, Worker, WorkerHandle,
    WorkflowSpec,
};
use openworkflow_tests::faults::{Ground as _, PostgresGround};
use openworkflow_tests::logged;
use openworkflow_tests::postgres_server::{self, Server};
use tokio::task::JoinHandle;

static ECHO: WorkflowSpec<u64, u64> = WorkflowSpec::new("echo");
static WAITS: WorkflowSpec<String, Option<u64>> = WorkflowSpec::new("waits");

/// Longer than any restart here.
const PATIENCE: Duration = Duration::from_secs(40);

struct Restarted {
    server: Arc<Server>,
    store: Postgres,
    _worker: WorkerHandle,
}

impl Restarted {
    async fn new() -> Self {
        let server = tokio::task::spawn_blocking(|| Server::start(&[])).await;
        let server = Arc::new(server.unwrap());
        let options = Postgres::options()
            .url(server.url())
            .schema(postgres_server::schema())
            .pool_size(8);
        let store = options.connect().await.unwrap();
        let worker = Worker::builder(store.clone())
            .workflow(
                ECHO.implement(|wf, n| async move { wf.run("echo", || async { Ok(n) }).await }),
            )
            .workflow(WAITS.implement(|wf, signal: String| async move {
                wf.wait_for_signal::<u64>(signal).await
            }));
        let worker = worker.build().unwrap().start();
        Self {
            server,
            store,
            _worker: worker,
        }
    }

    async fn command(&self, command: &'static str) {
        let server = Arc::clone(&self.server);
        let done = tokio::task::spawn_blocking(move || server.command(command));
        done.await.unwrap();
    }

    fn client(&self) -> Client {
        Client::new(self.store.clone())
    }

    /// A run that waits for its signal.
    async fn waiting(&self, signal: &str) -> String {
        let client = self.client();
        let run = client.start(&WAITS, &signal.to_owned()).await.unwrap();
        openworkflow_tests::wait_until("the run waits", || async {
            let steps = client.list_steps(run.id()).await.unwrap();
            !steps.items.is_empty()
        })
        .await;
        run.id().to_owned()
    }
}

/// An operation under way, as text, since each has another result.
fn begin<T: std::fmt::Debug + Send>(
    operation: impl Future<Output = ClientResult<T>> + Send + 'static,
) -> JoinHandle<Result<String, ClientError>> {
    tokio::spawn(async move { operation.await.map(|done| format!("{done:?}")) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_can_be_repeated_rides_through_a_restart() {
    let site = Restarted::new().await;
    let client = site.client();
    let before = client.start(&ECHO, &1).await.unwrap();
    before.result_within(PATIENCE).await.unwrap();
    let [keyed, unkeyed, canceled] = ["keyed", "unkeyed", "canceled"];
    let keyed = (site.waiting(keyed).await, keyed);
    let unkeyed = (site.waiting(unkeyed).await, unkeyed);
    let canceled = site.waiting(canceled).await;
    let awaited = client.handle::<Option<u64>>(keyed.0.as_str());

    site.command("stop").await;
    let c = || client.clone();
    let (started, with_key) = (c(), c());
    let (signals, signals_too, cancels) = (c(), c(), c());
    let (runs, steps, counts, describes) = (c(), c(), c(), c());
    let (id, to_cancel) = (before.id().to_owned(), canceled.clone());
    let of_steps = id.clone();
    let (result, limited) = (awaited.clone(), awaited.clone());
    let under_way = [
        begin(async move { started.start(&ECHO, &2).await?.result().await }),
        begin(async move {
            let request = with_key.start(&ECHO, &3).idempotency_key("three");
            request.await?.result_within(PATIENCE).await
        }),
        begin(async move {
            signals
                .send_signal("keyed", &7_u64)
                .idempotency_key("k")
                .await
        }),
        begin(async move { signals_too.send_signal("unkeyed", &8_u64).await }),
        begin(async move { cancels.cancel(&to_cancel).await }),
        begin(async move { runs.list_runs().await.map(|page| page.items.len() > 3) }),
        begin(async move {
            steps
                .list_steps(of_steps)
                .await
                .map(|page| page.items.len())
        }),
        begin(async move { counts.count_runs().await.map(|counts| counts.completed > 0) }),
        begin(async move { describes.describe(&id).await.map(|run| run.status) }),
        begin(async move { result.result().await }),
        begin(async move { limited.result_within(PATIENCE).await }),
    ];
    // The outage takes a while for everybody.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(under_way.iter().all(|operation| !operation.is_finished()));
    site.command("start").await;

    let mut done = Vec::new();
    for operation in under_way {
        done.push(operation.await.unwrap().unwrap());
    }
    assert_eq!(done[..2], ["2", "3"]);
    assert_eq!(
        done[2..4],
        [format!("[{:?}]", keyed.0), format!("[{:?}]", unkeyed.0)]
    );
    let rest = ["()", "true", "1", "true", "Completed", "Some(7)", "Some(7)"];
    assert_eq!(done[4..], rest);
    let status = client.describe(&canceled).await.unwrap().status;
    assert_eq!(status, RunStatus::Canceled);
    // One run for each start, however often it was tried.
    let echoes = client.list_runs().workflow("echo").await.unwrap().items;
    assert_eq!(echoes.len(), 3);
}

#[tokio::test]
async fn an_outage_that_lasts_is_reported_and_logged_once() {
    let site = Restarted::new().await;
    let waiting = site.waiting("never").await;
    site.command("stop").await;
    let (log, _collecting) = logged::collect();

    let impatient = Client::builder(site.store.clone()).retry_for(Duration::ZERO);
    let error = impatient.build().start(&ECHO, &1).await.unwrap_err();
    let ClientError::Backend(error @ BackendError::Unreachable { .. }) = error else {
        panic!("{error:?}");
    };
    assert!(error.is_transient() && error.is_unsent(), "{error:?}");
    let of_clients = |log: &openworkflow_tests::Log| {
        let lines = log.lines().into_iter();
        lines
            .filter(|line| line.contains("what a client asks"))
            .count()
    };
    assert_eq!(of_clients(&log), 0, "it did not try again");

    let patient = Client::builder(site.store.clone()).retry_for(Duration::from_millis(400));
    let patient = patient.build();
    let error = patient.count_runs().await.unwrap_err();
    assert!(matches!(
        error,
        ClientError::Backend(BackendError::Unreachable { .. })
    ));
    assert_eq!(of_clients(&log), 1, "{log:?}");

    // The limit of the wait is what counts, and what is known at its end is told.
    let run = patient.handle::<Option<u64>>(waiting);
    let error = run.result_within(Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(
        error,
        ClientError::Backend(BackendError::Unreachable { .. })
    ));
    assert_eq!(of_clients(&log), 2, "{log:?}");
    site.command("start").await;
    let error = run
        .result_within(Duration::from_millis(300))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_of_once_with_the_side_and_the_remedy() {
    const SECOND: Duration = Duration::from_secs(1);
    let (log, _collecting) = logged::collect();
    let ground = PostgresGround::make().await;
    for (offset, side) in [
        (ClockOffset::Behind(SECOND / 2), None),
        (ClockOffset::Ahead(SECOND / 2), None),
        (ClockOffset::Behind(3600 * SECOND), Some("behind")),
        (ClockOffset::Ahead(3600 * SECOND), Some("ahead")),
    ] {
        let before = log.lines().len();
        let store = ground.open_with(Clock::off_by(offset)).await;
        for _ in 0..3 {
            // It brings the time along.
            let claim = Claim::new("x".into(), vec!["y".into()], None, SECOND);
            store.claim_runs(claim).await.unwrap();
        }
        let lines = log.lines().into_iter().skip(before);
        let told: Vec<_> = lines
            .filter(|line| line.contains("machine's clock"))
            .collect();
        let Some(side) = side else {
            assert!(told.is_empty(), "{offset}: {told:?}");
            continue;
        };
        assert_eq!(told.len(), 1, "{offset}: {told:?}");
        for part in ["WARN", side, "NTP"] {
            assert!(told[0].contains(part), "{part}: {told:?}");
        }
        // The answer may have taken a while.
        let by = ["3600.0s", "359"];
        assert!(by.iter().any(|by| told[0].contains(by)), "{told:?}");
    }
}
