//! Whether a table is fit to work on, and the DDL that would make it so. Pure; the stores read the
//! catalogues.

use std::fmt;

use jobd_proto::table::{Column, Columns, Kind, TableName};

use super::abilities::{self, Abilities, Ability, WORKER};
use super::ddl::{Ddl, descending};
use crate::job::MAX_TOKEN;

/// What was found out about the table and its server.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// The server: `MariaDB 10.11.6`, `SQLite 3.46.0`.
    pub server: String,
    /// What the table's columns switch on.
    pub abilities: Abilities,
    /// Whether the column `target` takes 'Mail' for 'mail'.
    pub target_ignores_case: bool,
    /// The names of the columns that it went by.
    pub columns: Vec<String>,
    /// What is wrong or could be better.
    pub problems: Vec<Problem>,
}

impl Inspection {
    /// Whether the worker must not work on this table.
    pub fn is_fatal(&self) -> bool {
        self.problems.iter().any(|problem| problem.fatal)
    }
}

/// One thing that is wrong with a table.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Whether it stops a start; otherwise it costs speed or an ability.
    pub fatal: bool,
    /// What is wrong.
    pub text: String,
    /// What would mend it.
    pub ddl: Option<String>,
}

impl Problem {
    pub(super) fn fatal(text: String) -> Self {
        Self {
            fatal: true,
            text,
            ddl: None,
        }
    }

    pub(super) fn warning(text: String) -> Self {
        Self {
            fatal: false,
            text,
            ddl: None,
        }
    }

    pub(super) fn mended_by(self, ddl: String) -> Self {
        Self {
            ddl: Some(ddl),
            ..self
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        self.ddl
            .iter()
            .try_for_each(|ddl| write!(f, "; to mend it: {ddl}"))
    }
}

/// An index and its columns in order.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
}

/// What a seed column must be.
enum Wanted {
    Number,
    Text,
    Code,
    Status,
}

/// The columns of the minimal table, with what MySQL calls them.
const SEED: [(&str, Wanted, &str); 11] = [
    (
        "id",
        Wanted::Number,
        "int(10) unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY",
    ),
    ("target", Wanted::Text, "char(16) NOT NULL"),
    ("time_created", Wanted::Number, "int(10) unsigned NOT NULL"),
    (
        "time_started",
        Wanted::Number,
        "int(10) unsigned NOT NULL DEFAULT 0",
    ),
    (
        "time_finished",
        Wanted::Number,
        "int(10) unsigned NOT NULL DEFAULT 0",
    ),
    (
        "status",
        Wanted::Status,
        "enum('waiting','manual','accepted','running','done','ignored') NOT NULL DEFAULT 'waiting'",
    ),
    ("result", Wanted::Text, "enum('ok','fail') DEFAULT NULL"),
    (
        "return_code",
        Wanted::Code,
        "tinyint(3) unsigned DEFAULT NULL",
    ),
    ("sig", Wanted::Text, "char(10) DEFAULT NULL"),
    ("stdout", Wanted::Text, "mediumtext DEFAULT NULL"),
    ("stderr", Wanted::Text, "mediumtext DEFAULT NULL"),
];

/// The statuses that a worker writes or reads.
const STATUSES: [&str; 5] = ["waiting", "manual", "accepted", "running", "done"];

/// The column that carries the claim token: `worker`, or on the minimal table `stderr`, which is
/// empty until the job's end overwrites it.
pub(super) fn token_column(columns: &Columns) -> &'static str {
    if columns.has("worker") {
        "worker"
    } else {
        "stderr"
    }
}

/// The index that serves a claim: `status` and `target` first, where there are priorities these from the highest down,
/// then `id` (which InnoDB appends to every secondary index by itself).
pub(super) fn claim_index(indexes: &[Index], prioritised: bool) -> Option<&Index> {
    indexes.iter().find(|index| {
        let mut columns = index.columns.iter().map(String::as_str);
        let first = (columns.next(), columns.next());
        matches!(
            first,
            (Some("status"), Some("target")) | (Some("target"), Some("status"))
        ) && (!prioritised
            || columns
                .next()
                .is_some_and(|column| column == descending("priority")))
            && matches!(columns.next(), None | Some("id"))
    })
}

/// The index that leads to a row by its `id`: the primary key, as a rule.
pub(super) fn id_index(indexes: &[Index]) -> Option<&Index> {
    let by_id = || {
        indexes
            .iter()
            .filter(|index| index.columns.first().is_some_and(|column| column == "id"))
    };
    by_id()
        .find(|index| index.name == "PRIMARY")
        .or_else(|| by_id().next())
}

/// Everything that columns and indexes tell.
pub(super) fn table(
    name: &TableName,
    columns: &Columns,
    indexes: &[Index],
    ddl: Ddl<'_>,
) -> Inspection {
    let mut problems = Vec::new();
    if columns.is_empty() {
        let problem = Problem::fatal(format!(
            "table {name} not found, or this account may not see it"
        ));
        return Inspection {
            problems: vec![problem.mended_by("see sql/ for the CREATE TABLE".into())],
            ..Inspection::default()
        };
    }
    for (column, wanted, definition) in &SEED {
        problems.extend(seed_problem(name, columns, column, wanted, definition, ddl));
    }
    problems.extend(token_problem(name, columns, ddl));
    let abilities = Abilities::of(columns, indexes);
    let prioritised = abilities.has(Ability::Priority);
    if claim_index(indexes, prioritised).is_none() {
        problems.push(claim_problem(name, indexes, prioritised, ddl));
    }
    problems.extend(abilities::problems(name, columns, indexes, abilities, ddl));
    Inspection {
        server: String::new(),
        abilities,
        target_ignores_case: matches!(
            columns.get("target").map(|column| &column.kind),
            Some(Kind::Text {
                ignores_case: true,
                ..
            })
        ),
        columns: columns.iter().map(|column| column.name.clone()).collect(),
        problems,
    }
}

/// What it costs that no index serves claims.
fn claim_problem(name: &TableName, indexes: &[Index], prioritised: bool, ddl: Ddl<'_>) -> Problem {
    let plain = claim_index(indexes, false);
    let text = match (prioritised, plain) {
        (true, Some(_)) => format!(
            "no index of {name} goes by status, target, priority DESC, id: every claim sorts all that waits for its target"
        ),
        (true, None) => format!(
            "no index of {name} begins with status, target, priority DESC, id: every claim reads the whole table"
        ),
        (false, _) => format!(
            "no index of {name} begins with status, target, id: every claim reads the whole table"
        ),
    };
    let columns: &[&str] = if prioritised {
        &["status", "target", "priority desc", "id"]
    } else {
        &["status", "target", "id"]
    };
    let index = if plain.is_some() {
        "status_target_priority_idx"
    } else {
        "status_target_idx"
    };
    Problem::warning(text).mended_by(ddl.index(name, index, columns))
}

fn seed_problem(
    name: &TableName,
    columns: &Columns,
    column: &str,
    wanted: &Wanted,
    definition: &str,
    ddl: Ddl<'_>,
) -> Option<Problem> {
    let Some(found) = columns.get(column) else {
        return Some(
            Problem::fatal(format!("table {name} has no column {column}"))
                .mended_by(ddl.add(name, column, definition)),
        );
    };
    let complaint = match (wanted, &found.kind) {
        (Wanted::Number, Kind::Integer { .. })
        | (Wanted::Text, Kind::Text { .. } | Kind::Binary { .. }) => return None,
        (Wanted::Code, Kind::Integer { max, .. }) if *max >= 255 => return None,
        (Wanted::Code, Kind::Integer { max, .. }) => {
            let text = format!(
                "column {column} of {name} is {}: exit codes above {max} are stored as {max}",
                found.type_text
            );
            return Some(Problem::warning(text).mended_by(ddl.modify(name, column, definition)));
        }
        (Wanted::Status, Kind::Text { values, .. }) => {
            let known = values.as_deref()?;
            let missing = missing_statuses(known)?;
            let text = format!(
                "column {column} of {name} does not hold {}",
                missing.join(", ")
            );
            return Some(Problem::fatal(text).mended_by(ddl.status(name, columns, &missing)));
        }
        _ => format!(
            "column {column} of {name} is {}, which jobd cannot use",
            found.type_text
        ),
    };
    Some(Problem::fatal(complaint).mended_by(ddl.modify(name, column, definition)))
}

fn missing_statuses(known: &[String]) -> Option<Vec<&'static str>> {
    let is_missing = |status: &&str| !known.iter().any(|value| value == status);
    let missing: Vec<&str> = STATUSES.into_iter().filter(is_missing).collect();
    (!missing.is_empty()).then_some(missing)
}

fn token_problem(name: &TableName, columns: &Columns, ddl: Ddl<'_>) -> Option<Problem> {
    let column: &Column = columns.get(token_column(columns))?;
    match &column.kind {
        Kind::Text {
            max_bytes,
            values: None,
            ..
        }
        | Kind::Binary { max_bytes }
            if *max_bytes >= MAX_TOKEN as u64 =>
        {
            None
        }
        _ => {
            let text = format!(
                "column {} of {name} is {}: the name of a claim needs {MAX_TOKEN} characters",
                column.name, column.type_text
            );
            let mended = if column.name == "worker" {
                ddl.modify(name, "worker", WORKER)
            } else {
                ddl.add(name, "worker", WORKER)
            };
            Some(Problem::fatal(text).mended_by(mended))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(columns: &[&str]) -> Index {
        Index {
            name: "i".into(),
            columns: columns.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn an_index_serves_a_claim_only_in_its_order() {
        for good in [
            &["status", "target", "id"][..],
            &["status", "target"],
            &["target", "status", "id", "x"],
        ] {
            assert!(
                claim_index(&[index(&["id"]), index(good)], false).is_some(),
                "{good:?}"
            );
        }
        for bad in [
            &["status"][..],
            &["status", "target", "time_created"],
            &["id", "status", "target"],
        ] {
            assert!(claim_index(&[index(bad)], false).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn priorities_want_an_index_that_goes_from_the_highest_down() {
        let good = ["status", "target", "priority desc", "id"];
        assert!(claim_index(&[index(&good)], true).is_some());
        assert!(claim_index(&[index(&good[..3])], true).is_some());
        let ascending = index(&["status", "target", "priority", "id"]);
        assert!(claim_index(&[ascending, index(&["status", "target"])], true).is_none());
    }
}
