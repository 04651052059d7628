//! What jobs print and how they end, in the row as it was: bounded memory, any bytes, any end.

use std::time::{Duration, Instant};

use jobd_tests::{Database, Ini, Jobd, Scratch, Server, WitnessLog, until};
use serde_json::json;

struct World {
    scratch: Scratch,
    database: Database,
}

impl World {
    async fn new() -> Self {
        let database = Server::shared().await.database().await;
        database.minimal_table().await;
        Self {
            scratch: Scratch::new(),
            database,
        }
    }

    /// A worker whose jobs run this shell script, with the id as `$1`.
    fn script(&self, text: &str) -> Ini {
        let path = self.scratch.write("job.sh", text);
        Ini::worker(&self.database)
            .set("log_level_console", "info")
            .set("poll_interval", 0)
            .set("launcher", format!("sh {} {{id}}", path.display()))
            .target("a", 8)
    }
}

/// The table's character set, what is printed (as `printf` of a shell reads it), what must come
/// out of the row.
async fn check_text(charset: &str, printed: &str, expected: &str) {
    let world = World::new().await;
    world
        .database
        .run(&format!(
            "ALTER TABLE jobs CONVERT TO CHARACTER SET {charset}"
        ))
        .await;
    let ini = world.script(&format!("printf '{printed}'; printf '{printed}' >&2"));
    let jobd = Jobd::start(&world.scratch, &ini).await;
    let id = world.database.insert_one("a", "waiting").await;
    jobd.ask("poll", json!({})).await;
    let row = world.database.done(id).await;
    assert_eq!(
        row.verdict(),
        ("done", Some("ok"), Some(0), None),
        "{charset} {printed}"
    );
    assert_eq!(
        (row.out(), row.err()),
        (expected, expected),
        "{charset} {printed}"
    );
}

#[tokio::test]
async fn utf8mb4_columns_take_everything_but_broken_bytes() {
    check_text("utf8mb4", r"é \360\237\230\200 \320\226.", "é 😀 Ж.").await;
    check_text("utf8mb4", r"a\000b", "a\0b").await;
    check_text("utf8mb4", r"a\377b\360\237c", "a\u{fffd}b\u{fffd}c").await;
}

#[tokio::test]
async fn utf8mb3_columns_lose_the_emoji_and_nothing_else() {
    check_text("utf8mb3", r"é \360\237\230\200 \320\226.", "é \u{fffd} Ж.").await;
    check_text("utf8mb3", r"a\000b\377c", "a\0b\u{fffd}c").await;
}

#[tokio::test]
async fn latin1_columns_keep_what_latin1_has() {
    check_text("latin1", r"é \360\237\230\200 \320\226.", "é ? ?.").await;
    check_text("latin1", r"a\000b", "a\0b").await;
}

#[tokio::test]
async fn a_hundred_megabytes_end_as_head_and_tail_in_bounded_memory_measured() {
    const PRINTED: usize = 100 << 20;
    let world = World::new().await;
    let script = format!("echo HEAD; yes 0123456789abcde | head -c {PRINTED}; echo TAIL");
    for (limit, most_mib) in [(Some(1 << 20), 24), (None, 128)] {
        let mut ini = world.script(&script);
        if let Some(limit) = limit {
            ini = ini.set("max_output_buffer", limit);
        }
        let jobd = Jobd::start(&world.scratch, &ini).await;
        let id = world.database.insert_one("a", "waiting").await;
        let before = jobd.process.rss_kib();
        jobd.process.reset_peak();
        jobd.ask("poll", json!({})).await;
        let row = world.database.done(id).await;
        let grown = jobd.process.peak_rss_kib() - before;
        println!("limit {limit:?}: {before} KiB idle, grown by {grown} KiB at most");
        assert!(
            grown < most_mib << 10,
            "grown by {grown} KiB with limit {limit:?}"
        );
        assert_eq!(row.verdict(), ("done", Some("ok"), Some(0), None));
        let kept = row.out();
        let least = limit.unwrap_or(8 << 20) * 9 / 10;
        assert!(
            kept.len() > least && kept.len() <= limit.unwrap_or(16 << 20) + 200,
            "{}",
            kept.len()
        );
        assert!(
            kept.starts_with("HEAD\n0123456789abcde\n")
                && kept.ends_with("\n0123456789abcde\nTAIL\n")
        );
        assert_gap(kept, PRINTED + 10);
    }
}

/// Between head and tail stands one line that names the missing bytes, and the figure is right.
fn assert_gap(kept: &str, printed: usize) {
    let odd = |line: &&str| line.contains("bytes");
    let notes: Vec<&str> = kept.lines().filter(odd).collect();
    let [note] = notes[..] else {
        panic!("expected one line about the gap, got {notes:?}");
    };
    let digits: String = note.chars().filter(char::is_ascii_digit).collect();
    let missing: usize = digits.parse().expect("a figure in the line about the gap");
    let rest = kept.len() - note.len();
    // The line may need line ends of its own around it.
    let sum = missing + rest;
    assert!(
        (printed..=printed + 2).contains(&sum),
        "{note:?}: {missing} + {rest} != {printed}"
    );
}

#[tokio::test]
async fn output_within_the_limit_is_whole_under_load() {
    const EACH: usize = 1_000_000;
    const JOBS: usize = 60;
    let world = World::new().await;
    let ini = world.script(&format!(
        "yes \"line of $1\" | head -c {EACH}; echo err $1 >&2"
    ));
    let jobd = Jobd::start(&world.scratch, &ini).await;
    world.database.insert(JOBS, "a", "waiting").await;
    jobd.ask("poll", json!({})).await;
    world.database.all_done(Duration::from_mins(1)).await;
    for row in world.database.rows().await {
        assert_eq!(row.verdict(), ("done", Some("ok"), Some(0), None));
        let line = format!("line of {}\n", row.id);
        let mut expected = line.repeat(EACH / line.len() + 1);
        expected.truncate(EACH);
        assert!(
            row.out() == expected,
            "job {}: {} bytes",
            row.id,
            row.out().len()
        );
        assert_eq!(row.err(), format!("err {}\n", row.id));
    }
}

#[tokio::test]
async fn a_background_child_that_keeps_the_pipe_does_not_hold_the_job() {
    let world = World::new().await;
    let pids = world.scratch.join("pids");
    let script = format!(
        "setsid sleep 60 & echo $! >>{}; sleep 60 & echo $! >>{}; echo started",
        pids.display(),
        pids.display()
    );
    let ini = world.script(&script);
    let jobd = Jobd::start(&world.scratch, &ini).await;
    let id = world.database.insert_one("a", "waiting").await;
    let begun = Instant::now();
    jobd.ask("poll", json!({})).await;
    let row = world.database.done(id).await;
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "held for {:?}",
        begun.elapsed()
    );
    assert_eq!(
        (row.result.as_deref(), row.out()),
        (Some("ok"), "started\n")
    );
    let length = async || jobd.ask("status", json!({})).await["targets"]["a"]["length"].clone();
    until("the slot to be free", Duration::from_secs(5), async || {
        (length().await == 0).then_some(())
    })
    .await;
    for pid in std::fs::read_to_string(pids)
        .expect("two process numbers")
        .lines()
    {
        let pid = rustix::process::Pid::from_raw(pid.parse().expect("a number"));
        let _ = rustix::process::kill_process(pid.expect("not 0"), rustix::process::Signal::KILL);
    }
}

#[tokio::test]
async fn every_exit_code_is_kept() {
    let world = World::new().await;
    let witness = WitnessLog::new(&world.scratch);
    let ini = world
        .script("")
        .set("launcher", witness.launcher("w", 0, 256));
    let jobd = Jobd::start(&world.scratch, &ini).await;
    world.database.insert(256, "a", "waiting").await;
    jobd.ask("poll", json!({})).await;
    world.database.all_done(Duration::from_secs(30)).await;
    let rows = world.database.rows().await;
    assert_eq!(rows.len(), 256);
    for row in rows {
        let code = i64::try_from(row.id % 256).expect("small");
        let result = if code == 0 { "ok" } else { "fail" };
        assert_eq!(
            row.verdict(),
            ("done", Some(result), Some(code), None),
            "job {}",
            row.id
        );
    }
}

#[tokio::test]
async fn signals_are_kept_by_name() {
    const SIGNALS: [&str; 16] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "VTALRM",
    ];
    let world = World::new().await;
    let list = world.scratch.write("signals", SIGNALS.join("\n") + "\n");
    let script = format!(
        "ulimit -c 0; name=$(sed -n \"$1p\" {}); kill -s \"$name\" $$; sleep 5",
        list.display()
    );
    let ini = world.script(&script);
    let jobd = Jobd::start(&world.scratch, &ini).await;
    let ids = world.database.insert(SIGNALS.len(), "a", "waiting").await;
    jobd.ask("poll", json!({})).await;
    for (id, name) in ids.into_iter().zip(SIGNALS) {
        let row = world.database.done(id).await;
        let name = format!("SIG{name}");
        assert_eq!(
            row.verdict(),
            ("done", Some("fail"), None, Some(name.as_str()))
        );
    }
}

#[tokio::test]
async fn a_launcher_that_does_not_exist_is_the_jobs_failure_and_said() {
    let world = World::new().await;
    let plain = world.scratch.write("not-executable", "");
    // The codes that a shell gives.
    let programs = [
        ("/nonexistent/program", 127),
        (&plain.display().to_string(), 126),
    ];
    for (program, code) in programs {
        let ini = world
            .script("")
            .set("launcher", format!("{program} {{id}}"));
        let jobd = Jobd::start(&world.scratch, &ini).await;
        let ids = world.database.insert(3, "a", "waiting").await;
        jobd.ask("poll", json!({})).await;
        for id in ids {
            let row = world.database.done(id).await;
            assert_eq!(row.verdict(), ("done", Some("fail"), Some(code), None));
            assert!(row.err().contains(program), "{:?}", row.err());
        }
        let manual = world.database.insert_one("a", "manual").await;
        let reply = jobd.ask("run-manual", json!({"ids": [manual]})).await;
        let outcome = &reply["jobs"][manual.to_string()];
        assert_eq!(outcome["result"], "fail", "{reply}");
        assert!(
            outcome["stderr"].as_str().expect("text").contains(program),
            "{reply}"
        );
    }
}
