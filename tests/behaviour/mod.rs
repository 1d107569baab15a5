//! How clients, workers and workflows behave, whatever database they run on: the test binary says
//! which (see the crate's documentation).

mod golden;

/// A client and a worker on a fresh database of the kind under test.
type Harness = openworkflow_tests::Harness<crate::Db>;
