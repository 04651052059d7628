//! A database server in the simulation: the real store, its units and its statements, over a table in memory.
//!
//! ```text
//!  SqlStore ─ units ─ statements ──> Link (a connection) ──Request──> Wire: the simulated server, its time and faults
//! ```
//!
//! Nothing of the claim protocol is written a second time: the texts of `statements` are read and carried out
//! by `sql` and `table`. What stands in for `mysql::session` is here: a connection per lane, a deadline per
//! unit, repeats after conflicts.

mod sql;
mod table;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use jobd_proto::table::{Columns, TableName};
use tokio::sync::{Mutex, oneshot};
use tokio::time::{sleep, timeout};

use super::backend::{Backend, Lane, Unit};
use super::connection::{Connection, Taken, Value, id};
use super::ddl::Ddl;
use super::dialect::Dialect;
use super::inspect::{self, Index};
use super::manual::Found;
use super::sql::SqlStore;
use super::statements::Statements;
use super::{Inspection, Store, StoreError};
use crate::leases::Lease;

pub(crate) use sql::{Row, Val};
pub(crate) use table::{Answer, Change, Session, Table, Texts};

/// As in `mysql::session`: repeats of a unit after conflicts.
const REPEATS: u32 = 8;

/// What a statement may meet instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The connection is gone.
    Lost,
    /// The transaction was rolled back.
    Conflict,
    /// The server says no.
    Refused,
}

/// What a connection says to the server.
#[derive(Debug)]
pub(crate) enum Say {
    Connect,
    /// A statement, in a transaction that it begins if none is open; without one, one of its own.
    Run {
        text: Arc<str>,
        params: Vec<Val>,
        begins: bool,
    },
    Commit,
    RollBack,
    /// The client has hung up.
    Close,
}

/// The way to answer; a request whose reply is dropped is never answered.
pub(crate) type Reply = oneshot::Sender<Result<Answer, Failure>>;

/// The way to the server.
pub(crate) trait Wire: Send + Sync + 'static {
    /// A number for a new connection.
    fn connection(&self) -> Session;

    /// Sends a request on its way.
    fn send(&self, session: Session, say: Say, reply: Option<Reply>);
}

/// What the server has: the table's columns, and the statements for it.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    pub(crate) columns: Arc<[String]>,
    pub(crate) texts: Arc<Texts>,
    statements: Statements,
    inspection: Inspection,
}

impl Schema {
    /// Of a CREATE TABLE as `sql/sqlite` has it, in the words of MySQL.
    pub(crate) async fn new(create: &str, skip_locked: bool, lease: Duration) -> Self {
        use sqlx::Connection as _;
        let mut connection = sqlx::SqliteConnection::connect("sqlite::memory:")
            .await
            .unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(create))
            .execute(&mut connection)
            .await
            .unwrap();
        let table = TableName::parse("jobs").unwrap();
        let columns = Columns::of_sqlite(&mut connection, &table).await.unwrap();
        connection.close().await.unwrap();
        let dialect = Dialect {
            begin: "START TRANSACTION",
            now: "UNIX_TIMESTAMP()",
            same: "<=>",
            lock: "FOR UPDATE",
            skip_locked: if skip_locked {
                "FOR UPDATE SKIP LOCKED"
            } else {
                ""
            },
            max_packet: 1 << 20,
            ..Dialect::default()
        };
        let index = |columns: &[&str]| Index {
            name: "i".to_owned(),
            columns: columns.iter().map(ToString::to_string).collect(),
        };
        let indexes = [
            &["status", "target", "id"][..],
            &["status", "target", "priority desc", "id"],
            &["run_at"],
            &["cancel_requested"],
        ];
        let indexes = indexes.map(index);
        let inspection = inspect::table(&table, &columns, &indexes, Ddl::MySql);
        assert!(inspection.problems.is_empty(), "{:?}", inspection.problems);
        Self {
            columns: columns.iter().map(|column| column.name.clone()).collect(),
            statements: Statements::new(&table, &columns, inspection.abilities, &dialect, lease),
            inspection,
            texts: Arc::default(),
        }
    }
}

/// A worker's store on that server. A unit may take as long as a lease.
pub(crate) fn open(schema: Arc<Schema>, wire: Arc<dyn Wire>, lease: Duration) -> Arc<dyn Store> {
    let lanes = std::array::from_fn(|_| Arc::default());
    let model = Model {
        schema,
        wire,
        deadline: lease,
        lanes,
    };
    Arc::new(SqlStore::new(model, lease))
}

struct Model {
    schema: Arc<Schema>,
    wire: Arc<dyn Wire>,
    deadline: Duration,
    lanes: [Arc<Mutex<Option<Link>>>; Lane::COUNT],
}

impl Backend for Model {
    type Connection = Link;

    async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        make: impl Fn() -> Unit<Link, T> + Send,
        committing: impl Fn() -> bool + Send,
    ) -> Result<T, StoreError> {
        let (mut conflicts, mut stale) = (0, false);
        loop {
            let (reused, outcome) = self.once(lane, make()).await;
            let text = match outcome {
                Ok(value) => return Ok(value),
                Err(error) => error.to_string(),
            };
            if text.contains("conflict") && conflicts < REPEATS {
                conflicts += 1;
                sleep(Duration::from_millis(u64::from(conflicts) * 3)).await;
            } else if text.contains("refused") {
                return Err(StoreError::Refused(text));
            } else if reused && !stale && text.contains("lost") && !committing() {
                stale = true;
            } else {
                return Err(StoreError::Unavailable(text));
            }
        }
    }

    fn max_packet(&self) -> u64 {
        1 << 20
    }

    fn look(&self, _: Option<Arc<[String]>>) -> Unit<Link, (Inspection, Option<Statements>)> {
        let schema = self.schema.clone();
        Box::new(|link| {
            async move {
                link.ask(Say::Connect).await?;
                Ok((schema.inspection.clone(), Some(schema.statements.clone())))
            }
            .boxed()
        })
    }
}

impl Model {
    /// One try, and whether its connection had been used before.
    async fn once<T: Send + 'static>(
        &self,
        lane: Lane,
        unit: Unit<Link, T>,
    ) -> (bool, Result<T, sqlx::Error>) {
        let live = self.lanes[lane as usize].clone();
        let (wire, deadline) = (self.wire.clone(), self.deadline);
        let task = tokio::spawn(async move {
            let mut live = live.lock().await;
            let taken = live.take();
            let reused = taken.is_some();
            let mut link = match taken {
                Some(link) => link,
                None => match timeout(deadline / 6, Link::open(wire)).await {
                    Ok(Ok(link)) => link,
                    Ok(Err(error)) => return (false, Err(error)),
                    Err(_) => return (false, Err(failed("cannot connect"))),
                },
            };
            let Ok(outcome) = timeout(deadline, unit(&mut link)).await else {
                return (reused, Err(failed("no answer in time")));
            };
            match &outcome {
                Ok(_) => *live = Some(link),
                Err(error) if error.to_string().contains("lost") => {}
                Err(_) => {
                    if let Ok(Ok(_)) = timeout(deadline / 6, link.ask(Say::RollBack)).await {
                        *live = Some(link);
                    }
                }
            }
            (reused, outcome)
        });
        task.await.expect("a unit does not panic")
    }
}

fn failed(text: &str) -> sqlx::Error {
    sqlx::Error::Protocol(text.to_owned())
}

/// A connection.
struct Link {
    wire: Arc<dyn Wire>,
    session: Session,
    /// A transaction was begun and the server has not been told: it learns of it with the next statement.
    begun: bool,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.wire.send(self.session, Say::Close, None);
    }
}

impl Link {
    async fn open(wire: Arc<dyn Wire>) -> Result<Self, sqlx::Error> {
        let session = wire.connection();
        let mut link = Self {
            wire,
            session,
            begun: false,
        };
        link.ask(Say::Connect).await?;
        Ok(link)
    }

    async fn ask(&mut self, say: Say) -> Result<Answer, sqlx::Error> {
        let (reply, answer) = oneshot::channel();
        self.wire.send(self.session, say, Some(reply));
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Failure::Conflict)) => Err(failed("conflict")),
            Ok(Err(Failure::Refused)) => Err(failed("refused")),
            Ok(Err(Failure::Lost)) | Err(_) => Err(failed("connection lost")),
        }
    }

    async fn run(&mut self, sql: &Arc<str>, values: &[Value<'_>]) -> Result<Answer, sqlx::Error> {
        let params = values.iter().map(|value| match *value {
            Value::Number(number) | Value::MaybeNumber(Some(number)) => Val::Int(number),
            Value::Text(text) | Value::MaybeText(Some(text)) => Val::Text(text.into()),
            Value::MaybeNumber(None) | Value::MaybeText(None) => Val::Null,
            Value::Bytes(bytes) => panic!("{bytes:?} are no text of the model's"),
        });
        let say = Say::Run {
            text: sql.clone(),
            params: params.collect(),
            begins: std::mem::take(&mut self.begun),
        };
        self.ask(say).await
    }

    async fn found(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, sqlx::Error> {
        match self.run(sql, values).await? {
            Answer::Rows(rows) => Ok(rows),
            Answer::Changed(_) => panic!("a SELECT answers with rows: {sql}"),
        }
    }
}

impl Connection for Link {
    async fn control(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        match sql {
            "START TRANSACTION" => self.begun = true,
            "COMMIT" => drop(self.ask(Say::Commit).await?),
            "ROLLBACK" => drop(self.ask(Say::RollBack).await?),
            other => panic!("the model does not know {other}"),
        }
        Ok(())
    }

    async fn change(&mut self, sql: &Arc<str>, values: &[Value<'_>]) -> Result<u64, sqlx::Error> {
        match self.run(sql, values).await? {
            Answer::Changed(rows) => Ok(rows),
            Answer::Rows(_) => panic!("an UPDATE answers with a number: {sql}"),
        }
    }

    async fn numbers(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> Result<Vec<i64>, sqlx::Error> {
        let rows = self.found(sql, values).await?;
        Ok(rows.iter().map(|row| number(&row[0])).collect())
    }

    async fn bytes(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> Result<Option<Vec<u8>>, sqlx::Error> {
        let rows = self.found(sql, values).await?;
        Ok(rows.first().map(|row| text(&row[0]).into_bytes()))
    }

    async fn taken(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> Result<Vec<Taken>, sqlx::Error> {
        let rows = self.found(sql, values).await?;
        Ok(rows.iter().map(taken).collect())
    }

    async fn notes(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> Result<Vec<(i64, Option<String>)>, sqlx::Error> {
        let rows = self.found(sql, values).await?;
        let note = |row: &Row| {
            (
                number(&row[0]),
                (row[1] != Val::Null).then(|| text(&row[1])),
            )
        };
        Ok(rows.iter().map(note).collect())
    }

    async fn leases(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> Result<Vec<Lease>, sqlx::Error> {
        let rows = self.found(sql, values).await?;
        let lease = |row: &Row| Lease {
            id: id(number(&row[0])),
            status: text(&row[1]),
            worker: text(&row[2]),
            until: number(&row[3]),
            again: number(&row[4]) != 0,
        };
        Ok(rows.iter().map(lease).collect())
    }

    async fn texts<const N: usize>(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> Result<Vec<[Option<String>; N]>, sqlx::Error> {
        let rows = self.found(sql, values).await?;
        let text = |value: &Val| match value {
            Val::Null => None,
            Val::Int(number) => Some(number.to_string()),
            Val::Text(text) => Some(text.to_string()),
        };
        let texts = rows.iter();
        Ok(texts
            .map(|row| std::array::from_fn(|at| text(&row[at])))
            .collect())
    }

    async fn rows(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> Result<Vec<Found>, sqlx::Error> {
        let rows = self.found(sql, values).await?;
        let found = |row: &Row| Found {
            row: taken(row),
            status: text(&row[Taken::COLUMNS]),
            target: text(&row[Taken::COLUMNS + 1]),
        };
        Ok(rows.iter().map(found).collect())
    }
}

fn taken(row: &Row) -> Taken {
    let [
        key,
        attempts,
        interruptions,
        most,
        timeout,
        data,
        cancel,
        priority,
        ..,
    ] = &row[..]
    else {
        panic!("a claim reads more than {row:?}");
    };
    Taken::new(
        number(key),
        [attempts, interruptions, data, cancel, priority].map(number),
        [most, timeout].map(|value| (*value != Val::Null).then(|| number(value))),
    )
}

fn number(value: &Val) -> i64 {
    match value {
        Val::Int(number) => *number,
        other => panic!("{other:?} is no number"),
    }
}

fn text(value: &Val) -> String {
    match value {
        Val::Text(text) => text.to_string(),
        other => panic!("{other:?} is no text"),
    }
}
