//! tower layers around steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use openworkflow::{
    Error, ErrorKind, Interceptor, Next, Result, RetryPolicy, StepCall, StepOutcome, StepRequest,
    WorkflowSpec,
};
use openworkflow_tests::{Database, Gate, Log};
use serde_json::json;
use tower::limit::{ConcurrencyLimitLayer, RateLimitLayer};
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt as _};

use super::{HOUR, Harness};

static W: WorkflowSpec<u32, u32> = WorkflowSpec::new("w");

/// Writes down when it is entered and left. A layer of one's own, neither `Clone` nor `Sync`.
struct Trace(&'static str, Log);

struct Tracing<S> {
    inner: S,
    name: &'static str,
    log: Log,
    // Counts without synchronization: calls come one after the other.
    calls: std::cell::Cell<u32>,
}

impl<S> Layer<S> for Trace {
    type Service = Tracing<S>;

    fn layer(&self, inner: S) -> Tracing<S> {
        Tracing {
            inner,
            name: self.0,
            log: self.1.clone(),
            calls: std::cell::Cell::new(0),
        }
    }
}

impl<R, S> Service<R> for Tracing<S>
where
    S: Service<R, Future: Send>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = futures::future::Inspect<S::Future, Leave<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        use futures::FutureExt as _;
        self.calls.set(self.calls.get() + 1);
        let (name, log) = (self.name, self.log.clone());
        log.add(format!("{name}> {}", self.calls.get()));
        self.inner
            .call(request)
            .inspect(Box::new(move |_| log.add(format!("<{name}"))))
    }
}

type Leave<T, E> = Box<dyn FnOnce(&std::result::Result<T, E>) + Send>;

struct TraceInterceptor(&'static str, Log);

#[async_trait]
impl Interceptor for TraceInterceptor {
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        self.1.add(format!("{}>", self.0));
        let outcome = next.run(call).await;
        self.1.add(format!("<{}", self.0));
        outcome
    }
}

#[tokio::test]
async fn layers_and_interceptors_nest_in_order_as_in_tower() {
    let log = Log::new();
    let harness = Harness::new(|worker| {
        worker
            .workflow(
                W.implement(|wf, n: u32| async move { wf.run("step", || async { Ok(n) }).await }),
            )
            .layer(Trace("a", log.clone()))
            .interceptor(TraceInterceptor("b", log.clone()))
            .layer(Trace("c", log.clone()))
    })
    .await;
    harness.complete(&W, 1).await;
    assert_eq!(log.lines(), ["a> 1", "b>", "c> 1", "<c", "<b", "<a"]);

    // The same order of the same layers in tower itself.
    log.clear();
    let service = ServiceBuilder::new()
        .layer(Trace("a", log.clone()))
        .layer(Trace("b", log.clone()))
        .layer(Trace("c", log.clone()))
        .service_fn(
            |n: u32| async move { std::result::Result::<_, std::convert::Infallible>::Ok(n) },
        );
    service.oneshot(1).await.unwrap();
    assert_eq!(log.lines(), ["a> 1", "b> 1", "c> 1", "<c", "<b", "<a"]);
}

#[tokio::test]
async fn a_layer_is_built_once_for_all_steps_of_a_worker() {
    let log = Log::new();
    let harness = Harness::new(|worker| {
        worker
            .workflow(
                W.implement(|wf, n: u32| async move { wf.run("step", || async { Ok(n) }).await }),
            )
            .layer(Trace("a", log.clone()))
    })
    .await;
    for n in 0..3 {
        harness.complete(&W, n).await;
    }
    let entered: Vec<_> = log
        .lines()
        .into_iter()
        .filter(|line| line.starts_with('a'))
        .collect();
    assert_eq!(entered, ["a> 1", "a> 2", "a> 3"]);
}

#[tokio::test]
async fn a_timeout_fails_the_attempt_and_the_policy_decides() {
    let log = Log::new();
    let lines = log.clone();
    let harness = Harness::new(|worker| {
        worker
            .workflow(W.implement(move |wf, n: u32| {
                let log = lines.clone();
                async move {
                    let step = wf.run("step", || async {
                        log.add("body");
                        if log.count("body") == 1 || n == 0 {
                            std::future::pending::<()>().await;
                        }
                        Ok(n)
                    });
                    let retry = RetryPolicy::attempts(2).initial_interval(Duration::ZERO);
                    let result = step.retry(retry).await;
                    if let Err(error) = &result {
                        assert_eq!(error.kind(), ErrorKind::Timeout);
                        assert_eq!(error.step_name(), Some("step"));
                        log.add("told");
                        wf.sleep("replay", "0s").await?;
                    }
                    result
                }
            }))
            .layer(TimeoutLayer::new(Duration::from_millis(100)))
    })
    .await;
    let run = harness.start(&W, 7).await;
    assert_eq!(harness.output(&run).await, 7);
    assert_eq!(log.lines(), ["body", "body"]);
    let steps = harness.steps(run.id()).await;
    let failed = steps.iter().find(|step| step.status == "failed").unwrap();
    assert_eq!(failed.error.as_ref().unwrap()["name"], "TimeoutError");
    assert_eq!(failed.error_message(), Some("the step timed out"));

    log.clear();
    let run = harness.start(&W, 0).await;
    let row = harness.failure(&run).await;
    assert_eq!(
        row.error,
        Some(json!({"name": "TimeoutError", "message": "the step timed out", "step": "step"}))
    );
    assert_eq!(log.lines(), ["body", "body", "told", "told"]);
}

#[tokio::test]
async fn a_concurrency_limit_counts_across_runs() {
    let gate = Gate::closed();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (held, at_work, peak) = (gate.clone(), Arc::clone(&now), Arc::clone(&most));
    let harness = Harness::new(|worker| {
        worker
            .concurrency(20)
            .workflow(W.implement(move |wf, n: u32| {
                let (gate, now, most) = (held.clone(), Arc::clone(&at_work), Arc::clone(&peak));
                async move {
                    let steps = (0..3).map(|s| {
                        let (gate, now, most) = (&gate, &now, &most);
                        wf.run(format!("s{s}"), move || async move {
                            let others = now.fetch_add(1, Ordering::SeqCst);
                            most.fetch_max(others + 1, Ordering::SeqCst);
                            gate.pass().await;
                            now.fetch_sub(1, Ordering::SeqCst);
                            Ok(())
                        })
                    });
                    join_all(steps).await.into_iter().collect::<Result<()>>()?;
                    Ok(n)
                }
            }))
            .layer(ConcurrencyLimitLayer::new(2))
    })
    .await;
    let mut runs = Vec::new();
    for n in 0..5 {
        runs.push(harness.start(&W, n).await);
    }
    gate.reached_by(2).await;
    for arrived in 3..=15 {
        gate.let_one_through();
        gate.reached_by(arrived).await;
    }
    gate.open();
    for run in &runs {
        harness.output(run).await;
    }
    assert_eq!((most.load(Ordering::SeqCst), gate.arrived()), (2, 15));
}

#[tokio::test]
async fn a_rate_limit_needs_no_clone() {
    let log = Log::new();
    let lines = log.clone();
    let harness = Harness::new(|worker| {
        worker
            .workflow(W.implement(move |wf, n: u32| {
                let log = lines.clone();
                async move {
                    for step in 0..n {
                        wf.run(format!("s{step}"), || async {
                            log.add("step");
                            Ok(())
                        })
                        .await?;
                    }
                    Ok(n)
                }
            }))
            // Two steps, and then none for as long as this test takes.
            .layer(RateLimitLayer::new(2, HOUR))
    })
    .await;
    let first = harness.start(&W, 1).await;
    let second = harness.start(&W, 1).await;
    harness.output(&first).await;
    harness.output(&second).await;
    let third = harness.start(&W, 1).await;
    harness
        .run_where("is under way", third.id(), |row| row.attempts == 1)
        .await;
    let waited = third.result_within(Duration::from_millis(100)).await;
    assert!(waited.is_err());
    assert_eq!(log.count("step"), 2);
}

#[tokio::test]
async fn load_is_shed_with_an_error_that_is_retried() {
    let gate = Gate::closed();
    let held = gate.clone();
    let harness = Harness::new(|worker| {
        worker
            .workflow(W.implement(move |wf, n: u32| {
                let gate = held.clone();
                async move {
                    wf.run("step", || async {
                        gate.pass().await;
                        Ok(n)
                    })
                    .await
                }
            }))
            .layer(
                ServiceBuilder::new()
                    .layer(LoadShedLayer::new())
                    .layer(ConcurrencyLimitLayer::new(1)),
            )
    })
    .await;
    let first = harness.start(&W, 1).await;
    gate.reached_by(1).await;
    let second = harness.start(&W, 2).await;
    let row = harness.retrying(second.id(), 1).await;
    let error = json!({
        "name": "RejectedError",
        "message": "the step was shed: too many are at work",
        "step": "step",
    });
    assert_eq!(row.error, Some(error));
    gate.open();
    assert_eq!(harness.output(&first).await, 1);
    harness.advance(super::SECOND).await;
    assert_eq!(harness.output(&second).await, 2);
    assert_eq!(gate.arrived(), 2);
}

/// Refuses steps by name, with an error type of its own.
#[derive(Clone)]
struct RefuseLayer;

#[derive(Clone)]
struct Refuse<S>(S);

#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is refused", self.0)
    }
}

impl std::error::Error for Refused {}

impl<S> Layer<S> for RefuseLayer {
    type Service = Refuse<S>;

    fn layer(&self, inner: S) -> Refuse<S> {
        Refuse(inner)
    }
}

impl<'a, S> Service<StepRequest<'a>> for Refuse<S>
where
    S: Service<StepRequest<'a>, Error = openworkflow::BoxError, Future: Send + 'a>,
    S::Response: Send + 'a,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = openworkflow::BoxFuture<'a, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: StepRequest<'a>) -> Self::Future {
        if &*request.call.name == "refused" {
            let error = Refused(request.call.name.to_string());
            return Box::pin(async { Err(error.into()) });
        }
        Box::pin(self.0.call(request))
    }
}

#[tokio::test]
async fn errors_come_through_layers_as_they_were() {
    static KINDS: WorkflowSpec<(), Vec<String>> = WorkflowSpec::new("kinds");
    let harness = Harness::new(|worker| {
        worker
            .workflow(KINDS.implement(|wf, ()| async move {
                let once = RetryPolicy::none();
                let own = wf
                    .run("own", || async {
                        Err::<(), _>(Error::new("Own", "my own").non_retryable())
                    })
                    .await
                    .unwrap_err();
                let panic = wf.run("panic", || async { panic!("oh no") }).retry(once);
                let panic: Result<()> = panic.await;
                let refused = wf.run("refused", || async { Ok(()) }).retry(once).await;
                let refused = refused.unwrap_err();
                if !wf.is_replay() {
                    assert!(refused.downcast_ref::<Refused>().is_some());
                }
                wf.sleep("replay", "0s").await?;
                Ok([own, panic.unwrap_err(), refused]
                    .iter()
                    .map(|e| {
                        format!(
                            "{:?} {} {} {}",
                            e.kind(),
                            e.name(),
                            e.message(),
                            e.is_retryable()
                        )
                    })
                    .collect())
            }))
            .layer(RefuseLayer)
            .layer(TimeoutLayer::new(HOUR))
    })
    .await;
    assert_eq!(
        harness.complete(&KINDS, ()).await,
        [
            "Application Own my own false",
            "Panic Panic oh no true",
            "Application Error refused is refused true",
        ]
    );
}

#[tokio::test]
async fn bodies_borrow_through_layers() {
    static TEXTS: WorkflowSpec<Vec<String>, String> = WorkflowSpec::new("texts");
    let harness = Harness::new(|worker| {
        worker
            .workflow(TEXTS.implement(|wf, texts: Vec<String>| async move {
                let mut longest = String::new();
                let first = texts.first().map(String::as_str).unwrap_or_default();
                wf.run("look", || async {
                    longest = texts
                        .iter()
                        .max_by_key(|text| text.len())
                        .cloned()
                        .unwrap_or_default();
                    Ok(())
                })
                .await?;
                wf.run("join", || async { Ok(format!("{first}+{longest}")) })
                    .await
            }))
            .layer(TimeoutLayer::new(HOUR))
            .layer(ConcurrencyLimitLayer::new(1))
    })
    .await;
    let texts = vec!["a".to_owned(), "long".to_owned()];
    assert_eq!(harness.complete(&TEXTS, texts).await, "a+long");
}

#[tokio::test]
async fn layers_see_waits_too_and_let_them_park() {
    static ALL: WorkflowSpec<(), ()> = WorkflowSpec::new("all");
    let log = Log::new();
    let harness = Harness::new(|worker| {
        worker
            .workflow(ALL.implement(|wf, ()| async move {
                wf.sleep("nap", HOUR).await?;
                let _: Option<u32> = wf.wait_for_signal("go").timeout(HOUR).await?;
                Ok(())
            }))
            .layer(ConcurrencyLimitLayer::new(1))
            .layer(TimeoutLayer::new(HOUR))
            .layer(Trace("a", log.clone()))
    })
    .await;
    let run = harness.start(&ALL, ()).await;
    for attempt in 1..=2 {
        harness.parked(run.id(), attempt).await;
        harness.advance(HOUR).await;
    }
    harness.output(&run).await;
    assert_eq!(log.count("<a"), 3, "sleep, and both ends of the wait");
}
