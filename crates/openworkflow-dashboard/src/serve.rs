//! A server of the dashboard's own.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::{Dashboard, routes};

/// The page cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Whoever reaches the address would get to see it.
    #[error(
        "{address} can be reached from other machines, and nothing keeps strangers out; \
         listen on 127.0.0.1, or give a token or a proxy"
    )]
    Exposed {
        /// The address.
        address: SocketAddr,
    },
    /// The operating system's.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Dashboard {
    /// Serves the page until `stop` is ready and what was asked until then is answered.
    ///
    /// If the future is dropped, connections are cut.
    ///
    /// # Errors
    ///
    /// [`ServeError::Exposed`] where the address can be reached from other machines and
    /// [access](Dashboard::access) is neither by token nor by proxy. [`ServeError::Io`].
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServeError> {
        let address = listener.local_addr()?;
        if !address.ip().to_canonical().is_loopback() && !self.access.is_for_networks() {
            return Err(ServeError::Exposed { address });
        }
        let site = Arc::new(self.site());
        let router = routes::router::<()>(Arc::clone(&site));
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let stop = async move {
            stop.await;
            site.stopping.send_replace(true);
        };
        axum::serve(listener, service)
            .with_graceful_shutdown(stop)
            .await?;
        Ok(())
    }
}
