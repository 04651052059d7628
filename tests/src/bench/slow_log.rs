//! The server's slow query log with a limit of nothing: how long each statement took inside the server.
//!
//! It is the only place in which MariaDB and MySQL both tell the time of every single statement, and it
//! needs nothing from jobd.

use std::collections::BTreeMap;
use std::path::Path;

use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlConnection;

/// Logs every statement of connections that are made from now on.
pub async fn begin(connection: &mut MySqlConnection, path: &Path) {
    let path = path.display();
    let sql = format!(
        "SET GLOBAL slow_query_log_file = '{path}'; SET GLOBAL log_output = 'FILE'; \
         SET GLOBAL long_query_time = 0; SET GLOBAL slow_query_log = ON"
    );
    run(connection, sql).await;
}

/// Stops that.
pub async fn end(connection: &mut MySqlConnection) {
    let sql = "SET GLOBAL slow_query_log = OFF; SET GLOBAL long_query_time = DEFAULT";
    run(connection, sql.to_owned()).await;
}

async fn run(connection: &mut MySqlConnection, sql: String) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await;
    done.expect("set up the slow log");
}

/// The seconds that each claim in a log took: of one connection, everything from the beginning of the
/// transaction that takes waiting rows to its commit, or the one statement that takes them.
pub fn claims(path: &Path) -> Vec<f64> {
    let log = String::from_utf8_lossy(&std::fs::read(path).expect("the slow log")).into_owned();
    let mut open: BTreeMap<u64, Transaction> = BTreeMap::new();
    let mut claims = Vec::new();
    for statement in statements(&log) {
        let transaction = open.entry(statement.connection).or_default();
        if statement.begins() {
            *transaction = Transaction {
                open: true,
                ..Transaction::default()
            };
        }
        transaction.seconds += statement.seconds;
        transaction.claims |= statement.claims();
        if !transaction.open || statement.ends() {
            if transaction.claims {
                claims.push(transaction.seconds);
            }
            *transaction = Transaction::default();
        }
    }
    claims
}

#[derive(Default)]
struct Transaction {
    open: bool,
    claims: bool,
    seconds: f64,
}

struct Statement<'a> {
    connection: u64,
    seconds: f64,
    sql: &'a str,
}

impl Statement<'_> {
    fn begins(&self) -> bool {
        ["START TRANSACTION", "BEGIN"]
            .iter()
            .any(|word| self.sql.starts_with(word))
    }

    fn ends(&self) -> bool {
        ["COMMIT", "ROLLBACK"]
            .iter()
            .any(|word| self.sql.starts_with(word))
    }

    fn claims(&self) -> bool {
        self.sql.starts_with("UPDATE")
            && self.sql.contains("`status` = 'accepted'")
            && self.sql.contains("`status` = 'waiting'")
    }
}

/// The statements of a log in their order. An entry is some lines that begin with `#`, a SET of the time,
/// perhaps a USE, and the statement.
fn statements(log: &str) -> impl Iterator<Item = Statement<'_>> {
    let mut connection = 0;
    let mut seconds = 0.0;
    log.lines().filter_map(move |line| {
        if let Some(comment) = line.strip_prefix("# ") {
            for name in ["Thread_id:", "Id:"] {
                if let Some(number) = value(comment, name) {
                    connection = number.parse().expect("a connection's number");
                }
            }
            if let Some(time) = value(comment, "Query_time:") {
                seconds = time.parse().expect("seconds");
            }
            return None;
        }
        let is_preface = line.starts_with("SET timestamp")
            || line.starts_with("use ")
            || line.starts_with("USE ");
        let sql = line.trim_end_matches(';');
        (!is_preface).then_some(Statement {
            connection,
            seconds,
            sql,
        })
    })
}

/// The word behind a name.
fn value<'a>(comment: &'a str, name: &str) -> Option<&'a str> {
    let mut words = comment.split_whitespace();
    words.by_ref().find(|word| *word == name)?;
    words.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;

    const CLAIM: &str = "UPDATE `db`.`jobs` SET `status` = 'accepted', `stderr` = 'x' WHERE `status` = 'waiting' AND `id` IN (1)";

    fn found(log: &str) -> Vec<f64> {
        let scratch = Scratch::new();
        let claims = claims(&scratch.write("slow.log", log));
        // Sums of decimal fractions.
        claims
            .iter()
            .map(|seconds| (seconds * 1e6).round() / 1e6)
            .collect()
    }

    #[test]
    fn adds_up_the_statements_of_a_claim_among_those_of_others() {
        let entry = |connection: u32, seconds: f64, sql: &str| {
            format!(
                "# Thread_id: {connection}  Schema: db  QC_hit: No\n# Query_time: {seconds}  Lock_time: 0\nSET timestamp=1;\n{sql};\n"
            )
        };
        let log = [
            entry(7, 0.001, "START TRANSACTION"),
            entry(
                8,
                0.5,
                "UPDATE `db`.`jobs` SET `status` = 'running' WHERE `id` IN (9)",
            ),
            entry(
                7,
                0.02,
                "SELECT `id` FROM `db`.`jobs` WHERE `status` = 'waiting' LIMIT 10",
            ),
            entry(7, 0.003, CLAIM),
            entry(8, 0.7, "START TRANSACTION"),
            entry(7, 0.1, "COMMIT"),
            entry(8, 0.9, "COMMIT"),
            entry(9, 0.25, CLAIM),
        ];
        assert_eq!(found(&log.concat()), [0.124, 0.25]);
    }

    #[test]
    fn reads_how_mysql_writes_it() {
        let log = format!(
            "/usr/sbin/mysqld, Version: 9.7.0. started with:\n# Time: 2026-01-01T00:00:00.000000Z\n\
             # User@Host: jobd[jobd] @  [127.0.0.1]  Id:    12\n# Query_time: 0.004  Lock_time: 0.0 Rows_sent: 0\n\
             use db;\nSET timestamp=1;\n{CLAIM};\n"
        );
        assert_eq!(found(&log), [0.004]);
    }
}
