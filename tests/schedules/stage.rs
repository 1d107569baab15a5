//! A database on which actors act.

use std::sync::Arc;

use async_trait::async_trait;
use openworkflow::backend::Backend;

use super::gate::Gate;
use super::peer::Peer;

/// How many actors there can be.
pub(crate) const ACTORS: usize = 3;

/// A database, and lines to it that are held at gates: one for each actor.
#[async_trait]
pub(crate) trait Stage: Sync {
    /// A fresh database.
    async fn open() -> Self
    where
        Self: Sized;

    /// A backend that nothing is held of.
    fn backend(&self) -> &Arc<dyn Backend>;

    /// The gates of the actors.
    fn gates(&self) -> &[Arc<Gate>];

    /// An actor's backend.
    fn actor(&self, actor: usize) -> Arc<dyn Backend>;

    /// An actor that speaks as OpenWorkflow for TypeScript does.
    async fn peer(&self, actor: usize, namespace: &str) -> Peer;

    /// Waits until anybody arrives or is done, but not for long.
    async fn moved(&self);

    /// Whether each of these actors, whose steps are under way, waits for a lock that another holds.
    async fn are_blocked(&self, actors: &[usize]) -> bool;

    /// Executes a statement that nobody holds. Tables go without a schema; `PAST` is a time that is over.
    async fn execute(&self, sql: &str);
}
