//! Of retries, time limits, cancellations and reports.

use super::*;

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
fn jobs_that_are_given_up_with_attempts_left_are_seen() {
    let id = id(false);
    let given_up = |attempts, most, interruptions, reason: &str| {
        let mut case = good(id);
        case.ledger.answers.clear();
        case.runs[0].attempt = attempts;
        row(&mut case, id).stdout = Some(Plan::of(id, "quick").stdout(id, attempts, 100));
        let counts = Ownership {
            interruptions,
            reason: Some(reason.to_owned()),
            ..counts(attempts, most)
        };
        case.ownership.insert(id, counts);
        case
    };
    assert_eq!(breached(&given_up(1, 1, 0, "exit")), []);
    assert_eq!(breached(&given_up(2, 1, 1, "exit")), []);
    assert_eq!(breached(&given_up(1, 2, 0, "exit")), [Promise::NothingLost]);
    assert_eq!(
        breached(&given_up(2, 1, 1 + 1, "exit")),
        [Promise::NothingLost]
    );
    let mut manual = given_up(1, 2, 0, "exit");
    manual.ledger.manual.insert(id);
    assert_eq!(breached(&manual), []);
    let mut orphan = given_up(1, 2, 0, "orphaned");
    row(&mut orphan, id).stderr = Some(format!("{ORPHANED} w1 was not seen\n"));
    orphan.troubles.lose(7, 0, u64::MAX);
    assert_eq!(breached(&orphan), [Promise::NothingLost]);
}

#[test]
fn a_job_that_begins_long_after_its_cancellation_is_seen() {
    for (asked, seen) in [(0, true), (2_000_000_000, false)] {
        let id = id(true);
        let mut case = good(id);
        (case.runs[0].begin_ns, case.runs[0].until_ns) = (21_000_000_000, 21_000_000_010);
        case.ledger.cancels.insert(id);
        case.ledger.asked.insert(id, asked);
        assert_eq!(breached(&case).contains(&Promise::NothingTwice), seen);
    }
}

#[test]
fn what_another_run_has_said_of_how_far_it_is_is_seen() {
    let id = id(true);
    for (pid, breaches) in [(100, &[][..]), (101, &[Promise::TrueVerdict])] {
        let mut case = good(id);
        let counts = Ownership {
            progress: Some(Plan::progress(pid)),
            ..counts(1, 1)
        };
        case.ownership.insert(id, counts);
        assert_eq!(breached(&case), breaches);
    }
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
    let (id, mut ran) = stopped("cancelled");
    ran.runs.truncate(1);
    ran.runs[0].target = "quick".to_owned();
    let row = row(&mut ran, id);
    row.target = "quick".to_owned();
    (row.sig, row.stdout) = (None, None);
    assert_eq!(
        breached(&ran),
        [Promise::TrueVerdict],
        "as if it had waited"
    );
    ran.troubles.lose(7, 0, u64::MAX);
    assert_eq!(breached(&ran), []);
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
        let errors = format!(r#"[{{"attempt":1,"reason":"{reason}"}}]"#);
        case.ownership.get_mut(&id).unwrap().errors = Some(errors);
        assert_eq!(breached(&case), []);
    }
}

#[test]
fn cancelled_jobs_that_do_not_stay_so_are_seen() {
    check_stopped("cancelled", Promise::NothingTwice, |case, id| {
        case.undone.push(id);
    });
    check_stopped("cancelled", Promise::NothingTwice, |case, id| {
        let errors = r#"[{"attempt":0,"reason":"cancelled"},{"attempt":1,"reason":"exit"}]"#;
        case.ownership.get_mut(&id).unwrap().errors = Some(errors.to_owned());
    });
}
