//! The name of the job table, validated once and quoted in one place.
//!
//! Every statement that names the table goes through [`TableName::quoted`]; nothing else may put a
//! name from a config file into SQL.

use std::fmt;

/// The most characters that MySQL and MariaDB allow in a database's or table's name
/// (server manual, "Identifier Length Limits").
const MAX_PART: usize = 64;

/// `table` or `database.table`, as `mysql_table` gives it.
///
/// Any name that the server allows may stand here. The first dot separates the database from the
/// table; a name that holds a dot itself is written in backticks, with a backtick doubled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    database: Option<String>,
    table: String,
}

/// Why a text is not a table's name; fits behind `mysql_table: `.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TableNameError {
    /// A part between dots is empty.
    #[error("table name {0:?} has an empty part")]
    Empty(String),
    /// Longer than the server's 64 characters.
    #[error("name {0:?} is longer than {MAX_PART} characters")]
    TooLong(String),
    /// NUL, a character outside the BMP, or a space at the end.
    #[error("name {0:?} holds a character that MySQL does not allow there")]
    Forbidden(String),
    /// More than `database.table`, or an unclosed backtick.
    #[error(
        "table name {0:?} is not of the form table or database.table; put a name that holds a dot in backticks"
    )]
    Form(String),
}

impl TableName {
    /// Reads `table`, `database.table` or either with parts in backticks.
    pub fn parse(text: &str) -> Result<Self, TableNameError> {
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let (part, after) = take_part(rest).ok_or_else(|| TableNameError::Form(text.into()))?;
            parts.push(checked(part, text)?);
            match after.strip_prefix('.') {
                Some(next) => rest = next,
                None if after.is_empty() => break,
                None => return Err(TableNameError::Form(text.into())),
            }
        }
        let mut parts = parts.into_iter();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(table), None, _) => Ok(Self {
                database: None,
                table,
            }),
            (Some(database), Some(table), None) => Ok(Self {
                database: Some(database),
                table,
            }),
            _ => Err(TableNameError::Form(text.into())),
        }
    }

    /// The database that the name itself gives, if any.
    pub fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// The table without its database.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The name as it stands in a statement, in backticks: what MySQL, MariaDB and SQLite read.
    pub fn quoted(&self) -> String {
        match &self.database {
            Some(database) => format!("{}.{}", quote(database), quote(&self.table)),
            None => quote(&self.table),
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(database) = &self.database {
            write!(f, "{database}.")?;
        }
        f.write_str(&self.table)
    }
}

/// An identifier in backticks, a backtick inside doubled
/// (server manual, "Schema Object Names"; SQLite reads backticks for MySQL's sake).
pub fn quote(identifier: &str) -> String {
    format!("`{}`", identifier.replace('`', "``"))
}

/// One part of a dotted name and what follows it.
fn take_part(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('`') else {
        let end = text.find('.').unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut part = String::new();
    loop {
        let end = rest.find('`')?;
        part.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('`') {
            Some(after) => {
                part.push('`');
                rest = after;
            }
            None => return Some((part, rest)),
        }
    }
}

fn checked(part: String, whole: &str) -> Result<String, TableNameError> {
    if part.is_empty() {
        return Err(TableNameError::Empty(whole.into()));
    }
    if part.chars().count() > MAX_PART {
        return Err(TableNameError::TooLong(part));
    }
    if part.ends_with(' ') || part.chars().any(|c| c == '\0' || c > '\u{FFFF}') {
        return Err(TableNameError::Forbidden(part));
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, quoted: &str) {
        assert_eq!(TableName::parse(text).unwrap().quoted(), quoted);
    }

    #[test]
    fn names_are_quoted_as_the_server_reads_them() {
        check("jobs", "`jobs`");
        check("app.jobs", "`app`.`jobs`");
        check("my jobs-\"x\"", "`my jobs-\"x\"`");
        check("a`b", "`a``b`");
        check("`my.jobs`", "`my.jobs`");
        check("`a``b`.`c.d`", "`a``b`.`c.d`");
        check("задания", "`задания`");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "", ".", "a.", ".b", "a.b.c", "`a", "`a`b", "a ", "a\0b", "😀",
        ] {
            assert!(TableName::parse(text).is_err(), "{text:?}");
        }
        assert!(TableName::parse(&"x".repeat(65)).is_err());
        assert!(TableName::parse(&"ж".repeat(64)).is_ok());
    }
}
