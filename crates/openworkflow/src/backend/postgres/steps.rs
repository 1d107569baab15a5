//! Step attempts and histories.

use std::collections::HashMap;
use std::sync::Arc;

use super::news::News;
use super::rows::{RUN_WIDTH, STEP_WIDTH};
use super::runs::NewRunParams;
use super::session::{Guard, Json, Param, WhenLost};
use super::writes::{StepWrite, Write};
use super::{Inner, rows};
use crate::backend::{
    BackendResult, EndedStep, History, NewRun, NewStepAttempt, Owner, WorkflowRun,
};

/// A thousand years, in seconds.
const ALWAYS: f64 = 3.2e10;

impl Inner {
    pub(super) async fn load_history(
        &self,
        namespace_id: &str,
        run_id: &str,
    ) -> BackendResult<History> {
        let params: [Param<'_>; 2] = [&namespace_id, &run_id];
        let rows = self
            .sessions
            .one(WhenLost::Again, self.sql.history.with(&params))
            .await?;
        let mut attempts = Vec::with_capacity(rows.len());
        let mut children = HashMap::new();
        let mut signals = HashMap::new();
        for row in &rows {
            let attempt = rows::step(row)?;
            if let Some(child) = rows::child(row, STEP_WIDTH)? {
                children.insert(attempt.id.clone(), child);
            }
            if let Some(data) = rows::signal(row, STEP_WIDTH + 5)? {
                signals.insert(attempt.id.clone(), data);
            }
            attempts.push(attempt);
        }
        Ok(History::new(attempts, children, signals))
    }

    pub(super) async fn begin_step(
        self: &Arc<Self>,
        owner: &Owner,
        attempt: NewStepAttempt,
    ) -> BackendResult<()> {
        let step = StepWrite::begun(owner.clone(), attempt);
        self.write(Write::Step(step)).await
    }

    pub(super) async fn end_step(
        self: &Arc<Self>,
        owner: &Owner,
        ended: EndedStep,
    ) -> BackendResult<()> {
        let step = StepWrite::ended(owner.clone(), ended);
        self.write(Write::Step(step)).await
    }

    pub(super) async fn begin_child(
        self: &Arc<Self>,
        owner: &Owner,
        attempt: NewStepAttempt,
        mut child: NewRun,
    ) -> BackendResult<WorkflowRun> {
        // The protocol's: same namespace, the attempt as parent, and a key made of both.
        child.namespace_id = owner.namespace_id.to_string();
        child.parent_step_attempt_id = Some(attempt.id.to_string());
        let key = child
            .idempotency_key
            .clone()
            .unwrap_or_else(|| format!("__workflow:{}:{}", owner.namespace_id, attempt.id));
        child.idempotency_key = Some(key);
        let available_at = child.available_at;
        let notice = self
            .announcer
            .now(News::Due(&owner.namespace_id, available_at));
        let mut new = NewRunParams::new(&child);
        // A child is its attempt's, however long ago it was created.
        new.window = ALWAYS;
        let name = &*attempt.step_name;
        let kind = attempt.kind.as_str();
        let context = attempt.context.as_deref().map(Json);
        let ago = attempt.begun_ago.as_secs_f64();

        let guard = Guard::new(owner);
        let owner_params = guard.params();
        let lock_params: [Param<'_>; 1] = [&new.lock];
        let mut params = new.params();
        params.extend([
            &new.run.idempotency_key as Param<'_>,
            &new.window,
            &notice,
            owner_params[1],
            owner_params[2],
            &name,
            &kind,
            &context,
            &ago,
            owner_params[3],
            &child.cancel_with_parent,
        ]);
        let calls = [
            self.sql.lock_owned.with(&owner_params),
            self.sql.lock_key.with(&lock_params),
            self.sql.begin_child.with(&params),
        ];
        let results = self.sessions.all(WhenLost::Again, &calls).await?;
        let Some(row) = results.last().and_then(|rows| rows.first()) else {
            return Err(self.ownership_lost(owner).await);
        };
        let found: bool = rows::value(row, RUN_WIDTH)?;
        let run = rows::run(row)?;
        if !found {
            self.due(&owner.namespace_id, available_at, notice.is_some());
        }
        Ok(run)
    }
}
