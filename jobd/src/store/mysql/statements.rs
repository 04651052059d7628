//! Every statement of the MySQL store, written out once for a table.
//!
//! Their texts are constant for the life of the worker (lists come in a few sizes), so each is
//! prepared once per connection.

use std::sync::Arc;

use jobd_proto::table::{Columns, Kind, TableName, quote};

use crate::store::inspect::Index;
use crate::store::lists::ListStatement;
use crate::store::{OutputText, inspect};

/// Targets that one statement asks about.
pub(super) const PROBES: usize = 16;

/// A table's statements and what its columns take.
#[derive(Debug)]
pub(super) struct Statements {
    /// `waiting` ids of a target, locked where the server can pass over locked rows.
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
    /// For a table with these columns and indexes.
    pub(super) fn new(
        table: &TableName,
        columns: &Columns,
        indexes: &[Index],
        skip_locked: bool,
        max_packet: u64,
    ) -> Self {
        let t = table.quoted();
        let token = inspect::token_column(columns);
        // Planners drift to a full scan on tables that were small when last analysed, and to the
        // index on `status` where few rows are `accepted`, which would lock other workers' rows.
        let force = |index: Option<&Index>| {
            index.map_or_else(String::new, |index| {
                format!("FORCE INDEX ({})", quote(&index.name))
            })
        };
        let hint = force(inspect::claim_index(indexes));
        let rows = format!("{t} {}", force(inspect::id_index(indexes)));
        let lock = if skip_locked {
            "FOR UPDATE SKIP LOCKED"
        } else {
            ""
        };
        let no_token = if columns.get(token).is_some_and(|column| column.nullable) {
            "NULL"
        } else {
            "''"
        };
        let probe = |n| {
            format!(
                "SELECT {n} FROM DUAL WHERE EXISTS (SELECT 1 FROM {t} {hint} WHERE `status` = 'waiting' AND `target` = ?)"
            )
        };
        let list = |template: String| ListStatement::new(&template);
        Self {
            claim_select: format!(
                "SELECT CAST(`id` AS SIGNED) FROM {t} {hint} WHERE `status` = 'waiting' AND `target` = ? ORDER BY {t}.`id` LIMIT ? {lock}"
            )
            .into(),
            accept: list(format!("UPDATE {rows} SET `status` = 'accepted', `{token}` = ? WHERE `status` = 'waiting' AND `id` IN ({{list}})")),
            accepted: list(format!(
                "SELECT CAST(`id` AS SIGNED) FROM {rows} WHERE `{token}` = ? AND `status` = 'accepted' AND `id` IN ({{list}}) FOR UPDATE"
            )),
            manual_select: list(format!(
                "SELECT CAST(`id` AS SIGNED), CAST(`status` AS CHAR), CAST(`target` AS CHAR) FROM {rows} WHERE `id` IN ({{list}}) FOR UPDATE"
            )),
            accept_manual: list(format!("UPDATE {rows} SET `status` = 'accepted', `{token}` = ? WHERE `status` = 'manual' AND `id` IN ({{list}})")),
            start: list(format!(
                "UPDATE {rows} SET `status` = 'running', `time_started` = UNIX_TIMESTAMP() \
                 WHERE `{token}` = ? AND `status` = 'accepted' AND `id` IN ({{list}})"
            )),
            started: list(format!(
                "SELECT CAST(`id` AS SIGNED) FROM {rows} WHERE `{token}` = ? AND `status` = 'running' AND `id` IN ({{list}})"
            )),
            finish: format!(
                "UPDATE {rows} SET `status` = 'done', `result` = ?, `return_code` = ?, `sig` = ?, `stdout` = ?, `stderr` = ?, \
                 `time_finished` = UNIX_TIMESTAMP() - ? WHERE `id` = ? AND `status` = 'running' AND `{token}` = ?"
            )
            .into(),
            finished: format!(
                "SELECT COUNT(*) FROM {rows} WHERE `id` = ? AND `status` = 'done' AND `result` <=> ? AND `return_code` <=> ? \
                 AND `sig` <=> ? AND `stdout` <=> ? AND `stderr` <=> ?"
            )
            .into(),
            release: list(format!(
                "UPDATE {rows} SET `status` = ?, `time_started` = 0, `{token}` = {no_token} \
                 WHERE `{token}` = ? AND `status` IN ('accepted', 'running') AND `id` IN ({{list}})"
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
            output_text: OutputText::new(columns, max_packet),
        }
    }
}
