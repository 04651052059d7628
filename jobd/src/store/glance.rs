//! One look at what may come up in rows without anybody's poke: whether their time has come, whether they ask
//! to be cancelled. It finds nothing nearly always, and takes no lock.

use std::sync::Arc;

use super::Sight;
use super::connection::Connection;
use super::statements::Statements;

/// A table's statement, and what it asks.
#[derive(Clone, Debug)]
pub(super) struct Glance {
    pub(super) text: Arc<str>,
    sights: Vec<Sight>,
}

impl Glance {
    /// For rows of these kinds, each `FROM … WHERE …`; `None` where a table has none of them.
    pub(super) fn new(rows: &[(Sight, &str)]) -> Option<Self> {
        let texts = rows.iter().enumerate();
        let texts: Vec<String> = texts.map(|(at, (_, rows))| probe(at, rows)).collect();
        (!rows.is_empty()).then(|| Self {
            text: texts.join(" UNION ALL ").into(),
            sights: rows.iter().map(|(sight, _)| *sight).collect(),
        })
    }
}

/// The number, where there are such rows.
pub(super) fn probe(number: usize, rows: &str) -> String {
    format!("SELECT {number} FROM (SELECT 1) AS one WHERE EXISTS (SELECT 1 {rows})")
}

/// What there is.
pub(super) async fn glance<C: Connection>(
    connection: &mut C,
    statements: &Statements,
) -> Result<Vec<Sight>, sqlx::Error> {
    let Some(glance) = &statements.glance else {
        return Ok(Vec::new());
    };
    let found = connection.numbers(&glance.text, &[]).await?;
    let found = found.into_iter().filter_map(|at| usize::try_from(at).ok());
    let seen = found.filter_map(|at| glance.sights.get(at).copied());
    Ok(seen.collect())
}
