//! The PostgreSQL backend while connections break and the server restarts.

#[path = "support/postgres.rs"]
mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use openworkflow::Postgres;
use openworkflow::backend::{
    Backend, BackendError, Claim, EndedStep, ExecutionEnd, NewRun, NewSignal, NewStepAttempt,
    Owner, StepAttemptKind,
};
use workflow_core::{Interruption, Payload};

const NS: &str = "default";
const PATIENCE: Duration = Duration::from_secs(60);

async fn claimed(backend: &Postgres, id: &str) -> Owner {
    let run = NewRun::new(NS, id, "order", Payload::NULL);
    backend.create_run(run).await.unwrap();
    let workers = vec![Arc::from(format!("{id}-worker"))];
    let claim = Claim::new(NS.into(), workers, None, Duration::from_secs(600));
    let claimed = backend.claim_runs(claim).await.unwrap();
    let claimed = &claimed[0];
    let (id, worker) = (claimed.id.as_str(), claimed.worker_id.as_str());
    Owner::new(NS, id, worker, claimed.attempts)
}

fn done(id: &str) -> EndedStep {
    let attempt = NewStepAttempt::new(id.into(), id.into(), StepAttemptKind::Function, None);
    EndedStep::new(attempt, Ok(Payload::from_json("1")))
}

/// Ends every session of the server that has this application's name.
async fn terminate(admin: &tokio_postgres::Client, name: &str) -> u64 {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
    admin.execute(sql, &[&name]).await.unwrap()
}

#[tokio::test]
async fn idle_connections_that_broke_are_replaced_unnoticed() {
    let name = support::schema();
    let options = Postgres::options().url(support::url()).schema(&name);
    let backend = options.application_name(&name).connect().await.unwrap();
    let owner = claimed(&backend, "r").await;
    let admin = support::client().await;
    for round in 0..10 {
        assert!(terminate(&admin, &name).await > 0);
        let id = format!("s{round}");
        backend.end_step(&owner, done(&id)).await.unwrap();
        backend.extend_lease(&owner, PATIENCE).await.unwrap();
    }
    let history = backend.load_history(NS, "r").await.unwrap();
    assert_eq!(history.attempts.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_under_way_when_connections_break_are_done_or_reported() {
    let name = support::schema();
    let options = Postgres::options().url(support::url()).schema(&name);
    let backend = options.application_name(&name).connect().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for worker in 0..20 {
        let owner = claimed(&backend, &format!("r{worker}")).await;
        let (backend, stop) = (backend.clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            let mut written = Vec::new();
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let id = format!("{}-s{n}", owner.run_id);
                match backend.end_step(&owner, done(&id)).await {
                    Ok(()) => written.push(id),
                    Err(error) => assert!(error.is_transient(), "{error:?}"),
                }
            }
            written
        }));
    }
    let admin = support::client().await;
    let mut broken = 0;
    let began = Instant::now();
    while broken < 60 && began.elapsed() < PATIENCE {
        broken += terminate(&admin, &name).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut written = HashSet::new();
    for task in tasks {
        written.extend(task.await.unwrap());
    }
    let sql = format!("SELECT id FROM {name}.step_attempts WHERE status = 'completed'");
    let rows = admin.query(&sql, &[]).await.unwrap();
    let found: HashSet<String> = rows.iter().map(|row| row.get(0)).collect();
    // What was reported as written is there.
    assert!(written.is_subset(&found));
    assert!(written.len() > 20, "{}", written.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_survives_a_crash_of_the_server() {
    let server = support::Server::start(&[]);
    let backend = Postgres::connect(server.url()).await.unwrap();
    let owner = claimed(&backend, "r").await;
    backend.end_step(&owner, done("before")).await.unwrap();
    let server = tokio::task::spawn_blocking(move || {
        server.command("kill");
        server
    })
    .await
    .unwrap();
    let error = backend
        .end_step(&owner, done("meanwhile"))
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(
        matches!(error, BackendError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(!error.to_string().contains("sesame"), "{error}");
    let error = backend.get_run(NS, "r").await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let _server = tokio::task::spawn_blocking(move || {
        server.command("start");
        server
    })
    .await
    .unwrap();
    backend.end_step(&owner, done("after")).await.unwrap();
    let output = Payload::NULL;
    backend
        .end_execution(&owner, ExecutionEnd::Complete { output })
        .await
        .unwrap();
    let history = backend.load_history(NS, "r").await.unwrap();
    let ids: Vec<_> = history.attempts.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["before", "after"]);
}

#[tokio::test]
async fn a_server_that_became_a_standby_is_left_for_the_one_that_takes_writes() {
    let name = support::schema();
    let admin = support::client().await;
    let sql = format!("CREATE ROLE {name} LOGIN SUPERUSER PASSWORD 'secret'");
    admin.batch_execute(&sql).await.unwrap();
    let options = Postgres::options().url(support::url()).schema(&name);
    let options = options.user(&name).password("secret").pool_size(1);
    let backend = options.connect().await.unwrap();
    let owner = claimed(&backend, "r").await;
    // The same refusal as a standby's, on the connections that are open from now on.
    let set = |to: &str| format!("ALTER ROLE {name} SET default_transaction_read_only = {to}");
    admin.batch_execute(&set("on")).await.unwrap();
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
    admin.execute(sql, &[&name]).await.unwrap();
    let error = backend.end_step(&owner, done("s")).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    admin.batch_execute(&set("off")).await.unwrap();
    backend.end_step(&owner, done("s")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_with_others_are_repeated() {
    let name = support::schema();
    let options = Postgres::options().url(support::url()).schema(&name);
    let backend = options.connect().await.unwrap();
    let admin = support::client().await;
    let owner = claimed(&backend, "r").await;
    let context = r#"{"kind":"signal-wait","signal":"go"}"#.to_owned();
    let wait = NewStepAttempt::new(
        "a".into(),
        "a".into(),
        StepAttemptKind::SignalWait,
        Some(context),
    );
    backend.begin_step(&owner, wait.clone()).await.unwrap();
    // What OpenWorkflow for TypeScript does when it sends a signal: the step first, then the run.
    admin
        .batch_execute("BEGIN; SET LOCAL deadlock_timeout = '10 s'")
        .await
        .unwrap();
    let lock = |table: &str| format!("SELECT 1 FROM {name}.{table} FOR UPDATE");
    admin.batch_execute(&lock("step_attempts")).await.unwrap();
    let ending = {
        let (backend, owner) = (backend.clone(), owner.clone());
        let ended = EndedStep::new(wait, Ok(Payload::from_json("1")));
        tokio::spawn(async move { backend.end_step(&owner, ended).await })
    };
    let waiting = "SELECT 1 FROM pg_locks WHERE NOT granted";
    let other = support::client().await;
    while other.query(waiting, &[]).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Closes the circle. The server ends it by failing our statement, which is then repeated.
    admin.batch_execute(&lock("workflow_runs")).await.unwrap();
    admin.batch_execute("COMMIT").await.unwrap();
    ending.await.unwrap().unwrap();
    let history = backend.load_history(NS, "r").await.unwrap();
    assert_eq!(history.attempts[0].output.expose(), "1");
}

#[tokio::test]
async fn what_the_server_gives_up_may_be_tried_again() {
    let name = support::schema();
    let admin = support::client().await;
    for setting in ["statement_timeout", "lock_timeout"] {
        let join = if support::url().contains('?') {
            '&'
        } else {
            '?'
        };
        let url = format!("{}{join}options=-c%20{setting}%3D100", support::url());
        let options = Postgres::options().url(url).schema(&name);
        let backend = options.connect().await.unwrap();
        let owner = claimed(&backend, setting).await;
        let lock = format!("BEGIN; SELECT 1 FROM {name}.workflow_runs FOR UPDATE");
        admin.batch_execute(&lock).await.unwrap();
        let error = backend.end_step(&owner, done(setting)).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        let output = Payload::NULL;
        let end = ExecutionEnd::Complete { output };
        let error = backend.end_execution(&owner, end.clone()).await;
        let error = error.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        admin.batch_execute("COMMIT").await.unwrap();
        backend.end_step(&owner, done(setting)).await.unwrap();
        backend.end_execution(&owner, end).await.unwrap();
    }
}

#[tokio::test]
async fn a_full_queue_of_notifications_fails_nothing() {
    let name = support::schema();
    let admin = support::client().await;
    // To fill the queue takes gigabytes: these stand before the server's own, and act as it then does.
    let full = format!(
        "CREATE SCHEMA {name}_full;
         CREATE FUNCTION {name}_full.pg_notification_queue_usage() RETURNS double precision
             LANGUAGE sql AS 'SELECT 1::double precision';
         CREATE FUNCTION {name}_full.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$
             BEGIN
                 RAISE 'too many notifications in the NOTIFY queue' USING ERRCODE = '54000';
             END $$"
    );
    admin.batch_execute(&full).await.unwrap();
    let join = if support::url().contains('?') {
        '&'
    } else {
        '?'
    };
    let path = format!("options=-c%20search_path%3D{name}_full,pg_catalog");
    let url = format!("{}{join}{path}", support::url());
    let options = Postgres::options().url(url).schema(&name);
    let backend = options.connect().await.unwrap();
    // News go with their transaction only when it was quiet before.
    let quiet = || tokio::time::sleep(Duration::from_millis(30));
    quiet().await;
    let owner = claimed(&backend, "parent").await;
    quiet().await;
    let mut keyed = NewRun::new(NS, "keyed", "order", Payload::NULL);
    keyed.idempotency_key = Some("key".to_owned());
    backend.create_run(keyed).await.unwrap();
    quiet().await;
    backend.cancel_run(NS, "keyed").await.unwrap();
    let context = r#"{"kind":"signal-wait","signal":"go"}"#.to_owned();
    let kind = StepAttemptKind::SignalWait;
    let wait = NewStepAttempt::new("wait".into(), "go".into(), kind, Some(context));
    backend.begin_step(&owner, wait).await.unwrap();
    let kind = StepAttemptKind::Workflow;
    let wait = NewStepAttempt::new("child".into(), "child".into(), kind, None);
    let child = NewRun::new(NS, "child", "part", Payload::NULL);
    quiet().await;
    backend.begin_child(&owner, wait, child).await.unwrap();
    let park = ExecutionEnd::Park {
        until: SystemTime::now() + PATIENCE,
        waits: vec!["wait".into()],
    };
    backend.end_execution(&owner, park).await.unwrap();
    quiet().await;
    let signal = NewSignal::new(NS, "go", Payload::NULL);
    let received = backend.send_signal(signal).await.unwrap();
    assert_eq!(received, ["parent"]);
    quiet().await;
    let owner = claimed(&backend, "alone").await;
    quiet().await;
    let output = Payload::NULL;
    let end = ExecutionEnd::Complete { output };
    backend.end_execution(&owner, end).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stricter_isolation_level_of_the_database_is_coped_with() {
    let name = support::schema();
    let admin = support::client().await;
    let sql = format!(
        "CREATE ROLE {name} LOGIN SUPERUSER PASSWORD 'secret';
         ALTER ROLE {name} SET default_transaction_isolation = serializable"
    );
    admin.batch_execute(&sql).await.unwrap();
    let options = Postgres::options().url(support::url()).schema(&name);
    let backend = options
        .user(&name)
        .password("secret")
        .connect()
        .await
        .unwrap();
    let owner = claimed(&backend, "r").await;
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let (backend, owner) = (backend.clone(), owner.clone());
            tokio::spawn(async move {
                backend
                    .end_step(&owner, done(&format!("s{n}")))
                    .await
                    .unwrap();
                let signal = NewSignal::new(NS, "go", Payload::NULL);
                backend.send_signal(signal).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_owners_never_both_write() {
    // Each believes it owns the run. Between any two writes of one, the run may change hands.
    let name = support::schema();
    let options = Postgres::options().url(support::url()).schema(&name);
    let backend = options.connect().await.unwrap();
    let run = NewRun::new(NS, "r", "order", Payload::NULL);
    backend.create_run(run).await.unwrap();
    let owners = ["a", "b"].map(|worker| (worker, Arc::new(AtomicU32::new(1))));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = owners
        .iter()
        .cloned()
        .map(|(worker, claim)| {
            let (backend, stop) = (backend.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut n, mut refused) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let owner = Owner::new(NS, "r", worker, claim.load(Ordering::Relaxed));
                    let id = format!("{worker}-{}-{n}", owner.attempts);
                    match backend.end_step(&owner, done(&id)).await {
                        Ok(()) => {}
                        Err(BackendError::OwnershipLost { reason }) => {
                            assert_eq!(reason, Interruption::LeaseLost);
                            refused += 1;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
                refused
            })
        })
        .collect();
    let admin = support::client().await;
    // The trigger is a witness on the other side: who owns the run at the very write.
    let witness = format!(
        "CREATE FUNCTION {name}.check_owner() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NOT EXISTS (
                 SELECT 1 FROM {name}.workflow_runs
                 WHERE id = new.workflow_run_id AND worker_id = split_part(new.id, '-', 1)
                     AND attempts = split_part(new.id, '-', 2)::integer
             ) THEN RAISE 'written by a stranger'; END IF;
             RETURN new;
         END $$;
         CREATE TRIGGER check_owner BEFORE INSERT ON {name}.step_attempts
             FOR EACH ROW EXECUTE FUNCTION {name}.check_owner();"
    );
    admin.batch_execute(&witness).await.unwrap();
    for turn in 0..40 {
        let (worker, number) = &owners[turn % 2];
        let expire = format!("UPDATE {name}.workflow_runs SET available_at = now()");
        // A row that is being written to is not claimed at that moment.
        loop {
            admin.batch_execute(&expire).await.unwrap();
            let workers = vec![Arc::from(*worker)];
            let claim = Claim::new(NS.into(), workers, None, Duration::from_secs(600));
            if let [claimed] = backend.claim_runs(claim).await.unwrap().as_slice() {
                number.store(claimed.attempts, Ordering::Relaxed);
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        assert!(writer.await.unwrap() > 0, "nobody was ever refused");
    }
    let sql = format!("SELECT count(DISTINCT split_part(id, '-', 1)) FROM {name}.step_attempts");
    assert_eq!(
        admin.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0),
        2
    );
}

#[tokio::test]
async fn a_closed_backend_says_so() {
    let backend = support::backend().await;
    let clone = backend.clone();
    backend.close();
    let error = clone.get_run(NS, "r").await.unwrap_err();
    assert!(matches!(error, BackendError::Closed), "{error:?}");
}
