//! Processes that are killed, and stopped for longer than their lease, in the same runs; on PostgreSQL with
//! clocks that are off.

use std::time::Duration;

use openworkflow_tests::faults::{
    Ground, OFFSETS, PostgresGround, Process, Site, SqliteGround, Time, any, check,
};

use crate::{PROGRAM, is_long};

/// Shorter than the longest pauses, and long enough for a process that is alive to show it.
const LEASE: Duration = Duration::from_millis(1500);

const PROCESSES: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_stopped_processes_lose_and_double_nothing_on_sqlite() {
    // They share the machine's clock.
    lose_and_double_nothing::<SqliteGround>(&[Time::Right]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_stopped_processes_with_any_clocks_lose_and_double_nothing_on_postgres() {
    let mut times = vec![Time::Right];
    times.extend(OFFSETS.map(Time::Given));
    if is_long() {
        times.extend(OFFSETS.map(Time::Faked));
    }
    lose_and_double_nothing::<PostgresGround>(&times).await;
}

/// `times` are what processes take for the time, one after the other.
async fn lose_and_double_nothing<G: Ground>(times: &[Time]) {
    const ORDERS: u64 = 40;
    let disruptions = if is_long() { 200 } else { 12 };
    let site = Site::<G>::new(PROGRAM).await;
    let mut times = times.iter().copied().cycle();
    let mut process = || site.process_by(times.next().unwrap_or_default(), LEASE);
    let mut processes: Vec<Process> = (0..PROCESSES).map(|_| process()).collect();
    let mut started = Vec::new();
    let (mut kills, mut pauses) = (0, 0);
    for n in 0..disruptions {
        if site.unfinished().await < ORDERS {
            started.extend(site.start(ORDERS).await);
        }
        tokio::time::sleep(any(50, 600)).await;
        let victim = &mut processes[n % PROCESSES];
        if any(0, 2).is_zero() {
            victim.kill();
            *victim = process();
            kills += 1;
            continue;
        }
        // One that has SQLite's write lock keeps everybody waiting until it goes on.
        victim.pause(async || site.ground.is_unlocked().await).await;
        tokio::time::sleep(any(300, 2 * 1500)).await;
        // A process that stands still can be killed, too.
        if any(0, 4).is_zero() {
            victim.kill();
            *victim = process();
            kills += 1;
        } else {
            victim.resume();
        }
        pauses += 1;
    }
    site.finish().await;
    let verdict = check(&site, &started).await;
    println!(
        "{} orders, {kills} kills, {pauses} pauses, {} bodies cut short, {} repeated, {} claims",
        started.len(),
        verdict.interrupted,
        verdict.repeated,
        verdict.claims
    );
}
