//! One batch over the wire: OTLP over HTTP and over gRPC.
//!
//! Not the SDK's exporter crate: it lets `OTEL_EXPORTER_OTLP_HEADERS` override what code says, tells
//! neither why a batch was lost nor how many spans of one were rejected, and cannot be interrupted.

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::header::{
    CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::InitError;
use super::destination::{Compression, Protocol};

const AGENT: &str = concat!("workflow-otel/", env!("CARGO_PKG_VERSION"));
/// An answer holds a number and a message; more is not an OTLP receiver's.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// The longest text of a receiver's that is passed on.
const MAX_REASON_BYTES: usize = 512;

/// Where to send and how, checked.
pub(super) struct Address {
    pub(super) protocol: Protocol,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) compression: Compression,
    /// Certificates to trust instead of the system's, in PEM.
    pub(super) certificates: Option<Vec<u8>>,
}

/// What became of a batch that the receiver accepted.
pub(super) struct Accepted {
    /// How many of its spans the receiver threw away all the same.
    pub(super) rejected: u64,
    pub(super) reason: String,
}

/// Why a batch was not accepted.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// It never will be.
    Refused(String),
    /// It may be later.
    Unavailable {
        reason: String,
        retry_after: Option<Duration>,
    },
}

impl Failure {
    pub(super) fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable {
            reason: reason.into(),
            retry_after: None,
        }
    }
}

/// A batch, encoded once however often it is sent.
#[derive(Clone)]
pub(super) enum Encoded {
    Http(Bytes),
    Grpc(ExportTraceServiceRequest),
}

pub(super) enum Transport {
    Http {
        client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
        uri: Uri,
        headers: HeaderMap,
        compression: Compression,
    },
    Grpc {
        client: TraceServiceClient<Client<HttpsConnector<HttpConnector>, tonic::body::Body>>,
        metadata: MetadataMap,
    },
}

impl Transport {
    pub(super) fn new(address: Address) -> Result<Self, InitError> {
        let is_https = address.uri.scheme_str() == Some("https");
        let tls = tls(is_https, address.certificates.as_deref())?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http();
        let mut headers = address.headers;
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_timer(TokioTimer::new());
        Ok(match address.protocol {
            Protocol::HttpProtobuf => Self::Http {
                client: client.build(connector.enable_http1().build()),
                uri: address.uri,
                headers,
                compression: address.compression,
            },
            Protocol::Grpc => {
                let client = client
                    .http2_only(true)
                    .build(connector.enable_http2().build());
                // Some servers compress their answers without having been asked.
                let mut client = TraceServiceClient::with_origin(client, address.uri)
                    .accept_compressed(CompressionEncoding::Gzip);
                if address.compression == Compression::Gzip {
                    client = client.send_compressed(CompressionEncoding::Gzip);
                }
                Self::Grpc {
                    client,
                    metadata: MetadataMap::from_headers(headers),
                }
            }
        })
    }

    pub(super) fn encode(&self, request: ExportTraceServiceRequest) -> Encoded {
        match self {
            Self::Grpc { .. } => Encoded::Grpc(request),
            Self::Http { compression, .. } => {
                let plain = request.encode_to_vec();
                Encoded::Http(match compression {
                    Compression::None => plain.into(),
                    Compression::Gzip => gzipped(&plain).into(),
                })
            }
        }
    }

    /// Sends a batch once. Dropping the future abandons it.
    pub(super) async fn send(&self, batch: Encoded) -> Result<Accepted, Failure> {
        match (self, batch) {
            (
                Self::Http {
                    client,
                    uri,
                    headers,
                    compression,
                },
                Encoded::Http(body),
            ) => {
                let mut request = Request::new(Full::new(body));
                *request.method_mut() = Method::POST;
                *request.uri_mut() = uri.clone();
                request.headers_mut().clone_from(headers);
                let protobuf = HeaderValue::from_static("application/x-protobuf");
                request.headers_mut().insert(CONTENT_TYPE, protobuf);
                if *compression == Compression::Gzip {
                    let gzip = HeaderValue::from_static("gzip");
                    request.headers_mut().insert(CONTENT_ENCODING, gzip);
                }
                let response = client.request(request).await;
                let response = response.map_err(|error| Failure::unavailable(chain(&error)))?;
                let (head, body) = response.into_parts();
                let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
                if !head.status.is_success() {
                    return Err(http_failure(head.status, &head.headers));
                }
                // It has been accepted, whatever the rest of the answer is.
                let body = body.map(|body| body.to_bytes()).unwrap_or_default();
                let answer = ExportTraceServiceResponse::decode(body).unwrap_or_default();
                Ok(accepted(answer.partial_success))
            }
            (Self::Grpc { client, metadata }, Encoded::Grpc(request)) => {
                let mut request = tonic::Request::new(request);
                request.metadata_mut().clone_from(metadata);
                match client.clone().export(request).await {
                    Ok(answer) => Ok(accepted(answer.into_inner().partial_success)),
                    Err(status) => Err(grpc_failure(&status)),
                }
            }
            _ => Err(Failure::Refused("encoded for another protocol".to_owned())),
        }
    }
}

fn accepted(partial: Option<ExportTracePartialSuccess>) -> Accepted {
    let partial = partial.unwrap_or_default();
    Accepted {
        rejected: u64::try_from(partial.rejected_spans).unwrap_or(0),
        reason: shortened(partial.error_message),
    }
}

/// By the OTLP specification: which statuses are worth another try.
fn http_failure(status: StatusCode, headers: &HeaderMap) -> Failure {
    let reason = format!("the receiver answered {status}");
    if !matches!(status.as_u16(), 429 | 502 | 503 | 504) {
        return Failure::Refused(reason);
    }
    // The date form is for caches; receivers of telemetry send seconds.
    let retry_after = headers.get(RETRY_AFTER);
    let seconds = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Failure::Unavailable {
        reason,
        retry_after: seconds.map(Duration::from_secs),
    }
}

fn grpc_failure(status: &Status) -> Failure {
    let mut reason = format!("the receiver answered {:?}", status.code());
    let message = shortened(status.message().to_owned());
    if !message.is_empty() {
        reason = format!("{reason}: {message}");
    }
    let transport = status.source();
    if let Some(error) = transport {
        reason = chain(error);
    }
    let retry_delay = || status.get_details_retry_info()?.retry_delay;
    let retry_after = retry_delay();
    let passing = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        // Only where the receiver says when.
        Code::ResourceExhausted => retry_after.is_some(),
        // How a connection that failed arrives here.
        Code::Unknown => transport.is_some(),
        _ => false,
    };
    if passing {
        Failure::Unavailable {
            reason,
            retry_after,
        }
    } else {
        Failure::Refused(reason)
    }
}

/// What `error` says, and what its sources add.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    shortened(text)
}

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_REASON_BYTES));
    text
}

fn gzipped(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing to memory does not fail.
    let _ = encoder.write_all(plain);
    encoder.finish().unwrap_or_default()
}

fn tls(used: bool, certificates: Option<&[u8]>) -> Result<ClientConfig, InitError> {
    const SETTING: &str = "the certificates to trust";
    let mut roots = RootCertStore::empty();
    if let Some(pem) = certificates {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let added = certificate.map(|certificate| roots.add(certificate));
            if !matches!(added, Ok(Ok(()))) {
                return Err(InitError::invalid(SETTING, "they are no valid PEM"));
            }
        }
        if roots.is_empty() {
            return Err(InitError::invalid(SETTING, "there are none in the PEM"));
        }
    } else if used {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(InitError::invalid(
                SETTING,
                "the system has none; install its ca-certificates, or set \
                 OTEL_EXPORTER_OTLP_CERTIFICATE to a PEM file",
            ));
        }
    }
    // Named, so that it does not matter whether the application has installed a default.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| InitError::invalid("TLS", error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
