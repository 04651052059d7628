//! A look at the table before it is worked on: columns, indexes, privileges, the server's version and
//! plan. Changes nothing.

use std::time::Duration;

use jobd_proto::table::{Columns, MySqlSettings, TableName, quote};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::session::variables;
use crate::store::abilities::{self, Ability};
use crate::store::ddl::{self, Ddl};
use crate::store::dialect::{Beginning, Dialect};
use crate::store::inspect::{self, Index, Inspection, Problem};
use crate::store::later;
use crate::store::statements::Statements;

/// What the table is like, by the columns that are `known`, and the statements for it, where it is fit to work on.
pub(super) async fn look(
    connection: &mut MySqlConnection,
    settings: &MySqlSettings,
    known: Option<&[String]>,
    lease: Duration,
) -> Result<(Inspection, Option<Statements>), sqlx::Error> {
    let variables = variables(connection).await?;
    let version = Version::parse(&variables.version);
    let mut columns = Columns::of_mysql(connection, &settings.database, &settings.table).await?;
    if let Some(known) = known {
        columns.keep(known);
    }
    let indexes = indexes(connection, settings, &version).await?;
    let mut inspection = inspect::table(&settings.table, &columns, &indexes, Ddl::MySql);
    inspection.server = version.to_string();
    if !version.skip_locked() {
        inspection.problems.push(Problem::warning(format!(
            "{version} has no SKIP LOCKED (MySQL 8.0.1, MariaDB 10.6): claims stay safe, but workers wait for each other"
        )));
    }
    if inspection.is_fatal() {
        return Ok((inspection, None));
    }
    let prioritised = inspection.abilities.has(Ability::Priority);
    let statements = Statements::new(
        &settings.table,
        &columns,
        inspection.abilities,
        &dialect(&version, &indexes, prioritised, variables.max_packet),
        lease,
    );
    inspection
        .problems
        .extend(later::in_the_way(connection, &statements, &settings.table).await?);
    inspection
        .problems
        .extend(privileges(connection, settings).await?);
    inspection
        .problems
        .extend(plan(connection, &settings.table, prioritised).await?);
    inspection
        .problems
        .extend(engine(connection, settings).await?);
    Ok((inspection, Some(statements)))
}

/// Planners drift to a full scan on tables that were small when last analysed, and to the index on
/// `status` where few rows are `accepted`, which would lock other workers' rows: both are named.
fn dialect(version: &Version, indexes: &[Index], prioritised: bool, max_packet: u64) -> Dialect {
    // Without the one for priorities, the other leads to the rows, which are then sorted.
    let claim_index =
        inspect::claim_index(indexes, prioritised).or_else(|| inspect::claim_index(indexes, false));

    let force = |index: Option<&Index>| {
        index.map_or_else(String::new, |index| {
            format!("FORCE INDEX ({})", quote(&index.name))
        })
    };
    Dialect {
        unranged: "",
        begin: "START TRANSACTION",
        now: "UNIX_TIMESTAMP()",
        same: "<=>",
        lock: "FOR UPDATE",
        skip_locked: if version.skip_locked() {
            "FOR UPDATE SKIP LOCKED"
        } else {
            ""
        },
        beginning: Beginning::Like,
        claim_index: force(claim_index),
        id_index: force(inspect::id_index(indexes)),
        cancel_index: force(abilities::index_on("cancel_requested", indexes)),
        run_at_index: force(abilities::index_on("run_at", indexes)),
        max_packet,
    }
}

/// Those that may be named in a statement: an index that somebody has made invisible is as good as dropped.
async fn indexes(
    connection: &mut MySqlConnection,
    settings: &MySqlSettings,
    version: &Version,
) -> Result<Vec<Index>, sqlx::Error> {
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT CAST(index_name AS CHAR), CAST(LOWER(column_name) AS CHAR), COALESCE(CAST(collation AS CHAR), 'A') FROM information_schema.statistics \
         WHERE table_schema = ? AND table_name = ?{} ORDER BY index_name, seq_in_index",
        version.visible()
    )))
    .bind(settings.table.database().unwrap_or(&settings.database))
    .bind(settings.table.table())
    .fetch_all(connection)
    .await?;
    let mut indexes: Vec<Index> = Vec::new();
    for row in rows {
        let name: String = row.try_get(0)?;
        let mut column = row.try_get::<Option<String>, _>(1)?.unwrap_or_default();
        if row.try_get::<String, _>(2)? == "D" {
            column = ddl::descending(&column);
        }
        match indexes.last_mut() {
            Some(last) if last.name == name => last.columns.push(column),
            _ => indexes.push(Index {
                name,
                columns: vec![column],
            }),
        }
    }
    Ok(indexes)
}

/// EXPLAIN asks for the privileges of the statement that it explains.
async fn privileges(
    connection: &mut MySqlConnection,
    settings: &MySqlSettings,
) -> Result<Vec<Problem>, sqlx::Error> {
    let table = settings.table.quoted();
    let statements = [
        (
            "SELECT",
            format!(
                "EXPLAIN SELECT `id`, `target`, `status`, `result`, `return_code`, `sig`, `stdout`, `stderr` FROM {table} WHERE `id` = 0"
            ),
        ),
        (
            "UPDATE",
            format!(
                "EXPLAIN UPDATE {table} SET `status` = 'done', `time_started` = 0, `time_finished` = 0, `result` = 'ok',                  `return_code` = 0, `sig` = NULL, `stdout` = '', `stderr` = '' WHERE `id` = 0"
            ),
        ),
    ];
    let mut problems = Vec::new();
    for (privilege, sql) in statements {
        match sqlx::query(AssertSqlSafe(sql))
            .fetch_all(&mut *connection)
            .await
        {
            Ok(_) => {}
            // EXPLAIN of a view asks for SHOW VIEW too, which the work does not need.
            Err(sqlx::Error::Database(error)) if number(&*error) == 1345 => {}
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42000") => {
                let full = format!(
                    "{}.{}",
                    quote(settings.table.database().unwrap_or(&settings.database)),
                    quote(settings.table.table())
                );
                problems.push(
                    Problem::fatal(format!(
                        "account {} lacks the {privilege} privilege on {}: {error}",
                        settings.user, settings.table
                    ))
                    .mended_by(format!("GRANT SELECT, UPDATE ON {full} TO …;")),
                );
            }
            Err(error) => return Err(error),
        }
    }
    Ok(problems)
}

fn number(error: &dyn sqlx::error::DatabaseError) -> u16 {
    let mysql = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>();
    mysql.map_or(0, sqlx::mysql::MySqlDatabaseError::number)
}

/// Claims and writes go by transactions.
async fn engine(
    connection: &mut MySqlConnection,
    settings: &MySqlSettings,
) -> Result<Option<Problem>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT CAST(t.engine AS CHAR), CAST(e.transactions AS CHAR) FROM information_schema.tables t \
         JOIN information_schema.engines e ON e.engine = t.engine WHERE t.table_schema = ? AND t.table_name = ?",
    )
    .bind(settings.table.database().unwrap_or(&settings.database))
    .bind(settings.table.table())
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (engine, transactions): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
    if transactions.as_deref() == Some("YES") {
        return Ok(None);
    }
    let text = format!(
        "table {} is of engine {engine}, which has no transactions: a claim that is cut off half-way leaves rows accepted",
        settings.table
    );
    let ddl = format!("ALTER TABLE {} ENGINE = InnoDB;", settings.table.quoted());
    Ok(Some(Problem::warning(text).mended_by(ddl)))
}

/// Rows from which on a plan without an index is worth a warning; below, planners read it all
/// and are right.
const FILLED: u64 = 10_000;

/// How the server itself would look for waiting rows.
async fn plan(
    connection: &mut MySqlConnection,
    table: &TableName,
    prioritised: bool,
) -> Result<Vec<Problem>, sqlx::Error> {
    let first = if prioritised { "`priority` DESC, " } else { "" };
    let sql = format!(
        "EXPLAIN FORMAT=TRADITIONAL SELECT `id` FROM {0} WHERE `status` = 'waiting' AND `target` = 'x' ORDER BY {first}{0}.`id` LIMIT 10",
        table.quoted()
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(connection)
        .await?;
    let Some(row) = rows.first() else {
        return Ok(Vec::new());
    };
    let text = |name| {
        let bytes = row
            .try_get_unchecked::<Option<Vec<u8>>, _>(name)
            .ok()
            .flatten();
        bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let key = text("key");
    let extra = text("Extra").unwrap_or_default();
    let rows = row
        .try_get_unchecked::<Option<u64>, _>("rows")
        .ok()
        .flatten()
        .unwrap_or(0);
    if rows < FILLED || (key.is_some() && !extra.contains("filesort")) {
        return Ok(Vec::new());
    }
    Ok(vec![Problem::warning(format!(
        "EXPLAIN of a claim on {table} says key {}, {rows} rows, {extra}: each claim would read that much; run ANALYZE TABLE, or add the index",
        key.as_deref().unwrap_or("NULL"),
    ))])
}

/// A server's version, as `version` says it: `10.11.6-MariaDB-0+deb12u1`, `9.7.0`.
struct Version {
    text: String,
    numbers: [u32; 3],
}

impl Version {
    fn parse(text: &str) -> Self {
        // Old MariaDB servers pretend to be 5.5.5 to old replicas.
        let plain = text.strip_prefix("5.5.5-").unwrap_or(text);
        let mut numbers = plain
            .split(|c: char| !c.is_ascii_digit())
            .map(|part| part.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Self {
            numbers: [next(), next(), next()],
            text: text.to_owned(),
        }
    }

    fn is_mariadb(&self) -> bool {
        self.text.to_lowercase().contains("mariadb")
    }

    /// Behind a condition on `information_schema.statistics`: leaves out indexes that a statement may not name,
    /// which both servers have since they have SKIP LOCKED.
    fn visible(&self) -> &'static str {
        if !self.skip_locked() {
            ""
        } else if self.is_mariadb() {
            " AND `ignored` = 'NO'"
        } else {
            " AND `is_visible` = 'YES'"
        }
    }

    /// Since MySQL 8.0.1 and MariaDB 10.6.
    fn skip_locked(&self) -> bool {
        if self.is_mariadb() {
            self.numbers >= [10, 6, 0]
        } else {
            self.numbers >= [8, 0, 1]
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.numbers;
        let name = if self.is_mariadb() {
            "MariaDB"
        } else {
            "MySQL"
        };
        write!(f, "{name} {major}.{minor}.{patch}")
    }
}
