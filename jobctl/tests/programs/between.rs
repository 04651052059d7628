//! `run` and `add`, when something comes between: a stream that breaks off, a daemon that is silent, Ctrl-C.

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::table::Table;
use crate::terminal::Terminal;

/// Starts a command on the table, on a terminal.
fn start(table: &Table, arguments: &[&str]) -> Terminal {
    let config = ["--config", table.config.to_str().unwrap()];
    Terminal::start(100, &[&config, arguments].concat(), &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_stream_breaks_off_is_followed_again() {
    let (worker, job) = Daemon::teller(Value::Null).await;
    let table = Table::new(Some(worker.address)).await;
    let mut run = start(&table, &["run", "mail"]);
    job.tells(json!({"state": "manual"}));
    run.sees(&["job 1 (mail) is manual"]);
    job.breaks_off(json!({"state": "accepted", "worker": "w1@h"}));
    job.tells(json!({"state": "running"}));
    job.tells(json!({"stream": "stdout", "at": 0, "text": "one\n"}));
    run.sees(&["one"]);
    let outcome =
        json!({"result": "ok", "code": 0, "signal": null, "stdout": "one\ntwo\n", "stderr": ""});
    let done = json!({"state": "done", "result": "ok", "code": 0});
    job.ends(done, json!({"jobs": {"1": outcome}}));
    let (code, text) = run.ends();
    assert_eq!((code, text.trim_end()), (0, "one\ntwo"));
}
