//! Lists, pages and counts.

use rusqlite::{Connection, ToSql};

use super::super::{
    BackendResult, ListRuns, ListSteps, Page, PageEdge, RunCounts, RunStatus, StepAttempt, Window,
    WorkflowRun, codec,
};
use super::error::OpResult;
use super::rows::{self, run_columns, step_columns};

/// The runs named `?2`, up to where those of each status are limited. No index has the runs of one name in the
/// order of their creation, but one has those of each status of that name. The statuses are found by looking
/// for the next one after the last.
const NAMED: &str = concat!(
    "WITH RECURSIVE found (of_status) AS (
         SELECT min(status) FROM workflow_runs WHERE namespace_id = ?1 AND workflow_name = ?2
         UNION ALL
         SELECT (
             SELECT min(status) FROM workflow_runs
             WHERE namespace_id = ?1 AND workflow_name = ?2 AND status > of_status
         ) FROM found WHERE of_status IS NOT NULL
     )
     SELECT ",
    run_columns!(),
    " FROM found CROSS JOIN workflow_runs r ON r.rowid IN (
         SELECT rowid FROM workflow_runs
         WHERE namespace_id = ?1 AND workflow_name = ?2 AND status = of_status"
);

pub(super) fn runs(conn: &Connection, query: &ListRuns) -> OpResult<Page<WorkflowRun>> {
    let select = match (&query.workflow_name, &query.status) {
        (Some(name), None) => {
            let mut select = Select::new(NAMED, query.namespace_id.clone());
            select.values.push(Box::new(name.clone()));
            select.of_each = true;
            select
        }
        (name, status) => {
            let mut select = Select::new(
                concat!(
                    "SELECT ",
                    run_columns!(),
                    " FROM workflow_runs WHERE namespace_id = ?1"
                ),
                query.namespace_id.clone(),
            );
            if let Some(status) = status {
                select.condition("status = ", status.as_str().to_owned());
            }
            if let Some(name) = name {
                select.condition("workflow_name = ", name.clone());
            }
            select
        }
    };
    let found = select.window(conn, &query.window, Order::NewestFirst, rows::run)?;
    Ok(Page::assemble(found, &query.window, WorkflowRun::cursor))
}

pub(super) fn step_attempts(conn: &Connection, query: &ListSteps) -> OpResult<Page<StepAttempt>> {
    let mut select = Select::new(
        concat!(
            "SELECT ",
            step_columns!(),
            " FROM step_attempts a WHERE namespace_id = ?1"
        ),
        query.namespace_id.clone(),
    );
    select.condition("workflow_run_id = ", query.run_id.clone());
    let found = select.window(conn, &query.window, Order::OldestFirst, rows::step_attempt)?;
    Ok(Page::assemble(found, &query.window, StepAttempt::cursor))
}

pub(super) fn counts(conn: &Connection, namespace_id: &str) -> OpResult<RunCounts> {
    let mut statement = conn.prepare_cached(
        "SELECT status, count(*) FROM workflow_runs WHERE namespace_id = ?1 GROUP BY status",
    )?;
    let mut found = statement.query([namespace_id])?;
    let mut counts = RunCounts::default();
    while let Some(row) = found.next()? {
        let status = RunStatus::from_stored(row.get_ref(0)?.as_str().unwrap_or_default());
        let count: i64 = row.get(1)?;
        counts.add(&status, count.unsigned_abs());
    }
    Ok(counts)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    OldestFirst,
    NewestFirst,
}

/// A query under construction, with the values of its parameters.
struct Select {
    sql: String,
    values: Vec<Box<dyn ToSql>>,
    /// Whether it is inside of another, which has the same order and limit.
    of_each: bool,
}

impl Select {
    /// Begins with `sql`, whose first parameter is the namespace.
    fn new(sql: &str, namespace_id: String) -> Self {
        Self {
            sql: sql.to_owned(),
            values: vec![Box::new(namespace_id)],
            of_each: false,
        }
    }

    fn value(&mut self, value: impl ToSql + 'static) {
        self.values.push(Box::new(value));
        self.sql.push('?');
        self.sql.push_str(&self.values.len().to_string());
    }

    fn condition(&mut self, left: &str, value: String) {
        self.sql.push_str(" AND ");
        self.sql.push_str(left);
        self.value(value);
    }

    /// Reads one row more than the window shows, going away from its edge.
    fn window<T>(
        mut self,
        conn: &Connection,
        window: &Window,
        order: Order,
        read: impl Fn(&rusqlite::Row<'_>) -> BackendResult<T>,
    ) -> OpResult<Vec<T>> {
        let backwards = matches!(window.from, Some(PageEdge::Before(_)));
        let descending = (order == Order::NewestFirst) != backwards;
        if let Some(PageEdge::After(cursor) | PageEdge::Before(cursor)) = &window.from {
            self.sql.push_str(" AND (created_at, id) ");
            self.sql.push_str(if descending { "< (" } else { "> (" });
            self.value(codec::format_time(cursor.created_at()));
            self.sql.push_str(", ");
            self.value(cursor.id().to_owned());
            self.sql.push(')');
        }
        let before = self.sql.len();
        self.sql.push_str(if descending {
            " ORDER BY created_at DESC, id DESC LIMIT "
        } else {
            " ORDER BY created_at, id LIMIT "
        });
        self.value(i64::from(window.limit) + 1);
        if self.of_each {
            let order = self.sql[before..].to_owned();
            self.sql.push(')');
            self.sql.push_str(&order);
        }
        let mut statement = conn.prepare_cached(&self.sql)?;
        let values: Vec<&dyn ToSql> = self.values.iter().map(|value| &**value).collect();
        let mut found = statement.query(&*values)?;
        let mut records = Vec::new();
        while let Some(row) = found.next()? {
            records.push(read(row)?);
        }
        Ok(records)
    }
}
