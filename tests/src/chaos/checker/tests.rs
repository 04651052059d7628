//! The checker can say no: each promise with the least evidence against it.

use super::*;
use crate::chaos::job::STUCK;

const LIMITS: &[(&str, u32)] = &[("quick", 1), (STUCK, 2)];

struct Case {
    ledger: Ledger,
    rows: BTreeMap<u64, Row>,
    ownership: BTreeMap<u64, Ownership>,
    runs: Vec<Run>,
    lost: BTreeSet<u32>,
    undone: Vec<u64>,
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
        lost: BTreeSet::new(),
        undone: Vec::new(),
    }
}

/// The row of a job that has run so often, and may run so often.
fn counts(attempts: u32, most: u32) -> Ownership {
    Ownership {
        attempts,
        max_attempts: Some(most),
        ..Ownership::default()
    }
}

fn breached(case: &Case) -> Vec<Promise> {
    let breaches = check(&Evidence {
        ledger: &case.ledger,
        rows: &case.rows,
        ownership: &case.ownership,
        runs: &case.runs,
        lost: &case.lost,
        limits: LIMITS,
        undone: &case.undone,
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
fn an_attempt_after_a_failed_one_passes_where_the_table_has_retries() {
    let id = id(false);
    let mut case = good(id);
    case.ledger.answers.clear();
    case.runs.insert(0, run(id, 1, 50, 10));
    case.runs[1].attempt = 2;
    row(&mut case, id).stdout = Some(Plan::of(id, "quick").stdout(id, 2, 100));
    assert_eq!(breached(&case), [Promise::NothingTwice]);
    let row = Ownership {
        reason: Some("exit".to_owned()),
        ..counts(2, 2)
    };
    case.ownership.insert(id, row);
    assert_eq!(breached(&case), []);
    case.ownership.get_mut(&id).unwrap().max_attempts = Some(1);
    assert_eq!(breached(&case), [Promise::NothingTwice], "one too many");
    // Where the row counts wrong, what was seen tells.
    case.ownership.get_mut(&id).unwrap().interruptions = 1;
    assert_eq!(breached(&case), [Promise::NothingTwice]);
    case.ownership.get_mut(&id).unwrap().max_attempts = Some(2);
    case.ownership.get_mut(&id).unwrap().reason = None;
    assert_eq!(breached(&case), [Promise::TrueVerdict], "no reason");
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
    case.lost.insert(7);
    assert_eq!(breached(&case), []);
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
    case.lost.insert(7);
    assert_eq!(breached(&case), []);
}

/// A job that was stopped, for this reason, with the process that it left behind.
fn stopped(reason: &str) -> (u64, Case) {
    let id = 8;
    let mut case = good(id);
    case.ledger.answers.clear();
    let stuck = Run {
        target: STUCK.to_owned(),
        ended: false,
        ..run(id, 1, 100, 1_000)
    };
    let hidden = Run {
        target: HIDDEN.to_owned(),
        pid: 101,
        begin_ns: 1_005,
        until_ns: 1_020,
        ..stuck.clone()
    };
    case.runs = vec![stuck, hidden];
    let row = row(&mut case, id);
    row.target = STUCK.to_owned();
    row.result = Some("fail".to_owned());
    row.return_code = None;
    row.sig = Some("SIGKILL".to_owned());
    row.stdout = Some(Plan::of(id, STUCK).stdout(id, 1, 100));
    let further = Ownership {
        reason: Some(reason.to_owned()),
        ..counts(1, 1)
    };
    case.ownership.insert(id, further);
    case.ledger.cancels.insert(id);
    (id, case)
}

#[track_caller]
fn check_stopped(reason: &str, promise: Promise, spoil: impl FnOnce(&mut Case, u64)) {
    let (id, mut case) = stopped(reason);
    assert_eq!(breached(&case), []);
    spoil(&mut case, id);
    assert_eq!(breached(&case), [promise]);
}

#[test]
fn what_a_stopped_job_leaves_behind_is_seen() {
    for reason in ["timeout", "cancelled"] {
        check_stopped(reason, Promise::NothingLeftBehind, |case, _| {
            case.runs[1].until_ns = 21_000_000_000;
        });
    }
    check_stopped("timeout", Promise::NothingLeftBehind, |case, id| {
        let mut next = run(id, 2, 200, 1_015);
        next.target = STUCK.to_owned();
        next.ended = false;
        case.runs.push(next);
        let further = case.ownership.get_mut(&id).unwrap();
        (further.attempts, further.max_attempts) = (2, Some(2));
        row(case, id).stdout = None;
    });
}

#[test]
fn false_words_about_stopped_jobs_are_seen() {
    check_stopped("cancelled", Promise::TrueVerdict, |case, _| {
        case.ledger.cancels.clear();
    });
    for reason in ["timeout", "cancelled"] {
        check_stopped(reason, Promise::TrueVerdict, |case, id| {
            row(case, id).result = Some("ok".to_owned());
        });
        check_stopped(reason, Promise::TrueVerdict, |case, id| {
            row(case, id).stdout = Some("something else".to_owned());
        });
        check_stopped(reason, Promise::TrueVerdict, |case, id| {
            let row = row(case, id);
            (row.sig, row.return_code) = (None, Some(7));
        });
    }
    check_stopped("timeout", Promise::TrueVerdict, |case, id| {
        case.ownership.get_mut(&id).unwrap().reason = Some("exit".to_owned());
    });
    check_stopped("timeout", Promise::TrueVerdict, |case, _| {
        case.runs[0].ended = true;
    });
}

#[test]
fn a_job_that_is_stopped_before_it_says_a_word_passes() {
    for reason in ["timeout", "cancelled"] {
        let (id, mut case) = stopped(reason);
        case.runs.clear();
        row(&mut case, id).stdout = Some(String::new());
        assert_eq!(breached(&case), []);
    }
}

#[test]
fn cancelled_jobs_that_do_not_stay_so_are_seen() {
    check_stopped("cancelled", Promise::NothingTwice, |case, id| {
        case.undone.push(id);
    });
    check_stopped("cancelled", Promise::NothingTwice, |case, id| {
        let errors = r#"[{"attempt":1,"reason":"cancelled"}]"#;
        case.ownership.get_mut(&id).unwrap().errors = Some(errors.to_owned());
    });
}
