//! Creating, reading and canceling runs.

use openworkflow::backend::{Backend, BackendError, Cancellation, ExecutionEnd, RunStatus};
use workflow_core::{Carrier, Interruption, Payload};

use crate::kit::*;

#[tokio::test]
async fn a_created_run_is_pending_and_comes_back_as_it_was_returned() {
    let db = Db::new().await;
    let mut new = new_run("a");
    new.version = Some("v2".to_owned());
    new.idempotency_key = Some("key".to_owned());
    new.carrier = Carrier::from_iter([("traceparent", "00-1-2-01")]);
    new.available_at = Some(start() + MINUTE);
    new.deadline_at = Some(start() + HOUR);
    let (created, found) = db.create_run(new).await.unwrap();
    assert!(!found);
    let read = db.get_run(NS, "a").await.unwrap().unwrap();
    assert_eq!(format!("{created:?}"), format!("{read:?}"));
    assert_eq!(read.input.expose(), r#"{"b":1,"a":2}"#);

    let row = db.query(
        "SELECT namespace_id, id, workflow_name, version, status, idempotency_key, config, context,
             input, output, error, attempts, parent_step_attempt_namespace_id,
             parent_step_attempt_id, worker_id, available_at, deadline_at, started_at, finished_at,
             created_at, updated_at
         FROM workflow_runs",
    );
    let carrier = r#"{"traceparent":"00-1-2-01"}"#;
    let expected = format!(
        r#"default|a|order|v2|pending|key|{{}}|{{"telemetry":{carrier},"traceContext":{carrier}}}|{{"b":1,"a":2}}|-|-|0|-|-|-|{}|{}|-|-|{START}|{START}"#,
        text_at(MINUTE),
        text_at(HOUR),
    );
    assert_eq!(row, [expected]);
}

#[tokio::test]
async fn absent_values_are_null() {
    let db = Db::new().await;
    let mut new = new_run("a");
    new.input = Payload::NULL;
    db.create_run(new).await.unwrap();
    let row = db.query(
        "SELECT version, idempotency_key, context, input, deadline_at, available_at
         FROM workflow_runs",
    );
    assert_eq!(row, [format!("-|-|-|-|-|{START}")]);
    assert!(db.get_run(NS, "b").await.unwrap().is_none());
    assert!(db.get_run("other", "a").await.unwrap().is_none());
}

#[tokio::test]
async fn an_idempotency_key_finds_its_run_for_24_hours() {
    let db = Db::new().await;
    let keyed = |id: &str, key: &str| {
        let mut new = new_run(id);
        new.idempotency_key = Some(key.to_owned());
        new
    };
    db.create_run(keyed("a", "")).await.unwrap();
    db.cancel_run(NS, "a").await.unwrap();

    // Whatever its status, and whatever the second asks for.
    let mut again = keyed("b", "");
    again.version = Some("v9".to_owned());
    let (run, found) = db.create_run(again).await.unwrap();
    assert!(found);
    assert_eq!((&*run.id, run.version), ("a", None));
    assert_eq!(run.status, RunStatus::Canceled);

    // Other keys, workflows and namespaces are other runs.
    assert!(!db.create_run(keyed("c", "x")).await.unwrap().1);
    let mut other = keyed("d", "");
    other.workflow_name = "other".to_owned();
    assert!(!db.create_run(other).await.unwrap().1);
    let mut other = keyed("e", "");
    other.namespace_id = "other".to_owned();
    assert!(!db.create_run(other).await.unwrap().1);
    // No key is no key.
    assert!(!db.create_run(new_run("f")).await.unwrap().1);
    assert!(!db.create_run(new_run("g")).await.unwrap().1);

    db.clock.advance(HOUR * 24);
    assert_eq!(db.create_run(keyed("h", "")).await.unwrap().0.id, "a");
    db.clock.advance(SECOND / 1000);
    assert_eq!(db.create_run(keyed("i", "")).await.unwrap().0.id, "i");
    // Both are within the period now, if we look at the second one from a little later.
    db.clock.advance(HOUR);
    assert_eq!(db.create_run(keyed("j", "")).await.unwrap().0.id, "i");
}

#[tokio::test]
async fn the_oldest_run_of_a_key_wins() {
    let db = Db::new().await;
    for (id, created_at) in [("new", text_at(HOUR)), ("old", text_at(MINUTE))] {
        db.execute(&format!(
            "INSERT INTO workflow_runs (namespace_id, id, workflow_name, status, config, attempts,
                 idempotency_key, created_at, updated_at)
             VALUES ('default', '{id}', 'order', 'failed', '{{}}', 3, 'k', '{created_at}',
                 '{created_at}')"
        ));
    }
    db.clock.advance(HOUR * 2);
    let mut new = new_run("c");
    new.idempotency_key = Some("k".to_owned());
    assert_eq!(db.create_run(new).await.unwrap().0.id, "old");
}

#[tokio::test]
async fn parallel_creations_with_one_key_make_one_run() {
    let db = Db::new().await;
    let other = openworkflow::Sqlite::open(&db.path).await.unwrap();
    // The second opener has the system's clock, so its window must be that of the first.
    db.clock.advance(
        std::time::SystemTime::now()
            .duration_since(start())
            .unwrap_or_default(),
    );
    let creations = (0..40).map(|i| {
        let store = if i % 2 == 0 {
            db.store.clone()
        } else {
            other.clone()
        };
        tokio::spawn(async move {
            let mut new = new_run(&format!("run-{i}"));
            new.idempotency_key = Some("one".to_owned());
            store.create_run(new).await.unwrap()
        })
    });
    let mut created = 0;
    let mut ids = Vec::new();
    for creation in creations.collect::<Vec<_>>() {
        let (run, found) = creation.await.unwrap();
        created += usize::from(!found);
        ids.push(run.id);
    }
    ids.dedup();
    assert_eq!((created, ids.len()), (1, 1));
    assert_eq!(db.query("SELECT count(*) FROM workflow_runs"), ["1"]);
}

#[tokio::test]
async fn a_second_run_with_the_same_id_is_an_error_and_changes_nothing() {
    let db = Db::new().await;
    db.create("a").await;
    let error = db.create_run(new_run("a")).await.unwrap_err();
    assert!(
        matches!(
            error,
            BackendError::Driver {
                transient: false,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(db.query("SELECT count(*) FROM workflow_runs"), ["1"]);
}

#[tokio::test]
async fn a_parent_that_does_not_exist_is_an_error() {
    let db = Db::new().await;
    let mut child = new_run("a");
    child.parent_step_attempt_id = Some("nowhere".to_owned());
    let error = db.create_run(child).await.unwrap_err();
    assert!(error.to_string().contains("FOREIGN KEY"), "{error}");
    assert!(db.get_run(NS, "a").await.unwrap().is_none());
}

#[tokio::test]
async fn names_may_be_empty_and_a_megabyte_long() {
    let db = Db::new().await;
    let long = "ä".repeat(512 * 1024);
    for (id, name) in [("a", ""), ("b", &*long)] {
        let mut new = new_run(id);
        new.workflow_name = name.to_owned();
        db.create_run(new).await.unwrap();
        assert_eq!(
            db.get_run(NS, id).await.unwrap().unwrap().workflow_name,
            name
        );
    }
}

#[tokio::test]
async fn cancel_ends_what_is_not_over() {
    let db = Db::new().await;
    // Running, with an error left over from an earlier execution.
    let owner = db.running("running", "w").await;
    let retry = ExecutionEnd::Retry {
        error: r#"{"message":"no"}"#.to_owned(),
        at: start(),
        waits: vec![],
    };
    db.end_execution(&owner, retry).await.unwrap();
    let owner = db.claim_one("w").await;
    db.create("pending").await;
    db.clock.advance(MINUTE);
    for id in ["pending", "running"] {
        for again in [false, true] {
            let Cancellation::Canceled { runs } = db.cancel_run(NS, id).await.unwrap() else {
                panic!("{id} can be canceled");
            };
            let told: Vec<_> = runs.iter().map(|run| (&*run.run_id, run.age)).collect();
            let expected = if again {
                vec![]
            } else {
                vec![(id, Some(MINUTE))]
            };
            assert_eq!(told, expected);
        }
    }
    let at = text_at(MINUTE);
    assert_eq!(db.run_row("pending"), format!("canceled|0|-|-|-|{at}|-"));
    let expected = format!(r#"canceled|2|-|-|{START}|{at}|{{"message":"no"}}"#);
    assert_eq!(db.run_row("running"), expected);
    assert_eq!(
        db.query("SELECT DISTINCT updated_at FROM workflow_runs"),
        [at.as_str()]
    );
    assert_lost(db.extend_lease(&owner, LEASE).await, Interruption::Canceled);
}

#[tokio::test]
async fn cancel_knows_parked_legacy_ended_and_missing_runs() {
    let db = Db::new().await;
    let owner = db.running("parked", "w").await;
    let park = ExecutionEnd::Park {
        until: start() + HOUR,
        waits: vec![],
    };
    db.end_execution(&owner, park).await.unwrap();
    assert!(matches!(
        db.cancel_run(NS, "parked").await.unwrap(),
        Cancellation::Canceled { .. }
    ));

    for status in ["sleeping", "completed", "failed", "succeeded"] {
        db.create(status).await;
        db.execute(&format!(
            "UPDATE workflow_runs SET status = '{status}' WHERE id = '{status}'"
        ));
    }
    assert!(matches!(
        db.cancel_run(NS, "sleeping").await.unwrap(),
        Cancellation::Canceled { .. }
    ));
    for status in ["completed", "failed", "succeeded"] {
        let before = db.run_row(status);
        match db.cancel_run(NS, status).await.unwrap() {
            Cancellation::AlreadyEnded(found) => assert_eq!(found.as_str(), status),
            other => panic!("{status}: {other:?}"),
        }
        assert_eq!(db.run_row(status), before);
    }
    assert!(matches!(
        db.cancel_run(NS, "missing").await.unwrap(),
        Cancellation::NotFound
    ));
    assert!(matches!(
        db.cancel_run("other", "parked").await.unwrap(),
        Cancellation::NotFound
    ));
}

#[tokio::test]
async fn a_malformed_row_is_named() {
    let db = Db::new().await;
    for (column, value, problem) in [
        (
            "created_at",
            "'yesterday'",
            "\"yesterday\", which is no timestamp",
        ),
        ("finished_at", "''", "\"\", which is no timestamp"),
        ("attempts", "-1", "-1, which is no count"),
        ("input", "x'00'", "a value of type Blob"),
        ("error", "CAST(x'ff' AS TEXT)", "text that is not UTF-8"),
    ] {
        db.create(column).await;
        db.execute(&format!(
            "UPDATE workflow_runs SET {column} = {value} WHERE id = '{column}'"
        ));
        match db.get_run(NS, column).await {
            Err(BackendError::MalformedRow {
                table,
                id,
                column: named,
                problem: found,
            }) => {
                assert_eq!((table, &*id, named), ("workflow_runs", column, column));
                assert_eq!(found, problem);
            }
            other => panic!("{column}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_broken_context_only_costs_the_carrier() {
    let db = Db::new().await;
    db.create("a").await;
    db.execute("UPDATE workflow_runs SET context = '{\"telemetry\":', status = 'odd'");
    let run = db.get_run(NS, "a").await.unwrap().unwrap();
    assert_eq!(run.carrier.unreadable(), 1);
    assert_eq!(run.status, RunStatus::Other("odd".to_owned()));
}
