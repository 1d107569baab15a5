//! Which run and step an event is about, beside what it says of itself.

use std::sync::Arc;

use opentelemetry::Context;
use workflow_core::replay::is_replaying;

use crate::context::scope::{RunScope, StepScope};
use crate::names::attribute;

#[derive(Debug, Clone, Copy)]
pub(super) enum Id<'a> {
    Text(&'a Arc<str>),
    Number(u32),
    Flag(bool),
}

/// Gives `add` what `cx` knows of an event. One that is about another run than the one that is executed in
/// `cx`, as `own_run` says, has nothing from there.
pub(super) fn each<'a>(
    cx: &'a Context,
    own_run: Option<&str>,
    mut add: impl FnMut(&'static str, Id<'a>),
) {
    if let Some(scope) = RunScope::of(cx)
        && own_run.is_none_or(|id| *id == *scope.execution.run.id)
    {
        let run = &scope.execution.run;
        add(attribute::WORKFLOW_RUN_ID, Id::Text(&run.id));
        add(attribute::WORKFLOW_NAME, Id::Text(&run.workflow_name));
        let attempt = Id::Number(scope.execution.attempt);
        add(attribute::WORKFLOW_RUN_ATTEMPT, attempt);
        if let Some(StepScope(Some(name))) = cx.get() {
            add(attribute::STEP_NAME, Id::Text(name));
        }
    }
    if is_replaying() {
        add(attribute::WORKFLOW_RUN_REPLAYING, Id::Flag(true));
    }
}
