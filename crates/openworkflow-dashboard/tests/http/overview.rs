use std::time::{Duration, SystemTime};

use axum::Router;
use openworkflow::{Client, Clock, Sqlite, WorkflowSpec};
use openworkflow_dashboard::Dashboard;

use crate::site::{Site, WAITS, ask, get};

static NEVER: WorkflowSpec<(), ()> = WorkflowSpec::new("never-claimed").version("7");

#[tokio::test]
async fn what_nobody_claims_needs_somebody() {
    let clock = Clock::manual(SystemTime::now() - Duration::from_secs(600));
    let store = Sqlite::options().clock(clock.clone());
    let store = store.open_in_memory().await.expect("SQLite opens");
    let client = Client::new(store);
    for _ in 0..2 {
        client.start(&NEVER, &()).await.expect("it starts");
    }
    clock.set(SystemTime::now());
    let router: Router = Dashboard::new(client).router();
    let page = ask(&router, get("/")).await.text;
    assert!(
        page.contains("Needs you") && page.contains("2 runs are due since"),
        "{page}"
    );
    assert!(
        page.contains("10 min") && page.contains("version 7"),
        "{page}"
    );
    // The figure is over its limit, in words and not by color alone.
    assert!(page.contains("Over the limit"), "{page}");
}

#[tokio::test]
async fn where_nothing_is_wrong_nothing_is_said() {
    let site = Site::new().await;
    let router: Router = site.dashboard().router();
    assert!(ask(&router, get("/")).await.text.contains("No runs yet"));
    let site = Site::new().await;
    site.client
        .start(&WAITS, &"x".to_owned())
        .await
        .expect("it starts");
    site.work().await;
    let router: Router = site.dashboard().router();
    let page = ask(&router, get("/")).await.text;
    assert!(
        page.contains("Nothing needs you") && !page.contains("Over the limit"),
        "{page}"
    );
    // What it waits for is in the list.
    let list = ask(&router, get("/runs")).await.text;
    assert!(list.contains("waits for <b>go:x</b>"), "{list}");
}
