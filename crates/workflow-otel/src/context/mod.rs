//! What travels: the scope of a run in the current context, and the carrier from process to process.

mod baggage;
mod baggage_header;
pub(crate) mod bar;
pub(crate) mod origin;
pub(crate) mod progress;
pub(crate) mod propagation;
pub(crate) mod scope;
mod traceparent;
