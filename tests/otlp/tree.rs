//! Received spans as an indented tree.

use std::collections::BTreeMap;

use serde_json::Value;

pub(crate) fn text<'a>(span: &'a Value, key: &str) -> &'a str {
    span[key].as_str().unwrap()
}

/// One line a span, siblings by their start: `name kind status [events]`.
pub(crate) fn tree(spans: &[Value]) -> String {
    let mut children: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    let mut spans: Vec<_> = spans.iter().collect();
    spans.sort_by_key(|span| span["start"].as_u64());
    for &span in &spans {
        children
            .entry(text(span, "parent_id"))
            .or_default()
            .push(span);
    }
    let mut lines = String::new();
    let mut todo: Vec<(usize, &Value)> = Vec::new();
    todo.extend(
        children
            .remove("")
            .unwrap_or_default()
            .into_iter()
            .rev()
            .map(|s| (0, s)),
    );
    while let Some((depth, span)) = todo.pop() {
        let kind = text(span, "kind")
            .trim_start_matches("SPAN_KIND_")
            .to_lowercase();
        let status = text(span, "status")
            .trim_start_matches("STATUS_CODE_")
            .to_lowercase();
        let name = text(span, "name");
        let events = span["events"].as_array().unwrap();
        let events: String = events
            .iter()
            .map(|e| format!(" * {}", text(e, "name")))
            .collect();
        lines += &format!("{}{name} {kind} {status}{events}\n", "  ".repeat(depth));
        let below = children.remove(text(span, "span_id")).unwrap_or_default();
        todo.extend(below.into_iter().rev().map(|span| (depth + 1, span)));
    }
    for orphan in children.values().flatten() {
        lines += &format!("without its parent: {}\n", text(orphan, "name"));
    }
    lines
}
