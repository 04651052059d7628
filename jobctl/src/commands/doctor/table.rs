//! What can be amiss with the table: its columns, its indexes, its clock, rows that nobody moves.

use std::collections::BTreeSet;

use jobd_proto::table::{
    Connection, DatabaseSettings, JobRow, Kind, REQUIRED, RowError, Scan, Schema, TableIndex,
};

use super::{Finding, few};
use crate::database::{self, Database};
use crate::output::{now, seconds, several};

/// Clocks of hosts in one network agree better than this.
const CLOCKS_S: i64 = 5;

/// A lease that has passed for longer has no rescuer: workers look every few seconds.
const LEASE_PASSED_S: i64 = 300;

/// A job without a lease that runs for longer may have lost its worker.
const LONG_RUN_S: i64 = 86_400;

/// An accepted job that is not started for longer has lost its worker.
const LONG_QUEUE_S: i64 = 3_600;

/// The columns of ownership.
const OWNERSHIP: &[&str] = &["worker", "lease_until", "attempts", "interruptions"];

/// Columns that belong together, and what they are for.
const ABILITIES: [(&str, &[&str]); 10] = [
    ("ownership", OWNERSHIP),
    ("retries", &["max_attempts", "errors"]),
    ("later", &["run_at"]),
    ("priority", &["priority"]),
    ("timeout", &["timeout"]),
    ("reason", &["reason"]),
    ("cancel", &["cancel_requested"]),
    ("data", &["data"]),
    ("progress", &["progress"]),
    ("accounting", &["cpu_ms", "peak_kib"]),
];

/// Looks at it.
pub(super) async fn examine(
    table: &mut Connection,
    settings: &Database,
    findings: &mut Vec<Finding>,
) -> Result<(), RowError> {
    let place = database::place(settings);
    let found = columns(table, settings);
    if found.is_empty() {
        findings.push(Finding::ok("table", place));
    }
    findings.extend(found);
    let indexes = table.indexes().await?;
    findings.extend(missing_indexes(table, &indexes));
    let server = table.server_time().await?;
    let newest = table.newest(&Scan::default(), None, 1).await?;
    findings.push(clocks(server, newest.jobs.first()));
    let wanted = ["worker", "lease_until"];
    let wanted = wanted.into_iter().filter(|name| table.columns().has(name));
    let wanted: Vec<String> = wanted.map(str::to_owned).collect();
    let active = table.active(&wanted).await?;
    let name = table.quoted_table();
    let stuck = active
        .iter()
        .filter_map(|row| Some((row.status.as_str(), stuck(row, server, name)?)));
    let (statuses, stuck): (BTreeSet<&str>, Vec<Finding>) = stuck.unzip();
    if stuck.is_empty() {
        let text = format!(
            "{} in hand, none of them stuck",
            several(active.len(), "row")
        );
        findings.push(Finding::ok("rows", text));
    }
    let jobctl = settings.given.same();
    let lists = statuses.into_iter();
    let lists = lists.map(|status| format!("{jobctl} list --status {status} --limit 10000"));
    let lists: Vec<String> = lists.collect();
    findings.extend(few(stuck, &lists.join("; ")));
    Ok(())
}

/// Whether a worker that looks at this table finds ownership.
pub(super) fn has_ownership(table: &Connection) -> bool {
    OWNERSHIP.iter().all(|name| table.columns().has(name))
}

fn columns(table: &Connection, settings: &Database) -> Vec<Finding> {
    let (columns, schema) = (table.columns(), Schema::Full.sql(&settings.settings));
    let lacks = |names: &[&'static str]| -> Vec<&'static str> {
        let names = names.iter().copied();
        names.filter(|name| !columns.has(name)).collect()
    };
    let mut findings = Vec::new();
    let missing = lacks(&REQUIRED);
    if !missing.is_empty() {
        findings.push(Finding::error(
            "table",
            format!("columns are missing: {}", missing.join(", ")),
            addition(table.quoted_table(), schema, &missing),
        ));
    }
    for (name, group) in ABILITIES {
        let missing = lacks(group);
        let ddl = || addition(table.quoted_table(), schema, &missing);
        if !missing.is_empty() && missing.len() < group.len() {
            let text = format!(
                "{name} is off, as columns are missing: {}",
                missing.join(", ")
            );
            findings.push(Finding::warning("table", text, ddl()));
        } else if name == "ownership" && !missing.is_empty() {
            let text = "without ownership rows of a worker that dies stay accepted or running";
            findings.push(Finding::warning("table", text, ddl()));
        }
    }
    if let Some(Kind::Text {
        values: Some(values),
        ..
    }) = columns.get("status").map(|column| &column.kind)
    {
        let known = [
            "waiting", "manual", "accepted", "running", "done", "ignored",
        ];
        let later = columns.has("run_at").then_some("scheduled");
        let missing: Vec<&str> = known
            .into_iter()
            .chain(later)
            .filter(|status| !values.iter().any(|value| value == status))
            .collect();
        // What there is stays where it is: whatever is stored as a number keeps its meaning.
        let all = values
            .iter()
            .map(String::as_str)
            .chain(missing.iter().copied());
        let all: Vec<String> = all
            .map(|value| format!("'{}'", value.replace('\'', "''")))
            .collect();
        if !missing.is_empty() {
            let mended = match settings.settings {
                DatabaseSettings::MySql(_) => format!(
                    "ALTER TABLE {} MODIFY `status` enum({}) NOT NULL DEFAULT 'waiting'",
                    table.quoted_table(),
                    all.join(",")
                ),
                // A column takes the place of another there, and indexes are made anew: the worker knows them.
                DatabaseSettings::Sqlite(_) => {
                    "the statements that jobd --check-config prints".to_owned()
                }
            };
            let text = format!("the column status lacks {}", missing.join(", "));
            // The worker does without that one, and run_at may be the application's own.
            let is_needed = missing != ["scheduled"];
            findings.push(if is_needed {
                Finding::error("table", text, mended)
            } else {
                Finding::warning("table", text, mended)
            });
        }
    }
    findings
}

/// The statements that add these columns as the full table has them.
fn addition(table: &str, schema: &str, columns: &[&str]) -> String {
    let definitions = columns.iter().filter_map(|name| {
        let starts = [format!("  `{name}` "), format!("  \"{name}\" ")];
        let mut lines = schema.lines();
        let line = lines.find(|line| starts.iter().any(|start| line.starts_with(start)))?;
        Some(line.trim().trim_end_matches(','))
    });
    let statements =
        definitions.map(|definition| format!("ALTER TABLE {table} ADD COLUMN {definition}"));
    statements.collect::<Vec<_>>().join("; ")
}

fn missing_indexes(table: &Connection, indexes: &[TableIndex]) -> Vec<Finding> {
    let begins = |columns: &[&str]| {
        indexes.iter().find(|index| {
            let first = index.columns.iter().map(String::as_str).take(columns.len());
            first.eq(columns.iter().copied())
        })
    };
    let prioritised = table.columns().has("priority");
    let begun = begins(&["status", "target"]);
    let mut findings = vec![claims(table, indexes, prioritised, begun.is_some())];
    for (column, name) in [("run_at", "run_at_idx"), ("cancel_requested", "cancel_idx")] {
        if table.columns().has(column) && begins(&[column]).is_none() {
            findings.push(Finding::warning(
                "indexes",
                format!(
                    "no index begins with {column}: looking for such rows reads the whole table"
                ),
                table.index_ddl(name, &[column]),
            ));
        }
    }
    findings
}

/// The index that claims go by. `begun`: there is one, at least, that begins with status and target.
fn claims(table: &Connection, indexes: &[TableIndex], prioritised: bool, begun: bool) -> Finding {
    let columns: &[&str] = if prioritised {
        &["status", "target", "priority desc", "id"]
    } else {
        &["status", "target", "id"]
    };
    if let Some(index) = claim_index(indexes, prioritised) {
        return Finding::ok("indexes", format!("claims go by the index {}", index.name));
    }
    let added = |name| table.index_ddl(name, columns);
    match claim_index(indexes, false) {
        Some(plain) => Finding::warning(
            "indexes",
            format!(
                "claims sort all that waits for their target, as the index {} lacks priority DESC (which MySQL 8 and MariaDB 10.8 know)",
                plain.name
            ),
            table.reindex_ddl(&plain.name, columns),
        ),
        None if begun => Finding::warning(
            "indexes",
            format!(
                "no index goes by {}: claims sort all that waits for their target",
                columns.join(", ")
            ),
            added("status_target_claim_idx"),
        ),
        None => Finding::error(
            "indexes",
            "no index begins with status and target: every claim reads the whole table",
            added("status_target_idx"),
        ),
    }
}

/// The index that serves claims, as a worker sees it: each has `id` at its end, whether it is named or not.
fn claim_index(indexes: &[TableIndex], prioritised: bool) -> Option<&TableIndex> {
    indexes.iter().find(|index| {
        let mut columns = index.columns.iter().map(String::as_str);
        let first = (columns.next(), columns.next());
        matches!(
            first,
            (Some("status"), Some("target")) | (Some("target"), Some("status"))
        ) && (!prioritised || columns.next() == Some("priority desc"))
            && matches!(columns.next(), None | Some("id"))
    })
}

/// The database's clock against this machine's, and against the newest row's.
fn clocks(server: i64, newest: Option<&JobRow>) -> Finding {
    let here = now();
    let apart = (server - here).abs();
    if apart > CLOCKS_S {
        let apart = seconds(apart.unsigned_abs());
        return Finding::warning(
            "clocks",
            format!("the clocks of the database and of this host are {apart} apart"),
            "timedatectl set-ntp true # on the host whose clock is wrong",
        );
    }
    if let Some(row) = newest.filter(|row| row.time_created > server + CLOCKS_S) {
        return Finding::warning(
            "clocks",
            format!(
                "job {} was added in the future, by the database's clock",
                row.id
            ),
            "timedatectl set-ntp true # on the host of the application",
        );
    }
    Finding::ok("clocks", "the database and this host agree")
}

/// Whether nobody is going to move this row.
fn stuck(row: &JobRow, now: i64, table: &str) -> Option<Finding> {
    let value = |column: &str| {
        let found = row.others.iter().find(|(name, _)| name == column);
        found.and_then(|(_, value)| value.clone())
    };
    let (id, target) = (row.id, &row.target);
    let since = now - row.time_started.max(row.time_created);
    let age = || seconds(since.max(0).unsigned_abs());
    let back = format!(
        "UPDATE {table} SET status = 'waiting' WHERE id = {id} AND status = '{}' -- if no worker has it any more",
        row.status
    );
    let lease = value("lease_until").and_then(|lease| lease.parse::<i64>().ok());
    match (lease, row.status.as_str()) {
        (Some(lease), _) if lease > 0 && now - lease > LEASE_PASSED_S => Some(Finding::error(
            "rows",
            format!(
                "job {id} ({target}) is {}, and its lease passed long ago",
                row.status
            ),
            // The text names it: what an application has written has no place in a command.
            "systemctl start jobd # on a host that serves this target: it rescues such rows within a lease",
        )),
        (None, "running") if row.time_started > 0 && since > LONG_RUN_S => Some(Finding::warning(
            "rows",
            format!("job {id} ({target}) runs for {} without a lease", age()),
            back,
        )),
        (None, "accepted") if since > LONG_QUEUE_S => Some(Finding::warning(
            "rows",
            format!(
                "job {id} ({target}) is accepted and not started for {}",
                age()
            ),
            back,
        )),
        _ => None,
    }
}
