//! What a boxed error is called whose cause is of a type that this crate knows.

use workflow_core::{Error, ErrorKind};

use crate::client::ClientError;

/// Names `error` after its cause, where nothing else has named it: `workflow-core`, which depends on
/// nothing, knows the standard library's types alone.
pub(crate) fn by_cause(error: Error) -> Error {
    if error.kind() != ErrorKind::Application || error.name() != "Error" {
        return error;
    }
    macro_rules! name_of_any {
        ($($type:ty = $name:literal),* $(,)?) => {
            $(if error.downcast_ref::<$type>().is_some() {
                return error.with_name($name);
            })*
        };
    }
    name_of_any!(
        serde_json::Error = "serde_json::Error",
        tokio::time::error::Elapsed = "Elapsed",
        tokio::task::JoinError = "JoinError",
        ClientError = "ClientError",
    );
    error
}
