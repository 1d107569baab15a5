//! Where spans are sent: collectors and hosted backends.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::InitError;
use super::environment::Environment;

/// The path of traces in OTLP over HTTP.
const TRACES_PATH: &str = "/v1/traces";

/// How OTLP is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.1 with protobuf bodies, `http/protobuf`. The port is 4318 by convention.
    #[default]
    HttpProtobuf,
    /// gRPC, `grpc`. The port is 4317 by convention.
    Grpc,
}

/// How requests are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// With gzip.
    Gzip,
}

/// A place that takes spans by OTLP: an address, and headers that say who sends.
///
/// A destination is whole: where one is given in code, neither the endpoint nor the headers of the
/// environment are used, so that no backend gets the key of another.
///
/// `Debug` shows the names of the headers, never their values.
///
/// ```
/// use workflow_otel::export::Destination;
///
/// let axiom = Destination::axiom("traces", "xaat-secret");
/// assert_eq!(axiom.url(), "https://api.axiom.co/v1/traces");
/// assert!(!format!("{axiom:?}").contains("secret"));
///
/// // Any other backend that is OTLP with headers:
/// let other = Destination::http("https://otlp.example.com").header("x-api-key", "secret");
/// assert_eq!(other.url(), "https://otlp.example.com/v1/traces");
/// ```
#[derive(Clone)]
pub struct Destination {
    pub(super) protocol: Protocol,
    pub(super) compression: Option<Compression>,
    url: String,
    headers: Vec<(String, String)>,
}

impl Destination {
    /// A receiver of OTLP over HTTP. `/v1/traces` is added to the address unless it ends so.
    pub fn http(endpoint: impl Into<String>) -> Self {
        Self {
            protocol: Protocol::HttpProtobuf,
            compression: None,
            url: with_traces_path(&endpoint.into()),
            headers: Vec::new(),
        }
    }

    /// A receiver of OTLP over gRPC. The address has the form `http://host:4317`; `https` for TLS.
    pub fn grpc(endpoint: impl Into<String>) -> Self {
        Self {
            protocol: Protocol::Grpc,
            compression: None,
            url: endpoint.into(),
            headers: Vec::new(),
        }
    }

    /// [Axiom](https://axiom.co): its dataset for traces and an API token that may ingest there.
    /// For another than the US region, set the [`endpoint`](Self::endpoint).
    pub fn axiom(dataset: impl Into<String>, api_key: impl AsRef<str>) -> Self {
        Self::http("https://api.axiom.co")
            .header("authorization", format!("Bearer {}", api_key.as_ref()))
            .header("x-axiom-dataset", dataset)
            .compression(Compression::Gzip)
    }

    /// [Axiom](Self::axiom), from `AXIOM_TRACES_DATASET` and `AXIOM_API_KEY`.
    ///
    /// # Errors
    ///
    /// [`InitError::MissingVariable`].
    pub fn axiom_from_env() -> Result<Self, InitError> {
        Self::axiom_from(&Environment::of_process())
    }

    pub(super) fn axiom_from(env: &Environment) -> Result<Self, InitError> {
        let dataset = env.required("AXIOM_TRACES_DATASET", "the dataset for traces")?;
        let key = env.required("AXIOM_API_KEY", "an API token that may ingest")?;
        Ok(Self::axiom(dataset, key))
    }

    /// [Honeycomb](https://www.honeycomb.io): an ingest key of the environment. For the EU, set the
    /// [`endpoint`](Self::endpoint) `https://api.eu1.honeycomb.io`; Honeycomb Classic needs the
    /// [`header`](Self::header) `x-honeycomb-dataset` too.
    pub fn honeycomb(api_key: impl Into<String>) -> Self {
        Self::http("https://api.honeycomb.io")
            .header("x-honeycomb-team", api_key)
            .compression(Compression::Gzip)
    }

    /// [Honeycomb](Self::honeycomb), from `HONEYCOMB_API_KEY`.
    ///
    /// # Errors
    ///
    /// [`InitError::MissingVariable`].
    pub fn honeycomb_from_env() -> Result<Self, InitError> {
        Self::honeycomb_from(&Environment::of_process())
    }

    pub(super) fn honeycomb_from(env: &Environment) -> Result<Self, InitError> {
        let key = env.required("HONEYCOMB_API_KEY", "an ingest key")?;
        Ok(Self::honeycomb(key))
    }

    /// [Grafana Cloud](https://grafana.com/products/cloud/): the stack's OTLP endpoint (it ends in
    /// `/otlp`), its instance id, and a token that may write traces.
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

    pub(super) fn grafana_cloud_from(env: &Environment) -> Result<Self, InitError> {
        let endpoint = env.required(
            "GRAFANA_CLOUD_OTLP_ENDPOINT",
            "the stack's OTLP endpoint, which ends in /otlp",
        )?;
        let id = env.required("GRAFANA_CLOUD_INSTANCE_ID", "the stack's instance id")?;
        let token = env.required("GRAFANA_CLOUD_API_KEY", "a token that may write traces")?;
        Ok(Self::grafana_cloud(endpoint, id, token))
    }

    /// Sends to another address of the same kind: of another region, or a proxy in front.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        let endpoint = endpoint.into();
        self.url = match self.protocol {
            Protocol::HttpProtobuf => with_traces_path(&endpoint),
            Protocol::Grpc => endpoint,
        };
        self
    }

    /// Sends this header too, in place of one of the same name.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.headers
            .retain(|(other, _)| !other.eq_ignore_ascii_case(&name));
        self.headers.push((name, value.into()));
        self
    }

    /// How requests are compressed. Otherwise as `OTEL_EXPORTER_OTLP_COMPRESSION` says.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// The address that requests go to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the environment describes: `OTEL_EXPORTER_OTLP_*`.
    pub(super) fn from_env(env: &Environment) -> Result<Self, InitError> {
        let protocol = env.protocol()?;
        let mut destination = match (env.endpoint(), protocol) {
            (Some((_, url, true)), Protocol::HttpProtobuf) => Self {
                // The address of the signal is taken as it is.
                url,
                ..Self::http("")
            },
            (Some((_, url, _)), Protocol::HttpProtobuf) => Self::http(url),
            (Some((_, url, _)), Protocol::Grpc) => Self::grpc(url),
            (None, Protocol::HttpProtobuf) => Self::http("http://localhost:4318"),
            (None, Protocol::Grpc) => Self::grpc("http://localhost:4317"),
        };
        destination.headers = env.headers()?;
        if protocol == Protocol::Grpc && !destination.url.contains("://") {
            let scheme = if env.insecure()? { "http" } else { "https" };
            destination.url = format!("{scheme}://{}", destination.url);
        }
        Ok(destination)
    }

    /// Where to send, checked. `setting` names what is to blame for a bad address.
    pub(super) fn uri(&self, setting: &str) -> Result<Uri, InitError> {
        let invalid = |reason: &str| InitError::invalid(setting, reason);
        let uri: Uri = self
            .url
            .parse()
            .map_err(|_| invalid("it is no URL of the form http://host:port"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(invalid("it does not begin with http:// or https://"));
        }
        // It would be printed with the address wherever that is.
        if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err(invalid(
                "it contains credentials; send them in an `authorization` header",
            ));
        }
        Ok(uri)
    }

    /// The headers, checked, and marked as sensitive.
    pub(super) fn header_map(&self) -> Result<HeaderMap, InitError> {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| InitError::invalid(format!("the header {name:?}"), "its name"))?;
            let mut value = HeaderValue::from_str(value).map_err(|_| {
                let reason = "its value has characters that no header may have";
                InitError::invalid(format!("the header {name:?}"), reason)
            })?;
            value.set_sensitive(true);
            map.insert(header, value);
        }
        Ok(map)
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        // What stands before an `@` is a password.
        let url = match self.url.rsplit_once('@') {
            Some((_, host)) => format!("(credentials)@{host}"),
            None => self.url.clone(),
        };
        f.debug_struct("Destination")
            .field("protocol", &self.protocol)
            .field("url", &url)
            .field("headers", &names)
            .field("compression", &self.compression)
            .finish()
    }
}

fn with_traces_path(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    if endpoint.ends_with(TRACES_PATH) {
        endpoint.to_owned()
    } else {
        format!("{endpoint}{TRACES_PATH}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(all: &[(&str, &str)]) -> Environment {
        Environment::of(all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    fn value(destination: &Destination, name: &str) -> String {
        let map = destination.header_map().unwrap();
        map[name].to_str().unwrap().to_owned()
    }

    #[test]
    fn presets_follow_the_vendors() {
        let axiom = Destination::axiom_from(&env(&[
            ("AXIOM_TRACES_DATASET", "orders"),
            ("AXIOM_API_KEY", "xaat-1"),
        ]))
        .unwrap();
        assert_eq!(axiom.url(), "https://api.axiom.co/v1/traces");
        assert_eq!(value(&axiom, "authorization"), "Bearer xaat-1");
        assert_eq!(value(&axiom, "x-axiom-dataset"), "orders");

        let honeycomb = Destination::honeycomb_from(&env(&[("HONEYCOMB_API_KEY", "hc")])).unwrap();
        assert_eq!(honeycomb.url(), "https://api.honeycomb.io/v1/traces");
        assert_eq!(value(&honeycomb, "x-honeycomb-team"), "hc");

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
            grafana.url(),
            "https://otlp-gateway-prod-eu-west-2.grafana.net/otlp/v1/traces"
        );
        // `printf 42:glc_1 | base64`
        assert_eq!(value(&grafana, "authorization"), "Basic NDI6Z2xjXzE=");
    }

    #[test]
    fn a_missing_key_names_its_variable() {
        let dataset = ("AXIOM_TRACES_DATASET", "orders");
        for all in [&[dataset][..], &[dataset, ("AXIOM_API_KEY", "")]] {
            let error = Destination::axiom_from(&env(all)).unwrap_err();
            assert_eq!(
                error.to_string(),
                "the environment variable AXIOM_API_KEY is not set: it is to hold an API token \
                 that may ingest"
            );
        }
        let error = Destination::honeycomb_from(&env(&[])).unwrap_err();
        assert!(error.to_string().contains("HONEYCOMB_API_KEY"));
        let error = Destination::grafana_cloud_from(&env(&[])).unwrap_err();
        assert!(error.to_string().contains("GRAFANA_CLOUD_OTLP_ENDPOINT"));
    }

    #[test]
    fn secrets_are_in_no_text() {
        let destination = Destination::http("https://user:s3cret@host")
            .header("x-key", "s3cret")
            .header("x-bad", "s3cret\n");
        let texts = [
            format!("{destination:?}"),
            destination.uri("the endpoint").unwrap_err().to_string(),
            format!("{:?}", destination.uri("the endpoint").unwrap_err()),
            destination.header_map().unwrap_err().to_string(),
            format!(
                "{:?}",
                Destination::http("h")
                    .header("x-key", "s3cret")
                    .header_map()
            ),
        ];
        for text in texts {
            assert!(!text.contains("s3cret"), "{text}");
        }
    }

    #[test]
    fn the_environment_is_read_by_the_standard() {
        let of = |all: &[(&str, &str)]| Destination::from_env(&env(all)).unwrap();
        assert_eq!(of(&[]).url(), "http://localhost:4318/v1/traces");
        let generic = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1/base/");
        assert_eq!(of(&[generic]).url(), "http://c:1/base/v1/traces");
        let signal = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:2/as-is");
        assert_eq!(of(&[generic, signal]).url(), "http://t:2/as-is");
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        assert_eq!(of(&[grpc]).url(), "http://localhost:4317");
        assert_eq!(of(&[grpc]).protocol, Protocol::Grpc);
        let bare = ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317");
        assert_eq!(of(&[grpc, bare]).url(), "https://c:4317");
        let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
        assert_eq!(of(&[grpc, bare, insecure]).url(), "http://c:4317");

        let headers = (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "x-a=1, authorization=Basic%20abc%3D, x-b=a=b",
        );
        let destination = of(&[headers]);
        assert_eq!(value(&destination, "x-a"), "1");
        assert_eq!(value(&destination, "authorization"), "Basic abc=");
        assert_eq!(value(&destination, "x-b"), "a=b");
    }
}
