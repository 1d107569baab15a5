//! A shop that has been open for an hour, to be looked at in the documentation.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use openworkflow::{Client, Error, Sqlite, Worker, WorkflowSpec};
use openworkflow_examples::{Order, PROCESS_ORDER, confirm};
use openworkflow_tests::RawSqlite;

use crate::site::CHARGE;

const ORDERS: usize = 140;

static INVOICE: WorkflowSpec<usize, ()> = WorkflowSpec::new("send-invoice");
static REMIND: WorkflowSpec<usize, ()> = WorkflowSpec::new("remind-customer");

/// Runs that ended within the last hour.
pub(crate) async fn fill(store: &Sqlite, path: &Path) {
    let invoice = INVOICE.implement(|wf, n: usize| async move {
        wf.run("render", || async { Ok(()) }).await?;
        wf.run("mail", || async {
            match n % 47 {
                11 => Err(
                    Error::new("MailServerDown", "the mail server does not answer").non_retryable(),
                ),
                _ => Ok(()),
            }
        })
        .await
    });
    let remind = REMIND.implement(|wf, _: usize| async move {
        wf.sleep("a-week", Duration::from_secs(7 * 86_400)).await?;
        wf.run("mail", || async { Ok(()) }).await
    });
    let client = Client::new(store.clone());
    for n in 0..ORDERS {
        client.start(&INVOICE, &n).await.expect("it starts");
        if n % 20 == 0 {
            client.start(&REMIND, &n).await.expect("it starts");
        }
    }
    let worker = Worker::builder(store.clone())
        .workflow(invoice)
        .workflow(remind);
    let worker = worker.concurrency(1).build().expect("the worker is fit");
    while worker.tick().await.expect("the database works") > 0 {}
    // Spread over the hour, busier towards its end.
    RawSqlite(path)
        .connect()
        .execute_batch(
            "CREATE TEMP TABLE aged AS
                SELECT id, '-' || ((row_number() OVER (ORDER BY created_at DESC) * 7919) % 3500 + 20) || ' seconds' AS age
                FROM workflow_runs;
             UPDATE workflow_runs SET
                created_at = strftime('%Y-%m-%dT%H:%M:%fZ', created_at, age),
                started_at = strftime('%Y-%m-%dT%H:%M:%fZ', started_at, age),
                finished_at = strftime('%Y-%m-%dT%H:%M:%fZ', finished_at, age),
                updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', updated_at, age)
             FROM aged WHERE aged.id = workflow_runs.id;",
        )
        .expect("times can be moved");
}

/// What happens now.
pub(crate) async fn open(client: &Client) -> BTreeMap<&'static str, String> {
    let declined = client.start(&CHARGE, &"4242".to_owned()).await;
    declined
        .expect("it starts")
        .result()
        .await
        .expect_err("it fails");
    let order = Order::sample();
    let started = client
        .start(&PROCESS_ORDER, &order)
        .idempotency_key(&order.id);
    let started = started.await.expect("it starts");
    let next = Order {
        id: "4712".to_owned(),
        ..order.clone()
    };
    let waiting = client
        .start(&PROCESS_ORDER, &next)
        .idempotency_key(&next.id);
    waiting.await.expect("it starts");
    confirm(client, &order).await.expect("it waits");
    started.result().await.expect("it ends well");
    BTreeMap::from([("order", started.id().to_owned())])
}
