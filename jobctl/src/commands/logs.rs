//! `logs`: the output of one job as it is, on the streams that it came from.

use std::io::{self, IsTerminal as _, Write as _};

use jobd_proto::JobId;
use jobd_proto::follow::{Follow, MAX_TAIL, Stream};
use jobd_proto::table::{Cell, Connection, JobRow};
use serde::Serialize;

use super::follow::{PAUSE, Watched, elsewhere, outcome, state, watch};
use super::live::View;
use super::outcome::Ending;
use super::waiting::Wait;
use super::{Context, ids};
use crate::cli::{FollowArgs, LogsArgs};
use crate::database::{self, Database};
use crate::failure::Failure;
use crate::output::{complain, plain, print_bytes, wrote};

/// `{"id", "status", "stdout": text|null, "stderr": text|null}`; see [`Cell`]
#[derive(Serialize)]
struct Logs<'a> {
    id: JobId,
    status: &'a str,
    stdout: Option<&'a Cell>,
    stderr: Option<&'a Cell>,
}

/// Shows it; with `-f` until the job is done.
pub(crate) async fn run(context: &Context, args: LogsArgs) -> Result<u8, Failure> {
    if args.follow && context.settings.database.is_none() {
        let follow = FollowArgs {
            id: args.id,
            wait: true,
            tail: u32::try_from(MAX_TAIL).ok(),
        };
        // A job that failed has its output, too.
        return super::follow::run(context, follow).await.map(|_| 0);
    }
    let settings = database::settings(&context.settings)?;
    let mut table = database::open(settings).await?;
    let id = ids::number(context, &mut table, args.id).await?;
    let mut row = find(settings, &mut table, id).await?;
    let mut view = View::keeping(id, true);
    let mut ended = false;
    if args.follow && !is_over(&row) {
        if !context.screen.is_json() {
            match live(context, id, &mut view).await? {
                Some(seen) => ended = seen,
                None => return Ok(0),
            }
        }
        let wait = Wait {
            table: &mut table,
            settings,
            deadline: None,
            any: false,
        };
        wait.for_end(&[id]).await?;
        row = find(settings, &mut table, id).await?;
    }
    if context.screen.is_json() {
        let logs = Logs {
            id: row.id,
            status: &row.status,
            stdout: row.stdout.as_ref(),
            stderr: output(&row),
        };
        context.screen.show(&logs, |_| String::new())?;
        return Ok(0);
    }
    let whole = [row.stdout.as_ref(), output(&row)];
    let whole = whole.map(|output| output.map_or(&[][..], Cell::as_bytes));
    show_rest(context, &view, whole, ended)?;
    if !is_over(&row) {
        let (status, jobctl) = (plain(&row.status), context.jobctl());
        complain(&format!(
            "jobctl: job {id} is {status}; {jobctl} logs {id} -f shows its output as it comes"
        ));
    }
    Ok(0)
}

fn is_over(row: &JobRow) -> bool {
    matches!(row.status.as_str(), "done" | "ignored")
}

async fn find(settings: &Database, table: &mut Connection, id: JobId) -> Result<JobRow, Failure> {
    let row = table.show(id).await;
    let row = row.map_err(|error| database::failure(settings, &error))?;
    row.ok_or_else(|| super::rows::not_found(settings, id))
}

/// Shows what a job writes until it is done; whether all of that was seen. Says why not, where there is a reason. `None`:
/// nobody wants to see any more.
async fn live(context: &Context, id: JobId, view: &mut View) -> Result<Option<bool>, Failure> {
    let followed = tokio::select! {
        biased;
        followed = followed(context, id, view) => followed,
        _ = tokio::signal::ctrl_c() => {
            return Err(Failure::Interrupted(format!("job {id} goes on")));
        }
    };
    let why = match followed {
        Ok(ended) => return Ok(ended),
        Err(why) => why,
    };
    view.is_over();
    complain(&format!(
        "jobctl: cannot follow job {id}: {why}; its row is looked at until it is done"
    ));
    Ok(Some(false))
}

async fn followed(context: &Context, id: JobId, view: &mut View) -> Result<Option<bool>, Failure> {
    let client = context.client().await?;
    let follow = Follow {
        tail: MAX_TAIL,
        wait: true,
        ..Follow::new(id)
    };
    loop {
        let message = match watch(&client, follow, view).await? {
            Watched::Last(message) => message,
            Watched::Closed => return Ok(None),
        };
        view.is_over();
        let state = state(context, id, message)?;
        if let Some(outcome) = outcome(&state) {
            let ending = Ending::of_outcome(&outcome);
            if view.ran() && !ending.is_ok() {
                complain(&format!("jobctl: job {id}: {}", ending.words()));
            }
            return Ok(Some(view.ran()));
        }
        if !view.ran() {
            let worker = state.worker.unwrap_or_default();
            return Err(Failure::Refused(elsewhere(id, &state.state, &worker)));
        }
        view.again(&state.state);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Shows what was not shown of an output yet. `ended`: the job was followed to its end.
pub(super) fn show_rest(
    context: &Context,
    view: &View,
    whole: [&[u8]; 2],
    ended: bool,
) -> Result<(), Failure> {
    let [out, err] = view.rest(whole, ended);
    let written = |output: Option<&[u8]>, terminal| match output.unwrap_or_default() {
        output if terminal => shown(&String::from_utf8_lossy(output)).into_bytes(),
        output => output.to_owned(),
    };
    print_bytes(&written(out, io::stdout().is_terminal()))?;
    // Where standard error is closed there is nobody left to tell.
    let shown_err = written(err, io::stderr().is_terminal());
    let _ = io::stderr().write_all(&shown_err);
    wrote(Stream::Stderr, &shown_err);
    if out.is_none() || err.is_none() {
        let id = view.id();
        let jobctl = context.jobctl();
        complain(&format!(
            "jobctl: not all of that output was shown; {jobctl} logs {id} shows what is kept of it"
        ));
    }
    Ok(())
}

/// What the job wrote to standard error. On the minimal table the claim's token stands there while
/// the job is in hand.
fn output(row: &JobRow) -> Option<&Cell> {
    let stderr = row.stderr.as_ref();
    stderr.filter(|_| !matches!(row.status.as_str(), "accepted" | "running"))
}

/// As a terminal shows it: without what could steer it, and with a newline at its end.
pub(super) fn shown(output: &str) -> String {
    let line = |line: &str| {
        let cells: Vec<String> = line.split('\t').map(plain).collect();
        cells.join("\t") + "\n"
    };
    output.lines().map(line).collect()
}
