//! A service that takes an order every 100 ms and exports its traces until Ctrl-C or SIGTERM, and
//! then ends so that no sampled span is lost: the worker first, the spans after it.
//!
//! Where to, the `OTEL_*` variables say: `OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318`.

use std::error::Error;
use std::time::Duration;

use openworkflow::{Client, ClientResult, Sqlite, Worker};
use openworkflow_examples::{Order, PROCESS_ORDER, confirm, fulfill_shipment, process_order};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let telemetry = openworkflow::otel::init()?;
    let otel = telemetry.interceptor();

    let folder = tempfile::tempdir()?;
    let store = Sqlite::open(folder.path().join("orders.db")).await?;
    let client = Client::builder(store.clone())
        .interceptor(otel.clone())
        .build();
    // The customers who confirm are somebody else, and not part of these traces.
    let customers = Client::new(store.clone());
    let worker = Worker::builder(store)
        .workflow(process_order(Duration::from_millis(200)))
        .workflow(fulfill_shipment())
        .interceptor(otel)
        .build()?;

    println!("taking orders; Ctrl-C ends");
    let orders = tokio::spawn(take_orders(client, customers));
    // Returns on Ctrl-C or SIGTERM, when what was under way has finished or been parked.
    worker.run().await?;
    orders.abort();
    // Waits for the task: the span of a call that was interrupted is ended too.
    let _ = orders.await;

    // Where no collector was there, this says so; the program has done its work all the same.
    println!("{}", telemetry.shutdown(Duration::from_secs(10)).await);
    Ok(())
}

async fn take_orders(client: Client, customers: Client) -> ClientResult<()> {
    for number in 1_u32.. {
        let order = Order {
            id: number.to_string(),
            ..Order::sample()
        };
        client.start(&PROCESS_ORDER, &order).await?;
        let customer = customers.clone();
        tokio::spawn(async move { confirm(&customer, &order).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
