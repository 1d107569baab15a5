//! The one place where exporters are made, of any signal: out of a destination in code or what the
//! environment says.
//!
//! The wire is `opentelemetry-otlp`. Two things are put in front of it, through the hooks that it has
//! for its users. It sends `OTEL_EXPORTER_OTLP_HEADERS` wherever it sends anything, above headers in
//! code; here the keys of one backend are kept from another. And it tells that a batch failed, but not
//! whether it may be accepted later; a [`Witness`] counts the attempts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use opentelemetry_otlp::{ExporterBuildError, RetryPolicy, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;

use super::client::{self, Client};
use super::courier::Watched;
use super::destination::{Compression, Destination, Protocol, header_map};
use super::environment::Environment;
use super::error::InitError;
use super::signal::Signal;
use super::witness::{RETRIES, Witness};

const AGENT: &str = concat!("workflow-otel/", env!("CARGO_PKG_VERSION"));
/// The longest pause that a receiver may ask for; `opentelemetry-otlp` has it so.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(30);

/// A day is for ever.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(86_400);

/// What code says of the way to a receiver. The environment says the rest.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) destination: Option<Destination>,
    pub(super) protocol: Option<Protocol>,
    pub(super) endpoint: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) compression: Option<Compression>,
    pub(super) timeout: Option<Duration>,
    pub(super) tls: Tls,
}

/// Certificates, in PEM.
#[derive(Default, Clone)]
pub(super) struct Tls {
    /// Those to trust in place of the system's.
    pub(super) trusted: Option<Vec<u8>>,
    /// The chain to show, and its key.
    pub(super) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// These, and what the environment says where code does not.
    fn or_of(&self, env: &Environment, signal: Signal) -> Result<Self, InitError> {
        let trusted = match &self.trusted {
            Some(pem) => Some(pem.clone()),
            None => env.certificate(signal).map(read).transpose()?,
        };
        let identity = match (&self.identity, env.client_certificate(signal)?) {
            (Some(identity), _) => Some(identity.clone()),
            (None, Some([chain, key])) => Some((read(chain)?, read(key)?)),
            (None, None) => None,
        };
        Ok(Self { trusted, identity })
    }
}

/// The way to the receiver of a signal.
pub(super) struct Exporters {
    signal: Signal,
    protocol: Protocol,
    /// Where to send, if code says so.
    destination: Option<Destination>,
    headers: Headers,
    compression: Option<Compression>,
    timeout: Duration,
    agent: ureq::Agent,
    /// `None` where no TLS is spoken.
    #[cfg_attr(not(feature = "otlp-grpc"), expect(dead_code))]
    tls: Option<Tls>,
}

impl Exporters {
    pub(super) fn new(
        signal: Signal,
        settings: &Settings,
        env: &Environment,
    ) -> Result<Self, InitError> {
        let protocol = match (&settings.destination, settings.protocol) {
            (Some(destination), _) => destination.protocol,
            (None, Some(protocol)) => protocol,
            (None, None) => env.protocol(signal)?,
        };
        let (destination, blame) = match (&settings.destination, &settings.endpoint) {
            (Some(destination), _) => (Some(destination.clone()), "the destination's endpoint"),
            (None, Some(endpoint)) => (Some(Destination::of(protocol, endpoint)), "the endpoint"),
            (None, None) => (None, ""),
        };
        if let Some(destination) = &destination {
            destination.check(blame)?;
        }
        let mut headers = match &destination {
            Some(destination) => destination.header_map(signal)?,
            None => HeaderMap::new(),
        };
        headers.extend(header_map(&settings.headers)?);
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let timeout = match settings.timeout {
            Some(timeout) => timeout,
            None => env.timeout(signal)?.unwrap_or(Duration::from_secs(10)),
        };
        if timeout.is_zero() {
            return Err(InitError::invalid("the timeout of exports", "it is 0"));
        }
        // What is longer cannot be told to a receiver.
        let timeout = timeout.min(LONGEST_TIMEOUT);
        let tls = settings.tls.or_of(env, signal)?;
        let agent = client::agent(timeout, &tls)?;
        let address = destination.as_ref().map(|to| to.url(signal));
        let address = address.or_else(|| env.endpoint(signal));
        let plain = address.is_none_or(|address| {
            address.starts_with("http://") || (!address.contains("://") && env.is_insecure(signal))
        });
        let compression = destination.as_ref().and_then(|to| to.compression);
        Ok(Self {
            signal,
            protocol,
            compression: settings.compression.or(compression),
            destination,
            headers: Headers {
                own: headers,
                whole: settings.destination.is_some(),
            },
            timeout,
            agent,
            tls: (!plain).then_some(tls),
        })
    }

    /// How long one export may take, with all of its attempts and the pauses that a receiver asks for.
    fn patience(&self) -> Duration {
        let retries = RETRIES as u32;
        let attempts = self.timeout.saturating_mul(retries + 1);
        attempts.saturating_add(LONGEST_ASKED_PAUSE * (retries + 1))
    }

    pub(super) fn spans(
        &self,
        resource: &Resource,
    ) -> Result<Watched<opentelemetry_otlp::SpanExporter>, InitError> {
        use opentelemetry_sdk::trace::SpanExporter as _;
        let mut made = exporter!(self, opentelemetry_otlp::SpanExporter)?;
        made.exporter.set_resource(resource);
        Ok(made)
    }

    #[cfg(feature = "metrics")]
    pub(super) fn metrics(&self) -> Result<Watched<opentelemetry_otlp::MetricExporter>, InitError> {
        exporter!(self, opentelemetry_otlp::MetricExporter)
    }

    #[cfg(feature = "logs")]
    pub(super) fn logs(
        &self,
        resource: &Resource,
    ) -> Result<Watched<opentelemetry_otlp::LogExporter>, InitError> {
        use opentelemetry_sdk::logs::LogExporter as _;
        let mut made = exporter!(self, opentelemetry_otlp::LogExporter)?;
        made.exporter.set_resource(resource);
        Ok(made)
    }

    /// Has `build` make an exporter, strictly, and watches it from then on.
    fn watched<E>(
        &self,
        build: impl FnOnce(&Arc<Witness>) -> Result<E, ExporterBuildError>,
    ) -> Result<Watched<E>, InitError> {
        let witness = Arc::new(Witness::default());
        let exporter = witness.strictly(|| build(&witness).map_err(unusable))?;
        Ok(Watched {
            exporter,
            witness,
            patience: self.patience(),
        })
    }

    /// What is said to the builder of an exporter over HTTP, whichever the signal.
    fn http<B: WithExportConfig + WithHttpConfig>(&self, builder: B, witness: &Arc<Witness>) -> B {
        let client = Client::new(
            self.agent.clone(),
            self.headers.clone(),
            Arc::clone(witness),
        );
        let mut builder = builder
            .with_http_client(client)
            // Or the variable is asked again.
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .with_timeout(self.patience())
            .with_retry_policy(policy());
        if let Some(destination) = &self.destination {
            builder = builder.with_endpoint(destination.url(self.signal));
        }
        match self.compression {
            Some(Compression::Gzip) => {
                builder.with_compression(opentelemetry_otlp::Compression::Gzip)
            }
            None => builder,
        }
    }

    /// What is said to the builder of an exporter over gRPC, whichever the signal.
    #[cfg(feature = "otlp-grpc")]
    fn grpc<B>(&self, builder: B, witness: &Arc<Witness>) -> B
    where
        B: WithExportConfig + opentelemetry_otlp::WithTonicConfig,
    {
        use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
        use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};

        let (headers, timeout) = (self.headers.clone(), self.timeout);
        let witness = Arc::clone(witness);
        // Called for each attempt, after the headers of the environment were set.
        let intercept = move |mut request: tonic::Request<()>| {
            witness.attempt();
            let metadata = std::mem::replace(request.metadata_mut(), MetadataMap::new());
            let mut map = metadata.into_headers();
            headers.apply(&mut map);
            *request.metadata_mut() = MetadataMap::from_headers(map);
            request.set_timeout(timeout);
            Ok(request)
        };
        let mut builder = builder
            .with_interceptor(intercept)
            .with_timeout(self.patience())
            .with_retry_policy(policy());
        if let Some(destination) = &self.destination {
            builder = builder.with_endpoint(destination.url(self.signal));
        }
        if let Some(tls) = &self.tls {
            // Without a word it trusts nobody.
            let mut config = match &tls.trusted {
                Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
                None => ClientTlsConfig::new().with_enabled_roots(),
            };
            if let Some((chain, key)) = &tls.identity {
                config = config.identity(Identity::from_pem(chain, key));
            }
            builder = builder.with_tls_config(config);
        }
        // It reads compressed answers only where it compresses, and some servers compress theirs whoever
        // asks: what they accepted would be counted as refused. Every receiver of OTLP knows gzip.
        builder.with_compression(opentelemetry_otlp::Compression::Gzip)
    }
}

/// An exporter of this type, whose builders for the three signals are three types of the same form. For
/// gRPC it is to be made in the context of the runtime that drives it.
macro_rules! exporter {
    ($way:expr, $exporter:ty) => {
        match $way.protocol {
            Protocol::HttpProtobuf => $way.watched(|witness| {
                let builder = <$exporter>::builder().with_http();
                $way.http(builder, witness).build()
            }),
            #[cfg(feature = "otlp-grpc")]
            Protocol::Grpc => $way.watched(|witness| {
                let builder = <$exporter>::builder().with_tonic();
                $way.grpc(builder, witness).build()
            }),
            #[cfg(not(feature = "otlp-grpc"))]
            Protocol::Grpc => Err(no_grpc()),
        }
    };
}
use exporter;

fn policy() -> RetryPolicy {
    RetryPolicy::recommended().with_max_retries(RETRIES)
}

fn read((variable, path): (String, &str)) -> Result<Vec<u8>, InitError> {
    let pem = std::fs::read(Path::new(path));
    pem.map_err(|error| InitError::invalid(variable, format!("{path}: {error}")))
}

#[cfg(not(feature = "otlp-grpc"))]
fn no_grpc() -> InitError {
    InitError::invalid(
        "the protocol gRPC",
        "this program was built without it; enable the feature `otlp-grpc` (of `openworkflow`: \
         `otel-otlp-grpc`)",
    )
}

fn unusable(error: ExporterBuildError) -> InitError {
    let reason = match error {
        ExporterBuildError::InvalidConfiguration(reason)
        | ExporterBuildError::InternalFailure(reason) => reason,
    };
    if let Some(reason) = reason.strip_prefix("tls_config: ") {
        let remedy = "install the system's ca-certificates, or set OTEL_EXPORTER_OTLP_CERTIFICATE \
                      to a PEM file";
        return InitError::invalid("TLS", format!("{reason}; {remedy}"));
    }
    // It quotes the address, where a password may stand before an `@`.
    let reason = match reason.split_once(": ") {
        Some((setting, _)) if reason.contains('@') => format!("{setting}: it is no usable address"),
        _ => reason,
    };
    InitError::invalid("the exporter", reason)
}

/// The headers that requests have.
#[derive(Clone, Default)]
pub(super) struct Headers {
    own: HeaderMap,
    /// No others: what the environment would have sent is meant for another receiver.
    whole: bool,
}

impl Headers {
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        if self.whole {
            let kept = [CONTENT_TYPE, CONTENT_ENCODING];
            let kept = kept.map(|name| headers.remove(&name).map(|value| (name, value)));
            headers.clear();
            headers.extend(kept.into_iter().flatten());
        }
        for (name, value) in &self.own {
            headers.insert(name, value.clone());
        }
    }
}
