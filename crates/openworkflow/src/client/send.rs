//! Sending a signal.

use std::fmt;
use std::sync::Arc;

use workflow_core::{Payload, Result, SendSignal, SentSignal};

use super::outage::ride_out_if;
use super::{ClientError, ClientResult, Shared};
use crate::backend::NewSignal;
use crate::name;
use crate::step::{Lazy, lazy_future};

/// A signal to be sent; a future that does so. See
/// [`Client::send_signal`](super::Client::send_signal).
///
/// If the future is dropped before it resolves, the signal may or may not have been sent. With an
/// [idempotency key](Self::idempotency_key) it can be sent again without harm.
///
/// # Errors
///
/// It resolves with [`ClientError::Invalid`] where the data cannot be written as JSON, or the name or
/// the key is too long; [`ClientError::Refused`] by an interceptor; or [`ClientError::Backend`].
#[must_use = "a signal is sent when the request is awaited"]
pub struct SendSignalRequest(Lazy<'static, Config, ClientResult<Vec<String>>>);

struct Config {
    client: Arc<Shared>,
    signal: String,
    data: Result<Payload>,
    idempotency_key: Option<String>,
}

impl SendSignalRequest {
    pub(super) fn new(client: Arc<Shared>, signal: String, data: Result<Payload>) -> Self {
        Self(Lazy::Configured(Config {
            client,
            signal,
            data,
            idempotency_key: None,
        }))
    }

    /// Makes the sending idempotent: once a signal with this name and key was delivered, a second
    /// sending delivers nothing and answers the runs that received the first.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        if let Some(config) = self.0.config() {
            config.idempotency_key = Some(key.into());
        }
        self
    }
}

lazy_future! {
    [] SendSignalRequest => ClientResult<Vec<String>>,
    |config| Box::pin(async move { send(config).await.map_err(ClientError::from_chain) })
}

impl fmt::Debug for SendSignalRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendSignalRequest").finish_non_exhaustive()
    }
}

async fn send(config: Config) -> Result<Vec<String>> {
    let Config {
        client,
        signal,
        data,
        idempotency_key,
    } = config;
    name::validate("a signal", &signal)?;
    name::validate("the client's namespace", &client.namespace_id)?;
    if let Some(key) = &idempotency_key {
        name::validate_key(key)?;
    }
    let mut call = SendSignal::new(Arc::clone(&client.namespace_id), signal.into(), data?);
    call.idempotency_key = idempotency_key;
    let (backend, retry_for) = (&client.backend, client.retry_for);
    let send = |call: SendSignal| async move {
        let mut signal = NewSignal::new(&*call.namespace_id, &*call.signal, call.data);
        signal.idempotency_key = call.idempotency_key;
        // Without a key, a second sending could reach those who began to wait meanwhile.
        let has_key = signal.idempotency_key.is_some();
        let sent = ride_out_if(
            retry_for,
            |error| has_key || error.is_unsent(),
            || backend.send_signal(signal.clone()),
        )
        .await;
        sent.map(SentSignal::new).map_err(|error| {
            let subject = || format!("the data of signal {:?}", signal.signal);
            ClientError::of_value(error, subject).into_chain()
        })
    };
    Ok(client.chain.call(call, send).await?.run_ids)
}
