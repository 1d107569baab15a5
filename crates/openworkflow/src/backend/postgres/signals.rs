//! Signals.

use std::sync::Arc;

use serde::Serialize;

use super::news::News;
use super::session::{Json, WhenLost, claim_number};
use super::{Inner, rows};
use crate::backend::{BackendResult, NewSignal};

/// What two sendings with the same key have in common.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SendingKey<'a> {
    namespace_id: &'a str,
    signal: &'a str,
    idempotency_key: &'a str,
}

impl Inner {
    pub(super) async fn send_signal(
        self: &Arc<Self>,
        signal: NewSignal,
    ) -> BackendResult<Vec<String>> {
        let data = (!signal.data.is_null()).then(|| Json(signal.data.expose()));
        let key = signal.idempotency_key.as_deref();
        // Without this, the second of two concurrent sendings would find no receivers left and
        // return nothing, instead of what the first one returns.
        let lock = key.map(|idempotency_key| {
            let key = SendingKey {
                namespace_id: &signal.namespace_id,
                signal: &signal.signal,
                idempotency_key,
            };
            serde_json::to_string(&key).unwrap_or_default()
        });
        let sender = signal.sender.as_ref();
        let run_id = sender.map(|owner| &*owner.run_id);
        let worker_id = sender.map(|owner| &*owner.worker_id);
        let attempts = sender.map(claim_number);
        let notice = self.announcer.now(News::Due(None));

        let owner_params = [
            &signal.namespace_id as super::session::Param<'_>,
            &run_id,
            &worker_id,
            &attempts,
        ];
        let lock_params = [&lock as super::session::Param<'_>];
        let receivers = [
            &signal.namespace_id as super::session::Param<'_>,
            &signal.signal,
        ];
        let params = [
            &signal.namespace_id as super::session::Param<'_>,
            &signal.signal,
            &data,
            &key,
            &run_id,
            &worker_id,
            &notice,
            &attempts,
        ];
        let mut calls = Vec::with_capacity(4);
        if sender.is_some() {
            calls.push(self.sql.lock_owned.with(&owner_params));
        }
        if lock.is_some() {
            calls.push(self.sql.lock_key.with(&lock_params));
        }
        calls.push(self.sql.lock_receivers.with(&receivers));
        calls.push(self.sql.send_signal.with(&params));
        // Without a key, a second sending could reach those who began to wait meanwhile.
        let when_lost = match key {
            Some(_) => WhenLost::Again,
            None => WhenLost::Report,
        };
        let results = self.sessions.all(when_lost, &calls).await?;
        if let (Some(owner), Some([])) = (sender, results.first().map(Vec::as_slice)) {
            return Err(self.ownership_lost(owner).await);
        }
        let mut run_ids = Vec::new();
        let mut woken = 0;
        for row in results.last().into_iter().flatten() {
            run_ids.push(rows::value(row, 0)?);
            woken = rows::value::<i64>(row, 1)?;
        }
        if woken > 0 {
            let now = self.clock.now();
            self.wakeups.work_due(now, now);
            if notice.is_none() {
                self.tell(News::Due(None));
            }
        }
        Ok(run_ids)
    }
}
