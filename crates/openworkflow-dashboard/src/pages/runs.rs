//! The list of runs, and how it is filtered.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Extension, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use openworkflow::backend::{Cursor, WorkflowRun};
use openworkflow::trace::picture::duration;
use openworkflow::{Client, ClientError, Payload, RunStatus};
use serde::Deserialize;

use super::{Page, ago, status};
use crate::Site;
use crate::figures::{self, Figures};
use crate::problem::Problem;
use crate::request::{self, Visit};
use crate::standings;
use crate::text::{MESSAGE, NAME, between, cut, number, roughly};

/// How many are on a page.
const PAGE: u32 = 50;
/// So many runs are searched at once, fewer where they are large.
const SEARCHED: usize = 2_000;
const BATCH: u32 = 200;
const MOST_BYTES: usize = 32 << 20;

const SINCE: [(&str, &str, u64); 5] = [
    ("15min", "15 minutes", 900),
    ("1h", "hour", 3_600),
    ("24h", "day", 86_400),
    ("7d", "week", 7 * 86_400),
    ("30d", "month", 30 * 86_400),
];

const STATUSES: [&str; 5] = ["pending", "running", "completed", "failed", "canceled"];

/// Which runs; as the query of the URL has it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Filter {
    workflow: String,
    status: String,
    since: String,
    pub(crate) q: String,
    after: String,
    before: String,
}

/// A page of runs.
pub(crate) struct List {
    pub(crate) runs: Vec<WorkflowRun>,
    pub(crate) next: Option<String>,
    pub(crate) prev: Option<String>,
    /// How many runs were searched, where it was more than what is shown.
    pub(crate) searched: Option<usize>,
}

impl List {
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for run in &self.runs {
            run.id.hash(&mut hasher);
            run.status.as_str().hash(&mut hasher);
            (run.attempts, &run.worker_id, run.updated_at).hash(&mut hasher);
        }
        hasher.finish()
    }
}

impl Filter {
    /// With these parts in place of its own, as what follows `?`.
    fn query(&self, replaced: &[(&str, &str)]) -> String {
        let own = [
            ("workflow", &*self.workflow),
            ("status", &*self.status),
            ("since", &*self.since),
            ("q", &*self.q),
        ];
        request::query(&own, replaced)
    }

    fn is_any(&self) -> bool {
        self.query(&[]).is_empty()
    }

    fn since(&self) -> Result<Option<SystemTime>, Problem> {
        if self.since.is_empty() {
            return Ok(None);
        }
        let known = SINCE.into_iter().find(|(key, _, _)| *key == self.since);
        let Some((_, _, seconds)) = known else {
            let text = format!(
                "{:?} is no time that runs can be filtered by.",
                cut(&self.since, 40)
            );
            let keys = SINCE.map(|(key, _, _)| key).join(", ");
            return Err(
                Problem::new(StatusCode::BAD_REQUEST, text).remedy(format!("Use one of {keys}."))
            );
        };
        Ok(SystemTime::now().checked_sub(Duration::from_secs(seconds)))
    }

    /// Reads a page.
    pub(crate) async fn read(&self, client: &Client) -> Result<List, Problem> {
        let since = self.since()?;
        let wanted = self.q.trim().to_lowercase();
        if !wanted.is_empty()
            && let Some(run) = self.exactly(client).await?
        {
            return Ok(List {
                runs: vec![run],
                next: None,
                prev: None,
                searched: None,
            });
        }
        if wanted.is_empty() && since.is_none() {
            let page = self.page(client, PAGE, &self.after, &self.before).await?;
            return Ok(List {
                runs: page.items,
                next: page.next,
                prev: page.prev,
                searched: None,
            });
        }
        self.search(client, &wanted, since).await
    }

    async fn page(
        &self,
        client: &Client,
        limit: u32,
        after: &str,
        before: &str,
    ) -> Result<openworkflow::backend::Page<WorkflowRun>, Problem> {
        let mut request = client.list_runs().limit(limit);
        if !self.workflow.is_empty() {
            request = request.workflow(&*self.workflow);
        }
        if !self.status.is_empty() {
            let status = RunStatus::from_str(&self.status).map_err(|_| {
                let text = format!("{:?} is no status of a run.", cut(&self.status, 40));
                Problem::new(StatusCode::BAD_REQUEST, text)
            })?;
            request = request.status(status);
        }
        if !after.is_empty() {
            request = request.after(after);
        }
        if !before.is_empty() {
            request = request.before(before);
        }
        Ok(request.await?)
    }

    /// The run whose id was searched for.
    async fn exactly(&self, client: &Client) -> Result<Option<WorkflowRun>, Problem> {
        match client.describe(self.q.trim()).await {
            Ok(run) => Ok(Some(run)),
            Err(ClientError::RunNotFound { .. } | ClientError::Invalid(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks at the newest runs, a bounded number of them. Whoever wants older ones goes on from there.
    async fn search(
        &self,
        client: &Client,
        wanted: &str,
        since: Option<SystemTime>,
    ) -> Result<List, Problem> {
        let mut runs = Vec::new();
        let (mut searched, mut bytes) = (0, 0);
        let mut after = self.after.clone();
        'pages: loop {
            let page = self.page(client, BATCH, &after, "").await?;
            for mut run in page.items {
                searched += 1;
                bytes += run.input.size() + run.output.size();
                run.input = Payload::NULL;
                run.output = Payload::NULL;
                let cursor = Cursor::new(run.created_at, &*run.id).encode();
                if since.is_some_and(|since| run.created_at < since) {
                    after.clear();
                    break 'pages;
                }
                if matches(&run, wanted) {
                    runs.push(run);
                    if runs.len() >= PAGE as usize {
                        after = cursor;
                        break 'pages;
                    }
                }
            }
            let Some(next) = page.next else {
                after.clear();
                break;
            };
            after = next;
            if searched >= SEARCHED || bytes >= MOST_BYTES {
                break;
            }
        }
        Ok(List {
            runs,
            next: (!after.is_empty()).then_some(after),
            prev: None,
            searched: Some(searched),
        })
    }
}

fn matches(run: &WorkflowRun, wanted: &str) -> bool {
    let holds = |text: &str| text.to_lowercase().contains(wanted);
    wanted.is_empty()
        || run.id.to_lowercase().starts_with(wanted)
        || run.idempotency_key.as_deref().is_some_and(holds)
        || holds(&run.workflow_name)
        || run
            .error
            .as_ref()
            .is_some_and(|error| holds(&error.message) || error.name.as_deref().is_some_and(holds))
}

pub(crate) async fn list(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
    Query(filter): Query<Filter>,
) -> Result<Response, Problem> {
    let list = filter.read(&site.client).await?;
    let figures = figures::figures(&site).await?;
    let waits = standings::waits(&site, &list.runs).await;
    let query = filter.query(&[
        ("after", &filter.after),
        ("before", &filter.before),
        ("seen", &list.fingerprint().to_string()),
    ]);
    let live = visit.path(&format!("/live/runs{query}"));
    let body = html! {
        div.title { h1 { "Runs" } @if !site.read_only { a.button href=(visit.path("/start")) { "Start a run" } } }
        (tabs(&filter, &figures, &visit))
        (form(&filter, &figures, &visit))
        (table(&list.runs, &waits, &visit))
        @if list.runs.is_empty() { (nothing(&filter, &list, &visit)) }
        (pages(&filter, &list, &visit))
    };
    let mut page = Page::new("Runs", "runs", body).live(live);
    page.searches = true;
    Ok(page.show(&site, &visit))
}

fn tabs(filter: &Filter, figures: &Figures, visit: &Visit) -> Markup {
    let counts = [
        figures.pending,
        figures.running,
        figures.completed,
        figures.failed,
        figures.canceled,
    ];
    let tab = |name: &str, status: &str, count: Option<u64>| {
        let query = filter.query(&[("status", status)]);
        let is_here = filter.status == status;
        html! {
            a href=(visit.path(&format!("/runs{query}"))) aria-current=[is_here.then_some("true")] {
                (name)
                @if let Some(count) = count { " " span.count { (counted(count, figures)) } }
            }
        }
    };
    html! {
        nav.tabs aria-label="By status" {
            (tab("All", "", None))
            @for (status, count) in STATUSES.iter().zip(counts) { (tab(&capital(status), status, Some(count))) }
        }
    }
}

/// A count that may have stopped at its limit.
pub(super) fn counted(count: u64, figures: &Figures) -> String {
    let limit = u64::from(figures.counted_up_to);
    match count > limit {
        true => format!("{}+", number(limit)),
        false => number(count),
    }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

fn form(filter: &Filter, figures: &Figures, visit: &Visit) -> Markup {
    html! {
        form.filters role="search" method="get" action=(visit.path("/runs")) {
            @if !filter.status.is_empty() { input type="hidden" name="status" value=(filter.status); }
            div {
                label for="workflow" { "Workflow" }
                input #workflow name="workflow" value=(filter.workflow) list="workflows" autocomplete="off"
                    placeholder="any";
                datalist #workflows {
                    @for fares in &figures.workflows { option value=(fares.workflow) {} }
                }
            }
            div {
                label for="since" { "Created within the last" }
                select #since name="since" {
                    option value="" { "any time" }
                    @for (key, name, _) in SINCE { option value=(key) selected[filter.since == key] { (name) } }
                }
            }
            div.grow {
                label for="search" { "Id, key or error" }
                input #search type="search" name="q" value=(filter.q) autocomplete="off" placeholder="any";
            }
            div.buttons {
                button { "Filter" }
                @if !filter.is_any() { a href=(visit.path("/runs")) { "Clear" } }
            }
        }
    }
}

fn table(runs: &[WorkflowRun], waits: &HashMap<String, String>, visit: &Visit) -> Markup {
    if runs.is_empty() {
        return html! {};
    }
    let now = SystemTime::now();
    let took = |run: &WorkflowRun| {
        let end = run.finished_at.unwrap_or(now);
        between(run.created_at, end)
    };
    let ended = runs.iter().filter(|run| run.finished_at.is_some());
    let longest = ended.map(took).max().unwrap_or_default().as_secs_f64();
    html! {
        div.scroll tabindex="0" role="region" aria-label="Runs" {
            table.runs {
                thead { tr {
                    th scope="col" { "Status" }
                    th scope="col" { "Workflow" }
                    th scope="col" { "Run" }
                    th scope="col" { "Created" }
                    th.number scope="col" { "Took" }
                    th.bar scope="col" { span.hidden { "Duration as a bar" } }
                    th scope="col" { "Where it stands" }
                } }
                tbody {
                    @for run in runs {
                        @let took = took(run);
                        tr data-row {
                            td { (status(&run.status)) }
                            td.name {
                                span title=(cut(&run.workflow_name, NAME)) { (cut(&run.workflow_name, 60)) }
                                @if let Some(version) = &run.version { " " span.quiet { (cut(version, 16)) } }
                            }
                            td.id { a href=(visit.run(&run.id, "")) title=(cut(&run.id, NAME)) { (cut(&run.id, 36)) } }
                            td.quiet { (ago(run.created_at, now)) }
                            td.number {
                                @if run.finished_at.is_some() { (duration(took)) }
                                @else { span.quiet { (roughly(took)) } }
                            }
                            td.bar {
                                @if run.finished_at.is_some() {
                                    @let share = (took.as_secs_f64() / longest.max(1e-9) * 100.0).clamp(1.0, 100.0);
                                    svg.took aria-hidden="true" width="100%" height="6" {
                                        rect width={ (format!("{share:.1}")) "%" } height="6" rx="3" {}
                                    }
                                }
                            }
                            td.where { (stands(run, waits.get(&run.id), now)) }
                        }
                    }
                }
            }
        }
    }
}

/// Where it stands, as far as its own row tells.
fn stands(run: &WorkflowRun, waits_for: Option<&String>, now: SystemTime) -> Markup {
    let at = run.available_at.unwrap_or(run.created_at);
    let error = run.error.as_ref().map(|error| cut(&error.to_string(), 140));
    let title = run
        .error
        .as_ref()
        .map(|error| cut(&error.to_string(), MESSAGE.min(1_000)));
    html! {
        @match &run.status {
            RunStatus::Failed => { span.bad title=[title] { (error.unwrap_or_default()) } }
            status if status.is_terminal() => {
                @if let Some(next) = &run.continued_as { span.quiet { "continued as " (cut(next, 36)) } }
            }
            RunStatus::Pending if at > now && run.error.is_some() => {
                span title=[title] { "tries again " (ago(at, now)) ": " (error.unwrap_or_default()) }
            }
            RunStatus::Pending if at > now => { "starts " (ago(at, now)) }
            RunStatus::Pending => { "waits for a worker, due " (ago(at, now)) }
            RunStatus::Running if run.worker_id.is_some() && at > now => { "executing" }
            RunStatus::Running if run.worker_id.is_some() => {
                span.warn { "its worker was lost " (ago(at, now)) }
            }
            RunStatus::Running => {
                @match waits_for {
                    Some(name) => { "waits for " b { (name) } ", at the latest " (ago(at, now)) }
                    None => { "waits, ends " (ago(at, now)) }
                }
            }
            _ => {}
        }
    }
}

fn nothing(filter: &Filter, list: &List, visit: &Visit) -> Markup {
    let is_more = list.next.is_some();
    html! {
        div.empty {
            @if filter.is_any() && filter.after.is_empty() {
                p { "No runs yet." }
                p.quiet { "Start one: " code { "cargo run --example process_order" } " tells how to look at it." }
            } @else if is_more {
                p { "None of these " (number(list.searched.unwrap_or(0) as u64)) " runs fits." }
                p.quiet { "Older ones have not been searched yet." }
            } @else {
                p { "No run fits." }
                p { a href=(visit.path("/runs")) { "Show all runs" } }
            }
        }
    }
}

fn pages(filter: &Filter, list: &List, visit: &Visit) -> Markup {
    let to =
        |key: &str, cursor: &str| visit.path(&format!("/runs{}", filter.query(&[(key, cursor)])));
    html! {
        nav.pages aria-label="Pages of the list" {
            @if let Some(cursor) = &list.prev { a rel="prev" href=(to("before", cursor)) { "← Newer" } }
            @if let Some(searched) = list.searched { span.quiet { "searched " (number(searched as u64)) " runs" } }
            @if let Some(cursor) = &list.next {
                a rel="next" href=(to("after", cursor)) {
                    @if list.searched.is_some() { "Search older ones →" } @else { "Older →" }
                }
            }
        }
    }
}
