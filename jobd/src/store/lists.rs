//! IN lists in a few sizes: a statement's text must be one of a handful, or each new length would
//! cost a prepare.

use std::sync::Arc;

use jobd_proto::JobId;

use super::connection::{Value, key};

/// The sizes; a longer list is sent in several statements.
const SIZES: [usize; 5] = [1, 4, 16, 64, 256];

/// The longest list that one statement takes.
pub(super) const MAX_LIST: usize = SIZES[SIZES.len() - 1];

/// A statement about rows of a list, in every size.
#[derive(Clone, Debug)]
pub(super) struct ListStatement([Arc<str>; SIZES.len()]);

impl ListStatement {
    /// `head`, up to where the condition on `id` goes, and `tail` behind it.
    pub(super) fn new(head: &str, tail: &str) -> Self {
        Self(SIZES.map(|size| {
            let marks = vec!["?"; size].join(",");
            format!("{head} `id` IN ({marks}) {tail}").into()
        }))
    }

    /// Every text, for EXPLAIN.
    #[cfg(test)]
    pub(super) fn texts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter()
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
