//! Every statement of a store, written out once for a table.
//!
//! Their texts are constant for the life of the worker (lists come in a few sizes), so each is
//! prepared once per connection. What differs between the servers is a [`Dialect`].

use std::sync::Arc;

use jobd_proto::table::{Columns, Kind, TableName};

use super::lists::ListStatement;
use super::{OutputText, inspect};

/// Targets that one statement asks about.
pub(super) const PROBES: usize = 16;

/// How a server says it.
#[derive(Debug, Default)]
pub(super) struct Dialect {
    /// Begins a transaction that reads before it writes.
    pub(super) begin: &'static str,
    /// Seconds since 1970, by the database's clock.
    pub(super) now: &'static str,
    /// `=` for which NULL equals NULL.
    pub(super) same: &'static str,
    /// Behind a SELECT: locks its rows.
    pub(super) lock: &'static str,
    /// Behind a SELECT: locks its rows, passing over locked ones.
    pub(super) skip_locked: &'static str,
    /// Behind the table: which index leads to waiting rows.
    pub(super) claim_index: String,
    /// Behind the table: which index leads to a row by its id.
    pub(super) id_index: String,
    /// The largest statement with its values, in bytes.
    pub(super) max_packet: u64,
}

/// A table's statements and what its columns take.
#[derive(Debug)]
pub(super) struct Statements {
    /// Begins a transaction.
    pub(super) begin: &'static str,
    /// `waiting` ids of a target.
    pub(super) claim_select: Arc<str>,
    /// `waiting` → `accepted`.
    pub(super) accept: ListStatement,
    /// Which of the ids carry the token, waiting for whoever is changing them.
    pub(super) accepted: ListStatement,
    /// Manual rows, locked plainly: SKIP LOCKED would call a locked row missing.
    pub(super) manual_select: ListStatement,
    /// `manual` → `accepted`.
    pub(super) accept_manual: ListStatement,
    /// `accepted` → `running`.
    pub(super) start: ListStatement,
    /// Which of the ids are `running` with the token.
    pub(super) started: ListStatement,
    /// `running` → `done`.
    pub(super) finish: Arc<str>,
    /// Whether a row is `done` with these values.
    pub(super) finished: Arc<str>,
    /// `accepted` or `running` → `waiting` or `manual`.
    pub(super) release: ListStatement,
    /// Which of [`PROBES`] targets have a `waiting` row.
    pub(super) pending: Arc<str>,
    /// What fits `return_code`.
    pub(super) code_range: (i64, i64),
    /// Whether the column `target` takes 'Mail' for 'mail'.
    pub(super) target_ignores_case: bool,
    /// How outputs are made fit.
    pub(super) output_text: OutputText,
}

impl Statements {
    /// For a table with these columns.
    pub(super) fn new(table: &TableName, columns: &Columns, dialect: &Dialect) -> Self {
        let Dialect {
            begin,
            now,
            same,
            lock,
            skip_locked,
            claim_index,
            id_index,
            max_packet,
        } = dialect;
        let t = table.quoted();
        let token = inspect::token_column(columns);
        let nullable = columns.get(token).is_some_and(|column| column.nullable);
        let no_token = if nullable { "NULL" } else { "''" };
        // The cast makes the answer's type the same for every type of id.
        let id = "CAST(`id` AS SIGNED)";
        let waiting = format!("FROM {t} {claim_index} WHERE `status` = 'waiting' AND `target` = ?");
        let probe =
            |n| format!("SELECT {n} FROM (SELECT 1) AS one WHERE EXISTS (SELECT 1 {waiting})");
        let update = |set: &str, condition: &str| {
            format!("UPDATE {t} {id_index} SET {set} WHERE {condition}")
        };
        let select = |what: &str, condition: &str| {
            format!("SELECT {what} FROM {t} {id_index} WHERE {condition}")
        };
        let list = |statement: String| ListStatement::new(&format!("{statement} AND"), "");
        let locked_list = |statement: String| ListStatement::new(&statement, lock);
        let ours = |status: &str| format!("`{token}` = ? AND `status` = '{status}'");
        let accept = format!("`status` = 'accepted', `{token}` = ?");
        Self {
            begin,
            claim_select: format!("SELECT {id} {waiting} ORDER BY {t}.`id` LIMIT ? {skip_locked}").into(),
            accept: list(update(&accept, "`status` = 'waiting'")),
            accepted: locked_list(select(id, &format!("{} AND", ours("accepted")))),
            manual_select: locked_list(select(&format!("{id}, CAST(`status` AS CHAR), CAST(`target` AS CHAR)"), "")),
            accept_manual: list(update(&accept, "`status` = 'manual'")),
            start: list(update(&format!("`status` = 'running', `time_started` = {now}"), &ours("accepted"))),
            started: list(select(id, &ours("running"))),
            finish: update(
                &format!(
                    "`status` = 'done', `result` = ?, `return_code` = ?, `sig` = ?, `stdout` = ?, `stderr` = ?, `time_finished` = {now} - ?"
                ),
                &format!("`id` = ? AND {}", ours("running")),
            )
            .into(),
            finished: select(
                "COUNT(*)",
                &format!(
                    "`id` = ? AND `status` = 'done' AND `result` {same} ? AND `return_code` {same} ? AND `sig` {same} ? \
                     AND `stdout` {same} ? AND `stderr` {same} ?"
                ),
            )
            .into(),
            release: list(update(
                &format!("`status` = ?, `time_started` = 0, `{token}` = {no_token}"),
                &format!("`{token}` = ? AND `status` IN ('accepted', 'running')"),
            )),
            pending: (0..PROBES).map(probe).collect::<Vec<_>>().join(" UNION ALL ").into(),
            code_range: match columns.get("return_code").map(|column| &column.kind) {
                Some(Kind::Integer { min, max }) => (*min, *max),
                _ => (0, 127),
            },
            target_ignores_case: matches!(
                columns.get("target").map(|column| &column.kind),
                Some(Kind::Text { ignores_case: true, .. })
            ),
            output_text: OutputText::new(columns, *max_packet),
        }
    }
}
