//! Steps: one execution in one language, the next in the other.

use std::time::Duration;

use serde_json::{Value, json};

use openworkflow_tests::Database;

use super::workflows::{CAP, EXHAUSTED, FLAKY, NAMES, NAPS, PHASES, THROWING};
use super::{By, Sdk, Site};

super::checks! {
    both:
        a_run_suspended_in_one_language_resumes_in_the_other,
        repeated_names_are_numbered_alike,
        a_sleep_set_up_in_one_language_ends_in_the_other,
        retries_of_a_step_go_on_in_the_other_language;
    current:
        an_exhausted_step_fails_the_run,
        a_workflows_own_retries_count_every_claim,
        the_step_limit_is_one_for_both
}

const HOUR: Duration = Duration::from_secs(3600);

async fn a_run_suspended_in_one_language_resumes_in_the_other(sdk: Sdk) {
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let run = site
            .start_by(second, &PHASES, json!({"signal": "go"}))
            .await;
        site.park_by(first, &run, 1).await;
        assert_eq!(
            site.signal_by(first, "go", json!([1])).await,
            [run.as_str()]
        );
        let output = site.complete_by(second, &run).await;
        assert_eq!(
            output,
            json!({"before": first.name(), "received": {"data": [1]}, "after": second.name()})
        );
        assert_eq!(
            site.step_summary(&run).await,
            [
                "after function completed",
                "before function completed",
                "go signal-wait completed"
            ]
        );
        assert_eq!(site.db.run(&run).await.attempts, 2);
    }
}

async fn repeated_names_are_numbered_alike(sdk: Sdk) {
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let run = site.start_by(first, &NAMES, json!({"signal": "go"})).await;
        site.park_by(first, &run, 1).await;
        site.signal_by(first, "go", Value::Null).await;
        let output = site.complete_by(second, &run).await;
        let (a, b) = (first.name(), second.name());
        let expected = [(0, a), (1, a), (2, a), (3, b), (4, b), (5, b)]
            .map(|(index, by)| format!("{index} by {by}"));
        assert_eq!(output, json!(expected));
        let mut names: Vec<_> = site
            .steps(&run)
            .await
            .into_iter()
            .map(|step| step.name)
            .collect();
        names.sort();
        assert_eq!(names, ["go", "x", "x:1", "x:1:1", "x:1:2", "x:2", "x:3"]);
    }
}

async fn a_sleep_set_up_in_one_language_ends_in_the_other(sdk: Sdk) {
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let run = site
            .start_by(first, &NAPS, json!({"nap": "90 minutes"}))
            .await;
        site.park_by(first, &run, 1).await;
        let nap = site.step(&run, "nap").await.remove(0);
        let context = nap.context.clone().unwrap();
        assert_eq!(context["kind"], "sleep");
        assert_eq!(context.as_object().unwrap().len(), 2, "{context}");
        site.assert_after_now(nap.context_time("resumeAt"), 3 * HOUR / 2);
        let resume_at = context["resumeAt"].as_str().unwrap();
        assert!(super::is_time_text(resume_at), "{resume_at}");

        // Not before its time.
        site.advance(HOUR).await;
        let worker = site.work(second).await;
        let echo = site
            .start_by(first, &super::workflows::ECHO, Value::Null)
            .await;
        site.ended(&echo).await;
        assert_eq!(site.db.run(&run).await.attempts, 1);
        site.advance(HOUR / 2).await;
        let row = site.ended(&run).await;
        site.rest(worker).await;
        assert_eq!(
            row.output,
            Some(json!({"before": first.name(), "after": second.name()}))
        );
        let naps = site.step(&run, "nap").await;
        assert_eq!(naps.len(), 1);
        assert_eq!(
            (naps[0].status.as_str(), &naps[0].output),
            ("completed", &None)
        );
        site.assert_after_now(naps[0].finished_at, Duration::ZERO);
    }
}

async fn retries_of_a_step_go_on_in_the_other_language(sdk: Sdk) {
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let input = json!({"works": "nowhere", "attempts": 4});
        let run = site.start_by(first, &FLAKY, input).await;
        for (attempt, by, delay) in [(1, first, 1), (2, second, 2), (3, first, 4)] {
            let worker = site.work(by).await;
            let row = site.retrying(&run, attempt).await;
            site.rest(worker).await;
            let message = format!("does not work by {}", by.name());
            assert_eq!(row.error_message(), Some(&*message));
            assert_eq!((row.started_at, row.worker_id.as_ref()), (None, None));
            let attempts = site.step(&run, "flaky").await;
            assert_eq!(attempts.len(), usize::try_from(attempt).unwrap());
            let failed = attempts
                .iter()
                .find(|step| step.error_message() == Some(&*message) && step.status == "failed");
            assert_eq!(failed.unwrap().error.as_ref().unwrap()["name"], "Flaky");
            let latest = attempts
                .iter()
                .filter_map(|step| step.finished_at)
                .max()
                .unwrap();
            let waits = row
                .available_at
                .unwrap()
                .duration_since(latest)
                .unwrap_or_default();
            assert!(
                is_delay(waits, Duration::from_secs(delay)),
                "attempt {attempt} by {by:?}: {waits:?}"
            );
            site.advance(Duration::from_secs(delay + 1)).await;
        }
        let error = site.fail_by(second, &run).await;
        assert_eq!(
            error["message"],
            format!("does not work by {}", second.name())
        );
        assert_eq!(site.step(&run, "flaky").await.len(), 4);
        assert_eq!(site.db.run(&run).await.attempts, 4);

        // What failed in one language may work in the other.
        let run = site
            .start_by(first, &FLAKY, json!({"works": second.name()}))
            .await;
        let worker = site.work(first).await;
        site.retrying(&run, 1).await;
        site.rest(worker).await;
        site.advance(Duration::from_secs(2)).await;
        assert_eq!(site.complete_by(second, &run).await, json!(second.name()));
        assert_eq!(site.db.run(&run).await.error, None);
    }
}

async fn an_exhausted_step_fails_the_run(sdk: Sdk) {
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let run = site.start_by(first, &EXHAUSTED, Value::Null).await;
        let worker = site.work(first).await;
        site.retrying(&run, 1).await;
        site.rest(worker).await;
        let error = site.fail_by(second, &run).await;
        // The workflow's own policy would allow ten attempts.
        assert_eq!(site.db.run(&run).await.attempts, 2);
        assert_eq!(error["name"], "Hopeless");
        assert_eq!(error["message"], format!("hopeless by {}", second.name()));
        assert_eq!(
            site.step_summary(&run).await,
            ["hopeless function failed", "hopeless function failed"]
        );
    }
}

async fn a_workflows_own_retries_count_every_claim(sdk: Sdk) {
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let run = site
            .start_by(first, &THROWING, json!({"signal": "go"}))
            .await;
        site.park_by(first, &run, 1).await;
        site.signal_by(first, "go", Value::Null).await;
        // The park was the first of three.
        let worker = site.work(second).await;
        let row = site.retrying(&run, 2).await;
        site.rest(worker).await;
        let waits = row
            .available_at
            .unwrap()
            .duration_since(row.updated_at.unwrap())
            .unwrap_or_default();
        assert!(
            is_delay(waits, Duration::from_secs(2)),
            "{second:?}: {waits:?}"
        );
        site.advance(Duration::from_secs(3)).await;
        let error = site.fail_by(first, &run).await;
        assert_eq!(error["name"], "Thrown");
        assert_eq!(error["message"], format!("thrown by {}", first.name()));
        assert_eq!(site.db.run(&run).await.attempts, 3);
    }
}

async fn the_step_limit_is_one_for_both(sdk: Sdk) {
    let mut errors = Vec::new();
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        // With the wait, one attempt remains.
        let run = site
            .start_by(first, &CAP, json!({"before": 998, "signal": "go"}))
            .await;
        site.park_by(first, &run, 1).await;
        site.signal_by(second, "go", Value::Null).await;
        errors.push(site.fail_by(second, &run).await);
        assert_eq!(site.steps(&run).await.len(), 1000);
    }
    assert_eq!(errors[0], errors[1]);
    assert_eq!(
        errors[0],
        json!({
            "code": "STEP_LIMIT_EXCEEDED",
            "name": "StepLimitExceededError",
            "limit": 1000,
            "stepCount": 1000,
            "message": "Exceeded the step limit of 1000 attempts (current count: 1000)",
        })
    );
}

/// Whether a wait between two rows' times is this delay and no other of the doubling ones. The rows are
/// written one after the other, by a process that may be slow, and their times may be two clocks'.
fn is_delay(wait: Duration, delay: Duration) -> bool {
    (delay.mul_f64(0.6)..delay.mul_f64(1.9)).contains(&wait)
}
