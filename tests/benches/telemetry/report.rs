//! Medians and ratios, as a table or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::STEPS;
use crate::measure::{Measured, Variant};

#[derive(Default)]
pub(crate) struct Report {
    cells: BTreeMap<u32, Vec<Row>>,
}

struct Row {
    round: u32,
    variant: Variant,
    measured: Measured,
}

impl Report {
    pub(crate) fn add(
        &mut self,
        concurrency: u32,
        round: u32,
        variant: Variant,
        measured: Measured,
    ) {
        self.cells.entry(concurrency).or_default().push(Row {
            round,
            variant,
            measured,
        });
    }

    pub(crate) fn table(&self) -> String {
        let mut table = String::from(
            "| runs at a time | telemetry | runs/s | of off | least to most | spans/s | lost | MB/s |\n\
             |---:|---|---:|---:|---|---:|---:|---:|\n",
        );
        for (concurrency, rows) in &self.cells {
            for variant in Variant::ALL {
                let of_variant = || rows.iter().filter(|row| row.variant == variant);
                let rate = median(of_variant().map(|row| row.measured.rate));
                let ratios = ratios(rows, variant);
                let ratio = median(ratios.iter().copied());
                let (least, most) = (ratios.first(), ratios.last());
                let (least, most) = (least.unwrap_or(&1.0), most.unwrap_or(&1.0));
                let lost: u64 = of_variant().map(|row| row.measured.lost).sum();
                let spans = match variant {
                    Variant::Off => 0.0,
                    _ => rate * f64::from(STEPS + 1),
                };
                let megabytes = median(of_variant().map(|row| row.measured.megabytes_per_second()));
                let name = variant.name();
                let _ = writeln!(
                    table,
                    "| {concurrency} | {name} | {rate:.0} | {ratio:.3} | {least:.3} to {most:.3} | {spans:.0} | {lost} | {megabytes:.1} |"
                );
            }
        }
        table
    }

    pub(crate) fn json(&self) -> Value {
        let cells = self.cells.iter().map(|(concurrency, rows)| {
            let variants = Variant::ALL.map(|variant| {
                let of_variant = rows.iter().filter(|row| row.variant == variant);
                let measurements: Vec<_> = of_variant
                    .map(
                        |Row {
                             round, measured, ..
                         }| {
                            let [spans, data_points, log_records] = measured.exported;
                            json!({
                                "round": round,
                                "runs_per_second": measured.rate,
                                "spans": spans,
                                "data_points": data_points,
                                "log_records": log_records,
                                "lost": measured.lost,
                                "requests": measured.received.requests,
                                "bytes": measured.received.bytes,
                            })
                        },
                    )
                    .collect();
                json!({
                    "telemetry": variant.name(),
                    "of_off": median(ratios(rows, variant).into_iter()),
                    "measurements": measurements,
                })
            });
            json!({ "concurrency": concurrency, "variants": variants })
        });
        json!({ "cells": cells.collect::<Vec<_>>() })
    }
}

impl Measured {
    /// What the receiver got, over the time of the drain.
    fn megabytes_per_second(&self) -> f64 {
        let runs = self.exported[0] as f64 / f64::from(STEPS + 2);
        match runs > 0.0 {
            true => self.received.bytes as f64 / 1e6 / (runs / self.rate),
            false => 0.0,
        }
    }
}

/// Of each round, what a variant's two drains were over those without telemetry; in order.
fn ratios(rows: &[Row], variant: Variant) -> Vec<f64> {
    let mut rounds: BTreeMap<u32, [f64; 2]> = BTreeMap::new();
    for row in rows {
        let sums = rounds.entry(row.round).or_default();
        // Times add up, rates do not.
        if row.variant == variant {
            sums[0] += 1.0 / row.measured.rate;
        }
        if row.variant == Variant::Off {
            sums[1] += 1.0 / row.measured.rate;
        }
    }
    let mut ratios: Vec<_> = rounds.into_values().map(|[with, off]| off / with).collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}
