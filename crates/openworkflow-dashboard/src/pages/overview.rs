//! How the runs fare, and what needs a person.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::response::Response;
use maud::{Markup, html};
use openworkflow::trace::picture::duration;

use super::Page;
use super::runs::counted;
use crate::Site;
use crate::figures::{self, Bars, Fares, Figures, limits};
use crate::problem::Problem;
use crate::request::Visit;
use crate::text::{NAME, count, cut, encode, number, roughly};

/// So many workflows are listed.
const WORKFLOWS: usize = 30;

pub(crate) async fn show(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
) -> Result<Response, Problem> {
    let figures = figures::figures(&site).await?;
    let live = visit.path(&format!("/live?seen={}", figures.fingerprint()));
    let body = html! {
        div.title { h1 { "Overview" } }
        @if figures.sampled == 0 { (nothing()) }
        @else {
            (attention(&figures, &visit))
            (gauges(&figures))
            (bars(&figures.bars))
            (workflows(&figures, &visit))
            p.quiet.basis {
                @if figures.is_all { "Shares and durations are of all " (number(figures.sampled as u64)) " runs." }
                @else {
                    "Shares and durations are of the newest " (number(figures.sampled as u64))
                    " runs, so that this page costs the database little; metrics have all."
                }
            }
        }
    };
    Ok(Page::new("Overview", "overview", body)
        .live(live)
        .show(&site, &visit))
}

fn nothing() -> Markup {
    html! {
        div.empty {
            p { "No runs yet." }
            p.quiet { "Start one: " code { "cargo run --example process_order" } " tells how to look at it." }
        }
    }
}

fn attention(figures: &Figures, visit: &Visit) -> Markup {
    if figures.attention.is_empty() {
        return html! { p.calm { span.good aria-hidden="true" { "✓ " } "Nothing needs you." } };
    }
    html! {
        section.card.attention aria-label="What needs a person" {
            h2 { "Needs you" }
            ul {
                @for one in figures.attention.iter().take(12) {
                    li {
                        span.bad aria-hidden="true" { "! " }
                        @if let Some(workflow) = &one.workflow {
                            @let query = form_urlencoded::Serializer::new(String::new()).append_pair("workflow", workflow)
                                .append_pair("status", match one.what { "failing" => "failed", "lost" => "running", _ => "pending" }).finish();
                            a href=(visit.path(&format!("/runs?{query}"))) title=(cut(workflow, NAME)) { (cut(workflow, 60)) }
                            ": "
                        }
                        (one.text) ". "
                        span.quiet { (one.remedy) }
                        @if let Some(id) = &one.run_id { " " a href=(visit.run(id, "")) { "Newest" } }
                    }
                }
            }
            @if figures.attention.len() > 12 { p.quiet { "and " (figures.attention.len() - 12) " more" } }
        }
    }
}

/// A figure, and the limit from which on something is wrong.
struct Gauge {
    name: &'static str,
    value: String,
    note: String,
    /// The value by its limit.
    share: Option<f64>,
}

fn gauges(figures: &Figures) -> Markup {
    let seconds = |value: Option<f64>| match value {
        Some(value) => duration(Duration::from_secs_f64(value.max(0.0))),
        None => "–".to_owned(),
    };
    let by = |value: f64, limit: f64| Some(value / limit);
    let oldest = figures.oldest_due_seconds;
    let gauges = [
        Gauge {
            name: "Throughput",
            value: match figures.ended_per_minute {
                Some(rate) if rate < 10.0 => format!("{rate:.1}/min"),
                Some(rate) => format!("{}/min", number(rate.round() as u64)),
                None => "–".to_owned(),
            },
            note: format!("runs that ended in the last {}", roughly(figures::LATELY)),
            share: None,
        },
        Gauge {
            name: "Active",
            value: counted(figures.active(), figures),
            note: format!(
                "{} executing, {} waiting, {} scheduled",
                counted(figures.executing, figures),
                counted(figures.waiting, figures),
                counted(figures.scheduled, figures)
            ),
            share: by(figures.active() as f64, limits::ACTIVE as f64),
        },
        Gauge {
            name: "Queue",
            value: counted(figures.due, figures),
            note: format!("due now; too deep above {}", number(limits::QUEUE)),
            share: by(figures.due as f64, limits::QUEUE as f64),
        },
        Gauge {
            name: "Oldest due",
            value: seconds(oldest),
            note: format!("late after {}", roughly(limits::OLDEST_DUE)),
            share: oldest.and_then(|age| by(age, limits::OLDEST_DUE.as_secs_f64())),
        },
        Gauge {
            name: "Failed",
            value: match figures.error_share {
                Some(share) => format!("{:.1} %", share * 100.0),
                None => "–".to_owned(),
            },
            note: format!(
                "of runs that ended; too many above {} %",
                limits::ERROR_SHARE * 100.0
            ),
            share: figures
                .error_share
                .and_then(|share| by(share, limits::ERROR_SHARE)),
        },
        Gauge {
            name: "Duration, p95",
            value: seconds(figures.p95_seconds),
            note: format!(
                "p50 {}; slow above {}",
                seconds(figures.p50_seconds),
                roughly(limits::P95)
            ),
            share: figures
                .p95_seconds
                .and_then(|p95| by(p95, limits::P95.as_secs_f64())),
        },
        Gauge {
            name: "Queueing, p95",
            value: seconds(figures.queued_p95_seconds),
            note: "from creation to the first execution".to_owned(),
            share: None,
        },
    ];
    html! {
        section.gauges aria-label="Figures" {
            @for gauge in gauges { (self::gauge(&gauge)) }
        }
    }
}

fn gauge(gauge: &Gauge) -> Markup {
    let is_over = gauge.share.is_some_and(|share| share > 1.0);
    // The limit stands at four fifths.
    let width = gauge.share.map(|share| (share * 80.0).clamp(0.0, 100.0));
    html! {
        article class={ "card gauge" @if is_over { " over-limit" } } {
            h2 { (gauge.name) }
            p.value { (gauge.value) }
            @if let Some(width) = width {
                svg.meter aria-hidden="true" width="100%" height="6" {
                    rect.track width="100%" height="4" y="1" rx="2" {}
                    rect.fill width=(format!("{width:.1}%")) height="4" y="1" rx="2" {}
                    rect.limit x="80%" width="2" height="6" {}
                }
            }
            p.quiet { @if is_over { strong.bad { "Over the limit" } ": " } (gauge.note) }
        }
    }
}

fn bars(bars: &Bars) -> Markup {
    let most = bars.counts.iter().map(|(well, failed)| well + failed).max();
    let most = most.unwrap_or(0).max(1) as f64;
    let (well, failed) = bars
        .counts
        .iter()
        .fold((0, 0), |sum, bar| (sum.0 + bar.0, sum.1 + bar.1));
    let wide = 100.0 / bars.counts.len().max(1) as f64;
    let span = match bars.span.as_secs() {
        seconds if seconds >= 365 * 86_400 => "year".to_owned(),
        _ => roughly(bars.span),
    };
    let label = format!(
        "{} created in the last {span}, {failed} of them failed",
        count(well + failed, "run", "runs")
    );
    html! {
        section.card.history aria-label="Runs by time of creation" {
            div.row-of-titles { h2 { "Runs created" } p.quiet { (label) } }
            svg.bars role="img" aria-label=(label) width="100%" height="64" {
                line.base x1="0" x2="100%" y1="63.5" y2="63.5" {}
                @for (at, (well, failed)) in bars.counts.iter().enumerate() {
                    @let x = format!("{:.3}%", at as f64 * wide + wide * 0.1);
                    @let width = format!("{:.3}%", wide * 0.8);
                    @let high = *well as f64 / most * 60.0;
                    @let bad = *failed as f64 / most * 60.0;
                    @if *well > 0 { rect.work x=(x) width=(width) y=(format!("{:.1}", 63.0 - high)) height=(format!("{high:.1}")) rx="1" {} }
                    @if *failed > 0 {
                        rect.failed x=(x) width=(width) y=(format!("{:.1}", 63.0 - high - bad)) height=(format!("{:.1}", bad.max(2.0))) rx="1" {}
                    }
                }
            }
            div.ends aria-hidden="true" { span { (span) " ago" } span { "now" } }
        }
    }
}

fn workflows(figures: &Figures, visit: &Visit) -> Markup {
    let seconds = |value: Option<f64>| match value {
        Some(value) => duration(Duration::from_secs_f64(value.max(0.0))),
        None => "–".to_owned(),
    };
    html! {
        section aria-labelledby="by-workflow" {
            h2 #by-workflow { "By workflow" }
            div.scroll tabindex="0" role="region" aria-label="Workflows" {
                table.workflows {
                    thead { tr {
                        th scope="col" { "Workflow" }
                        th.number scope="col" { "Runs" }
                        th.number scope="col" { "Active" }
                        th.number scope="col" { "Due" }
                        th.number scope="col" { "Oldest due" }
                        th.number scope="col" { "Failed" }
                        th.number scope="col" { "p50" }
                        th.number scope="col" { "p95" }
                    } }
                    tbody {
                        @for fares in figures.workflows.iter().take(WORKFLOWS) { (workflow(fares, visit, &seconds)) }
                    }
                }
            }
            @if figures.workflows.len() > WORKFLOWS {
                p.quiet { (figures.workflows.len() - WORKFLOWS) " more workflows have fewer runs." }
            }
        }
    }
}

fn workflow(fares: &Fares, visit: &Visit, seconds: &dyn Fn(Option<f64>) -> String) -> Markup {
    let path = format!("/workflows/{}", encode(&fares.workflow));
    let share = fares.failed as f64 / fares.ended.max(1) as f64;
    let is_failing = share > limits::ERROR_SHARE;
    let is_slow = fares
        .p95_seconds
        .is_some_and(|p95| p95 > limits::P95.as_secs_f64());
    let is_late = fares
        .oldest_due_seconds
        .is_some_and(|age| age > limits::OLDEST_DUE.as_secs_f64());
    let warned = |is_over: bool, text: &str| {
        html! { @if is_over { strong.bad { (text) " !" } } @else { (text) } }
    };
    html! {
        tr data-row {
            td.name {
                a href=(visit.path(&path)) title=(cut(&fares.workflow, NAME)) { (cut(&fares.workflow, 60)) }
            }
            td.number { (number(fares.runs as u64)) }
            td.number { (number(fares.active as u64)) }
            td.number { (number(fares.due as u64)) }
            td.number { (warned(is_late, &seconds(fares.oldest_due_seconds))) }
            td.number {
                @if fares.ended == 0 { "–" }
                @else { (warned(is_failing, &format!("{} ({:.1} %)", number(fares.failed as u64), share * 100.0))) }
            }
            td.number { (seconds(fares.p50_seconds)) }
            td.number { (warned(is_slow, &seconds(fares.p95_seconds))) }
        }
    }
}
