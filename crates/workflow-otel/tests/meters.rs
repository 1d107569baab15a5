//! Where metrics go: to the provider that was given, or to the global one once there is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures::executor::block_on;
use opentelemetry::metrics::{
    Counter, InstrumentBuilder, InstrumentProvider, Meter, MeterProvider, NoopMeterProvider,
    SyncInstrument,
};
use opentelemetry::{InstrumentationScope, KeyValue, global};
use workflow_core::{
    Chain, ExecuteRun, Execution, ExecutionOutcome, Interceptor, Payload, RunInfo, StepCall,
    StepKind, StepOutcome,
};
use workflow_otel::{OtelInterceptor, OtelInterceptorBuilder};

/// A provider whose counters count how often they are told something, or panic.
#[derive(Clone, Default)]
struct Told {
    times: Arc<AtomicUsize>,
    panics: bool,
}

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
    fn u64_counter(&self, _: InstrumentBuilder<'_, Counter<u64>>) -> Counter<u64> {
        Counter::new(Arc::new(self.clone()))
    }
}

impl SyncInstrument<u64> for Told {
    fn measure(&self, _: u64, attributes: &[KeyValue]) {
        assert!(!self.panics, "a meter that is broken");
        assert!(!attributes.is_empty());
        self.times.fetch_add(1, Ordering::Relaxed);
    }
}

/// An execution of one step.
fn execute(chain: &Chain) {
    let now = SystemTime::now();
    let run = RunInfo::new("default", "run-1", "process-order");
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
