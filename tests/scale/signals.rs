//! Signals for which many runs waited that are over.

use openworkflow_tests::scale::{self, Amount, Dialect, Explained};

use super::plans::{MOST, ROWS, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_of_runs_that_are_over_are_not_read_for_ever() {
    let site = Site::new().await;
    let backend = site.open("signals").await;
    for statement in scale::abandon(Dialect::Postgres, ROWS) {
        site.sql(&statement).await;
    }
    // A thousand of them are closed each time; then the server finds out that its index need not have them.
    let mut ignored = Explained::new(&site.server, "signals", Amount::ANY);
    for _ in 0..ROWS / 1000 + 2 {
        let sent = scale::signal_the_abandoned(&backend, &mut ignored).await;
        sent.unwrap();
    }
    let mut explained = Explained::new(&site.server, "signals", MOST);
    let sent = scale::signal_the_abandoned(&backend, &mut explained).await;
    sent.unwrap();
    let excessive = explained.readings().excessive();
    assert!(excessive.is_empty(), "{}", excessive.join("\n"));
}
