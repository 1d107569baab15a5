//! Export to real receivers of other makes, over both protocols, in good times and bad.

mod faults;
mod golden;
mod receiver;
mod shutdown;
mod tree;
