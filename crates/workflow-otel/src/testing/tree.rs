//! Spans as an indented tree.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, SpanKind, Status};
use opentelemetry_sdk::trace::SpanData;

use super::diff::diff;

/// Spans as a tree, one line for each, in the order in which they started.
///
/// A line is the span's name, and `ERROR` if that is its status. More is shown on demand:
///
/// ```text
/// workflow.execute process-order [consumer] error("card declined") {workflow.outcome=retrying}
/// └── step.run charge [internal] error("card declined") {step.outcome=failed}
///       * exception {exception.message="card declined", exception.type=CardDeclined}
/// ```
///
/// A span whose parent is not among the spans is at the margin, and says so.
#[derive(Debug, Clone)]
pub struct SpanTree {
    spans: Vec<SpanData>,
    kinds: bool,
    statuses: bool,
    events: bool,
    links: bool,
    attributes: Attributes,
    replacements: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
enum Attributes {
    Only(HashSet<String>),
    AllBut(HashSet<String>),
}

impl SpanTree {
    /// A tree of spans from anywhere, siblings ordered by the time of their start.
    pub fn new(spans: impl IntoIterator<Item = SpanData>) -> Self {
        let mut spans: Vec<_> = spans.into_iter().collect();
        spans.sort_by_key(|span| span.start_time);
        Self::in_order(spans)
    }

    pub(super) fn in_order(spans: Vec<SpanData>) -> Self {
        Self {
            spans,
            kinds: false,
            statuses: false,
            events: false,
            links: false,
            attributes: Attributes::Only(HashSet::new()),
            replacements: Vec::new(),
        }
    }

    /// Shows the kind of each span.
    #[must_use]
    pub fn kinds(mut self) -> Self {
        self.kinds = true;
        self
    }

    /// Shows the status of each span, with its description.
    #[must_use]
    pub fn statuses(mut self) -> Self {
        self.statuses = true;
        self
    }

    /// Shows events on lines of their own, with those of their attributes that are shown on spans,
    /// or all of them where no attribute was chosen.
    #[must_use]
    pub fn events(mut self) -> Self {
        self.events = true;
        self
    }

    /// Shows links on lines of their own: the name of the span that is linked to, or `remote` if it
    /// is not among the spans.
    #[must_use]
    pub fn links(mut self) -> Self {
        self.links = true;
        self
    }

    /// Shows these attributes.
    #[must_use]
    pub fn attributes<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.attributes = Attributes::Only(keys.into_iter().map(Into::into).collect());
        self
    }

    /// Shows every attribute except these.
    #[must_use]
    pub fn attributes_but<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.attributes = Attributes::AllBut(keys.into_iter().map(Into::into).collect());
        self
    }

    /// Shows `label` wherever `text` would be, for ids that are another every time. Longer texts are
    /// replaced first.
    #[must_use]
    pub fn replacing(mut self, text: impl Into<String>, label: impl Into<String>) -> Self {
        self.replacements.push((text.into(), label.into()));
        self.replacements
            .sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        self
    }

    /// The difference to `expected`, line by line; `None` if there is none. Indentation that all
    /// lines of `expected` share does not count, nor do blank lines around it or spaces at the ends
    /// of lines.
    #[must_use]
    pub fn diff(&self, expected: &str) -> Option<String> {
        let expected = dedent(expected);
        let actual = self.to_string();
        (expected.trim_end() != actual.trim_end()).then(|| diff(&expected, &actual))
    }

    /// Asserts that the tree is `expected`; how that is written, [`diff`](Self::diff) says.
    ///
    /// # Panics
    ///
    /// If it is not, showing the difference and the whole tree.
    #[track_caller]
    pub fn assert_eq(&self, expected: &str) {
        if let Some(diff) = self.diff(expected) {
            panic!("the trace differs (- expected, + actual):\n\n{diff}\nactual:\n\n{self}");
        }
    }

    fn line(&self, span: &SpanData) -> String {
        let mut line = span.name.to_string();
        if self.kinds {
            line.push_str(match span.span_kind {
                SpanKind::Client => " [client]",
                SpanKind::Server => " [server]",
                SpanKind::Producer => " [producer]",
                SpanKind::Consumer => " [consumer]",
                SpanKind::Internal => " [internal]",
            });
        }
        match &span.status {
            Status::Error { description } if self.statuses => {
                line.push_str(&format!(" error({description:?})"));
            }
            Status::Error { .. } => line.push_str(" ERROR"),
            Status::Ok if self.statuses => line.push_str(" ok"),
            Status::Unset if self.statuses => line.push_str(" unset"),
            Status::Ok | Status::Unset => {}
        }
        line.push_str(&self.shown(&span.attributes, false));
        self.replaced(line)
    }

    /// The lines beneath a span that are not spans.
    fn notes(&self, span: &SpanData) -> Vec<String> {
        let mut notes = Vec::new();
        if self.links {
            for link in &span.links.links {
                let id = link.span_context.span_id();
                let target = self.spans.iter().find(|s| s.span_context.span_id() == id);
                let target = target.map_or("remote", |span| &span.name);
                let attributes = self.shown(&link.attributes, true);
                notes.push(self.replaced(format!("~> {target}{attributes}")));
            }
        }
        if self.events {
            let none_chosen = matches!(&self.attributes, Attributes::Only(keys) if keys.is_empty());
            for event in &span.events.events {
                let attributes = self.shown(&event.attributes, none_chosen);
                notes.push(self.replaced(format!("* {}{attributes}", event.name)));
            }
        }
        notes
    }

    fn shown(&self, attributes: &[KeyValue], all: bool) -> String {
        let is_shown = |key: &str| match &self.attributes {
            _ if all => true,
            Attributes::Only(keys) => keys.contains(key),
            Attributes::AllBut(keys) => !keys.contains(key),
        };
        let shown: BTreeMap<_, _> = attributes
            .iter()
            .filter(|attribute| is_shown(attribute.key.as_str()))
            .map(|attribute| (attribute.key.as_str(), quoted(&attribute.value.as_str())))
            .collect();
        if shown.is_empty() {
            return String::new();
        }
        let shown: Vec<_> = shown.iter().map(|(k, v)| format!("{k}={v}")).collect();
        format!(" {{{}}}", shown.join(", "))
    }

    fn replaced(&self, line: String) -> String {
        let replacements = self.replacements.iter();
        replacements.fold(line, |line, (text, label)| line.replace(text, label))
    }
}

impl fmt::Display for SpanTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: HashSet<_> = self.ids().collect();
        let mut children: HashMap<SpanId, Vec<&SpanData>> = HashMap::new();
        let mut roots = Vec::new();
        for span in &self.spans {
            if ids.contains(&span.parent_span_id) {
                children.entry(span.parent_span_id).or_default().push(span);
            } else {
                roots.push(span);
            }
        }
        // A stack instead of recursion: a trace can be as deep as a program makes it.
        let mut todo: Vec<(String, String, &SpanData)> = Vec::new();
        todo.extend(
            roots
                .into_iter()
                .rev()
                .map(|span| (String::new(), String::new(), span)),
        );
        while let Some((first, rest, span)) = todo.pop() {
            let parent = match span.parent_span_id {
                SpanId::INVALID => "",
                id if ids.contains(&id) => "",
                _ if span.parent_span_is_remote => " (remote parent)",
                _ => " (parent missing)",
            };
            writeln!(f, "{first}{}{parent}", self.line(span))?;
            let below = children.remove(&span.span_context.span_id());
            let below = below.unwrap_or_default();
            let bar = if below.is_empty() { "  " } else { "│ " };
            for note in self.notes(span) {
                writeln!(f, "{rest}{bar}{note}")?;
            }
            for (position, child) in below.into_iter().rev().enumerate() {
                let (branch, bar) = if position == 0 {
                    ("└── ", "    ")
                } else {
                    ("├── ", "│   ")
                };
                todo.push((format!("{rest}{branch}"), format!("{rest}{bar}"), child));
            }
        }
        Ok(())
    }
}

impl SpanTree {
    fn ids(&self) -> impl Iterator<Item = SpanId> {
        self.spans.iter().map(|span| span.span_context.span_id())
    }
}

/// `value` as it is, in quotes if it would not be seen where it ends.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._:/+-".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("{value:?}")
    }
}

/// `text` without the indentation that its lines share, without blank lines around it.
fn dedent(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    let indent = |line: &&str| line.len() - line.trim_start().len();
    let filled = lines.iter().filter(|line| !line.is_empty());
    let shared = filled.map(indent).min().unwrap_or(0);
    let lines: Vec<_> = lines
        .iter()
        .map(|line| line.get(shared..).unwrap_or_default())
        .collect();
    lines.join("\n").trim_matches('\n').to_owned()
}
