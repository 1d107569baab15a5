//! Many rows in every state, made by SQL.

/// The workflow and the version that the workers of these tests have.
pub const MINE: &str = "mine";
/// How many runs there are of a workflow that is rare. They are older than nearly all others.
const RARE: u32 = 3;

/// As [`MINE`].
pub const VERSION: &str = "v1";

/// What is signaled is named after this, with a number.
const SIGNAL: &str = "signal-";

/// How many workflows the workers of these tests do not have.
pub const OTHERS: u32 = 50;

/// How a database writes what differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

impl Dialect {
    /// The time that is `seconds` (an expression) from now.
    fn time(self, seconds: &str) -> String {
        match self {
            Self::Sqlite => {
                format!("strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ({seconds}) || ' seconds')")
            }
            Self::Postgres => {
                format!("date_trunc('milliseconds', now() + ({seconds}) * interval '1 second')")
            }
        }
    }

    /// A statement that inserts what `select` gives for each `n` from 1.
    fn each(self, rows: u32, into: &str, select: &str) -> String {
        match self {
            Self::Sqlite => format!(
                "WITH RECURSIVE g (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < {rows})
                 INSERT INTO {into} SELECT {select} FROM g;"
            ),
            Self::Postgres => format!(
                "INSERT INTO {into} SELECT {select} FROM generate_series(1, {rows}) AS g (n);"
            ),
        }
    }
}

/// Runs of one kind.
#[derive(Debug)]
pub struct State {
    /// What they are; begins their ids.
    pub name: &'static str,
    namespace: &'static str,
    /// An expression.
    workflow: &'static str,
    version: Option<&'static str>,
    status: &'static str,
    worker: bool,
    /// When they are due, in seconds from now, as an expression of `n`.
    available: Option<&'static str>,
    /// The same of the deadline.
    deadline: Option<&'static str>,
    /// The step attempt of each, if it has one: kind and status.
    step: Option<(&'static str, &'static str)>,
    /// Whether a signal was delivered to that attempt.
    signal: bool,
    /// The state of the parents of these runs, whose step attempts are linked to them.
    parent: Option<&'static str>,
    /// How many there are at most.
    most: u32,
}

const PENDING: State = State {
    name: "",
    namespace: "default",
    workflow: "'mine'",
    version: Some(VERSION),
    status: "pending",
    worker: false,
    available: Some("n * 0.001 - 20000"),
    deadline: None,
    step: None,
    signal: false,
    parent: None,
    most: u32::MAX,
};

const OVER: State = State {
    available: None,
    deadline: Some("n * 0.001 - 30000"),
    step: Some(("function", "completed")),
    ..PENDING
};

/// Of each, [`fill`] makes as many rows as asked for.
pub const STATES: [State; 17] = [
    State {
        name: "rare",
        workflow: "'rare'",
        status: "completed",
        available: None,
        most: RARE,
        ..PENDING
    },
    State {
        name: "foreign",
        workflow: "'other-' || (n % 50)",
        version: None,
        ..PENDING
    },
    State {
        name: "version",
        version: Some("v0"),
        ..PENDING
    },
    State {
        name: "namespace",
        namespace: "elsewhere",
        deadline: Some("n * 0.001 - 30000"),
        ..PENDING
    },
    State {
        name: "backlog",
        ..PENDING
    },
    State {
        name: "scheduled",
        available: Some("n + 86400"),
        ..PENDING
    },
    State {
        name: "executing",
        status: "running",
        worker: true,
        available: Some("86400"),
        deadline: Some("n + 86400"),
        ..PENDING
    },
    State {
        name: "parked",
        status: "running",
        available: Some("n + 86400"),
        deadline: Some("n + 864000"),
        step: Some(("signal-wait", "running")),
        ..PENDING
    },
    State {
        name: "elsewhere",
        namespace: "elsewhere",
        status: "running",
        step: Some(("signal-wait", "running")),
        ..PENDING
    },
    State {
        name: "completed",
        status: "completed",
        worker: true,
        ..OVER
    },
    State {
        name: "failed",
        status: "failed",
        step: Some(("function", "failed")),
        ..OVER
    },
    State {
        name: "canceled",
        status: "canceled",
        step: Some(("signal-wait", "running")),
        ..OVER
    },
    State {
        name: "received",
        status: "completed",
        step: Some(("signal-wait", "completed")),
        signal: true,
        ..OVER
    },
    State {
        name: "parent",
        status: "running",
        available: Some("n + 86400"),
        step: Some(("workflow", "running")),
        ..PENDING
    },
    State {
        name: "child",
        status: "running",
        available: Some("n + 86400"),
        parent: Some("parent"),
        ..PENDING
    },
    State {
        name: "grown-parent",
        status: "completed",
        step: Some(("workflow", "completed")),
        ..OVER
    },
    State {
        name: "grown-child",
        status: "completed",
        parent: Some("grown-parent"),
        ..OVER
    },
];

impl State {
    /// Whether these are parents or children.
    #[must_use]
    pub fn is_family(&self) -> bool {
        self.parent.is_some() || matches!(self.step, Some(("workflow", _)))
    }

    /// Whether a signal was delivered to these.
    #[must_use]
    pub fn is_signaled(&self) -> bool {
        self.signal
    }
}

/// The statements that make `rows` runs of each of [`STATES`], and their step attempts.
#[must_use]
pub fn fill(dialect: Dialect, rows: u32) -> Vec<String> {
    fill_some(dialect, rows, |_| true)
}

/// The same of some states.
#[must_use]
pub fn fill_some(dialect: Dialect, rows: u32, which: impl Fn(&State) -> bool) -> Vec<String> {
    let mut statements = Vec::new();
    let created = dialect.time("n * 0.001 - 40000");
    for state in STATES.iter().filter(|state| which(state)) {
        let rows = rows.min(state.most);
        let State {
            name,
            namespace,
            workflow,
            status,
            ..
        } = state;
        let text = |value: Option<&str>| value.map_or("NULL".to_owned(), |v| format!("'{v}'"));
        let time = |seconds: Option<&str>| seconds.map_or("NULL".to_owned(), |s| dialect.time(s));
        let worker = text(state.worker.then_some("somebody"));
        let finished = match state.available {
            None => created.as_str(),
            Some(_) => "NULL",
        };
        statements.push(dialect.each(
            rows,
            "workflow_runs (namespace_id, id, workflow_name, version, status, config, attempts,
                 worker_id, available_at, deadline_at, finished_at, created_at, updated_at,
                 parent_step_attempt_namespace_id, parent_step_attempt_id)",
            &format!(
                "'{namespace}', '{name}-' || n, {workflow}, {version}, '{status}', '{{}}', 1,
                 {worker}, {available}, {deadline}, {finished}, {created}, {created}, {parent}",
                parent = match state.parent {
                    None => "NULL, NULL".to_owned(),
                    Some(parent) => format!("'{namespace}', '{parent}-step-' || n"),
                },
                version = text(state.version),
                available = time(state.available),
                deadline = time(state.deadline),
                finished = if finished == "NULL" && dialect == Dialect::Postgres {
                    "NULL::timestamptz"
                } else {
                    finished
                },
            ),
        ));
        if let Some((kind, status)) = state.step {
            let context = match kind {
                "signal-wait" => {
                    let json = format!(
                        "'{{\"kind\":\"signal-wait\",\"signal\":\"{SIGNAL}' || n || '\",\"timeoutAt\":null}}'"
                    );
                    match dialect {
                        Dialect::Sqlite => json,
                        Dialect::Postgres => format!("({json})::jsonb"),
                    }
                }
                _ if dialect == Dialect::Postgres => "NULL::jsonb".to_owned(),
                _ => "NULL".to_owned(),
            };
            statements.push(dialect.each(
                rows,
                "step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config,
                     context, created_at, updated_at)",
                &format!(
                    "'{namespace}', '{name}-step-' || n, '{name}-' || n, 'step', '{kind}',
                     '{status}', '{{}}', {context}, {created}, {created}"
                ),
            ));
        }
        if state.signal {
            statements.push(dialect.each(
                rows,
                "workflow_signals (namespace_id, id, signal, sender_idempotency_key,
                     workflow_run_id, step_attempt_id, created_at)",
                &format!(
                    "'{namespace}', '{name}-signal-' || n, '{SIGNAL}' || n, 'key-' || n,
                     '{name}-' || n, '{name}-step-' || n, {created}"
                ),
            ));
        }
        if let Some(parent) = state.parent {
            statements.push(format!(
                "UPDATE step_attempts SET child_workflow_run_namespace_id = '{namespace}',
                     child_workflow_run_id = replace(id, '{parent}-step-', '{name}-')
                 WHERE id LIKE '{parent}-step-%'"
            ));
        }
    }
    statements
}

/// A statement that makes runs which nobody claims, and whose deadline passes a second later.
#[must_use]
pub fn expire(dialect: Dialect, rows: u32) -> String {
    let (now, soon) = (dialect.time("0"), dialect.time("1"));
    dialect.each(
        rows,
        "workflow_runs (namespace_id, id, workflow_name, status, config, attempts, available_at,
             deadline_at, created_at, updated_at)",
        &format!(
            "'default', 'expired-' || n, 'other-0', 'pending', '{{}}', 0, {soon}, {soon}, {now}, {now}"
        ),
    )
}

/// What [`abandon`]ed runs wait for.
pub const ABANDONED: &str = "abandoned";

/// The statements that make canceled runs which still wait for one signal. Every second wait has received
/// it, as from OpenWorkflow for TypeScript.
#[must_use]
pub fn abandon(dialect: Dialect, rows: u32) -> Vec<String> {
    let now = dialect.time("0");
    let context = format!(r#"{{"kind":"signal-wait","signal":"{ABANDONED}","timeoutAt":null}}"#);
    vec![
        dialect.each(
            rows,
            "workflow_runs (namespace_id, id, workflow_name, status, config, attempts, finished_at,
                 created_at, updated_at)",
            &format!(
                "'default', 'abandoned-' || n, 'other-0', 'canceled', '{{}}', 1, {now}, {now}, {now}"
            ),
        ),
        dialect.each(
            rows,
            "step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config,
                 context, created_at, updated_at)",
            &format!(
                "'default', 'abandoned-step-' || n, 'abandoned-' || n, 'step', 'signal-wait',
                 'running', '{{}}', '{context}', {now}, {now}"
            ),
        ),
        dialect.each(
            rows / 2,
            "workflow_signals (namespace_id, id, signal, workflow_run_id, step_attempt_id, created_at)",
            &format!(
                "'default', 'abandoned-signal-' || n, '{ABANDONED}', 'abandoned-' || (n * 2),
                 'abandoned-step-' || (n * 2), {now}"
            ),
        ),
    ]
}
