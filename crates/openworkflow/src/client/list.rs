//! Lists of runs and of step attempts.

use std::fmt;
use std::sync::Arc;

use super::outage::ride_out;
use super::{ClientError, ClientResult, Shared};
use crate::backend::{
    Cursor, ListRuns, ListSteps, Page, PageEdge, RunStatus, StepAttempt, Window, WorkflowRun,
};
use crate::step::{Lazy, lazy_future};

const MAX_LIMIT: u32 = 1000;

struct Config<Q> {
    client: Arc<Shared>,
    query: Q,
    limit: Option<u32>,
    after: Option<String>,
    before: Option<String>,
}

impl<Q> Config<Q> {
    fn new(client: Arc<Shared>, query: Q) -> Self {
        Self {
            client,
            query,
            limit: None,
            after: None,
            before: None,
        }
    }

    fn window(&self) -> ClientResult<Window> {
        let mut window = Window::default();
        if let Some(limit) = self.limit {
            if !(1..=MAX_LIMIT).contains(&limit) {
                return Err(ClientError::Invalid(format!(
                    "a page of {limit} items; ask for 1 to {MAX_LIMIT}"
                )));
            }
            window.limit = limit;
        }
        window.from = match (&self.after, &self.before) {
            (None, None) => None,
            (Some(after), None) => Some(PageEdge::After(cursor(after)?)),
            (None, Some(before)) => Some(PageEdge::Before(cursor(before)?)),
            (Some(_), Some(_)) => {
                let problem = "`after` and `before` exclude each other".to_owned();
                return Err(ClientError::InvalidCursor { problem });
            }
        };
        Ok(window)
    }
}

fn cursor(text: &str) -> ClientResult<Cursor> {
    let decoded = Cursor::decode(text).filter(|cursor| !cursor.id().contains('\0'));
    decoded.ok_or_else(|| ClientError::InvalidCursor {
        problem: format!(
            "{:?} is no cursor",
            text.chars().take(80).collect::<String>()
        ),
    })
}

/// A page of runs to be read; a future that does so. See
/// [`Client::list_runs`](super::Client::list_runs).
///
/// # Errors
///
/// It resolves with [`ClientError::Invalid`] where the limit is out of range or a text that is looked for
/// cannot be there, [`ClientError::InvalidCursor`], or [`ClientError::Backend`].
#[must_use = "a list is read when the request is awaited"]
pub struct ListRunsRequest(Lazy<'static, Config<ListRuns>, ClientResult<Page<WorkflowRun>>>);

impl ListRunsRequest {
    pub(super) fn new(client: Arc<Shared>) -> Self {
        let query = ListRuns::new(&*client.namespace_id);
        Self(Lazy::Configured(Config::new(client, query)))
    }

    /// Only runs with this status, exactly as it stands in the database:
    /// [`Succeeded`](RunStatus::Succeeded) and [`Sleeping`](RunStatus::Sleeping), which old versions wrote,
    /// are statuses of their own. Text is [parsed](str::parse), which refuses what is no status.
    pub fn status(mut self, status: RunStatus) -> Self {
        if let Some(config) = self.0.config() {
            config.query.status = Some(status);
        }
        self
    }

    /// Only runs of this workflow.
    pub fn workflow(mut self, name: impl Into<String>) -> Self {
        if let Some(config) = self.0.config() {
            config.query.workflow_name = Some(name.into());
        }
        self
    }
}

/// A page of step attempts to be read; a future that does so. See
/// [`Client::list_steps`](super::Client::list_steps). A run that does not exist has none.
///
/// # Errors
///
/// As [`ListRunsRequest`].
#[must_use = "a list is read when the request is awaited"]
pub struct ListStepsRequest(Lazy<'static, Config<ListSteps>, ClientResult<Page<StepAttempt>>>);

impl ListStepsRequest {
    pub(super) fn new(client: Arc<Shared>, run_id: String) -> Self {
        let query = ListSteps::new(&*client.namespace_id, run_id);
        Self(Lazy::Configured(Config::new(client, query)))
    }
}

impl Config<ListRuns> {
    fn check(&self) -> ClientResult<()> {
        let query = &self.query;
        let status = query.status.as_ref().map_or("", RunStatus::as_str);
        let workflow = query.workflow_name.as_deref().unwrap_or_default();
        let texts = [("the status", status), ("the workflow's name", workflow)];
        self.client.check_lookup(&texts)
    }
}

impl Config<ListSteps> {
    fn check(&self) -> ClientResult<()> {
        let texts = [("the run's id", &*self.query.run_id)];
        self.client.check_lookup(&texts)
    }
}

macro_rules! list_request {
    ($request:ty => $item:ty, $list:ident) => {
        impl $request {
            /// How many items, at most: 1 to 1000. The default is 100.
            pub fn limit(mut self, items: u32) -> Self {
                if let Some(config) = self.0.config() {
                    config.limit = Some(items);
                }
                self
            }

            /// The page after the one whose `next` this is.
            pub fn after(mut self, cursor: impl Into<String>) -> Self {
                if let Some(config) = self.0.config() {
                    config.after = Some(cursor.into());
                }
                self
            }

            /// The page before the one whose `prev` this is.
            pub fn before(mut self, cursor: impl Into<String>) -> Self {
                if let Some(config) = self.0.config() {
                    config.before = Some(cursor.into());
                }
                self
            }
        }

        lazy_future! {
            [] $request => ClientResult<Page<$item>>,
            |config| Box::pin(async move {
                config.check()?;
                let window = config.window()?;
                let mut query = config.query;
                query.window = window;
                let client = &config.client;
                let list = || client.backend.$list(query.clone());
                Ok(ride_out(client.retry_for, list).await?)
            })
        }

        impl fmt::Debug for $request {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($request)).finish_non_exhaustive()
            }
        }
    };
}

list_request!(ListRunsRequest => WorkflowRun, list_runs);
list_request!(ListStepsRequest => StepAttempt, list_step_attempts);
