//! What workflows, steps and signals may be called, and how repeated step names are told apart.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use workflow_core::{Error, ErrorKind, Result};

/// The longest name, in bytes: PostgreSQL's indexes take no row beyond about 2,700.
pub(crate) const MAX_NAME_BYTES: usize = 1024;

/// Refuses names that are empty or too long. `what` is the thing that is named.
pub(crate) fn validate(what: &str, name: &str) -> Result<()> {
    check(format_args!("the name of {what}"), name)
}

/// Refuses versions of workflows that are empty or too long.
pub(crate) fn validate_version(workflow_name: &str, version: &str) -> Result<()> {
    check(
        format_args!("the version of workflow {workflow_name:?}"),
        version,
    )
}

/// Refuses idempotency keys that are too long. The empty one is a key like any other.
pub(crate) fn validate_key(key: &str) -> Result<()> {
    if key.is_empty() {
        Ok(())
    } else {
        check("the idempotency key", key)
    }
}

fn check(subject: impl fmt::Display, text: &str) -> Result<()> {
    let message = if text.is_empty() {
        format!("{subject} is empty; give one of 1 to {MAX_NAME_BYTES} bytes")
    } else if text.len() > MAX_NAME_BYTES {
        let beginning: String = text.chars().take(40).collect();
        format!(
            "{subject}, {beginning:?}…, has {} bytes; use at most {MAX_NAME_BYTES}",
            text.len()
        )
    } else {
        return validate_text(subject, text);
    };
    Err(Error::of_kind(ErrorKind::InvalidArgument, message))
}

/// Refuses what no text in a database holds. Refused on every backend, so that nothing begins to fail
/// when it moves to another.
pub(crate) fn validate_text(subject: impl fmt::Display, text: &str) -> Result<()> {
    if !text.contains('\0') {
        return Ok(());
    }
    let message =
        format!("{subject} holds the character U+0000, which PostgreSQL cannot keep; leave it out");
    Err(Error::of_kind(ErrorKind::InvalidArgument, message))
}

/// The step names used in one execution.
#[derive(Debug, Default)]
pub(crate) struct StepNames {
    used: HashSet<Arc<str>>,
    repeats: HashMap<Arc<str>, u32>,
    /// Of the names that are not simply those which the author chose.
    origins: HashMap<Arc<str>, Origin>,
}

/// What a step's name is made of.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The name that the code asked for.
    pub(crate) base: Arc<str>,
    /// Whether the author chose it; else it is the child's or the signal's.
    pub(crate) named: bool,
}

impl StepNames {
    /// The first use of a name keeps it; later uses get `name:1`, `name:2`, …, passing over names
    /// that are used already. Beside it, how many names were used before.
    ///
    /// The names' origins are kept only where they are [asked for](Self::remember).
    pub(crate) fn resolve(&mut self, base: &str) -> (Arc<str>, usize) {
        let place = self.used.len();
        if !self.used.contains(base) {
            let name: Arc<str> = base.into();
            self.used.insert(Arc::clone(&name));
            return (name, place);
        }
        let repeat = self.repeats.entry(base.into()).or_default();
        loop {
            *repeat += 1;
            let name: Arc<str> = format!("{base}:{repeat}").into();
            if !self.used.contains(&name) {
                self.used.insert(Arc::clone(&name));
                return (name, place);
            }
        }
    }

    /// Notes what a name that was resolved is made of.
    pub(crate) fn remember(&mut self, name: &Arc<str>, base: &str, named: bool) {
        if named && **name == *base {
            return;
        }
        let base = match self.used.get(base) {
            Some(base) => Arc::clone(base),
            None => base.into(),
        };
        let origin = Origin { base, named };
        self.origins.insert(Arc::clone(name), origin);
    }

    /// What a name that is remembered is made of.
    pub(crate) fn origin(&self, name: &Arc<str>) -> Origin {
        let found = if self.origins.is_empty() {
            None
        } else {
            self.origins.get(name)
        };
        found.cloned().unwrap_or_else(|| Origin {
            base: Arc::clone(name),
            named: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_names_are_numbered_as_the_protocol_says() {
        let mut names = StepNames::default();
        let resolved: Vec<_> = ["x", "x", "x", "x:1", "x", "x:1"]
            .map(|base| names.resolve(base).0)
            .to_vec();
        assert_eq!(resolved.join(" "), "x x:1 x:2 x:1:1 x:3 x:1:2");
    }

    #[test]
    fn names_have_origins() {
        let mut names = StepNames::default();
        let asked = [
            ("x:1", true),
            ("x", true),
            ("x", true),
            ("x:1", true),
            ("y", false),
        ];
        let origins: Vec<_> = asked
            .map(|(base, named)| {
                let (name, _) = names.resolve(base);
                names.remember(&name, base, named);
                let origin = names.origin(&name);
                format!(
                    "{name}={}{}",
                    origin.base,
                    if origin.named { "" } else { "?" }
                )
            })
            .to_vec();
        assert_eq!(origins.join(" "), "x:1=x:1 x=x x:2=x x:1:1=x:1 y=y?");
    }

    #[test]
    fn names_have_bounds() {
        assert!(validate("a step", "x").is_ok());
        assert!(validate("a step", "x\0").is_err());
        assert!(
            validate("a step", "")
                .unwrap_err()
                .message()
                .contains("a step is empty")
        );
        assert!(validate("a step", &"x".repeat(1 << 20)).is_err());
    }
}
