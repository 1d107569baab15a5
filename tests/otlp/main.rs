//! Export to real receivers of other makes, over both protocols, in good times and bad.

mod golden;
mod receiver;
mod tree;
