//! What is followed live: a stream of events, each of which says that the page is not up to date any more.
//! The page then asks for itself anew, so that there is one way in which things are shown.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, Stream};
use serde::Deserialize;

use crate::figures;
use crate::pages::run::Options;
use crate::pages::runs::Filter;
use crate::problem::Problem;
use crate::{Site, story};

/// How often the database is asked.
const EVERY: Duration = Duration::from_secs(1);
const OVERVIEW_EVERY: Duration = Duration::from_secs(3);
/// What is at work is drawn up to now, so it changes without anything happening.
const REDRAWN_EVERY: u32 = 3;

/// How something is.
struct Glance {
    fingerprint: u64,
    /// Nothing will happen to it any more.
    is_over: bool,
    /// It changes with time.
    is_moving: bool,
}

type Look = Box<dyn Fn() -> BoxFuture<'static, Result<Glance, Problem>> + Send>;

pub(crate) async fn run(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    Query(options): Query<Options>,
    Query(seen): Query<Seen>,
) -> Result<Response, Problem> {
    let client = site.client.clone();
    let children = options.children();
    let look = move || -> BoxFuture<'static, Result<Glance, Problem>> {
        let (client, id) = (client.clone(), id.clone());
        Box::pin(async move {
            let (summary, _) = story::summary(&client, &id, children).await?;
            let is_over = summary.status.is_terminal();
            Ok(Glance {
                fingerprint: story::fingerprint(&summary),
                is_over,
                is_moving: !is_over,
            })
        })
    };
    follow(&site, EVERY, seen, Box::new(look))
}

pub(crate) async fn runs(
    State(site): State<Arc<Site>>,
    Query(filter): Query<Filter>,
    Query(seen): Query<Seen>,
) -> Result<Response, Problem> {
    let client = site.client.clone();
    let look = move || -> BoxFuture<'static, Result<Glance, Problem>> {
        let (client, filter) = (client.clone(), filter.clone());
        Box::pin(async move {
            Ok(Glance {
                fingerprint: filter.read(&client).await?.fingerprint(),
                is_over: false,
                is_moving: false,
            })
        })
    };
    follow(&site, EVERY, seen, Box::new(look))
}

pub(crate) async fn overview(
    State(site): State<Arc<Site>>,
    Query(seen): Query<Seen>,
) -> Result<Response, Problem> {
    let shared = Arc::clone(&site);
    let look = move || -> BoxFuture<'static, Result<Glance, Problem>> {
        let site = Arc::clone(&shared);
        Box::pin(async move {
            let figures = figures::figures(&site).await?;
            Ok(Glance {
                fingerprint: figures.fingerprint(),
                is_over: false,
                is_moving: false,
            })
        })
    };
    follow(&site, OVERVIEW_EVERY, seen, Box::new(look))
}

/// What the page shows already.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct Seen {
    seen: Option<u64>,
}

fn follow(site: &Site, every: Duration, seen: Seen, look: Look) -> Result<Response, Problem> {
    let permit = Arc::clone(&site.live).try_acquire_owned().map_err(|_| {
        let text = "Too many pages are followed live; this one is not.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    let stopping = site.stopping.subscribe();
    let following = Following {
        look,
        every,
        before: seen.seen,
        since: 0,
        is_over: false,
        stopping,
        _permit: permit,
    };
    let events = stream::unfold(following, |mut following| async move {
        let event = following.next().await?;
        Some((Ok::<_, Infallible>(event), following))
    });
    let sse = sse(events);
    // Proxies that collect answers would keep the events from the page.
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), "no")];
    Ok((unbuffered, sse).into_response())
}

fn sse<S>(events: S) -> impl IntoResponse
where
    S: Stream<Item = Result<Event, Infallible>> + Send + 'static,
{
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

struct Following {
    look: Look,
    every: Duration,
    before: Option<u64>,
    since: u32,
    is_over: bool,
    stopping: tokio::sync::watch::Receiver<bool>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Following {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if self.is_over || *self.stopping.borrow() {
                return None;
            }
            match (self.look)().await {
                Ok(state) => {
                    self.since += 1;
                    let is_due = state.is_moving && self.since >= REDRAWN_EVERY;
                    let has_changed =
                        self.before.replace(state.fingerprint) != Some(state.fingerprint);
                    if state.is_over {
                        self.is_over = true;
                        return Some(Event::default().event("over").data("over"));
                    }
                    if has_changed || is_due {
                        self.since = 0;
                        return Some(Event::default().event("changed").data("changed"));
                    }
                }
                Err(problem) if problem.status == StatusCode::SERVICE_UNAVAILABLE => {
                    let event = Event::default().event("trouble");
                    self.pause().await;
                    return Some(event.data("the database does not answer"));
                }
                // Deleted meanwhile.
                Err(_) => {
                    self.is_over = true;
                    return Some(Event::default().event("over").data("gone"));
                }
            }
            self.pause().await;
        }
    }

    async fn pause(&mut self) {
        let stopped = self.stopping.changed();
        let waited = tokio::time::timeout(self.every, stopped).await;
        // Whoever could say that the server stops is gone.
        self.is_over |= matches!(waited, Ok(Err(_)));
    }
}
