//! The thread that exports, one for all signals, with the runtime that drives their exporters.
//!
//! A thread, because programs end their runtimes before they are done with their telemetry, and because a
//! runtime of one thread is busy with whoever waits for the end of it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;

use opentelemetry::Context;
use tokio::runtime::{EnterGuard, Handle, Runtime};
use tokio::task::JoinSet;

use super::Signal;
use super::control::{Clock, Control};
use super::courier::{Courier, Exporter, Watched};
use super::reporter::Reporter;

/// It, before it is started.
pub(super) struct ExportThread {
    /// There until it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
    work: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>,
    reporter: Arc<Reporter>,
    controls: Vec<Control>,
}

impl ExportThread {
    pub(super) fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
            work: Vec::new(),
            reporter: Arc::default(),
            controls: Vec::new(),
        })
    }

    /// Makes its runtime the current one: exporters over gRPC are to be made there.
    pub(super) fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }

    /// A way out for a signal: who takes batches to this exporter, and how that is asked to end.
    pub(super) fn open<E: Exporter>(
        &mut self,
        signal: Signal,
        exporter: Watched<E>,
    ) -> (Control, Courier<E>) {
        let account = self.reporter.account(signal);
        let (control, inbox) = Control::new(Arc::clone(&account), Clock::new(&self.handle));
        self.controls.push(control.clone());
        let courier = Courier::new(exporter, inbox, account, Arc::clone(&self.reporter));
        (control, courier)
    }

    /// Has it do this, beside the rest, until it is done.
    pub(super) fn add(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.work.push(Box::pin(work));
    }

    /// Starts it, where there is something to do. What comes back asks the signals.
    pub(super) fn start(mut self) -> io::Result<Vec<Control>> {
        let mut controls = std::mem::take(&mut self.controls);
        controls.sort_by_key(|control| control.account.signal as u8);
        if !controls.is_empty() {
            let name = "workflow-otel-export".to_owned();
            thread::Builder::new()
                .name(name)
                .spawn(move || self.run())?;
        }
        Ok(controls)
    }

    fn run(&mut self) {
        // What exporters do is no part of anybody's trace or log.
        let _suppressed = Context::enter_telemetry_suppressed_scope();
        let mut all = JoinSet::new();
        let work = std::mem::take(&mut self.work);
        if let Some(runtime) = &self.runtime {
            runtime.block_on(async {
                for work in work {
                    all.spawn(work);
                }
                while all.join_next().await.is_some() {}
            });
        }
    }
}

impl Drop for ExportThread {
    fn drop(&mut self) {
        // Not as a runtime is dropped, which would wait for requests that were abandoned, and panic where
        // another is at work.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
