//! `list-workers`: who is registered with a master.

use jobd_proto::master::WorkerInfo;
use serde::Serialize;

use super::{Context, master_status};
use crate::failure::Failure;
use crate::output::{Table, Tone};

/// `{"workers": [{"name", "address", "targets"}]}`
#[derive(Serialize)]
struct Workers {
    workers: Vec<Worker>,
}

#[derive(Serialize)]
struct Worker {
    name: String,
    /// Where its connection comes from: `10.0.0.5:41234`.
    address: String,
    targets: Vec<String>,
}

/// Lists them, by name.
pub(crate) async fn list(context: &Context) -> Result<u8, Failure> {
    let client = context.client().await?;
    let status = master_status(&client, false).await?;
    let mut workers: Vec<Worker> = status
        .workers
        .into_iter()
        .map(|info| Worker {
            address: address(&info),
            name: info.name,
            targets: info.targets,
        })
        .collect();
    workers.sort_by(|a, b| (&a.name, &a.address).cmp(&(&b.name, &b.address)));
    context.screen.show(&Workers { workers }, |found| {
        if found.workers.is_empty() && context.screen.is_terminal() {
            return "no workers are registered\n".to_owned();
        }
        let mut table = Table::new(&["WORKER", "ADDRESS", "TARGETS"]);
        for worker in &found.workers {
            table.row(
                Tone::Plain,
                &[
                    worker.name.clone(),
                    worker.address.clone(),
                    worker.targets.join(", "),
                ],
            );
        }
        context.screen.table(&table)
    })?;
    Ok(0)
}

/// Where a worker's connection comes from.
pub(super) fn address(info: &WorkerInfo) -> String {
    if info.remote_addr.contains(':') {
        format!("[{}]:{}", info.remote_addr, info.remote_port)
    } else {
        format!("{}:{}", info.remote_addr, info.remote_port)
    }
}
