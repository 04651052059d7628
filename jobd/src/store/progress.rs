//! What jobs say of how far they have come, written into rows that still run with their claims. Waits for nobody:
//! rows that somebody has locked are passed over, where the server can do that.

use std::sync::Arc;

use jobd_proto::JobId;
use jobd_proto::table::Columns;

use super::connection::{Connection, Value, id, key};
use super::dialect::Dialect;
use super::lists::ListStatement;
use super::refusals::is_about_row;
use super::statements::Statements;
use super::text::LineText;
use crate::job::ClaimToken;

/// Rows of one statement.
const SIZES: [usize; 4] = [1, 4, 16, 64];

/// The most of them.
const MAX_ROWS: usize = SIZES[SIZES.len() - 1];

/// What a row is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The row.
    pub id: JobId,
    /// Whose run says it.
    pub token: ClaimToken,
    /// Its words; made fit for the column.
    pub text: String,
}

/// The statements of a table with the column.
#[derive(Clone, Debug)]
pub(super) struct ProgressStatements {
    /// Which of the rows that run nobody has locked; locks them. `None` where the server cannot pass over others.
    free: Option<ListStatement>,
    /// Which of the rows run.
    running: ListStatement,
    write: [Arc<str>; SIZES.len()],
    text: LineText,
}

impl ProgressStatements {
    /// For table `t`, whose claims stand in `token`.
    pub(super) fn new(t: &str, token: &str, columns: &Columns, dialect: &Dialect) -> Self {
        let Dialect {
            skip_locked,
            id_index,
            ..
        } = dialect;
        let running = format!(
            "SELECT CAST(`id` AS SIGNED) FROM {t} {id_index} WHERE `status` = 'running' AND"
        );
        let write = |rows: usize| {
            let ids = vec!["?"; rows].join(",");
            let cases = " WHEN ? THEN ?".repeat(rows);
            let claims = vec![format!("(`id` = ? AND `{token}` = ?)"); rows].join(" OR ");
            format!(
                "UPDATE {t} {id_index} SET `progress` = CASE `id`{cases} ELSE `progress` END \
                 WHERE `id` IN ({ids}) AND `status` = 'running' AND ({claims})"
            )
        };
        Self {
            free: (!skip_locked.is_empty()).then(|| ListStatement::new(&running, skip_locked)),
            running: ListStatement::new(&running, ""),
            write: SIZES.map(|rows| write(rows).into()),
            text: LineText::of(columns, "progress"),
        }
    }

    /// Every text, for EXPLAIN.
    #[cfg(test)]
    pub(super) fn texts(&self) -> impl Iterator<Item = &Arc<str>> {
        let lists = self.free.iter().chain([&self.running]);
        lists.flat_map(ListStatement::texts).chain(&self.write)
    }
}

/// Writes them; returns those whose rows run and are locked by somebody else. Nothing on a table without the column.
pub(super) async fn write<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    reports: &[Report],
) -> Result<Vec<JobId>, sqlx::Error> {
    let Some(progress) = &statements.progress else {
        return Ok(Vec::new());
    };
    let mut locked = Vec::new();
    for part in reports.chunks(MAX_ROWS) {
        let Some(free) = &progress.free else {
            write_each(connection, progress, &part.iter().collect::<Vec<_>>()).await?;
            continue;
        };
        let ids: Vec<JobId> = part.iter().map(|report| report.id).collect();
        connection.control(statements.begin).await?;
        let (sql, values) = free.for_ids(&ids);
        let found = connection.numbers(&sql, &values).await?;
        let found: Vec<JobId> = found.into_iter().map(id).collect();
        let (free, rest): (Vec<&Report>, Vec<&Report>) =
            part.iter().partition(|report| found.contains(&report.id));
        write_each(connection, progress, &free).await?;
        connection.control("COMMIT").await?;
        if !rest.is_empty() {
            let ids: Vec<JobId> = rest.iter().map(|report| report.id).collect();
            let (sql, values) = progress.running.for_ids(&ids);
            let running = connection.numbers(&sql, &values).await?;
            locked.extend(running.into_iter().map(id));
        }
    }
    Ok(locked)
}

/// Together, and one by one where a row of them is refused, which goes without.
async fn write_each<C: Connection>(
    connection: &mut C,
    statements: &ProgressStatements,
    reports: &[&Report],
) -> Result<(), sqlx::Error> {
    match write_free(connection, statements, reports).await {
        Err(error) if is_about_row(&error) => {}
        outcome => return outcome,
    }
    for report in reports {
        match write_free(connection, statements, &[report]).await {
            Err(error) if is_about_row(&error) => {
                tracing::debug!(job = %report.id, %error, "the database refuses to let a row say how far its job has come");
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

/// One UPDATE for up to [`MAX_ROWS`] reports.
async fn write_free<C: Connection>(
    connection: &mut C,
    statements: &ProgressStatements,
    reports: &[&Report],
) -> Result<(), sqlx::Error> {
    let Some(last) = reports.last() else {
        return Ok(());
    };
    let at = SIZES.iter().position(|size| reports.len() <= *size);
    let at = at.expect("a part has at most MAX_ROWS");
    // The last one again, up to the statement's size, which changes nothing.
    let padded = || {
        reports
            .iter()
            .chain(std::iter::repeat(last))
            .take(SIZES[at])
    };
    let texts: Vec<String> = padded()
        .map(|report| statements.text.fit(&report.text))
        .collect();
    let row = |report: &&Report| Value::Number(key(report.id));
    let cases = padded()
        .zip(&texts)
        .flat_map(|(report, text)| [row(report), Value::Text(text)]);
    let claims = padded().flat_map(|report| [row(report), Value::Text(report.token.as_str())]);
    let values: Vec<Value<'_>> = cases.chain(padded().map(row)).chain(claims).collect();
    connection.change(&statements.write[at], &values).await?;
    Ok(())
}
