//! The workflows of `peer.mjs`, in Rust: the same names, the same steps, and the language in what a
//! step returns.

use std::path::Path;
use std::time::Duration;

use openworkflow::otel::opentelemetry::Context;
use openworkflow::otel::opentelemetry::baggage::BaggageExt;
use openworkflow::{Error, Progress, RetryPolicy, Workflow, WorkflowContext, WorkflowSpec};
use serde::Deserialize;
use serde_json::{Value, json};

const BY: &str = "rust";

/// A workflow of these, as clients and parents see it.
pub(crate) type Spec = WorkflowSpec<Value, Value>;

pub(crate) static ECHO: Spec = Spec::new("echo");
pub(crate) static ECHO_2: Spec = Spec::new("echo").version("2");
pub(crate) static NOTHING: Spec = Spec::new("nothing");
pub(crate) static PHASES: Spec = Spec::new("phases");
pub(crate) static NAPS: Spec = Spec::new("naps");
pub(crate) static PARENT: Spec = Spec::new("parent");
pub(crate) static CHILD: Spec = Spec::new("child");
pub(crate) static NAMES: Spec = Spec::new("names");
pub(crate) static FLAKY: Spec = Spec::new("flaky");
pub(crate) static EXHAUSTED: Spec = Spec::new("exhausted").retry(fast(10));
pub(crate) static THROWING: Spec = Spec::new("throwing").retry(RetryPolicy::attempts(3));
pub(crate) static SENDER: Spec = Spec::new("sender");
pub(crate) static SLOW: Spec = Spec::new("slow");
pub(crate) static BUSY: Spec = Spec::new("busy");
pub(crate) static CAP: Spec = Spec::new("cap");
pub(crate) static ROUNDS: Spec = Spec::new("rounds");

const fn fast(attempts: u32) -> RetryPolicy {
    RetryPolicy::attempts(attempts).initial_interval(Duration::from_millis(100))
}

/// All of them.
pub(crate) fn all() -> Vec<Workflow> {
    vec![
        ECHO.implement(|wf, input| async move {
            wf.run("echo", || async { Ok(json!({"by": BY, "value": input})) })
                .await
        }),
        ECHO_2.implement(|wf, input| async move {
            let version = wf.execution().run.workflow_version.clone();
            let echo =
                || async { Ok(json!({"by": BY, "value": input, "version": version.as_deref()})) };
            wf.run("echo", echo).await
        }),
        NOTHING.implement(|wf, _| async move {
            wf.run("nothing", || async { Ok(()) }).await?;
            Ok(Value::Null)
        }),
        PHASES.implement(phases),
        NAPS.implement(|wf, input| async move {
            let before = by(&wf, "before").await?;
            wf.sleep("nap", text(&input, "nap")).await?;
            let after = by(&wf, "after").await?;
            Ok(json!({"before": before, "after": after}))
        }),
        PARENT.implement(parent),
        CHILD.implement(child),
        NAMES.implement(names),
        FLAKY.implement(flaky),
        EXHAUSTED.implement(|wf, _| async move {
            let fail =
                || async { Err::<(), _>(Error::new("Hopeless", format!("hopeless by {BY}"))) };
            wf.run("hopeless", fail).retry(fast(2)).await?;
            Ok(Value::Null)
        }),
        THROWING.implement(|wf, input| async move {
            wf.wait_for_signal::<Value>(text(&input, "signal")).await?;
            Err(Error::new("Thrown", format!("thrown by {BY}")))
        }),
        SENDER.implement(|wf, input| async move {
            let received = wf
                .send_signal(text(&input, "signal"), &input["data"])
                .await?;
            Ok(json!({"by": BY, "received": received}))
        }),
        SLOW.implement(slow),
        BUSY.implement(busy),
        CAP.implement(cap),
        ROUNDS.implement(rounds),
    ]
}

async fn by(wf: &WorkflowContext, step: &str) -> Result<String, Error> {
    wf.run(step, || async { Ok(BY.to_owned()) }).await
}

fn text(input: &Value, member: &str) -> String {
    input[member].as_str().unwrap_or_default().to_owned()
}

async fn phases(wf: WorkflowContext, input: Value) -> Result<Value, Error> {
    let before = by(&wf, "before").await?;
    let mut wait = wf.wait_for_signal::<Value>(text(&input, "signal"));
    if let Some(timeout) = input["timeout"].as_str() {
        wait = wait.timeout(timeout);
    }
    let received = wait.await?;
    let after = by(&wf, "after").await?;
    let received = received.map(|data| json!({"data": data}));
    Ok(json!({"before": before, "received": received, "after": after}))
}

#[derive(Deserialize)]
struct ParentInput {
    child: Value,
    timeout: Option<String>,
    #[serde(default)]
    catches: bool,
}

async fn parent(wf: WorkflowContext, input: Value) -> Result<Value, Error> {
    let input: ParentInput = serde_json::from_value(input)?;
    let mut ask = wf.run_workflow(&CHILD, &input.child);
    if let Some(timeout) = input.timeout {
        ask = ask.timeout(timeout);
    }
    match ask.await {
        Ok(child) => Ok(json!({"by": BY, "child": child})),
        Err(error) if input.catches => {
            let failure = json!({"name": error.name(), "message": error.message()});
            Ok(json!({"by": BY, "failure": failure}))
        }
        Err(error) => Err(error),
    }
}

async fn child(wf: WorkflowContext, input: Value) -> Result<Value, Error> {
    let tenant = || {
        Context::current()
            .baggage()
            .get("tenant")
            .map(ToString::to_string)
    };
    let baggage = wf.run("work", || async { Ok(tenant()) }).await?;
    match input["mode"].as_str() {
        Some("fail") => return Err(Error::new("ChildBroke", "the child broke")),
        Some("wait") => {
            wf.wait_for_signal::<Value>(text(&input, "signal")).await?;
        }
        _ => {}
    }
    Ok(json!({"by": BY, "mode": input["mode"], "baggage": baggage}))
}

async fn names(wf: WorkflowContext, input: Value) -> Result<Value, Error> {
    let mut outputs = Vec::new();
    for (index, name) in ["x", "x", "x", "x:1", "x", "x:1"].into_iter().enumerate() {
        if index == 3 {
            wf.wait_for_signal::<Value>(text(&input, "signal")).await?;
        }
        let output = || async { Ok(format!("{index} by {BY}")) };
        outputs.push(wf.run(name, output).await?);
    }
    Ok(json!(outputs))
}

async fn flaky(wf: WorkflowContext, input: Value) -> Result<Value, Error> {
    let attempts = input["attempts"].as_u64().unwrap_or(10);
    let interval = input["interval_seconds"].as_u64().unwrap_or(1);
    let policy = RetryPolicy::attempts(u32::try_from(attempts).unwrap_or(u32::MAX))
        .initial_interval(Duration::from_secs(interval));
    let attempt = || async {
        if input["works"] == BY {
            Ok(json!(BY))
        } else {
            Err(Error::new("Flaky", format!("does not work by {BY}")))
        }
    };
    wf.run("flaky", attempt).retry(policy).await
}

async fn slow(wf: WorkflowContext, input: Value) -> Result<Value, Error> {
    let first = by(&wf, "first").await?;
    let slow = |progress: Progress<Value>| async move {
        progress
            .save(&json!({"by": BY, "before": progress.last()}))
            .await?;
        if let Some(hold) = input["hold"].as_str()
            && input.get("by").is_none_or(|by| by == BY)
        {
            while Path::new(hold).exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(BY.to_owned())
    };
    let slow = wf.run_with_progress("slow", slow).await?;
    Ok(json!({"first": first, "slow": slow}))
}

async fn busy(wf: WorkflowContext, input: Value) -> Result<Value, Error> {
    let run = &input["run"];
    let mut made = Vec::new();
    for index in 0..input["steps"].as_u64().unwrap_or_default() {
        let make = || async { Ok(format!("{run}.{index}")) };
        made.push(wf.run(format!("step-{index}"), make).await?);
    }
    wf.sleep("breath", "20ms").await?;
    made.push(
        wf.run("last", || async { Ok(format!("{run}.last")) })
            .await?,
    );
    Ok(json!(made))
}

async fn cap(wf: WorkflowContext, input: Value) -> Result<Value, Error> {
    let before = input["before"].as_u64().unwrap_or_default();
    for index in 0..before {
        wf.run(format!("step-{index}"), || async { Ok(index) })
            .await?;
    }
    wf.wait_for_signal::<Value>(text(&input, "signal")).await?;
    for index in before..1010 {
        wf.run(format!("step-{index}"), || async { Ok(index) })
            .await?;
    }
    Ok(Value::Null)
}

async fn rounds(wf: WorkflowContext, input: Value) -> Result<Value, Error> {
    by(&wf, "round").await?;
    if let Some(signal) = input["signal"].as_str() {
        wf.wait_for_signal::<Value>(signal).await?;
    }
    match input["left"].as_u64().unwrap_or_default() {
        0 => Ok(json!({"by": BY, "left": 0})),
        left => wf.continue_as_new(&json!({"left": left - 1})).await,
    }
}
