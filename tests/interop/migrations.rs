//! One schema, whoever comes first.

use futures::future::join_all;
use openworkflow::Client;
use openworkflow_tests::Database;
use serde_json::json;

use super::workflows::ECHO;
use super::{Peer, Sdk, SharedDatabase, Site};
use crate::Db;

super::checks! {
    both: each_works_on_the_database_that_the_other_made;
    current: many_may_be_first_at_once
}

const VERSIONS: &str = "SELECT version FROM openworkflow_migrations ORDER BY version";

/// A run is made and executed from both sides.
async fn assert_usable(db: &Db, peer: &Peer) {
    assert_eq!(
        db.query(VERSIONS).await,
        ["0", "1", "2", "3", "4", "5"].map(|version| vec![Some(version.to_owned())])
    );
    let run = peer.start("echo", json!("first")).await;
    let worker = openworkflow::Worker::builder(db.store()).workflow(super::named("echo"));
    let mut worker = worker.build().unwrap().start();
    assert_eq!(
        peer.result(&run).await.unwrap(),
        json!({"by": "rust", "value": "first"})
    );
    worker.stop().await.unwrap();
    let run = Client::new(db.store())
        .start(&ECHO, &json!("second"))
        .await
        .unwrap();
    peer.work().await;
    assert_eq!(
        run.result().await.unwrap(),
        json!({"by": "typescript", "value": "second"})
    );
    peer.rest().await;
}

async fn each_works_on_the_database_that_the_other_made(sdk: Sdk) {
    let made_by_rust = Site::new(sdk).await;
    assert_usable(&made_by_rust.db, &made_by_rust.peer).await;

    let made_by_typescript = Db::unopened();
    let peer = Peer::connected(&made_by_typescript, sdk).await;
    let structure = made_by_typescript.structure().await;
    assert!(structure.len() > 50, "{structure:?}");
    made_by_typescript.try_open().await.unwrap();
    assert_usable(&made_by_typescript, &peer).await;

    assert_eq!(made_by_rust.db.structure().await, structure);
    assert_eq!(made_by_typescript.structure().await, structure);
}

async fn many_may_be_first_at_once(sdk: Sdk) {
    let made_alone = Site::new(sdk).await.db.structure().await;
    for _ in 0..3 {
        let db = Db::unopened();
        let peers = [(); 3].map(|()| Peer::spawn(&db, sdk, false));
        // All processes are up before any opens the database. Of those in TypeScript only one need
        // succeed, as it is among themselves.
        join_all(peers.iter().map(|peer| peer.call("hello", json!({})))).await;
        let typescript = join_all(peers.iter().map(|peer| peer.try_call("connect", json!({}))));
        let rust = join_all((0..3).map(|_| db.try_open()));
        let (_, rust) = tokio::join!(typescript, rust);
        for opened in rust {
            opened.unwrap();
        }
        peers[0].call("connect", json!({})).await;
        assert_usable(&db, &peers[0]).await;
        assert_eq!(db.structure().await, made_alone);
    }
}
