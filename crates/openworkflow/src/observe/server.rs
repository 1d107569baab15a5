//! A listener of the worker's own.

use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::task::AbortHandle;

use super::{Endpoints, MetricsText, Observe};
use crate::Health;

/// A port that is ours, with nobody answering yet.
pub(crate) struct Bound {
    listener: TcpListener,
    metrics: Option<MetricsText>,
}

impl Bound {
    /// An error says what is wrong, and what to do.
    pub(crate) fn new(observe: Observe) -> Result<Self, String> {
        let Observe { address, metrics } = observe;
        let bound = TcpListener::bind(&address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        match bound {
            Ok(listener) => Ok(Self { listener, metrics }),
            Err(error) => {
                let remedy = match error.kind() {
                    io::ErrorKind::AddrInUse => {
                        "; another process, or another worker of this one, has that port: take another"
                    }
                    io::ErrorKind::PermissionDenied => "; take a port from 1024 on",
                    _ => "; it should look like 0.0.0.0:9464",
                };
                Err(format!("it cannot listen on {address:?}: {error}{remedy}"))
            }
        }
    }

    pub(crate) fn serve(self, health: Health) -> io::Result<Server> {
        let address = self.listener.local_addr()?;
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let mut endpoints = Endpoints::new(health);
        endpoints.metrics = self.metrics;
        let serving = axum::serve(listener, endpoints.router::<()>());
        let task = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, %address, "health and metrics are told no more");
            }
        });
        Ok(Server {
            address,
            task: task.abort_handle(),
        })
    }
}

/// Answers until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    task: AbortHandle,
}

impl Server {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
