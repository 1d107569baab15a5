//! Where spans are sent: collectors and hosted backends.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::InitError;
use super::environment::Environment;
use super::exporters::TRACES;

/// How OTLP is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.1 with protobuf bodies, `http/protobuf`. The port is 4318 by convention.
    #[default]
    HttpProtobuf,
    /// gRPC, `grpc`. The port is 4317 by convention. Needs the feature `otlp-grpc` (of the crate
    /// `openworkflow`: `otel-otlp-grpc`).
    Grpc,
}

/// How requests are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
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
    /// The address, and for HTTP what the path of the signal is added to.
    base: String,
    /// The address of traces.
    url: String,
    headers: Vec<(String, String)>,
}

impl Destination {
    /// A receiver of OTLP over HTTP. `/v1/traces` is added to the address unless it ends so.
    pub fn http(endpoint: impl Into<String>) -> Self {
        Self::of(Protocol::HttpProtobuf, endpoint)
    }

    /// A receiver of OTLP over gRPC. The address has the form `http://host:4317`; `https` for TLS.
    pub fn grpc(endpoint: impl Into<String>) -> Self {
        Self::of(Protocol::Grpc, endpoint)
    }

    pub(super) fn of(protocol: Protocol, endpoint: impl Into<String>) -> Self {
        Self {
            protocol,
            compression: None,
            base: String::new(),
            url: String::new(),
            headers: Vec::new(),
        }
        .endpoint(endpoint)
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
        self.base = match self.protocol {
            Protocol::HttpProtobuf => {
                let base = endpoint.trim_end_matches('/');
                base.strip_suffix(TRACES).unwrap_or(base).to_owned()
            }
            Protocol::Grpc => endpoint,
        };
        self.url = self.url_of(TRACES);
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

    /// The address that traces go to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The address of the signal with this path.
    pub(super) fn url_of(&self, path: &str) -> String {
        match self.protocol {
            Protocol::HttpProtobuf => format!("{}{path}", self.base),
            Protocol::Grpc => self.base.clone(),
        }
    }

    /// Checks the address. `setting` names what is to blame for a bad one.
    pub(super) fn check(&self, setting: &str) -> Result<(), InitError> {
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
        Ok(())
    }

    /// The headers, checked, and marked as sensitive.
    pub(super) fn header_map(&self) -> Result<HeaderMap, InitError> {
        header_map(&self.headers)
    }
}

/// `headers`, checked, and marked as sensitive.
pub(super) fn header_map(headers: &[(String, String)]) -> Result<HeaderMap, InitError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
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
            destination.check("the endpoint").unwrap_err().to_string(),
            format!("{:?}", destination.check("the endpoint").unwrap_err()),
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
}
