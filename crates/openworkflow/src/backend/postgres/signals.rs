//! Signals.

use std::sync::Arc;

use serde::Serialize;

use super::news::News;
use super::runs::no_answer;
use super::session::{Json, Param, WhenLost, claim_number};
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
        let notice = self.announcer.now(News::Due(&signal.namespace_id, None));

        let lock_params: [Param<'_>; 1] = [&lock];
        let params: [Param<'_>; 8] = [
            &signal.namespace_id,
            &signal.signal,
            &data,
            &key,
            &run_id,
            &worker_id,
            &attempts,
            &notice,
        ];
        // The key is locked before any run is: who waits for it holds nothing.
        let mut calls = Vec::with_capacity(2);
        if lock.is_some() {
            calls.push(self.sql.lock_key.with(&lock_params));
        }
        calls.push(self.sql.send_signal.with(&params));
        // Without a key, a second sending could reach those who began to wait meanwhile.
        let when_lost = match key {
            Some(_) => WhenLost::Again,
            None => WhenLost::Report,
        };
        let results = self.sessions.all(when_lost, &calls).await?;
        let row = results.last().and_then(|rows| rows.first());
        let row = row.ok_or_else(|| no_answer("the runs that received the signal"))?;
        let allowed: bool = rows::value(row, 0)?;
        if let (Some(owner), false) = (sender, allowed) {
            return Err(self.ownership_lost(owner).await);
        }
        if rows::value(row, 2)? {
            self.due(&signal.namespace_id, None, notice.is_some());
        }
        rows::value(row, 1)
    }
}
