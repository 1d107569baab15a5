//! Random workflows on a real database: crashes lose nothing and repeat nothing that is completed,
//! interceptors change nothing, and what the code observed it observes again.
//!
//! `PROPTEST_CASES` sets how many programs are made up. A failure prints the program, made as small as
//! possible, and its seed is kept in `random_workflows/mod.regressions` to be tried first from then on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openworkflow::{
    BoxFuture, CreateRun, CreatedRun, ExecuteRun, ExecutionOutcome, Interceptor, Next, Result,
    StepCall, StepOutcome, WorkerBuilder, async_trait,
};
use openworkflow_tests::random::{
    Checked, Database, Program, Setup, block_on, config, drive, programs, racing_programs,
};

use proptest::prelude::*;
use tower::limit::ConcurrencyLimitLayer;
use tower::timeout::TimeoutLayer;

/// Passes on, and counts what it saw.
#[derive(Default)]
struct Witness {
    creations: AtomicUsize,
    executions: AtomicUsize,
    steps: AtomicUsize,
}

#[async_trait]
impl Interceptor for Witness {
    async fn create_run(&self, call: CreateRun, next: Next<'_, CreateRun>) -> Result<CreatedRun> {
        self.creations.fetch_add(1, Ordering::Relaxed);
        next.run(call).await
    }

    async fn execute(
        &self,
        call: ExecuteRun,
        next: Next<'_, ExecuteRun>,
    ) -> Result<ExecutionOutcome> {
        self.executions.fetch_add(1, Ordering::Relaxed);
        next.run(call).await
    }

    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        self.steps.fetch_add(1, Ordering::Relaxed);
        let kind = call.kind.as_str();
        let outcome = next.run(call).await;
        assert!(!kind.is_empty());
        outcome
    }
}

/// Written by hand, and changes nothing either.
struct ByHand;

impl Interceptor for ByHand {
    fn step<'life0, 'life1, 'async_trait>(
        &'life0 self,
        call: StepCall,
        next: Next<'life1, StepCall>,
    ) -> BoxFuture<'async_trait, Result<StepOutcome>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        next.run(call).boxed()
    }
}

/// Has the defaults for everything.
struct Indifferent;

impl Interceptor for Indifferent {}

fn with_interceptors(worker: WorkerBuilder, witness: &Arc<Witness>) -> WorkerBuilder {
    worker
        .interceptor(Arc::clone(witness))
        .interceptor(ByHand)
        .layer(ConcurrencyLimitLayer::new(64))
        .interceptor(Indifferent)
        .layer(TimeoutLayer::new(Duration::from_secs(600)))
}

/// Runs a program as it is, and again with interceptors.
async fn check_interceptors(program: Program, concurrency: usize) -> Checked {
    let setup = Setup {
        concurrency,
        ..Setup::default()
    };
    let plain = drive(&crate::Db::create().await, &program, &setup).await;
    prop_assert_eq!(&plain.violations, &Vec::<String>::new(), "plain");

    let witness = Arc::default();
    let intercept = |worker| with_interceptors(worker, &witness);
    let setup = Setup {
        worker: &intercept,
        ..setup
    };
    let wrapped = drive(&crate::Db::create().await, &program, &setup).await;
    prop_assert_eq!(&wrapped.violations, &Vec::<String>::new(), "intercepted");
    prop_assert_eq!(&wrapped.result, &plain.result);
    prop_assert_eq!(&wrapped.rows, &plain.rows);
    prop_assert!(witness.executions.load(Ordering::Relaxed) > 0);
    Ok(())
}

/// Runs a program undisturbed, and again with crashes.
async fn check_crashes(
    program: Program,
    concurrency: usize,
    crashes: Vec<u32>,
    intercepted: bool,
) -> Checked {
    let undisturbed = Setup {
        concurrency,
        ..Setup::default()
    };
    let expected = drive(&crate::Db::create().await, &program, &undisturbed).await;
    prop_assert_eq!(&expected.violations, &Vec::<String>::new(), "undisturbed");

    let witness = Arc::default();
    let intercept = |worker| with_interceptors(worker, &witness);
    let setup = Setup {
        crashes: &crashes,
        worker: if intercepted {
            &intercept
        } else {
            undisturbed.worker
        },
        ..undisturbed
    };
    let crashed = drive(&crate::Db::create().await, &program, &setup).await;
    let times = crashed.crashes;
    prop_assert_eq!(
        &crashed.violations,
        &Vec::<String>::new(),
        "{} crashes",
        times
    );
    prop_assert_eq!(&crashed.result, &expected.result, "{} crashes", times);
    Ok(())
}

/// Runs a program that races, with crashes, and with delays where they matter. Of what its code observes
/// in one execution, the next one observes the same; [`drive`] has an eye on that.
async fn check_observations(
    program: Program,
    concurrency: usize,
    crashes: Vec<u32>,
    chance: u64,
    intercepted: bool,
) -> Checked {
    let witness = Arc::default();
    let intercept = |worker| with_interceptors(worker, &witness);
    let plain = Setup::default();
    let setup = Setup {
        concurrency,
        crashes: &crashes,
        chance: Some(chance),
        worker: if intercepted {
            &intercept
        } else {
            plain.worker
        },
        ..plain
    };
    let outcome = drive(&crate::Db::create().await, &program, &setup).await;
    let times = outcome.crashes;
    prop_assert_eq!(
        &outcome.violations,
        &Vec::<String>::new(),
        "{} crashes",
        times
    );
    Ok(())
}

proptest! {
    #![proptest_config(config(crate::CASES))]

    #[test]
    fn interceptors_do_not_change_the_history(
        program in programs(),
        concurrency in 1_usize..5,
    ) {
        block_on(check_interceptors(program, concurrency))?;
    }

    #[test]
    fn crashes_lose_nothing_and_repeat_nothing(
        program in programs(),
        concurrency in 1_usize..5,
        crashes in proptest::collection::vec(1_u32..60, 1..6),
        intercepted in any::<bool>(),
    ) {
        block_on(check_crashes(program, concurrency, crashes, intercepted))?;
    }

    #[test]
    fn what_was_observed_is_observed_again(
        program in racing_programs(),
        concurrency in 1_usize..5,
        crashes in proptest::collection::vec(1_u32..40, 0..6),
        chance in any::<u64>(),
        intercepted in any::<bool>(),
    ) {
        block_on(check_observations(program, concurrency, crashes, chance, intercepted))?;
    }
}
