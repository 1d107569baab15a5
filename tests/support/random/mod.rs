//! Random workflows, their interpretation on a real engine, and a driver that crashes it.
//!
//! A [`Program`] is data: the input of one workflow that interprets it. [`drive`] runs a program on
//! any database from start to end, with or without crashes, and tells what came of it.

mod crash;
mod drive;
mod program;
mod workflow;

pub use crash::{CrashingBackend, World};
pub use drive::{Database, Outcome, Setup, drive, mask_times};
pub use program::{Block, Body, JoinStyle, Node, Op, Program, Rendezvous, programs};
pub use workflow::{PROGRAM, PROGRAM_V2, workflows};
