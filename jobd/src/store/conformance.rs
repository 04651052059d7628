//! What every store must do, run against each of them on its real database.

mod abilities;
mod bytes;
mod cancel;
mod claims;
mod galera;
mod ground;
mod later;
mod ownership;
mod priority;
mod progress;
mod records;
mod refusals;
mod unique;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jobd_proto::table::{DatabaseSettings, JobRow, MySqlSettings};
use jobd_proto::{JobId, JobResult, TargetName};
use jobd_tests::Server;
use sqlx::AssertSqlSafe;

use self::cancel::what_nobody_runs_is_cancelled_and_nothing_else;
use self::claims::*;
use self::ground::{Ground, LEASE, Table, finish, finishes, ids, name, other, starts};
use self::progress::a_row_says_how_far_its_own_run_has_come;
use self::records::*;
use super::*;
use crate::job::{Origin, Terms, Tokens};

pub(super) use self::ground::settings;

/// One test per store, table and promise.
macro_rules! conformance {
    ($($promise:ident),+ $(,)? ; $($owned:ident),+ $(,)? ; $($later:ident),+ $(,)?) => {
        mod on_mysql_minimal {
            $(#[tokio::test] async fn $promise() { super::$promise(super::Ground::mysql(super::Table::Minimal).await).await; })+
        }
        mod on_mysql_full {
            $(#[tokio::test] async fn $promise() { super::$promise(super::Ground::mysql(super::Table::Full).await).await; })+
            $(#[tokio::test] async fn $owned() { super::ownership::$owned(super::Ground::mysql(super::Table::Full).await).await; })+
            $(#[tokio::test] async fn $later() { super::later::$later(super::Ground::mysql(super::Table::Full).await).await; })+
        }
        mod on_sqlite_minimal {
            $(#[tokio::test] async fn $promise() { super::$promise(super::Ground::sqlite(super::Table::Minimal).await).await; })+
        }
        mod on_sqlite_full {
            $(#[tokio::test] async fn $promise() { super::$promise(super::Ground::sqlite(super::Table::Full).await).await; })+
            $(#[tokio::test] async fn $owned() { super::ownership::$owned(super::Ground::sqlite(super::Table::Full).await).await; })+
            $(#[tokio::test] async fn $later() { super::later::$later(super::Ground::sqlite(super::Table::Full).await).await; })+
        }
    };
}

conformance! {
    a_claim_takes_the_first_waiting_rows_of_its_target,
    claims_of_many_workers_never_share_a_row,
    claims_of_neighbouring_targets_hide_no_row,
    a_row_without_a_proper_id_stands_in_nobodys_way,
    a_row_starts_once_and_only_for_its_claim,
    a_finish_is_written_once_and_recognised_when_repeated,
    the_end_is_dated_when_the_process_ended,
    released_rows_go_back_to_where_they_came_from,
    manual_rows_are_claimed_together_and_others_left_alone,
    pending_names_the_targets_that_have_rows,
    a_row_says_where_its_job_stands,
    names_with_waiting_rows_are_found_in_steps,
    rows_changed_by_others_are_left_alone,
    large_claims_and_batches_are_split,
    what_is_to_run_again_is_over_on_a_table_that_has_no_rows_for_later,
    a_batch_that_is_refused_changes_nothing,
    a_row_says_how_far_its_own_run_has_come,
    what_nobody_runs_is_cancelled_and_nothing_else;
    an_end_counts_attempts_and_interruptions,
    a_claim_reads_what_its_row_asks_for,
    a_payload_is_read_while_its_job_runs,
    the_row_says_why_its_job_ended,
    the_row_says_what_its_job_has_used,
    leases_are_renewed_and_lost_rows_named,
    rows_ask_for_a_cancellation,
    higher_priorities_are_claimed_first,
    a_refused_row_stops_no_promotion,
    a_refused_row_stops_no_claim,
    only_what_a_row_is_refused_for_counts_against_it,
    hundreds_of_refused_rows_stop_nothing,
    many_refused_rows_hide_no_other,
    rows_that_nobody_may_change_stop_no_promotion,
    a_refused_row_stops_no_cancellation,
    very_many_refused_requests_stop_no_other,
    a_refused_row_costs_no_other_its_lease,
    a_refused_row_silences_no_other,
    a_history_that_is_refused_stops_no_end,
    what_may_not_wait_again_ends,
    a_row_that_may_not_wait_yet_is_put_off_and_no_other,
    an_orphan_goes_back_runs_again_or_gets_a_verdict;
    rows_whose_time_has_come_are_waiting_and_no_others,
    rows_that_keep_a_moment_that_has_passed_are_told_of,
    many_rows_whose_time_has_come_are_promoted_part_by_part,
    a_claimed_row_stands_in_no_index_of_later,
    a_retry_schedules_its_row_once_and_says_how_it_failed,
    errors_has_every_attempt_that_failed,
    errors_of_any_length_give_way_unread,
    each_of_many_that_fail_together_has_its_own_errors,
    a_retry_replaces_the_verdict_of_its_own_claim_and_nothing_else,
    a_holder_and_a_rescuer_agree_on_whether_a_row_may_run_again,
}
