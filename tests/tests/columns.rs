//! Every ability with its own columns alone, with all others, and none of them, and every column alone: on each kind of
//! table every job comes to its end, what the columns say of it is so, and the worker says what is on.

use std::path::{Path, PathBuf};

use futures::future::join_all;
use jobd_tests::database::MINIMAL;
use jobd_tests::ground::Ground;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Jobd, until};
use serde_json::json;

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

/// The table on SQLite without some columns of abilities, and without their indexes.
fn sqlite(lacks: &[&str]) -> String {
    let quoted: Vec<String> = lacks.iter().map(|column| format!("\"{column}\"")).collect();
    let ddl = include_str!("../../sql/sqlite/jobs.sql");
    let mut lines = Vec::new();
    for line in ddl
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
    {
        let names = |column: &String| line.contains(column.as_str());
        if line.contains("status_target_idx") && quoted.iter().any(names) {
            lines.push(line.replace("\"priority\" DESC, ", ""));
        } else if !quoted.iter().any(names) {
            lines.push(line.to_owned());
        }
    }
    if lacks.contains(&"run_at") {
        for line in &mut lines {
            *line = line.replace(", 'scheduled'", "");
        }
    }
    lines.join("\n").replace(",\n);", "\n);")
}

async fn tables(has: &[&str]) -> [Ground; 2] {
    let is_there = |ability: &&Ability| has.contains(&ability.name);
    let (there, lacking): (Vec<_>, Vec<_>) = ABILITIES.iter().partition(is_there);
    let statements = there.iter().map(|ability| ability.add);
    let statements: Vec<&str> = std::iter::once(MINIMAL).chain(statements).collect();
    let lacks: Vec<&str> = lacking
        .iter()
        .flat_map(|ability| ability.columns)
        .copied()
        .collect();
    [
        Ground::mysql_made_by(&statements).await,
        Ground::sqlite_made_by(&sqlite(&lacks)).await,
    ]
}

/// What tables with these abilities, and no others, do.
async fn check(has: &[&str]) {
    for ground in tables(has).await {
        check_one(&ground, has, None).await;
    }
}

/// What a table with these abilities does. The worker complains of nothing but a column that is only a `part` of what one
/// needs, in these words.
async fn check_one(ground: &Ground, has: &[&str], part: Option<(&str, &str)>) {
    let script = ground.scratch.write(
        "job.sh",
        "case $1 in\n\
         1) echo 40 half >&$JOBD_PROGRESS_FD; cat; exit 0;;\n\
         2) echo no >&2; exit 3;;\n\
         3|4) sleep 1000;;\n\
         9) [ -e $2 ] && exit 0; touch $2; exit 75;;\n\
         *) date +%s%N;;\nesac\n",
    );
    let flag = ground.scratch.join("again");
    let launcher = format!("sh {} {{id}} {}", script.display(), flag.display());
    let ini = ground
        .ini()
        .set("name", "w1")
        .set("retry", 1)
        .set("retry_backoff", "0.1s")
        .set("kill_sequence", "TERM,0.2s,KILL")
        .set("progress", 1)
        .set("launcher", launcher)
        .target("a", 9)
        .target("one", 1);
    insert(ground, has).await;
    // What switches nothing on is the application's own; but the name of a claim is written wherever there is room for it.
    let own = part.filter(|(column, _)| has.is_empty() && *column != "worker");
    if let Some((column, _)) = own {
        ground.run(&format!("UPDATE jobs SET {column} = 7")).await;
    }
    let jobd = Jobd::ready(&ground.scratch, &ini).await;
    ends(ground, has).await;
    let log = jobd.process.log();
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    match part {
        None => assert!(complaints.is_empty(), "{has:?}: {log}"),
        Some((_, amiss)) => assert!(
            !complaints.is_empty() && complaints.iter().all(|line| line.contains(amiss)),
            "{amiss}: {complaints:?}"
        ),
    }
    if let Some((column, _)) = own {
        let changed = format!(
            "(SELECT COUNT(*) FROM jobs WHERE COALESCE(CAST({column} AS DECIMAL), 0) <> 7)"
        );
        assert_eq!(ground.number(1, &changed).await, 0, "{column}");
    }
    // In the log, and to whoever asks.
    let unowned = "rows of a worker that dies stay accepted or running";
    let on = match has {
        [] => format!("minimal table ({unowned})"),
        ["ownership", ..] => has.join(", "),
        _ => format!("{}, no ownership ({unowned})", has.join(", ")),
    };
    let logged = log.replace('"', "");
    assert!(logged.contains(&format!("abilities={on}\n")), "{on}: {log}");
    let status = jobd.ask("status", json!({})).await;
    let table = status["table"].as_str().expect("what it works on");
    assert!(table.ends_with(&format!(", {on}")), "{on}: {table}");
    assert!(jobd.stop().await.success());
}

/// Job 1 reads and reports, 2 fails, 3 takes too long, 4 is cancelled, 5 waits for its time, 6 to 8 queue up, 9 asks for
/// another time.
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
    ground.insert("a", &[("id", "9")]).await;
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
    if can("progress") {
        let said = ground.text(1, "progress").await;
        assert_eq!(said.as_deref(), Some("40 half"), "{told}");
    }
    if can("accounting") {
        // At least what a shell takes.
        assert!(ground.number(1, "peak_kib").await > 100, "{told}");
        assert!(ground.number(1, "cpu_ms").await < 60_000, "{told}");
    }
    // This needs no more than a status and a moment.
    let later = if can("later") { "ok 0 -" } else { "fail 75 -" };
    assert_eq!(end(9).await, later, "{told}");
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

/// A column that is not all that an ability needs: what is on all the same, and what the worker says of it.
const PARTS: [(&str, &[&str], &str); 11] = [
    (
        "worker",
        &[],
        "missing column lease_until, column attempts, column interruptions;",
    ),
    (
        "lease_until",
        &[],
        "missing column worker, column attempts, column interruptions;",
    ),
    (
        "attempts",
        &[],
        "missing column worker, column lease_until, column interruptions;",
    ),
    (
        "interruptions",
        &[],
        "missing column worker, column lease_until, column attempts;",
    ),
    ("run_at", &[], "an index on run_at;"),
    (
        "max_attempts",
        &[],
        "missing column errors, ownership, later;",
    ),
    (
        "errors",
        &[],
        "missing column max_attempts, ownership, later;",
    ),
    (
        "priority",
        &["priority"],
        "every claim sorts all that waits for its target;",
    ),
    (
        "cancel_requested",
        &[],
        "missing an index on cancel_requested;",
    ),
    ("cpu_ms", &[], "missing column peak_kib;"),
    ("peak_kib", &[], "missing column cpu_ms;"),
];

#[tokio::test]
async fn each_column_alone() {
    for (column, has, amiss) in PARTS {
        let add = |ddl: &'static str, quote: char| {
            let name = format!("{quote}{column}{quote}");
            let found = ddl.lines().find(|line| line.trim().starts_with(&name));
            let definition = found.expect("a column").trim().trim_end_matches(',');
            format!("ALTER TABLE jobs ADD COLUMN {definition}")
        };
        let mysql = add(include_str!("../../sql/mysql/jobs.sql"), '`');
        let sqlite = add(include_str!("../../sql/sqlite/jobs.sql"), '"');
        let minimal = include_str!("../../sql/sqlite/jobs-minimal.sql");
        for ground in [
            Ground::mysql_made_by(&[MINIMAL, &mysql]).await,
            Ground::sqlite_made_by(&format!("{minimal} {sqlite};")).await,
        ] {
            check_one(&ground, has, Some((column, amiss))).await;
        }
    }
}

/// One column of an ability of several, or that others rest on, is missing: these are off, and no other.
#[tokio::test]
async fn all_columns_but_one() {
    let ownership = ["worker", "lease_until", "attempts", "interruptions"];
    let others = ["run_at", "max_attempts", "errors", "cpu_ms"];
    let mut tables = Vec::new();
    for column in ownership.into_iter().chain(others) {
        let mut has = Vec::new();
        for ability in &ABILITIES {
            let whole = !ability.columns.contains(&column);
            if whole && ability.needs.iter().all(|need| has.contains(need)) {
                has.push(ability.name);
            }
        }
        let drop = format!("ALTER TABLE jobs DROP COLUMN {column}");
        let mut statements = vec![MINIMAL];
        statements.extend(ABILITIES.iter().map(|ability| ability.add));
        statements.push(&drop);
        for ground in [
            Ground::mysql_made_by(&statements).await,
            Ground::sqlite_made_by(&sqlite(&[column])).await,
        ] {
            tables.push((ground, has.clone(), column));
        }
    }
    join_all(tables.iter().map(async |(ground, has, column)| {
        check_one(ground, has, Some((column, "so it is off"))).await;
    }))
    .await;
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

/// What statements say of a table, clause by clause, without comments, quotes around names, and blanks that mean nothing.
fn clauses(sql: &str) -> Vec<String> {
    let lines = sql
        .lines()
        .map(|line| line.split("--").next().unwrap_or(""));
    let text = lines.collect::<Vec<_>>().join(" ").replace('`', "");
    let changes = |statement: &&str| {
        ["ALTER", "CREATE"]
            .iter()
            .any(|it| statement.starts_with(it))
    };
    let mut clauses = Vec::new();
    for statement in text.split(';').map(str::trim).filter(changes) {
        let (mut depth, mut clause) = (0, String::new());
        for c in statement.replace("ALTER TABLE jobs ", "").chars() {
            depth += i32::from(c == '(') - i32::from(c == ')');
            if c == ',' && depth == 0 {
                clauses.push(std::mem::take(&mut clause));
            } else {
                clause.push(c);
            }
        }
        clauses.push(clause);
    }
    let words = |clause: &String| clause.split_whitespace().collect::<Vec<_>>().join(" ");
    clauses.iter().map(words).collect()
}

/// What people copy out of the documentation is what the files have, and the full table has the same.
#[test]
fn the_ddl_of_the_documentation_is_that_of_the_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let texts = |folder: &str| {
        let files = std::fs::read_dir(root.join(folder)).expect("a folder");
        let paths = files.map(|file| file.expect("a file").path());
        let read = |path: PathBuf| (std::fs::read_to_string(&path).expect("text"), path);
        paths.map(read).collect::<Vec<_>>()
    };
    let files = texts("sql/mysql");
    let known: Vec<String> = files.iter().flat_map(|(sql, _)| clauses(sql)).collect();
    let mut docs = texts("docs/abilities");
    let readme = root.join("README.md");
    docs.push((std::fs::read_to_string(&readme).expect("text"), readme));
    let mut printed = 0;
    for (text, path) in docs {
        let blocks = text.split("```sql\n").skip(1);
        let blocks = blocks.filter_map(|block| block.split("```").next());
        for clause in blocks.flat_map(clauses) {
            let path = path.display();
            assert!(known.contains(&clause), "{path}: {clause}");
            printed += 1;
        }
    }
    assert!(printed > ABILITIES.len(), "{printed} clauses");
    let full = include_str!("../../sql/mysql/jobs.sql").replace('`', "");
    for clause in ABILITIES.iter().flat_map(|ability| clauses(ability.add)) {
        let added = ["ADD COLUMN ", "MODIFY COLUMN ", "ADD "];
        if let Some(added) = added.iter().find_map(|kind| clause.strip_prefix(kind)) {
            assert!(full.contains(&format!("  {added}")), "{added}");
        }
    }
}
