//! Jobs that fail run again, later, as often as they may: real workers, real clocks.

use jobd_tests::ground::Ground;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Database, Ini, Jobd, Scratch, Server, until};
use serde_json::{Value, json};

/// Each test on a server and in a file.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_a_server {
            $(#[tokio::test] async fn $name() {
                super::$name(super::Ground::mysql().await).await;
            })+
        }
        mod in_a_file {
            $(#[tokio::test] async fn $name() {
                super::$name(super::Ground::sqlite().await).await;
            })+
        }
    };
}

on_both! {
    a_job_runs_again_until_it_comes_to_a_good_end_and_says_how_it_failed_before,
    a_job_runs_as_often_as_its_row_says_or_else_the_config,
    a_job_that_asks_for_another_time_gets_it_whatever_counts,
    only_what_retry_on_names_is_retried,
    every_kind_of_failure_is_retried_where_it_counts_and_nowhere_else,
    each_pause_is_about_twice_as_long_as_the_one_before,
    a_manual_job_and_one_that_may_run_once_are_not_retried,
    an_end_that_waits_in_the_journal_is_a_retry_still,
}

fn worker(ground: &Ground, script: &str) -> Ini {
    ground
        .ini()
        .set("poll_interval", 0)
        .set("name", "w1")
        .set("retry_backoff", "0.1..0.2")
        .set("launcher", format!(r#"sh -c "{script}""#))
        .target("a", 2)
}

async fn errors(ground: &Ground, id: u64) -> Vec<Value> {
    let text = ground.text(id, "errors").await;
    text.map_or_else(Vec::new, |text| serde_json::from_str(&text).expect("JSON"))
}

async fn a_job_runs_again_until_it_comes_to_a_good_end_and_says_how_it_failed_before(
    ground: Ground,
) {
    let script =
        "echo out $JOBD_ATTEMPT\\; echo né $JOBD_ATTEMPT >&2\\; exit $((3 - JOBD_ATTEMPT))";
    let ini = worker(&ground, script).set("retry_backoff", "1..1");
    ground
        .insert("a", &[("id", "1"), ("max_attempts", "9")])
        .await;
    let jobd = Jobd::ready(&ground.scratch, &ini).await;
    ground.reaches(1, "scheduled").await;
    // Between its attempts it says how the last one went, and nobody holds it.
    for (column, wanted) in [
        ("result", None),
        ("return_code", Some("2")),
        ("stdout", Some("out 1\n")),
        ("stderr", Some("né 1\n")),
        ("reason", Some("exit")),
        ("worker", None),
        ("lease_until", None),
    ] {
        assert_eq!(ground.text(1, column).await.as_deref(), wanted, "{column}");
    }
    ground.reaches(1, "done").await;
    for (column, wanted) in [
        ("result", Some("ok")),
        ("return_code", Some("0")),
        ("stdout", Some("out 3\n")),
        ("reason", None),
        ("attempts", Some("3")),
        ("interruptions", Some("0")),
        ("max_attempts", Some("9")),
        ("run_at", None),
    ] {
        assert_eq!(ground.text(1, column).await.as_deref(), wanted, "{column}");
    }
    let errors = errors(&ground, 1).await;
    assert_eq!(errors.len(), 2);
    for (number, error) in errors.iter().enumerate() {
        let attempt = number + 1;
        assert_eq!(error["attempt"], attempt);
        assert_eq!(error["code"], 3 - attempt);
        assert_eq!(error["reason"], "exit");
        assert_eq!(error["stderr"], format!("né {attempt}\n"));
        assert!(
            error["worker"]
                .as_str()
                .unwrap_or_default()
                .starts_with("w1@")
        );
    }
    let (first, second) = (errors[0]["time"].as_i64(), errors[1]["time"].as_i64());
    assert!(first.zip(second).is_some_and(|(a, b)| b > a), "{errors:?}");
    assert!(jobd.stop().await.success());
}

async fn a_job_runs_as_often_as_its_row_says_or_else_the_config(ground: Ground) {
    let ini = worker(&ground, "exit 7")
        .set("retry", 1)
        .own("b", "retry", 2);
    let ini = ini.target("b", 1);
    for (id, target, most) in [
        (1, "a", "NULL"),
        (2, "a", "1"),
        (3, "a", "3"),
        (4, "b", "NULL"),
    ] {
        ground
            .insert(target, &[("id", &id.to_string()), ("max_attempts", most)])
            .await;
    }
    let jobd = Jobd::ready(&ground.scratch, &ini).await;
    for (id, attempts, most) in [(1, 2, 2), (2, 1, 1), (3, 3, 3), (4, 3, 3)] {
        ground.reaches(id, "done").await;
        let of = async |column: &str| ground.number(id, column).await;
        assert_eq!(of("attempts").await, attempts, "job {id}");
        assert_eq!(of("max_attempts").await, most, "job {id}");
        assert_eq!(of("return_code").await, 7, "job {id}");
        let remembered = errors(&ground, id).await.len();
        assert_eq!(i64::try_from(remembered).ok(), Some(attempts), "job {id}");
        assert_eq!(ground.text(id, "reason").await.as_deref(), Some("exit"));
    }
    assert!(jobd.stop().await.success());
}

async fn a_job_that_asks_for_another_time_gets_it_whatever_counts(ground: Ground) {
    let script = "[ $JOBD_ATTEMPT -ge 3 ] || exit 75\\; exit 4";
    let ini = worker(&ground, script).set("retry_on", "signal");
    ground
        .insert("a", &[("id", "1"), ("max_attempts", "1")])
        .await;
    let jobd = Jobd::ready(&ground.scratch, &ini).await;
    ground.reaches(1, "done").await;
    for (column, wanted) in [("attempts", 3), ("interruptions", 2), ("return_code", 4)] {
        assert_eq!(ground.number(1, column).await, wanted, "{column}");
    }
    assert!(jobd.stop().await.success());
}

async fn only_what_retry_on_names_is_retried(ground: Ground) {
    let script = "[ {id} = 3 ] && kill -9 $$\\; exit {id}";
    let ini = worker(&ground, script)
        .set("retry_on", "signal, 2, 100-110")
        .set("retry", 1);
    for id in [1, 2, 3, 105] {
        ground.insert("a", &[("id", &id.to_string())]).await;
    }
    let jobd = Jobd::ready(&ground.scratch, &ini).await;
    for (id, attempts) in [(1, 1), (2, 2), (3, 2), (105, 2)] {
        ground.reaches(id, "done").await;
        assert_eq!(ground.number(id, "attempts").await, attempts, "job {id}");
    }
    assert_eq!(errors(&ground, 3).await[0]["signal"], "SIGKILL");
    assert!(jobd.stop().await.success());
}

/// Each kind with each setting.
async fn every_kind_of_failure_is_retried_where_it_counts_and_nowhere_else(ground: Ground) {
    const KINDS: [&str; 5] = ["exit", "signal", "timeout", "idle", "spawn"];
    let script = ground.scratch.write(
        "job.sh",
        "case $1 in\n\
         *1) exit 7;;\n\
         *2) kill -9 $$;;\n\
         *3) while :; do echo on; sleep 0.1; done;;\n\
         *4) exec sleep 600;;\nesac\n",
    );
    // Those that cannot be started have no program.
    let programs = ground.scratch.join("sh-");
    let mut ini = ground
        .ini()
        .set("retry", 1)
        .set("retry_backoff", "0.1")
        .set("idle_timeout", "1s")
        .set("kill_sequence", "KILL")
        .set(
            "launcher",
            format!("{}{{id}} {} {{id}}", programs.display(), script.display()),
        );
    let mut wanted = Vec::new();
    for (number, setting) in KINDS.into_iter().chain(["1-6, 8", "1-7"]).enumerate() {
        let target = format!("t{number}");
        ini = ini.target(&target, 9).own(&target, "retry_on", setting);
        for (kind, reason) in (1..).zip(KINDS) {
            let id = 10 * (number + 1) + kind;
            if reason != "spawn" {
                std::os::unix::fs::symlink("/bin/sh", format!("{}{id}", programs.display()))
                    .expect("a link");
            }
            let limit = if reason == "timeout" { "1" } else { "NULL" };
            let row = [("id", &*id.to_string()), ("timeout", limit)];
            ground.insert(&target, &row).await;
            let counts = setting == reason || setting == "1-7" && reason == "exit";
            wanted.push((id as u64, reason, setting, 1 + i64::from(counts)));
        }
    }
    let jobd = Jobd::ready(&ground.scratch, &ini).await;
    for (id, reason, setting, attempts) in wanted {
        let told = format!("{reason} with retry_on = {setting}");
        let verdict = ground.verdict(id).await;
        assert!(
            verdict.ends_with(&format!(" {reason}")),
            "{told}: {verdict}"
        );
        assert_eq!(ground.number(id, "attempts").await, attempts, "{told}");
        if attempts > 1 {
            assert_eq!(errors(&ground, id).await[0]["reason"], reason, "{told}");
        }
    }
    assert!(jobd.stop().await.success());
}

/// Between the ends of attempts and the beginnings of those after them.
async fn each_pause_is_about_twice_as_long_as_the_one_before(ground: Ground) {
    const JOBS: u64 = 16;
    // A moment in a row is a whole second, looks come once a second, and the machine may be busy.
    const EARLY: f64 = 1.0;
    const LATE: f64 = 5.0;
    let times = ground.scratch.join("times-");
    let script = format!("date +%s.%N >>{}{{id}}\\; exit 1", times.display());
    let ini = worker(&ground, &script)
        .set("retry", 3)
        .set("retry_backoff", "0.5s..4s")
        .target("a", 16);
    for id in 1..=JOBS {
        ground.insert("a", &[("id", &id.to_string())]).await;
    }
    let jobd = Jobd::ready(&ground.scratch, &ini).await;
    let mut pauses = [Vec::new(), Vec::new(), Vec::new()];
    for id in 1..=JOBS {
        ground.reaches(id, "done").await;
        let times = std::fs::read_to_string(format!("{}{id}", times.display())).expect("times");
        let times: Vec<f64> = times.lines().filter_map(|time| time.parse().ok()).collect();
        assert_eq!(times.len(), 4, "{times:?}");
        for (pauses, pair) in pauses.iter_mut().zip(times.windows(2)) {
            pauses.push(pair[1] - pair[0]);
        }
    }
    println!("{pauses:.2?}");
    for (pauses, (least, most)) in pauses.iter().zip([(0.5, 1.0), (1.0, 2.0), (2.0, 4.0)]) {
        let within = least - EARLY..most + LATE;
        assert!(
            pauses.iter().all(|pause| within.contains(pause)),
            "{pauses:?}"
        );
    }
    // On average 2.25 s longer, give or take what is left of a second in between.
    let [first, _, third] = pauses.each_ref().map(|pauses| pauses.iter().sum::<f64>());
    assert!(third - first > 0.75 * 16.0, "{pauses:?}");
    // What has failed together does not come back together.
    let spread = |pauses: &[f64]| {
        let most = pauses.iter().copied().fold(f64::MIN, f64::max);
        most - pauses.iter().copied().fold(f64::MAX, f64::min)
    };
    assert!(spread(&pauses[2]) > 0.3, "{pauses:?}");
    assert!(jobd.stop().await.success());
}

async fn a_manual_job_and_one_that_may_run_once_are_not_retried(ground: Ground) {
    let ini = worker(&ground, "exit 75").set("retry", 5);
    ground
        .insert("a", &[("id", "1"), ("status", "'manual'")])
        .await;
    let jobd = Jobd::ready(&ground.scratch, &ini).await;
    let reply = jobd.ask("run-manual", json!({"ids": [1]})).await;
    assert_eq!(reply["jobs"]["1"]["code"], 75, "{reply}");
    assert_eq!(ground.text(1, "status").await.as_deref(), Some("done"));
    assert_eq!(errors(&ground, 1).await[0]["code"], 75);
    assert!(jobd.stop().await.success());
}

/// The end of a job that is to run again is kept on disk like any other, and written by the next run of the worker.
async fn an_end_that_waits_in_the_journal_is_a_retry_still(ground: Ground) {
    let state = ground.scratch.join("state");
    std::fs::create_dir(&state).expect("a folder");
    let ini = worker(&ground, "sleep 0.5\\; exit $((2 - JOBD_ATTEMPT))")
        .set("retry", 3)
        .set("state_dir", state.display());
    ground.insert("a", &[("id", "1")]).await;
    let mut jobd = Jobd::ready(&ground.scratch, &ini).await;
    ground.reaches(1, "running").await;
    refuse_ends(&ground).await;
    until("an end in the journal", PATIENCE, async || {
        let status = jobd.ask("status", json!({})).await;
        (status["journaledEnds"] == 1).then_some(())
    })
    .await;
    jobd.process.kill();
    ground.run("DROP TRIGGER refuses").await;
    let next = Jobd::ready(&ground.scratch, &ini).await;
    ground.reaches(1, "done").await;
    assert_eq!(ground.text(1, "result").await.as_deref(), Some("ok"));
    assert_eq!(ground.number(1, "attempts").await, 2);
    let errors = errors(&ground, 1).await;
    assert_eq!((errors.len(), &errors[0]["code"]), (1, &json!(1)));
    assert!(next.stop().await.success());
}

/// Has the database refuse what ends an attempt.
async fn refuse_ends(ground: &Ground) {
    let refusal = if ground.now() == "unixepoch()" {
        "WHEN NEW.status = 'scheduled' BEGIN SELECT RAISE(ABORT, 'not now'); END"
    } else {
        "FOR EACH ROW BEGIN IF NEW.status = 'scheduled' THEN \
         SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not now'; END IF; END"
    };
    ground
        .run(&format!(
            "CREATE TRIGGER refuses BEFORE UPDATE ON jobs {refusal}"
        ))
        .await;
}

/// On a table that has nothing but the minimal columns and those of later, exit code 75 works alone.
#[tokio::test]
async fn a_job_may_ask_for_another_time_on_a_table_that_counts_no_attempts() {
    let (scratch, database) = (Scratch::new(), Server::shared().await.database().await);
    let flag = scratch.join("flag");
    database.minimal_table().await;
    database
        .run(include_str!("../../sql/mysql/add-later.sql"))
        .await;
    let script = format!(
        r#"sh -c "[ -e {0} ] && exit 0\; touch {0}\; echo later >&2\; exit 75""#,
        flag.display()
    );
    let ini = Ini::worker(&database)
        .set("poll_interval", 0)
        .set("retry_backoff", "1..1")
        .set("launcher", script)
        .target("a", 1);
    let jobd = Jobd::ready(&scratch, &ini).await;
    let id = database.insert_one("a", "waiting").await;
    jobd.ask("poll", json!({})).await;
    let row = database.reaches(id, "scheduled").await;
    assert_eq!((row.err(), row.return_code), ("later\n", Some(75)));
    let row = database.done(id).await;
    assert_eq!(row.verdict(), ("done", Some("ok"), Some(0), None));
    assert!(jobd.stop().await.success());
}

/// A table without the columns of retries does what it did: a worker that dies lets the job run again, a job that fails
/// does not.
#[tokio::test]
async fn without_the_columns_a_failure_is_the_end() {
    let (scratch, database) = (Scratch::new(), Server::shared().await.database().await);
    database.minimal_table().await;
    let statements = [
        include_str!("../../sql/mysql/add-ownership.sql"),
        "ALTER TABLE jobs ADD max_attempts int unsigned NOT NULL DEFAULT 3",
    ];
    for statement in statements {
        database.run(statement).await;
    }
    check_fails_once(&scratch, &database).await;
}

async fn check_fails_once(scratch: &Scratch, database: &Database) {
    let ini = Ini::worker(database)
        .set("poll_interval", 0)
        .set("retry", 5)
        .set("launcher", r#"sh -c "exit 75""#)
        .target("a", 1);
    let jobd = Jobd::ready(scratch, &ini).await;
    let id = database.insert_one("a", "waiting").await;
    jobd.ask("poll", json!({})).await;
    let row = database.done(id).await;
    assert_eq!(row.verdict(), ("done", Some("fail"), Some(75), None));
    assert!(jobd.stop().await.success());
}

/// On SQLite a table may have the columns of later and a status that takes no 'scheduled': such a job ends as it ended, and
/// holds up no other.
#[tokio::test]
async fn where_no_row_can_be_scheduled_a_job_ends_as_it_ended() {
    let minimal = include_str!("../../sql/sqlite/jobs-minimal.sql");
    let add =
        "ALTER TABLE jobs ADD COLUMN run_at INTEGER; CREATE INDEX run_at_idx ON jobs (run_at);";
    let ground = Ground::sqlite_made_by(&format!("{minimal} {add}")).await;
    let ini = ground
        .ini()
        .set("launcher", r#"sh -c "[ {id} = 1 ] && exit 75\; exit 0""#)
        .target("a", 1);
    let jobd = Jobd::ready(&ground.scratch, &ini).await;
    for (id, end) in [(1, "fail 75"), (2, "ok 0")] {
        ground.insert("a", &[]).await;
        ground.reaches(id, "done").await;
        let words = ground.words(id, &["result", "return_code"]).await;
        assert_eq!(words, end);
    }
    assert!(jobd.stop().await.success());
}
