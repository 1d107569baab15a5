//! What a guarded write that changed nothing has come upon.

use workflow_core::Interruption;

use super::session::{Guard, WhenLost};
use super::{Inner, rows};
use crate::backend::{BackendError, BackendResult, Owner};

/// What became of a run that is nobody's, or somebody else's.
#[derive(Default)]
struct Standing {
    /// None where the run is gone.
    status: Option<String>,
    has_expired: bool,
    /// Whether the owner has made it so.
    is_owners: bool,
}

impl Standing {
    fn lost(&self) -> BackendError {
        let reason = match self.status.as_deref() {
            Some("canceled") => Interruption::Canceled,
            Some("failed") if self.has_expired => Interruption::DeadlineExceeded,
            _ => Interruption::LeaseLost,
        };
        BackendError::OwnershipLost { reason }
    }
}

impl Inner {
    /// The error of a guarded operation that found the run no longer its own.
    pub(super) async fn ownership_lost(&self, owner: &Owner) -> BackendError {
        match self.standing(owner).await {
            Ok(standing) => standing.lost(),
            Err(error) => error,
        }
    }

    /// What it means for the end of an execution that it changed nothing. That the owner has left the run
    /// with this status is what it was to do: the answer was lost the first time.
    pub(super) async fn left(&self, owner: &Owner, status: &str) -> BackendResult<()> {
        let standing = self.standing(owner).await?;
        match standing.status.as_deref() {
            Some(left) if standing.is_owners && left == status => Ok(()),
            _ => Err(standing.lost()),
        }
    }

    async fn standing(&self, owner: &Owner) -> BackendResult<Standing> {
        let guard = Guard::new(owner);
        let params = guard.params();
        let call = self.sql.standing.with(&params);
        let rows = self.sessions.one(WhenLost::Again, call).await?;
        match rows.first() {
            None => Ok(Standing::default()),
            Some(row) => Ok(Standing {
                status: rows::value(row, 0)?,
                has_expired: rows::value::<Option<bool>>(row, 1)?.unwrap_or(false),
                is_owners: rows::value(row, 2)?,
            }),
        }
    }
}
