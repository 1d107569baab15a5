//! Which names of steps there are, so that they are not more and more.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use opentelemetry::KeyValue;

use super::attributes::{text, word};
use crate::names::attribute;

/// What the steps beyond the limit are called.
const OTHER: &str = "other";

/// The names of steps that are attributes: the first so many that there were.
pub(super) struct StepNames {
    limit: usize,
    known: RwLock<HashSet<Arc<str>>>,
}

impl StepNames {
    pub(super) fn up_to(limit: usize) -> Self {
        Self {
            limit,
            known: RwLock::default(),
        }
    }

    pub(super) fn attribute(&self, name: &Arc<str>) -> KeyValue {
        if self.is_within_limit(name) {
            text(attribute::STEP_NAME, name)
        } else {
            word(attribute::STEP_NAME, OTHER)
        }
    }

    fn is_within_limit(&self, name: &Arc<str>) -> bool {
        // Nothing panics half-way while it is held.
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if known.contains(name) {
            return true;
        }
        if known.len() >= self.limit {
            return false;
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= self.limit {
            return known.contains(name);
        }
        known.insert(Arc::clone(name));
        true
    }
}
