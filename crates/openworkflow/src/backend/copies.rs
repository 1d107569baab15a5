//! Runs that are made of others: what is copied, and how the two name each other.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{NewRun, RunStatus};

/// How a run was made of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CopyKind {
    /// From the same input, without results.
    Retried,
    /// With the results of all completed steps.
    Resumed,
    /// With the results up to a step.
    Forked,
}

impl CopyKind {
    /// `retried`, `resumed` or `forked`.
    ///
    /// ```
    /// use openworkflow::backend::CopyKind;
    ///
    /// assert_eq!(CopyKind::Forked.as_str(), "forked");
    /// ```
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retried => "retried",
            Self::Resumed => "resumed",
            Self::Forked => "forked",
        }
    }
}

impl fmt::Display for CopyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A run to be made of one that is over.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunCopy {
    /// The run that is over, in the namespace of the new one.
    pub origin_id: String,
    /// How the new one is made.
    pub kind: CopyKind,
    /// The new run: without an idempotency key and a parent. Its input is not looked at, that of the old
    /// run is copied.
    pub run: NewRun,
    /// The step attempts of the old run to copy, and the ids of their copies.
    pub attempts: Vec<CopiedAttempt>,
}

impl RunCopy {
    /// A copy without step attempts.
    pub fn new(origin_id: impl Into<String>, kind: CopyKind, run: NewRun) -> Self {
        Self {
            origin_id: origin_id.into(),
            kind,
            run,
            attempts: Vec::new(),
        }
    }
}

/// A step attempt to copy.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CopiedAttempt {
    /// The attempt of the old run.
    pub from_id: String,
    /// The id of its copy.
    pub id: Arc<str>,
}

impl CopiedAttempt {
    /// `from_id`, to be copied as `id`.
    pub fn new(from_id: impl Into<String>, id: impl Into<Arc<str>>) -> Self {
        Self {
            from_id: from_id.into(),
            id: id.into(),
        }
    }
}

/// What became of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyOutcome {
    /// The new run is there.
    Made,
    /// The old run is not over. Nothing was written.
    NotOver(RunStatus),
    /// There is no such run.
    NotFound,
}

/// A run that another one was made of, or that was made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RelatedRun {
    /// How the newer of the two was made.
    #[serde(rename = "how")]
    pub kind: CopyKind,
    /// The other run.
    #[serde(rename = "run")]
    pub run_id: String,
}

/// Which runs a run is related to, as [`Client::related_runs`](crate::Client::related_runs) reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RelatedRuns {
    /// The run that it was made of.
    pub made_of: Option<RelatedRun>,
    /// The runs that were made of it, in order.
    pub made_into: Vec<RelatedRun>,
}

impl RelatedRuns {
    /// From the column `config` of a run. What cannot be read is nobody's.
    pub(crate) fn decode(config: Option<&str>) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Config {
            made_of: serde_json::Value,
            made_into: Vec<serde_json::Value>,
        }
        let config: Config = config
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default();
        let related = |value| serde_json::from_value::<RelatedRun>(value).ok();
        Self {
            made_of: related(config.made_of),
            made_into: config.made_into.into_iter().filter_map(related).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_relation_is_passed_over() {
        let read = |json| RelatedRuns::decode(Some(json));
        let related = read(
            r#"{"madeOf":{"how":"retried","run":"a"},"madeInto":[1,{"how":"forked","run":"b"},{"how":"x","run":"c"}]}"#,
        );
        let of = related.made_of.expect("there is one");
        assert_eq!((of.kind, &*of.run_id), (CopyKind::Retried, "a"));
        assert_eq!(related.made_into.len(), 1);
        assert_eq!(related.made_into[0].run_id, "b");
        for nonsense in ["", "[]", "{}", r#"{"madeOf":7}"#, r#"{"madeInto":{}}"#] {
            assert_eq!(read(nonsense), RelatedRuns::default(), "{nonsense}");
        }
    }
}
