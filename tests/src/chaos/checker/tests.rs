//! The checker can say no: each promise with the least evidence against it.

mod abilities;

use super::*;
use crate::chaos::job::LOUD;

const LIMITS: &[(&str, u32)] = &[("quick", 1), (STUCK, 2), (LOUD, 1)];

struct Case {
    ledger: Ledger,
    rows: BTreeMap<u64, Row>,
    ownership: BTreeMap<u64, Ownership>,
    runs: Vec<Run>,
    troubles: Troubles,
    undone: Vec<u64>,
    outputs: Outputs,
}

/// The first id whose job ends with a code of 0, or not.
fn id(ok: bool) -> u64 {
    let fits = |id: &u64| (Plan::of(*id, "quick").code == 0) == ok;
    (1..1_000).find(fits).unwrap()
}

fn run(id: u64, attempt: u32, pid: u32, begin_ns: u64) -> Run {
    Run {
        id,
        attempt,
        worker: "w1".to_owned(),
        parent: 7,
        target: "quick".to_owned(),
        pid,
        begin_ns,
        until_ns: begin_ns + 10,
        ended: true,
    }
}

/// One job that went well, with an answer to its waiter.
fn good(id: u64) -> Case {
    let plan = Plan::of(id, "quick");
    let row = Row {
        id,
        target: "quick".to_owned(),
        status: "done".to_owned(),
        result: Some(if plan.code == 0 { "ok" } else { "fail" }.to_owned()),
        return_code: Some(plan.code.into()),
        stdout: Some(plan.stdout(id, 1, 100)),
        stderr: Some(Plan::stderr(id, 100)),
        ..Row::default()
    };
    let answer = Answer {
        result: row.result.clone().unwrap(),
        code: row.return_code,
        signal: None,
        stdout: row.out().to_owned(),
        stderr: row.err().to_owned(),
    };
    let mut ledger = Ledger::default();
    ledger.acknowledged.insert(id, "quick");
    ledger.answers.push((id, answer));
    Case {
        ledger,
        rows: [(id, row)].into(),
        ownership: BTreeMap::new(),
        runs: vec![run(id, 1, 100, 1_000)],
        troubles: Troubles::default(),
        undone: Vec::new(),
        outputs: Outputs::new(),
    }
}

/// The row of a job that has run so often, and may run so often.
fn counts(attempts: u32, most: u32) -> Ownership {
    Ownership {
        attempts,
        max_attempts: Some(most),
        cpu_ms: Some(1),
        peak_kib: Some(4_000),
        ..Ownership::default()
    }
}

fn breached(case: &Case) -> Vec<Promise> {
    let breaches = check(&Evidence {
        ledger: &case.ledger,
        rows: &case.rows,
        ownership: &case.ownership,
        runs: &case.runs,
        troubles: &case.troubles,
        limits: LIMITS,
        undone: &case.undone,
        outputs: &case.outputs,
    });
    breaches.iter().map(|breach| breach.promise).collect()
}

#[track_caller]
fn check_breach(promise: Promise, spoil: impl FnOnce(&mut Case, u64)) {
    let id = id(true);
    let mut case = good(id);
    spoil(&mut case, id);
    let found = breached(&case);
    assert!(found.contains(&promise), "{found:?}");
}

#[track_caller]
fn row(case: &mut Case, id: u64) -> &mut Row {
    case.rows.get_mut(&id).unwrap()
}

#[test]
fn good_runs_pass() {
    for ok in [true, false] {
        assert_eq!(breached(&good(id(ok))), []);
    }
}

#[test]
fn lost_jobs_are_seen() {
    check_breach(Promise::NothingLost, |case, _| case.rows.clear());
    for status in ["waiting", "accepted", "running", "ignored", "manual"] {
        check_breach(Promise::NothingLost, |case, id| {
            row(case, id).status = status.to_owned();
            case.runs.clear();
        });
    }
    // Of an INSERT that got no answer, too, once a worker may take it.
    check_breach(Promise::NothingLost, |case, id| {
        case.ledger.acknowledged.clear();
        row(case, id).status = "waiting".to_owned();
    });
}

#[test]
fn second_runs_are_seen() {
    check_breach(Promise::NothingTwice, |case, id| {
        case.runs.push(run(id, 1, 200, 2_000));
    });
    check_breach(Promise::NothingTwice, |case, id| {
        case.runs.push(run(id, 2, 200, 1_009));
    });
}

#[test]
fn an_attempt_after_a_killed_one_passes() {
    let id = id(true);
    let mut case = good(id);
    case.runs.insert(0, run(id, 1, 50, 10));
    case.runs[0].ended = false;
    case.troubles.add_outage(0, 50);
    case.runs[1].attempt = 2;
    let text = Plan::of(id, "quick").stdout(id, 2, 100);
    row(&mut case, id).stdout = Some(text.clone());
    case.ledger.answers[0].1.stdout = text;
    case.ownership.insert(id, counts(2, 3));
    assert_eq!(breached(&case), []);
    case.ownership.get_mut(&id).unwrap().attempts = 1;
    assert_eq!(
        breached(&case),
        [Promise::TrueVerdict],
        "an attempt uncounted"
    );
    case.ownership.get_mut(&id).unwrap().attempts = 3;
    assert_eq!(
        breached(&case),
        [Promise::TrueVerdict],
        "an attempt counted twice"
    );
}

#[test]
fn false_verdicts_are_seen() {
    check_breach(Promise::TrueVerdict, |case, id| {
        row(case, id).result = Some("fail".to_owned());
    });
    check_breach(Promise::TrueVerdict, |case, id| {
        row(case, id).return_code = Some(3);
    });
    check_breach(Promise::TrueVerdict, |case, id| {
        row(case, id).sig = Some("SIGKILL".to_owned());
    });
    check_breach(Promise::TrueVerdict, |case, id| {
        row(case, id).stdout = Some(Plan::of(id, "quick").stdout(id, 1, 101));
    });
    check_breach(Promise::TrueVerdict, |case, id| row(case, id).stderr = None);
    check_breach(Promise::TrueVerdict, |case, _| case.runs[0].ended = false);
    check_breach(Promise::TrueVerdict, |case, _| case.runs.clear());
    check_breach(Promise::TrueVerdict, |case, id| {
        row(case, id).stderr = Some(format!("{ORPHANED} w1 was not seen\n"));
    });
    check_breach(Promise::TrueVerdict, |case, id| {
        row(case, id).status = "waiting".to_owned();
    });
    check_breach(Promise::TrueVerdict, |case, _| {
        case.runs.push(run(999, 1, 5, 5_000));
    });
}

#[test]
fn crossed_limits_are_seen() {
    check_breach(Promise::Limits, |case, _| {
        case.runs.push(run(998, 1, 5, 1_005));
    });
    let mut apart = good(id(true));
    apart.runs.push(run(998, 1, 5, 1_010));
    assert!(
        !breached(&apart).contains(&Promise::Limits),
        "one after the other"
    );
}

#[test]
fn more_running_rows_than_twice_the_slots_are_seen() {
    check_breach(Promise::Limits, |case, _| {
        case.ledger.most_running.insert("quick", 3);
    });
    let mut full = good(id(true));
    full.ledger.most_running.insert("quick", 2);
    assert_eq!(breached(&full), []);
}

#[test]
fn withdrawn_jobs_that_are_touched_are_seen() {
    check_breach(Promise::HandsOff, |case, id| {
        case.ledger.withdrawn.insert(id, 5_000);
    });
    check_breach(Promise::HandsOff, |case, id| {
        case.ledger.withdrawn.insert(id, 999);
        row(case, id).status = "ignored".to_owned();
    });
    let id = id(true);
    let mut case = good(id);
    case.ledger.withdrawn.insert(id, 1_005);
    case.ledger.answers.clear();
    row(&mut case, id).status = "ignored".to_owned();
    assert_eq!(breached(&case), []);
}

#[test]
fn answers_that_differ_from_the_row_are_seen() {
    check_breach(Promise::TrueAnswer, |case, _| {
        case.ledger.answers[0].1.stderr.clear();
    });
    check_breach(Promise::TrueAnswer, |case, _| {
        case.ledger.answers[0].1.result = "fail".to_owned();
    });
    check_breach(Promise::TrueAnswer, |case, id| {
        row(case, id).status = "running".to_owned();
    });
}

#[test]
fn followers_that_are_told_something_else_are_seen() {
    let id = id(true);
    let all = Plan::of(id, "quick").stdout(id, 1, 100);
    for (text, seen) in [
        (&all[..], false),
        (&all[..5], false),
        ("", false),
        ("job", true),
    ] {
        let mut case = good(id);
        let text = if seen {
            format!("{text} {all}")
        } else {
            text.to_owned()
        };
        case.ledger.followed.push((id, text));
        assert_eq!(breached(&case).contains(&Promise::TrueAnswer), seen);
    }
}

#[test]
fn rescues_of_live_workers_are_seen() {
    let rerun = |case: &mut Case, id: u64| {
        case.runs.insert(0, run(id, 1, 50, 10));
        case.runs[1].attempt = 2;
        let text = Plan::of(id, "quick").stdout(id, 2, 100);
        row(case, id).stdout = Some(text.clone());
        case.ledger.answers[0].1.stdout = text;
    };
    check_breach(Promise::NothingTwice, rerun);
    let id = id(true);
    let mut case = good(id);
    rerun(&mut case, id);
    case.troubles.lose(7, 0, u64::MAX);
    assert_eq!(breached(&case), []);
}

#[test]
fn a_worker_is_lost_for_a_time_and_not_for_ever() {
    let mut troubles = Troubles::default();
    troubles.lose(7, 2_000, 3_000);
    for (begin_ns, lost) in [(1_989, false), (1_990, true), (3_000, true), (3_001, false)] {
        assert_eq!(
            troubles.is_lost(&run(1, 1, 100, begin_ns)),
            lost,
            "{begin_ns}"
        );
    }
    let other = Run {
        parent: 8,
        ..run(1, 1, 100, 2_500)
    };
    assert!(!troubles.is_lost(&other));
    // What had ended a while before may be untold; what was cut short then, was for nothing.
    let mut late = Troubles::new(5_000_000_000);
    late.lose(7, 9_000_000_000, u64::MAX);
    let before = run(1, 1, 100, 4_000_000_000);
    assert!(late.is_lost(&before) && !late.may_cut_short(&before));
    assert!(late.may_cut_short(&run(1, 1, 100, 8_500_000_000)));
    // Its own process says that it had no parent left.
    assert!(troubles.is_lost(&Run { parent: 0, ..other }));
}

#[test]
fn jobs_that_are_cut_short_for_nothing_are_seen() {
    let cut = |case: &mut Case, id: u64| {
        let mut first = run(id, 1, 50, 10);
        first.ended = false;
        case.runs.insert(0, first);
        case.runs[1].attempt = 2;
        let text = Plan::of(id, "quick").stdout(id, 2, 100);
        row(case, id).stdout = Some(text.clone());
        case.ledger.answers[0].1.stdout = text;
        let counts = Ownership {
            interruptions: 1,
            ..counts(2, 1)
        };
        case.ownership.insert(id, counts);
    };
    check_breach(Promise::NothingLost, cut);
    let id = id(true);
    let judged = |excuse: fn(&mut Case, u64)| {
        let mut case = good(id);
        cut(&mut case, id);
        excuse(&mut case, id);
        breached(&case)
    };
    assert_eq!(judged(|_, _| ()), [Promise::NothingLost]);
    let reasons: [fn(&mut Case, u64); 3] = [
        |case, _| case.troubles.lose(7, 15, 30),
        |case, _| case.troubles.add_outage(5, 15),
        |case, id| {
            case.ledger.cancels.insert(id);
        },
    ];
    for excuse in reasons {
        assert_eq!(judged(excuse), []);
    }
}

#[test]
fn orphans_of_lost_workers_pass() {
    let id = id(true);
    let mut case = good(id);
    let row = row(&mut case, id);
    row.result = Some("fail".to_owned());
    row.stderr = Some(format!("{ORPHANED} w1 was not seen\n"));
    case.ledger.answers.clear();
    assert_eq!(breached(&case), [Promise::TrueVerdict]);
    case.troubles.lose(7, 0, u64::MAX);
    assert_eq!(breached(&case), []);
}
