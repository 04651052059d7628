//! `export`: rows as JSON lines, the oldest first.

use std::io::{self, IsTerminal as _, Write as _};

use jobd_proto::table::{Filter, RowError, Scan};

use super::Context;
use super::rows::{check_status, hint_at};
use crate::cli::ExportArgs;
use crate::database;
use crate::failure::Failure;
use crate::output::{now, reading};

/// Rows of one statement. They are written as they come: with their outputs each may be of megabytes.
const STEP: u32 = 500;

/// Why a step ended before its last row.
enum Stop {
    Table(RowError),
    Output(io::Error),
}

impl From<RowError> for Stop {
    fn from(error: RowError) -> Self {
        Self::Table(error)
    }
}

/// Writes them; where nobody reads any more (`| head`) it stops.
pub(crate) async fn run(context: &Context, args: ExportArgs) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let failure = |error| database::failure(settings, &error);
    let mut table = database::open(settings).await?;
    let since = args.since.map(|since| since.seconds(now()));
    let scan = Scan {
        filter: Filter {
            target: args.target.clone(),
            status: args.status.clone(),
            since,
            columns: table.other_columns(),
            ..Filter::default()
        },
        floor: match since {
            Some(since) => table.first_since(since).await.map_err(failure)?,
            None => 0,
        },
        outputs: true,
        ..Scan::default()
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    // Where the rows themselves are shown nobody need be told.
    let told = (!io::stdout().is_terminal()).then(|| reading(settings));
    let mut from = None;
    let mut any = false;
    loop {
        let step = table.oldest_each(&scan, from, STEP, |row| {
            any = true;
            let written = serde_json::to_writer(&mut out, &row).map_err(io::Error::from);
            let written = written.and_then(|()| out.write_all(b"\n"));
            written.map_err(Stop::Output)
        });
        match step.await {
            Ok(Some(next)) => {
                from = Some(next);
                if let Some(told) = &told {
                    told.inc(STEP.into());
                }
            }
            Ok(None) => break,
            Err(Stop::Table(error)) => return Err(failure(error)),
            Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
            Err(Stop::Output(error)) => return Err(cannot_write(&error)),
        }
    }
    drop(told);
    if let (false, Some(status)) = (any, &args.status) {
        check_status(table.columns(), status)?;
    }
    if let (false, Some(target)) = (any, &args.target) {
        hint_at(&mut table, target).await.map_err(failure)?;
    }
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(cannot_write(&error)),
        _ => Ok(0),
    }
}

fn cannot_write(error: &io::Error) -> Failure {
    Failure::Refused(format!("cannot write the rows: {error}"))
}
