//! The attributes of one measurement, without an allocation.

use std::ops::Deref;
use std::sync::Arc;

use opentelemetry::KeyValue;

use crate::names::attribute;

/// The most that a measurement has: those of a step that failed.
const MOST: usize = 5;

/// The attributes of a measurement. An SDK finds its data point the faster if they come in the same order
/// each time.
pub(super) struct Attributes {
    all: [KeyValue; MOST],
    len: usize,
}

impl Attributes {
    pub(super) fn of(first: KeyValue) -> Self {
        let unused = || KeyValue::new("", false);
        Self {
            all: [first, unused(), unused(), unused(), unused()],
            len: 1,
        }
    }

    pub(super) fn push(&mut self, attribute: KeyValue) {
        if let Some(place) = self.all.get_mut(self.len) {
            *place = attribute;
            self.len += 1;
        }
    }

    pub(super) fn extend(&mut self, attribute: Option<KeyValue>) {
        if let Some(attribute) = attribute {
            self.push(attribute);
        }
    }

    /// An error's type. One of an error of the user's is copied.
    pub(super) fn push_error(&mut self, error_type: &str) {
        self.push(KeyValue::new(attribute::ERROR_TYPE, error_type.to_owned()));
    }
}

impl Deref for Attributes {
    type Target = [KeyValue];

    fn deref(&self) -> &[KeyValue] {
        &self.all[..self.len]
    }
}

pub(super) fn text(key: &'static str, value: &Arc<str>) -> KeyValue {
    KeyValue::new(key, Arc::clone(value))
}

pub(super) fn word(key: &'static str, value: &'static str) -> KeyValue {
    KeyValue::new(key, value)
}

pub(super) fn flag(key: &'static str, value: bool) -> KeyValue {
    KeyValue::new(key, value)
}
