//! `list` and `show`: rows of the job table.

use std::collections::BTreeSet;

use jobd_proto::JobId;
use jobd_proto::settings::near_match;
use jobd_proto::table::{Cell, Columns, Connection, Filter, Found, JobRow, Kind, RowError, Schema};
use serde::Serialize;

use super::outcome::{Ending, PROGRESS, REASON, progress, stream};
use super::{Context, Done, ids};
use crate::cli::{Id, ListArgs};
use crate::database::{self, Database};
use crate::failure::Failure;
use crate::output::{Table, Tone, ago, bytes, complain, local_time, now, plain, reading, seconds};

/// `{"jobs": [row]}`, the newest first, without outputs.
#[derive(Serialize)]
struct Listed {
    jobs: Vec<JobRow>,
}

/// Creates the table. `--json`: `{"ok": true}`.
pub(crate) async fn create_table(context: &Context, schema: Schema) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let patience = database::patience(settings);
    let created = jobd_proto::table::create(&settings.settings, schema, &patience).await;
    created.map_err(|error| database::failure(settings, &error))?;
    context.screen.show(&Done { ok: true }, |_| {
        format!("created the job table in {}\n", database::place(settings))
    })?;
    Ok(0)
}

/// Lists rows.
pub(crate) async fn list(context: &Context, args: ListArgs) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let failure = |error| database::failure(settings, &error);
    let mut table = database::open(settings).await?;
    let wanted = wanted_columns(&table, &args.columns).map_err(failure)?;
    let now = now();
    let mut columns: Vec<String> = wanted
        .iter()
        .filter(|name| !is_named(name))
        .cloned()
        .collect();
    if wanted.is_empty() {
        // Why it failed belongs to how it ended, and how far it has come stands there before.
        let known = [REASON, PROGRESS]
            .into_iter()
            .filter(|name| table.columns().has(name));
        columns.extend(known.map(str::to_owned));
    }
    let filter = Filter {
        target: args.target,
        status: args.status,
        result: args.result,
        since: args.since.map(|since| since.seconds(now)),
        columns,
    };
    let told = reading(settings);
    let found = table.search(&filter, args.limit, |rows| told.inc(rows));
    let found = found.await;
    drop(told);
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let Found { jobs, gave_up } = found.map_err(failure)?;
    if let (true, Some(status)) = (jobs.is_empty(), &filter.status) {
        check_status(table.columns(), status)?;
    }
    if let (true, Some(target)) = (jobs.is_empty(), &filter.target) {
        hint_at(&mut table, target).await.map_err(failure)?;
    }
    if gave_up {
        complain("jobctl: gave up after a million rows; --since or --target says where to look");
    }
    context.screen.show(&Listed { jobs }, |listed| {
        if listed.jobs.is_empty() && context.screen.is_terminal() {
            return "no jobs\n".to_owned();
        }
        let shown = context.screen.table(&match wanted.as_slice() {
            [] => summary(&listed.jobs, now),
            wanted => chosen(&listed.jobs, wanted),
        });
        if listed.jobs.len() < limit || !context.screen.is_terminal() {
            return shown;
        }
        shown + &format!("at most {limit} are shown; --limit shows more\n")
    })?;
    Ok(0)
}

fn summary(jobs: &[JobRow], now: i64) -> Table {
    let mut table = Table::new(&[">ID", "TARGET", "STATUS", "RESULT", "ADDED", "TOOK"])
        .sparing(&["TOOK", "ADDED"]);
    for row in jobs {
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
    table
}

/// The columns as the table holds them.
fn chosen(jobs: &[JobRow], wanted: &[String]) -> Table {
    let header: Vec<String> = wanted.iter().map(|name| name.to_uppercase()).collect();
    let mut table = Table::new(&header);
    for row in jobs {
        let cells: Vec<String> = wanted.iter().map(|name| cell(row, name)).collect();
        table.row(tone(row), &cells);
    }
    table
}

/// Lower-case names of columns that are there.
fn wanted_columns(table: &Connection, names: &[String]) -> Result<Vec<String>, RowError> {
    let names = names.iter().map(|name| name.trim());
    names
        .filter(|name| !name.is_empty())
        .map(|name| table.known(name))
        .collect()
}

/// Whether a row without outputs has a field for it.
fn is_named(column: &str) -> bool {
    matches!(
        column,
        "id" | "target"
            | "status"
            | "result"
            | "return_code"
            | "sig"
            | "time_created"
            | "time_started"
            | "time_finished"
    )
}

fn cell(row: &JobRow, column: &str) -> String {
    let null = || "NULL".to_owned();
    match column {
        "id" => row.id.to_string(),
        "target" => row.target.clone(),
        "status" => row.status.clone(),
        "result" => row.result.clone().unwrap_or_else(null),
        "return_code" => row.return_code.map_or_else(null, |code| code.to_string()),
        "sig" => row.sig.clone().unwrap_or_else(null),
        "time_created" => row.time_created.to_string(),
        "time_started" => row.time_started.to_string(),
        "time_finished" => row.time_finished.to_string(),
        other => {
            let found = row.others.iter().find(|(name, _)| name == other);
            let value = found.and_then(|(_, value)| value.as_deref());
            value.map_or_else(null, str::to_owned)
        }
    }
}

/// Columns that are NULL where their ability had nothing to do.
const OURS: [&str; 10] = [
    "worker",
    "lease_until",
    "run_at",
    "max_attempts",
    "errors",
    "timeout",
    "reason",
    "cancel_requested",
    "data",
    "progress",
];

/// There is no such row.
pub(super) fn not_found(settings: &Database, id: JobId) -> Failure {
    let jobctl = settings.given.same();
    Failure::Refused(format!(
        "job {id} not found; {jobctl} list shows the newest ones"
    ))
}

/// What statuses there are.
pub(crate) const STATUSES: [&str; 7] = [
    "waiting",
    "manual",
    "accepted",
    "running",
    "done",
    "ignored",
    "scheduled",
];

/// A status that no row has and that nobody knows is a slip, not a question.
pub(super) fn check_status(columns: &Columns, status: &str) -> Result<(), Failure> {
    let known = match columns.get("status").map(|column| &column.kind) {
        Some(Kind::Text {
            values: Some(values),
            ..
        }) => values.clone(),
        _ => STATUSES.map(str::to_owned).to_vec(),
    };
    if known.iter().any(|known| known.eq_ignore_ascii_case(status)) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "no status '{status}', there are: {}",
        known.join(", ")
    )))
}

/// A target without a single row may be a slip.
pub(super) async fn hint_at(table: &mut Connection, target: &str) -> Result<(), RowError> {
    let mut known = BTreeSet::new();
    for status in STATUSES {
        known.extend(table.targets_with(status).await?);
    }
    let near = near_match(target, known.iter().map(String::as_str));
    if let Some(near) = near.filter(|_| !known.contains(target)) {
        complain(&format!(
            "jobctl: no job has the target {target}, did you mean {near}?"
        ));
    }
    Ok(())
}

/// Shows one row with its output. `--json`: the row, its further columns under `others`.
pub(crate) async fn show(context: &Context, id: Id) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let mut table = database::open(settings).await?;
    let id = ids::number(context, &mut table, id).await?;
    let row = table.show(id).await;
    let row = row.map_err(|error| database::failure(settings, &error))?;
    let row = row.ok_or_else(|| not_found(settings, id))?;
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
    lines.extend(used(row).map(|used| ("used".to_owned(), used)));
    let others = row.others.iter();
    for (name, value) in others.filter(|(name, _)| !USAGE.contains(&name.as_str())) {
        let shown = match value.as_deref() {
            // Of what an ability has not written there is nothing to be said.
            None if OURS.contains(&name.as_str()) => continue,
            None => "NULL".to_owned(),
            Some(value) if matches!(name.as_str(), "run_at" | "lease_until") => {
                value.parse().map_or_else(|_| plain(value), local_time)
            }
            Some(value) => plain(value),
        };
        lines.push((plain(name), shown));
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

/// How it ended; how far it has come if it has not, or `-`.
fn result(row: &JobRow) -> String {
    match Ending::of_row(row) {
        Some(ending) => ending.words(),
        None if row.status == "running" => progress(row).unwrap_or_else(|| "-".to_owned()),
        None => "-".to_owned(),
    }
}

/// Columns of what a job has used: CPU time, and memory at most.
const USAGE: [&str; 2] = ["cpu_ms", "peak_kib"];

/// What it has used; `None` where nobody knows.
fn used(row: &JobRow) -> Option<String> {
    let [cpu, peak] = USAGE.map(|column| row.others.iter().find(|(name, _)| name == column));
    let number = |value: Option<&(String, Option<Cell>)>| value?.1.as_ref()?.parse::<u64>().ok();
    let cpu = number(cpu).map(|ms| format!("{}.{} s CPU", ms / 1000, ms % 1000 / 100));
    let peak = number(peak).map(|kib| format!("{} peak", bytes(kib.saturating_mul(1024))));
    let known: Vec<String> = cpu.into_iter().chain(peak).collect();
    (!known.is_empty()).then(|| known.join(", "))
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
