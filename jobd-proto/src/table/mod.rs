//! The job table as everybody sees it: its name, where it is, which columns it has, and what an
//! application may do with it. What a worker does with rows (claim, start, finish) is not here.

mod cell;
mod change;
mod columns;
mod connect;
mod create;
mod indexes;
mod name;
mod patience;
mod rows;
mod search;
pub mod settings;
mod survey;

pub use cell::Cell;
pub use change::BATCH;
pub use columns::{Column, Columns, Kind};
pub use connect::{connect_mysql, connect_sqlite};
pub use create::{Schema, create};
pub use indexes::TableIndex;
pub use name::{TableName, TableNameError, quote};
pub use patience::Patience;
pub use rows::{Connection, JobRow, NewJob, REQUIRED, RowError};
pub use search::{Filter, Found, MOST_TARGETS, Scan, WINDOW, Window};
pub use settings::{DatabaseSettings, MySqlAddress, MySqlSettings, SqliteSettings, Tls};
pub use survey::{Backlog, Backlogs, COUNTED};
