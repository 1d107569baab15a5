//! The attempts at a run's steps; and inputs, outputs and results, where they are shown.

use maud::{Markup, html};
use openworkflow::Payload;
use openworkflow::trace::picture::duration;

use super::exactly;
use super::head::error;
use super::run::Options;
use crate::Site;
use crate::problem::Problem;
use crate::request::Visit;
use crate::story::Story;
use crate::text::{NAME, PAYLOAD, between, cut, lines};

const PAGE: u32 = 100;

pub(super) async fn steps(
    site: &Site,
    visit: &Visit,
    story: &Story,
    options: &Options,
) -> Result<Markup, Problem> {
    let mut request = site.client.list_steps(&*story.run.id).limit(PAGE);
    if !options.after.is_empty() {
        request = request.after(&*options.after);
    }
    let page = request.await?;
    Ok(html! {
        @if page.items.is_empty() { div.empty { p { "No step has begun yet." } } }
        @else {
            div.scroll tabindex="0" role="region" aria-label="Attempts at steps" {
                table.attempts {
                    thead { tr {
                        th scope="col" { "Step" }
                        th scope="col" { "Kind" }
                        th scope="col" { "Status" }
                        th scope="col" { "Began (UTC)" }
                        th.number scope="col" { "Took" }
                        th scope="col" { @if site.payloads { "Result or error" } @else { "Error" } }
                    } }
                    tbody {
                        @for attempt in &page.items {
                            @let began = attempt.started_at.unwrap_or(attempt.created_at);
                            tr data-row {
                                td.name { span title=(cut(&attempt.step_name, NAME)) { (cut(&attempt.step_name, 60)) } }
                                td.quiet { (cut(attempt.kind.as_str(), 20)) }
                                td { (cut(attempt.status.as_str(), 20)) }
                                td.quiet { (exactly(began)) }
                                td.number {
                                    @if let Some(ended) = attempt.finished_at { (duration(between(began, ended))) }
                                }
                                td {
                                    @if let Some(failure) = &attempt.error { (error(failure)) }
                                    @else if site.payloads && !attempt.output.is_null() { (payload(&attempt.output)) }
                                }
                            }
                        }
                    }
                }
            }
        }
        @if let Some(cursor) = &page.next {
            nav.pages aria-label="Pages of the list" {
                a rel="next" href=(visit.run(&story.run.id, &options.query(&[("after", cursor)]))) { "Later →" }
            }
        }
    })
}

pub(super) fn payloads(story: &Story) -> Markup {
    html! {
        section { h2 { "Input" } (payload(&story.run.input)) }
        section { h2 { "Output" }
            @if story.run.finished_at.is_some() { (payload(&story.run.output)) }
            @else { p.quiet { "It has not ended yet." } }
        }
    }
}

/// JSON for people, or the text as it is where it is none.
fn payload(payload: &Payload) -> Markup {
    let json = payload.expose();
    let pretty = match json.len() <= PAYLOAD {
        // Digit for digit, which a parsed number may not be.
        true => indent(json),
        false => json.to_owned(),
    };
    html! { pre.payload tabindex="0" { (lines(&pretty, PAYLOAD)) } }
}

/// Breaks JSON into lines without reading its values.
fn indent(json: &str) -> String {
    let mut text = String::with_capacity(2 * json.len());
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth.min(40)));
    };
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            text.push(c);
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                text.push(c);
            }
            '{' | '[' => {
                text.push(c);
                while chars.peek().is_some_and(char::is_ascii_whitespace) {
                    chars.next();
                }
                if let Some(close) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(close);
                } else {
                    depth += 1;
                    line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut text, depth);
                text.push(c);
            }
            ',' => {
                text.push(c);
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_broken_into_lines_digit_for_digit() {
        let json = r#"{"a":[1.10,{}],"b":"x, {\"y\"}"}"#;
        let expected = "{\n  \"a\": [\n    1.10,\n    {}\n  ],\n  \"b\": \"x, {\\\"y\\\"}\"\n}";
        assert_eq!(indent(json), expected);
    }
}
