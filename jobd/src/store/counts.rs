//! What columns that a table may have add to the statements.

use std::time::Duration;

use jobd_proto::table::Columns;

use super::{Abilities, Ability};

/// What a claim reads beside the id, in the order of [`Taken`](super::connection::Taken): constants where there is no column.
pub(super) fn terms(columns: &Columns, abilities: Abilities) -> String {
    let owned = abilities.has(Ability::Ownership);
    // The casts make the answer's types the same on every server; the second word is what SQLite goes by, where a column may
    // hold a fraction.
    let either = |there: bool, column: &str, constant: &str| {
        if there {
            format!("CAST({column} AS SIGNED INTEGER)")
        } else {
            constant.to_owned()
        }
    };
    [
        either(owned, "`attempts`", "0"),
        either(owned, "`interruptions`", "0"),
        // It counts without the rest of what retries need: for those that rescue.
        either(
            owned && columns.has("max_attempts"),
            "`max_attempts`",
            "NULL",
        ),
        either(abilities.has(Ability::Timeout), "`timeout`", "NULL"),
        either(abilities.has(Ability::Data), "`data` IS NOT NULL", "0"),
        either(
            abilities.has(Ability::Cancel),
            "COALESCE(`cancel_requested`, 0) = 1",
            "0",
        ),
        either(abilities.has(Ability::Priority), "`priority`", "0"),
    ]
    .join(", ")
}

/// What ownership, and a column for reasons, add to the statements; on a table without them, nothing.
pub(super) struct Counts {
    pub(super) owned: bool,
    /// When a lease ends that begins now.
    pub(super) lease: String,
    /// Behind an assignment: begins a lease.
    pub(super) leased: String,
    /// Behind an assignment: ends it.
    pub(super) unleased: &'static str,
    /// Behind an assignment: what goes back has come nowhere.
    pub(super) unsaid: &'static str,
    /// Before the assignment of a status (MySQL assigns from left to right): counts an interruption of
    /// what ran.
    pub(super) interrupt: &'static str,
    /// Whether one is left after the one that runs.
    pub(super) again_now: String,
    /// The value that names a lease.
    pub(super) until: &'static str,
    /// Behind an assignment: marks a verdict.
    pub(super) given_up: &'static str,
    /// Rows that an end may be written to: those that run, and those that a rescuer has given up.
    pub(super) unfinished: &'static str,
    /// Whether the column `reason` is there.
    pub(super) reasons: bool,
}

impl Counts {
    pub(super) fn new(columns: &Columns, abilities: Abilities, now: &str, lease: Duration) -> Self {
        let reasons = abilities.has(Ability::Reason);
        let unsaid = if abilities.has(Ability::Progress) {
            ", `progress` = NULL"
        } else {
            ""
        };
        if !abilities.has(Ability::Ownership) {
            return Self {
                owned: false,
                lease: String::new(),
                leased: String::new(),
                unleased: "",
                unsaid,
                interrupt: "",
                again_now: "0".to_owned(),
                until: "0",
                given_up: "",
                unfinished: "`status` = 'running'",
                reasons,
            };
        }
        let most = if columns.has("max_attempts") {
            "COALESCE(`max_attempts`, 1)"
        } else {
            "1"
        };
        let lease = format!("{now} + {}", lease.as_secs().max(1));
        Self {
            owned: true,
            leased: format!(", `lease_until` = {lease}"),
            lease,
            unleased: ", `lease_until` = NULL",
            unsaid,
            interrupt: "`interruptions` = `interruptions` + (`status` = 'running'), ",
            // Interruptions do not count. A sum: a difference of unsigned numbers may not be negative.
            again_now: format!("CAST({most} + `interruptions` > `attempts` AS SIGNED)"),
            until: "CAST(COALESCE(`lease_until`, 0) AS SIGNED)",
            given_up: ", `lease_until` = 0",
            unfinished: "(`status` = 'running' OR (`status` = 'done' AND `lease_until` = 0))",
            reasons,
        }
    }
}
