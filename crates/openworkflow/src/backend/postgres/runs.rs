//! Runs: created, read, claimed, ended.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::claims::LONGEST_LEASE;
use super::news::News;
use super::rows::RUN_WIDTH;
use super::session::{Call, Guard, Json, Param, WhenLost};
use super::writes::{Completion, Write};
use super::{Inner, rows};
use crate::backend::{
    BackendError, BackendResult, ExecutionEnd, NewRun, Owner, WorkflowRun, codec,
};

/// For how long an idempotency key stands for the run it created.
const KEY_VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);

/// What creations lock. OpenWorkflow for TypeScript locks the same, made of the same text.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreationKey<'a> {
    namespace_id: &'a str,
    workflow_name: &'a str,
    idempotency_key: &'a str,
}

/// The parameters that statements creating a run have in common.
pub(super) struct NewRunParams<'a> {
    pub(super) run: &'a NewRun,
    pub(super) lock: String,
    /// For how many seconds a run with the same key counts.
    pub(super) window: f64,
    pub(super) context: Option<Json<String>>,
    pub(super) input: Option<Json<&'a str>>,
    pub(super) available_at: Option<SystemTime>,
    pub(super) deadline_at: Option<SystemTime>,
}

impl<'a> NewRunParams<'a> {
    pub(super) fn new(run: &'a NewRun) -> Self {
        let key = CreationKey {
            namespace_id: &run.namespace_id,
            workflow_name: &run.workflow_name,
            idempotency_key: run.idempotency_key.as_deref().unwrap_or_default(),
        };
        Self {
            run,
            lock: serde_json::to_string(&key).unwrap_or_default(),
            window: KEY_VALIDITY.as_secs_f64(),
            context: run.context_json().map(Json),
            input: (!run.input.is_null()).then(|| Json(run.input.expose())),
            available_at: run.available_at.map(rows::time),
            deadline_at: run.deadline_at.map(rows::time),
        }
    }

    pub(super) fn params(&self) -> Vec<Param<'_>> {
        vec![
            &self.run.namespace_id,
            &self.run.id,
            &self.run.workflow_name,
            &self.run.version,
            &self.context,
            &self.input,
            &self.run.parent_step_attempt_id,
            &self.available_at,
            &self.deadline_at,
        ]
    }
}

impl Inner {
    /// Tells everybody of a run that is or becomes due, after the commit. `told` says whether other
    /// processes know already.
    pub(super) fn due(self: &Arc<Self>, namespace_id: &str, at: Option<SystemTime>, told: bool) {
        let now = self.clock.now();
        self.wakeups
            .work_due_in(namespace_id, at.unwrap_or(now), now);
        if !told {
            self.tell(News::Due(namespace_id, at));
        }
    }

    pub(super) fn ended(self: &Arc<Self>, run_id: &str, told: bool) {
        self.wakeups.run_ended(run_id);
        if !told {
            self.tell(News::Ended(run_id));
        }
    }

    pub(super) async fn create_run(
        self: &Arc<Self>,
        run: NewRun,
    ) -> BackendResult<(WorkflowRun, bool)> {
        let new = NewRunParams::new(&run);
        let notice = self
            .announcer
            .now(News::Due(&run.namespace_id, run.available_at));
        let mut params = new.params();
        let (created, found) = if run.idempotency_key.is_some() {
            params.extend([&run.idempotency_key as Param<'_>, &new.window, &notice]);
            let lock: [Param<'_>; 1] = [&new.lock];
            let calls = [
                self.sql.lock_key.with(&lock),
                self.sql.create_run_by_key.with(&params),
            ];
            let results = self.sessions.all(WhenLost::Again, &calls).await?;
            let row = results.last().and_then(|rows| rows.first());
            let row = row.ok_or_else(|| no_answer("the created run"))?;
            let found: bool = rows::value(row, RUN_WIDTH)?;
            let created = rows::run(row)?;
            // Found is what somebody else created; our own may be found when the answer was lost.
            let found = found && created.id != run.id;
            (created, found)
        } else {
            params.push(&notice);
            let call = self.sql.create_run.with(&params);
            let rows = self.sessions.one(WhenLost::Again, call).await?;
            let created = match rows.first() {
                Some(row) => rows::run(row)?,
                None => self
                    .get_run(&run.namespace_id, &run.id)
                    .await?
                    .ok_or_else(|| no_answer("the created run"))?,
            };
            (created, false)
        };
        if !found {
            self.due(&run.namespace_id, run.available_at, notice.is_some());
        }
        Ok((created, found))
    }

    pub(super) async fn get_run(
        &self,
        namespace_id: &str,
        id: &str,
    ) -> BackendResult<Option<WorkflowRun>> {
        self.listen();
        let params: [Param<'_>; 2] = [&namespace_id, &id];
        let rows = self
            .sessions
            .one(WhenLost::Again, self.sql.get_run.with(&params))
            .await?;
        rows.first().map(rows::run).transpose()
    }

    /// Ends a run by `call`, and wakes its parent in the same transaction. Says whether it was ended.
    async fn end_with_parent(
        self: &Arc<Self>,
        namespace_id: &str,
        id: &str,
        call: Call<'_>,
    ) -> BackendResult<bool> {
        let family: [Param<'_>; 2] = [&namespace_id, &id];
        let calls = [self.sql.lock_family.with(&family), call];
        let results = self.sessions.all(WhenLost::Again, &calls).await?;
        let Some(ended) = results.last().and_then(|rows| rows.first()) else {
            return Ok(false);
        };
        // Whether a parent wakes is not known beforehand; the news of it go separately.
        if rows::value(ended, 0)? {
            self.due(namespace_id, None, false);
        }
        Ok(true)
    }

    pub(super) async fn extend_lease(&self, owner: &Owner, lease: Duration) -> BackendResult<()> {
        let lease = lease.min(LONGEST_LEASE).as_secs_f64();
        let guard = Guard::new(owner);
        let [namespace, run, worker, attempts] = guard.params();
        let params: [Param<'_>; 5] = [namespace, run, worker, attempts, &lease];
        let call = self.sql.extend_lease.with(&params);
        let asked = self.sessions.time().asking();
        let rows = self.sessions.one(WhenLost::Again, call).await?;
        let Some(row) = rows.first() else {
            return Err(self.ownership_lost(owner).await);
        };
        self.sessions.time().hear(asked, rows::value(row, 0)?);
        Ok(())
    }

    pub(super) async fn end_execution(
        self: &Arc<Self>,
        owner: &Owner,
        end: ExecutionEnd,
    ) -> BackendResult<()> {
        match end {
            ExecutionEnd::Complete { output } => {
                let owner = owner.clone();
                self.write(Write::Completion(Completion { owner, output }))
                    .await
            }
            ExecutionEnd::Continue { successor } => self.continue_as(owner, &successor).await,
            ExecutionEnd::Fail { error } => {
                let (error, status) = (Some(Json(&*error)), "failed");
                self.end_run(owner, &error, status).await
            }
            ExecutionEnd::Retry { error, at, waits } => {
                self.put_away(owner, at, &waits, Some(Json(&error))).await
            }
            ExecutionEnd::GiveBack => self.give_back(owner).await,
            ExecutionEnd::Park { until, waits } => self.put_away(owner, until, &waits, None).await,
        }
    }

    pub(super) async fn complete(self: &Arc<Self>, completion: &Completion) -> BackendResult<()> {
        self.end_run(&completion.owner, &completion.output(), "completed")
            .await
    }

    /// Ends the run with a value: an output where the status is `completed`, else the error of a failure.
    async fn end_run(
        self: &Arc<Self>,
        owner: &Owner,
        value: &Option<Json<&str>>,
        status: &'static str,
    ) -> BackendResult<()> {
        let notice = self.announcer.now(News::Ended(&owner.run_id));
        let guard = Guard::new(owner);
        let mut params = guard.params().to_vec();
        params.extend([value as Param<'_>, &notice]);
        let recorded = ClaimParams::of(owner);
        if status == "failed" {
            params.extend(recorded.params());
        }
        let (alone, with_parent) = match status {
            "completed" => (&self.sql.complete, &self.sql.complete_child),
            _ => (&self.sql.fail, &self.sql.fail_child),
        };
        // Most runs are nobody's children, and need one statement only.
        let rows = self
            .sessions
            .one(WhenLost::Again, alone.with(&params))
            .await?;
        if rows.is_empty() {
            let call = with_parent.with(&params);
            let (namespace_id, run_id) = (&owner.namespace_id, &owner.run_id);
            if !self.end_with_parent(namespace_id, run_id, call).await? {
                self.left(owner, status).await?;
                // Whether a parent is due was in the answer that was lost.
                self.due(namespace_id, None, false);
                self.ended(&owner.run_id, false);
                return Ok(());
            }
        }
        self.ended(&owner.run_id, notice.is_some());
        Ok(())
    }

    async fn give_back(self: &Arc<Self>, owner: &Owner) -> BackendResult<()> {
        let guard = Guard::new(owner);
        let mut params = guard.params().to_vec();
        let recorded = ClaimParams::of(owner);
        params.extend(recorded.params());
        let call = self.sql.give_back.with(&params);
        let rows = self.sessions.one(WhenLost::Again, call).await?;
        if rows.is_empty() {
            self.left(owner, "running").await?;
        }
        self.due(&owner.namespace_id, None, false);
        Ok(())
    }

    async fn put_away(
        self: &Arc<Self>,
        owner: &Owner,
        until: SystemTime,
        waits: &[Arc<str>],
        error: Option<Json<&str>>,
    ) -> BackendResult<()> {
        // The delay of a retry counts from a time in a row that has microseconds: one that is due a
        // fraction too early would be claimed in vain.
        let until = match &error {
            None => rows::time(until),
            Some(_) => rows::time(codec::later(until, Duration::from_nanos(999_999))),
        };
        let waits: Vec<&str> = waits.iter().map(|id| &**id).collect();
        let guard = Guard::new(owner);
        let mut params = guard.params().to_vec();
        params.extend([&until as Param<'_>, &waits]);
        let parked = params.clone();
        let (statement, status) = match &error {
            None => (&self.sql.park, "running"),
            Some(error) => {
                params.push(error);
                (&self.sql.retry, "pending")
            }
        };
        let recorded = ClaimParams::of(owner);
        params.extend(recorded.params());
        let put = statement.with(&params);
        let mut locked = guard.params().to_vec();
        locked.push(&waits);
        let lock = self.sql.lock_owned_and_waits.with(&locked);
        let wake = self.sql.wake_parked.with(&parked);
        // With nothing to look at that somebody else might write, there is nothing to lock against.
        let calls: &[_] = if waits.is_empty() {
            &[put]
        } else {
            &[lock, put]
        };
        // A run that is to be tried again is woken by no child.
        let and_then = (error.is_none() && !waits.is_empty()).then_some(wake);
        let sessions = &self.sessions;
        let (results, woken) = sessions
            .all_and_then(WhenLost::Again, calls, and_then)
            .await?;
        let mut at_once = !woken.is_empty();
        match results.last().and_then(|rows| rows.first()) {
            Some(row) => at_once |= rows::value::<bool>(row, 0)?,
            None => {
                self.left(owner, status).await?;
                if let Some(wake) = and_then {
                    sessions.one(WhenLost::Again, wake).await?;
                }
                // Whether it is due at once was in the answer that was lost.
                at_once = true;
            }
        }
        if at_once {
            self.due(&owner.namespace_id, None, false);
        } else {
            // This process remembers when; if it is gone by then, others find the run by polling.
            self.wakeups
                .work_due_in(&owner.namespace_id, until, self.clock.now());
        }
        Ok(())
    }
}

/// The times of the claim, as parameters of the statement that ends the execution.
struct ClaimParams {
    due_at: Option<SystemTime>,
    claimed_at: Option<SystemTime>,
}

impl ClaimParams {
    fn of(owner: &Owner) -> Self {
        Self {
            due_at: owner.claimed.map(|times| times.due_at),
            claimed_at: owner.claimed.map(|times| times.claimed_at),
        }
    }

    fn params(&self) -> [Param<'_>; 2] {
        [&self.due_at, &self.claimed_at]
    }
}

/// A statement gave no row, although it must.
pub(super) fn no_answer(what: &str) -> BackendError {
    BackendError::Driver {
        message: format!("the database did not return {what}"),
        transient: false,
        source: "no row".into(),
    }
}
