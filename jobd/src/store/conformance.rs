//! What every store must do, run against each of them on its real database.

mod abilities;
mod cancel;
mod galera;
mod later;
mod ownership;
mod priority;
mod progress;
mod unique;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jobd_proto::table::{
    Connection, DatabaseSettings, JobRow, MySqlAddress, MySqlSettings, NewJob, Patience,
    SqliteSettings, TableName, Tls,
};
use jobd_proto::{JobId, JobResult, Secret, TargetName};
use jobd_tests::{Scratch, Server, server};
use sqlx::{AssertSqlSafe, Connection as _};

use self::cancel::what_nobody_runs_is_cancelled_and_nothing_else;
use self::progress::a_row_says_how_far_its_own_run_has_come;
use super::*;
use crate::fate::Again;
use crate::job::{Origin, Terms, Tokens};

/// The tables that people have: the least that works, and the one with every ability.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    Minimal,
    Full,
}

const LEASE: Duration = Duration::from_secs(30);

/// A table of its own, seen from both sides.
struct Ground {
    store: Arc<dyn Store>,
    table: Connection,
    settings: DatabaseSettings,
    tokens: Tokens,
    shape: Table,
    _scratch: Scratch,
}

/// How the worker reaches a test's database.
pub(super) fn settings(port: u16, database: &str) -> MySqlSettings {
    MySqlSettings {
        address: MySqlAddress::Tcp {
            host: "127.0.0.1".into(),
            port,
        },
        user: server::USER.into(),
        password: Some(Secret::new(server::PASSWORD)),
        database: database.into(),
        table: TableName::parse("jobs").unwrap(),
        tls: Tls::Preferred,
    }
}

impl Ground {
    async fn over(settings: DatabaseSettings, shape: Table, scratch: Scratch) -> Self {
        let store = open(&settings, LEASE);
        let inspection = store.inspect().await.unwrap();
        assert!(inspection.problems.is_empty(), "{:?}", inspection.problems);
        assert_eq!(
            inspection.abilities.has(Ability::Ownership),
            shape == Table::Full
        );
        let table = Connection::open(&settings, Patience::default())
            .await
            .unwrap();
        Self {
            store,
            table,
            settings,
            tokens: Tokens::new("w", "h", 1),
            shape,
            _scratch: scratch,
        }
    }

    async fn mysql(shape: Table) -> Self {
        let server = Server::shared().await;
        let database = server.database().await;
        let create = match shape {
            Table::Minimal => include_str!("../../../sql/mysql/jobs-minimal.sql"),
            Table::Full => include_str!("../../../sql/mysql/jobs.sql"),
        };
        database.run(create).await;
        let settings = settings(database.port, &database.name);
        Self::over(DatabaseSettings::MySql(settings), shape, Scratch::new()).await
    }

    async fn sqlite(shape: Table) -> Self {
        let create = match shape {
            Table::Minimal => include_str!("../../../sql/sqlite/jobs-minimal.sql"),
            Table::Full => include_str!("../../../sql/sqlite/jobs.sql"),
        };
        let scratch = Scratch::new();
        let path = scratch.write("jobs.db", "");
        let settings = SqliteSettings {
            path,
            table: TableName::parse("jobs").unwrap(),
        };
        let mut connection = jobd_proto::table::connect_sqlite(&settings).await.unwrap();
        sqlx::raw_sql(create)
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        Self::over(DatabaseSettings::Sqlite(settings), shape, scratch).await
    }

    async fn run(&self, sql: &str) {
        match &self.settings {
            DatabaseSettings::MySql(settings) => {
                let mut connection = jobd_proto::table::connect_mysql(settings).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sql))
                    .execute(&mut connection)
                    .await
                    .unwrap();
            }
            DatabaseSettings::Sqlite(settings) => {
                let mut connection = jobd_proto::table::connect_sqlite(settings).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sql))
                    .execute(&mut connection)
                    .await
                    .unwrap();
            }
        }
    }

    async fn insert(&mut self, target: &str, manual: bool, count: u32) -> Vec<JobId> {
        let job = NewJob {
            target: target.into(),
            manual,
            ..NewJob::default()
        };
        self.table.insert(&job, count).await.unwrap()
    }

    /// The claim's name in a row.
    fn token<'a>(&self, row: &'a JobRow) -> Option<&'a str> {
        match self.shape {
            Table::Minimal => row.stderr.as_deref(),
            Table::Full => other(row, "worker"),
        }
    }

    async fn row(&mut self, id: JobId) -> JobRow {
        self.table.show(id).await.unwrap().unwrap()
    }

    async fn claim(&mut self, target: &str, limit: u32) -> Vec<Job> {
        let token = self.tokens.next(Origin::Background);
        let claimed = self
            .store
            .claim(token, name(target), limit, 1)
            .await
            .unwrap();
        claimed.jobs
    }

    async fn record(&self, batch: Batch) -> Recorded {
        self.store.record(Arc::new(batch)).await.unwrap()
    }
}

fn other<'a>(row: &'a JobRow, column: &str) -> Option<&'a str> {
    let found = row.others.iter().find(|(name, _)| name == column);
    found.and_then(|(_, value)| value.as_deref())
}

fn name(target: &str) -> TargetName {
    TargetName::new(target).unwrap()
}

fn ids(jobs: &[Job]) -> Vec<JobId> {
    let mut ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    ids.sort();
    ids
}

fn starts(jobs: &[Job]) -> Batch {
    Batch {
        starts: jobs.to_vec(),
        ..Batch::default()
    }
}

fn finish(job: &Job) -> Finish {
    Finish {
        job: job.clone(),
        result: JobResult::Fail,
        code: Some(3),
        signal: None,
        reason: Some(Reason::Exit),
        again: None,
        usage: Some(Usage {
            cpu_ms: 1_500,
            peak_kib: u64::MAX,
        }),
        stdout: "out\0 é".into(),
        stderr: String::new(),
        ended: Instant::now(),
    }
}

fn finishes(jobs: &[Job]) -> Batch {
    Batch {
        finishes: jobs.iter().map(finish).collect(),
        ..Batch::default()
    }
}

async fn a_claim_takes_the_first_waiting_rows_of_its_target(mut ground: Ground) {
    let mine = ground.insert("mail", false, 5).await;
    ground.insert("other", false, 3).await;
    ground.insert("mail", true, 2).await;
    let first = ground.claim("mail", 3).await;
    assert_eq!(ids(&first), mine[..3]);
    assert_eq!(ids(&ground.claim("mail", 300).await), mine[3..]);
    assert!(ground.claim("mail", 3).await.is_empty());
    assert!(ground.claim("nobody", 3).await.is_empty());
    let row = ground.row(mine[0]).await;
    assert_eq!(
        (row.status.as_str(), ground.token(&row)),
        ("accepted", Some(first[0].token.as_str()))
    );
    assert_eq!((row.time_started, row.time_finished), (0, 0));
}

async fn claims_of_many_workers_never_share_a_row(mut ground: Ground) {
    let all = ground.insert("mail", false, 300).await;
    let stores: Vec<Arc<dyn Store>> = (0..4).map(|_| open(&ground.settings, LEASE)).collect();
    let claims = stores.iter().enumerate().map(|(worker, store)| async move {
        store.inspect().await.unwrap();
        let mut tokens = Tokens::new("w", "h", worker as u64 + 2);
        let mut taken = Vec::new();
        loop {
            let claimed = store
                .claim(tokens.next(Origin::Background), name("mail"), 7, 1)
                .await
                .unwrap();
            if claimed.jobs.is_empty() {
                return taken;
            }
            taken.extend(claimed.jobs.into_iter().map(|job| job.id));
        }
    });
    let mut taken: Vec<JobId> = futures::future::join_all(claims).await.concat();
    taken.sort();
    assert_eq!(taken, all);
}

async fn a_row_starts_once_and_only_for_its_claim(mut ground: Ground) {
    ground.insert("mail", false, 3).await;
    let jobs = ground.claim("mail", 3).await;
    let stranger = Job {
        token: ground.tokens.next(Origin::Background),
        ..jobs[2].clone()
    };
    assert_eq!(
        ground
            .record(starts(&[jobs[0].clone(), stranger.clone()]))
            .await
            .started,
        [true, false]
    );
    let again = ground.record(starts(&jobs[..2])).await;
    assert_eq!(
        again.started,
        [true, true],
        "a repeated write finds its first try"
    );
    assert!(ground.row(jobs[0].id).await.time_started > 0);
    assert_eq!(ground.row(stranger.id).await.status, "accepted");
}

async fn a_finish_is_written_once_and_recognised_when_repeated(mut ground: Ground) {
    ground.insert("mail", false, 2).await;
    let jobs = ground.claim("mail", 2).await;
    assert_eq!(
        ground.record(finishes(&jobs[..1])).await.finished,
        [false],
        "a row that never started is not finished"
    );
    ground.record(starts(&jobs)).await;
    let batch = finishes(&jobs);
    assert_eq!(ground.record(batch.clone()).await.finished, [true, true]);
    assert_eq!(ground.record(batch).await.finished, [true, true]);
    let row = ground.row(jobs[0].id).await;
    assert_eq!(
        (
            row.status.as_str(),
            row.result.as_deref(),
            row.return_code,
            row.sig
        ),
        ("done", Some("fail"), Some(3), None)
    );
    assert!(row.stderr.as_deref() == Some("") && row.time_finished >= row.time_started);
    let other = Finish {
        code: Some(4),
        ..finish(&jobs[0])
    };
    let superseded = Batch {
        finishes: vec![other],
        ..Batch::default()
    };
    assert_eq!(
        ground.record(superseded).await.finished,
        [false],
        "another end is not ours"
    );
}

async fn the_end_is_dated_when_the_process_ended(mut ground: Ground) {
    ground.insert("mail", false, 1).await;
    let jobs = ground.claim("mail", 1).await;
    ground.record(starts(&jobs)).await;
    let started = ground.row(jobs[0].id).await.time_started;
    let Some(ended) = Instant::now().checked_sub(Duration::from_secs(100)) else {
        return;
    };
    ground
        .record(Batch {
            finishes: vec![Finish {
                ended,
                ..finish(&jobs[0])
            }],
            ..Batch::default()
        })
        .await;
    let lag = started - ground.row(jobs[0].id).await.time_finished;
    assert!((98..=100).contains(&lag), "{lag}");
}

async fn released_rows_go_back_to_where_they_came_from(mut ground: Ground) {
    ground.insert("mail", false, 2).await;
    let manual = ground.insert("mail", true, 1).await;
    let mut jobs = ground.claim("mail", 2).await;
    ground.record(starts(&jobs[..1])).await;
    let token = ground.tokens.next(Origin::Manual);
    let claimed = ground
        .store
        .claim_manual(token, manual.clone(), vec![name("mail")])
        .await
        .unwrap();
    assert_eq!(ids(&claimed.jobs), manual);
    jobs.extend(claimed.jobs);
    ground
        .record(Batch {
            releases: jobs.clone(),
            ..Batch::default()
        })
        .await;
    for (job, status) in jobs.iter().zip(["waiting", "waiting", "manual"]) {
        let row = ground.row(job.id).await;
        assert_eq!(ground.token(&row), None);
        assert_eq!(
            (row.status.as_str(), row.stderr, row.time_started),
            (status, None, 0)
        );
    }
    assert_eq!(ground.claim("mail", 9).await.len(), 2);
}

async fn manual_rows_are_claimed_together_and_others_left_alone(mut ground: Ground) {
    let manual = ground.insert("mail", true, 2).await;
    let waiting = ground.insert("mail", false, 1).await;
    let foreign = ground.insert("other", true, 1).await;
    let wanted = vec![manual[1], JobId(9999), waiting[0], foreign[0], manual[0]];
    let token = ground.tokens.next(Origin::Manual);
    let claimed = ground
        .store
        .claim_manual(token, wanted, vec![name("mail")])
        .await
        .unwrap();
    assert_eq!(ids(&claimed.jobs), manual);
    let errors: Vec<String> = claimed.errors.into_values().collect();
    let foreign_error = format!("target 'other' not found (job id={})", foreign[0]);
    assert_eq!(
        errors,
        [
            "status = waiting != manual",
            &foreign_error,
            "job 9999 not found"
        ]
    );
    assert_eq!(ground.row(waiting[0]).await.status, "waiting");
    assert_eq!(ground.row(foreign[0]).await.status, "manual");
}

async fn pending_names_the_targets_that_have_rows(mut ground: Ground) {
    for target in ["t3", "t17", "t39"] {
        ground.insert(target, false, 2).await;
    }
    ground.insert("t5", true, 1).await;
    let asked: Vec<TargetName> = (0..40).map(|index| name(&format!("t{index}"))).collect();
    let found = ground.store.pending(asked).await.unwrap();
    assert_eq!(found, ["t3", "t17", "t39"].map(name));
}

async fn a_row_says_where_its_job_stands(mut ground: Ground) {
    let id = ground.insert("mail", false, 1).await[0];
    let store = ground.store.clone();
    let row = async |id, worker: &str| store.row(id, worker.to_owned()).await.unwrap();
    assert_eq!(row(JobId(999_999), "w@h/1").await, None);
    let waiting = RowState {
        status: "waiting".into(),
        holder: None,
        ours: false,
        result: None,
        code: None,
        signal: None,
    };
    assert_eq!(row(id, "w@h/1").await, Some(waiting.clone()));
    let jobs = ground.claim("mail", 1).await;
    let accepted = RowState {
        status: "accepted".into(),
        holder: Some("w@h".into()),
        ours: true,
        ..waiting.clone()
    };
    assert_eq!(row(id, "w@h/1").await, Some(accepted.clone()));
    let others = RowState {
        ours: false,
        ..accepted
    };
    for stranger in ["w@h/12", "w@h/", "v@h/1"] {
        assert_eq!(row(id, stranger).await, Some(others.clone()), "{stranger}");
    }
    ground.record(starts(&jobs)).await;
    assert_eq!(row(id, "w@h/1").await.unwrap().status, "running");
    ground.record(finishes(&jobs)).await;
    let done = row(id, "w@h/1").await.unwrap();
    assert_eq!((done.status.as_str(), done.holder), ("done", None));
    assert_eq!((done.result, done.code), (Some(JobResult::Fail), Some(3)));
}

async fn names_with_waiting_rows_are_found_in_steps(mut ground: Ground) {
    for number in 0..70 {
        ground.insert(&format!("u/{number:02}"), false, 2).await;
    }
    for other in ["u", "u0", "U%/1", "t/1", "v/1"] {
        ground.insert(other, false, 1).await;
    }
    ground.insert("u/manual", true, 1).await;
    ground
        .run("UPDATE jobs SET status = 'done' WHERE target = 'u/03'")
        .await;
    let store = ground.store.clone();
    let find = async |prefix: &str, after: Option<&str>| {
        let found = store.names(prefix.into(), after.map(Into::into)).await;
        found.unwrap()
    };
    let wanted: Vec<String> = (0..70)
        .filter(|number| *number != 3)
        .map(|number| format!("u/{number:02}"))
        .collect();
    let first = find("u/", None).await;
    assert_eq!((&first.names[..], first.more), (&wanted[..64], true));
    let rest = find("u/", Some("u/64")).await;
    assert_eq!((&rest.names[..], rest.more), (&wanted[64..], false));
    assert!(find("u/7", None).await.names.is_empty());
    assert_eq!(find("t", None).await.names, ["t/1"]);
    let first = find("", None).await;
    assert!(
        ["t/1", "U%/1"].contains(&&*first.names[0]) && first.more,
        "{first:?}"
    );
    // What LIKE has a meaning for has none here.
    assert!(find("u_", None).await.names.is_empty());
    assert_eq!(find("U%", None).await.names, ["U%/1"]);
}

async fn rows_changed_by_others_are_left_alone(mut ground: Ground) {
    ground.insert("mail", false, 3).await;
    let jobs = ground.claim("mail", 3).await;
    ground
        .run("UPDATE jobs SET status = 'ignored' WHERE id = 1")
        .await;
    assert_eq!(
        ground.record(starts(&jobs)).await.started,
        [false, true, true]
    );
    ground
        .run("UPDATE jobs SET status = 'waiting' WHERE id = 2")
        .await;
    assert_eq!(
        ground.record(finishes(&jobs[1..])).await.finished,
        [false, true]
    );
    ground
        .record(Batch {
            releases: jobs.clone(),
            ..Batch::default()
        })
        .await;
    let status = |row: JobRow| row.status;
    assert_eq!(status(ground.row(jobs[0].id).await), "ignored");
    assert_eq!(status(ground.row(jobs[1].id).await), "waiting");
    assert_eq!(status(ground.row(jobs[2].id).await), "done");
}

async fn large_claims_and_batches_are_split(mut ground: Ground) {
    let all = ground.insert("mail", false, 700).await;
    let jobs = ground.claim("mail", 1000).await;
    assert_eq!(ids(&jobs), all);
    assert!(
        ground
            .record(starts(&jobs))
            .await
            .started
            .iter()
            .all(|started| *started)
    );
    assert!(
        ground
            .record(finishes(&jobs))
            .await
            .finished
            .iter()
            .all(|finished| *finished)
    );
}

async fn what_is_to_run_again_is_over_on_a_table_that_has_no_rows_for_later(mut ground: Ground) {
    ground.insert("mail", false, 2).await;
    let jobs = ground.claim("mail", 2).await;
    ground.record(starts(&jobs)).await;
    let again = Some(Again {
        after: Duration::ZERO,
        counted: true,
    });
    let batch = Batch {
        finishes: vec![finish(&jobs[0])],
        retries: vec![Finish {
            again,
            ..finish(&jobs[1])
        }],
        ..Batch::default()
    };
    let recorded = ground.record(batch).await;
    assert_eq!(
        (recorded.finished, recorded.retried),
        (vec![true], vec![true])
    );
    let status = match ground.shape {
        Table::Minimal => "done",
        Table::Full => "scheduled",
    };
    assert_eq!(ground.row(jobs[1].id).await.status, status);
}

async fn a_batch_that_is_refused_changes_nothing(mut ground: Ground) {
    ground.insert("mail", false, 2).await;
    let jobs = ground.claim("mail", 2).await;
    ground.record(starts(&jobs[1..])).await;
    let impossible = Finish {
        signal: Some("x".repeat(3000)),
        code: Some(-5),
        ..finish(&jobs[1])
    };
    let batch = Batch {
        starts: jobs[..1].to_vec(),
        finishes: vec![impossible],
        ..Batch::default()
    };
    let outcome = ground.store.record(Arc::new(batch)).await;
    assert!(
        matches!(outcome, Err(StoreError::Refused(_))),
        "{outcome:?}"
    );
    assert_eq!(ground.row(jobs[0].id).await.status, "accepted");
    assert_eq!(ground.row(jobs[1].id).await.status, "running");
    assert_eq!(
        ground.record(starts(&jobs[..1])).await.started,
        [true],
        "the connection is usable again"
    );
}

/// One test per store, table and promise.
macro_rules! conformance {
    ($($promise:ident),+ $(,)? ; $($owned:ident),+ $(,)? ; $($later:ident),+ $(,)?) => {
        mod on_mysql_minimal {
            $(#[tokio::test] async fn $promise() { super::$promise(super::Ground::mysql(super::Table::Minimal).await).await; })+
        }
        mod on_mysql_full {
            $(#[tokio::test] async fn $promise() { super::$promise(super::Ground::mysql(super::Table::Full).await).await; })+
            $(#[tokio::test] async fn $owned() { super::ownership::$owned(super::Ground::mysql(super::Table::Full).await).await; })+
            $(#[tokio::test] async fn $later() { super::later::$later(super::Ground::mysql(super::Table::Full).await).await; })+
        }
        mod on_sqlite_minimal {
            $(#[tokio::test] async fn $promise() { super::$promise(super::Ground::sqlite(super::Table::Minimal).await).await; })+
        }
        mod on_sqlite_full {
            $(#[tokio::test] async fn $promise() { super::$promise(super::Ground::sqlite(super::Table::Full).await).await; })+
            $(#[tokio::test] async fn $owned() { super::ownership::$owned(super::Ground::sqlite(super::Table::Full).await).await; })+
            $(#[tokio::test] async fn $later() { super::later::$later(super::Ground::sqlite(super::Table::Full).await).await; })+
        }
    };
}

conformance! {
    a_claim_takes_the_first_waiting_rows_of_its_target,
    claims_of_many_workers_never_share_a_row,
    a_row_starts_once_and_only_for_its_claim,
    a_finish_is_written_once_and_recognised_when_repeated,
    the_end_is_dated_when_the_process_ended,
    released_rows_go_back_to_where_they_came_from,
    manual_rows_are_claimed_together_and_others_left_alone,
    pending_names_the_targets_that_have_rows,
    a_row_says_where_its_job_stands,
    names_with_waiting_rows_are_found_in_steps,
    rows_changed_by_others_are_left_alone,
    large_claims_and_batches_are_split,
    what_is_to_run_again_is_over_on_a_table_that_has_no_rows_for_later,
    a_batch_that_is_refused_changes_nothing,
    a_row_says_how_far_its_own_run_has_come,
    what_nobody_runs_is_cancelled_and_nothing_else;
    an_end_counts_attempts_and_interruptions,
    a_claim_reads_what_its_row_asks_for,
    a_payload_is_read_while_its_job_runs,
    the_row_says_why_its_job_ended,
    the_row_says_what_its_job_has_used,
    leases_are_renewed_and_lost_rows_named,
    rows_ask_for_a_cancellation,
    higher_priorities_are_claimed_first,
    what_may_not_wait_again_ends,
    a_row_that_may_not_wait_yet_is_put_off_and_no_other,
    an_orphan_goes_back_runs_again_or_gets_a_verdict;
    rows_whose_time_has_come_are_waiting_and_no_others,
    many_rows_whose_time_has_come_are_promoted_part_by_part,
    a_claimed_row_stands_in_no_index_of_later,
    a_retry_schedules_its_row_once_and_says_how_it_failed,
    a_retry_replaces_the_verdict_of_its_own_claim_and_nothing_else,
    a_holder_and_a_rescuer_agree_on_whether_a_row_may_run_again,
}
