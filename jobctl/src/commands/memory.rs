//! `memory-usage`: what the daemon's process holds.

use jobd_proto::memory::MemoryUsage;

use super::{Context, master_status, worker_status};
use crate::failure::Failure;
use crate::output::{Table, Tone, bytes};
use crate::settings::Kind;

/// `--json`: the daemon's own object, in bytes.
pub(crate) async fn run(context: &Context) -> Result<u8, Failure> {
    let client = context.client().await?;
    let usage = match context.kind() {
        Kind::Worker => worker_status(&client).await?.memory_usage,
        Kind::Master => master_status(&client, false).await?.memory_usage,
    };
    context
        .screen
        .show(&usage, |usage| context.screen.table(&table(usage)))?;
    Ok(0)
}

fn table(usage: &MemoryUsage) -> Table {
    let mut table = Table::new(&["MEMORY", ">SIZE"]);
    let known = [
        ("rss", usage.rss),
        ("heapTotal", usage.heap_total),
        ("heapUsed", usage.heap_used),
        ("external", usage.external),
        ("arrayBuffers", usage.array_buffers),
    ];
    for (name, size) in known {
        table.row(Tone::Plain, &[name.to_owned(), bytes(size)]);
    }
    for (name, size) in &usage.extra {
        table.row(
            Tone::Plain,
            &[
                name.clone(),
                size.as_u64().map_or_else(|| size.to_string(), bytes),
            ],
        );
    }
    table
}
