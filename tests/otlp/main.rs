//! Export to real receivers of other makes, over both protocols, in good times and bad.

mod faults;
mod golden;
mod presets;
mod proxy;
mod receiver;
mod sampling;
mod scraped;
mod shutdown;
mod tls;
mod tree;
