//! `status`: targets and workers on one screen, from whoever can tell.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use jobd_proto::table::{Connection, JobRow};

use super::Context;
use super::outcome::progress;
use super::view::{Summary, Totals, View, Worker, look, sum};
use crate::cli::StatusArgs;
use crate::failure::Failure;
use crate::output::{
    Screen, Table, Tone, complain, is_closed, plain, print, put, seconds, several,
};
use crate::signals::Ends;

/// Lines of a screen that are neither a target nor a worker: headers, a blank, what is left out, sums,
/// sources (two where they are long), the prompt.
const OTHER_LINES: usize = 9;

/// The part of a screen, a fourth, that lines about what is not as it should be may take: the tables were asked for.
const TROUBLE_PART: usize = 4;

/// Jobs of which it is shown how far they have come.
const REPORTING: usize = 5;

/// Home, and away with what stands below; the screen does not flicker as with a clear.
const HOME: &str = "\x1b[H\x1b[J";

/// A screen of one's own without a cursor, and back to the one before.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// Gives the terminal back as it was, however the watch ends.
struct OwnScreen;

impl OwnScreen {
    fn take(screen: Screen) -> Result<Option<Self>, Failure> {
        if !screen.is_terminal() || screen.is_json() {
            return Ok(None);
        }
        put(ENTER)?;
        Ok(Some(Self))
    }
}

impl Drop for OwnScreen {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing back.
        let _ = put(LEAVE);
    }
}

/// Shows it, again and again with `--watch`; 1 if a worker could not be asked, 3 if the daemon or
/// the table could not.
pub(crate) async fn run(context: &Context, args: StatusArgs) -> Result<u8, Failure> {
    let mut table = None;
    let Some(pause) = args.watch else {
        let view = look(context, &mut table).await?;
        let errors: Vec<String> = view
            .errors
            .iter()
            .map(|error| format!("jobctl: {error}"))
            .collect();
        for error in &errors {
            complain(error);
        }
        let lines = (!args.all).then(|| room(context.screen, &errors)).flatten();
        context
            .screen
            .show(&view, |view| text(context, view, context.screen, lines))?;
        return Ok(exit_code(&view));
    };
    let context = &context.quietly();
    let mut ends = Ends::listen()?;
    let _own = OwnScreen::take(context.screen)?;
    tokio::select! {
        biased;
        // Ctrl-C is how one leaves.
        _ = tokio::signal::ctrl_c() => Ok(0),
        code = ends.next() => Ok(code),
        ended = watch(context, &mut table, pause, args.all) => ended,
    }
}

/// Goes on until nobody reads it.
async fn watch(
    context: &Context,
    table: &mut Option<Connection>,
    pause: Duration,
    all: bool,
) -> Result<u8, Failure> {
    // On a terminal each look is a frame over the one before, elsewhere it stands behind it.
    let has_frames = context.screen.is_terminal() && !context.screen.is_json();
    loop {
        // A daemon that comes back is shown then; there is nobody who would start this again.
        let shown = match look(context, table).await {
            Ok(view) if has_frames => {
                // The window may have another size by now.
                let screen = Screen::detect(false);
                let errors: String = view
                    .errors
                    .iter()
                    .map(|error| screen.tone(Tone::Bad, &screen.wrapped(&plain(error))) + "\n")
                    .collect();
                let room = (!all).then(|| room(screen, &view.errors)).flatten();
                print(&(HOME.to_owned() + &errors + &text(context, &view, screen, room)))
            }
            Ok(view) => {
                for error in &view.errors {
                    complain(&format!("jobctl: {error}"));
                }
                let text = |view: &View| text(context, view, context.screen, None) + "\n";
                context.screen.show(&view, text)
            }
            Err(failure) if has_frames => {
                let screen = Screen::detect(false);
                let error = screen.wrapped(&plain(&failure.to_string()));
                let error = screen.tone(Tone::Bad, &error);
                print(&(HOME.to_owned() + &error + "\n"))
            }
            Err(failure) => {
                complain(&format!("jobctl: {failure}"));
                Ok(())
            }
        };
        shown?;
        if is_closed() {
            return Ok(0);
        }
        tokio::time::sleep(pause).await;
    }
}

/// Lines of the screen that these lines leave, if it is a terminal.
fn room(screen: Screen, above: &[String]) -> Option<usize> {
    let taken: usize = above.iter().map(|line| screen.lines_of(line)).sum();
    screen.height().map(|height| height.saturating_sub(taken))
}

fn exit_code(view: &View) -> u8 {
    if !view.errors.is_empty() {
        return 3;
    }
    u8::from(view.workers.iter().any(|worker| worker.error.is_some()))
}

/// All of it; with `lines` what fits into so many, what needs an eye first.
fn text(context: &Context, view: &View, screen: Screen, lines: Option<usize>) -> String {
    let mut targets: Vec<&Summary> = view.targets.iter().collect();
    let mut workers: Vec<&Worker> = view.workers.iter().collect();
    let mut notes = notes(view);
    if let Some(lines) = lines {
        shorten(context, &mut notes, screen, lines / TROUBLE_PART);
    }
    notes.extend(
        progress_of(context, view)
            .into_iter()
            .map(|text| (Tone::Plain, text)),
    );
    let (mut left_targets, mut left_workers) = (0, 0);
    if let Some(lines) = lines {
        let notes: usize = notes.iter().map(|(_, text)| screen.lines_of(text)).sum();
        let room = lines.saturating_sub(OTHER_LINES + notes).max(4);
        // Workers take what targets leave, and a third at least.
        let for_workers = workers
            .len()
            .min((room / 3).max(room.saturating_sub(targets.len())));
        let for_targets = targets.len().min(room - for_workers);
        left_targets = targets.len() - for_targets;
        left_workers = workers.len() - for_workers;
        if left_targets > 0 {
            targets.sort_by_key(|target| Reverse(urgency(target)));
            targets.truncate(for_targets);
        }
        if left_workers > 0 {
            workers.sort_by_key(|worker| Reverse(worker_urgency(worker)));
            workers.truncate(for_workers);
        }
    }
    let mut text = String::new();
    if !targets.is_empty() || !screen.is_terminal() {
        text += &screen.table(&target_table(&targets));
    }
    if left_targets > 0 {
        text.extend([
            "… and ",
            &several(left_targets, "target"),
            " with less to see: --all\n",
        ]);
    }
    if !workers.is_empty() {
        text.extend(["\n", &screen.table(&worker_table(&workers))]);
    } else if view.kind == "master" {
        text += "no workers are registered\n";
    }
    if left_workers > 0 {
        text.extend(["… and ", &several(left_workers, "worker"), ": --all\n"]);
    }
    for (tone, note) in notes {
        text += &(screen.tone(tone, &screen.wrapped(&note)) + "\n");
    }
    if view.kind != "table" {
        // Of workers that were not asked there is no sum.
        text += &summary(&view.totals);
    }
    text.extend(["from ", &view.source(), "\n"]);
    text
}

/// What needs an eye comes first.
pub(super) fn urgency(target: &Summary) -> (bool, u64, u64, u64, u64) {
    let count = |count: Option<u64>| count.unwrap_or_default();
    (
        target.state == Some("no worker"),
        count(target.slow),
        count(target.failed_1h),
        count(target.waiting),
        count(target.running),
    )
}

/// What needs an eye comes first.
pub(super) fn worker_urgency(worker: &Worker) -> (bool, bool, usize) {
    let jobs = worker.targets.iter().filter_map(|target| target.jobs);
    (
        worker.error.is_some(),
        worker.database_away == Some(true),
        sum(jobs),
    )
}

/// The columns of targets; `>` marks numbers.
pub(super) const TARGET_COLUMNS: [&str; 9] = [
    "TARGET", "STATE", ">SLOTS", ">WAITING", ">RUNNING", ">SLOW", ">FAIL/1h", ">OLDEST", ">P95",
];

/// The columns of workers; `>` marks numbers.
pub(super) const WORKER_COLUMNS: [&str; 9] = [
    "WORKER", "ADDRESS", "UP", "STATE", ">SLOTS", ">QUEUED", ">RUNNING", ">JOBS", "TARGETS",
];

/// The columns of targets and workers that a narrow terminal does without.
pub(super) const SPARE: &[&str] = &[
    "P95", "SLOTS", "OLDEST", "FAIL/1h", "UP", "QUEUED", "ADDRESS", "JOBS", "SLOW",
];

fn target_table(targets: &[&Summary]) -> Table {
    let mut table = Table::new(&TARGET_COLUMNS).sparing(SPARE);
    for target in targets {
        table.row(target_tone(target), &target_cells(target));
    }
    table
}

/// A cell for each of [`TARGET_COLUMNS`].
pub(super) fn target_cells(target: &Summary) -> [String; 9] {
    let more = |count: Option<u64>, more: bool| {
        number(count) + if more && count > Some(0) { "+" } else { "" }
    };
    let time = |time: Option<u64>| time.map_or_else(unknown, seconds);
    [
        target.name.clone(),
        target.state.map_or_else(unknown, str::to_owned),
        number(target.slots),
        more(target.waiting, target.waiting_is_more),
        number(target.running),
        number(target.slow),
        more(target.failed_1h, target.failed_is_more),
        time(target.oldest_s),
        time(target.p95_s),
    ]
}

/// The colour of a target.
pub(super) fn target_tone(target: &Summary) -> Tone {
    let some = |count: Option<u64>| count.unwrap_or_default() > 0;
    match target.state {
        Some("no worker") if some(target.waiting) => Tone::Bad,
        Some("paused" | "partly paused" | "no worker") => Tone::Warning,
        _ if some(target.slow) || some(target.failed_1h) => Tone::Warning,
        _ => Tone::Plain,
    }
}

fn worker_table(workers: &[&Worker]) -> Table {
    let mut table = Table::new(&WORKER_COLUMNS).sparing(SPARE);
    for worker in workers {
        let (cells, tone) = worker_cells(worker);
        table.row(tone, &cells);
    }
    table
}

/// A cell for each of [`WORKER_COLUMNS`], and their colour.
pub(super) fn worker_cells(worker: &Worker) -> ([String; 9], Tone) {
    let told = |count: fn(&super::view::Target) -> Option<usize>| {
        let counts: Option<Vec<usize>> = worker.targets.iter().map(count).collect();
        counts.map_or_else(unknown, |counts| sum(counts.into_iter()).to_string())
    };
    let slots: Option<Vec<u32>> = worker.targets.iter().map(|target| target.slots).collect();
    let slots = slots.map(|slots| slots.into_iter().map(u64::from).sum());
    let targets = worker.targets.iter();
    let names: Vec<&str> = targets.map(|target| target.name.as_str()).collect();
    let (state, tone) = worker_state(worker);
    let cells = [
        worker.name.clone(),
        worker.address.clone(),
        worker.uptime_s.map_or_else(unknown, seconds),
        state,
        number(slots),
        told(|target| target.queued),
        told(|target| target.running),
        told(|target| target.jobs),
        names.join(", "),
    ];
    (cells, tone)
}

fn worker_state(worker: &Worker) -> (String, Tone) {
    let paused = || {
        worker
            .targets
            .iter()
            .filter(|target| target.paused == Some(true))
    };
    if worker.error.is_some() {
        return ("unknown".to_owned(), Tone::Bad);
    }
    if worker.database_away == Some(true) {
        return ("no database".to_owned(), Tone::Bad);
    }
    if worker.targets.iter().all(|target| target.paused.is_none()) {
        return (unknown(), Tone::Plain);
    }
    match paused().count() {
        0 => ("active".to_owned(), Tone::Plain),
        all if all == worker.targets.len() => ("paused".to_owned(), Tone::Warning),
        some => (format!("{some} paused"), Tone::Warning),
    }
}

/// Leaves the first of the notes, as many as fit into `room` lines of the screen.
fn shorten(context: &Context, notes: &mut Vec<(Tone, String)>, screen: Screen, room: usize) {
    let lines = |notes: &[(Tone, String)]| -> usize {
        notes.iter().map(|(_, text)| screen.lines_of(text)).sum()
    };
    let (all, jobctl) = (notes.len(), context.jobctl());
    if lines(notes) <= room {
        return;
    }
    let more = |left: usize| {
        format!("… and {left} more: --all shows them, {jobctl} doctor what mends them")
    };
    let room = room.saturating_sub(screen.lines_of(&more(all)));
    while notes.len() > 1 && lines(notes) > room {
        notes.pop();
    }
    let left = all - notes.len();
    if left > 0 {
        notes.push((Tone::Warning, more(left)));
    }
}

/// Lines about what is not as it should be.
fn notes(view: &View) -> Vec<(Tone, String)> {
    let line = |tone, text: &str| (tone, plain(text));
    let more = view.more().map(|text| line(Tone::Warning, &text));
    let silent = view.workers.iter().filter_map(|worker| {
        let error = worker.error.as_ref()?;
        let text = format!("{} at {}: {error}", worker.name, worker.address);
        Some(line(Tone::Bad, &text))
    });
    let away = view.workers.iter().filter_map(|worker| {
        let text = format!("{} {}", worker.name, worker.database_trouble()?);
        Some(line(Tone::Bad, &text))
    });
    let lacks = lacks(&view.workers).into_iter().map(|(lack, workers)| {
        let text = format!("{}: {lack}", several_names(&workers));
        line(Tone::Warning, &text)
    });
    more.into_iter()
        .chain(silent)
        .chain(away)
        .chain(lacks)
        .collect()
}

/// The jobs that say how far they have come, a few of them.
fn progress_of(context: &Context, view: &View) -> Vec<String> {
    let said = |row: &JobRow| {
        let progress = progress(row).filter(|_| row.status == "running")?;
        let line = format!("job {} ({}): {progress}", row.id, row.target);
        Some(plain(&line))
    };
    let mut lines: Vec<String> = view.active.iter().filter_map(said).collect();
    if lines.len() > REPORTING {
        let more = lines.len() - REPORTING;
        lines.truncate(REPORTING);
        let jobctl = context.jobctl();
        lines.push(format!("… and {more} more: {jobctl} list --status running"));
    }
    lines
}

/// What tables lack, each once, with the workers on them.
pub(super) fn lacks(workers: &[Worker]) -> BTreeMap<&str, Vec<&str>> {
    let mut lacks = BTreeMap::<&str, Vec<&str>>::new();
    for worker in workers {
        for lack in &worker.lacks {
            lacks.entry(lack).or_default().push(&worker.name);
        }
    }
    lacks
}

/// `web1, web2, web3 and 4 more`.
pub(super) fn several_names(names: &[&str]) -> String {
    const NAMED: usize = 3;
    let shown = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(unknown, |number| number.to_string())
}

fn unknown() -> String {
    "-".to_owned()
}

fn summary(totals: &Totals) -> String {
    // Of workers before version 2 only the sum is known.
    let told = sum([totals.queued, totals.running].into_iter());
    let untold = match totals.jobs.saturating_sub(told) {
        0 => String::new(),
        jobs => format!(" {jobs} queued or running (not told which),"),
    };
    format!(
        "{}, {}, {}: {} queued, {} running,{untold} {} paused\n",
        several(totals.workers, "worker"),
        several(totals.targets, "target"),
        several(usize::try_from(totals.slots).unwrap_or(usize::MAX), "slot"),
        totals.queued,
        totals.running,
        totals.paused
    )
}
