//! What is answered at which path.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::problem::Problem;
use crate::{Site, api, assets, guard, live, pages};

pub(crate) fn router<S: Clone + Send + Sync + 'static>(site: Arc<Site>) -> Router<S> {
    let api = Router::new()
        .route("/overview", get(api::overview))
        .route("/workflows/{name}", get(api::workflow))
        .route("/runs", get(api::runs).post(api::start))
        .route("/runs/{id}", get(api::run))
        .route("/runs/{id}/picture", get(api::picture))
        .route("/runs/{id}/events", get(api::events))
        .route("/runs/{id}/steps", get(api::steps))
        .route("/runs/{id}/cancel", post(api::cancel))
        .route("/runs/{id}/again", post(api::again))
        .route("/signals", post(api::signal));
    Router::new()
        .route("/", get(pages::overview::show))
        .route("/runs", get(pages::runs::list))
        .route("/workflows/{name}", get(pages::workflow::show))
        .route("/runs/{id}", get(pages::run::show))
        .route(
            "/runs/{id}/cancel",
            get(pages::actions::ask_cancel).post(pages::actions::cancel),
        )
        .route(
            "/runs/{id}/again",
            get(pages::again::ask).post(pages::again::make),
        )
        .route("/runs/{id}/signal", get(pages::actions::ask_signal_run))
        .route(
            "/start",
            get(pages::actions::ask_start).post(pages::actions::start),
        )
        .route(
            "/signal",
            get(pages::actions::ask_signal).post(pages::actions::signal),
        )
        .route("/login", get(pages::login::ask).post(pages::login::enter))
        .route("/live", get(live::overview))
        .route("/live/runs", get(live::runs))
        .route("/live/runs/{id}", get(live::run))
        .route("/assets/{version}/{name}", get(assets::asset))
        .nest("/api", api)
        .fallback(no_page)
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(&site),
            guard::guard,
        ))
        .with_state(site)
}

async fn no_page() -> Problem {
    Problem::not_found()
}
