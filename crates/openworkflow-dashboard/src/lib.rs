//! A web page for the runs in a database: which there are, how they fare, and what happened to each, as a
//! picture. It is a router to nest into an application's own service, and a server for those that have none;
//! `openworkflow dashboard` is the latter. Everything that it shows comes from the database, and everything
//! that it is made of is in the binary: there is nothing to build, to install or to load from elsewhere.
//!
//! ```no_run
//! use openworkflow::{Client, Sqlite};
//! use openworkflow_dashboard::{Access, Dashboard};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(Sqlite::open("app.db").await?);
//! let dashboard = Dashboard::new(client).access(Access::token("a long secret")?);
//! let app: axum::Router = axum::Router::new().nest("/workflows", dashboard.router());
//!
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//! axum::serve(listener, app).await?;
//! # Ok(()) }
//! ```
//!
//! `docs/dashboard.md` tells what is on the pages, who gets to see them, and what is asked of the database.

mod access;
mod api;
mod assets;
mod figures;
mod guard;
mod link;
mod live;
mod pages;
mod problem;
mod request;
mod routes;
mod serve;
mod standings;
mod story;
mod text;
mod workflow;

use std::fmt;
use std::sync::Arc;

use openworkflow::Client;
use tokio::sync::{Semaphore, watch};

pub use access::{Access, InvalidAccess};
pub use link::InvalidLink;
pub use serve::ServeError;

use access::Rule;
use link::TraceLink;

/// How many pages are followed live at once; each asks the database once a second.
const MOST_LIVE: usize = 64;

/// The page for a client's namespace.
///
/// By default it can start, cancel, signal and repeat runs, shows no inputs, outputs and results of steps, and lets in
/// whoever comes from the machine itself.
#[must_use = "a dashboard does nothing until it is a router or serves"]
pub struct Dashboard {
    client: Client,
    access: Rule,
    base_path: Option<String>,
    links: Vec<TraceLink>,
    payloads: bool,
    read_only: bool,
}

/// What all requests share.
pub(crate) struct Site {
    client: Client,
    access: Rule,
    base_path: Option<String>,
    links: Vec<TraceLink>,
    payloads: bool,
    read_only: bool,
    figures: figures::Cache,
    standings: standings::Cache,
    live: Arc<Semaphore>,
    /// Turns true when the server stops, so that what is followed live ends.
    stopping: watch::Sender<bool>,
}

impl Dashboard {
    /// The page for the runs of this client. Interceptors of the client see what the page does.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            access: Rule::Local,
            base_path: None,
            links: Vec::new(),
            payloads: false,
            read_only: false,
        }
    }

    /// Who gets to see it. The default is [`Access::local`].
    pub fn access(mut self, access: Access) -> Self {
        self.access = access.0;
        self
    }

    /// Whether runs can only be looked at. By default they can be started, canceled, signaled and repeated too.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Whether inputs, outputs and results of steps are shown, to everybody who gets in. By default they are
    /// not. Names and the messages of errors always are.
    pub fn payloads(mut self, show: bool) -> Self {
        self.payloads = show;
        self
    }

    /// The path under which browsers find the page, where a proxy in front of it takes a part off. Where the
    /// router is nested, that path is known already.
    pub fn base_path(mut self, path: impl Into<String>) -> Self {
        let path = path.into();
        let path = path.trim_matches('/');
        self.base_path = Some(match path {
            "" => String::new(),
            path => format!("/{path}"),
        });
        self
    }

    /// Adds a link from a run to its trace elsewhere: `template` is a URL in which `{trace_id}` stands for the
    /// trace id. Runs that were started without a trace have none.
    ///
    /// ```no_run
    /// # fn example(client: openworkflow::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let dashboard = openworkflow_dashboard::Dashboard::new(client)
    ///     .trace_link("Jaeger", "http://localhost:16686/trace/{trace_id}")?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidLink`] where it is no URL of the web, or has no place for the trace id.
    pub fn trace_link(
        mut self,
        name: impl Into<String>,
        template: impl Into<String>,
    ) -> Result<Self, InvalidLink> {
        self.links
            .push(TraceLink::new(name.into(), template.into())?);
        Ok(self)
    }

    /// The routes, to be nested where the application likes.
    ///
    /// With [`Access::local`] and [`Access::proxy`] the application serves it with
    /// [`into_make_service_with_connect_info`](axum::Router::into_make_service_with_connect_info) for
    /// `SocketAddr`; without that nobody can be told from anybody else, and nobody is let in.
    pub fn router<S: Clone + Send + Sync + 'static>(self) -> axum::Router<S> {
        routes::router(Arc::new(self.site()))
    }

    fn site(self) -> Site {
        Site {
            client: self.client,
            access: self.access,
            base_path: self.base_path,
            links: self.links,
            payloads: self.payloads,
            read_only: self.read_only,
            figures: figures::Cache::default(),
            standings: standings::Cache::default(),
            live: Arc::new(Semaphore::new(MOST_LIVE)),
            stopping: watch::Sender::new(false),
        }
    }
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard")
            .field("client", &self.client)
            .field("access", &self.access)
            .field("base_path", &self.base_path)
            .field("payloads", &self.payloads)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

// The page about it compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/dashboard.md")]
struct Documentation;
