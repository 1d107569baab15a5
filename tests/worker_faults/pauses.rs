//! A process that stood still for longer than its lease, while another did its work.

use std::time::Duration;

use openworkflow_tests::faults::{Ground, PostgresGround, Site, SqliteGround, check};
use openworkflow_tests::wait_until;

use crate::{PROGRAM, is_long};

/// Short, since each pause is longer, and long enough for a process that is alive to show it.
const LEASE: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_process_begins_no_completed_step_on_sqlite() {
    begins_no_completed_step::<SqliteGround>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_process_begins_no_completed_step_on_postgres() {
    begins_no_completed_step::<PostgresGround>().await;
}

async fn begins_no_completed_step<G: Ground>() {
    const ORDERS: u64 = 30;
    let pauses = if is_long() { 60 } else { 5 };
    let site = Site::<G>::new(PROGRAM).await;
    let victim = site.process(LEASE);
    let _other = site.process(LEASE);
    let mut started = Vec::new();
    let (mut done, mut repeated) = (0, 0);
    // It is luck whether a pause is in the middle of the work.
    while done < pauses || (repeated == 0 && done < 100) {
        started.extend(site.start(ORDERS).await);
        wait_until("the work is in its middle", || async {
            site.unfinished().await < ORDERS
        })
        .await;
        // One that has SQLite's write lock keeps everybody waiting until it goes on.
        victim.pause(async || site.ground.is_unlocked().await).await;
        // The other one takes over what the victim has.
        site.finish().await;
        done += 1;
        if done >= pauses {
            repeated = check(&site, &started).await.repeated;
        }
        victim.resume();
    }
    // Whatever the victim still had in mind is behind it once it has executed something new.
    let before = check(&site, &started).await.of_process(victim.id());
    let mut verdict = check(&site, &started).await;
    while verdict.of_process(victim.id()) == before {
        started.extend(site.start(ORDERS).await);
        site.finish().await;
        verdict = check(&site, &started).await;
    }
    println!(
        "{done} pauses, {} bodies cut short, {} repeated",
        verdict.interrupted, verdict.repeated
    );
    assert!(
        verdict.repeated > 0,
        "no pause was in the middle of the work"
    );
}
