//! What tracing costs per step, in instructions and allocations, against the same span made by hand.
//!
//! `cargo bench -p workflow-otel --bench step` runs every scenario under valgrind, prints the table of
//! `docs/benchmarks-tracing.md`, and fails if a ratio exceeds its limit. Counts, unlike times, are the
//! same on a busy machine.

use std::future::Future;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use opentelemetry::trace::noop::NoopTracerProvider;
use opentelemetry::trace::{
    FutureExt, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter, SdkLoggerProvider};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData, SpanExporter};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;
use workflow_core::{
    Chain, ExecuteRun, Execution, ExecutionOutcome, Interceptor, Payload, Result, RunInfo,
    StepCall, StepKind, StepOutcome, replay,
};
use workflow_otel::OtelInterceptor;
use workflow_otel::ids::DerivedIds;
use workflow_otel::logs::{RunFilter, RunIdsProcessor, appender_layer, json_layer};
use workflow_otel::testing::{SpanCollector, SpanTree};

const STEPS: u64 = 2_000;

/// The most instructions that chain and hook may take, relative to the span made by hand.
const LIMITS: [(&str, &str, f64); 2] = [
    ("sampled", "by hand, sampled", 1.25),
    ("unsampled", "by hand, unsampled", 1.6),
];

const SCENARIOS: [&str; 15] = [
    "none",
    "no-op",
    "unsampled",
    "sampled",
    "sampled, batch",
    "metrics alone",
    "metrics, sampled",
    "log record",
    "log record, left out",
    "log line",
    "metrics, sampled, log record",
    "by hand, unsampled",
    "by hand, sampled",
    "by hand, sampled, batch",
    "by hand, log record",
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [scenario, steps] => {
            run(scenario, steps.parse().expect("a number of steps"));
            ExitCode::SUCCESS
        }
        [flag] if flag == "--bench" => report(),
        // Under `cargo test --benches`: that they all work, and that like is compared with like.
        _ => {
            SCENARIOS.into_iter().for_each(|scenario| run(scenario, 3));
            check_that_spans_are_the_same();
            ExitCode::SUCCESS
        }
    }
}

// ===== the scenarios =====

#[derive(Debug)]
struct NoExport;

impl SpanExporter for NoExport {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        black_box(batch);
        Ok(())
    }
}

impl PushMetricExporter for NoExport {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        black_box(metrics);
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

impl LogExporter for NoExport {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        black_box(&batch);
        Ok(())
    }
}

/// Meters of an SDK whose reader reads at the end alone.
fn meters() -> SdkMeterProvider {
    let reader = PeriodicReader::builder(NoExport)
        .with_interval(Duration::from_secs(3600))
        .build();
    SdkMeterProvider::builder().with_reader(reader).build()
}

/// Runs `work` with a log of records, or of lines that are thrown away.
fn logging(records: bool, work: impl FnOnce()) {
    let info = LevelFilter::INFO;
    let filter = RunFilter::new();
    if records {
        let provider = SdkLoggerProvider::builder()
            .with_log_processor(RunIdsProcessor::new())
            .with_simple_exporter(NoExport)
            .build();
        let layer = appender_layer(&provider, filter).with_filter(info);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
    } else {
        let layer = json_layer(std::io::sink, filter).with_filter(info);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
    }
}

fn run(scenario: &str, steps: u64) {
    let simple = || {
        SdkTracerProvider::builder()
            .with_id_generator(DerivedIds::default())
            .with_simple_exporter(NoExport)
            .build()
    };
    let batch = || {
        SdkTracerProvider::builder()
            .with_id_generator(DerivedIds::default())
            .with_batch_exporter(NoExport)
            .build()
    };
    let otel = OtelInterceptor::builder();
    match scenario {
        "none" => in_chain(&Chain::default(), TraceFlags::SAMPLED, steps),
        "no-op" => {
            let otel = otel.tracer_provider(&NoopTracerProvider::new());
            in_chain(&chain(otel.build()), TraceFlags::SAMPLED, steps);
        }
        "unsampled" => {
            let otel = otel.tracer_provider(&simple());
            in_chain(&chain(otel.build()), TraceFlags::NOT_SAMPLED, steps);
        }
        "sampled" => {
            let otel = otel.tracer_provider(&simple());
            in_chain(&chain(otel.build()), TraceFlags::SAMPLED, steps);
        }
        "sampled, batch" => {
            let otel = otel.tracer_provider(&batch());
            in_chain(&chain(otel.build()), TraceFlags::SAMPLED, steps);
        }
        "metrics alone" => {
            let meters = meters();
            let otel = otel.tracer_provider(&NoopTracerProvider::new());
            let otel = otel.meter_provider(&meters).build();
            in_chain(&chain(otel), TraceFlags::SAMPLED, steps);
        }
        "metrics, sampled" => {
            let meters = meters();
            let otel = otel.tracer_provider(&simple()).meter_provider(&meters);
            in_chain(&chain(otel.build()), TraceFlags::SAMPLED, steps);
        }
        "log record" => {
            let otel = otel.tracer_provider(&NoopTracerProvider::new()).build();
            logging(true, || logged(&chain(otel), TraceFlags::SAMPLED, steps));
        }
        "log record, left out" => {
            let otel = otel.tracer_provider(&NoopTracerProvider::new()).build();
            logging(true, || {
                let _code = replay::code(true);
                logged(&chain(otel), TraceFlags::SAMPLED, steps);
            });
        }
        "log line" => {
            let otel = otel.tracer_provider(&NoopTracerProvider::new()).build();
            logging(false, || logged(&chain(otel), TraceFlags::SAMPLED, steps));
        }
        "metrics, sampled, log record" => {
            let meters = meters();
            let otel = otel.tracer_provider(&simple()).meter_provider(&meters);
            let chain = chain(otel.build());
            logging(true, || logged(&chain, TraceFlags::SAMPLED, steps));
        }
        "by hand, log record" => {
            let otel = otel.tracer_provider(&NoopTracerProvider::new()).build();
            let provider = SdkLoggerProvider::builder()
                .with_simple_exporter(NoExport)
                .build();
            let layer = OpenTelemetryTracingBridge::new(&provider).with_filter(LevelFilter::INFO);
            let subscriber = tracing_subscriber::registry().with(layer);
            tracing::subscriber::with_default(subscriber, || {
                logged(&chain(otel), TraceFlags::SAMPLED, steps);
            });
        }
        "by hand, unsampled" => by_hand(&simple(), TraceFlags::NOT_SAMPLED, steps),
        "by hand, sampled" => by_hand(&simple(), TraceFlags::SAMPLED, steps),
        "by hand, sampled, batch" => by_hand(&batch(), TraceFlags::SAMPLED, steps),
        other => panic!("no scenario `{other}`"),
    }
}

fn chain(otel: OtelInterceptor) -> Chain {
    Chain::new([Arc::new(otel) as Arc<dyn Interceptor>])
}

fn parent(flags: TraceFlags) -> SpanContext {
    SpanContext::new(
        TraceId::from(1),
        SpanId::from(2),
        flags,
        true,
        TraceState::NONE,
    )
}

fn execution(flags: TraceFlags) -> Arc<Execution> {
    let parent = format!("00-{:032x}-{:016x}-{:02x}", 1, 2, flags.to_u8());
    let run = RunInfo::new("default", "0199f1c7-run", "process-order")
        .with_workflow_version("v1")
        .with_carrier([("traceparent", parent)].into_iter().collect());
    Arc::new(Execution::new(run, 1, false, "worker-1", SystemTime::now()))
}

async fn body() -> Result<StepOutcome> {
    Ok(StepOutcome::Completed {
        output: black_box(Payload::NULL),
    })
}

/// Steps as an engine makes them.
fn in_chain(chain: &Chain, flags: TraceFlags, steps: u64) {
    in_chain_with(chain, flags, steps, |_, _| {});
}

/// The same by an engine that logs the end of each.
fn logged(chain: &Chain, flags: TraceFlags, steps: u64) {
    in_chain_with(chain, flags, steps, |execution, step| {
        tracing::info!(
            name: "step.complete",
            target: "engine",
            { "workflow.name" = &*execution.run.workflow_name,
              "workflow_run.id" = &*execution.run.id,
              "workflow_run.attempt" = execution.attempt,
              "step.name" = step,
              "step.kind" = "function",
              "step.outcome" = "completed",
              duration_ms = 0_u64 },
            "step completed"
        );
    });
}

fn in_chain_with(
    chain: &Chain,
    flags: TraceFlags,
    steps: u64,
    log: impl Fn(&Execution, &str) + Sync,
) {
    let name: Arc<str> = "validate-order".into();
    let attempt: Arc<str> = "0199f1c7-attempt".into();
    let workflow = |call: ExecuteRun| async {
        for _ in 0..steps {
            let execution = Arc::clone(&call.execution);
            let call = StepCall::new(
                Arc::clone(&execution),
                Arc::clone(&name),
                StepKind::Run,
                Arc::clone(&attempt),
            );
            black_box(chain.call(call, |_| body()).await)?;
            log(&execution, &name);
        }
        drop(call);
        Ok(ExecutionOutcome::Completed {
            output: Payload::NULL,
        })
    };
    let call = ExecuteRun::new(execution(flags), Payload::NULL);
    let executed = chain.call(call, workflow).now_or_never();
    executed
        .expect("nothing waits")
        .expect("the execution completes");
}

/// The same steps with the same spans, made where the body is called.
fn by_hand(provider: &SdkTracerProvider, flags: TraceFlags, steps: u64) {
    let tracer = provider.tracer("by hand");
    let execution = execution(flags);
    let name: Arc<str> = "validate-order".into();
    let attempt: Arc<str> = "0199f1c7-attempt".into();
    let remote = Context::new().with_remote_span_context(parent(flags));
    let span = tracer.start_with_context("workflow.execute process-order", &remote);
    let cx = remote.with_span(span);
    let workflow = async {
        for _ in 0..steps {
            let step = span_by_hand(&tracer, &execution, &name, &attempt, body);
            black_box(step.await).expect("the step completes");
        }
    };
    workflow
        .with_context(cx)
        .now_or_never()
        .expect("nothing waits");
}

async fn span_by_hand<F: Future<Output = Result<StepOutcome>>>(
    tracer: &SdkTracer,
    execution: &Execution,
    name: &Arc<str>,
    attempt: &Arc<str>,
    body: impl FnOnce() -> F,
) -> Result<StepOutcome> {
    let run = &execution.run;
    let version = run.workflow_version.clone().unwrap_or_else(|| "".into());
    let span = tracer
        .span_builder(format!("step.run {name}"))
        .with_kind(SpanKind::Internal)
        .with_attributes(vec![
            KeyValue::new("workflow.name", Arc::clone(&run.workflow_name)),
            KeyValue::new("workflow.version", version),
            KeyValue::new("workflow_run.id", Arc::clone(&run.id)),
            KeyValue::new("workflow_run.namespace_id", Arc::clone(&run.namespace_id)),
            KeyValue::new("workflow_run.attempt", i64::from(execution.attempt)),
            KeyValue::new("workflow_run.replay", execution.replay),
            KeyValue::new("worker.id", Arc::clone(&execution.worker_id)),
            KeyValue::new("step.name", Arc::clone(name)),
            KeyValue::new("step.kind", "function"),
            KeyValue::new("step_attempt.id", Arc::clone(attempt)),
            KeyValue::new("step_attempt.prior_failures", 0_i64),
        ])
        .start(tracer);
    let cx = Context::current_with_span(span);
    let result = body().with_context(cx.clone()).await;
    let span = cx.span();
    match &result {
        Ok(_) => {
            span.set_attribute(KeyValue::new("step.outcome", "completed"));
            span.set_status(Status::Ok);
        }
        Err(error) => {
            span.set_attribute(KeyValue::new("step.outcome", "failed"));
            span.set_status(Status::error(error.message().to_owned()));
        }
    }
    span.end();
    result
}

fn check_that_spans_are_the_same() {
    let (ours, theirs) = (SpanCollector::new(), SpanCollector::new());
    let otel = OtelInterceptor::builder().tracer_provider(&ours.provider());
    in_chain(&chain(otel.build()), TraceFlags::SAMPLED, 1);
    by_hand(&theirs.provider(), TraceFlags::SAMPLED, 1);
    let step = |spans: SpanCollector| {
        let of_step = spans
            .spans()
            .into_iter()
            .filter(|span| span.name.starts_with("step."));
        let tree = SpanTree::new(of_step).kinds().statuses();
        tree.attributes_but::<&str>([]).to_string()
    };
    assert_eq!(step(ours), step(theirs));
}

// ===== counting =====

/// Per step.
struct Cost {
    instructions: f64,
    allocations: f64,
}

fn report() -> ExitCode {
    let mut costs = Vec::new();
    for scenario in SCENARIOS {
        eprintln!("counting: {scenario}");
        costs.push((scenario, cost(scenario)));
    }
    let of = |name: &str| {
        costs
            .iter()
            .find(|(scenario, _)| *scenario == name)
            .map(|(_, c)| c)
    };
    println!("| per step | instructions | relative to by hand | allocations |");
    println!("|---|---:|---:|---:|");
    for (scenario, cost) in &costs {
        let by_hand = of(&format!("by hand, {scenario}"));
        let ratio = by_hand.map(|by_hand| cost.instructions / by_hand.instructions);
        let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let Cost {
            instructions,
            allocations,
        } = cost;
        println!("| {scenario} | {instructions:.0} | {ratio} | {allocations:.0} |");
    }
    let mut code = ExitCode::SUCCESS;
    for (scenario, by_hand, limit) in LIMITS {
        let (Some(ours), Some(theirs)) = (of(scenario), of(by_hand)) else {
            continue;
        };
        let ratio = ours.instructions / theirs.instructions;
        if ratio > limit {
            eprintln!("{scenario}: {ratio:.2} times the instructions, more than {limit}");
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// The difference between two runs, so that set-up and tear-down cancel out.
fn cost(scenario: &str) -> Cost {
    let count = |tool: &[&str], steps: u64, before: &str, after: &str| -> f64 {
        let output = Command::new("valgrind")
            .args(tool)
            .arg(std::env::current_exe().expect("a path to this program"))
            .args([scenario, &steps.to_string()])
            .output()
            .expect("valgrind is installed (apt-get install valgrind)");
        let text = String::from_utf8_lossy(&output.stderr);
        let number = text
            .split_once(before)
            .and_then(|(_, rest)| rest.split_once(after))
            .map(|(number, _)| number.replace(',', ""));
        let number = number.and_then(|number| number.trim().parse().ok());
        number.unwrap_or_else(|| panic!("valgrind said something else:\n{text}"))
    };
    let per_step = |tool: &[&str], before: &str, after: &str| {
        let one = count(tool, STEPS, before, after);
        let two = count(tool, 2 * STEPS, before, after);
        (two - one) / STEPS as f64
    };
    let callgrind = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];
    let memcheck = ["--tool=memcheck", "--leak-check=no"];
    Cost {
        instructions: per_step(&callgrind, "Collected : ", "\n"),
        allocations: per_step(&memcheck, "total heap usage: ", " allocs"),
    }
}
