//! Histories, lists and counts.

use super::*;

#[tokio::test]
async fn the_history_has_attempts_children_and_signals() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    for id in ["b", "a", "c"] {
        f.backend.end_step(&owner, done(id, "1")).await.unwrap();
    }
    f.sql("UPDATE {schema}.step_attempts SET created_at = '2020-01-01' WHERE id IN ('a', 'b')")
        .await;
    let wait = step("d", "child", StepAttemptKind::Workflow);
    let child = NewRun::new(NS, "child", "part", Payload::NULL);
    f.backend.begin_child(&owner, wait, child).await.unwrap();
    f.sql(
        r#"UPDATE {schema}.workflow_runs SET status = 'failed', error = '{"message":"no"}',
           finished_at = '2020-01-01' WHERE id = 'child'"#,
    )
    .await;
    f.begin(&owner, signal_wait("e", "go")).await;
    let history = f.backend.load_history(NS, "r").await.unwrap();
    let ids: Vec<_> = history.attempts.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c", "d", "e"]);
    assert_eq!(history.children.len(), 1);
    let child = &history.children["d"];
    assert_eq!(
        (child.id.as_str(), &child.status),
        ("child", &RunStatus::Failed)
    );
    assert_eq!(child.error.as_ref().unwrap().message, "no");
    assert!(child.finished_at.is_some());
    assert!(history.signals.is_empty());
    let none = f.backend.load_history(NS, "missing").await.unwrap();
    assert!(none.attempts.is_empty());
}

#[tokio::test]
async fn foreign_rows_are_read_as_they_are() {
    let f = Fixture::new().await;
    f.create("r").await;
    f.sql(
        r#"UPDATE {schema}.workflow_runs SET status = 'odd', context = '7', input = 'null',
           output = '"x"', error = '"text"', available_at = 'infinity', deadline_at = '-infinity'"#,
    )
    .await;
    let run = f.backend.get_run(NS, "r").await.unwrap().unwrap();
    assert_eq!(run.status, RunStatus::Other("odd".into()));
    assert_eq!(run.carrier.unreadable(), 1);
    assert!(run.input.is_null());
    assert_eq!(run.error.unwrap().message, "text");
    f.sql("UPDATE {schema}.workflow_runs SET attempts = -1, status = 'pending', available_at = now(), deadline_at = NULL").await;
    let error = f.backend.get_run(NS, "r").await.unwrap_err();
    assert!(
        matches!(error, BackendError::MalformedRow { .. }),
        "{error:?}"
    );
    // A malformed row spoils neither the claim nor the server.
    f.sql("UPDATE {schema}.workflow_runs SET attempts = 2147483647")
        .await;
    assert_eq!(f.claim(&["w"]).await[0].attempts, 2_147_483_647);
    assert!(f.backend.get_run(NS, "missing").await.unwrap().is_none());
}

#[tokio::test]
async fn runs_are_listed_newest_first_in_pages() {
    let f = Fixture::new().await;
    // Two of them share each millisecond.
    f.sql(
        "INSERT INTO {schema}.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, updated_at)
         SELECT 'default', 'r' || n, CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END,
                CASE WHEN n < 3 THEN 'failed' ELSE 'pending' END, '{}', 0,
                timestamptz '2026-01-01' + (n / 2) * interval '1 ms', now()
         FROM generate_series(0, 6) n",
    )
    .await;
    let list = async |from: Option<PageEdge>| {
        let mut query = ListRuns::new(NS);
        query.window.limit = 3;
        query.window.from = from;
        f.backend.list_runs(query).await.unwrap()
    };
    fn ids<T>(page: &Page<T>, id: impl Fn(&T) -> &str) -> Vec<String> {
        page.items.iter().map(|item| id(item).to_owned()).collect()
    }
    let after = |cursor: &Option<String>| {
        Some(PageEdge::After(
            Cursor::decode(cursor.as_ref().unwrap()).unwrap(),
        ))
    };
    let before = |cursor: &Option<String>| {
        Some(PageEdge::Before(
            Cursor::decode(cursor.as_ref().unwrap()).unwrap(),
        ))
    };
    let first = list(None).await;
    assert_eq!(ids(&first, |r| &r.id), ["r6", "r5", "r4"]);
    assert!(first.prev.is_none());
    let second = list(after(&first.next)).await;
    assert_eq!(ids(&second, |r| &r.id), ["r3", "r2", "r1"]);
    let third = list(after(&second.next)).await;
    assert_eq!(ids(&third, |r| &r.id), ["r0"]);
    assert!(third.next.is_none());
    let back = list(before(&third.prev)).await;
    assert_eq!(ids(&back, |r| &r.id), ["r3", "r2", "r1"]);
    let back = list(before(&back.prev)).await;
    assert_eq!(ids(&back, |r| &r.id), ["r6", "r5", "r4"]);
    assert!(back.prev.is_none() && back.next.is_some());

    let mut query = ListRuns::new(NS);
    query.status = Some(RunStatus::Failed);
    let page = f.backend.list_runs(query.clone()).await.unwrap();
    assert_eq!(ids(&page, |r| &r.id), ["r2", "r1", "r0"]);
    query.workflow_name = Some("odd".into());
    let page = f.backend.list_runs(query.clone()).await.unwrap();
    assert_eq!(ids(&page, |r| &r.id), ["r1"]);
    query.status = None;
    query.window.from = Some(PageEdge::After(page.items[0].cursor()));
    assert!(
        f.backend
            .list_runs(query.clone())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    query.window.from = Some(PageEdge::Before(page.items[0].cursor()));
    let page = f.backend.list_runs(query).await.unwrap();
    assert_eq!(ids(&page, |r| &r.id), ["r5", "r3"]);

    let owner = f.claimed("with-steps", "w").await;
    for n in 0..5 {
        f.backend
            .end_step(&owner, done(&format!("s{n}"), "1"))
            .await
            .unwrap();
    }
    f.sql("UPDATE {schema}.step_attempts SET created_at = '2026-01-01'")
        .await;
    let mut query = ListSteps::new(NS, "with-steps");
    query.window.limit = 3;
    let first = f.backend.list_step_attempts(query.clone()).await.unwrap();
    assert_eq!(ids(&first, |s| &s.id), ["s0", "s1", "s2"]);
    query.window.from = after(&first.next);
    let second = f.backend.list_step_attempts(query.clone()).await.unwrap();
    assert_eq!(ids(&second, |s| &s.id), ["s3", "s4"]);
    query.window.from = before(&second.prev);
    let back = f.backend.list_step_attempts(query).await.unwrap();
    assert_eq!(ids(&back, |s| &s.id), ["s0", "s1", "s2"]);
}

#[tokio::test]
async fn counts_include_legacy_statuses() {
    let f = Fixture::new().await;
    f.sql(
        "INSERT INTO {schema}.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, updated_at)
         SELECT 'default', s || n, 'order', s, '{}', 0, now(), now()
         FROM unnest(ARRAY['pending','running','sleeping','completed','succeeded','failed','canceled','odd']) s,
              generate_series(1, 2) n",
    )
    .await;
    let counts = f.backend.count_runs(NS).await.unwrap();
    assert_eq!(
        (counts.pending, counts.running, counts.completed),
        (2, 4, 4)
    );
    assert_eq!((counts.failed, counts.canceled), (2, 2));
    assert_eq!(
        f.backend.count_runs("empty").await.unwrap(),
        Default::default()
    );
}
