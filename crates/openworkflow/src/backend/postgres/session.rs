//! Statements and transactions on pooled connections, and what is done when one fails.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use deadpool_postgres::{Object, PoolError};
use futures_util::future;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Error, Row, Statement};

use super::fault::{self, Remedy};
use super::homes::{Home, Homes, Source};
use super::plans::Plans;
use super::time::ServerTime;
use crate::backend::{BackendResult, Owner};

/// How often an operation is done again after a deadlock or a serialization failure.
const REPEATS: u32 = 8;

/// A statement with its parameters' types, so that it can be sent without being prepared first.
pub(super) struct Query {
    text: String,
    types: Vec<Type>,
    /// Whether its plan is not kept.
    once: bool,
}

pub(super) type Param<'a> = &'a (dyn ToSql + Sync);

/// What the owner guard compares, as the first four parameters of guarded statements.
pub(super) struct Guard<'a> {
    namespace_id: &'a str,
    run_id: &'a str,
    worker_id: &'a str,
    attempts: i32,
}

impl<'a> Guard<'a> {
    pub(super) fn new(owner: &'a Owner) -> Self {
        Self {
            namespace_id: &owner.namespace_id,
            run_id: &owner.run_id,
            worker_id: &owner.worker_id,
            attempts: claim_number(owner),
        }
    }

    pub(super) fn params(&self) -> [Param<'_>; 4] {
        [
            &self.namespace_id,
            &self.run_id,
            &self.worker_id,
            &self.attempts,
        ]
    }
}

/// The number of a claim as the column holds it. One that is negative there, which is malformed, went
/// the other way when it was read.
pub(super) fn claim_number(owner: &Owner) -> i32 {
    owner.attempts.cast_signed()
}

/// A statement to be executed.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    query: &'a Query,
    params: &'a [Param<'a>],
}

impl Query {
    pub(super) fn new(text: String, types: &[Type]) -> Self {
        Self {
            text,
            types: types.to_vec(),
            once: false,
        }
    }

    /// A statement that is planned whenever it is executed.
    pub(super) fn once(text: String, types: &[Type]) -> Self {
        Self {
            once: true,
            ..Self::new(text, types)
        }
    }

    pub(super) fn with<'a>(&'a self, params: &'a [Param<'a>]) -> Call<'a> {
        Call {
            query: self,
            params,
        }
    }
}

/// What to do when the connection breaks before the answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenLost {
    /// Doing it twice is the same as doing it once: do it again.
    Again,
    /// It may have happened: let the caller find out.
    Report,
}

/// The connections, and how statements travel.
pub(super) struct Sessions {
    homes: Arc<Homes>,
    plans: Arc<Plans>,
    time: Arc<ServerTime>,
    /// Whether statements are prepared and kept. Off behind a pooler in transaction mode, where each
    /// transaction may reach another session of the server.
    prepares: AtomicBool,
}

impl Sessions {
    pub(super) fn new(source: Source, schema: &str, time: ServerTime) -> Self {
        Self {
            homes: Homes::new(source),
            plans: Arc::new(Plans::new(schema)),
            time: Arc::new(time),
            prepares: AtomicBool::new(true),
        }
    }

    pub(super) fn homes(&self) -> &Homes {
        &self.homes
    }

    pub(super) fn plans(&self) -> &Plans {
        &self.plans
    }

    pub(super) fn time(&self) -> &ServerTime {
        &self.time
    }

    /// What there is for the runtime that the caller is on.
    pub(super) fn here(&self) -> BackendResult<Arc<Home>> {
        self.homes.here()
    }

    /// A connection.
    pub(super) async fn connection(&self) -> BackendResult<Result<Object, PoolError>> {
        Ok(self.here()?.pool().get().await)
    }

    pub(super) fn do_without_preparing(&self) {
        self.prepares.store(false, Ordering::Relaxed);
    }

    /// Executes one statement in a transaction of its own.
    pub(super) async fn one(&self, when_lost: WhenLost, call: Call<'_>) -> BackendResult<Vec<Row>> {
        let mut results = self.all(when_lost, &[call]).await?;
        Ok(results.pop().unwrap_or_default())
    }

    /// Executes statements in one transaction and one round trip. Once this was polled, dropping it
    /// does not stop the transaction.
    pub(super) async fn all(
        &self,
        when_lost: WhenLost,
        calls: &[Call<'_>],
    ) -> BackendResult<Vec<Vec<Row>>> {
        let (rows, _) = self.all_and_then(when_lost, calls, None).await?;
        Ok(rows)
    }

    /// The same, and one more statement after the commit, in the same round trip.
    pub(super) async fn all_and_then(
        &self,
        when_lost: WhenLost,
        calls: &[Call<'_>],
        and_then: Option<Call<'_>>,
    ) -> BackendResult<(Vec<Vec<Row>>, Vec<Row>)> {
        let mut repeats = 0;
        let mut reconnected = false;
        loop {
            let session = self.connection().await?.map_err(fault::pool)?;
            let prepares = self.prepares.load(Ordering::Relaxed);
            let executed = async {
                if prepares {
                    self.plans.tell(&session).await?;
                }
                execute(&session, prepares, calls, and_then).await
            };
            let error = match executed.await {
                Ok(rows) => {
                    drop(session);
                    self.look_around();
                    return Ok(rows);
                }
                Err(error) => error,
            };
            match fault::remedy(&error) {
                Remedy::Repeat if repeats < REPEATS => {
                    drop(session);
                    tokio::time::sleep(pause(repeats)).await;
                    repeats += 1;
                }
                Remedy::Unprepared if prepares => {
                    tracing::warn!(
                        "prepared statements do not survive on the way to the server, probably because of a pooler in transaction mode: going on without them"
                    );
                    self.do_without_preparing();
                }
                Remedy::Reconnect => {
                    let is_new = Object::metrics(&session).recycle_count == 0;
                    // Not back into the pool, even if the driver has not noticed yet.
                    drop(Object::take(session));
                    if when_lost == WhenLost::Report || (is_new && reconnected) {
                        return Err(fault::driver(error));
                    }
                    // Of connections that lay idle, as many may be broken as there are.
                    reconnected |= is_new;
                }
                Remedy::Relocate => {
                    drop(Object::take(session));
                    return Err(fault::driver(error));
                }
                Remedy::Repeat | Remedy::Unprepared | Remedy::Later | Remedy::None => {
                    return Err(fault::driver(error));
                }
            }
        }
    }
}

impl Sessions {
    /// Looks what time it is at the server, and how large the tables are, now and then and beside
    /// everything else, where nothing brings that along.
    fn look_around(&self) {
        let (time_is_due, sizes_are_due) = (self.time.is_to_ask(), self.plans.is_look_due());
        if !time_is_due && !sizes_are_due {
            return;
        }
        let Ok(home) = self.here() else {
            return;
        };
        let (pool, plans) = (home.pool().clone(), Arc::clone(&self.plans));
        let time = Arc::clone(&self.time);
        home.spawn(async move {
            // What fails is looked at again.
            let Ok(session) = pool.get().await else {
                return;
            };
            if time_is_due {
                let _ = time.ask(&session).await;
            }
            if sizes_are_due
                && let Ok(rows) = session.query_typed(&plans.look, &[]).await
                && let Some(Ok(sizes)) = rows.first().map(|row| row.try_get::<_, Vec<i64>>(0))
            {
                plans.hear(&sizes);
            }
        });
    }
}

/// Between one and two times 5 ms, doubled each time: those who collided must not collide again.
fn pause(repeats: u32) -> Duration {
    let jitter = uuid::Uuid::new_v4().as_bytes()[0];
    let base = 5u64 << repeats.min(6);
    Duration::from_millis(base + base * u64::from(jitter) / 255)
}

async fn execute(
    session: &Object,
    prepares: bool,
    calls: &[Call<'_>],
    and_then: Option<Call<'_>>,
) -> Result<(Vec<Vec<Row>>, Vec<Row>), Error> {
    let mut statements = Vec::with_capacity(calls.len() + 1);
    for call in calls.iter().chain(&and_then) {
        let query = call.query;
        statements.push(if prepares && !query.once {
            let statement = session.prepare_typed_cached(&query.text, &query.types);
            Some(statement.await?)
        } else {
            None
        });
    }
    let mut answers = calls
        .iter()
        .zip(&statements)
        .map(|(call, statement)| send(session, *call, statement.as_ref()));
    if calls.len() <= 1 && and_then.is_none() {
        return match answers.next() {
            Some(answer) => Ok((vec![answer.await?], Vec::new())),
            None => Ok((Vec::new(), Vec::new())),
        };
    }
    let after = async {
        match (and_then, statements.last()) {
            (Some(call), Some(statement)) => send(session, call, statement.as_ref()).await,
            _ => Ok(Vec::new()),
        }
    };
    // All of these are sent when they are first polled, in order and without waiting for answers.
    // If a statement fails, the server refuses the rest and turns the COMMIT into a ROLLBACK.
    let (begun, answers, committed, after) = future::join4(
        session.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED"),
        all_in_order(answers),
        session.batch_execute("COMMIT"),
        after,
    )
    .await;
    begun?;
    let rows = answers.into_iter().collect::<Result<_, _>>()?;
    committed?;
    Ok((rows, after?))
}

async fn send(
    session: &Object,
    call: Call<'_>,
    statement: Option<&Statement>,
) -> Result<Vec<Row>, Error> {
    match statement {
        Some(statement) => session.query(statement, call.params).await,
        None => {
            let types = call.query.types.iter().cloned();
            let params: Vec<_> = call.params.iter().copied().zip(types).collect();
            session.query_typed(&call.query.text, &params).await
        }
    }
}

/// `future::join_all`, which promises no order of polling, with one.
fn all_in_order<F: Future>(
    futures: impl Iterator<Item = F>,
) -> impl Future<Output = Vec<F::Output>> {
    let mut futures: Vec<_> = futures.map(|f| Box::pin(future::maybe_done(f))).collect();
    future::poll_fn(move |cx| {
        let mut ready = true;
        for future in &mut futures {
            ready &= future.as_mut().poll(cx).is_ready();
        }
        if !ready {
            return Poll::Pending;
        }
        let outputs = futures.iter_mut().filter_map(|f| f.as_mut().take_output());
        Poll::Ready(outputs.collect())
    })
}

/// JSON text on its way into a column of type `jsonb`. `Debug` hides it: the driver logs parameters.
#[derive(Clone, Copy)]
pub(super) struct Json<T>(pub(super) T);

impl<T: AsRef<str>> std::fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Json({} bytes)", self.0.as_ref().len())
    }
}

/// The version of the binary form of `jsonb`, which is this byte and the text.
const JSONB_VERSION: u8 = 1;

/// A message to the server has less than 1 GiB, with all that goes beside the value.
const LARGEST: usize = (1 << 30) - (1 << 24);

impl<T: AsRef<str>> ToSql for Json<T> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let text = self.0.as_ref();
        // More would cost the connection, which says nothing about the value.
        if text.len() > LARGEST {
            return Err(fault::TooLarge(text.len()).into());
        }
        out.extend_from_slice(&[JSONB_VERSION]);
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }

    to_sql_checked!();
}

/// JSON text out of a column of type `jsonb`.
pub(super) struct JsonText(pub(super) String);

impl<'a> FromSql<'a> for JsonText {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        match raw.split_first() {
            Some((&JSONB_VERSION, text)) => Ok(Self(std::str::from_utf8(text)?.to_owned())),
            _ => Err("an unknown binary form of jsonb".into()),
        }
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }
}
