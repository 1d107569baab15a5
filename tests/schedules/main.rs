//! What becomes of the protocol's races, in every order that their steps can have.
//!
//! A scenario is a state of the database, and two or three *actors* who do something at the same time:
//! operations of backends of their own, or what OpenWorkflow for TypeScript sends (`peer`). Nothing of it
//! is simulated. Each step of an actor is held at a gate until it is let through, and the next one is
//! chosen when everybody is held, done, or waits for a lock. On PostgreSQL a step is a statement, or a
//! COMMIT, on its way to the server (`wire`); on SQLite it is a transaction.
//!
//! [`every_order`](play::every_order) plays a scenario again and again, from a fresh state, until the
//! actors' steps have been interleaved in each way that there is. What must hold after each:
//!
//! - nobody waits for a lock for ever (the server does not break deadlocks here);
//! - a run with a wait that is served, by a delivered signal or a child that ended, is due, or somebody
//!   executes it;
//! - a run that is over is due never, and nobody's, but for the one who completed it;
//! - what the scenario says.
//!
//! A failure prints the order that led to it. To see that the suite finds what it is for, take one of the
//! locks out: parking that does not lock the waits, say, or an end that locks the child before its parent.

/// The scenarios as tests, on both databases.
macro_rules! on_both_databases {
    ($($scenario:ident)*) => {
        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $scenario() {
                    crate::play::every_order::<crate::postgres::Server>(super::$scenario).await;
                }
            )*
        }

        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $scenario() {
                    crate::play::every_order::<crate::sqlite::File>(super::$scenario).await;
                }
            )*
        }
    };
}

mod children;
mod claims;
mod ends;
mod gate;
mod order;
mod peer;
mod play;
mod postgres;
mod signals;
mod sqlite;
mod stage;
mod wire;
