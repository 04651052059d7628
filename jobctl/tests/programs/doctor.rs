//! What `doctor` finds in a config, a daemon and a table, and what it advises.

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::jobctl::{Run, run};
use crate::table::Table;

fn master(workers: &Value) -> Value {
    json!({"workers": workers, "memoryUsage": {}})
}

fn worker(paused: bool) -> Value {
    json!({"remoteAddr": "10.0.0.1", "remotePort": 1, "name": "web1", "targets": ["mail"], "workerStatus":
        {"targets": {"mail": {"paused": paused, "concurrency": 2, "length": 0, "running": 0, "queued": 0}},
         "jobPromisesCount": 0, "memoryUsage": {}, "name": "web1", "version": "2.0.0"}})
}

/// The finding whose text holds `text`, as level and mending.
#[track_caller]
fn finding(run: &Run, text: &str) -> (String, String) {
    let lines = run.stdout.lines().map(|line| line.split('\t').collect());
    let found = lines
        .into_iter()
        .find(|cells: &Vec<&str>| cells[2].contains(text));
    let found = found.unwrap_or_else(|| panic!("{text:?} is not in {run:?}"));
    (found[0].to_owned(), found[3].to_owned())
}

#[tokio::test]
async fn a_sound_cluster_is_well() {
    let daemon = Daemon::master(Ok(master(&json!([worker(false)])))).await;
    let table = Table::new(Some(daemon.address)).await;
    table.owned().await;
    let run = table.jobctl(&["--master", "doctor"]).await;
    assert_eq!(run.code, 0, "{run:?}");
    let levels = run
        .stdout
        .lines()
        .skip(1)
        .map(|line| line.split('\t').next());
    assert!(levels.eq([Some("ok"); 7]), "{run:?}");
    let json = table.jobctl(&["--master", "doctor", "--json"]).await.json();
    assert_eq!((&json["errors"], &json["warnings"]), (&json!(0), &json!(0)));
    assert_eq!(json["findings"][0]["about"], "config");
}

#[tokio::test]
async fn each_finding_comes_with_what_mends_it() {
    let silent = json!({"remoteAddr": "10.0.0.2", "remotePort": 2, "name": "web2", "targets": ["mail"], "workerStatusError": "no answer"});
    let daemon = Daemon::master(Ok(master(&json!([worker(true), silent])))).await;
    let table = Table::new(Some(daemon.address)).await;
    table
        .execute(
            "DROP INDEX status_target_idx; ALTER TABLE jobs ADD COLUMN worker TEXT; ALTER TABLE jobs ADD COLUMN run_at INTEGER; \
             INSERT INTO jobs (target, time_created, status, time_started) VALUES \
             ('lost', unixepoch(), 'waiting', 0), ('mail', 1, 'running', 1), ('mail', 1, 'accepted', 0)",
        )
        .await;
    let run = table.jobctl(&["--master", "doctor"]).await;
    assert_eq!(run.code, 1, "{run:?}");
    let config = table.config.to_str().unwrap();
    for (text, level, mend) in [
        (
            "web2 at 10.0.0.2:2: no answer",
            "error",
            "systemctl status jobd",
        ),
        (
            "web1 has paused mail",
            "warning",
            "jobctl --config CONFIG --master continue mail",
        ),
        (
            "ownership is off, as columns are missing: lease_until",
            "warning",
            "ADD COLUMN \"lease_until\" INTEGER",
        ),
        (
            "no index begins with status and target",
            "error",
            "CREATE INDEX `status_target_idx` ON",
        ),
        (
            "the column status lacks scheduled",
            "warning",
            "the statements that jobd --check-config prints",
        ),
        (
            "no index begins with run_at",
            "warning",
            "CREATE INDEX `run_at_idx` ON",
        ),
        (
            "1 job waits for lost, which no worker serves",
            "error",
            "jobctl --config CONFIG --worker --port 7080 --host WORKER add-target lost 1",
        ),
        (
            "job 2 (mail) runs for",
            "warning",
            "SET status = 'waiting' WHERE id = 2 AND status = 'running'",
        ),
        (
            "job 3 (mail) is accepted",
            "warning",
            "WHERE id = 3 AND status = 'accepted'",
        ),
    ] {
        let (found, advice) = finding(&run, text);
        assert_eq!(found, level, "{text}");
        let advice = advice.replace(config, "CONFIG");
        assert!(advice.contains(mend), "{text}: {advice}");
    }
    // The advice for the index works.
    let (_, ddl) = finding(&run, "no index begins with status and target");
    table.execute(&ddl).await;
    let run = table.jobctl(&["--master", "doctor"]).await;
    assert_eq!(finding(&run, "claims go by the index").0, "ok");
}

#[tokio::test]
async fn workers_of_different_versions_are_named() {
    let of = |version: &str| {
        let mut worker = worker(false);
        worker["workerStatus"]["version"] = version.into();
        worker
    };
    let mut original = worker(false);
    let status = original["workerStatus"].as_object_mut().unwrap();
    status.remove("version");
    let mut silent = of("3.0.0");
    silent["workerStatusError"] = "no answer".into();
    silent.as_object_mut().unwrap().remove("workerStatus");
    for (workers, versions) in [
        (
            vec![of("2.1.0"), of("2.0.0"), of("2.1.0")],
            Some("2.0.0, 2.1.0"),
        ),
        (vec![of("2.0.0"), original], Some("1.x, 2.0.0")),
        (vec![of("2.0.0"), of("2.0.0"), silent], None),
    ] {
        let daemon = Daemon::master(Ok(master(&json!(workers)))).await;
        let doctor = crate::jobctl::ask(daemon.address, &["--master", "doctor"]).await;
        let Some(versions) = versions else {
            assert!(!doctor.stdout.contains("different versions"), "{doctor:?}");
            continue;
        };
        let text = format!("workers are of different versions: {versions}");
        let mend = "upgrade the older ones; mixed clusters work meanwhile";
        assert_eq!(
            finding(&doctor, &text),
            ("warning".to_owned(), mend.to_owned())
        );
    }
}

#[tokio::test]
async fn a_worker_that_is_away_from_its_database_is_an_error() {
    let mut away = worker(false);
    away["workerStatus"]["databaseAway"] = true.into();
    away["workerStatus"]["journaledEnds"] = 3.into();
    let daemon = Daemon::master(Ok(master(&json!([away])))).await;
    let trouble =
        "web1 cannot reach its database: it claims nothing; 3 ends of jobs wait in its journal";
    let doctor = crate::jobctl::ask(daemon.address, &["--master", "doctor"]).await;
    assert_eq!(finding(&doctor, trouble).0, "error");
    let status = crate::jobctl::ask(daemon.address, &["--master", "status"]).await;
    assert!(status.stdout.contains(trouble), "{status:?}");
    assert!(status.stdout.contains("no database"), "{status:?}");
}

#[tokio::test]
async fn what_the_tables_of_workers_lack_is_told_once() {
    let lacking = |name: &str| {
        let mut worker = worker(false);
        worker["name"] = name.into();
        worker["workerStatus"]["tableLacks"] = json!(["no ownership (columns worker)"]);
        worker
    };
    let daemon = Daemon::master(Ok(master(&json!([lacking("web1"), lacking("web2")])))).await;
    let doctor = crate::jobctl::ask(daemon.address, &["--master", "doctor"]).await;
    let (level, mend) = finding(&doctor, "web1, web2: no ownership (columns worker)");
    assert_eq!(level, "warning");
    assert!(mend.starts_with("jobd --check-config #"), "{mend}");
    // With a table to look at it is told of that, with the statements.
    let table = Table::new(Some(daemon.address)).await;
    let doctor = table.jobctl(&["--master", "doctor"]).await;
    assert!(!doctor.stdout.contains("no ownership"), "{doctor:?}");
    let (_, mend) = finding(&doctor, "without ownership rows of a worker");
    assert!(mend.contains("ADD COLUMN"), "{mend}");
}

#[tokio::test]
async fn a_worker_that_knows_nothing_of_new_columns_is_to_be_restarted() {
    let mut old = worker(false);
    old["workerStatus"]["tableLacks"] = json!(["no ownership (columns worker)"]);
    let daemon = Daemon::master(Ok(master(&json!([old])))).await;
    let table = Table::new(Some(daemon.address)).await;
    table.owned().await;
    let doctor = table.jobctl(&["--master", "doctor"]).await;
    let (level, mend) = finding(&doctor, "web1: no ownership (columns worker)");
    assert_eq!(level, "warning");
    assert!(
        mend.starts_with("systemctl restart jobd # on its host"),
        "{mend}"
    );
}

#[tokio::test]
async fn a_name_that_looks_like_an_option_is_written_as_a_name() {
    let daemon = Daemon::master(Ok(master(&json!([worker(false)])))).await;
    let table = Table::new(Some(daemon.address)).await;
    table
        .execute(
            "INSERT INTO jobs (target, time_created, status) VALUES \
             ('-rf', unixepoch(), 'waiting'), (char(27) || 'x', unixepoch(), 'waiting'), \
             ('y' || char(8238), unixepoch(), 'waiting'), ('mail', 1, 'waiting')",
        )
        .await;
    let run = table.jobctl(&["--master", "doctor"]).await;
    let (_, mend) = finding(&run, "1 job waits for -rf,");
    assert!(mend.contains("add-target -- -rf 1 #"), "{mend}");
    for name in ["\\u{1b}x", "y\\u{202e}"] {
        let (_, mend) = finding(&run, &format!("{name}, which no worker serves"));
        assert!(!mend.contains("add-target"), "{mend}");
    }
    let (_, mend) = finding(&run, "although it has free slots");
    assert!(mend.contains("--master poke mail # poll"), "{mend}");
}

#[tokio::test]
async fn a_worker_does_not_answer_for_what_others_may_serve() {
    let status = worker(false)["workerStatus"].clone();
    let daemon = Daemon::worker(Ok(status)).await;
    let table = Table::new(Some(daemon.address)).await;
    table
        .execute("INSERT INTO jobs (target, time_created) VALUES ('lost', unixepoch()), ('mail', unixepoch())")
        .await;
    let run = table.jobctl(&["doctor"]).await;
    let (level, mend) = finding(&run, "jobs wait for lost, which this worker does not serve");
    assert_eq!(level, "warning");
    // The config's is the worker's.
    assert!(mend.contains(" --master --port 7081 doctor"), "{mend}");
    assert!(!run.stdout.contains("what waits is served"), "{run:?}");
}

#[tokio::test]
async fn of_many_findings_of_a_kind_some_are_told() {
    let daemon = Daemon::master(Ok(master(&json!([worker(false)])))).await;
    let table = Table::new(Some(daemon.address)).await;
    table
        .execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 13) \
             INSERT INTO jobs (target, time_created, status) \
             SELECT 'lost ' || i, unixepoch(), 'waiting' FROM n UNION ALL SELECT 'mail', 1, 'accepted' FROM n",
        )
        .await;
    let run = table.jobctl(&["--master", "doctor"]).await;
    for (text, more) in [
        ("which no worker serves", "and 3 more"),
        ("is accepted and not", "and 3 more"),
    ] {
        let told = run.stdout.lines().filter(|line| line.contains(text));
        assert_eq!(told.count(), 10, "{text}: {run:?}");
        assert!(run.stdout.contains(more), "{run:?}");
    }
    assert!(
        run.stdout.contains("list --status accepted --limit 10000"),
        "{run:?}"
    );
    let (_, mend) = finding(&run, "1 job waits for lost 1,");
    assert!(mend.contains("add-target 'lost 1' 1 #"), "{mend}");
}

#[tokio::test]
async fn leases_that_passed_long_ago_have_no_rescuer() {
    let daemon = Daemon::master(Ok(master(&json!([worker(false)])))).await;
    let table = Table::new(Some(daemon.address)).await;
    table
        .execute(
            "ALTER TABLE jobs ADD COLUMN worker TEXT; ALTER TABLE jobs ADD COLUMN lease_until INTEGER; \
             INSERT INTO jobs (target, time_created, status, time_started, lease_until) VALUES \
             ('mail', 1, 'running', 1, unixepoch() - 900), ('mail', 1, 'running', 1, unixepoch() + 30), \
             ('x' || char(10) || 'reboot', 1, 'running', 1, unixepoch() - 900)",
        )
        .await;
    let run = table.jobctl(&["--master", "doctor"]).await;
    let (level, mend) = finding(&run, "job 1 (mail) is running, and its lease passed");
    assert_eq!(level, "error");
    assert!(mend.starts_with("systemctl start jobd #"), "{mend}");
    assert!(!run.stdout.contains("job 2"), "{run:?}");
    // Of what is entered as it stands nothing is an application's.
    let json = table.jobctl(&["--master", "doctor", "--json"]).await.json();
    let findings = json["findings"].as_array().unwrap().iter();
    let mends: Vec<&str> = findings
        .filter(|finding| {
            finding["text"]
                .as_str()
                .unwrap()
                .contains("its lease passed")
        })
        .filter_map(|finding| finding["mend"].as_str())
        .collect();
    assert_eq!(mends, [mend.as_str(); 2]);
}

#[tokio::test]
async fn rows_that_cannot_be_read_are_a_finding_and_none_is_called_well() {
    let daemon = Daemon::master(Ok(master(&json!([worker(false)])))).await;
    let table = Table::new(Some(daemon.address)).await;
    table.owned().await;
    let row = "INSERT INTO jobs (target, time_created, status, result) VALUES ('mail', ";
    // The newest row, and one that is looked at with the others only.
    for added in ["'x', 'done', 'ok')", "1, 'done', 'ok')"] {
        table.execute(&(row.to_owned() + added)).await;
        let run = table.jobctl(&["--master", "doctor"]).await;
        assert_eq!(run.code, 1, "{run:?}");
        let (level, mend) = finding(&run, "cannot be read: time_created is \"x\"");
        let expected = "find the row that holds this, and write into it what belongs there";
        assert_eq!((level.as_str(), mend.as_str()), ("error", expected));
        assert!(!run.stdout.contains("what waits is served"), "{run:?}");
    }
    let sql = "ALTER TABLE jobs RENAME COLUMN status TO state";
    table.execute(sql).await;
    let run = table.jobctl(&["--master", "doctor"]).await;
    let (_, mend) = finding(&run, "columns are missing: status");
    assert!(mend.contains("ADD COLUMN \"status\""), "{mend}");
    let (_, mend) = finding(&run, "no such column: status");
    assert_eq!(mend, "add the columns that are missing");
    assert!(!run.stdout.contains("what waits is served"), "{run:?}");
}

#[tokio::test]
async fn a_database_that_refuses_is_mended_by_what_it_says() {
    use tokio::io::AsyncWriteExt as _;
    for (number, said, mend) in [
        (1040_u16, "Too many connections", "raise max_connections"),
        (1129, "Host 'h' is blocked", "unblock this host there"),
        (1130, "Host 'h' is not allowed", "mend mysql_user"),
        (1053, "Server shutdown in progress", "look at the log"),
    ] {
        // All that such a server says: an error in place of its greeting.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let length = u8::try_from(3 + said.len()).unwrap();
            let [low, high] = number.to_le_bytes();
            let packet = [&[length, 0, 0, 0, 0xff, low, high], said.as_bytes()].concat();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(&packet).await;
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("jobctl.conf");
        let text = format!(
            "port = 1\nmysql_host = 127.0.0.1\nmysql_port = {port}\nmysql_user = u\n\
             mysql_database = d\nmysql_table = jobs\n"
        );
        std::fs::write(&config, text).unwrap();
        let doctor = run(["--config", config.to_str().unwrap(), "doctor"]).await;
        let (level, advice) = finding(&doctor, said);
        assert_eq!(level, "error");
        assert!(advice.contains(mend), "{advice}");
        serving.abort();
    }
}

#[tokio::test]
async fn a_daemon_that_refuses_needs_no_start() {
    let locked = Daemon::locked("correct").await;
    let doctor = crate::jobctl::ask(locked.address, &["doctor"]).await;
    let (level, mend) = finding(&doctor, "invalid password");
    let again = format!(
        "jobctl --host 127.0.0.1 --port {} --password doctor #",
        locked.address.port()
    );
    assert_eq!(level, "error");
    assert!(mend.starts_with(&again), "{mend}");
    let master = Daemon::master(Ok(master(&json!([])))).await;
    let doctor = crate::jobctl::ask(master.address, &["doctor"]).await;
    let (_, mend) = finding(&doctor, "if a jobd-master listens there");
    assert!(
        mend.starts_with("let --host, --port and --master"),
        "{mend}"
    );
}

#[tokio::test]
async fn what_cannot_be_reached_is_a_finding_and_no_end() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("jobctl conf");
    std::fs::write(
        &config,
        "port = 1\npassword = x\nsqlite_path = /nonexistent/jobs.db\n",
    )
    .unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644)).unwrap();
    let doctor = run(["--config", config.to_str().unwrap(), "doctor"]).await;
    assert_eq!(doctor.code, 1);
    let (level, mend) = finding(&doctor, "others may read it");
    assert_eq!(level, "warning");
    assert_eq!(mend, format!("chmod 600 '{}'", config.display()));
    assert_eq!(finding(&doctor, "cannot reach jobd").0, "error");
    let (level, mend) = finding(&doctor, "cannot open SQLite file");
    assert_eq!(level, "error");
    assert_eq!(mend, format!("mend sqlite_path in {}", config.display()));
    assert!(doctor.stdout.contains("there is no /nonexistent"));
    let text = format!("sqlite_path = {}/jobs.db\n", folder.path().display());
    std::fs::write(&config, text).unwrap();
    let doctor = run(["--config", config.to_str().unwrap(), "doctor"]).await;
    let (_, mend) = finding(&doctor, "cannot open SQLite file");
    assert!(mend.contains(" create-table # if"), "{mend}");
    // Port 1 is nobody's.
    let text = "mysql_host = 127.0.0.1\nmysql_port = 1\nmysql_user = u\nmysql_password = p\nmysql_database = d\nmysql_table = jobs\n";
    std::fs::write(&config, text).unwrap();
    let doctor = run(["--config", config.to_str().unwrap(), "doctor"]).await;
    let (level, mend) = finding(&doctor, "cannot reach database d");
    let start = "start the database server, or mend mysql_host and mysql_port in";
    assert_eq!(level, "error");
    assert!(mend.starts_with(start), "{mend}");
    let none = Daemon::master(Ok(master(&json!([])))).await;
    let alone = crate::jobctl::ask(none.address, &["--master", "doctor"]).await;
    assert_eq!(finding(&alone, "no workers are registered").0, "error");
    assert_eq!(finding(&alone, "the config names no table").0, "warning");
}
