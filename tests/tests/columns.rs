//! Every ability with its own columns alone, with all others, and none of them: on each kind of table every job
//! comes to its end, and what the columns say of it is so.

use jobd_tests::database::MINIMAL;
use jobd_tests::ground::Ground;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Jobd, until};

/// An ability, what adds its columns, and their names. What rests on others comes behind them.
struct Ability {
    name: &'static str,
    add: &'static str,
    columns: &'static [&'static str],
    needs: &'static [&'static str],
}

macro_rules! ability {
    ($name:literal, $columns:expr) => {
        Ability {
            name: $name,
            add: include_str!(concat!("../../sql/mysql/add-", $name, ".sql")),
            columns: &$columns,
            needs: &[],
        }
    };
}

const ABILITIES: [Ability; 10] = [
    ability!(
        "ownership",
        ["worker", "lease_until", "attempts", "interruptions"]
    ),
    ability!("later", ["run_at"]),
    Ability {
        needs: &["ownership", "later"],
        ..ability!("retries", ["max_attempts", "errors"])
    },
    ability!("priority", ["priority"]),
    ability!("timeout", ["timeout"]),
    ability!("reason", ["reason"]),
    ability!("cancel", ["cancel_requested"]),
    ability!("data", ["data"]),
    ability!("progress", ["progress"]),
    ability!("accounting", ["cpu_ms", "peak_kib"]),
];

/// The table on SQLite without the columns of abilities that it is not to have, nor their indexes.
fn sqlite(has: &[&str]) -> String {
    let lacks = ABILITIES
        .iter()
        .filter(|ability| !has.contains(&ability.name));
    let lacks: Vec<String> = lacks
        .flat_map(|ability| ability.columns)
        .map(|column| format!("\"{column}\""))
        .collect();
    let ddl = include_str!("../../sql/sqlite/jobs.sql");
    let mut lines = Vec::new();
    for line in ddl
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
    {
        let names = |column: &String| line.contains(column.as_str());
        if line.contains("status_target_idx") && lacks.iter().any(names) {
            lines.push(line.replace("\"priority\" DESC, ", ""));
        } else if !lacks.iter().any(names) {
            lines.push(line.to_owned());
        }
    }
    if !has.contains(&"later") {
        for line in &mut lines {
            *line = line.replace(", 'scheduled'", "");
        }
    }
    lines.join("\n").replace(",\n);", "\n);")
}

async fn tables(has: &[&str]) -> [Ground; 2] {
    let mut statements = vec![MINIMAL];
    let added = ABILITIES
        .iter()
        .filter(|ability| has.contains(&ability.name));
    statements.extend(added.map(|ability| ability.add));
    [
        Ground::mysql_made_by(&statements).await,
        Ground::sqlite_made_by(&sqlite(has)).await,
    ]
}

/// What a table with these abilities, and no others, does.
async fn check(has: &[&str]) {
    for ground in tables(has).await {
        let script = ground.scratch.write(
            "job.sh",
            "case $1 in\n\
             1) cat; exit 0;;\n\
             2) echo no >&2; exit 3;;\n\
             3|4) sleep 1000;;\n\
             *) date +%s%N;;\nesac\n",
        );
        let ini = ground
            .ini()
            .set("name", "w1")
            .set("retry", 1)
            .set("retry_backoff", "0.1s")
            .set("kill_sequence", "TERM,0.2s,KILL")
            .set("launcher", format!("sh {} {{id}}", script.display()))
            .target("a", 9)
            .target("one", 1);
        insert(&ground, has).await;
        let jobd = Jobd::ready(&ground.scratch, &ini).await;
        let log = jobd.process.log();
        assert!(!log.contains("WARN"), "{has:?}: {log}");
        ends(&ground, has).await;
        assert!(jobd.stop().await.success());
    }
}

/// Job 1 reads, 2 fails, 3 takes too long, 4 is cancelled, 5 waits for its time, 6 to 8 queue up.
async fn insert(ground: &Ground, has: &[&str]) {
    let can = |name| has.contains(&name);
    if can("data") {
        ground.insert_data("a", b"payload").await;
    } else {
        ground.insert("a", &[]).await;
    }
    ground.insert("a", &[]).await;
    if can("timeout") {
        ground.insert("a", &[("id", "3"), ("timeout", "1")]).await;
    }
    if can("cancel") {
        ground.insert("a", &[("id", "4")]).await;
    }
    if can("later") {
        let run_at = ground.in_seconds(1);
        let row = [("id", "5"), ("status", "'scheduled'"), ("run_at", &*run_at)];
        ground.insert("a", &row).await;
    }
    for id in ["6", "7", "8"] {
        let row = [("id", id), ("priority", id)];
        let columns = if can("priority") { &row[..] } else { &row[..1] };
        ground.insert("one", columns).await;
    }
}

async fn ends(ground: &Ground, has: &[&str]) {
    let can = |name| has.contains(&name);
    let told = format!("{has:?}");
    let end = async |id: u64| {
        ground.reaches(id, "done").await;
        ground.words(id, &["result", "return_code", "sig"]).await
    };
    let reason = async |id: u64, reason: Option<&str>| {
        if can("reason") {
            assert_eq!(ground.text(id, "reason").await.as_deref(), reason, "{told}");
        }
    };
    if can("cancel") {
        ground.reaches(4, "running").await;
        ground
            .run("UPDATE jobs SET cancel_requested = 1 WHERE id = 4")
            .await;
        assert_eq!(end(4).await, "fail - SIGTERM", "{told}");
        reason(4, Some("cancelled")).await;
        let asked = async || (ground.number(4, "cancel_requested").await == 0).then_some(());
        until("the request to be answered", PATIENCE, asked).await;
    }
    assert_eq!(end(1).await, "ok 0 -", "{told}");
    let read = if can("data") { "payload" } else { "" };
    assert_eq!(
        ground.text(1, "stdout").await.unwrap_or_default(),
        read,
        "{told}"
    );
    reason(1, None).await;
    assert_eq!(end(2).await, "fail 3 -", "{told}");
    assert_eq!(
        ground.text(2, "stderr").await.as_deref(),
        Some("no\n"),
        "{told}"
    );
    reason(2, Some("exit")).await;
    if can("timeout") {
        assert_eq!(end(3).await, "fail - SIGTERM", "{told}");
        reason(3, Some("timeout")).await;
    }
    if can("later") {
        assert_eq!(end(5).await, "ok 0 -", "{told}");
        assert_eq!(ground.text(5, "run_at").await, None, "{told}");
    }
    let again = i64::from(can("retries"));
    if can("ownership") {
        assert_eq!(ground.number(2, "attempts").await, 1 + again, "{told}");
        assert_eq!(ground.number(1, "attempts").await, 1, "{told}");
    }
    if can("retries") {
        assert_eq!(ground.number(2, "max_attempts").await, 2, "{told}");
        assert_eq!(ground.text(1, "errors").await, None, "{told}");
    }
    let mut began = Vec::new();
    for id in [6, 7, 8] {
        assert_eq!(end(id).await, "ok 0 -", "{told}");
        // Nanoseconds, all with as many digits.
        began.push(ground.text(id, "stdout").await);
    }
    if can("priority") {
        began.reverse();
    }
    assert!(began.is_sorted(), "{told}: {began:?}");
}

#[tokio::test]
async fn each_ability_alone() {
    for ability in &ABILITIES {
        let mut has = ability.needs.to_vec();
        has.push(ability.name);
        check(&has).await;
    }
}

#[tokio::test]
async fn all_abilities_together() {
    let all: Vec<&str> = ABILITIES.iter().map(|ability| ability.name).collect();
    check(&all).await;
}

#[tokio::test]
async fn no_ability_at_all() {
    check(&[]).await;
}

/// The full tables are what their parts make, and no column of theirs is without a test here.
#[test]
fn the_full_tables_have_every_column_and_no_other() {
    let minimal = [MINIMAL, include_str!("../../sql/sqlite/jobs-minimal.sql")];
    let full = [
        include_str!("../../sql/mysql/jobs.sql"),
        include_str!("../../sql/sqlite/jobs.sql"),
    ];
    let columns = |ddl: &'static str| -> Vec<&'static str> {
        let lines = ddl.lines().filter_map(|line| line.strip_prefix("  "));
        let quoted = lines.filter_map(|line| line.strip_prefix(['`', '"']));
        quoted
            .filter_map(|line| line.split(['`', '"']).next())
            .collect()
    };
    let of_abilities = ABILITIES
        .iter()
        .flat_map(|ability| ability.columns)
        .copied();
    for (minimal, full) in minimal.into_iter().zip(full) {
        let mut wanted: Vec<&str> = columns(minimal)
            .into_iter()
            .chain(of_abilities.clone())
            .collect();
        let mut found = columns(full);
        wanted.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, wanted);
    }
}
