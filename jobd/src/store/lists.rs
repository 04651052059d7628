//! IN lists in a few sizes: a statement's text must be one of a handful, or each new length would
//! cost a prepare.

use std::sync::Arc;

use jobd_proto::JobId;

/// The sizes; a longer list is sent in several statements.
const SIZES: [usize; 5] = [1, 4, 16, 64, 256];

/// The longest list that one statement takes.
pub(super) const MAX_LIST: usize = SIZES[SIZES.len() - 1];

/// One statement with an IN list, in every size.
#[derive(Debug)]
pub(super) struct ListStatement([Arc<str>; SIZES.len()]);

impl ListStatement {
    /// `template` holds `{list}` where the question marks go.
    pub(super) fn new(template: &str) -> Self {
        Self(SIZES.map(|size| {
            let marks = vec!["?"; size].join(",");
            template.replace("{list}", &marks).into()
        }))
    }

    /// The text for `ids` (1 to [`MAX_LIST`]) and the values to bind: the ids, the last repeated
    /// up to the statement's size.
    pub(super) fn for_ids(&self, ids: &[JobId]) -> (Arc<str>, Vec<i64>) {
        let at = SIZES
            .iter()
            .position(|&size| ids.len() <= size)
            .expect("callers send lists in chunks of MAX_LIST");
        let last = ids.last().expect("callers send no empty list");
        let padded = ids.iter().chain(std::iter::repeat(last)).take(SIZES[at]);
        (self.0[at].clone(), padded.map(|id| key(*id)).collect())
    }
}

/// An id as the drivers bind it: every signed 64-bit id that a table can hold is a `JobId`.
pub(super) fn key(id: JobId) -> i64 {
    i64::try_from(id.0).unwrap_or(i64::MAX)
}
