//! `add`: rows as an application inserts them, a poke, and the wait for their end.

use std::io::{IsTerminal as _, Read as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use jobd_proto::table::{Connection, DatabaseSettings, Filter, JobRow, NewJob};
use jobd_proto::{JobId, Targets};
use serde::Serialize;

use super::Context;
use super::outcome::{Ending, stream};
use crate::cli::AddArgs;
use crate::failure::Failure;
use crate::output::{complain, plain};
use crate::settings::Kind;
use crate::{client::Client, database};

/// Between two looks at the rows that are waited for: short at first, for quick jobs, then slow
/// enough to be no burden.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Ids in one look. The oldest end first, so that it need not name all that are left.
const LOOKED_AT: usize = 500;

/// Jobs named in the summary of a wait.
const NAMED: usize = 10;

/// `{"ids": [id], "poked": bool, "warning": text|null, "jobs": [row]}`; `jobs` only with `--wait`,
/// with the output if it is one.
#[derive(Serialize)]
struct Added {
    ids: Vec<JobId>,
    poked: bool,
    warning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs: Option<Vec<JobRow>>,
}

/// Inserts, pokes and, if asked to, waits.
pub(crate) async fn run(context: &Context, args: AddArgs) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let mut table = database::open(settings).await?;
    let job = new_job(&args)?;
    let ids = table
        .insert(&job, args.count)
        .await
        .map_err(|error| database::failure(settings, &error))?;
    let warning = if args.manual {
        None
    } else {
        poke(context, &job.target)
            .await
            .err()
            .map(|failure| failure.to_string())
    };
    if let Some(warning) = &warning {
        complain(&format!("jobctl: warning: not poked: {warning}"));
        complain("jobctl: the rows are added, workers find them by themselves (poll_interval)");
    }
    let mut added = Added {
        ids,
        poked: !args.manual && warning.is_none(),
        warning,
        jobs: None,
    };
    if !args.wait {
        context.screen.show(&added, |added| said(added, &args))?;
        return Ok(0);
    }
    let deadline = args.timeout.map(|limit| Instant::now() + limit);
    let jobs = Wait {
        table: &mut table,
        settings,
        deadline,
    }
    .for_end(&added.ids)
    .await?;
    let code = exit_code(&jobs);
    added.jobs = Some(jobs);
    context.screen.show(&added, |added| {
        ended(context, added.jobs.as_deref().unwrap_or_default())
    })?;
    Ok(code)
}

fn new_job(args: &AddArgs) -> Result<NewJob, Failure> {
    let data = match args.data.as_deref() {
        Some("-") => {
            let mut data = String::new();
            let read = std::io::stdin().read_to_string(&mut data);
            read.map_err(|error| {
                Failure::Usage(format!("cannot read --data from standard input: {error}"))
            })?;
            Some(data)
        }
        other => other.map(str::to_owned),
    };
    Ok(NewJob {
        target: args.target.to_string(),
        manual: args.manual,
        data,
        others: args.columns.clone(),
    })
}

async fn poke(context: &Context, target: &str) -> Result<(), Failure> {
    let kind = match context.kind() {
        Kind::Master => "poke",
        Kind::Worker => "poll",
    };
    let client = Client::connect(&context.settings.server).await?;
    client
        .order(kind, Targets::Named(vec![target.to_owned()]).data())
        .await
}

fn said(added: &Added, args: &AddArgs) -> String {
    let manual = if args.manual {
        "; jobctl run-manual runs them"
    } else {
        ""
    };
    match added.ids.as_slice() {
        [id] => format!("added job {id}{}\n", manual.replace("them", "it")),
        ids => format!("added {} jobs: {}{manual}\n", ids.len(), ranges(ids)),
    }
}

/// `1-40, 43`: ids of one insert have few gaps.
fn ranges(ids: &[JobId]) -> String {
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

/// The wait for rows to be done.
struct Wait<'a> {
    table: &'a mut Connection,
    settings: &'a DatabaseSettings,
    deadline: Option<Instant>,
}

impl Wait<'_> {
    /// The rows, in the order of `ids`, when all are done. No statement is cut short: the deadline
    /// is looked at between two.
    async fn for_end(mut self, ids: &[JobId]) -> Result<Vec<JobRow>, Failure> {
        let bar = progress(ids.len());
        let mut done: Vec<JobRow> = Vec::with_capacity(ids.len());
        let mut left = ids.to_vec();
        let mut failed = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let ended = self.look(&left).await?;
            pause = if ended.is_empty() {
                (pause * 3 / 2).min(LONGEST_PAUSE)
            } else {
                FIRST_PAUSE
            };
            failed += ended.iter().filter(|row| !is_ok(row)).count();
            done.extend(ended);
            left.retain(|id| !done.iter().rev().take(LOOKED_AT).any(|row| row.id == *id));
            bar.set_position(u64::try_from(done.len()).unwrap_or(u64::MAX));
            if failed > 0 {
                bar.set_message(format!("{failed} failed"));
            }
            if left.is_empty() {
                break;
            }
            if self
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
            {
                bar.abandon();
                let still = if left.len() == 1 { "job" } else { "jobs" };
                return Err(Failure::Refused(format!(
                    "{} of {} {still} not done in time: {}; look again with jobctl show {}",
                    left.len(),
                    ids.len(),
                    ranges(&left),
                    left[0]
                )));
            }
            tokio::time::sleep(pause).await;
        }
        bar.finish_and_clear();
        done.sort_by_key(|row| row.id);
        if let [only] = done.as_mut_slice() {
            let whole = self
                .table
                .show(only.id)
                .await
                .map_err(|error| database::failure(self.settings, &error))?;
            *only = whole.unwrap_or_else(|| only.clone());
        }
        Ok(done)
    }

    /// The rows of `left` that are done by now. A row that somebody has deleted will never be.
    async fn look(&mut self, left: &[JobId]) -> Result<Vec<JobRow>, Failure> {
        let ids = left[..left.len().min(LOOKED_AT)].to_vec();
        let limit = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let filter = Filter {
            limit,
            ids: ids.clone(),
            ..Filter::default()
        };
        let rows = self
            .table
            .list(&filter)
            .await
            .map_err(|error| database::failure(self.settings, &error))?;
        if let Some(gone) = ids.iter().find(|id| !rows.iter().any(|row| row.id == **id)) {
            return Err(Failure::Refused(format!(
                "job {gone} was deleted from the table"
            )));
        }
        Ok(rows
            .into_iter()
            .filter(|row| Ending::of_row(row).is_some())
            .collect())
    }
}

/// A bar for several jobs on a terminal, else one that shows nothing.
fn progress(jobs: usize) -> ProgressBar {
    if jobs < 2 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::try_from(jobs).unwrap_or(u64::MAX));
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {pos} of {len} done {msg} [{elapsed}]")
    {
        bar.set_style(style);
    }
    bar
}

fn is_ok(row: &JobRow) -> bool {
    Ending::of_row(row).is_some_and(|ending| ending.is_ok())
}

/// Of one job its own, of several 1 if any failed.
fn exit_code(jobs: &[JobRow]) -> u8 {
    match jobs {
        [job] => Ending::of_row(job).map_or(1, |ending| ending.exit_code()),
        jobs => u8::from(!jobs.iter().all(is_ok)),
    }
}

fn ended(context: &Context, jobs: &[JobRow]) -> String {
    if let [job] = jobs {
        let Some(ending) = Ending::of_row(job) else {
            return String::new();
        };
        let mut text = context.screen.tone(
            ending.tone(),
            &format!("job {}: {}", job.id, ending.words()),
        ) + "\n";
        text += &stream("stdout", job.stdout.as_deref().unwrap_or_default());
        text += &stream("stderr", job.stderr.as_deref().unwrap_or_default());
        return text;
    }
    let failed: Vec<&JobRow> = jobs.iter().filter(|job| !is_ok(job)).collect();
    let mut text = format!(
        "{} jobs: {} ok, {} failed\n",
        jobs.len(),
        jobs.len() - failed.len(),
        failed.len()
    );
    for job in failed.iter().take(NAMED) {
        if let Some(ending) = Ending::of_row(job) {
            text += &(context.screen.tone(
                ending.tone(),
                &format!(
                    "job {} ({}): {}",
                    job.id,
                    plain(&job.target),
                    ending.words()
                ),
            ) + "\n");
        }
    }
    if failed.len() > NAMED {
        let more = failed.len() - NAMED;
        text.extend(["and ", &more.to_string(), " more: jobctl list shows them\n"]);
    }
    text
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
