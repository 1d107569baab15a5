//! Which context goes into which run's carrier.

use std::sync::Arc;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use workflow_core::{CreateRun, CreatedRun, Execution, ParentStep};

use super::{Traces, address_of, lock};
use crate::config::TraceMode;
use crate::context::origin;
use crate::context::propagation::usable_parent;
use crate::context::scope::RunScope;

impl Traces {
    /// The context that a client's call is made in: that of the carrier, if the call brings one that
    /// names a trace, else the current one.
    pub(super) fn caller(&self, call: &CreateRun) -> Context {
        if !call.run.carrier.is_empty() {
            let given = self.propagation.extract(&call.run.carrier, &self.losses);
            if given.span().span_context().is_valid() {
                return given;
            }
        }
        usable_parent(Context::current())
    }

    /// A run that continues another has its carrier, and so its parent and its baggage. What is added is the
    /// execution that ended in its favor.
    pub(crate) fn pass_on(&self, execution: &Execution, call: &mut CreateRun) {
        let span = {
            let unwritten = lock(&self.unwritten);
            let spans = unwritten.get(&address_of(execution));
            let mut open = spans.into_iter().flatten().filter(|unended| unended.open);
            open.next_back().map(|unended| unended.cx.clone())
        };
        let span = span.map(|cx| cx.span().span_context().clone());
        origin::continue_from(&mut call.run.carrier, span.as_ref());
        if matches!(self.config.mode, TraceMode::Auto { .. }) {
            origin::note_first_created_at(&mut call.run.carrier, execution.run_created_at);
        }
        self.continue_bar(call);
    }

    /// A child run is created in the context of the step.
    pub(crate) fn inject_child(&self, parent: &ParentStep, call: &mut CreateRun) {
        let current = Context::current();
        let cx = if self.is_in(&current, &parent.execution) {
            current
        } else {
            // Created elsewhere than in the step's future: the execution is the nearest that is known.
            self.context_of(&parent.execution)
        };
        self.inject_run(&cx, call);
    }

    /// The step's span does not know for certain which run the creation comes to.
    pub(crate) fn child_created(&self, parent: &ParentStep, created: &CreatedRun) {
        let known = self
            .executions()
            .get(&address_of(&parent.execution))
            .cloned();
        if let Some(scope) = known.as_ref().and_then(RunScope::of) {
            scope
                .progress
                .add_child(&parent.attempt_id, &created.run_id);
        }
    }

    pub(super) fn inject(&self, cx: &Context, call: &mut CreateRun) {
        self.propagation.inject(
            cx,
            &self.config.baggage,
            &mut call.run.carrier,
            &self.losses,
        );
    }

    /// The context of an execution that is not that of the current context.
    pub(super) fn context_of(&self, execution: &Arc<Execution>) -> Context {
        let known = self.executions().get(&address_of(execution)).cloned();
        known.unwrap_or_else(|| {
            // An engine that did not call `execute`: all that is known is who created the run.
            self.propagation
                .extract(&execution.run.carrier, &self.losses)
        })
    }
}
