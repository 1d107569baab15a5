//! The `baggage` header, mended where the SDK's propagator changes what it carries.
//!
//! Of a value it writes a percent sign as it is, and reads it as an escape; it leaves out white space
//! at the ends, and what follows an equals sign. A run's baggage is written again for every child, so
//! values would change from generation to generation. Which entries are written and read is still the
//! propagator's choice: only what reads exactly as the SDK's mistake is replaced.

use opentelemetry::Context;
use opentelemetry::baggage::{Baggage, BaggageExt, BaggageMetadata};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::{Key, StringValue};
use opentelemetry_sdk::propagation::BaggagePropagator;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// The key of the header, in carriers too.
pub(crate) const BAGGAGE: &str = "baggage";

/// What is escaped in keys and values: all but W3C's `baggage-octet`, and the percent sign. An equals
/// sign is allowed in values, but the SDK reads no further.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b',')
    .add(b';')
    .add(b'\\')
    .add(b'=')
    .add(b'%');

/// In properties their separators stay.
const ESCAPED_IN_PROPERTIES: &AsciiSet = &ESCAPED.remove(b';').remove(b'=');

type Entry = (Key, (StringValue, BaggageMetadata));

/// Mends a header that a propagator wrote for `baggage`.
pub(crate) fn mend_written(baggage: &Baggage, header: &mut String) {
    for (key, (value, metadata)) in baggage {
        let plain = |text: &str| !text.contains('%') && text.trim() == text;
        let escapes = utf8_percent_encode(metadata.as_str(), ESCAPED_IN_PROPERTIES);
        let plain_metadata = escapes.eq([metadata.as_str()]) || metadata.as_str().is_empty();
        if plain(key.as_str()) && plain(value.as_str()) && plain_metadata {
            continue;
        }
        let written = written_by_sdk(key, value, metadata);
        if let Some(at) = find_member(header, &written) {
            let mended = member(key.as_str(), value.as_str(), metadata.as_str());
            header.replace_range(at..at + written.len(), &mended);
        }
    }
}

/// Mends what a propagator made of `header`.
pub(crate) fn mend_read(cx: Context, header: &str) -> Context {
    let mut mended: Vec<Entry> = Vec::new();
    for member in header.split(',') {
        // Anything else is read well.
        if !member.contains('%') && member.split(';').next().unwrap_or("").matches('=').count() < 2
        {
            continue;
        }
        let (Some(ours), Some((key, read))) = (parse(member), read_by_sdk(member)) else {
            continue;
        };
        if ours.0 == key && ours.1 != read && cx.baggage().get_with_metadata(&key) == Some(&read) {
            mended.push(ours);
        }
    }
    if mended.is_empty() {
        return cx;
    }
    let mut baggage = Baggage::new();
    let kept = cx.baggage().iter();
    let kept = kept.map(|(key, entry)| (key.clone(), entry.clone()));
    for (key, (value, metadata)) in kept.chain(mended) {
        baggage.insert_with_metadata(key, value, metadata);
    }
    cx.with_baggage(baggage)
}

/// An entry as W3C has it.
fn member(key: &str, value: &str, metadata: &str) -> String {
    let key = utf8_percent_encode(key, ESCAPED);
    let value = utf8_percent_encode(value, ESCAPED);
    let separator = if metadata.is_empty() { "" } else { ";" };
    let metadata = utf8_percent_encode(metadata, ESCAPED_IN_PROPERTIES);
    format!("{key}={value}{separator}{metadata}")
}

/// Reads an entry as W3C has it.
fn parse(member: &str) -> Option<Entry> {
    let decode = |text: &str| {
        let text = text.trim_matches([' ', '\t']);
        let decoded = percent_decode_str(text).decode_utf8().ok()?;
        Some(decoded.into_owned())
    };
    let (entry, properties) = member.split_once(';').unwrap_or((member, ""));
    let (key, value) = entry.split_once('=')?;
    let properties: Vec<String> = properties.split(';').filter_map(decode).collect();
    let metadata = BaggageMetadata::from(properties.join(";"));
    Some((decode(key)?.into(), (decode(value)?.into(), metadata)))
}

/// Where `member` stands in `header`, as a whole.
fn find_member(header: &str, member: &str) -> Option<usize> {
    let mut places = header.match_indices(member).map(|(at, _)| at);
    places.find(|&at| {
        let (before, after) = (&header[..at], &header[at + member.len()..]);
        (before.is_empty() || before.ends_with(',')) && (after.is_empty() || after.starts_with(','))
    })
}

fn written_by_sdk(key: &Key, value: &StringValue, metadata: &BaggageMetadata) -> String {
    let mut baggage = Baggage::new();
    baggage.insert_with_metadata(key.clone(), value.clone(), metadata.clone());
    let mut header = Header(String::new());
    let cx = Context::new().with_baggage(baggage);
    BaggagePropagator::new().inject_context(&cx, &mut header);
    header.0
}

fn read_by_sdk(member: &str) -> Option<Entry> {
    let header = Header(member.to_owned());
    let cx = BaggagePropagator::new().extract_with_context(&Context::new(), &header);
    let mut entries = cx.baggage().iter();
    entries
        .next()
        .map(|(key, entry)| (key.clone(), entry.clone()))
}

struct Header(String);

impl Injector for Header {
    fn set(&mut self, _: &str, value: String) {
        self.0 = value;
    }
}

impl Extractor for Header {
    fn get(&self, _: &str) -> Option<&str> {
        Some(&self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![BAGGAGE]
    }
}
