//! The JSON shapes and the time format of the database protocol (`docs/protocol.md`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use workflow_core::{Carrier, Error, ErrorKind, Payload};

use super::StoredError;
use crate::payload;

/// How many step attempts a run may have.
pub(crate) const STEP_LIMIT: usize = 1000;

/// `2026-01-31T12:00:00.000Z`: always in UTC and with three digits, because SQLite compares times
/// as text.
pub(crate) fn format_time(time: SystemTime) -> String {
    let timestamp = Timestamp::try_from(time).unwrap_or(Timestamp::MAX);
    format!("{timestamp:.3}")
}

/// Reads a time with any precision and offset.
pub(crate) fn parse_time(text: &str) -> Option<SystemTime> {
    text.parse::<Timestamp>().ok().map(SystemTime::from)
}

/// The time without what is finer than a millisecond, as it comes back from the database.
pub(crate) fn whole_millis(time: SystemTime) -> SystemTime {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if time <= latest_time() => {
            time - std::time::Duration::from_nanos(u64::from(since.subsec_nanos() % 1_000_000))
        }
        _ => parse_time(&format_time(time)).unwrap_or(time),
    }
}

/// `time` and `duration` added, as far as times go.
pub(crate) fn later(time: SystemTime, duration: std::time::Duration) -> SystemTime {
    let latest = latest_time();
    time.checked_add(duration)
        .map_or(latest, |time| time.min(latest))
}

/// The latest time whose text still has a year of four digits.
pub(crate) fn latest_time() -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(253_402_300_799_999)
}

#[derive(Serialize)]
struct RunContext<'a> {
    telemetry: BTreeMap<&'a str, &'a str>,
    #[serde(rename = "traceContext")]
    trace_context: BTreeMap<&'a str, &'a str>,
}

/// The carrier, twice: under our own name, and under the one that OpenWorkflow for TypeScript reads.
pub(crate) fn encode_run_context(carrier: &Carrier) -> Option<String> {
    if carrier.is_empty() {
        return None;
    }
    let entries: BTreeMap<_, _> = carrier.iter().collect();
    let context = RunContext {
        telemetry: entries.clone(),
        trace_context: entries,
    };
    serde_json::to_string(&context).ok()
}

/// Reads the carrier out of a column `context`, whatever that holds. Members that are not strings
/// are left out and counted.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) fn decode_run_context(json: Option<&str>) -> Carrier {
    let Some(json) = json else {
        return Carrier::new();
    };
    let Ok(context) = serde_json::from_str::<Value>(json) else {
        return Carrier::new().with_unreadable(1);
    };
    let mut unreadable = 0;
    match &context {
        Value::Null => {}
        Value::Object(members) => {
            for name in ["telemetry", "traceContext"] {
                match members.get(name) {
                    None | Some(Value::Null) => {}
                    Some(Value::Object(entries)) => {
                        let carrier: Carrier = entries
                            .iter()
                            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
                            .collect();
                        unreadable +=
                            u32::try_from(entries.len() - carrier.len()).unwrap_or(u32::MAX);
                        return carrier.with_unreadable(unreadable);
                    }
                    Some(_) => unreadable += 1,
                }
            }
        }
        _ => unreadable = 1,
    }
    Carrier::new().with_unreadable(unreadable)
}

#[derive(Serialize)]
struct ErrorJson<'a> {
    name: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
}

/// The JSON text of a run's error. The step that it came from stands in a member that other SDKs pass
/// over.
pub(crate) fn encode_run_error(error: &Error) -> String {
    encode_error(error, error.step_name())
}

/// The JSON text of an error.
fn encode_error(error: &Error, step: Option<&str>) -> String {
    // PostgreSQL's JSON cannot keep U+0000, and an error must be kept whatever, and however much, it quotes.
    let readable = |text: &str| shortened(text).replace('\0', "\u{fffd}");
    let message = readable(error.message());
    // These three are compared, or shown, by name elsewhere; their shape is the protocol's.
    let json = match error.kind() {
        ErrorKind::StepLimitExceeded => serde_json::to_string(&serde_json::json!({
            "code": "STEP_LIMIT_EXCEEDED",
            "name": "StepLimitExceededError",
            "limit": STEP_LIMIT,
            "stepCount": STEP_LIMIT,
            "message": message,
        })),
        ErrorKind::DeadlineExceeded | ErrorKind::NotRegistered => {
            serde_json::to_string(&serde_json::json!({ "message": message }))
        }
        _ => serde_json::to_string(&ErrorJson {
            name: &readable(error.name()),
            message: &message,
            stack: error.stack().map(readable).as_deref(),
            step,
        }),
    };
    json.unwrap_or_else(|_| r#"{"message":"the error could not be written as JSON"}"#.to_owned())
}

/// A text without what is beyond all use, and perhaps beyond what a database takes.
fn shortened(text: &str) -> std::borrow::Cow<'_, str> {
    const LONGEST: usize = 1 << 20;
    if text.len() <= LONGEST {
        return text.into();
    }
    let kept = &text[..text.floor_char_boundary(LONGEST)];
    format!("{kept}… ({} bytes more)", text.len() - kept.len()).into()
}

/// The JSON text of a step's error. Its kind, and that it is not to be tried again, stand in members
/// that other SDKs pass over: user code that caught the error must see the same one at replay.
pub(crate) fn encode_step_error(error: &Error) -> String {
    let mut json = encode_error(error, None);
    let kind = error.kind();
    if kind != ErrorKind::Application && json.pop().is_some() {
        json.push_str(&format!(r#","kind":"{kind}"}}"#));
    }
    if !error.is_retryable() && json.pop().is_some() {
        json.push_str(r#","retryable":false}"#);
    }
    json
}

/// The kind that a step's error was stored with.
fn decode_kind(text: &str) -> Option<ErrorKind> {
    use ErrorKind as K;
    [
        K::Panic,
        K::Timeout,
        K::ChildFailed,
        K::ChildCanceled,
        K::InvalidPayload,
        K::InvalidArgument,
        K::Rejected,
        K::StepLimitExceeded,
        K::DeadlineExceeded,
        K::NotRegistered,
        K::NonDeterminism,
        K::Backend,
    ]
    .into_iter()
    .find(|kind| kind.as_str() == text)
}

/// Reads the JSON text of an error, whatever it holds.
pub(crate) fn decode_error(json: &str) -> StoredError {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    match serde_json::from_str::<Value>(json) {
        Ok(Value::Object(members)) => StoredError::new(
            text(members.get("name")),
            text(members.get("message")).unwrap_or_default(),
            text(members.get("stack")),
            members.get("retryable") != Some(&Value::Bool(false)),
        )
        .with_kind(
            members
                .get("kind")
                .and_then(Value::as_str)
                .and_then(decode_kind),
        )
        .with_step_name(text(members.get("step"))),
        Ok(Value::String(message)) => StoredError::new(None, message, None, true),
        _ => StoredError::new(None, json.to_owned(), None, true),
    }
}

/// The error of a run whose deadline passed.
pub(crate) fn deadline_error() -> Error {
    Error::of_kind(
        ErrorKind::DeadlineExceeded,
        "Workflow run deadline exceeded",
    )
    .non_retryable()
}

#[derive(Serialize)]
#[serde(tag = "kind")]
enum StepContext<'a> {
    #[serde(rename = "sleep")]
    Sleep {
        #[serde(rename = "resumeAt")]
        resume_at: String,
    },
    #[serde(rename = "workflow")]
    Workflow {
        #[serde(rename = "timeoutAt")]
        timeout_at: String,
    },
    #[serde(rename = "signal-wait")]
    SignalWait {
        signal: &'a str,
        #[serde(rename = "timeoutAt")]
        timeout_at: String,
    },
}

fn encode_step_context(context: &StepContext<'_>) -> Option<String> {
    serde_json::to_string(context).ok()
}

pub(crate) fn sleep_context(resume_at: SystemTime) -> Option<String> {
    encode_step_context(&StepContext::Sleep {
        resume_at: format_time(resume_at),
    })
}

pub(crate) fn workflow_context(timeout_at: SystemTime) -> Option<String> {
    encode_step_context(&StepContext::Workflow {
        timeout_at: format_time(timeout_at),
    })
}

pub(crate) fn signal_wait_context(signal: &str, timeout_at: SystemTime) -> Option<String> {
    encode_step_context(&StepContext::SignalWait {
        signal,
        timeout_at: format_time(timeout_at),
    })
}

/// What a wait's context says, as far as it can be read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WaitContextJson {
    #[serde(rename = "resumeAt")]
    resume_at: Value,
    #[serde(rename = "timeoutAt")]
    timeout_at: Value,
    signal: Value,
}

/// When a wait ends, and for which signal.
#[derive(Debug, Default)]
pub(crate) struct WaitContext {
    pub(crate) resume_at: Option<SystemTime>,
    pub(crate) timeout_at: Option<SystemTime>,
    pub(crate) signal: Option<Arc<str>>,
}

pub(crate) fn decode_wait_context(json: Option<&str>) -> WaitContext {
    let context: WaitContextJson = json
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default();
    WaitContext {
        resume_at: context.resume_at.as_str().and_then(parse_time),
        timeout_at: context.timeout_at.as_str().and_then(parse_time),
        signal: context.signal.as_str().map(Arc::from),
    }
}

/// What this library keeps in the column `config` of a step attempt, which no other reads.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StepConfig<'a> {
    /// Where the result stands among those that the workflow's code observed.
    pub(crate) order: Option<u32>,
    /// Whether it is a wait that the code gave up for good.
    pub(crate) withdrawn: bool,
    /// The child that the attempt was linked to. The link itself goes when the child is deleted.
    pub(crate) child: Option<String>,
    /// What the step saved last, as [`encode_progress`] wrote it.
    #[serde(borrow)]
    progress: Option<&'a RawValue>,
}

impl StepConfig<'_> {
    /// What the attempt saved last. Something else than was written here is given as it stands, to be
    /// found unfit rather than passed over.
    pub(crate) fn progress(&self) -> Option<Payload> {
        let json = self.progress?.get();
        let saved = serde_json::from_str::<[&RawValue; 1]>(json);
        Some(Payload::from_json(
            saved.map_or(json, |[saved]| saved.get()),
        ))
    }
}

/// What this library keeps in the column `config` of a run, which no other reads.
#[cfg(feature = "sqlite")]
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RunConfig {
    /// The run that goes on in place of this one, which is completed.
    continued_as: Option<String>,
}

/// The member of a run's column `config` that names its successor.
#[cfg(feature = "sqlite")]
pub(crate) fn decode_continued_as(json: Option<&str>) -> Option<String> {
    let json = json.filter(|json| *json != "{}")?;
    serde_json::from_str::<RunConfig>(json).ok()?.continued_as
}

#[derive(Serialize)]
struct OrderJson {
    order: u32,
}

pub(crate) fn encode_order(order: u32) -> String {
    // A number in an object cannot fail to be written.
    serde_json::to_string(&OrderJson { order }).unwrap_or_default()
}

pub(crate) fn encode_withdrawn() -> String {
    r#"{"withdrawn":true}"#.to_owned()
}

/// In a list of one: SQLite merges an object into the one that it is to replace, and drops what is null in
/// it, but takes a list as it is.
pub(crate) fn encode_progress(progress: &Payload) -> String {
    format!(r#"{{"progress":[{}]}}"#, progress.expose())
}

/// Reads the column `config`, as far as it can be read.
pub(crate) fn decode_step_config(json: Option<&str>) -> StepConfig<'_> {
    json.and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default()
}

#[derive(Deserialize)]
struct SignalData {
    data: Box<RawValue>,
}

/// The output of a signal wait that got `data`, which is JSON.
pub(crate) fn encode_signal_output(data: &Payload) -> Payload {
    Payload::from_json(format!(r#"{{"data":{}}}"#, data.expose()))
}

/// The data out of the output of a signal wait; `None` where it timed out.
pub(crate) fn decode_signal_output(
    output: &Payload,
    subject: impl fmt::Display,
) -> Result<Option<Payload>, Error> {
    if output.is_null() {
        return Ok(None);
    }
    let output: SignalData = payload::decode_stored(output, subject)?;
    Ok(Some(Payload::from_json(output.data.get())))
}

#[derive(Serialize, Deserialize)]
struct SignalRecipients {
    #[serde(rename = "workflowRunIds")]
    workflow_run_ids: Vec<String>,
}

/// The output of a step that sent a signal.
pub(crate) fn encode_recipients(run_ids: Vec<String>) -> Result<Payload, Error> {
    let output = serde_json::to_string(&SignalRecipients {
        workflow_run_ids: run_ids,
    })?;
    Ok(Payload::from_json(output))
}

/// Who received the signal that a step sent.
pub(crate) fn decode_recipients(
    output: &Payload,
    subject: impl fmt::Display,
) -> Result<Vec<String>, Error> {
    let output: SignalRecipients = payload::decode_stored(output, subject)?;
    Ok(output.workflow_run_ids)
}
