//! The HTTP client that requests are sent with.
//!
//! `ureq`, not the clients that `opentelemetry-otlp` brings: those follow redirects and would take a
//! key along to another host, their TLS builds aws-lc where everything else here has ring, and the
//! asynchronous ones panic on the threads of the SDK's own processors. This one runs wherever it is
//! called.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::Context;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::error::InitError;
use super::exporters::{Headers, Tls};
use super::witness::Witness;

/// An answer holds a number and a message; more is not an OTLP receiver's.
const MAX_ANSWER_BYTES: u64 = 4 * 1024 * 1024;

/// Connections, kept and shared by all exporters to a receiver. Proxies are those of `HTTPS_PROXY`,
/// `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
pub(super) fn agent(timeout: Duration, tls: &Tls) -> Result<ureq::Agent, InitError> {
    let mut config = TlsConfig::builder().root_certs(match &tls.trusted {
        Some(pem) => certificates("the certificates to trust", pem)?.into(),
        None => RootCerts::PlatformVerifier,
    });
    if let Some((chain, key)) = &tls.identity {
        let chain = certificates("the client's certificate", chain)?;
        let key = PrivateKey::from_pem(key).map_err(|_| {
            InitError::invalid("the key of the client's certificate", "it is no valid PEM")
        })?;
        config = config.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    let config = ureq::Agent::config_builder()
        .tls_config(config.build())
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        // A receiver of telemetry has no business elsewhere, and the key none there.
        .max_redirects(0)
        .max_redirects_will_error(false);
    Ok(config.build().new_agent())
}

fn certificates(setting: &str, pem: &[u8]) -> Result<Vec<Certificate<'static>>, InitError> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(InitError::invalid(setting, "they are no valid PEM")),
        }
    }
    if found.is_empty() {
        return Err(InitError::invalid(setting, "there are none in the PEM"));
    }
    Ok(found)
}

/// Sends the requests of one exporter.
pub(super) struct Client {
    agent: ureq::Agent,
    headers: Headers,
    witness: Arc<Witness>,
}

impl Client {
    pub(super) fn new(agent: ureq::Agent, headers: Headers, witness: Arc<Witness>) -> Self {
        Self {
            agent,
            headers,
            witness,
        }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.witness.attempt();
        self.headers.apply(request.headers_mut());
        let agent = self.agent.clone();
        // Dropping this future abandons the request, where there is a runtime; its thread waits on for
        // the timeout.
        let exchanged = match Handle::try_current() {
            Ok(runtime) => {
                let exchange = runtime.spawn_blocking(move || exchange(&agent, request));
                exchange.await?
            }
            Err(_) => exchange(&agent, request),
        };
        exchanged.map_err(|error| {
            self.witness.no_answer(error.to_string());
            error.into()
        })
    }
}

fn exchange(agent: &ureq::Agent, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
    // A log record of this would make another one.
    let _suppressed = Context::enter_telemetry_suppressed_scope();
    let (head, body) = request.into_parts();
    let answer = agent.run(Request::from_parts(head, &body[..]))?;
    let (head, mut body) = answer.into_parts();
    let body = body.with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
    // One that was accepted has been accepted, whatever the rest of the answer is.
    let body = match body {
        Err(error) if !head.status.is_success() => return Err(error),
        body => body.unwrap_or_default(),
    };
    Ok(Response::from_parts(head, body.into()))
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers are keys.
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// As the SDK's processors call it.
    #[test]
    fn a_thread_without_a_runtime_will_do() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"spans") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream
                .write_all(b"HTTP/1.1 503 no\r\ncontent-length: 4\r\n\r\nwait")
                .unwrap();
        });
        let agent = agent(Duration::from_secs(10), &Tls::default()).unwrap();
        let client = Client::new(agent, Headers::default(), Arc::default());
        let request = Request::post(address).body(Bytes::from_static(b"spans"));
        let answer = client.send_bytes(request.unwrap());
        let answer = futures::executor::block_on(answer).unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.body()[..]),
            (503, &b"wait"[..])
        );
        server.join().unwrap();
    }
}
