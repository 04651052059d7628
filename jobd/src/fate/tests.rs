//! Every combination of what decides, against the rules as an operator would put them.

use std::time::Instant;

use jobd_proto::{JobId, TargetName};

use super::*;
use crate::job::{Origin, Terms, Tokens};
use crate::launcher::Captured;
use crate::store::Abilities;

/// What retries need.
const RETRIES: [Ability; 3] = [Ability::Ownership, Ability::Later, Ability::Retries];

fn job(origin: Origin, again: bool, attempt: u32, table: &[Ability]) -> Job {
    Job {
        id: JobId(1),
        target: TargetName::new("t").unwrap(),
        origin,
        token: Tokens::new("w", "h", 1).next(origin),
        attempt,
        interruptions: 0,
        again,
        terms: Terms {
            abilities: Abilities::from(table),
            ..Terms::default()
        },
    }
}

fn end(code: Option<i32>, signal: Option<i32>, cause: Option<Reason>) -> End {
    End {
        code,
        signal,
        stdout: Captured::default(),
        stderr: Captured::default(),
        ended: Instant::now(),
        cause,
        usage: None,
    }
}

const CAUSES: [Option<Reason>; 6] = [
    None,
    Some(Reason::Timeout),
    Some(Reason::Idle),
    Some(Reason::Cancelled),
    Some(Reason::Spawn),
    Some(Reason::Drained),
];

const ENDS: [(Option<i32>, Option<i32>); 6] = [
    (Some(0), None),
    (Some(1), None),
    (Some(75), None),
    (Some(100), None),
    (None, Some(9)),
    (None, Some(15)),
];

#[test]
fn every_end_has_the_fate_that_the_rules_say() {
    let causes = [
        Causes::default(),
        Causes {
            reasons: vec![Reason::Signal],
            codes: vec![2..=3, 100..=110],
        },
        Causes {
            reasons: vec![],
            codes: vec![],
        },
    ];
    let tables = [
        &[][..],
        &[Ability::Ownership],
        &[Ability::Later],
        &[Ability::Ownership, Ability::Later],
        &RETRIES,
    ];
    let mut seen = [0; 4];
    for origin in [Origin::Background, Origin::Manual] {
        for again in [false, true] {
            for struck in [false, true] {
                for (code, signal) in ENDS {
                    for cause in CAUSES {
                        for on in &causes {
                            for table in tables {
                                let retries = Retries {
                                    on: on.clone(),
                                    ..Retries::default()
                                };
                                let job = job(origin, again, 1, table);
                                let end = end(code, signal, cause);
                                let fate = decide(&job, &end, struck, &retries, 0.5);
                                let has = |ability| table.contains(&ability);
                                let told = format!("{job:?} {end:?} {struck} {on:?} {table:?}");
                                match fate {
                                    Fate::Back => {
                                        seen[0] += 1;
                                        let struck = struck && signal == Some(9);
                                        let wish = cause == Some(Reason::Cancelled);
                                        let ours =
                                            cause == Some(Reason::Drained) || struck && !wish;
                                        assert!(ours && has(Ability::Ownership), "{told}");
                                    }
                                    Fate::Again(Again { counted: false, .. }) => {
                                        seen[1] += 1;
                                        assert_eq!((code, cause), (Some(75), None), "{told}");
                                        assert!(has(Ability::Later), "{told}");
                                    }
                                    Fate::Again(Again { counted: true, .. }) => {
                                        seen[2] += 1;
                                        assert!(again && has(Ability::Retries), "{told}");
                                        let wanted = cause != Some(Reason::Cancelled);
                                        let late = cause.is_some_and(Reason::outdoes_success);
                                        assert!(wanted && (late || code != Some(0)), "{told}");
                                    }
                                    Fate::Done => {
                                        seen[3] += 1;
                                        let asks = code == Some(75) && cause.is_none();
                                        let asks = asks && has(Ability::Later);
                                        assert!(origin.is_manual() || !asks, "{told}");
                                    }
                                }
                                if origin.is_manual() {
                                    assert!(!matches!(fate, Fate::Again(_)), "{told}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn what_is_retried_is_what_retry_on_names() {
    let fate = |on: Causes, code: Option<i32>, cause| {
        let retries = Retries {
            on,
            ..Retries::default()
        };
        let signal = code.is_none().then_some(15);
        let job = job(Origin::Background, true, 1, &RETRIES);
        let end = end(code, signal, cause);
        let fate = decide(&job, &end, false, &retries, 0.0);
        matches!(fate, Fate::Again(Again { counted: true, .. }))
    };
    let by_default = |code, cause| fate(Causes::default(), code, cause);
    assert!(by_default(Some(1), None) && by_default(None, None));
    for cause in [Reason::Timeout, Reason::Idle, Reason::Spawn] {
        assert!(by_default(Some(127), Some(cause)), "{cause:?}");
        assert!(by_default(None, Some(cause)), "{cause:?}");
    }
    assert!(!by_default(None, Some(Reason::Cancelled)));
    assert!(!by_default(Some(0), Some(Reason::Drained)), "it ended well");
    assert!(
        by_default(Some(0), Some(Reason::Timeout)),
        "it was not done"
    );
    let some = Causes {
        reasons: vec![Reason::Timeout],
        codes: vec![2..=2, 10..=12],
    };
    for (code, cause, wanted) in [
        (Some(2), None, true),
        (Some(11), None, true),
        (Some(13), None, false),
        (None, None, false),
        (None, Some(Reason::Timeout), true),
        (Some(2), Some(Reason::Spawn), false),
    ] {
        assert_eq!(
            fate(some.clone(), code, cause),
            wanted,
            "{code:?} {cause:?}"
        );
    }
}

#[test]
fn pauses_double_and_stay_within_their_limits_and_apart() {
    let s = Duration::from_secs;
    let backoff = s(5)..=s(600);
    let spans: Vec<(u64, u64)> = (0..9)
        .map(|before| {
            let at = |chance| pause(&backoff, before, chance).as_secs();
            (at(0.0), at(1.0))
        })
        .collect();
    assert_eq!(
        spans,
        [
            (5, 10),
            (10, 20),
            (20, 40),
            (40, 80),
            (80, 160),
            (160, 320),
            (300, 600),
            (300, 600),
            (300, 600)
        ]
    );
    for before in [0, 1, 2, 40, u32::MAX] {
        assert_eq!(pause(&(s(7)..=s(7)), before, 0.7), s(7));
        assert_eq!(pause(&(s(0)..=s(0)), before, 0.7), s(0));
        let most = Duration::from_hours(24);
        assert!(pause(&(s(1)..=most), before, 1.0) <= most);
    }
}

#[test]
fn a_pause_grows_with_the_attempts_of_its_kind() {
    let after = |attempt, interruptions, code| {
        let job = Job {
            interruptions,
            ..job(Origin::Background, true, attempt, &RETRIES)
        };
        let (end, retries) = (end(Some(code), None, None), Retries::default());
        match decide(&job, &end, false, &retries, 0.0) {
            Fate::Again(again) => again.after.as_secs(),
            fate => panic!("{fate:?}"),
        }
    };
    // Drained five times, and failed for the first time.
    assert_eq!(after(6, 5, 1), 5);
    assert_eq!(after(3, 0, 1), 20);
    assert_eq!(after(8, 5, 1), 20);
    // Failed five times, and asks for another time for the first time, then for the third.
    assert_eq!(after(6, 0, TRY_AGAIN), 5);
    assert_eq!(after(8, 2, TRY_AGAIN), 20);
    // Rows that people have changed.
    assert_eq!(after(1, 9, 1), 5);
    assert_eq!(after(1, u32::MAX, 1), 5);
    assert_eq!(after(u32::MAX, u32::MAX, TRY_AGAIN), 300);
}
