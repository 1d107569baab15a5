//! Baggage stays what it is, however often it is written and read: by the SDK's propagator with our
//! mends, by a correct one, and by those of other vendors.

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::executor::block_on;
use opentelemetry::baggage::{Baggage, BaggageExt};
use opentelemetry::propagation::text_map_propagator::FieldIter;
use opentelemetry::propagation::{
    Extractor, Injector, TextMapCompositePropagator, TextMapPropagator,
};
use opentelemetry::trace::FutureExt;
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use support::*;
use workflow_core::{Execution, ParentStep, RunInfo, StepKind};
use workflow_otel::testing::SpanCollector;
use workflow_otel::{OtelInterceptor, OtelInterceptorBuilder};

const GENERATIONS: usize = 4;
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Value and metadata by key.
type Entries = BTreeMap<String, (String, String)>;

fn current() -> Entries {
    let cx = Context::current();
    let entries = cx.baggage().iter();
    entries
        .map(|(key, (value, metadata))| {
            let entry = (value.to_string(), metadata.to_string());
            (key.to_string(), entry)
        })
        .collect()
}

fn context(entries: &Entries) -> Context {
    let mut baggage = Baggage::new();
    for (key, (value, metadata)) in entries {
        baggage.insert_with_metadata(key.clone(), value.clone(), metadata.as_str());
    }
    Context::new().with_baggage(baggage)
}

fn engine(set_up: impl FnOnce(OtelInterceptorBuilder) -> OtelInterceptorBuilder) -> Engine {
    let otel = OtelInterceptor::builder().tracer_provider(&SpanCollector::new().provider());
    Engine::new(set_up(otel).build())
}

/// Executes a run; what a step of it finds, and the child that it creates.
fn executed(engine: &Engine, run: &RunInfo) -> (Entries, RunInfo) {
    let seen = Mutex::new(None);
    let workflow = |e: Arc<Execution>| {
        let seen = &seen;
        async move {
            let call = step(&e, "ship", StepKind::Run);
            let parent = ParentStep::new(
                Arc::clone(&e),
                Arc::clone(&call.name),
                Arc::clone(&call.attempt_id),
            );
            let body = || async {
                let child = RunInfo::new("default", "child", "ship");
                let child = engine.create(child, Some(parent)).await;
                *seen.lock().unwrap() = Some((current(), child));
                done()
            };
            engine.step(call, body).await?;
            Ok(completed())
        }
    };
    block_on(engine.execute(run, 1, workflow)).unwrap();
    seen.into_inner().unwrap().unwrap()
}

/// What a run finds, and its descendants, of which each is created by the one before.
fn generations(engine: &Engine, run: RunInfo) -> Vec<Entries> {
    let mut run = run;
    let mut seen = Vec::new();
    for _ in 0..GENERATIONS {
        let (entries, child) = executed(engine, &run);
        seen.push(entries);
        run = child;
    }
    seen
}

fn created_in(engine: &Engine, cx: Context) -> RunInfo {
    let create = engine.create(RunInfo::new("default", "run-A", "order"), None);
    block_on(create.with_context(cx))
}

/// A run as somebody else created it.
fn carried(baggage: &str) -> RunInfo {
    let carrier = [("traceparent", TRACEPARENT), ("baggage", baggage)];
    RunInfo::new("default", "run-A", "order").with_carrier(carrier.into_iter().collect())
}

fn text(of: impl Strategy<Value = char>) -> impl Strategy<Value = String> {
    proptest::collection::vec(of, 0..12).prop_map(String::from_iter)
}

/// Anything, and often what is special in a header.
fn character() -> impl Strategy<Value = char> {
    let special =
        proptest::sample::select("%%%25 ,;=\t\\\"+é\u{a0}0Af".chars().collect::<Vec<_>>());
    prop_oneof![special, any::<char>()]
}

fn entries() -> impl Strategy<Value = Entries> {
    let key = proptest::sample::select(vec!["a", "tenant.id", "b%41", "%", "k-1"]);
    // The API trims what is around metadata, and the SDK what is around each property.
    let property = text(character().prop_filter("a separator", |c| *c != ';'));
    let metadata = proptest::collection::vec(property, 0..3).prop_map(|all| {
        all.join(";")
            .trim_matches(|c: char| c == ';' || c.is_whitespace())
            .to_owned()
    });
    proptest::collection::btree_map(
        key.prop_map(str::to_owned),
        (text(character()), metadata),
        1..4,
    )
}

/// Writes and reads the header as W3C has it, with nothing left to mend.
#[derive(Debug)]
struct Correct;

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

impl TextMapPropagator for Correct {
    fn inject_context(&self, cx: &Context, injector: &mut dyn Injector) {
        let members = cx.baggage().iter().map(|(key, (value, metadata))| {
            format!(
                "{}={};{}",
                escaped(key.as_str()),
                escaped(value.as_str()),
                escaped(metadata.as_str())
            )
        });
        injector.set("baggage", members.collect::<Vec<_>>().join(","));
    }

    fn extract_with_context(&self, cx: &Context, extractor: &dyn Extractor) -> Context {
        let unescaped = |text: &str| {
            let bytes = text.split('%').skip(1);
            let bytes = bytes.map(|hex| u8::from_str_radix(hex, 16).unwrap());
            String::from_utf8(bytes.collect()).unwrap()
        };
        let mut baggage = Baggage::new();
        for member in extractor.get("baggage").unwrap_or("").split(',') {
            let Some((key, rest)) = member.split_once('=') else {
                continue;
            };
            let (value, metadata) = rest.split_once(';').unwrap();
            let metadata = unescaped(metadata);
            baggage.insert_with_metadata(unescaped(key), unescaped(value), metadata.as_str());
        }
        cx.with_baggage(baggage)
    }

    fn fields(&self) -> FieldIter<'_> {
        static FIELDS: std::sync::OnceLock<[String; 1]> = std::sync::OnceLock::new();
        FieldIter::new(FIELDS.get_or_init(|| ["baggage".to_owned()]))
    }
}

fn sdk() -> TextMapCompositePropagator {
    TextMapCompositePropagator::new(vec![
        Box::new(BaggagePropagator::new()),
        Box::new(TraceContextPropagator::new()),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn baggage_is_the_same_in_every_generation(entries in entries()) {
        let engines = [
            engine(|otel| otel),
            engine(|otel| otel.propagator(sdk())),
            engine(|otel| otel.propagator(Correct)),
        ];
        for engine in engines {
            let run = created_in(&engine, context(&entries));
            for seen in generations(&engine, run) {
                prop_assert_eq!(&seen, &entries);
            }
        }
    }

    #[test]
    fn baggage_of_others_is_the_same_in_every_generation(
        value in text(character()),
        escapes_all in any::<bool>(),
        upper in any::<bool>(),
    ) {
        // W3C's `baggage-octet`, which needs no escape. The percent sign always does.
        let octet = |byte: u8| {
            matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e) && byte != b'%'
        };
        let encoded: String = value
            .bytes()
            .map(|byte| match byte {
                _ if octet(byte) && !escapes_all => char::from(byte).to_string(),
                _ if upper => format!("%{byte:02X}"),
                _ => format!("%{byte:02x}"),
            })
            .collect();
        let engine = engine(|otel| otel);
        let run = carried(&format!("first=1 ,\tk = {encoded} ;p=1,last=2"));
        let expected = Entries::from([
            ("first".to_owned(), ("1".to_owned(), String::new())),
            ("k".to_owned(), (value, "p=1".to_owned())),
            ("last".to_owned(), ("2".to_owned(), String::new())),
        ]);
        for seen in generations(&engine, run) {
            prop_assert_eq!(&seen, &expected);
        }
    }

    #[test]
    fn a_header_of_garbage_harms_nobody(header in text(character())) {
        let engine = engine(|otel| otel);
        let first = generations(&engine, carried(&header));
        // What could be read of it stays so.
        prop_assert!(first.iter().all(|seen| *seen == first[0]));
    }
}

/// Passes on one key, and of that no more than a hint.
#[derive(Debug)]
struct Discreet;

impl TextMapPropagator for Discreet {
    fn inject_context(&self, cx: &Context, injector: &mut dyn Injector) {
        let shown = cx.baggage().get("tenant").map(ToString::to_string);
        let hidden = cx.baggage().get("card").map(|_| "100%".to_owned());
        let entries = [("tenant", shown), ("card", hidden)];
        let entries = entries
            .into_iter()
            .filter_map(|(key, value)| Some(KeyValue::new(key, value?)));
        let cx = Context::new().with_baggage(entries.collect::<Vec<_>>());
        BaggagePropagator::new().inject_context(&cx, injector);
    }

    fn extract_with_context(&self, cx: &Context, extractor: &dyn Extractor) -> Context {
        let read = BaggagePropagator::new().extract_with_context(cx, extractor);
        let kept = read
            .baggage()
            .iter()
            .filter(|(key, _)| key.as_str() != "user");
        let kept = kept.map(|(key, (value, _))| KeyValue::new(key.clone(), value.clone()));
        cx.with_baggage(kept.collect::<Vec<_>>())
    }

    fn fields(&self) -> FieldIter<'_> {
        static FIELDS: std::sync::OnceLock<[String; 1]> = std::sync::OnceLock::new();
        FieldIter::new(FIELDS.get_or_init(|| ["baggage".to_owned()]))
    }
}

#[test]
fn what_a_propagator_keeps_to_itself_stays_there() {
    let engine = engine(|otel| otel.propagator(Discreet));
    let entry = |value: &str| (value.to_owned(), String::new());
    let entries = Entries::from([
        ("tenant".to_owned(), entry("50%25 off")),
        ("card".to_owned(), entry("4242%4242")),
        ("user".to_owned(), entry("ada%40example.com")),
    ]);
    let run = created_in(&engine, context(&entries));
    let written = run.carrier.get("baggage").unwrap();
    assert!(
        !written.contains("4242") && !written.contains("ada"),
        "{written}"
    );
    assert!(written.contains("tenant=50%2525%20off"), "{written}");
    let read = executed(&engine, &carried("user=a%3Db=c,tenant=x=y")).0;
    let tenant = Entries::from([("tenant".to_owned(), entry("x=y"))]);
    assert_eq!(read, tenant);
}

#[test]
fn a_percent_sign_is_written_as_w3c_has_it() {
    let engine = engine(|otel| otel);
    let entries = Entries::from([("k".to_owned(), ("50%".to_owned(), "p=1%".to_owned()))]);
    let run = created_in(&engine, context(&entries));
    assert_eq!(run.carrier.get("baggage"), Some("k=50%25;p=1%25"));
    // What older versions wrote is read as what it most likely was.
    assert_eq!(executed(&engine, &carried("k=50%")).0["k"].0, "50%");
}
