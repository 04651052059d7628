//! Which columns a job table has, and what fits into them. Reads the catalogue only.

use sqlx::mysql::MySqlConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::name::{TableName, quote};

/// The columns that were found, in the table's order.
#[derive(Clone, Debug, Default)]
pub struct Columns(Vec<Column>);

/// One column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name in lower case (MySQL's and SQLite's column names ignore case).
    pub name: String,
    /// Its type as the server writes it, for messages: `tinyint(3) unsigned`.
    pub type_text: String,
    /// What it holds.
    pub kind: Kind,
    /// Whether NULL may stand in it.
    pub nullable: bool,
    /// Whether an INSERT may leave it out.
    pub has_default: bool,
}

/// What a column holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole numbers from `min` to `max`.
    Integer {
        /// Smallest value that fits.
        min: i64,
        /// Largest value that fits (at most `i64::MAX`).
        max: i64,
    },
    /// Text in a character set.
    Text {
        /// The server's name of the character set, `utf8mb4` for SQLite.
        charset: String,
        /// Whether `=` ignores case there.
        ignores_case: bool,
        /// As many bytes always fit. (A VARCHAR counts characters, a TEXT bytes: the smaller.)
        max_bytes: u64,
        /// The values that may stand there, for an ENUM.
        values: Option<Vec<String>>,
    },
    /// Bytes, in no character set.
    Binary {
        /// Largest content in bytes.
        max_bytes: u64,
    },
    /// Anything else: dates, floats, JSON, geometry.
    Other,
}

/// Largest text in an SQLite value (its compile-time default, SQLITE_MAX_LENGTH).
const SQLITE_MAX_BYTES: u64 = 1_000_000_000;

impl Columns {
    /// The column of that lower-case name.
    pub fn get(&self, name: &str) -> Option<&Column> {
        self.0.iter().find(|column| column.name == name)
    }

    /// Whether a column of that lower-case name is there.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether the table was found at all: every table has a column.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Leaves those alone whose names are among these.
    pub fn keep(&mut self, names: &[String]) {
        self.0.retain(|column| names.contains(&column.name));
    }

    /// The columns in the table's order.
    pub fn iter(&self) -> impl Iterator<Item = &Column> {
        self.0.iter()
    }

    /// Reads the columns from `information_schema`. Empty where the table does not exist or the
    /// account may not see it.
    pub async fn of_mysql(
        connection: &mut MySqlConnection,
        database: &str,
        table: &TableName,
    ) -> Result<Self, sqlx::Error> {
        // The casts make the answer's types the same on every server version.
        let rows = sqlx::query(
            "SELECT CAST(column_name AS CHAR), CAST(column_type AS CHAR), CAST(data_type AS CHAR), \
             CAST(is_nullable AS CHAR), CAST(character_set_name AS CHAR), CAST(collation_name AS CHAR), \
             CAST(LEAST(character_octet_length, character_maximum_length) AS SIGNED), column_default IS NOT NULL OR extra LIKE '%auto_increment%' \
             FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position",
        )
        .bind(table.database().unwrap_or(database))
        .bind(table.table())
        .fetch_all(connection)
        .await?;
        let columns = rows.iter().map(|row| {
            let type_text: String = row.try_get(1)?;
            let data_type: String = row.try_get(2)?;
            let nullable = row.try_get::<String, _>(3)? == "YES";
            Ok(Column {
                name: row.try_get::<String, _>(0)?.to_lowercase(),
                kind: mysql_kind(
                    &data_type.to_lowercase(),
                    &type_text,
                    row.try_get(4)?,
                    &row.try_get::<Option<String>, _>(5)?.unwrap_or_default(),
                    row.try_get::<Option<i64>, _>(6)?
                        .unwrap_or(0)
                        .unsigned_abs(),
                ),
                type_text,
                nullable,
                has_default: nullable || row.try_get::<i64, _>(7)? != 0,
            })
        });
        Ok(Self(columns.collect::<Result<_, sqlx::Error>>()?))
    }

    /// Reads the columns from `pragma_table_info`. SQLite's declared types are advice, so a column
    /// of any text-like or undeclared type counts as text. A CHECK with a list stands for an ENUM.
    pub async fn of_sqlite(
        connection: &mut SqliteConnection,
        table: &TableName,
    ) -> Result<Self, sqlx::Error> {
        let sql = format!("PRAGMA table_info({})", quote(table.table()));
        let rows = sqlx::query(AssertSqlSafe(sql))
            .fetch_all(&mut *connection)
            .await?;
        let create = sqlx::query("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?")
            .bind(table.table())
            .fetch_optional(connection)
            .await?;
        let create: Option<String> = create.map(|row| row.try_get(0)).transpose()?;
        let create = create.unwrap_or_default();
        let columns = rows.iter().map(|row| {
            let type_text: String = row.try_get("type")?;
            let name = row.try_get::<String, _>("name")?.to_lowercase();
            let primary = row.try_get::<i64, _>("pk")? != 0;
            let nullable = row.try_get::<i64, _>("notnull")? == 0;
            Ok(Column {
                kind: sqlite_kind(&type_text.to_uppercase(), checked(&create, &name)),
                name,
                type_text,
                nullable,
                has_default: nullable
                    || primary
                    || row.try_get::<Option<String>, _>("dflt_value")?.is_some(),
            })
        });
        Ok(Self(columns.collect::<Result<_, sqlx::Error>>()?))
    }
}

fn mysql_kind(
    data_type: &str,
    type_text: &str,
    charset: Option<String>,
    collation: &str,
    bytes: u64,
) -> Kind {
    let bits = match data_type {
        "tinyint" => 8,
        "smallint" => 16,
        "mediumint" => 24,
        "int" => 32,
        "bigint" => 64,
        _ => 0,
    };
    if bits > 0 {
        return integer(bits, type_text.to_lowercase().contains("unsigned"));
    }
    match (data_type, charset) {
        ("binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob", _) => {
            Kind::Binary { max_bytes: bytes }
        }
        (
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum",
            Some(charset),
        ) => Kind::Text {
            ignores_case: collation.contains("_ci"),
            max_bytes: bytes,
            values: (data_type == "enum").then(|| enum_values(type_text)),
            charset,
        },
        _ => Kind::Other,
    }
}

fn integer(bits: u32, unsigned: bool) -> Kind {
    match (bits, unsigned) {
        (64, true) => Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        (64, false) => Kind::Integer {
            min: i64::MIN,
            max: i64::MAX,
        },
        (bits, true) => Kind::Integer {
            min: 0,
            max: (1 << bits) - 1,
        },
        (bits, false) => Kind::Integer {
            min: -(1 << (bits - 1)),
            max: (1 << (bits - 1)) - 1,
        },
    }
}

/// The rules of SQLite's manual, "Determination Of Column Affinity".
fn sqlite_kind(declared: &str, values: Option<Vec<String>>) -> Kind {
    if declared.contains("INT") {
        integer(64, false)
    } else if ["CHAR", "CLOB", "TEXT"]
        .iter()
        .any(|word| declared.contains(word))
    {
        Kind::Text {
            charset: "utf8mb4".into(),
            ignores_case: false,
            max_bytes: SQLITE_MAX_BYTES,
            values,
        }
    } else if declared.is_empty() || declared.contains("BLOB") {
        Kind::Binary {
            max_bytes: SQLITE_MAX_BYTES,
        }
    } else {
        Kind::Other
    }
}

/// The list of `CHECK ("column" IN ('a', 'b'))` in a CREATE TABLE.
fn checked(create: &str, column: &str) -> Option<Vec<String>> {
    let plain = |c: &char| !c.is_whitespace() && !"\"`[]".contains(*c);
    let plain: String = create.chars().filter(plain).collect();
    // ASCII only, so that places stay the same.
    let at = plain
        .to_ascii_lowercase()
        .find(&format!("check({column}in("))?;
    let list = &plain[at..];
    list.find(')').map(|end| enum_values(&list[..end]))
}

/// The values of `enum('a','it''s')`.
fn enum_values(type_text: &str) -> Vec<String> {
    let mut values = Vec::new();
    let mut rest = type_text;
    while let Some(open) = rest.find('\'') {
        let mut value = String::new();
        rest = &rest[open + 1..];
        while let Some(close) = rest.find('\'') {
            value.push_str(&rest[..close]);
            rest = &rest[close + 1..];
            match rest.strip_prefix('\'') {
                Some(after) => {
                    value.push('\'');
                    rest = after;
                }
                None => break,
            }
        }
        values.push(value);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integer_types_hold_what_the_manual_says() {
        assert_eq!(
            mysql_kind("tinyint", "tinyint(3) unsigned", None, "", 0),
            Kind::Integer { min: 0, max: 255 }
        );
        assert_eq!(
            mysql_kind("tinyint", "tinyint", None, "", 0),
            Kind::Integer {
                min: -128,
                max: 127
            }
        );
        assert_eq!(
            mysql_kind("int", "int unsigned", None, "", 0),
            Kind::Integer {
                min: 0,
                max: 4_294_967_295
            }
        );
    }

    #[test]
    fn a_check_with_a_list_stands_for_an_enum() {
        let create = r#"CREATE TABLE "t" ("a" TEXT CHECK ("a" IN ('x', 'y')), b TEXT Check(B in ('z')), c TEXT)"#;
        assert_eq!(checked(create, "a").unwrap(), ["x", "y"]);
        assert_eq!(checked(create, "b").unwrap(), ["z"]);
        assert_eq!(checked(create, "c"), None);
    }

    #[test]
    fn enum_values_are_unquoted() {
        assert_eq!(enum_values("enum('a','it''s','')"), ["a", "it's", ""]);
    }
}
