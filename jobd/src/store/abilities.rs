//! What the columns of a table switch on: which there are, what each needs, and what is amiss. Pure.

use std::fmt;

use jobd_proto::table::{Column, Columns, Kind, TableName, quote};

use super::ddl::Ddl;
use super::errors::MAX_BYTES;
use super::inspect::{Index, Problem};
use crate::job::MAX_TOKEN;

/// Something that a table can do because it has the columns for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Claims are leases: the rows of a worker that dies are rescued by another.
    Ownership,
    /// What fails may run again, and its row says how it failed before. Needs ownership, which counts attempts, and
    /// `Later`.
    Retries,
    /// Rows that are not to be claimed before a moment.
    Later,
    /// Higher first within a target.
    Priority,
    /// A limit to a job's time in its row.
    Timeout,
    /// Why a job ended.
    Reason,
    /// A cancellation as a fact in the row.
    Cancel,
    /// A payload for the standard input.
    Data,
    /// How far a job has come.
    Progress,
    /// What a job has used.
    Accounting,
}

/// A set of [`Ability`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities(u16);

/// What an ability needs of a table.
struct Feature {
    ability: Ability,
    name: &'static str,
    columns: &'static [Field],
    /// A column that an index has to begin with, and its name as we have it: without it a look would read the whole
    /// table.
    indexed: Option<(&'static str, &'static str)>,
    /// Others that it rests on.
    needs: &'static [Ability],
    /// Whether it needs the status 'scheduled'.
    scheduled: bool,
}

/// A column of an ability.
struct Field {
    name: &'static str,
    takes: Takes,
    /// As MySQL calls it.
    definition: &'static str,
}

/// What a column must take.
#[derive(Clone, Copy)]
enum Takes {
    Number,
    /// A number that each row has.
    Count,
    /// A moment in seconds since 1970, or none.
    MaybeMoment,
    /// Text or bytes, as many at least.
    Text(u64),
    /// That, or none.
    MaybeText(u64),
}

const fn field(name: &'static str, takes: Takes, definition: &'static str) -> Field {
    Field {
        name,
        takes,
        definition,
    }
}

const fn single(ability: Ability, name: &'static str, columns: &'static [Field]) -> Feature {
    Feature {
        ability,
        name,
        columns,
        indexed: None,
        needs: &[],
        scheduled: false,
    }
}

/// The definition of the column that carries claims.
pub(super) const WORKER: &str = "varchar(191) CHARACTER SET ascii DEFAULT NULL";

/// As bytes: the longest of the words in `reason`.
const REASON: u64 = 9;

/// In the order in which people are told of them.
const FEATURES: [Feature; 10] = [
    single(
        Ability::Ownership,
        "ownership",
        &[
            field("worker", Takes::Text(MAX_TOKEN as u64), WORKER),
            field(
                "lease_until",
                Takes::MaybeMoment,
                "int(10) unsigned DEFAULT NULL",
            ),
            field(
                "attempts",
                Takes::Count,
                "int(10) unsigned NOT NULL DEFAULT 0",
            ),
            field(
                "interruptions",
                Takes::Count,
                "int(10) unsigned NOT NULL DEFAULT 0",
            ),
        ],
    ),
    Feature {
        indexed: Some(("run_at", "run_at_idx")),
        scheduled: true,
        ..single(
            Ability::Later,
            "later",
            &[field(
                "run_at",
                Takes::MaybeMoment,
                "int(10) unsigned DEFAULT NULL",
            )],
        )
    },
    Feature {
        needs: &[Ability::Ownership, Ability::Later],
        ..single(
            Ability::Retries,
            "retries",
            &[
                field(
                    "max_attempts",
                    Takes::Number,
                    "int(10) unsigned DEFAULT NULL",
                ),
                field(
                    "errors",
                    Takes::MaybeText(MAX_BYTES as u64),
                    "mediumtext DEFAULT NULL",
                ),
            ],
        )
    },
    single(
        Ability::Priority,
        "priority",
        &[field(
            "priority",
            Takes::Count,
            "smallint(6) NOT NULL DEFAULT 0",
        )],
    ),
    single(
        Ability::Timeout,
        "timeout",
        &[field(
            "timeout",
            Takes::Number,
            "int(10) unsigned DEFAULT NULL",
        )],
    ),
    single(
        Ability::Reason,
        "reason",
        &[field(
            "reason",
            Takes::MaybeText(REASON),
            "varchar(16) CHARACTER SET ascii DEFAULT NULL",
        )],
    ),
    Feature {
        indexed: Some(("cancel_requested", "cancel_idx")),
        ..single(
            Ability::Cancel,
            "cancel",
            &[field(
                "cancel_requested",
                Takes::Number,
                "tinyint(3) unsigned DEFAULT NULL",
            )],
        )
    },
    single(
        Ability::Data,
        "data",
        &[field("data", Takes::Text(0), "mediumblob DEFAULT NULL")],
    ),
    single(
        Ability::Progress,
        "progress",
        &[field(
            "progress",
            Takes::Text(64),
            "varchar(255) DEFAULT NULL",
        )],
    ),
    single(
        Ability::Accounting,
        "accounting",
        &[
            field("cpu_ms", Takes::Number, "int(10) unsigned DEFAULT NULL"),
            field("peak_kib", Takes::Number, "int(10) unsigned DEFAULT NULL"),
        ],
    ),
];

/// The status of rows that wait for their moment.
pub(super) const SCHEDULED: &str = "scheduled";

impl Abilities {
    /// Whether the table has the columns for it.
    pub fn has(self, ability: Ability) -> bool {
        self.0 & (1 << ability as u16) != 0
    }

    /// These.
    #[cfg(test)]
    pub fn from(all: &[Ability]) -> Self {
        let mut abilities = Self::default();
        for ability in all {
            abilities.add(*ability);
        }
        abilities
    }

    fn add(&mut self, ability: Ability) {
        self.0 |= 1 << ability as u16;
    }

    /// What columns and indexes make possible.
    pub(super) fn of(columns: &Columns, indexes: &[Index]) -> Self {
        let mut found = Self::default();
        for feature in &FEATURES {
            let complete = feature.columns.iter().all(|field| columns.has(field.name))
                && (!feature.scheduled || holds_scheduled(columns))
                && feature.is_indexed(indexes)
                && feature.needs.iter().all(|need| found.has(*need));
            if complete {
                found.add(feature.ability);
            }
        }
        found
    }

    /// What missing columns cost, a sentence each, for people. `state_dir` tells whether a restart resolves
    /// what its predecessor left.
    pub fn lacks(self, state_dir: bool) -> Vec<String> {
        if self.has(Ability::Ownership) {
            return Vec::new();
        }
        let until = if state_dir {
            "it is started again on its host"
        } else {
            "somebody puts them back (state_dir would let its next start do so)"
        };
        let columns = FEATURES[0].columns.iter().map(|field| field.name);
        vec![format!(
            "no ownership (columns {}): rows of a worker that dies stay accepted or running until {until}; \
             jobs that a shutdown cuts short fail",
            columns.collect::<Vec<_>>().join(", ")
        )]
    }
}

impl fmt::Display for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = FEATURES.iter().filter(|feature| self.has(feature.ability));
        let names: Vec<&str> = on.map(|feature| feature.name).collect();
        let unowned = "rows of a worker that dies stay accepted or running";
        match names[..] {
            [] => write!(f, "minimal table ({unowned})"),
            ["ownership", ..] => f.write_str(&names.join(", ")),
            _ => write!(f, "{}, no ownership ({unowned})", names.join(", ")),
        }
    }
}

/// What is amiss with the columns of abilities: one of a wrong type, or a part of what belongs together.
pub(super) fn problems(
    table: &TableName,
    columns: &Columns,
    indexes: &[Index],
    abilities: Abilities,
    ddl: Ddl<'_>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for feature in &FEATURES {
        let found = feature
            .columns
            .iter()
            .filter(|field| columns.has(field.name));
        let found = found.count();
        if found == feature.columns.len() {
            let wrong = feature.columns.iter();
            problems.extend(wrong.filter_map(|field| field.problem(table, columns, ddl)));
        }
        // Columns of these names may be the application's own: it is told, and nothing else happens.
        if feature.is_named(columns) && !abilities.has(feature.ability) {
            let (lacks, steps) = feature.missing(table, columns, indexes, abilities, ddl);
            let text = format!(
                "table {table} has only a part of what {} needs, so it is off: missing {}",
                feature.name,
                lacks.join(", ")
            );
            problems.push(Problem::warning(text).mended_by(steps.join(" ")));
        }
    }
    problems
}

impl Feature {
    fn is_indexed(&self, indexes: &[Index]) -> bool {
        self.indexed
            .is_none_or(|(column, _)| index_on(column, indexes).is_some())
    }

    /// Whether the table has anything of it.
    fn is_named(&self, columns: &Columns) -> bool {
        self.columns.iter().any(|field| columns.has(field.name))
            || self.scheduled && knows_scheduled(columns)
    }

    /// What the table lacks for it, and what adds that; not what adds an ability that it needs and that is told of itself.
    fn missing(
        &self,
        table: &TableName,
        columns: &Columns,
        indexes: &[Index],
        abilities: Abilities,
        ddl: Ddl<'_>,
    ) -> (Vec<String>, Vec<String>) {
        let (mut lacks, mut steps) = (Vec::new(), Vec::new());
        let missing = self.columns.iter().filter(|field| !columns.has(field.name));
        for field in missing {
            lacks.push(format!("column {}", field.name));
            steps.push(ddl.add(table, field.name, field.definition));
        }
        if self.scheduled && !holds_scheduled(columns) {
            lacks.push(format!("status '{SCHEDULED}'"));
            steps.push(ddl.status(table, columns, &[SCHEDULED]));
        }
        if let Some((column, index)) = self.indexed.filter(|_| !self.is_indexed(indexes)) {
            lacks.push(format!("an index on {column}"));
            steps.push(ddl.index(table, index, &[column]));
        }
        for need in self.needs.iter().filter(|need| !abilities.has(**need)) {
            for feature in FEATURES.iter().filter(|feature| feature.ability == *need) {
                lacks.push(feature.name.to_owned());
                if !feature.is_named(columns) {
                    steps.extend(feature.missing(table, columns, indexes, abilities, ddl).1);
                }
            }
        }
        (lacks, steps)
    }
}

impl Field {
    fn problem(&self, table: &TableName, columns: &Columns, ddl: Ddl<'_>) -> Option<Problem> {
        let column: &Column = columns.get(self.name)?;
        let right = match (self.takes, &column.kind) {
            (Takes::Number, Kind::Integer { .. }) => true,
            (Takes::Count, Kind::Integer { .. }) => !column.nullable,
            (Takes::MaybeMoment, Kind::Integer { max, .. }) => {
                column.nullable && *max >= i64::from(i32::MAX)
            }
            (Takes::Text(bytes), kind) => text_holds(kind) >= Some(bytes),
            (Takes::MaybeText(bytes), kind) => column.nullable && text_holds(kind) >= Some(bytes),
            _ => false,
        };
        if right {
            return None;
        }
        let text = format!(
            "column {} of {table} is {}{}, which jobd cannot use",
            self.name,
            column.type_text,
            if column.nullable {
                " that may be NULL"
            } else {
                " NOT NULL"
            }
        );
        let mut mended = ddl.modify(table, self.name, self.definition);
        if matches!((self.takes, ddl), (Takes::Count, Ddl::MySql)) {
            let (table, column) = (table.quoted(), quote(self.name));
            mended = format!("UPDATE {table} SET {column} = 0 WHERE {column} IS NULL; {mended}");
        }
        Some(Problem::fatal(text).mended_by(mended))
    }
}

/// Bytes that a text column takes; `None` where it is none, or takes certain values only.
fn text_holds(kind: &Kind) -> Option<u64> {
    match kind {
        Kind::Text {
            max_bytes,
            values: None,
            ..
        }
        | Kind::Binary { max_bytes } => Some(*max_bytes),
        _ => None,
    }
}

/// Whether `status` takes 'scheduled'.
fn holds_scheduled(columns: &Columns) -> bool {
    match columns.get("status").map(|column| &column.kind) {
        Some(Kind::Text {
            values: Some(known),
            ..
        }) => known.iter().any(|value| value == SCHEDULED),
        _ => true,
    }
}

/// Whether somebody has let `status` take 'scheduled'.
fn knows_scheduled(columns: &Columns) -> bool {
    let status = columns.get("status").map(|column| &column.kind);
    matches!(
        status,
        Some(Kind::Text {
            values: Some(_),
            ..
        })
    ) && holds_scheduled(columns)
}

/// The index that begins with a column.
pub(super) fn index_on<'a>(column: &str, indexes: &'a [Index]) -> Option<&'a Index> {
    let begins = |index: &&Index| index.columns.first().is_some_and(|first| first == column);
    indexes.iter().find(begins)
}
