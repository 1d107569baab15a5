//! What the code of each execution observed: a later one observes the same again, and then more.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openworkflow::{Result, is_replaying};
use serde::Serialize;
use serde_json::{Value, json};

/// The executions of all runs, each with what its code observed. Kept in the memory of the test: the
/// database has no part in it.
#[derive(Debug, Default)]
pub(super) struct Observations(Mutex<HashMap<String, Executions>>);

/// Those of one run, by the number of the claim.
type Executions = BTreeMap<u32, Arc<Observed>>;

/// What the code of one execution observed.
#[derive(Debug, Default)]
pub(super) struct Observed {
    lines: Mutex<Vec<String>>,
    /// Which of them the engine takes for a replay's.
    replayed: Mutex<Vec<bool>>,
    /// Whether the execution came to its own end, and observed all that was there to observe.
    whole: AtomicBool,
}

impl Observed {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The code observes the result of `what`.
    pub(super) fn add(&self, what: impl Display, result: &Value) {
        let result = result.to_string();
        let line = if result.len() > 160 {
            format!("{what} = #{:x}", hash([&result]))
        } else {
            format!("{what} = {result}")
        };
        self.lines().push(line);
        self.replayed().push(is_replaying());
    }

    fn replayed(&self) -> MutexGuard<'_, Vec<bool>> {
        self.replayed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that depends on all that was observed so far, and on its order.
    pub(super) fn digest(&self) -> u64 {
        hash(&*self.lines())
    }
}

impl Observations {
    fn runs(&self) -> MutexGuard<'_, HashMap<String, Executions>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An execution of the run begins.
    pub(super) fn begin(&self, run_id: &str, attempt: u32) -> Arc<Observed> {
        let observed = Arc::default();
        let mut runs = self.runs();
        let executions = runs.entry(run_id.to_owned()).or_default();
        executions.insert(attempt, Arc::clone(&observed));
        observed
    }

    /// The execution ended, and no crash cut it off.
    pub(super) fn end(&self, run_id: &str, attempt: u32) {
        if let Some(executions) = self.runs().get(run_id)
            && let Some(ended) = executions.get(&attempt)
        {
            ended.whole.store(true, Ordering::SeqCst);
        }
    }

    /// Where an execution observed something else than one before it, or less; and where the engine took
    /// what it observed again for new, or the other way round.
    pub(super) fn violations(&self) -> Vec<(String, String)> {
        let mut violations = Vec::new();
        for (run_id, executions) in &*self.runs() {
            if let Some(violation) = differs(executions).or_else(|| mistakes(executions)) {
                violations.push((run_id.clone(), violation));
            }
        }
        violations.sort();
        violations
    }
}

fn differs(executions: &Executions) -> Option<String> {
    let mut before: Vec<String> = Vec::new();
    for (attempt, execution) in executions {
        let lines = execution.lines().clone();
        let same = before
            .iter()
            .zip(&lines)
            .take_while(|(one, other)| one == other);
        let same = same.count();
        let cut_off = !execution.whole.load(Ordering::SeqCst);
        if same == before.len() || (same == lines.len() && cut_off) {
            if lines.len() > before.len() {
                before = lines;
            }
            continue;
        }
        let count = executions.len();
        return Some(format!(
            "execution {attempt} of {count} observed {:#?} after {:#?}, and one before it {:#?}",
            &lines[same..],
            &before[..same],
            &before[same..],
        ));
    }
    None
}

/// What an execution before has observed is a replay's, and what is new is none. A crash may leave results
/// behind that nobody has observed.
fn mistakes(executions: &Executions) -> Option<String> {
    let (mut before, mut crashed) = (0, false);
    for (attempt, execution) in executions {
        let lines = execution.lines().clone();
        for (at, (line, replayed)) in lines.iter().zip(&*execution.replayed()).enumerate() {
            // Code that failed before its first step has no history, and is no replay when it is tried again.
            let has_history = lines[..=at].iter().any(|line| !line.starts_with("node "));
            if at < before && !replayed && has_history {
                return Some(format!("{line} is new to execution {attempt}, and is not"));
            }
            if at >= before && *replayed && !crashed {
                return Some(format!(
                    "{line} is a replay to execution {attempt}, and is new"
                ));
            }
        }
        before = before.max(lines.len());
        crashed |= !execution.whole.load(Ordering::SeqCst);
    }
    None
}

/// A result, as it is told again in every execution.
pub(super) fn told<T: Serialize>(result: &Result<T>) -> Value {
    match result {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({
            "kind": error.kind().as_str(),
            "name": error.name(),
            "message": error.message(),
            "stack": error.stack(),
            "step": error.step_name(),
            "retryable": error.is_retryable(),
        }),
    }
}

/// FNV-1a.
fn hash<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for line in lines {
        for byte in line.as_ref().bytes().chain([b'\n']) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}
