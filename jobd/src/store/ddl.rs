//! The statements that make a table fit, in the words of its server. Pure.

use jobd_proto::table::{Columns, Kind, TableName, quote};

/// The table with every ability on SQLite.
const SQLITE: &str = include_str!("../../../sql/sqlite/jobs.sql");

/// Whose words.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ddl<'a> {
    /// A column is defined as the caller says.
    MySql,
    /// A column is defined as [`SQLITE`] has it. With the indexes that the table has: name and statement of each.
    Sqlite(&'a [(String, String)]),
}

/// Behind a column of an index that goes from the highest down.
const DESCENDING: &str = " desc";

/// A column of an index that goes from the highest down.
pub(super) fn descending(column: &str) -> String {
    format!("{column}{DESCENDING}")
}

impl Ddl<'_> {
    /// What adds a column.
    pub(super) fn add(self, table: &TableName, column: &str, definition: &str) -> String {
        match self.defined(column, definition) {
            Ok(definition) => format!(
                "ALTER TABLE {} ADD COLUMN {} {definition};",
                table.quoted(),
                quote(column)
            ),
            Err(elsewhere) => elsewhere,
        }
    }

    /// What gives a column another type.
    pub(super) fn modify(self, table: &TableName, column: &str, definition: &str) -> String {
        match (self, self.defined(column, definition)) {
            (Self::MySql, Ok(definition)) => format!(
                "ALTER TABLE {} MODIFY COLUMN {} {definition};",
                table.quoted(),
                quote(column)
            ),
            (Self::Sqlite(indexes), Ok(definition)) => replace(table, column, &definition, indexes),
            (_, Err(elsewhere)) => elsewhere,
        }
    }

    /// How a column is defined, or where that stands.
    fn defined(self, column: &str, definition: &str) -> Result<String, String> {
        match self {
            Self::MySql => Ok(definition.to_owned()),
            Self::Sqlite(_) => of_sqlite(column)
                .ok_or_else(|| format!("see sql/sqlite/jobs.sql for column {column}")),
        }
    }

    /// What gives `status` further values, beside the application's own.
    pub(super) fn status(self, table: &TableName, columns: &Columns, more: &[&str]) -> String {
        let known = match columns.get("status").map(|column| &column.kind) {
            Some(Kind::Text { values, .. }) => values.as_deref().unwrap_or_default(),
            _ => &[],
        };
        let all = known.iter().map(String::as_str).chain(more.iter().copied());
        let list: Vec<String> = all
            .map(|value| format!("'{}'", value.replace('\'', "''")))
            .collect();
        let (list, default) = (list.join(","), "NOT NULL DEFAULT 'waiting'");
        match self {
            Self::MySql => self.modify(table, "status", &format!("enum({list}) {default}")),
            Self::Sqlite(indexes) => {
                let definition = format!("TEXT {default} CHECK (`status` IN ({list}))");
                replace(table, "status", &definition, indexes)
            }
        }
    }

    /// What adds an index.
    pub(super) fn index(self, table: &TableName, index: &str, columns: &[&str]) -> String {
        let columns = columns
            .iter()
            .map(|column| match column.strip_suffix(DESCENDING) {
                Some(column) => format!("{} DESC", quote(column)),
                None => quote(column),
            });
        let columns: Vec<String> = columns.collect();
        let (table, index, columns) = (table.quoted(), quote(index), columns.join(", "));
        match self {
            Self::MySql => format!("ALTER TABLE {table} ADD KEY {index} ({columns});"),
            Self::Sqlite(_) => format!("CREATE INDEX {index} ON {table} ({columns});"),
        }
    }
}

/// How the table on SQLite defines a column; `None` where every row needs a value of its own there.
fn of_sqlite(column: &str) -> Option<String> {
    let begin = format!("\n  \"{column}\" ");
    let rest = &SQLITE[SQLITE.find(&begin)? + begin.len()..];
    let end = [",\n", "\n)"]
        .into_iter()
        .filter_map(|end| rest.find(end))
        .min()?;
    let definition = rest[..end].split_whitespace().collect::<Vec<_>>().join(" ");
    definition.contains("DEFAULT").then_some(definition)
}

/// A column of another type, in the place of the one that is there: SQLite changes none. Indexes that name it are made anew.
fn replace(
    table: &TableName,
    column: &str,
    definition: &str,
    indexes: &[(String, String)],
) -> String {
    let (table, former) = (table.quoted(), quote(&format!("{column}_former")));
    let named = indexes.iter().filter(|(_, sql)| sql.contains(column));
    let dropped = named
        .clone()
        .map(|(name, _)| format!("DROP INDEX {};", quote(name)));
    let made = named.map(|(_, sql)| format!("{sql};"));
    let column = quote(column);
    let change = [
        format!("ALTER TABLE {table} RENAME COLUMN {column} TO {former};"),
        format!("ALTER TABLE {table} ADD COLUMN {column} {definition};"),
        format!("UPDATE {table} SET {column} = {former} WHERE {former} IS NOT NULL;"),
        format!("ALTER TABLE {table} DROP COLUMN {former};"),
    ];
    let begin = ["BEGIN IMMEDIATE;".to_owned()].into_iter();
    let all = begin.chain(dropped).chain(change).chain(made);
    let all = all.chain(["COMMIT;".to_owned()]);
    all.collect::<Vec<_>>().join(" ")
}
