//! The hosted backends that are known by name: their addresses, and the headers that they want, as their
//! documentation has them.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::destination::{Compression, Destination};
use super::environment::Environment;
use super::{InitError, Signal};

impl Destination {
    /// [Axiom](https://axiom.co): an API token that may ingest, and the datasets, one for each signal. A
    /// signal without one is not exported, which the log tells. For another than the US region, set the
    /// [`endpoint`](Self::endpoint).
    ///
    /// ```
    /// use workflow_otel::export::{Destination, Signal};
    ///
    /// let datasets = [(Signal::Traces, "orders"), (Signal::Logs, "orders-logs")];
    /// let axiom = Destination::axiom("xaat-…", datasets);
    /// assert_eq!(axiom.url(Signal::Logs), "https://api.axiom.co/v1/logs");
    /// ```
    pub fn axiom<D: Into<String>>(
        api_key: impl AsRef<str>,
        datasets: impl IntoIterator<Item = (Signal, D)>,
    ) -> Self {
        let mut axiom = Self::http("https://api.axiom.co")
            .header("authorization", format!("Bearer {}", api_key.as_ref()))
            .compression(Compression::Gzip);
        let mut without = Signal::ALL.to_vec();
        for (signal, dataset) in datasets {
            let header = match signal {
                Signal::Metrics => "x-axiom-metrics-dataset",
                Signal::Traces | Signal::Logs => "x-axiom-dataset",
            };
            axiom = axiom.header_of(signal, header, dataset);
            without.retain(|other| *other != signal);
        }
        let off = without.into_iter().map(|signal| {
            let variable = dataset_variable(signal);
            let reason = format!("no dataset of Axiom was given for them; {variable} names one");
            (signal, reason)
        });
        axiom.off = off.collect();
        axiom
    }

    /// [Axiom](Self::axiom), from `AXIOM_API_KEY`, and `AXIOM_TRACES_DATASET`, `AXIOM_METRICS_DATASET` and
    /// `AXIOM_LOGS_DATASET`.
    ///
    /// # Errors
    ///
    /// [`InitError::MissingVariable`] without the key, or without any dataset.
    pub fn axiom_from_env() -> Result<Self, InitError> {
        Self::axiom_from(&Environment::of_process())
    }

    fn axiom_from(env: &Environment) -> Result<Self, InitError> {
        let dataset = |signal| Some((signal, env.get(dataset_variable(signal))?));
        let datasets: Vec<_> = Signal::ALL.into_iter().filter_map(dataset).collect();
        if datasets.is_empty() {
            env.required(dataset_variable(Signal::Traces), "the dataset for traces")?;
        }
        let key = env.required("AXIOM_API_KEY", "an API token that may ingest")?;
        Ok(Self::axiom(key, datasets))
    }

    /// [Honeycomb](https://www.honeycomb.io): an ingest key of the environment. For the EU, set the
    /// [`endpoint`](Self::endpoint) `https://api.eu1.honeycomb.io`. Metrics go to the dataset that the
    /// header `x-honeycomb-dataset` [of theirs](Self::header_of) names, and otherwise to
    /// `unknown_metrics`; Honeycomb Classic needs that [`header`](Self::header) for all signals.
    pub fn honeycomb(api_key: impl Into<String>) -> Self {
        Self::http("https://api.honeycomb.io")
            .header("x-honeycomb-team", api_key)
            .compression(Compression::Gzip)
    }

    /// [Honeycomb](Self::honeycomb), from `HONEYCOMB_API_KEY`, and `HONEYCOMB_METRICS_DATASET` if that is
    /// set.
    ///
    /// # Errors
    ///
    /// [`InitError::MissingVariable`].
    pub fn honeycomb_from_env() -> Result<Self, InitError> {
        Self::honeycomb_from(&Environment::of_process())
    }

    fn honeycomb_from(env: &Environment) -> Result<Self, InitError> {
        let honeycomb = Self::honeycomb(env.required("HONEYCOMB_API_KEY", "an ingest key")?);
        Ok(match env.get("HONEYCOMB_METRICS_DATASET") {
            Some(dataset) => honeycomb.header_of(Signal::Metrics, "x-honeycomb-dataset", dataset),
            None => honeycomb,
        })
    }

    /// [Grafana Cloud](https://grafana.com/products/cloud/): the stack's OTLP endpoint (it ends in
    /// `/otlp`), its instance id, and a token that may write traces, metrics and logs.
    pub fn grafana_cloud(
        endpoint: impl Into<String>,
        instance_id: impl fmt::Display,
        token: impl fmt::Display,
    ) -> Self {
        let credentials = BASE64_STANDARD.encode(format!("{instance_id}:{token}"));
        Self::http(endpoint)
            .header("authorization", format!("Basic {credentials}"))
            .compression(Compression::Gzip)
    }

    /// [Grafana Cloud](Self::grafana_cloud), from `GRAFANA_CLOUD_OTLP_ENDPOINT`,
    /// `GRAFANA_CLOUD_INSTANCE_ID` and `GRAFANA_CLOUD_API_KEY`.
    ///
    /// # Errors
    ///
    /// [`InitError::MissingVariable`].
    pub fn grafana_cloud_from_env() -> Result<Self, InitError> {
        Self::grafana_cloud_from(&Environment::of_process())
    }

    fn grafana_cloud_from(env: &Environment) -> Result<Self, InitError> {
        let endpoint = env.required(
            "GRAFANA_CLOUD_OTLP_ENDPOINT",
            "the stack's OTLP endpoint, which ends in /otlp",
        )?;
        let id = env.required("GRAFANA_CLOUD_INSTANCE_ID", "the stack's instance id")?;
        let token = env.required("GRAFANA_CLOUD_API_KEY", "a token that may write telemetry")?;
        Ok(Self::grafana_cloud(endpoint, id, token))
    }
}

fn dataset_variable(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "AXIOM_TRACES_DATASET",
        Signal::Metrics => "AXIOM_METRICS_DATASET",
        Signal::Logs => "AXIOM_LOGS_DATASET",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(all: &[(&str, &str)]) -> Environment {
        Environment::of(all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    fn value(destination: &Destination, signal: Signal, name: &str) -> Option<String> {
        let map = destination.header_map(signal).unwrap();
        Some(map.get(name)?.to_str().unwrap().to_owned())
    }

    #[test]
    fn presets_follow_the_vendors() {
        let axiom = Destination::axiom_from(&env(&[
            ("AXIOM_TRACES_DATASET", "orders"),
            ("AXIOM_METRICS_DATASET", "orders-metrics"),
            ("AXIOM_API_KEY", "xaat-1"),
        ]))
        .unwrap();
        let of = |signal, name| value(&axiom, signal, name);
        assert_eq!(
            axiom.url(Signal::Metrics),
            "https://api.axiom.co/v1/metrics"
        );
        for signal in Signal::ALL {
            assert_eq!(of(signal, "authorization").unwrap(), "Bearer xaat-1");
        }
        assert_eq!(of(Signal::Traces, "x-axiom-dataset").unwrap(), "orders");
        assert_eq!(of(Signal::Metrics, "x-axiom-dataset"), None);
        let dataset = of(Signal::Metrics, "x-axiom-metrics-dataset");
        assert_eq!(dataset.unwrap(), "orders-metrics");
        let off: Vec<_> = axiom.off.iter().map(|(signal, _)| *signal).collect();
        assert_eq!(off, [Signal::Logs]);
        assert!(axiom.off[0].1.contains("AXIOM_LOGS_DATASET"));

        let honeycomb = Destination::honeycomb_from(&env(&[
            ("HONEYCOMB_API_KEY", "hc"),
            ("HONEYCOMB_METRICS_DATASET", "orders-metrics"),
        ]))
        .unwrap();
        let of = |signal, name| value(&honeycomb, signal, name);
        assert_eq!(
            honeycomb.url(Signal::Traces),
            "https://api.honeycomb.io/v1/traces"
        );
        assert_eq!(of(Signal::Logs, "x-honeycomb-team").unwrap(), "hc");
        assert_eq!(of(Signal::Logs, "x-honeycomb-dataset"), None);
        let dataset = of(Signal::Metrics, "x-honeycomb-dataset");
        assert_eq!(dataset.unwrap(), "orders-metrics");

        let grafana = Destination::grafana_cloud_from(&env(&[
            (
                "GRAFANA_CLOUD_OTLP_ENDPOINT",
                "https://otlp-gateway-prod-eu-west-2.grafana.net/otlp/",
            ),
            ("GRAFANA_CLOUD_INSTANCE_ID", "42"),
            ("GRAFANA_CLOUD_API_KEY", "glc_1"),
        ]))
        .unwrap();
        assert_eq!(
            grafana.url(Signal::Logs),
            "https://otlp-gateway-prod-eu-west-2.grafana.net/otlp/v1/logs"
        );
        // `printf 42:glc_1 | base64`
        let authorization = value(&grafana, Signal::Logs, "authorization");
        assert_eq!(authorization.unwrap(), "Basic NDI6Z2xjXzE=");
    }

    #[test]
    fn a_missing_key_names_its_variable() {
        let dataset = ("AXIOM_LOGS_DATASET", "orders");
        for all in [&[dataset][..], &[dataset, ("AXIOM_API_KEY", "")]] {
            let error = Destination::axiom_from(&env(all)).unwrap_err();
            assert_eq!(
                error.to_string(),
                "the environment variable AXIOM_API_KEY is not set: it is to hold an API token \
                 that may ingest"
            );
        }
        let error = Destination::axiom_from(&env(&[("AXIOM_API_KEY", "xaat-1")])).unwrap_err();
        assert!(error.to_string().contains("AXIOM_TRACES_DATASET"));
        let error = Destination::honeycomb_from(&env(&[])).unwrap_err();
        assert!(error.to_string().contains("HONEYCOMB_API_KEY"));
        let error = Destination::grafana_cloud_from(&env(&[])).unwrap_err();
        assert!(error.to_string().contains("GRAFANA_CLOUD_OTLP_ENDPOINT"));
    }
}
