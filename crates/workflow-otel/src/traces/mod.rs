//! Spans of what the hooks see: `start` makes them, `span` keeps them current, `end` ends them.

mod bar;
#[cfg(feature = "tracing")]
pub(crate) mod bridge;
mod call;
mod carriers;
mod end;
mod execution;
mod outcome;
mod processor;
mod span;
mod start;
mod time;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry::Context;
use workflow_core::Execution;

use crate::config::Config;
use crate::context::propagation::Propagation;
use crate::context::scope::RunScope;
use crate::losses::LossCounters;
use crate::tracer::Tracing;

pub(crate) use self::bar::RunEnd;
pub use self::processor::RunAttributesProcessor;
pub(crate) use self::span::Scoped;

/// The spans of one interceptor.
pub(crate) struct Traces {
    pub(crate) config: Config,
    pub(crate) losses: Arc<LossCounters>,
    tracing: Tracing,
    propagation: Propagation,
    /// The contexts of the executions under way, by the address of the execution: for steps that
    /// user code runs where the context is not current, in a task of its own for one.
    executions: Mutex<HashMap<usize, Context>>,
    /// Those of executions that are over, while their outcome is being written. Several, should this
    /// interceptor be registered more than once.
    unwritten: Mutex<HashMap<usize, Vec<Unended>>>,
}

/// The context of an execution that is over.
struct Unended {
    cx: Context,
    /// Whether its span is to be ended by what was written. Else it is kept for what is logged about it.
    open: bool,
}

impl Traces {
    pub(crate) fn new(
        config: Config,
        tracing: Tracing,
        propagation: Propagation,
        losses: Arc<LossCounters>,
    ) -> Self {
        Self {
            config,
            losses,
            tracing,
            propagation,
            executions: Mutex::default(),
            unwritten: Mutex::default(),
        }
    }

    pub(super) fn is_in(&self, cx: &Context, execution: &Arc<Execution>) -> bool {
        RunScope::of(cx).is_some_and(|scope| scope.is(self.address(), execution))
    }

    pub(super) fn forget(&self, scope: &RunScope) {
        let cx = self.executions().remove(&address_of(&scope.execution));
        // Not while the lock is held: what a context holds runs code when it is dropped.
        drop(cx);
    }

    /// Does `work` in the context of an execution, which may be over.
    pub(crate) fn within(&self, execution: &Execution, work: &mut dyn FnMut()) {
        let address = address_of(execution);
        let over = {
            let unwritten = lock(&self.unwritten);
            let last = unwritten.get(&address).and_then(|all| all.last());
            last.map(|unended| unended.cx.clone())
        };
        let cx = over.or_else(|| self.executions().get(&address).cloned());
        let _current = cx.map(Context::attach);
        work();
    }

    pub(super) fn executions(&self) -> MutexGuard<'_, HashMap<usize, Context>> {
        lock(&self.executions)
    }

    pub(super) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// Nothing panics half-way while one of these is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address_of(execution: &Execution) -> usize {
    std::ptr::from_ref(execution).addr()
}
