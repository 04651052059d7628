//! Where the next claim of a target begins to look.
//!
//! An index keeps the entries of rows that have been claimed until no transaction can see them any more:
//! for moments under load, and for as long as somebody's report runs. A claim that began at the first
//! entry each time would walk over all of them. So it goes on behind the last row that it took, and
//! begins at the first one again when it finds too little there, and every now and then for rows that
//! have come back.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jobd_proto::TargetName;

use super::Claimed;
use super::connection::key;

/// A row that has come back before the floor waits about this long, while rows behind it keep the
/// worker busy.
const LOOK_BACK: Duration = Duration::from_secs(1);

/// Looking from the first entry may take one part in so many of a worker's time, however long it takes.
const SHARE: u32 = 20;

/// See the module. One per store.
#[derive(Debug, Default)]
pub(super) struct Floors(HashMap<TargetName, Floor>);

#[derive(Debug)]
struct Floor {
    /// The last id that was taken.
    id: i64,
    /// When to begin at the first entry again.
    until: Instant,
}

impl Floors {
    /// The id behind which a claim begins; 0 for the first entry.
    pub(super) fn of(&self, target: &TargetName, now: Instant) -> i64 {
        let floor = self.0.get(target).filter(|floor| now < floor.until);
        floor.map_or(0, |floor| floor.id)
    }

    /// A claim behind `floor` has failed, between these two moments: where looking from the first entry took so long
    /// that it was given up, the next claims do better without.
    pub(super) fn failed(
        &mut self,
        target: &TargetName,
        floor: i64,
        (began, ended): (Instant, Instant),
    ) {
        if floor == 0
            && let Some(known) = self.0.get_mut(target)
        {
            known.until = next_look(began, ended);
        }
    }

    /// Takes in what a claim of `limit` rows behind `floor` took, between these two moments.
    pub(super) fn claimed(
        &mut self,
        target: &TargetName,
        floor: i64,
        limit: u32,
        claimed: &Claimed,
        (began, ended): (Instant, Instant),
    ) {
        let last = claimed.jobs.iter().map(|job| key(job.id)).max();
        match last {
            Some(id) if claimed.jobs.len() >= limit as usize => {
                let known = self.0.get(target).filter(|_| floor > 0);
                let until = known.map_or_else(|| next_look(began, ended), |floor| floor.until);
                self.0.insert(target.clone(), Floor { id, until });
            }
            _ => drop(self.0.remove(target)),
        }
    }
}

/// When to look from the first entry again, after a look between these two moments.
fn next_look(began: Instant, ended: Instant) -> Instant {
    ended + LOOK_BACK.max((ended - began) * SHARE)
}

#[cfg(test)]
mod tests {
    use jobd_proto::JobId;

    use super::*;
    use crate::job::{Job, Origin, Terms, Tokens};

    fn claimed(ids: std::ops::Range<u64>) -> Claimed {
        let job = |id| Job {
            id: JobId(id),
            target: TargetName::new("t").unwrap(),
            origin: Origin::Background,
            token: Tokens::new("w", "h", 1).next(Origin::Background),
            attempt: 1,
            again: false,
            terms: Terms::default(),
        };
        Claimed {
            jobs: ids.map(job).collect(),
            ..Claimed::default()
        }
    }

    #[test]
    fn a_claim_goes_on_where_the_last_one_ended() {
        let target = TargetName::new("t").unwrap();
        let mut floors = Floors::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(floors.of(&target, at(0)), 0);
        floors.claimed(&target, 0, 5, &claimed(1..6), (at(0), at(10)));
        assert_eq!(floors.of(&target, at(20)), 5);
        floors.claimed(&target, 5, 5, &claimed(6..11), (at(20), at(500)));
        assert_eq!(
            floors.of(&target, at(1009)),
            10,
            "a slow claim behind the floor is no look"
        );
        assert_eq!(
            floors.of(&target, at(1010)),
            0,
            "after a second it looks at all"
        );
        floors.claimed(&target, 0, 5, &claimed(11..16), (at(1010), at(1210)));
        assert_eq!(
            floors.of(&target, at(5209)),
            15,
            "a look of 200 ms is not made again within 4 s"
        );
        assert_eq!(floors.of(&target, at(5210)), 0);
        floors.claimed(&target, 15, 5, &claimed(16..18), (at(3000), at(3001)));
        assert_eq!(
            floors.of(&target, at(3002)),
            0,
            "there was no more behind it"
        );
    }

    #[test]
    fn a_look_that_was_given_up_is_not_made_again_at_once() {
        let target = TargetName::new("t").unwrap();
        let mut floors = Floors::default();
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        floors.failed(&target, 0, (at(0), at(30)));
        assert_eq!(floors.of(&target, at(30)), 0, "nothing is known");
        floors.claimed(&target, 0, 5, &claimed(1..6), (at(30), at(30)));
        assert_eq!(floors.of(&target, at(31)), 0);
        floors.failed(&target, 0, (at(31), at(61)));
        assert_eq!(floors.of(&target, at(62)), 5);
        assert_eq!(floors.of(&target, at(661)), 0);
        floors.failed(&target, 5, (at(62), at(63)));
        assert_eq!(floors.of(&target, at(661)), 0, "that was no look");
    }
}
