//! The interceptor.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry::trace::{Link, SpanBuilder, SpanId, SpanKind, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use workflow_core::{
    BoxFuture, CancelRun, Carrier, CreateRun, CreatedRun, Error, Event, ExecuteRun, Execution,
    ExecutionOutcome, Interceptor, Next, ParentStep, Result, SendSignal, SentSignal, StepCall,
    StepKind, StepOutcome, Unwritten,
};

use crate::call::{self, SpanCall};
use crate::config::{Config, OtelInterceptorBuilder, SignalNames, SpanSelection, TraceMode};
use crate::continuation;
use crate::losses::{LossCounters, Losses};
use crate::names::{attribute, event, operation};
use crate::outcome;
use crate::progress::Progress;
use crate::propagation::{usable_parent, without_span};
use crate::scope::{Own, RunScope, StepScope};
use crate::span::{About, Child, OpenSpan, Scoped, Subject};
use crate::tracer::{StartSpan, Started};

/// Makes OpenTelemetry spans of what a workflow engine does.
///
/// The same object (or a clone of it) is registered with clients and with workers. The default uses
/// the global tracer provider and the global propagator; either may be set later.
///
/// It never fails a call: what telemetry cannot do is [counted](Self::losses) instead.
///
/// ```
/// use std::sync::Arc;
/// use workflow_core::{Chain, Interceptor};
/// use workflow_otel::OtelInterceptor;
///
/// let otel = OtelInterceptor::default();
/// let chain = Chain::new([Arc::new(otel.clone()) as Arc<dyn Interceptor>]);
/// assert_eq!(otel.losses().panics, 0);
/// ```
#[derive(Clone)]
pub struct OtelInterceptor {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) losses: LossCounters,
    /// The contexts of the executions under way, by the address of the execution: for steps that
    /// user code runs where the context is not current, in a task of its own for one.
    executions: Mutex<HashMap<usize, Context>>,
    /// Those of executions that are over, while their outcome is being written. Several, should this
    /// interceptor be registered more than once.
    unwritten: Mutex<HashMap<usize, Vec<Context>>>,
}

impl OtelInterceptor {
    /// Sets one up.
    pub fn builder() -> OtelInterceptorBuilder {
        OtelInterceptorBuilder::new()
    }

    pub(crate) fn new(config: Config) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                losses: LossCounters::default(),
                executions: Mutex::default(),
                unwritten: Mutex::default(),
            }),
        }
    }

    /// What telemetry lost so far, by this interceptor and its clones.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.inner.losses.read()
    }
}

impl Default for OtelInterceptor {
    fn default() -> Self {
        Self::builder().build()
    }
}

impl fmt::Debug for OtelInterceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtelInterceptor")
            .field("config", &self.inner.config)
            .field("losses", &self.losses())
            .finish()
    }
}

/// A hook in the form that the trait declares, its body a call into `Inner` that opens a span.
macro_rules! hook {
    ($hook:ident($call:ty) -> $output:ty, |$inner:ident, $it:ident| $open:expr) => {
        fn $hook<'life0, 'life1, 'async_trait>(
            &'life0 self,
            #[allow(unused_mut)] mut $it: $call,
            next: Next<'life1, $call>,
        ) -> BoxFuture<'async_trait, Result<$output>>
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            Self: 'async_trait,
        {
            // Nothing happens before the first poll: the current context is the caller's then.
            Box::pin(async move {
                let $inner = &*self.inner;
                match $open {
                    Some(open) => Scoped::new(open, next, $it).await,
                    None => next.run($it).await,
                }
            })
        }
    };
}

impl Interceptor for OtelInterceptor {
    fn create_run<'life0, 'life1, 'async_trait>(
        &'life0 self,
        mut call: CreateRun,
        next: Next<'life1, CreateRun>,
    ) -> BoxFuture<'async_trait, Result<CreatedRun>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let inner = &*self.inner;
            if let Some(execution) = call.continues.clone() {
                inner.pass_on(&execution, &mut call.run.carrier);
                return next.run(call).await;
            }
            let Some(parent) = call.parent.clone() else {
                return match inner.create_run(&mut call) {
                    Some(open) => Scoped::new(open, next, call).await,
                    None => next.run(call).await,
                };
            };
            inner.inject_child(&parent, &mut call);
            let created = next.run(call).await;
            if let Ok(created) = &created {
                inner.child_created(&parent, created);
            }
            created
        })
    }

    hook!(execute(ExecuteRun) -> ExecutionOutcome, |inner, call| Some(inner.execute(&call)));
    hook!(step(StepCall) -> StepOutcome, |inner, call| inner.step(&call));
    hook!(send_signal(SendSignal) -> SentSignal, |inner, call| inner.send_signal(&call));
    hook!(cancel_run(CancelRun) -> (), |inner, call| inner.cancel_run(&call));

    fn event(&self, event: &Event<'_>) {
        let inner = &*self.inner;
        match event {
            Event::StepFailed {
                execution,
                step_name,
                error,
                ..
            } => inner.step_failed(execution, step_name, error),
            Event::NonDeterminism {
                execution,
                step_name,
                recorded_step_name,
                ..
            } => inner.departed(execution, *step_name, *recorded_step_name),
            Event::ExecutionEnded {
                execution, written, ..
            } => inner.execution_ended(execution, written),
            _ => {}
        }
    }
}

impl Inner {
    fn create_run(&self, call: &mut CreateRun) -> Option<OpenSpan<'_>> {
        let caller = self.caller(call);
        if self.config.spans_of(&call.run.workflow_name) == SpanSelection::None {
            self.inject(&caller, call);
            return None;
        }
        let span = SpanBuilder::from_name(call::name(
            operation::WORKFLOW_START,
            &call.run.workflow_name,
        ))
        .with_kind(SpanKind::Producer);
        let mut open = self.client_span(
            span,
            call::run_attributes(&call.run, false),
            SpanCall::CreateRun(call),
            &caller,
        );
        if let Some(open) = &mut open {
            open.subject = Subject::Creation(Arc::clone(&call.run.id));
        }
        self.inject(open.as_ref().map_or(&caller, |open| &open.cx), call);
        open
    }

    /// The context that a client's call is made in: that of the carrier, if the call brings one that
    /// names a trace, else the current one.
    fn caller(&self, call: &CreateRun) -> Context {
        if !call.run.carrier.is_empty() {
            let given = self
                .config
                .propagation
                .extract(&call.run.carrier, &self.losses);
            if given.span().span_context().is_valid() {
                return given;
            }
        }
        usable_parent(Context::current())
    }

    /// A run that continues another has its carrier, and so its parent and its baggage. What is added is the
    /// execution that ended in its favor.
    fn pass_on(&self, execution: &Execution, carrier: &mut Carrier) {
        let span = {
            let unwritten = lock(&self.unwritten);
            let spans = unwritten.get(&address_of(execution));
            spans.and_then(|spans| spans.last()).cloned()
        };
        let span = span.map(|cx| cx.span().span_context().clone());
        continuation::write(carrier, span.as_ref());
    }

    /// A child run is created in the context of the step.
    fn inject_child(&self, parent: &ParentStep, call: &mut CreateRun) {
        let current = Context::current();
        let cx = if self.is_in(&current, &parent.execution) {
            current
        } else {
            // Created elsewhere than in the step's future: the execution is the nearest that is known.
            self.context_of(&parent.execution)
        };
        self.inject(&cx, call);
    }

    /// The step's span does not know for certain which run the creation comes to.
    fn child_created(&self, parent: &ParentStep, created: &CreatedRun) {
        let known = self
            .executions()
            .get(&address_of(&parent.execution))
            .cloned();
        if let Some(scope) = known.as_ref().and_then(RunScope::of) {
            scope
                .progress
                .add_child(&parent.attempt_id, &created.run_id);
        }
    }

    fn inject(&self, cx: &Context, call: &mut CreateRun) {
        self.config.propagation.inject(
            cx,
            &self.config.baggage,
            &mut call.run.carrier,
            &self.losses,
        );
    }

    fn execute(&self, call: &ExecuteRun) -> OpenSpan<'_> {
        let execution = &call.execution;
        let config = &self.config;
        let mut base = config
            .propagation
            .extract(&execution.run.carrier, &self.losses);
        let selection = config.spans_of(&execution.run.workflow_name);
        let tracer = self.tracer();
        let mut started = None;
        let mut attributes = Vec::new();
        if selection != SpanSelection::None {
            let mut span = SpanBuilder::from_name(call::name(
                operation::WORKFLOW_EXECUTE,
                &execution.run.workflow_name,
            ))
            .with_kind(SpanKind::Consumer);
            let creator = base.span().span_context().clone();
            let mut links = Vec::new();
            if config.mode == TraceMode::Linked && creator.is_sampled() {
                links.push(Link::with_context(creator));
                base = without_span(&base);
            }
            if execution.attempt == 1 {
                links.extend(continuation::read(&execution.run.carrier));
            }
            if !links.is_empty() {
                span = span.with_links(links);
            }
            attributes = call::execution_attributes(execution);
            let all = self.with_extra(attributes.clone(), SpanCall::ExecuteRun(call));
            started = self.start(&*tracer, span.with_attributes(all), &base);
        }
        let recording = started.as_ref().is_some_and(|started| started.recording);
        let unrecorded = started.as_ref().filter(|started| !started.recording);
        let unrecorded = unrecorded.map(|started| started.cx.span().span_context().span_id());
        let scope = Arc::new(RunScope {
            execution: Arc::clone(execution),
            span_id: started.as_ref().map_or(SpanId::INVALID, |started| {
                started.cx.span().span_context().span_id()
            }),
            owner: self.address(),
            tracer,
            selection,
            attributes,
            unrecorded,
            sampled: started
                .as_ref()
                .is_some_and(|started| started.cx.span().span_context().is_sampled()),
            dropping: AtomicBool::new(false),
            progress: Progress::default(),
        });
        let cx = scope.put(&started.map_or(base, |started| started.cx));
        self.executions().insert(address_of(execution), cx.clone());
        OpenSpan {
            inner: self,
            cx,
            recording,
            subject: Subject::Execution(scope),
        }
    }

    fn step(&self, call: &StepCall) -> Option<OpenSpan<'_>> {
        let current = Context::current();
        let in_context = self.is_in(&current, &call.execution);
        let parent = if in_context {
            current
        } else {
            self.context_of(&call.execution)
        };
        let scope = Arc::clone(RunScope::of(&parent)?);
        self.went_on(&scope);
        // A step is recorded where its execution is. Under one that is not it would be an orphan, so
        // no sampler is asked and nothing is built for it.
        let started = if scope.selection == SpanSelection::All && scope.is_recorded(&parent) {
            let names = self.config.signal_names;
            let attributes = call::step_attributes(call, &scope.attributes, names);
            let attributes = self.with_extra(attributes, SpanCall::Step(call));
            let span = SpanBuilder::from_name(call::step_name(call))
                .with_kind(call::step_span_kind(call))
                .with_attributes(attributes);
            self.start(&*scope.tracer, span, &parent)
        } else {
            None
        };
        if started.is_none() && in_context && !StepScope::wanted() {
            return None;
        }
        let recording = started.as_ref().is_some_and(|started| started.recording);
        let mut cx = started.map_or(parent, |started| started.cx);
        if StepScope::wanted() {
            let name = call::shown_name(call, self.config.signal_names);
            cx = cx.with_value(StepScope(name.map(Arc::clone)));
        }
        let waits = !matches!(call.kind, StepKind::Run | StepKind::SendSignal { .. });
        let child = call::uncertain_child(call).map(|asked| {
            Box::new(Child {
                attempt_id: Arc::clone(&call.attempt_id),
                asked: Arc::clone(asked),
            })
        });
        Some(OpenSpan {
            inner: self,
            cx,
            recording,
            subject: Subject::Step {
                scope,
                name: Arc::clone(&call.name),
                waits,
                child,
            },
        })
    }

    /// A step failed, perhaps where no span of ours could see it.
    fn step_failed(&self, execution: &Execution, step_name: &str, error: &Error) {
        let known = self.executions().get(&address_of(execution)).cloned();
        let Some(cx) = known else { return };
        let Some(scope) = RunScope::of(&cx) else {
            return;
        };
        let about = About::Step(scope, step_name);
        // The step's own span, if an interceptor further out has just dropped it.
        if let Some(step) = scope.progress.take(step_name) {
            let mut ending = outcome::failed_step(step.waits, error);
            self.end_span(&step.cx, about, &mut ending, Some(step.at));
        } else {
            self.record(&cx, about, error);
        }
    }

    fn departed(&self, execution: &Execution, asked: Option<&str>, recorded: Option<&str>) {
        let known = self.executions().get(&address_of(execution)).cloned();
        let Some(cx) = known else { return };
        let attributes = [
            (attribute::STEP_NAME, asked),
            (attribute::STEP_RECORDED_NAME, recorded),
        ];
        // Whose names these are is not told: a signal's may be among them.
        let shown = self.config.signal_names == SignalNames::Shown;
        let attributes = attributes.into_iter().filter(|_| shown);
        let attributes =
            attributes.filter_map(|(key, name)| Some(KeyValue::new(key, name?.to_owned())));
        let attributes = attributes.collect();
        // Where the execution has no span of its own, this one is its creator's, which records nothing.
        self.losses
            .contain(|| cx.span().add_event(event::NON_DETERMINISM, attributes));
    }

    /// Leaves the span of an execution open until the engine tells what was written.
    pub(crate) fn leave_open(&self, execution: &Arc<Execution>, cx: Context) {
        let mut unwritten = lock(&self.unwritten);
        unwritten.entry(address_of(execution)).or_default().push(cx);
    }

    fn execution_ended(
        &self,
        execution: &Execution,
        written: &Result<&ExecutionOutcome, Unwritten<'_>>,
    ) {
        let spans = lock(&self.unwritten).remove(&address_of(execution));
        for cx in spans.into_iter().flatten() {
            let about = RunScope::of(&cx).map_or(About::Client, |scope| About::Execution(scope));
            self.end_span(&cx, about, &mut outcome::of_write(written), None);
        }
    }

    fn send_signal(&self, call: &SendSignal) -> Option<OpenSpan<'_>> {
        let span = SpanBuilder::from_name(operation::SIGNAL_SEND).with_kind(SpanKind::Producer);
        self.client_span(
            span,
            call::signal_attributes(call, self.config.signal_names),
            SpanCall::SendSignal(call),
            &usable_parent(Context::current()),
        )
    }

    fn cancel_run(&self, call: &CancelRun) -> Option<OpenSpan<'_>> {
        if self.config.spans_of(&call.run.workflow_name) == SpanSelection::None {
            return None;
        }
        let name = call::name(operation::WORKFLOW_CANCEL, &call.run.workflow_name);
        self.client_span(
            SpanBuilder::from_name(name).with_kind(SpanKind::Internal),
            call::run_attributes(&call.run, true),
            SpanCall::CancelRun(call),
            &usable_parent(Context::current()),
        )
    }

    fn client_span(
        &self,
        span: SpanBuilder,
        attributes: Vec<KeyValue>,
        call: SpanCall<'_>,
        caller: &Context,
    ) -> Option<OpenSpan<'_>> {
        let span = span.with_attributes(self.with_extra(attributes, call));
        let Started { cx, recording } = self.start(&*self.tracer(), span, caller)?;
        Some(OpenSpan {
            inner: self,
            cx,
            recording,
            subject: Subject::Client,
        })
    }

    fn start(
        &self,
        tracer: &dyn StartSpan,
        span: SpanBuilder,
        parent: &Context,
    ) -> Option<Started> {
        let started = self.losses.contain(|| {
            let _own = Own::starting();
            tracer.start(span, parent)
        });
        match started {
            Some(Some(started)) => Some(started),
            Some(None) => {
                // Under a parent even the tracer of no SDK gives a span, so this one was shut down.
                if parent.span().span_context().is_sampled() && !parent.is_telemetry_suppressed() {
                    self.losses.span();
                }
                None
            }
            None => {
                self.losses.span();
                None
            }
        }
    }

    fn with_extra(&self, mut attributes: Vec<KeyValue>, call: SpanCall<'_>) -> Vec<KeyValue> {
        if let Some(extra) = &self.config.attributes {
            attributes.extend(self.losses.contain(|| extra(call)).unwrap_or_default());
        }
        attributes
    }

    fn tracer(&self) -> Arc<dyn StartSpan> {
        let tracer = self.losses.contain(|| self.config.tracing.tracer());
        tracer.unwrap_or_else(|| Arc::new(opentelemetry::trace::noop::NoopTracer::new()))
    }

    fn is_in(&self, cx: &Context, execution: &Arc<Execution>) -> bool {
        RunScope::of(cx).is_some_and(|scope| scope.is(self.address(), execution))
    }

    /// The context of an execution that is not that of the current context.
    fn context_of(&self, execution: &Arc<Execution>) -> Context {
        let known = self.executions().get(&address_of(execution)).cloned();
        known.unwrap_or_else(|| {
            // An engine that did not call `execute`: all that is known is who created the run.
            self.config
                .propagation
                .extract(&execution.run.carrier, &self.losses)
        })
    }

    pub(crate) fn forget(&self, scope: &RunScope) {
        let cx = self.executions().remove(&address_of(&scope.execution));
        // Not while the lock is held: what a context holds runs code when it is dropped.
        drop(cx);
    }

    fn executions(&self) -> MutexGuard<'_, HashMap<usize, Context>> {
        lock(&self.executions)
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// Nothing panics half-way while one of these is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address_of(execution: &Execution) -> usize {
    std::ptr::from_ref(execution).addr()
}
