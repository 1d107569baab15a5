//! What is recorded of a run's executions, beside the protocol: `docs/protocol.md` tells where.

use std::time::SystemTime;

use serde::Deserialize;

use super::codec;

/// The table of executions that their owners ended. Ours alone, with rows that may outlive their run: whoever
/// deletes runs, deletes those, too.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
macro_rules! executions_table {
    () => {
        "openworkflow_executions"
    };
}
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use executions_table;

/// Where the versions of our own tables stand.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
macro_rules! own_migrations_table {
    () => {
        "openworkflow_rust_migrations"
    };
}
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use own_migrations_table;

/// The newest version of our own tables.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) const OWN_VERSION: i64 = 1;

/// From which size on, in bytes, a run's `config` takes up no more executions: of a run that kills worker
/// after worker.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
macro_rules! config_limit {
    () => {
        "200000"
    };
}
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use config_limit;

/// When a run was due that was claimed, and when it was claimed, by the database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClaimTimes {
    /// Since when it was due.
    pub due_at: SystemTime,
    /// When it was claimed.
    pub claimed_at: SystemTime,
}

impl ClaimTimes {
    /// For backends.
    #[must_use]
    pub fn new(due_at: SystemTime, claimed_at: SystemTime) -> Self {
        Self { due_at, claimed_at }
    }
}

/// How a recorded execution ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecordedEnding {
    /// The run was put away, to wait.
    Parked,
    /// Something failed and is to be tried again.
    Retrying,
    /// The run failed.
    Failed,
    /// The run was canceled meanwhile.
    Canceled,
    /// The worker died, or lost its lease.
    Lost,
    /// The worker stopped, and gave the run back.
    GivenBack,
}

impl RecordedEnding {
    const ALL: [Self; 6] = [
        Self::Parked,
        Self::Retrying,
        Self::Failed,
        Self::Canceled,
        Self::Lost,
        Self::GivenBack,
    ];

    /// The ending as it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Lost => "lost",
            Self::GivenBack => "given_back",
        }
    }

    /// The ending that is stored as `word`, if it is a known one.
    #[must_use]
    pub fn from_stored(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ending| ending.as_str() == word)
    }
}

/// An execution that is over, as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecutionRecord {
    /// Which claim of the run it was, from 1.
    pub attempt: u32,
    /// Who had the run.
    pub worker_id: String,
    /// When the run was due, and when it was claimed.
    pub times: ClaimTimes,
    /// When the execution ended. Of one that was lost, when its worker last wrote to the run's row.
    pub ended_at: SystemTime,
    /// How.
    pub ending: RecordedEnding,
}

impl ExecutionRecord {
    /// For backends.
    pub fn new(
        attempt: u32,
        worker_id: impl Into<String>,
        times: ClaimTimes,
        ended_at: SystemTime,
        ending: RecordedEnding,
    ) -> Self {
        Self {
            attempt,
            worker_id: worker_id.into(),
            times,
            ended_at,
            ending,
        }
    }
}

/// What a run's column `config` says of executions.
#[derive(Debug, Default)]
pub(crate) struct InConfig {
    /// The claim that was last made by this library.
    pub(crate) claim: Option<(u32, ClaimTimes)>,
    /// Executions that others ended.
    pub(crate) ended: Vec<ExecutionRecord>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    attempt: u32,
    due_at: String,
    began_at: String,
    #[serde(default)]
    worker_id: String,
    #[serde(default)]
    ended_at: String,
    #[serde(default)]
    outcome: String,
}

impl Entry {
    fn times(&self) -> Option<ClaimTimes> {
        let due_at = codec::parse_time(&self.due_at)?;
        let claimed_at = codec::parse_time(&self.began_at)?;
        Some(ClaimTimes { due_at, claimed_at })
    }

    fn ended(&self) -> Option<ExecutionRecord> {
        Some(ExecutionRecord {
            attempt: self.attempt,
            worker_id: self.worker_id.clone(),
            times: self.times()?,
            ended_at: codec::parse_time(&self.ended_at)?,
            ending: RecordedEnding::from_stored(&self.outcome)?,
        })
    }
}

impl InConfig {
    /// Reads what is there. What somebody else has put in its place says nothing.
    pub(crate) fn read(config: Option<&str>) -> Self {
        let config =
            config.filter(|json| json.contains("\"claim\"") || json.contains("\"executions\""));
        let Some(config) = config.and_then(|json| serde_json::from_str(json).ok()) else {
            return Self::default();
        };
        let config: serde_json::Value = config;
        let entry = |json: &serde_json::Value| Entry::deserialize(json).ok();
        let claim = config.get("claim").and_then(entry);
        let ended = config
            .get("executions")
            .and_then(serde_json::Value::as_array);
        let ended = ended.into_iter().flatten().filter_map(entry);
        Self {
            claim: claim.and_then(|claim| Some((claim.attempt, claim.times()?))),
            ended: ended.filter_map(|entry| entry.ended()).collect(),
        }
    }

    /// The number of a run's last execution, if that was lost.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn lost(config: Option<&str>, attempts: u32) -> Option<u32> {
        let last = Self::read(config).ended.pop()?;
        let is_lost = last.attempt == attempts && last.ending == RecordedEnding::Lost;
        is_lost.then_some(attempts)
    }
}
