//! Jobs that say by which processes they run, and what becomes of those.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use jobd_tests::programs::Daemon;
use jobd_tests::{Scratch, until};
use rustix::process::{Pid, Signal, kill_process};

use crate::PATIENCE;

/// A launcher whose jobs note their process number and last for `seconds`, with a child in a session of its own.
pub fn noting(scratch: &Scratch, seconds: u32) -> (String, Notes) {
    let notes = Notes(scratch.join("notes"));
    let script = format!(
        "#!/bin/sh\nsetsid sleep {seconds} &\necho \"$$ $!\" >> {}\nexec sleep {seconds}\n",
        notes.display()
    );
    let path = scratch.write("job.sh", script);
    (format!("/bin/sh {} {{id}}", path.display()), notes)
}

/// The file with the numbers. What is left of the jobs is killed when it is dropped: in a session of its own a child
/// outlives a job that was told to end, and both outlive a guard that was killed.
pub struct Notes(PathBuf);

impl Deref for Notes {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        for pid in runs(self).concat() {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if line.starts_with(b"sleep") {
                let pid = Pid::from_raw(pid.cast_signed());
                let _ = kill_process(pid.expect("a pid"), Signal::KILL);
            }
        }
    }
}

/// The processes of every run so far: the job's and its child's.
pub fn runs(notes: &Path) -> Vec<Vec<u32>> {
    let text = std::fs::read_to_string(notes).unwrap_or_default();
    let numbers = |line: &str| {
        line.split(' ')
            .map(|pid| pid.parse().expect("a pid"))
            .collect()
    };
    text.lines().map(numbers).collect()
}

/// Waits until so many runs have begun.
pub async fn running(daemon: &Daemon, notes: &Path, count: usize) {
    until(
        &format!("{count} runs\n{}", daemon.process.log()),
        PATIENCE,
        async || (runs(notes).len() == count).then_some(()),
    )
    .await;
}

pub fn kill(pid: i32) {
    let pid = Pid::from_raw(pid).expect("a pid");
    kill_process(pid, Signal::KILL).expect("kill");
}

/// Children of a process whose command line holds a word.
pub fn children(parent: u32, word: &str) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let ppid = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split(' ').nth(2)?.parse().ok());
        ppid == Some(parent) && String::from_utf8_lossy(&line).contains(word)
    })
    .collect()
}
