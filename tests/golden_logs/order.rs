//! The log of one order, whole.

use opentelemetry_sdk::logs::SdkLogRecord;
use openworkflow::otel::opentelemetry::logs::AnyValue;
use openworkflow_examples::{Order, PROCESS_ORDER, confirm, fulfill_shipment, process_order};
use openworkflow_tests::{Database, Logbook};
use serde_json::Value;

use super::{HOUR, Harness, harness, title};

/// Runs an order to its end; the ids of its run and of its shipment's.
async fn order() -> (Harness, &'static Logbook, [String; 2]) {
    let (mut harness, book) = harness(
        |otel| otel,
        |worker| {
            worker
                .workflow(process_order(HOUR))
                .workflow(fulfill_shipment())
        },
    )
    .await;
    let order = Order::sample();
    let run = harness.start(&PROCESS_ORDER, order.clone()).await;
    harness.parked(run.id(), 2).await;
    confirm(&harness.client, &order).await.unwrap();
    harness.parked(run.id(), 3).await;
    harness.advance(HOUR).await;
    harness.retrying(run.id(), 4).await;
    harness.advance(HOUR).await;
    harness.output(&run).await;
    harness.stop().await;
    let parent = run.id().to_owned();
    let runs = harness.runs().await;
    let child = runs.into_iter().map(|run| run.id).find(|id| *id != parent);
    (harness, book, [parent, child.unwrap()])
}

fn shown(book: &Logbook, line: &Value) -> String {
    let text = |key: &str| match line.get(key) {
        None => "-".to_owned(),
        Some(value) => value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned),
    };
    format!(
        "{:5} {} {}/{} {} in {}",
        text("level"),
        title(line),
        text("workflow.name"),
        text("workflow_run.attempt"),
        text("step.name"),
        book.span_of(line),
    )
}

#[tokio::test]
async fn an_order_is_logged_event_by_event_with_matching_ids() {
    let (_harness, book, [parent, child]) = order().await;
    let shown = |id: &str| {
        let lines = book.lines(id);
        lines
            .iter()
            .map(|line| shown(book, line))
            .collect::<Vec<_>>()
    };
    let expected: Vec<_> = "
        INFO  run.created process-order/- - in workflow.start process-order
        INFO  execution.start process-order/1 - in workflow.execute process-order
        DEBUG step.start process-order/1 validate-order in step.run validate-order
        INFO  step.complete process-order/1 validate-order in workflow.execute process-order
        DEBUG step.start process-order/1 fulfill-shipment in step.run_workflow fulfill-shipment
        INFO  execution.end process-order/1 - in workflow.execute process-order
        INFO  execution.start process-order/2 - in workflow.execute process-order
        INFO  step.complete process-order/2 fulfill-shipment in workflow.execute process-order
        DEBUG step.start process-order/2 confirmed:4711 in step.wait_for_signal
        INFO  execution.end process-order/2 - in workflow.execute process-order
        INFO  execution.start process-order/3 - in workflow.execute process-order
        INFO  signal.received process-order/3 confirmed:4711 in workflow.execute process-order
        INFO  step.complete process-order/3 confirmed:4711 in workflow.execute process-order
        DEBUG step.start process-order/3 cooldown in step.sleep cooldown
        INFO  execution.end process-order/3 - in workflow.execute process-order
        INFO  execution.start process-order/4 - in workflow.execute process-order
        INFO  step.complete process-order/4 cooldown in workflow.execute process-order
        DEBUG step.start process-order/4 notify-customer in step.run notify-customer
        WARN  step.failed process-order/4 notify-customer in workflow.execute process-order
        WARN  execution.end process-order/4 - in workflow.execute process-order
        INFO  execution.start process-order/5 - in workflow.execute process-order
        DEBUG step.start process-order/5 notify-customer in step.run notify-customer
        INFO  step.complete process-order/5 notify-customer in workflow.execute process-order
        INFO  execution.end process-order/5 - in workflow.execute process-order
        "
    .lines()
    .map(str::trim)
    .filter(|line| !line.is_empty())
    .map(str::to_owned)
    .collect();
    assert_eq!(shown(&parent), expected);
    let expected = [
        // In the step that creates it, and about another run than that step's.
        "INFO  run.created fulfill-shipment/- - in step.run_workflow fulfill-shipment",
        "INFO  execution.start fulfill-shipment/1 - in workflow.execute fulfill-shipment",
        "DEBUG step.start fulfill-shipment/1 reserve-inventory in step.run reserve-inventory",
        "INFO  step.complete fulfill-shipment/1 reserve-inventory in workflow.execute fulfill-shipment",
        "DEBUG step.start fulfill-shipment/1 dispatch-courier in step.run dispatch-courier",
        "INFO  step.complete fulfill-shipment/1 dispatch-courier in workflow.execute fulfill-shipment",
        "INFO  execution.end fulfill-shipment/1 - in workflow.execute fulfill-shipment",
    ];
    assert_eq!(shown(&child), expected);
    // One trace, of which the attempts are different spans.
    let lines = book.lines(&parent);
    assert!(
        lines
            .iter()
            .all(|line| line["trace_id"] == lines[0]["trace_id"])
    );
    let ends = lines.iter().filter(|line| title(line) == "execution.end");
    let mut spans: Vec<_> = ends.map(|line| line["span_id"].to_string()).collect();
    spans.dedup();
    assert_eq!(spans.len(), 5);
}

fn text(record: &SdkLogRecord, key: &str) -> Option<String> {
    let found: Vec<_> = record
        .attributes_iter()
        .filter(|(own, _)| own.as_str() == key)
        .collect();
    assert!(found.len() < 2, "{key} is there twice: {record:?}");
    match &found.first()?.1 {
        AnyValue::String(text) => Some(text.to_string()),
        AnyValue::Int(number) => Some(number.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}

#[tokio::test]
async fn log_records_say_what_json_lines_say() {
    let (_harness, book, runs) = order().await;
    let records = book.records();
    for run in runs {
        let of_run = |record: &&SdkLogRecord| text(record, "workflow_run.id") == Some(run.clone());
        let records: Vec<_> = records.iter().filter(of_run).collect();
        let lines = book.lines(&run);
        assert_eq!(records.len(), lines.len());
        for (record, line) in records.into_iter().zip(&lines) {
            assert_eq!(record.event_name(), line["event.name"].as_str());
            assert_eq!(record.severity_text(), line["level"].as_str());
            assert_eq!(record.target().map(|t| &**t), line["target"].as_str());
            let trace = record.trace_context().expect("it has a span");
            assert_eq!(line["trace_id"], *trace.trace_id.to_string());
            assert_eq!(line["span_id"], *trace.span_id.to_string());
            for key in ["workflow.name", "workflow_run.attempt", "step.name"] {
                let of_line = line.get(key).map(|value| match value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
                assert_eq!(text(record, key), of_line, "{key} of {line}");
            }
        }
    }
}
