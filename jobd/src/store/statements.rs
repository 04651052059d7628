//! Every statement of a store, written out once for a table.
//!
//! Their texts are constant for the life of the worker (lists come in a few sizes), so each is
//! prepared once per connection. What differs between the servers is a [`Dialect`].

use std::sync::Arc;
use std::time::Duration;

use jobd_proto::TargetName;
use jobd_proto::table::{Columns, Kind, TableName};

use super::advance::{AdvanceStatement, Bounds, UNKNOWN_USAGE};
use super::cancel::{self, CancelStatements};
use super::counts::{Counts, terms};
use super::dialect::{Beginning, Dialect};
use super::floors::Place;
use super::glance::{Glance, probe};
use super::history::History;
use super::later::LaterStatements;
use super::lists::ListStatement;
use super::progress::ProgressStatements;
use super::{Abilities, Ability, OutputText, Sight, inspect};
use crate::faults::guard;

/// Targets that one statement asks about.
pub(super) const PROBES: usize = 16;

/// What makes claims leases.
#[derive(Clone, Debug)]
pub(super) struct Ownership {
    /// A lease from now on, for rows with a token of ours.
    pub(super) renew: ListStatement,
    /// Which rows have a token of ours and nobody has locked; locks them. All, on a server that cannot tell.
    pub(super) free: ListStatement,
    /// Which rows are ours still: they have a token of ours, or a verdict that their end will replace.
    pub(super) held: ListStatement,
    /// Every row with a lease.
    pub(super) leases: Arc<str>,
}

/// A table's statements and what its columns take.
#[derive(Clone, Debug)]
pub(super) struct Statements {
    /// What they are for.
    pub(super) abilities: Abilities,
    /// Begins a transaction.
    pub(super) begin: &'static str,
    /// The first `waiting` rows of a target, as [`Taken`](super::connection::Taken) has them. By the index's leading columns
    /// alone: MariaDB locks where a range ends, and that is the first row of the next target, which a claim there would pass over.
    claim_first: Arc<str>,
    /// Those behind a place.
    pub(super) claim_behind: Arc<str>,
    /// Whether places are by priority.
    prioritised: bool,
    /// Whether claims lock their rows.
    pub(super) claim_locks: bool,
    /// `waiting` → `accepted`.
    pub(super) accept: ListStatement,
    /// The same, and how often the job may run where the row does not say so. `None` on a table without retries.
    pub(super) accept_retried: Option<ListStatement>,
    /// The largest number that its column takes.
    pub(super) most_attempts: u32,
    /// Which of the ids carry the token, waiting for whoever is changing them: as `claim_first` has them.
    pub(super) accepted: ListStatement,
    /// One after the other: write rows, and leave them as they were.
    pub(super) touches: [ListStatement; 2],
    /// Manual rows, locked plainly: SKIP LOCKED would call a locked row missing.
    pub(super) manual_select: ListStatement,
    /// `manual` → `accepted`.
    pub(super) accept_manual: ListStatement,
    /// `accepted` → `running`, `running` → `done`.
    pub(super) advance: AdvanceStatement,
    /// Which of the ids are `running` with the token.
    pub(super) started: ListStatement,
    /// The payload of a row that is `running` with the token.
    pub(super) data: Arc<str>,
    /// Whether a row is `done` with these values.
    pub(super) finished: Arc<str>,
    /// `accepted` or `running` → `waiting` or `manual`.
    pub(super) release: ListStatement,
    /// What a row says of its job: status, token while it is claimed, result, exit code, signal.
    pub(super) row: Arc<str>,
    /// `None` on a table without the column.
    pub(super) progress: Option<ProgressStatements>,
    /// Rows that carry a token of one worker.
    pub(super) leftovers: Arc<str>,
    /// An orphan → `waiting` or `manual`.
    pub(super) give_back: Arc<str>,
    /// An orphan → `done`.
    pub(super) verdict: Arc<str>,
    /// `None` on a table without ownership.
    pub(super) ownership: Option<Ownership>,
    /// Ends rows that are not to run.
    pub(super) cancel: CancelStatements,
    /// `None` on a table without rows for later.
    pub(super) later: Option<LaterStatements>,
    /// `None` on a table without retries.
    pub(super) history: Option<History>,
    /// `None` on a table where nothing comes up by itself.
    pub(super) glance: Option<Glance>,
    /// Which of [`PROBES`] targets have a `waiting` row.
    pub(super) pending: Arc<str>,
    /// The next target that has one, of those that begin with something.
    pub(super) next_name: Arc<str>,
    pub(super) beginning: Beginning,
    /// Every target that there can be, where the column is an ENUM: its order is not that of the names.
    pub(super) every_target: Option<Arc<[TargetName]>>,
    /// Whether the column `target` takes 'Mail' for 'mail'.
    pub(super) target_ignores_case: bool,
    /// How outputs are made fit.
    pub(super) output_text: OutputText,
}

impl Statements {
    /// What finds the waiting rows of a target behind a place, and the values that say so, after the target's.
    pub(super) fn claim_from(&self, place: Place) -> (&Arc<str>, Vec<i64>) {
        let Place { priority, id } = place;
        match (place, self.prioritised) {
            (Place::FIRST, _) => (&self.claim_first, Vec::new()),
            (_, true) => (&self.claim_behind, vec![priority, id, priority]),
            (_, false) => (&self.claim_behind, vec![id]),
        }
    }

    /// Leases are asked about on tables with ownership only; its columns may have been dropped since.
    pub(super) fn owned(&self) -> Result<&Ownership, sqlx::Error> {
        let ownership = self.ownership.as_ref();
        ownership.ok_or_else(|| sqlx::Error::ColumnNotFound("lease_until".to_owned()))
    }

    /// For a table with these columns and abilities, whose leases are good for `lease`.
    pub(super) fn new(
        table: &TableName,
        columns: &Columns,
        abilities: Abilities,
        dialect: &Dialect,
        lease: Duration,
    ) -> Self {
        let Dialect {
            begin,
            now,
            same,
            lock,
            skip_locked,
            beginning,
            claim_index,
            id_index,
            cancel_index,
            unranged,
            max_packet,
            ..
        } = dialect;
        let t = table.quoted();
        let token = inspect::token_column(columns);
        let nullable = columns.get(token).is_some_and(|column| column.nullable);
        let no_token = if nullable { "NULL" } else { "''" };
        let counts = Counts::new(columns, abilities, now, lease);
        let Counts {
            leased,
            unleased,
            unsaid,
            ..
        } = &counts;
        // The cast makes the answer's type the same for every type of id.
        let id = "CAST(`id` AS SIGNED)";
        let claim = format!("{id}, {}", terms(columns, abilities));
        let waiting = format!("FROM {t} {claim_index} WHERE `status` = 'waiting' AND `target` = ?");
        let prioritised = abilities.has(Ability::Priority);
        // Two ranges of the index, in its order: the rest of a priority, and lower ones. A third, for higher ones, would
        // begin before the floor, and be read through all that nobody has purged yet.
        // A sum is no range: see `claim_first`. No id of ours is below 1.
        let any = format!("0 + {t}.`id` > 0");
        let (behind, order) = if prioritised {
            let p = format!("{unranged}`priority`");
            let behind = format!("(({p} = ? AND {t}.`id` > ?) OR {p} < ?) AND {any}");
            (behind, format!("ORDER BY `priority` DESC, {t}.`id`"))
        } else {
            (format!("{t}.`id` > ?"), format!("ORDER BY {t}.`id`"))
        };
        let update = |set: &str, condition: &str| {
            format!("UPDATE {t} {id_index} SET {set} WHERE {condition}")
        };
        let select = |what: &str, condition: &str| {
            format!("SELECT {what} FROM {t} {id_index} WHERE {condition}")
        };
        let list = |statement: String| ListStatement::new(&format!("{statement} AND"), "");
        let locked_list = |statement: String| ListStatement::new(&statement, lock);
        let ours = |status: &str| format!("`{token}` = ? AND `status` = '{status}'");
        let claimed = "`status` IN ('accepted', 'running')";
        // In its index stand those only whose time is to come.
        let at_once = if abilities.has(Ability::Later) {
            ", `run_at` = NULL"
        } else {
            ""
        };
        // Of bytes that are no text MySQL would make NULL, which looks like the end of the table.
        let name = match columns.get("target").map(|column| &column.kind) {
            Some(Kind::Binary { .. }) => "`target`",
            _ => "CAST(`target` AS CHAR)",
        };
        let accept = format!("`status` = 'accepted', `{token}` = ?{leased}{at_once}");
        let named = "`worker` >= ? AND `worker` < ?";
        let of_us = format!("{named} AND {claimed}");
        let as_seen = guard!(
            "rescue-that-names-no-lease",
            format!(
                "`id` = ? AND `status` = ? AND `{token}` = ? AND {} = ?",
                counts.until
            ),
            "`id` = ? AND `status` = ? AND ? <> '' AND ? >= 0"
        );
        let cancel = CancelStatements::new(
            &t,
            token,
            &cancel::Parts {
                now,
                lock,
                skip_locked,
                id_index,
                cancel_index: abilities.has(Ability::Cancel).then_some(cancel_index),
                no_token,
                unleased,
                later: abilities.has(Ability::Later),
                reasons: counts.reasons,
            },
        );
        let later = abilities
            .has(Ability::Later)
            .then(|| LaterStatements::new(&t, token, no_token, abilities, &counts, dialect));
        let due = later.iter().map(|later| (Sight::Due, &*later.look));
        let requests = cancel.requests.iter();
        let requests = requests.map(|requests| (Sight::Requests, &*requests.look));
        Self {
            abilities,
            begin,
            glance: Glance::new(&due.chain(requests).collect::<Vec<_>>()),
            claim_locks: !skip_locked.is_empty(),
            claim_first: format!("SELECT {claim} {waiting} AND {any} {order} LIMIT ? {skip_locked}").into(),
            claim_behind: format!("SELECT {claim} {waiting} AND {behind} {order} LIMIT ? {skip_locked}").into(),
            prioritised,
            accept: list(update(&accept, guard!("claim-without-status", "`status` = 'waiting'", "1 = 1"))),
            accept_retried: abilities.has(Ability::Retries).then(|| {
                let most = "`max_attempts` = COALESCE(`max_attempts`, ?)";
                list(update(&format!("{most}, {accept}"), "`status` = 'waiting'"))
            }),
            most_attempts: most_of(columns, "max_attempts"),
            accepted: locked_list(select(&claim, &format!("{} AND", ours("accepted")))),
            touches: ["+ 1", "- 1"].map(|step| {
                let set = format!("`time_started` = `time_started` {step}");
                ListStatement::new(&format!("UPDATE {t} {id_index} SET {set} WHERE"), "")
            }),
            manual_select: locked_list(select(
                &format!("{claim}, CAST(`status` AS CHAR), CAST(`target` AS CHAR)"),
                "",
            )),
            accept_manual: list(update(&accept, "`status` = 'manual'")),
            advance: AdvanceStatement::new(&t, token, &counts, dialect, Bounds::of(columns, abilities)),
            started: list(select(id, &ours("running"))),
            data: select(
                if abilities.has(Ability::Data) { "`data`" } else { "NULL" },
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
                &format!("{}`status` = ?, `time_started` = 0, `{token}` = {no_token}{unleased}{unsaid}", counts.interrupt),
                &format!("`{token}` = ? AND {claimed}"),
            )),
            row: select(
                &format!(
                    "CAST(`status` AS CHAR), CASE WHEN {claimed} THEN CAST(`{token}` AS CHAR) ELSE NULL END, \
                     CAST(`result` AS CHAR), CAST(`return_code` AS CHAR), CAST(`sig` AS CHAR)"
                ),
                "`id` = ?",
            )
            .into(),
            progress: abilities
                .has(Ability::Progress)
                .then(|| ProgressStatements::new(&t, token, columns, dialect)),
            leftovers: format!(
                "SELECT {id}, CAST(`status` AS CHAR), CAST(`{token}` AS CHAR), {}, {} \
                 FROM {t} {claim_index} WHERE {claimed} AND `{token}` >= ? AND `{token}` < ?",
                counts.until, counts.again_now
            )
            .into(),
            give_back: update(
                &format!("{}`status` = ?, `time_started` = 0, `{token}` = {no_token}{unleased}{unsaid}", counts.interrupt),
                &as_seen,
            )
            .into(),
            // A lease of 0 marks a verdict that the holder's own result may still replace.
            verdict: update(
                &format!(
                    "`status` = 'done', `result` = 'fail', `return_code` = NULL, `sig` = NULL, `stderr` = ?, \
                     `time_finished` = {now}{}{}{}",
                    counts.given_up,
                    if counts.reasons { ", `reason` = 'orphaned'" } else { "" },
                    if abilities.has(Ability::Accounting) { UNKNOWN_USAGE } else { "" }
                ),
                &as_seen,
            )
            .into(),
            ownership: counts.owned.then(|| Ownership {
                renew: list(update(&format!("`lease_until` = {}", counts.lease), &of_us)),
                free: ListStatement::new(&format!("{} AND", select(id, &of_us)), skip_locked),
                held: list(select(
                    id,
                    &format!("{named} AND (`status` = 'accepted' OR {})", counts.unfinished),
                )),
                leases: format!(
                    "SELECT {id}, CAST(`status` AS CHAR), CAST(`worker` AS CHAR), CAST(`lease_until` AS SIGNED), {} \
                     FROM {t} {claim_index} WHERE {claimed} AND `lease_until` > 0",
                    counts.again_now
                )
                .into(),
            }),
            cancel,
            later,
            history: abilities
                .has(Ability::Retries)
                .then(|| History::new(&t, token, &counts, dialect)),
            pending: (0..PROBES).map(|n| probe(n, &waiting)).collect::<Vec<_>>().join(" UNION ALL ").into(),
            next_name: format!(
                "SELECT {name} FROM {t} {claim_index} WHERE `status` = 'waiting' \
                 AND {} ORDER BY `target` LIMIT 1",
                beginning.condition()
            )
            .into(),
            beginning: *beginning,
            every_target: match columns.get("target").map(|column| &column.kind) {
                Some(Kind::Text { values: Some(values), .. }) => {
                    Some(values.iter().filter_map(|name| TargetName::new(name).ok()).collect())
                }
                _ => None,
            },
            target_ignores_case: matches!(
                columns.get("target").map(|column| &column.kind),
                Some(Kind::Text { ignores_case: true, .. })
            ),
            output_text: OutputText::new(columns, *max_packet),
        }
    }
}

#[cfg(test)]
impl Statements {
    /// Every text, for EXPLAIN.
    pub(super) fn texts(&self) -> Vec<Arc<str>> {
        let lists = [
            &self.accept,
            &self.accepted,
            &self.manual_select,
            &self.accept_manual,
            &self.started,
            &self.release,
        ];
        let owned = self.ownership.iter();
        let owned_lists = owned
            .clone()
            .flat_map(|owned| [&owned.free, &owned.renew, &owned.held]);
        let lists = lists.into_iter().chain(owned_lists);
        let single = [
            &self.claim_first,
            &self.claim_behind,
            &self.data,
            &self.finished,
            &self.row,
            &self.leftovers,
            &self.give_back,
            &self.verdict,
            &self.pending,
            &self.next_name,
        ];
        lists
            .flat_map(ListStatement::texts)
            .chain(self.advance.texts())
            .chain(single)
            .chain(owned.map(|owned| &owned.leases))
            .chain(self.accept_retried.iter().flat_map(ListStatement::texts))
            .chain(self.later.iter().flat_map(LaterStatements::texts))
            .chain(self.history.iter().flat_map(History::texts))
            .chain(self.glance.iter().map(|glance| &glance.text))
            .cloned()
            .chain(self.cancel.texts())
            .chain(
                self.progress
                    .iter()
                    .flat_map(ProgressStatements::texts)
                    .cloned(),
            )
            .collect()
    }
}

/// The largest number that a column takes, as far as there is any that we write to it.
fn most_of(columns: &Columns, column: &str) -> u32 {
    match columns.get(column).map(|column| &column.kind) {
        Some(Kind::Integer { max, .. }) => u32::try_from(*max).unwrap_or(u32::MAX),
        _ => u32::MAX,
    }
}
