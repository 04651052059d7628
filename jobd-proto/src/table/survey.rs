//! What the whole table looks like right now: how much waits for each target, what runs. By index,
//! bounded, without locks.

use std::collections::BTreeMap;

use super::rows::{Connection, JobRow, RowError};
use super::search::{Filter, MOST_TARGETS};
use crate::JobId;

/// Waiting rows of a target that are counted, at most.
pub const COUNTED: u64 = 10_000;

/// Rows a worker has in hand that are read, at most.
const MOST_ACTIVE: u32 = 5_000;

/// Targets asked about in one statement.
const TARGETS: usize = 50;

/// What waits for one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Its name.
    pub target: String,
    /// Rows of status `waiting`, at most [`COUNTED`] + 1, which means more.
    pub waiting: u64,
    /// When the one with the lowest id of these was added, in seconds since 1970.
    pub oldest: Option<i64>,
}

/// What waits, target by target.
#[derive(Clone, Debug, Default)]
pub struct Backlogs {
    /// The first [`MOST_TARGETS`] by name.
    pub targets: Vec<Backlog>,
    /// Whether jobs of others wait, too.
    pub is_more: bool,
}

impl Connection {
    /// Counts what waits.
    pub async fn backlogs(&mut self) -> Result<Backlogs, RowError> {
        let mut targets = self.targets_with("waiting").await?;
        let is_more = targets.len() > MOST_TARGETS;
        targets.truncate(MOST_TARGETS);
        let mut found: Vec<(String, u64, JobId)> = Vec::with_capacity(targets.len());
        for targets in targets.chunks(TARGETS) {
            let counts: Vec<String> = (0..targets.len()).map(|at| self.count_of(at)).collect();
            let rows = self.fetch(&counts.join(" UNION ALL "), targets).await?;
            for row in rows {
                let mut numbers = row.into_iter().map(|text| text?.parse::<u64>().ok());
                let mut next = || numbers.next().flatten();
                let (at, waiting, first) = (next(), next(), next());
                let target = at.and_then(|at| targets.get(usize::try_from(at).ok()?));
                if let (Some(target), Some(waiting), Some(first)) = (target, waiting, first) {
                    found.push((target.clone(), waiting, JobId(first)));
                }
            }
        }
        let mut added = BTreeMap::new();
        let ids: Vec<JobId> = found.iter().map(|(_, _, first)| *first).collect();
        let rows = self.by_ids(&ids, &[]).await?;
        added.extend(rows.into_iter().map(|row| (row.id, row.time_created)));
        let backlogs = found.into_iter().map(|(target, waiting, first)| Backlog {
            target,
            waiting,
            oldest: added.get(&first).copied(),
        });
        Ok(Backlogs {
            targets: backlogs.collect(),
            is_more,
        })
    }

    /// Counts the waiting rows of a target, up to a bound; `at` tells the answer from others.
    fn count_of(&self, at: usize) -> String {
        format!(
            "SELECT '{at}', {}, {} FROM (SELECT `id` FROM {} WHERE `status` = 'waiting' AND `target` = ? LIMIT {}) AS `w`",
            self.number("COUNT(*)"),
            self.number("MIN(`id`)"),
            self.quoted,
            COUNTED + 1
        )
    }

    /// The rows that a worker has in hand, accepted or running, with these further `columns`: the
    /// newest 5,000 of each status.
    pub async fn active(&mut self, columns: &[String]) -> Result<Vec<JobRow>, RowError> {
        let mut rows = Vec::new();
        for status in ["accepted", "running"] {
            let filter = Filter {
                status: Some(status.to_owned()),
                columns: columns.to_vec(),
                ..Filter::default()
            };
            rows.extend(self.list(&filter, MOST_ACTIVE).await?);
        }
        Ok(rows)
    }
}
