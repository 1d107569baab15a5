//! What parked runs wait for, which their own rows do not tell. It is read once for each time that a run is
//! parked.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use openworkflow::RunStatus;
use openworkflow::backend::WorkflowRun;
use openworkflow::trace::Standing;

use crate::Site;
use crate::text::cut;

/// So many are read for one page; the others are told of by their row.
const READ: usize = 20;
/// So many are remembered.
const KEPT: usize = 2_000;

#[derive(Default)]
pub(crate) struct Cache(Mutex<HashMap<String, (SystemTime, String)>>);

/// What the parked ones among these runs wait for, by run, in words.
pub(crate) async fn waits(site: &Site, runs: &[WorkflowRun]) -> HashMap<String, String> {
    let mut waits = HashMap::new();
    let mut read = 0;
    let parked = runs
        .iter()
        .filter(|run| run.status == RunStatus::Running && run.worker_id.is_none());
    for run in parked {
        let known = {
            let cache = &site.standings.0;
            let cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
            let known = cache.get(&run.id).filter(|(at, _)| *at == run.updated_at);
            known.map(|(_, words)| words.clone())
        };
        let words = match known {
            Some(words) => words,
            None if read < READ => {
                read += 1;
                // Where it cannot be read its page says why.
                let Ok(summary) = site.client.trace_summary(&*run.id).await else {
                    continue;
                };
                let words = words(&summary.standing);
                let cache = &site.standings.0;
                let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
                if cache.len() >= KEPT {
                    cache.clear();
                }
                cache.insert(run.id.clone(), (run.updated_at, words.clone()));
                words
            }
            None => continue,
        };
        if !words.is_empty() {
            waits.insert(run.id.clone(), words);
        }
    }
    waits
}

fn words(standing: &Standing) -> String {
    let Standing::Parked { waits_for, .. } = standing else {
        return String::new();
    };
    match &**waits_for {
        [] => String::new(),
        [one] => cut(one, 60),
        [one, rest @ ..] => format!("{} and {} more", cut(one, 60), rest.len()),
    }
}
