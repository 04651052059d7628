//! `wait`: until jobs are done, and then as they ended.

use std::time::Instant;

use jobd_proto::table::JobRow;
use serde::Serialize;

use super::waiting::{Wait, ended, exit_code};
use super::{Context, ids};
use crate::cli::WaitArgs;
use crate::database;
use crate::failure::Failure;

/// `{"jobs": [row]}`: those that are done, with the output if it is one.
#[derive(Serialize)]
struct Waited {
    jobs: Vec<JobRow>,
}

/// Waits; ends with the code of the one job, of several 1 if any failed.
pub(crate) async fn run(context: &Context, args: WaitArgs) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let mut table = database::open(settings).await?;
    let ids = ids::numbers(context, &mut table, &args.ids).await?;
    let jobs = Wait {
        table: &mut table,
        settings,
        deadline: args.timeout.map(|limit| Instant::now() + limit),
        any: args.any,
    }
    .for_end(&ids)
    .await?;
    let code = exit_code(&jobs);
    let shown = |waited: &Waited| ended(context, &waited.jobs);
    context.screen.show(&Waited { jobs }, shown)?;
    Ok(code)
}
