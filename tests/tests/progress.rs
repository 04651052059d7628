//! Jobs that say how far they have come: into their rows and to their followers, once a second at the most, and never at
//! the cost of anybody, whatever they write.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use jobd_tests::ground::Ground;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, Master, Wire, until};
use serde_json::{Value, json};

/// A worker whose jobs run this script in a plain sh, with the id as `$1`. `wait NAME` in it waits until the test lets it
/// go on.
fn script(ground: &Ground, name: &str, text: &str) -> String {
    let folder = ground.scratch.join("");
    let wait = format!(
        "wait_for() {{ while [ ! -e {}/$1 ]; do sleep 0.02; done; }}\n",
        folder.display()
    );
    let path = ground.scratch.write(name, wait + text);
    format!("sh {} {{id}}", path.display())
}

fn worker(ground: &Ground, text: &str) -> Ini {
    ground
        .ini()
        .set("launcher", script(ground, "job.sh", text))
        .target("a", 8)
}

fn go_on(ground: &Ground, name: &str) {
    ground.scratch.write(name, "");
}

async fn says(ground: &Ground, id: u64, wanted: &str) {
    until(&format!("job {id} to say {wanted}"), PATIENCE, async || {
        let said = ground.text(id, "progress").await;
        (said.as_deref() == Some(wanted)).then_some(())
    })
    .await;
}

struct Follower(Wire);

impl Follower {
    async fn begin(addr: SocketAddr, id: u64) -> Self {
        let mut wire = Wire::connect(addr).await;
        let request = json!([0, {"no": 1, "type": "follow", "data": {"id": id, "wait": true}}]);
        wire.say(&request.to_string()).await;
        Self(wire)
    }

    /// The next message, and whether it is not the last one.
    async fn next(&mut self) -> (Value, bool) {
        let frame = self.0.frame_within(PATIENCE * 2).await;
        let message: Value = serde_json::from_str(&frame).expect("JSON");
        let message = &message[1];
        assert!(message.get("error").is_none(), "{message}");
        (message["data"].clone(), message["more"] == true)
    }

    /// The next report.
    async fn report(&mut self) -> Value {
        loop {
            let (data, more) = self.next().await;
            assert!(more, "{data}");
            if data.get("progress").is_some() {
                return data;
            }
        }
    }
}

#[tokio::test]
async fn a_report_is_seen_in_the_row_and_by_followers() {
    let text = "echo 40% copying files >&$JOBD_PROGRESS_FD; wait_for b$1; \
                printf 'almost\\0there\\n70.5' >&$JOBD_PROGRESS_FD; wait_for c$1; exit 3";
    for ground in Ground::each().await {
        let ini = Ini::listen();
        let master = Master::start(&ground.scratch, &ini).await;
        let worker = worker(&ground, text)
            .set("master_host", "127.0.0.1")
            .set("master_port", ini.port());
        let jobd = Jobd::ready(&ground.scratch, &worker).await;
        Master::has_workers(&master, 1).await;
        let id = ground.insert("a", &[]).await;
        let mut first = Follower::begin(master.addr, id).await;
        let said = json!({"progress": "copying files", "percent": 40});
        assert_eq!(first.report().await, said);
        says(&ground, id, "40 copying files").await;
        // Who comes late is told the last.
        let mut late = Follower::begin(jobd.addr, id).await;
        assert_eq!(late.report().await, said);
        go_on(&ground, &format!("b{id}"));
        let said = json!({"progress": "almost there"});
        assert_eq!(first.report().await, said);
        assert_eq!(late.report().await, said);
        says(&ground, id, "almost there").await;
        go_on(&ground, &format!("c{id}"));
        // A last line needs no end.
        assert_eq!(first.report().await, json!({"progress": "", "percent": 70}));
        assert_eq!(ground.verdict(id).await, "fail 3 - exit");
        assert_eq!(ground.text(id, "progress").await.as_deref(), Some("70"));
        assert_eq!(ground.text(id, "stdout").await.as_deref(), Some(""));
    }
}

#[tokio::test]
async fn a_row_is_written_once_a_second_and_at_the_end() {
    // Some 300 reports in 3 s.
    let text = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i of 300 >&3; sleep 0.01; done";
    for ground in Ground::each().await {
        let (body, end) = if ground.ini().get("storage").is_some() {
            (
                "BEGIN INSERT INTO said (text) VALUES (NEW.progress);",
                "END",
            )
        } else {
            ("INSERT INTO said (text) VALUES (NEW.progress)", "")
        };
        ground
            .run("CREATE TABLE said (text VARCHAR(255), id INTEGER)")
            .await;
        ground
            .run(&format!(
                "CREATE TRIGGER saying AFTER UPDATE ON jobs FOR EACH ROW {body} {end}"
            ))
            .await;
        let jobd = Jobd::ready(&ground.scratch, &worker(&ground, text)).await;
        let begun = Instant::now();
        let id = ground.insert("a", &[]).await;
        assert_eq!(ground.verdict(id).await, "ok 0 - -");
        let seconds = begun.elapsed().as_secs();
        assert_eq!(
            ground.text(id, "progress").await.as_deref(),
            Some("300 of 300")
        );
        // Its id stands in for the one row that this reads.
        let writes = "(SELECT COUNT(DISTINCT text) FROM said)";
        let writes: u64 = ground
            .text(id, writes)
            .await
            .and_then(|count| count.parse().ok())
            .expect("a count");
        println!("{writes} writes in {seconds} s");
        assert!(
            (3..=seconds + 2).contains(&writes),
            "{writes} in {seconds} s"
        );
        drop(jobd);
    }
}

#[tokio::test]
async fn it_is_on_where_there_is_a_column_or_where_it_is_set() {
    let plain = "if (: >&3) 2>/dev/null; then echo open; fi; echo \"fd:$JOBD_PROGRESS_FD\"";
    let bare = Ground::sqlite().await;
    bare.run("ALTER TABLE jobs DROP COLUMN progress").await;
    for (ground, by_default) in [(Ground::sqlite().await, true), (bare, false)] {
        let ini = ground
            .ini()
            .set("launcher", script(&ground, "job.sh", plain))
            .target("unset", 1)
            .target("off", 1)
            .own("off", "progress", 0)
            .target("on", 1)
            .own("on", "progress", 1);
        let jobd = Jobd::ready(&ground.scratch, &ini).await;
        for (target, is_on) in [("unset", by_default), ("off", false), ("on", true)] {
            let id = ground.insert(target, &[]).await;
            assert_eq!(ground.verdict(id).await, "ok 0 - -");
            let output = if is_on { "open\nfd:3\n" } else { "fd:\n" };
            let said = ground.text(id, "stdout").await;
            assert_eq!(said.as_deref(), Some(output), "{target}, {by_default}");
        }
        drop(jobd);
    }
}

/// Most jobs are over before anybody has registered their pipes.
#[tokio::test]
async fn what_a_short_job_reports_is_in_its_row_and_one_that_says_nothing_costs_no_descriptor() {
    for ground in Ground::each().await {
        let ini = ground
            .ini()
            .set("launcher", "sh -c 'echo 70 short >&3'")
            .target("says", 4)
            .target("mute", 4)
            .own("mute", "launcher", "true");
        let jobd = Jobd::ready(&ground.scratch, &ini).await;
        let open = || {
            let files = std::fs::read_dir(format!("/proc/{}/fd", jobd.process.id()));
            files.expect("the worker's files").count()
        };
        let run = async |target: &str, wanted: Option<&str>| {
            let mut ids = Vec::new();
            for _ in 0..40 {
                ids.push(ground.insert(target, &[]).await);
            }
            for id in ids {
                assert_eq!(ground.verdict(id).await, "ok 0 - -");
                assert_eq!(ground.text(id, "progress").await.as_deref(), wanted);
            }
        };
        run("mute", None).await;
        let before = open();
        run("says", Some("70 short")).await;
        run("mute", None).await;
        assert!(open() < before + 20, "{} files, {before} before", open());
    }
}

#[tokio::test]
async fn it_works_beside_everything_else_that_a_target_may_ask_for() {
    for ground in Ground::each().await {
        let text = "umask; cat; echo 9 fed >&3; wait_for go";
        let file = ground.scratch.join("%t/%i.log");
        let ini = worker(&ground, text)
            .set("umask", "027")
            .set("output_file", file.display())
            .target("gone", 1)
            .own("gone", "launcher", "/nonexistent/program")
            .target("late", 1)
            .own(
                "late",
                "launcher",
                script(&ground, "late.sh", "echo 1 >&3; exec sleep 60"),
            )
            .own("late", "timeout", "0.2");
        let jobd = Jobd::ready(&ground.scratch, &ini).await;
        let id = ground.insert_data("a", b"payload\n").await;
        says(&ground, id, "9 fed").await;
        go_on(&ground, "go");
        assert_eq!(ground.verdict(id).await, "ok 0 - -");
        let both = "0027\npayload\n";
        assert_eq!(ground.text(id, "stdout").await.as_deref(), Some(both));
        let log = ground.scratch.join(&format!("a/{id}.log"));
        assert_eq!(std::fs::read_to_string(log).expect("a log"), both);
        // A program that cannot be started is still told from one that fails.
        let gone = ground.insert("gone", &[]).await;
        assert_eq!(ground.verdict(gone).await, "fail 127 - spawn");
        let late = ground.insert("late", &[]).await;
        assert_eq!(ground.verdict(late).await, "fail - SIGTERM timeout");
        assert_eq!(ground.text(late, "progress").await.as_deref(), Some("1"));
        drop(jobd);
    }
}

#[tokio::test]
async fn a_child_that_reports_on_when_its_job_is_done_is_not_killed() {
    let ground = Ground::sqlite().await;
    let mark = ground.scratch.join("alive");
    let text = format!(
        "(exec >/dev/null 2>&1; wait_for go; echo late >&3; echo later >&3; touch {}) & echo 5 >&3",
        mark.display()
    );
    let jobd = Jobd::ready(&ground.scratch, &worker(&ground, &text)).await;
    let id = ground.insert("a", &[]).await;
    assert_eq!(ground.verdict(id).await, "ok 0 - -");
    assert_eq!(ground.text(id, "progress").await.as_deref(), Some("5"));
    go_on(&ground, "go");
    until("the child to live on", PATIENCE, async || {
        Path::new(&mark).exists().then_some(())
    })
    .await;
    drop(jobd);
}

#[tokio::test]
async fn a_daemon_of_a_job_that_says_nothing_costs_no_descriptor() {
    let ground = Ground::sqlite().await;
    let worker = worker(&ground, "exec >/dev/null 2>&1; sleep 20 &");
    let jobd = Jobd::ready(&ground.scratch, &worker).await;
    let open = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", jobd.process.id()));
        files.expect("the worker's files").count()
    };
    let id = ground.insert("a", &[]).await;
    assert_eq!(ground.verdict(id).await, "ok 0 - -");
    let before = open();
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(ground.insert("a", &[]).await);
    }
    for id in ids {
        assert_eq!(ground.verdict(id).await, "ok 0 - -");
    }
    assert!(open() < before + 20, "{} files, {before} before", open());
}

#[tokio::test]
async fn who_reports_without_end_slows_nobody_measured() {
    let ground = Ground::mysql().await;
    // Endless lines, endless NULs, endless garbage without a line, 1,300,000 lines; each ends when it is let go.
    let text = "case $1 in \
        1) yes '50 busy' >&3 & ;; \
        2) cat /dev/zero >&3 & ;; \
        3) cat /dev/urandom >&3 & ;; \
        *) yes '60 a long line' | head -n 1300000 >&3; exit ;; \
      esac; noise=$!; wait_for go; kill $noise";
    let ini = worker(&ground, text)
        .target("quick", 2)
        .own("quick", "launcher", "true")
        .own("quick", "progress", 0);
    let mut jobd = Jobd::ready(&ground.scratch, &ini).await;
    let batch = async |ground: &Ground| {
        let begun = Instant::now();
        for _ in 0..20 {
            let id = ground.insert("quick", &[]).await;
            assert_eq!(ground.verdict(id).await, "ok 0 - -");
        }
        begun.elapsed()
    };
    let mut noisy = Vec::new();
    for _ in 0..3 {
        noisy.push(ground.insert("a", &[]).await);
    }
    assert_eq!(noisy, [1, 2, 3], "the script goes by them");
    says(&ground, 1, "50 busy").await;
    jobd.process.reset_peak();
    let before = jobd.process.rss_kib();
    let with = batch(&ground).await;
    let loud = ground.insert("a", &[]).await;
    let begun = Instant::now();
    assert_eq!(ground.verdict(loud).await, "ok 0 - -");
    let took = begun.elapsed();
    assert_eq!(
        ground.text(loud, "progress").await.as_deref(),
        Some("60 a long line")
    );
    let peak = jobd.process.peak_rss_kib();
    go_on(&ground, "go");
    for id in noisy {
        assert_eq!(ground.verdict(id).await, "ok 0 - -");
    }
    assert_eq!(ground.text(2, "progress").await, None, "NULs say nothing");
    let without = batch(&ground).await;
    println!(
        "20 jobs one by one: {with:?} beside noise, {without:?} without; 20 MB of reports: {took:?}; {before} to {peak} KiB"
    );
    assert!(peak < before + (8 << 10), "{before} to {peak} KiB");
    assert!(with < without * 8 + Duration::from_secs(3));
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(jobd.process.terminate().await.success());
}
