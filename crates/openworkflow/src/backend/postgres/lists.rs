//! Lists, pages and counts.
//!
//! A page is asked for seldom, and in many ways. So each statement is planned when it is executed, for
//! the tables as they are then. The indexes have runs in the order of their creation, and nothing tells
//! those apart that were created at the same time: so all of these are read where a page ends among them,
//! and sorted afterwards.

use std::time::SystemTime;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::rows::{RUN_COLUMNS, STEP_COLUMNS};
use super::session::{Call, Param, Query, WhenLost};
use super::{Inner, rows};
use crate::backend::{
    BackendResult, Cursor, ListRuns, ListSteps, Page, PageEdge, RunCounts, RunStatus, StepAttempt,
    Window, WorkflowRun,
};

/// What limits a page: on which side of which row it lies, and how many rows are read.
struct Edge {
    /// Rows after it in the order of the creation, or before it.
    later: bool,
    row: Option<(SystemTime, String)>,
    limit: u64,
}

impl Edge {
    fn new(window: &Window, oldest_first: bool) -> Self {
        let (backwards, cursor) = match &window.from {
            None => (false, None),
            Some(PageEdge::After(cursor)) => (false, Some(cursor)),
            Some(PageEdge::Before(cursor)) => (true, Some(cursor)),
        };
        let row = |cursor: &Cursor| (rows::time(cursor.created_at()), cursor.id().to_owned());
        Self {
            later: oldest_first != backwards,
            row: cursor.map(row),
            limit: u64::from(window.limit) + 1,
        }
    }

    /// The condition, with two parameters from `$n` on, where there is a row to begin at.
    fn condition(&self, n: usize) -> String {
        let than = if self.later { '>' } else { '<' };
        match &self.row {
            None => String::new(),
            Some(_) => format!(" AND (r.created_at, r.id) {than} (${n}, ${})", n + 1),
        }
    }

    /// The order of an index, and its end.
    fn along_the_index(&self) -> String {
        let way = if self.later { "ASC" } else { "DESC" };
        format!(
            " ORDER BY r.created_at {way} FETCH FIRST {} ROWS WITH TIES",
            self.limit
        )
    }

    fn order(&self) -> String {
        let way = if self.later { "ASC" } else { "DESC" };
        format!(
            " ORDER BY r.created_at {way}, r.id {way} LIMIT {}",
            self.limit
        )
    }

    fn add<'a>(&'a self, types: &mut Vec<Type>, params: &mut Vec<Param<'a>>) {
        if let Some((created_at, id)) = &self.row {
            types.extend([Type::TIMESTAMPTZ, Type::TEXT]);
            params.extend([created_at as Param<'_>, id]);
        }
    }
}

impl Inner {
    pub(super) async fn list_runs(&self, query: ListRuns) -> BackendResult<Page<WorkflowRun>> {
        let edge = Edge::new(&query.window, false);
        let status = query.status.as_ref().map(RunStatus::as_str);
        let mut types = vec![Type::TEXT];
        let mut params: Vec<Param<'_>> = vec![&query.namespace_id];
        let mut conditions = "r.namespace_id = $1".to_owned();
        if let Some(name) = &query.workflow_name {
            types.push(Type::TEXT);
            params.push(name);
            conditions.push_str(&format!(" AND r.workflow_name = ${}", params.len()));
        }
        if let Some(status) = &status {
            types.push(Type::TEXT);
            params.push(status);
            conditions.push_str(&format!(" AND r.status = ${}", params.len()));
        }
        let beyond = edge.condition(params.len() + 1);
        edge.add(&mut types, &mut params);
        let runs = format!("\"{}\".\"workflow_runs\" r", self.schema);
        let (walk, order) = (edge.along_the_index(), edge.order());
        let text = if query.workflow_name.is_some() && status.is_none() {
            // No index has the runs of one name in the order of their creation, but one has those of each
            // status of that name. The statuses are found by looking for the next one after the last.
            format!(
                "WITH RECURSIVE statuses (status) AS (
                    (SELECT r.status FROM {runs} WHERE {conditions} ORDER BY r.status LIMIT 1)
                    UNION ALL
                    SELECT (
                        SELECT r.status FROM {runs} WHERE {conditions} AND r.status > s.status
                        ORDER BY r.status LIMIT 1
                    ) FROM statuses s WHERE s.status IS NOT NULL
                )
                SELECT {RUN_COLUMNS} FROM statuses s CROSS JOIN LATERAL (
                    SELECT * FROM {runs} WHERE {conditions} AND r.status = s.status{beyond}{walk}
                ) r
                {order}"
            )
        } else {
            format!(
                "SELECT {RUN_COLUMNS} FROM (
                    SELECT * FROM {runs} WHERE {conditions}{beyond}{walk}
                ) r
                {order}"
            )
        };
        let statement = Query::once(text, &types);
        let rows = self.along_indexes(statement.with(&params)).await?;
        let runs = rows.iter().map(rows::run).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::assemble(runs, &query.window, WorkflowRun::cursor))
    }

    pub(super) async fn list_step_attempts(
        &self,
        query: ListSteps,
    ) -> BackendResult<Page<StepAttempt>> {
        let edge = Edge::new(&query.window, true);
        let mut types = vec![Type::TEXT, Type::TEXT];
        let mut params: Vec<Param<'_>> = vec![&query.namespace_id, &query.run_id];
        let beyond = edge.condition(params.len() + 1);
        edge.add(&mut types, &mut params);
        let columns = STEP_COLUMNS.replace("s.", "r.");
        let text = format!(
            "SELECT {columns} FROM \"{}\".\"step_attempts\" r
             WHERE r.namespace_id = $1 AND r.workflow_run_id = $2{beyond}{}",
            self.schema,
            edge.order()
        );
        let statement = Query::once(text, &types);
        let rows = self.along_indexes(statement.with(&params)).await?;
        let steps = rows.iter().map(rows::step).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::assemble(steps, &query.window, StepAttempt::cursor))
    }

    /// Executes a statement that reads what it wants in the order of an index. The server, which may not
    /// have counted the rows of a young table, is told not to read and sort the whole of something.
    async fn along_indexes(&self, call: Call<'_>) -> BackendResult<Vec<Row>> {
        let calls = [self.sql.in_order.with(&[]), call];
        let mut results = self.sessions.all(WhenLost::Again, &calls).await?;
        Ok(results.pop().unwrap_or_default())
    }

    pub(super) async fn count_runs(&self, namespace_id: &str) -> BackendResult<RunCounts> {
        let params: [Param<'_>; 1] = [&namespace_id];
        let rows = self
            .sessions
            .one(WhenLost::Again, self.sql.count_runs.with(&params))
            .await?;
        let mut counts = RunCounts::default();
        for row in &rows {
            let status: String = rows::value(row, 0)?;
            let count: i64 = rows::value(row, 1)?;
            counts.add(
                &RunStatus::from_stored(&status),
                u64::try_from(count).unwrap_or(0),
            );
        }
        Ok(counts)
    }
}
