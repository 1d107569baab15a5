//! Where telemetry is sent: an address, and headers that say who sends. Those of hosted backends are made
//! in `presets`.

use std::fmt;

use http::Uri;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{InitError, Signal};

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

/// A place that takes telemetry by OTLP: an address, and headers that say who sends.
///
/// A destination is whole: where one is given in code, neither the endpoint nor the headers of the
/// environment are used, so that no backend gets the key of another.
///
/// `Debug` shows the names of the headers, never their values.
///
/// ```
/// use workflow_otel::export::{Destination, Signal};
///
/// let honeycomb = Destination::honeycomb("secret");
/// assert_eq!(honeycomb.url(Signal::Logs), "https://api.honeycomb.io/v1/logs");
/// assert!(!format!("{honeycomb:?}").contains("secret"));
///
/// // Any other backend that is OTLP with headers:
/// let other = Destination::http("https://otlp.example.com").header("x-api-key", "secret");
/// assert_eq!(other.url(Signal::Traces), "https://otlp.example.com/v1/traces");
/// ```
#[derive(Clone)]
pub struct Destination {
    pub(super) protocol: Protocol,
    pub(super) compression: Option<Compression>,
    /// The address, and for HTTP what the path of the signal is added to.
    base: String,
    /// Those of all signals, then those of one.
    headers: Vec<(String, String)>,
    headers_of: Vec<(Signal, String, String)>,
    /// The signals that it does not take, and why.
    pub(super) off: Vec<(Signal, String)>,
}

impl Destination {
    /// A receiver of OTLP over HTTP. The path of the signal is added to the address, `/v1/traces` for one.
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
            headers: Vec::new(),
            headers_of: Vec::new(),
            off: Vec::new(),
        }
        .endpoint(endpoint)
    }

    /// Sends to another address of the same kind: of another region, or a proxy in front.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        let endpoint = endpoint.into();
        self.base = match self.protocol {
            Protocol::HttpProtobuf => {
                let base = endpoint.trim_end_matches('/');
                let paths = Signal::ALL.map(Signal::path);
                let whole = paths.iter().find_map(|path| base.strip_suffix(path));
                whole.unwrap_or(base).to_owned()
            }
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
        self.headers_of
            .retain(|(_, other, _)| !other.eq_ignore_ascii_case(&name));
        self.headers.push((name, value.into()));
        self
    }

    /// Sends this header too with one signal, in place of one of the same name: for backends that keep
    /// signals apart by it.
    ///
    /// ```
    /// use workflow_otel::export::{Destination, Signal};
    ///
    /// let honeycomb = Destination::honeycomb("secret").header_of(
    ///     Signal::Metrics,
    ///     "x-honeycomb-dataset",
    ///     "orders-metrics",
    /// );
    /// ```
    #[must_use]
    pub fn header_of(
        mut self,
        signal: Signal,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        self.headers_of.push((signal, name.into(), value.into()));
        self
    }

    /// How requests are compressed. Otherwise as `OTEL_EXPORTER_OTLP_COMPRESSION` says.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// The address that a signal goes to.
    #[must_use]
    pub fn url(&self, signal: Signal) -> String {
        match self.protocol {
            Protocol::HttpProtobuf => format!("{}{}", self.base, signal.path()),
            Protocol::Grpc => self.base.clone(),
        }
    }

    /// Checks the address. `setting` names what is to blame for a bad one.
    pub(super) fn check(&self, setting: &str) -> Result<(), InitError> {
        let invalid = |reason: &str| InitError::invalid(setting, reason);
        let uri: Uri = self
            .base
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

    /// The headers of a signal, checked, and marked as sensitive.
    pub(super) fn header_map(&self, signal: Signal) -> Result<HeaderMap, InitError> {
        let mut headers = self.headers.clone();
        for (of, name, value) in &self.headers_of {
            if *of == signal {
                headers.push((name.clone(), value.clone()));
            }
        }
        header_map(&headers)
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
        let names = self.headers.iter().map(|(name, _)| name);
        let names = names.chain(self.headers_of.iter().map(|(_, name, _)| name));
        let names: Vec<_> = names.collect();
        // What stands before an `@` is a password.
        let base = match self.base.rsplit_once('@') {
            Some((_, host)) => format!("(credentials)@{host}"),
            None => self.base.clone(),
        };
        f.debug_struct("Destination")
            .field("protocol", &self.protocol)
            .field("endpoint", &base)
            .field("headers", &names)
            .field("compression", &self.compression)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_in_no_text() {
        let destination = Destination::http("https://user:s3cret@host")
            .header("x-key", "s3cret")
            .header_of(Signal::Logs, "x-bad", "s3cret\n");
        let texts = [
            format!("{destination:?}"),
            destination.check("the endpoint").unwrap_err().to_string(),
            format!("{:?}", destination.check("the endpoint").unwrap_err()),
            destination
                .header_map(Signal::Logs)
                .unwrap_err()
                .to_string(),
            format!(
                "{:?}",
                Destination::http("h")
                    .header("x-key", "s3cret")
                    .header_map(Signal::Traces)
            ),
        ];
        for text in texts {
            assert!(!text.contains("s3cret"), "{text}");
        }
    }
}
