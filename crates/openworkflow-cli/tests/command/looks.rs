//! Lists, one run, counts; starting, signaling, canceling and awaiting.

use std::time::Duration;

use serde_json::json;

use crate::program::{run, run_with, snapshot};
use crate::site::{ORDER, Site};

#[tokio::test]
async fn runs_are_listed() {
    let site = Site::new().await;
    site.order().await;
    site.broken().await;
    snapshot("runs_80", site.run(&["runs"]).told());
    snapshot("runs_200", site.run(&["runs", "--width", "200"]).told());
    snapshot("runs_json", site.run(&["runs", "--json"]).told());
    let failed = site
        .run(&["runs", "--status", "failed", "--json"])
        .objects();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["workflow_name"], "broken");
    let orders = site.run(&[
        "runs",
        "--workflow",
        "process-order",
        "--json",
        "--payloads",
    ]);
    let orders = orders.objects();
    assert_eq!(orders[0]["input"], json!(4711));
    snapshot(
        "runs_none",
        site.run(&["runs", "--workflow", "nothing"]).told(),
    );
}

#[tokio::test]
async fn a_list_goes_on_where_it_said() {
    let site = Site::new().await;
    for order in 0..3 {
        site.client.start(&ORDER, &order).await.expect("it starts");
        site.clock.advance(Duration::from_millis(1));
    }
    let first = site.run(&["runs", "--limit", "2", "--json"]);
    let cursor = first
        .stderr
        .trim()
        .rsplit(' ')
        .next()
        .expect("a cursor")
        .to_owned();
    let rest = site.run(&["runs", "--limit", "2", "--json", "--after", &cursor]);
    assert_eq!((first.objects().len(), rest.objects().len()), (2, 1));
    assert_eq!(rest.stderr, "");
    assert_eq!(site.run(&["runs", "--after", "nonsense"]).code, 2);
}

#[tokio::test]
async fn a_run_and_its_steps_are_shown() {
    let site = Site::new().await;
    let order = site.order().await;
    let broken = site.broken().await;
    snapshot("run_show", site.run(&["run", "show", &order]).told());
    snapshot(
        "run_show_failed",
        site.run(&["run", "show", &broken]).told(),
    );
    snapshot(
        "run_show_payloads",
        site.run(&["run", "show", &order, "--payloads"]).told(),
    );
    snapshot("steps_80", site.run(&["steps", &order]).told());
    snapshot(
        "steps_200",
        site.run(&["steps", &order, "--width", "200", "--payloads"])
            .told(),
    );
    snapshot("steps_json", site.run(&["steps", &broken, "--json"]).told());
    snapshot("run_missing", site.run(&["run", "show", "nobody"]).told());
    assert_eq!(site.run(&["steps", "nobody"]).code, 1);
}

#[tokio::test]
async fn payloads_are_shown_on_request_only() {
    let site = Site::new().await;
    let secret = r#"{"iban":"DE02 secret"}"#;
    let started = site.run(&["run", "start", "nobodys", "--input", secret, "--json"]);
    assert!(!started.stdout.contains("secret"), "{}", started.stdout);
    let id = started.objects()[0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    site.execute(
        "UPDATE workflow_runs SET status = 'completed', output = input, finished_at = created_at",
        [],
    );
    let commands: [&[&str]; 5] = [
        &["runs"],
        &["run", "show", &id],
        &["run", "await", &id],
        &["steps", &id],
        &["trace", &id],
    ];
    for command in commands {
        for json in [&[] as &[&str], &["--json"]] {
            let args = [command, json].concat();
            let told = site.run(&args).ok();
            assert!(!told.contains("secret"), "{args:?}: {told}");
        }
    }
    for command in [&["run", "show", &*id] as &[&str], &["run", "await", &id]] {
        let told = site.run(&[command, &["--payloads"]].concat()).ok();
        assert!(told.contains("DE02 secret"), "{command:?}: {told}");
    }
}

/// Executes the run until this is shown of it, 50 times at most.
async fn tick_until(site: &Site, id: &str, text: &str) {
    let mut shown = String::new();
    for _ in 0..50 {
        site.catch_up();
        site.tick().await;
        shown = site.run(&["run", "show", id]).ok();
        if shown.contains(text) {
            return;
        }
    }
    panic!("no {text:?}: {shown}");
}

#[tokio::test]
async fn a_run_is_started_signaled_awaited_and_canceled() {
    let site = Site::new().await;
    let start = [
        "run",
        "start",
        "process-order",
        "--version",
        "2",
        "--key",
        "k",
    ];
    let id = site
        .run(&[&start as &[&str], &["--input", "4712"]].concat())
        .ok();
    let id = id.trim();
    assert_eq!(site.run(&start).ok().trim(), id, "the key finds it");
    let limit = ["run", "await", id, "--timeout", "100ms"];
    snapshot("await_in_vain", site.run(&limit).told());
    // Its child, and the wait.
    tick_until(&site, id, "waits for confirmed:4712 until ").await;
    snapshot("signal_nobody", site.run(&["signal", "other", "1"]).told());
    let sent = site
        .run(&["signal", "confirmed:4712", "\"yes\"", "--json"])
        .objects();
    assert_eq!(sent[0]["run_ids"], json!([id]));
    tick_until(&site, id, "waits for cooldown until ").await;
    snapshot("cancel", site.run(&["run", "cancel", id]).told());
    snapshot("await_canceled", site.run(&["run", "await", id]).told());

    let failed = site.broken().await;
    snapshot("await_failed", site.run(&["run", "await", &failed]).told());
    snapshot(
        "cancel_failed",
        site.run(&["run", "cancel", &failed]).told(),
    );
}

#[tokio::test]
async fn inputs_come_from_anywhere_and_stay_as_they_are() {
    let site = Site::new().await;
    let database = site.path.to_str().expect("text");
    let long = "{ \"n\": 12345678901234567890123.450,\n \"text\": \"ä \\u0007\" }";
    let file = site.path.with_extension("json");
    std::fs::write(&file, long).expect("a file can be written");
    let from_file = format!("@{}", file.display());
    let start = [
        "--database",
        database,
        "run",
        "start",
        "w",
        "--json",
        "--payloads",
        "--input",
    ];
    for (given, input) in [(long, ""), (&*from_file, ""), ("-", long)] {
        let ran = run_with(&[&start as &[&str], &[given]].concat(), &[], input);
        let told = ran.ok();
        let kept = r#""input":{"n":12345678901234567890123.450,"text":"ä \u0007"}"#;
        assert!(told.contains(kept), "{told}");
    }
    snapshot(
        "input_no_json",
        site.run(&["run", "start", "w", "--input", "{x"]).told(),
    );
    assert_eq!(
        site.run(&["run", "start", "w", "--input", "@/nowhere/x"])
            .code,
        2
    );
    assert_eq!(site.run(&["signal", "s", "nonsense"]).code, 2);
}

#[tokio::test]
async fn runs_are_counted() {
    let site = Site::new().await;
    site.order().await;
    site.broken().await;
    let stats = site.run(&["stats", "--json"]).objects();
    let counts =
        ["pending", "running", "completed", "failed", "canceled"].map(|key| &stats[0][key]);
    assert_eq!(counts, [0, 0, 2, 1, 0]);
    snapshot("stats", site.run(&["stats"]).told());
    let elsewhere = site
        .run(&["stats", "--namespace", "other", "--json"])
        .objects();
    assert_eq!(elsewhere[0]["completed"], 0);
    site.client.start(&ORDER, &1).await.expect("it starts");
    let stats = site.run(&["stats", "--json"]).objects();
    assert_eq!(stats[0]["queue"]["due"], 1);
}

#[test]
fn shells_are_served() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(&["completions", shell]).ok();
        assert!(script.contains("true-scale"), "{shell}");
    }
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().to_str().expect("text");
    run(&["man", path]).ok();
    let page = std::fs::read_to_string(folder.path().join("openworkflow-trace.1"));
    assert!(page.expect("the page is there").contains("true\\-scale"));
    assert_eq!(run(&["man", "/nowhere/at/all"]).code, 1);
}

#[tokio::test]
async fn a_run_is_retried_resumed_and_forked() {
    let site = Site::new().await;
    let order = site.order().await;
    let broken = site.broken().await;
    let made = |args: &[&str]| site.run(args).ok().trim().to_owned();
    let retried = made(&["run", "retry", &order]);
    let forked = made(&["run", "fork", &order, "--from", "notify-customer"]);
    let resumed = made(&["run", "resume", &broken]);
    let shown = site.run(&["run", "show", &order]).ok();
    assert!(
        shown.contains(&format!("made into   {retried}, retried")),
        "{shown}"
    );
    assert!(
        shown.contains(&format!("made into   {forked}, forked")),
        "{shown}"
    );
    let shown = site.run(&["run", "show", &resumed]).ok();
    assert!(
        shown.contains(&format!("made of     {broken}, resumed")),
        "{shown}"
    );
    let steps = site.run(&["steps", &forked]).ok();
    assert!(
        steps.contains("cooldown") && !steps.contains("notify-customer"),
        "{steps}"
    );

    for (args, code, remedy) in [
        (
            vec!["run", "retry", &retried],
            1,
            "openworkflow run cancel ",
        ),
        (vec!["run", "resume", &order], 1, "openworkflow run retry "),
        (
            vec!["run", "fork", &order, "--from", "x"],
            1,
            "openworkflow steps ",
        ),
        (vec!["run", "retry", "nobody"], 1, "openworkflow runs"),
    ] {
        let ran = site.run(&args);
        assert_eq!(ran.code, code, "{args:?}");
        let told = ran.told();
        assert!(told.contains("remedy: ") && told.contains(remedy), "{told}");
    }
}
