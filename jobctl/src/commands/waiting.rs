//! The wait for rows to be done, for `wait`, `add --wait` and `logs -f`: what it shows meanwhile,
//! and the exit code that the ends of jobs make.

use std::time::{Duration, Instant};

use jobd_proto::JobId;
use jobd_proto::table::{Connection, JobRow};

use super::Context;
use super::outcome::{Ending, reason_of, stream};
use crate::database::{self, Database};
use crate::failure::Failure;
use crate::output::{Bar, bar, brief, plain};

/// Between two looks at the rows that are waited for: short at first, for quick jobs, then slow
/// enough to be no burden.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Ids in one look. The oldest end first, so that it need not name all that are left.
const LOOKED_AT: usize = 500;

/// Jobs named in a summary.
pub(super) const NAMED: usize = 10;

/// The wait for rows to be done.
pub(super) struct Wait<'a> {
    pub(super) table: &'a mut Connection,
    pub(super) settings: &'a Database,
    pub(super) deadline: Option<Instant>,
    /// Whether the first end is enough.
    pub(super) any: bool,
}

impl Wait<'_> {
    /// The rows that are done, by id: all of `ids`, or with `any` one or more. One row comes with
    /// its output. No statement is cut short: the deadline is looked at between two.
    pub(super) async fn for_end(mut self, ids: &[JobId]) -> Result<Vec<JobRow>, Failure> {
        let bar = progress(ids.len());
        let mut done: Vec<JobRow> = Vec::with_capacity(ids.len());
        let mut left = ids.to_vec();
        let mut pause = FIRST_PAUSE;
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            let (ended, going) = tokio::select! {
                biased;
                looked = self.look(&left) => looked?,
                _ = &mut interrupted => return Err(self.go_on(&left)),
            };
            pause = if ended.is_empty() {
                (pause * 3 / 2).min(LONGEST_PAUSE)
            } else {
                FIRST_PAUSE
            };
            left.retain(|id| !ended.iter().any(|row| row.id == *id));
            done.extend(ended);
            tell(&bar, ids, &done, &going);
            if left.is_empty() || (self.any && !done.is_empty()) {
                break;
            }
            let passed = |deadline| Instant::now() >= deadline;
            if self.deadline.is_some_and(passed) {
                return Err(self.too_late(&left, ids.len()));
            }
            tokio::select! {
                biased;
                _ = &mut interrupted => return Err(self.go_on(&left)),
                () = tokio::time::sleep(pause) => {}
            }
        }
        drop(bar);
        done.sort_by_key(|row| row.id);
        if let [only] = done.as_mut_slice() {
            let whole = self.table.show(only.id).await;
            let whole = whole.map_err(|error| database::failure(self.settings, &error))?;
            *only = whole.unwrap_or_else(|| only.clone());
        }
        Ok(done)
    }

    /// The rows of `left` that are done by now, and of those looked at the others. A row that
    /// somebody has deleted will never be.
    async fn look(&mut self, left: &[JobId]) -> Result<(Vec<JobRow>, Vec<JobRow>), Failure> {
        let mut rows = Vec::new();
        let looks = if self.any { left.len() } else { LOOKED_AT };
        for ids in left[..left.len().min(looks)].chunks(LOOKED_AT) {
            let found = self.table.by_ids(ids, &reason_of(self.table)).await;
            let found = found.map_err(|error| database::failure(self.settings, &error))?;
            if let Some(gone) = ids
                .iter()
                .find(|id| !found.iter().any(|row| row.id == **id))
            {
                let jobctl = self.settings.given.same();
                return Err(Failure::Refused(format!(
                    "job {gone} was deleted from the table, or never was there; {jobctl} list shows the newest ones"
                )));
            }
            rows.extend(found);
        }
        Ok(rows
            .into_iter()
            .partition(|row| Ending::of_row(row).is_some()))
    }

    /// Somebody waits no longer.
    fn go_on(&self, left: &[JobId]) -> Failure {
        let ids = ranges(left);
        let jobs = match left {
            [_] => format!("job {ids} goes on"),
            _ => format!("jobs {ids} go on"),
        };
        // Where there are too many to name, there is no command to repeat.
        Failure::Interrupted(if ids.ends_with('…') {
            jobs
        } else {
            let (ids, jobctl) = (ids.replace(',', ""), self.settings.given.same());
            format!("{jobs}; {jobctl} wait {ids} waits again")
        })
    }

    fn too_late(&self, left: &[JobId], of: usize) -> Failure {
        let still = if left.len() == 1 { "job" } else { "jobs" };
        Failure::Refused(format!(
            "{} of {of} {still} not done in time: {}; look again with {} show {}",
            left.len(),
            ranges(left),
            self.settings.given.same(),
            left[0]
        ))
    }
}

/// What is shown while it waits: how many are done, or what the one job does.
fn tell(bar: &Bar, ids: &[JobId], done: &[JobRow], going: &[JobRow]) {
    bar.set_position(u64::try_from(done.len()).unwrap_or(u64::MAX));
    let failed = done.iter().filter(|row| !is_ok(row)).count();
    if let ([id], [row]) = (ids, going) {
        let status = plain(&row.status);
        bar.set_message(format!("job {id} ({}) is {status}", brief(&row.target)));
    } else if failed > 0 {
        bar.set_message(format!("{failed} failed"));
    }
}

/// A bar for several jobs, a line for one.
fn progress(jobs: usize) -> Bar {
    let template = match jobs {
        1 => "waiting: {msg} [{elapsed}]",
        _ => "{bar:30} {pos} of {len} done [{elapsed}] {msg}",
    };
    bar(jobs, template)
}

pub(super) fn is_ok(row: &JobRow) -> bool {
    Ending::of_row(row).is_some_and(|ending| ending.is_ok())
}

/// Of one job its own, of several 1 if any failed.
pub(super) fn exit_code(jobs: &[JobRow]) -> u8 {
    match jobs {
        [job] => Ending::of_row(job).map_or(1, |ending| ending.exit_code()),
        jobs => u8::from(!jobs.iter().all(is_ok)),
    }
}

/// How they ended, in words; of one with its output.
pub(super) fn ended(context: &Context, jobs: &[JobRow]) -> String {
    if let [job] = jobs {
        return one(context, job);
    }
    let failed: Vec<&JobRow> = jobs.iter().filter(|job| !is_ok(job)).collect();
    let mut text = format!(
        "{} jobs: {} ok, {} failed\n",
        jobs.len(),
        jobs.len() - failed.len(),
        failed.len()
    );
    for job in failed.iter().take(NAMED) {
        let Some(ending) = Ending::of_row(job) else {
            continue;
        };
        let target = plain(&job.target);
        let line = format!("job {} ({target}): {}", job.id, ending.words());
        text += &(context.screen.tone(ending.tone(), &line) + "\n");
    }
    if failed.len() > NAMED {
        let more = (failed.len() - NAMED).to_string();
        text.extend(["and ", &more, " more: ", &context.jobctl()]);
        text += " list --result fail shows them\n";
    }
    text
}

fn one(context: &Context, job: &JobRow) -> String {
    let Some(ending) = Ending::of_row(job) else {
        return String::new();
    };
    let line = format!("job {}: {}", job.id, ending.words());
    let mut text = context.screen.tone(ending.tone(), &line) + "\n";
    text += &stream("stdout", job.stdout.as_deref().unwrap_or_default());
    text += &stream("stderr", job.stderr.as_deref().unwrap_or_default());
    text
}

/// `1-40, 43`: ids of one insert have few gaps.
pub(super) fn ranges(ids: &[JobId]) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for JobId(id) in ids {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == *id => *end = *id,
            _ => runs.push((*id, *id)),
        }
    }
    let shown: Vec<String> = runs
        .iter()
        .take(NAMED)
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    shown.join(", ") + if runs.len() > NAMED { ", …" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_shown_as_ranges() {
        let ids = |ids: &[u64]| ids.iter().copied().map(JobId).collect::<Vec<_>>();
        assert_eq!(ranges(&ids(&[1, 2, 3, 7, 9, 10])), "1-3, 7, 9-10");
        assert_eq!(
            ranges(&ids(&(0..30).map(|id| id * 2).collect::<Vec<_>>())),
            "0, 2, 4, 6, 8, 10, 12, 14, 16, 18, …"
        );
    }
}
