//! Nothing: the programs are in `cases`, and `compile.rs` has them compiled.
