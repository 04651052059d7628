//! Where the next claim of a target begins to look.
//!
//! An index keeps the entries of rows that have been claimed until no transaction can see them any more:
//! for moments under load, and for as long as somebody's report runs. A claim that began at the first
//! entry each time would walk over all of them. So it goes on behind the last row that it took, and
//! begins at the first one again when it finds too little there, and every now and then for rows that
//! have come back, or have come with a higher priority.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use jobd_proto::TargetName;

use super::Claimed;
use super::connection::key;

/// A row before the floor waits about this long, while rows behind it keep the worker busy.
pub(super) const LOOK_BACK: Duration = Duration::from_millis(100);

/// Looking from the first entry may take one part in so many of a worker's time, however long it takes.
pub(super) const SHARE: u32 = 20;

/// Where a row stands in the order of claims: higher priorities first, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) priority: i64,
    pub(super) id: i64,
}

impl Place {
    /// Before every row.
    pub(super) const FIRST: Self = Self {
        priority: i64::MAX,
        id: 0,
    };

    /// The one of both that comes later.
    fn later(self, other: Self) -> Self {
        let rank = |place: &Self| (Reverse(place.priority), place.id);
        std::cmp::max_by_key(self, other, rank)
    }
}

/// See the module. One per store.
#[derive(Debug, Default)]
pub(super) struct Floors(HashMap<TargetName, Floor>);

#[derive(Debug)]
struct Floor {
    /// Of the last row that was taken.
    place: Place,
    /// When to begin at the first entry again.
    until: Instant,
}

impl Floors {
    /// The place behind which a claim begins.
    pub(super) fn of(&self, target: &TargetName, now: Instant) -> Place {
        let floor = self.0.get(target).filter(|floor| now < floor.until);
        floor.map_or(Place::FIRST, |floor| floor.place)
    }

    /// A claim behind `floor` has failed, between these two moments: where looking from the first entry took so long
    /// that it was given up, the next claims do better without.
    pub(super) fn failed(
        &mut self,
        target: &TargetName,
        floor: Place,
        (began, ended): (Instant, Instant),
    ) {
        if floor == Place::FIRST
            && let Some(known) = self.0.get_mut(target)
        {
            known.until = next_look(began, ended);
        }
    }

    /// Takes in what a claim of `limit` rows behind `floor` took, between these two moments.
    pub(super) fn claimed(
        &mut self,
        target: &TargetName,
        floor: Place,
        limit: u32,
        claimed: &Claimed,
        (began, ended): (Instant, Instant),
    ) {
        let places = claimed.jobs.iter().map(|job| Place {
            priority: job.terms.priority,
            id: key(job.id),
        });
        let last = places.reduce(Place::later);
        match last {
            Some(place) if claimed.jobs.len() >= limit as usize => {
                let known = self.0.get(target).filter(|_| floor != Place::FIRST);
                let until = known.map_or_else(|| next_look(began, ended), |floor| floor.until);
                self.0.insert(target.clone(), Floor { place, until });
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

    /// A place among rows without a priority.
    fn behind(id: i64) -> Place {
        if id == 0 {
            return Place::FIRST;
        }
        Place { priority: 0, id }
    }

    fn claimed(ids: std::ops::Range<u64>) -> Claimed {
        let job = |id| Job {
            id: JobId(id),
            target: TargetName::new("t").unwrap(),
            origin: Origin::Background,
            token: Tokens::new("w", "h", 1).next(Origin::Background),
            attempt: 1,
            interruptions: 0,
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
        assert_eq!(floors.of(&target, at(0)).id, 0);
        floors.claimed(&target, behind(0), 5, &claimed(1..6), (at(0), at(10)));
        assert_eq!(floors.of(&target, at(20)).id, 5);
        floors.claimed(&target, behind(5), 5, &claimed(6..11), (at(20), at(200)));
        assert_eq!(
            floors.of(&target, at(209)).id,
            10,
            "a slow claim behind the floor is no look"
        );
        assert_eq!(
            floors.of(&target, at(210)).id,
            0,
            "a look of 10 ms is made again after twenty times that"
        );
        floors.claimed(&target, behind(0), 5, &claimed(11..16), (at(210), at(211)));
        assert_eq!(
            floors.of(&target, at(310)).id,
            15,
            "a short look is not made again within 100 ms"
        );
        assert_eq!(floors.of(&target, at(311)).id, 0);
        floors.claimed(&target, behind(15), 5, &claimed(16..18), (at(300), at(301)));
        assert_eq!(
            floors.of(&target, at(302)).id,
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
        floors.failed(&target, behind(0), (at(0), at(30)));
        assert_eq!(floors.of(&target, at(30)).id, 0, "nothing is known");
        floors.claimed(&target, behind(0), 5, &claimed(1..6), (at(30), at(30)));
        assert_eq!(floors.of(&target, at(31)).id, 0);
        floors.failed(&target, behind(0), (at(31), at(61)));
        assert_eq!(floors.of(&target, at(62)).id, 5);
        assert_eq!(floors.of(&target, at(660)).id, 5);
        assert_eq!(floors.of(&target, at(661)).id, 0);
        floors.failed(&target, behind(5), (at(62), at(63)));
        assert_eq!(floors.of(&target, at(661)).id, 0, "that was no look");
    }

    #[test]
    fn a_floor_is_the_last_row_in_the_order_of_priorities() {
        let target = TargetName::new("t").unwrap();
        let mut floors = Floors::default();
        let now = Instant::now();
        let mut taken = claimed(1..4);
        for (job, priority) in taken.jobs.iter_mut().zip([-1, 9, -1]) {
            job.terms.priority = priority;
        }
        floors.claimed(&target, Place::FIRST, 3, &taken, (now, now));
        let last = Place {
            priority: -1,
            id: 3,
        };
        assert_eq!(floors.of(&target, now), last);
    }
}
