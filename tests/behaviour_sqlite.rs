//! The behavioural suite on SQLite.

mod behaviour;

type Db = openworkflow_tests::SqliteDatabase;

/// No socket, no driver for them. A server cannot be reached without.
#[test]
fn a_runtime_without_io() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let order = behaviour::runtimes::process_an_order();
    runtime.unwrap().block_on(order);
}
