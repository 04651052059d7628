//! Which indexes a job table has. Reads the catalogue only.

use super::name::quote;
use super::rows::{Connection, Driver, RowError};

/// Behind a column of an index that goes from the highest down.
const DESCENDING: &str = " desc";

/// An index that the server may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableIndex {
    /// Its name.
    pub name: String,
    /// Its columns in order, in lower case; ` desc` stands behind one that goes from the highest down.
    pub columns: Vec<String>,
}

impl Connection {
    /// The table's indexes. One that was made invisible (MySQL) or ignored (MariaDB) counts, too:
    /// the catalogues differ in how they say so.
    pub async fn indexes(&mut self) -> Result<Vec<TableIndex>, RowError> {
        let rows = match self.driver {
            Driver::MySql(_) => {
                let schema = match self.table.database() {
                    Some(_) => "?",
                    None => "DATABASE()",
                };
                let sql = format!(
                    "SELECT CAST(index_name AS CHAR), CAST(CONCAT(LOWER(column_name), IF(collation = 'D', '{DESCENDING}', '')) AS CHAR) FROM information_schema.statistics \
                     WHERE table_schema = {schema} AND table_name = ? ORDER BY index_name, seq_in_index"
                );
                let names = self.table.database().into_iter();
                let names: Vec<String> = names
                    .chain([self.table.table()])
                    .map(str::to_owned)
                    .collect();
                self.fetch(&sql, &names).await?
            }
            Driver::Sqlite(_) => {
                let sql = format!(
                    "SELECT list.name, LOWER(info.name) || CASE WHEN info.\"desc\" THEN '{DESCENDING}' ELSE '' END \
                     FROM pragma_index_list(?) AS list, pragma_index_xinfo(list.name) AS info \
                     WHERE info.key ORDER BY list.name, info.seqno"
                );
                let table = [self.table.table().to_owned()];
                self.fetch(&sql, &table).await?
            }
        };
        let mut indexes: Vec<TableIndex> = Vec::new();
        for row in rows {
            // An expression has no column.
            let mut cells = row.into_iter().map(Option::unwrap_or_default);
            let mut next = || String::from(cells.next().unwrap_or_default());
            let (name, column) = (next(), next());
            match indexes.last_mut() {
                Some(last) if last.name == name => last.columns.push(column),
                _ => indexes.push(TableIndex {
                    name,
                    columns: vec![column],
                }),
            }
        }
        Ok(indexes)
    }

    /// The statement that gives the table an index of these columns.
    pub fn index_ddl(&self, name: &str, columns: &[&str]) -> String {
        let (name, columns) = (quote(name), list(columns));
        format!("CREATE INDEX {name} ON {} ({columns})", self.quoted)
    }

    /// The statement that has an index go by these columns in place of its own, under its name, while workers go on.
    pub fn reindex_ddl(&self, name: &str, columns: &[&str]) -> String {
        let (quoted, keys) = (quote(name), list(columns));
        match self.driver {
            Driver::MySql(_) => format!(
                "ALTER TABLE {} DROP KEY {quoted}, ADD KEY {quoted} ({keys}), ALGORITHM=INPLACE, LOCK=NONE",
                self.quoted
            ),
            Driver::Sqlite(_) => {
                format!("DROP INDEX {quoted}; {}", self.index_ddl(name, columns))
            }
        }
    }

    /// The table as a statement names it.
    pub fn quoted_table(&self) -> &str {
        &self.quoted
    }
}

/// The columns of an index as a statement lists them.
fn list(columns: &[&str]) -> String {
    let columns = columns
        .iter()
        .map(|column| match column.strip_suffix(DESCENDING) {
            Some(column) => quote(column) + " DESC",
            None => quote(column),
        });
    columns.collect::<Vec<_>>().join(", ")
}
