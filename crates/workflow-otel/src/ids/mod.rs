//! The ids of spans, derived from what is in the database: whoever knows a run knows the ids of its spans,
//! whether they were exported, lost with their process, or never made.
//!
//! ```
//! use workflow_otel::ids;
//!
//! let span = ids::execution("default", "0198c0de-0000-7000-8000-000000000001", 2);
//! assert_eq!(span.to_string(), "e0cb5a39ffe1b636");
//! ```
//!
//! Spans have these ids where the provider's generator is a [`DerivedIds`]. The ids are part of the
//! contract of traces and never change: a trace that is made of a run's history years later fills the
//! gaps of the one that was exported, and doubles nothing.
//!
//! # How they are made
//!
//! A chain of XXH64, each part hashed with the hash of those before it as the seed, beginning with 0:
//!
//! | id | parts |
//! |---|---|
//! | [`start`] | `start`, namespace, run |
//! | [`run`] | `run`, namespace, run |
//! | [`execution`] | `execution`, namespace, run, attempt |
//! | [`step`] | `step`, namespace, run, attempt, step attempt |
//! | [`trace`], first eight bytes | `trace`, namespace, run, attempt |
//! | [`trace`], last eight bytes | `trace`, namespace, run, attempt, `low` |
//!
//! Ids and words are UTF-8, attempts four bytes in little-endian order. The hash, written in hexadecimal
//! with the most significant digit first, is the id; 0, which is no id, becomes 1.

mod generator;
mod xxh64;

use opentelemetry::trace::{SpanId, TraceId};

pub use self::generator::DerivedIds;
pub(crate) use self::generator::Wanted;
use self::xxh64::xxh64;

/// The id of the span `workflow.start` of a run that is created under the id `run_id`.
#[must_use]
pub fn start(namespace_id: &str, run_id: &str) -> SpanId {
    span(of_run("start", namespace_id, run_id))
}

/// The id of the span `workflow.run`, the bar from a run's creation to its end.
#[must_use]
pub fn run(namespace_id: &str, run_id: &str) -> SpanId {
    span(of_run("run", namespace_id, run_id))
}

/// The id of the span `workflow.execute` of a run's execution, counted from 1.
#[must_use]
pub fn execution(namespace_id: &str, run_id: &str, attempt: u32) -> SpanId {
    span(of_attempt("execution", namespace_id, run_id, attempt))
}

/// The id of the span that an attempt at a step has in the execution `attempt` of its run: a wait has one
/// where it is set up, and another in the execution that sees its end.
///
/// ```
/// use workflow_otel::ids;
///
/// let run = "0198c0de-0000-7000-8000-000000000001";
/// let step = "0198c0de-0000-7000-8000-000000000002";
/// let set_up = ids::step("default", run, 1, step);
/// let ended = ids::step("default", run, 2, step);
/// assert_ne!(set_up, ended);
/// ```
#[must_use]
pub fn step(namespace_id: &str, run_id: &str, attempt: u32, step_attempt_id: &str) -> SpanId {
    StepIds::of(namespace_id, run_id, attempt).step(step_attempt_id)
}

/// The trace of an execution that is the root of its own: in [linked mode](crate::TraceMode::Linked), and
/// where its run has no readable carrier.
#[must_use]
pub fn trace(namespace_id: &str, run_id: &str, attempt: u32) -> TraceId {
    let high = of_attempt("trace", namespace_id, run_id, attempt);
    let low = xxh64(b"low", high);
    let id = (u128::from(high) << 64) | u128::from(low);
    TraceId::from(id.max(1))
}

/// The ids of an execution's steps, with what they have in common hashed once.
#[derive(Clone, Copy)]
pub(crate) struct StepIds(u64);

impl StepIds {
    pub(crate) fn of(namespace_id: &str, run_id: &str, attempt: u32) -> Self {
        Self(of_attempt("step", namespace_id, run_id, attempt))
    }

    pub(crate) fn step(self, step_attempt_id: &str) -> SpanId {
        span(xxh64(step_attempt_id.as_bytes(), self.0))
    }
}

impl Wanted {
    pub(crate) fn execution(namespace_id: &str, run_id: &str, attempt: u32) -> Self {
        Self {
            span: self::execution(namespace_id, run_id, attempt),
            trace: self::trace(namespace_id, run_id, attempt),
        }
    }
}

fn of_run(what: &str, namespace_id: &str, run_id: &str) -> u64 {
    let parts = [what, namespace_id, run_id];
    parts
        .iter()
        .fold(0, |hash, part| xxh64(part.as_bytes(), hash))
}

fn of_attempt(what: &str, namespace_id: &str, run_id: &str, attempt: u32) -> u64 {
    let run = of_run(what, namespace_id, run_id);
    xxh64(&attempt.to_le_bytes(), run)
}

fn span(hash: u64) -> SpanId {
    SpanId::from(hash.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "0198c0de-0000-7000-8000-000000000001";
    const STEP: &str = "0198c0de-0000-7000-8000-000000000002";

    #[test]
    fn ids_are_those_of_the_contract() {
        // Made with the Python package `xxhash`. To change one is to break every trace that was stored.
        assert_eq!(start("default", RUN).to_string(), "dcdf3f44359cd13d");
        assert_eq!(run("default", RUN).to_string(), "6b2d68c846aa1634");
        assert_eq!(execution("default", RUN, 1).to_string(), "97b2b8498c64b943");
        assert_eq!(execution("default", RUN, 2).to_string(), "e0cb5a39ffe1b636");
        assert_eq!(
            step("default", RUN, 1, STEP).to_string(),
            "7407a88131a1f8d5"
        );
        assert_eq!(
            step("default", RUN, 2, STEP).to_string(),
            "c0e48132e6920ba5"
        );
        assert_eq!(
            trace("default", RUN, 1).to_string(),
            "6c4607aa8347140bcb3dd5325028b2e1"
        );
        assert_eq!(
            execution("größe", "", 4_000_000_000).to_string(),
            "a8b1aafae0f55d39"
        );
    }

    #[test]
    fn whatever_differs_makes_another_id() {
        let mut ids = std::collections::HashSet::new();
        for namespace in ["", "a", "b", "ab"] {
            for id in ["", "a", "b", "ba"] {
                assert!(ids.insert(start(namespace, id)));
                assert!(ids.insert(run(namespace, id)));
                for attempt in 0..300 {
                    assert!(ids.insert(execution(namespace, id, attempt)));
                    assert!(ids.insert(step(namespace, id, attempt, "")));
                    assert!(ids.insert(step(namespace, id, attempt, "a")));
                }
            }
        }
    }
}
