//! `jobctl follow`.

use std::process::Stdio;

use jobd_tests::programs::{self, Daemon};
use jobd_tests::wait::PATIENCE;
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;

use crate::world::World;

/// `jobctl follow`, when it has shown the first line of the job's stdout.
async fn jobctl(master: &Daemon, id: u64) -> (tokio::process::Child, String) {
    let mut child = tokio::process::Command::new(programs::path("jobctl"))
        .args(["--master", "--config", "/dev/null", "--port"])
        .arg(master.addr.port().to_string())
        .args(["follow", &id.to_string(), "--wait"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("start jobctl");
    let stdout = child.stdout.as_mut().expect("a pipe");
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let byte = tokio::time::timeout(PATIENCE, stdout.read_u8()).await;
        line.push(byte.expect("a line in time").expect("a line"));
    }
    (child, String::from_utf8(line).expect("text"))
}

#[tokio::test]
async fn jobctl_shows_both_streams_and_ends_as_the_job_does() {
    let world = World::new().await;
    let script = r"echo one; printf 'two \377\n' >&2; wait go; echo three; exit 7";
    let (master, jobd) = world.with_master(world.script(script)).await;
    let id = world.running(&jobd).await;
    let (mut child, line) = jobctl(&master, id).await;
    assert_eq!(line, "one\n");
    let pid = i32::try_from(child.id().expect("it runs")).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("not 0");
    rustix::process::kill_process(pid, Signal::INT).expect("press Ctrl-C");
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
    assert_eq!(ended.expect("in time").expect("its end").code(), Some(130));
    assert_eq!(world.database.row(id).await.status, "running");

    let (child, line) = jobctl(&master, id).await;
    assert_eq!(line, "one\n");
    world.go_on("go");
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.expect("in time").expect("its output");
    assert_eq!(output.stdout, b"three\n");
    let failed = format!("jobctl: job {id}: failed with exit code 7\n");
    assert_eq!(output.stderr, [b"two \xff\n", failed.as_bytes()].concat());
    assert_eq!(output.status.code(), Some(7));
}
