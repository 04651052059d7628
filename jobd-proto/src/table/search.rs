//! Reading many rows without being a burden: every statement goes by an index and reads a bounded
//! number of rows, none takes a lock. Rows come in the order of their ids.

use super::change::BATCH;
use super::name::quote;
use super::rows::{Connection, Driver, JobRow, RowError, job_row};
use crate::JobId;

/// Rows that one statement reads at most.
pub const WINDOW: u32 = 5_000;

/// Rows that one [`Connection::search`] looks at, at most.
const MOST_LOOKED_AT: u64 = 1_000_000;

/// Targets of one status that are told apart, at most: each costs a statement.
pub const MOST_TARGETS: usize = 2_000;

/// Statuses of rows that a worker still has to do with: few, compared with those that are done.
const OPEN: [&str; 5] = ["waiting", "manual", "scheduled", "accepted", "running"];

/// Which rows are wanted, and what of them. What is left out narrows nothing.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this target.
    pub target: Option<String>,
    /// Only this status.
    pub status: Option<String>,
    /// Only this result.
    pub result: Option<String>,
    /// Only rows added then or later, in seconds since 1970.
    pub since: Option<i64>,
    /// Further columns to read, into [`JobRow::others`].
    pub columns: Vec<String>,
}

/// What [`Connection::search`] found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The newest first, without outputs.
    pub jobs: Vec<JobRow>,
    /// Whether the search gave up, at a million rows, before it had as many as wanted.
    pub gave_up: bool,
}

/// A part of the table that is read from one end, window by window.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Only these rows, of those that are read.
    pub filter: Filter,
    /// Read the index of this status and target instead of all rows.
    pub within: Option<(String, String)>,
    /// Only jobs that ended before that, in seconds since 1970.
    pub ended_before: Option<i64>,
    /// No row below this id; see [`Connection::first_since`].
    pub floor: u64,
    /// No row from this id on.
    pub ceiling: Option<u64>,
    /// Whether outputs are read too.
    pub outputs: bool,
}

/// The rows of one step of a [`Scan`].
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Those that match.
    pub jobs: Vec<JobRow>,
    /// How many were read for it.
    pub read: u64,
    /// Where the next step begins; `None` at the end.
    pub next: Option<u64>,
}

impl Connection {
    /// The newest `limit` rows that `filter` names, without outputs.
    pub async fn list(&mut self, filter: &Filter, limit: u32) -> Result<Vec<JobRow>, RowError> {
        Ok(self.search(filter, limit, |_| {}).await?.jobs)
    }

    /// The same, and whether it gave up before it had looked at everything; `read` is told of each so many rows that it has
    /// looked at.
    pub async fn search(
        &mut self,
        filter: &Filter,
        limit: u32,
        mut read: impl FnMut(u64),
    ) -> Result<Found, RowError> {
        let floor = match filter.since {
            Some(since) => self.first_since(since).await?,
            None => 0,
        };
        let scan = Scan {
            filter: filter.clone(),
            floor,
            ..Scan::default()
        };
        let mut found = Found::default();
        let mut budget = MOST_LOOKED_AT;
        for within in self.parts(filter).await? {
            let scan = Scan {
                within,
                ..scan.clone()
            };
            self.gather(&scan, limit, &mut found, &mut budget, &mut read)
                .await?;
        }
        found.jobs.sort_by_key(|job| std::cmp::Reverse(job.id));
        found
            .jobs
            .truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(found)
    }

    /// Those of these rows that are there, in no order, without outputs; with these further columns.
    pub async fn by_ids(
        &mut self,
        ids: &[JobId],
        columns: &[String],
    ) -> Result<Vec<JobRow>, RowError> {
        let mut jobs = Vec::with_capacity(ids.len());
        for ids in ids.chunks(BATCH) {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let sql = format!(
                "SELECT {} FROM {} WHERE `id` IN ({})",
                self.select(false, columns),
                self.quoted,
                ids.join(",")
            );
            for row in self.fetch(&sql, &[]).await? {
                jobs.push(self.job_row(row, false, columns)?);
            }
        }
        Ok(jobs)
    }

    /// The parts of the claim index that hold what `filter` wants; `[None]` for the whole table,
    /// where that is no worse.
    async fn parts(&mut self, filter: &Filter) -> Result<Vec<Option<(String, String)>>, RowError> {
        let statuses: Vec<String> = match (&filter.status, &filter.result) {
            (Some(status), _) => vec![status.clone()],
            (None, Some(_)) => vec!["done".to_owned()],
            (None, None) => OPEN
                .into_iter()
                .chain(["done", "ignored"])
                .map(str::to_owned)
                .collect(),
        };
        if let Some(target) = &filter.target {
            let parts = statuses
                .into_iter()
                .map(|status| Some((status, target.clone())));
            return Ok(parts.collect());
        }
        match &filter.status {
            Some(status) if OPEN.contains(&status.to_lowercase().as_str()) => {
                let targets = self.targets_with(status).await?;
                if targets.len() > MOST_TARGETS {
                    return Ok(vec![None]);
                }
                let parts = targets
                    .into_iter()
                    .map(|target| Some((status.clone(), target)));
                Ok(parts.collect())
            }
            _ => Ok(vec![None]),
        }
    }

    /// Adds the newest `limit` rows of `scan`.
    async fn gather(
        &mut self,
        scan: &Scan,
        limit: u32,
        found: &mut Found,
        budget: &mut u64,
        read: &mut impl FnMut(u64),
    ) -> Result<(), RowError> {
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut from = None;
        let mut taken = 0;
        // What all rows match needs no more of them than wanted.
        let narrow =
            scan.filter.result.is_some() || (scan.within.is_none() && scan.filter.status.is_some());
        let step = if narrow { WINDOW } else { limit.min(WINDOW) };
        while taken < wanted {
            if *budget == 0 {
                found.gave_up = true;
                return Ok(());
            }
            let window = self.newest(scan, from, step).await?;
            *budget = budget.saturating_sub(window.read.max(1));
            read(window.read);
            let room = wanted - taken;
            taken += window.jobs.len().min(room);
            found.jobs.extend(window.jobs.into_iter().take(room));
            match window.next {
                Some(next) => from = Some(next),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// One step of `scan` from its newest row, or from the row before `below`, downwards.
    pub async fn newest(
        &mut self,
        scan: &Scan,
        below: Option<u64>,
        rows: u32,
    ) -> Result<Window, RowError> {
        let below = below.or(scan.ceiling).unwrap_or(u64::MAX >> 1);
        let edge = format!("`id` < {below} AND `id` >= {}", scan.floor);
        let Some((read, lowest, highest)) = self.bounds(scan, &edge, "DESC", rows).await? else {
            return Ok(Window::default());
        };
        Ok(Window {
            jobs: self.between(scan, lowest, highest, "DESC").await?,
            read,
            next: (read == u64::from(rows)).then_some(lowest),
        })
    }

    /// One step of `scan` from its oldest row, or from the row `from`, upwards.
    pub async fn oldest(
        &mut self,
        scan: &Scan,
        from: Option<u64>,
        rows: u32,
    ) -> Result<Window, RowError> {
        let edge = scan.edge(from);
        let Some((read, lowest, highest)) = self.bounds(scan, &edge, "ASC", rows).await? else {
            return Ok(Window::default());
        };
        Ok(Window {
            jobs: self.between(scan, lowest, highest, "ASC").await?,
            read,
            next: (read == u64::from(rows)).then_some(highest + 1),
        })
    }

    /// The same as [`Self::oldest`], but hands each row on when it is read, so that one of them at a time is in memory.
    /// Returns where the next step begins; where `take` returns an error, the connection is of no more use.
    pub async fn oldest_each<E: From<RowError>>(
        &mut self,
        scan: &Scan,
        from: Option<u64>,
        rows: u32,
        mut take: impl FnMut(JobRow) -> Result<(), E>,
    ) -> Result<Option<u64>, E> {
        let edge = scan.edge(from);
        let Some((read, lowest, highest)) = self.bounds(scan, &edge, "ASC", rows).await? else {
            return Ok(None);
        };
        let (sql, binds) = self.select_between(scan, lowest, highest, "ASC");
        let Self {
            driver,
            table,
            patience,
            ..
        } = self;
        driver
            .fetch_each(&sql, &binds, patience, |row| {
                take(job_row(table, row, scan.outputs, &scan.filter.columns)?)
            })
            .await?;
        Ok((read == u64::from(rows)).then_some(highest + 1))
    }

    /// How many ids the next step covers, the lowest and the highest; `None` where no row is left.
    async fn bounds(
        &mut self,
        scan: &Scan,
        edge: &str,
        order: &str,
        rows: u32,
    ) -> Result<Option<(u64, u64, u64)>, RowError> {
        let mut binds = Vec::new();
        let within = scan.within.as_ref().map_or("", |(status, target)| {
            binds.extend([status.clone(), target.clone()]);
            "`status` = ? AND `target` = ? AND "
        });
        let (min, max) = (self.number("MIN(`id`)"), self.number("MAX(`id`)"));
        let sql = format!(
            "SELECT {}, {min}, {max} FROM (SELECT `id` FROM {} WHERE {within}{edge} ORDER BY `id` {order} LIMIT {rows}) AS `w`",
            self.number("COUNT(*)"),
            self.quoted
        );
        let row = self.fetch(&sql, &binds).await?.into_iter().next();
        let numbers: Vec<u64> = row
            .into_iter()
            .flatten()
            .filter_map(|text| text?.parse().ok())
            .collect();
        Ok(match numbers[..] {
            [read, lowest, highest] if read > 0 => Some((read, lowest, highest)),
            _ => None,
        })
    }

    /// The rows of `scan` from `lowest` to `highest`.
    async fn between(
        &mut self,
        scan: &Scan,
        lowest: u64,
        highest: u64,
        order: &str,
    ) -> Result<Vec<JobRow>, RowError> {
        let (sql, binds) = self.select_between(scan, lowest, highest, order);
        let rows = self.fetch(&sql, &binds).await?;
        rows.into_iter()
            .map(|row| self.job_row(row, scan.outputs, &scan.filter.columns))
            .collect()
    }

    /// Selects them.
    fn select_between(
        &self,
        scan: &Scan,
        lowest: u64,
        highest: u64,
        order: &str,
    ) -> (String, Vec<String>) {
        let mut binds = Vec::new();
        let ids = format!("{}.`id` BETWEEN {lowest} AND {highest}", self.quoted);
        let mut conditions = vec![ids];
        let (within, filter) = (scan.within.as_ref(), &scan.filter);
        let named = [
            (
                "status",
                within.map(|(status, _)| status).or(filter.status.as_ref()),
            ),
            (
                "target",
                within.map(|(_, target)| target).or(filter.target.as_ref()),
            ),
            ("result", filter.result.as_ref()),
        ];
        for (name, value) in named {
            if let Some(value) = value {
                conditions.push(format!("{} = ?", quote(name)));
                binds.push(value.clone());
            }
        }
        if let Some(since) = filter.since {
            conditions.push(format!("`time_created` >= {since}"));
        }
        if let Some(time) = scan.ended_before {
            conditions.push(ended_before(time));
        }
        let sql = format!(
            "SELECT {} FROM {} WHERE {} ORDER BY {}.`id` {order}",
            self.select(scan.outputs, &filter.columns),
            self.quoted,
            conditions.join(" AND "),
            self.quoted
        );
        (sql, binds)
    }

    /// The lowest id that a row added at `time` (seconds since 1970) or later has, given that ids
    /// rise with time; beyond the last row if there is none. Reads one row for each bit of an id.
    pub async fn first_since(&mut self, time: i64) -> Result<u64, RowError> {
        let Some((mut low, last)) = self.first_and_last().await? else {
            return Ok(0);
        };
        let mut high = last + 1;
        while low < high {
            let middle = low + (high - low) / 2;
            let sql = format!(
                "SELECT {}, {} FROM {} WHERE `id` >= {middle} ORDER BY {}.`id` LIMIT 1",
                self.as_text("id"),
                self.as_text("time_created"),
                self.quoted,
                self.quoted
            );
            let row = self.fetch(&sql, &[]).await?.into_iter().next();
            let numbers: Vec<i64> = row
                .into_iter()
                .flatten()
                .filter_map(|text| text?.parse().ok())
                .collect();
            match numbers[..] {
                [id, created] if created < time => low = id.unsigned_abs() + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// The id of the newest row.
    pub async fn last_id(&mut self) -> Result<Option<JobId>, RowError> {
        let ends = self.first_and_last().await?;
        Ok(ends.map(|(_, last)| JobId(last)))
    }

    /// The lowest and the highest id.
    pub async fn first_and_last(&mut self) -> Result<Option<(u64, u64)>, RowError> {
        let sql = format!(
            "SELECT {}, {} FROM {}",
            self.number("MIN(`id`)"),
            self.number("MAX(`id`)"),
            self.quoted
        );
        // One aggregate each: SQLite takes the end of an index only for a single one.
        let sql = match self.driver {
            Driver::MySql(_) => sql,
            Driver::Sqlite(_) => format!(
                "SELECT (SELECT {} FROM {}), (SELECT {} FROM {})",
                self.number("MIN(`id`)"),
                self.quoted,
                self.number("MAX(`id`)"),
                self.quoted
            ),
        };
        let row = self.fetch(&sql, &[]).await?.into_iter().next();
        let numbers: Vec<u64> = row
            .into_iter()
            .flatten()
            .filter_map(|text| text?.parse().ok())
            .collect();
        Ok(match numbers[..] {
            [first, last] => Some((first, last)),
            _ => None,
        })
    }

    /// The targets of the rows of one status, by name: at most [`MOST_TARGETS`] + 1, which means that there are more.
    /// They are found by leaps over the index of status and target: one statement a target, which reads one entry.
    /// (GROUP BY and DISTINCT read every row between.)
    pub async fn targets_with(&mut self, status: &str) -> Result<Vec<String>, RowError> {
        let (first, next) = {
            let target = match self.driver {
                Driver::MySql(_) => "CAST(MIN(`target`) AS CHAR)",
                Driver::Sqlite(_) => "MIN(`target`)",
            };
            let sql = format!("SELECT {target} FROM {} WHERE `status` = ?", self.quoted);
            (sql.clone(), sql + " AND `target` > ?")
        };
        let mut targets: Vec<String> = Vec::new();
        while targets.len() <= MOST_TARGETS {
            let mut binds = vec![status.to_owned()];
            binds.extend(targets.last().cloned());
            let sql = if targets.is_empty() { &first } else { &next };
            let row = self.fetch(sql, &binds).await?.into_iter().next();
            let target = row.into_iter().flatten().flatten().next();
            match target.map(String::from) {
                // The second can only be a collation that says otherwise than the index.
                Some(target) if targets.last() != Some(&target) => targets.push(target),
                _ => break,
            }
        }
        Ok(targets)
    }

    /// An expression for a whole number, as text.
    pub(super) fn number(&self, expression: &str) -> String {
        match self.driver {
            Driver::MySql(_) => format!("CAST({expression} AS CHAR)"),
            Driver::Sqlite(_) => format!("CAST({expression} AS TEXT)"),
        }
    }
}

impl Scan {
    /// The condition for a step upwards.
    fn edge(&self, from: Option<u64>) -> String {
        let from = from.unwrap_or(0).max(self.floor);
        match self.ceiling {
            Some(ceiling) => format!("`id` >= {from} AND `id` < {ceiling}"),
            None => format!("`id` >= {from}"),
        }
    }
}

/// The condition for jobs that ended before `time`, in seconds since 1970.
pub(super) fn ended_before(time: i64) -> String {
    format!(
        "`status` IN ('done', 'ignored') AND `time_finished` BETWEEN 1 AND {}",
        time - 1
    )
}
