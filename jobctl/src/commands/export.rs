//! `export`: rows as JSON lines, the oldest first.

use std::io::{self, Write as _};

use jobd_proto::table::Scan;

use super::Context;
use crate::cli::ExportArgs;
use crate::database;
use crate::failure::Failure;
use crate::output::now;

/// Rows read at a time: with their outputs, which may be of megabytes each.
const STEP: u32 = 500;

/// Writes them; where nobody reads any more (`| head`) it stops.
pub(crate) async fn run(context: &Context, args: ExportArgs) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let failure = |error| database::failure(settings, &error);
    let mut table = database::open(settings).await?;
    let since = args.since.map(|since| since.seconds(now()));
    let scan = Scan {
        target: args.target,
        status: args.status,
        since,
        floor: match since {
            Some(since) => table.first_since(since).await.map_err(failure)?,
            None => 0,
        },
        outputs: true,
        columns: table.other_columns(),
        ..Scan::default()
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut from = None;
    loop {
        let window = table.oldest(&scan, from, STEP).await.map_err(failure)?;
        for row in &window.jobs {
            let written = serde_json::to_writer(&mut out, row)
                .map_err(io::Error::from)
                .and_then(|()| out.write_all(b"\n"));
            match written {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
                Err(error) => return Err(cannot_write(&error)),
            }
        }
        from = window.next;
        if from.is_none() {
            break;
        }
    }
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(cannot_write(&error)),
        _ => Ok(0),
    }
}

fn cannot_write(error: &io::Error) -> Failure {
    Failure::Refused(format!("cannot write the rows: {error}"))
}
