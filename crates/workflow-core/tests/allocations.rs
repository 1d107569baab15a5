//! A chain without interceptors allocates nothing; one of defaults, a box for the operation's future.

use std::alloc::System;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::{future::Future, pin::pin};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use workflow_core::{CancelRun, Chain, Interceptor, RunInfo};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

struct Transparent;
impl Interceptor for Transparent {}

fn allocations_of(chain: &Chain) -> usize {
    let call = CancelRun::new(RunInfo::new("default", "run-1", "w"));
    let region = Region::new(ALLOCATOR);
    {
        let mut future = pin!(chain.call(call, |_call| async { Ok(()) }));
        assert!(
            future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
        );
    }
    region.change().allocations
}

// One test, because the count is of the whole process.
#[test]
fn an_empty_chain_allocates_nothing() {
    assert_eq!(allocations_of(&Chain::default()), 0);
    let one = Chain::new([Arc::new(Transparent) as Arc<dyn Interceptor>]);
    let three = Chain::new((0..3).map(|_| Arc::new(Transparent) as Arc<dyn Interceptor>));
    assert_eq!(allocations_of(&one), 1, "the operation's future");
    assert_eq!(allocations_of(&three), 1, "passing on costs nothing");
}
