//! Faults of the machine that a worker runs on.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use tokio::time::sleep;

use super::Outcome;
use crate::chaos::footprint::descriptors;
use crate::chaos::random::Random;
use crate::chaos::stage::Stage;

/// A worker opens its log anew at once; the rest is for a loaded machine.
const REOPEN_LIMIT: Duration = Duration::from_secs(3);

/// A worker gets no descriptor beyond those it has, or one: no process can be started.
pub(super) async fn few_descriptors(stage: &Stage, random: &mut Random) -> Outcome {
    let number = random.index(stage.workers.len());
    let worker = stage.workers[number].lock().await;
    let id = worker.daemon.process.id();
    let pid = Pid::from_raw(i32::try_from(id).expect("a process number"));
    let open = descriptors(id).expect("it runs") as u64;
    let few = Rlimit {
        current: Some(open + random.between(0, 1)),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let before = prlimit(pid, Resource::Nofile, few).expect("limit a process of ours");
    sleep(random.millis(300, 2_000)).await;
    prlimit(pid, Resource::Nofile, before).expect("lift the limit");
    Outcome {
        worker: Some(number),
        ..Outcome::default()
    }
}

/// The first worker's log lies on a disk that is full.
pub(super) async fn log_disk_full(stage: &Stage, random: &mut Random) -> Outcome {
    let _worker = stage.workers[0].lock().await;
    let disk = stage.small_disk.as_ref().expect("only where there is one");
    let path = fill(disk);
    sleep(random.millis(500, 2_000)).await;
    std::fs::remove_file(&path).expect("make room again");
    Outcome {
        worker: Some(0),
        ..Outcome::default()
    }
}

/// A worker's log is moved away, as programs that rotate logs do it, and the worker is told so.
pub(super) async fn log_moved(stage: &Stage, random: &mut Random) -> Outcome {
    let number = random.index(stage.workers.len());
    let mut worker = stage.workers[number].lock().await;
    let log = Path::new(worker.ini.get("log_file").expect("every worker has one")).to_owned();
    // While it is being started it has none yet, and on a full disk none at all.
    let moved = std::fs::rename(&log, log.with_extension("moved")).is_ok();
    worker.daemon.process.signal(Signal::USR1);
    sleep(REOPEN_LIMIT).await;
    Outcome {
        worker: Some(number),
        broken: (moved && !log.exists())
            .then(|| format!("{} has not opened its log anew", worker.name)),
        ..Outcome::default()
    }
}

/// Writes a file until the disk is full, to the last byte; returns the file.
pub(super) fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("full");
    let mut file = File::create(&path).expect("a file on the small disk");
    let mut block: &[u8] = &[0; 4_096];
    while !block.is_empty() {
        if file.write_all(block).is_err() {
            block = &block[..block.len() / 2];
        }
    }
    path
}
