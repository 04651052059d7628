//! `list` and `show`: rows of the job table.

use std::time::{SystemTime, UNIX_EPOCH};

use jobd_proto::JobId;
use jobd_proto::table::{Columns, Filter, JobRow, Kind};
use serde::Serialize;

use super::outcome::{Ending, stream};
use super::{Context, Done};
use crate::cli::ListArgs;
use crate::database;
use crate::failure::Failure;
use crate::output::{Table, Tone, ago, local_time, plain, seconds};

/// `{"jobs": [row]}`, the newest first, without outputs.
#[derive(Serialize)]
struct Listed {
    jobs: Vec<JobRow>,
}

/// Creates the table. `--json`: `{"ok": true}`.
pub(crate) async fn create_table(context: &Context) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let created = jobd_proto::table::create(settings).await;
    created.map_err(|error| database::failure(settings, &error))?;
    context.screen.show(&Done { ok: true }, |_| {
        format!("created the job table in {}\n", database::place(settings))
    })?;
    Ok(0)
}

/// Lists rows.
pub(crate) async fn list(context: &Context, args: ListArgs) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let mut table = database::open(settings).await?;
    let filter = Filter {
        target: args.target,
        status: args.status,
        ids: Vec::new(),
        limit: args.limit,
    };
    let jobs = table
        .list(&filter)
        .await
        .map_err(|error| database::failure(settings, &error))?;
    if let (true, Some(status)) = (jobs.is_empty(), &filter.status) {
        check_status(table.columns(), status)?;
    }
    let now = now();
    context.screen.show(&Listed { jobs }, |listed| {
        if listed.jobs.is_empty() {
            return "no jobs\n".to_owned();
        }
        let mut table = Table::new(&[">ID", "TARGET", "STATUS", "RESULT", "ADDED", "TOOK"]);
        for row in &listed.jobs {
            let cells = [
                row.id.to_string(),
                row.target.clone(),
                row.status.clone(),
                result(row),
                ago(row.time_created, now),
                took(row, now),
            ];
            table.row(tone(row), &cells);
        }
        context.screen.table(&table)
    })?;
    Ok(0)
}

/// A status that no row has and that nobody knows is a slip, not a question.
fn check_status(columns: &Columns, status: &str) -> Result<(), Failure> {
    const KNOWN: [&str; 6] = [
        "waiting", "manual", "accepted", "running", "done", "ignored",
    ];
    let known = match columns.get("status").map(|column| &column.kind) {
        Some(Kind::Text {
            values: Some(values),
            ..
        }) => values.clone(),
        _ => KNOWN.map(str::to_owned).to_vec(),
    };
    if known.iter().any(|known| known.eq_ignore_ascii_case(status)) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "no status '{status}', there are: {}",
        known.join(", ")
    )))
}

/// Shows one row with its output. `--json`: the row, its further columns under `others`.
pub(crate) async fn show(context: &Context, id: JobId) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let mut table = database::open(settings).await?;
    let row = table
        .show(id)
        .await
        .map_err(|error| database::failure(settings, &error))?;
    let Some(row) = row else {
        return Err(Failure::Refused(format!(
            "job {id} not found; jobctl list shows the newest ones"
        )));
    };
    context
        .screen
        .show(&row, |row| details(context, row, now()))?;
    Ok(0)
}

fn details(context: &Context, row: &JobRow, now: i64) -> String {
    let when = |then| match then {
        0 => "-".to_owned(),
        then => format!("{} ({})", local_time(then), ago(then, now)),
    };
    let mut lines = vec![
        ("job".to_owned(), row.id.to_string()),
        ("target".to_owned(), plain(&row.target)),
        ("status".to_owned(), plain(&row.status)),
        (
            "result".to_owned(),
            context.screen.tone(tone(row), &result(row)),
        ),
        ("added".to_owned(), when(row.time_created)),
        ("started".to_owned(), when(row.time_started)),
        ("finished".to_owned(), when(row.time_finished)),
        ("took".to_owned(), took(row, now)),
    ];
    for (name, value) in &row.others {
        lines.push((
            plain(name),
            value.as_deref().map_or_else(|| "NULL".to_owned(), plain),
        ));
    }
    let width = lines
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or_default();
    let mut text = String::new();
    for (name, value) in &lines {
        text += format!("{name:width$}  {value}").trim_end();
        text.push('\n');
    }
    text += &stream("stdout", row.stdout.as_deref().unwrap_or_default());
    text += &stream("stderr", row.stderr.as_deref().unwrap_or_default());
    text
}

/// How it ended; `-` if it has not.
fn result(row: &JobRow) -> String {
    Ending::of_row(row).map_or_else(|| "-".to_owned(), |ending| ending.words())
}

/// How long it ran, or has run so far.
fn took(row: &JobRow, now: i64) -> String {
    let end = match (row.time_started, row.time_finished) {
        (0, _) => return "-".to_owned(),
        (_, 0) if row.status == "running" => now,
        (_, 0) => return "-".to_owned(),
        (_, finished) => finished,
    };
    seconds(end.saturating_sub(row.time_started).max(0).unsigned_abs())
}

fn tone(row: &JobRow) -> Tone {
    match Ending::of_row(row) {
        Some(ending) => ending.tone(),
        None if row.status == "running" => Tone::Warning,
        None => Tone::Plain,
    }
}

fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
