//! Runs `process-order` from end to end on a new SQLite file, with an interceptor that prints every
//! creation, execution and step as it happens, and then what the database has kept, and how to look at it.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use openworkflow::{
    Client, CreateRun, CreatedRun, ExecuteRun, ExecutionOutcome, Interceptor, Next, Result, Sqlite,
    StepCall, StepOutcome, StepPhase, Worker,
};
use openworkflow_examples::{Order, PROCESS_ORDER, confirm, fulfill_shipment, process_order};

/// Prints what it sees. It learns of names, ids and times, and never of anybody's data.
#[derive(Clone)]
struct Narrator(Instant);

impl Narrator {
    fn say(&self, line: &str) {
        println!("{:5.2} s  {line}", self.0.elapsed().as_secs_f64());
    }
}

#[async_trait]
impl Interceptor for Narrator {
    async fn create_run(&self, call: CreateRun, next: Next<'_, CreateRun>) -> Result<CreatedRun> {
        let by = if call.parent.is_some() {
            "by its parent"
        } else {
            "by the client"
        };
        self.say(&format!("create   {} {by}", call.run.workflow_name));
        next.run(call).await
    }

    async fn execute(
        &self,
        call: ExecuteRun,
        next: Next<'_, ExecuteRun>,
    ) -> Result<ExecutionOutcome> {
        let execution = call.execution.clone();
        let what = format!(
            "{} (execution {})",
            execution.run.workflow_name, execution.attempt
        );
        self.say(&format!("execute  {what}"));
        let outcome = next.run(call).await?;
        let ended = match &outcome {
            ExecutionOutcome::Completed { .. } => "completed".to_owned(),
            ExecutionOutcome::Parked { .. } => "parked".to_owned(),
            ExecutionOutcome::Retrying { error, .. } => format!("to be tried again: {error}"),
            ExecutionOutcome::Failed { error } => format!("failed: {error}"),
            _ => "ended".to_owned(),
        };
        self.say(&format!("         {what} {ended}"));
        Ok(outcome)
    }

    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let begins = if call.phase == StepPhase::Resolve {
            "resolved"
        } else {
            "begins"
        };
        let what = format!("  step   {} ({})", call.name, call.kind.as_str());
        self.say(&format!("{what} {begins}"));
        let outcome = next.run(call).await;
        match &outcome {
            Ok(StepOutcome::Parked { .. }) => self.say(&format!("{what} waits")),
            Ok(_) => self.say(&format!("{what} done")),
            Err(error) => self.say(&format!("{what} failed: {error}")),
        }
        outcome
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    // Left there, among the temporary files, for whoever wants to look at the run afterwards.
    let database = tempfile::tempdir()?.keep().join("orders.db");
    let store = Sqlite::open(&database).await?;
    let narrator = Narrator(Instant::now());

    let client = Client::builder(store.clone())
        .interceptor(narrator.clone())
        .build();
    let mut worker = Worker::builder(store)
        .workflow(process_order(Duration::from_secs(2)))
        .workflow(fulfill_shipment())
        .interceptor(narrator)
        .build()?
        .start();

    let order = Order::sample();
    let run = client
        .start(&PROCESS_ORDER, &order)
        .idempotency_key(&order.id)
        .await?;
    confirm(&client, &order).await?;
    let receipt = run.result().await?;
    worker.stop().await?;

    println!("\n{receipt:?}\n\nThe run and its step attempts, as the database keeps them:");
    let kept = run.describe().await?;
    println!(
        "{} {}: {} executions",
        kept.workflow_name, kept.status, kept.attempts
    );
    for attempt in client.list_steps(run.id()).await?.items {
        println!(
            "  {:<18} {:<12} {}",
            attempt.step_name,
            attempt.kind.as_str(),
            attempt.status
        );
    }
    let command = format!(
        "cargo run -p openworkflow-cli -- --database {}",
        database.display()
    );
    println!(
        "\nThe same as a picture, in the terminal and as a page:\n\n  {command} trace {}\n  {command} dashboard",
        run.id()
    );
    Ok(())
}
