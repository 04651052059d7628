//! The polls of one worker: a few may wait for its answer at a time, what comes on top is merged
//! into one. Pure.
//!
//! A poll that waits for its answer does not stand for a later poke: the worker may have looked
//! for rows already.

use std::collections::BTreeSet;

use jobd_proto::Targets;

/// Polls to one worker that may wait for an answer: a dozen pokes a second at the usual deadline.
/// More than one, so that a slow answer delays no poke.
pub const MAX_UNANSWERED: usize = 64;

/// What was sent to a worker and what waits to be.
#[derive(Debug, Default)]
pub struct Polls {
    unanswered: usize,
    waiting: Option<Wanted>,
}

#[derive(Debug)]
enum Wanted {
    All,
    Named(BTreeSet<String>),
}

impl Polls {
    /// A poll for these targets is wanted; returns what to send now.
    pub fn want(&mut self, targets: Targets) -> Option<Targets> {
        if self.unanswered < MAX_UNANSWERED {
            self.unanswered += 1;
            return Some(targets);
        }
        match (&mut self.waiting, targets) {
            (Some(Wanted::Named(names)), Targets::Named(more)) => names.extend(more),
            (Some(Wanted::All), _) => {}
            (waiting, Targets::All) => *waiting = Some(Wanted::All),
            (waiting, Targets::Named(names)) => {
                *waiting = Some(Wanted::Named(names.into_iter().collect()));
            }
        }
        None
    }

    /// One was answered or given up; returns what to send now.
    pub fn ended(&mut self) -> Option<Targets> {
        let next = self.take_waiting();
        if next.is_none() {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        next
    }

    /// What was wanted and never sent.
    pub fn take_waiting(&mut self) -> Option<Targets> {
        self.waiting.take().map(|wanted| match wanted {
            Wanted::All => Targets::All,
            Wanted::Named(names) => Targets::Named(names.into_iter().collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Targets {
        Targets::Named(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn polls_beyond_the_limit_are_merged_into_one() {
        let mut polls = Polls::default();
        for _ in 0..MAX_UNANSWERED {
            assert_eq!(polls.want(named(&["a"])), Some(named(&["a"])));
        }
        assert_eq!(polls.want(named(&["b"])), None);
        assert_eq!(polls.want(named(&["a", "b"])), None);
        assert_eq!(polls.ended(), Some(named(&["a", "b"])));
        assert_eq!(polls.want(named(&["c"])), None);
        assert_eq!(polls.want(Targets::All), None);
        assert_eq!(polls.want(named(&["c"])), None);
        assert_eq!(polls.ended(), Some(Targets::All));
        assert_eq!(polls.ended(), None);
        assert_eq!(polls.want(named(&["d"])), Some(named(&["d"])));
        for _ in 0..=MAX_UNANSWERED {
            assert_eq!(polls.ended(), None);
        }
        assert_eq!(polls.want(Targets::All), Some(Targets::All));
    }
}
