//! What the columns of a table switch on, and what is said of those that are amiss.

use jobd_tests::database::insertion;

use super::*;
use crate::store::inspect::Problem;

/// Each with the file that adds it, in an order in which they can be added.
const ALL: [(Ability, &str); 10] = [
    (
        Ability::Ownership,
        include_str!("../../../../sql/mysql/add-ownership.sql"),
    ),
    (
        Ability::Later,
        include_str!("../../../../sql/mysql/add-later.sql"),
    ),
    (
        Ability::Retries,
        include_str!("../../../../sql/mysql/add-retries.sql"),
    ),
    (
        Ability::Priority,
        include_str!("../../../../sql/mysql/add-priority.sql"),
    ),
    (
        Ability::Timeout,
        include_str!("../../../../sql/mysql/add-timeout.sql"),
    ),
    (
        Ability::Reason,
        include_str!("../../../../sql/mysql/add-reason.sql"),
    ),
    (
        Ability::Cancel,
        include_str!("../../../../sql/mysql/add-cancel.sql"),
    ),
    (
        Ability::Data,
        include_str!("../../../../sql/mysql/add-data.sql"),
    ),
    (
        Ability::Progress,
        include_str!("../../../../sql/mysql/add-progress.sql"),
    ),
    (
        Ability::Accounting,
        include_str!("../../../../sql/mysql/add-accounting.sql"),
    ),
];

const MINIMAL: &str = include_str!("../../../../sql/mysql/jobs-minimal.sql");

/// What is said of a table that these statements make.
async fn inspected(statements: &[&str]) -> Inspection {
    let database = Server::shared().await.database().await;
    for statement in statements {
        database.run(statement).await;
    }
    let settings = settings(database.port, &database.name);
    let store = open(&DatabaseSettings::MySql(settings), LEASE);
    store.inspect().await.unwrap()
}

/// The same on SQLite.
async fn inspected_sqlite(statements: &[&str]) -> Inspection {
    let scratch = jobd_tests::Scratch::new();
    let settings = jobd_proto::table::SqliteSettings {
        path: scratch.write("jobs.db", ""),
        table: jobd_proto::table::TableName::parse("jobs").unwrap(),
    };
    let mut connection = jobd_proto::table::connect_sqlite(&settings).await.unwrap();
    for statement in statements {
        let run = sqlx::raw_sql(AssertSqlSafe(*statement)).execute(&mut connection);
        run.await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    let store = open(&DatabaseSettings::Sqlite(settings), LEASE);
    store.inspect().await.unwrap()
}

/// What the files say of themselves. That the servers can do it is seen where they are run.
#[test]
fn every_column_is_added_at_once_and_every_index_while_workers_go_on() {
    let unique = include_str!("../../../../sql/mysql/add-unique.sql");
    let files = ALL.iter().map(|(_, add)| *add).chain([unique]);
    let without_comments = |file: &str| {
        let lines = file.lines().filter(|line| !line.starts_with("--"));
        lines.collect::<Vec<_>>().join(" ")
    };
    for statement in files
        .map(without_comments)
        .collect::<String>()
        .split_terminator(';')
    {
        let expected = if statement.contains("KEY") {
            "ALGORITHM=INPLACE, LOCK=NONE"
        } else {
            "ALGORITHM=INSTANT"
        };
        assert!(statement.ends_with(expected), "{statement}");
    }
}

fn found(inspection: &Inspection) -> Vec<Ability> {
    let all = ALL.iter().map(|(ability, _)| *ability);
    all.filter(|ability| inspection.abilities.has(*ability))
        .collect()
}

#[tokio::test]
async fn every_ability_can_be_added_at_once_to_a_table_that_is_there() {
    let mut statements = vec![MINIMAL];
    for (number, (ability, add)) in ALL.iter().enumerate() {
        if *ability != Ability::Retries {
            let alone = inspected(&[MINIMAL, add]).await;
            assert!(alone.problems.is_empty(), "{:?}", alone.problems);
            assert_eq!(found(&alone), [*ability]);
        }
        statements.push(add);
        let inspection = inspected(&statements).await;
        assert!(inspection.problems.is_empty(), "{:?}", inspection.problems);
        let all: Vec<Ability> = ALL[..=number].iter().map(|(ability, _)| *ability).collect();
        assert_eq!(found(&inspection), all);
    }
}

#[tokio::test]
async fn a_table_says_what_its_columns_switch_on() {
    let minimal = inspected(&[MINIMAL]).await;
    assert_eq!(
        minimal.abilities.to_string(),
        "minimal table (rows of a worker that dies stay accepted or running)"
    );
    let partial = inspected(&[MINIMAL, ALL[5].1, ALL[7].1]).await;
    assert_eq!(
        partial.abilities.to_string(),
        "reason, data, no ownership (rows of a worker that dies stay accepted or running)"
    );
    let full = inspected(&[include_str!("../../../../sql/mysql/jobs.sql")]).await;
    assert_eq!(
        full.abilities.to_string(),
        "ownership, later, retries, priority, timeout, reason, cancel, data, progress, accounting"
    );
    assert!(full.abilities.lacks(false).is_empty());
    for table in [Table::Minimal, Table::Full] {
        let sqlite = Ground::sqlite(table).await.store.inspect().await.unwrap();
        let mysql = if table == Table::Full {
            &full
        } else {
            &minimal
        };
        assert_eq!(sqlite.abilities, mysql.abilities);
    }
}

#[tokio::test]
async fn a_column_of_the_wrong_type_is_fatal_and_its_ddl_mends_it() {
    for (column, wrong) in [
        ("worker", "varchar(20)"),
        ("lease_until", "int NOT NULL DEFAULT 0"),
        ("lease_until", "smallint DEFAULT NULL"),
        ("attempts", "int DEFAULT 0"),
        ("interruptions", "int DEFAULT 0"),
        ("priority", "smallint DEFAULT NULL"),
        ("run_at", "datetime"),
        ("errors", "json"),
        ("errors", "varchar(20)"),
        ("priority", "enum('low','high')"),
        ("timeout", "time"),
        ("reason", "varchar(16) NOT NULL DEFAULT ''"),
        ("cancel_requested", "varchar(5)"),
        ("data", "point"),
        ("progress", "double"),
        ("cpu_ms", "double"),
    ] {
        let mut statements = vec![MINIMAL];
        statements.extend(ALL.iter().map(|(_, add)| *add));
        let change = format!("ALTER TABLE jobs MODIFY {column} {wrong}");
        statements.push(&change);
        // Stands in the way of NOT NULL.
        let null = insertion(&format!("target, time_created, {column}"), "('t', 1, NULL)");
        if wrong.contains("int DEFAULT") && column != "lease_until" {
            statements.push(&null);
        }
        let problems = inspected(&statements).await.problems;
        if wrong == "json" && problems.is_empty() {
            // MariaDB's is a text.
            continue;
        }
        let told = |problem: &Problem| problem.fatal && problem.text.contains(column);
        let problem = problems.iter().find(|problem| told(problem));
        let ddl = problem.unwrap_or_else(|| panic!("{column} {wrong}: {problems:?}"));
        let ddl = ddl.ddl.clone().unwrap();
        statements.push(&ddl);
        let mended = inspected(&statements).await;
        assert!(mended.problems.is_empty(), "{ddl}: {:?}", mended.problems);
    }
}

#[tokio::test]
async fn a_part_of_what_an_ability_needs_is_told_with_what_is_missing_and_switches_nothing_on() {
    let add_later = ALL[1].1;
    for (statements, missing, off) in [
        (
            &["ALTER TABLE jobs ADD worker varchar(191) CHARACTER SET ascii"][..],
            "lease_until",
            Ability::Ownership,
        ),
        (
            &["ALTER TABLE jobs ADD run_at int unsigned, ADD KEY (run_at)"],
            "status 'scheduled'",
            Ability::Later,
        ),
        (
            &[
                "ALTER TABLE jobs MODIFY status enum('waiting','manual','accepted','running','done','ignored','own','scheduled') NOT NULL",
            ],
            "column run_at",
            Ability::Later,
        ),
        (
            &[add_later, "ALTER TABLE jobs DROP KEY run_at_idx"],
            "an index on run_at",
            Ability::Later,
        ),
        (
            &["ALTER TABLE jobs ADD cancel_requested tinyint"],
            "an index on cancel_requested",
            Ability::Cancel,
        ),
        (
            &["ALTER TABLE jobs ADD max_attempts int NOT NULL DEFAULT 1"],
            "column errors, ownership, later",
            Ability::Retries,
        ),
        (
            &["ALTER TABLE jobs ADD cpu_ms int"],
            "column peak_kib",
            Ability::Accounting,
        ),
    ] {
        let statements = [&[MINIMAL], statements].concat();
        let inspection = inspected(&statements).await;
        let [problem] = &inspection.problems[..] else {
            panic!("{missing}: {:?}", inspection.problems);
        };
        assert!(
            !problem.fatal && problem.text.contains(missing),
            "{missing}: {problem}"
        );
        assert!(!inspection.abilities.has(off), "{problem}");
        let ddl = problem.ddl.clone().unwrap();
        let mended = inspected(&[&statements[..], &[&ddl]].concat()).await;
        assert!(mended.abilities.has(off), "{ddl}: {:?}", mended.problems);
    }
}

#[tokio::test]
async fn on_sqlite_the_ddl_adds_what_is_missing() {
    let minimal = include_str!("../../../../sql/sqlite/jobs-minimal.sql");
    for (number, (ability, column)) in [
        (Ability::Ownership, "worker TEXT"),
        (Ability::Later, "run_at INTEGER"),
        (Ability::Retries, "max_attempts INTEGER"),
        (Ability::Cancel, "cancel_requested INTEGER"),
        (Ability::Accounting, "cpu_ms INTEGER"),
    ]
    .into_iter()
    .enumerate()
    {
        let add = format!("ALTER TABLE jobs ADD {column}");
        let columns = "target, time_created, status";
        let rows = insertion(columns, "('t', 1, 'waiting'), ('t', 2, 'done')");
        let more = insertion(columns, "('t', 3, 'waiting')");
        let mut statements = vec![minimal, &rows, &add];
        if number % 2 == 0 {
            // Whatever goes by the column goes on doing so.
            statements
                .push("CREATE UNIQUE INDEX own ON jobs (time_created) WHERE status = 'waiting'");
        }
        let inspection = inspected_sqlite(&statements).await;
        let [problem] = &inspection.problems[..] else {
            panic!("{column}: {:?}", inspection.problems);
        };
        assert!(!inspection.abilities.has(ability), "{problem}");
        let ddl = problem.ddl.clone().unwrap();
        statements.extend([&*ddl, &more]);
        if number % 2 == 0 {
            statements.push("DROP INDEX own");
        }
        let mended = inspected_sqlite(&statements).await;
        assert!(mended.problems.is_empty(), "{ddl}: {:?}", mended.problems);
        assert!(mended.abilities.has(ability), "{ddl}");
    }
}

#[tokio::test]
async fn on_sqlite_the_ddl_gives_a_column_another_type() {
    let full = include_str!("../../../../sql/sqlite/jobs.sql");
    let table = |column: &str, wrong: &str| {
        let right = format!("\n  \"{column}\" ");
        let at = full.find(&right).unwrap() + right.len();
        let rest = &full[at..];
        let end = [",\n", "\n)"].into_iter().filter_map(|end| rest.find(end));
        format!("{}{wrong}{}", &full[..at], &rest[end.min().unwrap()..])
    };
    for (column, wrong, value) in [
        ("worker", "REAL", "NULL"),
        ("attempts", "INTEGER DEFAULT 0", "NULL"),
        ("interruptions", "INTEGER", "NULL"),
        ("priority", "INTEGER", "NULL"),
        ("priority", "REAL NOT NULL DEFAULT 0", "2"),
        ("run_at", "REAL", "NULL"),
        ("errors", "TEXT NOT NULL DEFAULT ''", "''"),
        ("timeout", "REAL", "9"),
        ("reason", "TEXT CHECK (\"reason\" IN ('exit'))", "NULL"),
        ("cancel_requested", "TEXT", "'1'"),
        ("progress", "REAL", "NULL"),
        ("return_code", "TEXT", "'7'"),
        ("time_started", "REAL DEFAULT 0", "1"),
        ("stdout", "REAL", "NULL"),
        (
            "status",
            "TEXT DEFAULT 'waiting' CHECK (\"status\" IN ('waiting', 'manual', 'scheduled'))",
            "'manual'",
        ),
    ] {
        let create = table(column, wrong);
        let columns = format!("target, time_created, {column}");
        let row = insertion(&columns, &format!("('t', 1, {value})"));
        let mut statements = vec![&*create, &row];
        let problems = inspected_sqlite(&statements).await.problems;
        let told = |problem: &&Problem| problem.fatal && problem.text.contains(column);
        let problem = problems.iter().find(told);
        let ddl = problem.unwrap_or_else(|| panic!("{column} {wrong}: {problems:?}"));
        let ddl = ddl.ddl.clone().unwrap();
        // What the rows say there is what they said.
        let kept = format!("UPDATE jobs SET kept = ({column} IS COALESCE({value}, {column}))");
        let check = "ALTER TABLE jobs ADD kept INTEGER CHECK (kept = 1)";
        statements.extend([&*ddl, check, &kept]);
        let mended = inspected_sqlite(&statements).await;
        assert!(mended.problems.is_empty(), "{ddl}: {:?}", mended.problems);
    }
}
