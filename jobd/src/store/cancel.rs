//! Cancellations as the table sees them: rows that nobody runs end at once, of the others it may say that they
//! are to. Knows nothing of processes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jobd_proto::JobId;

use super::StoreError;
use super::connection::{Connection, Value, key};
use super::lists::{ListStatement, MAX_LIST};
use super::refusals::{Refused, change};
use super::statements::Statements;
use crate::job::ClaimToken;
use crate::leases::Lease;

/// What stands in the `stderr` of a job that was cancelled while it did not run.
pub const NOTE: &str = "jobd: cancelled while it did not run\n";

/// What stands in the `stderr` of a job that was to go back, when another one with its unique key had come meanwhile.
const UNWANTED: &str = "jobd: not given back, as another job with the same unique key waits\n";

/// What has become of a row that is to be cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It has ended, because of this or of an earlier cancellation.
    Ended,
    /// It had ended before, or is none of a job that could.
    TooLate,
    /// Somebody else has it, and will see that it is to be cancelled.
    Asked,
    /// Somebody else has it, and its row cannot say anything.
    Held,
    /// There is no such row.
    Missing,
    /// Somebody has it locked, and was not waited for.
    Locked,
    /// The database does not let it be changed, and this is why.
    Refused {
        /// The server's words.
        error: String,
        /// Looks for requests pass over it for a while, and claims where one has brought it.
        passed: bool,
    },
    /// The database's answer is missing, and this is why: it may have ended.
    Unknown(String),
}

impl From<&StoreError> for Cancelled {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Unknown(error.to_string()),
            _ => Self::refused(error.to_string()),
        }
    }
}

impl Cancelled {
    fn refused(error: String) -> Self {
        let passed = false;
        Self::Refused { error, passed }
    }
}

/// A row to cancel, with our claim of it where we have one and have not begun it.
pub type Wish = (JobId, Option<ClaimToken>);

/// The statements.
#[derive(Clone, Debug)]
pub(super) struct CancelStatements {
    /// What a row says of itself, as a lease has it: its claim while it has one, and whether it was cancelled already.
    /// Locks it; waiting for others, or passing over what they have locked.
    pub(super) select: [ListStatement; 2],
    /// A row that nobody has → `done`.
    pub(super) end: ListStatement,
    /// A row that we have accepted → `done`.
    pub(super) end_accepted: ListStatement,
    /// A row of ours that may not wait again → `done`.
    pub(super) end_unwanted: ListStatement,
    /// Id, target and priority of rows.
    whose: ListStatement,
    /// Where the table has the column for it.
    pub(super) requests: Option<Requests>,
}

/// Cancellations by the row.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    /// Asks whoever has a row.
    pub(super) ask: ListStatement,
    /// Says that a request was seen to.
    pub(super) settle: ListStatement,
    /// Those that were not seen to, as a [`Glance`](super::glance::Glance) asks for them.
    pub(super) look: String,
    /// The first of them, as leases, but for rows that other workers have: these see to them, and if they have died the
    /// requests stand there for long. How many, comes last.
    pub(super) open: Arc<str>,
}

/// The most requests of one look; after a full one the next follows at once.
pub const REQUESTS: usize = 1000;

/// Cancels what can be, in one transaction. `patient` waits for rows that others have locked.
pub(super) async fn cancel<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    wishes: &[Wish],
    patient: bool,
) -> Result<(BTreeMap<JobId, Cancelled>, Vec<Refused>), sqlx::Error> {
    let mut told = Vec::new();
    let texts = &statements.cancel;
    let absent = if patient {
        Cancelled::Missing
    } else {
        Cancelled::Locked
    };
    let mut fates: BTreeMap<JobId, Cancelled> =
        wishes.iter().map(|(id, _)| (*id, absent.clone())).collect();
    connection.control(statements.begin).await?;
    for wishes in wishes.chunks(MAX_LIST) {
        let ids: Vec<JobId> = wishes.iter().map(|(id, _)| *id).collect();
        let (sql, keys) = texts.select[usize::from(!patient)].for_ids(&ids);
        let rows = connection.leases(&sql, &keys).await?;
        let sorted = Sorted::new(wishes, rows);
        let requests = texts.requests.as_ref();
        let held = requests.map_or(Cancelled::Held, |_| Cancelled::Asked);
        let changed = change(connection, &texts.end, &[], &sorted.waiting).await?;
        let mut refused = changed.refused;
        for (id, token) in &sorted.accepted {
            let ours = [Value::Text(token.as_str())];
            let changed = change(connection, &texts.end_accepted, &ours, &[*id]).await?;
            refused.extend(changed.refused);
        }
        if let Some(requests) = requests {
            for (statement, ids) in [
                (&requests.ask, &sorted.held),
                (&requests.settle, &sorted.over),
            ] {
                let changed = change(connection, statement, &[], ids).await?;
                refused.extend(changed.refused);
            }
        }
        let accepted = sorted.accepted.iter().map(|(id, _)| *id);
        let ended = sorted.waiting.iter().copied().chain(accepted);
        fates.extend(ended.map(|id| (id, Cancelled::Ended)));
        fates.extend(sorted.held.iter().map(|id| (*id, held.clone())));
        fates.extend(sorted.over.iter().map(|id| (*id, Cancelled::TooLate)));
        fates.extend(sorted.cancelled.iter().map(|id| (*id, Cancelled::Ended)));
        let errors: BTreeMap<JobId, String> = refused
            .into_iter()
            .map(|(id, error)| (id, error.to_string()))
            .collect();
        if !errors.is_empty() {
            told.extend(name(connection, texts, &errors, &sorted).await?);
        }
        let refused = errors.into_iter();
        fates.extend(refused.map(|(id, error)| (id, Cancelled::refused(error))));
    }
    connection.control("COMMIT").await?;
    Ok((fates, told))
}

/// Rows that were refused, with their targets.
async fn name<C: Connection>(
    connection: &mut C,
    texts: &CancelStatements,
    errors: &BTreeMap<JobId, String>,
    sorted: &Sorted,
) -> Result<Vec<Refused>, sqlx::Error> {
    let ids: Vec<JobId> = errors.keys().copied().collect();
    let (sql, keys) = texts.whose.for_ids(&ids);
    let targets: BTreeMap<i64, _> = connection.notes(&sql, &keys).await?.into_iter().collect();
    let told = errors.iter().map(|(id, error)| Refused {
        id: *id,
        target: targets.get(&key(*id)).cloned().flatten(),
        claimable: sorted.claimable.contains(id),
        error: error.clone(),
    });
    Ok(told.collect())
}

/// Rows by what can be done.
#[derive(Default)]
struct Sorted {
    waiting: Vec<JobId>,
    accepted: Vec<(JobId, ClaimToken)>,
    held: Vec<JobId>,
    /// Whatever has ended, or was never to run.
    over: Vec<JobId>,
    /// Of `over`, what an earlier cancellation has ended.
    cancelled: Vec<JobId>,
    /// What a claim by a poll has brought.
    claimable: BTreeSet<JobId>,
}

impl Sorted {
    fn new(wishes: &[Wish], rows: Vec<Lease>) -> Self {
        let claims: BTreeMap<JobId, &ClaimToken> = wishes
            .iter()
            .filter_map(|(id, token)| Some((*id, token.as_ref()?)))
            .collect();
        // A padded list may bring a row twice.
        let rows: BTreeMap<JobId, Lease> = rows.into_iter().map(|row| (row.id, row)).collect();
        let mut sorted = Self::default();
        for (id, row) in rows {
            let claim = claims.get(&id).filter(|claim| claim.as_str() == row.worker);
            if claim.is_some_and(|claim| !claim.origin().is_manual()) {
                sorted.claimable.insert(id);
            }
            match (row.status.as_str(), claim) {
                ("waiting" | "manual" | "scheduled", _) => sorted.waiting.push(id),
                ("accepted", Some(claim)) => sorted.accepted.push((id, (*claim).clone())),
                ("accepted" | "running", _) => sorted.held.push(id),
                _ => {
                    sorted.over.push(id);
                    if row.again {
                        sorted.cancelled.push(id);
                    }
                }
            }
        }
        sorted
    }
}

impl CancelStatements {
    /// For table `t`, whose claims stand in `token`.
    pub(super) fn new(t: &str, token: &str, parts: &Parts<'_>) -> Self {
        let Parts {
            now,
            lock,
            skip_locked,
            id_index,
            cancel_index,
            no_token,
            unleased,
            later,
            reasons,
        } = parts;
        let row = format!(
            "CAST(`id` AS SIGNED), CAST(`status` AS CHAR), \
             CAST(CASE WHEN `status` IN ('accepted', 'running') THEN COALESCE(`{token}`, '') ELSE '' END AS CHAR), 0"
        );
        let cancelled = if *reasons {
            "COALESCE(`reason` = 'cancelled', 0)".to_owned()
        } else {
            format!("COALESCE(`status` = 'done' AND `stderr` = '{NOTE}', 0)")
        };
        let select = format!("SELECT {row}, CAST({cancelled} AS SIGNED) FROM {t} {id_index} WHERE");
        let own_token = token != "stderr";
        let parts = |note: &str, reason: &str| {
            [
            Some("`result` = 'fail', `return_code` = NULL, `sig` = NULL".to_owned()),
            Some(format!("`time_finished` = {now}, `stderr` = '{note}'")),
            own_token.then(|| format!("`{token}` = {no_token}{unleased}")),
            later.then(|| "`run_at` = NULL".to_owned()),
            reasons.then(|| format!("`reason` = '{reason}'")),
            cancel_index.map(|_| {
                "`cancel_requested` = CASE WHEN `cancel_requested` = 1 THEN 0 ELSE `cancel_requested` END".to_owned()
            }),
        ]
        };
        let end = |note, reason, condition: &str| {
            let set = parts(note, reason).into_iter().flatten();
            let set = set.collect::<Vec<_>>().join(", ");
            let text =
                format!("UPDATE {t} {id_index} SET {set}, `status` = 'done' WHERE {condition} AND");
            ListStatement::new(&text, "")
        };
        Self {
            // Without SKIP LOCKED nobody is passed over.
            select: [lock, if skip_locked.is_empty() { lock } else { skip_locked }]
                .map(|lock| ListStatement::new(&select, lock)),
            end: end(NOTE, "cancelled", "`status` IN ('waiting', 'manual', 'scheduled')"),
            end_accepted: end(NOTE, "cancelled", &format!("`{token}` = ? AND `status` = 'accepted'")),
            end_unwanted: end(
                UNWANTED,
                "drained",
                &format!("`{token}` = ? AND `status` IN ('accepted', 'running')"),
            ),
            whose: ListStatement::new(
                &format!("SELECT CAST(`id` AS SIGNED), CAST(`target` AS CHAR) FROM {t} {id_index} WHERE"),
                "",
            ),
            requests: cancel_index.map(|index| {
                let set = |value: &str, condition: &str| {
                    let text = format!(
                        "UPDATE {t} {id_index} SET `cancel_requested` = {value} WHERE {condition} AND"
                    );
                    ListStatement::new(&text, "")
                };
                let look = format!("FROM {t} {index} WHERE `cancel_requested` = 1");
                Requests {
                    ask: set("1", "`status` IN ('accepted', 'running')"),
                    settle: set("0", "`status` NOT IN ('waiting', 'manual', 'scheduled', 'accepted', 'running') AND `cancel_requested` = 1"),
                    open: format!(
                        "SELECT {row}, 0 {look} AND (`status` NOT IN ('accepted', 'running') \
                         OR (`{token}` >= ? AND `{token}` < ?)) LIMIT ?"
                    )
                    .into(),
                    look,
                }
            }),
        }
    }

    /// Every text, for EXPLAIN.
    #[cfg(test)]
    pub(super) fn texts(&self) -> Vec<Arc<str>> {
        let requests = self.requests.iter();
        let lists = requests
            .clone()
            .flat_map(|requests| [&requests.ask, &requests.settle]);
        let lists = self
            .select
            .iter()
            .chain([
                &self.end,
                &self.end_accepted,
                &self.end_unwanted,
                &self.whose,
            ])
            .chain(lists);
        let lists = lists.flat_map(ListStatement::texts);
        lists
            .chain(requests.map(|requests| &requests.open))
            .cloned()
            .collect()
    }
}

/// What a table and its server have to say to the statements.
pub(super) struct Parts<'a> {
    pub(super) now: &'a str,
    pub(super) lock: &'a str,
    pub(super) skip_locked: &'a str,
    pub(super) id_index: &'a str,
    /// Behind the table: which index leads to the requests; `None` where there is no column for them.
    pub(super) cancel_index: Option<&'a str>,
    pub(super) no_token: &'a str,
    /// Behind an assignment: ends a lease.
    pub(super) unleased: &'a str,
    pub(super) later: bool,
    pub(super) reasons: bool,
}
