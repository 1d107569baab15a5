//! The page in a real Chromium: lists, pictures, live, actions, hostile data, a thousand steps, accessibility.
//! What needs no browser is in the tests of `crates/openworkflow-dashboard`.
//!
//! With `OPENWORKFLOW_UPDATE_IMAGES=1` the pictures in `docs/images` are taken anew.

mod browser;
mod shop;
mod site;

use site::{Kind, Site};

macro_rules! visits {
    ($($name:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            Site::open(Kind::Sqlite).await.visit(stringify!($name)).await;
        }
    )*};
}

visits!(
    list,
    picture,
    without_script,
    live,
    cancel,
    again,
    start,
    thousand,
    hostile,
    accessible,
    phone,
    dark,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures() {
    Site::open(Kind::Shop).await.visit("pictures").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typescript() {
    Site::open(Kind::TypeScript).await.visit("typescript").await;
}

mod postgres {
    use super::{Kind, Site};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn list_and_live() {
        let site = Site::open(Kind::Postgres).await;
        for visit in ["list", "picture", "live", "cancel"] {
            site.visit(visit).await;
        }
    }
}
