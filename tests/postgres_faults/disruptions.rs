//! Processes that are killed, connections that are ended, a server that restarts and one that crashes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openworkflow_tests::faults::{Ground as _, PostgresGround, Process, any, check};
use openworkflow_tests::postgres_server::{self, Server};

use crate::{PROGRAM, Site};

/// Long enough for a process that is alive to show it on a machine under load.
const LEASE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_runs_survive_workers_that_are_killed() {
    // Each has a child.
    const ORDERS: u64 = 1000;
    const PROCESSES: usize = 3;
    let site = Site::new(PROGRAM).await;
    let mut processes: Vec<Process> = (0..PROCESSES).map(|_| site.process(LEASE)).collect();
    let started = site.start(ORDERS).await;
    let mut kills = 0;
    // The last ones are left alone, or a kill might always find them.
    while site.unfinished().await > 60 {
        tokio::time::sleep(any(100, 900)).await;
        let victim = &mut processes[kills % PROCESSES];
        victim.kill();
        *victim = site.process(LEASE);
        kills += 1;
    }
    site.finish().await;
    let verdict = check(&site, &started).await;
    println!(
        "{kills} kills, {} bodies interrupted, {} repeated, {} claims",
        verdict.interrupted, verdict.repeated, verdict.claims
    );
    assert!(kills >= 5, "{kills} kills");
    assert!(
        verdict.interrupted > 0,
        "no kill was in the middle of a step"
    );
    assert!(verdict.repeated > 0, "no kill cost anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_may_end_at_any_moment() {
    const ORDERS: u64 = 300;
    let site = Site::new(PROGRAM).await;
    let _processes = [site.process(LEASE), site.process(LEASE)];
    let started = site.start(ORDERS).await;
    let admin = postgres_server::connect(&site.ground.server).await;
    let one = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = $1 ORDER BY random() LIMIT 1";
    let mut ended = 0;
    while site.unfinished().await > 10 {
        ended += admin.execute(one, &[&site.ground.schema]).await.unwrap();
        tokio::time::sleep(any(5, 60)).await;
    }
    site.finish().await;
    let verdict = check(&site, &started).await;
    println!("{ended} connections, {} bodies repeated", verdict.repeated);
    assert!(ended >= 20, "{ended} connections were ended");
    // Nobody died, so nobody had to be replaced, and every body's end came through.
    assert_eq!(verdict.repeated, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connecting_outlasts_connections_that_end() {
    let site = Site::new(PROGRAM).await;
    let admin = postgres_server::connect(&site.ground.server).await;
    let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
    let mut ended = 0;
    for _ in 0..30 {
        let ground = Arc::clone(&site.ground);
        let connecting = tokio::spawn(async move { ground.open().await });
        // Whoever is left no time to connect in, as on a machine under load, never does.
        let mut ends = 0;
        while ends < 3 && !connecting.is_finished() {
            tokio::time::sleep(any(1, 30)).await;
            let some = admin.execute(all, &[&site.ground.schema]).await.unwrap();
            ends += u64::from(some > 0);
            ended += some;
        }
        connecting.await.unwrap();
    }
    assert!(ended >= 10, "{ended} connections were ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_may_restart_and_crash_under_load() {
    const ORDERS: u64 = 300;
    // At its default durability: what it has confirmed must outlive its crash.
    let server = Server::start(&[]);
    let site = Site::on(PostgresGround::on(server.url()), PROGRAM).await;
    let _processes = [site.process(LEASE), site.process(LEASE)];
    let mut started = Vec::new();
    for how in ["stop", "kill", "stop", "kill"] {
        started.extend(site.start(ORDERS / 4).await);
        let before = Instant::now();
        while site.unfinished().await > ORDERS / 4 && before.elapsed() < LEASE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::task::block_in_place(|| {
            server.command(how);
            server.command("start");
        });
    }
    site.finish().await;
    let verdict = check(&site, &started).await;
    println!("{} bodies repeated", verdict.repeated);
}
