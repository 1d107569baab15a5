//! Several worker processes on one database.

use std::time::Duration;

use openworkflow_tests::faults::{Process, check};

use crate::{PROGRAM, Site};

/// Longer than anything is waited for: a run that is left to its lease is stuck.
const LEASE: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_share_the_work() {
    const PROCESSES: usize = 4;
    let site = Site::new(PROGRAM).await;
    let processes: Vec<Process> = (0..PROCESSES).map(|_| site.process(LEASE)).collect();
    // All are at work before it counts.
    let mut started = Vec::new();
    let mut counts = std::collections::HashMap::new();
    while counts.len() < PROCESSES {
        started.extend(site.start(20).await);
        site.finish().await;
        counts = check(&site, &started).await.by_process();
    }
    started.extend(site.start(400).await);
    site.finish().await;
    let verdict = check(&site, &started).await;
    assert_eq!(
        verdict.repeated, 0,
        "each run was executed by one at a time"
    );
    let mut all = 0;
    let shares: Vec<usize> = processes
        .iter()
        .map(|process| {
            let before = counts[&process.id()];
            let share = verdict.by_process()[&process.id()] - before;
            all += share;
            share
        })
        .collect();
    println!("shares: {shares:?}");
    for share in &shares {
        assert!(share * PROCESSES * 2 >= all, "uneven: {shares:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_and_doubles_nothing() {
    let site = Site::new(PROGRAM).await;
    let mut processes = [site.process(LEASE), site.process(LEASE)];
    let mut started = Vec::new();
    for round in 0..6 {
        started.extend(site.start(60).await);
        let mut next = site.process(LEASE);
        std::mem::swap(&mut next, &mut processes[round % 2]);
        next.terminate().await;
        next.stopped().await;
    }
    site.finish().await;
    let verdict = check(&site, &started).await;
    assert_eq!(verdict.repeated, 0, "a graceful stop lets bodies finish");
    assert_eq!(verdict.interrupted, 0);
    let workers = verdict.by_process().len();
    assert!(workers >= 4, "{workers} processes took part");
}
