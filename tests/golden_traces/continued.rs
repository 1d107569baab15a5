//! Runs that continue as new ones.

use openworkflow::WorkflowSpec;
use openworkflow::backend::Backend;

use super::Traced;

static LOOP: WorkflowSpec<u32, u32> = WorkflowSpec::new("loop");

fn looping() -> openworkflow::Workflow {
    LOOP.implement(|wf, round: u32| async move {
        wf.run("work", || async { Ok(()) }).await?;
        if round == 2 {
            return Ok(round);
        }
        wf.continue_as_new(&(round + 1)).await
    })
}

pub(crate) async fn continued_as_new<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| worker.workflow(looping()));
    let run = traced.start(traced.client.start(&LOOP, &0)).await;
    assert_eq!(run.result().await.unwrap(), 2);
    let second = run.describe().await.unwrap().continued_as.unwrap();
    let spans = traced.spans().await;
    spans
        .tree()
        .kinds()
        .links()
        .replacing(second, "SECOND")
        .attributes(["workflow.outcome", "workflow.link", "workflow_run.attempt"])
        .assert_eq(
            "
        caller [internal]
        └── workflow.start loop [producer]
            ├── workflow.execute loop [consumer] {workflow.outcome=completed, workflow_run.attempt=1}
            │   └── step.run work [internal] {workflow_run.attempt=1}
            ├── workflow.execute loop [consumer] {workflow.outcome=completed, workflow_run.attempt=1}
            │   │ ~> workflow.execute loop {workflow.link=continued_from}
            │   └── step.run work [internal] {workflow_run.attempt=1}
            └── workflow.execute loop [consumer] {workflow.outcome=completed, workflow_run.attempt=1}
                │ ~> workflow.execute loop {workflow.link=continued_from}
                └── step.run work [internal] {workflow_run.attempt=1}
        ",
        );
    // Each link leads to the execution before.
    let executions = spans.spans();
    let executions: Vec<_> = executions
        .iter()
        .filter(|span| span.name == "workflow.execute loop")
        .collect();
    let of = |span: &openworkflow::otel::opentelemetry_sdk::trace::SpanData, key: &str| {
        let found = span.attributes.iter().find(|kv| kv.key.as_str() == key);
        found.map(|kv| kv.value.to_string())
    };
    let mut links = 0;
    for span in &executions {
        for link in &span.links.links {
            let id = link.span_context.span_id();
            let before = executions
                .iter()
                .find(|other| other.span_context.span_id() == id);
            let before = before.expect("it is an execution's");
            assert_eq!(
                of(before, "workflow_run.continued_as"),
                of(span, "workflow_run.id")
            );
            links += 1;
        }
    }
    assert_eq!(links, 2);
}

pub(crate) async fn continued_as_new_linked<S: Backend + Clone>(store: S) {
    let traced = Traced::linked(&store, |worker| worker.workflow(looping()));
    let run = traced.start(traced.client.start(&LOOP, &1)).await;
    assert_eq!(run.result().await.unwrap(), 2);
    let spans = traced.spans().await;
    spans.tree().links().assert_eq(
        "
        caller
        └── workflow.start loop
        workflow.execute loop
        │ ~> workflow.start loop
        └── step.run work
        workflow.execute loop
        │ ~> workflow.start loop
        │ ~> workflow.execute loop {workflow.link=continued_from}
        └── step.run work
        ",
    );
}
