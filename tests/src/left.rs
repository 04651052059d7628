//! Which processes of jobs are there, whatever has become of their worker.

use std::fs;

/// The processes of all jobs of workers with this name, by what stands in their environment: also those that have left
/// their job's process group.
pub fn of_worker(name: &str) -> Vec<u32> {
    let mark = format!("JOBD_WORKER={name}@");
    let processes = fs::read_dir("/proc").expect("list the processes");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        variables.any(|variable| variable.starts_with(mark.as_bytes()))
    })
    .collect()
}
