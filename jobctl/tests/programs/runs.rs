//! `run-manual` and `send-signal`, and `run` of what nobody runs.

use serde_json::{Value, json};

use crate::daemon::{Daemon, serves_mail};
use crate::jobctl::ask;
use crate::table::Table;

fn outcome(result: &str, code: Option<i32>, signal: Option<&str>, stdout: &str) -> Value {
    json!({"result": result, "code": code, "signal": signal, "stdout": stdout, "stderr": ""})
}

#[tokio::test]
async fn each_outcome_is_shown_and_a_failure_ends_with_1() {
    let reply = json!({
        "jobs": {
            "5": outcome("ok", Some(0), None, "one\n\ttwo \u{1b}[31m\n"),
            "6": outcome("fail", Some(3), None, ""),
            "7": outcome("fail", None, Some("SIGKILL"), ""),
        },
        "errors": {"8": "job 8 not found"},
    });
    let worker = Daemon::worker(Ok(reply.clone())).await;
    let run = ask(
        worker.address,
        &["run-manual", "5", "6:mail", "7", "8", "5"],
    )
    .await;
    let expected = "job 5: ok\n  stdout | one\n  stdout | \ttwo \\u{1b}[31m\n\
                    job 6: failed with exit code 3\njob 7: killed by SIGKILL\n\
                    job 8: not found\n";
    assert_eq!((run.code, run.stdout.as_str()), (1, expected));
    let asked = worker.asked();
    assert_eq!(
        asked,
        [("run-manual".to_owned(), json!({"ids": [5, 6, 7, 8, 5]}))]
    );
    let json = ask(worker.address, &["run-manual", "5", "--json"])
        .await
        .json();
    assert_eq!(json, reply);
}

#[tokio::test]
async fn success_ends_with_0_and_json_has_both_keys() {
    let worker = Daemon::worker(Ok(json!({"jobs": {"5": outcome("ok", Some(0), None, "")}}))).await;
    let run = ask(worker.address, &["run-manual", "5", "--json"]).await;
    assert_eq!((run.code, &run.json()["errors"]), (0, &json!({})));
    assert_eq!(
        ask(worker.address, &["run-manual", "5"]).await.stdout,
        "job 5: ok\n"
    );
}

#[tokio::test]
async fn a_busy_job_is_a_refusal() {
    let worker = Daemon::worker(Err("another client is already waiting for job 5")).await;
    let run = ask(worker.address, &["run-manual", "5"]).await;
    run.failed(1, &["another client is already waiting for job 5"]);
}

#[tokio::test]
async fn a_master_is_told_the_target_of_each_job() {
    let master = Daemon::master(Ok(json!({"jobs": {"5": outcome("ok", Some(0), None, "")}}))).await;
    let run = ask(master.address, &["--master", "run-manual", "5:a:b"]).await;
    assert_eq!(run.code, 0, "{run:?}");
    let asked = master.asked();
    assert_eq!(
        asked,
        [(
            "run-manual".to_owned(),
            json!({"jobs": [{"id": 5, "target": "a:b"}]})
        )]
    );
    let run = ask(master.address, &["--master", "run-manual", "5"]).await;
    run.failed(2, &["write 5:TARGET", "sqlite_path"]);
    assert_eq!(master.asked().len(), 1);
}

#[tokio::test]
async fn signals_go_by_name_or_number() {
    let worker = Daemon::worker(Ok(json!({"5": true, "6": false}))).await;
    let sent = ask(worker.address, &["send-signal", "term", "5", "6"]).await;
    assert_eq!(
        (sent.code, sent.stdout.as_str()),
        (1, "job 5: SIGTERM sent\njob 6: not running there\n")
    );
    assert_eq!(
        worker.asked(),
        [(
            "send-signal".to_owned(),
            json!({"jobs": {"5": 15, "6": 15}})
        )]
    );
    let json = ask(worker.address, &["send-signal", "9", "5", "--json"])
        .await
        .json();
    assert_eq!(
        json,
        json!({"delivered": {"5": true, "6": false}, "errors": {}})
    );
    let all = Daemon::worker(Ok(json!({"5": true}))).await;
    assert_eq!(
        ask(all.address, &["send-signal", "SIGKILL", "5"])
            .await
            .code,
        0
    );
}

#[tokio::test]
async fn signals_through_a_master_say_what_nobody_serves() {
    let reply =
        json!({"5": true, "errors": {"6": "worker serving target 'x' not found (job id=6)"}});
    let master = Daemon::master(Ok(reply)).await;
    let sent = ask(
        master.address,
        &["--master", "send-signal", "HUP", "5:mail", "6:x"],
    )
    .await;
    let expected = "job 5: SIGHUP sent\njob 6: worker serving target 'x' not found (job id=6)\n";
    assert_eq!((sent.code, sent.stdout.as_str()), (1, expected));
    let jobs = json!({"jobs": [{"id": 5, "signal": 1, "target": "mail"}, {"id": 6, "signal": 1, "target": "x"}]});
    assert_eq!(master.asked(), [("send-signal".to_owned(), jobs)]);
}

#[tokio::test]
async fn a_job_that_nobody_runs_is_not_added() {
    let master = json!({"workers": [{"remoteAddr": "10.0.0.1", "remotePort": 1, "targets": ["mail"]}], "memoryUsage": {}});
    for (daemon, given, who, shows) in [
        (
            Daemon::worker(Ok(serves_mail())).await,
            "",
            "this worker does not serve",
            "list-targets shows what it serves",
        ),
        (
            Daemon::master(Ok(master)).await,
            "--master ",
            "no worker serves",
            "list-workers shows what they serve",
        ),
    ] {
        let table = Table::new(Some(daemon.address)).await;
        let words = |target| format!("{given}run {target}");
        let run = async |target| {
            let words = words(target);
            let words: Vec<&str> = words.split(' ').collect();
            table.jobctl(&words).await
        };
        run("mial").await.failed(
            1,
            &[
                &format!("jobctl: {who} mial (did you mean mail?), and nothing was added; "),
                &table.line(&format!("{given}{shows}")),
            ],
        );
        run("nope").await.failed(1, &[&format!("{who} nope, and")]);
        let rows = table.jobctl(&["list", "--json"]).await.json();
        assert_eq!(rows["jobs"], json!([]));
        // What is served goes on to the daemon, for which another spelling may be the same.
        run("mail").await.failed(1, &["job 1 was added"]);
        if given.is_empty() {
            run("MAIL").await.failed(1, &["job 2 was added"]);
        }
    }
}

#[tokio::test]
async fn a_pattern_in_another_case_is_the_database_s_to_compare() {
    let mut status = serves_mail();
    status["targets"]["user/*"] = status["targets"]["mail"].clone();
    let worker = Daemon::worker(Ok(status)).await;
    let table = Table::new(Some(worker.address)).await;
    for (target, said) in [
        ("User/7", "job 1 was added"),
        ("Users/7", "this worker does not serve Users/7"),
    ] {
        table.jobctl(&["run", target]).await.failed(1, &[said]);
    }
}

#[tokio::test]
async fn a_job_is_not_added_behind_a_password_that_is_not_known() {
    let worker = Daemon::locked("correct").await;
    let table = Table::new(Some(worker.address)).await;
    let run = table.jobctl(&["run", "mail"]).await;
    run.failed(1, &["invalid password", "--password"]);
    assert!(!run.stderr.contains("was added"), "{run:?}");
    let rows = table.jobctl(&["list", "--json"]).await.json();
    assert_eq!(rows["jobs"], json!([]));
}
