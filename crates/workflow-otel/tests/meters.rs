//! Where metrics go: to the provider that was given, or to the global one once there is one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures::executor::block_on;
use opentelemetry::metrics::{
    Counter, InstrumentBuilder, InstrumentProvider, Meter, MeterProvider, NoopMeterProvider,
    SyncInstrument,
};
use opentelemetry::{InstrumentationScope, KeyValue, global};
use workflow_core::{
    Carrier, Chain, ExecuteRun, Execution, ExecutionOutcome, Interceptor, Payload, RunInfo,
    StepCall, StepKind, StepOutcome,
};
use workflow_otel::{MetricSelection, OtelInterceptor, OtelInterceptorBuilder};

/// A provider whose counters count how often they are told something, or panic.
#[derive(Clone, Default)]
struct Told {
    times: Arc<AtomicUsize>,
    panics: bool,
    /// Of telemetry, by item.
    losses: Losses,
    counts_losses: bool,
}

type Losses = Arc<Mutex<Vec<(String, u64)>>>;

impl Told {
    fn times(&self) -> usize {
        self.times.load(Ordering::Relaxed)
    }
}

impl MeterProvider for Told {
    fn meter_with_scope(&self, scope: InstrumentationScope) -> Meter {
        assert_eq!(scope.name(), "workflow-otel");
        Meter::new(Arc::new(self.clone()))
    }
}

impl InstrumentProvider for Told {
    fn u64_counter(&self, builder: InstrumentBuilder<'_, Counter<u64>>) -> Counter<u64> {
        let mut told = self.clone();
        told.counts_losses = builder.name == "workflow.telemetry.lost";
        Counter::new(Arc::new(told))
    }
}

impl SyncInstrument<u64> for Told {
    fn measure(&self, value: u64, attributes: &[KeyValue]) {
        assert!(!self.panics, "a meter that is broken");
        assert!(!attributes.is_empty());
        if self.counts_losses {
            let [item] = attributes else {
                panic!("{attributes:?}")
            };
            assert_eq!(item.key.as_str(), "item");
            let lost = (item.value.to_string(), value);
            self.losses.lock().unwrap().push(lost);
            return;
        }
        self.times.fetch_add(1, Ordering::Relaxed);
    }
}

/// An execution of one step.
fn execute(chain: &Chain) {
    execute_carried(chain, Carrier::new());
}

fn execute_carried(chain: &Chain, carrier: Carrier) {
    let now = SystemTime::now();
    let run = RunInfo::new("default", "run-1", "process-order").with_carrier(carrier);
    let execution = Execution::new(run, 1, false, "worker-1", now)
        .with_run_created_at(now)
        .with_claim(Instant::now(), Duration::ZERO);
    let execution = Arc::new(execution);
    let end = chain.promise_end(&execution);
    let code = |call: ExecuteRun| async move {
        let step = StepCall::new(
            call.execution,
            "charge".into(),
            StepKind::Run,
            "attempt-1".into(),
        );
        let body = |_| async {
            Ok(StepOutcome::Completed {
                output: Payload::NULL,
            })
        };
        chain.call(step, body).await?;
        Ok(ExecutionOutcome::Completed {
            output: Payload::NULL,
        })
    };
    let call = ExecuteRun::new(execution, Payload::NULL);
    let outcome = block_on(chain.call(call, code)).unwrap();
    end.tell(Ok(&outcome));
}

fn chain(otel: &OtelInterceptor) -> Chain {
    Chain::new([Arc::new(otel.clone()) as Arc<dyn Interceptor>])
}

fn otel(configure: impl FnOnce(OtelInterceptorBuilder) -> OtelInterceptorBuilder) -> Chain {
    chain(&configure(OtelInterceptor::builder()).build())
}

#[test]
fn the_global_provider_may_come_later() {
    let given = Told::default();
    let with_given = otel(|otel| otel.meter_provider(&given));
    let with_global = otel(|otel| otel);
    execute(&with_given);
    assert_eq!(given.times(), 1);
    // Nobody is there yet. One that was set and does nothing is nobody, too.
    execute(&with_global);
    global::set_meter_provider(NoopMeterProvider::new());
    execute(&with_global);

    let global = Told::default();
    global::set_meter_provider(global.clone());
    execute(&with_global);
    assert_eq!(global.times(), 1);
    execute(&with_given);
    assert_eq!((given.times(), global.times()), (2, 1));
}

#[test]
fn a_meter_that_panics_harms_nobody_and_is_counted() {
    let broken = Told {
        panics: true,
        ..Told::default()
    };
    let otel = OtelInterceptor::builder().meter_provider(&broken).build();
    execute(&chain(&otel));
    assert_eq!(otel.losses().panics, 1);
}

#[test]
fn losses_are_counted() {
    let unreadable = || [("traceparent", "nonsense")].into_iter().collect();
    let given = Told::default();
    let otel = OtelInterceptor::builder().meter_provider(&given).build();
    for times in 1..=2 {
        execute_carried(&chain(&otel), unreadable());
        assert_eq!(otel.losses().carriers, times);
    }
    let lost = given.losses.lock().unwrap().clone();
    assert_eq!(lost, [("carrier".to_owned(), 1), ("carrier".to_owned(), 1)]);

    // Nothing is to be measured.
    let given = Told::default();
    let otel = OtelInterceptor::builder().meter_provider(&given);
    let otel = otel.metrics(MetricSelection::None).build();
    execute_carried(&chain(&otel), unreadable());
    assert_eq!(otel.losses().carriers, 1);
    assert!(given.losses.lock().unwrap().is_empty());
}
