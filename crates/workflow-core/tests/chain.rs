//! The way of a call through a chain: order, change, refusal, panics, dropping.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use futures::executor::block_on;
use workflow_core::{
    BoxFuture, CancelRun, Chain, CreateRun, CreatedRun, Error, ErrorKind, Event, Execution,
    Interceptor, Interruption, Next, Payload, Result, RunInfo, SendSignal, SentSignal, StepCall,
    StepKind, StepOutcome, from_fn, from_fn_with_state,
};

type Log = Arc<Mutex<Vec<String>>>;

fn log(log: &Log, line: impl Into<String>) {
    log.lock().unwrap().push(line.into());
}

fn lines(log: &Log) -> Vec<String> {
    log.lock().unwrap().clone()
}

fn chain<const N: usize>(interceptors: [Arc<dyn Interceptor>; N]) -> Chain {
    Chain::new(interceptors)
}

fn cancel() -> CancelRun {
    CancelRun::new(RunInfo::new("default", "run-1", "w"))
}

fn execution() -> Arc<Execution> {
    let run = RunInfo::new("default", "run-1", "w");
    let now = std::time::SystemTime::UNIX_EPOCH;
    Arc::new(Execution::new(run, 1, false, "worker-1", now))
}

fn step() -> StepCall {
    StepCall::new(execution(), "s".into(), StepKind::Run, "attempt-1".into())
}

/// Notes when it is entered and left.
struct Noting(&'static str, Log);

#[async_trait]
impl Interceptor for Noting {
    async fn cancel_run(&self, call: CancelRun, next: Next<'_, CancelRun>) -> Result<()> {
        log(&self.1, format!("{} in", self.0));
        let result = next.run(call).await;
        log(&self.1, format!("{} out {}", self.0, result.is_ok()));
        result
    }

    fn event(&self, _: &Event<'_>) {
        log(&self.1, format!("{} told", self.0));
    }
}

/// Passes everything on by default.
struct Transparent;
impl Interceptor for Transparent {}

#[test]
fn the_first_registered_is_the_outermost() {
    let seen = Log::default();
    let chain = chain([
        Arc::new(Noting("outer", seen.clone())),
        Arc::new(Transparent),
        Arc::new(Noting("inner", seen.clone())),
    ]);
    let operation = |_| {
        log(&seen, "operation");
        async { Ok(()) }
    };
    block_on(chain.call(cancel(), operation)).unwrap();
    let expected = [
        "outer in",
        "inner in",
        "operation",
        "inner out true",
        "outer out true",
    ];
    assert_eq!(lines(&seen), expected);
}

#[test]
fn an_error_passes_through_every_layer_unchanged() {
    let seen = Log::default();
    let chain = chain([
        Arc::new(Noting("outer", seen.clone())),
        Arc::new(Transparent),
    ]);
    let refused = |_| async { Err(Error::rejected("no").non_retryable()) };
    let error = block_on(chain.call(cancel(), refused)).unwrap_err();
    assert_eq!(
        (error.kind(), error.is_retryable()),
        (ErrorKind::Rejected, false)
    );
    assert_eq!(lines(&seen), ["outer in", "outer out false"]);
}

/// Changes the call on its way in and the result on its way out.
struct Changing;

#[async_trait]
impl Interceptor for Changing {
    async fn create_run(
        &self,
        mut call: CreateRun,
        next: Next<'_, CreateRun>,
    ) -> Result<CreatedRun> {
        call.run.carrier.insert("tenant", "acme");
        call.input = Payload::from_json("2");
        let mut created = next.run(call).await?;
        created.run_id = "another".into();
        Ok(created)
    }

    async fn step(&self, call: StepCall, _next: Next<'_, StepCall>) -> Result<StepOutcome> {
        // Answers itself: what is further in is skipped.
        Ok(StepOutcome::Completed {
            output: Payload::from_json(format!("{:?}", call.name)),
        })
    }
}

#[test]
fn a_hook_changes_call_and_result() {
    let chain = chain([Arc::new(Changing)]);
    let call = CreateRun::new(RunInfo::new("default", "run-1", "w"), Payload::NULL);
    let operation = |call: CreateRun| async move {
        assert_eq!(call.run.carrier.get("tenant"), Some("acme"));
        assert_eq!(call.input.expose(), "2");
        Ok(CreatedRun::new(call.run.id, false))
    };
    assert_eq!(
        &*block_on(chain.call(call, operation)).unwrap().run_id,
        "another"
    );
}

#[test]
fn a_hook_skips_the_rest() {
    let chain = chain([Arc::new(Changing)]);
    let never = |_| async { panic!("skipped") };
    match block_on(chain.call(step(), never)).unwrap() {
        StepOutcome::Completed { output } => assert_eq!(output.expose(), "\"s\""),
        other => panic!("{other:?}"),
    }
}

/// Panics before it has a future, in the future before the rest, or after it.
enum Panicking {
    AtOnce,
    Before,
    After,
}

impl Interceptor for Panicking {
    fn cancel_run<'life0, 'life1, 'async_trait>(
        &'life0 self,
        call: CancelRun,
        next: Next<'life1, CancelRun>,
    ) -> BoxFuture<'async_trait, Result<()>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        match self {
            Self::AtOnce => panic!("at once"),
            Self::Before => Box::pin(async { panic!("before") }),
            Self::After => Box::pin(async {
                next.run(call).await?;
                panic!("{}", "after")
            }),
        }
    }

    fn event(&self, _: &Event<'_>) {
        panic!("told");
    }
}

#[test]
fn a_panic_reaches_the_next_layer_outwards_as_an_error() {
    for (panicking, message) in [
        (Panicking::AtOnce, "at once"),
        (Panicking::Before, "before"),
        (Panicking::After, "after"),
    ] {
        let seen = Log::default();
        let chain = chain([
            Arc::new(Noting("outer", seen.clone())),
            Arc::new(Transparent),
            Arc::new(panicking),
        ]);
        let error = block_on(chain.call(cancel(), |_| async { Ok(()) })).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panic);
        assert_eq!(error.message(), message);
        assert!(error.is_retryable());
        assert_eq!(lines(&seen), ["outer in", "outer out false"]);
    }
}

#[test]
fn a_panic_of_the_operation_is_an_error_too() {
    let seen = Log::default();
    let chain = chain([Arc::new(Noting("outer", seen.clone()))]);
    let broken = |_| async { panic!("operation") };
    let error = block_on(chain.call(cancel(), broken)).unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Panic, "operation")
    );
    assert_eq!(lines(&seen), ["outer in", "outer out false"]);
}

#[test]
fn an_event_reaches_everybody_whoever_panics() {
    let seen = Log::default();
    let chain = chain([
        Arc::new(Noting("first", seen.clone())),
        Arc::new(Panicking::AtOnce),
        Arc::new(Noting("last", seen.clone())),
    ]);
    chain.event(&Event::step_replayed(&execution(), "s"));
    assert_eq!(lines(&seen), ["first told", "last told"]);
}

/// Notes on being dropped why that is.
struct OnDrop(Log);

struct Dropped<'a>(&'a Log, Arc<Execution>);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        log(self.0, format!("{:?}", self.1.interruption()));
    }
}

#[async_trait]
impl Interceptor for OnDrop {
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let _dropped = Dropped(&self.0, Arc::clone(&call.execution));
        next.run(call).await
    }
}

#[test]
fn a_dropped_hook_can_tell_why() {
    let seen = Log::default();
    let chain = chain([Arc::new(OnDrop(seen.clone()))]);
    let call = step();
    let execution = Arc::clone(&call.execution);
    {
        let mut future = pin!(chain.call(call, |_| pending()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(future.as_mut().poll(&mut cx).is_pending());
        execution.interrupt(Interruption::LeaseLost);
        execution.interrupt(Interruption::Canceled);
    }
    assert_eq!(lines(&seen), ["Some(LeaseLost)"], "the first reason stands");
}

#[test]
fn an_operation_borrows_from_its_caller() {
    let mut sum = 0;
    let chain = chain([Arc::new(Transparent), Arc::new(Transparent)]);
    let signal = SendSignal::new("default".into(), "go".into(), Payload::NULL);
    let sum_of = &mut sum;
    let operation = |_| async move {
        *sum_of += 1;
        Ok(SentSignal::new(vec!["run-1".to_owned()]))
    };
    let sent = block_on(chain.call(signal, operation)).unwrap();
    assert_eq!((sent.run_ids.len(), sum), (1, 1));
}

#[test]
fn one_interceptor_serves_behind_an_arc() {
    let seen = Log::default();
    let shared = Arc::new(Noting("shared", seen.clone()));
    let chain = chain([
        Arc::new(Arc::clone(&shared)) as Arc<dyn Interceptor>,
        shared,
    ]);
    block_on(chain.call(cancel(), |_| async { Ok(()) })).unwrap();
    assert_eq!(lines(&seen).len(), 4);
}

/// Ready at the second poll.
struct Later(bool);

impl Future for Later {
    type Output = Result<()>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[test]
fn an_operation_may_take_several_polls() {
    let chain = chain([Arc::new(Transparent)]);
    block_on(chain.call(cancel(), |_| Later(false))).unwrap();
    let once = |_| async {
        poll_fn(|_| Poll::Ready(())).await;
        Ok(())
    };
    block_on(chain.call(cancel(), once)).unwrap();
}

#[test]
fn functions_are_hooks_around_what_they_are_given() {
    async fn outer(call: CancelRun, next: Next<'_, CancelRun>) -> Result<()> {
        next.run(call)
            .await
            .map_err(|error| error.with_name("Outer"))
    }
    async fn noted(seen: Log, call: CancelRun, next: Next<'_, CancelRun>) -> Result<()> {
        log(&seen, "in");
        let result = next.run(call).await;
        log(&seen, "out");
        result
    }
    let seen = Log::default();
    let chain = chain([
        Arc::new(from_fn(outer)),
        // Around another kind of call, so it is passed by.
        Arc::new(from_fn(async |_: StepCall, _: Next<'_, StepCall>| {
            Err(Error::rejected("never"))
        })),
        Arc::new(from_fn_with_state(seen.clone(), noted)),
    ]);
    let refused = |_| async { Err(Error::rejected("no")) };
    let error = block_on(chain.call(cancel(), refused)).unwrap_err();
    assert_eq!(error.name(), "Outer");
    assert_eq!(lines(&seen), ["in", "out"]);
    let stepped = block_on(chain.call(step(), |_| async { Ok(StepOutcome::TimedOut) }));
    assert_eq!(stepped.unwrap_err().message(), "never");
}
