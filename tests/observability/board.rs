//! The dashboard, as far as it can be judged without a Grafana.

use std::fs;

use serde_json::Value;

use crate::docs;

/// The queries of a board's panels and annotations, each with where it stands.
pub(crate) fn queries() -> Vec<(String, String)> {
    let board = board();
    let annotations = board["annotations"]["list"].as_array().unwrap().iter();
    let annotations = annotations.filter(|one| one["builtIn"] != 1);
    let annotations = annotations.map(|one| (text(&one["name"]), text(&one["expr"])));
    let panels = panels(&board).into_iter();
    let panels = panels.flat_map(|panel| {
        let title = text(&panel["title"]);
        let targets = panel["targets"].as_array().unwrap().clone();
        targets
            .into_iter()
            .map(move |target| (title.clone(), text(&target["expr"])))
    });
    annotations.chain(panels).collect()
}

/// What its variables look up: a label, and the series that have it.
pub(crate) fn variables() -> Vec<(String, String)> {
    let board = board();
    let variables = board["templating"]["list"].as_array().unwrap().iter();
    let queries = variables.filter(|variable| variable["type"] == "query");
    let looked_up = queries.map(|variable| {
        let query = text(&variable["query"]["query"]);
        let inside = query.strip_prefix("label_values(").unwrap();
        let (series, label) = inside.strip_suffix(')').unwrap().rsplit_once(", ").unwrap();
        (label.to_owned(), series.to_owned())
    });
    looked_up.collect()
}

/// A query as Grafana sends it, with all jobs and workflows chosen.
pub(crate) fn filled_in(query: &str) -> String {
    let filled_in = query
        .replace("$__rate_interval", "5m")
        .replace("$job", ".*")
        .replace("$workflow", ".*");
    assert!(!filled_in.contains('$'), "an unknown variable: {query}");
    filled_in
}

fn board() -> Value {
    let text = fs::read_to_string(docs("dashboard.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn panels(board: &Value) -> Vec<Value> {
    let panels = board["panels"].as_array().unwrap().iter();
    panels
        .filter(|panel| panel["type"] != "row")
        .cloned()
        .collect()
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

#[test]
fn every_panel_is_whole() {
    let board = board();
    let all = board["panels"].as_array().unwrap();
    let mut ids: Vec<_> = all
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all.len(), "ids of panels are unique");

    let rows = all.iter().filter(|panel| panel["type"] == "row");
    let rows: Vec<_> = rows.map(|row| text(&row["title"])).collect();
    let expected = [
        "Now",
        "Throughput",
        "Latency by workflow",
        "Latency by step",
        "Failures and retries",
        "Queue",
        "Slots",
        "Telemetry",
    ];
    assert_eq!(rows, expected);

    let mut taken = std::collections::BTreeSet::new();
    for panel in all {
        let title = text(&panel["title"]);
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in at("x")..at("x") + at("w") {
            assert!(x < 24, "{title} is on the board");
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{title} covers another panel");
            }
        }
    }
    for panel in panels(&board) {
        let title = text(&panel["title"]);
        assert!(!text(&panel["description"]).is_empty(), "{title}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            // Where a point of a graph can lead to a trace, it does.
            if title.starts_with("Duration of") {
                assert_eq!(target["exemplar"], true, "{title}");
            }
        }
    }
}
