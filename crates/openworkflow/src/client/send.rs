//! Sending a signal.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use workflow_core::{Payload, Result, SendSignal, SentSignal};

use super::outage::ride_out_if;
use super::{ClientError, ClientResult, Shared};
use crate::arrival::{Patience, Tries};
use crate::backend::NewSignal;
use crate::name;
use crate::step::{Lazy, lazy_future};
use crate::when::When;

/// A signal to be sent; a future that does so. See
/// [`Client::send_signal`](super::Client::send_signal).
///
/// If the future is dropped before it resolves, the signal may or may not have been sent. With an
/// [idempotency key](Self::idempotency_key) it can be sent again without harm.
///
/// # Errors
///
/// It resolves with [`ClientError::Invalid`] where the data cannot be written as JSON, or the name or
/// the key is too long; [`ClientError::NotReceived`] where somebody was to
/// [receive it](Self::until_received) and nobody did; [`ClientError::Refused`] by an interceptor; or
/// [`ClientError::Backend`].
#[must_use = "a signal is sent when the request is awaited"]
pub struct SendSignalRequest(Lazy<'static, Config, ClientResult<Vec<String>>>);

struct Config {
    client: Arc<Shared>,
    signal: String,
    data: Result<Payload>,
    idempotency_key: Option<String>,
    until_received: Option<Patience>,
}

impl SendSignalRequest {
    pub(super) fn new(client: Arc<Shared>, signal: String, data: Result<Payload>) -> Self {
        Self(Lazy::Configured(Config {
            client,
            signal,
            data,
            idempotency_key: None,
            until_received: None,
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

    /// Sends the signal until somebody receives it, for 30 seconds at most unless
    /// [set otherwise](Self::within): a signal reaches those who wait for it, and the run that it is for
    /// may not have come that far.
    ///
    /// It is one call and one span, however often it is sent: at once, 50 ms later, then ever less often,
    /// once a second at least. Then nobody has received it, or everybody who waited.
    ///
    /// ```no_run
    /// # async fn example(client: openworkflow::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let run_ids = client.send_signal("paid:4711", &1200).until_received().await?;
    /// assert!(!run_ids.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn until_received(mut self) -> Self {
        if let Some(config) = self.0.config() {
            config.until_received.get_or_insert_default();
        }
        self
    }

    /// Sends the signal [until somebody receives it](Self::until_received), for `limit` at most. It counts
    /// from the first try, and there is a last one at its end.
    ///
    /// Takes a [`Duration`], or text such as `"2 minutes"`. One that is zero, an
    /// instant or no duration is [`ClientError::Invalid`].
    ///
    /// ```no_run
    /// # async fn example(client: openworkflow::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// client.send_signal("paid:4711", &1200).within("2 minutes").await?;
    /// # Ok(()) }
    /// ```
    pub fn within(mut self, limit: impl Into<When>) -> Self {
        if let Some(config) = self.0.config() {
            config.until_received = Some(Patience::within(limit));
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
        until_received,
    } = config;
    name::validate("a signal", &signal)?;
    name::validate("the client's namespace", &client.namespace_id)?;
    if let Some(key) = &idempotency_key {
        name::validate_key(key)?;
    }
    let limit = until_received
        .map(|patience| patience.limit(&signal))
        .transpose()?;
    let mut call = SendSignal::new(Arc::clone(&client.namespace_id), signal.into(), data?);
    call.idempotency_key = idempotency_key;
    let client = &*client;
    let send = |call: SendSignal| async move {
        let mut signal = NewSignal::new(&*call.namespace_id, &*call.signal, call.data);
        signal.idempotency_key = call.idempotency_key;
        let sent = match limit {
            Some(limit) => send_until_received(client, &signal, limit).await,
            None => send_once(client, &signal, client.retry_for).await,
        };
        sent.map(SentSignal::new).map_err(ClientError::into_chain)
    };
    Ok(client.chain.call(call, send).await?.run_ids)
}

/// Sends a signal through an outage of `retry_for` at most.
async fn send_once(
    client: &Shared,
    signal: &NewSignal,
    retry_for: Duration,
) -> ClientResult<Vec<String>> {
    // Without a key, a second sending could reach those who began to wait meanwhile.
    let has_key = signal.idempotency_key.is_some();
    let sent = ride_out_if(
        retry_for,
        |error| has_key || error.is_unsent(),
        || client.backend.send_signal(signal.clone()),
    )
    .await;
    sent.map_err(|error| {
        ClientError::of_value(error, || format!("the data of signal {:?}", signal.signal))
    })
}

async fn send_until_received(
    client: &Shared,
    signal: &NewSignal,
    limit: Duration,
) -> ClientResult<Vec<String>> {
    let mut tries = Tries::begin(limit);
    loop {
        let retry_for = client.retry_for.max(tries.left());
        let run_ids = send_once(client, signal, retry_for).await?;
        if !run_ids.is_empty() {
            return Ok(run_ids);
        }
        if !tries.again().await {
            return Err(ClientError::NotReceived {
                signal: signal.signal.clone(),
                limit,
            });
        }
    }
}
