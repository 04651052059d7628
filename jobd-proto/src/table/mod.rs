//! The job table as everybody sees it: its name, where it is, which columns it has, and what an
//! application may do with it. What a worker does with rows (claim, start, finish) is not here.

mod columns;
mod connect;
mod create;
mod name;
mod rows;
pub mod settings;

pub use columns::{Column, Columns, Kind};
pub use connect::{connect_mysql, connect_sqlite};
pub use create::create;
pub use name::{TableName, TableNameError, quote};
pub use rows::{Connection, Filter, JobRow, NewJob, RowError};
pub use settings::{DatabaseSettings, MySqlAddress, MySqlSettings, SqliteSettings, Tls};
