//! `run` and `add`, when something comes between: a stream that breaks off, a daemon that is silent, Ctrl-C.

use serde_json::json;

use crate::daemon::{Daemon, serves_mail};
use crate::table::Table;
use crate::terminal::Terminal;

/// Starts a command on the table, on a terminal.
fn start(table: &Table, arguments: &[&str]) -> Terminal {
    let config = ["--config", table.config.to_str().unwrap()];
    Terminal::start(100, &[&config, arguments].concat(), &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_stream_breaks_off_is_followed_again() {
    let (worker, job) = Daemon::teller(serves_mail()).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn what_an_attempt_wrote_stays_where_its_stream_breaks_off() {
    let (worker, job) = Daemon::teller(serves_mail()).await;
    let table = Table::new(Some(worker.address)).await;
    let mut run = start(&table, &["run", "mail"]);
    job.tells(json!({"state": "running"}));
    job.tells(json!({"stream": "stdout", "at": 0, "text": "progress 50%"}));
    run.sees(&["progress 50%"]);
    job.breaks_off(json!({"state": "accepted", "worker": "w1@h"}));
    run.sees(&["waiting: job 1 (mail) is looked for"]);
    let outcome =
        json!({"result": "ok", "code": 0, "signal": null, "stdout": "all\n", "stderr": ""});
    let done = json!({"state": "done", "result": "ok", "code": 0});
    job.ends(done, json!({"jobs": {"1": outcome}}));
    let (code, text) = run.ends();
    let told = "jobctl: the attempt of job 1 was cut short; the job is accepted now";
    assert_eq!(
        (code, text.trim_end()),
        (0, format!("progress 50%\n{told}\nall").as_str())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_wrote_nothing_is_told_of_below_no_bar() {
    let (worker, job) = Daemon::teller(serves_mail()).await;
    let table = Table::new(Some(worker.address)).await;
    let mut run = start(&table, &["run", "mail"]);
    job.tells(json!({"state": "running"}));
    run.sees(&["waiting: job 1 (mail) is running ["]);
    job.breaks_off(json!({"state": "accepted", "worker": "w1@h"}));
    let told = "jobctl: the attempt of job 1 was cut short; the job is accepted now";
    let text = run.sees(&[told]);
    assert_eq!(text.lines().next(), Some(told), "{text}");
    let outcome =
        json!({"result": "ok", "code": 0, "signal": null, "stdout": "all\n", "stderr": ""});
    let done = json!({"state": "done", "result": "ok", "code": 0});
    job.ends(done, json!({"jobs": {"1": outcome}}));
    let (code, text) = run.ends();
    assert_eq!(
        (code, text.trim_end()),
        (0, format!("{told}\nall").as_str())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_there_are_named_after_ctrl_c() {
    // It takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let table = Table::new(Some(address)).await;
    table
        .execute("INSERT INTO jobs (target, time_created, status, result) VALUES ('mail', 1, 'done', 'fail')")
        .await;
    for (words, said) in [
        (&["add", "--target", "mail"][..], "added job 2\n"),
        (&["add", "--target", "mail", "--wait"], "added job 3\n"),
        (&["--master", "add", "--target", "mail"], "added job 4\n"),
        (&["retry", "1"], "job 1 waits again\n"),
    ] {
        let mut command = start(&table, words);
        command.sees(&["waiting for ", " to answer po"]);
        command.press("\x03");
        let (code, text) = command.ends();
        assert_eq!(code, 130, "{words:?}: {text}");
        let text = text.replace("^C", "") + "\n";
        assert!(
            text.contains("warning: not poked: interrupted\n") && text.ends_with(said),
            "{words:?}: {text}"
        );
    }
    let (worker, _job) = Daemon::teller(serves_mail()).await;
    let table = Table::new(Some(worker.address)).await;
    let mut run = start(&table, &["run", "mail"]);
    run.sees(&["waiting: job 1 (mail) is asked for ["]);
    run.press("\x03");
    let (code, text) = run.ends();
    assert_eq!(code, 130, "{text}");
    assert!(
        text.contains("job 1 was added: jobctl --config") && text.contains(" run-manual 1 has"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_says_of_a_job_that_has_begun_that_it_goes_on() {
    let (worker, job) = Daemon::teller(serves_mail()).await;
    let table = Table::new(Some(worker.address)).await;
    let mut run = start(&table, &["run", "mail"]);
    job.tells(json!({"state": "manual"}));
    run.sees(&["job 1 (mail) is manual ["]);
    job.tells(json!({"state": "running"}));
    run.sees(&["job 1 (mail) is running ["]);
    run.press("\x03");
    let (code, text) = run.ends();
    assert_eq!(code, 130, "{text}");
    assert!(text.contains("job 1 goes on; jobctl --config"), "{text}");
}

/// Runs a job that ends with 4 behind this output.
async fn run_fails<T>(stderr: &str, run: impl AsyncFnOnce(Table) -> T) -> T {
    let (worker, job) = Daemon::teller(serves_mail()).await;
    let table = Table::new(Some(worker.address)).await;
    job.tells(json!({"state": "running"}));
    job.tells(json!({"stream": "stderr", "at": 0, "text": stderr}));
    job.tells(json!({"stream": "stdout", "at": 0, "text": "progress 50%"}));
    let outcome = json!({"result": "fail", "code": 4, "signal": null, "stdout": "progress 50%", "stderr": stderr});
    let done = json!({"state": "done", "result": "fail", "code": 4});
    job.ends(done, json!({"jobs": {"1": outcome}}));
    run(table).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complaint_begins_a_line_of_its_own() {
    let complaint = "jobctl: job 1: failed with exit code 4\n";
    for (stderr, told) in [("err", "err\n"), ("err\n", "err\n"), ("", "")] {
        let run = run_fails(stderr, async |table: Table| {
            table.jobctl(&["run", "mail"]).await
        });
        let run = run.await;
        // What stands elsewhere does not count.
        assert_eq!(run.stdout, "progress 50%");
        assert_eq!(run.stderr, told.to_owned() + complaint);
    }
    let shown = run_fails("", async |table: Table| {
        start(&table, &["run", "mail"]).ends()
    });
    let (code, text) = shown.await;
    assert_eq!(
        (code, text),
        (4, format!("progress 50%\n{}", complaint.trim_end()))
    );
}
