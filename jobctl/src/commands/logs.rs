//! `logs`: the output of one job as it is, on the streams that it came from.

use std::io::{self, IsTerminal as _, Write as _};

use jobd_proto::JobId;
use jobd_proto::table::JobRow;
use serde::Serialize;

use super::waiting::Wait;
use super::{Context, ids};
use crate::cli::LogsArgs;
use crate::database;
use crate::failure::Failure;
use crate::output::{complain, plain, print};

/// `{"id", "status", "stdout": text|null, "stderr": text|null}`
#[derive(Serialize)]
struct Logs<'a> {
    id: JobId,
    status: &'a str,
    stdout: Option<&'a str>,
    stderr: Option<&'a str>,
}

/// Shows it; with `-f` when the job is done.
pub(crate) async fn run(context: &Context, args: LogsArgs) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let mut table = database::open(settings).await?;
    let id = ids::number(context, &mut table, args.id).await?;
    if args.follow {
        let wait = Wait {
            table: &mut table,
            settings,
            deadline: None,
            any: false,
        };
        wait.for_end(&[id]).await?;
    }
    let row = table.show(id).await;
    let row = row.map_err(|error| database::failure(settings, &error))?;
    let Some(row) = row else {
        return Err(super::rows::not_found(id));
    };
    if context.screen.is_json() {
        let logs = Logs {
            id: row.id,
            status: &row.status,
            stdout: row.stdout.as_deref(),
            stderr: output(&row),
        };
        context.screen.show(&logs, |_| String::new())?;
        return Ok(0);
    }
    print(&shown(
        row.stdout.as_deref().unwrap_or_default(),
        io::stdout().is_terminal(),
    ))?;
    let errors = shown(output(&row).unwrap_or_default(), io::stderr().is_terminal());
    // Where standard error is closed there is nobody left to tell.
    let _ = io::stderr().write_all(errors.as_bytes());
    if !matches!(row.status.as_str(), "done" | "ignored") {
        let status = plain(&row.status);
        complain(&format!(
            "jobctl: job {id} is {status}; jobctl logs {id} -f waits for its output"
        ));
    }
    Ok(0)
}

/// What the job wrote to standard error. On the minimal table the claim's token stands there while
/// the job is in hand.
fn output(row: &JobRow) -> Option<&str> {
    let stderr = row.stderr.as_deref();
    stderr.filter(|_| !matches!(row.status.as_str(), "accepted" | "running"))
}

/// On a terminal without what could steer it, and with a newline at its end.
pub(super) fn shown(output: &str, terminal: bool) -> String {
    if !terminal {
        return output.to_owned();
    }
    let line = |line: &str| {
        let cells: Vec<String> = line.split('\t').map(plain).collect();
        cells.join("\t") + "\n"
    };
    output.lines().map(line).collect()
}
