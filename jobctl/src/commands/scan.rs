//! Reads many rows, and says meanwhile how many have been read.

use jobd_proto::table::{Connection, JobRow, RowError, Scan, WINDOW};

use crate::database::Database;
use crate::output::reading;

/// Hands the rows of `scan` in the open `table` of `database` on, window by window, the oldest first, for as long as `take`
/// wants more.
pub(super) async fn oldest(
    database: &Database,
    table: &mut Connection,
    scan: &Scan,
    mut take: impl FnMut(Vec<JobRow>) -> bool,
) -> Result<(), RowError> {
    let told = reading(database);
    let mut from = None;
    loop {
        let window = table.oldest(scan, from, WINDOW).await?;
        told.inc(window.read);
        from = window.next;
        if !take(window.jobs) || from.is_none() {
            return Ok(());
        }
    }
}
