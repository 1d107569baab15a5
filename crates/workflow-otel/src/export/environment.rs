//! The standard `OTEL_*` variables that nobody else reads, or not strictly enough. An empty variable
//! counts as unset, as the standard has it.
//!
//! The address, headers and compression are read by `opentelemetry-otlp`.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use opentelemetry_sdk::trace::Sampler;

use super::destination::Protocol;
use super::sampling;
use super::{InitError, Signal};

/// The variables that are looked at.
#[derive(Clone)]
pub(super) struct Environment(HashMap<String, String>);

impl Environment {
    pub(super) fn of_process() -> Self {
        // Not `vars`, which panics on values that are no Unicode.
        Self::of(
            std::env::vars_os().filter_map(|(key, value)| {
                Some((key.into_string().ok()?, value.into_string().ok()?))
            }),
        )
    }

    pub(super) fn of(all: impl IntoIterator<Item = (String, String)>) -> Self {
        let all = all.into_iter().map(|(k, v)| (k, v.trim().to_owned()));
        Self(all.filter(|(_, value)| !value.is_empty()).collect())
    }

    pub(super) fn get(&self, variable: &str) -> Option<&str> {
        self.0.get(variable).map(String::as_str)
    }

    pub(super) fn required(
        &self,
        variable: &'static str,
        purpose: &'static str,
    ) -> Result<&str, InitError> {
        self.get(variable)
            .ok_or(InitError::MissingVariable { variable, purpose })
    }

    /// The variable of the exporter that ends in `suffix`, the one for the signal first, and its name.
    fn exporter(&self, signal: Signal, suffix: &str) -> Option<(String, &str)> {
        [
            format!("OTEL_EXPORTER_OTLP_{}_{suffix}", signal.in_variables()),
            format!("OTEL_EXPORTER_OTLP_{suffix}"),
        ]
        .into_iter()
        .find_map(|name| {
            let value = self.get(&name)?;
            Some((name, value))
        })
    }

    fn number<T: FromStr>(&self, variable: &str) -> Result<Option<T>, InitError> {
        let parse = |value: &str| {
            let parsed = value.parse();
            parsed.map_err(|_| InitError::invalid(variable, format!("{value:?} is no such number")))
        };
        self.get(variable).map(parse).transpose()
    }

    fn truth(name: &str, value: &str) -> Result<bool, InitError> {
        match value.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(InitError::invalid(name, "it is neither true nor false")),
        }
    }

    /// `OTEL_SDK_DISABLED`.
    pub(super) fn is_disabled(&self) -> Result<bool, InitError> {
        const DISABLED: &str = "OTEL_SDK_DISABLED";
        let value = self.get(DISABLED);
        value.map_or(Ok(false), |value| Self::truth(DISABLED, value))
    }

    /// Whether a signal is exported by OTLP: not where its variable says that there is no exporter, or
    /// that Prometheus scrapes it, which code has to be ready for.
    pub(super) fn is_exported(&self, signal: Signal, is_scraped: bool) -> Result<bool, InitError> {
        let name = exporter_variable(signal);
        let Some(list) = self.get(&name) else {
            return Ok(true);
        };
        let mut exported = false;
        for exporter in list.split(',').map(str::trim) {
            match exporter {
                "otlp" => exported = true,
                "none" => {}
                "prometheus" if signal == Signal::Metrics => {
                    if !is_scraped {
                        let reason = "nothing serves metrics to Prometheus; give one to the builder, with \
                                      `.prometheus(&prometheus)` (feature `prometheus`), and serve it";
                        return Err(InitError::invalid(name, reason));
                    }
                }
                other => {
                    let reason = format!("{other:?} is not supported; there are otlp and none");
                    return Err(InitError::invalid(name, reason));
                }
            }
        }
        Ok(exported)
    }

    /// Variables that ask for exporters which this build does not have, each with the remedy.
    pub(super) fn in_vain(&self, is_built: fn(Signal) -> bool) -> impl Iterator<Item = String> {
        let missing = Signal::ALL.into_iter().filter(move |of| !is_built(*of));
        missing.filter_map(|signal| {
            let name = exporter_variable(signal);
            let value = self.get(&name).filter(|value| *value != "none")?;
            Some(format!(
                "{name} is {value}, and {signal} are not exported: this build cannot; it takes the feature \
                 `otel-{signal}` of openworkflow, or `{signal}` of workflow-otel"
            ))
        })
    }

    pub(super) fn protocol(&self, signal: Signal) -> Result<Protocol, InitError> {
        match self.exporter(signal, "PROTOCOL") {
            None | Some((_, "http/protobuf")) => Ok(Protocol::HttpProtobuf),
            Some((_, "grpc")) => Ok(Protocol::Grpc),
            Some((name, other)) => Err(InitError::invalid(
                name,
                format!("{other:?} is not supported; there are http/protobuf and grpc"),
            )),
        }
    }

    /// The address, to see whether TLS is spoken.
    pub(super) fn endpoint(&self, signal: Signal) -> Option<String> {
        let found = self.exporter(signal, "ENDPOINT");
        found.map(|(_, value)| value.to_owned())
    }

    /// Whether TLS is not spoken to an address without a scheme.
    pub(super) fn is_insecure(&self, signal: Signal) -> bool {
        self.exporter(signal, "INSECURE")
            .is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"))
    }

    /// How long an export may take. The variable is in milliseconds.
    pub(super) fn timeout(&self, signal: Signal) -> Result<Option<Duration>, InitError> {
        match self.exporter(signal, "TIMEOUT") {
            Some((name, _)) => self.milliseconds(&name),
            None => Ok(None),
        }
    }

    /// The path of a file with the certificates to trust.
    pub(super) fn certificate(&self, signal: Signal) -> Option<(String, &str)> {
        self.exporter(signal, "CERTIFICATE")
    }

    /// The paths of the files with the certificate to show and its key.
    pub(super) fn client_certificate(
        &self,
        signal: Signal,
    ) -> Result<Option<[(String, &str); 2]>, InitError> {
        let names = ["CLIENT_CERTIFICATE", "CLIENT_KEY"];
        match names.map(|name| self.exporter(signal, name)) {
            [Some(chain), Some(key)] => Ok(Some([chain, key])),
            [None, None] => Ok(None),
            [Some((name, _)), None] | [None, Some((name, _))] => Err(InitError::invalid(
                name,
                "a certificate and its key are needed, and only one of the two is set",
            )),
        }
    }

    /// How many items may wait, `OTEL_BSP_MAX_QUEUE_SIZE`; `set` is `OTEL_BSP` for spans and `OTEL_BLRP` for
    /// log records.
    pub(super) fn queue_size(&self, set: &str) -> Result<Option<usize>, InitError> {
        self.number(&format!("{set}_MAX_QUEUE_SIZE"))
    }

    pub(super) fn batch_size(&self, set: &str) -> Result<Option<usize>, InitError> {
        self.number(&format!("{set}_MAX_EXPORT_BATCH_SIZE"))
    }

    pub(super) fn schedule_delay(&self, set: &str) -> Result<Option<Duration>, InitError> {
        self.milliseconds(&format!("{set}_SCHEDULE_DELAY"))
    }

    /// The SDK's periodic reader reads it for itself alone.
    #[cfg(feature = "metrics")]
    pub(super) fn metric_interval(&self) -> Result<Option<Duration>, InitError> {
        self.milliseconds(opentelemetry_sdk::metrics::OTEL_METRIC_EXPORT_INTERVAL)
    }

    fn milliseconds(&self, variable: &str) -> Result<Option<Duration>, InitError> {
        Ok(self.number(variable)?.map(Duration::from_millis))
    }

    pub(super) fn sampler(&self) -> Result<Option<Sampler>, InitError> {
        const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
        let ratio = || {
            let ratio = self.number(ARGUMENT)?.unwrap_or(1.0);
            sampling::ratio(ARGUMENT, ratio)
        };
        let parent_based = |root: Sampler| Sampler::ParentBased(Box::new(root));
        Ok(match self.get("OTEL_TRACES_SAMPLER") {
            None => None,
            Some("always_on") => Some(Sampler::AlwaysOn),
            Some("always_off") => Some(Sampler::AlwaysOff),
            Some("traceidratio") => Some(ratio()?),
            Some("parentbased_always_on") => Some(parent_based(Sampler::AlwaysOn)),
            Some("parentbased_always_off") => Some(parent_based(Sampler::AlwaysOff)),
            Some("parentbased_traceidratio") => Some(parent_based(ratio()?)),
            Some(other) => {
                return Err(InitError::invalid(
                    "OTEL_TRACES_SAMPLER",
                    format!(
                        "{other:?} is not supported; there are always_on, always_off, \
                         traceidratio, and each with parentbased_ before it"
                    ),
                ));
            }
        })
    }

    pub(super) fn propagators(&self) -> Result<Propagators, InitError> {
        let Some(list) = self.get("OTEL_PROPAGATORS") else {
            return Ok(Propagators::ALL);
        };
        let mut found = Propagators::NONE;
        for name in list.split(',').map(str::trim) {
            match name {
                "tracecontext" => found.trace_context = true,
                "baggage" => found.baggage = true,
                "none" | "" => {}
                other => {
                    return Err(InitError::invalid(
                        "OTEL_PROPAGATORS",
                        format!("{other:?} is not supported; there are tracecontext and baggage"),
                    ));
                }
            }
        }
        Ok(found)
    }
}

/// The variable that names the exporters of a signal.
fn exporter_variable(signal: Signal) -> String {
    format!("OTEL_{}_EXPORTER", signal.in_variables())
}

/// Which formats carry context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Propagators {
    pub(super) trace_context: bool,
    pub(super) baggage: bool,
}

impl Propagators {
    const ALL: Self = Self {
        trace_context: true,
        baggage: true,
    };
    const NONE: Self = Self {
        trace_context: false,
        baggage: false,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(all: &[(&str, &str)]) -> Environment {
        Environment::of(all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn reads_what_the_standard_names() {
        let env = env(&[
            ("OTEL_SDK_DISABLED", "TRUE"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", ""),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5"),
            ("OTEL_BSP_SCHEDULE_DELAY", "250"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_PROPAGATORS", "baggage"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ]);
        assert!(env.is_disabled().unwrap());
        assert_eq!(
            env.timeout(Signal::Traces).unwrap(),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(env.protocol(Signal::Traces).unwrap(), Protocol::Grpc);
        assert_eq!(env.protocol(Signal::Logs).unwrap(), Protocol::HttpProtobuf);
        assert_eq!(env.queue_size("OTEL_BSP").unwrap(), Some(10));
        assert_eq!(env.batch_size("OTEL_BSP").unwrap(), Some(5));
        let delay = env.schedule_delay("OTEL_BSP").unwrap();
        assert_eq!(delay, Some(Duration::from_millis(250)));
        let sampler = format!("{:?}", env.sampler().unwrap());
        assert_eq!(sampler, "Some(ParentBased(TraceIdRatioBased(0.25)))");
        let propagators = env.propagators().unwrap();
        assert!(propagators.baggage && !propagators.trace_context);
        assert_eq!(env.certificate(Signal::Traces).unwrap().1, "/ca.pem");
    }

    #[test]
    fn empty_is_unset() {
        let env = env(&[
            ("OTEL_SDK_DISABLED", ""),
            ("OTEL_TRACES_SAMPLER", " "),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ""),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"),
        ]);
        assert!(!env.is_disabled().unwrap());
        assert!(env.sampler().unwrap().is_none());
        assert_eq!(env.endpoint(Signal::Traces).unwrap(), "http://c");
        assert_eq!(env.propagators().unwrap(), Propagators::ALL);
    }

    #[test]
    fn what_cannot_be_honoured_is_an_error_that_names_the_variable() {
        let of = |variable: &str, value: &str| env(&[(variable, value)]);
        let errors = [
            of("OTEL_SDK_DISABLED", "yes").is_disabled().map(drop),
            of("OTEL_METRICS_EXPORTER", "console")
                .is_exported(Signal::Metrics, true)
                .map(drop),
            of("OTEL_METRICS_EXPORTER", "prometheus")
                .is_exported(Signal::Metrics, false)
                .map(drop),
            of("OTEL_LOGS_EXPORTER", "prometheus")
                .is_exported(Signal::Logs, true)
                .map(drop),
            of("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
                .protocol(Signal::Traces)
                .map(drop),
            of("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem")
                .client_certificate(Signal::Traces)
                .map(drop),
            of("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "10s")
                .timeout(Signal::Logs)
                .map(drop),
            of("OTEL_BLRP_MAX_QUEUE_SIZE", "-1")
                .queue_size("OTEL_BLRP")
                .map(drop),
            of("OTEL_TRACES_SAMPLER", "xray").sampler().map(drop),
            of("OTEL_PROPAGATORS", "b3").propagators().map(drop),
        ];
        let names = [
            "OTEL_SDK_DISABLED",
            "OTEL_METRICS_EXPORTER",
            "OTEL_METRICS_EXPORTER",
            "OTEL_LOGS_EXPORTER",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
            "OTEL_BLRP_MAX_QUEUE_SIZE",
            "OTEL_TRACES_SAMPLER",
            "OTEL_PROPAGATORS",
        ];
        for (error, name) in errors.into_iter().zip(names) {
            let error = error.unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }
    #[test]
    fn an_exporter_is_otlp_or_prometheus_or_both_or_none() {
        for (list, exported) in [
            ("", true),
            ("otlp", true),
            ("otlp, prometheus", true),
            ("prometheus", false),
            ("none", false),
        ] {
            let env = env(&[("OTEL_METRICS_EXPORTER", list)]);
            let found = env.is_exported(Signal::Metrics, true).unwrap();
            assert_eq!(found, exported, "{list:?}");
        }
    }

    #[test]
    fn what_a_build_does_not_have_is_told_where_it_is_asked_for() {
        let traces_alone = |signal| signal == Signal::Traces;
        let told = |value| {
            let env = env(&[
                ("OTEL_TRACES_EXPORTER", "otlp"),
                ("OTEL_LOGS_EXPORTER", value),
            ]);
            env.in_vain(traces_alone).collect::<Vec<_>>()
        };
        assert_eq!(told(""), [""; 0]);
        assert_eq!(told("none"), [""; 0]);
        let [told] = &told("otlp")[..] else {
            panic!("one line");
        };
        assert!(told.starts_with("OTEL_LOGS_EXPORTER is otlp"), "{told}");
        assert!(told.contains("feature `otel-logs`"), "{told}");
    }
}
