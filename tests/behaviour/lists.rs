//! Lists of runs and steps, their pages, and counts.

use openworkflow::backend::{Cursor, WorkflowRun};
use openworkflow::{Client, ClientError, WorkflowSpec};
use openworkflow_tests::Database;

use super::{Harness, SECOND};

static W: WorkflowSpec<u32, u32> = WorkflowSpec::new("w");
static OTHER: WorkflowSpec<u32, u32> = WorkflowSpec::new("other");

/// Ids of all runs, by way of pages of `limit`, forwards.
async fn forwards(client: &Client, limit: u32) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut page = client.list_runs().limit(limit).await.unwrap();
    assert_eq!(page.prev, None, "nothing comes before the first page");
    loop {
        pages.push(page.items.iter().map(|run| run.id.clone()).collect());
        let Some(next) = page.next else {
            return pages;
        };
        page = client.list_runs().limit(limit).after(next).await.unwrap();
        assert!(page.prev.is_some());
    }
}

#[tokio::test]
async fn runs_are_listed_newest_first_and_once() {
    let harness = Harness::idle().await;
    let mut started = Vec::new();
    for n in 0..10 {
        started.push(harness.start(&W, n).await.id().to_owned());
        // Some share a millisecond, some don't.
        if n % 3 == 0 {
            harness.advance(SECOND).await;
        }
    }
    let all = harness.client.list_runs().await.unwrap();
    assert_eq!((all.items.len(), &all.next, &all.prev), (10, &None, &None));
    let mut sorted = all.items.clone();
    sorted.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
    let ids = |runs: &[openworkflow::backend::WorkflowRun]| {
        runs.iter().map(|run| run.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&all.items), ids(&sorted));
    for limit in [1, 3, 4, 5, 9, 10, 11] {
        let pages = forwards(&harness.client, limit).await;
        assert_eq!(pages.len(), 10_usize.div_ceil(limit as usize));
        assert_eq!(pages.concat(), ids(&all.items), "in pages of {limit}");
    }
}

#[tokio::test]
async fn pages_lead_back_as_they_led_on() {
    let harness = Harness::idle().await;
    for n in 0..7 {
        harness.start(&W, n).await;
    }
    let list = || harness.client.list_runs().limit(3);
    let ids = |page: &openworkflow::backend::Page<openworkflow::backend::WorkflowRun>| {
        page.items
            .iter()
            .map(|run| run.id.clone())
            .collect::<Vec<_>>()
    };
    let first = list().await.unwrap();
    let second = list().after(first.next.clone().unwrap()).await.unwrap();
    let third = list().after(second.next.clone().unwrap()).await.unwrap();
    assert_eq!((third.items.len(), &third.next), (1, &None));
    let back = list().before(third.prev.clone().unwrap()).await.unwrap();
    assert_eq!(ids(&back), ids(&second));
    assert!(back.next.is_some() && back.prev.is_some());
    let back = list().before(back.prev.unwrap()).await.unwrap();
    assert_eq!(ids(&back), ids(&first));
    assert_eq!(back.prev, None);
    assert!(back.next.is_some());
}

#[tokio::test]
async fn cursors_are_those_of_the_protocol() {
    let harness = Harness::idle().await;
    for n in 0..2 {
        harness.start(&W, n).await;
    }
    let page = harness.client.list_runs().limit(1).await.unwrap();
    let cursor = Cursor::decode(&page.next.unwrap()).expect("it reads its own cursors");
    assert_eq!(cursor.id(), page.items[0].id);
    assert_eq!(cursor.created_at(), page.items[0].created_at);
    // Base64 of {"createdAt":"2026-01-31T12:00:00.123Z","id":"x"}, written elsewhere.
    let foreign = "eyJjcmVhdGVkQXQiOiIyMDI2LTAxLTMxVDEyOjAwOjAwLjEyM1oiLCJpZCI6IngifQ==";
    assert_eq!(Cursor::decode(foreign).unwrap().encode(), foreign);
    let older = harness.client.list_runs().after(foreign).await.unwrap();
    assert_eq!(older.items.len(), 0);
    let newer = harness.client.list_runs().before(foreign).await.unwrap();
    assert_eq!(newer.items.len(), 2);
}

#[tokio::test]
async fn what_is_no_cursor_or_no_page_is_refused() {
    let harness = Harness::idle().await;
    let run = harness.start(&W, 1).await;
    let page = harness.client.list_steps(run.id()).await.unwrap();
    assert!(page.items.is_empty());
    for text in ["", "nonsense", "e30=", "eyJpZCI6IngifQ=="] {
        let error = harness.client.list_runs().after(text).await.unwrap_err();
        assert!(
            matches!(error, ClientError::InvalidCursor { .. }),
            "{text:?}: {error}"
        );
        let error = harness
            .client
            .list_steps(run.id())
            .before(text)
            .await
            .unwrap_err();
        assert!(
            matches!(error, ClientError::InvalidCursor { .. }),
            "{text:?}: {error}"
        );
    }
    let cursor = Cursor::new(harness.now(), "x").encode();
    let both = harness.client.list_runs().after(&*cursor).before(&*cursor);
    assert!(matches!(both.await, Err(ClientError::InvalidCursor { .. })));
    for limit in [0, 1001, u32::MAX] {
        let error = harness.client.list_runs().limit(limit).await.unwrap_err();
        assert!(error.to_string().contains("1 to 1000"), "{error}");
    }
}

#[tokio::test]
async fn filters() {
    let harness =
        Harness::new(|worker| worker.workflow(W.implement(|_, n: u32| async move { Ok(n) }))).await;
    for n in 0..3 {
        harness.complete(&W, n).await;
        harness.start(&OTHER, n).await;
    }
    harness.start(&OTHER, 9).await.cancel().await.unwrap();
    let count = |status: &'static str, workflow: &'static str| {
        let mut list = harness.client.list_runs();
        if !status.is_empty() {
            list = list.status(status.parse().unwrap());
        }
        if !workflow.is_empty() {
            list = list.workflow(workflow);
        }
        async move { list.await.unwrap().items.len() }
    };
    assert_eq!(count("", "").await, 7);
    assert_eq!(count("completed", "").await, 3);
    assert_eq!(count("pending", "").await, 3);
    assert_eq!(count("failed", "").await, 0);
    assert_eq!(count("", "other").await, 4);
    assert_eq!(count("canceled", "other").await, 1);
    assert_eq!(count("canceled", "w").await, 0);
    assert_eq!(count("", "nobody").await, 0);
    let page = harness
        .client
        .list_runs()
        .workflow("other")
        .limit(2)
        .await
        .unwrap();
    let rest = harness
        .client
        .list_runs()
        .workflow("other")
        .after(page.next.unwrap());
    let rest = rest.await.unwrap();
    assert_eq!(rest.items.len(), 2);
    assert!(rest.items.iter().all(|run| run.workflow_name == "other"));
}

#[tokio::test]
async fn the_runs_of_a_workflow_have_one_order_whatever_their_status() {
    let harness = Harness::idle().await;
    let mut runs = Vec::new();
    for n in 0..12 {
        runs.push(harness.start(&W, n).await);
        harness.start(&OTHER, n).await;
        // Some share a millisecond, some don't.
        if n % 4 == 0 {
            harness.advance(SECOND).await;
        }
    }
    // Side by side in time, and not by status; one that nobody knows is among them.
    let statuses = ["pending", "completed", "running", "canceled", "mislaid"];
    for (run, status) in runs.iter().zip(statuses.iter().cycle()) {
        let sql = format!(
            "UPDATE workflow_runs SET status = '{status}' WHERE id = '{}'",
            run.id()
        );
        harness.execute(&sql).await;
    }
    let list = |limit| harness.client.list_runs().workflow("w").limit(limit);
    let all = list(100).await.unwrap();
    assert_eq!((all.items.len(), &all.next), (12, &None));
    let key = |run: &WorkflowRun| (run.created_at, run.id.clone());
    assert!(all.items.is_sorted_by(|a, b| key(a) > key(b)));
    for limit in [1, 3, 5, 12] {
        let mut pages = vec![list(limit).await.unwrap()];
        while let Some(next) = pages[pages.len() - 1].next.clone() {
            pages.push(list(limit).after(next).await.unwrap());
        }
        let items: Vec<_> = pages.iter().flat_map(|page| &page.items).collect();
        assert!(items.into_iter().map(key).eq(all.items.iter().map(key)));
        for (page, next) in pages.iter().zip(&pages[1..]) {
            let back = list(limit).before(next.prev.clone().unwrap()).await;
            let back = back.unwrap().items;
            assert!(back.iter().map(key).eq(page.items.iter().map(key)));
        }
    }
}

#[tokio::test]
async fn counts_know_old_statuses() {
    let harness = Harness::idle().await;
    for status in [
        "pending",
        "running",
        "sleeping",
        "completed",
        "completed",
        "succeeded",
        "failed",
        "canceled",
        "unheard-of",
    ] {
        let run = harness.start(&W, 1).await;
        harness
            .execute(&format!(
                "UPDATE workflow_runs SET status = '{status}' WHERE id = '{}'",
                run.id()
            ))
            .await;
    }
    let counts = harness.client.count_runs().await.unwrap();
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
}

#[tokio::test]
async fn steps_are_listed_oldest_first() {
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(|wf, steps: u32| async move {
            for n in 0..steps {
                wf.run(format!("s{n}"), || async { Ok(n) }).await?;
                wf.sleep(format!("nap{n}"), SECOND).await?;
            }
            Ok(steps)
        }))
    })
    .await;
    let run = harness.start(&W, 3).await;
    for attempt in 1..=3 {
        harness.parked(run.id(), attempt).await;
        harness.advance(SECOND).await;
    }
    harness.output(&run).await;
    let all = harness.client.list_steps(run.id()).await.unwrap();
    assert_eq!(all.items.len(), 6);
    assert!(
        all.items
            .is_sorted_by_key(|step| (step.created_at, step.id.clone()))
    );
    let mut paged = Vec::new();
    let mut page = harness.client.list_steps(run.id()).limit(4).await.unwrap();
    loop {
        paged.extend(page.items.iter().map(|step| step.id.clone()));
        let Some(next) = page.next else { break };
        page = harness
            .client
            .list_steps(run.id())
            .limit(4)
            .after(next)
            .await
            .unwrap();
    }
    let ids: Vec<_> = all.items.iter().map(|step| step.id.clone()).collect();
    assert_eq!(paged, ids);
    let step = all
        .items
        .iter()
        .find(|step| step.step_name == "s1")
        .unwrap();
    assert_eq!(step.kind.as_str(), "function");
    assert_eq!(step.status.as_str(), "completed");
    assert_eq!(step.output.expose(), "1");
    assert_eq!(step.workflow_run_id, run.id());
    assert!(step.started_at.is_some() && step.finished_at.is_some());
    assert!(
        harness
            .client
            .list_steps("missing")
            .await
            .unwrap()
            .items
            .is_empty()
    );
}
