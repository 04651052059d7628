//! Which processes of jobs are there, whatever has become of their worker.

use std::fs;
use std::path::Path;

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

/// Whether a process is there, and no zombie: that has no command line.
pub fn lives(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// The processes that jobs have noted in a file, in their order: whatever is a number there.
pub fn noted(notes: &Path) -> Vec<u32> {
    let text = fs::read_to_string(notes).unwrap_or_default();
    let words = text.split_whitespace();
    words.filter_map(|word| word.parse().ok()).collect()
}
