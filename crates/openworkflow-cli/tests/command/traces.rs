//! What happened to a run, in all forms and widths.

use crate::program::{run_with, snapshot};
use crate::site::Site;

#[tokio::test]
async fn an_order_is_shown() {
    let site = Site::new().await;
    let order = site.order().await;
    let trace = |args: &[&str]| site.run(&[&["trace", &order], args].concat()).told();
    snapshot("waterfall_80", trace(&[]));
    snapshot("waterfall_200", trace(&["--width", "200", "--children"]));
    snapshot("waterfall_true_scale", trace(&["--true-scale"]));
    snapshot("summary", trace(&["--format", "summary"]));
    snapshot("events", trace(&["--format", "events", "--width", "140"]));
    snapshot(
        "events_internal",
        trace(&[
            "--format",
            "events",
            "--internal",
            "--children",
            "--width",
            "160",
        ]),
    );
    snapshot("internal_refused", trace(&["--internal"]));
    let json = site
        .run(&["trace", &order, "--json", "--children"])
        .objects();
    assert_eq!(json[0]["steps"].as_array().map(Vec::len), Some(5));
    assert_eq!(
        json[0]["descendants"][0]["workflow_name"],
        "fulfill-shipment"
    );
    let events = site
        .run(&["trace", &order, "--format", "events", "--json"])
        .objects();
    assert_eq!(events[0]["event"], "run_created");
    assert_eq!(
        events.last().map(|event| &event["event"]),
        Some(&"run_completed".into())
    );
}

#[tokio::test]
async fn a_failure_is_seen_first() {
    let site = Site::new().await;
    let broken = site.broken().await;
    snapshot("waterfall_failed", site.run(&["trace", &broken]).told());
}

#[tokio::test]
async fn a_long_run_is_folded() {
    let site = Site::new().await;
    let long = site.long(900).await;
    let told = site.run(&["trace", &long]).ok();
    assert!(told.lines().count() < 60, "{told}");
    snapshot("waterfall_long", &told);
    let all = site.run(&["trace", &long, "--all"]).ok();
    assert!(all.lines().filter(|line| line.starts_with("bill")).count() >= 900);
}

#[tokio::test]
async fn a_run_under_way_is_shown() {
    let site = Site::new().await;
    let run = site
        .client
        .start(&crate::site::ORDER, &1)
        .await
        .expect("it starts");
    let told = site.run(&["trace", run.id()]).ok();
    assert!(
        told.contains("waits for a worker") && told.contains("no steps yet"),
        "{told}"
    );
    for _ in 0..4 {
        site.tick().await;
    }
    let told = site.run(&["trace", run.id()]).ok();
    assert!(told.contains("waits for confirmed:1 until"), "{told}");
    assert!(
        told.lines()
            .any(|line| line.starts_with("confirmed:1") && line.ends_with("waiting")),
        "{told}"
    );
}

#[tokio::test]
async fn colors_are_for_terminals() {
    let site = Site::new().await;
    let order = site.order().await;
    let database = site.path.to_str().expect("text");
    let args = ["--database", database, "trace", &order];
    let plain = run_with(&args, &[], "").ok();
    assert!(!plain.contains('\u{1b}'));
    let colored = run_with(
        &[&args as &[&str], &["--color", "always"]].concat(),
        &[],
        "",
    )
    .ok();
    assert!(colored.contains("\u{1b}[32m█"), "{colored}");
    let variables = [("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")];
    assert!(!run_with(&args, &variables[..1], "").ok().contains('\u{1b}'));
}
