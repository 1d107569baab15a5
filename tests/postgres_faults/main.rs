//! Worker processes on a real PostgreSQL server while processes, connections, the network and the
//! server itself fail. `docs/postgres.md` says what these tests show.

mod cuts;
mod disruptions;
mod fleets;
mod proxy;
mod site;
mod verdict;
