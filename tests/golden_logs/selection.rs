//! What is logged of a workflow can be chosen.

use openworkflow::WorkflowSpec;
use openworkflow::otel::{LogSelection, SpanSelection};
use openworkflow_tests::Database;
use tracing::info;

use super::{harness, title};

static PARENT: WorkflowSpec<(), ()> = WorkflowSpec::new("parent");
static HEARTBEAT: WorkflowSpec<(), ()> = WorkflowSpec::new("heartbeat");

async fn titles_where(selection: LogSelection, spans: SpanSelection) -> [Vec<String>; 2] {
    let heartbeat = HEARTBEAT.implement(|wf, ()| async move {
        info!("code");
        wf.run("beat", || async {
            info!("body");
            Ok(())
        })
        .await
    });
    let parent = PARENT.implement(|wf, ()| async move { wf.run_workflow(&HEARTBEAT, &()).await });
    let (mut harness, book) = harness(
        |otel| {
            otel.logs_of("heartbeat", selection)
                .spans_of("heartbeat", spans)
        },
        |worker| worker.workflow(heartbeat).workflow(parent),
    )
    .await;
    let run = harness.start(&PARENT, ()).await;
    harness.output(&run).await;
    harness.stop().await;
    let runs = harness.runs().await;
    let child = runs.iter().find(|row| row.id != run.id()).unwrap();
    [run.id(), &child.id].map(|id| book.lines(id).iter().map(title).collect())
}

const PARENTS: [&str; 7] = [
    "run.created",
    "execution.start",
    "step.start",
    "execution.end",
    "execution.start",
    "step.complete",
    "execution.end",
];

#[tokio::test]
async fn nothing_of_one_workflow_and_all_of_its_parent() {
    for spans in [SpanSelection::All, SpanSelection::None] {
        let [parent, heartbeat] = titles_where(LogSelection::None, spans).await;
        assert_eq!(parent, PARENTS);
        assert_eq!(heartbeat, [""; 0]);
    }
}

#[tokio::test]
async fn runs_without_steps() {
    for spans in [SpanSelection::All, SpanSelection::None] {
        let [parent, heartbeat] = titles_where(LogSelection::RunsOnly, spans).await;
        assert_eq!(parent, PARENTS);
        let expected = ["run.created", "execution.start", "code", "execution.end"];
        assert_eq!(heartbeat, expected);
    }
}

#[tokio::test]
async fn all_of_a_workflow_whose_parent_is_not_logged() {
    let child = HEARTBEAT.implement(|_, ()| async { Ok(()) });
    let parent = PARENT.implement(|wf, ()| async move { wf.run_workflow(&HEARTBEAT, &()).await });
    let (mut harness, book) = harness(
        |otel| {
            otel.logs(LogSelection::None)
                .logs_of("heartbeat", LogSelection::All)
        },
        |worker| worker.workflow(child).workflow(parent),
    )
    .await;
    let run = harness.start(&PARENT, ()).await;
    harness.output(&run).await;
    harness.stop().await;
    let runs = harness.runs().await;
    let child = runs.iter().find(|row| row.id != run.id()).unwrap();
    assert_eq!(book.lines(run.id()).len(), 0);
    let titles: Vec<_> = book.lines(&child.id).iter().map(title).collect();
    assert_eq!(titles, ["run.created", "execution.start", "execution.end"]);
}
