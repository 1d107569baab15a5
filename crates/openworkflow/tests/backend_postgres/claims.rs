//! Claiming runs.

use super::*;

#[tokio::test]
async fn a_claimed_run_has_an_owner_and_a_lease() {
    let f = Fixture::new().await;
    f.create("r").await;
    let claimed = f.claim(&["w"]).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].worker_id, "w");
    assert_eq!(claimed[0].attempts, 1);
    assert!(!claimed[0].taken_over);
    let run = claimed[0].run.as_ref().unwrap();
    assert_eq!(run.status, RunStatus::Running);
    assert!(
        f.holds(
            "r",
            "status = 'running' AND attempts = 1 AND worker_id = 'w' AND started_at <= now()
             AND available_at BETWEEN now() + interval '20 s' AND now() + interval '30 s'"
        )
        .await
    );
    assert!(f.claim(&["w2"]).await.is_empty());
}

#[tokio::test]
async fn pending_runs_are_claimed_before_others_and_then_by_age() {
    let f = Fixture::new().await;
    for id in ["parked", "late", "early", "asleep", "twin-b", "twin-a"] {
        f.create(id).await;
    }
    f.sql(
        "UPDATE {schema}.workflow_runs SET status = 'running', available_at = now() - interval '9 min' WHERE id = 'parked';
         UPDATE {schema}.workflow_runs SET status = 'sleeping', available_at = now() - interval '8 min' WHERE id = 'asleep';
         UPDATE {schema}.workflow_runs SET available_at = now() - interval '1 min' WHERE id = 'late';
         UPDATE {schema}.workflow_runs SET available_at = now() - interval '5 min' WHERE id = 'early';
         UPDATE {schema}.workflow_runs SET available_at = '2020-01-01', created_at = '2020-01-02' WHERE id = 'twin-b';
         UPDATE {schema}.workflow_runs SET available_at = '2020-01-01', created_at = '2020-01-01' WHERE id = 'twin-a';",
    )
    .await;
    let first: Vec<_> = f.claim(&["1", "2", "3"]).await;
    let second = f.claim(&["4", "5", "6", "7"]).await;
    let ids: Vec<_> = first.iter().chain(&second).map(|c| c.id.as_str()).collect();
    assert_eq!(
        ids,
        ["twin-a", "twin-b", "early", "late", "parked", "asleep"]
    );
    let workers: Vec<_> = first.iter().map(|c| c.worker_id.as_str()).collect();
    assert_eq!(workers, ["1", "2", "3"]);
    // A parked run has no owner that could lose it.
    assert!(second.iter().all(|c| !c.taken_over));
}

#[tokio::test]
async fn slots_for_runs_that_were_started_get_the_longest_due_of_them() {
    let f = Fixture::new().await;
    for id in ["new-1", "new-2", "new-3", "asleep", "parked", "late"] {
        f.create(id).await;
    }
    f.sql(
        "UPDATE {schema}.workflow_runs SET status = 'sleeping', available_at = now() - interval '9 min' WHERE id = 'asleep';
         UPDATE {schema}.workflow_runs SET status = 'running', available_at = now() - interval '8 min' WHERE id = 'parked';
         UPDATE {schema}.workflow_runs SET status = 'running', available_at = now() - interval '7 min' WHERE id = 'late';",
    )
    .await;
    let ids = async |workers: &[&str], started_first| {
        let mut claim = claim(workers, None);
        claim.started_first = started_first;
        let claimed = f.backend.claim_runs(claim).await.unwrap();
        claimed.into_iter().map(|run| run.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&["1", "2"], 1).await, ["asleep", "new-1"]);
    assert_eq!(ids(&["3"], 0).await, ["new-2"]);
    assert_eq!(ids(&["4", "5", "6"], 1).await, ["parked", "new-3", "late"]);
    // Where there is nothing for them, they are slots like any.
    f.create("new-4").await;
    assert_eq!(ids(&["7", "8"], 2).await, ["new-4"]);
}

#[tokio::test]
async fn only_registered_names_and_versions_are_claimed() {
    let f = Fixture::new().await;
    for (id, name, version) in [
        ("a", "order", None),
        ("b", "order", Some("v1")),
        ("c", "order", Some("v2")),
        ("d", "typescript-only", None),
    ] {
        let mut run = NewRun::new(NS, id, name, Payload::NULL);
        run.version = version.map(str::to_owned);
        f.backend.create_run(run).await.unwrap();
    }
    let mut other = NewRun::new("elsewhere", "e", "order", Payload::NULL);
    other.version = None;
    f.backend.create_run(other).await.unwrap();
    let workers = ["1", "2", "3", "4", "5"];
    let known: &[(&str, Option<&str>)] = &[("order", None), ("order", Some("v2"))];
    let claimed = f
        .backend
        .claim_runs(claim(&workers, Some(known)))
        .await
        .unwrap();
    let ids: Vec<_> = claimed.iter().map(|c| c.id.as_str()).collect();
    assert_eq!(ids, ["a", "c"]);
    let none = f
        .backend
        .claim_runs(claim(&workers, Some(&[])))
        .await
        .unwrap();
    assert!(none.is_empty());
    assert_eq!(f.run("d").await["attempts"], 0);
}

#[tokio::test]
async fn a_run_whose_lease_ended_is_taken_over() {
    let f = Fixture::new().await;
    f.claimed("r", "dead").await;
    f.sql("UPDATE {schema}.workflow_runs SET available_at = now()")
        .await;
    let claimed = f.claim(&["alive"]).await;
    assert!(claimed[0].taken_over);
    assert_eq!(claimed[0].attempts, 2);
    assert_eq!(f.run("r").await["worker_id"], "alive");
}

/// A run that is claimed and put back by another while a claim is on its way to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_moves_under_a_claim_is_claimed_all_the_same() {
    let f = Fixture::new().await;
    f.create("r").await;
    let role = format!("role_{}", f.schema);
    // Whoever looks at a run as this role waits for a lock first, after the statement has begun.
    f.sql(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'secret';
         GRANT USAGE ON SCHEMA {{schema}} TO {role};
         GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {{schema}} TO {role};
         CREATE FUNCTION {{schema}}.pause() RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN
                 PERFORM pg_advisory_xact_lock_shared(hashtext('{{schema}}'));
                 RETURN true;
             END $$;
         ALTER TABLE {{schema}}.workflow_runs ENABLE ROW LEVEL SECURITY;
         CREATE POLICY pause ON {{schema}}.workflow_runs USING ({{schema}}.pause())"
    ))
    .await;
    let options = Postgres::options().url(support::url()).schema(&f.schema);
    let options = options.user(&role).password("secret");
    let slow = options.connect().await.unwrap();
    let lock = |unlock: &str| {
        let sql = format!("SELECT pg_advisory_{unlock}lock(hashtext('{}'))", f.schema);
        let client = &f.client;
        async move { client.batch_execute(&sql).await.unwrap() }
    };
    for known in [None, Some(&[("order", None)][..])] {
        lock("").await;
        let claiming = tokio::spawn({
            let (slow, claim) = (slow.clone(), claim(&["w"], known));
            async move { slow.claim_runs(claim).await }
        });
        let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
             AND objid = hashtext($1)::oid";
        let key = f.schema.as_str();
        while f
            .client
            .query_one(waits, &[&key])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        f.sql("UPDATE {schema}.workflow_runs SET updated_at = now()")
            .await;
        lock("un").await;
        let claimed = claiming.await.unwrap().unwrap();
        assert_eq!(claimed.len(), 1, "{known:?}");
        assert_eq!(claimed[0].worker_id, "w");
        f.sql("UPDATE {schema}.workflow_runs SET status = 'pending', worker_id = NULL, available_at = now()")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_workers_never_claim_the_same_run() {
    let f = Fixture::new().await;
    f.sql(
        "INSERT INTO {schema}.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, available_at, created_at, updated_at)
         SELECT 'default', n::text, 'order', 'pending', '{}', 0, now(), now(), now() FROM generate_series(1, 300) n",
    )
    .await;
    let backends = [f.backend.clone(), {
        let options = Postgres::options().url(support::url()).schema(&f.schema);
        options.connect().await.unwrap()
    }];
    let claimed = at_once((0..12).map(|worker| {
        let backend = backends[worker % 2].clone();
        async move {
            let slots: Vec<String> = (0..5).map(|slot| format!("{worker}-{slot}")).collect();
            let slots: Vec<&str> = slots.iter().map(String::as_str).collect();
            let mut all = Vec::new();
            loop {
                let claimed = backend.claim_runs(claim(&slots, None)).await.unwrap();
                if claimed.is_empty() {
                    return all;
                }
                all.extend(claimed.into_iter().map(|c| c.id));
            }
        }
    }))
    .await;
    let claimed: Vec<_> = claimed.into_iter().flatten().collect();
    assert_eq!(claimed.len(), 300);
    assert_eq!(claimed.iter().collect::<HashSet<_>>().len(), 300);
    assert_eq!(f.rows("workflow_runs", "attempts <> 1").await.len(), 0);
}
