//! A minute and a half of the chaos suite: a third of it always the same, on the minimal table, the others new every time, on
//! the full one, on a server and in a file.
//! `tests/chaos/run` does more of it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jobd_tests::Scratch;
use jobd_tests::process::Process;

/// Half a minute of faults, the build, the start, the last jobs and the checks.
const LIMIT: Duration = Duration::from_mins(4);

async fn check(arguments: &[&str]) {
    let scratch = Scratch::new();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("chaos/run");
    let mut command = Command::new(program);
    command.args(["--minutes", "0.5"]).args(arguments);
    let mut process = Process::start(&command, &scratch.join("chaos.log"));
    let status = process.wait(LIMIT).await;
    // The table of the run, for those who look at it.
    println!("{}", process.log());
    assert!(
        status.success(),
        "{status}: a promise was not kept, see above"
    );
}

#[tokio::test]
async fn the_same_faults_as_ever_break_no_promise_under_load() {
    check(&["--seed", "20261122"]).await;
}

#[tokio::test]
async fn new_faults_on_the_full_table_break_no_promise_under_load() {
    check(&["--table", "full"]).await;
}

#[tokio::test]
async fn new_faults_in_a_file_break_no_promise_under_load() {
    check(&["--sqlite", "--table", "full"]).await;
}
