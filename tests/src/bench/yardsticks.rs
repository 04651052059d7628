//! What jobd is compared with. Each runs the same program, [`JOB`], as many at a time as jobd has slots.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::stage::{JOB, Run, SLOTS, Stage, TARGET, Table, Usage, fill};
use super::usage;
use crate::process::Process;
use crate::programs;
use crate::server::{PASSWORD, USER};
use crate::wait::PATIENCE;
use crate::{Scratch, ports, until};

/// Rows of one statement of [`raw_updates`]: what [`SLOTS`] slots and as much look-ahead hold.
const BATCH: usize = 2 * SLOTS as usize;

/// Processes that our own small program starts, drains and reaps: the kernel's ceiling. Returns them a
/// second, and the CPU time of each in µs.
pub async fn spawn(count: usize, at_once: u32) -> (f64, f64) {
    let mut command = Command::new(programs::path("spawn-ceiling"));
    command.args([&count.to_string(), &at_once.to_string(), JOB]);
    let output = checked(&programs::output(&mut command).await, "spawn-ceiling");
    let mut numbers = output
        .split_whitespace()
        .map(|number| number.parse().expect("a number"));
    let mut number = || numbers.next().expect("two numbers");
    let (seconds, cpu): (f64, f64) = (number(), number());
    (rate(count, seconds), 1e6 / rate(count, cpu))
}

/// The same by `xargs -P`, which reads and records nothing.
pub async fn xargs(count: usize, at_once: u32) -> f64 {
    let scratch = Scratch::new();
    let list = scratch.write("jobs", lines(count));
    let mut command = Command::new("xargs");
    command
        .arg("-a")
        .arg(&list)
        // Told where a line would go, it puts it nowhere: with an argument the program would do more.
        .args(["-I{}", &format!("-P{at_once}"), JOB]);
    let begun = Instant::now();
    checked(&programs::output(&mut command).await, "xargs");
    rate(count, begun.elapsed().as_secs_f64())
}

/// The same by GNU parallel with its SQL table, on the stage's server.
pub async fn parallel(stage: &Stage, count: usize, at_once: u32) -> f64 {
    let database = stage.server.database().await;
    let port = stage.server.port();
    let password = PASSWORD.replace(' ', "%20");
    let url = format!(
        "mysql://{USER}:{password}@127.0.0.1:{port}/{}/jobs",
        database.name
    );
    let list = stage.scratch.write("parallel-jobs", lines(count));
    let command = || {
        let mut command = Command::new("parallel");
        // Its settings, and the thanks for a citation, go into a home of its own.
        command
            .env("HOME", stage.scratch.path())
            .args(["--will-cite"]);
        command
    };
    let mut master = command();
    // Its jobs are lines for a shell: what is behind # tells them apart.
    master
        .args(["--sqlmaster", &url, "-a"])
        .arg(&list)
        .args([JOB, "#", "{}"]);
    checked(&programs::output(&mut master).await, "parallel --sqlmaster");
    let mut worker = command();
    worker.args(["--sqlworker", &url, &format!("-j{at_once}"), JOB, "#", "{}"]);
    let begun = Instant::now();
    checked(&programs::output(&mut worker).await, "parallel --sqlworker");
    let seconds = begun.elapsed().as_secs_f64();
    let done = format!(
        "SELECT COUNT(*) AS n FROM {}.jobs WHERE Exitval = 0",
        database.name
    );
    let row = sqlx::query(AssertSqlSafe(done))
        .fetch_one(&database.pool)
        .await;
    let done: i64 = row.expect("count parallel's jobs").get("n");
    assert_eq!(usize::try_from(done), Ok(count), "parallel did every job");
    rate(count, seconds)
}

/// The same by Gearman: a queue in memory, and a command-line worker for each slot. The workers are
/// held until the queue is filled, as jobd's are by an unsent poke.
pub async fn gearman(scratch: &Scratch, count: usize, at_once: u32) -> f64 {
    let port = ports::free();
    let mut server = Command::new("/usr/sbin/gearmand");
    server
        .args([
            "--listen",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--log-file",
            "stderr",
        ])
        .args(ServerUser::option())
        .arg("--pid-file")
        .arg(scratch.join("gearmand.pid"));
    let server = Process::start(&server, &scratch.join("gearmand.log"));
    until("gearmand to listen", PATIENCE, async || {
        TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    let port_text = port.to_string();
    let tool = |arguments: &[&str]| {
        let mut command = Command::new("gearman");
        command
            .args(["-h", "127.0.0.1", "-p", &port_text, "-f", TARGET])
            .args(arguments);
        command
    };
    let start = |_| Process::start(&tool(&["-w", "--", JOB]), &scratch.join("gearman.log"));
    let mut workers: Vec<Process> = (0..at_once).map(start).collect();
    gearman_status(port, "the workers", |status| {
        status[2] == u64::from(at_once)
    })
    .await;
    for worker in &mut workers {
        worker.signal(Signal::STOP);
    }
    let list = scratch.write("gearman-jobs", lines(count));
    let mut client = Command::new("sh");
    client
        .args(["-c", r#"list=$1; shift; exec "$@" <"$list""#, "sh"])
        .arg(&list);
    client.arg("gearman").args(tool(&["-b", "-n"]).get_args());
    checked(&programs::output(&mut client).await, "gearman -b");
    gearman_status(port, "the queue", |status| status[0] == count as u64).await;
    let begun = Instant::now();
    for worker in &mut workers {
        worker.signal(Signal::CONT);
    }
    gearman_status(port, "Gearman's jobs", |status| status[0] == 0).await;
    let seconds = begun.elapsed().as_secs_f64();
    for worker in workers.iter_mut().chain([&mut { server }]) {
        worker.kill();
    }
    rate(count, seconds)
}

/// Waits until the server says that of [`TARGET`]'s jobs, running jobs and workers.
async fn gearman_status(port: u16, what: &str, is: impl Fn([u64; 3]) -> bool) {
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    let mut stream = stream.expect("gearmand listens");
    until(what, 10 * PATIENCE, async || {
        stream.write_all(b"status\n").await.expect("ask gearmand");
        let mut answer = Vec::new();
        while !answer.ends_with(b".\n") {
            let count = stream
                .read_buf(&mut answer)
                .await
                .expect("gearmand's answer");
            assert!(count > 0, "gearmand closed the connection");
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let line = answer.lines().find_map(|line| line.strip_prefix(TARGET))?;
        let mut numbers = line
            .split_whitespace()
            .map(|number| number.parse().expect("a number"));
        let status = [(); 3].map(|()| numbers.next().expect("three numbers"));
        is(status).then_some(())
    })
    .await;
}

/// The database's share: the state changes of a job in batches of twenty over one connection, committed and
/// flushed as jobd's are, without any process.
pub async fn raw_updates(stage: &Stage, count: usize) -> Run {
    let database = stage.table(Table::Minimal).await;
    let mut connection = stage.connection(&database).await;
    fill(&mut connection, count, TARGET, "waiting").await;
    let marks = vec!["?"; BATCH].join(", ");
    let claim = format!(
        "SELECT CAST(id AS SIGNED) AS id FROM jobs FORCE INDEX (status_target_idx) \
         WHERE status = 'waiting' AND target = '{TARGET}' ORDER BY id LIMIT {BATCH} FOR UPDATE SKIP LOCKED"
    );
    let accept =
        format!("UPDATE jobs SET status = 'accepted' WHERE status = 'waiting' AND id IN ({marks})");
    let start = format!(
        "UPDATE jobs SET status = 'running', time_started = UNIX_TIMESTAMP() WHERE status = 'accepted' AND id IN ({marks})"
    );
    let finish = format!(
        "UPDATE jobs SET status = 'done', result = 'ok', return_code = 0, stdout = '', stderr = '', time_finished = UNIX_TIMESTAMP() WHERE status = 'running' AND id IN ({marks})"
    );
    let server = stage.server.process_id();
    let (cpu, busy, begun) = (usage::cpu(server), usage::busy(), Instant::now());
    let mut done = 0;
    loop {
        control(&mut connection, "START TRANSACTION").await;
        let rows = sqlx::query(AssertSqlSafe(claim.as_str()))
            .fetch_all(&mut connection)
            .await;
        let ids: Vec<i64> = rows
            .expect("claim")
            .iter()
            .map(|row| row.get("id"))
            .collect();
        let Some(last) = ids.last() else { break };
        let padded: Vec<i64> = ids
            .iter()
            .chain(std::iter::repeat(last))
            .take(BATCH)
            .copied()
            .collect();
        for (sql, commit) in [(&accept, true), (&start, false), (&finish, false)] {
            let mut query = sqlx::query(AssertSqlSafe(sql.as_str()));
            for id in &padded {
                query = query.bind(id);
            }
            let changed = query
                .execute(&mut connection)
                .await
                .expect("update")
                .rows_affected();
            assert_eq!(changed, ids.len() as u64, "{sql}");
            if commit {
                control(&mut connection, "COMMIT").await;
            }
        }
        done += ids.len();
    }
    control(&mut connection, "COMMIT").await;
    assert_eq!(done, count, "every row went all the way");
    Run::of(
        count,
        begun.elapsed(),
        &Usage {
            server: usage::cpu(server) - cpu,
            busy: usage::busy() - busy,
            ..Usage::default()
        },
    )
}

async fn control(connection: &mut sqlx::MySqlConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.expect(sql);
}

/// Whether a program can be found.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.push("/usr/sbin".into());
    folders.iter().any(|folder| is_file(&folder.join(program)))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file())
}

/// gearmand refuses to run as root unless it is told so.
struct ServerUser;

impl ServerUser {
    fn option() -> &'static [&'static str] {
        if rustix::process::geteuid().is_root() {
            &["--user", "root"]
        } else {
            &[]
        }
    }
}

fn checked(output: &Output, what: &str) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn lines(count: usize) -> String {
    let numbers: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    numbers.join("\n") + "\n"
}

#[expect(clippy::cast_precision_loss, reason = "far fewer jobs than 2^52")]
fn rate(count: usize, seconds: f64) -> f64 {
    count as f64 / seconds
}
