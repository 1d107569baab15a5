//! Worker processes on a real PostgreSQL server while processes, connections, the network and the
//! server itself fail. `docs/postgres.md` says what these tests show.

mod clients;
mod cuts;
mod disruptions;
mod fleets;
mod lossy;
mod lost_answers;
mod proxy;
mod values;

use openworkflow_tests::faults::PostgresGround;

/// The worker process.
const PROGRAM: &str = env!("CARGO_BIN_EXE_other_process");

type Site = openworkflow_tests::faults::Site<PostgresGround>;
