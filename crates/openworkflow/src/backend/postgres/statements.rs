//! The statements, with the schema's name filled in.

use tokio_postgres::types::Type;

use super::cancel::{CANCEL_TREE, LOCK_TREE, TREE, WITH_TREE};
use super::claims::{self, CLAIM, FIND_EXPIRED, FIND_ORPHANS, Queues, SWEEP};
use super::counts::COUNT_QUEUE;
use super::executions;
use super::plans;
use super::rows::{RUN_COLUMNS, STEP_COLUMNS};
use super::session::Query;
use super::signals::{CLOSE_WAITS, SEND_SIGNAL};
use super::writes::{OR_END, WHY_UNWRITTEN, WRITE_ALL, WRITE_STEP, WRITE_STEPS};
use crate::backend::RecordedEnding;
use crate::backend::executions::executions_table;

const TEXT: Type = Type::TEXT;
const TEXTS: Type = Type::TEXT_ARRAY;
const JSONB: Type = Type::JSONB;
const JSONBS: Type = Type::JSONB_ARRAY;
const TIME: Type = Type::TIMESTAMPTZ;
const COUNT: Type = Type::INT4;
const BOOL: Type = Type::BOOL;
const COUNTS: Type = Type::INT4_ARRAY;
const LONG: Type = Type::INT8;
const FLOAT: Type = Type::FLOAT8;
const FLOATS: Type = Type::FLOAT8_ARRAY;

// A statement that knows a row's id says `(status = …) IS TRUE` of it, which no index answers. Where the
// server has not counted a young table yet, the indexes by status look as good to it as the primary key
// does, and walking all parked runs to find one costs more with each of them.

/// `$1` to `$4` are the namespace, the run, the worker and the number of the claim.
const OWNED: &str = "namespace_id = $1 AND id = $2 AND worker_id = $3 AND attempts = $4
    AND (status = 'running') IS TRUE";

const LOCK_OWNED: &str = "SELECT 1 FROM {runs} WHERE {owned} FOR NO KEY UPDATE";

/// The same of a run that is about to be put away, and then the signals' waits among `$5`: OpenWorkflow
/// for TypeScript locks no run before it delivers, but the waits.
const LOCK_OWNED_AND_WAITS: &str = "
    WITH owned AS ({lock_owned})
    SELECT 1 FROM owned
    CROSS JOIN LATERAL unnest((SELECT $5)) AS w (id)
    CROSS JOIN LATERAL (
        SELECT 1 FROM {steps} s
        WHERE s.namespace_id = $1 AND s.id = w.id AND s.workflow_run_id = $2
            AND (s.kind = 'signal-wait' AND s.status = 'running') IS TRUE
        FOR NO KEY UPDATE
    ) s";

/// Of a run that was not written: what it is, whether its deadline has passed, and whether the worker
/// that wrote it last is the one who asks. A completed run keeps its worker. Whatever else a worker makes
/// of a run is nobody's, and was made by the owner as long as nobody has claimed it since; but a sweep
/// makes it failed, too, and leaves `started_at`.
const STANDING: &str = "
    SELECT status, deadline_at <= now(),
        (attempts = $4 AND CASE status
            WHEN 'completed' THEN worker_id = $3
            WHEN 'failed' THEN started_at IS NULL
            ELSE worker_id IS NULL
        END) IS TRUE
    FROM {runs} WHERE namespace_id = $1 AND id = $2";

const GET_RUN: &str = "SELECT {run_columns} FROM {runs} r WHERE r.namespace_id = $1 AND r.id = $2";

const COUNT_RUNS: &str =
    "SELECT status, count(*) FROM {runs} WHERE namespace_id = $1 GROUP BY status";

/// A second insertion with the same id finds the first, whose answer was lost with a connection.
const CREATE_RUN: &str = "
    WITH created AS (
        INSERT INTO {runs} AS r (
            namespace_id, id, workflow_name, version, status, idempotency_key, config, context,
            input, attempts, parent_step_attempt_namespace_id, parent_step_attempt_id,
            available_at, deadline_at, created_at, updated_at
        ) VALUES (
            $1, $2, $3, $4, 'pending', NULL, '{}', $5, $6, 0,
            CASE WHEN $7::text IS NULL THEN NULL ELSE $1 END, $7,
            coalesce($8, now()), $9, date_trunc('milliseconds', now()), now()
        )
        ON CONFLICT (namespace_id, id) DO NOTHING
        RETURNING {run_columns}
    )
    SELECT created.*, {notify} FROM created";

const LOCK_KEY: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";

/// Of the row that an idempotency key stands for: the oldest one that is young enough.
const FIND_BY_KEY: &str = "
    SELECT {run_columns} FROM {runs} r
    WHERE r.namespace_id = $1 AND r.workflow_name = $3 AND r.idempotency_key = $10
        AND r.created_at >= now() - $11 * interval '1 second'
    ORDER BY r.created_at, r.id LIMIT 1";

const CREATE_RUN_BY_KEY: &str = "
    WITH existing AS ({find_by_key}),
    created AS (
        INSERT INTO {runs} AS r (
            namespace_id, id, workflow_name, version, status, idempotency_key, config, context,
            input, attempts, parent_step_attempt_namespace_id, parent_step_attempt_id,
            available_at, deadline_at, created_at, updated_at
        )
        SELECT
            $1, $2, $3, $4, 'pending', $10, '{}', $5, $6, 0,
            CASE WHEN $7::text IS NULL THEN NULL ELSE $1 END, $7,
            coalesce($8, now()), $9, date_trunc('milliseconds', now()), now()
        WHERE NOT EXISTS (SELECT 1 FROM existing)
        RETURNING {run_columns}
    )
    SELECT existing.*, true, NULL FROM existing
    UNION ALL
    SELECT created.*, false, {notify}::text FROM created";

/// The attempt, its child and the link between them. A child that is linked already is the answer,
/// then one with the idempotency key, then a new one. The child's parent columns are the attempt
/// (`$7`); `$13` is the parent run. The link goes when the child is deleted; that there was one stays in
/// `config`.
const BEGIN_CHILD: &str = "
    WITH owned AS (
        SELECT 1 FROM {runs}
        WHERE namespace_id = $1 AND id = $13 AND worker_id = $14 AND attempts = $19
            AND (status = 'running') IS TRUE
    ),
    by_link AS (
        SELECT {run_columns} FROM (
            SELECT child_workflow_run_namespace_id, child_workflow_run_id FROM {steps}
            WHERE namespace_id = $1 AND id = $7 AND workflow_run_id = $13 OFFSET 0
        ) s
        JOIN {runs} r ON r.namespace_id = s.child_workflow_run_namespace_id
            AND r.id = s.child_workflow_run_id
    ),
    existing AS (
        SELECT * FROM by_link
        UNION ALL
        SELECT * FROM ({find_by_key}) by_key WHERE NOT EXISTS (SELECT 1 FROM by_link)
    ),
    created AS (
        INSERT INTO {runs} AS r (
            namespace_id, id, workflow_name, version, status, idempotency_key, config, context,
            input, attempts, parent_step_attempt_namespace_id, parent_step_attempt_id,
            available_at, deadline_at, created_at, updated_at
        )
        SELECT
            $1, $2, $3, $4, 'pending', $10, '{}', $5, $6, 0, $1, $7,
            coalesce($8, now()), $9, date_trunc('milliseconds', now()), now()
        FROM owned
        WHERE NOT EXISTS (SELECT 1 FROM existing)
        RETURNING {run_columns}
    ),
    child AS (
        SELECT existing.*, true AS found FROM existing
        UNION ALL
        SELECT created.*, false FROM created
    ),
    linked AS (
        INSERT INTO {steps} AS s (
            namespace_id, id, workflow_run_id, step_name, kind, status, config, context,
            child_workflow_run_namespace_id, child_workflow_run_id,
            started_at, created_at, updated_at
        )
        SELECT
            $1, $7, $13, $15, $16, 'running',
            jsonb_build_object('child', child.id)
                || CASE WHEN $20 THEN jsonb_build_object('cancelWithParent', true) ELSE '{}' END,
            $17,
            child.namespace_id, child.id, now() - $18 * interval '1 second',
            date_trunc('milliseconds', now() - $18 * interval '1 second'), now()
        FROM child, owned
        ON CONFLICT (namespace_id, id) DO UPDATE SET
            child_workflow_run_namespace_id = excluded.child_workflow_run_namespace_id,
            child_workflow_run_id = excluded.child_workflow_run_id,
            config = s.config || excluded.config,
            updated_at = now()
        WHERE s.workflow_run_id = excluded.workflow_run_id AND s.child_workflow_run_id IS NULL
    )
    SELECT child.*, CASE WHEN NOT child.found THEN {notify} END FROM child, owned";

/// Locks a run that is about to end, and the one that waits for it, whatever states they are in: if the
/// parent is about to park, one of the two must see the other. Whether it is woken is decided by the
/// statement after this one, which sees what was committed until the locks were granted. The order is
/// that of [`SEND_SIGNAL`], whatever others are locked with them.
const LOCK_FAMILY: &str = "
    SELECT 1
    FROM (
        SELECT $1 AS namespace_id, $2 AS id
        {others}
        UNION
        SELECT s.namespace_id, s.workflow_run_id
        FROM (
            SELECT parent_step_attempt_namespace_id, parent_step_attempt_id FROM {runs}
            WHERE namespace_id = $1 AND id = $2 OFFSET 0
        ) c
        JOIN {steps} s ON s.namespace_id = c.parent_step_attempt_namespace_id
            AND s.id = c.parent_step_attempt_id
        ORDER BY namespace_id, id
    ) f
    CROSS JOIN LATERAL (
        SELECT 1 FROM {runs} r
        WHERE r.namespace_id = f.namespace_id AND r.id = f.id
        FOR NO KEY UPDATE
    ) r";

/// Wakes the runs that wait for those that have ended.
const WAKE_PARENTS: &str = "
    UPDATE {runs} p SET available_at = now(), updated_at = now()
    FROM ended c
    CROSS JOIN LATERAL (
        SELECT * FROM {steps}
        WHERE namespace_id = c.parent_step_attempt_namespace_id AND id = c.parent_step_attempt_id
        OFFSET 0
    ) s
    WHERE s.kind = 'workflow' AND s.status = 'running'
        AND s.child_workflow_run_namespace_id = c.namespace_id
        AND s.child_workflow_run_id = c.id
        AND p.namespace_id = s.namespace_id AND p.id = s.workflow_run_id
        AND (p.status = 'sleeping' OR (p.status = 'running' AND p.worker_id IS NULL)) IS TRUE
        AND (p.available_at IS NULL OR p.available_at > now())";

/// The same for those of the runs `$2` that have.
const WAKE_PARENTS_OF: &str = "
    WITH ended AS (
        SELECT namespace_id, id, parent_step_attempt_namespace_id, parent_step_attempt_id FROM {runs}
        WHERE namespace_id = $1 AND id = ANY ($2)
            AND (status IN ('completed', 'succeeded', 'failed', 'canceled')) IS TRUE
    )
    {wake_parents} RETURNING p.id";

/// Ends a run that is locked together with its parent, and wakes that.
const END_CHILD_RUN: &str = "
    WITH ended AS (
        {end_run}
        RETURNING namespace_id, id, parent_step_attempt_namespace_id, parent_step_attempt_id
    ),
    woken AS ({wake_parents} RETURNING p.id){recorded}
    SELECT EXISTS (SELECT 1 FROM woken), {notify} FROM ended";

const EXTEND_LEASE: &str = "
    UPDATE {runs} SET available_at = now() + $5 * interval '1 second', updated_at = now()
    WHERE {owned} RETURNING clock_timestamp()";

/// Completes or fails a run that has no parent.
const END_RUN: &str = "
    WITH ended AS ({end_run} AND parent_step_attempt_id IS NULL RETURNING id){recorded}
    SELECT 1, {notify} FROM ended";

const COMPLETE: &str = "
    UPDATE {runs} SET
        status = 'completed', output = $5, error = NULL, available_at = NULL,
        finished_at = now(), updated_at = now()
    WHERE {owned}";

const FAIL: &str = "
    UPDATE {runs} SET
        status = 'failed', error = $5, available_at = NULL, worker_id = NULL, started_at = NULL,
        finished_at = now(), updated_at = now()
    WHERE {owned}";

/// Puts a run away until `$5`, or makes it due at once if something it waits for (`$6`) is there.
/// Only after the run was locked: what was delivered until then is seen here, and who delivers
/// later sees the parked run.
const PUT_AWAY: &str = "
    WITH put AS (
        UPDATE {runs} r SET
            {state}, worker_id = NULL, updated_at = now(),
            available_at = CASE WHEN EXISTS ({ended_child}) OR EXISTS (
                SELECT 1 FROM {steps} s
                JOIN {signals} g ON g.namespace_id = s.namespace_id AND g.step_attempt_id = s.id
                WHERE s.namespace_id = $1 AND s.id = ANY ($6) AND s.workflow_run_id = $2
                    AND (s.kind = 'signal-wait' AND s.status = 'running') IS TRUE
            ) THEN least($5, now()) ELSE $5 END
        WHERE {owned}
        RETURNING r.available_at <> $5 AS at_once
    ){recorded}
    SELECT at_once FROM put";

/// Puts a run away in the middle of an execution, due at once.
const GIVE_BACK: &str = "
    WITH put AS (
        UPDATE {runs} SET
            status = 'running', worker_id = NULL, available_at = now(), updated_at = now()
        WHERE {owned} RETURNING 1
    ){recorded}
    SELECT true FROM put";

/// Among the attempts `$6` of a run, one that waits for a child which has ended.
///
/// `OFFSET 0`, here and where parents are looked for, hides the join from the planner: it implies what the
/// indexes of children and parents hold, and as long as there are few of those, one such index would
/// be read as a whole, by a plan that stays when there are many.
const ENDED_CHILD: &str = "
    SELECT 1 FROM (
        SELECT child_workflow_run_namespace_id, child_workflow_run_id FROM {steps}
        WHERE namespace_id = $1 AND id = ANY ($6) AND workflow_run_id = $2
            AND (kind = 'workflow' AND status = 'running') IS TRUE OFFSET 0
    ) s
    JOIN {runs} c ON c.namespace_id = s.child_workflow_run_namespace_id
        AND c.id = s.child_workflow_run_id
    WHERE (c.status IN ('completed', 'succeeded', 'failed', 'canceled')) IS TRUE";

/// Looks once more, after the commit, for a child that ended while its parent was put away until `$5`:
/// OpenWorkflow for TypeScript ends a child without locking the parent, and then wakes it if it is parked.
const WAKE_PARKED: &str = "
    UPDATE {runs} r SET available_at = now(), updated_at = now()
    WHERE namespace_id = $1 AND id = $2 AND worker_id IS NULL AND attempts = $4
        AND (status = 'running' AND available_at = $5) IS TRUE AND EXISTS ({ended_child})
    RETURNING 1";

const PARK_STATE: &str = "status = 'running'";
const RETRY_STATE: &str = "status = 'pending', error = $7, started_at = NULL, finished_at = NULL";

/// A child that was linked is looked for by what `config` says, too.
const HISTORY: &str = "
    SELECT {step_columns}, c.id, c.status, c.output, c.error, c.finished_at,
        g.created_at, g.data
    FROM {steps} s
    LEFT JOIN {runs} c ON s.kind = 'workflow'
        AND s.status NOT IN ('completed', 'succeeded', 'failed')
        AND c.namespace_id = coalesce(s.child_workflow_run_namespace_id, s.namespace_id)
        AND c.id = coalesce(s.child_workflow_run_id, s.config->>'child')
    LEFT JOIN {signals} g ON s.kind = 'signal-wait'
        AND s.status NOT IN ('completed', 'succeeded', 'failed')
        AND g.namespace_id = s.namespace_id AND g.step_attempt_id = s.id
    WHERE s.namespace_id = $1 AND s.workflow_run_id = $2
    ORDER BY s.created_at, s.id";

/// A transaction that notifies fails where the server's queue of notifications is full, as it becomes when
/// somebody listens and never ends a transaction. News are not worth that.
const HAS_ROOM: &str = "pg_notification_queue_usage() < 0.9";

/// Every statement that does not depend on a request.
pub(super) struct Statements {
    pub(super) lock_owned: Query,
    pub(super) lock_owned_and_waits: Query,
    pub(super) standing: Query,
    pub(super) get_run: Query,
    pub(super) count_runs: Query,
    pub(super) count_queue: Query,
    pub(super) create_run: Query,
    pub(super) lock_key: Query,
    pub(super) create_run_by_key: Query,
    pub(super) begin_child: Query,
    pub(super) claim: Query,
    pub(super) claim_of: Query,
    pub(super) claim_of_unindexed: Query,
    pub(super) find_expired: Query,
    pub(super) find_orphans: Query,
    pub(super) sweep: Query,
    pub(super) lock_tree: Query,
    pub(super) cancel_tree: Query,
    pub(super) lock_family: Query,
    pub(super) wake_parents: Query,
    pub(super) extend_lease: Query,
    pub(super) complete: Query,
    pub(super) complete_child: Query,
    pub(super) fail: Query,
    pub(super) fail_child: Query,
    pub(super) park: Query,
    pub(super) retry: Query,
    pub(super) give_back: Query,
    pub(super) wake_parked: Query,
    pub(super) history: Query,
    /// For attempts that are new, all of them.
    pub(super) insert: StepWrites,
    /// For any attempts.
    pub(super) insert_or_end: StepWrites,
    pub(super) why_unwritten: Query,
    pub(super) send_signal: Query,
    pub(super) close_waits: Query,
    pub(super) in_order: Query,
    pub(super) lazily: Query,
    pub(super) notify: Query,
}

/// The ways to write step attempts.
pub(super) struct StepWrites {
    pub(super) one: Query,
    pub(super) many: Query,
    /// The same beside runs that are completed.
    pub(super) with_completions: Query,
}

impl Statements {
    pub(super) fn new(schema: &str, channel: &str, is_recording: bool) -> Self {
        // Fragments first: they contain the names of tables and columns in turn.
        let parts = [
            ("{find_by_key}", folded(FIND_BY_KEY)),
            ("{wake_parents}", folded(WAKE_PARENTS)),
            ("{lock_owned}", folded(LOCK_OWNED)),
            ("{ended_child}", folded(ENDED_CHILD)),
            ("{owned}", folded(OWNED)),
            ("{run_columns}", RUN_COLUMNS.to_owned()),
            ("{step_columns}", STEP_COLUMNS.to_owned()),
            ("{channel}", channel.to_owned()),
            ("{has_room}", HAS_ROOM.to_owned()),
            (
                "{executions}",
                format!("\"{schema}\".\"{}\"", executions_table!()),
            ),
            ("{runs}", format!("\"{schema}\".\"workflow_runs\"")),
            ("{steps}", format!("\"{schema}\".\"step_attempts\"")),
            ("{signals}", format!("\"{schema}\".\"workflow_signals\"")),
        ];
        let fill = |text: &str, own: &[(&str, &str)]| {
            let mut text = folded(text);
            for (name, value) in own {
                text = text.replace(name, value);
            }
            for (name, value) in &parts {
                text = text.replace(name, value);
            }
            text
        };
        // The notification's text is the parameter named here; null for none.
        let notify = |n: u32| {
            format!(
                "CASE WHEN ${n}::text IS NOT NULL AND {{has_room}}
                 THEN pg_notify('{{channel}}', ${n}) END"
            )
        };
        let query = |text: &str, types: &[Type]| Query::new(fill(text, &[]), types);
        let notifying = |text: &str, n: u32, types: &[Type]| {
            Query::new(fill(text, &[("{notify}", &notify(n))]), types)
        };
        let recorded = |ended: &str, outcome, n: u32| {
            folded(&executions::recorded(is_recording, ended, outcome, n))
        };
        let ending = |text: &str, end_run: &str, recorded: &str, types: &[Type], n: u32| {
            let own = [
                ("{end_run}", end_run),
                ("{recorded}", recorded),
                ("{notify}", &notify(n)),
            ];
            Query::new(fill(text, &own), types)
        };
        let owner = [TEXT, TEXT, TEXT, COUNT];
        let owned = |more: &[Type]| [&owner[..], more].concat();
        let ended = owned(&[JSONB, TEXT]);
        let failed = owned(&[JSONB, TEXT, TIME, TIME]);
        let record_failed = recorded("ended", RecordedEnding::Failed, 7);
        let new_run = [TEXT, TEXT, TEXT, TEXT, JSONB, JSONB, TEXT, TIME, TIME];
        let with = |more: &[Type]| [&new_run[..], more].concat();
        let claim = |queues: Queues, more: &[Type]| {
            let own = [
                ("{queues}", &*folded(queues.queues)),
                ("{queued}", &folded(queues.queued)),
                ("{claimable}", &folded(queues.claimable)),
                ("{claimed_config}", &folded(&executions::claimed_config())),
            ];
            let types = [&[TEXT, TEXTS, FLOAT, LONG, LONG, LONG], more].concat();
            Query::new(fill(CLAIM, &own), &types)
        };
        let steps = [
            TEXTS, TEXTS, TEXTS, COUNTS, TEXTS, TEXTS, TEXTS, TEXTS, JSONBS, JSONBS, JSONBS,
            FLOATS, JSONBS,
        ];
        let step_writes = |or_end: &str| {
            let write = |text: &str, types: &[Type]| {
                let own = [
                    ("{write_steps}", &*folded(WRITE_STEPS)),
                    ("{or_end}", &folded(or_end)),
                ];
                Query::new(fill(text, &own), types)
            };
            StepWrites {
                one: write(
                    WRITE_STEP,
                    &owned(&[TEXT, TEXT, TEXT, TEXT, JSONB, JSONB, JSONB, FLOAT, JSONB]),
                ),
                many: write(WRITE_STEPS, &steps),
                with_completions: write(
                    WRITE_ALL,
                    &[&steps[..], &[TEXTS, TEXTS, TEXTS, COUNTS, JSONBS]].concat(),
                ),
            }
        };
        let put_away = |state: &str, recorded: &str, types: &[Type]| {
            let own = [("{state}", state), ("{recorded}", recorded)];
            Query::new(fill(PUT_AWAY, &own), types)
        };
        Self {
            lock_owned: query(LOCK_OWNED, &owner),
            lock_owned_and_waits: query(LOCK_OWNED_AND_WAITS, &owned(&[TEXTS])),
            standing: query(STANDING, &owner),
            get_run: query(GET_RUN, &[TEXT, TEXT]),
            count_runs: query(COUNT_RUNS, &[TEXT]),
            count_queue: query(COUNT_QUEUE, &[TEXT, LONG]),
            create_run: notifying(CREATE_RUN, 10, &with(&[TEXT])),
            lock_key: query(LOCK_KEY, &[TEXT]),
            create_run_by_key: notifying(CREATE_RUN_BY_KEY, 12, &with(&[TEXT, FLOAT, TEXT])),
            begin_child: notifying(
                BEGIN_CHILD,
                12,
                &with(&[
                    TEXT, FLOAT, TEXT, TEXT, TEXT, TEXT, TEXT, JSONB, FLOAT, COUNT, BOOL,
                ]),
            ),
            claim: claim(claims::ANY, &[]),
            claim_of: claim(claims::OF_WORKFLOWS, &[TEXTS, TEXTS]),
            claim_of_unindexed: claim(claims::OF_WORKFLOWS_UNINDEXED, &[TEXTS, TEXTS]),
            find_expired: Query::new(
                fill(FIND_EXPIRED, &[("{sizes}", &plans::sizes_of(schema))]),
                &[TEXT, LONG],
            ),
            find_orphans: query(FIND_ORPHANS, &[TEXT, LONG]),
            sweep: Query::new(
                fill(
                    SWEEP,
                    &[(
                        "{ended_config}",
                        &folded(&executions::with_ended_execution(RecordedEnding::Failed)),
                    )],
                ),
                &[TEXT, TEXTS, JSONB],
            ),
            lock_tree: Query::new(
                fill(
                    LOCK_TREE,
                    &[
                        ("{tree}", TREE),
                        ("{lock_family}", LOCK_FAMILY),
                        ("{others}", WITH_TREE),
                    ],
                ),
                &[TEXT, TEXT],
            ),
            cancel_tree: Query::new(
                fill(
                    CANCEL_TREE,
                    &[
                        ("{tree}", TREE),
                        ("{notify}", &notify(3)),
                        (
                            "{ended_config}",
                            &folded(&executions::with_ended_execution(RecordedEnding::Canceled)),
                        ),
                    ],
                ),
                &[TEXT, TEXT, TEXT],
            ),
            lock_family: Query::new(fill(LOCK_FAMILY, &[("{others}", "")]), &[TEXT, TEXT]),
            wake_parents: query(WAKE_PARENTS_OF, &[TEXT, TEXTS]),
            extend_lease: query(EXTEND_LEASE, &owned(&[FLOAT])),
            complete: ending(END_RUN, COMPLETE, "", &ended, 6),
            complete_child: ending(END_CHILD_RUN, COMPLETE, "", &ended, 6),
            fail: ending(END_RUN, FAIL, &record_failed, &failed, 6),
            fail_child: ending(END_CHILD_RUN, FAIL, &record_failed, &failed, 6),
            park: put_away(
                PARK_STATE,
                &recorded("put", RecordedEnding::Parked, 7),
                &owned(&[TIME, TEXTS, TIME, TIME]),
            ),
            retry: put_away(
                RETRY_STATE,
                &recorded("put", RecordedEnding::Retrying, 8),
                &owned(&[TIME, TEXTS, JSONB, TIME, TIME]),
            ),
            give_back: Query::new(
                fill(
                    GIVE_BACK,
                    &[("{recorded}", &recorded("put", RecordedEnding::GivenBack, 5))],
                ),
                &owned(&[TIME, TIME]),
            ),
            wake_parked: query(WAKE_PARKED, &owned(&[TIME, TEXTS])),
            history: query(HISTORY, &[TEXT, TEXT]),
            insert: step_writes(""),
            insert_or_end: step_writes(OR_END),
            why_unwritten: query(WHY_UNWRITTEN, &owned(&[TEXT])),
            send_signal: notifying(
                SEND_SIGNAL,
                8,
                &[TEXT, TEXT, JSONB, TEXT, TEXT, TEXT, COUNT, TEXT, LONG],
            ),
            close_waits: query(CLOSE_WAITS, &[TEXT, TEXTS]),
            in_order: query(
                "SELECT set_config(name, 'off', true) FROM unnest(
                    ARRAY['enable_sort', 'enable_seqscan', 'enable_bitmapscan', 'jit']
                ) AS name",
                &[],
            ),
            lazily: query("SET LOCAL synchronous_commit = off", &[]),
            notify: query(
                "SELECT pg_notify('{channel}', p) FROM unnest($1) AS p WHERE {has_room}",
                &[TEXTS],
            ),
        }
    }
}

/// The text without its line breaks: whoever looks up what is prepared hashes all of it.
fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
