//! IN lists in a few sizes: a statement's text must be one of a handful, or each new length would
//! cost a prepare.

use std::sync::Arc;

use jobd_proto::JobId;

use super::connection::Value;

/// The sizes; a longer list is sent in several statements.
const SIZES: [usize; 5] = [1, 4, 16, 64, 256];

/// The longest list that one statement takes.
pub(super) const MAX_LIST: usize = SIZES[SIZES.len() - 1];

/// A statement about rows of a list, in every size.
#[derive(Debug)]
pub(super) struct ListStatement([Arc<str>; SIZES.len()]);

impl ListStatement {
    /// `head`, up to where the condition on `id` goes, and `tail` behind it.
    pub(super) fn new(head: &str, tail: &str) -> Self {
        Self(SIZES.map(|size| {
            let marks = vec!["?"; size].join(",");
            format!("{head} `id` IN ({marks}) {tail}").into()
        }))
    }

    /// The text for `ids` (1 to [`MAX_LIST`]) and the values to bind: the ids, the last repeated
    /// up to the statement's size.
    pub(super) fn for_ids(&self, ids: &[JobId]) -> (Arc<str>, Vec<Value<'static>>) {
        let fits = |&size: &usize| ids.len() <= size;
        let at = SIZES
            .iter()
            .position(fits)
            .expect("callers send lists in chunks of MAX_LIST");
        let last = ids.last().expect("callers send no empty list");
        let padded = ids.iter().chain(std::iter::repeat(last)).take(SIZES[at]);
        (
            self.0[at].clone(),
            padded.map(|id| Value::Number(key(*id))).collect(),
        )
    }
}

/// An id as the drivers bind it: every id that a table can hold is a signed 64-bit number.
pub(super) fn key(id: JobId) -> i64 {
    i64::try_from(id.0).unwrap_or(i64::MAX)
}

/// An id as the drivers read it. A negative one would be a row that no application can name.
pub(super) fn id(key: i64) -> JobId {
    JobId(u64::try_from(key).unwrap_or_default())
}

/// The number of an attempt as the drivers read it.
pub(super) fn attempt(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
