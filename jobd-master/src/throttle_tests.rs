//! The throttle against a plain model, driven by random pokes.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use super::*;
use crate::random::Random;

fn target(number: u64) -> TargetName {
    TargetName::new(format!("t{number}")).unwrap()
}

#[test]
fn the_first_poke_is_a_poll_at_once_and_the_rest_are_one_at_the_end() {
    let mut throttle = Throttle::new(Duration::from_millis(500));
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let a = target(0);
    throttle.poke(&a, at(0));
    assert_eq!(throttle.due(at(0)), std::slice::from_ref(&a));
    for ms in 1..20 {
        throttle.poke(&a, at(ms));
        assert_eq!(throttle.due(at(ms)), []);
    }
    assert_eq!(throttle.next_end(), Some(at(500)));
    assert_eq!(throttle.due(at(499)), []);
    assert_eq!(throttle.due(at(500)), std::slice::from_ref(&a));
    // The trailing poll begins an interval of its own.
    throttle.poke(&a, at(600));
    assert_eq!(throttle.due(at(600)), []);
    assert_eq!(throttle.due(at(1000)), std::slice::from_ref(&a));
    assert_eq!(throttle.due(at(1500)), []);
    assert_eq!(throttle.next_end(), None);
    throttle.poke(&a, at(1600));
    assert_eq!(throttle.due(at(1600)), [a]);
}

#[test]
fn no_interval_throttles_nothing() {
    let mut throttle = Throttle::new(Duration::ZERO);
    let now = Instant::now();
    for _ in 0..3 {
        throttle.poke(&target(1), now);
        throttle.poke(&target(1), now);
        assert_eq!(throttle.due(now), [target(1)]);
    }
    assert_eq!(throttle.next_end(), None);
}

#[test]
fn a_changed_interval_loses_no_poke_and_lets_none_wait_longer() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let (a, b) = (target(0), target(1));
    let mut throttle = Throttle::new(Duration::from_mins(1));
    throttle.poke(&a, at(0));
    throttle.due(at(0));
    throttle.poke(&a, at(10));
    throttle.set_interval(Duration::from_millis(100), at(20));
    throttle.poke(&b, at(30));
    assert_eq!(throttle.due(at(30)), [b]);
    assert_eq!(throttle.next_end(), Some(at(120)));
    assert_eq!(throttle.due(at(120)), std::slice::from_ref(&a));
    throttle.poke(&a, at(130));
    throttle.set_interval(Duration::ZERO, at(140));
    assert_eq!(throttle.due(at(140)), std::slice::from_ref(&a));
    throttle.poke(&a, at(141));
    assert_eq!(throttle.due(at(141)), std::slice::from_ref(&a));
    throttle.set_interval(Duration::from_secs(1), at(150));
    throttle.poke(&a, at(151));
    assert_eq!(throttle.due(at(151)), [a]);
    assert_eq!(throttle.next_end(), Some(at(1151)));
}

#[test]
fn remembered_pokes_are_bounded_and_recalled_once() {
    let mut throttle = Throttle::new(Duration::from_millis(500));
    let now = Instant::now();
    for number in 0..MAX_REMEMBERED as u64 {
        assert!(throttle.remember(target(number)));
    }
    assert!(!throttle.remember(target(99_999)));
    assert!(throttle.remember(target(7)), "it is there already");
    throttle.recall(&[target(7), target(99_999), target(8)], now);
    assert_eq!(throttle.due(now), [target(7), target(8)]);
    throttle.recall(&[target(7)], now + Duration::from_secs(9));
    assert_eq!(throttle.due(now + Duration::from_secs(9)), []);
    assert!(throttle.remember(target(99_999)), "there is room again");
}

/// Whatever comes: at most one poll per target and interval, every poke is followed by a poll not
/// later than one interval, and a poll stands for at least one poke.
#[test]
fn random_pokes_are_neither_lost_nor_doubled() {
    for seed in Random::seeds(300) {
        let mut random = Random::new(seed);
        let interval = Duration::from_millis(random.below(4) * 50);
        let mut throttle = Throttle::new(interval);
        let mut now = Instant::now();
        let mut last_poll: BTreeMap<TargetName, Instant> = BTreeMap::new();
        let mut open: BTreeMap<TargetName, Instant> = BTreeMap::new();
        for _ in 0..400 {
            match random.below(3) {
                0 => now += Duration::from_millis(random.below(80)),
                // As the hub does: it wakes when it asked to be woken.
                1 => now = throttle.next_end().unwrap_or(now).max(now),
                _ => {
                    let target = target(random.below(5));
                    throttle.poke(&target, now);
                    open.entry(target).or_insert(now);
                }
            }
            let awaited = throttle.next_end();
            for target in throttle.due(now) {
                assert!(
                    open.remove(&target).is_some(),
                    "seed {seed}: poll for no poke"
                );
                if let Some(before) = last_poll.insert(target, now) {
                    assert!(now - before >= interval, "seed {seed}: two polls");
                }
            }
            for (target, poked) in &open {
                assert!(
                    now < *poked + interval,
                    "seed {seed}: {target} waits too long"
                );
                assert!(
                    awaited.is_some() && throttle.next_end().is_some(),
                    "seed {seed}"
                );
            }
            assert_eq!(throttle.resting.len(), throttle.ends.len(), "seed {seed}");
            assert!(
                throttle.ends.iter().is_sorted_by_key(|(end, _)| *end),
                "seed {seed}"
            );
        }
    }
}
