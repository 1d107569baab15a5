//! Lists, pages and counts.

use openworkflow::backend::{
    Backend, BackendError, Cursor, ListRuns, ListSteps, Page, PageEdge, RunStatus, StepAttempt,
    WorkflowRun,
};

use crate::kit::*;

fn run_ids(page: &Page<WorkflowRun>) -> Vec<&str> {
    page.items.iter().map(|run| &*run.id).collect()
}

fn step_ids(page: &Page<StepAttempt>) -> Vec<&str> {
    page.items.iter().map(|step| &*step.id).collect()
}

fn cursor(text: &Option<String>) -> Cursor {
    Cursor::decode(text.as_deref().expect("there is a cursor")).expect("it can be read")
}

fn page_of(limit: u32, from: Option<PageEdge>) -> ListRuns {
    let mut query = ListRuns::new(NS);
    query.window.limit = limit;
    query.window.from = from;
    query
}

#[tokio::test]
async fn runs_are_listed_newest_first_in_pages() {
    let db = Db::new().await;
    // Seven runs, five of them of the same millisecond.
    for id in ["g", "c", "e", "d", "f"] {
        db.create(id).await;
    }
    db.clock.advance(SECOND / 1000);
    db.create("b").await;
    db.clock.advance(SECOND / 1000);
    db.create("a").await;

    let all = db.list_runs(page_of(100, None)).await.unwrap();
    assert_eq!(run_ids(&all), ["a", "b", "g", "f", "e", "d", "c"]);
    assert_eq!((all.next, all.prev), (None, None));

    let first = db.list_runs(page_of(3, None)).await.unwrap();
    assert_eq!(run_ids(&first), ["a", "b", "g"]);
    assert!(first.prev.is_none());
    let second = db
        .list_runs(page_of(3, Some(PageEdge::After(cursor(&first.next)))))
        .await
        .unwrap();
    assert_eq!(run_ids(&second), ["f", "e", "d"]);
    let third = db
        .list_runs(page_of(3, Some(PageEdge::After(cursor(&second.next)))))
        .await
        .unwrap();
    assert_eq!(run_ids(&third), ["c"]);
    assert!(third.next.is_none());
    let back = db
        .list_runs(page_of(3, Some(PageEdge::Before(cursor(&third.prev)))))
        .await
        .unwrap();
    assert_eq!(run_ids(&back), ["f", "e", "d"]);
    let back = db
        .list_runs(page_of(3, Some(PageEdge::Before(cursor(&back.prev)))))
        .await
        .unwrap();
    assert_eq!(run_ids(&back), ["a", "b", "g"]);
    assert!(back.prev.is_none());
    assert!(back.next.is_some());
    let odd = db
        .list_runs(page_of(4, Some(PageEdge::Before(cursor(&third.prev)))))
        .await
        .unwrap();
    assert_eq!(run_ids(&odd), ["g", "f", "e", "d"]);
}

#[tokio::test]
async fn runs_are_filtered_by_status_and_name() {
    let db = Db::new().await;
    for (id, name) in [
        ("a", "order"),
        ("b", "refund"),
        ("c", "order"),
        ("d", "refund"),
    ] {
        let mut new = new_run(id);
        new.workflow_name = name.to_owned();
        db.create_run(new).await.unwrap();
    }
    for id in ["a", "b"] {
        db.cancel_run(NS, id).await.unwrap();
    }
    let mut query = ListRuns::new(NS);
    query.status = Some(RunStatus::Canceled);
    assert_eq!(
        run_ids(&db.list_runs(query.clone()).await.unwrap()),
        ["b", "a"]
    );
    query.workflow_name = Some("order".to_owned());
    assert_eq!(run_ids(&db.list_runs(query.clone()).await.unwrap()), ["a"]);
    query.status = None;
    assert_eq!(
        run_ids(&db.list_runs(query.clone()).await.unwrap()),
        ["c", "a"]
    );
    query.window.limit = 1;
    let first = db.list_runs(query.clone()).await.unwrap();
    query.window.from = Some(PageEdge::After(cursor(&first.next)));
    assert_eq!(run_ids(&db.list_runs(query).await.unwrap()), ["a"]);
    assert!(
        db.list_runs(ListRuns::new("other"))
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn steps_are_listed_oldest_first_in_pages() {
    let db = Db::new().await;
    let owner = db.running("a", "w").await;
    for id in ["d", "b", "c"] {
        db.end_step(&owner, completed(id, "1")).await.unwrap();
    }
    db.clock.advance(SECOND / 1000);
    db.end_step(&owner, completed("a", "1")).await.unwrap();
    let mut query = ListSteps::new(NS, "a");
    assert_eq!(
        step_ids(&db.list_step_attempts(query.clone()).await.unwrap()),
        ["b", "c", "d", "a"]
    );
    query.window.limit = 2;
    let first = db.list_step_attempts(query.clone()).await.unwrap();
    assert_eq!(step_ids(&first), ["b", "c"]);
    query.window.from = Some(PageEdge::After(cursor(&first.next)));
    let second = db.list_step_attempts(query.clone()).await.unwrap();
    assert_eq!(step_ids(&second), ["d", "a"]);
    assert!(second.next.is_none());
    query.window.from = Some(PageEdge::Before(cursor(&second.prev)));
    assert_eq!(
        step_ids(&db.list_step_attempts(query).await.unwrap()),
        ["b", "c"]
    );
    assert!(
        db.list_step_attempts(ListSteps::new(NS, "b"))
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn counts_know_legacy_statuses() {
    let db = Db::new().await;
    for status in [
        "pending",
        "running",
        "sleeping",
        "completed",
        "succeeded",
        "succeeded",
        "failed",
        "canceled",
        "odd",
    ] {
        let id = format!(
            "{status}-{}",
            db.query("SELECT count(*) FROM workflow_runs")[0]
        );
        db.create(&id).await;
        db.execute(&format!(
            "UPDATE workflow_runs SET status = '{status}' WHERE id = '{id}'"
        ));
    }
    let counts = db.count_runs(NS).await.unwrap();
    assert_eq!(
        (
            counts.pending,
            counts.running,
            counts.completed,
            counts.failed,
            counts.canceled
        ),
        (1, 2, 3, 1, 1)
    );
    assert_eq!(db.count_runs("other").await.unwrap(), Default::default());
}

#[tokio::test]
async fn a_malformed_row_is_named_by_a_list_too() {
    let db = Db::new().await;
    db.create("a").await;
    db.execute("UPDATE workflow_runs SET updated_at = '?'");
    match db.list_runs(ListRuns::new(NS)).await {
        Err(BackendError::MalformedRow { id, column, .. }) => {
            assert_eq!((&*id, column), ("a", "updated_at"));
        }
        other => panic!("{other:?}"),
    }
}
