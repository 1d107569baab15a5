//! A database in memory, runs in it, and requests to a dashboard.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use openworkflow::{Client, Error, Sqlite, Worker, WorkflowSpec};
use openworkflow_dashboard::Dashboard;
use tower::ServiceExt as _;

pub(crate) static ECHO: WorkflowSpec<String, String> = WorkflowSpec::new("echo");
pub(crate) static FAILS: WorkflowSpec<String, String> = WorkflowSpec::new("fails");
pub(crate) static WAITS: WorkflowSpec<String, String> = WorkflowSpec::new("waits");

pub(crate) struct Site {
    pub(crate) client: Client,
    store: Sqlite,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let store = Sqlite::open_in_memory().await.expect("SQLite opens");
        let client = Client::new(store.clone());
        Self { client, store }
    }

    /// Starts a run of each workflow, and carries them out as far as they get.
    pub(crate) async fn with_runs(input: &str) -> (Self, [String; 3]) {
        let site = Self::new().await;
        let mut ids = Vec::new();
        for workflow in [&ECHO, &FAILS, &WAITS] {
            let run = site.client.start(workflow, &input.to_owned());
            ids.push(run.await.expect("it starts").id().to_owned());
        }
        site.work().await;
        let ids = ids.try_into().expect("there are three");
        (site, ids)
    }

    pub(crate) async fn work(&self) {
        let echo = ECHO.implement(|wf, text: String| async move {
            wf.run(&*text, || async { Ok(format!("echo of {text}")) })
                .await
        });
        let fails = FAILS.implement(|wf, text: String| async move {
            wf.run("break", || async {
                Err::<String, _>(
                    Error::new("Unreadable", format!("cannot read {text}")).non_retryable(),
                )
            })
            .await
        });
        let waits = WAITS.implement(|wf, text: String| async move {
            let sent: Option<String> = wf.wait_for_signal(format!("go:{text}")).await?;
            Ok(sent.unwrap_or_default())
        });
        let worker = Worker::builder(self.store.clone())
            .workflow(echo)
            .workflow(fails)
            .workflow(waits);
        let worker = worker.build().expect("the worker is fit");
        while worker.tick().await.expect("the database works") > 0 {}
    }

    pub(crate) fn dashboard(&self) -> Dashboard {
        Dashboard::new(self.client.clone())
    }
}

/// A request of somebody at the machine itself.
pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path)
        .header("host", "127.0.0.1:4780")
        .extension(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 40_000))))
        .body(Body::empty())
        .expect("the request is fit")
}

pub(crate) fn post(path: &str, kind: &str, body: impl Into<String>) -> Request<Body> {
    Request::post(path)
        .header("host", "127.0.0.1:4780")
        .header("content-type", kind)
        .extension(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 40_000))))
        .body(Body::from(body.into()))
        .expect("the request is fit")
}

pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

pub(crate) async fn ask(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.expect("it answers");
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("it is whole").to_bytes();
    Answer {
        status: parts.status,
        headers: parts.headers,
        text: String::from_utf8(bytes.to_vec()).expect("it is text"),
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("it is text"))
    }
}
