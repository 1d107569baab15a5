//! Creating runs.
use crate::kit::*;
use openworkflow::backend::*;

#[tokio::test]
async fn smoke() {
    let db = Db::new().await;
    let run = db.create("a").await;
    let read = db.get_run(NS, "a").await.unwrap().unwrap();
    assert_eq!(format!("{run:?}"), format!("{read:?}"));
    assert_eq!(db.run_row("a"), format!("pending|0|-|{START}|-|-|-"));
    let o = db.claim_one("w").await;
    db.begin_step(&o, attempt("s1", "x", StepAttemptKind::Function))
        .await
        .unwrap();
    db.end_step(&o, completed("s1", "1")).await.unwrap();
    db.end_step(&o, completed("s2", "2")).await.unwrap();
    assert_eq!(db.load_history(NS, "a").await.unwrap().attempts.len(), 2);
    db.end_execution(
        &o,
        ExecutionEnd::Complete {
            output: workflow_core::Payload::NULL,
        },
    )
    .await
    .unwrap();
    assert_eq!(
        db.run_row("a"),
        format!("completed|1|w|-|{START}|{START}|-")
    );
    db.close().await;
}
