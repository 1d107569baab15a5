//! The last trace that was seen in each bucket, kept beside the SDK's data points: version 0.33 of it has
//! room for exemplars in what it collects, and records none.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use foldhash::fast::{FixedState, RandomState};
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, TraceId};

use super::SeenIn;
use super::instruments::BUCKETS;

/// Of how many series exemplars are kept; further ones have none.
const SERIES: usize = 2000;

/// A measurement that was taken in a trace.
#[derive(Clone, Copy)]
pub(crate) struct Exemplar {
    pub(crate) value: f64,
    pub(crate) trace_id: TraceId,
    pub(crate) span_id: SpanId,
    at: Instant,
}

/// One for each of our buckets, and for what is beyond.
type Buckets = [Option<Exemplar>; BUCKETS.len() + 1];

pub(crate) struct Exemplars {
    /// By what names them, hashed: in an order of attributes of its own.
    series: RwLock<HashMap<u64, Mutex<Box<Buckets>>, RandomState>>,
    began: (Instant, SystemTime),
}

impl Exemplars {
    pub(crate) fn new() -> Self {
        Self {
            series: RwLock::default(),
            began: (Instant::now(), SystemTime::now()),
        }
    }

    pub(super) fn keep(
        &self,
        histogram: &str,
        attributes: &[KeyValue],
        value: f64,
        (trace_id, span_id): SeenIn,
        at: Instant,
    ) {
        let key = attributes
            .iter()
            .map(|attribute| pair(attribute.key.as_str(), &attribute.value.as_str()))
            .fold(name(histogram), u64::wrapping_add);
        let bucket = BUCKETS.partition_point(|bound| *bound < value);
        let exemplar = Exemplar {
            value,
            trace_id,
            span_id,
            at,
        };
        let put = |buckets: &Mutex<Box<Buckets>>| {
            // Somebody else's is as good.
            if let Ok(mut buckets) = buckets.try_lock()
                && let Some(place) = buckets.get_mut(bucket)
            {
                *place = Some(exemplar);
            }
        };
        let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(buckets) = series.get(&key) {
            return put(buckets);
        }
        if series.len() >= SERIES {
            return;
        }
        drop(series);
        let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
        put(series.entry(key).or_default());
    }

    /// Those of a series, by the keys and values of its attributes in any order: the newest first.
    pub(crate) fn of<'a>(
        &self,
        histogram: &str,
        attributes: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Vec<Exemplar> {
        let key = attributes
            .map(|(key, value)| pair(key, value))
            .fold(name(histogram), u64::wrapping_add);
        let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
        let Some(buckets) = series.get(&key) else {
            return Vec::new();
        };
        let buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<_> = buckets.iter().flatten().copied().collect();
        found.sort_by_key(|exemplar| std::cmp::Reverse(exemplar.at));
        found
    }

    /// When an exemplar was taken.
    pub(crate) fn time_of(&self, exemplar: &Exemplar) -> SystemTime {
        self.began.1 + exemplar.at.saturating_duration_since(self.began.0)
    }
}

fn name(histogram: &str) -> u64 {
    FixedState::default().hash_one(histogram)
}

fn pair(key: &str, value: &str) -> u64 {
    FixedState::default().hash_one((key, value))
}
