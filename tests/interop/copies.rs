//! A run of one language, forked by this library's client: the other goes on with it.

use serde_json::json;

use openworkflow_tests::Database;

use super::workflows::PHASES;
use super::{By, Sdk, Site};

super::checks! {
    both:
        a_fork_goes_on_in_the_other_language,
        a_signal_delivered_in_one_language_goes_along_to_the_other;
    current:
}

async fn a_fork_goes_on_in_the_other_language(sdk: Sdk) {
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let run = site.start_by(first, &PHASES, json!({"signal": "go"})).await;
        site.park_by(first, &run, 1).await;
        site.signal_by(first, "go", json!([1])).await;
        site.complete_by(first, &run).await;

        let fork = site.client.fork(&run, "after").await.unwrap();
        let output = site.complete_by(second, &fork).await;
        assert_eq!(
            output,
            json!({"before": first.name(), "received": {"data": [1]}, "after": second.name()})
        );
    }
}

async fn a_signal_delivered_in_one_language_goes_along_to_the_other(sdk: Sdk) {
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let run = site.start_by(first, &PHASES, json!({"signal": "go"})).await;
        site.park_by(first, &run, 1).await;
        site.signal_by(first, "go", json!([1])).await;
        site.cancel_by(first, &run).await.unwrap();

        let resumed = site.client.resume(&run).await.unwrap();
        let output = site.complete_by(second, &resumed).await;
        assert_eq!(
            output,
            json!({"before": first.name(), "received": {"data": [1]}, "after": second.name()})
        );
        assert_eq!(site.db.run(&run).await.status, "canceled");
    }
}
