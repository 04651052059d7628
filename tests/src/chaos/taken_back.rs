//! The part of a verdict that is the cluster's: which breaches are about rows of which the nodes' own records
//! show that the cluster took a committed write back. The checker knows nothing of this; its breaches are
//! only counted apart.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sqlx::Row as _;

use super::checker::{Breach, Promise};
use super::history::{self, History, Write};
use super::stage::Stage;
use crate::galera::{ALL, Cluster};
use crate::programs;

/// Rows that are written in one statement: a write set has a largest size.
const CHUNK: u64 = 2_000;

/// So many lines about what was taken back are printed.
const SHOWN: usize = 20;

/// What the cluster took back.
#[derive(Debug, Default)]
pub struct TakenBack {
    /// By job.
    pub writes: BTreeMap<u64, Vec<Write>>,
    /// Breaches of promises that it led to, and that are not jobd's.
    pub breaches: Vec<Breach>,
}

impl TakenBack {
    /// Reads the nodes' records, and takes out of `breaches` those about jobs of which a committed write was
    /// taken back. Nobody may write to the table any more. Without a cluster, nothing.
    pub async fn of(stage: &Stage, breaches: &mut Vec<Breach>) -> Self {
        let Some(cluster) = &stage.cluster else {
            return Self::default();
        };
        let mut cluster = cluster.lock().await;
        cluster.all_well().await;
        if let Some(text) = differing(&cluster, &stage.database.name).await {
            breaches.push(Breach::of_all(Promise::Suite, text));
        }
        cluster.print_conflicts().await;
        // One more write of each row, the last, says in the log's own words where its history has led to.
        let seal = cluster.new_binary_log(0).await;
        write_every_row(&cluster, &stage.database.name).await;
        cluster.new_binary_log(0).await;
        let logs = cluster.binary_logs();
        let read = tokio::task::spawn_blocking(move || {
            let mut history = History::default();
            for (node, file) in &logs {
                history.read(node, file).expect("read a binary log");
            }
            let last = history::contents_after("n1", &seal).expect("read a binary log");
            println!(
                "the nodes' binary logs: {} files, writes of {} rows",
                logs.len(),
                history.rows()
            );
            (history.taken_back(&last), last.len())
        });
        let (writes, rows) = read.await.expect("the reading of binary logs");
        println!("{rows} rows at the end");
        let breaches = apart(breaches, &writes);
        Self { writes, breaches }
    }

    /// Prints how much it was and the first of it; all of it stays in a file, which it names.
    pub fn print(&self, seed: u64, acknowledged: impl Fn(u64) -> bool) {
        let writes: usize = self.writes.values().map(Vec::len).sum();
        let inserts = |(job, writes): &(&u64, &Vec<Write>)| {
            acknowledged(**job) && writes.iter().any(|write| write.before.is_none())
        };
        println!(
            "taken back by the cluster itself: {writes} writes of {} jobs, acknowledged INSERTs of {} among them; \
             {} breaches of promises rest on them and are not counted above",
            self.writes.len(),
            self.writes.iter().filter(inserts).count(),
            self.breaches.len()
        );
        let all = self.list();
        for line in all.lines().take(SHOWN) {
            println!("  {line}");
        }
        if !all.is_empty() {
            let file = programs::state_folder().join(format!("taken-back-{seed}.txt"));
            std::fs::write(&file, all).expect("write the list");
            println!("all of it: {}", file.display());
        }
    }

    /// All writes, and all breaches, one a line.
    fn list(&self) -> String {
        let mut text = String::new();
        for (job, writes) in &self.writes {
            for write in writes {
                writeln!(text, "job {job} {write}").expect("write to a string");
            }
        }
        for Breach {
            promise,
            job,
            text: seen,
        } in &self.breaches
        {
            let job = job.unwrap_or_default();
            writeln!(text, "so {promise:?} was not kept: job {job} {seen}")
                .expect("write to a string");
        }
        text
    }
}

/// Takes the breaches out that are about a job of which a write was taken back.
fn apart(breaches: &mut Vec<Breach>, writes: &BTreeMap<u64, Vec<Write>>) -> Vec<Breach> {
    let of_cluster = |breach: &mut Breach| breach.job.is_some_and(|job| writes.contains_key(&job));
    breaches.extract_if(.., of_cluster).collect()
}

/// Says so where two nodes do not hold the same rows.
async fn differing(cluster: &Cluster, database: &str) -> Option<String> {
    let mut sums = Vec::new();
    for node in ALL {
        let mut connection = cluster
            .connection(node)
            .await
            .expect("a connection to a node");
        let sql = format!("SET SESSION wsrep_sync_wait = 15; CHECKSUM TABLE `{database}`.jobs");
        let row = sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .fetch_one(&mut connection)
            .await;
        let sum: Option<i64> = row
            .expect("a checksum")
            .try_get_unchecked(1)
            .expect("a number");
        sums.push(sum);
    }
    let differ = sums.iter().any(|sum| *sum != sums[0]);
    differ.then(|| format!("the nodes hold different rows: {sums:?}"))
}

async fn write_every_row(cluster: &Cluster, database: &str) {
    let mut connection = cluster.connection(0).await.expect("a connection to a node");
    let sql = format!("SELECT CAST(COALESCE(MAX(id), 0) AS UNSIGNED) AS n FROM `{database}`.jobs");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .fetch_one(&mut connection)
        .await;
    let most: u64 = row.expect("the last id").get("n");
    for first in (0..=most).step_by(usize::try_from(CHUNK).expect("few")) {
        let sql = format!(
            "UPDATE `{database}`.jobs SET time_created = time_created ^ 1 WHERE id >= {first} AND id < {}",
            first + CHUNK
        );
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut connection)
            .await;
        done.expect("write every row");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_a_write_that_was_taken_back_is_not_held_against_jobd() {
        let lost = |job| Breach::of_job(Promise::NothingLost, job, "is gone");
        let mut breaches = vec![
            lost(1),
            lost(2),
            Breach::of_all(Promise::Recovery, "stands still"),
        ];
        let apart = apart(
            &mut breaches,
            &BTreeMap::from([(2, Vec::new()), (3, Vec::new())]),
        );
        assert_eq!(apart, [lost(2)]);
        assert_eq!(breaches.len(), 2);
    }
}
