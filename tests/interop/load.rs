//! A mixed fleet at work.

use futures::future::join_all;
use openworkflow_tests::Database;
use serde_json::{Value, json};

use super::workflows::{BUSY, PHASES};
use super::{By, Sdk, SharedDatabase, Site, TIMES};

super::checks! {
    both: a_mixed_fleet_does_every_step_once;
    current: rows_of_both_have_times_of_one_form
}

const RUNS: usize = 60;
const STEPS: usize = 15;

async fn a_mixed_fleet_does_every_step_once(sdk: Sdk) {
    let site = Site::new(sdk).await;
    let typescript = site.work(By::TypeScript).await;
    let rust = site.work(By::Rust).await;
    let start = |index| {
        let site = &site;
        let by = if index % 2 == 0 {
            By::Rust
        } else {
            By::TypeScript
        };
        async move {
            let run = site
                .start_by(by, &BUSY, json!({"run": index, "steps": STEPS}))
                .await;
            (index, run)
        }
    };
    let runs = join_all((0..RUNS).map(start)).await;
    let mut names: Vec<_> = (0..STEPS).map(|index| format!("{index}")).collect();
    names.push("last".to_owned());
    for (index, run) in &runs {
        let row = site.ended(run).await;
        assert_eq!(row.status, "completed", "{row:#?}");
        let made: Vec<_> = names.iter().map(|name| format!("{index}.{name}")).collect();
        assert_eq!(row.output, Some(json!(made)));
        let steps = site.steps(run).await;
        // With the sleep: one attempt at each, none again.
        assert_eq!(steps.len(), STEPS + 2, "{steps:#?}");
        assert!(steps.iter().all(|step| step.status == "completed"));
    }
    site.rest(rust).await;
    site.rest(typescript).await;
    let errors = site.peer.stderr();
    println!(
        "locked calls: {}, lines {}",
        site.peer.call("locked", json!({})).await,
        errors.matches("locked").count()
    );
    println!("{errors}");
    println!("{:?}", site.db.query("select s.output, count(*) from workflow_runs r join workflow_runs s on 0 group by 1").await);
    assert!(!errors.to_lowercase().contains("locked"), "{errors}");
}

async fn rows_of_both_have_times_of_one_form(sdk: Sdk) {
    let site = Site::new(sdk).await;
    for (first, second) in By::BOTH_WAYS {
        let deadline = json!({"workflow": "phases", "input": {"signal": first.name()},
            "options": {"deadlineAt": "2099-01-01T00:00:00.000Z", "availableAt": "1ms"}});
        let run = match first {
            By::Rust => {
                let input = json!({"signal": first.name()});
                let start = site
                    .client
                    .start(&PHASES, &input)
                    .deadline("9 days")
                    .delay("1ms");
                start.await.unwrap().id().to_owned()
            }
            By::TypeScript => site.peer.start_with(deadline).await,
        };
        site.park_by(first, &run, 1).await;
        site.signal_by(second, first.name(), Value::Null).await;
        site.complete_by(second, &run).await;
        let parked = site
            .start_by(second, &PHASES, json!({"signal": "other"}))
            .await;
        site.park_by(first, &parked, 1).await;
    }
    let mut times = 0;
    for (table, columns) in TIMES {
        for column in columns {
            let values = format!("SELECT {column} FROM {table} WHERE {column} IS NOT NULL");
            for row in site.db.query(&values).await {
                let text = row[0].as_deref().unwrap();
                site.db.assert_time_text(column, text);
                times += 1;
            }
        }
    }
    for step in site
        .db
        .query("SELECT context FROM step_attempts WHERE context IS NOT NULL")
        .await
    {
        let context: Value = serde_json::from_str(step[0].as_deref().unwrap()).unwrap();
        let at = context["timeoutAt"].as_str().unwrap();
        assert!(super::is_time_text(at), "{context}");
        times += 1;
    }
    assert!(times > 60, "{times} times");
}
