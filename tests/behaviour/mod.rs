//! How clients, workers and workflows behave, whatever database they run on: the test binary says
//! which (see the crate's documentation).

mod arrivals;
mod canceled_together;
mod cancellation;
mod carriers;
mod changed_code;
mod children;
mod client;
mod continued;
mod copies;
mod deadlines;
mod deleted;
mod executions;
mod fairness;
mod golden;
mod history;
mod interceptors;
mod layers;
mod leases;
mod limits;
mod lists;
mod logs;
mod many_children;
mod namespaces;
mod orphans;
mod panics;
mod parallel;
mod process;
mod progress;
mod races;
mod refusals;
mod replay;
mod resumed;
mod retries;
pub(crate) mod runtimes;
mod signals;
mod steps;
mod ticks;
mod time_limits;
mod traces;
mod worker;

use std::time::Duration;

/// A client and a worker on a fresh database of the kind under test.
type Harness = openworkflow_tests::Harness<crate::Db>;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The protocol's lease.
const LEASE: Duration = Duration::from_secs(30);
